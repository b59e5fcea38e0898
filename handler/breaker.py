"""When to stop asking somebody who does not answer, and when to try again.

Plain logic: every method is told the time. Knows nothing of Redis.
"""

from collections import deque


class Breaker:
    """Closed: ask. Open: do not, until a rest is over; then one probe decides.

    failures_max  failures within `window_s` seconds that open it. A window, not a
                  row: a server that answers two of three in time is still a slow one
    rest_s        first rest, in seconds; each failed probe doubles it, up to
                  `rest_max_s`, which is also how late a recovery may be noticed
    """

    def __init__(
        self,
        *,
        failures_max: int = 3,
        window_s: float = 10.0,
        rest_s: float = 0.25,
        rest_max_s: float = 2.0,
        closed: bool = True,
    ) -> None:
        self.closed = closed
        self.rests_until = 0.0
        self._window_s = window_s
        self._rest_first_s = rest_s
        self._rest_s = rest_s
        self._rest_max_s = rest_max_s
        self._failures: deque[float] = deque(maxlen=failures_max)

    def failed(self, now: float) -> None:
        """Note a failure. While open only a probe's counts: what was under way before is old news."""
        if not self.closed:
            if now >= self.rests_until:
                self._rest(now)
            return
        self._failures.append(now)
        full = len(self._failures) == self._failures.maxlen
        if full and now - self._failures[0] <= self._window_s:
            self.closed = False
            self._rest_s = self._rest_first_s
            self._rest(now)

    def succeeded(self) -> None:
        """Note a success; while open, the probe's, which closes it."""
        if not self.closed:
            self.closed = True
            self._failures.clear()
            self._rest_s = self._rest_first_s

    def due(self, now: float) -> bool:
        """Whether it is open, and time for a probe."""
        return not self.closed and now >= self.rests_until

    def _rest(self, now: float) -> None:
        self.rests_until = now + self._rest_s
        self._rest_s = min(2 * self._rest_s, self._rest_max_s)
