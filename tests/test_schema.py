"""The OpenAPI document: sound, complete, and true to what is written."""

import inspect
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from handler import __version__, errors, wire
from handler.policy import Decision
from handler.schema import document

# A code that no documented path answers with, and why.
NOWHERE = {
    404: "an unknown path has no place in a document of paths",
}
METHODS = {"get", "post", "put", "delete", "patch", "head", "options", "trace"}

Document = dict[str, Any]


@pytest.fixture(scope="module")
def schema() -> Document:
    decoded: Document = msgspec.json.decode(document())
    return decoded


def operations(schema: Document) -> Iterator[tuple[str, str, Document]]:
    for path, item in schema["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def nodes(value: Any) -> Iterator[Document]:
    """Every object within a document."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for member in value:
            yield from nodes(member)


def resolved(schema: Document, ref: str) -> Document:
    found: Any = schema
    assert ref.startswith("#/")
    for part in ref[2:].split("/"):
        found = found[part]
    assert isinstance(found, dict)
    return found


def accepts(schema: Document, spec: Document, value: Any) -> bool:
    """Whether a value fits a schema: as much of JSON Schema as the document uses."""
    if "$ref" in spec:
        return accepts(schema, resolved(schema, spec["$ref"]), value)
    if "anyOf" in spec:
        return any(accepts(schema, each, value) for each in spec["anyOf"])
    if "enum" in spec:
        return value in spec["enum"]
    types: dict[str, tuple[type, ...]] = {
        "object": (dict,), "array": (list,), "string": (str,), "integer": (int,), "number": (int, float),
        "boolean": (bool,), "null": (type(None),),
    }  # fmt: skip
    kinds = [spec["type"]] if isinstance(spec["type"], str) else spec["type"]
    if not any(isinstance(value, types[kind]) for kind in kinds):
        return False
    if isinstance(value, dict):
        members: Document = spec["properties"]
        return set(spec.get("required", ())) <= set(value) <= set(members) and all(
            accepts(schema, members[name], member) for name, member in value.items()
        )
    if isinstance(value, list):
        return all(accepts(schema, spec["items"], member) for member in value)
    return not isinstance(value, str) or len(value) >= spec.get("minLength", 0)


def test_the_document_is_openapi_3_1(schema: Document) -> None:
    assert re.fullmatch(r"3\.1\.\d+", schema["openapi"])
    assert schema["info"]["title"]
    assert schema["info"]["version"] == __version__


def test_the_document_has_every_path_of_the_contract(schema: Document) -> None:
    asked = {(path, method) for path, method, _ in operations(schema)}

    assert asked == {
        ("/v1/query-classify", "post"),
        ("/health/live", "get"),
        ("/health/ready", "get"),
        ("/health/deep", "get"),
        ("/metrics", "get"),
        ("/schema", "get"),
        ("/v1/systemone", "post"),
        ("/v1/decisions", "post"),
        ("/v1/models", "get"),
        ("/v1/models/{name}", "get"),
        ("/predict", "post"),
        ("/info", "get"),
        ("/models", "get"),
        ("/models/{name}", "post"),
        ("/classify", "post"),
        ("/v2/models/{name}/infer", "post"),
        ("/v2/models/{name}", "get"),
        ("/health", "get"),
        ("/v2/health/live", "get"),
        ("/v2/health/ready", "get"),
        ("/v1/route", "post"),
        ("/v1/route/{path}", "post"),
    }


def test_a_wire_that_is_off_is_not_in_the_document() -> None:
    paths = msgspec.json.decode(document(("decisions",)))["paths"]

    assert "/v1/decisions" in paths
    assert not {"/v1/systemone", "/predict", "/v1/route"} & set(paths)


def test_every_operation_is_sound(schema: Document) -> None:
    for path, method, operation in operations(schema):
        assert path.startswith("/")
        assert method in METHODS
        assert operation["operationId"]
        assert operation["summary"]
        assert operation["responses"]


def test_every_response_is_sound(schema: Document) -> None:
    for _, _, operation in operations(schema):
        for code, response in operation["responses"].items():
            assert re.fullmatch(r"[1-5]\d\d", code)
            assert response["description"]
            assert response["content"]
            assert all(header["schema"] for header in response.get("headers", {}).values())


def test_every_parameter_is_sound(schema: Document) -> None:
    for _, _, operation in operations(schema):
        for parameter in operation.get("parameters", []):
            assert parameter["in"] in {"query", "header", "path", "cookie"}
            assert parameter["name"]
            assert parameter["schema"]


def test_no_two_operations_have_one_id(schema: Document) -> None:
    ids = [operation["operationId"] for _, _, operation in operations(schema)]

    assert len(set(ids)) == len(ids)


def test_every_reference_leads_somewhere(schema: Document) -> None:
    refs = [node["$ref"] for node in nodes(schema) if "$ref" in node]

    assert refs
    assert all(resolved(schema, ref) for ref in refs)


def test_every_struct_that_crosses_http_is_a_component(schema: Document) -> None:
    structs = {
        name
        for name, kind in inspect.getmembers(wire, inspect.isclass)
        if issubclass(kind, msgspec.Struct) and kind.__module__ == wire.__name__
    }

    assert set(schema["components"]["schemas"]) == structs


@pytest.mark.parametrize("error", errors.ERRORS)
def test_every_error_has_its_code_documented(error: type[errors.GatewayError], schema: Document) -> None:
    documented = schema["paths"]["/v1/query-classify"]["post"]["responses"]

    assert (str(error.code) in documented) != (error.code in NOWHERE)


@pytest.mark.parametrize("error", [error for error in errors.ERRORS if error.code not in NOWHERE])
def test_every_error_is_documented_by_its_meaning(error: type[errors.GatewayError], schema: Document) -> None:
    response = schema["paths"]["/v1/query-classify"]["post"]["responses"][str(error.code)]

    assert (error.__doc__ or "").splitlines()[0] in response["description"]


@pytest.mark.parametrize("error", errors.ERRORS)
def test_every_error_that_is_written_fits_the_document(
    error: type[errors.GatewayError], schema: Document
) -> None:
    written = msgspec.json.decode(wire.write_error(error("seen", details=("a",))))

    assert accepts(schema, {"$ref": "#/components/schemas/ErrorAnswer"}, written)


@pytest.mark.parametrize("low_confidence", [False, True])
@pytest.mark.parametrize("truncated", [False, True])
def test_every_answer_that_is_written_fits_the_document(
    low_confidence: bool, truncated: bool, schema: Document
) -> None:
    reason = "low_confidence" if low_confidence else None
    decision = Decision("slow", "1", "coding", 0.6, 0.4, 0.1, reason, truncated)

    written = msgspec.json.decode(wire.write_answer(decision))

    assert accepts(schema, {"$ref": "#/components/schemas/ClassifyAnswer"}, written)


@pytest.mark.parametrize("probe", [wire.Probe("ready"), wire.Probe("dead", "a lane hangs")])
def test_every_probe_that_is_written_fits_the_document(probe: wire.Probe, schema: Document) -> None:
    written = msgspec.json.decode(wire.encode(probe))

    assert accepts(schema, {"$ref": "#/components/schemas/Probe"}, written)


@pytest.mark.parametrize(
    "wrong", [{"label": 0}, {"label": "10"}, {"route": 1}, {"reason": "tired"}, {"extra": 1}]
)
def test_an_answer_of_another_shape_does_not_fit_the_document(wrong: Document, schema: Document) -> None:
    answer = {"label": "0", "route": "fast", "task": "coding", "confidence": 0.9} | wrong

    assert not accepts(schema, {"$ref": "#/components/schemas/ClassifyAnswer"}, answer)


def test_a_text_must_not_be_empty(schema: Document) -> None:
    request = {"$ref": "#/components/schemas/ClassifyRequest"}

    assert accepts(schema, request, {"text": "a"})
    assert not accepts(schema, request, {"text": ""})


def test_the_answers_own_headers_are_documented(schema: Document) -> None:
    headers = schema["paths"]["/v1/query-classify"]["post"]["responses"]["200"]["headers"]

    decision = {f"x-query-{name}" for name in ("route", "label", "task", "confidence", "reason")}
    assert {"x-request-id", "x-router-latency", "x-cache", "server-timing", "x-model-version"} == (
        set(headers) - decision
    )
    assert decision <= set(headers)


@pytest.mark.parametrize(
    ("code", "header"), [("405", "allow"), ("429", "retry-after"), ("503", "retry-after")]
)
def test_an_errors_own_header_is_documented(code: str, header: str, schema: Document) -> None:
    response = schema["paths"]["/v1/query-classify"]["post"]["responses"][code]

    assert header in response["headers"]


def test_the_header_that_shortens_the_timeout_is_documented(schema: Document) -> None:
    parameters = schema["paths"]["/v1/query-classify"]["post"]["parameters"]

    assert "x-request-timeout-ms" in {parameter["name"] for parameter in parameters}
