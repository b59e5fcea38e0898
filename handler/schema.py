"""The OpenAPI document: every path, every answer, errors included.

Litestar documents handlers by their return types; ours write bytes, and most of
what is worth documenting is errors and headers. So the document is put together
here, from the same structs that `wire.py` writes.
"""

from functools import cache
from typing import Any

import msgspec

from handler import __version__, errors, wire
from handler.settings import WIRES
from handler.wires import endpoints

REF = "#/components/schemas/{name}"
JSON = "application/json"

Headers = dict[str, tuple[str, dict[str, Any]]]  # name: (meaning, schema)

ID: Headers = {"x-request-id": ("The caller's id, or a made one.", {"type": "string"})}
LATENCY: Headers = {"x-router-latency": ("Milliseconds in the gateway, measured.", {"type": "string"})}
VERSION: Headers = {"x-model-version": ("The loaded model.", {"type": "string"})}
ANSWER: Headers = {
    **ID,
    **LATENCY,
    **VERSION,
    "x-cache": ("Which level answered.", {"type": "string", "enum": ["l1", "l2", "miss"]}),
    "server-timing": ("Milliseconds per stage.", {"type": "string"}),
    "x-query-route": ("The route: the name of the tier that is to answer.", {"type": "string"}),
    "x-query-label": ('The route\'s place, "0" the cheapest.', {"type": "string"}),
    "x-query-task": ("The task, or `unknown` where the model was not asked.", {"type": "string"}),
    "x-query-confidence": ("How sure the preferred route is.", {"type": "string"}),
    "x-query-reason": ("Why the route is not the one preferred, where it is not.", {"type": "string"}),
}
NDJSON = "application/x-ndjson"
# What a classify request can meet, and which of its answers carry a header of their own.
CHALLENGE: Headers = {"www-authenticate": ("How to send a key.", {"type": "string"})}
FAILURES: dict[int, Headers] = {
    400: {},
    401: CHALLENGE,
    405: {"allow": ("The methods that the path takes.", {"type": "string"})},
    413: {},
    415: {},
    429: {"retry-after": ("Seconds after which to try again.", {"type": "string"})},
    500: {},
    503: {"retry-after": ("Seconds after which to try again.", {"type": "string"})},
    504: {},
}


# The empty one first: keys are asked for only where an operator wants them.
SECURITY: list[dict[str, list[str]]] = [{}, {"bearer": []}, {"key": []}]


@cache
def document(wires: tuple[str, ...] = WIRES) -> bytes:
    """The document as JSON. Built once, when first asked for.

    wires  the names of those that are on
    """
    structs = (
        wire.ClassifyRequest,
        wire.ClassifyLine,
        wire.ClassifyAnswer,
        wire.ExplainedAnswer,
        wire.ManyAnswers,
        wire.ErrorAnswer,
        wire.Probe,
        wire.DeepReport,
    )
    _, schemas = msgspec.json.schema_components(structs, ref_template=REF)
    return wire.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "Intelligence Query Gateway",
                "version": __version__,
                "description": "Can a small model answer this query, or does it need a large one?",
            },
            "paths": {
                "/v1/query-classify": {"post": _classify()},
                **{path: item for endpoint in endpoints(wires) for path, item in endpoint.documents.items()},
                "/health/live": {
                    "get": _probe("live", "The process can answer.", "A lane is dead or hangs.")
                },
                "/health/ready": {
                    "get": _probe("ready", "A query would be answered.", "No model yet, or shutting down.")
                },
                "/health/deep": {
                    "get": {
                        "operationId": "deep",
                        "summary": "Everything an on-call engineer asks first.",
                        "security": SECURITY,
                        "responses": {"200": _response("The report.", "DeepReport", {}), "401": _unknown()},
                    }
                },
                "/metrics": {
                    "get": {
                        "operationId": "metrics",
                        "summary": "Metrics for Prometheus; OpenMetrics when asked for.",
                        "responses": {
                            "200": {"description": "The metrics.", "content": {"text/plain": {}}},
                            "401": _unknown(),
                        },
                        "security": SECURITY,
                    }
                },
                "/schema": {
                    "get": {
                        "operationId": "schema",
                        "summary": "This document.",
                        "responses": {
                            "200": {
                                "description": "OpenAPI 3.1.",
                                "content": {"application/vnd.oai.openapi+json": {}},
                            },
                        },
                    }
                },
            },
            "components": {
                "schemas": schemas,
                "securitySchemes": {
                    "bearer": {"type": "http", "scheme": "bearer"},
                    "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                },
            },
        }
    )


def _classify() -> dict[str, Any]:
    by_code: dict[int, list[str]] = {}
    for error in errors.ERRORS:
        by_code.setdefault(error.code, []).append((error.__doc__ or "").splitlines()[0])
    failures = {
        str(code): _response(" ".join(by_code[code]), "ErrorAnswer", {**ID, **LATENCY, **VERSION, **own})
        for code, own in FAILURES.items()
    }
    return {
        "operationId": "classify",
        "summary": "Route one query, or many.",
        "parameters": [
            _header("x-request-id", "Echoed in the answer and written in log lines.", {"type": "string"}),
            _header("traceparent", "W3C trace context; its trace id names the request.", {"type": "string"}),
            _header("x-request-timeout-ms", "A shorter time-out.", {"type": "number", "exclusiveMinimum": 0}),
        ],
        "security": SECURITY,
        "requestBody": {
            "required": True,
            "content": {
                JSON: {"schema": {"$ref": REF.format(name="ClassifyRequest")}},
                NDJSON: {"schema": {"$ref": REF.format(name="ClassifyLine")}},
            },
        },
        "responses": {"200": _answers(), **failures},
    }


def _answers() -> dict[str, Any]:
    """One answer, many for `texts`, or a line each for a stream."""
    found = _response("The decision, or one for each query that was asked.", "ClassifyAnswer", ANSWER)
    kinds = ("ClassifyAnswer", "ExplainedAnswer", "ManyAnswers")
    found["content"] = {
        JSON: {"schema": {"anyOf": [{"$ref": REF.format(name=kind)} for kind in kinds]}},
        NDJSON: {"schema": {"$ref": REF.format(name="ClassifyAnswer")}},
    }
    return found


def _unknown() -> dict[str, Any]:
    return _response("The key is missing or not known.", "ErrorAnswer", {**ID, **CHALLENGE})


def _probe(name: str, good: str, bad: str) -> dict[str, Any]:
    return {
        "operationId": name,
        "summary": good,
        "responses": {"200": _response(good, "Probe", {}), "503": _response(bad, "Probe", {})},
    }


def _response(text: str, struct: str, headers: Headers) -> dict[str, Any]:
    return {
        "description": text,
        "headers": {
            name: {"description": meaning, "schema": schema} for name, (meaning, schema) in headers.items()
        },
        "content": {JSON: {"schema": {"$ref": REF.format(name=struct)}}},
    }


def _header(name: str, text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "description": text, "schema": schema}
