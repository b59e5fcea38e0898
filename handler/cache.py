"""The in-process level of the cache: bounded, least recently used goes first, and timed.

Knows nothing of queries or of the level behind it. Each entry is one packed
`bytes`: 290 bytes of memory in all, where a general timed cache takes 450
(docs/decisions/0006).
"""

import struct
from collections import OrderedDict
from collections.abc import Callable

from handler.policy import Scores
from handler.statistics import L1Statistics

# When an entry's time is over, in the clock's seconds, and what `_TRUNCATED` and `_LEARNT` say of it.
_HEAD = struct.Struct("<dB")
_TRUNCATED, _LEARNT = 1, 2
# Before the scores, where they hold a learnt need.
_NEED = struct.Struct("<f")


class L1:
    """Scores by key, at most `size_max` of them, none past its time.

    now  a clock in seconds that never goes back
    """

    def __init__(self, *, size_max: int, ttl_s: float, now: Callable[[], float]) -> None:
        self.size_max = size_max
        self._ttl_s = ttl_s
        self._now = now
        self._entries: OrderedDict[bytes, bytes] = OrderedDict()  # least recently used first

    def get(self, key: bytes) -> Scores | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        over, about = _HEAD.unpack_from(entry)
        if self._now() >= over:
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        truncated = bool(about & _TRUNCATED)
        if about & _LEARNT:
            (need,) = _NEED.unpack_from(entry, _HEAD.size)
            return Scores(entry[_HEAD.size + _NEED.size :], truncated, need)
        return Scores(entry[_HEAD.size :], truncated)

    def put(self, key: bytes, scores: Scores, *, lasts_s: float | None = None) -> None:
        """Keep `scores` for `lasts_s` seconds, never longer than the TTL."""
        if not self.size_max:
            return
        now = self._now()
        over = now + (self._ttl_s if lasts_s is None else min(lasts_s, self._ttl_s))
        if scores.learnt is None:
            self._entries[key] = _HEAD.pack(over, scores.truncated) + scores.packed
        else:
            head = _HEAD.pack(over, scores.truncated | _LEARNT) + _NEED.pack(scores.learnt)
            self._entries[key] = head + scores.packed
        self._entries.move_to_end(key)
        if len(self._entries) > self.size_max:
            self._entries.popitem(last=False)
        self._forget(now, at_most=2)  # twice as fast as entries come, at a cost that is bounded

    def __len__(self) -> int:
        """Entries held. One whose time is over may count until those used before it have gone."""
        self._forget(self._now(), at_most=len(self._entries))
        return len(self._entries)

    def statistics(self) -> L1Statistics:
        return L1Statistics(size=len(self), size_max=self.size_max)

    def _forget(self, now: float, *, at_most: int) -> None:
        """Drop the least recently used entries whose time is over."""
        for _ in range(at_most):
            oldest = next(iter(self._entries.values()), None)
            if oldest is None or _HEAD.unpack_from(oldest)[0] > now:
                return
            self._entries.popitem(last=False)
