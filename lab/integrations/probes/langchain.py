"""langchain-openai's `OpenAIDecisions`, which checks what it gets."""

import warnings
from typing import Any

import openai
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai.decisions import Choice, OpenAIDecisions, Predicate, Score

from lab.integrations.probes import EASY, HARD, KEY, TALK, URL, main, native, promise, refuses

warnings.simplefilter("ignore")
client = OpenAIDecisions(model="router", base_url=URL + "/v1", api_key=KEY, max_retries=0)
TIERS = Choice(instructions="Which model?", choices={"fast": "a small one", "slow": None})


def ask(what: Any, **questions: Any) -> Any:
    return client.invoke({"input": what, "questions": questions})


@promise
def _() -> None:
    """A prompt is decided as we decide it."""
    for text in (EASY, HARD):
        assert ask(text, tier=TIERS).choices["tier"].choice == native(text=text)["route"]


@promise
def _() -> None:
    """A conversation, which comes as JSON inside one user turn, is decided as the conversation."""
    talk = [
        SystemMessage(TALK[0]["content"]),
        HumanMessage(HARD),
        AIMessage("Once upon a time."),
        HumanMessage(EASY),
    ]
    assert ask(talk, tier=TIERS).choices["tier"].choice == native(messages=TALK)["route"]


@promise
def _() -> None:
    """Every kind of answer passes its checks, a refusal among them."""
    told = ask(
        EASY,
        needs_large=Predicate(instructions="It needs a large model."),
        level=Score(instructions="How hard?", levels=["easy", "hard"]),
        spam=Predicate(instructions="It is spam."),
        tier=TIERS,
    )
    assert set(told.answers) == {"needs_large", "level", "spam", "tier"}, told
    assert told.answers["spam"].type == "refusal", told
    assert told.scores["level"].legend == {0: "easy", 1: "hard"}, told


@promise
def _() -> None:
    """A wrong key is told so."""
    stranger = OpenAIDecisions(model="router", base_url=URL + "/v1", api_key="wrong", max_retries=0)
    refuses(
        openai.AuthenticationError, lambda: stranger.invoke({"input": EASY, "questions": {"tier": TIERS}})
    )


if __name__ == "__main__":
    main()
