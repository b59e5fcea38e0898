"""What the gateway holds in memory and on disk."""

import subprocess
import sys
from pathlib import Path

from handler.model import read_manifest
from lab.drive import requests
from lab.launch import MODEL, ROOT, Served
from lab.measure import closed, known
from lab.rows import Row, at_most

ENTRIES = 100_000
IMAGE = "query-gateway:latest"
# In a process of its own: what an L1 of so many entries adds to it.
_L1 = """
import os, sys, time
import psutil
from handler.cache import L1
from handler.policy import Scores
count, score_bytes = map(int, sys.argv[1:])
l1 = L1(size_max=count, ttl_s=300, now=time.monotonic)
before = psutil.Process().memory_info().rss
for _ in range(count):
    l1.put(os.urandom(16), Scores(os.urandom(score_bytes)))
print(psutil.Process().memory_info().rss - before)
"""


def measure(seconds: float) -> list[Row]:
    with Served() as server:
        rest = server.memory_mb
        closed(server, requests(1), connections=64, seconds=seconds)
        closed(server, known(), connections=64, seconds=seconds)
        loaded = server.memory_mb
    tasks = len(read_manifest(MODEL).tasks)
    out = subprocess.run(
        [sys.executable, "-c", _L1, str(ENTRIES), str(4 * tasks)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    entries = int(out.stdout) / 1e6
    figures = [
        at_most("resident at rest", f"{rest:.0f} MB", rest, 180, "180 MB", ratio=True),
        Row(f"resident after {2 * seconds:g} s of load, 64 at a time", f"{loaded:.0f} MB"),
        at_most("100,000 entries of L1 add", f"{entries:.1f} MB", entries, 40, "40 MB", ratio=True),
    ]
    installed = sorted((ROOT / ".venv" / "lib").glob("python*/site-packages"))
    if installed:
        size = (_size(installed[0]) + _size(MODEL)) / 1e6
        figures.append(
            at_most(
                "serving installation: site-packages and the model", f"{size:.0f} MB", size, 280, "280 MB"
            )
        )
    figures.append(_image())
    return figures


def _image() -> Row:
    """The unpacked image, where `just image` has built one."""
    what = f"image {IMAGE}, unpacked"
    try:
        asked = ["docker", "image", "inspect", "--format", "{{.Size}}", IMAGE]
        size = int(subprocess.run(asked, capture_output=True, text=True, check=True, timeout=10).stdout) / 1e6
    except (OSError, subprocess.SubprocessError, ValueError):
        return Row(what, "not measured: no container engine here has it (`just image` builds it)")
    return at_most(what, f"{size:.0f} MB", size, 420, "420 MB", ratio=True)


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
