"""What was skipped here is written down where CI asks for it (NOT_PROVEN); figures with --write alone."""

import os
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write", action="store_true", help="write the figures of these tests into docs/")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if file := os.environ.get("NOT_PROVEN"):
        reasons = {
            f"{report.nodeid.partition('[')[0]}: {report.longrepr[2].removeprefix('Skipped: ')}\n"
            for report in terminalreporter.stats.get("skipped", [])
        }
        with Path(file).open("a", encoding="utf-8") as collected:
            collected.writelines(sorted(reasons))
