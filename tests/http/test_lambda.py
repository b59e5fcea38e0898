"""On AWS Lambda, with the settings of infra/lambda/Dockerfile: what the Web Adapter does, done by hand.

The adapter itself is not run here: no package holds it. It asks its readiness path every
10 ms over one connection, and takes the statuses that it is told are healthy (by default
100 to 499) for ready. Between two queries Lambda stops every process.
"""

import http.client
import json
import os
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Self

import pytest

from lab.launch import CLASSIFY, MODEL, ROOT, Served, eventually

RECIPE = (ROOT / "infra/lambda/Dockerfile").read_text()
ENV = dict(re.findall(r"([A-Z_]+)=(\S+)", RECIPE.partition("\nENV ")[2]))
SETTINGS = {name: value for name, value in ENV.items() if not name.startswith("AWS_LWA_")}
EVERY_S = 0.01
UNLESS_TOLD = "100-499"
EASY = "Translate to French: good morning, my friends."


def healthy(statuses: str) -> set[int]:
    """The statuses that the adapter takes for ready: "200", or "200-399,404"."""
    bounds = [part.split("-") for part in statuses.split(",")]
    return {code for bound in bounds for code in range(int(bound[0]), int(bound[-1]) + 1)}


class Adapter:
    """One kept connection to a gateway, as the adapter holds it."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def get(self, path: str) -> int | None:
        """The status of a GET; None where nobody answers."""
        try:
            self.connection.request("GET", path)
            answer = self.connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            self.connection.close()
            return None
        return answer.status

    def query(self, text: str) -> tuple[int, str | None]:
        """Status and `x-cache` of a query, over the connection as it is: one that was closed raises."""
        self.connection.request(
            "POST", CLASSIFY, json.dumps({"text": text}), {"content-type": "application/json"}
        )
        answer = self.connection.getresponse()
        answer.read()
        return answer.status, answer.getheader("x-cache")


@pytest.fixture
def later(tmp_path: Path) -> Path:
    """Where a model will be, and is not yet."""
    return tmp_path / "model"


def test_the_adapter_lets_no_query_in_before_the_model_is_loaded(later: Path) -> None:
    path, statuses = (
        ENV["AWS_LWA_READINESS_CHECK_PATH"],
        healthy(ENV["AWS_LWA_READINESS_CHECK_HEALTHY_STATUS"]),
    )
    with (
        Served(SETTINGS | {"MODEL_PATH": str(later)}, wait_for=None) as served,
        Adapter(served.port) as adapter,
    ):
        asked: list[int | None] = []
        while asked.count(503) < 20:
            assert len(asked) < 5000, f"never answered: {served.text()}"
            asked.append(adapter.get(path))
            time.sleep(EVERY_S)
        refused = adapter.query(EASY)[0]

        shutil.copytree(MODEL, later)
        while asked[-1] not in statuses:
            assert len(asked) < 10_000, f"never ready: {served.text()}"
            asked.append(adapter.get(path))
            time.sleep(EVERY_S)

        assert refused == 503
        assert set(asked[:-1]) <= {None, 503}
        assert adapter.query(EASY)[0] == 200


def test_without_the_recipes_path_the_adapter_would_take_404_for_ready(later: Path) -> None:
    with (
        Served(SETTINGS | {"MODEL_PATH": str(later)}, wait_for="/health/live") as served,
        Adapter(served.port) as adapter,
    ):
        assert adapter.get("/") in healthy(UNLESS_TOLD)
        assert adapter.query(EASY)[0] == 503


def test_a_query_after_a_freeze_is_answered_on_the_connection_that_was_kept() -> None:
    with Served(SETTINGS) as served, Adapter(served.port) as adapter:
        adapter.query(EASY)
        group = served.process.pid
        for _ in range(2):
            os.killpg(group, signal.SIGSTOP)
            time.sleep(1.5)  # longer than any of the process's own timers but the caches' and the files'
            os.killpg(group, signal.SIGCONT)

            assert adapter.query(EASY) == (200, "l1")


def test_an_entry_that_grew_old_in_a_freeze_is_asked_of_the_model_again() -> None:
    with Served(SETTINGS | {"CACHE_L1_TTL_SEC": "1"}) as served, Adapter(served.port) as adapter:
        adapter.query(EASY)
        os.killpg(served.process.pid, signal.SIGSTOP)
        time.sleep(1.5)
        os.killpg(served.process.pid, signal.SIGCONT)

        assert adapter.query(EASY) == (200, "miss")


def test_what_a_query_logs_is_written_before_the_next_freeze_ends() -> None:
    with Served(SETTINGS | {"LOG_REQUESTS": "1"}) as served, Adapter(served.port) as adapter:
        adapter.query(EASY)
        os.killpg(served.process.pid, signal.SIGSTOP)  # at once, as Lambda may
        os.killpg(served.process.pid, signal.SIGCONT)
        adapter.query(EASY)

        eventually(lambda: served.events().count("request") >= 2, "a line for each query")


def test_the_environment_ends_by_itself_when_it_is_told_to() -> None:
    with Served(SETTINGS) as served, Adapter(served.port) as adapter:
        adapter.query(EASY)

        assert served.terminate() == 0
