"""Going up, coming down, and living without a model: a real process each."""

import concurrent.futures
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from lab.drive import Driver, requests
from lab.launch import CLASSIFY, MODEL, ROOT, Served, eventually, free_port


def polite_client(served: Served, stop: threading.Event, outcomes: list[str]) -> None:
    """Asks without retries, and opens no connection once it was told to go away."""
    with httpx.Client(base_url=served.url, timeout=10.0, trust_env=False) as client:
        i = 0
        while not stop.is_set():
            i += 1
            try:
                answer = client.post(CLASSIFY, json={"text": f"query {threading.get_ident()} {i % 50}"})
            except httpx.TransportError as exc:
                outcomes.append(f"lost: {type(exc).__name__}")
                return
            outcomes.append(str(answer.status_code))
            if answer.headers.get("connection") == "close":
                return


def test_sigterm_under_load_loses_no_query() -> None:
    with Served() as served:
        stop, outcomes = threading.Event(), list[str]()
        with concurrent.futures.ThreadPoolExecutor(16) as callers:
            for _ in range(16):
                callers.submit(polite_client, served, stop, outcomes)
            eventually(lambda: len(outcomes) > 500, "load runs")
            code = served.terminate()
            stop.set()

        assert code == 0
        assert set(outcomes) == {"200"}
        assert served.events()[-3:] == ["signal", "draining", "stopped"]


def test_readiness_falls_on_sigterm_while_queries_are_still_answered() -> None:
    with Served({"DRAIN_LINGER_MS": "3000"}) as served:
        served.process.send_signal(signal.SIGTERM)

        eventually(lambda: served.client.get("/health/ready").status_code == 503, "readiness falls")
        answer = served.ask("still here?")
        alive = served.client.get("/health/live")

        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        assert alive.status_code == 200
        assert served.process.wait(timeout=15) == 0


def test_a_signal_repeated_at_once_counts_once() -> None:
    with Served({"DRAIN_LINGER_MS": "500"}) as served:
        for _ in range(3):
            served.process.send_signal(signal.SIGTERM)

        assert served.process.wait(timeout=15) == 0


def test_a_second_signal_later_ends_the_process_at_once() -> None:
    with Served({"DRAIN_LINGER_MS": "6000"}) as served:
        served.process.send_signal(signal.SIGTERM)
        eventually(lambda: "draining" in served.events(), "the drain begins")
        time.sleep(1.1)  # the product's own bound between one signal and another
        served.process.send_signal(signal.SIGTERM)

        assert served.process.wait(timeout=2) == 128 + signal.SIGTERM


def test_started_without_a_model_it_answers_503_and_heals_by_itself(tmp_path: Path) -> None:
    folder = tmp_path / "quantized"
    with Served({"MODEL_PATH": str(folder)}, wait_for="/health/live") as served:
        refused = served.ask("q")
        ready = served.client.get("/health/ready")
        report = served.client.get("/health/deep")

        assert refused.status_code == 503
        assert refused.json()["error"]["status"] == "UNAVAILABLE"
        assert str(folder / "manifest.json") in refused.json()["error"]["message"]
        assert ready.status_code == 503
        assert report.status_code == 200
        assert (report.json()["status"], report.json()["checks"]["model"]["loaded"]) == ("degraded", False)
        errors = eventually(
            lambda: [line for line in served.lines() if line["level"] == "error"], "it is logged"
        )
        assert {line["error_type"] for line in errors} == {"ModelNotReady"}

        # Appears as a copy does: file by file, half-written for a while.
        shutil.copytree(MODEL, folder)

        eventually(lambda: served.client.get("/health/ready").status_code == 200, "the model is taken up")
        assert served.ask("q").status_code == 200
        assert served.metric("query_gateway_model_loaded") == 1


def test_a_model_that_comes_later_and_does_not_fit_ends_nothing(tmp_path: Path) -> None:
    folder, policy = tmp_path / "quantized", tmp_path / "policy.toml"
    policy.write_text("[need]\npoetry = 0.5\n")
    environ = {"MODEL_PATH": str(folder), "POLICY_FILE": str(policy)}
    with Served(environ, wait_for="/health/live") as served:
        eventually(lambda: "model_not_ready" in served.events(), "there is no model")
        shutil.copytree(MODEL, tmp_path / "copy")
        (tmp_path / "copy").rename(folder)

        eventually(lambda: "does not fit POLICY_FILE" in served.ask("q").text, "the misfit is named")
        policy.write_text("[need]\ncoding = 0.5\n")

        eventually(lambda: served.ask("q").status_code == 200, "the model fits the mended policy")


def test_a_broken_model_is_named_until_it_is_mended(tmp_path: Path) -> None:
    folder = tmp_path / "quantized"
    shutil.copytree(MODEL, folder)
    graph = folder / "model.onnx"
    whole = graph.read_bytes()
    graph.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with Served({"MODEL_PATH": str(folder)}, wait_for="/health/live") as served:
        eventually(lambda: "model.onnx has sha256" in served.ask("q").text, "the broken file is named")

        graph.write_bytes(whole)

        eventually(lambda: served.ask("q").status_code == 200, "the mended model is taken up")


def test_files_taken_away_while_serving_change_nothing_but_the_deep_report(tmp_path: Path) -> None:
    folder = tmp_path / "quantized"
    shutil.copytree(MODEL, folder)
    with Served({"MODEL_PATH": str(folder)}) as served:
        before = served.ask("Summarize the minutes of the meeting").json()
        shutil.rmtree(folder)

        report = served.client.get("/health/deep").json()

        assert (report["status"], report["checks"]["model"]["files"]) == ("degraded", "missing")
        assert report["checks"]["model"]["loaded"] is True
        assert served.client.get("/health/ready").status_code == 200
        assert served.ask("Summarize the minutes of the meeting").json() == before
        assert served.ask("Something never asked before").status_code == 200


def test_a_taken_port_stops_the_start_and_is_named() -> None:
    with Served() as served:
        second = subprocess.run(
            [sys.executable, "-m", "handler", "serve"],
            cwd=ROOT,
            env={**os.environ, "PORT": str(served.port), "MODEL_PATH": str(MODEL)},
            capture_output=True,
            text=True,
            timeout=30,
        )

        assert second.returncode == 1
        assert f"Port already in use: 127.0.0.1:{served.port}" in second.stdout
        assert served.ask("q").status_code == 200


def test_a_value_that_cannot_be_read_stops_the_start_and_is_named() -> None:
    refused = subprocess.run(
        [sys.executable, "-m", "handler", "serve"],
        cwd=ROOT,
        env={**os.environ, "BATCH_MAX_SIZE": "many"},
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert refused.returncode == 2
    assert "BATCH_MAX_SIZE='many'" in refused.stderr
    assert "a whole number, at least 1" in refused.stderr


def test_a_caller_who_hangs_up_in_the_queue_costs_no_model_run() -> None:
    # One lane and long batches, so that the queue stands while its callers leave.
    with Served({"LANES": "1", "BATCH_MAX_SIZE": "1", "REQUEST_TIMEOUT_MS": "20000"}) as served:
        body = b'{"text":"%s"}'
        head = b"POST /v1/query-classify HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"

        def leave(i: int) -> None:
            text = body % (b"a long question number %d " % i * 30)
            with socket.create_connection(("127.0.0.1", served.port)) as caller:
                caller.sendall(head + b"content-length: %d\r\n\r\n" % len(text) + text)

        with concurrent.futures.ThreadPoolExecutor(64) as callers:
            list(callers.map(leave, range(200)))

        gone = 'query_gateway_dropped_total{reason="caller_gone"}'
        eventually(lambda: served.metric(gone) > 0, "queries without a caller are dropped")
        assert served.ask("ordinary service afterwards").status_code == 200
        eventually(lambda: served.metric("query_gateway_active_requests") == 0, "nobody is left waiting")


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/health/deep", "/metrics", "/schema"])
def test_a_report_answers_without_a_model(path: str, tmp_path: Path) -> None:
    with Served({"MODEL_PATH": str(tmp_path)}, wait_for="/health/live") as served:
        assert served.client.get(path).status_code == (503 if path == "/health/ready" else 200)


def test_an_operator_moves_a_task_to_the_other_route_without_a_new_model() -> None:
    question = "Which treaty ended the war between Sweden and Lübeck in 1570?"
    with Served() as served:
        before = served.ask(question).json()
    with Served({"ROUTE_FAST_TASKS": "classification, summarization, open_qa"}) as served:
        after = served.ask(question).json()

    assert (before["route"], before["task"]) == ("slow", "open_qa")
    assert (after["route"], after["task"]) == ("fast", "open_qa")


def test_a_task_that_the_model_does_not_know_stops_the_start_with_the_list_of_those_it_does() -> None:
    refused = subprocess.run(
        [sys.executable, "-m", "handler", "serve"],
        cwd=ROOT,
        env={
            **os.environ,
            "MODEL_PATH": str(MODEL),
            "PORT": str(free_port()),
            "ROUTE_FAST_TASKS": "sumarization",
        },
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert refused.returncode == 2
    assert (
        "ROUTE_FAST_TASKS: sumarization: not a task of this model, which knows classification,"
        in refused.stdout
    )


def test_the_garbage_collector_is_at_work_once_the_start_is_over() -> None:
    with Served() as served, Driver(served.port) as driver:
        collections = 'python_gc_collections_total{generation="0"}'
        before = served.metric(collections)

        driver.closed(requests(1), connections=900, seconds=0.3)

        assert served.metric(collections) > before
