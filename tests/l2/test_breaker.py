"""The breaker, told the time: no clock runs here."""

import pytest

from handler.breaker import Breaker


def opened(at: float, *, rest_s: float = 1.0, rest_max_s: float = 4.0) -> Breaker:
    breaker = Breaker(failures_max=3, rest_s=rest_s, rest_max_s=rest_max_s)
    for _ in range(3):
        breaker.failed(at)
    return breaker


def test_it_stays_closed_below_its_number_of_failures() -> None:
    breaker = Breaker(failures_max=3)

    breaker.failed(0.0)
    breaker.failed(0.0)

    assert breaker.closed


def test_it_opens_on_the_last_of_its_failures() -> None:
    breaker = Breaker(failures_max=3)

    for _ in range(3):
        breaker.failed(0.0)

    assert not breaker.closed


@pytest.mark.parametrize(("successes", "stays_closed"), [(1, False), (5, False), (10, True), (1000, True)])
def test_what_is_rarely_late_is_left_alone(successes: int, stays_closed: bool) -> None:
    breaker = Breaker(failures_max=3, forgiven_by=10)

    for _ in range(20):
        if breaker.closed:
            breaker.failed(0.0)
            for _ in range(successes if breaker.closed else 0):
                breaker.succeeded()

    assert breaker.closed == stays_closed


def test_no_probe_is_due_while_it_rests() -> None:
    breaker = opened(at=100.0, rest_s=1.0)

    assert not breaker.due(100.9)
    assert breaker.due(101.0)


def test_every_failed_probe_doubles_the_rest_up_to_its_bound() -> None:
    breaker = opened(at=0.0, rest_s=1.0, rest_max_s=4.0)
    rests = []

    for _ in range(4):
        now = breaker.rests_until
        breaker.failed(now)
        rests.append(breaker.rests_until - now)

    assert rests == [2.0, 4.0, 4.0, 4.0]


def test_what_failed_before_the_rest_was_over_does_not_lengthen_it() -> None:
    breaker = opened(at=0.0, rest_s=1.0)

    breaker.failed(0.5)

    assert breaker.rests_until == 1.0


def test_one_good_probe_closes_it() -> None:
    breaker = opened(at=0.0)

    breaker.succeeded()

    assert breaker.closed
    assert not breaker.due(100.0)


def test_after_closing_it_takes_all_failures_anew_to_open_it() -> None:
    breaker = opened(at=0.0)
    breaker.succeeded()

    breaker.failed(1.0)
    breaker.failed(1.0)

    assert breaker.closed
