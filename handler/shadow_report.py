"""`query-gateway shadow`: what a gateway's shadow would have answered otherwise, read from its `/metrics`."""

import urllib.error
import urllib.request
from collections import Counter
from datetime import UTC, datetime
from http.client import HTTPException

from handler.telemetry import samples

# The gateway's answer is waited for so long, and read no further.
ANSWER_S = 5.0
METRICS_MAX_BYTES = 16_000_000
# Of the tasks that one task became, so many are named.
CHANGES_SHOWN = 3
PREFIX = "query_gateway_"


class Unreported(Exception):
    """There is nothing to report; the message says why and what to do."""


class Series:
    """A scrape's samples, by name."""

    def __init__(self, text: str) -> None:
        self._samples = [(name.removeprefix(PREFIX), labels, value) for name, labels, value in samples(text)]

    def of(self, name: str, *labels: str) -> Counter[tuple[str, ...]]:
        """Counts of a family, by the values of some of its labels."""
        found: Counter[tuple[str, ...]] = Counter()
        for known, has, value in self._samples:
            if known == name:
                found[tuple(has[label] for label in labels)] += int(value)
        return found

    def value(self, name: str) -> float | None:
        """The one sample of a name; None where there is none."""
        return next((value for known, _, value in self._samples if known == name), None)

    def model(self, name: str) -> str:
        """A model's name and version, by its info series; empty where there is none."""
        return next(
            (f"{has['name']} {has['version']}" for known, has, _ in self._samples if known == name), ""
        )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows nothing: an operator's key is for the host that was named."""

    def redirect_request(self, *_: object) -> None:
        return None


def fetch(url: str, key: str = "") -> str:
    """What a gateway's `/metrics` says. Raises `Unreported`."""
    if not url.startswith(("http://", "https://")):
        raise Unreported(f"--url {url}: accepted: the gateway's http:// or https:// address")
    where = f"{url.rstrip('/')}/metrics"
    try:
        request = urllib.request.Request(where, headers={"x-api-key": key} if key else {})
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=ANSWER_S) as answer:
            content: bytes = answer.read(METRICS_MAX_BYTES)
    except urllib.error.HTTPError as exc:
        with exc:
            if exc.code == 401:
                raise Unreported(
                    f"{where} asks for an operator's key (OPS_KEYS): give the file that holds one, --key-file FILE"
                ) from None
            raise Unreported(f"{where} answered {exc.code}, not 200") from None
    except (OSError, HTTPException, ValueError) as exc:
        why = getattr(exc, "reason", None) or exc
        raise Unreported(f"{where} cannot be read: {why}") from None
    return content.decode(errors="replace")


def report(text: str) -> str:
    """A scrape's shadow series, for people. Raises `Unreported` where there are none, or nothing was compared."""
    try:
        found = Series(text)
    except ValueError:
        raise Unreported("that is no page of metrics: is it a gateway's address?") from None
    loaded = found.value("shadow_loaded")
    if loaded is None:
        raise Unreported("this gateway has no shadow: SHADOW_MODEL_PATH names its model")
    if not loaded:
        raise Unreported("the shadow does not score; /health/deep says why, in .checks.shadow.error")
    since = datetime.fromtimestamp(found.value("shadow_since_seconds") or 0.0, UTC)
    lines = [
        f"shadow {found.model('shadow_info')} beside {found.model('model_info')}",
        f"since {since:%Y-%m-%d %H:%M:%S} UTC, when both and the policy were last put in force",
    ]
    routes = found.of("shadow_routes_total", "live", "shadow")
    if compared := routes.total():
        moved = found.of("shadow_routes_total", "moved")
        lines += ["", *_routes(routes, moved), "", *_tasks(found, compared)]
    else:
        lines += ["", "no query was compared yet"]
    return "\n".join([*lines, "", *_times(found)])


def _routes(routes: Counter[tuple[str, ...]], moved: Counter[tuple[str, ...]]) -> list[str]:
    labels = sorted({label for pair in routes for label in pair})
    compared = moved.total()
    same, dearer, cheaper = (moved[(where,)] / compared for where in ("no", "dearer", "cheaper"))
    rows = [["in service \\ shadow", *labels]]
    rows += [[live, *(str(routes[live, shadow]) for shadow in labels)] for live in labels]
    return [
        f"{compared} queries: {same:.1%} take the same route, {dearer:.1%} move to a dearer tier, "
        f"{cheaper:.1%} to a cheaper one",
        "",
        "routes, 0 the cheapest tier:",
        *_aligned(rows),
    ]


def _tasks(found: Series, compared: int) -> list[str]:
    tasks = found.of("shadow_tasks_total", "task", "same")
    changes = found.of("shadow_task_changes_total", "live", "shadow")
    asked = Counter({task: tasks[task, "0"] + tasks[task, "1"] for task, _ in tasks})
    rows = [["task", "queries", "same", "else"]]
    for task, count in asked.most_common():
        if count:
            others = Counter({shadow: n for (live, shadow), n in changes.items() if live == task})
            named = ", ".join(f"{other} {n}" for other, n in others.most_common(CHANGES_SHOWN))
            rows.append([task, str(count), f"{tasks[task, '1'] / count:.1%}", named])
    known = asked.total()
    if not known:
        return ["tasks: none that both models know"]
    same = sum(count for (_, is_same), count in tasks.items() if is_same == "1")
    unknown = f"; {compared - known} more named a task that only one model knows" if compared > known else ""
    return [f"tasks: {same / known:.1%} of {known} are the same{unknown}", *_aligned(rows)]


def _times(found: Series) -> list[str]:
    lines = []
    runs, seconds = found.value("shadow_run_seconds_count"), found.value("shadow_run_seconds_sum")
    if runs and seconds is not None:
        live_s, live = found.value("inference_latency_seconds_sum"), found.value("inference_batch_size_sum")
        # Of all models since the start, while the shadow's time is of these two alone.
        beside = (
            f"; the gateway's own runs, since its start, {1000 * live_s / live:.2f} ms"
            if live_s and live
            else ""
        )
        lines.append(f"time: {1000 * seconds / runs:.2f} ms a query on average{beside}")
    dropped = found.of("shadow_dropped_total", "reason")
    if dropped.total():
        told = ", ".join(f"{count} {reason}" for (reason,), count in dropped.most_common() if count)
        lines.append(f"offered and not compared: {told}")
    return lines


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
