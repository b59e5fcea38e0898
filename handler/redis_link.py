"""Redis as a `Link`: with `redis_cluster`, all that knows redis-py, imported only with REDIS_URL.

redis-py connects, speaks the protocol and finds a Sentinel's master; it is told
never to retry, because a `Shard` has breakers and its callers have no time.
"""

import os
import ssl
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import suppress
from typing import Any, cast

from redis.asyncio import Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,
    TryAgainError,
)

from handler.entries import PROBE
from handler.redis_url import Endpoint
from handler.shard import Elsewhere, LinkError
from handler.statistics import L2Failure

# Connections: one for look-ups, one for writes, one for probes, one to spare.
CONNECTIONS_MAX = 4
# When a connection is given up. No query waits for that: `L2` lets its callers go
# long before. Short enough to notice within a second or two that a host is gone.
LOST_AFTER_S = 1.0
# Keys per SCAN step: well under a millisecond of Redis's time.
STEP = 500

NOT_A_CACHE = {
    "cluster": "REDIS_URL leads to a Redis Cluster; write it as redis+cluster://host:port",
    "sentinel": "REDIS_URL leads to a Sentinel, not to a Redis; write it as redis+sentinel://host:port/service",
}


class RedisLink:
    """One Redis, however it is reached."""

    def __init__(self, redis: Redis, sentinel: Sentinel | None = None) -> None:
        self.redis = redis
        self.sentinel = sentinel

    @property
    def probe(self) -> bytes:
        return PROBE

    async def greet(self) -> None:
        """Connect, and see whether it is a Redis to keep entries in; commands that it lacks prove nothing."""
        try:
            with suppress(ResponseError):
                await self.redis.ping()
            mode = await self._mode()
        except (RedisError, OSError) as exc:
            raise explained(exc) from exc
        if mode in NOT_A_CACHE:
            raise LinkError("cluster" if mode == "cluster" else "other", NOT_A_CACHE[mode])

    async def get_many(
        self, keys: Sequence[bytes], asking: Collection[bytes] = ()
    ) -> Sequence[bytes | Elsewhere | None]:
        try:
            values = await self.redis.mget(keys)
        except (RedisError, OSError) as exc:
            raise explained(exc) from exc
        if len(values) != len(keys):
            raise LinkError("other", f"{len(values)} values came for {len(keys)} keys")
        return cast("list[bytes | None]", values)

    async def set_many(
        self, entries: Sequence[tuple[bytes, bytes]], ttl_s: float, asking: Collection[bytes] = ()
    ) -> Sequence[LinkError | Elsewhere | None]:
        try:
            async with self.redis.pipeline(transaction=False) as pipeline:
                for key, value in entries:
                    pipeline.set(key, value, px=max(1, int(ttl_s * 1000)))
                replies = await pipeline.execute(raise_on_error=False)
        except (RedisError, OSError) as exc:
            raise explained(exc) from exc
        return [explained(reply) if isinstance(reply, Exception) else None for reply in replies]

    async def size(self) -> int | None:
        try:
            return int(await self.redis.dbsize())
        except ResponseError:
            return None  # a user who may not ask, or a server or proxy without the command
        except (RedisError, OSError) as exc:
            raise explained(exc) from exc

    async def keys(self, pattern: str) -> AsyncIterator[bytes]:
        """Keys that match, in SCAN's small steps; it may show one twice, and misses none that stays."""
        try:
            async for key in self.redis.scan_iter(match=pattern, count=STEP):
                yield key
        except (RedisError, OSError) as exc:
            raise explained(exc) from exc

    async def remove(self, keys: Sequence[bytes]) -> int:
        """Remove keys; how many there were. UNLINK frees their memory aside, so nobody waits for it."""
        try:
            try:
                return int(await self.redis.unlink(*keys))
            except NoPermissionError:
                raise
            except ResponseError:
                return int(await self.redis.delete(*keys))  # a server or proxy that lacks UNLINK
        except (RedisError, OSError) as exc:
            raise explained(exc) from exc

    async def facts(self) -> dict[str, Any]:
        """What INFO tells of the server."""
        try:
            return await self.redis.info()
        except (RedisError, OSError) as exc:
            raise explained(exc) from exc

    async def close(self) -> None:
        await self.redis.aclose()
        if self.sentinel:
            await self.sentinel.aclose()

    async def _mode(self) -> str:
        """What the server says it is: standalone, cluster or sentinel; empty when it does not say."""
        try:
            hello = await self.redis.execute_command("HELLO")  # type: ignore[no-untyped-call]
        except ResponseError:
            return ""  # older than Redis 6, or a user who may not ask
        facts: dict[bytes, Any] = (
            hello if isinstance(hello, dict) else dict(zip(hello[::2], hello[1::2], strict=False))
        )
        return str(facts.get(b"mode", b""), "ascii")


def open_link(endpoint: Endpoint, *, ca_file: str = "", cert_file: str = "", key_file: str = "") -> RedisLink:
    """Prepare to speak to Redis; nothing is sent yet.

    Raises `ValueError` when the URL's options or the files cannot be used.
    """
    options = ours(endpoint, ca_file=ca_file, cert_file=cert_file, key_file=key_file)
    try:
        if endpoint.service:
            return _through_sentinel(endpoint, options)
        redis = Redis.from_url(endpoint.url, **{**options, **asked(endpoint)})
        refuse_what_cannot_be_used(redis, endpoint)
    except (TypeError, ValueError, OSError, RedisError) as exc:
        raise ValueError(str(exc)) from None
    return RedisLink(redis)


def ours(endpoint: Endpoint, *, ca_file: str, cert_file: str, key_file: str) -> dict[str, Any]:
    """How the gateway speaks to any Redis, as redis-py's options; the URL's own may come after them."""
    options: dict[str, Any] = {
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": LOST_AFTER_S,
        "socket_connect_timeout": LOST_AFTER_S,
        "protocol": 2,  # one round trip less to connect, and nothing here needs 3
        "driver_info": None,
        "max_connections": CONNECTIONS_MAX,
    }
    if endpoint.tls:
        files = {"ssl_ca_certs": ca_file, "ssl_certfile": cert_file, "ssl_keyfile": key_file}
        options |= {name: path for name, path in files.items() if path}
    return options


def asked(endpoint: Endpoint) -> dict[str, Any]:
    """The URL's options as redis-py wants them. Times are cut to ours, which the end of the process waits for."""
    given: dict[str, Any] = {**parse_url(f"redis://?{endpoint.options}")}
    for name in ("socket_timeout", "socket_connect_timeout"):
        if name in given:
            given[name] = min(given[name], LOST_AFTER_S)
    return given


def _through_sentinel(endpoint: Endpoint, options: dict[str, Any]) -> RedisLink:
    """Ask Sentinels for the master. What the URL says wins over ours, as it does without Sentinels."""
    given = asked(endpoint)
    own = {name: given.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    both = {
        **options,
        **({"ssl": True} if endpoint.tls else {}),
        **{name: value for name, value in given.items() if name.startswith(("socket_", "ssl_"))},
    }
    sentinel = Sentinel(endpoint.nodes, sentinel_kwargs={**both, **own}, **both)  # type: ignore[no-untyped-call]
    for_redis = {
        "db": endpoint.db,
        "username": endpoint.username,
        "password": endpoint.password,
        **given,
    }
    redis: Redis = sentinel.master_for(endpoint.service, **for_redis)
    for client in (redis, *sentinel.sentinels):
        refuse_what_cannot_be_used(client, endpoint)
    return RedisLink(redis, sentinel)


def refuse_what_cannot_be_used(client: Redis, endpoint: Endpoint) -> None:
    """Make a connection and throw it away: it refuses options that it does not know, and files that it cannot read."""
    connection = client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
    if endpoint.tls:
        connection.ssl_context.get()


def explained(exc: Exception) -> LinkError:
    """Sort an error of redis-py into our closed set of kinds."""
    cause = exc.__cause__ or exc.__context__
    number = cause.errno if isinstance(cause, OSError) and not isinstance(cause, ssl.SSLError) else None
    if number is not None and number > 0:
        return LinkError(kind_of(exc), os.strerror(number))  # redis-py's own words depend on the event loop
    return LinkError(kind_of(exc), str(exc)[:200])


def kind_of(exc: BaseException) -> L2Failure:
    for kind, types in KINDS:
        if isinstance(exc, types):
            return kind
    if "max number of clients" in str(exc):
        return "clients"
    if isinstance(exc, ConnectionError):
        # redis-py wraps what the socket raised; a bad certificate hides in there.
        cause = exc.__cause__ or exc.__context__
        return "tls" if isinstance(cause, ssl.SSLError) else "connection"
    return "other"


KINDS: tuple[tuple[L2Failure, tuple[type[BaseException], ...]], ...] = (
    ("timeout", (TimeoutError,)),
    ("auth", (AuthenticationError, AuthorizationError, NoPermissionError)),
    ("loading", (BusyLoadingError,)),
    ("readonly", (ReadOnlyError,)),
    ("memory", (OutOfMemoryError,)),
    ("cluster", (MovedError, ClusterDownError, TryAgainError)),
)
