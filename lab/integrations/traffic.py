"""What users send through a proxy: 300 chat requests, some of them ill-behaved.

`chats` and `broken` make them, the same ones every time; `send` sends them and says what came of each.
"""

import asyncio
import functools
import gzip
import hashlib
import itertools
import json
import random
import string
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

REQUESTS = 300
CALLERS = 16
PATH = "/v1/chat/completions"
JSON = ("content-type", "application/json")
# What a caller may claim, and what must not come of it. The marker never comes from us.
FORGED = "forged"
CLAIMS = [
    ("x-query-route", "fast"),
    ("X-Query-Route", "slow"),
    ("x-query-label", FORGED),
    ("X-QUERY-TASK", FORGED),
    ("x-query-confidence", FORGED),
    ("x-query-reason", FORGED),
    ("x-query-gateway-key", FORGED),
]

EASY = [
    "Fix the grammar: me and him goes to shop {n} times.",
    "Translate to French: good morning, my {n} friends.",
    "Is the mood of this review good or bad? 'I would buy it {n} times.'",
    "Summarize in one line: The lighthouse was built in 18{n} and still stands on the north shore.",
    "What is {n} plus 12?",
    "Turn into JSON: name Ada, age {n}.",
]
HARD = [
    "Write a story of {n} pages about a lighthouse keeper who forgets the sea.",
    "Prove that there are infinitely many primes of the form 4k+3, then extend it to {n} cases.",
    "Plan a migration of {n} services to another cloud, with risks and a timetable.",
    "Compare the monetary policies of {n} central banks and discuss which failed and why.",
    "Implement a lock-free queue in C++ for {n} threads and argue that it is correct.",
    "Should I accept the settlement of {n} thousand that my landlord offers? Weigh it with care.",
]


@dataclass(frozen=True)
class Chat:
    """One request of a user.

    kind    what is special about it; closed set, see `chats` and `broken`
    stream  the body goes out in chunks, without its length being said first
    """

    kind: str
    body: bytes
    headers: list[tuple[str, str]] = field(default_factory=lambda: [JSON])
    method: str = "POST"
    path: str = PATH
    stream: bool = False


@dataclass(frozen=True)
class Came:
    """What came of it. `status` is 0 where there was no answer; `model` and `digest` as the model says."""

    chat: Chat
    status: int
    model: str = ""
    digest: str = ""
    seconds: float = 0.0
    problem: str = ""

    @property
    def whole(self) -> bool:
        """Whether the model received every byte of the body."""
        return self.digest == hashlib.sha256(self.chat.body).hexdigest()


def _ask(n: int) -> str:
    kind = EASY if n % 2 else HARD
    return kind[(n // 2) % len(kind)].format(n=n)


def _body(messages: Sequence[dict[str, Any]], **more: Any) -> bytes:
    return json.dumps({"model": "auto", "messages": list(messages), **more}).encode()


def _talk(n: int) -> list[dict[str, Any]]:
    """A conversation with tools in it, whose last user turn asks."""
    return [
        {"role": "system", "content": "You are a helpful assistant. Today is a Thursday."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello! How can I help?"},
        {"role": "user", "content": _ask(n + 1)},
        {"role": "assistant", "content": "There you are."},
        {"role": "user", "content": [{"type": "text", "text": _ask(n)}]},
    ]


def _padding(size: int, dice: random.Random) -> str:
    return "".join(dice.choices(string.ascii_lowercase + " ", k=997)) * (size // 997 + 1)


def _long(n: int, size: int, dice: random.Random) -> bytes:
    """A body of at least `size` bytes that ends with an easy ask: cut off, nobody can know that."""
    early = {"role": "user", "content": _padding(size, dice)}
    return _body(
        [early, {"role": "assistant", "content": "Noted."}, {"role": "user", "content": EASY[0].format(n=n)}]
    )


@functools.cache
def chats() -> Sequence[Chat]:
    """300 chat requests as they come to a proxy, in an order that mixes them."""
    dice = random.Random(13)
    made: list[Chat] = []
    number = itertools.count(100)

    def add(count: int, kind: str, **more: Any) -> None:
        made.extend(
            Chat(kind, _body([{"role": "user", "content": _ask(n)}]), **more) for n in _take(number, count)
        )

    add(100, "plain")
    add(40, "forged", headers=[JSON, *CLAIMS])
    # Named so, a header is for one hop alone, and proxies drop it at the next.
    add(
        8,
        "named as hop-by-hop",
        headers=[JSON, ("connection", "keep-alive, x-query-route, x-query-gateway-key")],
    )
    made += [Chat("talk", _body(_talk(n))) for n in _take(number, 40)]
    made += [Chat("streamed answer", _body(_talk(n), stream=True)) for n in _take(number, 20)]
    add(16, "chunked", stream=True)
    add(8, "no content type", headers=[])
    add(8, "user's own key", headers=[JSON, ("authorization", "Bearer sk-user"), ("cookie", "session=1")])
    made += [
        Chat(
            "gzip",
            gzip.compress(_body([{"role": "user", "content": _ask(n)}]), mtime=0),
            [JSON, ("content-encoding", "gzip")],
        )
        for n in _take(number, 8)
    ]
    made += [Chat("middling", _long(n, 30_000, dice)) for n in _take(number, 12)]
    made += [Chat("long", _long(n, 150_000, dice)) for n in _take(number, 16)]
    made += [Chat("long chunked", _long(n, 150_000, dice), stream=True) for n in _take(number, 4)]
    made += [Chat("very long", _long(n, 3_000_000, dice)) for n in _take(number, 4)]
    made += [Chat("no body", b"", [], method="GET", path="/v1/models") for _ in range(12)]
    made += [Chat("not a chat", b"", [("content-length", "0")], method="POST") for _ in range(4)]
    dice.shuffle(made)
    assert len(made) == REQUESTS
    return made


@functools.cache
def broken() -> Sequence[Chat]:
    """300 requests whose bodies no router can read, or should not."""
    dice = random.Random(14)
    whole = _body([{"role": "user", "content": EASY[0].format(n=1)}])
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    kinds: list[tuple[str, bytes, list[tuple[str, str]]]] = [
        ("cut", whole[: len(whole) // 2], [JSON]),
        ("cut in a character", '{"messages":[{"role":"user","content":"é'.encode()[:-1], [JSON]),
        ("not JSON", b"summarize this, please", [JSON]),
        ("other content type", b"a=1&b=2", [("content-type", "application/x-www-form-urlencoded")]),
        ("not UTF-8", b'{"messages":[{"role":"user","content":"\xff\xfe"}]}', [JSON]),
        ("zero bytes", b"\0" * 64, [("content-type", "application/octet-stream")]),
        ("nested", b"[" * 20_000, [JSON]),
        ("number", b"1", [JSON]),
        ("messages is a number", b'{"messages":1}', [JSON]),
        ("no user turn", _body([{"role": "system", "content": "Be brief."}]), [JSON]),
        ("image", _body([{"role": "user", "content": [image]}]), [JSON]),
        ("says gzip", whole, [JSON, ("content-encoding", "gzip")]),
        ("says br", whole, [JSON, ("content-encoding", "br")]),
        ("bomb", gzip.compress(b"0" * 50_000_000), [JSON, ("content-encoding", "gzip")]),
        ("many", json.dumps({"texts": ["hello"] * 2000}).encode(), [JSON]),
    ]
    made = [Chat(kind, body, headers) for kind, body, headers in kinds for _ in range(REQUESTS // len(kinds))]
    dice.shuffle(made)
    assert len(made) == REQUESTS
    return made


def _take(number: "itertools.count[int]", count: int) -> list[int]:
    return list(itertools.islice(number, count))


async def send(url: str, chats: Sequence[Chat], callers: int = CALLERS) -> list[Came]:
    """Send all of them, `callers` at a time, and wait for every answer."""
    waiting = iter(chats)
    limits = httpx.Limits(max_connections=callers, max_keepalive_connections=callers)
    async with httpx.AsyncClient(base_url=url, timeout=30.0, trust_env=False, limits=limits) as client:

        async def caller() -> list[Came]:
            return [await _send(client, chat) for chat in waiting]

        return [one for each in await asyncio.gather(*(caller() for _ in range(callers))) for one in each]


async def _send(client: httpx.AsyncClient, chat: Chat) -> Came:
    content: bytes | AsyncIterator[bytes] = _chunks(chat.body) if chat.stream else chat.body
    headers = [(name.encode(), value.encode()) for name, value in chat.headers]
    began = time.perf_counter()
    try:
        answer = await client.request(chat.method, chat.path, content=content or None, headers=headers)
    except httpx.HTTPError as problem:
        return Came(chat, 0, problem=f"{type(problem).__name__}: {problem}")
    took = time.perf_counter() - began
    said = answer.headers
    return Came(
        chat, answer.status_code, said.get("x-model", ""), said.get("x-received", ""), took, answer.text[:200]
    )


async def _chunks(body: bytes) -> AsyncIterator[bytes]:
    size = max(1, len(body) // 3)
    for start in range(0, len(body), size):
        yield body[start : start + size]
        await asyncio.sleep(0)
