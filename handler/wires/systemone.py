"""`POST /v1/systemone`: what typesafe-sdk and LiteLLM's `oss_classifier` ask.

    {"model", "state", "questions": {name: {"type", "instructions", "criteria"}}}
    → {"model", "answers": {name: {"type", …}}, "usage"}

The state is what is asked about: a text, a conversation, or any JSON. A question is a
`choice`, a `noul` (the policy's predicate of its name) or a `score`; one that we cannot
answer is refused, and the whole request with it, as that server does.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from handler import wire
from handler.conversation import Turn
from handler.errors import GatewayError, ValidationError
from handler.gateway import Answer
from handler.policy import Policy
from handler.wires import lists, questions
from handler.wires.base import Endpoint, Query, Question, Reply, Request, Service, answers
from handler.wires.documents import ANY, TEXT, an_object, operation
from handler.wires.messages import ask, conversation, items

PATH = "/v1/systemone"
KINDS = ("choice", "noul", "score")


class Unanswerable(ValidationError):
    """A member of the body that cannot be answered.

    place  where it stands in the body, as the wire's own server tells it
    """

    def __init__(self, message: str, *place: str) -> None:
        super().__init__(message)
        self.place = place


def read(request: Request, service: Service) -> Question:
    """Decode a request. Raises `Unanswerable`, which names the member by its place."""
    content_type = request.asked.content_type
    if content_type.lower().startswith(b"multipart/"):
        raise Unanswerable("images are not read here; ask with a JSON body and a state of text", "assets")
    body = request.members()
    if body.get("assets"):
        raise Unanswerable("images are not read here; ask with a state of text", "assets")
    asked = body.get("questions")
    if not isinstance(asked, dict) or not asked:
        raise Unanswerable("expected an object with at least one question by name", "questions")
    if len(asked) > questions.QUESTIONS_MAX:
        raise Unanswerable(
            f"{len(asked)} questions; at most {questions.QUESTIONS_MAX} are answered", "questions"
        )
    policy = service.policy
    for name, question in asked.items():
        _check(name, question, policy)
    query = state(body.get("state"))
    if query.reason == "not_text":
        raise Unanswerable("images, audio and files are not read here; the state must be text", "state")
    model = body.get("model")
    named = model if isinstance(model, str) and model else service.model_name

    def write(outcomes: Sequence[Answer | GatewayError]) -> Reply:
        (answer,) = answers(outcomes)
        return Reply(
            wire.encode(
                {
                    "model": named,
                    "answers": {name: _answer(name, question, answer) for name, question in asked.items()},
                    "usage": {"input_tokens": questions.tokens(query.text, answer), "output_tokens": 0},
                }
            )
        )

    return Question([query], write)


def _check(name: str, question: Any, policy: Policy) -> None:
    """Raise `Unanswerable` unless the policy can answer a question."""
    place = ("questions", _safe(name))
    if not isinstance(question, dict):
        raise Unanswerable("a question must be an object with a type", *place)
    kind = question.get("type")
    criteria = question.get("criteria")
    if kind == "choice":
        if not isinstance(criteria, dict) or not 0 < len(criteria) <= questions.OPTIONS_MAX:
            raise Unanswerable(
                f"a choice needs an object of 1 to {questions.OPTIONS_MAX} labels", *place, "criteria"
            )
        if not questions.can_choose(tuple(criteria), policy):
            raise Unanswerable(
                "a choice is answered between tiers "
                f"({', '.join(policy.names)}), options ({', '.join(policy.options)}) or tasks "
                f"({', '.join(policy.tasks)}), and between no other labels",
                *place,
                "criteria",
            )
    elif kind == "noul":
        if name not in policy.predicates:
            known = ", ".join(policy.predicates) or "none"
            raise Unanswerable(f"the policy knows these yes or no questions by name: {known}", *place)
    elif kind == "score":
        if not isinstance(criteria, list) or not 0 < len(criteria) <= questions.OPTIONS_MAX:
            raise Unanswerable(
                f"a score needs a list of 1 to {questions.OPTIONS_MAX} levels", *place, "criteria"
            )
    else:
        raise Unanswerable(f"the type of a question must be one of {', '.join(KINDS)}", *place, "type")


def _answer(name: str, question: Mapping[str, Any], answer: Answer) -> dict[str, Any]:
    criteria = question.get("criteria")
    if question["type"] == "noul":
        if (share := questions.predicate(name, answer)) is not None:
            return {"type": "noul", "noul": share}
    elif question["type"] == "score" and isinstance(criteria, list):
        shares = questions.levels(len(criteria), answer)
        return {
            "type": "score",
            "score": questions.level(shares),
            "confidence": max(shares),
            "legend": {str(place): level for place, level in enumerate(criteria)},
            "probabilities": {str(place): share for place, share in enumerate(shares)},
        }
    elif isinstance(criteria, dict):
        found = questions.choice(tuple(criteria), answer)
        if found is not None:
            best = max(found)
            return {
                "type": "choice",
                "choice": list(criteria)[found.index(best)],
                "confidence": best,
                "probabilities": dict(zip(criteria, found, strict=True)),
            }
    # The policy changed while the model was asked.
    raise Unanswerable("the policy in force no longer answers this question", "questions", _safe(name))


_PLAIN = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def _safe(name: str) -> str:
    """A question's name as an error may repeat it: what looks like a name, and no text."""
    return name if _PLAIN.fullmatch(name) else "…"


# The state


def state(found: Any) -> Query:
    """The query that a state asks. Raises `Unanswerable` where there is none."""
    if isinstance(found, str):
        return _text(found)
    if isinstance(found, dict):
        given = [form for form in ("messages", "input", "prompt", "text") if found.get(form) is not None]
        if len(given) == 1:
            value = found[given[0]]
            if given[0] == "messages" and isinstance(value, list):
                return conversation(value, found.get("system"))
            if given[0] == "input" and isinstance(value, str | list):
                return items(value, found.get("instructions"))
            if isinstance(value, str):
                return _text(value)
    elif isinstance(found, list):
        if any(isinstance(one, dict) and "role" in one for one in found):
            return conversation(found)
        if all(isinstance(one, str) for one in found):
            return ask("\n".join(found))
    else:
        raise Unanswerable("the state must be a string, an object or a list", "state")
    return ask(msgspec.json.encode(found).decode()) if found else Query(reason="no_text")


# How LiteLLM's router writes a conversation into one text. Each block begins with a line break,
# and they are joined by one, so that a blank line stands before every heading but the first.
_SYSTEM = "\nCaller system prompt, quoted as task context:\n"
_RECENT = "\nRecent conversation (context only, do not classify these):\n"
_DEPTH = re.compile(r"\nConversation so far: ~\d{1,18} tokens across the request\n")
_ASK = "\nClassify this message:\n"
_ENTRY = re.compile(r"^\[(\d{1,4})\] ", re.MULTILINE)
_ROLE = re.compile(r"(user|assistant): ")


def _text(text: str) -> Query:
    turns = litellm(text)
    if turns is None:
        return ask(text)
    if len(turns) == 1:
        return ask(turns[0].text)
    return conversation([{"role": turn.role, "content": turn.text} for turn in turns])


def litellm(text: str) -> list[Turn] | None:
    """Take LiteLLM's payload apart, so that its conversations are the same as everybody's; None for any other text.

    The ask is the user's own and may hold any of these headings, so the first that can be
    the real one is taken: the one below the line about depth, where there is such a line.
    """
    if text.startswith(_ASK):
        return [Turn("user", text[len(_ASK) :])]
    if not text.startswith((_SYSTEM, _RECENT)) and not _DEPTH.match(text):
        return None
    begin, end = 0, text.find("\n" + _ASK)
    for depth in _DEPTH.finditer(text):
        if text.startswith(_ASK, depth.end()):
            begin, end = depth.end(), depth.start()
            break
    else:
        if end < 0:
            return None
        begin = end + 1
    ask_text, before = text[begin + len(_ASK) :], text[:end]
    system, recent = "", ""
    if before.startswith(_SYSTEM):
        system, _, recent = before[len(_SYSTEM) :].partition("\n" + _RECENT)
    elif before.startswith(_RECENT):
        recent = before[len(_RECENT) :]
    turns = [Turn("system", system)] if system else []
    return [*turns, *_entries(recent), Turn("user", ask_text)]


def _entries(text: str) -> list[Turn]:
    """The earlier turns, "[1] …" and so on; all by the user where they name no roles."""
    marks, number = [], 1
    for mark in _ENTRY.finditer(text):
        if int(mark[1]) == number:  # any other stands in a turn's own text
            marks.append(mark)
            number += 1
    if not marks:
        return []
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    parts = [text[mark.end() : end].removesuffix("\n") for mark, end in zip(marks, ends, strict=True)]
    roles = [_ROLE.match(part) for part in parts]
    if not all(roles):
        return [Turn("user", part) for part in parts]
    return [
        Turn("assistant" if role[1] == "assistant" else "user", part[role.end() :])
        for part, role in zip(parts, roles, strict=True)
        if role
    ]


# Errors


def refuse(error: GatewayError) -> Reply:
    """An error in the wire's form: what cannot be read is 422 with a list of places."""
    if not isinstance(error, ValidationError) or error.code != 400:
        return Reply(wire.encode({"detail": error.message}), error.code)
    place = error.place if isinstance(error, Unanswerable) else ()
    detail = {"loc": ["body", *place], "msg": error.message, "type": "value_error"}
    return Reply(wire.encode({"detail": [detail]}), 422)


def own_headers(request_id: str) -> tuple[tuple[bytes, bytes], ...]:
    """The SDK names a request by a header of its own."""
    return ((b"x-typesafe-request-id", request_id.encode()),)


ENDPOINTS = (
    Endpoint(
        path=PATH,
        methods=("POST",),
        wire="systemone",
        read=read,
        refuse=refuse,
        degrade=True,
        headers=own_headers,
        documents={
            PATH: {
                "post": operation(
                    "systemone",
                    "Questions about a state, as typesafe-sdk and LiteLLM ask them.",
                    body=an_object(("state", "questions"), state=ANY, questions=an_object(), model=TEXT),
                    answer=an_object(
                        ("model", "answers", "usage"), model=TEXT, answers=an_object(), usage=an_object()
                    ),
                    error=an_object(("detail",), detail=ANY),
                    invalid=422,
                )
            }
        },
    ),
    lists.ENDPOINT,
)
