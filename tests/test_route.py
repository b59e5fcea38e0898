"""`/v1/route`'s bodies: what they ask, or why they do not; whatever comes, there is an answer."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.wires.route import read
from tests import virtual
from tests.fakes import WholeGateway
from tests.wired import Reply, Wired

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


# Who may ask

KEY = "of-a-proxy"
KEYS = hashlib.sha256(KEY.encode()).hexdigest()


def with_keys(**headers: str) -> tuple[Reply, float]:
    """What a gateway with keys says, and how many it answered so without being shown one."""

    async def main() -> tuple[Reply, float]:
        async with WholeGateway() as whole:
            reply = await Wired(whole, keys=KEYS).post("/v1/route", {"text": "ask"}, **headers)
            return reply, whole.count("fallbacks_total", wire="route", reason="unauthenticated")

    return virtual.run(main())


def test_a_proxys_key_is_known_by_its_own_header() -> None:
    reply, strangers = with_keys(x_query_gateway_key=KEY)

    assert (reply.status, reply.headers.get("x-query-reason"), strangers) == (200, None, 0)


@pytest.mark.parametrize(
    "shown",
    [
        {},
        {"x_query_gateway_key": "another"},
        {"x_query_gateway_key": ""},
        {"authorization": f"Bearer {KEY}"},
        {"x_api_key": KEY},
    ],
)
def test_whatever_else_is_shown_goes_slow_with_200(shown: dict[str, str]) -> None:
    reply, strangers = with_keys(**shown)

    assert (reply.status, reply.headers["x-query-route"]) == (200, "slow")
    assert (reply.headers["x-query-reason"], strangers) == ("unauthenticated", 1)


def test_what_the_user_controls_steers_nothing() -> None:
    async def main() -> Reply:
        async with WholeGateway(run_s=0.05) as whole:
            return await Wired(whole).post(
                "/v1/route",
                {"text": "ask", "threshold": 1, "explain": True},
                x_request_timeout_ms="1",
                authorization="Bearer any",
            )

    reply = virtual.run(main())

    assert (reply.status, reply.body, reply.headers.get("x-query-reason")) == (200, b"{}", None)
    assert reply.headers["x-query-route"] == "fast"
