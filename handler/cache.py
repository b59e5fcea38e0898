"""The in-process level of the cache: bounded, least recently used goes first, and timed.

Knows nothing of queries or of the level behind it.
"""

from collections.abc import Callable

from cachetools import TLRUCache

from handler.decision import Scores


class L1:
    """Scores by key, at most `size_max` of them, none past its time.

    now  a clock in seconds that never goes back
    """

    def __init__(self, *, size_max: int, ttl_s: float, now: Callable[[], float]) -> None:
        self.size_max = size_max
        self._ttl_s = ttl_s
        self._lasts_s = ttl_s  # of the entry being put; read by the ttu call within the same put
        self._entries: TLRUCache[bytes, Scores] = TLRUCache(
            maxsize=size_max, ttu=lambda _key, _scores, at: at + self._lasts_s, timer=now
        )

    def get(self, key: bytes) -> Scores | None:
        return self._entries.get(key)

    def put(self, key: bytes, scores: Scores, *, lasts_s: float | None = None) -> None:
        """Keep `scores` for `lasts_s` seconds, never longer than the TTL."""
        if not self.size_max:
            return
        self._lasts_s = self._ttl_s if lasts_s is None else min(lasts_s, self._ttl_s)
        self._entries[key] = scores

    def __len__(self) -> int:
        return len(self._entries)
