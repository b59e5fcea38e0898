"""What the model is shown of a text, what that is called, and what it will cost."""

import json
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handler.conversation import Turn, written
from handler.query import (
    BEFORE,
    BYTES_PER_TOKEN,
    CUT,
    KEY_BYTES,
    SPECIAL_TOKENS,
    Limits,
    Normalised,
    ask_place,
    estimate_tokens,
    key,
    normalise,
    seen,
)

LIMITS = Limits(head_tokens_max=96, tail_tokens_max=32, head_chars_max=30, tail_chars_max=10)
DIGEST = bytes(range(32))
# All that `str.split` takes for white space, and two characters that it does not.
WHITE = "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2009\u2028\u2029\u202f\u205f\u3000"
NOT_WHITE = "\u200b\ufeff"

words = st.text("aAbBéÉßΣςİI…1.,\u200b\ufeff", min_size=1, max_size=60)
blanks = st.text(WHITE, min_size=1, max_size=60)
texts = st.one_of(
    st.text(max_size=200),
    st.lists(st.one_of(words, blanks), max_size=40).map("".join),
    st.builds(lambda unit, times: unit * times, st.text(min_size=1, max_size=5), st.integers(1, 400)),
)
limits_of_any_size = st.builds(
    Limits,
    head_tokens_max=st.integers(0, 128),
    tail_tokens_max=st.integers(0, 128),
    head_chars_max=st.integers(1, 40),
    tail_chars_max=st.integers(0, 40),
)


def slowly_normalised(text: str, limits: Limits) -> Normalised:
    """The promise in its plainest words: fold the whole text, then cut out its middle."""
    folded = " ".join(text.split())
    if len(folded) <= limits.chars_max:
        return Normalised(folded.lower())
    head = folded[: limits.head_chars_max]
    tail = folded[len(folded) - limits.tail_chars_max :]
    return Normalised((head + CUT + tail).lower(), clipped=True)


@given(text=texts, limits=limits_of_any_size)
@example(text="", limits=LIMITS)
@example(text=WHITE, limits=LIMITS)
@example(text="x" * 40, limits=LIMITS)
@example(text="x" * 41, limits=LIMITS)
@example(text="y " * 20 + "z", limits=LIMITS)
@example(text="y " * 21 + "z", limits=LIMITS)
@example(text=" " * 100 + "y " * 20, limits=LIMITS)
def test_normalising_equals_folding_the_whole_text_first(text: str, limits: Limits) -> None:
    normalised = normalise(text, limits)

    assert normalised == slowly_normalised(text, limits)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("word " * 400_000, id="two megabytes of words"),
        pytest.param("W" * 2_000_000, id="one giant word"),
        pytest.param("A" + " " * 2_000_000 + "B", id="two words with megabytes of blanks between"),
        pytest.param(WHITE * 100_000, id="nothing but blanks"),
        pytest.param("head " + "x" * 2_000_000 + " tail", id="a giant word between two small ones"),
        pytest.param("a " * 30 + "x" * 2_000_000, id="small words before a giant one"),
        pytest.param("x" * 2_000_000 + " a" * 30, id="small words after a giant one"),
    ],
)
def test_a_very_long_text_is_folded_like_any_other(text: str) -> None:
    normalised = normalise(text, LIMITS)

    assert normalised == slowly_normalised(text, LIMITS)


@given(text=texts, limits=limits_of_any_size)
def test_a_normalised_text_is_never_longer_than_its_limits(text: str, limits: Limits) -> None:
    normalised = normalise(text, limits)

    # İ is the one character that lower case makes into two.
    grown = normalised.text.count("i̇")
    assert len(normalised.text) - grown <= limits.chars_max + len(CUT)


@given(text=texts)
def test_normalising_twice_is_normalising_once(text: str) -> None:
    short = Limits(head_tokens_max=1, tail_tokens_max=1, head_chars_max=10_000, tail_chars_max=0)

    once = normalise(text, short)

    assert normalise(once.text, short) == once


@pytest.mark.parametrize("blank", WHITE)
def test_every_kind_of_white_space_is_one_blank(blank: str) -> None:
    text = f"{blank}a{blank}{blank}b{blank}"

    assert normalise(text, LIMITS).text == "a b"


@pytest.mark.parametrize("sign", NOT_WHITE)
def test_an_invisible_sign_is_not_white_space(sign: str) -> None:
    assert normalise(f"a{sign}b", LIMITS).text == f"a{sign}b"


def test_a_text_at_the_limit_is_kept_whole() -> None:
    normalised = normalise("x" * LIMITS.chars_max, LIMITS)

    assert normalised == Normalised("x" * LIMITS.chars_max)


def test_a_text_over_the_limit_keeps_its_head_and_its_tail() -> None:
    text = "H" * 30 + "middle" + "T" * 10

    normalised = normalise(text, LIMITS)

    assert normalised == Normalised("h" * 30 + CUT + "t" * 10, clipped=True)


def test_a_long_text_costs_no_more_than_two_copies_of_it() -> None:
    text = "Ab " * 1_000_000

    tracemalloc.start()
    normalise(text, LIMITS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    # What `split` leaves of each end is a copy. The whole text in lower case would be a
    # third, and all its words as a list would be twenty.
    assert peak < 2.1 * len(text)


@given(one=texts, other=texts)
def test_two_texts_have_one_key_exactly_when_the_model_sees_the_same_of_both(one: str, other: str) -> None:
    first, second = normalise(one, LIMITS), normalise(other, LIMITS)

    assert (key(first, DIGEST) == key(second, DIGEST)) == (first == second)


def test_case_makes_no_difference_to_a_key() -> None:
    assert key(normalise("Tell ME", LIMITS), DIGEST) == key(normalise("tell me", LIMITS), DIGEST)


@given(text=st.text(max_size=50), padding=blanks)
def test_white_space_around_a_text_makes_no_difference_to_its_key(text: str, padding: str) -> None:
    wide = Limits(head_tokens_max=1, tail_tokens_max=1, head_chars_max=10_000, tail_chars_max=0)

    padded = padding + text + padding

    assert key(normalise(padded, wide), DIGEST) == key(normalise(text, wide), DIGEST)


@given(text=st.text(max_size=80))
def test_a_clipped_text_never_has_the_key_of_a_whole_one(text: str) -> None:
    whole, clipped = Normalised(text), Normalised(text, clipped=True)

    assert key(whole, DIGEST) != key(clipped, DIGEST)


def test_a_text_that_holds_the_cut_mark_is_not_taken_for_a_clipped_one() -> None:
    roomy = Limits(head_tokens_max=96, tail_tokens_max=32, head_chars_max=31, tail_chars_max=12)
    clipped = normalise("h" * 30 + "middle" + "t" * 10, LIMITS)

    whole = normalise("h" * 30 + CUT + "t" * 10, roomy)

    assert whole.text == clipped.text
    assert key(whole, DIGEST) != key(clipped, DIGEST)


@given(
    text=st.text(max_size=80), digests=st.lists(st.binary(min_size=32, max_size=32), unique=True, min_size=2)
)
def test_two_models_never_share_a_key(text: str, digests: list[bytes]) -> None:
    keys = {key(Normalised(text), digest) for digest in digests}

    assert len(keys) == len(digests)


@given(text=st.text(max_size=80), clipped=st.booleans())
def test_a_key_is_always_of_the_same_size(text: str, clipped: bool) -> None:
    assert len(key(Normalised(text, clipped), DIGEST)) == KEY_BYTES


@given(text=texts, limits=limits_of_any_size)
def test_an_estimate_is_never_over_what_the_model_is_shown(text: str, limits: Limits) -> None:
    estimate = estimate_tokens(normalise(text, limits), limits)

    assert SPECIAL_TOKENS <= estimate <= limits.tokens_max + SPECIAL_TOKENS


@given(text=texts, more=texts)
def test_an_estimate_never_falls_as_a_text_grows(text: str, more: str) -> None:
    shorter = estimate_tokens(Normalised(text), LIMITS)

    assert estimate_tokens(Normalised(text + more), LIMITS) >= shorter


def test_an_estimate_counts_bytes_so_that_other_scripts_are_not_taken_for_cheap() -> None:
    latin, chinese = Normalised("a" * 100), Normalised("总" * 100)

    assert estimate_tokens(latin, LIMITS) == 100 // BYTES_PER_TOKEN + 1 + SPECIAL_TOKENS
    assert estimate_tokens(chinese, LIMITS) == 300 // BYTES_PER_TOKEN + 1 + SPECIAL_TOKENS


# Conversations


ROOMY = Limits(
    head_tokens_max=88,
    tail_tokens_max=48,
    head_chars_max=280,
    tail_chars_max=200,
    ask_chars_max=180,
    context_chars_max=160,
)
ASK = "Prove that there are infinitely many primes."


@pytest.mark.parametrize(
    "text",
    [
        f"User: {ASK}",
        f"<|im_start|>user\n{ASK}<|im_end|>\n<|im_start|>assistant\n",
        json.dumps([{"role": "user", "content": ASK}]),
        written([Turn("user", ASK), Turn("assistant", "Suppose not …")]),
        f"<system-reminder>Summarize.</system-reminder>\n{ASK}",
        json.dumps([{"role": "user", "content": f"User: {ASK}"}]),
    ],
)
def test_an_ask_has_one_key_whatever_form_its_conversation_comes_in(text: str) -> None:
    assert normalise(text, ROOMY) == normalise(ASK, ROOMY)


def test_what_was_said_before_a_short_ask_stands_behind_it() -> None:
    text = written(
        [
            Turn("system", "Be BRIEF."),
            Turn("user", "Any  poem?"),
            Turn("assistant", "…"),
            Turn("user", "Shorter"),
        ]
    )

    assert normalise(text, ROOMY).text == f"shorter{BEFORE}any poem?{BEFORE}be brief."


def test_limits_without_room_for_context_show_the_ask_alone() -> None:
    text = written([Turn("user", "A poem?"), Turn("user", "Shorter")])

    assert normalise(text, LIMITS).text == "shorter"


def test_a_transcript_is_not_called_clipped_for_what_was_said_before() -> None:
    text = written([Turn("user", "long " * 1000), Turn("user", "Shorter")])

    assert not normalise(text, ROOMY).clipped


# The ask in a long text

PAGE = "\n\n".join(
    f"Paragraph {i} of the minutes says that the committee met and that nothing was decided about the bridge."
    for i in range(30)
)


@pytest.mark.parametrize(
    "ask", ["Summarize this in two lines.", "who paid for the bridge?", "turn it into a poem pls"]
)
@pytest.mark.parametrize("place", [0, 7, 15, 24, 30])
def test_the_ask_of_a_long_text_is_shown_wherever_it_stands(ask: str, place: int) -> None:
    paragraphs = PAGE.split("\n\n")
    text = "\n\n".join([*paragraphs[:place], ask, *paragraphs[place:]])

    assert normalise(text, ROOMY).text.startswith(ask.lower())


@given(text=texts)
def test_a_place_of_an_ask_is_a_place_of_the_text(text: str) -> None:
    place = ask_place(text)

    assert (place is None) == (not text.strip())
    assert place is None or 0 <= place[0] < place[1] <= len(text)


# What was seen


def folded(text: str) -> str:
    return " ".join(text.split()).lower()


@given(text=texts)
@example(text="word " * 400)
@example(text=PAGE)
@example(text=f"User: {ASK}\nAssistant: ok\nUser: İ {PAGE}")
def test_what_was_seen_is_in_what_was_shown(text: str) -> None:
    shown = normalise(text, ROOMY).text

    read = "".join(text[start:end] for start, end in seen(text, ROOMY))
    assert set(folded(read)) <= set(shown) | {" "}


@given(text=st.text("abc DEF\n.?", max_size=480))
def test_of_a_text_within_the_limits_all_but_the_blanks_is_seen(text: str) -> None:
    read = {i for start, end in seen(text, ROOMY) for i in range(start, end)}

    assert read >= {i for i, sign in enumerate(text) if not sign.isspace()}


@given(text=texts, kept=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=3))
def test_spans_are_in_order_apart_and_within_the_text(text: str, kept: list[tuple[int, int]]) -> None:
    spans = seen(text, ROOMY, kept)

    bounds = [bound for span in spans for bound in span]
    assert bounds == sorted(set(bounds))
    assert not bounds or 0 <= bounds[0] <= bounds[-1] <= len(text)


def test_of_a_transcript_the_last_turn_is_seen_where_it_stands() -> None:
    text = f"User: hello\nAssistant: hi\nUser: {ASK} {ASK} {ASK} {ASK} {ASK} {ASK} {ASK}"

    assert seen(text, ROOMY) == [(text.rindex("User: ") + 6, len(text))]


def test_of_json_the_ask_is_seen_behind_its_escapes() -> None:
    text = json.dumps([{"role": "user", "content": 'Say "no"\nö 😀 now'}])

    ((start, *_), *_, (*_, end)) = seen(text, LIMITS)

    assert text[start:end] == json.dumps('Say "no"\nö 😀 now')[1:-1]
