"""Past what it can answer: late refusals, hits as ever, and nobody lost. A real process each."""

import socket
import threading
import time
from contextlib import ExitStack

import pytest

from handler.refusals import DELAY_MIN_S
from lab.drive import Driver, Outcome, poisson, requests
from lab.full import full_gateway
from lab.launch import Served, eventually


def test_past_the_queues_bound_a_query_is_told_429_with_a_time_to_come_back() -> None:
    with full_gateway(queue_max=2) as (served, _):
        refused = served.ask("one too many", **{"x-request-id": "late"})

        assert refused.status_code == 429
        assert refused.json()["error"]["status"] == "RESOURCE_EXHAUSTED"
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.headers["x-request-id"] == "late"
        name = 'query_gateway_requests_total{code="429",error_type="Overloaded",status="error"}'
        assert served.metric(name) == 1


def test_a_refused_caller_hears_of_it_late() -> None:
    with full_gateway(queue_max=2) as (served, _):
        asked = time.monotonic()

        assert served.ask("one too many").status_code == 429

        assert time.monotonic() - asked >= 0.9 * DELAY_MIN_S  # the loop's clock ticks in milliseconds


def test_a_refused_query_of_many_is_told_late_too() -> None:
    with full_gateway(queue_max=2) as (served, gate):
        opens = threading.Timer(DELAY_MIN_S, gate.touch)
        opens.start()
        asked = time.monotonic()

        answer = served.send(b'{"texts": ["a", "b", "c", "d", "e", "f"]}').json()

        assert 429 in [result.get("error", {}).get("code") for result in answer["results"]]
        assert time.monotonic() - asked >= 0.9 * DELAY_MIN_S  # the loop's clock ticks in milliseconds


def test_hits_are_served_while_misses_are_shed() -> None:
    with full_gateway(queue_max=2) as (served, _):
        for i in range(20):
            assert served.ask(f"shed {i}").status_code == 429
            assert served.ask("known").headers["x-cache"] == "l1"


def test_a_gateway_that_sheds_is_ready() -> None:
    with full_gateway(queue_max=2) as (served, _):
        assert served.ask("one too many").status_code == 429

        assert served.client.get("/health/ready").status_code == 200
        assert served.client.get("/health/deep").json()["status"] == "healthy"
        assert served.metric("query_gateway_batch_queue_fullness") == 1


def test_service_is_ordinary_again_once_the_flood_is_over() -> None:
    with full_gateway(queue_max=2) as (served, gate):
        assert served.ask("one too many").status_code == 429

        gate.touch()

        eventually(lambda: served.metric("query_gateway_batch_queue_size") == 0, "the queue drains")
        assert served.ask("one too many").status_code == 200


def test_a_flood_of_new_queries_leaves_every_caller_an_answer_or_a_clean_refusal() -> None:
    settings = {
        "QUEUE_MAX": "16",
        "LANES": "1",
        "QUEUE_MIN": "16",
        "REQUEST_TIMEOUT_MS": "60000",  # on a slow machine, too, only the queue refuses
    }
    with Served(settings) as served, Driver(served.port) as driver:
        seen = driver.open(requests(1), poisson(4000, seed=1), seconds=1.0)

        assert seen.codes.keys() <= {200, 429}
        assert seen.codes[200] > 0
        assert seen.codes[429] > 0
        assert seen.lost == 0
        assert seen.without_retry_after == 0
        eventually(lambda: served.metric("query_gateway_active_requests") == 0, "nobody is left waiting")


@pytest.mark.parametrize("limit", ["-Sn 256", "-Sn 256 -Hn 512"])
def test_idle_connections_past_a_small_limit_of_open_files_shut_nobody_out(limit: str) -> None:
    with (
        Served(wrapped_in=["bash", "-c", f'ulimit {limit}; exec "$@"', "bash"]) as served,
        ExitStack() as idle,
    ):
        for _ in range(380):
            idle.enter_context(socket.create_connection(("127.0.0.1", served.port)))

        assert served.ask("is there a place left?").status_code == 200


@pytest.mark.parametrize(
    ("fraction", "of"), [(0.5, 50), (0.99, 99), (0.999, 100), (1.0, 100)], ids=["P50", "P99", "P99.9", "all"]
)
def test_percentiles_are_those_of_the_sorted_latencies(fraction: float, of: int) -> None:
    seen = Outcome()
    seen.hits_s.extend(i / 1000 for i in range(100, 50, -1))
    seen.misses_s.extend(i / 1000 for i in range(1, 51))

    assert seen.answered_ms(fraction) == pytest.approx(of)
