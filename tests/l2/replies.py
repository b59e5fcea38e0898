"""What became of queries that a driver asked while Redis was broken."""

import asyncio
import json
import random
import re
import statistics
import time
from collections.abc import Iterator

import msgspec

from lab.drive import request
from lab.launch import Served
from tests.l2.tiny_model import texts

RECOVERY_MAX_S = 15.0


class Reply(msgspec.Struct, frozen=True):
    """One query's fate. `at_s` is when it was due, by `time.perf_counter`; `status` is 0 where it had no answer."""

    text: str
    at_s: float
    status: int = 0
    cache: str = ""
    l2_ms: float = 0.0
    body: bytes = b""


class Replies(list[Reply]):
    """Every query's fate, as a driver keeps it."""

    def keep(self, asked: bytes, answer: bytes, due_s: float, took_s: float) -> None:
        text = json.loads(asked.partition(b"\r\n\r\n")[2])["text"]
        head, _, body = answer.partition(b"\r\n\r\n")
        if not answer:
            self.append(Reply(text, due_s))
            return
        cache = re.search(rb"\r\nx-cache: (\w+)", head)
        l2 = re.search(rb"\bl2;dur=([\d.]+)", head)
        self.append(
            Reply(
                text,
                due_s,
                status=int(head[9:12]),
                cache=cache[1].decode() if cache else "",
                l2_ms=float(l2[1]) if l2 else 0.0,
                body=body,
            )
        )

    def since(self, at_s: float) -> list[Reply]:
        return [reply for reply in self if reply.at_s >= at_s]


def mixed(seed: int, *, hot: int = 100, hot_seed: int | None = None) -> Iterator[bytes]:
    """Four of five queries repeat a small hot set, the fifth is new."""
    known = texts(hot, seed if hot_seed is None else hot_seed)
    dice, new = random.Random(seed), iter(texts(20_000, seed + 1))
    while True:
        yield request(next(new) if dice.random() < 0.2 else dice.choice(known))


async def served(replies: Replies, gateway: Served, *, since: float) -> float:
    """Wait until L2 answers queries asked after `since` and reports itself well; when it did."""
    end = time.perf_counter() + RECOVERY_MAX_S
    while time.perf_counter() < end:
        hits = [reply for reply in replies.since(since) if reply.cache == "l2"]
        if hits and gateway.deep()["checks"]["cache"]["l2_healthy"]:
            return min(reply.at_s for reply in hits)
        await asyncio.sleep(0.05)
    raise AssertionError(
        f"L2 did not serve again within {RECOVERY_MAX_S:g} s: {gateway.deep()['checks']['cache']}"
    )


def differing(replies: list[Reply], uncached: Served, known: dict[str, bytes] | None = None) -> list[Reply]:
    """Answers that are not the uncached gateway's. `known` keeps those for the next time."""
    right = {} if known is None else known
    for text in {reply.text for reply in replies} - right.keys():
        right[text] = uncached.ask(text).content
    return [reply for reply in replies if reply.status == 200 and reply.body != right[reply.text]]


def p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[98] if len(values) > 1 else 0.0
