"""How `L2` behaves over several servers, on fake ones in virtual time."""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any

import pytest

from handler.entries import PROBE
from handler.l2 import LOOK_EVERY_S, LOOK_PAUSE_S, SPARE_S
from handler.shard import HOPS_MAX, Elsewhere, LinkError
from tests import virtual
from tests.l2.links import FakeLink
from tests.l2.rig import BUDGET_S, SCORES, Rig, name, running

A, B, C, D = "a:1", "b:1", "c:1", "d:1"


class FakeShard(FakeLink):
    """Sends those on whose key it does not have. `away` says where a key is that is on its way, else `owner` does."""

    def __init__(self, cluster: "FakeCluster", address: str) -> None:
        super().__init__()
        self.cluster = cluster
        self.address = address
        self.asked_asking: list[bytes] = []

    def _else(self, key: bytes, asking: Collection[bytes]) -> Elsewhere | None:
        if key == self.probe:
            return None
        if key in asking:
            self.asked_asking.append(key)
            return None
        if key in self.cluster.away and self.cluster.owner.get(key) == self.address:
            return Elsewhere(self.cluster.away[key], asking=True)
        owner = self.cluster.owner.get(key, self.address)
        if owner == self.address:
            return None
        self.cluster.known[key] = owner
        return Elsewhere(owner, asking=False)

    async def get_many(
        self, keys: Sequence[bytes], asking: Collection[bytes] = ()
    ) -> Sequence[bytes | Elsewhere | None]:
        values = await super().get_many(keys, asking)
        return [self._else(key, asking) or value for key, value in zip(keys, values, strict=True)]

    async def set_many(
        self, entries: Sequence[tuple[bytes, bytes]], ttl_s: float, asking: Collection[bytes] = ()
    ) -> Sequence[LinkError | Elsewhere | None]:
        refused = await super().set_many(entries, ttl_s, asking)
        return [self._else(key, asking) or reply for (key, _), reply in zip(entries, refused, strict=True)]


class FakeCluster:
    """Servers A, B and C, which have the keys by turns.

    owner  who has a key, as the servers know; known  as L2 was told
    away   where a key is that is on its way to another server
    """

    trouble = None

    def __init__(self) -> None:
        self.holders: Collection[str] = (A, B, C)
        self.owner: dict[bytes, str] = {name(i): (A, B, C)[i % 3] for i in range(300)}
        self.known = dict(self.owner)
        self.away: dict[bytes, str] = {}
        self.links: dict[str, FakeShard] = {}
        self.looks = 0
        self.look_fails: LinkError | None = None

    def holder(self, key: bytes) -> str | None:
        return self.known.get(key)

    def link(self, address: str) -> FakeShard:
        self.links[address] = FakeShard(self, address)
        return self.links[address]

    async def look(self) -> None:
        self.looks += 1
        if self.look_fails:
            raise self.look_fails
        self.known = dict(self.owner)
        self.holders = sorted(set(self.owner.values()))


def virtually(story: Callable[[FakeCluster], Coroutine[Any, Any, None]]) -> None:
    virtual.run(story(FakeCluster()))


def give(cluster: FakeCluster, source: str, target: str) -> None:
    """All keys of one server to another, which L2 is not told."""
    for key, owner in cluster.owner.items():
        if owner == source:
            cluster.owner[key] = target


def mine(address: str) -> list[int]:
    return [i for i in range(30) if (A, B, C)[i % 3] == address]


async def put(rig: Rig, *numbers: int) -> None:
    for i in numbers:
        rig.l2.put(name(i), SCORES)
    await asyncio.sleep(0.1)


async def found(rig: Rig, numbers: Sequence[int]) -> list[bool]:
    return [one is not None for one in await asyncio.gather(*(rig.l2.get(name(i), 2) for i in numbers))]


def test_look_ups_of_one_moment_are_a_round_trip_to_each_server() -> None:
    async def story(cluster: FakeCluster) -> None:
        async with running(cluster) as rig:
            for link in cluster.links.values():
                link.trips.clear()
            await asyncio.gather(*(rig.l2.get(name(i), 2) for i in range(30)))
            for address in (A, B, C):
                assert cluster.links[address].trips == [("get", [name(i) for i in mine(address)])]

    virtually(story)


def test_a_frozen_server_costs_its_own_keys_alone() -> None:
    async def story(cluster: FakeCluster) -> None:
        loop = asyncio.get_running_loop()
        async with running(cluster) as rig:
            await put(rig, *range(30))
            held = cluster.links[A].hold = asyncio.Event()
            for _ in range(10):
                asked_at = loop.time()
                assert all(await found(rig, mine(B) + mine(C)))
                assert loop.time() - asked_at < 0.001
                assert not any(await found(rig, mine(A)))
                assert loop.time() - asked_at < BUDGET_S + 0.001
                await asyncio.sleep(0.2)
            held.set()

    virtually(story)


def test_a_lost_server_costs_its_own_keys_alone() -> None:
    async def story(cluster: FakeCluster) -> None:
        async with running(cluster) as rig:
            await put(rig, *range(30))
            cluster.links[A].reads_fail = LinkError("connection", "refused")
            await asyncio.sleep(10)
            cluster.links[A].trips.clear()
            assert all(await found(rig, mine(B) + mine(C)))
            assert not any(await found(rig, mine(A)))
            assert rig.l2.trouble == "1 of 3 shards: a:1: look-ups: refused"
            assert [(shard.address, shard.trouble is None) for shard in rig.counts.shards] == [
                (A, False), (B, True), (C, True),
            ]  # fmt: skip
            assert rig.counts.open == {"reads": 1, "writes": 0}
            assert rig.counts.size is None

    virtually(story)


def test_a_full_server_takes_no_writes_while_the_others_do() -> None:
    async def story(cluster: FakeCluster) -> None:
        async with running(cluster) as rig:
            cluster.links[A].refuse = LinkError("memory", "OOM")
            for i in range(0, 30, 3):
                await put(rig, i, i + 1, i + 2)
            assert rig.counts.open == {"reads": 0, "writes": 1}
            assert all(await found(rig, mine(B) + mine(C)))
            assert rig.counts.dropped["full"] == 0

    virtually(story)


def test_a_look_up_is_sent_on_to_where_its_key_went() -> None:
    async def story(cluster: FakeCluster) -> None:
        async with running(cluster) as rig:
            await put(rig, *range(30))
            cluster.links[B].entries.update(cluster.links[A].entries)
            give(cluster, A, B)
            assert all(await found(rig, range(30)))
            assert rig.l2.healthy

    virtually(story)


def test_a_move_is_learnt_from_whoever_says_so_first() -> None:
    async def story(cluster: FakeCluster) -> None:
        async with running(cluster) as rig:
            looks = cluster.looks
            give(cluster, A, B)
            await found(rig, mine(A)[:1])
            await asyncio.sleep(2 * LOOK_PAUSE_S)
            assert cluster.looks > looks
            cluster.links[A].trips.clear()
            await found(rig, mine(A))
            assert [trip for trip in cluster.links[A].trips if name(0) in trip[1]] == []

    virtually(story)


def test_a_write_is_sent_on_to_where_its_key_went() -> None:
    async def story(cluster: FakeCluster) -> None:
        async with running(cluster) as rig:
            give(cluster, A, B)
            await put(rig, *mine(A))
            assert {name(i) for i in mine(A)} <= cluster.links[B].entries.keys()
            assert sum(rig.counts.dropped.values()) == 0

    virtually(story)


def test_a_key_that_is_on_its_way_is_asked_for_on_the_other_side() -> None:
    async def story(cluster: FakeCluster) -> None:
        async with running(cluster) as rig:
            await put(rig, *range(30))
            cluster.links[C].entries.update(cluster.links[A].entries)
            looks = cluster.looks
            cluster.away = dict.fromkeys(map(name, mine(A)), C)
            assert all(await found(rig, range(30)))
            assert sorted(cluster.links[C].asked_asking) == sorted(map(name, mine(A)))
            await put(rig, *mine(A))
            assert sum(rig.counts.dropped.values()) == 0
            assert cluster.looks == looks  # nothing has moved for good

    virtually(story)


def test_what_was_sent_on_costs_its_budget_at_most() -> None:
    async def story(cluster: FakeCluster) -> None:
        loop = asyncio.get_running_loop()
        async with running(cluster) as rig:
            give(cluster, A, B)
            held = cluster.links[B].hold = asyncio.Event()
            asked_at = loop.time()
            assert await found(rig, mine(A)) == [False] * 10
            assert loop.time() - asked_at == pytest.approx(BUDGET_S)
            held.set()

    virtually(story)


def test_who_is_sent_to_a_frozen_server_does_not_hold_up_those_who_are_not() -> None:
    async def story(cluster: FakeCluster) -> None:
        loop = asyncio.get_running_loop()
        async with running(cluster) as rig:
            await put(rig, *range(30))
            cluster.owner[name(0)] = B
            held = cluster.links[B].hold = asyncio.Event()
            sent_on = asyncio.create_task(rig.l2.get(name(0), 2))
            await asyncio.sleep(0.001)
            asked_at = loop.time()
            assert all(await found(rig, mine(A)[1:]))
            assert loop.time() - asked_at < 0.001
            assert await sent_on is None
            held.set()

    virtually(story)


def test_servers_that_send_a_key_to_and_fro_make_it_a_miss() -> None:
    class Quarrel(FakeCluster):
        """Each says that the other has it."""

        def link(self, address: str) -> FakeShard:
            link = super().link(address)
            other = {A: B, B: A, C: A}[address]
            link._else = lambda key, asking: None if key == link.probe else Elsewhere(other, asking=False)  # type: ignore[method-assign]
            return link

    async def story() -> None:
        cluster = Quarrel()
        async with running(cluster) as rig:
            for link in cluster.links.values():
                link.trips.clear()
            assert await found(rig, [0]) == [False]
            asked = [trip for link in cluster.links.values() for trip in link.trips if name(0) in trip[1]]
            assert len(asked) == 1 + HOPS_MAX
            await put(rig, 0)
            assert rig.counts.dropped["unavailable"] == 1

    virtual.run(story())


def test_a_fail_over_is_followed_within_two_seconds() -> None:
    async def story(cluster: FakeCluster) -> None:
        async with running(cluster) as rig:
            cluster.links[A].reads_fail = LinkError("connection", "refused")
            await asyncio.sleep(60)
            give(cluster, A, D)
            await asyncio.sleep(2.01 + LOOK_PAUSE_S)
            assert rig.l2.healthy
            await put(rig, *mine(A))
            assert all(await found(rig, mine(A)))
            assert rig.events() == [*["l2_up"] * 3, "l2_down", "l2_shards", "l2_up"]

    virtually(story)


def test_a_server_that_has_no_keys_any_more_is_let_go() -> None:
    async def story(cluster: FakeCluster) -> None:
        async with running(cluster) as rig:
            give(cluster, A, B)
            await found(rig, mine(A))
            await asyncio.sleep(SPARE_S + LOOK_EVERY_S)
            assert cluster.links[A].closed
            cluster.links[A].trips.clear()
            await asyncio.sleep(10)
            assert cluster.links[A].trips == []
            assert [shard.address for shard in rig.counts.shards] == [B, C]

    virtually(story)


def test_a_server_that_was_let_go_is_used_again_when_it_has_keys() -> None:
    async def story(cluster: FakeCluster) -> None:
        async with running(cluster) as rig:
            give(cluster, A, B)
            await found(rig, mine(A))
            await asyncio.sleep(SPARE_S + LOOK_EVERY_S)
            give(cluster, B, A)
            await found(rig, mine(A))
            await asyncio.sleep(LOOK_EVERY_S)
            await put(rig, *mine(A))
            assert all(await found(rig, mine(A)))
            assert rig.l2.healthy

    virtually(story)


def test_while_nobody_says_who_has_which_keys_it_is_not_healthy_and_asks_again() -> None:
    async def story() -> None:
        cluster = FakeCluster()
        cluster.holders, cluster.known = (), {}
        cluster.look_fails = LinkError("auth", "WRONGPASS")
        rig = Rig(cluster)
        task = asyncio.create_task(rig.l2.run())
        await asyncio.sleep(60)

        assert rig.l2.trouble == "shards: WRONGPASS"
        assert await rig.l2.get(name(0), 2) is None
        rig.l2.put(name(0), SCORES)
        assert rig.counts.dropped["unavailable"] == 1
        assert rig.counts.open == {"reads": 1, "writes": 1}
        assert 20 < cluster.looks < 60
        assert rig.events() == ["l2_down"]

        cluster.look_fails = None
        await asyncio.sleep(2.01 + LOOK_PAUSE_S)
        assert rig.l2.healthy
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    virtual.run(story())


def test_servers_that_are_known_are_used_while_nobody_says_who_has_which_keys() -> None:
    async def story(cluster: FakeCluster) -> None:
        async with running(cluster) as rig:
            await put(rig, *range(30))
            cluster.look_fails = LinkError("auth", "NOPERM")
            await asyncio.sleep(3 * LOOK_EVERY_S)
            assert all(await found(rig, range(30)))
            assert rig.l2.healthy
            assert rig.events()[3:] == ["l2_shards"]

    virtually(story)


def test_a_write_that_is_sent_on_at_the_end_is_counted_and_begins_nothing() -> None:
    async def story(cluster: FakeCluster) -> None:
        async with running(cluster) as rig:
            give(cluster, A, D)
            for i in mine(A):
                rig.l2.put(name(i), SCORES)
        assert D not in cluster.links
        assert rig.counts.dropped["unavailable"] == len(mine(A))

    virtually(story)


def test_a_server_that_is_let_go_hangs_up_in_its_own_time() -> None:
    class Slow(FakeShard):
        async def close(self) -> None:
            await asyncio.sleep(0.4)
            await super().close()

    class Cluster(FakeCluster):
        def link(self, address: str) -> FakeShard:
            self.links[address] = Slow(self, address)
            return self.links[address]

    async def story() -> None:
        cluster = Cluster()
        async with running(cluster) as rig:
            give(cluster, A, B)
            await found(rig, mine(A))
            for _ in range(100):  # looks that come while it hangs up
                await asyncio.sleep(0.1)
                rig.l2.doubt()
            assert cluster.links[A].closed

    virtual.run(story())


def test_a_key_that_nobody_has_is_a_miss() -> None:
    async def story(cluster: FakeCluster) -> None:
        async with running(cluster) as rig:
            assert await rig.l2.get(b"qg:2:m:nobody's", 2) is None
            rig.l2.put(b"qg:2:m:nobody's", SCORES)
            assert rig.counts.dropped["unavailable"] == 1

    virtually(story)


def test_what_is_still_to_be_written_is_written_on_every_server_at_the_end() -> None:
    async def story(cluster: FakeCluster) -> None:
        async with running(cluster) as rig:
            for i in range(30):
                rig.l2.put(name(i), SCORES)
        written = [key for link in cluster.links.values() for key in link.entries if key != PROBE]
        assert len(written) == 30
        assert all(link.closed for link in cluster.links.values())

    virtually(story)


def test_an_hour_with_a_lost_server_is_one_line_of_log() -> None:
    async def story(cluster: FakeCluster) -> None:
        async with running(cluster) as rig:
            before = len(rig.events())
            cluster.links[A].reads_fail = LinkError("connection", "refused")
            await asyncio.sleep(3600)
            assert rig.events()[before:] == ["l2_down"]
            assert cluster.looks < 3600

    virtually(story)
