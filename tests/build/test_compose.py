"""The composed texts teach the ask, and nothing else."""

import random

import asks
import compose
import probes
import pytest
from data import Prompt
from tasks import FAST, SLOW, TASKS

PASSAGE = "The mill by the river closed in 1931 and its wheel now turns for visitors."
PROMPTS = [
    Prompt("databricks-dolly-15k", "train", "When did the mill close?", PASSAGE, ("closed_qa",)),
    Prompt("databricks-dolly-15k", "train", "Why do mills close?", "", ("general_qa",)),
    Prompt("arena-hard-v0.1", "train", "Design a mill that runs itself.", "", SLOW),
]


def test_one_seed_draws_one_round() -> None:
    assert compose.examples(PROMPTS, seed=3) == compose.examples(PROMPTS, seed=3)


def test_another_seed_draws_another_round() -> None:
    assert compose.examples(PROMPTS, seed=3) != compose.examples(PROMPTS, seed=4)


def test_a_passage_is_seen_under_asks_of_both_routes() -> None:
    found = compose.examples(PROMPTS, seed=3)

    tasks = {example.tasks[0] for example in found if "turns for visitors" in example.text}
    assert tasks & set(FAST)
    assert tasks & set(SLOW)


def test_several_asks_take_the_slow_one() -> None:
    composer = compose._Composer(random.Random(1), PROMPTS)

    assert {composer.several_asks().tasks[0] for _ in range(200)} <= set(SLOW)


def test_a_question_without_its_passage_is_shown_to_a_teacher_alone() -> None:
    bare = "When did the mill close"

    def shown(*, unlabelled: bool) -> set[tuple[str, ...]]:
        found = compose.examples(PROMPTS, seed=3, unlabelled=unlabelled)
        return {
            example.tasks for example in found if example.text.startswith(bare) and len(example.text) < 40
        }

    assert shown(unlabelled=False) == set()
    assert shown(unlabelled=True) == {TASKS}


def test_an_ask_that_names_its_text_keeps_its_task_without_it() -> None:
    asks_of_text = [
        Prompt("own", "train", f"List item {i} of the text", PASSAGE, ("closed_qa",)) for i in range(9)
    ]

    found = compose.examples(asks_of_text, seed=3)

    assert any(e.tasks == ("closed_qa",) and "mill" not in e.text and "item" in e.text for e in found)


def test_half_of_the_prompts_get_half_of_what_is_composed() -> None:
    whole, half = (len(compose.examples(PROMPTS, seed=3, share=share)) for share in (1.0, 0.5))

    assert half == pytest.approx(whole / 2, rel=0.02)


def test_a_typo_changes_one_word_at_most() -> None:
    ask = "explain the working of an ordinary water mill"

    for seed in range(50):
        typed = compose.mistyped(ask, random.Random(seed)).split()
        assert sum(a != b for a, b in zip(typed, ask.split(), strict=True)) <= 1


def test_a_users_own_texts_are_mixed_with_nothing() -> None:
    own = [Prompt("mine.jsonl", "train", f"where is {i}", "", ("tracking",)) for i in range(5)]

    assert {example.tasks for example in compose.examples(own, seed=1)} == {("tracking",)}


def test_no_probe_is_among_the_training_sentences() -> None:
    trained = {sentence for table in (asks.OUT_OF_DEPTH, asks.PASSAGES, asks.CODE) for sentence in table}
    trained |= {
        s for table in (asks.ALONE, asks.ON_PASSAGE, asks.ON_CODE) for own in table.values() for s in own
    }

    assert not trained & {*probes.OUT_OF_DEPTH, *(text for text, _ in probes.SHORT)}
