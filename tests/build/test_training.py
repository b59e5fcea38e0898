"""Who is taught what: the sides, the shares and the state of a training."""

from dataclasses import replace
from pathlib import Path

import pytest
from router_training import training
from router_training.sources import Prompt
from router_training.tasks import SLOW, TASKS
from router_training.training import RECIPES, Order, Recipe

PROMPTS = [Prompt("own", "train", f"Describe mill number {i}.", "", ("general_qa",)) for i in range(200)]


def test_a_state_is_named_by_all_that_shapes_it(tiny_base: Path, tmp_path: Path) -> None:
    order = Order(base="", out=tmp_path, work=tmp_path)

    def name(order: Order = order, recipe: Recipe = RECIPES["full"], prompts: list[Prompt] = PROMPTS) -> str:
        return training._state_name(order, recipe, prompts, tiny_base)

    assert name() == name()
    assert len({
        name(), name(replace(order, seed=8)), name(replace(order, steps_max=3)), name(recipe=Recipe(rate=1.0)),
        name(prompts=PROMPTS[1:]),
    }) == 5  # fmt: skip


def test_only_the_training_side_is_learnt_from() -> None:
    held_out = [replace(PROMPTS[0], side="test"), replace(PROMPTS[1], side="validation")]

    assert training._training_side([*PROMPTS, *held_out], Recipe()) == PROMPTS


def test_a_recipe_of_a_share_learns_from_about_so_many() -> None:
    found = training._training_side(PROMPTS, Recipe(prompts_share=0.25))

    assert len(found) == pytest.approx(50, abs=15)


def test_a_prompt_of_several_tasks_counts_for_each_by_equal_parts() -> None:
    prompts = [Prompt("own", "train", "a", "", ("coding",)), Prompt("own", "train", "b", "", SLOW)]

    mix = training.training_mix(prompts, TASKS)

    assert mix["coding"] == pytest.approx(0.5 + 0.5 / len(SLOW), abs=1e-6)
    assert mix["summarization"] == 0


def test_a_prompt_of_no_task_has_no_share_in_the_mix() -> None:
    prompts = [Prompt("own", "train", "a", "", ("coding",)), Prompt("own", "train", "b", "", ())]

    assert training.training_mix(prompts, TASKS)["coding"] == 1


def test_another_side_has_no_share_in_the_mix() -> None:
    prompts = [Prompt("own", "train", "a", "", ("coding",)), Prompt("own", "test", "b", "", ("open_qa",))]

    assert training.training_mix(prompts, TASKS)["coding"] == 1
