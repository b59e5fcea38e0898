"""What a check is, and the table that many of them make."""

import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum


class Verdict(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


class NotHere(Exception):
    """The program that a check is about is not installed; the message says how to get it."""


class Broken(AssertionError):
    """A promise of a recipe was not kept; the message says which, and what was seen."""


def require(holds: object, what: str) -> None:
    """Raise `Broken` with `what` unless it holds."""
    if not holds:
        raise Broken(what)


@dataclass
class Result:
    """One row of the table."""

    name: str
    verdict: Verdict
    seen: str
    seconds: float


@dataclass
class Table:
    """Results as they come, printed at once, and the sum at the end."""

    results: list[Result] = field(default_factory=list)
    width: int = 34

    async def run(self, name: str, check: Callable[[], Awaitable[str]]) -> bool:
        """Run one check and print its row. What it returns is what was seen."""
        began = time.monotonic()
        try:
            verdict, seen = Verdict.PASSED, await check()
        except NotHere as missing:
            verdict, seen = Verdict.SKIPPED, str(missing)
        except Exception as problem:
            verdict, seen = Verdict.FAILED, f"{type(problem).__name__}: {problem}"
        self.add(Result(name, verdict, seen, time.monotonic() - began))
        return verdict is not Verdict.FAILED

    def add(self, result: Result) -> None:
        self.results.append(result)
        first, *more = result.seen.splitlines() or [""]
        print(f"{result.name:<{self.width}} {result.verdict:<8} {result.seconds:5.1f} s  {first}", flush=True)
        for line in more:
            print(" " * 4 + line, flush=True)

    def counts(self) -> dict[Verdict, int]:
        return {verdict: sum(r.verdict is verdict for r in self.results) for verdict in Verdict}

    def summary(self) -> str:
        """The closing line, in the form that test runners have."""
        counts = self.counts()
        return ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict)


def chosen(names: Iterable[str], wanted: Iterable[str]) -> list[str]:
    """The names that are wanted: all where nothing is, else those that begin so. Raises `ValueError`."""
    names, wanted = list(names), list(wanted)
    for start in wanted:
        if not any(name.startswith(start) for name in names):
            raise ValueError(f"{start}: there is none that begins so; there are {', '.join(names)}")
    return [name for name in names if not wanted or name.startswith(tuple(wanted))]
