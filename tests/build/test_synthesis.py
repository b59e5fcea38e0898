"""The composed texts teach the ask, and nothing else."""

import random

import pytest
from router_training import frames, held_out_prompts, synthesis
from router_training import prompt_templates as templates
from router_training.sources import Prompt
from router_training.tasks import FAST, SLOW

from handler.conversation import asked, recognised

PASSAGE = "The mill by the river closed in 1931 and its wheel now turns for visitors."
PROMPTS = [
    Prompt("databricks-dolly-15k", "train", "When did the mill close?", PASSAGE, ("closed_qa",)),
    Prompt("databricks-dolly-15k", "train", "Why do mills close?", "", ("general_qa",)),
    Prompt("arena-hard-v0.1", "train", "Design a mill that runs itself.", "", SLOW),
]


def test_one_seed_draws_one_round() -> None:
    assert synthesis.examples(PROMPTS, seed=3) == synthesis.examples(PROMPTS, seed=3)


def test_another_seed_draws_another_round() -> None:
    assert synthesis.examples(PROMPTS, seed=3) != synthesis.examples(PROMPTS, seed=4)


def test_a_passage_is_seen_under_asks_of_both_routes() -> None:
    found = synthesis.examples(PROMPTS, seed=3)

    tasks = {example.tasks[0] for example in found if "turns for visitors" in example.text}
    assert tasks & set(FAST)
    assert tasks & set(SLOW)


def test_several_asks_take_the_slow_one() -> None:
    composer = synthesis._Composer(random.Random(1), PROMPTS)

    assert {composer.several_asks().tasks[0] for _ in range(200)} <= set(SLOW)


def test_an_ask_whose_passage_is_missing_is_an_open_question() -> None:
    found = synthesis.examples(PROMPTS, seed=3)

    tasks = {e.tasks for e in found if e.text.startswith("When did the mill close") and len(e.text) < 40}
    assert tasks == {synthesis.BARE["closed_qa"]}


def test_half_of_the_prompts_get_half_of_what_is_composed() -> None:
    whole, half = (len(synthesis.examples(PROMPTS, seed=3, share=share)) for share in (1.0, 0.5))

    assert half == pytest.approx(whole / 2, rel=0.05)


def test_a_typo_changes_one_word_at_most() -> None:
    ask = "explain the working of an ordinary water mill"

    for seed in range(50):
        typed = synthesis.mistyped(ask, random.Random(seed)).split()
        assert sum(a != b for a, b in zip(typed, ask.split(), strict=True)) <= 1


def test_a_users_own_texts_are_mixed_with_nothing() -> None:
    own = [Prompt("mine.jsonl", "train", f"where is {i}", "", ("tracking",)) for i in range(5)]

    assert {example.tasks for example in synthesis.examples(own, seed=1)} == {("tracking",)}


def test_no_probe_is_among_the_training_sentences() -> None:
    trained = {
        sentence
        for table in (templates.OUT_OF_DEPTH, templates.PASSAGES, templates.CODE)
        for sentence in table
    }
    trained |= {
        s
        for table in (templates.ALONE, templates.ON_PASSAGE, templates.ON_CODE)
        for own in table.values()
        for s in own
    }

    assert not trained & {*held_out_prompts.OUT_OF_DEPTH, *(text for text, _ in held_out_prompts.SHORT)}


def test_no_frame_of_the_evaluation_is_trained_on() -> None:
    assert not set(frames.LAYOUTS) & set(held_out_prompts.FRAMES)


def test_what_is_put_around_an_ask_leaves_it_whole() -> None:
    framer = frames.Framer(random.Random(2), ["hello", "what is new?"])

    for number in range(300):
        framed = framer.around(f"Count the {number} mills")
        turns = recognised(framed)
        ask = asked(turns) if turns else None
        assert f"Count the {number} mills" in (ask.ask if ask else framed)
