"""What the pipeline's tests share: running a script as its users do, and rows to run it on."""

import json
import os
import subprocess
import sys
from pathlib import Path

BUILD = Path(__file__).resolve().parents[2] / "build"


def run(script: str, *arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a script of build/ as a file, as its users do."""
    clean = {name: value for name, value in os.environ.items() if name != "DATA_DIR"}
    return subprocess.run(
        [sys.executable, str(BUILD / script), *map(str, arguments)],
        env=clean | {"HF_HUB_OFFLINE": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def rows(per_task: int = 20) -> list[dict[str, str]]:
    """Rows of three tasks that differ in a word and a number."""
    texts = {
        "tracking": "where is my parcel number {}",
        "complaint": "the lamp {} came broken send it back",
        "account": "how do i change my address to {} please",
    }
    return [{"text": text.format(i), "task": task} for i in range(per_task) for task, text in texts.items()]


def write_rows(path: Path, lines: list[object]) -> Path:
    """Write JSON lines; a str goes in as it is."""
    path.write_text(
        "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines),
        encoding="utf-8",
    )
    return path
