"""The shared level of the cache: Redis, as long as it answers, and nothing the moment it does not.

A query may lose its budget to it, and never more: not an answer, not a
connection, not a wait for one. `L2.get` and `L2.put` are what the gateway calls.
Which server has a key, `Servers` says: there is one, or those of a cluster, which
come and go. How one is spoken to is told in `shard.py`.

Knows nothing of redis-py: `redis_link.py` and `redis_cluster.py` do.
"""

import asyncio
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Protocol, get_args

from handler.breaker import Breaker
from handler.entries import ForeignValue, Found, read
from handler.log import Log
from handler.policy import Scores
from handler.shard import Counts, Elsewhere, Link, LinkError, LookUp, Shard, Write, end
from handler.statistics import L2Drop, L2Failure, L2Operation, L2Reject, L2Statistics

# Who has which keys is asked anew at least so often, and when in doubt at most so often.
LOOK_EVERY_S = 60.0
LOOK_PAUSE_S = 0.25
# A server that has no keys any more, or none yet, is used for so long after the last query was sent there.
SPARE_S = 3.0


class Servers(Protocol):
    """The servers behind one `REDIS_URL`, and which of them has a key.

    holders  addresses of those that have keys
    trouble  what is wrong with the sharing itself, for people; None when all keys have a server
    """

    @property
    def holders(self) -> Collection[str]: ...

    @property
    def trouble(self) -> str | None: ...

    def holder(self, key: bytes) -> str | None:
        """The address of the server that has a key, or would; None when there is none."""

    def link(self, address: str) -> Link:
        """Prepare to speak to a server; the caller closes it."""

    async def look(self) -> None:
        """Ask who has which keys. Raises `LinkError` when nobody says."""


class OneServer:
    """The only server has every key."""

    trouble = None

    def __init__(self, link: Link, address: str) -> None:
        self.holders = (address,)
        self._link = link

    def holder(self, key: bytes) -> str | None:
        return self.holders[0]

    def link(self, address: str) -> Link:
        return self._link

    async def look(self) -> None: ...


class L2:
    """Scores by key, shared by all gateways of one Redis. `run` must be kept running by the owner."""

    def __init__(
        self,
        servers: Servers,
        *,
        address: str,
        timeout_s: float,
        ttl_s: float,
        log: Log,
        operation: Callable[[L2Operation, float], None] = lambda operation, took_s: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        address    where Redis is, for people
        timeout_s  the most that a look-up may cost a query
        ttl_s      life of an entry
        operation  told of every round trip that was answered: which, and its seconds
        now        seconds since 1970, as the other gateways on this Redis count them
        """
        self.address = address
        self.timeout_s = timeout_s
        self._servers = servers
        self._ttl_s = ttl_s
        self._log = log
        self._now = now
        self._counts = Counts(operation)
        self._shards: dict[str, Shard] = {}
        self._runs: dict[asyncio.Task[None], Shard] = {}
        # Set when there is a server to start, or one has ended by itself.
        self._changed = asyncio.Event()
        self._doubted = asyncio.Event()
        # The asking who has which keys: how long it rests after a failure, why it failed, what the log has said.
        self._looks = Breaker(closed=False)
        self._lost: str | None = None
        self._logged: set[L2Failure] = set()
        self._ending = False

    @property
    def healthy(self) -> bool:
        """Whether look-ups and writes work on every server."""
        return self.trouble is None

    @property
    def trouble(self) -> str | None:
        """Why not every query is served, for people."""
        holders = self._holders()
        if not holders:
            return self._lost or "not connected yet"
        down = [shard for shard in holders if shard.trouble]
        if not down:
            return self._servers.trouble
        if len(holders) == 1:
            return down[0].trouble
        return f"{len(down)} of {len(holders)} shards: {down[0].address}: {down[0].trouble}"

    @property
    def unwritten(self) -> int:
        """Writes that wait."""
        return sum(shard.unwritten for shard in self._shards.values())

    def statistics(self) -> L2Statistics:
        shards = tuple(shard.statistics() for shard in self._holders())
        sizes = [shard.size for shard in shards if shard.size is not None]
        return L2Statistics(
            address=self.address,
            trouble=self.trouble,
            size=sum(sizes) if sizes and len(sizes) == len(shards) else None,
            shards=shards,
            open={
                # Without a server nothing is asked either.
                "reads": sum(shard.open["reads"] for shard in shards) if shards else 1,
                "writes": sum(shard.open["writes"] for shard in shards) if shards else 1,
            },
            errors={kind: self._counts.errors[kind] for kind in get_args(L2Failure)},
            rejected={reason: self._counts.rejected[reason] for reason in get_args(L2Reject)},
            dropped={reason: self._counts.dropped[reason] for reason in get_args(L2Drop)},
            mean_ms={operation: self._counts.mean_ms(operation) for operation in get_args(L2Operation)},
        )

    async def get(self, key: bytes, tasks: int) -> Found | None:
        """Look an entry up, together with whoever else asks its server now.

        tasks  how many probabilities the model gives

        Costs nothing while that server is not answering, and `timeout_s` at most otherwise.
        """
        shard = self._shard_of(key)
        value = await shard.look_up(key) if shard else None
        if value is None:
            return None
        try:
            return read(key, value, tasks, now=self._now)
        except ForeignValue as foreign:
            self._counts.rejected[foreign.reason] += 1
        except Exception:  # whatever came, a query is worth more than an entry
            self._counts.rejected["corrupt"] += 1
        return None  # the model's answer will overwrite it

    def put(self, key: bytes, scores: Scores) -> None:
        """Remember to write an entry. Never waits; drops and counts what there is no room or use for."""
        if shard := self._shard_of(key):
            shard.put(Write(key, scores))
        else:
            self._counts.dropped["unavailable"] += 1

    async def run(self) -> None:
        """Look up, write and probe until cancelled; then write what is left and hang up."""
        looks = asyncio.create_task(self._look_rounds())
        changed: asyncio.Task[bool] | None = None
        try:
            while True:
                changed = asyncio.create_task(self._changed.wait())
                await asyncio.wait({looks, changed, *self._runs}, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                self._changed.clear()
                for task in [task for task in self._runs if task.done()]:
                    shard = self._runs.pop(task)
                    if not task.cancelled():
                        task.result()  # a bug of ours; the owner ends the process
                    if self._shards.get(shard.address) is shard:
                        del self._shards[shard.address]
                    self.doubt()  # it may have been given keys meanwhile
                if looks.done():
                    looks.result()
        finally:
            self._ending = True
            if changed:
                changed.cancel()
            await end([looks])
            # Once: each hangs up in its own time, which is bounded.
            for task in self._runs:
                task.cancel()
            if self._runs:
                await asyncio.wait(self._runs)

    # What the servers ask of whoever has them all.

    def sent_on(self, look_up: LookUp, to: Elsewhere) -> None:
        """Ask the server that a look-up was sent to, in what is left of its budget."""
        if not to.asking:
            self.doubt()
        if look_up.value.done():
            return
        if shard := self._at(to.address):
            shard.take_over(look_up, asking=to.asking)
        else:
            look_up.settle(None)

    def write_sent_on(self, write: Write, to: Elsewhere) -> None:
        """Write to the server that a write was sent to."""
        if not to.asking:
            self.doubt()
        if shard := self._at(to.address):
            shard.put(Write(write.key, write.scores, to.asking, write.hops + 1))
        else:
            self._counts.dropped["unavailable"] += 1

    def doubt(self) -> None:
        """What is known of who has which keys may be out of date."""
        self._doubted.set()

    # Which servers there are.

    def _holders(self) -> list[Shard]:
        return [shard for address in self._servers.holders if (shard := self._shards.get(address))]

    def _shard_of(self, key: bytes) -> Shard | None:
        address = self._servers.holder(key)
        return None if address is None else self._shards.get(address)

    def _at(self, address: str) -> Shard | None:
        """The server there, which begins to be used if it is new; None where it is new at the end."""
        if (shard := self._shards.get(address)) or self._ending:
            return shard
        shard = self._shards[address] = Shard(
            self._servers.link(address),
            address=address,
            timeout_s=self.timeout_s,
            ttl_s=self._ttl_s,
            log=self._log,
            counts=self._counts,
            owner=self,
            now=self._now,
        )
        self._runs[asyncio.create_task(shard.run())] = shard
        self._changed.set()
        return shard

    async def _look_rounds(self) -> None:
        """Keep up with who has which keys."""
        loop = asyncio.get_running_loop()
        while True:
            self._doubted.clear()
            before = set(self._servers.holders)
            try:
                await self._servers.look()
            except Exception as exc:
                self._look_failed(exc)
                await asyncio.sleep(max(LOOK_PAUSE_S, self._looks.rests_until - loop.time()))
                continue
            self._looks.succeeded()
            self._lost = None
            self._logged.clear()
            self._settle(before)
            await asyncio.sleep(LOOK_PAUSE_S)
            spare = len(self._shards) > len(self._servers.holders)
            with suppress(TimeoutError):
                async with asyncio.timeout(SPARE_S if spare else LOOK_EVERY_S):
                    await self._doubted.wait()

    def _look_failed(self, exc: Exception) -> None:
        kind: L2Failure = exc.kind if isinstance(exc, LinkError) else "other"
        self._counts.errors[kind] += 1
        self._looks.failed(asyncio.get_running_loop().time())
        self._lost = f"shards: {exc}" if isinstance(exc, LinkError) else f"shards: {type(exc).__name__}"
        if kind in self._logged:
            return
        self._logged.add(kind)
        # Servers that are known go on being used, and say themselves when they are lost.
        say = self._log.warning if self._servers.holders else self._log.error
        say(
            "l2_shards" if self._servers.holders else "l2_down",
            error_type="RedisConnectionFailure",
            error=None if isinstance(exc, LinkError) else exc,
            kind=kind,
            address=self.address,
            message=self._lost,
        )

    def _settle(self, before: Collection[str]) -> None:
        """Use the servers that there are now, and no others."""
        now = asyncio.get_running_loop().time()
        holders = set(self._servers.holders)
        for address in holders:
            self._at(address)
        for task, shard in self._runs.items():
            if shard.address not in holders and not shard.ending and now - shard.used_at > SPARE_S:
                task.cancel()
        if len(holders) > 1 and holders != set(before):
            added, gone = sorted(holders - set(before)), sorted(set(before) - holders)
            self._log.info("l2_shards", address=self.address, shards=len(holders), added=added, gone=gone)
