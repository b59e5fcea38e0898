"""One run: locust against gateways that are there, for as long as a shape takes, and what came of it."""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lab.launch import ROOT, scrape, signals_held
from lab.load.shapes import users_at
from lab.load.slo import Samples
from lab.metrics import Metrics

LOCUST = ROOT / "tests" / "load"  # where it was ordered to stand
FILES = {"spike": "locustfile.py,spike.py"}  # of the others, locust is told the number of users
LINGER_S = 3  # for the last answers
LOOK_EVERY_S = 15.0  # at the gateway's memory: as often as Prometheus does, and no more of a burden
OVERDUE_S = 60.0


@dataclass(frozen=True)
class Asked:
    """What is run: `rate` queries a second (of a spike: before and after it) at these `urls`."""

    shape: str
    rate: int
    seconds: float
    seed: int
    urls: Sequence[str]
    key: str = ""


@dataclass
class Outcome:
    asked: Asked
    samples: Samples
    server: Metrics | None  # what was counted meanwhile; None where /metrics does not tell
    memory_mb: list[float] = field(default_factory=list)

    @property
    def answers(self) -> int:
        return len(self.samples.answered_ms())

    @property
    def cpu_ms(self) -> float | None:
        """Processor time of the gateways per query, by what they count themselves."""
        if not self.server or not (queries := self.server.total("query_gateway_requests_total")):
            return None
        return self.server.total("process_cpu_seconds_total") / queries * 1000

    @property
    def batch(self) -> float | None:
        """Queries per model run, in the mean."""
        if not self.server or not (runs := self.server.total("query_gateway_inference_batch_size_count")):
            return None
        return self.server.total("query_gateway_inference_batch_size_sum") / runs


def class_name(shape: str) -> str:
    """The class of a shape's users in `locustfile.py`."""
    return "".join(part.capitalize() for part in shape.split("-")) + "User"


def load(asked: Asked, folder: Path, *, tell: Callable[[str], None] = print) -> Outcome:
    """Run a shape; leave locust's report and every query's figures in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    report, kept, log = (folder / f"{asked.shape}.{kind}" for kind in ("html", "json", "log"))
    kept.unlink(missing_ok=True)
    before, memory_mb = scrape(asked.urls, asked.key), []
    users = users_at(asked.shape, asked.rate, asked.seconds, 0.0)
    command = [
        *locust(asked, kept),
        *("--headless", "--only-summary", "--html", str(report), "--stop-timeout", str(LINGER_S)),
        *("--exit-code-on-error", "0"),  # the verdict is ours
        *(
            "--users",
            str(users),
            "--spawn-rate",
            str(users),
            "--run-time",
            f"{max(1, round(asked.seconds))}s",
        ),
        class_name(asked.shape),
    ]
    with started(command, asked, kept, log) as process:
        began = time.monotonic()
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LOOK_EVERY_S)
                break
            passed_s = time.monotonic() - began
            if passed_s > asked.seconds + OVERDUE_S:
                raise SystemExit(f"load: locust did not end in time; its words are in {log}")
            memory_mb += _memory_mb(scrape(asked.urls, asked.key))
            if asked.seconds > 60:
                tell(f"  {passed_s:.0f} of {asked.seconds:g} s")
    after = scrape(asked.urls, asked.key)
    memory_mb += _memory_mb(after)
    if process.returncode or not kept.exists():
        raise SystemExit(f"load: locust ended with {process.returncode}:\n{log.read_text()[-2000:]}")
    # Locust ends to the second, and a little early: it runs for one more, which counts for nothing.
    samples = Samples.load(kept).between(0.0, asked.seconds)
    if not samples.answered_ms():
        raise SystemExit(f"load: no query of {len(samples)} was answered; locust's words are in {log}")
    return Outcome(asked, samples, after.since(before) if before and after else None, memory_mb)


def _memory_mb(metrics: Metrics | None) -> list[float]:
    return [metrics.total("process_resident_memory_bytes") / 1e6] if metrics else []


def locust(asked: Asked, kept: Path | None = None) -> list[str]:
    """The command's begin, the same with and without its page."""
    if importlib.util.find_spec("locust") is None:
        raise SystemExit("load: locust is not installed here; `just load` installs it")
    files = FILES.get(asked.shape, "locustfile.py") if kept else FILES["spike"]
    return [
        *(sys.executable, "-m", "locust", "-f", ",".join(str(LOCUST / name) for name in files.split(","))),
        *("--host", asked.urls[0], "--loglevel", "WARNING"),
    ]


@contextlib.contextmanager
def started(
    command: Sequence[str], asked: Asked, kept: Path | None, log: Path
) -> Iterator["subprocess.Popen[bytes]"]:
    """A locust that knows what to ask, and is ended with the block."""
    plan = {
        "rate": asked.rate,
        "seconds": asked.seconds,
        "seed": asked.seed,
        "hosts": list(asked.urls),
        "samples": str(kept.resolve()) if kept else "",
        "key": asked.key,
    }
    environ = {**os.environ, "LOAD_PLAN": json.dumps(plan), "PYTHONPATH": str(ROOT)}
    process = None
    try:
        with log.open("wb") as words, signals_held():
            process = subprocess.Popen(
                command, cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, stdout=words, stderr=words,
                process_group=0,
            )  # fmt: skip
        yield process
    finally:
        if process and process.poll() is None:
            process.terminate()
            try:
                process.wait(LINGER_S + 3)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
