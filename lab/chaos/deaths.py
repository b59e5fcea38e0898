"""One part killed at a time: how soon the process follows, and what it says."""

import contextlib
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from lab.launch import Served, eventually
from lab.rows import Row, holds


def deaths() -> list[Row]:
    return [
        _lane_dies("lane", "a lane's own code raises: it is the batcher that dies"),
        _lane_dies("thread", "a lane's thread is told to exit"),
        _killed(),
        _hangs(),
        _cannot_drain(),
        _poisoned(),
    ]


def _lane_dies(fault: str, what: str) -> Row:
    with Served(fault=fault, patient=False) as served:
        began = time.monotonic()
        with contextlib.suppress(httpx.TransportError):
            served.ask("fatal")
        code = served.process.wait(timeout=20)
        took_ms = (time.monotonic() - began) * 1000
        said = [line["event"] for line in served.lines() if line["level"] == "error"]
    seen = f"exit code {code} after {took_ms:.0f} ms, its log says `{', '.join(said)}`"
    return holds(what, seen, "exits non-zero, says why", code == 1 and said == ["died"])


def _killed() -> Row:
    with tempfile.TemporaryDirectory() as folder:
        fault = f"gate:{Path(folder) / 'gate'}"
        with Served({"REQUEST_TIMEOUT_MS": "60000"}, fault=fault, patient=False) as served:
            ended_at: list[float] = []

            def wait() -> None:
                with contextlib.suppress(httpx.TransportError):
                    served.ask(f"waits {threading.get_ident()}")
                ended_at.append(time.monotonic())

            waiting = [threading.Thread(target=wait) for _ in range(50)]
            for caller in waiting:
                caller.start()
            eventually(lambda: served.metric("query_gateway_active_requests") == 50, "all of them wait")
            began = time.monotonic()
            served.process.kill()
            for caller in waiting:
                caller.join(timeout=20)
            slowest_ms = (max(ended_at) - began) * 1000
            with Served({"PORT": str(served.port)}, patient=False) as follower:
                answered = follower.ask("is anybody there?").status_code == 200
            back_s = time.monotonic() - began
    seen = f"50 waiting callers know within {slowest_ms:.0f} ms; the next one answers after {back_s:.1f} s"
    return holds("kill -9", seen, "nobody waits for nothing", len(ended_at) == 50 and answered)


def _hangs() -> Row:
    with tempfile.TemporaryDirectory() as folder:
        fault = f"gate:{Path(folder) / 'gate'}"
        with Served(fault=fault, patient=False) as served:
            asked = time.monotonic()
            code = served.ask("hangs in the model").status_code
            answered_s = time.monotonic() - asked
            eventually(lambda: served.client.get("/health/live").status_code == 503, "liveness falls")
            fell_s = time.monotonic() - asked
    seen = f"its caller is told {code} after {answered_s:.1f} s; liveness falls after {fell_s:.0f} s"
    return holds("a model run that never ends", seen, "504 in its time, and not alive", code == 504)


def _cannot_drain() -> Row:
    with tempfile.TemporaryDirectory() as folder:
        fault = f"gate:{Path(folder) / 'gate'}"
        with Served({"REQUEST_TIMEOUT_MS": "60000"}, fault=fault, patient=False) as served:
            caller = threading.Thread(target=_ask_and_be_let_down, args=(served,))
            caller.start()
            eventually(lambda: served.metric("query_gateway_active_requests") == 1, "one query hangs")
            told = time.monotonic()
            served.process.terminate()
            code = served.process.wait(timeout=20)
            took_s = time.monotonic() - told
            caller.join()
            said = served.events()[-1]
    seen = f"ends {took_s:.1f} s after SIGTERM with exit code {code}, its log says `{said}`"
    return holds("a drain that cannot end", seen, "ends within 10 s", took_s < 10 and code == 1)


def _ask_and_be_let_down(served: Served) -> None:
    with contextlib.suppress(httpx.TransportError):
        served.ask("hangs for ever")


def _poisoned() -> Row:
    with Served({"LANES": "1"}, fault="poison", patient=False) as served:
        texts = [f"neighbour {i}" for i in range(31)] + ["poison"]
        with ThreadPoolExecutor(len(texts)) as callers:
            codes = [answer.status_code for answer in callers.map(served.ask, texts)]
    seen = f"the bad one {codes[-1]}, its neighbours {set(codes[:-1])}"
    return holds(
        "a poisoned batch of 32", seen, "500 for the one, 200 for all others", codes == [200] * 31 + [500]
    )
