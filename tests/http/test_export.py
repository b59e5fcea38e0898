"""Metrics and traces of a real process, at a receiver: all of them, and never at an answer's cost."""

import concurrent.futures
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lab.launch import Served, answers, eventually, free_port
from lab.receiver import Receiver
from tests.http.test_process import polite_client

SECRET = "xyzzy-swordfish"
PARENT = "00f067aa0ba902b7"
# Protocol buffers' own library: what is imported with OpenTelemetry, and shows in a process's maps.
LIBRARY = "_upb/_message"


def sending_to(url: str, **more: str) -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "DRAIN_LINGER_MS": "0", **more}


def imports(served: Served) -> str:
    """The libraries that a process has loaded."""
    return Path(f"/proc/{served.process.pid}/maps").read_text()


def test_an_instance_that_ends_under_load_leaves_its_counters_whole() -> None:
    with Receiver() as receiver:
        with Served(sending_to(receiver.url, DRAIN_LINGER_MS="1000")) as served:
            stop, outcomes = threading.Event(), list[str]()
            with concurrent.futures.ThreadPoolExecutor(16) as callers:
                for _ in range(16):
                    callers.submit(polite_client, served, stop, outcomes)
                eventually(lambda: len(outcomes) > 500, "load runs")
                code = served.terminate()
                stop.set()

        assert code == 0
        seen = Counter(outcomes)
        assert set(seen) == {"200"}
        assert receiver.total("query_gateway_requests_total", status="success") == seen["200"]
        assert receiver.increase("query_gateway_requests_total", status="success") == seen["200"]
        assert receiver.total("query_gateway_request_latency_seconds") == seen["200"]
        assert receiver.total("query_gateway_classifications_total") == seen["200"]
        # Two at least: of a single one no rate can be made.
        assert len(receiver.pushes("metrics")) >= 2


@pytest.mark.parametrize(
    ("settings", "on"),
    [
        ({}, False),
        (sending_to("http://127.0.0.1:9", OTEL_SDK_DISABLED="true"), False),
        (sending_to("http://127.0.0.1:9"), True),
    ],
    ids=["off", "disabled", "on"],
)
def test_opentelemetry_is_imported_where_it_is_on_and_by_nobody_else(
    settings: dict[str, str], on: bool
) -> None:
    command = (sys.executable, "-X", "importtime", "-m", "handler", "serve")
    # The Redis client imports it wherever it can, and so does the web framework.
    with Served({"REDIS_URL": "redis://127.0.0.1:9", **settings}, command=command) as served:
        assert served.ask("q").status_code == 200
        if on:
            eventually(lambda: LIBRARY in imports(served), "it is imported")

        told = served.text()
        assert (LIBRARY in imports(served)) is on
        assert ("opentelemetry.context" in told) is on
        # Queries were answered by then.
        assert not on or told.index('"event":"model_loaded"') < told.index("opentelemetry.context")


def test_a_receiver_that_is_not_there_costs_one_line_and_no_answer() -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    settings = sending_to(nobody, OTEL_METRIC_EXPORT_INTERVAL="100", OTEL_EXPORTER_OTLP_TIMEOUT="200")
    with Served(settings) as served:
        failed = {"signal": "metrics", "outcome": "failed"}
        eventually(lambda: served.metric("query_gateway_otlp_pushes_total", **failed) > 2, "it is counted")
        answer = served.ask("still here?")
        healthy = served.metric("query_gateway_otlp_healthy", signal="metrics")
        code = served.terminate()

        assert (answer.status_code, healthy, code) == (200, 0, 0)
        assert served.events().count("exporter_unreachable") == 1
        assert "library_error" not in served.events()


def test_a_receiver_that_never_answers_does_not_hold_up_the_end() -> None:
    with Receiver() as receiver:
        receiver.stall_s = 60.0
        with Served(sending_to(receiver.url)) as served:
            assert served.ask("q").status_code == 200

            # A drain that is late ends with 1.
            assert served.terminate() == 0
            assert served.events()[-1] == "stopped"


def test_pushes_hold_no_more_files_than_are_kept_for_them() -> None:
    from handler.machine import EXPORT_FILES, OWN_FILES

    with Receiver() as receiver:
        receiver.stall_s = 60.0
        settings = sending_to(
            receiver.url, OTEL_TRACES_SAMPLER="always_on", OTEL_BSP_SCHEDULE_DELAY="100", LANES="1"
        )
        with Served(settings) as served:
            served.ask("q")
            eventually(lambda: receiver.connections == 2, "both signals are on their way")
            served.client.close()
            held = os.listdir(f"/proc/{served.process.pid}/fd")

    assert len(held) <= OWN_FILES + EXPORT_FILES


def test_a_receiver_that_comes_back_is_told_of() -> None:
    with Receiver() as receiver:
        receiver.status = 503
        settings = sending_to(
            receiver.url, OTEL_METRIC_EXPORT_INTERVAL="100", OTEL_EXPORTER_OTLP_TIMEOUT="200"
        )
        with Served(settings) as served:
            eventually(lambda: "exporter_unreachable" in served.events(), "it is told of")
            receiver.status = 200

            eventually(lambda: "exporter_reachable" in served.events(), "its end is told of")
            assert served.metric("query_gateway_otlp_healthy", signal="metrics") == 1


class Traced(NamedTuple):
    """A gateway that sends its spans soon, and where to."""

    served: Served
    receiver: Receiver

    def spans(self, trace: str, count: int) -> list[Any]:
        """The spans of a trace, once there are so many."""

        def found() -> list[Any]:
            return [span for span in self.receiver.spans() if span.trace_id.hex() == trace]

        eventually(lambda: len(found()) >= count, f"{count} spans of {trace}")
        return found()


@pytest.fixture(scope="module")
def traced() -> Iterator[Traced]:
    with Receiver() as receiver:
        settings = sending_to(receiver.url, OTEL_BSP_SCHEDULE_DELAY="100", OTEL_METRICS_EXPORTER="none")
        with Served(settings) as served:
            yield Traced(served, receiver)


def traceparent(trace: str, flags: str = "01") -> str:
    return f"00-{trace}-{PARENT}-{flags}"


def test_a_query_that_its_caller_traces_is_a_span_with_its_stages_below_the_callers(traced: Traced) -> None:
    trace, other = "a1" * 16, "a2" * 16
    traced.served.ask(f"{SECRET} not traced", traceparent=traceparent(other, "00"))
    traced.served.ask(f"{SECRET} alone")
    traced.served.ask(f"{SECRET} traced", traceparent=traceparent(trace))

    spans = traced.spans(trace, 5)

    (query,) = [span for span in spans if span.name == "query"]
    stages = [span for span in spans if span is not query]
    assert query.parent_span_id.hex() == PARENT
    assert [stage.name for stage in stages] == ["l1", "queue", "tokenize", "infer"]
    assert {stage.parent_span_id for stage in stages} == {query.span_id}
    assert all(
        query.start_time_unix_nano <= stage.start_time_unix_nano <= stage.end_time_unix_nano
        for stage in stages
    )
    assert stages[-1].end_time_unix_nano <= query.end_time_unix_nano
    assert {span.trace_id.hex() for span in traced.receiver.spans()} >= {trace}
    assert other not in {span.trace_id.hex() for span in traced.receiver.spans()}
    assert SECRET.encode() not in b"".join(traced.receiver.pushes("traces"))


@pytest.mark.parametrize(
    ("trace", "body", "content_type", "queries"),
    [
        ("b1" * 16, b'{"texts":["d","e"]}', "application/json", 2),
        ("b2" * 16, b'{"text":"a"}\n{"txet":"b"}\n{"text":"c"}\n', "application/x-ndjson", 2),
    ],
    ids=["texts", "NDJSON"],
)
def test_every_query_of_a_request_of_many_is_a_span_below_its_request(
    traced: Traced, trace: str, body: bytes, content_type: str, queries: int
) -> None:
    traced.served.send(body, content_type=content_type, traceparent=traceparent(trace))

    spans = traced.spans(trace, 1 + 5 * queries)

    (request,) = [span for span in spans if span.name == "request"]
    below = [span for span in spans if span.name == "query"]
    assert request.parent_span_id.hex() == PARENT
    assert [query.parent_span_id for query in below] == [request.span_id] * queries


def test_a_traced_query_that_is_refused_says_why(traced: Traced) -> None:
    trace = "c1" * 16
    refused = traced.served.send(f'{{"txet":"{SECRET}"}}'.encode(), traceparent=traceparent(trace))

    (span,) = traced.spans(trace, 1)

    told = {one.key: one.value for one in span.attributes}
    assert refused.status_code == 400
    assert span.status.code == 2  # an error
    assert told["error.type"].string_value == "ValidationError"
    assert told["http.response.status_code"].int_value == 400
    assert SECRET not in str(span)


def test_spans_that_wait_are_sent_when_the_process_ends() -> None:
    with Receiver() as receiver:
        settings = sending_to(receiver.url, OTEL_BSP_SCHEDULE_DELAY="60000", OTEL_METRICS_EXPORTER="none")
        with Served(settings) as served:
            served.ask("q", traceparent=traceparent("d1" * 16))
            assert served.terminate() == 0

        assert "query" in {span.name for span in receiver.spans()}


def test_traces_beyond_the_queue_are_dropped_and_counted() -> None:
    with Receiver() as receiver:
        settings = sending_to(
            receiver.url,
            OTEL_TRACES_SAMPLER="always_on",
            OTEL_BSP_MAX_QUEUE_SIZE="2",
            OTEL_BSP_SCHEDULE_DELAY="60000",
            OTEL_METRICS_EXPORTER="none",
        )
        receiver.stall_s = 1.0
        with Served(settings) as served:
            for i in range(8):
                assert served.ask(f"q {i}").status_code == 200

            assert served.metric("query_gateway_otlp_dropped_traces_total", reason="full") >= 1
            assert answers(f"{served.url}/health/ready")


def test_grpc_stops_the_start_and_is_named() -> None:
    settings = sending_to("http://127.0.0.1:4317", OTEL_EXPORTER_OTLP_PROTOCOL="grpc")
    with Served(settings, wait_for=None) as served:
        assert served.process.wait(timeout=30) == 2
        assert "OTEL_EXPORTER_OTLP_PROTOCOL='grpc' is not spoken" in served.text()
