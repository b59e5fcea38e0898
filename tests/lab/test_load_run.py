"""Real gateways under real load, for a few seconds, and nothing left behind."""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from lab.launch import ROOT, Served, eventually, free_port
from lab.load.slo import Samples, percentile

PYTHON = ROOT / ".venv-load" / "bin" / "python"
SERVE = f"{sys.executable} -m handler serve"
needs_locust = pytest.mark.skipif(
    not PYTHON.exists(), reason="locust is not installed; `just load --help` installs it"
)


def load(*arguments: str, folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [PYTHON, "-m", "lab.load", *arguments, "--reports", str(folder), "--gateway", SERVE],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@contextlib.contextmanager
def stalling(*, every: int, stall_s: float) -> Iterator[str]:
    """A server whose hits are answered at once, and of whose queries one in `every` takes `stall_s`."""
    turns = itertools.count(1)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # an answer in one packet
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            slow = next(turns) % every == 0
            if slow:
                time.sleep(stall_s)
            body = b'{"label":"0"}'
            self.send_response(200)
            self.send_header("x-cache", "miss" if slow else "l1")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@needs_locust
def test_a_short_run_asks_what_is_due_and_keeps_its_promises(tmp_path: Path) -> None:
    with Served() as served:
        ran = load(
            "steady",
            "--host",
            served.url,
            "--rate",
            "40",
            "--seconds",
            "3",
            "--tolerance",
            "50",
            folder=tmp_path,
        )
        told, _ = ran.communicate(timeout=60)
        counted = served.metric('query_gateway_requests_total{code="200",error_type="",status="success"}')

    samples = Samples.load(tmp_path / "steady.json").between(0, 3)
    assert ran.returncode == 0, told
    assert "every promise was kept" in told
    assert len(samples) == pytest.approx(120, abs=6)
    assert {sample.status for sample in samples} == {200}
    assert {sample.cache for sample in samples} == {"l1", "miss"}
    assert counted >= len(samples)
    assert "<html" in (tmp_path / "steady.html").read_text()


@needs_locust
def test_a_promise_that_is_missed_is_an_exit_code(tmp_path: Path) -> None:
    with Served() as served:
        ran = load(
            "steady",
            "--host",
            served.url,
            "--rate",
            "20",
            "--seconds",
            "2",
            "--tolerance",
            "0.001",
            folder=tmp_path,
        )
        told, _ = ran.communicate(timeout=60)

    assert ran.returncode == 1
    assert "missed: steady: " in told


@needs_locust
def test_nobody_there_is_said_rather_than_measured(tmp_path: Path) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"

    ran = load("steady", "--host", nowhere, "--rate", "9", "--seconds", "1", folder=tmp_path)
    told, _ = ran.communicate(timeout=60)

    assert ran.returncode == 1
    assert "was answered" in told


@needs_locust
def test_a_stall_is_seen_by_the_queries_that_were_due_in_it(tmp_path: Path) -> None:
    with stalling(every=4, stall_s=1.6) as url:
        ran = load("steady", "--host", url, "--rate", "20", "--seconds", "6", folder=tmp_path)
        told, _ = ran.communicate(timeout=60)

    hits = [sample for sample in Samples.load(tmp_path / "steady.json") if sample.cache == "l1"]
    from_due_ms = percentile([hit.latency_ms for hit in hits], 0.99)
    from_sending_ms = percentile([hit.latency_ms - hit.late_ms for hit in hits], 0.99)
    assert from_due_ms is not None, told
    assert from_sending_ms is not None
    assert from_due_ms > 500  # its user had to wait for the query before
    assert from_sending_ms < 100  # which is what a closed loop would have told


@needs_locust
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_no_process_behind(number: signal.Signals, tmp_path: Path) -> None:
    ran = load("steady", "--rate", "10", "--seconds", "60", folder=tmp_path)
    eventually(lambda: len(psutil.Process(ran.pid).children()) == 2, "a gateway and a locust")
    started = psutil.Process(ran.pid).children(recursive=True)

    ran.send_signal(number)
    told, _ = ran.communicate(timeout=30)

    assert ran.returncode == 130
    assert "interrupted" in told
    assert not [process for process in started if process.is_running()]
