"""When a refused caller hears of it: late, so that refusals cannot take the processor.

A caller who asks again at once after a refusal could ask ten thousand times a second,
and what those questions cost is taken from everybody else's answers. So refusals leave
at a bounded rate. Knows nothing of queries.
"""

import asyncio
import math
from functools import partial

# Every refusal is so late at least, and so late at most.
HOLD_MIN_S = 0.05
HOLD_MAX_S = 0.95
# Nor is it later than this share of the time that the query had left.
HOLD_SHARE = 0.9
# Refusals are told together at every multiple of this: each time that the event loop wakes beside busy lanes
# costs more than a refusal does, and those who ask again at once wake it together, too.
TOGETHER_S = 0.1


class Refusals:
    """The refused who have not been told yet.

    held_max  so many are held at once; who comes after them is told at once
    per_s     so many are told a second, while `HOLD_MAX_S` allows it
    """

    def __init__(self, *, held_max: int, per_s: float) -> None:
        self.held_max = held_max
        self.per_s = per_s
        self.held = 0
        self._last = 0.0  # when the last one of those held would be told, were they told one by one
        self._groups: dict[float, list[asyncio.Future[None]]] = {}

    def tell_at(self, now: float, deadline: float) -> float:
        """When one who is refused now is to be told, in seconds of the clock that `now` is of."""
        if self.held >= self.held_max:
            return now
        self._last = min(max(now + HOLD_MIN_S, self._last + 1 / self.per_s), now + HOLD_MAX_S)
        at = math.ceil(self._last / TOGETHER_S) * TOGETHER_S
        if at > now + HOLD_MAX_S:
            at -= TOGETHER_S
        return max(now, min(at, now + HOLD_SHARE * (deadline - now)))

    async def hold(self, left_s: float) -> None:
        """Return when a refusal may be told.

        left_s  seconds that the refused query had left
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        at = self.tell_at(now, now + left_s)
        if at <= now:
            return
        if at not in self._groups:
            self._groups[at] = []
            loop.call_at(at, partial(self._tell, at))
        told = loop.create_future()
        self._groups[at].append(told)
        self.held += 1
        try:
            await told
        finally:
            self.held -= 1

    def _tell(self, at: float) -> None:
        for told in self._groups.pop(at):
            if not told.done():
                told.set_result(None)
