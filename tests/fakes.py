"""Fakes at the edges: a model whose runs take virtual time, and a lane's executor for it."""

import asyncio
import io
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from handler.batching import Batcher, Plan
from handler.cache import L1
from handler.gateway import Gateway
from handler.log import Log
from handler.model import Manifest, Run
from handler.model_holder import ModelHolder
from handler.policy import Scores
from handler.query import Limits, Normalised
from handler.refusals import Refusals
from handler.telemetry import Telemetry

TASKS = ["summarization", "creative_writing"]
LIMITS = Limits(head_tokens_max=64, tail_tokens_max=48, head_chars_max=768, tail_chars_max=576)


class VirtualExecutor(Executor):
    """Runs work in the loop's own thread, and has it done `takes_s` of loop time later."""

    def __init__(self, takes_s: float = 0.001) -> None:
        self.takes_s = takes_s

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()

        def work() -> None:
            try:
                done.set_result(fn(*args, **kwargs))
            except BaseException as exc:
                done.set_exception(exc)

        asyncio.get_running_loop().call_later(self.takes_s, work)
        return done


class FakeRouter:
    """A model that scores a text by its letters, keeps what it was asked, and may break.

    A text that holds `poison` makes the whole run raise, as a bad input makes a
    real runtime do.
    """

    version = "fake"
    learns = False
    digest = b"d" * 32
    manifest = Manifest(
        format=1,
        name="fake",
        tasks=TASKS,
        policy={"summarization": "fast", "creative_writing": "slow"},
        temperature=1.0,
        limits=LIMITS,
        files={},
        golden=[],
        golden_tolerance=0.0,
    )

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def run(self, queries: list[Normalised]) -> Run:
        self.batches.append([query.text for query in queries])
        if any("poison" in query.text for query in queries):
            raise ValueError("the runtime choked on this batch")
        return Run([self.scores(query) for query in queries], tokenize_s=0.0002, infer_s=0.0008)

    @staticmethod
    def scores(query: Normalised) -> Scores:
        slow = (sum(query.text.encode()) % 101) / 100
        return Scores.of([1 - slow, slow], truncated=query.clipped)


class WholeGateway:
    """A whole gateway on virtual time, but for its model and its executor."""

    def __init__(
        self,
        *,
        lanes: int = 1,
        run_s: float = 0.001,
        size_max: int = 32,
        queue_max: int = 1024,
        l1_size: int = 100,
        l1_ttl_s: float = 300.0,
        loaded: bool = True,
        executor: Executor | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.lines = io.StringIO()
        self.log = Log(self.lines)
        self.telemetry = Telemetry()
        self.router = FakeRouter()
        self.model = ModelHolder(Path("nowhere"), lambda: self.router, self.log)  # type: ignore[arg-type, return-value]
        if loaded:
            self.model.place(self.router)  # type: ignore[arg-type]
        self.batcher = Batcher(
            Plan(size_max=size_max, tokens_max=100_000, queue_min=queue_max, queue_max=queue_max),
            lanes=lanes,
            executor=executor or VirtualExecutor(run_s),
            stall_s=10.0,
            telemetry=self.telemetry,
            log=self.log,
            now=loop.time,
        )
        self.gateway = Gateway(
            model=self.model,
            l1=L1(size_max=l1_size, ttl_s=l1_ttl_s, now=loop.time),
            batcher=self.batcher,
            refusals=Refusals(delayed_max=queue_max, per_s=600),
            telemetry=self.telemetry,
        )
        self._lanes: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "WholeGateway":
        self._lanes = [asyncio.create_task(self.batcher.run_lane()) for _ in range(self.batcher.lanes)]
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        for lane in self._lanes:
            lane.cancel()
        await asyncio.gather(*self._lanes, return_exceptions=True)

    def count(self, name: str, **labels: str) -> float:
        """A metric's value now; 0 when it was never touched."""
        return self.telemetry.registry.get_sample_value("query_gateway_" + name, labels or None) or 0.0
