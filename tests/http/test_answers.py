"""What a caller gets, from a real process with the shipped model."""

import concurrent.futures
import re
import threading

import httpx
import pytest

from lab.launch import Served, eventually

SUMMARIZE = "Summarize the following article in two sentences: The old lighthouse was built in 1857."
STORY = "Write a short story about a lighthouse keeper who collects storms"


def test_a_summarization_request_goes_to_the_fast_path(gateway: Served) -> None:
    answer = gateway.ask(SUMMARIZE)

    assert answer.status_code == 200
    assert answer.json()["label"] == "0"
    assert answer.json()["route"] == "fast"
    assert answer.json()["task"] == "summarization"


def test_a_story_goes_to_the_slow_path(gateway: Served) -> None:
    answer = gateway.ask(STORY).json()

    assert (answer["label"], answer["route"], answer["task"]) == ("1", "slow", "creative_writing")


def test_an_answer_holds_nothing_but_the_contract(gateway: Served) -> None:
    assert list(gateway.ask(SUMMARIZE).json()) == ["label", "route", "task", "confidence"]


def test_a_doubtful_fast_answer_goes_slow_and_says_why() -> None:
    with Served({"CONFIDENCE_THRESHOLD": "1"}) as served:
        answer = served.ask(SUMMARIZE).json()

    assert (answer["label"], answer["route"], answer["reason"]) == ("1", "slow", "low_confidence")
    assert answer["task"] == "summarization"
    assert 0.5 < answer["confidence"] < 1


def test_a_query_too_long_to_be_seen_whole_says_so(gateway: Served) -> None:
    assert gateway.ask("Summarize this. " + "The sea was calm and grey. " * 2000).json()["truncated"] is True


def test_headers_tell_id_latency_cache_model_stages(gateway: Served) -> None:
    miss = gateway.ask("A query that nobody asked before: headers", **{"x-request-id": "abc-1"})
    hit = gateway.ask("A query that nobody asked before: headers")

    assert miss.headers["x-request-id"] == "abc-1"
    assert float(miss.headers["x-router-latency"]) > 0
    assert (miss.headers["x-cache"], hit.headers["x-cache"]) == ("miss", "l1")
    version = gateway.client.get("/health/deep").json()["checks"]["model"]["version"]
    assert hit.headers["x-model-version"] == version
    assert re.fullmatch(
        r"l1;dur=[\d.]+, queue;dur=[\d.]+, tokenize;dur=[\d.]+, infer;dur=[\d.]+",
        miss.headers["server-timing"],
    )


def test_a_trace_names_the_request_that_gives_no_id(gateway: Served) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"

    answer = gateway.ask("q", traceparent=f"00-{trace}-b7ad6b7169203331-01")

    assert answer.headers["x-request-id"] == trace


def test_many_callers_at_once_each_get_their_own_answer(gateway: Served) -> None:
    texts = [f"{SUMMARIZE} Take {i}." if i % 2 else f"{STORY}, number {i}" for i in range(400)]

    with concurrent.futures.ThreadPoolExecutor(32) as callers:
        together = list(callers.map(lambda text: gateway.ask(text).json(), texts))

    assert [answer["label"] for answer in together] == ["0" if i % 2 else "1" for i in range(400)]


def test_a_thousand_equal_cold_queries_cost_one_model_run() -> None:
    with Served() as served:
        start = threading.Barrier(50)

        def ask_twenty(_: int) -> set[str]:
            start.wait()
            return {served.ask("Is this the same query for all?").text for _ in range(20)}

        with concurrent.futures.ThreadPoolExecutor(50) as callers:
            answers = set().union(*callers.map(ask_twenty, range(50)))

        assert len(answers) == 1
        assert served.metric("query_gateway_inference_batch_size_sum") == 1


def test_one_query_refused_does_not_end_its_connection(gateway: Served) -> None:
    with httpx.Client(base_url=gateway.url, trust_env=False) as client:
        for body, code in ((b"{", 400), (b'{"text":"fine"}', 200), (b"[]", 400), (b'{"text":"fine"}', 200)):
            answer = client.post(
                "/v1/query-classify", content=body, headers={"content-type": "application/json"}
            )
            assert answer.status_code == code


BAD_BODIES = {
    "empty": b"",
    "not json": b"what?",
    "cut short": b'{"text": "a',
    "no text": b'{"txt": "SECRET"}',
    "null": b"null",
    "null text": b'{"text": null}',
    "a number": b'{"text": 12345}',
    "an array": b'["SECRET"]',
    "an empty text": b'{"text": ""}',
    "trailing bytes": b'{"text": "SECRET"} SECRET',
    "not utf-8": b'{"text": "SECRET \xff"}',
    "a lone surrogate": b'{"text": "SECRET \\ud800"}',
    "a byte order mark": b'\xef\xbb\xbf{"text": "SECRET"}',
    "deep nesting": b'{"text": ' + b"[" * 100_000,
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_a_bad_body_is_a_400_that_never_repeats_it(gateway: Served, body: bytes) -> None:
    answer = gateway.send(body)

    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["status"]) == (400, "INVALID_ARGUMENT")
    assert list(error) == ["code", "status", "message", "details"]
    assert "SECRET" not in answer.text
    assert answer.headers["x-request-id"]
    assert answer.headers["x-model-version"]


@pytest.mark.parametrize(
    ("method", "path", "code", "status"),
    [
        ("GET", "/v1/query-classify", 405, "INVALID_ARGUMENT"),
        ("DELETE", "/v1/query-classify", 405, "INVALID_ARGUMENT"),
        ("POST", "/health/live", 405, "INVALID_ARGUMENT"),
        ("GET", "/nothing/here", 404, "NOT_FOUND"),
        ("POST", "/v1/other", 404, "NOT_FOUND"),
    ],
)
def test_a_wrong_place_is_told_in_the_same_shape(
    gateway: Served, method: str, path: str, code: int, status: str
) -> None:
    answer = gateway.client.request(method, path)

    assert answer.status_code == code
    assert (answer.json()["error"]["code"], answer.json()["error"]["status"]) == (code, status)


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonp"]
)
def test_a_body_that_is_not_sent_as_json_is_a_415(gateway: Served, content_type: str) -> None:
    answer = gateway.client.post(
        "/v1/query-classify", content=b'{"text":"q"}', headers={"content-type": content_type}
    )

    assert answer.status_code == 415
    assert "application/json" in answer.json()["error"]["message"]


def test_a_body_packed_in_a_way_that_is_not_known_is_a_415(gateway: Served) -> None:
    assert gateway.send(b"{}", content_encoding="br").status_code == 415


@pytest.mark.parametrize("given", ["0", "-5", "soon", "nan"])
def test_an_unreadable_time_out_is_a_400(gateway: Served, given: str) -> None:
    assert gateway.ask("q", **{"x-request-timeout-ms": given}).status_code == 400


def test_a_caller_may_shorten_its_time_out(gateway: Served) -> None:
    answer = gateway.ask("too short for any model run", **{"x-request-timeout-ms": "0.001"})

    assert answer.status_code == 504
    assert answer.json()["error"]["status"] == "DEADLINE_EXCEEDED"


def test_a_body_over_the_limit_is_a_413_by_its_declared_length(gateway: Served) -> None:
    assert gateway.send(b'{"text":"' + b"a" * 1_048_576 + b'"}').status_code == 413


def test_a_body_over_the_limit_is_a_413_without_a_declared_length(gateway: Served) -> None:
    answer = gateway.client.post(
        "/v1/query-classify",
        content=(b"a" * 65_536 for _ in range(40)),
        headers={"content-type": "application/json"},
    )

    assert answer.status_code == 413


def test_megabytes_of_blanks_are_read_as_the_words_between_them(gateway: Served) -> None:
    plain = gateway.ask("Translate the attached poem")
    blanks = gateway.ask("Translate the attached" + " \n\t" * 150_000 + "poem" + " " * 1000)

    assert blanks.headers["x-cache"] == "l1"
    assert blanks.text == plain.text


def test_a_log_line_per_query_holds_its_length_but_not_its_text(gateway: Served) -> None:
    gateway.ask("A very particular xylophone", **{"x-request-id": "log-line"})

    (line,) = eventually(
        lambda: [line for line in gateway.lines() if line.get("request_id") == "log-line"], "it is logged"
    )
    assert (line["event"], line["query_chars"]) == ("request", len("A very particular xylophone"))
    assert "xylophone" not in gateway.text()


def test_an_error_is_logged_with_its_type_on_one_compact_line() -> None:
    with Served() as served:
        served.client.post("/v1/query-classify", content=b"{", headers={"x-request-id": "bad-line"})

        (line,) = eventually(
            lambda: [line for line in served.text().splitlines() if "bad-line" in line], "it is logged"
        )
    assert '"level":"error"' in line
    assert '"error_type":"ValidationError"' in line


def test_requests_are_counted_by_outcome() -> None:
    with Served() as served:
        served.ask("one")
        served.ask("one")
        served.send(b"{")
        served.client.get("/v1/query-classify")
        served.client.get("/nothing")

        name = "query_gateway_requests_total"
        assert served.metric(name + '{code="200",error_type="",status="success"}') == 2
        assert served.metric(name + '{code="400",error_type="ValidationError",status="error"}') == 1
        assert served.metric(name + '{code="405",error_type="ValidationError",status="error"}') == 1
        assert served.metric('query_gateway_cache_hits_total{level="L1"}') == 1
        assert served.metric("query_gateway_cache_misses_total") == 1
        assert served.metric("query_gateway_request_latency_seconds_count") == 2


def test_metrics_are_openmetrics_when_asked_for(gateway: Served) -> None:
    plain = gateway.client.get("/metrics")
    openmetrics = gateway.client.get("/metrics", headers={"accept": "application/openmetrics-text"})

    assert plain.headers["content-type"].startswith("text/plain")
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
    assert openmetrics.text.endswith("# EOF\n")


def test_the_deep_report_answers_what_the_runbook_asks_of_it(gateway: Served) -> None:
    report = gateway.client.get("/health/deep").json()

    assert report["status"] == "healthy"
    model, cache = report["checks"]["model"], report["checks"]["cache"]
    assert (model["loaded"], model["device"], model["files"], len(model["tasks"])) == (
        True,
        "cpu",
        "present",
        20,
    )
    assert {"l1_enabled", "l1_size", "l1_max_size", "l2_enabled", "l2_healthy", "l2_size"} <= set(cache)
    assert {"running", "queue_depth", "max_batch_size", "max_wait_ms", "average_batch_size"} <= set(
        report["checks"]["batch_processor"]
    )
    assert {"active_requests", "model_loaded"} <= set(report["checks"]["metrics"])
