"""Another model on disk: taken up under load, or refused by name. A real server, a real folder."""

import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

from handler.offline import LocalRouter
from lab import second_model
from lab.launch import MODEL, Served, eventually
from tests.models import LIMITS, change, make_toy


def model(served: Served) -> dict[str, Any]:
    """What the deep report says of the model."""
    found: dict[str, Any] = served.deep()["checks"]["model"]
    return found


def version(served: Served) -> str:
    found: str = model(served)["version"]
    return found


def test_a_symlink_that_is_swapped_brings_the_next_model_under_load_and_loses_nothing(tmp_path: Path) -> None:
    for number in range(2):
        make_toy(tmp_path / f"{number}", limits=LIMITS | {"tail_chars_max": 100 + number})
    link = tmp_path / "models"
    link.symlink_to(tmp_path / "0")
    statuses: set[int] = set()
    over = threading.Event()

    with Served({"MODEL_PATH": str(link)}) as served:
        first = version(served)

        def ask() -> None:
            number = 0
            while not over.is_set():
                number += 1
                statuses.add(served.ask(f"summarization {number}").status_code)

        asking = threading.Thread(target=ask)
        asking.start()
        (tmp_path / "next").symlink_to(tmp_path / "1")
        os.replace(tmp_path / "next", link)
        eventually(lambda: version(served) != first, "the next model is in service")
        over.set()
        asking.join()

    assert statuses == {200}


def test_a_broken_model_is_named_while_the_old_one_goes_on(tmp_path: Path) -> None:
    folder = make_toy(tmp_path / "models")
    with Served({"MODEL_PATH": str(folder)}) as served:
        first = version(served)

        (folder / "model.onnx").write_bytes(b"rubbish")
        eventually(
            lambda: model(served)["error"],
            "the report says what is wrong",
        )

        report = model(served)
        assert "model.onnx has sha256" in report["error"]
        assert (report["version"], served.ask("coding").status_code) == (first, 200)
        assert served.metric("query_gateway_model_refused") == 1


def test_a_model_that_is_mended_is_taken_up(tmp_path: Path) -> None:
    folder = make_toy(tmp_path / "models")
    with Served({"MODEL_PATH": str(folder)}) as served:
        first = version(served)
        shutil.rmtree(folder)
        eventually(lambda: model(served)["error"], "the folder is missed")

        make_toy(folder)
        change(folder, limits=LIMITS | {"tail_chars_max": 101})

        eventually(lambda: version(served) != first, "the mended model is in service")


def test_models_that_answer_differently_are_never_mixed_and_leave_no_memory_behind(tmp_path: Path) -> None:
    models = [MODEL, second_model.make(tmp_path / "second")]
    link = tmp_path / "models"
    link.symlink_to(models[0])
    answers: list[tuple[str, str, str]] = []
    over = threading.Event()

    with Served({"MODEL_PATH": str(link), "CACHE_L1_SIZE": "10"}) as served:

        def ask() -> None:
            while not over.wait(0.005):
                text = f"summarize page {len(answers) // 2}"  # each twice: the second may come from the cache
                answer = served.ask(text)
                answers.append((text, answer.headers["x-model-version"], answer.json()["task"]))

        for number in range(20):
            served.ask(f"warm {number}")
        before_mb = served.memory_mb
        asking = threading.Thread(target=ask)
        asking.start()
        for number in range(1, 4):
            (tmp_path / "next").symlink_to(models[number % 2])
            os.replace(tmp_path / "next", link)
            served.process.send_signal(signal.SIGHUP)
            eventually(lambda: swaps(served) == number, "the other model is in service")  # noqa: B023
        over.set()
        asking.join()
        eventually(lambda: served.memory_mb < 1.15 * before_mb, "the memory of the old ones is given back")

    own = {local.router.version: local for local in map(LocalRouter.open, models)}
    assert {version for _, version, _ in answers} == set(own)
    assert all(own[version].classify_one(text).task == task for text, version, task in answers)


def swaps(served: Served) -> int:
    """How many models have taken another's place."""
    return sum(line["event"] == "model_loaded" and "replaces" in line for line in served.lines())
