"""Refusals are delayed, so that callers who ask again at once cannot take the processor.

Such a caller could ask ten thousand times a second, and what those questions cost is
taken from everybody else's answers. So refusals leave at a bounded rate. Knows nothing
of queries.
"""

import asyncio
import math
from functools import partial

# Every refusal is delayed by so much at least, and at most.
DELAY_MIN_S = 0.05
DELAY_MAX_S = 0.95
# Nor is it delayed by more than this share of the time that the query had left.
DELAY_SHARE = 0.9
# Refusals are sent in groups, at every multiple of this: each time that the event loop wakes beside busy lanes
# costs more than a refusal does, and those who ask again at once wake it together, too.
GROUP_S = 0.1


class Refusals:
    """The refusals that are not sent yet.

    delayed_max  so many are delayed at a time; the next one is sent at once
    per_s        so many are sent a second, while `DELAY_MAX_S` allows it
    """

    def __init__(self, *, delayed_max: int, per_s: float) -> None:
        self.delayed_max = delayed_max
        self.per_s = per_s
        self.delayed = 0
        self._last = 0.0  # when the last one of them would be sent, were each sent by itself
        self._groups: dict[float, list[asyncio.Future[None]]] = {}

    def due_at(self, now: float, deadline: float) -> float:
        """When a refusal that is made now is to be sent, in seconds of the clock that `now` is of."""
        if self.delayed >= self.delayed_max:
            return now
        self._last = min(max(now + DELAY_MIN_S, self._last + 1 / self.per_s), now + DELAY_MAX_S)
        at = math.ceil(self._last / GROUP_S) * GROUP_S
        if at > now + DELAY_MAX_S:
            at -= GROUP_S
        return max(now, min(at, now + DELAY_SHARE * (deadline - now)))

    async def delay(self, left_s: float) -> None:
        """Return when a refusal is to be sent.

        left_s  seconds that the refused query had left
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        at = self.due_at(now, now + left_s)
        if at <= now:
            return
        if at not in self._groups:
            self._groups[at] = []
            loop.call_at(at, partial(self._send, at))
        due = loop.create_future()
        self._groups[at].append(due)
        self.delayed += 1
        try:
            await due
        finally:
            self.delayed -= 1

    def _send(self, at: float) -> None:
        for due in self._groups.pop(at):
            if not due.done():
                due.set_result(None)
