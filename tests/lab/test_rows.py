"""A row says what was seen, and holds or not."""

import math

import pytest

from lab.rows import Row, aligned, at_least, at_most, holds, markdown, spread


@pytest.mark.parametrize(
    ("row", "full", "short"),
    [
        (at_most("a latency", "", 2.1, 2.0, ""), True, False),
        (at_most("a latency far off", "", 9.0, 2.0, ""), True, False),
        (at_most("a ratio", "", 1.3, 1.35, "", ratio=True), False, False),
        (at_most("a ratio a little off", "", 1.4, 1.35, "", ratio=True), True, False),
        (at_most("a ratio off by more than double", "", 2.8, 1.35, "", ratio=True), True, True),
        (at_most("a ratio that is no number", "", math.nan, 1.35, "", ratio=True), True, True),
        (at_least("a rate", "", 1500, 1420, ""), False, False),
        (at_least("a rate of nothing", "", 0, 1420, ""), True, False),
        (holds("a promise", "", "", True), False, False),
        (holds("a broken promise", "", "", False), True, True),
        (Row("told", "and nothing promised"), False, False),
    ],
    ids=lambda value: value.what if isinstance(value, Row) else str(value),
)
def test_a_row_fails_a_run_when_it_is_over_its_limit(row: Row, full: bool, short: bool) -> None:
    assert (row.fails(), row.fails(short=True)) == (full, short)


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (at_most("", "", 3.0, 2.0, ""), "**missed** (1.50 of its limit)"),
        (at_most("", "", 2.0, 2.0, ""), "holds"),
        (holds("", "", "", False), "**missed**"),
        (Row("", ""), ""),
    ],
)
def test_a_verdict_says_by_how_much_a_limit_is_missed(row: Row, verdict: str) -> None:
    assert row.verdict == verdict


def test_a_spread_is_a_median_between_its_ends() -> None:
    assert spread([3.0, 1.0, 2.0]) == "2 (1 to 3)"


def test_a_table_has_a_line_for_every_row() -> None:
    assert markdown([at_most("a latency", "3 ms", 3, 4, "4 ms")])[2:] == [
        "| a latency | 3 ms | at most 4 ms | holds |"
    ]


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert aligned([("a", "b"), ("longer", "c")]) == ["  a       b", "  longer  c"]
