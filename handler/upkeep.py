"""`query-gateway cache`: what stands in Redis, and how to remove it without FLUSHALL."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from handler.entries import pattern
from handler.l2 import LinkError
from handler.redis_link import STEP, RedisLink, open_link
from handler.redis_url import read
from handler.settings import Settings

T = TypeVar("T")


class UpkeepError(Exception):
    """Redis could not be asked; the message says which and why."""


class Stats(msgspec.Struct, frozen=True):
    """What Redis holds.

    entries      of ours, by model version, most first
    keys         in the database, all applications' together
    memory_bytes used by the server; `memory_max_bytes` 0 means no bound
    evicted      keys that the bound has cost since the server started
    None stands for what the server, or a proxy before it, does not tell.
    """

    entries: dict[str, int]
    keys: int | None
    memory_bytes: int | None
    memory_max_bytes: int | None
    evicted: int | None


def stats(settings: Settings) -> Stats:
    """Count what stands in Redis, by scanning it once. Raises `UpkeepError`."""

    async def count(link: RedisLink) -> Stats:
        entries = Counter(
            [key.split(b":")[2].decode(errors="replace") async for key in link.keys(pattern(None))]
        )
        facts = await link.facts()
        return Stats(
            entries=dict(entries.most_common()),
            keys=await link.size(),
            memory_bytes=facts.get("used_memory"),
            memory_max_bytes=facts.get("maxmemory"),
            evicted=facts.get("evicted_keys"),
        )

    return _with_link(settings, count)


def flush(settings: Settings, version: str | None, *, dry_run: bool) -> int:
    """Remove entries of one model, or with None of all. Returns how many. Raises `UpkeepError`."""

    async def remove(link: RedisLink) -> int:
        if dry_run:
            return len({key async for key in link.keys(pattern(version))})
        removed = 0
        batch: list[bytes] = []
        async for key in link.keys(pattern(version)):
            batch.append(key)
            if len(batch) == STEP:
                removed += await link.remove(batch)
                batch = []
        return removed + (await link.remove(batch) if batch else 0)

    return _with_link(settings, remove)


def _with_link(settings: Settings, job: Callable[[RedisLink], Awaitable[T]]) -> T:
    endpoint = read(settings.redis_url)

    async def work() -> T:
        link = open_link(
            endpoint,
            ca_file=settings.redis_ca_file,
            cert_file=settings.redis_cert_file,
            key_file=settings.redis_key_file,
        )
        try:
            await link.greet()
            return await job(link)
        finally:
            await link.close()

    try:
        return asyncio.run(work())
    except ValueError as exc:
        raise UpkeepError(f"REDIS_URL, REDIS_*_FILE: {exc}") from None
    except LinkError as exc:
        raise UpkeepError(f"{endpoint.shown}: {exc}") from None
