"""Whole gateways on a shared Redis: flights, counts, models, reports. The wiring is the server's own."""

import asyncio
import io
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handler.errors import DeadlineExceeded, Overloaded
from handler.log import Log
from handler.model import Router, load
from handler.policy import Policy, decide
from handler.query import key, normalise
from handler.settings import from_env
from handler.wiring import assemble
from lab.launch import Served, eventually, free_port
from lab.redis_server import RedisServer
from tests.l2.tiny_model import texts


class Inside:
    """A gateway wired as `serve` wires it, without the HTTP around it."""

    def __init__(self, model: Path, **values: str | int | float) -> None:
        environment = {name: str(value) for name, value in values.items()}
        environment = {"MODEL_PATH": str(model), "LANES": "1", "CACHE_L2_TIMEOUT_MS": "1000"} | environment
        self.parts = assemble(from_env(environment), Log(io.StringIO()))
        self.gateway = self.parts.gateway

    def metric(self, name: str, **labels: str) -> float:
        return self.parts.telemetry.registry.get_sample_value(f"query_gateway_{name}", labels) or 0.0

    async def ask(self, text: str, timeout_s: float = 10.0) -> str:
        return (await self.gateway.classify(text, timeout_s=timeout_s)).cache

    @property
    def look_ups(self) -> float:
        return self.metric("l2_operation_seconds_count", operation="get")

    @property
    def scored(self) -> int:
        return self.parts.batcher.answered

    async def written(self) -> None:
        """Wait until what is put from now on is in Redis."""
        l2 = self.gateway.l2
        assert l2 is not None
        before = self.metric("l2_operation_seconds_count", operation="set")
        await before_long(
            lambda: self.metric("l2_operation_seconds_count", operation="set") > before and not l2.unwritten
        )


async def before_long(true: Callable[[], bool]) -> None:
    """Poll, bounded: the Redis is real."""
    for _ in range(5000):
        if true():
            return
        await asyncio.sleep(0.002)
    raise AssertionError("it never came true")


@asynccontextmanager
async def gateway(model: Path, *, lanes: bool = True, **values: str | int | float) -> AsyncIterator[Inside]:
    """Run one; without `lanes` nothing ever leaves its queue."""
    inside = Inside(model, **values)
    inside.parts.model.place(load(model))
    l2 = inside.gateway.l2
    tasks = [asyncio.create_task(l2.run())] if l2 else []
    if lanes:
        tasks.append(asyncio.create_task(inside.parts.batcher.run_lane()))
    try:
        await before_long(lambda: l2 is None or l2.healthy)
        yield inside
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def redis_url(start_redis: Callable[..., RedisServer]) -> str:
    return start_redis().url


async def test_what_one_gateway_answered_is_a_hit_for_another(model: Path, redis_url: str) -> None:
    async with gateway(model, REDIS_URL=redis_url) as one, gateway(model, REDIS_URL=redis_url) as other:
        await asyncio.gather(one.ask("shared"), one.written())

        assert await other.ask("shared") == "l2"
        assert other.scored == 0


async def test_a_hit_is_kept_in_l1_from_then_on(model: Path, redis_url: str) -> None:
    async with gateway(model, REDIS_URL=redis_url) as one, gateway(model, REDIS_URL=redis_url) as other:
        await asyncio.gather(one.ask("shared"), one.written())

        assert [await other.ask("shared") for _ in range(3)] == ["l2", "l1", "l1"]


async def test_a_hit_is_kept_in_l1_no_longer_than_in_redis(model: Path, redis_url: str) -> None:
    async with gateway(model, REDIS_URL=redis_url) as one, gateway(model, REDIS_URL=redis_url) as other:
        l1 = other.gateway.l1
        clock = iter(range(0, 100_000, 500))
        l1._now = lambda: next(clock)
        await asyncio.gather(one.ask("shared"), one.written())

        assert [await other.ask("shared") for _ in range(2)] == ["l2", "l2"]


async def test_models_share_nothing_on_one_redis(model: Path, other_model: Path, redis_url: str) -> None:
    async with gateway(model, REDIS_URL=redis_url) as old, gateway(other_model, REDIS_URL=redis_url) as new:
        await asyncio.gather(old.ask("shared"), old.written())

        assert await new.ask("shared") == "miss"


@pytest.mark.parametrize("gateways", [1, 2])
async def test_a_thousand_identical_cold_queries_are_one_look_up_per_gateway(
    model: Path, redis_url: str, gateways: int
) -> None:
    async with gateway(model, REDIS_URL=redis_url) as one, gateway(model, REDIS_URL=redis_url) as two:
        asked = [one, two][:gateways]
        before = [each.look_ups for each in asked]

        levels = await asyncio.gather(*(asked[i % gateways].ask("hot and cold") for i in range(1000)))

        assert [each.look_ups - was for each, was in zip(asked, before, strict=True)] == [1] * gateways
        assert [each.scored for each in asked] == [1] * gateways
        assert set(levels) == {"miss"}


async def test_hits_are_served_while_misses_are_shed(model: Path, redis_url: str) -> None:
    async with gateway(model, REDIS_URL=redis_url) as other:
        await asyncio.gather(other.ask("known"), other.written())
    async with gateway(model, lanes=False, REDIS_URL=redis_url, QUEUE_MAX=1, CACHE_L1_SIZE=0) as full:
        waiting = asyncio.create_task(full.ask("first in the queue", timeout_s=60))
        await before_long(lambda: len(full.parts.batcher.plan) == 1)

        with pytest.raises(Overloaded):
            await full.ask("unknown")
        assert await full.ask("known") == "l2"
        waiting.cancel()


async def test_the_hit_rate_is_that_of_a_hand_count(model: Path, redis_url: str) -> None:
    """The runbook's formula: hits of all levels over hits and misses; every query is one of them."""
    seen = {"l1": 0, "l2": 0, "miss": 0}
    async with gateway(model, REDIS_URL=redis_url) as one:
        await asyncio.gather(*(one.ask(text) for text in texts(30, seed=1)), one.written())
    async with gateway(model, REDIS_URL=redis_url) as counted:
        asked = texts(30, seed=1) + texts(20, seed=2)
        for _ in range(3):
            levels = await asyncio.gather(*(counted.ask(text) for text in asked * 2))
            for level in levels:
                seen[level] += 1
        for text in texts(5, seed=3):
            with pytest.raises(DeadlineExceeded):
                await counted.ask(text, timeout_s=0.0)
            seen["miss"] += 1

        l1 = counted.metric("cache_hits_total", level="L1")
        l2 = counted.metric("cache_hits_total", level="L2")
        misses = counted.metric("cache_misses_total")

    assert (l1, l2, misses) == (seen["l1"], seen["l2"], seen["miss"])
    assert (l1, l2, misses) == (200, 60, 45)


@pytest.fixture(scope="module")
def router(model: Path) -> Router:
    return load(model)


queries = st.text(st.sampled_from(list("abAB \t\n İß…")), min_size=1, max_size=8)


@settings(deadline=None, max_examples=30)
@given(asked=st.lists(queries, min_size=1, max_size=30))
def test_text_to_key_to_answer_is_one_function(model: Path, router: Router, asked: list[str]) -> None:
    """Whichever text of a key came first, and whichever level answers: the model's own answer."""
    policy = Policy.of_routes(router.manifest.tasks, router.manifest.policy)
    limits = router.manifest.limits

    async def through_the_caches() -> list[object]:
        async with gateway(model, CACHE_L1_SIZE=3, BATCH_MAX_SIZE=1) as inside:
            return [(await inside.gateway.classify(text, timeout_s=10)).decision for text in asked]

    answers = asyncio.run(through_the_caches())

    fresh = [decide(router.score([normalise(text, limits)])[0], policy) for text in asked]
    assert answers == fresh
    by_key = {
        key(normalise(text, limits), router.digest): answer for text, answer in zip(asked, fresh, strict=True)
    }
    assert [by_key[key(normalise(text, limits), router.digest)] for text in asked] == answers


async def test_answers_from_redis_are_the_models_own_to_the_last_bit(
    model: Path, router: Router, redis_url: str
) -> None:
    asked = texts(100, seed=5)
    async with gateway(model, REDIS_URL=redis_url, BATCH_MAX_SIZE=1) as one:
        await asyncio.gather(*(one.ask(text) for text in asked), one.written())
    async with gateway(model, REDIS_URL=redis_url) as other:
        answers = await asyncio.gather(*(other.gateway.classify(text, timeout_s=10) for text in asked))

    policy = Policy.of_routes(router.manifest.tasks, router.manifest.policy)
    limits = router.manifest.limits
    assert {answer.cache for answer in answers} == {"l2"}
    assert [answer.decision for answer in answers] == [
        decide(router.score([normalise(text, limits)])[0], policy) for text in asked
    ]


# Over HTTP, in a process of its own.


def test_without_a_redis_url_redis_py_is_never_imported() -> None:
    program = "import sys, handler.server, handler.cli, handler.app; print('redis' in sys.modules)"

    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert told.stdout.strip() == "False"


def test_without_a_redis_url_there_is_no_redis_series(start_gateway: Callable[..., Served]) -> None:
    lines = start_gateway().client.get("/metrics").text.lower().splitlines()

    assert [line for line in lines if "l2" in line and not line.startswith("#")] == []


def test_without_a_redis_url_nothing_is_degraded(start_gateway: Callable[..., Served]) -> None:
    report = start_gateway().deep()

    assert report["status"] == "healthy"
    assert report["checks"]["cache"]["l2_enabled"] is False
    assert report["checks"]["cache"]["l2_size"] is None


def test_with_redis_away_the_deep_report_is_degraded(start_gateway: Callable[..., Served]) -> None:
    gateway = start_gateway(REDIS_URL=f"redis://:hunter2@127.0.0.1:{free_port()}/0")

    eventually(
        lambda: "refused" in str(gateway.deep()["checks"]["cache"]["l2"]["trouble"]), "the trouble's report"
    )
    report = gateway.deep()
    assert report["status"] == "degraded"
    assert report["checks"]["cache"]["l2_enabled"] is True
    assert report["checks"]["cache"]["l2_healthy"] is False
    assert report["checks"]["cache"]["l2"]["shards"][0]["breakers"] == {"reads": "open", "writes": "open"}


def test_with_redis_away_the_gateway_is_ready(start_gateway: Callable[..., Served]) -> None:
    gateway = start_gateway(REDIS_URL=f"redis://127.0.0.1:{free_port()}/0")

    assert gateway.status("/health/ready") == 200


def test_a_password_is_neither_reported_nor_logged(start_gateway: Callable[..., Served]) -> None:
    gateway = start_gateway(REDIS_URL=f"redis://ann:hunter2@127.0.0.1:{free_port()}/0")
    eventually(lambda: "l2_down" in gateway.text(), "the log line")

    told = gateway.text() + gateway.client.get("/health/deep").text + gateway.client.get("/metrics").text

    assert "hunter2" not in told


def test_the_size_that_is_reported_is_that_of_the_database(
    start_gateway: Callable[..., Served], start_redis: Callable[..., RedisServer]
) -> None:
    redis = start_redis()
    redis.admin.mset({f"other:{i}": "x" for i in range(7)})
    gateway = start_gateway(REDIS_URL=redis.url)

    eventually(
        lambda: gateway.deep()["checks"]["cache"]["l2_size"] == 7, "the size"
    )  # 8 for the second that a probe's key lives
    assert gateway.metric("query_gateway_cache_size", level="L2") == 7


def test_an_answer_says_that_it_came_from_redis(
    start_gateway: Callable[..., Served], start_redis: Callable[..., RedisServer]
) -> None:
    redis = start_redis()
    gateway = start_gateway(REDIS_URL=redis.url, CACHE_L2_TIMEOUT_MS=1000)
    eventually(lambda: gateway.deep()["checks"]["cache"]["l2_healthy"], "health")
    first = gateway.ask("where from")
    eventually(redis.entries, "the write")

    again = gateway.ask("where from")

    assert (first.headers["x-cache"], again.headers["x-cache"]) == ("miss", "l2")
    assert "l2;dur=" in again.headers["server-timing"]


def test_the_end_of_the_process_waits_for_no_dead_redis(
    start_gateway: Callable[..., Served], start_redis: Callable[..., RedisServer]
) -> None:
    redis = start_redis()
    gateway = start_gateway(REDIS_URL=redis.url)
    eventually(lambda: gateway.deep()["checks"]["cache"]["l2_healthy"], "health")
    redis.freeze()

    code = gateway.terminate()

    redis.thaw()
    assert code == 0
