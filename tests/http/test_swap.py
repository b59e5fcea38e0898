"""Another model on disk: taken up under load, or refused by name. A real server, a real folder."""

import os
import shutil
import threading
from pathlib import Path
from typing import Any

from lab.launch import Served, eventually
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


def test_a_model_that_is_mended_is_taken_up(tmp_path: Path) -> None:
    folder = make_toy(tmp_path / "models")
    with Served({"MODEL_PATH": str(folder)}) as served:
        first = version(served)
        shutil.rmtree(folder)
        eventually(lambda: model(served)["error"], "the folder is missed")

        make_toy(folder)
        change(folder, limits=LIMITS | {"tail_chars_max": 101})

        eventually(lambda: version(served) != first, "the mended model is in service")
