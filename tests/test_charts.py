"""`handler.charts`: what stands beside and under the bars can be read."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler import charts


@given(st.floats(1e-6, 1e12))
def test_an_axis_ends_at_a_round_number_not_far_over_the_highest_bar(highest: float) -> None:
    top = charts._round_top(highest)

    assert highest <= top * (1 + 1e-9)
    assert top < highest * 1.34
    assert len(f"{top / 4:.6e}".split("e")[0].rstrip("0.").replace(".", "")) <= 2


@pytest.mark.parametrize("queries", [3, 960, 40_000, 469_614, 12_345_678, 3_900_000_000])
def test_numbers_beside_the_axis_do_not_reach_its_name(queries: int) -> None:
    picture = charts.stacked(["fast"], [("2026-11-01", [queries])], title="by day", y_name="queries")

    ticks = re.findall(r'text-anchor="end">([^<]+)</text>', picture)
    assert len(ticks) == 5
    # Seven pixels a digit at most; the axis' name takes the left 18.
    assert all(charts.LEFT - 6 - 7 * len(tick) >= 8 for tick in ticks), ticks


@pytest.mark.parametrize("days", [1, 7, 25, 400])
def test_no_label_under_a_bar_is_cut(days: int) -> None:
    columns = [(f"2026-{day:05}", [1.0]) for day in range(days)]

    picture = charts.stacked(["fast"], columns, title="by day", y_name="queries")

    ends = [
        float(x) + len(word) * charts.HALF_LETTER
        for x, word in re.findall(r'<tspan x="([\d.]+)"[^>]*>([^<]+)', picture)
    ]
    assert ends
    assert max(ends) <= charts.WIDTH + 0.1
