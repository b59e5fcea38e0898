"""The breaker, told the time: no clock runs here."""

from handler.breaker import Breaker


def opened(at: float, *, rest_s: float = 1.0, rest_max_s: float = 4.0) -> Breaker:
    breaker = Breaker(failures_max=3, window_s=10.0, rest_s=rest_s, rest_max_s=rest_max_s)
    for _ in range(3):
        breaker.failed(at)
    return breaker


def test_it_stays_closed_below_its_number_of_failures() -> None:
    breaker = Breaker(failures_max=3, window_s=10.0)

    breaker.failed(0.0)
    breaker.failed(1.0)

    assert breaker.closed


def test_it_opens_on_the_last_failure_within_the_window() -> None:
    breaker = Breaker(failures_max=3, window_s=10.0)

    for now in (0.0, 5.0, 10.0):
        breaker.failed(now)

    assert not breaker.closed


def test_failures_further_apart_than_the_window_never_open_it() -> None:
    breaker = Breaker(failures_max=3, window_s=10.0)

    for now in range(0, 600, 6):
        breaker.failed(float(now))

    assert breaker.closed


def test_successes_between_failures_do_not_make_a_slow_server_fast() -> None:
    breaker = Breaker(failures_max=3, window_s=10.0)

    for now in (0.0, 1.0, 2.0):
        breaker.failed(now)
        breaker.succeeded() if now < 2.0 else None

    assert not breaker.closed


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
