"""Models that come and go under load: two that answer differently, swapped again and again."""

import itertools
import json
import os
import random
import re
import signal
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from handler.offline import LocalRouter
from lab import second_model
from lab.chaos.limits import one_cpu_and_512_mib
from lab.drive import Driver, meanwhile, percentile, poisson, request
from lab.launch import MODEL, Served, apart, eventually
from lab.pages import Skipped
from lab.rows import Row, at_most, holds
from lab.texts import texts

PER_S = 100.0
KNOWN = 50  # texts that are asked again and again, a third of the queries
WARM_S = 5.0
# After a swap the old model's memory is given back, and what is ordinary is measured.
EVERY_S = 4.0
SWAPPING_S = 1.0
WITHIN_S = 20.0
SAME = 1e-3  # a batched answer against one alone
TIMES_ORDINARY = 3.0
MEMORY_BACK = 0.10


@dataclass
class Asked:
    """What a caller saw: the text, the moment due and the seconds waited, and the answer with its model."""

    text: str
    due: float
    took_s: float
    version: str
    answer: dict[str, object]


@dataclass
class Seen:
    """One gateway's swaps.

    windows    from each swap on disk to a second later, or to when it was in service
    memory_mb  resident: before the first swap, and when each was over
    """

    asked: list[Asked] = field(default_factory=list)
    windows: list[tuple[float, float]] = field(default_factory=list)
    in_service_s: list[float] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)
    peak_mb: float = 0.0
    lost: int = 0
    codes: Counter[int] = field(default_factory=Counter)
    code: int = 0

    @property
    def latencies_s(self) -> tuple[list[float], list[list[float]]]:
        """Of all answers outside the windows, and of those within each."""
        inside: list[list[float]] = [[] for _ in self.windows]
        ordinary = []
        for each in self.asked:
            for window, (begin, end) in zip(inside, self.windows, strict=True):
                if begin <= each.due < end:
                    window.append(each.took_s)
                    break
            else:
                ordinary.append(each.took_s)
        return ordinary, inside


def swap(count: int) -> list[Row]:
    """On an ordinary gateway, and on one with one CPU and 512 MiB."""
    with tempfile.TemporaryDirectory() as folder:
        models = (MODEL, second_model.make(Path(folder) / "second"))
        link = Path(folder) / "models"
        rows = _judged("", _swapped(link, models, count, ()), models)
        try:
            with one_cpu_and_512_mib() as wrapped:
                small = _swapped(link, models, count, wrapped)
            rows += _judged("1 CPU, 512 MiB: ", small, models)
        except Skipped as why:
            rows.append(Row("1 CPU, 512 MiB", f"not shown on this machine: {why}"))
    return rows


def _swapped(link: Path, models: Sequence[Path], count: int, wrapped: Sequence[str]) -> Seen:
    """Let a gateway serve what a link leads to, and lead it to the other model `count` times."""
    seen = Seen()
    _lead(link, models[0])
    settings = {
        "MODEL_PATH": str(link),
        "CACHE_L1_SIZE": "1000",
    }  # full after the warm-up, so that memory stays
    with apart() as cpus, Served(settings, wrapped_in=wrapped, cpus=cpus.gateway) as served:
        with meanwhile(
            Driver(served.port, keep=lambda *told: _keep(seen, *told)),
            lambda driver: driver.open(_requests(), poisson(PER_S, seed=5)),
        ) as driver:
            time.sleep(WARM_S)
            seen.asked.clear()
            seen.memory_mb.append(served.memory_mb)
            for number in range(1, count + 1):
                began = time.perf_counter()
                _lead(link, models[number % len(models)])
                served.usage.send_signal(signal.SIGHUP)
                _await_swap(served, number)
                seen.in_service_s.append(time.perf_counter() - began)
                seen.windows.append((began, max(began + SWAPPING_S, time.perf_counter())))
                time.sleep(EVERY_S)
                seen.memory_mb.append(served.memory_mb)
        seen.peak_mb = _peak_mb(served)
        seen.code = served.terminate()
    seen.lost, seen.codes = driver.seen.lost, driver.seen.codes
    return seen


def _judged(name: str, seen: Seen, models: Sequence[Path]) -> list[Row]:
    mixed, of_model = _mixed(seen.asked, models)
    ordinary, inside = seen.latencies_s
    ordinary_ms = percentile(sorted(ordinary), 0.99) * 1000
    swapping_ms = percentile(sorted(itertools.chain(*inside)), 0.99) * 1000
    worst_ms = max(percentile(sorted(window), 0.99) for window in inside) * 1000
    before, *after = seen.memory_mb
    grown = max(after) / before - 1
    count = len(seen.windows)
    clean = seen.lost == 0 and set(seen.codes) == {200} and seen.code == 0
    return [
        holds(
            f"{name}{count} swaps at {PER_S:.0f} queries/s",
            ", ".join(f"{number} × {code}" for code, number in sorted(seen.codes.items()))
            + f", {seen.lost} lost, exit code {seen.code}",
            "0 lost, all 200",
            clean,
        ),
        Row(
            f"{name}from the link to service",
            f"{statistics.median(seen.in_service_s):.2f} s (at most {max(seen.in_service_s):.2f})",
        ),
        holds(
            f"{name}answers of a mixed model",
            f"{mixed} of {' and '.join(str(n) for n in of_model.values())} by two models",
            "0, and both answered",
            mixed == 0 and len(of_model) == len(models),
        ),
        at_most(
            f"{name}P99 of the second that swaps",
            f"{swapping_ms:.1f} ms (in the worst one {worst_ms:.1f}); in the others {ordinary_ms:.1f} ms",
            swapping_ms,
            TIMES_ORDINARY * ordinary_ms,
            f"{TIMES_ORDINARY:g} × the others",
            ratio=True,
        ),
        holds(
            f"{name}memory when a swap is over",
            f"{before:.0f} MB before, {min(after):.0f} to {max(after):.0f} after, {grown:+.1%} at most",
            f"within {MEMORY_BACK:.0%}",
            grown < MEMORY_BACK,
        ),
        holds(f"{name}memory at its highest", f"{seen.peak_mb:.0f} MB", "under 512 MiB", seen.peak_mb < 537),
    ]


def _mixed(asked: Sequence[Asked], models: Sequence[Path]) -> tuple[int, Counter[str]]:
    """Answers that are not those of the model that they name, and how many each model gave."""
    mixed = 0
    of_model: Counter[str] = Counter()
    for folder in models:
        local = LocalRouter.open(folder)
        answers = [each for each in asked if each.version == local.router.version]
        of_model += Counter({local.router.version: len(answers)})
        for each, own in zip(answers, local.classify(each.text for each in answers), strict=True):
            same = (each.answer["label"], each.answer["task"]) == (own.label, own.task)
            mixed += not (same and abs(float(str(each.answer["confidence"])) - own.confidence) < SAME)
    return mixed + len(asked) - of_model.total(), of_model


def _requests() -> Iterator[bytes]:
    """New texts, and among them some that come again and again."""
    dice, fresh = random.Random(7), texts(7)
    known = list(itertools.islice(texts(8), KNOWN))
    while True:
        yield request(dice.choice(known) if dice.random() < 1 / 3 else next(fresh))


def _keep(seen: Seen, query: bytes, answer: bytes, due: float, took_s: float) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    version = re.search(rb"\r\nx-model-version: (\w+)", head)
    if answer[9:12] == b"200" and version:
        text = json.loads(query.partition(b"\r\n\r\n")[2])["text"]
        seen.asked.append(Asked(text, due, took_s, version[1].decode(), json.loads(body)))


def _lead(link: Path, target: Path) -> None:
    """Put a link to the target in the place of the one that is there, as Kubernetes does."""
    new = link.with_name("next")
    new.symlink_to(target)
    os.replace(new, link)


def _await_swap(served: Served, number: int) -> None:
    """Wait until the log tells of so many swaps."""

    def told() -> bool:
        return [line["event"] for line in served.lines() if "replaces" in line].count(
            "model_loaded"
        ) == number

    eventually(told, "the other model is in service", within_s=WITHIN_S)


def _peak_mb(served: Served) -> float:
    status = Path(f"/proc/{served.usage.pid}/status").read_text(encoding="utf-8")
    found = re.search(r"VmHWM:\s*(\d+) kB", status)
    return int(found[1]) * 1024 / 1e6 if found else 0.0
