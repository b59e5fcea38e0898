"""Many queries in one request, on virtual time: how many are queued, for how long, and what ends them."""

import asyncio
import gc
import json
from typing import Any

import pytest

from handler.exchange import Exchange
from handler.wires import native
from handler.wires.base import BULK_QUEUED_MAX
from tests import virtual
from tests.fakes import WholeGateway
from tests.wired import Reply, Wired

PATH = native.PATH
NDJSON = "application/x-ndjson"


def texts(count: int) -> dict[str, Any]:
    return {"texts": [f"ask {number}" for number in range(count)]}


def lines(count: int) -> bytes:
    return b"".join(b'{"text": "ask %d", "id": %d}\n' % (number, number) for number in range(count))


def told(reply: Reply) -> list[Any]:
    """The answers of a stream."""
    return [json.loads(line) for line in reply.body.splitlines()]


class Caller:
    """One who sends a stream in its own time, and may stop reading the answers."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[Any] = asyncio.Queue()
        self.got = bytearray()
        self.reads = asyncio.Event()
        self.reads.set()

    def exchange(self) -> Exchange:
        given = [(b"content-type", NDJSON.encode())]
        scope = {"type": "http", "method": "POST", "path": PATH, "headers": given}
        return Exchange(scope, self.sent.get, self._got)

    async def _got(self, message: Any) -> None:
        await self.reads.wait()
        self.got += message.get("body", b"")

    def send(self, body: bytes, *, more: bool = True) -> None:
        self.sent.put_nowait({"type": "http.request", "body": body, "more_body": more})

    def hang_up(self) -> None:
        self.sent.put_nowait({"type": "http.disconnect"})

    @property
    def answers(self) -> list[Any]:
        return [json.loads(line) for line in self.got.splitlines()]


# texts


@pytest.mark.parametrize("count", [1, 3])
def test_at_most_so_many_queries_of_a_request_are_answered(count: int) -> None:
    async def main() -> list[int]:
        async with WholeGateway() as whole:
            wired = Wired(whole, request_queries_max=2)
            return [
                (await wired.post(PATH, texts(count))).status,
                (await wired.post("/predict", {"inputs": [[text] for text in texts(count)["texts"]]})).status,
                (await wired.post("/classify", {"input": texts(count)["texts"]})).status,
                (await wired.post("/models/router", {"inputs": texts(count)["texts"]})).status,
            ]

    assert virtual.run(main()) == ([200, 200, 200, 200] if count <= 2 else [400, 422, 422, 400])


def test_what_has_no_answer_when_the_time_of_all_is_over_says_so() -> None:
    async def main() -> list[Any]:
        async with WholeGateway(run_s=0.1, size_max=1) as whole:
            reply = await Wired(whole, bulk_timeout_ms=1000).post(PATH, texts(40))
            assert reply.status == 200
            results: list[Any] = reply.json["results"]
            return results

    results = virtual.run(main())

    assert len(results) == 40
    answered = ["label" in result for result in results]
    assert 8 <= sum(answered) <= 10
    assert {result["error"]["status"] for result in results if "error" in result} == {"DEADLINE_EXCEEDED"}


def test_a_caller_may_give_all_its_texts_less_time() -> None:
    async def main() -> list[Any]:
        async with WholeGateway(run_s=0.1, size_max=1) as whole:
            reply = await Wired(whole).post(PATH, texts(20), x_request_timeout_ms="500")
            results: list[Any] = reply.json["results"]
            return results

    answered = ["label" in result for result in virtual.run(main())]

    assert 3 <= sum(answered) <= 5


def test_so_many_of_a_request_are_queued_and_no_more() -> None:
    async def main() -> int:
        async with WholeGateway(run_s=0.5, size_max=1) as whole:
            asking = asyncio.create_task(Wired(whole).post(PATH, texts(200)))
            await asyncio.sleep(0.1)
            queued = len(whole.batcher.plan)
            asking.cancel()
            return queued

    assert virtual.run(main()) == BULK_QUEUED_MAX - 1  # one of them runs


def test_who_hangs_up_in_the_middle_of_its_texts_costs_no_more_runs() -> None:
    complaints: list[Any] = []

    async def main() -> tuple[Reply, int, int]:
        # What the loop is told of is logged as an error of ours.
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        async with WholeGateway(run_s=0.1, size_max=1) as whole:
            wired = Wired(whole)
            asking = asyncio.create_task(wired.post(PATH, texts(200)))
            await asyncio.sleep(0.35)
            wired.left.set()
            reply = await asking
            at_once = len(whole.router.batches)
            await asyncio.sleep(5)
            gc.collect()
            assert whole.count("requests_total", status="error", error_type="CallerGone", code="499") == 1
            return reply, at_once, len(whole.router.batches)

    reply, at_once, later = virtual.run(main())

    assert reply.status == 0
    assert later <= at_once + 1  # what runs, runs on
    assert complaints == []


# Streams


def test_a_line_that_is_late_is_answered_by_its_own_error() -> None:
    async def main() -> list[Any]:
        async with WholeGateway(run_s=0.4, size_max=1) as whole:
            reply = await Wired(whole, request_timeout_ms=1000).post(PATH, lines(8), content_type=NDJSON)
            return told(reply)

    answers = virtual.run(main())

    assert [answer["id"] for answer in answers] == list(range(8))
    assert {answer["error"]["status"] for answer in answers if "error" in answer} == {"DEADLINE_EXCEEDED"}
    assert "label" in answers[0]


@pytest.mark.parametrize(("timeout_ms", "late"), [("900", False), ("200", True)])
def test_a_callers_time_out_is_for_each_line_from_when_it_is_queued(timeout_ms: str, late: bool) -> None:
    async def main() -> list[Any]:
        async with WholeGateway(run_s=0.04, size_max=1) as whole:
            wired = Wired(whole)
            return told(
                await wired.post(PATH, lines(48), content_type=NDJSON, x_request_timeout_ms=timeout_ms)
            )

    answers = virtual.run(main())

    assert len(answers) == 48  # two seconds of runs
    assert any("error" in answer for answer in answers) == late
    assert "label" in answers[0]


def test_a_callers_time_out_that_is_none_is_refused_before_a_line_is_read() -> None:
    async def main() -> Reply:
        async with WholeGateway() as whole:
            return await Wired(whole).post(PATH, lines(9), content_type=NDJSON, x_request_timeout_ms="0")

    assert virtual.run(main()).status == 400


def test_a_reader_who_stalls_stops_the_reading() -> None:
    async def main() -> tuple[int, int]:
        async with WholeGateway() as whole:
            caller = Caller()
            for number in range(300):
                caller.send(b'{"text": "ask %d"}\n' % number)
            serving = asyncio.create_task(native.serve(Wired(whole).service, caller.exchange()))
            await asyncio.sleep(0.005)
            caller.reads.clear()
            await asyncio.sleep(5)
            stalled = caller.sent.qsize()
            await asyncio.sleep(60)
            left = caller.sent.qsize()
            serving.cancel()
            return stalled, left

    stalled, left = virtual.run(main())

    assert stalled == left > 200


def test_who_hangs_up_in_the_middle_of_a_stream_is_served_no_further() -> None:
    async def main() -> tuple[int, float]:
        async with WholeGateway(run_s=0.1, size_max=1) as whole:
            caller = Caller()
            caller.send(lines(5))
            caller.hang_up()
            await native.serve(Wired(whole).service, caller.exchange())
            await asyncio.sleep(5)
            return len(whole.router.batches), whole.count("active_requests")

    assert virtual.run(main()) == (5, 0)


def test_a_sender_who_falls_silent_is_given_up() -> None:
    async def main() -> list[Any]:
        async with WholeGateway() as whole:
            caller = Caller()
            caller.send(lines(3))
            await native.serve(Wired(whole, read_timeout_ms=2000).service, caller.exchange())
            return caller.answers

    *answers, last = virtual.run(main())

    assert [answer["id"] for answer in answers] == [0, 1, 2]
    assert last["error"]["status"] == "INVALID_ARGUMENT"


def test_when_the_process_ends_the_lines_read_are_answered_and_the_last_says_why() -> None:
    async def main() -> tuple[list[Any], int]:
        async with WholeGateway(run_s=0.02, size_max=1) as whole:
            caller, wired = Caller(), Wired(whole)
            caller.send(lines(1000))
            serving = asyncio.create_task(native.serve(wired.service, caller.exchange()))
            await asyncio.sleep(0.11)
            wired.service.health.drain_began.set()
            await serving
            return caller.answers, caller.sent.qsize()

    (*answers, last), _ = virtual.run(main())

    assert [answer["id"] for answer in answers] == list(range(len(answers)))
    assert all("label" in answer for answer in answers)
    assert BULK_QUEUED_MAX <= len(answers) < 40
    assert last["error"]["status"] == "UNAVAILABLE"


def test_what_still_comes_is_thrown_away_so_that_the_answers_reach_their_reader() -> None:
    async def main() -> tuple[int, float, list[Any]]:
        async with WholeGateway(run_s=0.02, size_max=1) as whole:
            caller, wired = Caller(), Wired(whole)
            for line in lines(300).splitlines():
                caller.send(line + b"\n")
            serving = asyncio.create_task(native.serve(wired.service, caller.exchange()))
            await asyncio.sleep(0.11)
            wired.service.health.drain_began.set()
            began = asyncio.get_running_loop().time()
            await serving
            return caller.sent.qsize(), asyncio.get_running_loop().time() - began, caller.answers

    unread, took_s, answers = virtual.run(main())

    assert unread == 0
    assert took_s < 1  # its sender fell silent
    assert len(answers) < 40
    assert answers[-1]["error"]["status"] == "UNAVAILABLE"


def test_a_sender_who_never_stops_is_left_all_the_same() -> None:
    async def main() -> float:
        async with WholeGateway() as whole:
            caller, wired = Caller(), Wired(whole)

            async def send() -> None:
                while True:
                    caller.send(lines(1))
                    await asyncio.sleep(0.01)

            sending = asyncio.create_task(send())
            serving = asyncio.create_task(native.serve(wired.service, caller.exchange()))
            await asyncio.sleep(0.5)
            wired.service.health.drain_began.set()
            began = asyncio.get_running_loop().time()
            await serving
            sending.cancel()
            return asyncio.get_running_loop().time() - began

    assert virtual.run(main()) == pytest.approx(native.DISCARD_S, abs=0.2)
