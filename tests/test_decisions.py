"""`/v1/decisions`: answers in order, refusals among them, and OpenAI's form of an error."""

import asyncio
from typing import Any

import pytest

from handler.wires.messages import conversation
from tests import virtual
from tests.fakes import WholeGateway
from tests.wired import Reply, Wired

PATH = "/v1/decisions"
TIERS = {"type": "choice", "name": "tier", "choices": [{"value": "fast"}, {"value": "slow"}]}
NEEDS = {"type": "predicate", "name": "needs_large", "instructions": "It needs a large model."}
LEVELS = {"type": "score", "levels": [{"label": "easy"}, {"label": "middling"}, {"label": "hard"}]}
SPAM = {"type": "predicate", "name": "spam", "instructions": "It is spam."}


def body(*questions: Any, input: Any = "an ask", **more: Any) -> dict[str, Any]:
    return {"model": "router", "input": input, "questions": list(questions)} | more


def asked_of(sent: Any, **headers: str) -> Reply:
    async def main() -> Reply:
        async with WholeGateway() as whole:
            return await Wired(whole).post(PATH, sent, **headers)

    return virtual.run(main())


def test_a_choice_between_tiers_is_the_gateways_decision() -> None:
    reply = asked_of(body(TIERS))

    (answer,) = reply.json["answers"]
    likeliest = max(answer["probabilities"], key=lambda option: option["probability"])
    assert answer["choice"] == likeliest["value"] == reply.headers["x-query-route"]


def test_answers_stand_in_the_order_of_the_questions_with_refusals_among_them() -> None:
    pets = {"type": "choice", "choices": [{"value": "cat"}, {"value": "dog"}]}

    told = asked_of(body(SPAM, TIERS, pets, NEEDS, LEVELS, {"type": "ranking", "name": "r"})).json["answers"]

    kinds = [(answer["type"], answer["name"]) for answer in told]
    assert kinds == [
        ("refusal", "spam"),
        ("choice", "tier"),
        ("refusal", None),
        ("predicate", "needs_large"),
        ("score", None),
        ("refusal", "r"),
    ]


def test_every_member_of_usage_is_there() -> None:
    usage = asked_of(body(TIERS)).json["usage"]

    assert set(usage) == {
        "input_tokens",
        "input_tokens_details",
        "output_tokens",
        "output_tokens_details",
        "total_tokens",
    }
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert set(usage["input_tokens_details"]) == {"cache_write_tokens", "cached_tokens"}
    assert set(usage["output_tokens_details"]) == {"reasoning_tokens"}


def test_a_score_is_the_mean_of_its_levels() -> None:
    (answer,) = asked_of(body(LEVELS)).json["answers"]

    mean = sum(level["value"] * level["probability"] for level in answer["probabilities"])
    assert answer["score"] == pytest.approx(mean, abs=1e-3)
    assert [level["label"] for level in answer["probabilities"]] == ["easy", "middling", "hard"]
    assert sum(level["probability"] for level in answer["probabilities"]) == pytest.approx(1)


def test_a_choice_of_true_and_false_is_not_one_of_their_names() -> None:
    truths = {"type": "choice", "choices": [{"value": True}, {"value": "fast"}]}

    assert asked_of(body(truths)).json["answers"] == [{"type": "refusal", "name": None}]


def test_a_conversation_in_one_text_part_is_the_conversation() -> None:
    talk = '[{"role": "system", "content": "be nice"}, {"role": "user", "content": "write an essay"}]'
    part = [{"role": "user", "content": [{"type": "input_text", "text": talk}]}]

    async def main() -> None:
        async with WholeGateway() as whole:
            wired = Wired(whole)
            dumped = await wired.post(PATH, body(TIERS, input=part))
            plain = [
                {"role": "system", "content": "be nice"},
                {"role": "user", "content": "write an essay"},
            ]
            await whole.gateway.classify(conversation(plain).text, timeout_s=1)

            assert dumped.status == 200
            assert len(whole.router.batches) == 1

    virtual.run(main())


IMAGE = [{"role": "user", "content": [{"type": "input_image", "image_url": "data:…"}]}]
REFUSED: dict[str, Any] = {
    "no questions": body(),
    "too many questions": body(*[NEEDS] * 401),
    "a question that is none": body("tier"),
    "a question without a type": body({"name": "tier"}),
    "a name that is none": body({"type": "predicate", "name": 7}),
    "no choices": body({"type": "choice"}),
    "a choice without a value": body({"type": "choice", "choices": [{"label": "fast"}]}),
    "too many choices": body({"type": "choice", "choices": [{"value": str(n)} for n in range(256)]}),
    "levels that are no objects": body({"type": "score", "levels": ["easy"]}),
    "no input": body(TIERS, input=None),
    "an input that is none": body(TIERS, input=7),
    "an item that is none": body(TIERS, input=[7]),
    "an image": body(TIERS, input=IMAGE),
    "a stream": body(TIERS, stream=True),
    "no JSON": b"{",
    "a list": b"[]",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_in_openais_form(name: str) -> None:
    reply = asked_of(REFUSED[name])

    assert reply.status == 400
    error = reply.json["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"


def test_another_content_type_keeps_its_status() -> None:
    assert asked_of(body(TIERS), content_type="text/plain").status == 415


def test_an_overloaded_gateway_answers_with_the_last_tier() -> None:
    async def main() -> None:
        async with WholeGateway(queue_max=1, run_s=1.0) as whole:
            wired = Wired(whole)
            crowd = [wired.post(PATH, body(TIERS, NEEDS, input=f"ask {n}")) for n in range(9)]
            replies = await asyncio.gather(*crowd)

            shed = [reply for reply in replies if reply.headers.get("x-query-reason") == "overloaded"]
            assert shed
            assert {reply.status for reply in replies} == {200}
            assert {reply.json["answers"][0]["choice"] for reply in shed} == {"slow"}
            assert {reply.json["answers"][1]["probability"] for reply in shed} == {1}
            assert wired.count("fallbacks_total", wire="decisions", reason="overloaded") == len(shed)

    virtual.run(main())


# Who may ask

KEYS = "2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683"  # of "key"


def with_keys(method: str, path: str, **headers: str) -> Reply:
    async def main() -> Reply:
        async with WholeGateway() as whole:
            return await Wired(whole, keys=KEYS).ask(method, path, body(TIERS), headers)

    return virtual.run(main())


def test_a_known_key_is_admitted_though_a_foreign_one_stands_beside_it() -> None:
    assert with_keys("POST", PATH, authorization="Bearer foreign", x_api_key="key").status == 200


@pytest.mark.parametrize(("method", "path"), [("POST", PATH), ("GET", "/v1/models")])
def test_an_unknown_key_is_refused_in_openais_form(method: str, path: str) -> None:
    reply = with_keys(method, path, authorization="Bearer other")

    assert (reply.status, reply.json["error"]["code"]) == (401, "invalid_api_key")


# The list of models


def models(path: str = "/v1/models", method: str = "GET") -> Reply:
    async def main() -> Reply:
        async with WholeGateway() as whole:
            wired = Wired(whole)
            reply = await wired.ask(method, path, b"", {})
            assert wired.count("requests_total", status="success", error_type="", code="200") == 0
            return reply

    return virtual.run(main())


def test_one_list_of_models_holds_what_either_client_insists_on() -> None:
    told = models().json

    assert told["object"] == "list"
    assert all(set(one) == {"id", "object", "created", "owned_by"} for one in told["data"])
    assert all(set(one) == {"name", "description", "release_date"} for one in told["models"])
    assert (
        [one["id"] for one in told["data"]] == [one["name"] for one in told["models"]] == ["fake", "router"]
    )


@pytest.mark.parametrize("name", ["fake", "router"])
def test_a_model_is_found_by_either_of_its_names(name: str) -> None:
    assert models(f"/v1/models/{name}").json["id"] == name


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models/gpt-2", 404),
        ("POST", "/v1/models/router:predict", 404),
        ("POST", "/v1/models", 405),
    ],
)
def test_what_is_no_model_of_ours_is_refused(method: str, path: str, status: int) -> None:
    reply = models(path, method)

    assert (reply.status, set(reply.json["error"])) == (status, {"message", "type", "param", "code"})
