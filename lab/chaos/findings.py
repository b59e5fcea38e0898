"""What a scenario saw, and where it is written: docs/reliability.md, between two markers of its own."""

import os
import platform
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from lab.launch import ROOT

PAGE = ROOT / "docs" / "reliability.md"


class Finding(NamedTuple):
    """One line of a table. `holds` is None where nothing is promised and the figure only told."""

    what: str
    seen: str
    wanted: str = ""
    holds: bool | None = None

    @property
    def verdict(self) -> str:
        return {True: "holds", False: "**does not hold**", None: ""}[self.holds]


class Skipped(Exception):
    """This machine cannot show it; the message says why."""


def machine() -> str:
    model = re.search(r"model name\s*: (.*)", _text("/proc/cpuinfo"))
    cpus = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    return f"{cpus} CPUs ({model[1] if model else platform.machine()}), load average {load:.1f} before it"


def write(scenario: str, command: str, on: str, findings: Iterable[Finding]) -> None:
    """Put a scenario's figures between its markers on the page."""
    rows = ["| what | seen | promised | |", "|---|---|---|---|"]
    rows += [f"| {f.what} | {f.seen} | {f.wanted} | {f.verdict} |" for f in findings]
    today = datetime.now(UTC).date().isoformat()
    put(scenario, "\n".join([*rows, "", f"Written by `{command}` on {today}: {on}."]))


def put(scenario: str, text: str, page: Path = PAGE) -> None:
    """Replace what stands between a scenario's markers on a page."""
    begin, end = f"<!-- {scenario}:begin -->", f"<!-- {scenario}:end -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise SystemExit(f"{page.name} must hold {begin} and {end}")
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""
