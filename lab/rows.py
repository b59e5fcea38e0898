"""One line of a table: what was seen, against what is wanted of it, and whether it holds."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

OFF_BY_DOUBLE = 2.0


class Row(NamedTuple):
    """
    off    the figure over its limit, so that 1 or less holds and 2 is off by double;
           None where nothing is wanted and the figure is only told
    ratio  measured within the run against something else, or not a matter of speed: a
           noisy machine does not move it by much
    also   the same figure as somebody else saw it
    """

    what: str
    seen: str
    wanted: str = ""
    off: float | None = None
    ratio: bool = False
    also: str = ""

    @property
    def holds(self) -> bool | None:
        return None if self.off is None else self.off <= 1

    @property
    def verdict(self) -> str:
        if self.off is None:
            return ""
        by = f" ({self.off:.2f} of its limit)" if 1 < self.off < math.inf else ""
        return "holds" if self.holds else f"**missed**{by}"

    def fails(self, *, short: bool = False) -> bool:
        """Whether it fails the run; a short one has few rounds, and only judges ratios, off by double."""
        if self.off is None or (short and not self.ratio):
            return False
        return not self.off <= (OFF_BY_DOUBLE if short else 1.0)


def at_most(what: str, seen: str, value: float, limit: float, shown: str, *, ratio: bool = False) -> Row:
    return Row(what, seen, f"at most {shown}", value / limit, ratio)


def at_least(what: str, seen: str, value: float, limit: float, shown: str, *, ratio: bool = False) -> Row:
    return Row(what, seen, f"at least {shown}", limit / value if value else math.inf, ratio)


def holds(what: str, seen: str, wanted: str, so: bool) -> Row:
    """A row that holds or does not, without a limit to be a part of."""
    return Row(what, seen, wanted, 0.0 if so else math.inf, ratio=True)


def spread(values: Sequence[float], form: str = "{:.0f}") -> str:
    """A median with the least and the greatest beside it."""
    ordered = sorted(values)
    ends = f"{form.format(ordered[0])} to {form.format(ordered[-1])}"
    return f"{form.format(statistics.median(ordered))} ({ends})"


def markdown(rows: Sequence[Row]) -> list[str]:
    lines = ["| what | seen | wanted | |", "|---|---|---|---|"]
    return lines + [f"| {row.what} | {row.seen} | {row.wanted} | {row.verdict} |" for row in rows]


def aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """Lines for a terminal, every column as wide as its widest cell."""
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]
