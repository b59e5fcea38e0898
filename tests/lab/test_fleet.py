"""A fleet loses nothing, and its judge lets nothing wrong pass."""

import itertools
import json
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from handler.offline import LocalRouter
from lab.drive import request
from lab.fleet import scenes
from lab.fleet.fleet import GATEWAYS, LISTENER, Fleet, recipe_for
from lab.fleet.judge import Asked, Judge, renamed, versions
from lab.fleet.shared import Shared
from lab.fleet.traffic import zipf, zipf_requests
from lab.pages import Skipped
from lab.redis_server import binary
from tests.models import make_toy

TEXT = "please coding this"


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path]:
    old = make_toy(tmp_path / "old")
    return old, renamed(old, tmp_path / "new")


def answered(model: Path, changes: dict[str, object] | None = None, *, named: Path | None = None) -> Asked:
    """A gateway's answer to TEXT, as this model gives it; `named` is the model that it says it is from."""
    decision = LocalRouter.open(model).classify_one(TEXT)
    said = {"label": decision.label, "route": decision.route, "task": decision.task}
    body = said | {"confidence": round(decision.confidence, 4)} | (changes or {})
    version = LocalRouter.open(named or model).router.version
    head = f"HTTP/1.1 200 OK\r\nx-model-version: {version}\r\nx-cache: miss\r\n\r\n"
    return Asked(request(TEXT), head.encode() + json.dumps(body).encode(), 0.0, 0.001)


def test_a_models_own_answer_is_right(models: tuple[Path, Path]) -> None:
    judge = Judge(models)

    assert judge.wrong([answered(model) for model in models]) == []


@pytest.mark.parametrize("change", [{"task": "reasoning"}, {"label": "0"}, {"confidence": 0.5}])
def test_an_answer_that_the_model_would_not_give_is_wrong(
    models: tuple[Path, Path], change: dict[str, object]
) -> None:
    assert len(Judge(models).wrong([answered(models[0], change)])) == 1


def test_an_answer_of_one_model_under_the_name_of_the_other_is_wrong(models: tuple[Path, Path]) -> None:
    old, new = models

    assert len(Judge(models).wrong([answered(old, named=new), answered(new, named=old)])) == 2


def test_an_answer_of_an_unknown_model_is_wrong(models: tuple[Path, Path]) -> None:
    old, new = models

    assert Judge([old]).wrong([answered(new)]) == [f"an answer names {LocalRouter.open(new).router.version}"]


def test_a_refusal_is_not_judged(models: tuple[Path, Path]) -> None:
    refused = Asked(request(TEXT), b"HTTP/1.1 429 Too Many Requests\r\n\r\n{}", 0.0, 0.1)

    assert Judge(models).wrong([refused, Asked(request(TEXT), b"", 0.0, 0.1)]) == []


def test_answers_are_counted_by_the_model_that_they_name(models: tuple[Path, Path]) -> None:
    judge = Judge(models)

    counted = versions([answered(models[0]), answered(models[0]), answered(models[1])])

    assert counted == dict(zip(judge.versions, (2, 1), strict=True))


def test_the_recipe_takes_the_runs_addresses_and_as_many_gateways_as_there_are() -> None:
    made = re.sub(r"^\s*#.*$", "", recipe_for(1234, [5678, 5679]), flags=re.M)

    assert not any(address in made for address in (LISTENER, *GATEWAYS))
    assert re.findall(r"^ *server (\S+) (\S+)", made, flags=re.M) == [
        ("gateway-1", "127.0.0.1:5678"),
        ("gateway-2", "127.0.0.1:5679"),
        ("anyway-1", "127.0.0.1:5678"),
        ("anyway-2", "127.0.0.1:5679"),
    ]


def test_a_crowd_asks_the_same_in_the_same_order_for_one_seed() -> None:
    def few(seed: int) -> list[bytes]:
        return list(itertools.islice(zipf_requests(seed, 50), 30))

    assert few(1) == few(1)
    assert few(1) != few(2)


def test_a_crowd_asks_some_queries_far_more_often_than_others() -> None:
    asked = list(itertools.islice(zipf(1, 1000), 5000))

    assert asked.count(0) > 5 * asked.count(9) > 0


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[scenes.Stage]:
    old = make_toy(tmp_path / "old")
    new = renamed(old, tmp_path / "new")
    try:
        binary()
        with (
            Shared(tmp_path) as shared,
            Fleet(tmp_path, old, redis_url=shared.url, gateways=2) as fleet,
        ):
            yield scenes.Stage(fleet, shared, Judge([old, new]), old, new, 50.0, 1.0, count(1))
    except (Skipped, FileNotFoundError) as why:
        pytest.skip(str(why))


def test_a_killed_gateway_costs_no_query_and_only_its_own_stream(stage: scenes.Stage) -> None:
    rows = scenes.killed(stage)

    assert [row for row in rows if row.fails(short=True)] == []
