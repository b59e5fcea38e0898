"""`handler.charts`: what stands beside and under the bars can be read."""

import re
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler import charts
from handler.policy_file import TIERS_MAX


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


names = st.lists(
    st.text("abcXYZ_.:-019", min_size=1, max_size=64), min_size=1, max_size=TIERS_MAX, unique=True
)


@given(names)
def test_a_legend_stays_within_the_picture_and_none_of_its_names_overlap(names: list[str]) -> None:
    picture = charts.stacked(names, [("day", [1.0] * len(names))], title="t", y_name="queries")

    height = int(re.findall(r'viewBox="0 0 \d+ (\d+)"', picture)[0])
    legend = re.findall(r'height="10" fill="[^"]+"/><text x="([\d.]+)" y="([\d.]+)">([^<]+)</text>', picture)
    assert len(legend) == len(names)
    placed = sorted((float(y), float(x) - 16, float(x) + len(name) * 7) for x, y, name in legend)
    assert all(y <= height and end <= charts.WIDTH for y, _, end in placed)
    assert all(a[0] + 12 <= b[0] or a[2] < b[1] for a, b in pairwise(placed))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=TIERS_MAX - 1, unique=True), names)
def test_no_name_of_a_boundary_lies_over_another_or_leaves_the_picture(
    bounds: list[float], names: list[str]
) -> None:
    boundaries = [(bound, f"{name} ends") for bound, name in zip(sorted(bounds), names, strict=False)]

    picture = charts.histogram([1.0] * 50, title="t", x_name="need", boundaries=boundaries)

    labels = re.findall(
        r'dasharray="4 3"/><text x="([\d.-]+)" y="([\d.]+)" text-anchor="(\w+)">([^<]+)', picture
    )
    assert len(labels) == len(boundaries)
    boxes = [
        (
            float(y),
            *(
                (float(x), float(x) + 7 * len(name))
                if side == "start"
                else (float(x) - 7 * len(name), float(x))
            ),
        )
        for x, y, side, name in labels
    ]
    assert all(
        left >= 0 and right <= charts.WIDTH and y < charts.HEIGHT - charts.BOTTOM for y, left, right in boxes
    )
    assert all(a[0] != b[0] or a[2] < b[1] or b[2] < a[1] for a, b in combinations(boxes, 2))


# From linear RGB to what people without red (protan) and green (deutan) cones see: Machado et al. 2009.
SIGHTS = {
    "all": np.eye(3),
    "protan": np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]),
    "deutan": np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]),
}
TO_XYZ = np.array([[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]])


def linear(color: str) -> np.ndarray:
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    x, y, z = np.cbrt(np.clip(TO_XYZ @ rgb / [0.9505, 1, 1.0888], 1e-3, None))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("sight", SIGHTS)
def test_every_tier_has_a_colour_that_is_told_from_all_others(sight: str) -> None:
    seen = [lab(np.clip(SIGHTS[sight] @ linear(color), 0, 1)) for color in charts.COLORS[:TIERS_MAX]]

    assert len(seen) == TIERS_MAX
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 20


@pytest.mark.parametrize("ground", ["#ffffff", "#17191c"])
def test_every_colour_stands_out_on_a_light_page_and_on_a_dark_one(ground: str) -> None:
    behind = TO_XYZ[1] @ linear(ground)
    for color in charts.COLORS:
        light, dark = sorted((TO_XYZ[1] @ linear(color), behind), reverse=True)

        assert (light + 0.05) / (dark + 0.05) > 2, color


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1234.5, "1,234.50"), (0.64, "0.64"), (0.07, "0.07"), (0.0002, "0.0002"), (0, "0.00")],
)
def test_an_amount_of_money_is_never_rounded_to_nothing(value: float, shown: str) -> None:
    assert charts.amount(value) == shown
