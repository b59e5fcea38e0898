"""The shapes of other classification servers: text-embeddings-inference, Hugging Face, infinity, vLLM's router."""

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from handler import headers
from handler.errors import (
    GatewayError,
    MethodNotAllowed,
    ModelNotReady,
    NotFound,
    Overloaded,
    ValidationError,
)
from handler.gateway import Answer
from handler.policy import TIERS, safe_decision
from handler.wires import classify, huggingface, predict
from handler.wires.base import Request, Service, tier_scores

SERVICE = cast(Service, SimpleNamespace(model_name="tiny"))
# What is answered without the model: sure of the last tier.
SAFE = Answer(safe_decision("slow", 1, "overloaded"), None, None)


def request(body: Any, rest: str = "", method: str = "POST") -> Request:
    asked = headers.read([(b"content-type", b"application/json")])
    return Request(method, rest, json.dumps(body).encode(), lambda name: b"", asked)


def texts(module: Any, body: Any, rest: str = "") -> list[str]:
    return [query.text for query in module.read(request(body, rest), SERVICE).queries]


def answered(module: Any, body: Any, rest: str = "") -> Any:
    question = module.read(request(body, rest), SERVICE)
    return json.loads(question.write([SAFE] * len(question.queries)).body)


@pytest.mark.parametrize(
    ("module", "body", "rest", "wanted"),
    [
        (predict, {"inputs": "a"}, "", ["a"]),
        (predict, {"inputs": ["a"]}, "", ["a"]),
        (predict, {"inputs": [["a"], ["b"]], "truncate": True, "raw_scores": False}, "", ["a", "b"]),
        (huggingface, {"inputs": "a", "parameters": {"function_to_apply": "softmax"}}, "router", ["a"]),
        (huggingface, {"inputs": ["a", "b"]}, "tiny", ["a", "b"]),
        (classify, {"inputs": "a"}, "", ["a"]),
        (classify, {"input": ["a", "b"], "model": "m", "raw_scores": False}, "", ["a", "b"]),
        (classify, {"input": "a"}, "", ["a"]),
    ],
)
def test_texts_are_queries_in_order(module: Any, body: Any, rest: str, wanted: list[str]) -> None:
    assert texts(module, body, rest) == wanted


@pytest.mark.parametrize(
    ("module", "body", "rest"),
    [
        (predict, {}, ""),
        (predict, {"inputs": []}, ""),
        (predict, {"inputs": 1}, ""),
        (predict, {"inputs": ["a", "b"]}, ""),
        (predict, {"inputs": ["a", "b", "c"]}, ""),
        (predict, {"inputs": [["a", "b"]]}, ""),
        (predict, {"inputs": [[], ["a"]]}, ""),
        (predict, {"inputs": " "}, ""),
        (huggingface, {"inputs": {"text": "a"}}, "router"),
        (huggingface, {"inputs": "a", "parameters": [1]}, "router"),
        (huggingface, {"inputs": "a", "parameters": {"top_k": 0}}, "router"),
        (huggingface, {"inputs": "a", "parameters": {"top_k": True}}, "router"),
        (classify, {}, ""),
        (classify, {"inputs": "a", "input": ["a"]}, ""),
        (classify, {"inputs": ["a"]}, ""),
        (classify, {"input": [1]}, ""),
        (classify, {"input": ["a", ""]}, ""),
    ],
)
def test_what_is_no_text_is_refused(module: Any, body: Any, rest: str) -> None:
    with pytest.raises(ValidationError):
        texts(module, body, rest)


def test_predict_answers_one_text_flat() -> None:
    assert answered(predict, {"inputs": "a"})[0] == {"label": "slow", "score": 1.0}


def test_predict_answers_a_batch_with_a_list_each() -> None:
    assert [one[0]["label"] for one in answered(predict, {"inputs": [["a"], ["b"]]})] == ["slow", "slow"]


def test_hugging_faces_client_takes_the_first_of_a_list() -> None:
    assert answered(huggingface, {"inputs": "a"}, "router")[0][0]["label"] == "slow"


def test_top_k_bounds_the_labels() -> None:
    assert len(answered(huggingface, {"inputs": "a", "parameters": {"top_k": 1}}, "router")[0]) == 1


def test_vllms_router_gets_every_tier_once() -> None:
    labels = answered(classify, {"inputs": "a"})

    assert sorted(label["label"] for label in labels) == sorted(tier.name for tier in TIERS)
    assert sum(label["score"] for label in labels) == pytest.approx(1.0)


def test_infinity_gets_the_members_that_its_client_needs() -> None:
    told = answered(classify, {"input": ["a"], "model": "m"})

    assert (told["object"], told["model"], told["usage"]) == (
        "classify",
        "m",
        {"prompt_tokens": 0, "total_tokens": 0},
    )


def test_the_best_label_is_the_route_that_was_taken() -> None:
    scores = tier_scores(SAFE)

    assert max(scores, key=lambda name: scores[name]) == SAFE.decision.route


def test_another_models_name_is_not_found() -> None:
    with pytest.raises(NotFound):
        texts(huggingface, {"inputs": "a"}, "gpt-2")


def test_infinitys_list_of_models_names_its_owner() -> None:
    reply = huggingface.facts(request({}, method="GET"), SERVICE)

    assert reply
    (model,) = json.loads(reply.body)["data"]
    assert (model["id"], model["owned_by"], model["stats"]) == ("tiny", "infinity", {})


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_model_is_asked_with_post(method: str) -> None:
    with pytest.raises(MethodNotAllowed):
        huggingface.facts(request({}, "router", method), SERVICE)


@pytest.mark.parametrize(
    ("module", "error", "code", "kind"),
    [
        (predict, ValidationError("no"), 422, "validation"),
        (predict, Overloaded("no"), 429, "overloaded"),
        (predict, ModelNotReady("no"), 503, "unhealthy"),
        (classify, ValidationError("no"), 422, None),
        (classify, Overloaded("no"), 429, None),
        (huggingface, ValidationError("no"), 400, None),
        (huggingface, NotFound("no"), 404, None),
    ],
)
def test_an_error_has_the_form_of_the_wires_own_server(
    module: Any, error: GatewayError, code: int, kind: str | None
) -> None:
    reply = module.refuse(error)

    told = json.loads(reply.body)
    assert (reply.code, told["error"], told.get("error_type")) == (code, "no", kind)


def test_an_error_at_classify_has_the_detail_that_infinitys_client_reads() -> None:
    (detail,) = json.loads(classify.refuse(ValidationError("no")).body)["detail"]

    assert set(detail) == {"loc", "msg", "type"}
