"""How `L2` behaves: on a fake link in virtual time, and the same on a real Redis where time does not matter."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from typing import Any

import pytest

from handler.entries import PROBE
from handler.redis_link import open_link
from handler.redis_url import read
from handler.shard import KEYS_MAX, WRITES_MAX, Elsewhere, Link, LinkError
from handler.statistics import L2Failure, L2Reject
from lab.redis_server import RedisServer
from tests import virtual
from tests.l2.links import FakeLink
from tests.l2.rig import BUDGET_S, SCORES, Rig, alone, name, running, scores, written


def virtually(story: Callable[[FakeLink], Coroutine[Any, Any, None]]) -> None:
    virtual.run(story(FakeLink()))


# The same on the fake and on the real thing.


@pytest.fixture(params=["fake", "real"])
async def link(request: pytest.FixtureRequest) -> AsyncIterator[Link]:
    if request.param == "fake":
        yield FakeLink()
    else:
        server: RedisServer = request.getfixturevalue("start_redis")()
        yield open_link(read(server.url))


async def test_what_was_put_is_got(link: Link) -> None:
    async with running(alone(link), timeout_s=5) as rig:
        rig.l2.put(name(1), SCORES)
        await written(rig, name(1))

        found = await rig.l2.get(name(1), 2)

    assert found is not None
    assert found.scores == SCORES
    assert 3500 < found.lasts_s <= 3600


async def test_what_was_never_put_is_not_got(link: Link) -> None:
    async with running(alone(link), timeout_s=5) as rig:
        assert await rig.l2.get(name(1), 2) is None


async def test_many_look_ups_at_once_get_each_their_own(link: Link) -> None:
    async with running(alone(link), timeout_s=5) as rig:
        for i in range(600):
            rig.l2.put(name(i), scores(i))
        await written(rig, name(599))

        found = await asyncio.gather(*(rig.l2.get(name(i), 2) for i in range(600)))

    assert [one and one.scores for one in found] == [scores(i) for i in range(600)]


async def test_a_caller_who_leaves_never_hands_its_answer_to_another(link: Link) -> None:
    """A redis-py command that is cancelled may leave its answer on the connection."""
    dice = random.Random(7)
    async with running(alone(link), timeout_s=5) as rig:
        for i in range(200):
            rig.l2.put(name(i), scores(i))
        await written(rig, name(199))
        wrong = stayed = left = 0

        for _ in range(60):
            asked = [dice.randrange(200) for _ in range(20)]
            calls = [asyncio.create_task(rig.l2.get(name(i), 2)) for i in asked]
            for _turn in range(dice.randrange(6)):
                await asyncio.sleep(0)
            for call in dice.sample(calls, 10):
                left += call.cancel()
            answers = await asyncio.gather(*calls, return_exceptions=True)
            for i, answer in zip(asked, answers, strict=True):
                if not isinstance(answer, BaseException):
                    stayed += 1
                    wrong += answer is None or answer.scores != scores(i)

    assert wrong == 0
    assert left > 0
    assert stayed >= 600
    assert rig.counts.rejected["corrupt"] == 0


async def test_what_is_still_to_be_written_is_written_at_the_end(link: Link) -> None:
    async with running(alone(link), timeout_s=5) as rig:
        rig.l2.put(name(1), SCORES)

    assert rig.counts.dropped == {"full": 0, "unavailable": 0, "failed": 0}
    assert rig.counts.mean_ms["set"] is not None


# On the fake alone: failures and budgets, in virtual time.


def test_look_ups_of_one_moment_share_a_round_trip() -> None:
    async def story(link: FakeLink) -> None:
        async with running(alone(link)) as rig:
            link.trips.clear()
            await asyncio.gather(*(rig.l2.get(name(i), 2) for i in range(50)))
            assert link.trips == [("get", [name(i) for i in range(50)])]

    virtually(story)


def test_look_ups_that_come_while_one_is_under_way_share_the_next() -> None:
    async def story(link: FakeLink) -> None:
        async with running(alone(link)) as rig:
            link.trips.clear()
            link.hold = asyncio.Event()
            first = asyncio.create_task(rig.l2.get(name(0), 2))
            await asyncio.sleep(0.001)
            rest = [asyncio.create_task(rig.l2.get(name(i), 2)) for i in range(1, 40)]
            await asyncio.sleep(0.001)
            link.hold.set()
            await asyncio.gather(first, *rest)
            assert [len(keys) for _, keys in link.trips] == [1, 39]

    virtually(story)


def test_no_round_trip_carries_more_keys_than_its_bound() -> None:
    async def story(link: FakeLink) -> None:
        async with running(alone(link)) as rig:
            link.trips.clear()
            await asyncio.gather(*(rig.l2.get(name(i), 2) for i in range(KEYS_MAX + 1)))
            assert [len(keys) for _, keys in link.trips] == [KEYS_MAX, 1]

    virtually(story)


def test_a_look_up_costs_its_budget_at_most() -> None:
    async def story(link: FakeLink) -> None:
        loop = asyncio.get_running_loop()
        async with running(alone(link)) as rig:
            link.hold = asyncio.Event()
            asked_at = loop.time()
            assert await rig.l2.get(name(0), 2) is None
            assert loop.time() - asked_at == pytest.approx(BUDGET_S)
            link.hold.set()

    virtually(story)


def test_who_waits_behind_a_late_round_trip_is_let_go_with_it() -> None:
    async def story(link: FakeLink) -> None:
        loop = asyncio.get_running_loop()
        async with running(alone(link)) as rig:
            link.hold = asyncio.Event()
            first = asyncio.create_task(rig.l2.get(name(0), 2))
            await asyncio.sleep(0.015)
            asked_at = loop.time()
            assert await rig.l2.get(name(1), 2) is None
            assert loop.time() - asked_at == pytest.approx(0.005)
            await first
            link.hold.set()

    virtually(story)


def test_while_a_round_trip_is_late_no_query_waits_at_all() -> None:
    async def story(link: FakeLink) -> None:
        loop = asyncio.get_running_loop()
        async with running(alone(link)) as rig:
            link.hold = asyncio.Event()
            await rig.l2.get(name(0), 2)
            asked_at = loop.time()
            assert await rig.l2.get(name(1), 2) is None
            assert loop.time() == asked_at
            link.hold.set()

    virtually(story)


def test_one_late_answer_does_not_end_the_use_of_redis() -> None:
    async def story(link: FakeLink) -> None:
        async with running(alone(link)) as rig:
            rig.l2.put(name(0), SCORES)
            await asyncio.sleep(0.1)
            link.hold = asyncio.Event()
            await rig.l2.get(name(0), 2)
            link.hold.set()
            await asyncio.sleep(0.001)
            assert await rig.l2.get(name(0), 2) is not None
            assert rig.l2.healthy

    virtually(story)


def test_an_answer_that_waits_in_the_socket_when_time_is_up_is_no_late_answer() -> None:
    """As when the loop itself was held up: answer and time-out come up in the same turn of it."""

    async def story(link: FakeLink) -> None:
        loop = asyncio.get_running_loop()
        async with running(alone(link)) as rig:
            rig.l2.put(name(0), SCORES)
            await asyncio.sleep(0.1)
            link.hold = asyncio.Event()
            loop.call_at(loop.time() + BUDGET_S - 1e-10, link.hold.set)
            assert await rig.l2.get(name(0), 2) is not None
            assert rig.counts.errors["timeout"] == 0

    virtually(story)


def test_while_the_breaker_is_open_nothing_is_asked_for_queries() -> None:
    async def story(link: FakeLink) -> None:
        async with running(alone(link)) as rig:
            link.reads_fail = LinkError("connection", "refused")
            for i in range(3):
                await rig.l2.get(name(i), 2)
            assert not rig.l2.healthy
            link.trips.clear()
            for i in range(100):
                assert await rig.l2.get(name(i), 2) is None
            assert link.trips == []

    virtually(story)


def test_a_loss_is_noticed_without_a_single_query() -> None:
    async def story(link: FakeLink) -> None:
        async with running(alone(link)) as rig:
            link.reads_fail = LinkError("connection", "refused")
            await asyncio.sleep(1.5)
            assert not rig.l2.healthy
            assert rig.counts.size is None

    virtually(story)


def test_it_is_used_again_within_two_seconds_of_its_return() -> None:
    async def story(link: FakeLink) -> None:
        async with running(alone(link)) as rig:
            link.reads_fail = LinkError("connection", "refused")
            await asyncio.sleep(3600)
            link.reads_fail = None
            await asyncio.sleep(2.01)
            assert rig.l2.healthy

    virtually(story)


def test_an_hour_without_redis_is_two_lines_of_log() -> None:
    async def story(link: FakeLink) -> None:
        async with running(alone(link)) as rig:
            link.reads_fail = LinkError("connection", "refused")
            await asyncio.sleep(3600)
            link.reads_fail = None
            await asyncio.sleep(2.01)
            assert rig.events() == ["l2_up", "l2_down", "l2_up"]

    virtually(story)


def test_an_hour_of_failures_that_take_turns_is_a_line_for_each_kind() -> None:
    """Each with a text of its own, as measured times have; and two kinds by turns."""

    class Fickle(FakeLink):
        turn = 0

        async def greet(self) -> None:
            if self.reads_fail:
                self.turn += 1
                kind: L2Failure = "timeout" if self.turn % 2 else "connection"
                raise LinkError(kind, f"answers in {self.turn} ms")

    async def story() -> None:
        link = Fickle()
        async with running(alone(link)) as rig:
            link.reads_fail = LinkError("connection", "refused")
            await asyncio.sleep(3600)
            assert link.turn > 1000
            link.reads_fail = None
            await asyncio.sleep(2.01)
            assert rig.events() == ["l2_up", "l2_down", "l2_down", "l2_up"]

    virtual.run(story())


def test_a_loss_that_comes_back_is_logged_again() -> None:
    async def story(link: FakeLink) -> None:
        async with running(alone(link)) as rig:
            for _ in range(2):
                link.reads_fail = LinkError("connection", "refused")
                await asyncio.sleep(10)
                link.reads_fail = None
                await asyncio.sleep(2.01)
            assert rig.events() == ["l2_up", *["l2_down", "l2_up"] * 2]

    virtually(story)


def test_a_redis_that_refuses_writes_still_serves_hits() -> None:
    async def story(link: FakeLink) -> None:
        async with running(alone(link)) as rig:
            rig.l2.put(name(0), SCORES)
            await asyncio.sleep(0.1)
            link.refuse = LinkError("memory", "OOM")
            for i in range(1, 10):
                rig.l2.put(name(i), SCORES)
                await asyncio.sleep(0.05)
            assert not rig.l2.healthy
            assert rig.l2.trouble == "writes: OOM"
            assert await rig.l2.get(name(0), 2) is not None

    virtually(story)


def test_refused_writes_start_again_by_themselves() -> None:
    async def story(link: FakeLink) -> None:
        async with running(alone(link)) as rig:
            link.refuse = LinkError("readonly", "READONLY")
            for i in range(9):
                rig.l2.put(name(i), SCORES)
                await asyncio.sleep(0.05)
            link.refuse = None
            await asyncio.sleep(2.1)
            assert rig.l2.healthy
            assert PROBE in link.entries

    virtually(story)


def test_every_write_that_does_not_happen_is_counted() -> None:
    async def story(link: FakeLink) -> None:
        async with running(alone(link)) as rig:
            link.writes_fail = LinkError("timeout", "late")
            for i in range(100):
                rig.l2.put(name(i), SCORES)
                await asyncio.sleep(0.02)
            assert sum(rig.counts.dropped.values()) == 100

    virtually(story)


def test_a_full_buffer_drops_what_comes_and_counts_it() -> None:
    async def story(link: FakeLink) -> None:
        async with running(alone(link)) as rig:
            for i in range(WRITES_MAX + 5):
                rig.l2.put(name(i), SCORES)
            assert rig.counts.dropped["full"] == 5

    virtually(story)


def test_writes_of_a_moment_share_round_trips() -> None:
    async def story(link: FakeLink) -> None:
        async with running(alone(link)) as rig:
            link.trips.clear()
            for i in range(100):
                rig.l2.put(name(i), SCORES)
            await asyncio.sleep(0.1)
            assert [(what, len(keys)) for what, keys in link.trips] == [("set", 100)]

    virtually(story)


@pytest.mark.parametrize(
    ("value", "reason"), [(b"rubbish", "corrupt"), (b"", "corrupt"), (b"3 of tomorrow", "version")]
)
def test_a_foreign_value_is_a_counted_miss(value: bytes, reason: L2Reject) -> None:
    async def story(link: FakeLink) -> None:
        async with running(alone(link)) as rig:
            link.entries[name(0)] = value
            assert await rig.l2.get(name(0), 2) is None
            assert rig.counts.rejected[reason] == 1

    virtually(story)


@pytest.mark.parametrize(
    "value",
    ["1 whole", 7, 0.5, [b"1"], {}, True, RuntimeError("in its place")],
    ids=lambda value: repr(value),
)
def test_a_value_that_is_no_bytes_is_a_counted_miss(value: object) -> None:
    async def story(link: FakeLink) -> None:
        async with running(alone(link)) as rig:
            link.entries[name(0)] = value  # type: ignore[assignment]
            assert await rig.l2.get(name(0), 2) is None
            assert rig.counts.rejected["corrupt"] == 1

    virtually(story)


@pytest.mark.parametrize("given", [[], [None] * 3])
def test_another_number_of_values_than_keys_is_a_miss(given: list[None]) -> None:
    class Miscounting(FakeLink):
        async def get_many(
            self, keys: Sequence[bytes], asking: Collection[bytes] = ()
        ) -> Sequence[bytes | Elsewhere | None]:
            return list(given)

    async def story() -> None:
        rig = Rig(alone(Miscounting()))
        task = asyncio.create_task(rig.l2.run())
        await asyncio.sleep(1)
        rig.l2._shards["redis://test"].reads.succeeded()

        assert await rig.l2.get(name(0), 2) is None

        assert not task.done()
        task.cancel()

    virtual.run(story())


def test_a_bug_in_the_link_is_a_miss_and_not_the_end() -> None:
    class Broken(FakeLink):
        bug = False

        async def get_many(
            self, keys: Sequence[bytes], asking: Collection[bytes] = ()
        ) -> Sequence[bytes | Elsewhere | None]:
            if self.bug:
                raise RuntimeError("nobody thought of this")
            return await super().get_many(keys, asking)

    async def story() -> None:
        link = Broken()
        async with running(alone(link)) as rig:
            link.bug = True
            assert await rig.l2.get(name(0), 2) is None
            await asyncio.sleep(5)
            assert rig.counts.errors["other"] > 1
            assert rig.l2.trouble == "look-ups: RuntimeError"

    virtual.run(story())


def test_no_query_pays_for_the_first_connection() -> None:
    async def story() -> None:
        rig = Rig(alone(FakeLink()))
        assert await rig.l2.get(name(0), 2) is None

    virtual.run(story())


def test_a_link_that_swallows_a_cancellation_does_not_keep_the_process_alive() -> None:
    """As redis-py may, through `asyncio.wait_for` of Python 3.11."""

    class Deaf(FakeLink):
        deaf = True

        async def get_many(
            self, keys: Sequence[bytes], asking: Collection[bytes] = ()
        ) -> Sequence[bytes | Elsewhere | None]:
            try:
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                if not self.deaf:
                    raise
                self.deaf = False
            return [None] * len(keys)

    async def story() -> None:
        link = Deaf()
        task = asyncio.create_task(Rig(alone(link)).l2.run())
        await asyncio.sleep(0.5)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=5)
        assert done
        assert not link.deaf
        assert link.closed

    virtual.run(story())


def test_a_write_that_the_end_interrupts_is_written_nevertheless() -> None:
    class Slow(FakeLink):
        async def set_many(
            self, entries: Sequence[tuple[bytes, bytes]], ttl_s: float, asking: Collection[bytes] = ()
        ) -> Sequence[LinkError | Elsewhere | None]:
            await asyncio.sleep(0.1)
            return await super().set_many(entries, ttl_s, asking)

    async def story() -> None:
        link = Slow()
        async with running(alone(link)) as rig:
            rig.l2.put(name(0), SCORES)
            await asyncio.sleep(0.05)
        assert name(0) in link.entries

    virtual.run(story())


def test_the_link_is_closed_at_the_end() -> None:
    async def story(link: FakeLink) -> None:
        async with running(alone(link)):
            pass
        assert link.closed

    virtually(story)
