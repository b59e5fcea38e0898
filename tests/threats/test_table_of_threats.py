"""The table of threats is true: every row names a test, and every test that it names stands."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
ROWS = [
    line
    for line in PAGE.split("## Threats")[1].splitlines()
    if line.startswith("| ") and "| held by |" not in line
]


def test_the_table_is_there() -> None:
    assert len(ROWS) > 15


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip())
def test_a_threat_is_held_off_by_tests_that_stand(row: str) -> None:
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", row)

    assert named
    for file, test in named:
        assert f"\ndef {test}(" in (ROOT / "tests" / file).read_text(encoding="utf-8")
