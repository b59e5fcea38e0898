"""The in-process level keeps its bound and its promise about time, whatever is put into it."""

from hypothesis import given
from hypothesis import strategies as st

from handler.cache import L1
from handler.policy import Scores

SCORES = Scores.of([1.0])
keys = st.integers(0, 20).map(lambda i: i.to_bytes(16, "big"))
lives = st.none() | st.floats(-10, 1000)
steps = st.lists(st.tuples(st.floats(0, 50), keys, st.booleans(), lives), max_size=200)


@given(st.integers(0, 5), steps)
def test_it_never_holds_more_than_its_size(
    size_max: int, story: list[tuple[float, bytes, bool, float]]
) -> None:
    now = 0.0
    l1 = L1(size_max=size_max, ttl_s=100.0, now=lambda: now)

    for pause_s, key, _put, lasts_s in story:
        now += pause_s
        l1.put(key, SCORES, lasts_s=lasts_s)

        assert len(l1) <= size_max


@given(steps)
def test_it_never_serves_an_entry_past_its_time(story: list[tuple[float, bytes, bool, float]]) -> None:
    now = 0.0
    l1 = L1(size_max=5, ttl_s=100.0, now=lambda: now)
    ends: dict[bytes, float] = {}

    for pause_s, key, put, lasts_s in story:
        now += pause_s
        if put:
            l1.put(key, SCORES, lasts_s=lasts_s)
            ends[key] = now + min(100.0, 100.0 if lasts_s is None else lasts_s)
        else:
            served = l1.get(key) is not None

            assert not served or now < ends[key]
