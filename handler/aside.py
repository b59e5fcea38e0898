"""Calls that may never return, made so that nobody waits for them for ever.

A name server that is silent or a volume that hangs holds the thread that asks it, and
nothing frees that thread. So each such call has a thread of its own, whoever asked
waits for a bounded time, and the end of the process waits for none of them.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


class TookTooLong(TimeoutError):
    """The call has not returned in time. Its thread still waits."""


def start(call: Callable[[], T], name: str) -> "Future[T]":
    """Make a call on a thread of its own, which ends with the process at the latest."""
    result: Future[T] = Future()
    # Who waits may stop waiting, but the call goes on and must find a place for its result.
    result.set_running_or_notify_cancel()

    def work() -> None:
        try:
            result.set_result(call())
        except BaseException as exc:
            result.set_exception(exc)

    threading.Thread(target=work, name=name, daemon=True).start()
    return result


def within(call: Callable[[], T], within_s: float, name: str = "aside") -> T:
    """What a call returns or raises. Raises `TookTooLong` after `within_s` seconds. Blocks so long."""
    result = start(call, name)
    try:
        return result.result(within_s)
    except TimeoutError:
        if result.done():
            raise  # the call's own
        raise TookTooLong(f"no answer within {within_s:g} s") from None


class OneAtATime:
    """Calls of one kind from the event loop: while one hangs, no other is begun."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._hanging: Future[object] | None = None

    async def call(self, call: Callable[[], T], within_s: float) -> T:
        """As `within`, for the event loop. Raises `TookTooLong` at once while an earlier call hangs."""
        if self._hanging is not None and not self._hanging.done():
            raise TookTooLong("an earlier call has not returned")
        result = start(call, self._name)
        self._hanging = None
        answered = asyncio.wrap_future(result)
        done, _ = await asyncio.wait({answered}, timeout=within_s)
        if not done:
            self._hanging = result  # type: ignore[assignment]
            answered.add_done_callback(_look_away)
            raise TookTooLong(f"no answer within {within_s:g} s")
        return answered.result()


def _look_away(late: "asyncio.Future[T]") -> None:
    """Nobody waits for it any longer; a late error is not to be reported as forgotten."""
    if not late.cancelled():
        late.exception()
