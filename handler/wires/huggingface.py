"""`POST /models/{name}`: what huggingface_hub's `InferenceClient.text_classification` asks.

    {"inputs": "…", "parameters": {"top_k": 2}} → [[{"label", "score"}, …]]

The client takes the first of the outer list. Several texts in `inputs` have a list each.
"""

from collections.abc import Sequence

from handler import wire
from handler.errors import GatewayError, MethodNotAllowed, ValidationError
from handler.gateway import Answer
from handler.wires.base import Endpoint, Query, Question, Reply, Request, Service, answers, require_name
from handler.wires.documents import ANY, LABELS, a_list, an_object, operation
from handler.wires.labels import ERROR, MODELS_DOCUMENT, labels, models, refuse, text


def read(request: Request, service: Service) -> Question:
    """Decode a request. Raises `NotFound` for another model's name, and `ValidationError`."""
    require_name(request.rest, service)
    body = request.members()
    inputs = body.get("inputs")
    texts = [text(one, "inputs") for one in (inputs if isinstance(inputs, list) else [inputs])]
    parameters = body.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise ValidationError("parameters must be an object")
    most = (parameters or {}).get("top_k")
    if most is not None and (not isinstance(most, int) or isinstance(most, bool) or most < 1):
        raise ValidationError("top_k must be a whole number, at least 1")

    def write(outcomes: Sequence[Answer | GatewayError]) -> Reply:
        return Reply(wire.encode([labels(answer, most) for answer in answers(outcomes)]))

    return Question([Query(one) for one in texts], write)


def facts(request: Request, service: Service) -> Reply | None:
    """Nothing but decisions is asked here, but for infinity_client's list of models, at `GET /models`."""
    allowed = "POST" if request.rest else "GET"
    if request.method != allowed:
        raise MethodNotAllowed(f"this path takes {allowed}", headers=(("allow", allowed),))
    if request.rest:
        return None
    return models(request, service)


ENDPOINTS = (
    Endpoint(
        path="/models/*",
        methods=(),
        wire="huggingface",
        read=read,
        facts=facts,
        refuse=refuse,
        documents={
            "/models/{name}": {
                "post": operation(
                    "huggingface",
                    "Tiers with their scores, as huggingface_hub asks for labels.",
                    body=an_object(("inputs",), inputs=ANY),
                    answer=a_list(LABELS),
                    error=ERROR,
                    below=("name",),
                )
            },
            "/models": {"get": MODELS_DOCUMENT},
        },
    ),
)
