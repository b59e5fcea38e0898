"""Where the benches and the chaos write, and what they are measured against."""

from pathlib import Path

import pytest

from handler.model import load
from handler.query import normalise
from lab import pages
from lab.bench import __main__ as bench
from lab.bench import reference
from lab.chaos import __main__ as chaos
from lab.rows import Row


@pytest.mark.parametrize(
    ("page", "names"),
    [(bench.PAGE, bench.MEASURES), (chaos.PAGE, chaos.SCENARIOS)],
    ids=["bench", "chaos"],
)
def test_every_measure_has_its_place_on_its_page(page: Path, names: dict[str, object]) -> None:
    text = page.read_text(encoding="utf-8")

    assert [n for n in names if f"<!-- {n}:begin -->\n" not in text or f"<!-- {n}:end -->" not in text] == []


def test_unasked_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    before = bench.PAGE.read_text(encoding="utf-8")
    monkeypatch.setitem(bench.MEASURES, "hits", lambda short: [Row("a figure", "seen")])
    monkeypatch.setattr("sys.argv", ["bench", "hits"])

    assert bench.main() == 0
    assert bench.PAGE.read_text(encoding="utf-8") == before


def test_what_is_asked_for_is_written_with_its_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- hits:begin -->\nold\n<!-- hits:end -->\nafter\n")
    monkeypatch.setattr(bench, "PAGE", page)
    monkeypatch.setitem(bench.MEASURES, "hits", lambda short: [Row("a figure", "seen")])
    monkeypatch.setattr("sys.argv", ["/lab/bench/__main__.py", "hits", "--write"])

    bench.main()

    assert "| a figure | seen |  |  |\n\nWritten by `just bench hits --write` on 2" in page.read_text()
    assert "old" not in page.read_text()
    assert page.read_text().endswith("<!-- hits:end -->\nafter\n")


def test_a_short_measure_is_not_written_down(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["bench", "--short", "--write"])

    with pytest.raises(SystemExit):
        bench.main()

    assert "too little" in capsys.readouterr().err


def test_a_page_without_a_place_for_a_measure_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- hits:begin -->\n")

    with pytest.raises(SystemExit, match="must hold"):
        pages.put("hits", "figures", page)

    assert page.read_text() == "<!-- hits:begin -->\n"


def test_the_reference_model_is_one_that_the_gateway_serves(tmp_path: Path) -> None:
    router = load(reference.write(tmp_path / "reference"))

    (scores,) = router.score([normalise("which of these is a bird", router.manifest.limits)])

    assert sum(scores.probabilities) == pytest.approx(1.0, abs=1e-5)
