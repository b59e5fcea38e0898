"""What the launcher starts is ready, is what was asked for, and never outlives its block."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from lab import launch
from lab.launch import NotStarted, Served, Server, answers, apart, free_port, scrape


@contextlib.contextmanager
def gone_afterwards() -> Iterator[None]:
    """Whatever process the block starts must have ended when the block does."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    left = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    assert left == []


def python(program: str, **how: object) -> Server:
    return Server([sys.executable, "-c", program], port=free_port(), environ=os.environ, **how)  # type: ignore[arg-type]


def test_a_gateway_ends_with_its_block() -> None:
    with gone_afterwards(), Served() as served:
        assert answers(f"{served.url}/health/ready")


def test_a_gateway_ends_when_its_block_is_interrupted() -> None:
    with gone_afterwards(), pytest.raises(KeyboardInterrupt), Served():
        raise KeyboardInterrupt


def test_a_process_ends_though_the_interrupt_came_while_it_was_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = subprocess.Popen

    def interrupted(*arguments: Any, **options: Any) -> "subprocess.Popen[bytes]":
        process = real(*arguments, **options)
        signal.raise_signal(signal.SIGINT)  # it is there, and nobody has it yet
        return process

    monkeypatch.setattr(subprocess, "Popen", interrupted)

    with gone_afterwards(), pytest.raises(KeyboardInterrupt), python("import time; time.sleep(60)"):
        pytest.fail("the block began")


def test_a_process_that_does_not_end_when_told_ends_with_its_block() -> None:
    deaf = (
        "import signal, time; signal.signal(15, lambda *_: None); print('deaf', flush=True); time.sleep(60)"
    )

    with gone_afterwards(), python(deaf, wait_for=None) as server:
        launch.eventually(lambda: "deaf" in server.text(), "it is deaf")
        server.process.terminate()


def test_what_a_process_started_ends_with_it() -> None:
    parent = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"

    with gone_afterwards(), python(parent, wait_for=None) as server:
        launch.eventually(lambda: psutil.Process(server.process.pid).children(), "it has a child")


def test_a_gateway_that_ends_at_its_start_is_told_with_its_log() -> None:
    with (
        gone_afterwards(),
        pytest.raises(NotStarted, match=r"ended with 2:(?s:.*)CACHE_L1_SIZE"),
        Served({"CACHE_L1_SIZE": "many"}),
    ):
        pass


def test_a_process_that_never_listens_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "READY_WITHIN_S", 0.2)

    with (
        gone_afterwards(),
        pytest.raises(NotStarted, match="it listens"),
        python("import time; time.sleep(60)"),
    ):
        pass


def test_a_command_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotStarted, match="there is no "), Served(command=[str(tmp_path / "query-gateway")]):
        pass


def test_nothing_of_our_environment_turns_a_knob(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_L1_SIZE", "7")

    with Served() as served:
        assert served.deep()["checks"]["cache"]["l1_max_size"] == 10_000


def test_our_environment_turns_knobs_where_it_is_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_L1_SIZE", "7")

    with Served(inherits=True) as served:
        assert served.deep()["checks"]["cache"]["l1_max_size"] == 7


def test_a_process_is_on_its_cpus_from_its_first_moment() -> None:
    one = min(os.sched_getaffinity(0))
    program = "import os, time; print(os.sched_getaffinity(0), flush=True); time.sleep(60)"

    with python(program, wait_for=None, cpus=[one]) as server:
        launch.eventually(server.text, "it tells")

        assert server.text() == f"{{{one}}}\n"


def test_the_driver_gets_a_cpu_to_itself_where_there_are_two() -> None:
    before = os.sched_getaffinity(0)

    with apart() as split:
        during = os.sched_getaffinity(0)

    assert during == set(split.driver)
    assert {*split.gateway} | during == before
    assert len(before) == 1 or not {*split.gateway} & during
    assert os.sched_getaffinity(0) == before


def test_the_metrics_of_several_gateways_are_one_sum() -> None:
    with Served() as one, Served() as other:
        metrics = scrape([one.url, other.url])

    assert metrics is not None
    assert metrics.total("query_gateway_model_loaded") == 2


def test_metrics_that_cannot_be_read_are_none() -> None:
    assert scrape([f"http://127.0.0.1:{free_port()}"]) is None
