"""A threshold chosen by what it brings: as wished, as sure as it says, or refused with the reason."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handler import calibrate
from handler.calibrate import Measured, Unfit, by_knee, by_share, by_wrong_fast
from handler.cli import main
from handler.offline import LocalRouter
from handler.policy import Policy, Tier
from handler.policy_file import parse, policy_for
from tests.models import TASKS, make_toy

Captured = pytest.CaptureFixture[str]


def measured(needs: Any, better: Any = None) -> Measured:
    """Rows with needs, and for each whether a larger model does better."""
    order = np.argsort(needs, kind="stable")
    quality = None
    if better is not None:
        wrong = np.asarray(better, dtype=float)[order]
        quality = np.stack([1 - wrong, np.ones(len(wrong))], axis=1)
    return Measured(np.asarray(needs, dtype=float)[order], quality, "none" if better is None else "outcomes")


def typical(rows: int, seed: int = 0) -> Measured:
    draw = np.random.default_rng(seed)
    needs = draw.beta(0.6, 0.6, rows)
    return measured(needs, draw.random(rows) < needs)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=40).filter(lambda n: len(set(n)) > 1), st.floats(0, 1))
def test_no_other_boundary_comes_nearer_to_the_wished_share(needs: list[float], share: float) -> None:
    rows = measured(needs)

    chosen = by_share(rows, share)

    sent = float((rows.needs <= chosen.boundary).mean())
    able = [float((rows.needs <= bound).mean()) for bound in (0.0, *(n for n in needs if n < 1))]
    assert abs(sent - share) <= min(abs(other - share) for other in able) + 1e-9


@pytest.mark.parametrize("share", [0.2, 0.3, 0.5])
def test_a_boundary_of_2000_rows_sends_the_wished_share_of_others(share: float) -> None:
    chosen = by_share(typical(2000), share)

    others = typical(20_000, seed=1).needs
    assert float((others <= chosen.boundary).mean()) == pytest.approx(share, abs=0.03)


def test_an_interval_says_how_far_off_the_share_may_be() -> None:
    few, many = by_share(typical(200), 0.3), by_share(typical(5000), 0.3)

    assert few.share_interval[0] < 0.3 < few.share_interval[1]
    assert (
        many.share_interval[1] - many.share_interval[0] < (few.share_interval[1] - few.share_interval[0]) / 2
    )


def test_rows_of_one_need_go_together_and_that_is_said() -> None:
    chosen = by_share(measured([0.1] * 50 + [0.9] * 50), 0.3)

    assert chosen.fast in (0, 50)
    assert "many rows have the same need" in chosen.note


def test_rows_of_one_need_alone_cannot_be_told_apart() -> None:
    with pytest.raises(Unfit, match=r"every row has the same need, 0\.400"):
        by_share(measured([0.4] * 100), 0.3)


@settings(deadline=None, max_examples=30)
@given(st.floats(0, 0.3))
def test_wrongly_fast_answers_stay_within_the_bound(bound: float) -> None:
    rows = typical(500)

    chosen = by_wrong_fast(rows, bound)

    assert rows.wrong_at()[chosen.fast] <= bound + 1e-9
    more = [cut for cut in rows.valid() if cut > chosen.fast]
    assert all(rows.wrong_at()[cut] > bound for cut in more)


def test_the_knee_lies_where_the_curve_bends() -> None:
    rows = measured(np.linspace(0, 1, 100), [False] * 60 + [True] * 40)

    assert by_knee(rows).fast == 60


@pytest.mark.parametrize(
    ("better", "told"),
    [
        (None, "the rows have no labels"),
        ([False] * 10, "no row needs a larger model"),
        ([True] * 10, "every row needs a larger model"),
    ],
)
@pytest.mark.parametrize("choose", [by_knee, lambda rows: by_wrong_fast(rows, 0.1)])
def test_labels_of_one_class_choose_nothing(better: Any, told: str, choose: Any) -> None:
    with pytest.raises(Unfit, match=told):
        choose(measured(np.linspace(0, 1, 10), better))


@settings(deadline=None, max_examples=20)
@given(st.floats(0.01, 0.99))
def test_a_written_policy_sends_the_queries_that_it_was_chosen_for(share: float) -> None:
    rows = typical(400)
    chosen = by_share(rows, share)

    text = calibrate.policy_text(Policy(TASKS, dict.fromkeys(TASKS, 1.0)), {}, chosen, ["why"])

    policy = policy_for(TASKS, dict.fromkeys(TASKS, "slow"), file=parse(text.encode(), "p"))
    sent = float((rows.needs <= policy.boundaries()[0]).mean())
    assert sent == pytest.approx(chosen.fast / 400, abs=0.01)


def test_other_tiers_needs_and_predicates_stay_as_they_were() -> None:
    policy = Policy(
        TASKS,
        dict.fromkeys(TASKS, 1.0) | {"coding": 0.25},
        tiers=[Tier("s", 0.2), Tier("m", 0.9), Tier("l", 1.0)],
        options={"EASY": 0.5},
        predicates={"is_code": ("coding",)},
    )

    text = calibrate.policy_text(policy, {"coding": 0.25}, by_share(typical(100), 0.3), [])

    file = parse(text.encode(), "p")
    assert (file.need, file.options, file.predicates) == (
        {"coding": 0.25},
        {"EASY": 0.5},
        {"is_code": ("coding",)},
    )
    assert file.tiers[1:] == (Tier("m", 0.9), Tier("l", 1.0))


def test_a_boundary_over_the_second_tiers_is_refused() -> None:
    policy = Policy(TASKS, dict.fromkeys(TASKS, 1.0), tiers=[Tier("s", 0.1), Tier("m", 0.2), Tier("l", 1.0)])

    with pytest.raises(Unfit, match=r"'m' ends at 0\.2"):
        calibrate.policy_text(policy, {}, by_share(typical(100), 0.8), [])


# The command


@pytest.fixture(autouse=True)
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_PATH", str(make_toy(tmp_path / "toy")))
    monkeypatch.setattr(calibrate, "RESAMPLES", 20)


def rows(folder: Path, labels: str = "") -> str:
    path = folder / "rows.jsonl"
    lines = []
    for i in range(60):
        word = TASKS[i % 10]
        label = {
            "": "",
            "task": f', "task": "{word}"',
            "outcomes": f', "small": {int(i % 10 < 4)}, "large": 1',
        }
        lines.append(f'{{"text": "{word} {"and so on " * (i % 6)}"{label[labels]}}}')
    path.write_text("\n".join(lines))
    return str(path)


@pytest.mark.parametrize("labels", ["task", "outcomes"])
def test_labelled_rows_give_a_curve_a_knee_and_a_policy_that_can_be_served(
    labels: str, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "policy.toml"

    assert main(["calibrate", rows(tmp_path, labels), "--out", str(out)]) == 0

    told = capsys.readouterr().out
    assert "the knee of the curve: threshold " in told
    assert "wrongly fast" in told
    assert (tmp_path / "policy.svg").read_text().startswith("<svg")
    monkeypatch.setenv("POLICY_FILE", str(out))
    assert main(["check"]) == 0


def test_a_source_that_check_would_refuse_is_refused_in_its_words_before_the_file_is_read(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROUTE_FAST_TASKS", "coding")
    (tmp_path / "policy.toml").write_text('source = "outcomes"')

    assert main(["calibrate", str(tmp_path / "not-read.jsonl"), "--source", "outcomes"]) == 2

    told = capsys.readouterr().err.partition("--source outcomes: ")[2]
    monkeypatch.setenv("POLICY_FILE", str(tmp_path / "policy.toml"))
    assert main(["check"]) == 2
    assert told.startswith("ROUTE_FAST_TASKS is set too")
    assert capsys.readouterr().err.endswith(told)


def test_rows_without_labels_ask_for_a_wish(tmp_path: Path, capsys: Captured) -> None:
    assert main(["calibrate", rows(tmp_path)]) == 2

    assert "say what you want: --fast-share 0.3" in capsys.readouterr().err


def test_rows_count_as_the_gateway_treats_their_queries(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "rows.jsonl"
    image = '{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}'
    texts = [f'{{"text": "{word}"}}' for word in (*TASKS, "   ")]
    path.write_text("\n".join([*texts, '{"text": ""}', image]))

    assert main(["calibrate", str(path), "--fast-share", "0.3"]) == 0

    told = capsys.readouterr().out
    assert told.startswith(f"{len(texts) + 1} queries of ")
    assert f"{path}:{len(texts) + 1}: its text is empty" in told


def test_a_query_without_a_text_to_read_goes_to_the_last_tier_whatever_the_boundary(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "summarization"}\n{"messages": []}')

    rows = calibrate.measure(path, LocalRouter.open(tmp_path / "toy"))

    assert rows.needs[-1] == 1.0
    assert max(rows.valid()) == 1


def test_a_bad_row_is_named_before_the_model_is_asked(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "coding"}\n{"text": 1}\n')

    assert main(["calibrate", str(path), "--fast-share", "0.3"]) == 2

    told = capsys.readouterr()
    assert f"{path}:2: no text" in told.err
    assert told.out == ""


@pytest.mark.parametrize("share", ["1.5", "-0.1", "nan"])
def test_a_share_that_is_none_is_refused(share: str, tmp_path: Path, capsys: Captured) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["calibrate", rows(tmp_path), "--fast-share", share])

    assert "accepted: a number from 0 to 1" in capsys.readouterr().err
