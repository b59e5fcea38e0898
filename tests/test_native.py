"""The native wire's bodies: what is read, and that a refusal never repeats what was sent."""

import asyncio
import itertools
import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from backports import zstd
from hypothesis import example, given
from hypothesis import strategies as st

from handler import wire
from handler.errors import PayloadTooLarge, ValidationError
from handler.exchange import PIECE, Exchange, unpacker
from handler.wires import native
from handler.wires.base import Service

SECRET = "xyzzy-swordfish"
SECRET_JSON = SECRET.encode()

# No surrogates: they are no text, and JSON has no way to say them.
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=100)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


def read_query(body: bytes) -> str:
    """The text of a body's single query."""
    return native.one(native.read(body)).text


def refusal(body: bytes) -> str:
    with pytest.raises(ValidationError) as refused:
        read_query(body)
    return refused.value.message


# Queries


@given(texts)
@example("\x00")
@example("  ")
@example('"}')
@example("𝒳 emoji 👩‍🚀")
def test_a_text_is_read_as_it_was_sent(text: str) -> None:
    escaped, plain = json.dumps({"text": text}), json.dumps({"text": text}, ensure_ascii=False)

    assert read_query(escaped.encode()) == read_query(plain.encode()) == text


unknown = st.text(max_size=9).filter(lambda name: name not in wire.ClassifyRequest.__struct_fields__)


@given(text=texts, others=st.dictionaries(unknown, json_values, max_size=4))
def test_other_members_are_ignored(text: str, others: dict[str, Any]) -> None:
    body = msgspec.json.encode(others | {"text": text})

    assert read_query(body) == text


BAD_BODIES = {
    "nothing": b"",
    "blanks": b" \n ",
    "no JSON": b"text=" + SECRET_JSON,
    "an unfinished object": b'{"text": "' + SECRET_JSON,
    "single quotes": b"{'text': '" + SECRET_JSON + b"'}",
    "a bare word": b'{"text": ' + SECRET_JSON + b"}",
    "something after the object": b'{"text": "a"} ' + SECRET_JSON,
    "two objects": b'{"text": "a"}{"text": "' + SECRET_JSON + b'"}',
    "a comma too many": b'{"text": "' + SECRET_JSON + b'",}',
    "a string": b'"' + SECRET_JSON + b'"',
    "a list": b'["' + SECRET_JSON + b'"]',
    "null": b"null",
    "a number": b"17",
    "no text member": b'{"' + SECRET_JSON + b'": "' + SECRET_JSON + b'"}',
    "text in another case": b'{"Text": "' + SECRET_JSON + b'"}',
    "an empty object": b"{}",
    "an empty text": b'{"text": ""}',
    "a null text": b'{"text": null, "' + SECRET_JSON + b'": 1}',
    "a number as text": b'{"text": 5}',
    "a truth as text": b'{"text": true}',
    "a list as text": b'{"text": ["' + SECRET_JSON + b'"]}',
    "an object as text": b'{"text": {"' + SECRET_JSON + b'": "' + SECRET_JSON + b'"}}',
    "bytes outside UTF-8": b'{"text": "' + SECRET_JSON + b'\xff"}',
    "UTF-16": json.dumps({"text": SECRET}).encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf" + b'{"text": "' + SECRET_JSON + b'"}',
    "a lone high surrogate": b'{"text": "' + SECRET_JSON + b'\\ud800"}',
    "a lone low surrogate": b'{"text": "' + SECRET_JSON + b'\\udc00"}',
    "an unknown escape": b'{"text": "\\q' + SECRET_JSON + b'"}',
    "a raw line break": b'{"text": "' + SECRET_JSON + b'\n"}',
    "NaN": b'{"text": "' + SECRET_JSON + b'", "x": NaN}',
    "lists without end": b"[" * 100_000,
    "objects without end": b'{"' + SECRET_JSON + b'":' + b'{"a":' * 100_000,
    "lists without end as text": b'{"text": ' + b"[" * 100_000,
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_a_bad_body_is_refused_with_what_would_be_accepted(body: bytes) -> None:
    assert '{"text": "…"}' in refusal(body)


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_a_refusal_never_repeats_what_was_sent(body: bytes) -> None:
    assert SECRET not in refusal(body)


CUT_EMOJI = {
    "at the end": rb'{"text":"Write a poem \ud83d"}',
    "in the middle": rb'{"text":"a \ud83d poem please, now"}',
    "in upper case": rb'{"text":"\uD83D and on"}',
    "its second half": rb'{"text":"\ude00 and on"}',
    "before a whole one": rb'{"text":"\ud83d\ud83d\ude00"}',
    "after a whole one": rb'{"text":"\ud83d\ude00\ude00 ."}',
    "before another escape": rb'{"text":"\ud83d\u0041"}',
    "after a backslash": rb'{"text":"\\\ud83d"}',
    "in another member": rb'{"text":"a","note":"\ud83d"}',
    "far inside": b'{"text":"' + b"a" * 100_000 + rb'\ud83d"}',
}


@pytest.mark.parametrize("body", CUT_EMOJI.values(), ids=CUT_EMOJI.keys())
def test_a_cut_emoji_is_called_one(body: bytes) -> None:
    message = refusal(body)

    assert "a lone surrogate at byte" in message
    assert "truncated" not in message


@pytest.mark.parametrize(
    "body",
    [
        b'{"text":"a',
        rb'{"text":"\\ud83d',
        rb'{"text":"\ud83',
        rb'{"text":"\ud83d\ude00',
        b'{"text":"\xf0\x9f"}',
    ],
)
def test_what_is_cut_elsewhere_is_not_called_a_surrogate(body: bytes) -> None:
    assert "surrogate" not in refusal(body)


@given(
    before=st.binary(max_size=20),
    after=st.binary(max_size=20),
    template=st.sampled_from([b"%b%b%b", b'{"text": "%b%b%b"}', b'{"text": [%b"%b"%b]}', b'{"%b%b%b": 1}']),
)
def test_whatever_is_sent_a_refusal_does_not_repeat_it(before: bytes, after: bytes, template: bytes) -> None:
    body = template % (before, SECRET_JSON, after)
    refused = None

    try:
        read_query(body)
    except ValidationError as error:
        refused = error

    # A cause would be written with a traceback, should it ever be logged.
    assert refused is None or (SECRET not in wire.write_error(refused).decode() and not refused.__cause__)


@given(st.binary(max_size=200))
def test_any_bytes_are_either_read_or_refused(body: bytes) -> None:
    try:
        text = read_query(body)
    except ValidationError:
        return

    assert text


def test_a_line_that_is_no_query_is_answered_under_its_id() -> None:
    assert native._line(b'{"id": 7, "text": ""}', 100).number == 7
    assert native._line(b'{"id": "a", "text": 7}', 100).number == "a"
    assert native._line(b'{"id": 7', 100).number is None


# Lines of a stream

LINE_MAX = 1000
SERVICE = cast(
    Service, SimpleNamespace(settings=SimpleNamespace(max_body_bytes=LINE_MAX), read_timeout_s=1.0)
)


def lines_of(chunks: Sequence[bytes], encoding: bytes = b"") -> tuple[list[str], int]:
    """The texts of a body that comes in chunks, and how often others had their turn meanwhile."""

    async def main() -> tuple[list[str], int]:
        waiting = list(chunks)
        turns, done = 0, False

        async def receive() -> Any:
            body = waiting.pop(0) if waiting else b""
            return {"type": "http.request", "body": body, "more_body": bool(waiting)}

        async def other() -> None:
            nonlocal turns
            while not done:
                turns += 1
                await asyncio.sleep(0)

        async def send(message: Any) -> None: ...

        beside = asyncio.ensure_future(other())
        exchange = Exchange({"headers": []}, receive, send)
        try:
            found = [line.query.text async for line in native._lines(SERVICE, exchange, unpacker(encoding))]
        finally:
            done = True
            await beside
        return found, turns

    return asyncio.run(main())


@given(
    asked=st.lists(st.text("ab \u00e9", min_size=1, max_size=5).filter(str.strip), max_size=6),
    blanks=st.lists(st.sampled_from(["", " ", "\r", "\t \r"]), min_size=7, max_size=7),
    cuts=st.lists(st.integers(0, 200), max_size=5),
    ended=st.booleans(),
)
def test_a_line_is_the_same_wherever_its_body_is_cut(
    asked: list[str], blanks: list[str], cuts: list[int], ended: bool
) -> None:
    lines = [f"{blank}\n{json.dumps({'text': text})}" for blank, text in zip(blanks, asked, strict=False)]
    body = ("\n".join([*lines, blanks[-1]]) + "\n" * ended).encode()
    edges = sorted({0, *(min(cut, len(body)) for cut in cuts), len(body)})

    found, _ = lines_of([body[a:b] for a, b in itertools.pairwise(edges)])

    assert found == asked


@pytest.mark.parametrize("blank", [b"\n", b" ", b"\r\n"])
def test_a_bomb_of_blanks_leaves_others_their_turns(blank: bytes) -> None:
    pieces = 32
    packed = zstd.compress(blank * (pieces * PIECE // len(blank)) + b'{"text": "last"}\n')

    found, turns = lines_of([packed], b"zstd")

    assert found == ["last"]
    assert turns >= pieces


def test_a_line_without_end_is_refused_at_the_limit() -> None:
    with pytest.raises(PayloadTooLarge):
        lines_of([b"\n" * 5000, b'{"text": "' + b"a" * LINE_MAX])
