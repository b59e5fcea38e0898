"""How OpenAPI tells of the wires: path items put together from few words.

The bodies are other people's; they are described as far as we read them.
"""

from typing import Any

JSON = "application/json"
TEXT: dict[str, Any] = {"type": "string"}
NUMBER: dict[str, Any] = {"type": "number"}
ANY: dict[str, Any] = {}

# The empty one first: keys are asked for only where an operator wants them.
_SECURITY: list[dict[str, list[str]]] = [{}, {"bearer": []}, {"key": []}]
_FAILURES = {
    401: "A key is needed, and the one given is not known.",
    404: "There is nothing at this path.",
    405: "The path exists, but not for this method.",
    413: "The body is over MAX_BODY_BYTES.",
    415: "The body is not declared as something that is read here.",
    429: "The queue is full.",
    500: "A bug or a broken machine.",
    503: "No model is loaded.",
    504: "The query's time ran out before its answer was ready.",
}


def an_object(required: tuple[str, ...] = (), **members: Any) -> dict[str, Any]:
    """An object with these members among others."""
    return {"type": "object", "properties": members, "required": list(required)}


def a_list(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


LABELS = a_list(an_object(("label", "score"), label=TEXT, score=NUMBER))


def operation(
    name: str,
    summary: str,
    *,
    answer: dict[str, Any],
    error: dict[str, Any],
    body: dict[str, Any] | None = None,
    invalid: int = 400,
    below: tuple[str, ...] = (),
) -> dict[str, Any]:
    """One operation.

    answer, error, body  JSON Schemas; without `body` nothing is sent
    invalid              the status of a body that cannot be read
    below                names of the path's parameters
    """
    meanings = {invalid: "The request cannot be read, or not be answered."} | _FAILURES
    found: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "security": _SECURITY,
        "parameters": [{"name": one, "in": "path", "required": True, "schema": TEXT} for one in below],
        "responses": {
            "200": _response("The answer.", answer),
            **{str(code): _response(meaning, error) for code, meaning in sorted(meanings.items())},
        },
    }
    if body is not None:
        found["requestBody"] = {"required": True, "content": {JSON: {"schema": body}}}
    return found


def _response(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": text, "content": {JSON: {"schema": schema}}}
