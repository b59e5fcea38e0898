"""`Plan`: what leaves the queue and when. No clock, no loop."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.batching import Drain, Plan, Ticket
from handler.errors import Overloaded
from handler.query import Normalised
from tests.fakes import FakeRouter

FOREVER = 1e9
MODEL = FakeRouter()


def plan(**limits: float) -> Plan:
    settings = {"size_max": 4, "tokens_max": 1000, "queue_max": 100, "queue_tokens_max": 10_000}
    return Plan(**{**settings, **limits})  # type: ignore[arg-type]


def ticket(
    name: str = "q",
    *,
    tokens: int = 10,
    deadline: float = FOREVER,
    wanted: bool = True,
    scorer: FakeRouter | None = None,
) -> Ticket:
    return Ticket(
        query=Normalised(name), scorer=scorer or MODEL, tokens=tokens, deadline=deadline, wanted=wanted
    )


def names(tickets: list[Ticket]) -> list[str]:
    return [ticket.query.text for ticket in tickets]


def test_a_lone_query_leaves_at_once() -> None:
    queue = plan()

    queue.add(ticket("alone"), now=5.0)

    assert queue.hold_until(5.0, dense=False) == 5.0
    assert names(queue.take(5.0)[0]) == ["alone"]


def test_a_batch_is_the_oldest_queries_in_their_order() -> None:
    queue = plan(size_max=3)

    for name in "abcde":
        queue.add(ticket(name), now=0.0)

    assert names(queue.take(0.0)[0]) == ["a", "b", "c"]
    assert names(queue.take(0.0)[0]) == ["d", "e"]


def test_a_batch_stops_before_its_tokens_pass_the_budget() -> None:
    queue = plan(size_max=10, tokens_max=100)

    for tokens in (20, 20, 20, 30, 30):
        queue.add(ticket(tokens=tokens), now=0.0)

    sizes = [[t.tokens for t in queue.take(0.0)[0]] for _ in range(2)]
    assert sizes == [[20, 20, 20, 30], [30]]


def test_a_query_longer_than_the_budget_still_leaves_alone() -> None:
    queue = plan(tokens_max=100)

    queue.add(ticket("huge", tokens=500), now=0.0)
    queue.add(ticket("small"), now=0.0)

    assert names(queue.take(0.0)[0]) == ["huge"]


def test_a_full_queue_refuses_the_next_query() -> None:
    queue = plan(queue_max=2)
    queue.add(ticket(), now=0.0)
    queue.add(ticket(), now=0.0)

    with pytest.raises(Overloaded):
        queue.add(ticket(), now=0.0)

    assert len(queue) == 2


def test_a_queue_full_of_tokens_refuses_a_query_that_would_pass_its_bound() -> None:
    queue = plan(queue_tokens_max=100)
    queue.add(ticket(tokens=90), now=0.0)

    with pytest.raises(Overloaded):
        queue.add(ticket(tokens=11), now=0.0)

    queue.add(ticket(tokens=10), now=0.0)
    assert queue.tokens == 100


def test_an_empty_queue_takes_a_query_over_its_token_bound() -> None:
    queue = plan(queue_tokens_max=100)

    queue.add(ticket("huge", tokens=500), now=0.0)

    assert names(queue.take(0.0)[0]) == ["huge"]


def test_a_flood_is_cut_where_a_newcomer_would_wait_too_long() -> None:
    queue = measured(plan(wait_max_s=0.08), queries_per_s=1000)

    accepted = flood(queue, queries_per_s=3000, seconds=0.5, began=0.0)

    # 50 ms of anything at first, then only what keeps the wait at 80 ms.
    assert accepted < 3000 * 0.05 + 1000 * 0.08 + 10
    assert len(queue) >= 80


def test_a_late_event_loop_leaves_less_time_to_wait_in_the_queue() -> None:
    prompt, late = (measured(plan(wait_max_s=0.08), queries_per_s=1000) for _ in range(2))
    late.ran([], 0.0, lag_s=0.03)
    for queue in (prompt, late):
        for _ in range(30):  # 30 ms of work, and all of it comes as a burst
            queue.add(ticket(), now=0.0)

    prompt.add(ticket(), now=0.06)
    # 30 ms before it was looked at and 30 ms once it is answered leave 20 of 80.
    with pytest.raises(Overloaded):
        late.add(ticket(), now=0.06)


def test_lateness_is_forgotten_run_by_run() -> None:
    queue = measured(plan(wait_max_s=0.08), queries_per_s=1000)
    queue.ran([], 0.0, lag_s=0.03)

    for _ in range(20):
        queue.ran([], 0.0)

    assert queue.answer_s() < 0.001


def test_a_burst_is_let_in_whole() -> None:
    queue = measured(plan(wait_max_s=0.08, queue_max=500), queries_per_s=1000)

    assert flood(queue, queries_per_s=10_000, seconds=0.04, began=0.0) == 400


def test_a_queue_without_a_measured_rate_is_bounded_by_its_size_alone() -> None:
    queue = plan(wait_max_s=0.001, queue_max=50)

    assert flood(queue, queries_per_s=1000, seconds=1.0, began=0.0) == 50


def test_a_new_burst_is_let_in_once_the_flood_is_over() -> None:
    queue = measured(plan(wait_max_s=0.08, queue_max=10_000, size_max=10_000), queries_per_s=1000)
    flood(queue, queries_per_s=3000, seconds=1.0, began=0.0)
    queue.ran(queue.take(now=1.5)[0], lanes_s=0.25)

    assert flood(queue, queries_per_s=10_000, seconds=0.04, began=1.5) == 400


def test_an_empty_queue_takes_a_query_however_slow_the_last_run_was() -> None:
    queue = plan(wait_max_s=0.08)
    queue.add(ticket(), now=0.0)
    queue.ran(queue.take(now=0.0)[0], lanes_s=60.0)

    for now in (100.0, 100.06, 100.12):
        queue.add(ticket(), now=now)
        assert len(queue.take(now)[0]) == 1


@pytest.mark.parametrize(("waiting", "after_s"), [(2, "1"), (45, "5"), (95, "10"), (9000, "30")])
def test_a_refusal_says_when_what_waits_will_be_done(waiting: int, after_s: str) -> None:
    queue = measured(plan(queue_max=waiting, queue_tokens_max=10**9), queries_per_s=10)
    for _ in range(waiting):
        queue.add(ticket(), now=0.0)

    with pytest.raises(Overloaded) as refused:
        queue.add(ticket(), now=0.0)

    assert refused.value.headers == (("retry-after", after_s),)


def test_what_runs_counts_towards_the_wait_until_it_is_done() -> None:
    queue = measured(plan(), queries_per_s=10)
    queue.add(ticket(), now=0.0)
    batch, _ = queue.take(now=0.0)

    assert queue.expected_s == pytest.approx(0.1)
    queue.ran(batch, lanes_s=0.1)
    assert queue.expected_s == 0


def test_fullness_is_that_of_the_nearest_bound() -> None:
    queue = measured(plan(queue_max=100, queue_tokens_max=2000, wait_max_s=1.0), queries_per_s=100)
    for _ in range(50):
        queue.add(ticket(), now=0.0)

    assert queue.fullness == pytest.approx(0.5)
    queue.wait_max_s = 0.625
    assert queue.fullness == pytest.approx(0.8)
    queue.queue_tokens_max = 500
    assert queue.fullness == pytest.approx(1.0)


@given(runs=st.lists(st.tuples(st.integers(1, 2000), st.floats(1e-4, 2.0)), min_size=1, max_size=50))
def test_the_drain_rate_lies_between_the_slowest_run_and_the_fastest(runs: list[tuple[int, float]]) -> None:
    drain = Drain()
    for tokens, lanes_s in runs:
        drain.ran(tokens, lanes_s)

    each = [lanes_s / tokens for tokens, lanes_s in runs]
    assert min(each) * 999 < drain.seconds_for(1000) < max(each) * 1001


def measured(queue: Plan, *, queries_per_s: float) -> Plan:
    """A queue that has seen its lanes work at this rate."""
    for _ in range(20):
        queue.add(ticket(), now=-100.0)
        queue.ran(queue.take(now=-100.0)[0], lanes_s=1 / queries_per_s)
    return queue


def flood(queue: Plan, *, queries_per_s: float, seconds: float, began: float) -> int:
    """Add queries at even distances while nothing is taken. Returns how many were let in."""
    accepted = 0
    for i in range(int(queries_per_s * seconds)):
        with contextlib.suppress(Overloaded):
            queue.add(ticket(), now=began + i / queries_per_s)
            accepted += 1
    return accepted


def test_a_query_past_its_deadline_is_dropped_with_that_reason() -> None:
    queue = plan()
    queue.add(ticket("late", deadline=1.0), now=0.0)
    queue.add(ticket("fine"), now=0.0)

    batch, dropped = queue.take(now=1.0)

    assert names(batch) == ["fine"]
    assert [(t.query.text, reason) for t, reason in dropped] == [("late", "deadline")]


def test_a_query_that_nobody_waits_for_is_dropped_with_that_reason() -> None:
    queue = plan()
    queue.add(ticket("left", wanted=False), now=0.0)

    batch, dropped = queue.take(now=0.0)

    assert batch == []
    assert [reason for _, reason in dropped] == ["caller_gone"]


def test_dead_queries_take_no_place_in_a_batch() -> None:
    queue = plan(size_max=2)
    for name, wanted in (("x", False), ("a", True), ("y", False), ("b", True)):
        queue.add(ticket(name, wanted=wanted), now=0.0)

    assert names(queue.take(0.0)[0]) == ["a", "b"]


def test_a_gather_ends_when_the_oldest_has_waited_its_bound() -> None:
    queue = plan(gather_s=0.004)
    queue.add(ticket(), now=10.0)
    queue.add(ticket(), now=10.003)

    assert queue.hold_until(10.003, dense=True) == pytest.approx(10.004)
    assert queue.hold_until(10.005, dense=True) == 10.005


def test_an_idle_gateway_never_gathers() -> None:
    queue = plan(gather_s=0.004)

    queue.add(ticket(), now=10.0)

    assert queue.hold_until(10.0, dense=False) == 10.0


def test_a_full_batch_does_not_wait_for_more() -> None:
    queue = plan(size_max=2, gather_s=0.004)

    queue.add(ticket(), now=10.0)
    queue.add(ticket(), now=10.0)

    assert queue.hold_until(10.0, dense=True) == 10.0


@given(
    tokens=st.lists(st.integers(1, 300), max_size=60),
    size_max=st.integers(1, 8),
    tokens_max=st.integers(1, 600),
)
def test_every_query_leaves_exactly_once_within_the_bounds(
    tokens: list[int], size_max: int, tokens_max: int
) -> None:
    queue = plan(size_max=size_max, tokens_max=tokens_max, queue_tokens_max=10**9)
    for i, count in enumerate(tokens):
        queue.add(ticket(str(i), tokens=count), now=0.0)

    batches = []
    while len(queue):
        batches.append(queue.take(0.0)[0])

    assert [name for batch in batches for name in names(batch)] == [str(i) for i in range(len(tokens))]
    for batch in batches:
        assert 1 <= len(batch) <= size_max
        assert len(batch) == 1 or sum(t.tokens for t in batch) <= tokens_max
    assert queue.tokens == 0


def test_a_batch_never_mixes_two_models() -> None:
    old, new = FakeRouter(), FakeRouter()
    queue = plan()
    for name, scorer in (("a", old), ("b", old), ("c", new), ("d", old)):
        queue.add(ticket(name, scorer=scorer), now=0.0)

    batches = [names(queue.take(now=0.0)[0]) for _ in range(3)]

    assert batches == [["a", "b"], ["c"], ["d"]]
