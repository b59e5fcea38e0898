"""`Flights`: one run for all who ask the same, and waits that end. On virtual time."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from handler.errors import CallerGone, DeadlineExceeded
from handler.flights import WATCH_AFTER_S, Flight, Flights, Waiter
from tests import virtual


class Work:
    """What a run is told of its waiters."""

    def __init__(self) -> None:
        self.deadline = 0.0
        self.wanted = False
        self.dropped = False


def after(s: float) -> float:
    """Loop time so many seconds from now."""
    return asyncio.get_running_loop().time() + s


class Runs:
    """Starts runs that take a second, and counts them."""

    def __init__(self) -> None:
        self.works: list[Work] = []

    def start(self) -> tuple[Work, Coroutine[Any, Any, int]]:
        work = Work()
        self.works.append(work)
        return work, self._run(len(self.works))

    async def _run(self, number: int) -> int:
        await asyncio.sleep(1.0)
        return number


def test_all_who_ask_meanwhile_share_one_run() -> None:
    async def main() -> None:
        flights, runs = Flights[int](), Runs()

        results = await asyncio.gather(*(flights.join(b"key", after(10.0), runs.start) for _ in range(5)))

        assert results == [1] * 5
        assert len(flights) == 0

    virtual.run(main())


def test_other_keys_have_runs_of_their_own() -> None:
    async def main() -> None:
        flights, runs = Flights[int](), Runs()

        results = await asyncio.gather(*(flights.join(key, after(10.0), runs.start) for key in (b"a", b"b")))

        assert sorted(results) == [1, 2]

    virtual.run(main())


def test_whoever_comes_after_the_end_starts_anew() -> None:
    async def main() -> None:
        flights, runs = Flights[int](), Runs()
        await flights.join(b"key", after(10.0), runs.start)

        assert await flights.join(b"key", after(10.0), runs.start) == 2

    virtual.run(main())


def test_a_dropped_run_is_not_joined() -> None:
    async def main() -> None:
        flights, runs = Flights[int](), Runs()
        first = asyncio.create_task(flights.join(b"key", after(10.0), runs.start))
        await asyncio.sleep(0.5)
        runs.works[0].dropped = True

        second = await flights.join(b"key", after(10.0), runs.start)

        assert (await first, second) == (1, 2)
        assert len(flights) == 0

    virtual.run(main())


def test_the_work_knows_the_latest_deadline_of_its_waiters() -> None:
    async def main() -> None:
        flights, runs = Flights[int](), Runs()
        latest = after(9.0)

        await asyncio.gather(*(flights.join(b"key", after(s), runs.start) for s in (3.0, 9.0, 5.0)))

        assert runs.works[0].deadline == latest

    virtual.run(main())


def test_the_work_is_wanted_until_its_last_waiter_has_left() -> None:
    async def main() -> None:
        flights, runs = Flights[int](), Runs()
        waits = [asyncio.create_task(flights.join(b"key", after(10.0), runs.start)) for _ in range(2)]
        await asyncio.sleep(0.1)

        waits[0].cancel()
        await asyncio.sleep(0)
        wanted_by_one = runs.works[0].wanted
        waits[1].cancel()
        await asyncio.sleep(0)

        assert (wanted_by_one, runs.works[0].wanted) == (True, False)

    virtual.run(main())


def test_a_failure_reaches_every_waiter() -> None:
    async def fails() -> int:
        await asyncio.sleep(1.0)
        raise ZeroDivisionError

    async def main() -> None:
        flights = Flights[int]()
        waits = (flights.join(b"key", after(10.0), lambda: (Work(), fails())) for _ in range(3))

        results = await asyncio.gather(*waits, return_exceptions=True)

        assert [type(result) for result in results] == [ZeroDivisionError] * 3

    virtual.run(main())


def test_a_wait_ends_at_its_own_deadline() -> None:
    async def main() -> None:
        flights, runs = Flights[int](), Runs()
        patient = asyncio.create_task(flights.join(b"key", after(10.0), runs.start))
        started = after(0)
        await asyncio.sleep(0)

        with pytest.raises(DeadlineExceeded):
            await flights.join(b"key", after(0.25), runs.start)

        assert after(0) - started == pytest.approx(0.25)
        assert await patient == 1

    virtual.run(main())


def test_a_caller_who_hangs_up_ends_its_own_wait() -> None:
    async def hangs_up() -> None:
        await asyncio.sleep(0.1)

    async def main() -> None:
        flights, runs = Flights[int](), Runs()
        started = after(0)

        with pytest.raises(CallerGone):
            await flights.join(b"key", after(10.0), runs.start, hangs_up)

        assert after(0) - started == pytest.approx(0.1 + WATCH_AFTER_S)

    virtual.run(main())


def test_a_deadlines_timer_that_is_a_tick_early_watches_nobody_twice() -> None:
    watches = 0

    async def caller_left() -> None:
        nonlocal watches
        watches += 1
        await asyncio.Event().wait()

    async def main() -> None:
        run = asyncio.create_task(asyncio.sleep(60.0, 1))
        waiter = Waiter(Flight(Work(), run), asyncio.get_running_loop().time() + 60.0, caller_left)
        waiter._look()
        await asyncio.sleep(0)
        waiter._look()  # a millisecond clock may call it before the deadline that it was set for
        with pytest.raises(DeadlineExceeded):
            await waiter.result
        waiter.leave()
        run.cancel()

    virtual.run(main())
    assert watches == 1
