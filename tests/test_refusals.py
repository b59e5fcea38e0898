"""`Refusals`: how late a refused caller hears of it."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.refusals import HOLD_MAX_S, HOLD_MIN_S, TOGETHER_S, Refusals
from tests import virtual

FOREVER = 1e9


def held(refusals: Refusals, count: int, *, now: float = 0.0) -> list[float]:
    """When so many who are refused at one moment are told; all of them count as held."""
    told = []
    for _ in range(count):
        told.append(refusals.tell_at(now, FOREVER))
        refusals.held += 1
    return told


def test_a_lone_refusal_is_told_after_the_least_time() -> None:
    refusals = Refusals(held_max=100, per_s=1000)

    at = refusals.tell_at(5.001, FOREVER)

    assert 5.001 + HOLD_MIN_S <= at < 5.001 + HOLD_MIN_S + TOGETHER_S


def test_refusals_leave_at_a_bounded_rate() -> None:
    told = held(Refusals(held_max=1000, per_s=100), 50)

    assert told[-1] - told[0] == pytest.approx(49 / 100, abs=TOGETHER_S)


def test_refusals_beyond_those_held_are_told_at_once() -> None:
    told = held(Refusals(held_max=10, per_s=1000), 11, now=3.0)

    assert told[9] > 3.0
    assert told[10] == 3.0


@given(
    asked=st.lists(st.tuples(st.floats(0, 0.1), st.floats(1e-6, 2)), min_size=1, max_size=200),
    per_s=st.floats(1, 1e5),
)
def test_no_refusal_is_told_past_its_querys_deadline_or_the_greatest_time(
    asked: list[tuple[float, float]], per_s: float
) -> None:
    refusals = Refusals(held_max=10**9, per_s=per_s)
    now = 0.0

    for gap_s, left_s in asked:
        now += gap_s
        at = refusals.tell_at(now, now + left_s)

        assert now <= at < now + left_s
        assert at <= now + HOLD_MAX_S


def test_refusals_of_about_one_time_are_told_together() -> None:
    told = held(Refusals(held_max=1000, per_s=1000), 200)

    assert len(set(told)) <= 0.2 / TOGETHER_S + 2


def test_a_refused_caller_who_leaves_frees_its_place() -> None:
    async def main() -> int:
        refusals = Refusals(held_max=10, per_s=100)
        waiting = asyncio.ensure_future(refusals.hold(1.0))
        await asyncio.sleep(0.01)
        assert refusals.held == 1
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        return refusals.held

    assert virtual.run(main()) == 0
