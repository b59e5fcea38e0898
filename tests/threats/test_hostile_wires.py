"""Hostile bodies on every wire of a real process: bounded, refused in the wire's own form, and never repeated."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from backports import zstd

from lab.launch import CLASSIFY, Served

SECRET = "xyzzy-swordfish"
CHOICE = {"type": "choice", "choices": [{"value": "fast"}, {"value": "slow"}]}
# Every wire's path, and the status of what cannot be read; 200 where a request must not fail.
WIRES = {
    "native": (CLASSIFY, 400),
    "route": ("/v1/route", 200),
    "systemone": ("/v1/systemone", 422),
    "decisions": ("/v1/decisions", 400),
    "predict": ("/predict", 422),
    "huggingface": ("/models/router", 400),
    "classify": ("/classify", 422),
    "v2": ("/v2/models/router/infer", 400),
}
UNREADABLE = {
    "lists without end": b'{"inputs":"%b","text":' % SECRET.encode() + b"[" * 500_000,
    "objects without end": b'{"state":' * 100_000,
    "nesting that closes": b'{"inputs":' + b"[" * 200_000 + b"]" * 200_000 + b',"state":"a","text":"b"}',
    "cut in a string": b'{"messages":[{"role":"user","content":"%b' % SECRET.encode(),
    "cut in a character": b'{"text":"%b \xf0\x9f' % SECRET.encode(),
    "zeros": b"\0" * 1000,
}
PACKED = {"content-encoding": "zstd"}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with Served() as served:
        yield served


def send(served: Served, path: str, body: bytes, **headers: str) -> httpx.Response:
    return served.client.post(path, content=body, headers={"content-type": "application/json", **headers})


@pytest.mark.parametrize("name", WIRES)
@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_cannot_be_read_is_refused_as_the_wire_does_and_not_repeated(
    name: str, kind: str, served: Served
) -> None:
    path, status = WIRES[name]

    answer = send(served, path, UNREADABLE[kind])

    assert answer.status_code == status
    assert SECRET not in answer.text + str(answer.headers)
    assert isinstance(answer.json(), dict)
    assert (name == "route") == (answer.headers.get("x-query-reason") in ("cut_body", "unreadable"))


@pytest.mark.parametrize("name", WIRES)
def test_a_gigabyte_packed_into_little_is_refused_at_the_limit(name: str, served: Served) -> None:
    path, _ = WIRES[name]
    packed = zstd.compress(bytes(1 << 30))
    before = served.memory_mb

    answer = send(served, path, packed, **PACKED)

    assert len(packed) < 1 << 20
    assert answer.status_code == (200 if name == "route" else 413)
    assert served.memory_mb - before < 40
    assert served.status("/health/live") == 200


MANY = [{"role": "assistant" if n % 2 else "user", "content": f"hello number {n}"} for n in range(9_999)]
TALKS: dict[str, Any] = {
    "native": {"messages": MANY},
    "route": {"messages": MANY},
    "systemone": {"state": {"messages": MANY}, "questions": {"needs_large": {"type": "noul"}}},
    "decisions": {"input": MANY, "questions": [CHOICE]},
}


@pytest.mark.parametrize("name", TALKS)
def test_ten_thousand_messages_are_decided_by_the_last_user_turn(name: str, served: Served) -> None:
    path, _ = WIRES[name]

    answer = send(served, path, json.dumps(TALKS[name]).encode())

    alone = send(served, CLASSIFY, json.dumps({"messages": MANY[-1:]}).encode())
    assert MANY[-1]["role"] == "user"
    assert answer.status_code == 200
    assert answer.headers["x-query-route"] == alone.headers["x-query-route"]
