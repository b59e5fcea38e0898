"""The shapes ask what they say they ask."""

import math
from itertools import islice

import pytest

from lab.load.shapes import COLD_TIMES, HOT, REPEATED, SHAPES, TOUR, numbers, offered, users_at


def drawn(shape: str, count: int, *, rate: int = 100, seconds: float = 30, seed: int = 1) -> list[int]:
    return list(islice(iter(numbers(shape, rate, seconds, seed), None), count))


@pytest.mark.parametrize("shape", [name for name in SHAPES if name != "spike"])
def test_every_shape_but_the_spike_is_constant(shape: str) -> None:
    assert {users_at(shape, 80, 30, at_s) for at_s in range(31)} == {80}


def test_the_spike_triples_the_rate_in_its_middle_fifth() -> None:
    users = [users_at("spike", 80, 30, at_s) for at_s in range(30)]

    assert users == [80] * 12 + [240] * 6 + [80] * 12


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_offered_is_the_sum_of_the_users_seconds(shape: str) -> None:
    users = sum(users_at(shape, 80, 30, at_s) for at_s in range(30))

    assert offered(shape, 80, 30) == pytest.approx(users)


@pytest.mark.parametrize("shape", ["steady", "spike", "soak"])
def test_the_steady_mix_repeats_one_query_in_three(shape: str) -> None:
    asked = drawn(shape, 9000)

    repeated = [number for number in asked if number < HOT]
    assert len(repeated) / len(asked) == pytest.approx(REPEATED, rel=0.05)


def test_what_the_steady_mix_does_not_repeat_is_new() -> None:
    new = [number for number in drawn("steady", 9000) if number >= HOT]

    assert len(set(new)) == len(new)


def test_the_cold_mix_meets_its_texts_as_fast_as_the_page_says() -> None:
    rate, seconds = 100, 30
    asked, seen, hits = drawn("cold-cache", rate * seconds), set[int](), []

    for number in asked:
        hits.append(number in seen)
        seen.add(number)

    last = hits[-rate:]  # the last second
    assert sum(last) / len(last) == pytest.approx(1 - math.exp(-COLD_TIMES), abs=0.05)
    assert not any(hits[:5])


def test_zipf_repeats_as_much_as_its_constant_says() -> None:
    asked = drawn("zipf", 9000)

    assert 1 - len(set(asked)) / len(asked) == pytest.approx(0.66, abs=0.02)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_seed_asks_the_same_again(shape: str) -> None:
    assert drawn(shape, 200, seed=4) == drawn(shape, 200, seed=4)


def test_the_tour_leaves_out_the_soak_alone() -> None:
    assert {*TOUR} == {*SHAPES} - {"soak"}


def test_the_tour_takes_a_few_minutes_at_most() -> None:
    assert sum(SHAPES[name].seconds for name in TOUR) <= 180
