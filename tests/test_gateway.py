"""`Gateway`: flights, deadlines and callers who leave, on virtual time."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handler.errors import CallerGone, DeadlineExceeded, ModelNotReady, Overloaded
from handler.flights import WATCH_AFTER_S
from handler.gateway import Answer
from handler.policy import decide
from handler.query import normalise
from handler.scored import shares
from tests import virtual
from tests.fakes import LIMITS, FakeRouter, WholeGateway


def ask(whole: WholeGateway, text: str, *, timeout_s: float = 10.0) -> "asyncio.Task[Answer]":
    return asyncio.create_task(whole.gateway.classify(text, timeout_s=timeout_s))


def test_the_second_of_two_equal_queries_is_answered_by_l1() -> None:
    async def main() -> None:
        async with WholeGateway() as whole:
            first = await ask(whole, "Summarize this")
            second = await ask(whole, "  summarize   THIS ")

            assert (first.cache, second.cache) == ("miss", "l1")
            assert second.decision == first.decision
            assert whole.router.batches == [["summarize this"]]

    virtual.run(main())


def test_an_answer_older_than_its_time_is_made_anew() -> None:
    async def main() -> None:
        async with WholeGateway(l1_ttl_s=5.0) as whole:
            await ask(whole, "q")
            await asyncio.sleep(5.0)

            assert (await ask(whole, "q")).cache == "miss"

    virtual.run(main())


def test_a_thousand_equal_queries_in_flight_share_one_run() -> None:
    async def main() -> None:
        async with WholeGateway() as whole:
            answers = await asyncio.gather(*(ask(whole, "the same") for _ in range(1000)))

            assert len({answer.decision for answer in answers}) == 1
            assert whole.router.batches == [["the same"]]
            assert whole.count("cache_misses_total") == 1000

    virtual.run(main())


def test_a_caller_who_leaves_does_not_hurt_those_on_the_same_flight() -> None:
    async def main() -> None:
        async with WholeGateway(run_s=1.0) as whole:
            leader = ask(whole, "shared")
            await asyncio.sleep(0)
            follower = ask(whole, "shared")
            await asyncio.sleep(0.1)

            leader.cancel()

            assert (await follower).cache == "miss"
            assert whole.router.batches == [["shared"]]

    virtual.run(main())


def test_a_query_whose_callers_all_left_is_dropped_before_its_run() -> None:
    async def main() -> None:
        async with WholeGateway(run_s=1.0) as whole:
            busy = ask(whole, "busy")
            await asyncio.sleep(0.1)
            callers = [ask(whole, "left"), ask(whole, "left")]
            await asyncio.sleep(0.1)
            for caller in callers:
                caller.cancel()
            await busy
            await asyncio.sleep(2.0)

            assert whole.router.batches == [["busy"]]
            assert whole.count("dropped_total", reason="caller_gone") == 1

    virtual.run(main())


def test_whoever_comes_after_all_others_left_is_still_answered() -> None:
    async def main() -> None:
        async with WholeGateway(run_s=1.0) as whole:
            busy = ask(whole, "busy")
            await asyncio.sleep(0.1)
            left = ask(whole, "again")
            await asyncio.sleep(0.1)
            left.cancel()
            await asyncio.sleep(0.1)

            answer = await ask(whole, "again")

            assert answer.decision == expected("again")
            await busy

    virtual.run(main())


def test_a_caller_waits_no_longer_than_its_own_time_out() -> None:
    async def main() -> float:
        async with WholeGateway(run_s=5.0) as whole:
            loop = asyncio.get_running_loop()
            started = loop.time()
            with pytest.raises(DeadlineExceeded):
                await ask(whole, "slow", timeout_s=0.25)
            return loop.time() - started

    assert virtual.run(main()) == pytest.approx(0.25)


def test_a_patient_caller_keeps_alive_what_an_impatient_one_began() -> None:
    async def main() -> None:
        async with WholeGateway(run_s=1.0) as whole:
            busy = ask(whole, "busy")
            await asyncio.sleep(0.1)
            impatient = ask(whole, "shared", timeout_s=0.2)
            await asyncio.sleep(0)
            patient = ask(whole, "shared", timeout_s=10.0)

            with pytest.raises(DeadlineExceeded):
                await impatient
            assert (await patient).decision == expected("shared")
            await busy

    virtual.run(main())


def test_the_result_of_a_run_that_came_too_late_is_kept_for_the_next_caller() -> None:
    async def main() -> None:
        async with WholeGateway(run_s=1.0) as whole:
            with pytest.raises(DeadlineExceeded):
                await ask(whole, "q", timeout_s=0.5)
            await asyncio.sleep(1.0)

            assert (await ask(whole, "q")).cache == "l1"

    virtual.run(main())


def test_a_caller_who_hangs_up_ends_its_own_wait() -> None:
    async def main() -> None:
        async with WholeGateway(run_s=5.0) as whole:

            async def hangs_up() -> None:
                await asyncio.sleep(1.0)

            started = asyncio.get_running_loop().time()
            with pytest.raises(CallerGone):
                await whole.gateway.classify("q", timeout_s=60.0, caller_left=hangs_up)
            assert asyncio.get_running_loop().time() - started == pytest.approx(1.0 + WATCH_AFTER_S)

    virtual.run(main())


def test_hits_are_served_while_misses_are_shed() -> None:
    async def main() -> None:
        async with WholeGateway(run_s=1.0, queue_max=1) as whole:
            await ask(whole, "known")
            running = ask(whole, "running")
            await asyncio.sleep(0.1)
            waiting = ask(whole, "waiting")
            await asyncio.sleep(0)

            with pytest.raises(Overloaded):
                await ask(whole, "one too many")
            assert (await ask(whole, "known")).cache == "l1"
            await asyncio.gather(running, waiting)
            assert whole.count("cache_misses_total") == 4

    virtual.run(main())


def test_a_full_queue_still_lets_a_newcomer_join_a_flight() -> None:
    async def main() -> None:
        async with WholeGateway(run_s=1.0, queue_max=1) as whole:
            running = ask(whole, "running")
            await asyncio.sleep(0.1)
            waiting = [ask(whole, "waiting") for _ in range(3)]

            await asyncio.gather(running, *waiting)

            assert whole.router.batches == [["running"], ["waiting"]]

    virtual.run(main())


def test_a_refused_query_begins_no_flight() -> None:
    async def main() -> None:
        async with WholeGateway(run_s=1.0, queue_max=1) as whole:
            waiting = [ask(whole, "running")]
            await asyncio.sleep(0.1)
            waiting.append(ask(whole, "waiting"))
            await asyncio.sleep(0.1)
            tasks = len(asyncio.all_tasks())

            with pytest.raises(Overloaded):
                await whole.gateway.classify("one too many", timeout_s=1.0)

            assert len(asyncio.all_tasks()) == tasks
            assert len(whole.gateway.flights) == 2
            await asyncio.gather(*waiting, return_exceptions=True)

    virtual.run(main())


def test_a_poisoned_query_can_be_asked_again() -> None:
    async def main() -> None:
        async with WholeGateway() as whole:
            for _ in range(2):
                with pytest.raises(ValueError, match="choked"):
                    await ask(whole, "poison")

            assert whole.router.batches == [["poison"], ["poison"]]

    virtual.run(main())


def test_without_a_model_a_query_is_refused_with_the_reason() -> None:
    async def main() -> None:
        async with WholeGateway(loaded=False) as whole:
            whole.model.reason = "Model file not found: here"

            with pytest.raises(ModelNotReady, match="Model file not found: here"):
                await ask(whole, "q")

    virtual.run(main())


def test_no_flight_is_left_behind() -> None:
    async def main() -> None:
        async with WholeGateway() as whole:
            await asyncio.gather(*(ask(whole, text) for text in ("a", "b", "poison")), return_exceptions=True)
            await asyncio.sleep(1.0)

            assert len(whole.gateway.flights) == 0

    virtual.run(main())


@settings(max_examples=60, deadline=None)
@given(
    asked=st.lists(
        st.tuples(st.sampled_from(["A b", "a  B", "a b", "c", "poison", "D"]), st.floats(0, 0.01)),
        max_size=30,
    ),
    lanes=st.integers(1, 2),
    l1_size=st.integers(0, 3),
)
def test_two_texts_with_one_key_get_one_answer_whichever_came_first(
    asked: list[tuple[str, float]], lanes: int, l1_size: int
) -> None:
    async def one(whole: WholeGateway, text: str, after_s: float) -> None:
        await asyncio.sleep(after_s)
        if "poison" in text:
            with pytest.raises(ValueError, match="choked"):
                await ask(whole, text)
        else:
            assert (await ask(whole, text)).decision == expected(text)

    async def main() -> None:
        async with WholeGateway(lanes=lanes, l1_size=l1_size) as whole:
            await asyncio.gather(*(one(whole, *query) for query in asked))

    virtual.run(main())


@given(
    took_s=st.tuples(*[st.floats(0, 1)] * 4),
    waited_s=st.floats(0, 4),
)
def test_the_stages_of_a_wait_never_sum_to_more_than_the_wait(
    took_s: tuple[float, ...], waited_s: float
) -> None:
    stages = tuple(zip(("l2", "queue", "tokenize", "infer"), took_s, strict=True))

    assert sum(spent_s for _, spent_s in shares(stages, waited_s)) <= waited_s + 1e-9


def expected(text: str) -> object:
    """The decision for a text that no cache and no neighbour ever touched."""
    from handler.policy import Policy

    policy = Policy.of_routes(FakeRouter.manifest.tasks, FakeRouter.manifest.policy)
    return decide(FakeRouter.scores(normalise(text, LIMITS)), policy)
