"""When to stop asking somebody who does not answer, and when to try again.

Plain logic: every method is told the time. Knows nothing of Redis.
"""


class Breaker:
    """Closed: ask. Open: do not, until a rest is over; then one probe decides.

    failures_max  failures that open it, when no successes make up for them. Not in
                  a row: who answers one of two is no better than who answers none
    forgiven_by   successes that make up for one failure. Ten: a server that is late
                  once in a thousand is left alone, one that is late once in five not
    rest_s        first rest, in seconds; each failed probe doubles it, up to
                  `rest_max_s`, which is also how late a recovery may be noticed
    """

    def __init__(
        self,
        *,
        failures_max: int = 3,
        forgiven_by: int = 10,
        rest_s: float = 0.25,
        rest_max_s: float = 2.0,
        closed: bool = True,
    ) -> None:
        self.closed = closed
        self.rests_until = 0.0
        self._full = failures_max * forgiven_by
        self._weight = forgiven_by
        self._level = 0
        self._rest_first_s = rest_s
        self._rest_s = rest_s
        self._rest_max_s = rest_max_s

    def failed(self, now: float) -> None:
        """Note a failure. While open only a probe's counts: what was under way before is old news."""
        if not self.closed:
            if now >= self.rests_until:
                self._rest(now)
            return
        self._level += self._weight
        if self._level >= self._full:
            self.closed = False
            self._rest_s = self._rest_first_s
            self._rest(now)

    def succeeded(self) -> None:
        """Note a success; while open, the probe's, which closes it."""
        if self.closed:
            self._level = max(0, self._level - 1)
        else:
            self.closed, self._level = True, 0

    def due(self, now: float) -> bool:
        """Whether it is open, and time for a probe."""
        return not self.closed and now >= self.rests_until

    def _rest(self, now: float) -> None:
        self.rests_until = now + self._rest_s
        self._rest_s = min(2 * self._rest_s, self._rest_max_s)
