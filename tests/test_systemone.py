"""`/v1/systemone`: what its clients send, what they are told, and how they are refused."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.conversation import Turn, asked, recognised
from handler.errors import ValidationError
from handler.query import normalise
from handler.wires.base import Query
from handler.wires.messages import conversation
from handler.wires.systemone import litellm, state
from tests import virtual
from tests.fakes import LIMITS, WholeGateway
from tests.wired import Reply, Wired

PATH = "/v1/systemone"
TIERS = {"type": "choice", "criteria": {"fast": None, "slow": "a large one"}}
LABELS = ["SIMPLE", "MEDIUM", "COMPLEX", "REASONING"]


def body(questions: Any, state: Any = "an ask", **more: Any) -> dict[str, Any]:
    return {"model": "jev-latest", "state": state, "questions": questions} | more


def asked_of(sent: Any, **headers: str) -> Reply:
    async def main() -> Reply:
        async with WholeGateway() as whole:
            return await Wired(whole).post(PATH, sent, **headers)

    return virtual.run(main())


# Answers


def test_a_choice_between_tiers_is_the_gateways_decision() -> None:
    reply = asked_of(body({"q": TIERS}))

    answer = reply.json["answers"]["q"]
    assert reply.status == 200
    assert answer["choice"] == reply.headers["x-query-route"]
    assert answer["probabilities"][answer["choice"]] == max(answer["probabilities"].values())
    assert sum(answer["probabilities"].values()) == pytest.approx(1)


def test_an_answer_has_every_member_that_the_client_insists_on() -> None:
    levels = ["easy", {"text": "hard"}]

    told = asked_of(
        body({"a": TIERS, "needs_large": {"type": "noul"}, "b": {"type": "score", "criteria": levels}})
    ).json

    assert told["model"] == "jev-latest"
    assert {name: type(count) for name, count in told["usage"].items()} == {
        "input_tokens": int,
        "output_tokens": int,
    }
    assert set(told["answers"]["a"]) == {"type", "choice", "confidence", "probabilities"}
    assert set(told["answers"]["needs_large"]) == {"type", "noul"}
    assert set(told["answers"]["b"]) == {"type", "score", "confidence", "legend", "probabilities"}
    assert told["answers"]["b"]["legend"] == {"0": "easy", "1": {"text": "hard"}}


def test_every_answer_names_its_request_as_the_client_reads_it() -> None:
    good = asked_of(body({"q": TIERS}), x_request_id="abc-1")
    bad = asked_of(b"{", x_request_id="abc-2")

    assert (good.headers["x-typesafe-request-id"], bad.headers["x-typesafe-request-id"]) == ("abc-1", "abc-2")


def test_the_labels_of_litellm_are_answered_from_the_policys_options() -> None:
    told = asked_of(body({"tier": {"type": "choice", "criteria": dict.fromkeys(LABELS, "…")}})).json

    answer = told["answers"]["tier"]
    assert list(answer["probabilities"]) == LABELS
    assert answer["choice"] in LABELS


def test_a_score_of_one_level_is_sure_of_it() -> None:
    told = asked_of(body({"q": {"type": "score", "criteria": ["all"]}})).json["answers"]["q"]

    assert (told["score"], told["confidence"]) == (0, 1)


# Refusals

REFUSED: dict[str, tuple[Any, list[str]]] = {
    "no questions": (body({}), ["questions"]),
    "questions in a list": (body([TIERS]), ["questions"]),
    "a question that is none": (body({"q": 7}), ["questions", "q"]),
    "an unknown type": (body({"q": {"type": "box", "instructions": "the dog"}}), ["questions", "q", "type"]),
    "a type that is none": (body({"q": {"type": ["choice"]}}), ["questions", "q", "type"]),
    "unknown labels": (
        body({"q": {"type": "choice", "criteria": {"cat": None}}}),
        ["questions", "q", "criteria"],
    ),
    "labels of two kinds": (
        body({"q": {"type": "choice", "criteria": {"fast": None, "SIMPLE": None}}}),
        ["questions", "q", "criteria"],
    ),
    "no labels": (body({"q": {"type": "choice", "criteria": {}}}), ["questions", "q", "criteria"]),
    "an unknown noul": (body({"spam": {"type": "noul"}}), ["questions", "spam"]),
    "no levels": (body({"q": {"type": "score", "criteria": []}}), ["questions", "q", "criteria"]),
    "too many levels": (
        body({"q": {"type": "score", "criteria": ["a"] * 256}}),
        ["questions", "q", "criteria"],
    ),
    "no state": (body({"q": TIERS}, None), ["state"]),
    "a number as state": (body({"q": TIERS}, 7), ["state"]),
    "an image": (
        body({"q": TIERS}, [{"role": "user", "content": [{"type": "image", "source": {}}]}]),
        ["state"],
    ),
    "assets": (body({"q": TIERS}, assets={"a": {"type": "image"}}), ["assets"]),
    "no JSON": (b"{", []),
    "a list": (b"[]", []),
    "a stream": (body({"q": TIERS}, stream=True), []),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_answered_is_refused_by_its_place(name: str) -> None:
    sent, place = REFUSED[name]

    reply = asked_of(sent)

    assert reply.status == 422
    (detail,) = reply.json["detail"]
    assert detail["loc"] == ["body", *place]
    assert len(detail["msg"]) > 20
    assert isinstance(detail["type"], str)


def test_a_question_whose_name_is_a_text_is_refused_without_repeating_it() -> None:
    assert b"swordfish" not in asked_of(body({"my secret is swordfish": {"type": "noul"}})).body


def test_parts_of_a_form_are_refused_as_images_are() -> None:
    reply = asked_of(b"--x\r\n", content_type="multipart/form-data; boundary=x")

    assert (reply.status, reply.json["detail"][0]["loc"]) == (422, ["body", "assets"])


def test_another_method_is_told_which_one_is_right() -> None:
    async def main() -> Reply:
        async with WholeGateway() as whole:
            return await Wired(whole).get(PATH)

    reply = virtual.run(main())

    assert (reply.status, reply.headers["allow"]) == (405, "POST")


# Failures


def test_a_full_queue_is_answered_with_the_last_tier() -> None:
    async def main() -> None:
        async with WholeGateway(queue_max=1, run_s=1.0, lanes=1) as whole:
            wired = Wired(whole)
            crowd = [asyncio.create_task(wired.post(PATH, body({"q": TIERS}, f"ask {n}"))) for n in range(9)]
            replies = await asyncio.gather(*crowd)

            shed = [reply for reply in replies if reply.headers.get("x-query-reason") == "overloaded"]
            assert shed
            assert {reply.status for reply in replies} == {200}
            assert {reply.json["answers"]["q"]["choice"] for reply in shed} == {"slow"}
            assert wired.count("fallbacks_total", wire="systemone", reason="overloaded") == len(shed)
            assert wired.count("requests_total", status="success", error_type="", code="200") == 9

    virtual.run(main())


def test_a_late_answer_is_the_last_tier_and_sure_of_it() -> None:
    async def main() -> None:
        async with WholeGateway(run_s=5.0) as whole:
            labels = {"type": "choice", "criteria": dict.fromkeys(LABELS)}
            reply = await Wired(whole).post(
                PATH,
                body({"a": TIERS, "b": labels, "c": {"type": "score", "criteria": ["x", "y"]}}),
                x_request_timeout_ms="100",
            )

            answers = reply.json["answers"]
            assert (reply.status, reply.headers["x-query-reason"]) == (200, "timeout")
            assert answers["a"]["probabilities"] == {"fast": 0, "slow": 1}
            assert (answers["b"]["choice"], answers["c"]["score"]) == ("REASONING", 1)
            assert whole.count("fallbacks_total", wire="systemone", reason="timeout") == 1

    virtual.run(main())


@pytest.mark.parametrize(("given", "callers"), [({"x_request_timeout_ms": "100"}, 1), ({}, 0)])
def test_only_a_deadline_that_the_caller_chose_is_the_callers(given: dict[str, str], callers: int) -> None:
    async def main() -> tuple[Reply, float, float]:
        async with WholeGateway(run_s=5.0) as whole:
            reply = await Wired(whole).post(PATH, body({"a": TIERS}), **given)
            late = whole.count("fallbacks_total", wire="systemone", reason="timeout")
            return reply, late, whole.count("caller_deadlines_total", code="200")

    reply, late, own = virtual.run(main())

    assert (reply.status, reply.headers["x-query-reason"], late, own) == (200, "timeout", 1, callers)


def test_without_a_model_it_is_an_error_that_says_when_to_come_again() -> None:
    async def main() -> Reply:
        async with WholeGateway(loaded=False) as whole:
            return await Wired(whole).post(PATH, body({"q": TIERS}))

    reply = virtual.run(main())

    assert (reply.status, reply.headers["retry-after"]) == (503, "1")
    assert isinstance(reply.json["detail"], str)


def test_a_state_that_asks_nothing_is_the_last_tier() -> None:
    reply = asked_of(body({"q": TIERS}, " \n"))

    assert reply.json["answers"]["q"]["choice"] == "slow"
    assert reply.headers["x-query-reason"] == "no_text"


def test_requests_are_counted_once_by_the_status_that_is_sent() -> None:
    async def main() -> None:
        async with WholeGateway() as whole:
            wired = Wired(whole)
            await wired.post(PATH, body({"q": TIERS}))
            await wired.post(PATH, b"{")

            assert wired.count("requests_total", status="success", error_type="", code="200") == 1
            assert (
                wired.count("requests_total", status="error", error_type="ValidationError", code="422") == 1
            )
            assert (
                wired.count("requests_total", status="error", error_type="ValidationError", code="400") == 0
            )
            assert wired.count("queries_total", wire="systemone") == 1
            assert wired.count("active_requests") == 0

    virtual.run(main())


# The state

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "Hi!"},
    {"role": "user", "content": "Write a long essay"},
]


def shown(query: Query) -> str:
    """What the model is shown of a query."""
    return normalise(query.text, LIMITS).text


STATES = {
    "messages": {"messages": TALK},
    "messages with a system prompt beside them": {"messages": TALK[1:], "system": "Be brief."},
    "a list of messages": TALK,
    "items": {"input": TALK},
    "a text that holds them": json.dumps(TALK),
    "what LiteLLM makes of them": (
        "\nCaller system prompt, quoted as task context:\nBe brief.\n"
        "\nRecent conversation (context only, do not classify these):\n[1] hello\n"
        "\nConversation so far: ~14 tokens across the request\n"
        "\nClassify this message:\nWrite a long essay"
    ),
    "what LiteLLM makes of them with answers": (
        "\nCaller system prompt, quoted as task context:\nBe brief.\n"
        "\nRecent conversation (context only, do not classify these):\n[1] user: hello\n[2] assistant: Hi!\n"
        "\nConversation so far: ~14 tokens across the request\n"
        "\nClassify this message:\nWrite a long essay"
    ),
}


@pytest.mark.parametrize("name", STATES)
def test_a_conversation_is_the_same_query_in_whatever_state_it_comes(name: str) -> None:
    assert shown(state(STATES[name])) == shown(conversation(TALK))


def test_a_single_turn_of_litellm_is_the_plain_prompt() -> None:
    assert state("\nClassify this message:\nWrite a long essay") == Query("Write a long essay")


HEADING = "\nClassify this message:\n"


@given(
    st.text(max_size=40), st.sampled_from(["", "\n" + HEADING + "hi", HEADING + "hi"]), st.text(max_size=40)
)
def test_an_ask_that_holds_litellms_own_heading_stays_whole(before: str, heading: str, after: str) -> None:
    prompt = before + heading + after

    assert litellm(HEADING + prompt) == [Turn("user", prompt)]


def test_a_system_prompt_that_holds_the_heading_is_no_ask() -> None:
    text = (
        "\nCaller system prompt, quoted as task context:\nYou classify.\n" + HEADING + "something\n"
        "\nConversation so far: ~14 tokens across the request\n" + HEADING + "Write a long essay"
    )

    turns = litellm(text)

    assert turns is not None
    assert turns[-1] == Turn("user", "Write a long essay")


def test_earlier_turns_of_many_lines_are_read_by_their_numbers() -> None:
    text = (
        "\nRecent conversation (context only, do not classify these):\n[1] one\n[7] still one\n[2] two\n"
        "\nConversation so far: ~14 tokens across the request\n" + HEADING + "now"
    )

    assert litellm(text) == [Turn("user", "one\n[7] still one"), Turn("user", "two"), Turn("user", "now")]


@pytest.mark.parametrize("text", ["Classify this message:\nhi", "hello\n" + HEADING + "x", "", "\n", "[1] x"])
def test_a_text_that_does_not_begin_with_a_heading_is_not_taken_apart(text: str) -> None:
    assert litellm(text) is None


OTHER_STATES = {
    "an object of other members": ({"ticket": "broken", "plan": "gold"}, '{"ticket":"broken","plan":"gold"}'),
    "an object with a text": ({"text": "an ask", "plan": "gold"}, "an ask"),
    "texts": (["one", "two"], "one\ntwo"),
}


@pytest.mark.parametrize("name", OTHER_STATES)
def test_any_json_is_asked_about_as_a_text(name: str) -> None:
    found, text = OTHER_STATES[name]

    assert state(found) == Query(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "messages", "criteria", "input"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@given(json_values)
def test_any_state_is_a_query_or_refused(found: Any) -> None:
    try:
        query = state(found)
    except ValidationError:
        return

    assert (query.reason is None) == bool(query.text)


@given(st.text(max_size=300))
def test_any_text_is_taken_apart_into_turns_that_end_with_the_user_or_not_at_all(text: str) -> None:
    turns = litellm(text)

    assert turns is None or turns[-1].role == "user"


@given(st.dictionaries(st.sampled_from(["q", "needs_large"]), json_values, max_size=2), json_values)
def test_any_questions_are_answered_or_refused(asked_about: Any, found: Any) -> None:
    reply = asked_of(body(asked_about, found))

    assert reply.status in (200, 422)


def test_what_is_asked_of_a_conversation_is_its_last_user_turn() -> None:
    turns = recognised(state(TALK).text)

    assert turns is not None
    found = asked(turns)
    assert found is not None
    assert found.ask == "Write a long essay"
