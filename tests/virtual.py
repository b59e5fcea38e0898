"""Time that jumps: an event loop whose clock moves only when nothing is left to do.

A test of an hour's behaviour takes as long as its callbacks, and never waits for
luck. A test that would wait for ever fails at once instead.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Stuck(AssertionError):
    """Nothing is scheduled and nothing is ready: the awaited thing never comes."""


class _Selector(selectors.SelectSelector):
    """Never blocks: where a real loop would sleep, it moves the loop's clock."""

    def __init__(self, loop: "VirtualLoop") -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Stuck("the loop waits for something that nobody will do")
        if timeout > 0:
            self._loop.now += timeout
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.now = 1000.0
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self.now


def run(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, on virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
