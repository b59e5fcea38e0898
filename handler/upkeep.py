"""`query-gateway cache`: what stands in Redis, and how to remove it without FLUSHALL.

Scans in small steps, as SCAN does, so that a busy Redis goes on serving.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import msgspec
from redis.exceptions import RedisError

from handler.entries import pattern
from handler.l2 import LinkError
from handler.redis_link import RedisLink, open_link
from handler.redis_url import read
from handler.settings import Settings

# Keys per SCAN step and per UNLINK: well under a millisecond of Redis's time.
STEP = 500

T = TypeVar("T")


class UpkeepError(Exception):
    """Redis could not be asked; the message says why."""


class Stats(msgspec.Struct, frozen=True):
    """What Redis holds of ours.

    entries      by model version
    keys         in the database, all applications' together
    memory_bytes used by the server; `memory_max_bytes` 0 means no bound
    """

    entries: dict[str, int]
    keys: int | None
    memory_bytes: int
    memory_max_bytes: int
    evicted: int


def stats(settings: Settings) -> Stats:
    """Count what stands in Redis, by scanning it once. Raises `UpkeepError`."""

    async def ask(link: RedisLink) -> Stats:
        entries = Counter([key.split(b":")[2].decode() async for key in _keys(link, pattern(None))])
        facts = await link.redis.info()
        return Stats(
            entries=dict(entries.most_common()),
            keys=await link.size(),
            memory_bytes=facts["used_memory"],
            memory_max_bytes=facts["maxmemory"],
            evicted=facts["evicted_keys"],
        )

    return asyncio.run(_with_link(settings, ask))


def flush(settings: Settings, version: str | None, *, dry_run: bool) -> int:
    """Remove entries of one model, or with None of all. Returns how many there were. Raises `UpkeepError`."""

    async def remove(link: RedisLink) -> int:
        found = 0
        batch: list[bytes] = []
        async for key in _keys(link, pattern(version)):
            found += 1
            batch.append(key)
            if len(batch) == STEP:
                await _unlink(link, batch, dry_run)
                batch = []
        await _unlink(link, batch, dry_run)
        return found

    return asyncio.run(_with_link(settings, remove))


async def _with_link(settings: Settings, job: Callable[[RedisLink], Awaitable[T]]) -> T:
    endpoint = read(settings.redis_url)
    try:
        link = open_link(
            endpoint,
            ca_file=settings.redis_ca_file,
            cert_file=settings.redis_cert_file,
            key_file=settings.redis_key_file,
        )
    except ValueError as exc:
        raise UpkeepError(f"REDIS_URL, REDIS_*_FILE: {exc}") from None
    try:
        await link.greet()
        return await job(link)
    except (LinkError, RedisError, OSError) as exc:
        raise UpkeepError(f"{endpoint.shown}: {exc}") from None
    finally:
        await link.close()


async def _keys(link: RedisLink, match: str) -> AsyncIterator[bytes]:
    """Each key that matches, once. SCAN may show one twice, and one that comes or goes meanwhile or not."""
    seen: set[bytes] = set()
    async for key in link.redis.scan_iter(match=match, count=STEP):
        if key not in seen:
            seen.add(key)
            yield key


async def _unlink(link: RedisLink, keys: list[bytes], dry_run: bool) -> None:
    if keys and not dry_run:
        await link.redis.unlink(*keys)
