"""`POST /classify`: two servers' shapes at one path, told apart by the member that holds the text.

vLLM Semantic Router  {"inputs": "…"}        → [{"label", "score"}, …]: every tier once, sum 1
infinity              {"input": ["…", …]}    → {"object", "data": [[…], …], "model", "usage"}
"""

from collections.abc import Sequence

from handler import wire
from handler.errors import GatewayError, ValidationError
from handler.gateway import Answer
from handler.wires.base import Endpoint, Query, Question, Reply, Request, Service, answers
from handler.wires.documents import ANY, LABELS, TEXT, a_list, an_object, operation
from handler.wires.labels import HEALTH, MODELS, labels, text
from handler.wires.questions import tokens


def read(request: Request, service: Service) -> Question:
    """Decode a request. Raises `ValidationError`."""
    body = request.members()
    if ("inputs" in body) == ("input" in body):
        raise ValidationError("expected either inputs, a text, or input, a list of texts")
    if "inputs" in body:
        return Question([Query(text(body["inputs"], "inputs"))], _flat)
    given = body["input"]
    texts = [text(one, "input") for one in (given if isinstance(given, list) else [given])]
    model = body.get("model")
    named = model if isinstance(model, str) and model else service.model_name

    def write(outcomes: Sequence[Answer | GatewayError]) -> Reply:
        found = answers(outcomes)
        count = sum(tokens(one, answer) for one, answer in zip(texts, found, strict=True))
        answer = {
            "object": "classify",
            "data": [labels(answer) for answer in found],
            "model": named,
            "usage": {"prompt_tokens": count, "total_tokens": count},
        }
        return Reply(wire.encode(answer))

    return Question([Query(one) for one in texts], write)


def _flat(outcomes: Sequence[Answer | GatewayError]) -> Reply:
    (answer,) = answers(outcomes)
    return Reply(wire.encode(labels(answer)))


def refuse(error: GatewayError) -> Reply:
    """An error that both sides read: infinity_client the detail, people the message."""
    code = 422 if isinstance(error, ValidationError) and error.code == 400 else error.code
    detail = [{"loc": ["body"], "msg": error.message, "type": error.status.lower()}]
    return Reply(wire.encode({"error": error.message, "detail": detail}), code)


ENDPOINTS = (
    Endpoint(
        path="/classify",
        methods=("POST",),
        wire="classify",
        read=read,
        refuse=refuse,
        documents={
            "/classify": {
                "post": operation(
                    "labels",
                    "Tiers with their scores: of inputs, a text, or of input, a list.",
                    body=an_object(inputs=TEXT, input=ANY),
                    answer={"anyOf": [LABELS, an_object(("data", "model", "usage"), data=a_list(LABELS))]},
                    error=an_object(("error", "detail"), error=TEXT),
                    invalid=422,
                )
            }
        },
    ),
    HEALTH,
    MODELS,
)
