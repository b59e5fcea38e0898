"""What the classifier wires share: every tier as a label with its score, the best first.

The scores sum to 1, and the largest is the route taken. Shared by `predict.py`,
`huggingface.py` and `classify.py`, as are two paths: `GET /health`, which the first and
the last one's own servers have, and `GET /models`, which infinity_client asks.
"""

import time
from typing import Any

from handler import wire
from handler.errors import GatewayError, MethodNotAllowed, NotFound, ValidationError
from handler.gateway import Answer
from handler.wires.base import Endpoint, Reply, Request, Service, tier_scores
from handler.wires.documents import ANY, NUMBER, TEXT, a_list, an_object, operation


def labels(answer: Answer, most: int | None = None) -> list[dict[str, Any]]:
    """The labels of an answer, the best first; `most` of them, or all."""
    scores = tier_scores(answer)
    best = sorted(scores, key=lambda name: -scores[name])
    return [{"label": name, "score": scores[name]} for name in best[:most]]


def text(found: Any, member: str) -> str:
    """A text of a body. Raises `ValidationError` where it is none, or asks nothing."""
    if not isinstance(found, str):
        raise ValidationError(f"{member} must be a text, or a list of texts")
    if not found.strip():
        raise ValidationError(f"{member} holds a blank text; expected one that asks something")
    return found


def health(request: Request, service: Service) -> Reply:
    """Whether a query would be answered, and the time in seconds since 1970, as infinity has it."""
    return Reply(wire.encode({"unix": time.time()}), 200 if service.gateway.model.loaded else 503)


def models(request: Request, service: Service) -> Reply:
    """infinity's list of models; nothing stands below it. Raises `NotFound` or `MethodNotAllowed`."""
    if request.rest:
        raise NotFound("there is nothing at this path")
    if request.method != "GET":
        raise MethodNotAllowed("this path takes GET", headers=(("allow", "GET"),))
    about = {"id": service.model_name, "object": "model", "owned_by": "infinity", "created": 0, "stats": {}}
    listed = [about | {"backend": "onnx", "capabilities": ["classify"]}]
    return Reply(wire.encode({"object": "list", "data": listed}))


def refuse(error: GatewayError) -> Reply:
    """An error in the one form that clients of all these servers read."""
    return Reply(wire.encode({"error": error.message}), error.code)


ERROR = an_object(("error",), error=TEXT)
MODELS_DOCUMENT = operation(
    "infinityModels",
    "The models, as infinity lists them.",
    answer=an_object(("object", "data"), data=a_list(ANY)),
    error=ERROR,
)

HEALTH = Endpoint(
    path="/health",
    methods=("GET",),
    wire="classify",
    facts=health,
    refuse=refuse,
    open=lambda method, rest: True,
    documents={
        "/health": {
            "get": operation(
                "health",
                "A query would be answered, as text-embeddings-inference and infinity say it.",
                answer=an_object(("unix",), unix=NUMBER),
                error=ANY,
            )
        }
    },
)
# Where the wire `huggingface` is on, its own endpoint stands at this path and answers the same.
MODELS = Endpoint(
    path="/models/*",
    methods=(),
    wire="classify",
    facts=models,
    refuse=refuse,
    documents={"/models": {"get": MODELS_DOCUMENT}},
)
