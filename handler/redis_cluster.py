"""A Redis Cluster as `Servers`: which of them has a key, found out by asking them, and a `Link` to each.

redis-py connects, speaks the protocol, computes slots and reads redirections; each
server has a client of its own, so that none waits for another. Its cluster client is
not used: docs/decisions/0014-redis-cluster.md says why, with figures.
"""

import asyncio
import random
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import AskError, MovedError, RedisError, ResponseError

from handler.entries import PROBE
from handler.redis_link import RedisLink, asked, explained, ours, refuse_what_cannot_be_used
from handler.redis_url import Endpoint
from handler.shard import Elsewhere, LinkError

Place = tuple[str, int]  # host and port

# Servers asked at once who has which slots. More than one, since a server that is cut off from the
# others does not know; some only, since each asking is a connection.
ASKED_AT_ONCE = 4
# So long the slower of them are waited for, once one has answered.
PATIENCE_S = 0.25
# Names tried for a key that falls to a server. With 32 servers one in 32 does.
PROBES_MAX = 4096

NO_CLUSTER = "REDIS_URL leads to a Redis that is no cluster; write it as redis://host:port"


class View(msgspec.Struct, frozen=True):
    """Who has which slots, as one server tells it.

    ok      whether it sees the cluster in order: one that is cut off does not
    epoch   of the cluster as it knows it: whoever knows of the latest change has the greatest
    ranges  first and last slot and who has them: the primary, then its replicas
    """

    ok: bool
    epoch: int
    ranges: tuple[tuple[int, int, tuple[Place, ...]], ...]

    @property
    def weight(self) -> tuple[bool, int, int]:
        """The greatest of several views is to be believed."""
        return self.ok, self.epoch, sum(last - first + 1 for first, last, _ in self.ranges)


class Cluster:
    """All servers of a cluster.

    seeds    where to begin, and where to begin again when nobody known answers
    connect  makes a client of one place; nothing is sent yet
    """

    def __init__(self, seeds: Sequence[Place], connect: Callable[[Place], Redis]) -> None:
        self.holders: set[str] = set()
        self.version = 0  # rises whenever a slot goes from one server to another
        self._seeds = tuple(seeds)
        self._connect = connect
        self._by_slot: list[str | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._known: list[Place] = []
        self._leaving: set[asyncio.Task[View]] = set()

    @property
    def trouble(self) -> str | None:
        missing = self._by_slot.count(None)
        return f"{missing} of {REDIS_CLUSTER_HASH_SLOTS} slots have no server" if missing else None

    def holder(self, key: bytes) -> str | None:
        return self._by_slot[key_slot(key)]

    def link(self, address: str) -> "ShardLink":
        host, _, port = address.rpartition(":")
        return ShardLink(self._connect((host.strip("[]"), int(port))), self, address)

    def moved(self, slot: int, address: str) -> None:
        """Note what a server has said of a slot."""
        if self._by_slot[slot] != address:
            self._by_slot[slot] = address
            self.holders.add(address)
            self.version += 1

    async def look(self) -> None:
        some = random.sample(self._known, min(ASKED_AT_ONCE, len(self._known)))
        views, failures = await self._ask(some)
        if not views:
            views, more = await self._ask({*self._seeds, *self._known} - set(some))
            failures += more
        if not views:
            # Whatever an answer says is worth more than that others gave none.
            raise min(failures, key=lambda failure: failure.kind in ("connection", "timeout"))
        self._believe(max(views, key=lambda view: view.weight))

    def _believe(self, view: View) -> None:
        by_slot: list[str | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        for first, last, places in view.ranges:
            by_slot[first : last + 1] = [shown(places[0])] * (last - first + 1)
        if by_slot != self._by_slot:
            self._by_slot = by_slot
            self.version += 1
        self.holders = {shown(places[0]) for _, _, places in view.ranges}
        self._known = sorted({place for _, _, places in view.ranges for place in places})

    async def _ask(self, places: Iterable[Place]) -> tuple[list[View], list[LinkError]]:
        """Ask several at once. The slow ones are waited for as long as nobody has answered, and a little longer."""
        views: list[View] = []
        failures: list[LinkError] = []
        waiting = {asyncio.create_task(self._view(place)) for place in places}
        try:
            while waiting:
                done, waiting = await asyncio.wait(
                    waiting,
                    timeout=PATIENCE_S if views else None,
                    return_when=asyncio.ALL_COMPLETED if views else asyncio.FIRST_COMPLETED,
                )
                for task in done:
                    if isinstance(failure := task.exception(), LinkError):
                        failures.append(failure)
                    else:
                        views.append(task.result())
                if not done:
                    break
        finally:
            for task in waiting:
                task.cancel()
                self._leaving.add(task)
                task.add_done_callback(self._left)
        return views, failures

    def _left(self, task: "asyncio.Task[View]") -> None:
        self._leaving.discard(task)
        if not task.cancelled():
            task.exception()  # nobody else asks for it

    async def _view(self, place: Place) -> View:
        """What one server says. On a connection of its own, which is closed again."""
        client = self._connect(place)
        try:
            async with client.pipeline(transaction=False) as pipeline:
                # Two words each: redis-py would make something else of the answers.
                pipeline.execute_command("CLUSTER", "SLOTS")
                pipeline.execute_command("CLUSTER", "INFO")
                ranges, info = await pipeline.execute(raise_on_error=False)
            if isinstance(ranges, Exception):
                raise ranges
        except (RedisError, OSError) as exc:
            if "cluster support disabled" in str(exc):
                raise LinkError("other", NO_CLUSTER) from exc
            raise explained(exc) from exc
        finally:
            with suppress(Exception):
                await client.aclose()
        # A user who may not see INFO, or a service without it, tells of the slots all the same.
        facts = {} if isinstance(info, Exception) else read_info(info)
        return View(
            ok=facts.get("cluster_state", "ok") == "ok",
            epoch=int(facts.get("cluster_current_epoch", 0)),
            ranges=tuple(
                (int(first), int(last), tuple(read_place(server, asked=place) for server in servers))
                for first, last, *servers in ranges
            ),
        )


class ShardLink(RedisLink):
    """One server of a cluster: each key is a command of its own, since it has a slot of its own."""

    def __init__(self, redis: Redis, cluster: Cluster, address: str) -> None:
        super().__init__(redis)
        self._cluster = cluster
        self._address = address
        self._probe: tuple[int, bytes] = (-1, PROBE)

    @property
    def probe(self) -> bytes:
        if self._probe[0] != self._cluster.version:
            self._probe = (self._cluster.version, self._find_probe())
        return self._probe[1]

    def _find_probe(self) -> bytes:
        if self._cluster.holder(self._probe[1]) == self._address:
            return self._probe[1]
        names = (b"%s%d" % (PROBE, number) for number in range(PROBES_MAX))
        return next((name for name in names if self._cluster.holder(name) == self._address), PROBE)

    async def greet(self) -> None:
        try:
            with suppress(ResponseError):
                await self.redis.ping()
        except (RedisError, OSError) as exc:
            raise explained(exc) from exc

    async def get_many(
        self, keys: Sequence[bytes], asking: Collection[bytes] = ()
    ) -> Sequence[bytes | Elsewhere | None]:
        # MGET of one key, not GET: what is no string is a miss, and no error.
        replies = await self._each([("MGET", key) for key in keys], asking)
        found = []
        for reply in replies:
            if isinstance(reply, Elsewhere):
                found.append(reply)
            elif isinstance(reply, list) and len(reply) == 1:
                found.append(reply[0])
            else:
                raise reply if isinstance(reply, LinkError) else LinkError("other", "not one value for a key")
        return found

    async def set_many(
        self, entries: Sequence[tuple[bytes, bytes]], ttl_s: float, asking: Collection[bytes] = ()
    ) -> Sequence[LinkError | Elsewhere | None]:
        life_ms = max(1, int(ttl_s * 1000))
        replies = await self._each([("SET", key, value, "PX", life_ms) for key, value in entries], asking)
        return [reply if isinstance(reply, LinkError | Elsewhere) else None for reply in replies]

    async def remove(self, keys: Sequence[bytes]) -> int:
        """Remove keys; how many there were. A slot that is on its way here counts as ours."""
        replies = await self._each([("UNLINK", key) for key in keys], keys)
        for reply in replies:
            if isinstance(reply, LinkError):
                raise reply
        return sum(reply for reply in replies if isinstance(reply, int))

    async def _each(
        self, commands: Sequence[tuple[Any, ...]], asking: Collection[bytes]
    ) -> list[Any | Elsewhere | LinkError]:
        """Send commands, each of one key, in one round trip. Raises `LinkError` when it fails as a whole."""
        try:
            async with self.redis.pipeline(transaction=False) as pipeline:
                for command in commands:
                    if command[1] in asking:
                        pipeline.execute_command("ASKING")
                    pipeline.execute_command(*command)
                replies = iter(await pipeline.execute(raise_on_error=False))
        except (RedisError, OSError) as exc:
            raise explained(exc) from exc
        found: list[Any | Elsewhere | LinkError] = []
        for command in commands:
            if command[1] in asking:
                next(replies)
            found.append(self._understood(next(replies)))
        return found

    def _understood(self, reply: Any) -> Any | Elsewhere | LinkError:
        if isinstance(reply, AskError):  # MovedError is one
            # Without a host it is the one that answers.
            address = shown((reply.host or self._address.rpartition(":")[0].strip("[]"), reply.port))
            if isinstance(reply, MovedError):
                self._cluster.moved(reply.slot_id, address)
            return Elsewhere(address, asking=not isinstance(reply, MovedError))
        return explained(reply) if isinstance(reply, Exception) else reply


def open_cluster(
    endpoint: Endpoint, *, ca_file: str = "", cert_file: str = "", key_file: str = ""
) -> Cluster:
    """Prepare to speak to a Redis Cluster; nothing is sent yet.

    Raises `ValueError` when the URL's options or the files cannot be used.
    """
    options = {
        **ours(endpoint, ca_file=ca_file, cert_file=cert_file, key_file=key_file),
        "ssl": endpoint.tls,
        "username": endpoint.username,
        "password": endpoint.password,
    }

    def connect(place: Place) -> Redis:
        return Redis(host=place[0], port=place[1], **options)

    try:
        options |= asked(endpoint)
        refuse_what_cannot_be_used(connect(endpoint.nodes[0]), endpoint)
    except (TypeError, ValueError, OSError, RedisError) as exc:
        raise ValueError(str(exc)) from None
    return Cluster(endpoint.nodes, connect)


def shown(place: Place) -> str:
    """A place as people write it."""
    host, port = place
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def read_place(server: Sequence[Any], *, asked: Place) -> Place:
    """A server of CLUSTER SLOTS. One that does not know its own name is where it was asked."""
    host = bytes(server[0] or b"").decode()
    return (asked[0] if host in ("", "?") else host, int(server[1]))


def read_info(info: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in info.decode().splitlines())
    return {name: value for name, _, value in lines}
