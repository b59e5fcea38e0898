"""Starting the yardsticks, which stand in a module of their own: a floor imports nothing in vain."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lab.launch import MODEL, ROOT, Server, free_port


def yardstick(kind: str, cpus: Sequence[int] = (), *, model: Path = MODEL) -> Server:
    """A yardstick's server, on some CPUs (none given: all)."""
    port = free_port()
    return Server(_command(kind, str(port)), port=port, environ=_environ(model), cpus=cpus)


def measured(kind: str, *arguments: str, model: Path = MODEL) -> str:
    """Run a yardstick that is no server, and return what it says."""
    return subprocess.run(
        _command(kind, *arguments),
        cwd=ROOT,
        env=_environ(model),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "lab.bench.yardsticks", *arguments]


def _environ(model: Path) -> dict[str, str]:
    return {**os.environ, "MODEL_PATH": str(model)}
