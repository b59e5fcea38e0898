"""Who is taught what: the sides, the folds and the shares of a training."""

import argparse
from dataclasses import replace
from pathlib import Path

import pytest
import train
from data import Prompt
from tasks import POLICY, SLOW, TASKS

PROMPTS = [Prompt("own", "train", f"Describe mill number {i}.", "", ("general_qa",)) for i in range(200)]
COURSE = train._Course(
    Path("base"), tuple(PROMPTS), (), POLICY, train.Recipe(), 7, None, Path("state"), Path("student.pt")
)


def test_no_teacher_judges_what_it_has_seen() -> None:
    for fold in range(COURSE.recipe.teacher_folds):
        assert not set(COURSE.seen(fold)) & set(COURSE.judged(fold))


def test_every_prompt_is_judged_by_one_teacher() -> None:
    judged = [prompt for fold in range(COURSE.recipe.teacher_folds) for prompt in COURSE.judged(fold)]

    assert sorted(judged, key=str) == sorted(PROMPTS, key=str)


def test_folds_are_of_like_size() -> None:
    assert len(COURSE.judged(0)) == pytest.approx(len(PROMPTS) / 2, rel=0.2)


def test_a_lone_teacher_sees_and_judges_all() -> None:
    alone = replace(COURSE, recipe=replace(COURSE.recipe, teacher_folds=1))

    assert alone.seen(0) == alone.judged(0) == PROMPTS


def test_an_ask_is_judged_bare_by_the_teacher_that_has_not_seen_it() -> None:
    for fold in range(COURSE.recipe.teacher_folds):
        assert COURSE.bare(fold) == COURSE.judged(fold)
        assert not set(COURSE.seen(fold)) & set(COURSE.bare(fold))


def test_sets_of_one_kind_have_no_say_in_the_lean() -> None:
    odd = replace(COURSE, prompts=tuple(replace(p, source=train.NOT_TYPICAL[0]) for p in PROMPTS))

    assert odd.bare(0) == odd.bare(1) == []


def test_another_student_finds_the_same_teachers_and_another_teacher_does_not() -> None:
    arguments = argparse.Namespace(seed=7, steps=None)

    def teachers(**changed: int) -> str:
        recipe = train._teachers_alone(replace(train.RECIPES["full"], **changed))
        return train._state_name(arguments, recipe, PROMPTS, Path("base"))

    assert teachers(student_width=64, student_epochs=9) == teachers()
    assert teachers(teacher_epochs=1) != teachers()


def test_only_the_training_side_is_learnt_from() -> None:
    held_out = [replace(PROMPTS[0], side="test"), replace(PROMPTS[1], side="validation")]

    assert train._training_side([*PROMPTS, *held_out], train.Recipe()) == PROMPTS


def test_a_recipe_of_a_share_learns_from_about_so_many() -> None:
    found = train._training_side(PROMPTS, train.Recipe(prompts_share=0.25))

    assert len(found) == pytest.approx(50, abs=15)


def test_a_prompt_of_several_tasks_counts_for_each_by_equal_parts() -> None:
    prompts = [Prompt("own", "train", "a", "", ("coding",)), Prompt("own", "train", "b", "", SLOW)]

    mix = train.training_mix(prompts, TASKS)

    assert mix["coding"] == pytest.approx(0.5 + 0.5 / len(SLOW), abs=1e-6)
    assert mix["summarization"] == 0


def test_a_prompt_of_no_task_has_no_share_in_the_mix() -> None:
    prompts = [Prompt("own", "train", "a", "", ("coding",)), Prompt("own", "train", "b", "", ())]

    assert train.training_mix(prompts, TASKS)["coding"] == 1


def test_another_side_has_no_share_in_the_mix() -> None:
    prompts = [Prompt("own", "train", "a", "", ("coding",)), Prompt("own", "test", "b", "", ("open_qa",))]

    assert train.training_mix(prompts, TASKS)["coding"] == 1
