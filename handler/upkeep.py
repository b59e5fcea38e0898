"""`query-gateway cache`: what stands in Redis, and how to remove it without FLUSHALL."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec

from handler.entries import pattern
from handler.redis_cluster import open_cluster
from handler.redis_link import STEP, RedisLink, open_link
from handler.redis_url import read
from handler.settings import Settings
from handler.shard import LinkError

# Over a cluster that is being resharded.
PASSES_MAX = 5

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

    async def count(links: Sequence[RedisLink]) -> Stats:
        entries: Counter[str] = Counter()
        facts = []
        for link in links:
            entries.update(
                [key.split(b":")[2].decode(errors="replace") async for key in link.keys(pattern(None))]
            )
            facts.append(await link.facts())
        sizes = [await link.size() for link in links]
        return Stats(
            entries=dict(entries.most_common()),
            keys=_sum(sizes),
            memory_bytes=_sum([each.get("used_memory") for each in facts]),
            # A server without a bound makes the sum none.
            memory_max_bytes=0
            if any(each.get("maxmemory") == 0 for each in facts)
            else _sum([each.get("maxmemory") for each in facts]),
            evicted=_sum([each.get("evicted_keys") for each in facts]),
        )

    return _with_links(settings, count)


def flush(settings: Settings, version: str | None, *, dry_run: bool) -> int:
    """Remove entries of one model, or with None of all. Returns how many. Raises `UpkeepError`."""

    async def remove(links: Sequence[RedisLink]) -> int:
        if dry_run:
            return sum([len({key async for key in link.keys(pattern(version))}) for link in links])
        removed = 0
        # A cluster may move a key away between its finding and its removal: then it is found again.
        for _ in range(PASSES_MAX if len(links) > 1 else 1):
            found = sum([await _remove_all(link, pattern(version)) for link in links])
            removed += found
            if not found:
                break
        return removed

    return _with_links(settings, remove)


async def _remove_all(link: RedisLink, names: str) -> int:
    removed = 0
    batch: list[bytes] = []
    async for key in link.keys(names):
        batch.append(key)
        if len(batch) == STEP:
            removed += await link.remove(batch)
            batch = []
    return removed + (await link.remove(batch) if batch else 0)


def _sum(numbers: Sequence[int | None]) -> int | None:
    """Of all servers; None when one does not tell."""
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None


def _with_links(settings: Settings, job: Callable[[Sequence[RedisLink]], Awaitable[T]]) -> T:
    """Do a job on every server that has keys."""
    endpoint = read(settings.redis_url)

    async def work() -> T:
        links: list[RedisLink] = []
        try:
            if endpoint.cluster:
                cluster = open_cluster(endpoint, **files(settings))
                await cluster.look()
                links += [cluster.link(address) for address in sorted(cluster.holders)]
            else:
                links.append(open_link(endpoint, **files(settings)))
            for link in links:
                await link.greet()
            return await job(links)
        finally:
            for link in links:
                await link.close()

    try:
        return asyncio.run(work())
    except ValueError as exc:
        raise UpkeepError(f"REDIS_URL, REDIS_*_FILE: {exc}") from None
    except LinkError as exc:
        raise UpkeepError(f"{endpoint.shown}: {exc}") from None


def files(settings: Settings) -> dict[str, str]:
    return {
        "ca_file": settings.redis_ca_file,
        "cert_file": settings.redis_cert_file,
        "key_file": settings.redis_key_file,
    }
