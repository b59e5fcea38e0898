"""Grafana's dashboards. `just dashboards` says whether their files are as written here, `--write` writes them.

Each panel is one line below: title, unit, queries, meaning. Made with Grafana's own
SDK, so that the JSON is Grafana's; the files beside this one are what Grafana reads.
"""

import argparse
import itertools
import sys
from dataclasses import dataclass
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    DataTransformerConfig,
    Threshold,
    ThresholdsMode,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

FOLDER = Path(__file__).parent / "dashboards"
SOURCE = DataSourceRef("prometheus", "prometheus")
# Grafana's grid.
COLUMNS = 24
# A gauge of the wanted window: at least four scrapes, whatever the zoom.
W = "$__rate_interval"


@dataclass(frozen=True)
class Panel:
    title: str
    meaning: str
    queries: dict[str, str]  # legend → expression
    unit: str = "short"
    limit: float | None = None  # a line where the SLO ends
    number: bool = False  # one figure instead of a curve
    low_is_bad: bool = False
    stacked: bool = False
    signed: bool = False  # may be under 0
    table_by: str = ""  # a row per value of this label, a column per query, instead of a curve


@dataclass(frozen=True)
class Row:
    title: str
    panels: list[Panel]


def quantile(q: float, metric: str, by: str = "le") -> str:
    return f"histogram_quantile({q}, sum by ({by}) (rate(query_gateway_{metric}_bucket[{W}])))"


def percentiles(metric: str) -> dict[str, str]:
    return {f"{q:g}th": quantile(q / 100, metric) for q in (50, 95, 99)}


def per_s(metric: str, by: str) -> str:
    return f"sum by ({by}) (rate(query_gateway_{metric}[{W}]))"


def budget(ratio: str, allowed: float) -> str:
    return f"clamp_min(1 - max({ratio}_rate3d) / {allowed}, -1)"


ERRORS = "job:query_gateway_requests:error_ratio"
SLOW = "job:query_gateway_request_latency:slow_ratio"
SLOW_HITS = "job:query_gateway_cache_hit_latency:slow_ratio"
LOOKUPS = (
    f"(sum(rate(query_gateway_cache_hits_total[{W}])) + sum(rate(query_gateway_cache_misses_total[{W}])))"
)
MEAN_BATCH = (
    f"sum(rate(query_gateway_inference_batch_size_sum[{W}]))"
    f" / sum(rate(query_gateway_inference_batch_size_count[{W}]))"
)
UP = '{job="query-gateway"}'

OVERVIEW = [
    Row("Promises", [
        Panel("Instances up", "ServiceDown when none is.", {"up": f"sum(up{UP})"}, limit=1, number=True, low_is_bad=True),
        Panel("Availability, 1 h", "Answers other than 5xx; 99.9% is promised.", {"": f"1 - max({ERRORS}_rate1h)"}, "percentunit", 0.999, number=True, low_is_bad=True),
        Panel("Queries within 100 ms, 1 h", "99% is promised.", {"": f"1 - max({SLOW}_rate1h)"}, "percentunit", 0.99, number=True, low_is_bad=True),
        Panel("Hits within 10 ms, 1 h", "99% is promised.", {"": f"1 - max({SLOW_HITS}_rate1h)"}, "percentunit", 0.99, number=True, low_is_bad=True),
        Panel("Error budget left", "If the last three days were the month: 100% untouched, 0% spent, -100% spent twice over or more.", {
            "availability": budget(ERRORS, 0.001), "latency": budget(SLOW, 0.01), "hit latency": budget(SLOW_HITS, 0.01),
        }, "percentunit", 0, low_is_bad=True, signed=True),
        Panel("Alerts firing", "Turn to docs/runbook.md under the alert's name.", {"{{alertname}}": 'sum by (alertname) (ALERTS{alertstate="firing"}) or vector(0)'}),
    ]),
    Row("Traffic", [
        Panel("Requests a second, by code", "200 beside what failed.", {"{{code}}": per_s("requests_total", "code")}, "reqps", stacked=True),
        Panel("Failures a second, by type", "Each type has a heading in docs/runbook.md.", {"{{error_type}}": 'sum by (error_type) (rate(query_gateway_requests_total{status="error"}[' + W + "]))"}, "reqps"),
        Panel("Failed (5xx), 5 min", "HighErrorRate over 0.1%.", {"5xx": f"{ERRORS}_rate5m"}, "percentunit", 0.001),
        Panel("Being answered", "Over 50 is a high load.", {"{{instance}}": "query_gateway_active_requests"}, limit=50),
    ]),
    Row("Latency", [
        Panel("All answered queries", "HighP99Latency over 100 ms.", percentiles("request_latency_seconds"), "s", 0.1),
        Panel("Cache hits", "99% within 10 ms is promised.", percentiles("cache_hit_latency_seconds"), "s", 0.01),
        Panel("Mean time by stage", "The stage that grew is the cause; their sum is the latency.", {
            "{{stage}}": f"sum by (stage) (rate(query_gateway_stage_seconds_sum[{W}])) / ignoring(stage) group_left() sum(rate(query_gateway_request_latency_seconds_count[{W}]))",
        }, "s", stacked=True),
    ]),
    Row("Cache", [
        Panel("Hit rate", "LowCacheHitRate under 30%.", {
            "all": f"sum(rate(query_gateway_cache_hits_total[{W}])) / {LOOKUPS}",
            "{{level}}": f"sum by (level) (rate(query_gateway_cache_hits_total[{W}])) / ignoring(level) group_left() {LOOKUPS}",
        }, "percentunit", 0.3, low_is_bad=True),
        Panel("Entries", "L1 at its size means that old ones leave for new ones; of L2, all keys of the database.", {"{{level}}": "sum by (level) (query_gateway_cache_size)"}),
    ]),
    Row("Batching", [
        Panel("Waiting for the model", "HighBatchQueueDepth over 100.", {"{{instance}}": "query_gateway_batch_queue_size"}, limit=100),
        Panel("Mean batch", "Under 4 is healthy: lanes were free.", {"mean": MEAN_BATCH}),
        Panel("Wait for a lane", "Nothing waits while a lane is idle.", percentiles("batch_wait_seconds"), "s"),
        Panel("Model run", "Slow runs are a slow or shared processor.", percentiles("inference_latency_seconds"), "s", 0.05),
        Panel("Dropped before a run", "Their deadline was over, or nobody waited any more.", {"{{reason}}": per_s("dropped_total", "reason")}, "reqps"),
    ]),
    Row("Redis", [
        Panel("Usable", "1 while Redis can be read and written. Empty without REDIS_URL.", {"{{instance}}": "query_gateway_l2_healthy"}, limit=1, low_is_bad=True),
        Panel("Share of its servers in use", "Under 1 while a shard of a Redis Cluster is lost: its keys alone are misses.", {"{{instance}}": "query_gateway_l2_shards_up / (query_gateway_l2_shards > 0)"}, "percentunit", limit=1, low_is_bad=True),
        Panel("Round trip, 99th percentile", "Bounded by CACHE_L2_TIMEOUT_MS.", {"{{operation}}": quantile(0.99, "l2_operation_seconds", "le, operation")}, "s"),
        Panel("Failures", "By kind; none of them fails a query.", {"{{kind}}": per_s("l2_errors_total", "kind")}, "ops"),
    ]),
    Row("Process", [
        Panel("Processor", "Cores in use.", {"{{instance}}": f"rate(process_cpu_seconds_total{UP}[{W}])"}),
        Panel("Resident memory", "About 135 MB after a start, shared pages included.", {"{{instance}}": f"process_resident_memory_bytes{UP}"}, "bytes"),
        Panel("Open files", "One per connection, and a few.", {"{{instance}}": f"process_open_fds{UP}"}),
        Panel("Model loaded", "ModelNotReady at 0.", {"{{instance}}": "query_gateway_model_loaded"}, limit=1, low_is_bad=True),
    ]),
]  # fmt: skip

COMPARED = f"sum(rate(query_gateway_shadow_routes_total[{W}]))"
ANSWERS = f"sum(rate(query_gateway_classifications_total[{W}]))"


def share(by: str, window: str = W) -> str:
    part = f"sum by ({by}) (rate(query_gateway_classifications_total[{window}]))"
    return f"{part} / ignoring({by}) group_left() sum(rate(query_gateway_classifications_total[{window}]))"


# What the training mix is compared with: a task that nobody asks for has a live share of 0, not none.
TRAINED = "avg by (task) (query_gateway_training_share)"
LIVE = f"({share('task', '15m')} or 0 * {TRAINED})"

MODEL = [
    Row("Routes", [
        Panel("Slow, of all answers", "What the large model is asked.", {"slow": f'sum(rate(query_gateway_classifications_total{{label="1"}}[{W}])) / {ANSWERS}'}, "percentunit", number=True),
        Panel("Answers a second, by route", "0 is fast, 1 is slow.", {"{{label}}": per_s("classifications_total", "label")}, "reqps", stacked=True),
        Panel("Share of each task", "What the queries ask for.", {"{{task}}": share("task")}, "percentunit", stacked=True),
    ]),
    Row("Shadow", [
        Panel("Same route", "Of the queries that the shadow scored too. No data: SHADOW_MODEL_PATH is not set, or nothing was compared.", {
            "same": f'sum(rate(query_gateway_shadow_routes_total{{moved="no"}}[{W}])) / {COMPARED}',
        }, "percentunit", number=True),
        Panel("Moved to another tier", "What would change if the shadow took the model's place: to a dearer tier costs money, to a cheaper one perhaps answers.", {
            "{{moved}}": f'sum by (moved) (rate(query_gateway_shadow_routes_total{{moved!="no"}}[{W}])) / ignoring(moved) group_left() {COMPARED}',
        }, "percentunit", stacked=True),
        Panel("Same task, by the task of the model in service", "Only where both models know both tasks.", {
            "{{task}}": f'sum by (task) (rate(query_gateway_shadow_tasks_total{{same="1"}}[{W}])) / {per_s("shadow_tasks_total", "task")}',
        }, "percentunit"),
        Panel("Its time", "A query in the shadow; it is scored in idle time alone.", percentiles("shadow_run_seconds"), "s"),
        Panel("Compared, and not", "Late or full: there was too little idle time for SHADOW_SHARE.", {
            "compared": COMPARED, "not: {{reason}}": per_s("shadow_dropped_total", "reason"),
        }, "reqps"),
    ]),
    Row("Confidence", [
        Panel("Confidence", "How sure the model is of its route; lower than usual is the first sign of new kinds of queries.", {
            "10th": quantile(0.1, "confidence"), "50th": quantile(0.5, "confidence"),
        }, "percentunit", 0.7, low_is_bad=True),
        Panel("Sent slow by the threshold", "Preferred fast, and not sure enough for the threshold in force.", {
            "share": f'sum(rate(query_gateway_low_confidence_total[{W}])) / {ANSWERS}',
        }, "percentunit"),
        Panel("Threshold in force", "How sure a fast answer must be, by instance; none where a policy names tiers of its own.", {
            "{{instance}}": "query_gateway_threshold",
        }, "percentunit"),
    ]),
    Row("Drift", [
        Panel("Live share beside training share", "Of each task, in the last quarter of an hour and in what the model was trained on. No data: the model does not say what it was trained on.", {
            "live": LIVE, "training": TRAINED, "live less training": f"{LIVE} - {TRAINED}",
        }, "percentunit", table_by="task"),
        Panel("Live less training, by task", "Over 0: asked more often than the model was taught. The same share everywhere is not the aim; a task that callers live on and training hardly had is.", {
            "{{task}}": f"{LIVE} - {TRAINED}",
        }, "percentunit", signed=True),
        Panel("Distance from the training mix", "Half the sum of those differences: 0 the same mix, 1 another world. Its step or slope says that callers have changed; docs/model-card.md says what the model was taught.", {
            "distance": f"0.5 * sum(abs({LIVE} - {TRAINED}))",
        }, "percentunit"),
        Panel("Tasks against the last day", "The same distance between this quarter of an hour's shares and the last day's. Over 0.2 for hours, look at what callers send.", {
            "distance": f"0.5 * sum(abs(({share('task', '15m')}) - ({share('task', '1d')})))",
        }, "percentunit", 0.2),
        Panel("Slow share against the last day", "A step after a deployment is the new model's; a slope is the callers'.", {
            "15 min": 'sum(rate(query_gateway_classifications_total{label="1"}[15m])) / sum(rate(query_gateway_classifications_total[15m]))',
            "1 day": 'sum(rate(query_gateway_classifications_total{label="1"}[1d])) / sum(rate(query_gateway_classifications_total[1d]))',
        }, "percentunit"),
    ]),
]  # fmt: skip

DASHBOARDS = {
    "overview": ("Query Gateway", "For on-call: promises first, then where the time goes.", OVERVIEW),
    "model": (
        "Query Gateway: the model",
        "What is asked, how it is routed, and whether that changes.",
        MODEL,
    ),
}


def thresholds(panel: Panel) -> dashboard.ThresholdsConfig:
    limit = panel.limit
    good, bad = ("red", "green") if panel.low_is_bad else ("green", "red")
    steps = [Threshold(None, good)] + ([Threshold(limit, bad)] if limit is not None else [])
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def built(panel: Panel, width: int) -> stat.Panel | timeseries.Panel | table.Panel:
    made: stat.Panel | timeseries.Panel | table.Panel
    if panel.table_by:
        made = table.Panel().with_transformation(DataTransformerConfig("merge", options={}))
        named = {f"Value #{ref}": name for ref, name in zip("ABCDEF", panel.queries, strict=False)}
        hidden = {"excludeByName": {"Time": True}, "renameByName": named}
        made.with_transformation(DataTransformerConfig("organize", options=hidden))
    elif panel.number:
        made = stat.Panel().reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        made.graph_mode(shapes.BigValueGraphMode.AREA).color_mode(shapes.BigValueColorMode.VALUE)
    else:
        made = timeseries.Panel().fill_opacity(10).line_width(1).show_points(shapes.VisibilityMode.NEVER)
        if not panel.signed:
            made.min(0)
        if panel.limit is not None:
            made.thresholds_style(
                common.GraphThresholdsStyleConfig().mode(shapes.GraphThresholdsStyleMode.LINE)
            )
        if panel.stacked:
            made.stacking(common.StackingConfig().mode(shapes.StackingMode.NORMAL))
    made.title(panel.title).description(panel.meaning).unit(panel.unit).datasource(SOURCE)
    made.thresholds(thresholds(panel)).span(width).height(4 if panel.number else 8).no_value("no data")
    for ref, (legend, query) in zip("ABCDEF", panel.queries.items(), strict=False):
        asked = prometheus.Dataquery().ref_id(ref).expr(query).legend_format(legend).datasource(SOURCE)
        if panel.table_by:
            asked.instant().format(PromQueryFormat.TABLE)
        made.with_target(asked)
    return made


def page(name: str) -> str:
    title, meaning, rows = DASHBOARDS[name]
    board = (
        dashboard.Dashboard(title)
        .uid(f"query-gateway-{name}")
        .description(meaning)
        .tags(["query-gateway"])
        .time("now-1h", "now")
        .refresh("10s")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
    )
    ids = itertools.count(1)
    for row in rows:
        board.with_row(dashboard.Row(row.title).id(next(ids)))
        numbers = sum(panel.number for panel in row.panels)
        number_width = COLUMNS // max(numbers, 4)
        # Beside the numbers if they leave room, else under them.
        beside = (COLUMNS - numbers * number_width) // max(len(row.panels) - numbers, 1)
        chart_width = (beside or COLUMNS // 2) if numbers else COLUMNS // 3
        for panel in row.panels:
            width = number_width if panel.number else chart_width
            board.with_panel(built(panel, width).id(next(ids)))
    return JSONEncoder(sort_keys=True, indent=2).encode(board.build()) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="just dashboards", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--write", action="store_true", help="write them; otherwise exit code 1 for a stale one"
    )
    write = parser.parse_args().write
    stale = 0
    for name in DASHBOARDS:
        file, text = FOLDER / f"{name}.json", page(name)
        if write:
            FOLDER.mkdir(exist_ok=True)
            file.write_text(text)
        elif not file.exists() or file.read_text() != text:
            print(f"{file.name} is not what generate.py writes: just dashboards --write")
            stale = 1
    return stale


if __name__ == "__main__":
    sys.exit(main())
