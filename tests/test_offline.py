"""The router without a server: the same answers, in order, each different query scored once."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import handler
from handler import offline
from handler.errors import ValidationError
from handler.offline import LocalRouter
from handler.policy import decide
from handler.policy_file import PolicyError
from handler.query import Normalised, normalise
from tests.models import TASKS, make_toy


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> LocalRouter:
    return LocalRouter.open(make_toy(tmp_path_factory.mktemp("toy")), lanes=2)


def test_texts_are_answered_in_their_order_as_if_each_came_alone(local: LocalRouter) -> None:
    texts = [f"{TASKS[i % 10]} {'and more ' * (i % 7)}" for i in range(100)]

    answers = list(local.classify(texts))

    assert [answer.task for answer in answers] == [TASKS[i % 10] for i in range(100)]
    assert [a.need for a in answers] == pytest.approx(
        [local.classify_one(text).need for text in texts], abs=1e-5
    )


def test_a_text_of_its_own_threshold_is_answered_by_it(local: LocalRouter) -> None:
    answer = local.classify_one("summarization please do it for me", threshold=1.0)

    assert (answer.route, answer.reason) == ("slow", "low_confidence")


def test_what_is_asked_again_is_not_scored_again(local: LocalRouter, monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[str] = []
    score = local.router.score

    def watched(queries: list[Normalised]) -> object:
        scored.extend(query.text for query in queries)
        return score(queries)

    monkeypatch.setattr(local.router, "score", watched)

    list(local.classify(f"closed_qa number {i % 50}" for i in range(2000)))

    assert len(scored) == 50


def test_texts_are_read_no_further_ahead_than_a_chunk(local: LocalRouter) -> None:
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield "coding"

    next(local.classify(endless()))

    assert taken == offline.CHUNK


def test_answers_that_are_remembered_are_bounded(local: LocalRouter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline, "REMEMBERED", 10)

    list(local.classify(f"coding {i}" for i in range(600)))

    assert len(local._remembered) <= 10 + offline.CHUNK


def test_an_explanation_holds_what_the_answer_was_made_of(local: LocalRouter) -> None:
    found = local.explain("  CODING   please ")

    assert found.decision.task == max(found.tasks, key=found.tasks.__getitem__) == "coding"
    assert sum(found.tasks.values()) == pytest.approx(1, abs=1e-6)
    assert found.seen == normalise("  CODING   please ", local.router.manifest.limits).text
    (scores,) = local.scores(["coding please"])
    assert found.decision == decide(scores, local.policy)


def test_a_policy_file_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text("[need]\ncoding = 0\n")

    local = LocalRouter.open(make_toy(tmp_path / "toy"), policy_file=path)

    assert local.classify_one("coding").route == "fast"


def test_a_policy_file_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text("[need]\npoetry = 0\n")

    with pytest.raises(PolicyError, match="'poetry' is not a task"):
        LocalRouter.open(make_toy(tmp_path / "toy"), policy_file=path)


# The public interface


def test_the_public_names_are_those_of_the_page() -> None:
    page = (Path(__file__).parent.parent / "docs/python.md").read_text()

    assert [name for name in handler.__all__ if f"`{name}`" not in page] == []
    assert handler.LocalRouter is LocalRouter
    assert all(hasattr(handler, name) for name in handler.__all__)


def test_a_name_that_is_not_public_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="'Gateway'"):
        handler.Gateway  # noqa: B018


def test_importing_the_package_imports_nothing_of_it() -> None:
    code = "import sys, handler; print([name for name in sys.modules if name.startswith('handler.')])"

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ran.stdout.strip() == "[]"


def test_columns_hold_what_each_text_is_answered_alone(local: LocalRouter) -> None:
    texts = np.array([f"{TASKS[i % 10]} please, number {i}" for i in range(40)], dtype=object)

    columns = local.classify_many(texts)

    alone = [local.classify_one(text) for text in texts]
    assert {name: column.shape for name, column in columns.items()} == dict.fromkeys(columns, (40,))
    for name in ("label", "route", "task"):
        assert columns[name].tolist() == [getattr(answer, name) for answer in alone]
    assert columns["confidence"] == pytest.approx([answer.confidence for answer in alone], abs=1e-5)
    assert columns["need"] == pytest.approx([answer.need for answer in alone], abs=1e-5)


def test_columns_have_the_same_types_whatever_is_in_them(local: LocalRouter) -> None:
    kinds = {
        name: {local.classify_many(block)[name].dtype.kind for block in ([], [None], ["coding"])}
        for name in ("label", "route", "task", "reason", "confidence", "need")
    }

    texts = {name: {"U"} for name in ("label", "route", "task", "reason")}
    assert kinds == texts | {name: {"f"} for name in ("confidence", "need")}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "no_text"),
        (float("nan"), "no_text"),
        (b"coding", "no_text"),
        ("", "no_text"),
        (" \n", "no_text"),
        ("\ud83d", "unreadable"),
    ],
)
def test_a_row_that_asks_nothing_goes_to_the_last_tier_alone(
    text: object, reason: str, local: LocalRouter
) -> None:
    columns = local.classify_many(["closed_qa", text, "closed_qa"])

    assert columns["route"].tolist() == ["fast", "slow", "fast"]
    assert columns["reason"].tolist() == ["", reason, ""]
    assert columns["task"].tolist() == ["closed_qa", "unknown", "closed_qa"]


@pytest.mark.parametrize("text", [None, 7, b"coding", "", "coding \ud83d"])
def test_a_text_that_no_gateway_would_take_is_a_validation_error(text: str, local: LocalRouter) -> None:
    for ask in (local.classify_one, local.explain):
        with pytest.raises(ValidationError, match="accepted"):
            ask(text)


def test_a_bad_text_among_many_is_named_by_its_place(local: LocalRouter) -> None:
    with pytest.raises(ValidationError, match="text 2 is empty"):
        list(local.classify(["coding", "coding", ""]))


def test_one_string_is_not_taken_for_many_texts(local: LocalRouter) -> None:
    for ask in (local.classify, local.classify_many):
        with pytest.raises(ValidationError, match="classify_one"):
            ask("coding")


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_out_of_range_is_a_validation_error(threshold: float, local: LocalRouter) -> None:
    for ask in (local.classify_one, local.explain):
        with pytest.raises(ValidationError, match="threshold"):
            ask("coding", threshold=threshold)
    for ask_many in (local.classify, local.classify_many):
        with pytest.raises(ValidationError, match="threshold"):
            ask_many(["coding"], threshold=threshold)


@pytest.mark.parametrize("options", [{"threshold": 2.0}, {"lanes": 0}])
def test_a_router_is_not_opened_with_options_out_of_range(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="accepted"):
        LocalRouter.open(**options)  # type: ignore[arg-type]
