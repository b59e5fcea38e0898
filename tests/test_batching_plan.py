"""`Plan`: what leaves the queue and when. No clock, no loop."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.batching import BULK_AFTER_RUNS, BULK_TOKENS_BESIDE, DEADLINE_MARGIN, Plan, Throughput, Ticket
from handler.errors import DeadlineExceeded, Overloaded
from handler.query import Normalised
from tests.fakes import FakeRouter

FOREVER = 1e9
MODEL = FakeRouter()


def plan(**limits: float) -> Plan:
    settings = {"size_max": 4, "tokens_max": 1000, "queue_min": 100, "queue_max": 10_000}
    return Plan(**{**settings, **limits})  # type: ignore[arg-type]


def ticket(
    name: str = "q",
    *,
    tokens: int = 10,
    deadline: float = FOREVER,
    wanted: bool = True,
    bulk: bool = False,
    caller: bytes = b"",
    scorer: FakeRouter | None = None,
) -> Ticket:
    return Ticket(
        query=Normalised(name),
        scorer=scorer or MODEL,
        tokens=tokens,
        deadline=deadline,
        wanted=wanted,
        bulk=bulk,
        caller=caller,
    )


def names(tickets: list[Ticket]) -> list[str]:
    return [ticket.query.text for ticket in tickets]


def test_a_lone_query_leaves_at_once() -> None:
    queue = plan()

    queue.add(ticket("alone"), now=5.0)

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


# Who may wait


def test_a_full_queue_refuses_the_next_query() -> None:
    queue = plan(queue_min=2, queue_max=2)
    queue.add(ticket(), now=0.0)
    queue.add(ticket(), now=0.0)

    with pytest.raises(Overloaded):
        queue.add(ticket(), now=0.0)

    assert queue.waiting == 2


@given(
    tokens=st.lists(st.integers(1, 114), min_size=64, max_size=64),
    tokens_per_s=st.floats(100, 1e6),
    gaps_s=st.lists(st.floats(0, 1), min_size=64, max_size=64),
)
def test_up_to_queue_min_queries_without_a_deadline_may_always_wait(
    tokens: list[int], tokens_per_s: float, gaps_s: list[float]
) -> None:
    queue = measured(plan(queue_min=64), queries_per_s=tokens_per_s / 10)
    now = 0.0

    for count, gap_s in zip(tokens, gaps_s, strict=True):
        queue.add(ticket(tokens=count), now=(now := now + gap_s))

    assert queue.waiting == 64


def test_a_query_whose_time_will_not_do_is_refused() -> None:
    queue = measured(plan(wait_max_s=0.7), queries_per_s=10)
    for _ in range(5):
        queue.add(ticket(), now=0.0)

    # Five wait and take half a second; the sixth would be done after 0.6 s, which is not much under 0.7.
    with pytest.raises(Overloaded):
        queue.add(ticket(deadline=0.7), now=0.0)
    queue.add(ticket(deadline=0.8), now=0.0)


def test_a_query_whose_caller_gives_it_too_little_time_is_not_shed_but_late() -> None:
    queue = measured(plan(wait_max_s=1.0), queries_per_s=10)
    for _ in range(5):
        queue.add(ticket(), now=0.0)

    with pytest.raises(DeadlineExceeded):
        queue.add(ticket(deadline=0.7), now=0.0)


def test_a_query_is_taken_by_a_gateway_with_nothing_to_do_however_slow_its_last_run_was() -> None:
    queue = plan()
    queue.add(ticket(), now=0.0)
    queue.ran(queue.take(now=0.0)[0], lanes_s=60.0)

    queue.add(ticket(deadline=100.1), now=100.0)

    assert len(queue.take(100.0)[0]) == 1


def test_a_burst_is_let_in_past_queue_min() -> None:
    queue = measured(plan(queue_min=64, queue_max=500), queries_per_s=1000)

    assert flood(queue, queries_per_s=20_000, seconds=0.02, began=0.0) == 400


def test_a_burst_is_let_in_up_to_queue_max() -> None:
    queue = measured(plan(queue_min=64, queue_max=200), queries_per_s=1000)

    assert flood(queue, queries_per_s=20_000, seconds=0.02, began=0.0) == 200


def test_a_flood_is_cut_at_queue_min_once_it_is_no_burst() -> None:
    queue = plan(queue_min=64)

    accepted = flood(queue, queries_per_s=1000, seconds=1.0, began=0.0)

    assert accepted == 64


def test_a_new_burst_is_let_in_once_the_queue_was_short_again() -> None:
    queue = measured(plan(queue_min=64, queue_max=500, size_max=500), queries_per_s=1000)
    flood(queue, queries_per_s=3000, seconds=1.0, began=0.0)
    while queue.waiting:
        queue.ran(queue.take(now=1.5)[0], lanes_s=0.004)

    assert flood(queue, queries_per_s=20_000, seconds=0.02, began=1.5) == 400


def test_an_old_bound_under_queue_min_still_holds() -> None:
    queue = plan(queue_min=64, queue_max=3)

    assert flood(queue, queries_per_s=1000, seconds=1.0, began=0.0) == 3


def test_queries_whose_callers_left_take_no_place_from_others() -> None:
    queue = plan(queue_min=3, queue_max=3)
    for _ in range(3):
        queue.add(ticket("left", wanted=False), now=0.0)

    queue.add(ticket("stays"), now=0.0)

    batch, dropped = queue.take(now=0.0)
    assert names(batch) == ["stays"]
    assert [reason for _, reason in dropped] == ["caller_gone"] * 3


@pytest.mark.parametrize(("waiting", "after_s"), [(2, "1"), (45, "5"), (95, "10"), (9000, "30")])
def test_a_refusal_says_when_what_waits_will_be_done(waiting: int, after_s: str) -> None:
    queue = measured(plan(queue_min=waiting, queue_max=waiting), queries_per_s=10)
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
    queue = measured(plan(queue_min=100, wait_max_s=2.0), queries_per_s=100)
    for _ in range(50):
        queue.add(ticket(), now=0.0)

    assert queue.fullness == pytest.approx(0.5)
    queue.wait_max_s = 0.5 * DEADLINE_MARGIN / 0.8
    assert queue.fullness == pytest.approx(0.8)


def test_fullness_is_1_at_most() -> None:
    queue = plan(queue_min=10)
    flood(queue, queries_per_s=20_000, seconds=0.01, began=0.0)

    assert queue.fullness == 1.0


@given(runs=st.lists(st.tuples(st.integers(1, 2000), st.floats(1e-4, 2.0)), min_size=1, max_size=50))
def test_the_throughput_lies_between_the_slowest_run_and_the_fastest(runs: list[tuple[int, float]]) -> None:
    throughput = Throughput(guess=1000)
    for tokens, lanes_s in runs:
        throughput.ran(tokens, lanes_s)

    each = [lanes_s / tokens for tokens, lanes_s in runs] + [1 / 1000]
    assert min(each) * 999 < throughput.seconds_for(1000) < max(each) * 1001


def measured(queue: Plan, *, queries_per_s: float) -> Plan:
    """A queue that has seen its lanes work at this rate, and nothing else for long."""
    for _ in range(20):
        queue.add(ticket(), now=-100.0)
        queue.ran(queue.take(now=-100.0)[0], lanes_s=1 / queries_per_s)
    queue._throughput._tokens, queue._throughput._seconds = 10.0, 1 / queries_per_s
    return queue


def flood(queue: Plan, *, queries_per_s: float, seconds: float, began: float) -> int:
    """Add queries at even distances while nothing is taken. Returns how many were let in."""
    accepted = 0
    for i in range(int(queries_per_s * seconds)):
        with contextlib.suppress(Overloaded):
            queue.add(ticket(), now=began + i / queries_per_s)
            accepted += 1
    return accepted


# Bulk, and callers by name


def test_single_queries_go_before_bulk_ones() -> None:
    queue = plan()
    queue.add(ticket("bulk", bulk=True), now=0.0)
    queue.add(ticket("single"), now=0.1)

    assert names(queue.take(0.1)[0]) == ["single"]
    assert names(queue.take(0.1)[0]) == ["bulk"]


def test_a_run_of_bulk_queries_holds_128_tokens_at_most() -> None:
    queue = plan(size_max=100)
    for _ in range(20):
        queue.add(ticket(tokens=16, bulk=True), now=0.0)

    assert sum(t.tokens for t in queue.take(0.0)[0]) == 128


def test_a_run_of_bulk_queries_is_shorter_while_single_ones_come() -> None:
    queue = plan(size_max=100)
    for _ in range(20):
        queue.add(ticket(tokens=16, bulk=True), now=0.0)
    queue.add(ticket(), now=0.0)
    queue.take(0.0)

    assert sum(t.tokens for t in queue.take(0.01)[0]) <= BULK_TOKENS_BESIDE


def test_bulk_queries_have_a_run_now_and_then_though_single_ones_never_end() -> None:
    queue = plan(size_max=1)
    queue.add(ticket("bulk", bulk=True), now=0.0)

    left = []
    for i in range(20):
        queue.add(ticket("single"), now=float(i))
        left += names(queue.take(float(i))[0])

    assert left.index("bulk") == BULK_AFTER_RUNS


def test_bulk_queries_take_no_place_from_single_ones() -> None:
    queue = plan(queue_min=4, queue_max=4)
    for _ in range(4):
        queue.add(ticket(bulk=True), now=0.0)

    queue.add(ticket(), now=0.0)

    assert queue.waiting == 1


def test_bulk_queries_are_bounded_too() -> None:
    queue = plan(queue_min=4, queue_max=4)
    for _ in range(4):
        queue.add(ticket(bulk=True), now=0.0)

    with pytest.raises(Overloaded):
        queue.add(ticket(bulk=True), now=0.0)


def test_a_caller_with_the_whole_queue_keeps_no_other_out() -> None:
    queue = plan(queue_min=8, queue_max=8)
    queue.queue_max = 100
    for _ in range(8):
        queue.add(ticket(caller=b"a"), now=0.0)

    for _ in range(4):
        queue.add(ticket(caller=b"b"), now=1.0)

    with pytest.raises(Overloaded):
        queue.add(ticket(caller=b"a"), now=1.0)
    with pytest.raises(Overloaded):
        queue.add(ticket(caller=b"b"), now=1.0)


def test_callers_take_turns() -> None:
    queue = plan(size_max=1)
    for name, caller in (("a1", b"a"), ("a2", b"a"), ("a3", b"a"), ("b1", b"b"), ("c1", b"c")):
        queue.add(ticket(name, caller=caller), now=0.0)

    left = [names(queue.take(0.0)[0])[0] for _ in range(5)]

    assert left == ["a1", "b1", "c1", "a2", "a3"]


# What leaves, and what is dropped


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


def test_what_waits_is_shared_out_among_the_free_lanes() -> None:
    queue = plan(size_max=32)
    for name in "abcdefg":
        queue.add(ticket(name), now=0.0)

    assert names(queue.take(0.0, lanes_free=2)[0]) == ["a", "b", "c", "d"]
    assert names(queue.take(0.0, lanes_free=1)[0]) == ["e", "f", "g"]


@given(
    tokens=st.lists(st.integers(1, 300), max_size=60),
    size_max=st.integers(1, 8),
    tokens_max=st.integers(1, 600),
)
def test_every_query_leaves_exactly_once_within_the_bounds(
    tokens: list[int], size_max: int, tokens_max: int
) -> None:
    queue = plan(size_max=size_max, tokens_max=tokens_max)
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
