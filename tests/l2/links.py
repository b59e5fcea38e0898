"""A Link that keeps entries in a dict and fails on command: the fake edge of `L2`."""

import asyncio
from collections.abc import Collection, Sequence

from handler.entries import PROBE
from handler.shard import Elsewhere, LinkError


class FakeLink:
    """As a healthy Redis would answer, until told otherwise.

    trips   every round trip's operation and keys, in order
    hold    when set, look-ups wait for it
    reads_fail, writes_fail, refuse   what to raise, or to refuse each entry with
    """

    probe = PROBE

    def __init__(self) -> None:
        self.entries: dict[bytes, bytes] = {}
        self.trips: list[tuple[str, list[bytes]]] = []
        self.hold: asyncio.Event | None = None
        self.reads_fail: LinkError | None = None
        self.writes_fail: LinkError | None = None
        self.refuse: LinkError | None = None
        self.closed = False

    async def greet(self) -> None:
        if self.reads_fail:
            raise self.reads_fail

    async def get_many(
        self, keys: Sequence[bytes], asking: Collection[bytes] = ()
    ) -> Sequence[bytes | Elsewhere | None]:
        self.trips.append(("get", list(keys)))
        await asyncio.sleep(0)
        if self.hold:
            await self.hold.wait()
        if self.reads_fail:
            raise self.reads_fail
        return [self.entries.get(key) for key in keys]

    async def set_many(
        self, entries: Sequence[tuple[bytes, bytes]], ttl_s: float, asking: Collection[bytes] = ()
    ) -> Sequence[LinkError | Elsewhere | None]:
        self.trips.append(("set", [key for key, _ in entries]))
        await asyncio.sleep(0)
        if self.writes_fail:
            raise self.writes_fail
        if not self.refuse:
            self.entries.update(entries)
        return [self.refuse] * len(entries)

    async def size(self) -> int | None:
        return len(self.entries)

    async def close(self) -> None:
        self.closed = True
