"""`POST /predict`, `GET /info`, `GET /health`: the shapes of text-embeddings-inference's classifiers.

    {"inputs": "…" or ["…"]}          → [{"score", "label"}, …], the best first
    {"inputs": [["…"], ["…"], …]}     → a list of such lists, in order

Two texts in one list are a pair, which that server scores together: refused with 422.
"""

from collections.abc import Sequence
from typing import Any

from handler import __version__, wire
from handler.errors import GatewayError, ModelNotReady, Overloaded, PayloadTooLarge, ValidationError
from handler.gateway import Answer
from handler.wires.base import Endpoint, Query, Question, Reply, Request, Service, answers
from handler.wires.documents import ANY, LABELS, TEXT, a_list, an_object, operation
from handler.wires.labels import HEALTH, labels, text


def read(request: Request, service: Service) -> Question:
    """Decode a request. Raises `ValidationError`."""
    inputs = request.members().get("inputs")
    alone = isinstance(inputs, str) or (
        isinstance(inputs, list) and len(inputs) == 1 and isinstance(inputs[0], str)
    )
    texts = [_one(inputs)] if alone else _batch(inputs)

    def write(outcomes: Sequence[Answer | GatewayError]) -> Reply:
        found = [labels(answer) for answer in answers(outcomes)]
        return Reply(wire.encode(found[0] if alone else found))

    return Question([Query(one) for one in texts], write)


def _batch(inputs: Any) -> list[str]:
    if not isinstance(inputs, list) or not inputs:
        raise ValidationError("inputs must be a text, a list of one text, or a list of such lists")
    if all(isinstance(one, str) for one in inputs):
        raise ValidationError("texts in one list are a pair, which is not scored here; expected a list each")
    return [_one(one) for one in inputs]


def _one(found: Any) -> str:
    if isinstance(found, list):
        if len(found) != 1:
            raise ValidationError("pairs of texts are not scored here; expected one text in each list")
        (found,) = found
    return text(found, "inputs")


def info(request: Request, service: Service) -> Reply:
    """What classifies, and by which labels. Raises `ModelNotReady`."""
    router = service.gateway.model.serving.router
    names = service.policy.names
    by_place = {str(place): name for place, name in enumerate(names)}
    found = {
        "model_id": service.model_name,
        "model_sha": service.gateway.model.version,
        "model_dtype": "int8",
        "model_type": {
            "classifier": {
                "id2label": by_place,
                "label2id": {name: place for place, name in enumerate(names)},
            }
        },
        "max_concurrent_requests": service.settings.queue_max,
        "max_input_length": router.manifest.limits.tokens_max,
        "max_batch_tokens": service.settings.batch_max_tokens,
        "max_batch_requests": service.settings.batch_max_size,
        "max_client_batch_size": service.settings.request_queries_max,
        "auto_truncate": True,
        "tokenization_workers": 1,
        "version": __version__,
        "sha": None,
        "docker_label": None,
    }
    return Reply(wire.encode(found))


def refuse(error: GatewayError) -> Reply:
    """An error in that server's form: what cannot be read is 422."""
    code, kind = error.code, "backend"
    if isinstance(error, PayloadTooLarge):
        kind = "validation"
    elif isinstance(error, ValidationError):
        kind = "validation"
        code = 422 if code == 400 else code
    elif isinstance(error, Overloaded):
        kind = "overloaded"
    elif isinstance(error, ModelNotReady):
        kind = "unhealthy"
    elif code < 500:
        kind = "validation"
    return Reply(wire.encode({"error": error.message, "error_type": kind}), code)


_ERROR = an_object(("error", "error_type"), error=TEXT, error_type=TEXT)

ENDPOINTS = (
    Endpoint(
        path="/predict",
        methods=("POST",),
        wire="predict",
        read=read,
        refuse=refuse,
        documents={
            "/predict": {
                "post": operation(
                    "predict",
                    "Tiers with their scores, as text-embeddings-inference gives labels.",
                    body=an_object(("inputs",), inputs=ANY),
                    answer={"anyOf": [LABELS, a_list(LABELS)]},
                    error=_ERROR,
                    invalid=422,
                )
            }
        },
    ),
    Endpoint(
        path="/info",
        methods=("GET",),
        wire="predict",
        facts=info,
        refuse=refuse,
        documents={
            "/info": {
                "get": operation(
                    "info", "What classifies, and by which labels.", answer=an_object(), error=_ERROR
                )
            }
        },
    ),
    HEALTH,
)
