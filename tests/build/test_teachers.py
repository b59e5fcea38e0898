"""What teachers may see, what is kept of what they say, and how much of it is learnt."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from router_training import judgements, sources, teachers
from router_training.sources import Prompt
from router_training.synthesis import Example
from router_training.tasks import TASKS
from router_training.teachers import Voice

PROMPTS = [
    Prompt("own/mills", "train", f"{verb} mill number {i}", "", (task,), pair=f"mills:{i}")
    for i in range(15)
    for verb, task in (("describe", "general_qa"), ("translate", "translation"))
]


def test_prompts_of_one_pair_are_in_one_fold() -> None:
    folds = {
        prompt.pair: {teachers.fold_of(p) for p in PROMPTS if p.pair == prompt.pair} for prompt in PROMPTS
    }

    assert all(len(own) == 1 for own in folds.values())
    assert len(set.union(*folds.values())) == teachers.FOLDS


def test_no_teacher_judges_what_it_has_seen(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    met: list[tuple[str, str]] = []

    def scores(
        _voice: object, _folder: object, seen: list[list[Example]], unseen: list[str], *_: object
    ) -> NDArray[np.float32]:
        origins = {example.origin for drawn in seen for example in drawn}
        met.extend((text, "seen") for text in unseen if sources.prompt_digest(text) in origins)
        met.extend((text, "judged") for text in unseen)
        return np.zeros((len(unseen), len(TASKS)), dtype=np.float32)

    monkeypatch.setattr(sources, "prompts", lambda: PROMPTS)
    monkeypatch.setattr(teachers, "_scores", scores)
    monkeypatch.setattr(judgements, "FILE", tmp_path / "judgements.npz")
    teachers.judge([Voice(str(tiny_base), 1.0, 1e-3, 8, epochs=1)], tmp_path)

    assert sorted(met) == sorted((prompt.text, "judged") for prompt in PROMPTS)


def test_what_two_teachers_say_is_kept_by_the_prompts_digest(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "prompts", lambda: PROMPTS)
    monkeypatch.setattr(judgements, "FILE", tmp_path / "judgements.npz")
    voices = [Voice(str(tiny_base), 0.7, 1e-3, 8, epochs=1), Voice(str(tiny_base), 0.3, 1e-2, 8, epochs=1)]

    teachers.judge(voices, tmp_path, steps_max=2)
    kept = judgements.read()

    assert kept.keys() == {sources.prompt_digest(prompt.text) for prompt in PROMPTS}
    assert all(row.sum() == pytest.approx(1, abs=1e-5) for row in kept.values())


# "how many moons does mars have?" is asked in a public set, too, on the training side.
PUBLIC_COPIES = {"f26b1a7e0e08c8ee"}


def test_the_kept_judgements_are_of_prompts_that_may_be_learnt_from() -> None:
    kept = judgements.read()
    sides = {
        side: [p for p in sources.own_prompts() if p.side == side] for side in ("train", "test", "validation")
    }

    known = [sources.prompt_digest(prompt.text) in kept for prompt in sides["train"]]
    assert np.mean(known) > 0.99
    copies = {sources.prompt_digest(prompt.text) for prompt in sides["train"]}
    for side in ("test", "validation"):
        others = {sources.prompt_digest(prompt.text) for prompt in sides[side]} - copies
        assert others & kept.keys() <= PUBLIC_COPIES, side


def test_a_target_is_made_of_label_and_judgement_by_their_shares() -> None:
    allowed = np.array([[True, False, False], [True, True, False], [True, False, False]])
    judged = np.array([[0.2, 0.8, 0.0], [0.2, 0.6, 0.2], [0.0, 0.0, 0.0]], dtype=np.float32)

    found = judgements.targets(allowed, judged, share=0.5)

    assert found[0] == pytest.approx([0.6, 0.4, 0.0], abs=1e-4)
    assert found[1] == pytest.approx(
        [0.225, 0.675, 0.1], abs=1e-4
    )  # the label's half, as the judgement has it
    assert not found[2].any()
