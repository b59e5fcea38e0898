"""What the decision wires share: `GET /v1/models`, which both of their SDKs read, and OpenAI's form of an error."""

from datetime import UTC, datetime
from typing import Any

from handler import wire
from handler.errors import GatewayError, MethodNotAllowed, NotFound, Unauthenticated
from handler.wires.base import ROUTER, Endpoint, Reply, Request, Service, require_name
from handler.wires.documents import ANY, TEXT, a_list, an_object, operation

# When this edition was made: the SDKs want a date, and models carry none.
RELEASED = "2026-11-26"
_CREATED = int(datetime.fromisoformat(RELEASED).replace(tzinfo=UTC).timestamp())
OWNER = "query-gateway"
DESCRIPTION = "Tells whether a small model can answer a query, or a large one is needed."


def models(request: Request, service: Service) -> Reply:
    """All models, or the one named below the path. Raises `NotFound` or `MethodNotAllowed`."""
    if request.method != "GET":
        if request.rest:  # the first protocol of Open Inference servers asks there, and is not spoken here
            raise NotFound("nothing can be asked here; GET lists the models")
        raise MethodNotAllowed("this path takes GET", headers=(("allow", "GET"),))
    if request.rest:
        require_name(request.rest, service)
        return Reply(wire.encode(_openai(request.rest)))
    names = dict.fromkeys((service.model_name, ROUTER))
    return Reply(
        wire.encode(
            {
                "object": "list",
                "data": [_openai(name) for name in names],
                "models": [
                    {"name": name, "description": DESCRIPTION, "release_date": RELEASED} for name in names
                ],
            }
        )
    )


def _openai(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": OWNER}


def refuse(error: GatewayError) -> Reply:
    """An error in OpenAI's form."""
    kind = "invalid_request_error"
    if error.code == 429:
        kind = "rate_limit_error"
    elif error.code >= 500:
        kind = "server_error"
    code = "invalid_api_key" if isinstance(error, Unauthenticated) else error.status.lower()
    body = {"message": error.message, "type": kind, "param": None, "code": code}
    return Reply(wire.encode({"error": body}), error.code)


ERROR = an_object(("error",), error=an_object(("message", "type", "param", "code"), message=TEXT))
ENDPOINT = Endpoint(
    path="/v1/models/*",
    methods=(),
    wire="decisions",
    facts=models,
    refuse=refuse,
    documents={
        "/v1/models": {
            "get": operation(
                "models",
                "The models that may be named.",
                answer=an_object(("object", "data", "models"), data=a_list(ANY), models=a_list(ANY)),
                error=ERROR,
            )
        },
        "/v1/models/{name}": {
            "get": operation(
                "model", "One model.", answer=an_object(("id",), id=TEXT), error=ERROR, below=("name",)
            )
        },
    },
)
