"""What was skipped here is written down where CI asks for it (NOT_PROVEN)."""

import os
from pathlib import Path

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if file := os.environ.get("NOT_PROVEN"):
        reasons = {
            f"{report.nodeid.partition('[')[0]}: {report.longrepr[2].removeprefix('Skipped: ')}\n"
            for report in terminalreporter.stats.get("skipped", [])
        }
        with Path(file).open("a", encoding="utf-8") as collected:
            collected.writelines(sorted(reasons))
