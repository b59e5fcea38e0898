"""Redis breaks in every way that the tests can break it, with queries running.

Each row of `FAILURES` says how; `test_no_query_notices` is the one test. What must
hold for each: every query is answered, every answer is the uncached gateway's, a
look-up costs the budget at most, and L2 serves again by itself. With
--write the run puts its figures into docs/reliability.md.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lab import pages
from lab.drive import Driver, meanwhile, steady
from lab.launch import Served, eventually, free_port
from lab.pages import DOCS
from lab.redis_server import RedisServer
from lab.slow_proxy import SlowProxy
from tests.l2.certificates import certificates, unavailable
from tests.l2.replies import Replies, differing, mixed, p99, served

QUERIES_PER_S = 100.0
BUDGET_MS = 20.0
# This machine's own hiccups, which the test must not take for Redis's.
NOISE_MS = 60.0
BROKEN_S = 1.5

PAGE = DOCS / "reliability.md"


class World:
    """What a failure may touch: the Redis that the gateway uses, and what stands around it."""

    def __init__(self, start_redis: Callable[..., RedisServer], folder: Path) -> None:
        self.start_redis = start_redis
        self.folder = folder
        self.redis: RedisServer
        self.url = ""
        self.settings: dict[str, str] = {}
        self.proxy: SlowProxy | None = None
        self.more: dict[str, Any] = {}

    def plain(self, *options: str, running: bool = True) -> None:
        self.redis = self.start_redis(*options, running=running)
        self.url = self.redis.url

    def overwrite(self, value: Callable[[bytes], bytes]) -> None:
        """Replace every entry's value, keeping its life."""
        for key in self.redis.entries():
            found = self.redis.admin.get(key)
            if isinstance(found, bytes):
                self.redis.admin.set(key, value(found), keepttl=True)


Step = Callable[[World], Awaitable[None]]


class Failure(msgspec.Struct, frozen=True):
    """One way to break Redis.

    prepare    before the gateway starts
    hurt, heal while queries run
    works      L2 serves before it is hurt
    serves     L2 goes on serving hits while it is hurt
    error      the kind that the gateway must have counted; empty for none
    rejects    the reason for which it must have rejected values; empty for none
    """

    name: str
    hurt: Step
    heal: Step
    prepare: Step
    works: bool = True
    serves: bool = False
    error: str = ""
    rejects: str = ""


async def nothing(world: World) -> None: ...


async def plain(world: World) -> None:
    world.plain()


async def not_started(world: World) -> None:
    world.plain(running=False)


async def start(world: World) -> None:
    world.redis.start()


async def kill(world: World) -> None:
    world.redis.kill()


async def restart(world: World) -> None:
    world.redis.signal(signal.SIGTERM)
    world.redis.kill()
    world.redis.start()


async def freeze(world: World) -> None:
    world.redis.freeze()


async def thaw(world: World) -> None:
    world.redis.thaw()


async def behind_a_proxy(world: World) -> None:
    world.plain()
    world.proxy = SlowProxy(world.redis.port)
    await world.proxy.start()
    world.url = f"redis://127.0.0.1:{world.proxy.port}/0"


async def slow_down(world: World) -> None:
    assert world.proxy is not None
    world.proxy.delay_s = 0.5


async def speed_up(world: World) -> None:
    assert world.proxy is not None
    world.proxy.delay_s = 0.0


async def wrong_password(world: World) -> None:
    world.redis = world.start_redis("--requirepass", "right", running=False)
    world.redis.password = "right"
    world.redis.start()
    world.url = f"redis://:wrong@127.0.0.1:{world.redis.port}/0"


async def accept_the_wrong_password(world: World) -> None:
    world.redis.admin.config_set("requirepass", "wrong")


async def with_a_password(world: World) -> None:
    await wrong_password(world)
    world.url = f"redis://:right@127.0.0.1:{world.redis.port}/0"


async def change_the_password(world: World) -> None:
    world.redis.admin.config_set("requirepass", "another")
    world.redis.hang_up_on_others()


async def change_the_password_back(world: World) -> None:
    world.redis.admin.config_set("requirepass", "right")


async def demand_a_password(world: World) -> None:
    world.redis.admin.config_set("requirepass", "sudden")
    world.redis.hang_up_on_others()


async def demand_no_password(world: World) -> None:
    world.redis.admin.config_set("requirepass", "")


async def become_a_replica(world: World) -> None:
    world.redis.admin.replicaof("127.0.0.1", str(free_port()))


async def become_a_master(world: World) -> None:
    world.redis.admin.replicaof("NO", "ONE")


async def load_for_long(world: World) -> None:
    """Restart with a dump whose keys take 2 ms each to load: a setting for Redis's own tests."""
    for i in range(800):
        world.redis.admin.set(f"other:{i}", "x" * 200)
    world.redis.admin.save()
    world.redis.kill()
    world.redis.start(
        "--key-load-delay", "2000", "--loading-process-events-interval-bytes", "1024", wait=False
    )


async def be_full(world: World) -> None:
    world.redis.admin.config_set("maxmemory-policy", "noeviction")
    world.redis.admin.config_set("maxmemory", "1")


async def have_room(world: World) -> None:
    world.redis.admin.config_set("maxmemory", "0")


async def evict(world: World) -> None:
    """Room for half a megabyte, which another application fills."""
    used = world.redis.facts("memory")["used_memory"]
    world.redis.admin.config_set("maxmemory-policy", "allkeys-lru")
    world.redis.admin.config_set("maxmemory", used + 500_000)
    for i in range(3000):
        world.redis.admin.set(f"other:{i}", "x" * 200)
    assert world.redis.facts("stats")["evicted_keys"] > 0


async def damage(world: World) -> None:
    world.overwrite(lambda value: value[:-20])
    for key in world.redis.entries()[::2]:
        world.redis.admin.set(key, os.urandom(40), keepttl=True)
    for key in world.redis.entries()[::5]:
        world.redis.admin.delete(key)
        world.redis.admin.rpush(key, "a list")


async def age(world: World) -> None:
    world.overwrite(lambda value: b"0" + value[1:])


async def flush(world: World) -> None:
    world.redis.admin.flushall()


async def refuse_connections(world: World) -> None:
    world.redis.admin.config_set("maxclients", "1")  # the test's own
    world.redis.hang_up_on_others()


async def allow_connections(world: World) -> None:
    world.redis.admin.config_set("maxclients", "1000")


async def with_a_sentinel(world: World) -> None:
    world.plain()
    replica = world.start_redis("--replicaof", "127.0.0.1", str(world.redis.port))
    eventually(lambda: replica.facts("replication")["master_link_status"] == "up", "replication")
    sentinel = world.start_redis(
        f"sentinel monitor main 127.0.0.1 {world.redis.port} 1",
        "sentinel down-after-milliseconds main 500",
        "sentinel failover-timeout main 2000",
        sentinel=True,
    )
    eventually(lambda: sentinel.master("main")["num-slaves"] == 1, "the sentinel's knowing")
    world.url = f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{sentinel.port}/main/0"


async def with_a_sentinel_by_tls(world: World) -> None:
    """TLS between all, with certificates of ours; Redis and the Sentinel ask for a password each."""
    made = certificates(world.folder, "ours")
    files = {"cert-file": made["cert"], "key-file": made["key"], "ca-cert-file": made["ca"]}
    ports = [free_port() for _ in range(3)]

    def redis(port: int, *options: str) -> RedisServer:
        server = world.start_redis(
            *(
                "--requirepass",
                "right",
                "--masterauth",
                "right",
                "--tls-port",
                str(port),
                "--tls-replication",
                "yes",
            ),
            *(word for name, file in files.items() for word in (f"--tls-{name}", str(file))),
            *options,
            running=False,
        )
        server.password = "right"
        server.start(wait=False)
        answers_with_tls(server)
        return server

    world.redis = redis(ports[0])
    replica = redis(ports[1], "--replicaof", "127.0.0.1", str(ports[0]))
    eventually(lambda: replica.facts("replication")["master_link_status"] == "up", "replication")
    sentinel = world.start_redis(
        f"tls-port {ports[2]}",
        *(f"tls-{name} {file}" for name, file in files.items()),
        "tls-replication yes",
        "requirepass swordfish",
        f"sentinel monitor main 127.0.0.1 {ports[0]} 1",
        "sentinel auth-pass main right",
        "sentinel down-after-milliseconds main 500",
        "sentinel failover-timeout main 2000",
        sentinel=True,
        running=False,
    )
    sentinel.password = "swordfish"
    sentinel.start()
    eventually(lambda: sentinel.master("main")["num-slaves"] == 1, "the sentinel's knowing")
    world.url = f"rediss+sentinel://:right@127.0.0.1:{ports[2]}/main/0?sentinel_password=swordfish"
    world.settings = {f"REDIS_{name.upper()}_FILE": str(made[name]) for name in ("ca", "cert", "key")}


async def with_tls(world: World, *, trusted: str) -> None:
    ours, theirs = certificates(world.folder, "ours"), certificates(world.folder, "theirs")
    world.more = {"ours": ours, "theirs": theirs}
    world.redis = world.start_redis(running=False)
    start_tls(world, trusted)
    world.url = f"rediss://127.0.0.1:{world.more['port']}/0"
    world.settings = {"REDIS_CA_FILE": str(ours["ca"])}


def start_tls(world: World, whose: str) -> None:
    made = world.more[whose]
    port = world.more.setdefault("port", free_port())
    # fmt: off
    world.redis.start(
        "--tls-port", str(port), "--tls-cert-file", str(made["cert"]), "--tls-key-file", str(made["key"]),
        "--tls-ca-cert-file", str(made["ca"]), "--tls-auth-clients", "no", wait=False,
    )
    # fmt: on
    answers_with_tls(world.redis)


def answers_with_tls(server: RedisServer) -> None:
    """Wait for a server that was started with TLS; skip where it cannot do that."""
    try:
        eventually(server.answers, "a Redis with TLS", within_s=3)
    except AssertionError:
        log = (server.folder / "log").read_text()
        if "Bad directive" in log or "tls" in log.lower():
            unavailable("this redis-server is built without TLS")
        raise


async def with_a_bad_certificate(world: World) -> None:
    await with_tls(world, trusted="theirs")


async def present_a_good_certificate(world: World) -> None:
    world.redis.kill()
    start_tls(world, "ours")


def failure(name: str, hurt: Step, heal: Step, *, prepare: Step = plain, **more: Any) -> Failure:
    return Failure(name, hurt, heal, prepare, **more)


FAILURES = [
    failure("absent at start", nothing, start, prepare=not_started, works=False, error="connection"),
    failure("killed", kill, start, error="connection"),
    failure("restarted", restart, nothing),
    failure("frozen (SIGSTOP), thawed", freeze, thaw, error="timeout"),
    failure("500 ms slow", slow_down, speed_up, prepare=behind_a_proxy, error="timeout"),
    failure("wrong password", nothing, accept_the_wrong_password, prepare=wrong_password, works=False, error="auth"),
    failure(
        "password changed", change_the_password, change_the_password_back, prepare=with_a_password, error="auth"
    ),
    failure("NOAUTH: password demanded", demand_a_password, demand_no_password, error="auth"),
    failure("READONLY: made a replica", become_a_replica, become_a_master, serves=True, error="readonly"),
    failure("LOADING", load_for_long, nothing, error="loading"),
    failure("OOM, noeviction", be_full, have_room, serves=True, error="memory"),
    failure("maxmemory, evicting", evict, have_room, serves=True),
    failure("values damaged, cut short, of another type", damage, nothing, serves=True, rejects="corrupt"),
    failure("values of another version", age, nothing, serves=True, rejects="version"),
    failure("FLUSHALL", flush, nothing, serves=True),
    failure("connection limit reached", refuse_connections, allow_connections, error="clients"),
    failure("Sentinel fail-over", kill, nothing, prepare=with_a_sentinel, error="connection"),
    failure(
        "Sentinel fail-over, TLS, passwords of both", kill, nothing, prepare=with_a_sentinel_by_tls, error="connection"
    ),
    failure(
        "TLS: certificate of a stranger", nothing, present_a_good_certificate,
        prepare=with_a_bad_certificate, works=False, error="tls",
    ),
]  # fmt: skip


class Figures(msgspec.Struct, frozen=True):
    """What one failure cost."""

    name: str
    queries: int
    failed: int
    wrong: int
    healthy_p99_ms: float
    broken_p99_ms: float
    hits_while_broken: int
    again_after_s: float


@pytest.fixture
async def world(start_redis: Callable[..., RedisServer], tmp_path: Path) -> AsyncIterator[World]:
    world = World(start_redis, tmp_path)
    yield world
    if world.proxy:
        await world.proxy.stop()


@pytest.fixture(scope="module")
def figures(request: pytest.FixtureRequest) -> Iterator[list[Figures]]:
    """Collects every row's figures, and writes them down when asked."""
    rows: list[Figures] = []
    yield rows
    if request.config.getoption("--write"):
        pages.put("l2", table(rows), PAGE)


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.name)
async def test_no_query_notices(
    failure: Failure,
    world: World,
    start_gateway: Callable[..., Served],
    uncached: Served,
    figures: list[Figures],
) -> None:
    await failure.prepare(world)
    gateway = start_gateway(REDIS_URL=world.url, CACHE_L2_TIMEOUT_MS=BUDGET_MS, **world.settings)
    replies = Replies()
    asked = mixed(FAILURES.index(failure))
    with meanwhile(
        Driver(gateway.port, keep=replies.keep), lambda driver: driver.open(asked, steady(QUERIES_PER_S))
    ):
        await served(replies, gateway, since=0.0) if failure.works else await asyncio.sleep(0.5)
        calm_from = time.perf_counter()
        await asyncio.sleep(0.5)

        hurt_at = time.perf_counter()
        await failure.hurt(world)
        await asyncio.sleep(max(0.0, BROKEN_S - (time.perf_counter() - hurt_at)))
        ready = gateway.status("/health/ready")
        heal_at = time.perf_counter()
        await failure.heal(world)
        healed_at = hurt_at if failure.heal is nothing else time.perf_counter()
        again_at = await served(replies, gateway, since=healed_at)

    failed = [reply for reply in replies if reply.status != 200]
    wrong = differing(replies, uncached)
    calm = [reply for reply in replies if calm_from <= reply.at_s < hurt_at]
    broken = [reply for reply in replies if hurt_at <= reply.at_s < heal_at]
    hits = [reply for reply in broken if reply.cache == "l2"]
    found = Figures(
        failure.name,
        queries=len(replies),
        failed=len(failed),
        wrong=len(wrong),
        healthy_p99_ms=p99([reply.l2_ms for reply in calm]) if failure.works else 0.0,
        broken_p99_ms=p99([reply.l2_ms for reply in broken]),
        hits_while_broken=len(hits),
        again_after_s=again_at - healed_at,
    )
    figures.append(found)
    assert failed == []
    assert wrong == []
    assert ready == 200
    assert found.broken_p99_ms <= BUDGET_MS + NOISE_MS
    assert not failure.error or gateway.metric("query_gateway_l2_errors_total", kind=failure.error) > 0
    assert (
        not failure.rejects
        or gateway.metric("query_gateway_l2_rejected_values_total", reason=failure.rejects) > 0
    )
    assert not failure.serves or hits


def table(rows: list[Figures]) -> str:
    lines = [
        f"Written by `just test tests/l2/test_redis_failures.py --write`: {QUERIES_PER_S:g} queries a "
        f"second at one gateway without L1, a fifth of them new, `CACHE_L2_TIMEOUT_MS={BUDGET_MS:g}`, Redis "
        f"broken for about {BROKEN_S:g} s. *Wrong* is any answer that is not, byte for byte, the uncached "
        "gateway's. *Look-up* is what asking Redis cost a query (99th percentile, from `server-timing`) before "
        "and while it was broken. *Serves again* counts from the repair, or from the failure where none is "
        "needed, to the first query that Redis answered.",
        "",
        "| Redis is | queries | failed | wrong | look-up before, ms | while broken, ms | hits while broken | serves again, s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row.name} | {row.queries} | {row.failed} | {row.wrong} | "
        f"{f'{row.healthy_p99_ms:.1f}' if row.healthy_p99_ms else '–'} | {row.broken_p99_ms:.1f} | "
        f"{row.hits_while_broken} | {row.again_after_s:.1f} |"
        for row in rows
    ]
    return "\n".join(lines)
