"""A million lines in one request: every one answered, and the gateway's memory as it was."""

import itertools
import json
import time
from collections.abc import Iterator

from lab.launch import Served
from lab.rows import Row, at_most, holds
from lab.stream import Stream
from lab.texts import texts

DIFFERENT = 10_000
# Until each was asked twice: then the in-process cache is full, and what is used once is used.
WARM = 2 * DIFFERENT
ROUNDS_MIN = 2  # of all that differ, after the warming ones
GROWS_MAX_MB = 10.0


def ndjson(count: int) -> list[Row]:
    """So many lines of 10,000 different ones, again and again, in one request."""
    count = max(count, WARM + ROUNDS_MIN * DIFFERENT)
    asked = [json.dumps({"text": text}).encode() + b"\n" for text in itertools.islice(texts(0), DIFFERENT)]
    warmed: list[float] = []
    # This is about memory: a neighbour's second must not make a line late.
    with Served({"REQUEST_TIMEOUT_MS": "30000"}) as served:

        def lines() -> Iterator[bytes]:
            for number in range(count):
                if number == WARM:
                    warmed.append(served.memory_mb)
                yield asked[number % DIFFERENT]

        stream = Stream(served.port, lines())
        rest, began = served.memory_mb, time.monotonic()
        with served.sampled_memory() as samples:
            stream.run()
        took_s = time.monotonic() - began
        end = served.memory_mb
        queries = served.metric("query_gateway_queries_total", wire="native")
    (warm,) = warmed
    most = max(*samples, end)
    return [
        holds(
            f"{count:,} lines of {DIFFERENT:,} different ones in one request",
            f"{stream.answers:,} answered, {stream.errors} of them with an error, {count / took_s:.0f} a second",
            "each answered, none with an error",
            (stream.answers, stream.errors, queries) == (count, 0, count),
        ),
        at_most(
            f"memory from line {WARM:,} on",
            f"{warm:.1f} → {end:.1f} MB, {most:.1f} at most; {rest:.1f} before the first line",
            most - warm,
            GROWS_MAX_MB,
            f"{GROWS_MAX_MB:g} MB more",
            ratio=True,
        ),
    ]
