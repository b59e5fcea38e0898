"""`POST /v1/decisions`: what the openai package's `client.decisions.create` asks.

    {"model", "input": "…" or items, "questions": [{"type", "name", "instructions", …}]}
    → {"model", "answers": [one for each, in order], "usage"}

A question is a `choice`, a `predicate` (the policy's of its name) or a `score`; what
we cannot answer is a `refusal`, and the other answers stand.
"""

from collections.abc import Sequence
from typing import Any

from handler import wire
from handler.errors import GatewayError, ValidationError
from handler.gateway import Answer
from handler.wires import lists, questions
from handler.wires.base import Endpoint, Query, Question, Reply, Request, Service, answers
from handler.wires.documents import ANY, TEXT, a_list, an_object, operation
from handler.wires.messages import ask, items

PATH = "/v1/decisions"


def read(request: Request, service: Service) -> Question:
    """Decode a request. Raises `ValidationError` for what is no question at all."""
    body = request.members()
    asked = body.get("questions")
    if not isinstance(asked, list) or not 0 < len(asked) <= questions.QUESTIONS_MAX:
        raise ValidationError(f"questions must be a list of 1 to {questions.QUESTIONS_MAX} questions")
    for question in asked:
        _check(question)
    query = _query(body.get("input"))
    if query.reason == "not_text":
        raise ValidationError("images, audio and files are not read here; input must be text")
    model = body.get("model")
    named = model if isinstance(model, str) and model else service.model_name
    service.policy  # noqa: B018 - without a model there is no answer, not even a refusal: 503

    def write(outcomes: Sequence[Answer | GatewayError]) -> Reply:
        (answer,) = answers(outcomes)
        read_tokens = questions.tokens(query.text, answer)
        usage = {
            "input_tokens": read_tokens,
            "input_tokens_details": {"cache_write_tokens": 0, "cached_tokens": 0},
            "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": read_tokens,
        }
        found = [_answer(question, answer) for question in asked]
        return Reply(wire.encode({"model": named, "answers": found, "usage": usage}))

    return Question([query], write)


def _query(found: Any) -> Query:
    if isinstance(found, str):
        return ask(found)
    if not isinstance(found, list):
        raise ValidationError("input must be a string or a list of items")
    return items(found)


def _check(question: Any) -> None:
    """Raise `ValidationError` unless a question has the form of one. Whether we know it is another matter."""
    if not isinstance(question, dict) or not isinstance(question.get("type"), str):
        raise ValidationError("every question must be an object with a type: choice, predicate or score")
    name = question.get("name")
    if name is not None and not isinstance(name, str):
        raise ValidationError("the name of a question must be a string")
    if question["type"] == "choice":
        _check_each(question, "choices", "value", (str, bool))
    elif question["type"] == "score":
        _check_each(question, "levels", "label", (str,))


def _check_each(question: dict[str, Any], member: str, key: str, kinds: tuple[type, ...]) -> None:
    found = question.get(member)
    if not isinstance(found, list) or not 0 < len(found) <= questions.OPTIONS_MAX:
        raise ValidationError(
            f"a {question['type']} needs {member}, a list of 1 to {questions.OPTIONS_MAX} objects"
        )
    if not all(isinstance(one, dict) and isinstance(one.get(key), kinds) for one in found):
        raise ValidationError(f"every one of {member} must be an object with a {key}")


def _answer(question: dict[str, Any], answer: Answer) -> dict[str, Any]:
    kind, name = question["type"], question.get("name")
    if kind == "choice":
        values = [option["value"] for option in question["choices"]]
        shares = None
        if all(isinstance(value, str) for value in values):  # true and false are options of nobody
            shares = questions.choice(values, answer)
        if shares is not None:
            best = max(shares)
            return {
                "type": "choice",
                "name": name,
                "choice": values[shares.index(best)],
                "confidence": best,
                "probabilities": [
                    {"value": value, "probability": share}
                    for value, share in zip(values, shares, strict=True)
                ],
            }
    elif kind == "predicate":
        if (share := questions.predicate(name, answer)) is not None:
            return {"type": "predicate", "name": name, "probability": share}
    elif kind == "score":
        labels = [level["label"] for level in question["levels"]]
        shares = questions.levels(len(labels), answer)
        return {
            "type": "score",
            "name": name,
            "score": questions.level(shares),
            "confidence": max(shares),
            "probabilities": [
                {"label": label, "probability": share, "value": value}
                for value, (label, share) in enumerate(zip(labels, shares, strict=True))
            ],
        }
    return {"type": "refusal", "name": name}


ENDPOINTS = (
    Endpoint(
        path=PATH,
        methods=("POST",),
        wire="decisions",
        read=read,
        refuse=lists.refuse,
        degrade=True,
        documents={
            PATH: {
                "post": operation(
                    "decisions",
                    "Questions about an input, as the openai package asks them.",
                    body=an_object(("input", "questions"), input=ANY, questions=a_list(ANY), model=TEXT),
                    answer=an_object(
                        ("model", "answers", "usage"), model=TEXT, answers=a_list(ANY), usage=an_object()
                    ),
                    error=lists.ERROR,
                )
            }
        },
    ),
    lists.ENDPOINT,
)
