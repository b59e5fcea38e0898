"""One shared run for all who ask the same thing at the same time.

`Flights.join` starts a run or joins the one under way, and waits for it: until it
ends, until the caller's own deadline, or until the caller hangs up. Known
elsewhere as single flight or request coalescing. Knows nothing of queries,
caches or models.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Generic, Protocol, TypeVar

from handler.errors import CallerGone, DeadlineExceeded

R = TypeVar("R")

# Only a wait longer than this is worth a look at whether the caller is still there: watching
# costs a task each, and a full queue of short queries is worked off sooner.
WATCH_AFTER_S = 0.1


class Work(Protocol):
    """What a run is told of those who wait for it, while it has not begun.

    deadline  loop time, in seconds, after which nobody wants the result
    wanted    whether anybody still waits
    """

    deadline: float
    wanted: bool

    @property
    def dropped(self) -> bool:
        """Whether it was left undone; then nobody may join it any more."""


class Flight(Generic[R]):
    """A run under way, and its waiters."""

    __slots__ = ("run", "waiters", "work")

    def __init__(self, work: Work, run: "asyncio.Future[R]") -> None:
        self.work = work
        self.run = run
        self.waiters: set[Waiter[R]] = set()

    @property
    def may_join(self) -> bool:
        return not (self.run.done() or self.work.dropped)


class Flights(Generic[R]):
    """The runs under way, by key."""

    def __init__(self) -> None:
        self._flights: dict[bytes, Flight[R]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def __contains__(self, key: bytes) -> bool:
        """Whether a run of this key is under way."""
        return key in self._flights

    async def join(
        self,
        key: bytes,
        deadline: float,
        start: Callable[[], tuple[Work, Awaitable[R]]],
        caller_left: Callable[[], Awaitable[None]] | None = None,
    ) -> R:
        """Wait for the run of this key; start it if none is under way.

        deadline     loop time, in seconds
        start        returns the work and what does it: a coroutine, or a future that is under way
        caller_left  returns when the caller has hung up

        Leaving early hurts nobody else: the run goes on for those who stay, and is
        told by `Work.wanted` when nobody does. Raises what `start` or the run raises,
        `DeadlineExceeded` or `CallerGone`.
        """
        flight = self._flights.get(key)
        if flight is None or not flight.may_join:
            flight = self._start(key, *start())
        flight.work.deadline = max(flight.work.deadline, deadline)
        waiter = Waiter(flight, deadline, caller_left)
        try:
            return await waiter.result
        finally:
            waiter.leave()

    def _start(self, key: bytes, work: Work, run: Awaitable[R]) -> Flight[R]:
        flight = Flight(work, asyncio.ensure_future(run))
        self._flights[key] = flight
        flight.run.add_done_callback(partial(self._ended, key, flight))
        return flight

    def _ended(self, key: bytes, flight: Flight[R], run: "asyncio.Future[R]") -> None:
        if self._flights.get(key) is flight:  # else a newer one has taken its place
            del self._flights[key]
        if run.cancelled():
            error: BaseException | None = asyncio.CancelledError()
        else:
            error = run.exception()
        for waiter in flight.waiters:
            if error is not None:
                waiter.fail(error)
            else:
                waiter.succeed(run.result())


class Waiter(Generic[R]):
    """One caller who waits for a run's end, for a deadline, or hangs up."""

    __slots__ = ("_call", "_caller_left", "_deadline", "_flight", "_timer", "_until", "result")

    def __init__(
        self, flight: Flight[R], deadline: float, caller_left: Callable[[], Awaitable[None]] | None
    ) -> None:
        loop = asyncio.get_running_loop()
        self.result: asyncio.Future[R] = loop.create_future()
        self._flight = flight
        self._deadline = deadline
        # The loop's clock, and so its timers, tick in milliseconds.
        self._until = time.perf_counter() + deadline - loop.time()
        self._caller_left = caller_left
        self._call: asyncio.Future[None] | None = None
        look_at = min(deadline, loop.time() + WATCH_AFTER_S) if caller_left else deadline
        self._timer = loop.call_at(look_at, self._look)
        flight.waiters.add(self)
        flight.work.wanted = True

    def leave(self) -> None:
        """Stop waiting. To be called once, whatever became of it."""
        self._flight.waiters.discard(self)
        self._flight.work.wanted = bool(self._flight.waiters)
        self._timer.cancel()
        if self._call is not None:
            self._call.cancel()

    def succeed(self, result: R) -> None:
        if self.result.done():
            return
        if time.perf_counter() >= self._until:
            self.fail(DeadlineExceeded("the query's time ran out before its answer was ready"))
        else:
            self.result.set_result(result)

    def fail(self, error: BaseException) -> None:
        if not self.result.done():
            self.result.set_exception(error)

    def _look(self) -> None:
        """The answer takes its time: see whether its time is over, else whether the caller is there."""
        loop = asyncio.get_running_loop()
        # While the caller is watched, this is the deadline's own timer, which may be a tick early:
        # to watch twice would read the caller's silence as a hang-up.
        if loop.time() >= self._deadline or self._caller_left is None or self._call is not None:
            self.fail(DeadlineExceeded("the query's time ran out before its answer was ready"))
            return
        self._call = asyncio.ensure_future(self._caller_left())
        self._call.add_done_callback(self._caller_is_gone)
        self._timer = loop.call_at(self._deadline, self._look)

    def _caller_is_gone(self, call: "asyncio.Future[None]") -> None:
        if not call.cancelled():
            self.fail(CallerGone("the caller hung up; there is nobody to answer"))
