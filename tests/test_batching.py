"""`Batcher` on virtual time: lanes, company, failures."""

import asyncio
import weakref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handler.batching import Ticket
from handler.errors import DeadlineExceeded, Overloaded
from handler.query import Normalised
from handler.scored import Scored
from tests import virtual
from tests.fakes import FakeRouter, WholeGateway


def ticket(whole: WholeGateway, text: str, *, lasts_s: float = 60.0) -> Ticket:
    deadline = asyncio.get_running_loop().time() + lasts_s
    return Ticket(query=Normalised(text), scorer=whole.router, tokens=10, deadline=deadline)


def submit(whole: WholeGateway, text: str, **options: float) -> "asyncio.Future[Scored]":
    return whole.batcher.submit(ticket(whole, text, **options))


def test_a_query_at_an_idle_gateway_waits_for_nothing() -> None:
    async def main() -> float:
        async with WholeGateway(run_s=0.5) as whole:
            started = asyncio.get_running_loop().time()
            await submit(whole, "q")
            return asyncio.get_running_loop().time() - started

    assert virtual.run(main()) == pytest.approx(0.5)


def test_queries_gather_while_the_lane_is_busy() -> None:
    async def main() -> list[list[str]]:
        async with WholeGateway() as whole:
            first = submit(whole, "first")
            await asyncio.sleep(0.0005)
            rest = [submit(whole, name) for name in "abc"]
            await asyncio.gather(first, *rest)
            return whole.router.batches

    assert virtual.run(main()) == [["first"], ["a", "b", "c"]]


def test_two_lanes_run_two_batches_at_once() -> None:
    async def main() -> float:
        async with WholeGateway(lanes=2, size_max=1, run_s=1.0) as whole:
            started = asyncio.get_running_loop().time()
            await asyncio.gather(submit(whole, "a"), submit(whole, "b"))
            return asyncio.get_running_loop().time() - started

    assert virtual.run(main()) == pytest.approx(1.0)


def test_each_query_gets_its_own_scores() -> None:
    async def main() -> None:
        async with WholeGateway(size_max=7) as whole:
            texts = [f"query {i}" for i in range(50)]

            answers = await asyncio.gather(*(submit(whole, text) for text in texts))

            for text, answer in zip(texts, answers, strict=True):
                assert answer.scores == FakeRouter.scores(Normalised(text))

    virtual.run(main())


def test_a_poisoned_query_fails_alone() -> None:
    async def main() -> list[object]:
        async with WholeGateway() as whole:
            busy = submit(whole, "busy")
            await asyncio.sleep(0)
            batch = [submit(whole, text) for text in ("before", "poison", "after")]
            await busy
            return await asyncio.gather(*batch, return_exceptions=True)

    before, poisoned, after = virtual.run(main())

    assert isinstance(before, Scored)
    assert isinstance(poisoned, ValueError)
    assert isinstance(after, Scored)


def test_a_caller_who_leaves_the_queue_costs_no_model_run() -> None:
    async def main() -> list[list[str]]:
        async with WholeGateway() as whole:
            busy = submit(whole, "busy")
            await asyncio.sleep(0.0001)
            leaves = submit(whole, "leaves")
            stays = submit(whole, "stays")
            await asyncio.sleep(0.0001)
            leaves.cancel()
            await asyncio.gather(busy, stays)
            assert whole.count("dropped_total", reason="caller_gone") == 1
            return whole.router.batches

    assert virtual.run(main()) == [["busy"], ["stays"]]


def test_a_query_past_its_deadline_never_reaches_the_model() -> None:
    async def main() -> list[list[str]]:
        async with WholeGateway(run_s=1.0) as whole:
            busy = submit(whole, "busy")
            await asyncio.sleep(0.1)
            late = submit(whole, "late", lasts_s=0.5)
            with pytest.raises(DeadlineExceeded):
                await late
            await busy
            assert whole.count("dropped_total", reason="deadline") == 1
            return whole.router.batches

    assert virtual.run(main()) == [["busy"]]


def test_a_full_queue_answers_at_once() -> None:
    async def main() -> None:
        async with WholeGateway(queue_max=2, run_s=1.0) as whole:
            waiting = [submit(whole, "busy")]
            await asyncio.sleep(0.1)
            waiting += [submit(whole, name) for name in "ab"]
            await asyncio.sleep(0.1)
            before = asyncio.get_running_loop().time()

            with pytest.raises(Overloaded):
                await submit(whole, "one too many")

            assert asyncio.get_running_loop().time() == before
            await asyncio.gather(*waiting)

    virtual.run(main())


def test_an_idle_lane_keeps_nothing_of_the_model_that_it_ran() -> None:
    async def main() -> bool:
        async with WholeGateway() as whole:
            model = FakeRouter()
            freed = weakref.ref(model)
            asked = ticket(whole, "q")
            asked.scorer = model
            await whole.batcher.submit(asked)
            await asyncio.sleep(0)
            del asked, model
            return freed() is None

    assert virtual.run(main())


def test_a_batcher_without_all_its_lanes_is_not_alive() -> None:
    async def main() -> None:
        async with WholeGateway(lanes=2) as whole:
            assert whole.batcher.alive

            whole._lanes[0].cancel()
            await asyncio.sleep(0)

            assert not whole.batcher.alive

    virtual.run(main())


def test_a_lane_that_hangs_in_a_run_is_not_alive() -> None:
    async def main() -> None:
        async with WholeGateway(run_s=60.0) as whole:
            submit(whole, "q")
            await asyncio.sleep(9.0)
            assert whole.batcher.alive

            await asyncio.sleep(2.0)

            assert not whole.batcher.alive

    virtual.run(main())


@settings(max_examples=60, deadline=None)
@given(
    queries=st.lists(
        st.tuples(
            st.floats(0, 0.02),  # arrives after, in seconds
            st.sampled_from(["plain", "poison", "leaves", "short"]),
        ),
        max_size=40,
    ),
    lanes=st.integers(1, 3),
    size_max=st.integers(1, 6),
)
def test_every_accepted_query_gets_exactly_one_answer(
    queries: list[tuple[float, str]], lanes: int, size_max: int
) -> None:
    async def ask(whole: WholeGateway, i: int, after_s: float, kind: str) -> str:
        await asyncio.sleep(after_s)
        try:
            waiting = submit(whole, f"{i} {kind}", lasts_s=0.002 if kind == "short" else 60.0)
        except (Overloaded, DeadlineExceeded):
            return "refused"
        if kind == "leaves":
            await asyncio.sleep(0.0003)
            waiting.cancel()
        try:
            answer = await waiting
        except asyncio.CancelledError:
            return "left"
        except DeadlineExceeded:
            return "late"
        except ValueError:
            return "poisoned"
        assert answer.scores == FakeRouter.scores(Normalised(f"{i} {kind}"))
        return "answered"

    async def main() -> list[str]:
        async with WholeGateway(lanes=lanes, size_max=size_max) as whole:
            asked = (ask(whole, i, *query) for i, query in enumerate(queries))
            outcomes = await asyncio.gather(*asked)
            assert all(left.dead(0.0) == "caller_gone" for left in whole.batcher.plan.take(0.0)[0])
            return outcomes

    allowed = {
        "plain": {"answered"},
        "poison": {"poisoned"},
        "leaves": {"left", "answered"},
        "short": {"answered", "late", "refused"},
    }
    for (_, kind), outcome in zip(queries, virtual.run(main()), strict=True):
        assert outcome in allowed[kind]
