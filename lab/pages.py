"""Figures on the terminal and, where it is asked for, between two markers of a page in docs/."""

import os
import platform
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from lab.launch import ROOT
from lab.rows import Row, markdown

DOCS = ROOT / "docs"


class Skipped(Exception):
    """This machine cannot show it; the message says why."""


def machine() -> str:
    """What it is measured on, and how busy that is before."""
    try:
        model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        model = None
    cpus = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    return f"{cpus} CPUs ({model[1] if model else platform.machine()}), load average {load:.1f} before it"


def report(name: str, rows: Sequence[Row], *, on: str, page: Path | None = None) -> None:
    """Print rows and, if there is a page to write, put them there with the command that was typed."""
    print(f"\n== {name}: {on}")
    for row in rows:
        limit = f"  [{row.wanted}] {row.verdict.replace('*', '')}" if row.wanted else ""
        print(f"{row.what}: {row.seen}{limit}", flush=True)
    if page:
        put(name, "\n".join([*markdown(rows), "", written_by(on)]), page)


def written_by(on: str) -> str:
    """The line under a table: the command that was typed, when, and on what."""
    path = Path(sys.argv[0])
    name = path.parent.name if path.stem == "__main__" else path.stem
    command = " ".join(["just", name, *sys.argv[1:]])
    return f"Written by `{command}` on {datetime.now(UTC).date().isoformat()}: {on}."


def put(name: str, text: str, page: Path) -> bool:
    """Replace what stands between a name's two markers on a page, and nothing else; whether that changed it."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    old = page.read_text(encoding="utf-8")
    before, found, rest = old.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise SystemExit(f"{page.name} must hold {begin} and {end}")
    new = f"{before}{begin}\n{text}\n{end}{after}"
    page.write_text(new, encoding="utf-8")
    return new != old
