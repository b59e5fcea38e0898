"""What was skipped here is written down where CI asks for it (NOT_PROVEN); figures with --write alone."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write", action="store_true", help="write the figures of these tests into docs/")


@pytest.fixture(autouse=True)
def handlers_of_signals() -> Iterator[None]:
    """A server that starts in a test's own process takes the signals, and a later Ctrl-C would end pytest without a word."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if file := os.environ.get("NOT_PROVEN"):
        reasons = {
            f"{report.nodeid.partition('[')[0]}: {report.longrepr[2].removeprefix('Skipped: ')}\n"
            for report in terminalreporter.stats.get("skipped", [])
        }
        with Path(file).open("a", encoding="utf-8") as collected:
            collected.writelines(sorted(reasons))
