"""Conversations as chat clients send them: the last user turn asks, and nothing else does."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.conversation import asked, recognised
from handler.errors import ValidationError
from handler.wires.base import Query
from handler.wires.messages import conversation, items

IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/x.png"}}
RESULT = {"type": "tool_result", "tool_use_id": "1", "content": "42 degrees"}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def ask_of(query: Query) -> str:
    """What decides in a query's text."""
    turns = recognised(query.text)
    assert turns is not None
    found = asked(turns)
    assert found is not None
    return found.ask


ASKS = {
    "a string": [user("ask")],
    "text parts": [user([{"type": "text", "text": "ask"}])],
    "OpenAI's input parts": [user([{"type": "input_text", "text": "ask"}])],
    "earlier turns": [user("before"), {"role": "assistant", "content": "done"}, user("ask")],
    "an answer at the end": [user("ask"), {"role": "assistant", "content": "I think"}],
    "a system prompt": [{"role": "system", "content": "be brief"}, user("ask")],
    "a developer's prompt": [{"role": "developer", "content": "be brief"}, user("ask")],
    "tool results after it": [
        user("ask"),
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "tool", "tool_call_id": "1", "content": "write a novel"},
    ],
    "a user turn of tool results alone": [user("ask"), user([RESULT])],
    "results beside the ask": [user("before"), user([RESULT, {"type": "text", "text": "ask"}])],
    "an earlier image": [user([IMAGE]), {"role": "assistant", "content": "a cat"}, user("ask")],
    "a reminder in the turn": [user("<system-reminder>be brief</system-reminder>\nask")],
    "an unknown role": [user("ask"), {"role": "critic", "content": "no"}],
}


@pytest.mark.parametrize("name", ASKS)
def test_the_last_user_turn_is_the_ask(name: str) -> None:
    assert ask_of(conversation(ASKS[name])) == "ask"


WITHOUT_MODEL = {
    "no messages": ([], "no_text"),
    "no user": ([{"role": "system", "content": "be brief"}], "no_text"),
    "an empty turn": ([user("")], "no_text"),
    "blanks": ([user(" \n ")], "no_text"),
    "nothing": ([user(None)], "no_text"),
    "no parts": ([user([])], "no_text"),
    "results alone": ([user([RESULT])], "no_text"),
    "a reminder alone": ([user("<system-reminder>be brief</system-reminder>")], "no_text"),
    "an image": ([user([IMAGE])], "not_text"),
    "an image with a text": ([user([{"type": "text", "text": "what is this?"}, IMAGE])], "not_text"),
    "Anthropic's image": ([user([{"type": "image", "source": {}}])], "not_text"),
    "audio": ([user([{"type": "input_audio", "input_audio": {}}])], "not_text"),
    "a file": ([user([{"type": "document", "source": {}}])], "not_text"),
    "an image in the last turn": ([user("ask"), user([IMAGE])], "not_text"),
}


@pytest.mark.parametrize("name", WITHOUT_MODEL)
def test_what_asks_nothing_in_words_says_why(name: str) -> None:
    messages, reason = WITHOUT_MODEL[name]

    assert conversation(messages).reason == reason


def test_a_system_prompt_beside_the_messages_frames_like_one_among_them() -> None:
    beside = conversation([user("ask")], "be brief")
    among = conversation([{"role": "system", "content": "be brief"}, user("ask")])

    assert beside == among


RESPONSES = {
    "a string": "ask",
    "a message": [user("ask")],
    "a typed message": [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "ask"}]}
    ],
    "calls and outputs": [
        user("ask"),
        {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "1"},
        {"type": "function_call_output", "call_id": "1", "output": "write a novel"},
        {"type": "reasoning", "summary": []},
    ],
}


@pytest.mark.parametrize("name", RESPONSES)
def test_the_responses_form_asks_by_its_last_user_message(name: str) -> None:
    assert ask_of(items(RESPONSES[name])) == "ask"


def test_a_conversation_is_one_query_on_whatever_form_it_came() -> None:
    chat = conversation([user("before"), {"role": "assistant", "content": "done"}, user("ask")])
    responses = items(
        [
            user("before"),
            {"role": "assistant", "content": [{"type": "output_text", "text": "done"}]},
            user("ask"),
        ]
    )

    assert chat == responses


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "type", "text", "output"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(st.lists(json_values, max_size=4))
def test_any_list_is_a_conversation_or_refused(found: list[Any]) -> None:
    try:
        query = conversation(found)
    except ValidationError:
        return

    assert (query.reason is None) == bool(query.text)
