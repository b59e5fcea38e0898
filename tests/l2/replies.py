"""What became of queries that a driver asked while Redis was broken."""

import json
import random
import re
from collections.abc import Iterator

import msgspec

from lab.drive import request
from tests.l2.tiny_model import texts


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


def mixed(seed: int, *, hot: int = 100) -> Iterator[bytes]:
    """Four of five queries repeat a small hot set, the fifth is new."""
    dice, known, new = random.Random(seed), texts(hot, seed), iter(texts(20_000, seed + 1))
    while True:
        yield request(next(new) if dice.random() < 0.2 else dice.choice(known))
