"""typesafe-sdk at `/v1/systemone`."""

from typing import Any

from typesafe_sdk import (
    Box,
    Choice,
    Image,
    Noul,
    RetryPolicy,
    Score,
    TypeSafeAPIError,
    TypeSafeAuthenticationError,
    TypeSafeClient,
    TypeSafeUnprocessableEntityError,
)

from lab.integrations.probes import EASY, HARD, KEY, LONG, TALK, URL, main, native, near, promise, refuses

ONCE = RetryPolicy(max_retries=0)
client = TypeSafeClient(base_url=URL, api_key=KEY, retry=ONCE)
TIERS = Choice(instructions="Which model?", criteria={"fast": "a small one", "slow": None})
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 32


def ask(state: Any, question: Any, name: str = "q", using: TypeSafeClient = client) -> Any:
    return using.system_one(state, {name: question}).answers[name]


@promise
def _() -> None:
    """A choice between the tiers is our decision, and its probabilities sum to 1."""
    for text in (EASY, HARD):
        answer = ask(text, TIERS)
        assert answer.choice == native(text=text)["route"], answer
        assert answer.choice == max(answer.probabilities, key=lambda label: answer.probabilities[label]), (
            answer
        )
        near(sum(answer.probabilities.values()), 1.0, "the sum")
        assert 0 <= answer.confidence <= 1, answer


@promise
def _() -> None:
    """LiteLLM's own labels are answered, easy ones for easy asks."""
    labels = Choice(criteria=dict.fromkeys(["SIMPLE", "MEDIUM", "COMPLEX", "REASONING"]))
    assert ask(EASY, labels).choice in ("SIMPLE", "MEDIUM"), ask(EASY, labels)
    assert ask(HARD, labels).choice in ("COMPLEX", "REASONING"), ask(HARD, labels)


@promise
def _() -> None:
    """A choice between labels that nobody explained to us is refused with 422, readably."""
    raised = refuses(
        TypeSafeUnprocessableEntityError, lambda: ask(EASY, Choice(criteria={"cat": None, "dog": None}))
    )
    assert EASY not in str(raised), raised
    assert len(str(raised)) > 20, raised


@promise
def _() -> None:
    """The yes/no question that the policy knows is answered; another is refused with 422."""
    assert ask(HARD, Noul(instructions="Does it need a large model?"), "needs_large").noul > 0.5
    assert ask(EASY, Noul(instructions="Does it need a large model?"), "needs_large").noul < 0.5
    refuses(TypeSafeUnprocessableEntityError, lambda: ask(EASY, Noul(instructions="Is it spam?"), "spam"))


@promise
def _() -> None:
    """A score has its levels, and hard asks score higher."""
    levels = Score(criteria=["easy", "middling", "hard"])
    easy, hard = ask(EASY, levels), ask(HARD, levels)
    assert 0 <= easy.score < hard.score <= 2, (easy, hard)
    assert easy.legend == {0: "easy", 1: "middling", 2: "hard"}, easy
    near(sum(easy.probabilities.values()), 1.0, "the sum")


@promise
def _() -> None:
    """Several questions at once are answered under their names."""
    told = client.system_one(
        EASY, {"a": TIERS, "needs_large": Noul(instructions="?"), "c": Score(criteria=["x", "y"])}
    )
    assert set(told.answers) == {"a", "needs_large", "c"}, told
    assert told.model, told
    assert told.request_id, told


@promise
def _() -> None:
    """A body that the SDK compresses with zstd is read."""
    compressing = TypeSafeClient(base_url=URL, api_key=KEY, retry=ONCE, compression="zstd")
    assert ask(LONG, TIERS, using=compressing).choice == native(text=LONG)["route"]


@promise
def _() -> None:
    """A conversation as the state is decided as the conversation."""
    wanted = native(messages=TALK)["route"]
    assert ask({"messages": TALK}, TIERS).choice == wanted
    assert ask(TALK, TIERS).choice == wanted


@promise
def _() -> None:
    """Images and boxes are told apart from what can be answered: an error of the caller, not ours."""
    for question, state in (
        (Box(instructions="the dog"), EASY),
        (TIERS, Image(PNG)),
        (TIERS, ["Look:", Image(PNG)]),
    ):
        raised = refuses(TypeSafeAPIError, lambda state=state, question=question: ask(state, question))
        assert isinstance(raised, TypeSafeAPIError)
        assert 400 <= raised.status < 500, raised
        assert raised.status != 429, raised


@promise
def _() -> None:
    """A wrong key is told so."""
    stranger = TypeSafeClient(base_url=URL, api_key="wrong", retry=ONCE)
    refuses(TypeSafeAuthenticationError, lambda: ask(EASY, TIERS, using=stranger))


@promise
def _() -> None:
    """The list of models is complete."""
    models = client.models.list().models
    assert models, models
    assert all(model.name and model.description and model.release_date for model in models), models


if __name__ == "__main__":
    main()
