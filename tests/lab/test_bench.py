"""What `just bench` says of its figures, and where it writes them."""

import json
from pathlib import Path

import pytest

from handler.model import load
from handler.query import normalise
from lab.bench import pages, reference
from lab.bench.__main__ import Bench
from lab.bench.figures import Figure, at_least, at_most, spread
from lab.chaos import findings


@pytest.mark.parametrize(
    ("figure", "full", "short"),
    [
        (at_most("a latency", "", 2.1, 2.0, ""), True, False),
        (at_most("a latency far off", "", 9.0, 2.0, ""), True, False),
        (at_most("a ratio", "", 1.3, 1.35, "", ratio=True), False, False),
        (at_most("a ratio a little off", "", 1.4, 1.35, "", ratio=True), True, False),
        (at_most("a ratio off by more than double", "", 2.8, 1.35, "", ratio=True), True, True),
        (at_most("a ratio that is no number", "", float("nan"), 1.35, "", ratio=True), True, True),
        (at_least("a rate", "", 1500, 1420, ""), False, False),
        (at_least("a rate of nothing", "", 0, 1420, ""), True, False),
        (Figure("told", "and nothing promised"), False, False),
    ],
    ids=lambda value: value.what if isinstance(value, Figure) else str(value),
)
def test_a_figure_fails_a_run_when_it_is_over_its_limit(figure: Figure, full: bool, short: bool) -> None:
    assert (figure.fails(short=False), figure.fails(short=True)) == (full, short)


def test_a_spread_is_a_median_between_its_ends() -> None:
    assert spread([3.0, 1.0, 2.0]) == "2 (1 to 3)"


def test_every_measure_has_its_place_on_the_page() -> None:
    page = pages.PAGE.read_text(encoding="utf-8")

    for name in Bench(short=True).measures:
        assert f"<!-- {name}:begin -->\n" in page
        assert f"<!-- {name}:end -->\n" in page
        assert name not in pages.DRAWN or f"(pictures/performance-{name}.svg)" in page


def test_the_page_holds_the_machine_that_its_numbers_come_from() -> None:
    page = pages.PAGE.read_text(encoding="utf-8")

    for name, measured in json.loads(pages.NUMBERS.read_text()).items():
        _, _, section = page.partition(f"<!-- {name}:begin -->")
        assert measured["machine"] in section.partition("<!--")[0]


def test_a_page_without_a_place_for_a_measure_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- hits:begin -->\n")

    with pytest.raises(SystemExit, match="must hold"):
        findings.put("hits", "figures", page)

    assert page.read_text() == "<!-- hits:begin -->\n"


def test_the_reference_model_is_one_that_the_gateway_serves(tmp_path: Path) -> None:
    router = load(reference.write(tmp_path / "reference"))

    (scores,) = router.score([normalise("which of these is a bird", router.manifest.limits)])

    assert sum(scores.probabilities) == pytest.approx(1.0, abs=1e-5)
