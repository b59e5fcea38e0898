"""openai's `client.decisions` at `/v1/decisions`."""

from typing import Any

import openai
from openai.types import Decision

from lab.integrations.probes import EASY, HARD, KEY, TALK, URL, main, native, near, promise, refuses

client = openai.OpenAI(base_url=URL + "/v1", api_key=KEY, max_retries=0)
INSTRUCTIONS = "Which model shall answer?"
TIERS = {
    "type": "choice",
    "name": "tier",
    "instructions": INSTRUCTIONS,
    "choices": [{"value": "fast"}, {"value": "slow"}],
}
NEEDS = {"type": "predicate", "name": "needs_large", "instructions": "It needs a large model."}
LEVELS = {
    "type": "score",
    "name": "how hard",
    "instructions": "How hard is it?",
    "levels": [{"label": "easy"}, {"label": "middling", "description": "so so"}, {"label": "hard"}],
}
IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo="}


def ask(what: Any, *questions: Any) -> Decision:
    """The SDK does not look at what it gets, so it is looked at here."""
    raw = client.decisions.with_raw_response.create(model="router", input=what, questions=list(questions))
    return Decision.model_validate(raw.http_response.json())


@promise
def _() -> None:
    """A choice between the tiers is our decision, and its probabilities sum to 1."""
    for text in (EASY, HARD):
        (answer,) = ask(text, TIERS).answers
        assert answer.type == "choice", answer
        assert answer.choice == native(text=text)["route"], answer
        assert answer.choice == max(answer.probabilities, key=lambda option: option.probability).value, answer
        near(sum(option.probability for option in answer.probabilities), 1.0, "the sum")


@promise
def _() -> None:
    """Answers stand in the order of the questions, and what cannot be known is a refusal among them."""
    spam = {"type": "predicate", "name": "spam", "instructions": "It is spam."}
    pets = {"type": "choice", "instructions": "Which?", "choices": [{"value": "cat"}, {"value": True}]}
    told = ask(EASY, spam, TIERS, pets, NEEDS, LEVELS)
    assert [answer.type for answer in told.answers] == [
        "refusal",
        "choice",
        "refusal",
        "predicate",
        "score",
    ], told
    assert [answer.name for answer in told.answers] == ["spam", "tier", None, "needs_large", "how hard"], told


@promise
def _() -> None:
    """The predicate that the policy knows follows the need, and so does a score."""
    easy, hard = ask(EASY, NEEDS, LEVELS).answers, ask(HARD, NEEDS, LEVELS).answers
    assert easy[0].probability < 0.5 < hard[0].probability, (easy, hard)
    assert 0 <= easy[1].score < hard[1].score <= 2, (easy, hard)
    assert [level.value for level in easy[1].probabilities] == [0, 1, 2], easy
    assert [level.label for level in easy[1].probabilities] == ["easy", "middling", "hard"], easy


@promise
def _() -> None:
    """A conversation with tools in it is decided by its last user turn."""
    talk = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": [{"type": "input_text", "text": HARD}]},
        {"type": "function_call", "call_id": "1", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": "nothing there"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Once upon a time."}]},
        {"role": "user", "content": EASY},
    ]
    (answer,) = ask(talk, TIERS).answers
    assert answer.choice == native(messages=TALK)["route"], answer


@promise
def _() -> None:
    """An image is the caller's error, in OpenAI's own form."""
    talk = [{"role": "user", "content": [{"type": "input_text", "text": EASY}, IMAGE]}]
    raised = refuses(openai.APIStatusError, lambda: ask(talk, TIERS))
    assert isinstance(raised, openai.APIStatusError)
    assert 400 <= raised.status_code < 500, raised
    assert isinstance(raised.body, dict), raised.body
    assert raised.body.get("message"), raised.body


@promise
def _() -> None:
    """A wrong key is told so, and no questions at all are the caller's error."""
    stranger = openai.OpenAI(base_url=URL + "/v1", api_key="wrong", max_retries=0)
    refuses(
        openai.AuthenticationError,
        lambda: stranger.decisions.create(model="router", input=EASY, questions=[TIERS]),
    )
    raised = refuses(openai.APIStatusError, lambda: ask(EASY))
    assert isinstance(raised, openai.APIStatusError)
    assert 400 <= raised.status_code < 500, raised


@promise
def _() -> None:
    """The list of models is complete."""
    models = list(client.models.list())
    assert models, models
    assert all(
        model.id and model.object == "model" and model.created and model.owned_by for model in models
    ), models


if __name__ == "__main__":
    main()
