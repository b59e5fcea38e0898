"""`/v1/route`'s bodies: what they ask, or why they do not; whatever comes, there is an answer."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.wires.route import read

CHAT = json.dumps(
    {"messages": [{"role": "user", "content": "Was heißt „schön“ auf Englisch?"}]}, ensure_ascii=False
)

WHY = {
    "nothing": (b"", "no_text"),
    "blanks": (b" \n", "no_text"),
    "no form": (b'{"model": "x"}', "no_text"),
    "an empty text": (b'{"text": ""}', "no_text"),
    "no messages": (b'{"messages": []}', "no_text"),
    "no JSON": (b"a=b", "unreadable"),
    "a list": (b'["a"]', "unreadable"),
    "a number": (b'{"text": 7}', "unreadable"),
    "messages that are none": (b'{"messages": "hi"}', "unreadable"),
    "a wrong message": (b'{"messages": [7]}', "unreadable"),
    "deep nesting": (b'{"messages": ' + b"[" * 5000 + b"]" * 5000 + b"}", "unreadable"),
    "two forms": (b'{"text": "a", "messages": [{"role": "user", "content": "b"}]}', "many"),
    "texts": (b'{"texts": ["a"]}', "many"),
    "prompts": (b'{"prompt": ["a", "b"]}', "many"),
    "an image": (b'{"messages": [{"role": "user", "content": [{"type": "image"}]}]}', "not_text"),
}


@pytest.mark.parametrize("name", WHY)
def test_what_asks_nothing_says_why(name: str) -> None:
    body, reason = WHY[name]

    assert read(body).reason == reason


@pytest.mark.parametrize(
    "body",
    [
        b'{"text": "ask"}',
        b'{"prompt": "ask", "max_tokens": 7}',
        b'{"prompt": ["ask"]}',
        b'{"input": "ask", "prompt": {"id": "stored"}}',
        b'{"messages": [{"role": "user", "content": "ask"}], "threshold": 0.1, "explain": true}',
    ],
)
def test_a_body_that_asks_is_a_query_that_nothing_of_it_steers(body: bytes) -> None:
    query = read(body)

    assert "ask" in query.text
    assert (query.reason, query.threshold, query.explain) == (None, None, False)


@pytest.mark.parametrize("end", range(1, len(CHAT.encode())))
def test_a_body_cut_off_anywhere_is_known_for_one(end: int) -> None:
    assert read(CHAT.encode()[:end]).reason == "cut_body"


@given(st.binary(max_size=300))
def test_any_bytes_are_a_query_or_a_reason(body: bytes) -> None:
    query = read(body)

    assert (query.reason is None) == bool(query.text)
