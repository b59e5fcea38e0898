"""When a part dies: the process goes too and says why, and no caller waits for nobody."""

import concurrent.futures
import contextlib
import signal
from pathlib import Path

import httpx
import pytest

from lab.launch import Served, eventually


@pytest.mark.parametrize("fault", ["lane", "thread"])
def test_a_gateway_that_loses_a_lane_ends_with_1_and_says_why(fault: str) -> None:
    with Served({"LANES": "2"}, fault=fault) as served:
        assert served.ask("sound so far").status_code == 200

        with contextlib.suppress(httpx.TransportError):
            assert served.ask("fatal").status_code == 500

        assert served.process.wait(timeout=10) == 1
        (line,) = [line for line in served.lines() if line["event"] == "died"]
        assert line["level"] == "error"
        assert line["exception"] == "RuntimeError"
        assert line["traceback"]
        assert "fatal" not in served.text()


def test_nobody_waits_for_an_answer_that_cannot_come(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    settings = {"LANES": "1", "REQUEST_TIMEOUT_MS": "60000"}
    with (
        Served(settings, fault=f"gate:{gate}") as served,
        concurrent.futures.ThreadPoolExecutor(8) as callers,
    ):
        waiting = [callers.submit(served.ask, f"query {i}") for i in range(8)]
        eventually(lambda: served.metric("query_gateway_active_requests") == 8, "all of them wait")

        served.process.kill()

        for caller in waiting:
            assert isinstance(caller.exception(timeout=10), httpx.TransportError)


def test_a_killed_gateway_leaves_its_port_to_the_next() -> None:
    with Served() as killed:
        killed.process.send_signal(signal.SIGKILL)
        killed.process.wait(timeout=10)

        with Served({"PORT": str(killed.port)}) as follower:
            assert follower.ask("q").status_code == 200


def test_one_poisoned_query_gets_a_500_with_an_id_while_its_neighbours_get_their_answers() -> None:
    with Served({"LANES": "1"}, fault="poison") as served:
        texts = [f"neighbour {i}" for i in range(40)]
        texts.insert(20, "poison ivy")
        with concurrent.futures.ThreadPoolExecutor(len(texts)) as callers:
            answers = dict(zip(texts, callers.map(served.ask, texts), strict=True))

        poisoned = answers.pop("poison ivy")
        assert {answer.status_code for answer in answers.values()} == {200}
        assert poisoned.status_code == 500
        assert poisoned.json()["error"]["status"] == "INTERNAL"
        request_id = poisoned.headers["x-request-id"]
        told = eventually(
            lambda: [line for line in served.lines() if line.get("request_id") == request_id], "it is logged"
        )
        assert [line["exception"] for line in told] == ["ValueError"]
        assert "ivy" not in served.text()
        assert served.ask("an ordinary query").status_code == 200
