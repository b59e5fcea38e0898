"""What stands in Redis: an entry's name and its bytes (docs/cache.md shows both).

    qg:2:6bd0e1f2a3b4:00112233445566778899aabbccddeeff
    2 whole 1764003600 - 0.0213 0.9412 0.0375 8c1f09aa

Text, because an operator should be able to read it with redis-cli. Knows nothing
of Redis.
"""

import time
from collections.abc import Callable
from typing import Literal
from zlib import crc32

import msgspec

from handler.policy import Scores

# Raised when the bytes below change their meaning; the old ones are then foreign.
FORMAT = 2
# Asked for and written by probes; never an entry, since no model's version is called so.
PROBE = b"qg:%d:probe" % FORMAT

Foreign = Literal["corrupt", "version"]
CUT = {False: b"whole", True: b"cut"}
# Stands where a need that was learnt from outcomes would: the model has learnt none.
UNLEARNT = b"-"


class Found(msgspec.Struct, frozen=True):
    """Scores that were kept, and for how many seconds more they may be."""

    scores: Scores
    lasts_s: float


class ForeignValue(Exception):
    """Bytes that are not an entry, or not this key's."""

    def __init__(self, reason: Foreign) -> None:
        super().__init__(reason)
        self.reason = reason


def key(version: str, name: bytes) -> bytes:
    """Name an entry: ours, in this format, of this model, of this query.

    version  of the model: the first 12 hex digits of its digest. They are there
             to be found and removed by; `name` is keyed by the whole digest
    """
    return f"qg:{FORMAT}:{version}:{name.hex()}".encode()


def pattern(version: str | None) -> str:
    """What SCAN matches to find one model's entries, or with None all models'; of any format."""
    return f"qg:*:{version or '*'}:*"


def write(key: bytes, scores: Scores, expires_at: float) -> bytes:
    """An entry's value.

    expires_at  seconds since 1970. Redis ends the entry itself; this tells a
                reader how long to keep its own copy, in the same MGET

    Nine digits bring every float32 back to the last bit. The checksum covers the
    key too, so that a value under another's key is as foreign as a damaged one.
    """
    probabilities = " ".join([f"{p:.9g}" for p in scores.probabilities])
    learnt = UNLEARNT if scores.learnt is None else repr(scores.learnt).encode()
    body = b"%d %s %d %s %s" % (
        FORMAT, CUT[scores.truncated], expires_at, learnt, probabilities.encode()
    )  # fmt: skip
    return b"%s %08x" % (body, crc32(body, crc32(key)))


def read(key: bytes, value: bytes, tasks: int, *, now: Callable[[], float] = time.time) -> Found:
    """Parse a value. Raises `ForeignValue`.

    tasks  how many probabilities the model gives

    Whether there is a learnt need goes with the model, and so with the key.
    """
    body, _, checksum = value.rpartition(b" ")
    if b"%08x" % crc32(body, crc32(key)) != checksum:
        head = value[:8].partition(b" ")[0]
        raise ForeignValue("version" if head.isdigit() and int(head) != FORMAT else "corrupt")
    try:
        form, cut, expires_at, learnt, *probabilities = body.split(b" ")
        if int(form) != FORMAT:
            raise ForeignValue("version")
        if len(probabilities) != tasks:
            raise ForeignValue("corrupt")
        scores = Scores.of(
            [float(p) for p in probabilities],
            truncated=cut == CUT[True],
            learnt=None if learnt == UNLEARNT else float(learnt),
        )
        return Found(scores, int(expires_at) - now())
    except (ValueError, OverflowError):  # somebody else's bytes, with a checksum made to fit
        raise ForeignValue("corrupt") from None
