"""Calls that may never return: nobody waits for them longer than was said."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from handler.aside import OneAtATime, TookTooLong, start, within


@pytest.fixture
def hanging() -> Iterator[threading.Event]:
    """What a call waits on that never returns; let go when the test is over."""
    event = threading.Event()
    yield event
    event.set()


def test_a_call_that_returns_gives_its_value() -> None:
    assert within(lambda: 7, 60) == 7


def test_a_call_that_raises_raises_here() -> None:
    with pytest.raises(OSError, match="no such volume"):
        within(lambda: raise_(OSError("no such volume")), 60)


def test_a_calls_own_timeout_is_not_taken_for_ours() -> None:
    with pytest.raises(TimeoutError, match="its own") as raised:
        within(lambda: raise_(TimeoutError("its own")), 60)

    assert raised.type is TimeoutError


def test_a_call_that_hangs_is_left_behind(hanging: threading.Event) -> None:
    with pytest.raises(TookTooLong, match=r"no answer within 0\.01 s"):
        within(hanging.wait, 0.01)


async def test_from_the_event_loop_a_call_gives_its_value() -> None:
    assert await OneAtATime("test").call(lambda: 7, 60) == 7


async def test_from_the_event_loop_a_call_raises_what_it_raises() -> None:
    with pytest.raises(OSError, match="no such volume"):
        await OneAtATime("test").call(lambda: raise_(OSError("no such volume")), 60)


async def test_a_call_that_nobody_waits_for_any_longer_ends_quietly(hanging: threading.Event) -> None:
    result = start(hanging.wait, "left behind")
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "left behind"]

    asyncio.wrap_future(result).cancel()
    await asyncio.sleep(0)
    hanging.set()
    thread.join()

    assert result.result(0) is True


async def test_while_a_call_hangs_no_other_is_begun(hanging: threading.Event) -> None:
    calls = OneAtATime("test")
    begun = []

    with pytest.raises(TookTooLong):
        await calls.call(hanging.wait, 0.01)
    with pytest.raises(TookTooLong, match="an earlier call"):
        await calls.call(lambda: begun.append(1), 60)

    assert begun == []


async def test_when_the_hanging_call_has_returned_the_next_is_made(hanging: threading.Event) -> None:
    calls = OneAtATime("test")
    with pytest.raises(TookTooLong):
        await calls.call(hanging.wait, 0.01)

    hanging.set()

    assert await eventually_called(calls) == 7


async def test_many_at_once_are_one_call_each(hanging: threading.Event) -> None:
    calls = OneAtATime("test")

    assert await asyncio.gather(*(calls.call(lambda: 7, 60) for _ in range(20))) == [7] * 20


async def eventually_called(calls: OneAtATime) -> int:
    for _ in range(1000):
        try:
            return await calls.call(lambda: 7, 60)
        except TookTooLong:
            await asyncio.sleep(0.001)
    raise AssertionError("the earlier call never ended")


def raise_(error: Exception) -> None:
    raise error
