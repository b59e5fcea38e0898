"""Texts from every corner of Unicode, through the shipped tokenizer and model, alone and over HTTP."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handler.model import Router, load
from handler.model_holder import policy_of
from handler.policy import decide
from handler.query import estimate_tokens, key, normalise
from lab.launch import MODEL, Served, eventually

CORPUS = Path(__file__).parent / "corpus" / "texts.jsonl"
NASTY: dict[str, str] = {
    case["what"]: case["text"] for case in map(json.loads, CORPUS.read_text("ascii").splitlines())
}
MARK = "xylophone-of-a-stranger"

# All that JSON can carry: every plane, controls, marks; lone surrogates are refused before.
CHARACTERS = st.characters(exclude_categories=["Cs"])
TEXTS = st.one_of(
    st.text(CHARACTERS, min_size=1, max_size=300),
    # Long runs of few characters find other limits than short random texts.
    st.builds(
        lambda piece, times: piece * times, st.text(CHARACTERS, min_size=1, max_size=4), st.integers(1, 3000)
    ),
    st.lists(st.sampled_from(sorted(NASTY.values())), min_size=1, max_size=3).map(" ".join),
)
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)


@pytest.fixture(scope="module")
def router() -> Router:
    return load(MODEL)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with Served({"LOG_REQUESTS": "1"}) as served:
        yield served


def answer(router: Router, text: str) -> None:
    """A text's whole life but for HTTP, and what must be true of it."""
    limits = router.manifest.limits
    query = normalise(text, limits)
    (scores,) = router.score([query])
    decision = decide(scores, policy_of(router, ()), 0.7)

    assert len(query.text) <= 3 * (limits.chars_max + 3)
    assert 0 < estimate_tokens(query, limits) <= limits.tokens_max + 2
    assert sum(scores.probabilities) == pytest.approx(1, abs=1e-4)
    assert 0 <= decision.confidence <= 1
    assert normalise(query.text, limits).text == query.text or query.clipped
    assert key(query, router.digest) == key(normalise(text, limits), router.digest)


@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY.keys())
def test_a_nasty_text_gets_an_answer(router: Router, text: str) -> None:
    answer(router, text)


@settings(PATIENT, max_examples=150, derandomize=True)
@given(text=TEXTS)
def test_any_text_gets_an_answer(router: Router, text: str) -> None:
    answer(router, text)


@settings(PATIENT, max_examples=40, derandomize=True)
@given(texts=st.lists(TEXTS, min_size=2, max_size=6))
def test_a_text_is_scored_as_if_it_came_alone_whatever_its_neighbours(
    router: Router, texts: list[str]
) -> None:
    queries = [normalise(text, router.manifest.limits) for text in texts]

    together = router.score(queries)

    for query, scores in zip(queries, together, strict=True):
        (alone,) = router.score([query])
        assert scores.probabilities == pytest.approx(alone.probabilities, abs=1e-3)


def test_every_plane_of_unicode_gets_an_answer(router: Router) -> None:
    for start in range(0, 0x110000, 0x1000):
        block = "".join(chr(code) for code in range(start, start + 0x1000, 7) if not 0xD800 <= code < 0xE000)
        if block:
            answer(router, block)


@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY.keys())
def test_a_nasty_text_over_http_is_a_200_whose_log_line_does_not_hold_it(served: Served, text: str) -> None:
    reply = served.ask(f"{text} {MARK}")

    assert reply.status_code == 200
    assert reply.json()["label"] in ("0", "1")


@settings(PATIENT, max_examples=100, derandomize=True)
@given(text=TEXTS)
def test_any_text_over_http_is_a_200(served: Served, text: str) -> None:
    assert served.ask(text).status_code == 200


@pytest.mark.parametrize("count", [100_000])
def test_a_hundred_thousand_emoji_are_one_query(served: Served, count: int) -> None:
    reply = served.ask("\N{GRINNING FACE}" * count)

    assert (reply.status_code, reply.json()["truncated"]) == (200, True)


HOSTILE_BODIES = {
    "every member twice": b'{"text":"%b","text":"%b"}',
    "a number past all numbers": b'{"text":"%b","n":1e999999}',
    "a number of 10,000 digits": b'{"text":"%b","n":' + b"9" * 10_000 + b"}",
    "a number for a text": b'{"text":1,"%b":2}',
    "deep within another member": b'{"text":"%b","n":' + b"[" * 900 + b"]" * 900 + b"}",
    "far too deep": b'{"text":"%b","n":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "objects all the way down": b'{"%b":' * 20_000,
    "ten thousand members": b'{"text":"%b"' + b"".join(b',"m%d":0' % i for i in range(10_000)) + b"}",
    "a lone surrogate": b'{"text":"%b \\udfff"}',
    "surrogates the wrong way round": b'{"text":"%b \\udc00\\ud800"}',
    "an overlong slash": b'{"text":"%b \xc0\xaf"}',
    "utf-16": '{"text":"q"}'.encode("utf-16"),
    "utf-8 past its end": b'{"text":"%b \xf4\x90\x80\x80"}',
    "a half of an emoji": b'{"text":"%b \xf0\x9f\x98"}',
    "a raw line end in a text": b'{"text":"%b\n"}',
    "a raw NUL": b'{"text":"%b\0"}',
    "single quotes": b"{'text':'%b'}",
    "a comment": b'{"text":"%b"/* %b */}',
    "a trailing comma": b'{"text":"%b",}',
    "two objects": b'{"text":"%b"}{"text":"%b"}',
    "xml": b"<text>%b</text>",
    "a form": b"text=%b",
    "megabytes of blanks": b" " * 900_000 + b'{"text":"%b"}' + b" " * 100_000,
}


@pytest.mark.parametrize("body", HOSTILE_BODIES.values(), ids=HOSTILE_BODIES.keys())
def test_a_hostile_body_is_a_query_or_a_400_that_does_not_repeat_it(served: Served, body: bytes) -> None:
    reply = served.send(body.replace(b"%b", MARK.encode()))

    assert reply.status_code in (200, 400)
    assert MARK not in reply.text


def test_nothing_that_a_stranger_sends_is_written_down(served: Served) -> None:
    """Every place where a stranger may write, and every place where it could turn up."""
    strange = {
        "x-request-id": "<stranger>",
        "user-agent": MARK,
        "cookie": MARK,
        "referer": MARK,
        "x-any": MARK,
    }
    served.ask(MARK, **strange)
    served.send(f'{{"{MARK}":1}}'.encode())
    served.send(f"{MARK}".encode(), content_type=MARK)
    served.send(b"{}", content_encoding=MARK)
    served.send(b"{}", x_request_timeout_ms=MARK)
    served.send(b"{}", authorization=f"Bearer {MARK}")
    replies = [
        served.client.get(f"/{MARK}", params={MARK: MARK}),
        served.client.request(MARK.upper(), "/v1/query-classify"),
        served.client.post(f"/v1/{MARK}", content=MARK),
        served.client.get(f"/metrics?name[]={MARK}"),
        served.client.get("/health/deep", params={MARK: MARK}),
        served.client.get("/health/ready", headers={"host": f"{MARK}.invalid"}),
    ]

    for reply in replies:
        assert MARK.lower() not in reply.text.lower()
    # Each line is still one whole JSON object.
    eventually(lambda: len(served.lines()) > len(replies), "all of it is logged")
    assert MARK.lower() not in served.text().lower()
    assert "stranger" not in served.client.get("/metrics").text


def test_no_label_of_any_metric_can_be_made_by_a_stranger(served: Served) -> None:
    before = series(served)

    threads = [threading.Thread(target=served.send, args=(f"[{i}".encode(),)) for i in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(20):
        served.client.request(f"METHOD{i}", f"/v1/{i}/{MARK}")
        served.ask("q", **{"x-request-id": str(i), "x-request-timeout-ms": f"9{i}"})

    made = {name for name in series(served) - before if "requests_total" not in name}
    assert not {name for name in made if MARK in name or "METHOD" in name}
    assert len(series(served)) < len(before) + 40


def series(served: Served) -> set[str]:
    lines = served.client.get("/metrics").text.splitlines()
    return {line.rsplit(" ", 1)[0] for line in lines if not line.startswith("#")}
