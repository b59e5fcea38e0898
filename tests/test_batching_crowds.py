"""The law of the queue under crowds: nobody who waits is turned away, and floods cost nobody's answer.

On a machine drawn in virtual time (`tests/crowds.py`). What a real one does is in
docs/reliability.md, written by `just chaos crowd`.
"""

import pytest

from handler.batching import Plan
from tests.crowds import PAGE, SHORT, Machine, Seen, capacity, closed, flood, note

CPUS = (1, 2, 4)


@pytest.mark.parametrize("cpus", CPUS)
@pytest.mark.parametrize("callers", [1, 2, 4, 8, 16, 40, 64])
@pytest.mark.parametrize("tokens", [3, SHORT, PAGE])
def test_callers_who_wait_for_their_answers_are_never_turned_away(
    cpus: int, callers: int, tokens: int
) -> None:
    seen = closed(Machine(cpus=cpus), callers, tokens=tokens)

    assert (seen.refused, seen.late) == (0, 0)
    assert seen.answered_s


@pytest.mark.parametrize("cpus", CPUS)
@pytest.mark.parametrize("tokens", [SHORT, PAGE])
def test_nor_are_they_where_a_neighbour_takes_two_thirds_of_the_cpu(cpus: int, tokens: int) -> None:
    seen = closed(Machine(cpus=cpus, busy_with_others=0.67), 16, tokens=tokens)

    assert (seen.refused, seen.late) == (0, 0)


@pytest.mark.parametrize(
    ("cpus", "callers", "share"), [(1, 256, 0.9), (2, 256, 0.95), (1, 1024, 0.84), (2, 1024, 0.92)]
)
@pytest.mark.parametrize("tokens", [SHORT, PAGE])
def test_callers_who_ask_again_at_once_leave_the_rate_as_it_is(
    cpus: int, callers: int, share: float, tokens: int
) -> None:
    best = len(closed(Machine(cpus=cpus), 64, tokens=tokens).answered_s)

    seen = closed(Machine(cpus=cpus), callers, tokens=tokens, warm_s=1.0)

    assert len(seen.answered_s) >= share * best
    assert seen.late == 0


@pytest.mark.parametrize("cpus", CPUS)
@pytest.mark.parametrize(("times", "share"), [(1.5, 0.9), (3.0, 0.7)])
def test_a_flood_of_short_texts_leaves_most_of_the_rate(cpus: int, times: float, share: float) -> None:
    seen, per_s = flooded(cpus, times, SHORT)

    assert len(seen.answered_s) / 2.0 >= share * per_s
    assert seen.late == 0


@pytest.mark.parametrize("cpus", CPUS)
def test_whoever_a_flood_lets_in_waits_for_the_queue_alone(cpus: int) -> None:
    seen, per_s = flooded(cpus, 1.5, SHORT)

    assert seen.p(0.99) <= 1.5 * 64 / per_s


@pytest.mark.parametrize("cpus", CPUS)
@pytest.mark.parametrize("times", [1.5, 3.0])
def test_nobody_is_let_in_whose_answer_would_come_too_late(cpus: int, times: float) -> None:
    seen, per_s = flooded(cpus, times, 4 * PAGE)  # 64 of them take over a second

    assert cpus > 1 or 64 / per_s > 1.0
    assert seen.late == 0
    assert len(seen.answered_s) / 2.0 >= 0.9 * per_s


def test_an_endless_bulk_request_takes_what_single_queries_leave() -> None:
    per_s = capacity(cpus=2)
    alone = flood(Machine(cpus=2), per_s / 2, seconds=5.0)
    machine = Machine(cpus=2)
    lines = bulk(machine, until_s=5.0)

    beside = flood(machine, per_s / 2, seconds=5.0)

    assert beside.refused == beside.late == 0
    assert beside.p(0.99) <= 2 * alone.p(0.99)
    assert len(lines.answered_s) >= 0.85 * (5.0 * per_s - len(beside.answered_s))


def test_a_bulk_request_goes_on_while_single_queries_never_end() -> None:
    machine = Machine()
    lines = bulk(machine, until_s=2.0)

    closed(machine, 40)

    assert lines.answered_s
    assert (lines.refused, lines.late) == (0, 0)


@pytest.mark.parametrize("cpus", CPUS)
def test_a_caller_who_floods_turns_no_other_caller_away(cpus: int) -> None:
    per_s = capacity(cpus=cpus)
    machine = Machine(cpus=cpus)
    other = asking_steadily(machine, per_s * 0.3, b"other", until_s=2.0)

    flood(machine, 3 * per_s, caller=b"flood")

    assert len(other.answered_s) > 0.55 * per_s
    assert (other.refused, other.late) == (0, 0)


def test_a_smaller_queue_min_sheds_sooner() -> None:
    small = Machine(plan=Plan(size_max=32, tokens_max=256, queue_min=8, queue_max=1024))

    seen = closed(small, 64)

    assert seen.refused > 0


def flooded(cpus: int, times: float, tokens: int) -> tuple[Seen, float]:
    """Two seconds of a flood after a second of ordinary traffic, and the rate that it is a multiple of."""
    per_s = capacity(cpus=cpus, tokens=tokens)
    machine = Machine(cpus=cpus)
    flood(machine, per_s / 3, tokens=tokens, seconds=1.0)
    return flood(machine, times * per_s, tokens=tokens), per_s


def bulk(machine: Machine, until_s: float) -> Seen:
    """A request of endless lines, of which 16 are queued at any time."""
    seen = Seen()

    def one() -> None:
        asked = machine.now

        def ended(how: str) -> None:
            note(seen, how, machine.now - asked)
            if machine.now < until_s:
                machine.at(machine.now, one)

        machine.ask(SHORT, ended, bulk=True)

    for _ in range(16):
        machine.at(0.0, one)
    return seen


def asking_steadily(machine: Machine, per_s: float, caller: bytes, until_s: float) -> Seen:
    seen = Seen()

    def one() -> None:
        asked = machine.now
        machine.ask(SHORT, lambda how: note(seen, how, machine.now - asked), caller=caller)

    for number in range(int(per_s * until_s)):
        machine.at(number / per_s, one)
    return seen
