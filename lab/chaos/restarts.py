"""SIGTERM under full load, again and again; every query that was sent is answered."""

import contextlib
import signal
import statistics
import time
from collections import Counter

from lab.drive import Driver, meanwhile, requests
from lab.launch import Served
from lab.rows import Row, holds

CALLERS = 64
LOAD_S = 1.0
ENDS_WITHIN_S = 10.0  # Cloud Run's own patience


def restarts(count: int) -> list[Row]:
    """Full load from callers who never retry and go when told to."""
    outcomes: Counter[str] = Counter()
    exits: Counter[int] = Counter()
    ended_s: list[float] = []
    unready_ms: list[float] = []
    for turn in range(count):
        with (
            Served() as served,
            meanwhile(
                Driver(served.port),
                lambda driver, seed=turn: driver.closed(requests(seed), connections=CALLERS, polite=True),  # type: ignore[misc]
            ) as driver,
        ):
            time.sleep(LOAD_S)
            told_at = time.monotonic()
            served.process.send_signal(signal.SIGTERM)
            unready_ms.append(_unready_s(served) * 1000)
            exits[served.process.wait(timeout=20)] += 1
            ended_s.append(time.monotonic() - told_at)
        outcomes += Counter({str(code): number for code, number in driver.seen.codes.items()})
        outcomes += Counter(lost=driver.seen.lost)
    lost = sum(number for outcome, number in outcomes.items() if outcome != "200")
    return [
        holds(
            f"{count} SIGTERMs under full load ({CALLERS} callers)",
            ", ".join(f"{number} × {outcome}" for outcome, number in sorted(outcomes.items())),
            "0 lost, all 200",
            lost == 0,
        ),
        holds(
            "readiness after SIGTERM",
            f"503 after {statistics.median(unready_ms):.0f} ms (at most {max(unready_ms):.0f})",
            "at once: the first look sees it",
            max(unready_ms) < 1000,
        ),
        holds(
            "the process ends after",
            f"{statistics.median(ended_s):.1f} s (at most {max(ended_s):.1f})",
            "within 10 s",
            max(ended_s) < ENDS_WITHIN_S,
        ),
        holds("exit codes", ", ".join(f"{n} × {code}" for code, n in exits.items()), "0", set(exits) == {0}),
    ]


def _unready_s(served: Served) -> float:
    """How long until readiness falls, or nobody listens any more."""
    began = time.monotonic()
    with contextlib.suppress(OSError):
        while served.status("/health/ready") != 503:
            pass
    return time.monotonic() - began
