"""The Open Inference Protocol: what its clients send, in JSON and in binary, and what they read."""

import json
import struct
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler import headers
from handler.errors import DeadlineExceeded, GatewayError, MethodNotAllowed, NotFound, ValidationError
from handler.gateway import Answer
from handler.policy import Decision
from handler.wires import v2
from handler.wires.base import Request, Service
from tests import virtual
from tests.fakes import WholeGateway
from tests.wired import Wired

SERVICE = cast(
    Service, SimpleNamespace(model_name="tiny", gateway=SimpleNamespace(model=SimpleNamespace(loaded=True)))
)
FAST = Answer(Decision("fast", "0", "translation", 0.91, 0.09, 0.2, None), None, None)
SLOW = Answer(Decision("slow", "1", "coding", 0.8, 0.8, 0.5, None), None, None)


def request(
    body: Any = b"", rest: str = "models/router/infer", method: str = "POST", length: int | None = None
) -> Request:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    found = {} if length is None else {v2.LENGTH_HEADER: str(length).encode()}
    return Request(method, rest, raw, lambda name: found.get(name, b""), headers.read(found.items()))


def tensor(*texts: str, **more: Any) -> dict[str, Any]:
    return {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": list(texts)} | more


def binary(*texts: bytes, **more: Any) -> tuple[bytes, int]:
    """A body with its tensor in binary, and the length of its JSON."""
    tail = b"".join(struct.pack("<I", len(text)) + text for text in texts)
    parameters = {"binary_data_size": len(tail)}
    inputs = [{"name": "text", "shape": [len(texts)], "datatype": "BYTES", "parameters": parameters}]
    head = json.dumps({"inputs": inputs} | more).encode()
    return head + tail, len(head)


def asked(body: Any, length: int | None = None) -> list[str]:
    return [query.text for query in v2.read(request(body, length=length), SERVICE).queries]


def test_texts_in_json_are_queries_in_order() -> None:
    assert asked({"inputs": [tensor("a", "b")]}) == ["a", "b"]


def test_a_row_for_each_text_is_as_good_as_a_flat_tensor() -> None:
    assert asked({"inputs": [tensor(shape=[2, 1], data=[["a"], ["b"]])]}) == ["a", "b"]


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=8))
def test_texts_in_binary_are_the_same_queries_as_in_json(texts: list[str]) -> None:
    texts = [text.encode(errors="replace").decode() for text in texts]

    body, length = binary(*(text.encode() for text in texts))

    assert asked(body, length) == asked({"inputs": [tensor(*texts)]}) == texts


WRONG = {
    "no inputs": {},
    "no object": [],
    "two inputs": {"inputs": [tensor("a"), tensor("b")]},
    "another name": {"inputs": [tensor("a", name="prompt")]},
    "another datatype": {"inputs": [tensor("a", datatype="FP32")]},
    "a wrong shape": {"inputs": [tensor("a", shape=[2])]},
    "a shape of another rank": {"inputs": [tensor("a", shape=[1, 1, 1])]},
    "no texts": {"inputs": [tensor()]},
    "a blank text": {"inputs": [tensor("a", " ")]},
    "numbers": {"inputs": [tensor("a", data=[1])]},
    "no data": {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES"}]},
    "shared memory": {"inputs": [tensor("a", parameters={"shared_memory_region": "r"})]},
    "an unknown output": {"inputs": [tensor("a")], "outputs": [{"name": "colour"}]},
    "an output twice": {"inputs": [tensor("a")], "outputs": [{"name": "label"}, {"name": "label"}]},
    "a classification": {
        "inputs": [tensor("a")],
        "outputs": [{"name": "label", "parameters": {"classification": 2}}],
    },
    "a timeout below zero": {"inputs": [tensor("a")], "parameters": {"timeout": -1}},
    "a timeout that is no number": {"inputs": [tensor("a")], "parameters": {"timeout": "1"}},
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_read_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        asked(WRONG[name])


@pytest.mark.parametrize("length", [0, 5, 10_000])
def test_a_length_that_does_not_fit_the_body_is_refused(length: int) -> None:
    body, _ = binary(b"a")

    with pytest.raises(ValidationError):
        asked(body, length)


@given(st.binary(max_size=60))
def test_any_bytes_behind_the_json_are_texts_or_refused(tail: bytes) -> None:
    parameters = {"binary_data_size": len(tail)}
    head = json.dumps(
        {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "parameters": parameters}]}
    )

    try:
        found = asked(head.encode() + tail, len(head))
    except ValidationError:
        return

    assert len(found) == 1


def test_a_message_never_repeats_the_text() -> None:
    with pytest.raises(ValidationError) as refused:
        asked({"inputs": [tensor("my secret", shape=[7])]})

    assert "secret" not in str(refused.value)


def test_the_timeout_among_the_parameters_is_in_microseconds() -> None:
    body = {"inputs": [tensor("a")], "parameters": {"timeout": 250_000}}

    assert v2.read(request(body), SERVICE).timeout_s == 0.25


def test_a_timeout_of_zero_is_none() -> None:
    body = {"inputs": [tensor("a")], "parameters": {"timeout": 0}}

    assert v2.read(request(body), SERVICE).timeout_s is None


def test_all_outputs_are_answered_in_json_where_none_is_named() -> None:
    reply = v2.read(request({"id": "7", "inputs": [tensor("a", "b")]}), SERVICE).write([FAST, SLOW])

    told = json.loads(reply.body)
    assert {output["name"]: output["data"] for output in told["outputs"]} == {
        "label": ["0", "1"],
        "route": ["fast", "slow"],
        "task": ["translation", "coding"],
        "confidence": [0.91, 0.8],
    }
    assert (told["id"], told["model_name"]) == ("7", "router")


def test_outputs_in_binary_stand_behind_the_json_in_their_order() -> None:
    outputs = [
        {"name": "confidence"},
        {"name": "route"},
        {"name": "label", "parameters": {"binary_data": False}},
    ]
    body = {"inputs": [tensor("a", "b")], "outputs": outputs, "parameters": {"binary_data_output": True}}

    reply = v2.read(request(body), SERVICE).write([FAST, SLOW])

    length = int(dict(reply.extra)[v2.LENGTH_HEADER])
    tail = reply.body[length:]
    assert struct.unpack("<2f", tail[:8]) == pytest.approx((0.91, 0.8))
    assert tail[8:] == b"\x04\0\0\0fast\x04\0\0\0slow"
    assert json.loads(reply.body[:length])["outputs"][2]["data"] == ["0", "1"]


def test_one_failure_is_the_whole_requests() -> None:
    question = v2.read(request({"inputs": [tensor("a", "b")]}), SERVICE)

    with pytest.raises(DeadlineExceeded):
        question.write([FAST, DeadlineExceeded("late")])


@pytest.mark.parametrize("texts", [("a",), ("a", "b")])
@pytest.mark.parametrize(("parameters", "callers"), [({"timeout": 100_000}, 1), ({}, 0)])
def test_only_a_timeout_that_the_request_names_is_the_callers(
    parameters: dict[str, Any], callers: int, texts: tuple[str, ...]
) -> None:
    async def main() -> tuple[int, float, float]:
        async with WholeGateway(run_s=5.0) as whole:
            body = {"inputs": [tensor(*texts)], "parameters": parameters}
            reply = await Wired(whole).post("/v2/models/router/infer", body)
            late = whole.count("requests_total", status="error", error_type="TimeoutError", code="504")
            return reply.status, late, whole.count("caller_deadlines_total", code="504")

    assert virtual.run(main()) == (504, 1, callers)


@pytest.mark.parametrize("rest", ["models/router", "models/tiny", "models/router/versions/1"])
def test_the_model_is_described_under_its_names(rest: str) -> None:
    reply = v2.facts(request(method="GET", rest=rest), SERVICE)

    assert reply
    told = json.loads(reply.body)
    assert [one["name"] for one in told["inputs"]] == ["text"]
    assert {one["name"] for one in told["outputs"]} == set(v2.OUTPUTS)


@pytest.mark.parametrize(
    "rest", ["models/gpt-2", "models/router/versions/2", "models/router/more", "models", "x"]
)
def test_what_is_not_here_is_not_found(rest: str) -> None:
    with pytest.raises(NotFound):
        v2.facts(request(method="GET", rest=rest), SERVICE)


def test_health_is_told_in_json() -> None:
    replies = [
        v2.facts(request(method="GET", rest=rest), SERVICE) for rest in ("health/live", "health/ready")
    ]

    assert [json.loads(reply.body) for reply in replies if reply] == [{"live": True}, {"ready": True}]


def test_another_method_is_told_what_is_allowed() -> None:
    with pytest.raises(MethodNotAllowed):
        v2.facts(request(method="DELETE", rest="models/router"), SERVICE)


def test_an_error_is_one_member_that_the_clients_read() -> None:
    error: GatewayError = ValidationError("expected a text")

    reply = v2.refuse(error)

    assert (json.loads(reply.body), reply.code) == ({"error": "expected a text"}, 400)
