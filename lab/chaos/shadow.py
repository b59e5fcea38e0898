"""A second model in idle time: what it costs the callers, beside a gateway that has none."""

import itertools
import tempfile
import time
from pathlib import Path

from lab import second_model
from lab.drive import Driver, percentile, poisson, requests
from lab.launch import Served, apart, eventually, scrape
from lab.rows import Row, at_most

PER_S = 100.0
ROUND_S = 3.0
ROUNDS = 6
# A query that comes while the shadow runs shares the CPU with it for at most that run.
TIMES_ALONE = 1.5


def shadow() -> list[Row]:
    """Two gateways on one CPU in turns: one alone, and one whose shadow is offered every miss."""
    waits_s: dict[str, list[float]] = {"alone": [], "beside": []}
    with tempfile.TemporaryDirectory() as folder:
        second = str(second_model.make(Path(folder) / "second"))
        settings = {"SHADOW_MODEL_PATH": second, "SHADOW_SHARE": "1"}
        with (
            apart() as cpus,
            Served(cpus=cpus.gateway[:1]) as alone,
            Served(settings, cpus=cpus.gateway[:1]) as beside,
        ):
            eventually(lambda: beside.metric("query_gateway_shadow_loaded") == 1, "the shadow is loaded")
            for number, (name, served) in itertools.product(
                range(ROUNDS), (("alone", alone), ("beside", beside))
            ):
                with Driver(served.port) as driver:
                    seen = driver.open(requests(number), poisson(PER_S, seed=number), seconds=ROUND_S)
                if number:  # the first round warms
                    waits_s[name] += [*seen.hits_s, *seen.misses_s]
                time.sleep(0.2)
            told = scrape([beside.url])
    assert told is not None
    compared = told.total("query_gateway_shadow_routes_total")
    misses = told.total("query_gateway_cache_misses_total")
    run_ms = told.quantile_ms("query_gateway_shadow_run_seconds", 0.5)
    rows = [
        Row(
            f"{PER_S:.0f} new queries/s, all offered to the shadow",
            f"{compared:.0f} of {misses:.0f} compared, {run_ms:.1f} ms each (P50)",
        )
    ]
    for fraction in (0.5, 0.99):
        own, with_it = (percentile(sorted(waits_s[name]), fraction) * 1000 for name in ("alone", "beside"))
        rows.append(
            at_most(
                f"P{fraction * 100:.0f} of a gateway with a shadow",
                f"{with_it:.1f} ms; alone {own:.1f} ms",
                with_it,
                TIMES_ALONE * own,
                f"{TIMES_ALONE:g} × alone",
                ratio=True,
            )
        )
    return rows
