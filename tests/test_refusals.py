"""`Refusals`: how long a refusal is delayed."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.refusals import DELAY_MAX_S, DELAY_MIN_S, GROUP_S, Refusals
from tests import virtual

FOREVER = 1e9


def sent(refusals: Refusals, count: int, *, now: float = 0.0) -> list[float]:
    """When so many refusals of one moment are sent; all of them count as delayed."""
    times = []
    for _ in range(count):
        times.append(refusals.due_at(now, FOREVER))
        refusals.delayed += 1
    return times


def test_a_lone_refusal_is_sent_after_the_least_delay() -> None:
    refusals = Refusals(delayed_max=100, per_s=1000)

    at = refusals.due_at(5.001, FOREVER)

    assert 5.001 + DELAY_MIN_S <= at < 5.001 + DELAY_MIN_S + GROUP_S


def test_refusals_leave_at_a_bounded_rate() -> None:
    times = sent(Refusals(delayed_max=1000, per_s=100), 50)

    assert times[-1] - times[0] == pytest.approx(49 / 100, abs=GROUP_S)


def test_refusals_beyond_those_delayed_are_sent_at_once() -> None:
    times = sent(Refusals(delayed_max=10, per_s=1000), 11, now=3.0)

    assert times[9] > 3.0
    assert times[10] == 3.0


@given(
    asked=st.lists(st.tuples(st.floats(0, 0.1), st.floats(1e-6, 2)), min_size=1, max_size=200),
    per_s=st.floats(1, 1e5),
)
def test_no_refusal_is_sent_past_its_querys_deadline_or_the_greatest_delay(
    asked: list[tuple[float, float]], per_s: float
) -> None:
    refusals = Refusals(delayed_max=10**9, per_s=per_s)
    now = 0.0

    for gap_s, left_s in asked:
        now += gap_s
        at = refusals.due_at(now, now + left_s)

        assert now <= at < now + left_s
        assert at <= now + DELAY_MAX_S


def test_refusals_of_about_one_time_are_sent_together() -> None:
    times = sent(Refusals(delayed_max=1000, per_s=1000), 200)

    assert len(set(times)) <= 0.2 / GROUP_S + 2


def test_a_refused_caller_who_leaves_frees_its_place() -> None:
    async def main() -> int:
        refusals = Refusals(delayed_max=10, per_s=100)
        waiting = asyncio.ensure_future(refusals.delay(1.0))
        await asyncio.sleep(0.01)
        assert refusals.delayed == 1
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        return refusals.delayed

    assert virtual.run(main()) == 0
