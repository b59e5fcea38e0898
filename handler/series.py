"""What a counter and a histogram count, for one thread: no lock is taken.

A cached answer moves nine of them. prometheus_client's own take a lock for each value and walk
a histogram's buckets, which is a fifth of all that such an answer costs in Python. `telemetry`
gives them their names and renders them. For the event loop's thread alone.
"""

from bisect import bisect_left
from collections.abc import Sequence


class Count:
    """One series of a counter."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self, by: int = 1) -> None:
        self.value += by


class Buckets:
    """One series of a histogram.

    uppers  the greatest value of each bucket, ascending; what is greater than all falls past them
    """

    __slots__ = ("counts", "total", "uppers")

    def __init__(self, uppers: Sequence[float]) -> None:
        self.uppers = uppers
        self.counts = [0] * (len(uppers) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.uppers, value)] += 1
        self.total += value
