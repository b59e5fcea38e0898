"""`Shadow`: a second model that scores when there is nothing else to do. On virtual time."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handler.model import Manifest, Run
from handler.policy_file import PolicyError, parse
from handler.query import Normalised
from handler.shadow import (
    QUIET_S,
    RUN_MAX_S,
    WAITING_CHARS_MAX,
    WAITING_MAX,
    WAITING_S,
    Shadow,
)
from handler.shadow_report import Unreported, fetch
from handler.statistics import ShadowStatistics
from tests import virtual
from tests.fakes import FakeRouter, VirtualExecutor, WholeGateway

FAST, SLOW = "a fast one: 0", "slow"
RUN_S, SHADOW_S = 0.001, 0.004


class OneCpu(Executor):
    """One CPU for whoever asks: work is done one piece after the other, in the order in which it came."""

    def __init__(self, takes_s: Callable[[Any], float]) -> None:
        self._takes_s = takes_s
        self._free_at = 0.0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        loop = asyncio.get_running_loop()
        self._free_at = max(self._free_at, loop.time()) + self._takes_s(fn)
        return VirtualExecutor(self._free_at - loop.time()).submit(fn, *args, **kwargs)


class OtherRouter(FakeRouter):
    """A second model, which calls everything fast or everything slow."""

    version = "other"
    digest = b"o" * 32

    def __init__(self, *, slow: bool = True, **changes: Any) -> None:
        super().__init__()
        self.slow = slow
        self.manifest = msgspec.structs.replace(FakeRouter.manifest, **({"name": "other"} | changes))

    def run(self, queries: list[Normalised]) -> Run:
        run = super().run(queries)
        high, low = (0.02, 0.98) if self.slow else (0.98, 0.02)
        rest = [0.0] * (len(self.manifest.tasks) - 2)
        scores = [type(each).of([high, low, *rest]) for each in run.scores]
        return msgspec.structs.replace(run, scores=scores)


class World:
    """A whole gateway with a shadow that keeps when its runs began."""

    def __init__(
        self, *, share: float = 1.0, model: OtherRouter | None = None, one_cpu: bool = False
    ) -> None:
        loop = asyncio.get_running_loop()
        self.began: list[float] = []
        cpu = OneCpu(lambda work: SHADOW_S if isinstance(work, partial) else RUN_S)
        self.whole = WholeGateway(run_s=RUN_S, size_max=1, executor=cpu if one_cpu else None)
        self.model = model or OtherRouter()
        inner = cpu if one_cpu else VirtualExecutor(SHADOW_S)
        world = self

        class Watched(Executor):
            def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
                world.began.append(loop.time())
                return inner.submit(fn, *args, **kwargs)

        holder = self.whole.model
        self.shadow = Shadow(
            "shadow",
            share=share,
            in_force=lambda: (holder.serving.router, holder.serving.policy) if holder.loaded else None,
            policy_for=holder.policy_for,
            idle=lambda: self.whole.batcher.idle,
            executor=Watched(),
            log=self.whole.log,
            now=loop.time,
            wall=loop.time,
            dice=lambda: 0.5,
        )
        holder._placed = lambda serving: self.shadow.refit()
        self.whole.telemetry.watch_shadow(self.shadow.statistics)
        self.whole.gateway.shadow = self.shadow

    async def ask(self, text: str) -> float:
        """How long the answer took, in seconds."""
        loop = asyncio.get_running_loop()
        asked = loop.time()
        await self.whole.gateway.classify(text, timeout_s=5.0)
        return loop.time() - asked

    def seen(self) -> ShadowStatistics:
        return self.shadow.statistics()


def within(steps: Callable[[World], Coroutine[Any, Any, Any]], **options: Any) -> World:
    """Let a world live as long as the steps take."""

    async def main() -> World:
        world = World(**options)
        async with world.whole:
            world.shadow.place(world.model)  # type: ignore[arg-type]
            running = asyncio.create_task(world.shadow.run())
            try:
                await steps(world)
                assert not running.done()
            finally:
                running.cancel()
        return world

    return virtual.run(main())


async def idle(seconds: float = 1.0) -> None:
    await asyncio.sleep(seconds)


# What is compared


def test_a_miss_is_scored_a_second_time() -> None:
    async def steps(world: World) -> None:
        await world.ask("one")
        await idle()

    assert within(steps).seen().compared == 1


def test_a_hit_is_not_scored_a_second_time() -> None:
    async def steps(world: World) -> None:
        await world.ask("one")
        await world.ask("one")
        await idle()

    assert within(steps).seen().compared == 1


@pytest.mark.parametrize(("share", "compared"), [(0.0, 0), (0.5, 0), (0.51, 1), (1.0, 1)])
def test_the_dice_decide_whether_a_miss_is_taken(share: float, compared: int) -> None:
    async def steps(world: World) -> None:
        await world.ask("one")
        await idle()

    assert within(steps, share=share).seen().compared == compared


def by_route(slow: bool) -> ShadowStatistics:
    """Two queries that the model in service calls fast and slow, beside a shadow that always says the same."""
    fast = next(text for text in map(str, range(1000)) if sum(text.encode()) % 101 < 10)
    other = next(text for text in map(str, range(1000)) if sum(text.encode()) % 101 > 90)

    async def steps(world: World) -> None:
        await world.ask(fast)
        await world.ask(other)
        await idle()

    return within(steps, model=OtherRouter(slow=slow)).seen()


def test_a_query_that_the_shadow_sends_slow_is_counted_as_moved_there() -> None:
    found = by_route(slow=True)

    assert found.routes == {("0", "0"): 0, ("0", "1"): 1, ("1", "0"): 0, ("1", "1"): 1}
    assert found.agreement == 0.5


def test_a_query_that_the_shadow_sends_fast_is_counted_as_moved_there() -> None:
    assert by_route(slow=False).routes == {("0", "0"): 1, ("0", "1"): 0, ("1", "0"): 1, ("1", "1"): 0}


def test_tasks_are_compared_by_name_and_their_changes_kept() -> None:
    found = by_route(slow=True)

    assert found.tasks[("summarization", False)] == 1
    assert found.tasks[("creative_writing", True)] == 1
    assert found.changes == {("summarization", "creative_writing"): 1}


def test_a_shadow_with_other_tasks_is_compared_by_task_only_where_both_know_both() -> None:
    other = OtherRouter(
        tasks=["rewriting", "creative_writing"], policy={"rewriting": "fast", "creative_writing": "slow"}
    )

    async def steps(world: World) -> None:
        for number in range(20):
            await world.ask(f"query {number}")
        await idle()

    found = within(steps, model=other).seen()

    assert {task for task, _ in found.tasks} == {"creative_writing"}
    assert sum(found.tasks.values()) < found.compared == 20


# When


def test_no_answer_waits_for_the_shadow() -> None:
    took: list[float] = []

    async def steps(world: World) -> None:
        took.append(await world.ask("one"))

    within(steps)

    assert took == [pytest.approx(RUN_S)]


def test_the_shadow_waits_until_no_query_came_for_a_moment() -> None:
    async def steps(world: World) -> None:
        for number in range(100):
            await world.ask(f"query {number}")
            await asyncio.sleep(QUIET_S / 2)
        assert world.began == []
        await idle()

    assert len(within(steps).began) == WAITING_MAX


def test_a_hit_too_makes_the_shadow_wait() -> None:
    async def steps(world: World) -> None:
        await world.ask("one")
        for _ in range(100):
            await world.ask("one")
            await asyncio.sleep(QUIET_S / 2)
        assert world.began == []

    within(steps)


def test_a_lane_that_works_makes_the_shadow_wait() -> None:
    async def steps(world: World) -> None:
        await world.ask("one")
        world.whole.batcher._executor = VirtualExecutor(1.0)
        await world.ask("takes a second")
        assert world.began == []

    within(steps)


@settings(max_examples=50)
@given(
    gaps_s=st.lists(st.sampled_from([0.0, 0.0005, 0.002, QUIET_S, 0.006, 0.009, 0.02]), max_size=60),
)
def test_on_one_cpu_a_query_waits_for_one_run_of_the_shadow_at_most(gaps_s: list[float]) -> None:
    def latencies(share: float) -> tuple[list[float], World]:
        async def steps(world: World) -> None:
            asking = []
            for number, gap_s in enumerate(gaps_s):
                await asyncio.sleep(gap_s)
                asking.append(asyncio.create_task(world.ask(f"query {number}")))
            took.extend(await asyncio.gather(*asking))
            await idle()

        took: list[float] = []
        return took, within(steps, share=share, one_cpu=True)

    alone, _ = latencies(0.0)
    beside, world = latencies(1.0)

    late = [with_it - without for with_it, without in zip(beside, alone, strict=True)]
    assert all(each <= SHADOW_S + 1e-9 for each in late)
    assert world.seen().compared == len(gaps_s)


def test_no_run_of_the_shadow_begins_while_a_query_waits() -> None:
    async def steps(world: World) -> None:
        for number in range(3):
            await world.ask(f"first {number}")
        await asyncio.sleep(QUIET_S * 1.2)
        (under_way,) = world.began

        asking = [asyncio.create_task(world.ask(f"then {number}")) for number in range(20)]
        await asyncio.gather(*asking)

        assert world.began == [under_way]

    within(steps, one_cpu=True)


# What waits is bounded


def test_what_finds_no_room_is_dropped_and_counted() -> None:
    async def steps(world: World) -> None:
        asking = [asyncio.create_task(world.ask(f"query {number}")) for number in range(WAITING_MAX + 5)]
        await asyncio.gather(*asking)
        assert world.seen().waiting == WAITING_MAX

    assert within(steps).seen().dropped == {"full": 5}


def test_the_characters_that_wait_are_bounded() -> None:
    async def steps(world: World) -> None:
        await world.ask("a" * (WAITING_CHARS_MAX - 1))
        await world.ask("bc")
        await world.ask("d")
        assert world.seen().waiting == 2

    assert within(steps).seen().dropped == {"full": 1}


def test_a_text_that_waits_too_long_is_dropped_though_idle_time_never_comes() -> None:
    async def steps(world: World) -> None:
        await world.ask("one")
        world.shadow._dice = lambda: 1.0
        for _ in range(int(WAITING_S / QUIET_S * 1.1)):
            await world.ask("one")
            await asyncio.sleep(QUIET_S)
        assert (world.began, world.seen().waiting) == ([], 0)

    assert within(steps).seen().dropped == {"late": 1}


# A shadow that is no good


def test_a_query_on_which_the_shadow_raises_is_counted_and_the_next_one_scored() -> None:
    async def steps(world: World) -> None:
        for number in range(3):
            world.shadow.offer(f"poison {number}", FakeRouter.scores(Normalised("a")), world.whole.router)  # type: ignore[arg-type]
        await world.ask("a good one")
        await idle()

    world = within(steps)

    assert (world.seen().compared, world.seen().dropped) == (1, {"failed": 3})
    assert world.whole.lines.getvalue().count("shadow_run_failed") == 1
    assert "poison" not in world.whole.lines.getvalue()


def test_a_run_that_never_ends_is_given_up_and_the_gateway_goes_on() -> None:
    async def steps(world: World) -> None:
        world.shadow._executor = VirtualExecutor(1e9)
        await world.ask("one")
        await idle(RUN_MAX_S * 1.1)
        assert await world.ask("two") == pytest.approx(RUN_S)

    found = within(steps).seen()

    assert not found.loaded
    assert found.trouble == "a run of the shadow took over 10 s"


def test_a_policy_that_is_not_for_the_shadow_makes_it_rest() -> None:
    narrow = OtherRouter(
        tasks=["rewriting", "creative_writing"], policy={"rewriting": "fast", "creative_writing": "slow"}
    )

    async def steps(world: World) -> None:
        world.whole.model.place_policy(parse(b"[need]\nsummarization = 0.9", "policy.toml"))
        await world.ask("one")
        await idle()

    found = within(steps, model=narrow).seen()

    assert not found.loaded
    assert "'summarization' is not a task" in str(found.trouble)


def test_a_policy_that_fits_again_wakes_it() -> None:
    narrow = OtherRouter(
        tasks=["rewriting", "creative_writing"], policy={"rewriting": "fast", "creative_writing": "slow"}
    )

    async def steps(world: World) -> None:
        world.whole.model.place_policy(parse(b"[need]\nsummarization = 0.9", "policy.toml"))
        world.whole.model.place_policy(parse(b"[need]\ncreative_writing = 0.9", "policy.toml"))
        await world.ask("one")
        await idle()

    found = within(steps, model=narrow).seen()

    assert (found.compared, found.trouble) == (1, None)


def test_a_model_that_the_policy_is_not_for_leaves_the_shadow_before_it() -> None:
    wrong = OtherRouter(tasks=["rewriting", "coding"], policy={"rewriting": "fast", "coding": "slow"})

    async def steps(world: World) -> None:
        world.whole.model.place_policy(parse(b"[need]\nsummarization = 0.9", "policy.toml"))
        with pytest.raises(PolicyError, match="'summarization' is not a task"):
            world.shadow.place(wrong)  # type: ignore[arg-type]

    assert within(steps).seen().name == "other"


# Models that come and go


class Third(FakeRouter):
    version = "third"
    digest = b"t" * 32
    manifest: Manifest = msgspec.structs.replace(FakeRouter.manifest, name="third")


def test_another_model_in_service_begins_the_counts_anew() -> None:
    async def steps(world: World) -> None:
        await world.ask("one")
        await idle()
        world.whole.model.swap(Third())  # type: ignore[arg-type]

    assert within(steps).seen().compared == 0


def run_times(world: World) -> tuple[float, float]:
    return world.whole.count("shadow_run_seconds_count"), world.whole.count("shadow_run_seconds_sum")


def test_another_shadow_begins_its_time_anew() -> None:
    async def steps(world: World) -> None:
        await world.ask("one")
        await idle()
        assert run_times(world) == pytest.approx((1, SHADOW_S))
        world.shadow.place(OtherRouter(name="better"))  # type: ignore[arg-type]

    assert run_times(within(steps)) == (0, 0)


def test_another_model_in_service_begins_the_time_of_the_shadow_anew() -> None:
    async def steps(world: World) -> None:
        await world.ask("one")
        await idle()
        world.whole.model.swap(Third())  # type: ignore[arg-type]

    assert run_times(within(steps)) == (0, 0)


def test_a_run_that_began_beside_another_model_counts_nowhere() -> None:
    async def steps(world: World) -> None:
        await world.ask("one")
        await asyncio.sleep(QUIET_S * 1.1)
        assert len(world.began) == 1
        world.whole.model.swap(Third())  # type: ignore[arg-type]
        await idle()

    world = within(steps)

    assert (world.seen().compared, *run_times(world)) == (0, 0, 0)


def test_what_the_model_before_answered_is_not_compared() -> None:
    async def steps(world: World) -> None:
        await world.ask("one")
        world.whole.model.swap(Third())  # type: ignore[arg-type]
        await idle()

    world = within(steps)

    assert world.began == []
    assert world.seen().dropped == {"other_model": 1}


def test_the_same_files_written_again_leave_the_counts() -> None:
    async def steps(world: World) -> None:
        await world.ask("one")
        await idle()
        world.shadow.place(OtherRouter())  # type: ignore[arg-type]

    assert within(steps).seen().compared == 1


def test_another_shadow_takes_the_place_of_the_first() -> None:
    async def steps(world: World) -> None:
        facts = world.shadow.place(OtherRouter(name="better"))  # type: ignore[arg-type]
        assert facts["replaces"] == "other"
        await world.ask("one")
        await idle()

    found = within(steps).seen()

    assert (found.name, found.compared) == ("better", 1)


# What is told


def test_every_series_stands_at_0_before_anything_is_compared() -> None:
    async def steps(world: World) -> None:
        for live, shadow, moved in (("0", "0", "no"), ("0", "1", "dearer"), ("1", "0", "cheaper")):
            labels = {"live": live, "shadow": shadow, "moved": moved}
            assert world.whole.telemetry.registry.get_sample_value(
                "query_gateway_shadow_routes_total", labels
            ) == 0  # fmt: skip
        for reason in ("full", "late", "other_model", "failed"):
            assert world.whole.telemetry.registry.get_sample_value(
                "query_gateway_shadow_dropped_total", {"reason": reason}
            ) == 0  # fmt: skip

    within(steps)


def test_what_was_compared_is_measured() -> None:
    async def steps(world: World) -> None:
        await world.ask("one")
        await idle()

    world = within(steps)

    assert world.whole.count("shadow_run_seconds_count") == 1
    assert world.whole.count("shadow_run_seconds_sum") == pytest.approx(SHADOW_S)
    info = {"name": "other", "version": "other"}
    assert world.whole.telemetry.registry.get_sample_value("query_gateway_shadow_info", info) == 1
    assert world.whole.count("shadow_loaded") == 1


def test_an_operators_key_goes_to_no_other_host() -> None:
    got: list[str | None] = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            got.append(self.headers.get("x-api-key"))
            if self.path == "/metrics":
                self.send_response(302)
                self.send_header("location", f"http://localhost:{server.server_port}/other")
            else:
                self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(Unreported):
            fetch(f"http://127.0.0.1:{server.server_port}", "qg_key")
        server.shutdown()

    assert got == ["qg_key"]
