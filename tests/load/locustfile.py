"""The users, for locust: one class per shape, one query a second each.

The only module that knows locust. What it shall ask stands in the environment as one
JSON object (`LOAD_PLAN`, written by `__main__`); without one, `locust -f` gets the defaults.

A user is a closed loop: it cannot ask again before it has its answer. Three things keep
the arrivals as constant as an open loop's. There is one user per query a second, so an
answer may take a second, the gateway's own time-out, before its user is late. A late user
makes up for it at once. And every latency counts from when the query was due, not from
when it could be sent, so what a stall delays is part of the figure.
"""

import itertools
import json
import os
import time
from pathlib import Path
from typing import Any

import gevent
from locust import FastHttpUser, events, task

from lab.load.shapes import numbers
from lab.load.slo import Sample, Samples
from lab.texts import Texts

CLASSIFY = "/v1/query-classify"
PACE_S = 1.0  # between two queries of one user
ANSWER_WITHIN_S = 10.0
GOLDEN = 0.6180339887498949  # multiples of it, modulo 1, are spread evenly however many there are

PLAN: dict[str, Any] = {"rate": 100, "seconds": 30.0, "seed": 1, "hosts": [], "samples": "", "key": ""}
PLAN |= json.loads(os.environ.get("LOAD_PLAN", "{}"))
TEXTS = Texts(PLAN["seed"])
HEADERS = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
if PLAN["key"]:
    HEADERS["x-api-key"] = PLAN["key"]

count = itertools.count()
samples = Samples()
began_s = time.perf_counter()


class PacedUser(FastHttpUser):
    """Asks once a second, at moments of its own that do not depend on when answers come."""

    abstract = True
    shape = ""
    network_timeout = connection_timeout = ANSWER_WITHIN_S
    next_number = staticmethod(lambda: 0)

    def __init__(self, environment: Any) -> None:
        self.index = next(count)
        if PLAN["hosts"]:
            self.host = PLAN["hosts"][self.index % len(PLAN["hosts"])]
        super().__init__(environment)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.next_number = staticmethod(numbers(cls.shape, PLAN["rate"], PLAN["seconds"], PLAN["seed"]))

    def on_start(self) -> None:
        # Users start all at once; their queries must not.
        self.due_s = time.perf_counter() + self.index * GOLDEN % 1.0 * PACE_S - PACE_S
        self.wait()

    def wait_time(self) -> float:
        """Locust's `constant_throughput(1)`, but a user that is late stays due when it was."""
        self.due_s += PACE_S
        return max(0.0, self.due_s - time.perf_counter())

    @task
    def ask(self) -> None:
        body = json.dumps({"text": TEXTS.text(self.next_number())})
        sent_s = time.perf_counter()
        with self.client.post(CLASSIFY, data=body, headers=HEADERS, catch_response=True) as answer:
            ended_s = time.perf_counter()
            status = answer.status_code or 0
            cache = answer.headers.get("x-cache", "") if answer.headers else ""
            if status == 200 and b'"label":' not in answer.content:
                status = 0  # an answer that is none
            latency_ms = (ended_s - self.due_s) * 1000
            samples.append(
                Sample(
                    due_s=self.due_s - began_s,
                    late_ms=(sent_s - self.due_s) * 1000,
                    latency_ms=latency_ms,
                    status=status,
                    cache=cache if status == 200 else "",
                )
            )
            # So that locust's own report counts from the due time too, and tells hits from misses.
            answer.request_meta["response_time"] = latency_ms
            answer.request_meta["name"] = cache or {0: "no answer", 429: "refused"}.get(status, "error")
            if status == 0:
                answer.failure("no answer" if answer.content is None else "an answer of another shape")


class SteadyUser(PacedUser):
    shape = "steady"


class SpikeUser(PacedUser):
    """How many there are at what time: `spike.py`."""

    shape = "spike"


class ColdCacheUser(PacedUser):
    shape = "cold-cache"


class ZipfUser(PacedUser):
    shape = "zipf"


class SoakUser(PacedUser):
    shape = "soak"


@events.init.add_listener
def _(**_: Any) -> None:
    # Timers count from the loop's last look at the clock, which was before all imports:
    # without this, the run ends over a second early.
    gevent.get_hub().loop.update_now()


@events.test_start.add_listener
def _(**_: Any) -> None:
    global began_s
    began_s = time.perf_counter()


@events.quitting.add_listener
def _(**_: Any) -> None:
    if PLAN["samples"]:
        samples.save(Path(PLAN["samples"]))
