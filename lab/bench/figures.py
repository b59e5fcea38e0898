"""What a measure saw: figures against their limits, and the raw numbers behind them."""

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

OFF_BY_DOUBLE = 2.0


class Figure(NamedTuple):
    """One line of the table.

    off    the figure over its limit, so that 1 or less holds and 2 is off by double;
           None where nothing is promised and the figure only told
    ratio  measured within the run against something else, or not a matter of speed: a
           noisy machine does not move it by much
    """

    what: str
    seen: str
    wanted: str = ""
    off: float | None = None
    ratio: bool = False

    def fails(self, *, short: bool) -> bool:
        """Whether it fails the run; a short one has few rounds, and only judges ratios, off by double."""
        if self.off is None or (short and not self.ratio):
            return False
        return not self.off <= (OFF_BY_DOUBLE if short else 1.0)

    @property
    def verdict(self) -> str:
        if self.off is None:
            return ""
        return "holds" if self.off <= 1 else f"**missed** ({self.off:.2f} of its limit)"


class Measured(NamedTuple):
    """One measure's lines, and the numbers for the JSON and the pictures."""

    figures: list[Figure]
    numbers: dict[str, Any]


def spread(values: Sequence[float], form: str = "{:.0f}") -> str:
    """A median with the least and the greatest beside it."""
    ordered = sorted(values)
    ends = f"{form.format(ordered[0])} to {form.format(ordered[-1])}"
    return f"{form.format(statistics.median(ordered))} ({ends})"


def at_most(what: str, seen: str, value: float, limit: float, shown: str, *, ratio: bool = False) -> Figure:
    return Figure(what, seen, f"at most {shown}", value / limit, ratio)


def at_least(what: str, seen: str, value: float, limit: float, shown: str) -> Figure:
    return Figure(what, seen, f"at least {shown}", limit / value if value else float("inf"))
