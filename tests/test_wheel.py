"""The wheel: it holds the model, its record is true, and it answers in any folder."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from handler import __version__
from lab.launch import ROOT

BUILD = "import sys; sys.path.insert(0, 'scripts'); import backend; print(backend.build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    built = subprocess.run(
        [sys.executable, "-c", BUILD, str(folder)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return folder / built.stdout.strip()


def test_the_wheel_carries_the_one_version(wheel: Path) -> None:
    assert wheel.name == f"query_gateway-{__version__}-py3-none-any.whl"


def test_the_wheel_holds_the_served_model_byte_for_byte(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as built:
        for file in (ROOT / "models/quantized").iterdir():
            assert built.read(f"handler/bundled_model/{file.name}") == file.read_bytes()


def test_the_record_names_every_file_with_its_digest(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as built:
        (record,) = [name for name in built.namelist() if name.endswith("/RECORD")]
        rows = [row.split(",") for row in built.read(record).decode().splitlines()]
        digests = {name: digest for name, digest, _ in rows if digest}
        found = {
            name: "sha256="
            + base64.urlsafe_b64encode(hashlib.sha256(built.read(name)).digest()).decode().rstrip("=")
            for name in built.namelist()
            if name != record
        }

    assert digests == found


def test_an_editable_installation_serves_the_checkouts_model_in_any_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "MODEL_PATH"}

    ran = subprocess.run(
        [sys.executable, "-m", "handler", "classify", "--json", "hi"],
        cwd=tmp_path / "empty",
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert json.loads(ran.stdout)["route"] in ("fast", "slow")


@pytest.mark.parametrize("given", [None, "models/quantized"])
def test_an_installed_wheel_serves_its_own_model_in_any_folder(
    wheel: Path, tmp_path: Path, given: str | None
) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    (tmp_path / "empty").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    environment.pop("MODEL_PATH", None)
    if given:
        environment["MODEL_PATH"] = given

    ran = subprocess.run(
        [sys.executable, "-m", "handler", "classify", "--json", "hi"],
        cwd=tmp_path / "empty",
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )

    assert json.loads(ran.stdout)["route"] in ("fast", "slow")
