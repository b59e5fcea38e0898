"""The cache within the process: never too full, never too old."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from handler.cache import L1
from handler.policy import Scores

TTL_S = 10.0


@dataclass
class Clock:
    """A time that passes when a test says so."""

    s: float = 100.0

    def __call__(self) -> float:
        return self.s


def scores(number: int) -> Scores:
    return Scores(number.to_bytes(4, "little"))


def cache_of(size: int, clock: Clock) -> L1:
    return L1(size_max=size, ttl_s=TTL_S, now=clock)


def test_what_was_put_is_got() -> None:
    l1 = cache_of(2, Clock())

    l1.put(b"a", scores(1))

    assert l1.get(b"a") == scores(1)


def test_what_was_never_put_is_not_there() -> None:
    assert cache_of(2, Clock()).get(b"a") is None


def test_an_entry_is_served_until_its_time_is_over() -> None:
    clock = Clock()
    l1 = cache_of(2, clock)
    l1.put(b"a", scores(1))

    clock.s += TTL_S - 0.001

    assert l1.get(b"a") == scores(1)


def test_an_entry_is_gone_when_its_time_is_over() -> None:
    clock = Clock()
    l1 = cache_of(2, clock)
    l1.put(b"a", scores(1))

    clock.s += TTL_S

    assert l1.get(b"a") is None


def test_an_entry_that_is_put_again_begins_a_new_life() -> None:
    clock = Clock()
    l1 = cache_of(2, clock)
    l1.put(b"a", scores(1))
    clock.s += TTL_S - 1

    l1.put(b"a", scores(2))
    clock.s += TTL_S - 1

    assert l1.get(b"a") == scores(2)


def test_being_read_does_not_make_an_entry_live_longer() -> None:
    clock = Clock()
    l1 = cache_of(2, clock)
    l1.put(b"a", scores(1))
    clock.s += TTL_S - 1

    l1.get(b"a")
    clock.s += 1

    assert l1.get(b"a") is None


def test_an_entry_may_be_given_a_shorter_life() -> None:
    clock = Clock()
    l1 = cache_of(2, clock)

    l1.put(b"a", scores(1), lasts_s=3)
    clock.s += 3

    assert l1.get(b"a") is None


def test_a_shorter_life_is_for_its_own_entry_alone() -> None:
    clock = Clock()
    l1 = cache_of(2, clock)
    l1.put(b"a", scores(1), lasts_s=3)

    l1.put(b"b", scores(2))
    clock.s += TTL_S - 1

    assert l1.get(b"b") == scores(2)


@given(lasts_s=st.floats(allow_nan=False))
def test_no_entry_lives_longer_than_the_ttl(lasts_s: float) -> None:
    clock = Clock()
    l1 = cache_of(2, clock)

    l1.put(b"a", scores(1), lasts_s=lasts_s)
    clock.s += TTL_S

    assert l1.get(b"a") is None


def test_the_least_recently_used_entry_goes_first() -> None:
    l1 = cache_of(2, Clock())
    l1.put(b"a", scores(1))
    l1.put(b"b", scores(2))
    l1.get(b"a")

    l1.put(b"c", scores(3))

    assert [l1.get(key) for key in (b"a", b"b", b"c")] == [scores(1), None, scores(3)]


def test_entries_past_their_time_go_though_nobody_asks_for_them() -> None:
    clock = Clock()
    l1 = cache_of(10, clock)
    for number in range(4):
        l1.put(b"old %d" % number, scores(number))
    clock.s += TTL_S

    held = []
    for number in range(4):
        l1.put(b"new %d" % number, scores(number))
        held.append(len(l1._entries))

    assert held == [3, 2, 3, 4]


def test_what_was_truncated_is_so_when_it_is_got() -> None:
    l1 = cache_of(2, Clock())

    l1.put(b"a", Scores(b"1234", truncated=True))

    assert l1.get(b"a") == Scores(b"1234", truncated=True)


@pytest.mark.parametrize("truncated", [False, True])
def test_a_need_that_was_learnt_is_there_when_its_entry_is_got(truncated: bool) -> None:
    l1 = cache_of(2, Clock())

    l1.put(b"a", Scores(b"1234", truncated, learnt=0.625))

    assert l1.get(b"a") == Scores(b"1234", truncated, learnt=0.625)


def test_entries_past_their_time_do_not_count() -> None:
    clock = Clock()
    l1 = cache_of(2, clock)
    l1.put(b"a", scores(1))

    clock.s += TTL_S

    assert len(l1) == 0


@pytest.mark.parametrize("lasts_s", [None, 1.0])
def test_a_cache_of_size_0_keeps_nothing(lasts_s: float | None) -> None:
    l1 = cache_of(0, Clock())

    l1.put(b"a", scores(1), lasts_s=lasts_s)

    assert (l1.get(b"a"), len(l1)) == (None, 0)


class LivesOfACache(RuleBasedStateMachine):
    """Any sequence of puts, gets and passing time, beside a plain dictionary that forgets nothing."""

    @initialize(size=st.integers(0, 4))
    def begin(self, size: int) -> None:
        self.clock = Clock()
        self.size = size
        self.l1 = cache_of(size, self.clock)
        self.put_last: dict[bytes, tuple[Scores, float]] = {}
        self.count = 0

    @rule(key=st.sampled_from([b"a", b"b", b"c", b"d", b"e", b"f"]), lasts_s=st.none() | st.floats(-1, 20))
    def put(self, key: bytes, lasts_s: float | None) -> None:
        self.count += 1
        self.l1.put(key, scores(self.count), lasts_s=lasts_s)
        expires = self.clock.s + min(TTL_S, TTL_S if lasts_s is None else lasts_s)
        self.put_last[key] = (scores(self.count), expires)

    @rule(key=st.sampled_from([b"a", b"b", b"c", b"d", b"e", b"f"]))
    def get(self, key: bytes) -> None:
        got = self.l1.get(key)
        last, expires = self.put_last.get(key, (None, 0.0))
        good = last if self.clock.s < expires else None
        # Whatever is served is the last that was put, and in time; what fits is not forgotten.
        assert got in (None, good)
        if len(self.put_last) <= self.size:
            assert got == good

    @rule(passed_s=st.floats(0, 15))
    def pass_time(self, passed_s: float) -> None:
        self.clock.s += passed_s

    @invariant()
    def holds_no_more_than_its_size(self) -> None:
        assert len(self.l1) <= self.size


TestLivesOfACache = LivesOfACache.TestCase
