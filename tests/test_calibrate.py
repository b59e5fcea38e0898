"""A threshold chosen by what it brings: as wished, as sure as it says, or refused with the reason."""

from pathlib import Path
from typing import Any

import msgspec
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


def measured(needs: Any, better: Any = None, **more: Any) -> Measured:
    """Rows with needs, and for each whether a larger model does better."""
    order = np.argsort(needs, kind="stable")
    quality = None
    if better is not None:
        wrong = np.asarray(better, dtype=float)[order]
        quality = np.stack([1 - wrong, np.ones(len(wrong))], axis=1)
    texts = np.asarray(more.pop("texts", range(len(needs))))[order]
    kind = "none" if better is None else "outcomes"
    return Measured(np.asarray(needs, dtype=float)[order], quality, kind, texts, **more)


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


def test_a_small_model_that_is_better_on_the_whole_does_not_get_what_it_fails_at() -> None:
    # 80 easy queries that it answers better, and 20 that it cannot.
    needs = np.linspace(0, 1, 100)
    quality = np.array([[1.0, 0.7]] * 80 + [[0.0, 1.0]] * 20)
    rows = msgspec.structs.replace(measured(needs, [False] * 80 + [True] * 20), quality=quality)

    assert by_knee(rows).fast == 80


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


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=40).filter(lambda n: len(set(n)) > 1),
    st.floats(1e-9, 1),
    st.floats(0, 1),
)
def test_the_first_tier_ends_before_the_second_and_sends_just_the_rows_that_it_says(
    needs: list[float], second: float, share: float
) -> None:
    rows = measured(needs, uppers=(second, 1.0))

    chosen = by_share(rows, share)

    assert 0 <= chosen.boundary < second
    assert int((rows.needs <= chosen.boundary).sum()) == chosen.fast


@pytest.mark.parametrize(
    "choose", [by_knee, lambda rows: by_share(rows, 0.6), lambda rows: by_wrong_fast(rows, 0)]
)
def test_where_the_best_boundary_does_not_fit_the_best_that_fits_is_taken_and_that_is_said(
    choose: Any,
) -> None:
    needs, better = np.linspace(0, 1, 100), [False] * 60 + [True] * 40

    chosen = choose(measured(needs, better, uppers=(0.3, 1.0)))

    assert chosen.fast == 30
    assert chosen.note == "the first tier would end later, if the second did not end at need 0.3"


def test_every_tier_costs_its_own_price() -> None:
    rows = measured([0.1, 0.3, 0.5, 0.9], uppers=(0.6, 1.0))

    costs = [rows.cost_at(fast, [1.0, 10.0, 100.0]) for fast in (0, 1, 3)]

    assert costs == pytest.approx([130 / 4, 121 / 4, 103 / 4])


def test_a_text_that_stands_in_many_rows_makes_a_boundary_no_surer() -> None:
    once = typical(200)
    assert once.quality is not None
    often = Measured(
        np.repeat(once.needs, 10), np.repeat(once.quality, 10, axis=0), "outcomes", np.repeat(once.texts, 10)
    )

    alone, repeated = by_share(once, 0.3), by_share(often, 0.3)

    widths = [high - low for low, high in (alone.threshold_interval, repeated.threshold_interval)]
    assert widths[1] == pytest.approx(widths[0], rel=0.2)
    bands = [calibrate._band(rows, np.array([len(rows.needs) // 2])) for rows in (once, often)]
    assert bands[1][1][0] - bands[1][0][0] == pytest.approx(bands[0][1][0] - bands[0][0][0], rel=0.2)


@pytest.mark.parametrize(
    ("label", "needs_large"),
    [("summarization", False), ("closed_qa", True), ("coding", True), ("s", False), ("m", True), ("l", True)],
)
def test_a_label_needs_a_larger_model_where_its_own_need_is_over_the_first_tiers(
    label: str, needs_large: bool
) -> None:
    policy = Policy(
        TASKS,
        dict.fromkeys(TASKS, 1.0) | {"summarization": 0.1, "closed_qa": 0.3},
        tiers=[Tier("s", 0.2), Tier("m", 0.6), Tier("l", 1.0)],
    )

    assert calibrate._needs_large(policy, label) == needs_large


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


def test_rows_of_one_text_are_told_apart_from_rows_of_others(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "coding"}\n{"text": "summarization"}\n{"text": " CODING "}\n')

    texts = calibrate.measure(path, LocalRouter.open(tmp_path / "toy")).texts

    assert sorted(texts) in ([0, 0, 1], [0, 1, 1])


def test_three_tiers_and_labels_give_a_policy_that_can_be_served(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, out = tmp_path / "policy.toml", tmp_path / "new.toml"
    bounds = [("s", 0.1), ("m", 0.2), ("l", 1)]
    policy.write_text("\n".join(f"[[tier]]\nname = '{name}'\nneed_max = {bound}" for name, bound in bounds))
    monkeypatch.setenv("POLICY_FILE", str(policy))

    arguments = ["calibrate", rows(tmp_path, "task"), "--fast-share", "0.9", "--out", str(out)]
    assert main(arguments) == 0

    assert (
        "not known: how good the answers of m are; what does not go to s counts as if l"
        in capsys.readouterr().out
    )
    assert main([*arguments, "--price-small", "1", "--price-large", "9"]) == 2
    assert "no price for m; say --price m=" in capsys.readouterr().err
    monkeypatch.setenv("POLICY_FILE", str(out))
    assert main(["check"]) == 0


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


@pytest.mark.parametrize(("share", "noted"), [("0.9", True), ("0.1", False)])
def test_a_boundary_that_no_threshold_reaches_says_so(
    share: str, noted: bool, tmp_path: Path, capsys: Captured
) -> None:
    assert main(["calibrate", rows(tmp_path), "--fast-share", share]) == 0

    assert ("serve this one by a policy file" in capsys.readouterr().out) is noted
