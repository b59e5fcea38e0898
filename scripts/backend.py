"""How the wheel is built: by flit, with the served model put inside it.

`pip install query-gateway.whl` then answers queries in any folder, and the model stands
in git once, in models/quantized. An editable installation takes it from the checkout.
"""

import base64
import hashlib
import zipfile
from pathlib import Path
from typing import Any

from flit_core import buildapi
from flit_core.buildapi import (
    build_editable,
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

MODEL = Path("models/quantized")
INSIDE = "handler/bundled_model"


def build_wheel(
    wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None
) -> str:
    """Build the wheel into a folder; returns its file's name. Without a model beside it, it holds none."""
    name: str = buildapi.build_wheel(wheel_directory, config_settings, metadata_directory)
    if MODEL.is_dir():
        _add(
            Path(wheel_directory) / name, {f"{INSIDE}/{file.name}": file for file in sorted(MODEL.iterdir())}
        )
    return name


def _add(wheel: Path, files: dict[str, Path]) -> None:
    """Put files into a wheel, and into its RECORD (PEP 376: path, hash, size)."""
    with zipfile.ZipFile(wheel) as built:
        (record,) = [name for name in built.namelist() if name.endswith(".dist-info/RECORD")]
        contents = {info: built.read(info) for info in built.infolist() if info.filename != record}
        rows = built.read(record).decode().splitlines()
    added = {name: file.read_bytes() for name, file in files.items()}
    for name, content in added.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        rows.insert(-1, f"{name},sha256={digest},{len(content)}")
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as whole:
        for info, content in contents.items():
            whole.writestr(info, content)
        for name, content in added.items():
            whole.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
        whole.writestr(zipfile.ZipInfo(record), "\n".join(rows) + "\n")
