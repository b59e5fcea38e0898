"""One server of a Redis Cluster breaks, or the cluster changes, with queries running.

As `test_redis_failures.py` does to a single Redis, on six real servers: three primaries,
each with a replica. Each row of `FAILURES` says how. What must hold for each: every query
is answered, every answer is the uncached gateway's, a look-up costs the budget at most,
the other servers' keys are found as ever, and those that were lost are found again by
themselves. One cluster and one gateway live through all of it. With --write the run
puts its figures into docs/reliability.md.
"""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis.crc import key_slot

from handler import entries
from handler.model import Router, load
from handler.query import key, normalise
from lab import pages
from lab.drive import Driver, meanwhile, steady
from lab.launch import UNHURRIED, Served, eventually
from lab.redis_cluster import Node, RedisCluster
from lab.redis_server import RedisServer
from tests.l2.certificates import unavailable
from tests.l2.conftest import ONE_BY_ONE
from tests.l2.replies import Replies, Reply, differing, mixed, p99
from tests.l2.test_redis_failures import NOISE_MS, PAGE
from tests.l2.tiny_model import texts

QUERIES_PER_S = 50.0
# The default where figures are written; else enough for a machine that has much else to do.
BUDGET_MS, AMPLE_MS = 20.0, 500.0
HOT_SEED, HOT = 7, 100
CALM_S = 0.3
BROKEN_S = 0.7
NODE_TIMEOUT_MS = 1000
RECOVERY_MAX_S = 60.0
# What the others' keys must still be found of what was asked for again: a neighbour's noise may cost the budget.
OTHERS_FOUND = 0.6


class World:
    """The cluster, and whom a failure hits: the primary of the first slots, with what it had then."""

    def __init__(self, cluster: RedisCluster) -> None:
        self.cluster = cluster
        self.primaries = cluster.primaries()
        self.node = self.primaries[0]
        self.victim: RedisServer = cluster.server(self.node.port)
        self.replica: RedisServer = cluster.server(
            next(node.port for node in cluster.nodes() if node.primary_id == self.node.node_id)
        )
        self.stalls: asyncio.Task[None] | None = None


Step = Callable[[World], Awaitable[None]]


class Failure(msgspec.Struct, frozen=True):
    """One way to break or change a cluster.

    hurt, heal  while queries run
    lost      servers whose keys are not found meanwhile, of three
    lasts_s   from the failure to its repair, where nobody is replaced
    replaced  the server loses its keys to another, which is waited for before it is healed
    error     the kind that the gateway must have counted; empty for none
    rejects   the reason for which it must have rejected values; empty for none
    rarely    only where figures are written: a single Redis's tests and those in virtual time hold the same,
              and a cluster that was hurt may take half a minute until it is whole for the next one
    """

    name: str
    hurt: Step
    heal: Step
    rarely: bool = False
    lasts_s: float = BROKEN_S
    lost: int = 1
    replaced: bool = False
    error: str = ""
    rejects: str = ""


async def nothing(world: World) -> None: ...


async def kill(world: World) -> None:
    world.victim.kill()


async def start(world: World) -> None:
    world.victim.start()


async def kill_two(world: World) -> None:
    for node in world.primaries[:2]:
        world.cluster.server(node.port).kill()


async def start_two(world: World) -> None:
    for node in world.primaries[:2]:
        world.cluster.server(node.port).start()


async def restart(world: World) -> None:
    world.victim.signal(signal.SIGTERM)
    world.victim.kill()
    world.victim.start()


async def freeze(world: World) -> None:
    world.victim.freeze()


async def thaw(world: World) -> None:
    world.victim.thaw()


async def cut_off(world: World) -> None:
    await asyncio.to_thread(world.cluster.cut_off, world.victim)


async def rejoin(world: World) -> None:
    await asyncio.to_thread(world.cluster.cut_off, None)


async def fail_over(world: World) -> None:
    world.replica.admin.execute_command("CLUSTER FAILOVER")  # type: ignore[no-untyped-call]


async def reshard(world: World) -> None:
    await asyncio.to_thread(world.cluster.reshard, 100, source=world.node, target=world.primaries[1])


async def stall(world: World) -> None:
    """It answers nobody for 300 ms, again and again: too slow for the budget, too quick to be replaced."""

    async def stalls() -> None:
        while True:
            await asyncio.to_thread(world.victim.admin.execute_command, "DEBUG", "SLEEP", "0.3")

    world.stalls = asyncio.create_task(stalls())


async def stall_no_more(world: World) -> None:
    assert world.stalls
    world.stalls.cancel()
    await asyncio.gather(world.stalls, return_exceptions=True)
    await asyncio.sleep(0.35)  # the last one goes on, on its thread
    world.victim.forget()


async def change_the_password(world: World) -> None:
    world.victim.admin.config_set("requirepass", "another")
    world.victim.hang_up_on_others()


async def change_the_password_back(world: World) -> None:
    world.victim.admin.config_set("requirepass", "hunter2")


async def be_full(world: World) -> None:
    world.victim.admin.config_set("maxmemory-policy", "noeviction")
    world.victim.admin.config_set("maxmemory", "1")


async def have_room(world: World) -> None:
    world.victim.admin.config_set("maxmemory", "0")


async def damage(world: World) -> None:
    for number, entry in enumerate(world.victim.entries()):
        if number % 4:
            world.victim.admin.set(entry, os.urandom(40), keepttl=True)
        else:
            world.victim.admin.delete(entry)
            world.victim.admin.rpush(entry, "a list")


async def flush(world: World) -> None:
    world.victim.admin.flushall()


async def refuse_connections(world: World) -> None:
    world.victim.admin.config_set("maxclients", "1")  # the test's own
    world.victim.hang_up_on_others()


async def allow_connections(world: World) -> None:
    world.victim.admin.config_set("maxclients", "1000")


def failure(name: str, hurt: Step, heal: Step = nothing, **more: Any) -> Failure:
    return Failure(name, hurt, heal, **more)


# Those that leave a server empty come last: what is asked again would be found by chance.
FAILURES = [
    failure("resharded, 100 slots", reshard, lost=0),
    failure("OOM, noeviction", be_full, have_room, lost=0, error="memory"),
    failure("killed: its replica takes over", kill, start, replaced=True, error="connection"),
    failure("failed over by hand", fail_over, replaced=True, rarely=True),
    failure(
        "frozen (SIGSTOP): its replica takes over", freeze, thaw, replaced=True, error="timeout", rarely=True
    ),
    failure("cut off from the others: its replica takes over", cut_off, rejoin, replaced=True, rarely=True),
    failure("restarted at once, empty", restart, rarely=True),
    failure("300 ms slow", stall, stall_no_more, error="timeout", rarely=True),
    failure("password changed", change_the_password, change_the_password_back, error="auth", rarely=True),
    failure("connection limit reached", refuse_connections, allow_connections, error="clients", rarely=True),
    failure("values damaged, of another type", damage, rejects="corrupt", rarely=True),
    failure("FLUSHALL", flush, rarely=True),
    failure(
        "two of three primaries killed: no majority",
        kill_two,
        start_two,
        lost=3,
        lasts_s=2.5,
        error="cluster",
        rarely=True,
    ),
]


class Figures(msgspec.Struct, frozen=True):
    """What one failure cost. `own` and `others`: shares of the repeated queries that Redis answered while it lasted."""

    name: str
    queries: int
    failed: int
    wrong: int
    calm_p99_ms: float
    broken_p99_ms: float
    own: float | None
    others: float | None
    again_after_s: float


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    folder = tmp_path_factory.mktemp("cluster")
    try:
        made = RedisCluster(
            folder, "--enable-debug-command", "yes",
            password="hunter2", node_timeout_ms=NODE_TIMEOUT_MS, divisible=True,
        )  # fmt: skip
    except FileNotFoundError as why:
        unavailable(str(why))
        raise
    with made:
        yield made


@pytest.fixture(scope="module")
def budget_ms(request: pytest.FixtureRequest) -> float:
    return BUDGET_MS if request.config.getoption("--write") else AMPLE_MS


@pytest.fixture(scope="module")
def gateway(cluster: RedisCluster, model: Path, budget_ms: float) -> Iterator[Served]:
    settings = {
        "REDIS_URL": cluster.url,
        "CACHE_L2_TIMEOUT_MS": str(budget_ms),
        "REQUEST_TIMEOUT_MS": "60000",
    }
    with ExitStack() as stack:
        yield stack.enter_context(Served({**ONE_BY_ONE, **UNHURRIED, "MODEL_PATH": str(model), **settings}))


@pytest.fixture(scope="module")
def slots(model: Path) -> dict[str, int]:
    """The slot of each text that is asked for again and again."""
    router: Router = load(model)
    limits = router.manifest.limits
    return {
        text: key_slot(entries.key(router.manifest.version, key(normalise(text, limits), router.digest)))
        for text in texts(HOT, HOT_SEED)
    }


@pytest.fixture(scope="module")
def right() -> dict[str, bytes]:
    """Answers of the gateway without a cache, as far as they are known."""
    return {}


@pytest.fixture
def world(cluster: RedisCluster) -> World:
    eventually(cluster.whole, "a whole cluster", within_s=RECOVERY_MAX_S)
    return World(cluster)


@pytest.fixture(scope="module")
def figures(request: pytest.FixtureRequest) -> Iterator[list[Figures]]:
    """Collects every row's figures, and writes them down when asked."""
    rows: list[Figures] = []
    on = pages.machine()
    yield rows
    if request.config.getoption("--write"):
        pages.put("l2-cluster", table(rows, on), PAGE)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    everything = metafunc.config.getoption("--write")
    rows = [failure for failure in FAILURES if everything or not failure.rarely]
    metafunc.parametrize("failure", rows, ids=lambda failure: failure.name)


async def test_no_query_notices_and_the_others_keys_are_found(
    failure: Failure,
    world: World,
    gateway: Served,
    uncached: Served,
    slots: dict[str, int],
    figures: list[Figures],
    right: dict[str, bytes],
    budget_ms: float,
) -> None:
    lost = world.primaries[: max(1, failure.lost)]
    expected = (
        ("l2_errors_total", "kind", failure.error),
        ("l2_rejected_values_total", "reason", failure.rejects),
    )
    before = [counted(gateway, *each) for each in expected]
    replies = Replies()
    asked = mixed(1000 + FAILURES.index(failure), hot=HOT, hot_seed=HOT_SEED)
    with meanwhile(
        Driver(gateway.port, keep=replies.keep), lambda driver: driver.open(asked, steady(QUERIES_PER_S))
    ):
        await warm(replies, gateway)
        calm_from = time.perf_counter()
        await asyncio.sleep(CALM_S)

        hurt_at = time.perf_counter()
        await failure.hurt(world)
        done_at = time.perf_counter()
        if failure.replaced:
            again_at = await found_again(replies, gateway, lost, slots, since=done_at, without=world.node)
        else:
            await asyncio.sleep(max(0.0, failure.lasts_s - (time.perf_counter() - hurt_at)))
        broken_until = time.perf_counter()
        ready = gateway.status("/health/ready")
        await failure.heal(world)
        healed_at = time.perf_counter()
        if failure.replaced:
            again_after_s = again_at - done_at
        else:
            since = done_at if failure.heal is nothing else healed_at
            again_after_s = await found_again(replies, gateway, lost, slots, since=since) - since

    failed = [reply for reply in replies if reply.status != 200]
    wrong = differing(replies, uncached, right)
    broken = [reply for reply in replies if hurt_at <= reply.at_s < broken_until]
    found = Figures(
        failure.name,
        queries=len(replies),
        failed=len(failed),
        wrong=len(wrong),
        calm_p99_ms=p99([reply.l2_ms for reply in replies if calm_from <= reply.at_s < hurt_at]),
        broken_p99_ms=p99([reply.l2_ms for reply in broken]),
        own=share_found([reply for reply in broken if held_by(reply, lost, slots)]),
        others=share_found(
            [reply for reply in broken if reply.text in slots and not held_by(reply, lost, slots)]
        ),
        again_after_s=again_after_s,
    )
    figures.append(found)
    assert failed == []
    assert wrong == []
    assert ready == 200
    assert found.broken_p99_ms <= budget_ms + NOISE_MS
    if failure.lost < 3:
        assert found.others is not None
        assert found.others >= OTHERS_FOUND
    if failure.lost == 0:
        assert found.own is not None
        assert found.own >= OTHERS_FOUND
    for each, was in zip(expected, before, strict=True):
        assert not each[2] or counted(gateway, *each) > was


def counted(gateway: Served, name: str, label: str, value: str) -> float:
    return gateway.metric(f"query_gateway_{name}", **{label: value}) if value else 0.0


async def warm(replies: Replies, gateway: Served) -> None:
    """Wait until every server is well and what is asked for again is found."""
    end = time.perf_counter() + RECOVERY_MAX_S
    hot = set(texts(HOT, HOT_SEED))
    while time.perf_counter() < end:
        late = [reply for reply in replies if reply.text in hot][-30:]
        if len(late) == 30 and (share_found(late) or 0) >= 0.95 and healthy(gateway):
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"never warm: {gateway.deep()['checks']['cache']}")


async def found_again(
    replies: Replies,
    gateway: Served,
    lost: list[Node],
    slots: dict[str, int],
    *,
    since: float,
    without: Node | None = None,
) -> float:
    """Wait until keys that were lost are found and every server is well; when that was.

    without  the server that must have been replaced by then
    """
    end = time.perf_counter() + RECOVERY_MAX_S
    while time.perf_counter() < end:
        now = time.perf_counter()
        if healthy(gateway) and not (without and f"127.0.0.1:{without.port}" in shards(gateway)):
            later = now if without else since
            await asyncio.sleep(0.1)
            for reply in replies.since(later):
                if reply.cache == "l2" and held_by(reply, lost, slots):
                    return reply.at_s
        await asyncio.sleep(0.05)
    raise AssertionError(
        f"not found again within {RECOVERY_MAX_S:g} s: {gateway.deep()['checks']['cache']['l2']}"
    )


def healthy(gateway: Served) -> bool:
    return bool(gateway.deep()["checks"]["cache"]["l2_healthy"])


def shards(gateway: Served) -> list[str]:
    return [shard["address"] for shard in gateway.deep()["checks"]["cache"]["l2"]["shards"]]


def held_by(reply: Reply, nodes: list[Node], slots: dict[str, int]) -> bool:
    return reply.text in slots and any(node.holds(slots[reply.text]) for node in nodes)


def share_found(replies: list[Reply]) -> float | None:
    return sum(reply.cache == "l2" for reply in replies) / len(replies) if replies else None


def table(rows: list[Figures], on: str) -> str:
    lines = [
        f"Written by `just test tests/l2/test_redis_cluster_failures.py --write`: six servers, three of them primaries, "
        f"`cluster-node-timeout {NODE_TIMEOUT_MS}`; one gateway without L1, {QUERIES_PER_S:g} queries a second, four of five out of "
        f"{HOT} that repeat, `CACHE_L2_TIMEOUT_MS={BUDGET_MS:g}`. One primary is hurt for {BROKEN_S:g} s, or until it is "
        "replaced; the last row lasts 2.5 s. *Look-up* is what asking Redis cost a query (99th percentile). *Its own keys* and *the others'*: how "
        "many of the repeated queries Redis answered meanwhile. *Found again* counts from the failure where the cluster "
        "heals itself, else from the repair, to the first key of a lost server that Redis answered with all well. "
        f"On {on}.",
        "",
        "| the server is | queries | failed | wrong | look-up before, ms | meanwhile, ms | its own keys | the others' | "
        "found again, s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row.name} | {row.queries} | {row.failed} | {row.wrong} | {row.calm_p99_ms:.1f} | {row.broken_p99_ms:.1f} | "
        f"{percent(row.own)} | {percent(row.others)} | {row.again_after_s:.1f} |"
        for row in rows
    ]
    return "\n".join(lines)


def percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"
