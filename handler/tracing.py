"""Traces of single queries: whose are kept, and what is kept of them. Nothing is sent here: `otlp` does that.

    begin(traceparent) → Trace, or None for most → end(trace, …) → a bounded queue → take

Nothing of a query's text is ever in a span.
"""

import asyncio
import random
import re
import time
from collections import deque
from collections.abc import Mapping, Sequence

import msgspec

_TRACEPARENT = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?"
)
_SAMPLED = 0x01
# So many that wait are sent without waiting for more.
MANY = 512
# What a ratio is held against, as OpenTelemetry has it: the lower half of a trace's id.
_HALF = 1 << 64


class Trace(msgspec.Struct, frozen=True):
    """A span that is being made: its trace's id, its own, and its parent's; 0 is none."""

    trace_id: int
    span_id: int
    parent_id: int


class Span(msgspec.Struct, frozen=True):
    """One query, or one request of many, from its start to its answer.

    start_ns, end_ns  since 1970
    stages            name and seconds of each, in the order that they happened, up to `end_ns`
    error_type        what went wrong, if it did
    server            whether it is a request, and no single query of a request of many
    """

    trace: Trace
    name: str
    start_ns: int
    end_ns: int
    stages: tuple[tuple[str, float], ...]
    attributes: Mapping[str, str | int | float]
    error_type: str
    server: bool


class Tracer:
    """Which queries are traced, and their spans until they are sent.

    dropped  spans that found the queue full
    many     set while `MANY` spans or more wait
    """

    def __init__(self, *, share: float, follows: bool, queue_max: int) -> None:
        """
        share      of new traces that is kept, 0 to 1
        follows    whether a caller's decision goes before ours
        queue_max  spans that may wait
        """
        self.dropped = 0
        self.many = asyncio.Event()
        self._below = round(share * _HALF)
        self._follows = follows
        self._queue_max = queue_max
        self._spans: deque[Span] = deque()

    def begin(self, traceparent: bytes) -> Trace | None:
        """A trace for a request, below its caller's if it names one (W3C Trace Context); None: not kept."""
        trace_id, parent_id = 0, 0
        if given := _TRACEPARENT.fullmatch(traceparent):
            trace_id, parent_id = int(given[1], 16), int(given[2], 16)
            if self._follows:
                sampled = bool(int(given[3], 16) & _SAMPLED)
                return Trace(trace_id, _id(64), parent_id) if sampled else None
        trace_id = trace_id or _id(128)
        return Trace(trace_id, _id(64), parent_id) if trace_id % _HALF < self._below else None

    def below(self, trace: Trace) -> Trace:
        """A trace for one query of a request of many."""
        return Trace(trace.trace_id, _id(64), trace.span_id)

    def end(
        self,
        trace: Trace,
        name: str,
        took_s: float,
        *,
        stages: Sequence[tuple[str, float]] = (),
        attributes: Mapping[str, str | int | float],
        error_type: str = "",
        server: bool = True,
    ) -> None:
        """Keep a span that ends now and took so many seconds. Where too many wait, it is dropped and counted."""
        if len(self._spans) >= self._queue_max:
            self.dropped += 1
            return
        now_ns = time.time_ns()
        start_ns = now_ns - int(took_s * 1e9)
        self._spans.append(Span(trace, name, start_ns, now_ns, tuple(stages), attributes, error_type, server))
        if len(self._spans) >= min(MANY, self._queue_max):
            self.many.set()

    def take(self) -> list[Span]:
        """The oldest spans that wait, `MANY` of them at most."""
        taken = [self._spans.popleft() for _ in range(min(MANY, len(self._spans)))]
        if len(self._spans) < min(MANY, self._queue_max):
            self.many.clear()
        return taken


def _id(bits: int) -> int:
    """A random number of so many bits that is not 0. It names a span, and keeps no secret."""
    return random.getrandbits(bits) or 1
