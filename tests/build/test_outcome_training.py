"""Learning from outcomes: it finds what is there, and refuses what would not help."""

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import outcomes as command
import pytest
from hypothesis import given
from hypothesis import strategies as st
from outcome_training import curves, learner, report
from outcome_training.curves import curve, interval
from outcome_training.learner import Learnt, Looks, Refused, learnt, needs

from handler.model import load, read_manifest
from handler.policy_file import parse, policy_for
from handler.query import normalise
from tests.models import TASKS, make_toy

EASY, HARD = 7, 11


def pair(rows: int, *, noise: float = 0.1, seed: int = 0) -> tuple[Looks, Any, Any]:
    """Texts of ten words among which one tells whether the large model is needed; it is wrong now and then."""
    draw = np.random.default_rng(seed)
    hard = draw.random(rows) < 0.4
    tokens = draw.integers(100, 200, (rows, 10))
    tokens[:, 3] = np.where(hard, HARD, EASY)
    large_better = hard ^ (draw.random(rows) < noise)
    small = np.where(large_better, 0.0, 1.0)
    looks = Looks(
        [str(i) for i in range(rows)],
        [[int(i) for i in row] for row in tokens],
        [50] * rows,
        draw.normal(size=(rows, 8)).astype(np.float32),
    )
    return looks, small, np.ones(rows)


@pytest.fixture(scope="module")
def found() -> Learnt:
    return learnt(*pair(600))


def test_what_is_learnt_ranks_texts_that_it_has_not_seen(found: Learnt) -> None:
    looks, small, large = pair(400, seed=1)

    ranked = curve(needs(found.content, looks), small, large)

    assert ranked.apgr > 0.6 * curve(large - small, small, large).apgr + 0.4 * 0.5


def test_a_learnt_need_is_about_as_often_right_as_it_says(found: Learnt) -> None:
    looks, small, large = pair(2000, seed=2)

    need = needs(found.content, looks)

    sure = need > np.median(need)
    assert need[sure].mean() == pytest.approx((large - small)[sure].mean(), abs=0.08)
    assert need[~sure].mean() == pytest.approx((large - small)[~sure].mean(), abs=0.08)


def test_learning_twice_gives_the_same_bytes(found: Learnt) -> None:
    assert learnt(*pair(600)).content == found.content


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda looks, small, large: (looks.at(np.arange(299)), small[:299], large[:299]),
            "299 different texts in 299 rows; accepted: at least 300",
        ),
        (lambda looks, small, large: (looks, large, large), "the gain is the same in every row"),
        (
            lambda looks, small, large: (looks, large, small),
            "the large model is no better than the small one",
        ),
        (
            lambda looks, small, large: (looks.at(np.arange(400) % 299), small, large),
            "299 different texts in 400 rows",
        ),
    ],
    ids=["too few", "one class only", "no gap", "too few texts, often"],
)
def test_rows_that_tell_nothing_are_refused_with_the_reason(change: Any, told: str) -> None:
    with pytest.raises(Refused, match=told):
        learnt(*change(*pair(400)))


def test_rows_whose_outcomes_have_nothing_to_do_with_their_texts_are_refused() -> None:
    looks, small, large = pair(400, noise=0.5)

    with pytest.raises(Refused, match=r"what was learnt does not help: .* chance recovers 0\.500"):
        learnt(looks, small, large)


# Curves


def test_a_perfect_score_recovers_more_than_chance_and_a_reversed_one_less() -> None:
    small, large = np.array([0.0, 0.0, 1.0, 1.0] * 10), np.ones(40)

    best, worst = (curve(sign * (large - small), small, large).apgr for sign in (1, -1))

    assert best == pytest.approx(0.75)
    assert worst == pytest.approx(0.25)


def test_a_score_that_is_the_same_everywhere_is_not_rewarded_for_the_order_of_the_rows() -> None:
    draw = np.random.default_rng(0)
    small, large = (draw.random(4000) < 0.5).astype(float), np.ones(4000)

    assert curve(np.zeros(4000), small, large).apgr == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(("part", "share"), [(0.0, 0.0), (0.5, 0.25), (0.8, 0.4), (1.0, 0.5)])
def test_the_calls_that_a_part_of_the_gap_takes_are_read_off_the_curve(part: float, share: float) -> None:
    small, large = np.array([0.0] * 20 + [1.0] * 20), np.ones(40)

    assert curve(large - small, small, large).cpt(part) == pytest.approx(share)


def test_an_interval_holds_the_figure_and_shrinks_with_the_rows() -> None:
    looks, small, large = pair(4000)
    score = np.array([row[3] for row in looks.rows], dtype=float)

    wide, narrow = (interval(score[:n], small[:n], large[:n], np.arange(n)) for n in (200, 4000))

    assert narrow[0] < curve(score, small, large).apgr < narrow[1]
    assert narrow[1] - narrow[0] < (wide[1] - wide[0]) / 2


def test_an_interval_is_no_narrower_for_rows_that_stand_ten_times() -> None:
    looks, small, large = pair(300)
    score = np.array([row[3] for row in looks.rows], dtype=float)
    often = np.repeat(np.arange(300), 10)

    once = interval(score, small, large, np.arange(300))
    repeated = interval(score[often], small[often], large[often], often)

    assert repeated[1] - repeated[0] == pytest.approx(once[1] - once[0], rel=0.2)


@given(st.lists(st.integers(0, 30), min_size=2, max_size=60), st.integers(0, 5))
def test_no_text_stands_in_the_half_that_is_learnt_from_and_in_the_one_that_is_scored(
    asked: list[int], seed: int
) -> None:
    texts = curves.numbered([str(text) for text in asked])

    learn, score = report._halves(texts, seed)

    assert not set(texts[learn]) & set(texts[score])
    assert sorted([*learn, *score]) == list(range(len(asked)))
    assert len(set(texts[learn])) == len(set(asked)) // 2


def test_texts_that_stand_once_are_halved_as_rows_are() -> None:
    order = np.random.default_rng(3).permutation(101)

    learn, score = report._halves(np.arange(101), 3)

    assert [*learn, *score] == list(order)
    assert len(learn) == 50


def test_rows_without_a_gap_have_no_interval() -> None:
    same = np.ones(50)

    assert interval(np.arange(50.0), same, same, np.arange(50)) == (float("-inf"), float("inf"))


# The command


def rows_of(path: Path, rows: int = 320) -> Path:
    lines = []
    for i in range(rows):
        word, small = ("coding", 0) if i % 5 < 2 else ("summarization", 1)
        lines.append(f'{{"text": "{word} of matter {i}", "small": {small}, "large": 1}}')
    path.write_text("\n".join(lines))
    return path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["outcomes.py", *arguments])
    command.main()


def test_a_folder_that_was_learnt_serves_what_it_learnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy, rows, out = make_toy(tmp_path / "toy"), rows_of(tmp_path / "rows.jsonl"), tmp_path / "out"

    run(
        monkeypatch,
        "train",
        "--model",
        str(toy),
        "--outcomes",
        str(rows),
        "--out",
        str(out),
        "--small-model",
        "7b",
    )

    router = load(out)
    file = parse(b'source = "outcomes"', "policy.toml")
    policy = policy_for(router.manifest.tasks, router.manifest.policy, file=file, learnt=router.learns)
    queries = [
        normalise(text, router.manifest.limits)
        for text in ("coding of matter x", "summarization of matter x")
    ]
    hard, easy = (policy.need(scores) for scores in router.score(queries))
    assert hard > 0.5 > easy
    assert router.manifest.outcomes is not None
    assert (router.manifest.outcomes.small, router.manifest.outcomes.rows) == ("7b", 320)


def test_learning_again_takes_the_place_of_what_was_learnt_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy, out = make_toy(tmp_path / "toy"), tmp_path / "out"
    versions = set()

    for count in (320, 330):
        rows = rows_of(tmp_path / "rows.jsonl", count)
        run(monkeypatch, "train", "--model", str(toy), "--outcomes", str(rows), "--out", str(out))
        versions.add(read_manifest(out).version)

    assert len(versions) == 2
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"text": "a", "small": 1.2, "large": 1}', "small is 1.2; accepted"),
        ('{"text": "a", "small": true, "large": 1}', "small is True; accepted"),
        ('{"text": "a", "large": 1}', "one of small and large; accepted: both or neither"),
        ('{"text": "", "small": 1, "large": 1}', "its text is empty"),
        ("not json", "no JSON object on one line"),
    ],
)
def test_a_bad_row_is_named_by_its_line_before_anything_is_computed(
    line: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of(tmp_path / "rows.jsonl")
    rows.write_text(rows.read_text() + "\n" + line)

    with pytest.raises(SystemExit) as ended:
        run(
            monkeypatch,
            "train",
            "--model",
            "nowhere",
            "--outcomes",
            str(rows),
            "--out",
            str(tmp_path / "out"),
        )

    assert f"{rows}:321: {told}" in str(ended.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["shipped", "shipped/mine", "link", "link/mine", "shipped/../shipped/mine"])
def test_nothing_is_written_into_the_shipped_model(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, shipped = rows_of(tmp_path / "rows.jsonl"), make_toy(tmp_path / "shipped")
    (tmp_path / "link").symlink_to(shipped)
    monkeypatch.setattr(command, "SHIPPED", shipped)
    before = sorted(shipped.iterdir())

    with pytest.raises(SystemExit, match="--out is models/quantized"):
        run(monkeypatch, "train", "--outcomes", str(rows), "--out", str(tmp_path / out))

    assert sorted(shipped.iterdir()) == before


def test_a_folder_of_somebody_elses_is_never_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, out = rows_of(tmp_path / "rows.jsonl"), tmp_path / "out"
    out.mkdir()
    (out / "precious").write_text("")

    with pytest.raises(SystemExit, match="is there and holds no model that was learnt from outcomes"):
        run(monkeypatch, "train", "--outcomes", str(rows), "--out", str(out))

    assert (out / "precious").exists()


def test_the_report_puts_ours_beside_length_chance_and_oracle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    toy, rows = make_toy(tmp_path / "toy"), rows_of(tmp_path / "rows.jsonl", 640)
    monkeypatch.setattr(curves, "RESAMPLES", 20)

    run(monkeypatch, "evaluate", "--model", str(toy), "--outcomes", str(rows), "--quick")

    table = capsys.readouterr().out
    for row in (
        "length of the prompt alone",
        "chance",
        "oracle",
        "ours, unlearnt",
        "ours, learnt from 320 texts",
    ):
        assert f"| {row} | **" in table


def test_many_splits_are_told_by_the_error_of_their_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    toy, rows = make_toy(tmp_path / "toy"), rows_of(tmp_path / "rows.jsonl", 640)
    monkeypatch.setattr(curves, "RESAMPLES", 20)
    monkeypatch.setattr(learner, "PENALTIES", (10.0,))

    run(monkeypatch, "evaluate", "--model", str(toy), "--outcomes", str(rows), "--splits", "4")

    assert re.search(r"\| chance \| \*\*0\.\d{3}\*\* \(± 0\.\d{3}, 4 splits\) \|", capsys.readouterr().out)


@pytest.mark.parametrize(
    "options", [["--splits", "0"], ["--splits", "18", "--write"], ["--without", "law", "--write"]]
)
def test_splits_that_the_page_does_not_hold_are_refused_before_anything_is_read(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, "evaluate", "--outcomes", str(tmp_path / "none.jsonl"), *options)

    assert "--splits" in capsys.readouterr().err


def test_what_is_learnt_of_groups_is_scored_on_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    # Each group has a word of its own, and the large model pays in every second group: words tell it,
    # and nothing tells it of a group that was not learnt from.
    count = len(TASKS)
    rows.write_text(
        "".join(
            f'{{"text": "{TASKS[i % count]} {i}", "small": 0, "large": {i % 2}, "group": "g{i % count}"}}\n'
            for i in range(100 * count)
        )
    )
    toy = str(make_toy(tmp_path / "toy"))
    monkeypatch.setattr(curves, "RESAMPLES", 20)

    monkeypatch.setattr(learner, "PENALTIES", (10.0,))
    run(monkeypatch, "evaluate", "--model", toy, "--outcomes", str(rows), "--splits", "1")
    whole = capsys.readouterr().out
    run(
        monkeypatch, "evaluate", "--model", toy, "--outcomes", str(rows), "--without", "g0", "--without", "g1"
    )
    part = capsys.readouterr().out

    def apgr(table: str, row: str) -> float:
        found = re.search(rf"\| {row} \| \*\*(\d\.\d+)", table)
        assert found, table
        return float(found[1])

    assert apgr(whole, f"ours, learnt from {50 * count} texts") > 0.7
    assert apgr(whole, f"ours, learnt from the other {count // 2} groups") < 0.6
    assert apgr(whole, f"length, on {count - count // 2} of the groups") < 0.6
    assert f"{100 * count:,} rows" in whole
    assert f"{100 * (count - 2):,} rows" in part


def test_a_group_that_no_row_has_is_refused_with_those_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a", "small": 0, "large": 1, "group": "law"}\n')

    with pytest.raises(SystemExit, match="--without algebra: no row has this group; accepted: law"):
        run(monkeypatch, "evaluate", "--outcomes", str(rows), "--without", "algebra")


@pytest.mark.parametrize(("small", "large"), [(1, 1), (0.5, 0.5), (1, 0)])
def test_a_pair_without_a_gap_is_told_in_words_and_has_no_figures(
    small: float,
    large: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(f'{{"text": "matter {i}", "small": {small}, "large": {large}}}\n' for i in range(40))
    )

    run(monkeypatch, "evaluate", "--model", str(make_toy(tmp_path / "toy")), "--outcomes", str(rows))

    told = capsys.readouterr().out
    assert "**rows**: 40 rows;" in told
    assert "there is no gap to recover" in told
    assert "nan" not in told
    assert "|" not in told


def test_duplicated_rows_do_not_make_enough_texts_to_learn_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of(tmp_path / "rows.jsonl", 299)
    rows.write_text("\n".join([rows.read_text()] * 2))

    with pytest.raises(SystemExit, match="299 different texts in 598 rows; accepted: at least 300"):
        run(
            monkeypatch, "train", "--model", str(make_toy(tmp_path / "toy")), "--outcomes", str(rows),
            "--out", str(tmp_path / "out"),
        )  # fmt: skip
