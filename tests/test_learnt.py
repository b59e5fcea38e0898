"""The need that was learnt from outcomes: the same alone and among others, and never another model's."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handler.errors import ModelError
from handler.learnt import NEED, LearntNeed, buckets, lengths, words, write
from handler.model import Manifest, Router, load, read_manifest
from handler.policy_file import parse, policy_for
from handler.query import normalise
from tests.models import TASKS, accept_files, change, make_toy

COUNT = 64
ids = st.lists(st.integers(0, 30_000), max_size=40)


def head(**changes: Any) -> bytes:
    draw = np.random.default_rng(1)
    arrays: dict[str, Any] = {
        "bias": -0.5,
        "of_state": draw.normal(size=len(TASKS)) / 10,
        "of_length": draw.normal(size=3) / 10,
        "of_word": draw.normal(size=COUNT),
        "rarity": draw.random(COUNT) + 0.5,
    }
    return write(**(arrays | changes))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The toy, which has learnt a need from three rows of nobody's."""
    folder = make_toy(tmp_path / "toy")
    (folder / NEED).write_bytes(head())
    plain = read_manifest(folder)
    change(folder, files=plain.files | {NEED: ""}, outcomes=outcomes([0.0, 0.0]), golden_tolerance=1.0)
    accept_files(folder)
    needs = [scores.learnt for scores in load(folder).score(golden(folder))]
    change(folder, outcomes=outcomes(needs), golden_tolerance=1e-3)
    return folder


def outcomes(golden: list[Any], **changes: Any) -> dict[str, Any]:
    return {"small": "7b", "large": "70b", "rows": 3, "digest": "0" * 64, "golden": golden} | changes


def golden(folder: Path) -> list[Any]:
    manifest = read_manifest(folder)
    return [normalise(golden.text, manifest.limits) for golden in manifest.golden]


def asked(router: Router, texts: list[str]) -> list[Any]:
    return router.score([normalise(text, router.manifest.limits) for text in texts])


@settings(deadline=None)
@given(ids)
def test_every_word_and_every_pair_has_a_bucket(row: list[int]) -> None:
    found = buckets(row, COUNT)

    assert len(found) == max(2 * len(row) - 1, 0)
    assert all(0 <= place < COUNT for place in found)


@settings(deadline=None)
@given(ids.filter(bool))
def test_the_words_of_a_query_weigh_one_in_all(row: list[int]) -> None:
    places, weights = words(row, np.ones(COUNT, dtype=np.float32))

    assert len(set(places)) == len(places)
    assert weights @ weights == pytest.approx(1)


def test_a_query_of_words_that_nobody_has_seen_weighs_nothing() -> None:
    _, weights = words([1, 2, 3], np.zeros(COUNT, dtype=np.float32))

    assert not weights.any()


def test_an_empty_query_has_a_need() -> None:
    (need,) = LearntNeed(head()).needs([[]], [0], np.zeros((1, len(TASKS)), dtype=np.float32))

    assert 0 < need < 1


def test_a_need_is_the_sum_of_its_three_looks_on_a_logistic_curve() -> None:
    zero = {
        "of_word": np.zeros(COUNT),
        "of_state": np.zeros(len(TASKS)),
        "of_length": np.zeros(3),
        "bias": 0.0,
    }
    state = np.ones((1, len(TASKS)), dtype=np.float32)

    def need(**changes: Any) -> float:
        found = LearntNeed(head(**(zero | changes))).needs([[5, 6]], [9], state)
        return float(np.log(found[0] / (1 - found[0])))

    assert need(bias=0.25) == pytest.approx(0.25, abs=1e-5)
    assert need(of_state=np.full(len(TASKS), 0.1)) == pytest.approx(1.0, abs=1e-5)
    assert need(of_length=np.array([0.1, 0.2, 0.3])) == pytest.approx(
        lengths(9, 2) @ [0.1, 0.2, 0.3], abs=1e-5
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 nothing",
        head(of_word=np.zeros(60), rarity=np.zeros(60)),
        head(rarity=np.zeros(32)),
        head(of_length=np.zeros(2)),
        head(bias=float("nan")),
        head(of_state=np.full(4, np.inf)),
    ],
    ids=["nothing", "no zip", "no power of two", "two sizes", "two lengths", "no number", "no bound"],
)
def test_a_head_that_is_none_is_refused(content: bytes) -> None:
    with pytest.raises(ModelError, match=r"need\.npz"):
        LearntNeed(content)


def test_the_same_numbers_make_the_same_bytes() -> None:
    assert head() == head()


def test_scores_hold_the_learnt_need_beside_the_probabilities(folder: Path) -> None:
    router = load(folder)

    (scores,) = asked(router, ["coding please"])

    assert router.learns
    assert 0 < scores.learnt < 1
    assert len(scores.probabilities) == len(TASKS)


def test_a_model_that_has_learnt_nothing_gives_no_need(tmp_path: Path) -> None:
    (scores,) = asked(load(make_toy(tmp_path / "toy")), ["coding please"])

    assert scores.learnt is None


def test_a_learnt_need_is_the_same_alone_and_among_others(folder: Path) -> None:
    router = load(folder)
    texts = [
        "coding",
        "summarization of this and that " * 4,
        "reasoning about closed_qa",
        "?",
        "a b c d e f g",
    ]

    together = asked(router, texts)

    alone = [asked(router, [text])[0] for text in texts]
    assert [scores.learnt for scores in together] == pytest.approx(
        [scores.learnt for scores in alone], abs=1e-6
    )


def test_a_policy_takes_the_learnt_need_of_a_model_that_has_one(folder: Path) -> None:
    router = load(folder)
    file = parse(b'source = "outcomes"', "policy.toml")
    policy = policy_for(router.manifest.tasks, router.manifest.policy, file=file, learnt=router.learns)

    (scores,) = asked(router, ["coding please"])

    assert policy.need(scores) == scores.learnt


@pytest.mark.parametrize("member", ["small", "large", "digest"])
def test_outcomes_of_another_pair_or_of_other_rows_make_another_model(folder: Path, member: str) -> None:
    before = read_manifest(folder)

    change(folder, outcomes=outcomes(before.outcomes.golden if before.outcomes else [], **{member: "other"}))

    assert read_manifest(folder).digest != before.digest


def test_a_model_without_outcomes_keeps_the_name_that_it_had(folder: Path) -> None:
    with_outcomes = read_manifest(folder)
    plain = Manifest(**{f: getattr(with_outcomes, f) for f in Manifest.__struct_fields__ if f != "outcomes"})

    assert plain.digest != with_outcomes.digest


def test_a_learnt_need_that_is_computed_otherwise_here_is_not_served(folder: Path) -> None:
    change(folder, outcomes=outcomes([0.123, 0.456]))

    with pytest.raises(ModelError, match=r"need\.npz is off by .* on the golden queries on this processor"):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"outcomes": None}, "outcomes and the file need.npz go together"),
        ({"outcomes": outcomes([0.5])}, "outcomes must give the need of each golden query"),
    ],
)
def test_outcomes_that_are_half_there_are_refused(folder: Path, changes: dict[str, Any], told: str) -> None:
    change(folder, **changes)

    with pytest.raises(ModelError, match=told):
        read_manifest(folder)
