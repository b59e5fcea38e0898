"""What is asked: sentences of our own, as long as said, in an order that can be had again."""

import random
import statistics

import pytest
from tokenizers import Tokenizer

from lab.launch import MODEL
from lab.load.shapes import ZIPF_EXPONENT, ZIPF_TEXTS
from lab.texts import SIZE, Texts, Zipf


def test_no_two_of_a_hundred_thousand_texts_are_alike() -> None:
    texts = Texts(seed=7)

    assert len({texts.text(number) for number in range(100_000)}) == 100_000


def test_after_the_last_sentence_they_begin_anew() -> None:
    texts = Texts(seed=7)

    assert texts.text(SIZE) == texts.text(0)


def test_a_seed_gives_the_same_texts_again() -> None:
    assert [Texts(5).text(n) for n in range(50)] == [Texts(5).text(n) for n in range(50)]


def test_two_seeds_share_few_texts() -> None:
    one, other = ({Texts(seed).text(number) for number in range(5000)} for seed in (1, 2))

    assert len(one & other) < 0.05 * len(one)


def test_a_text_has_about_16_tokens() -> None:
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    tokenizer.no_padding()
    texts = Texts(seed=1)

    lengths = [len(tokenizer.encode(texts.text(n)).ids) for n in range(2000)]

    assert statistics.mean(lengths) == pytest.approx(16, abs=1)
    assert max(lengths) <= 25


def test_neighbouring_numbers_ask_for_different_things() -> None:
    texts = Texts(seed=1)

    assert len({texts.text(number).split()[0] for number in range(20)}) > 3


def test_the_first_rank_of_zipf_is_drawn_as_often_as_its_exponent_says() -> None:
    zipf, dice = Zipf(ZIPF_TEXTS, ZIPF_EXPONENT), random.Random(3)
    harmonic = sum(1 / rank**ZIPF_EXPONENT for rank in range(1, ZIPF_TEXTS + 1))

    ranks = [zipf.rank(dice) for _ in range(50_000)]

    assert ranks.count(0) / len(ranks) == pytest.approx(1 / harmonic, rel=0.05)
    assert ranks.count(9) / len(ranks) == pytest.approx(0.1**ZIPF_EXPONENT / harmonic, rel=0.15)


def test_zipf_draws_no_rank_that_has_no_text() -> None:
    zipf = Zipf(3, 1.0)

    class Highest(random.Random):
        def random(self) -> float:
            return 1 - 2**-53

    assert zipf.rank(Highest()) == 2
    assert {zipf.rank(random.Random(seed)) for seed in range(100)} == {0, 1, 2}
