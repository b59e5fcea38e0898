"""When a refused caller hears of it: late, so that refusals cannot take the processor.

A caller who asks again at once after a refusal could ask ten thousand times a second,
and what those questions cost is taken from everybody else's answers. So refusals leave
at a bounded rate. Knows nothing of queries.
"""

import asyncio

# Every refusal is so late at least, and so late at most.
HOLD_MIN_S = 0.05
HOLD_MAX_S = 0.95
# Nor is it later than this share of the time that the query had left.
HOLD_SHARE = 0.9


class Refusals:
    """The refused who have not been told yet.

    held_max  so many are held at once; who comes after them is told at once
    per_s     so many are told a second, while `HOLD_MAX_S` allows it
    """

    def __init__(self, *, held_max: int, per_s: float) -> None:
        self.held_max = held_max
        self.per_s = per_s
        self.held = 0
        self._last = 0.0  # when the last one of those held will be told

    def tell_at(self, now: float, deadline: float) -> float:
        """When one who is refused now is to be told, in seconds of the clock that `now` is of."""
        if self.held >= self.held_max:
            return now
        paced = max(now + HOLD_MIN_S, self._last + 1 / self.per_s)
        at = min(paced, now + HOLD_MAX_S)
        self._last = at
        return max(now, min(at, now + HOLD_SHARE * (deadline - now)))

    async def hold(self, left_s: float) -> None:
        """Return when a refusal may be told.

        left_s  seconds that the refused query had left
        """
        now = asyncio.get_running_loop().time()
        hold_s = self.tell_at(now, now + left_s) - now
        if hold_s <= 0:
            return
        self.held += 1
        try:
            await asyncio.sleep(hold_s)
        finally:
            self.held -= 1
