"""The router without a server: the same answers, in order, each different query scored once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from handler import offline
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
