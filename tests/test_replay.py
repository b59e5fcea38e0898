"""What would have gone where: counted once each, in bounded memory, on a page that stands alone."""

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path

import pytest

from handler import charts, replay
from handler.cli import main
from handler.offline import LocalRouter
from handler.replay import Prices, Replay, page
from tests.models import TASKS, make_toy

Captured = pytest.CaptureFixture[str]
PRICES = {"fast": 1.0, "slow": 10.0}


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> LocalRouter:
    return LocalRouter.open(make_toy(tmp_path_factory.mktemp("toy")))


def replayed(folder: Path, local: LocalRouter, lines: Iterator[str] | list[str]) -> Replay:
    path = folder / "log.jsonl"
    path.write_text("\n".join(lines))
    found = Replay(local.policy, PRICES)
    found.add(path, local)
    return found


def line(text: str, **members: str) -> str:
    more = "".join(f', "{name}": {value}' for name, value in members.items())
    return f'{{"text": "{text}"{more}}}'


def test_every_query_is_counted_where_it_would_have_gone(tmp_path: Path, local: LocalRouter) -> None:
    found = replayed(tmp_path, local, [line("coding")] * 3 + [line("summarization")] * 2)

    assert found.by_tier == [2, 3]
    assert found.by_task == {"coding": [0, 3], "summarization": [2, 0]}


def test_money_is_counted_by_the_thousand(tmp_path: Path, local: LocalRouter) -> None:
    found = replayed(tmp_path, local, [line("coding")] * 300 + [line("summarization")] * 700)

    assert found.total.cost == pytest.approx(0.7 * 1 + 0.3 * 10)
    assert found.total.cost_last == pytest.approx(10)


def test_money_saved_and_risked_by_task_and_by_day_sums_to_all_of_it(
    tmp_path: Path, local: LocalRouter
) -> None:
    texts = ["summarization", "coding", "closed_qa", "summarization of this"]

    found = replayed(
        tmp_path,
        local,
        [line(texts[i % 4], time=f'"2026-11-{20 + i % 3}"') for i in range(60)] + [line("closed_qa")],
    )

    assert found.total.risked > 0
    for groups in (found.tasks, found.days):
        assert len(groups) > 2
        for member in ("queries", "cost", "saved", "expected_wrong", "risked"):
            summed = sum(getattr(group, member) for group in groups)
            assert summed == pytest.approx(getattr(found.total, member))


def test_a_task_risks_what_asking_the_last_tier_again_costs_where_it_goes_to_the_first(
    tmp_path: Path, local: LocalRouter
) -> None:
    found = replayed(tmp_path, local, [line("summarization")] * 500 + [line("coding")] * 500)

    need = local.classify_one("summarization").need
    risked = {task.name: task.risked for task in found.tasks}
    assert risked == {"summarization": pytest.approx(500 * need * 10 / 1000), "coding": 0.0}


@pytest.mark.parametrize("price", [0.9, 0.1, 7.3])
def test_a_task_that_goes_to_the_last_tier_saves_nothing_not_minus_nothing(
    price: float, tmp_path: Path, local: LocalRouter
) -> None:
    found = replayed(tmp_path, local, [line("coding")] * 198)
    found.prices["slow"] = price

    (task,) = found.tasks
    assert task.saved == 0
    assert "-0.00" not in found.summary()


def test_the_terminal_and_the_page_show_the_same_money_by_task_and_by_day(
    tmp_path: Path, local: LocalRouter
) -> None:
    found = replayed(tmp_path, local, [line("summarization", time='"2026-11-26"')] * 5000)
    found.prices["slow"] = 1e6

    (day,) = found.days
    saved, risked = charts.amount(day.saved), charts.amount(day.risked)
    assert float(risked) > 0
    for name in ("summarization", "2026-11-26"):
        assert re.search(rf"{name} +5,000 +100.0% +0.0% +{saved} +{risked}", found.summary())
        assert f"<td>{saved}</td><td>{risked}</td></tr>" in shown(found).partition(f"<td>{name}</td>")[2]


def test_queries_are_counted_by_day(tmp_path: Path, local: LocalRouter) -> None:
    found = replayed(
        tmp_path, local, [line("coding", time='"2026-11-26T23:00:00Z"'), line("coding", time='"2026-11-27"')]
    )

    assert found.by_day == {"2026-11-26": [0, 1], "2026-11-27": [0, 1]}


def test_a_body_that_holds_nothing_to_read_goes_to_the_last_tier(tmp_path: Path, local: LocalRouter) -> None:
    image = '{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}'

    found = replayed(tmp_path, local, [line("summarization"), image])

    assert found.by_task == {"summarization": [1, 0], replay.UNREAD: [0, 1]}


def test_a_query_that_the_gateway_refuses_is_named_and_stops_nothing(
    tmp_path: Path, local: LocalRouter
) -> None:
    found = replayed(tmp_path, local, [line("coding"), line(""), line("coding")])

    assert (found.rows, found.refused) == (2, 1)
    assert f"{tmp_path / 'log.jsonl'}:2: its text is empty" in found.summary()
    assert "<b>1</b>refused, as a gateway would" in shown(found)


def test_a_text_of_white_space_goes_where_the_gateway_sends_it(tmp_path: Path, local: LocalRouter) -> None:
    found = replayed(tmp_path, local, [line("   ")])

    decision = local.classify_one("   ")
    assert found.by_task[decision.task][int(decision.label)] == 1
    assert found.refused == 0


def test_outcomes_say_what_the_routes_would_have_been_worth(tmp_path: Path, local: LocalRouter) -> None:
    found = replayed(
        tmp_path,
        local,
        [line("summarization", small="0.5", large="1"), line("coding", small="0", large="1")],
    )

    assert found.quality == [0.5, 1.5, 2.0]
    assert found.wrong == 1


def test_outcomes_count_for_the_last_tier_where_there_is_nothing_to_read(
    tmp_path: Path, local: LocalRouter
) -> None:
    found = replayed(tmp_path, local, ['{"messages": [], "small": 0.25, "large": 0.5}'])

    assert (found.judged, found.quality) == (1, [0.25, 0.5, 0.5])


def test_the_queries_nearest_to_the_line_are_kept_once_each(
    tmp_path: Path, local: LocalRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "NEAR_MAX", 3)
    texts = [f"summarization {'word ' * n}" for n in range(8)] * 2

    found = replayed(tmp_path, local, [line(text) for text in texts])

    boundary = local.policy.boundaries()[0]
    every = {text: abs(local.classify_one(text).need - boundary) for text in texts}
    nearest = sorted(every.values())[:3]
    assert [abs(need - boundary) for _, _, need, _ in found.near] == pytest.approx(nearest, abs=1e-5)


def test_days_without_end_are_bounded(
    tmp_path: Path, local: LocalRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "DAYS_MAX", 5)

    found = replayed(tmp_path, local, [line("coding", time=f'"2026-01-{day:02d}"') for day in range(1, 29)])

    assert len(found.by_day) == 6
    assert sum(sum(counts) for counts in found.by_day.values()) == 28


class Tags(HTMLParser):
    """Collects tags and attributes, and what is open at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def shown(found: Replay, *, texts: bool = True) -> str:
    return page(found, title="Replay of <log>", model="0123456789ab", texts=texts)


def test_a_page_stands_alone(tmp_path: Path, local: LocalRouter) -> None:
    html = shown(replayed(tmp_path, local, [line("coding", time='"2026-11-26"')]))

    tags = Tags()
    tags.feed(html)
    assert tags.open == []
    assert not tags.names & {"script", "link", "img", "iframe", "object", "form", "a"}
    assert not tags.attributes & {"src", "href", "action", "onload"}
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", html)


def test_what_a_query_says_is_text_on_the_page_and_nothing_else(tmp_path: Path, local: LocalRouter) -> None:
    html = shown(replayed(tmp_path, local, [line("<script>alert(1)</script><img src=x> coding")]))

    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_texts_can_be_left_out_of_the_page(tmp_path: Path, local: LocalRouter) -> None:
    html = shown(replayed(tmp_path, local, [line("coding of a secret")]), texts=False)

    assert "secret" not in html
    assert "1 queries; their texts were left out" in html


def test_a_page_without_a_query_by_day_says_nothing_of_days(tmp_path: Path, local: LocalRouter) -> None:
    assert "By day" not in shown(replayed(tmp_path, local, [line("coding")]))


@pytest.mark.parametrize(
    ("prices", "told"),
    [
        (Prices(None, 5.0, {}), "no price for fast"),
        (Prices(1.0, 5.0, {"middle": 2.0}), "--price middle: not a tier; accepted: fast, slow"),
        (Prices(-1.0, 5.0, {}), "the price of fast is -1.0; accepted"),
        (Prices(1.0, float("nan"), {}), "the price of slow is nan; accepted"),
    ],
)
def test_prices_that_do_not_fit_the_policy_are_refused(prices: Prices, told: str, local: LocalRouter) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        prices.of(local.policy)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> LocalRouter:
    """A router with three tiers; coding goes to the one in the middle."""
    folder = tmp_path_factory.mktemp("three")
    tiers = [("s", 0.2), ("m", 0.6), ("l", 1.0)]
    tables = [f"[[tier]]\nname = '{name}'\nneed_max = {need_max}" for name, need_max in tiers]
    (folder / "policy.toml").write_text("\n".join(["[need]", "coding = 0.4", *tables]))
    return LocalRouter.open(make_toy(folder / "toy"), policy_file=folder / "policy.toml")


def test_a_tier_between_the_first_and_the_last_has_a_price_of_its_own(three: LocalRouter) -> None:
    prices = Prices(1.0, 9.0, {"m": 3.0}).of(three.policy)

    assert Replay(three.policy, prices).cost([1000, 1000, 1000]) == 13.0


def test_a_tier_between_the_first_and_the_last_without_a_price_is_refused(three: LocalRouter) -> None:
    with pytest.raises(ValueError, match="no price for m; say --price m="):
        Prices(1.0, 9.0, {}).of(three.policy)


def test_no_outcome_is_credited_to_a_tier_that_the_rows_tell_nothing_of(
    tmp_path: Path, three: LocalRouter
) -> None:
    path = tmp_path / "log.jsonl"
    lines = [line(word, small="0.25", large="0.5") for word in ("summarization", "coding", "reasoning")]
    path.write_text("\n".join(lines))
    found = Replay(three.policy, Prices(1.0, 9.0, {"m": 3.0}).of(three.policy))

    found.add(path, three)

    assert found.by_tier == [1, 1, 1]
    assert (found.judged, found.quality) == (2, [0.5, 0.75, 1.0])
    told = "ot known: how good the answers of m are; no risk is counted for these 1 queries, and the 1 of them with outcomes"
    assert told in found.summary()
    assert told in shown(found)
    assert "by the outcomes of 2 rows: quality 0.375" in found.summary()
    assert f"wrongly to {three.policy.names[0]}: 50.0%" in found.summary()


def test_the_command_prints_the_finding_and_writes_the_page(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_PATH", str(make_toy(tmp_path / "toy")))
    log, out = tmp_path / "log.csv", tmp_path / "page.html"
    log.write_text("text,time\n" + "".join(f"{TASKS[i % 10]},2026-11-{i % 9 + 10}\n" for i in range(50)))

    code = main(["replay", str(log), "--price-small", "1", "--price-large", "10", "--out", str(out)])

    assert code == 0
    assert "saved: 0.18 (36.0%)" in capsys.readouterr().out
    assert "Replay of log.csv" in out.read_text()


def test_the_command_without_prices_says_which_are_missing(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_PATH", str(make_toy(tmp_path / "toy")))
    (tmp_path / "log.jsonl").write_text(line("coding"))

    assert main(["replay", str(tmp_path / "log.jsonl"), "--price-large", "10"]) == 2

    assert "no price for fast" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["replay", "calibrate"])
@pytest.mark.parametrize(
    ("place", "told"), [("", "is a folder; accepted: the name of a file"), ("gone/x", "there is no folder")]
)
def test_a_place_that_cannot_be_written_is_refused_before_the_file_is_read(
    command: str, place: str, told: str, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_PATH", str(make_toy(tmp_path / "toy")))

    assert main([command, str(tmp_path / "not-read.jsonl"), "--out", str(tmp_path / place)]) == 2

    assert told in capsys.readouterr().err


def test_a_log_that_is_not_there_is_named_with_what_is_wrong(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_PATH", str(make_toy(tmp_path / "toy")))
    log, out = str(tmp_path / "gone.jsonl"), str(tmp_path / "page.html")

    assert main(["replay", log, "--price-small", "1", "--price-large", "10", "--out", out]) == 1

    assert capsys.readouterr().err == f"query-gateway: {log}: No such file or directory\n"


@pytest.mark.parametrize("command", ["replay", "calibrate"])
def test_the_file_that_is_read_is_not_written_over(
    command: str, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_PATH", str(make_toy(tmp_path / "toy")))
    log = tmp_path / "log.jsonl"
    log.write_text(line("coding"))

    assert main([command, str(log), "--out", str(log)]) == 2

    assert "is the file that is read" in capsys.readouterr().err
    assert log.read_text() == line("coding")


def test_a_page_that_cannot_be_written_whole_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_PATH", str(make_toy(tmp_path / "toy")))
    log, out = tmp_path / "log.jsonl", tmp_path / "page.html"
    log.write_text(line("coding"))
    out.write_text("the old page")
    monkeypatch.setattr(Path, "write_text", _full_disk)

    assert main(["replay", str(log), "--price-small", "1", "--price-large", "10", "--out", str(out)]) == 1

    assert out.read_text() == "the old page"
    assert [path.name for path in tmp_path.glob(".page*")] == []


def _full_disk(path: Path, *_: object, **__: object) -> int:
    path.touch()
    raise OSError(28, "No space left on device", str(path))


@pytest.mark.parametrize(
    ("prices", "told"),
    [
        (["--price-small", "1"], "no price for slow; say --price-large="),
        (["--price", "middle=1"], "--price middle: not a tier; accepted: fast, slow"),
        (["--price-small", "-5", "--price-large", "1"], "accepted: a number, at least 0"),
        (["--price-small", "1", "--price-large", "nan"], "accepted: a number, at least 0"),
    ],
)
def test_prices_of_calibrate_are_refused_as_those_of_replay(
    prices: list[str], told: str, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_PATH", str(make_toy(tmp_path / "toy")))
    log = tmp_path / "log.jsonl"
    log.write_text(line("coding") * 30)

    assert main(["calibrate", str(log), "--fast-share", "0.3", *prices]) == 2

    assert told in capsys.readouterr().err


def test_a_page_that_shows_a_part_of_the_days_says_so(
    tmp_path: Path, local: LocalRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [line("coding", time=f'"2026-01-{day:02d}"') for day in range(1, 7)]
    whole = shown(replayed(tmp_path, local, lines))

    monkeypatch.setattr(replay, "DAYS_DRAWN", 4)
    monkeypatch.setattr(replay, "DAYS_LISTED", 5)
    part = shown(replayed(tmp_path, local, lines))

    assert " days" not in whole
    assert "The picture shows the last 4 of 6 days." in part
    assert "The table shows the last 5 of 6 days; the terminal shows all." in part


def test_nothing_takes_the_place_of_the_policy_in_force_or_of_the_one_just_written(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_PATH", str(make_toy(tmp_path / "toy")))
    log, policy = tmp_path / "log.jsonl", tmp_path / "policy.toml"
    log.write_text(line("coding"))
    policy.write_text('source = "tasks"')
    monkeypatch.setenv("POLICY_FILE", str(policy))
    prices = ["--price-small", "1", "--price-large", "2"]
    new = str(tmp_path / "new.toml")

    for arguments, told in (
        (["replay", str(log), *prices, "--out", str(policy)], "--out .*policy.toml is POLICY_FILE"),
        (["calibrate", str(log), "--svg", str(policy)], "--svg .*policy.toml is POLICY_FILE"),
        (["calibrate", str(log), "--out", new, "--svg", new], "--svg .*new.toml is --out"),
    ):
        assert main(arguments) == 2
        assert re.search(told, capsys.readouterr().err)
    assert policy.read_text() == 'source = "tasks"'


def test_a_log_of_which_a_part_has_outcomes_is_judged_by_that_part(
    tmp_path: Path, local: LocalRouter
) -> None:
    found = replayed(
        tmp_path, local, [line("summarization", small="0", large="1")] * 3 + [line("summarization")] * 5
    )

    assert "by the outcomes of 3 rows: quality 0.000" in found.summary()
    assert "wrongly to fast: 100.0%" in found.summary()


def test_a_price_that_is_said_twice_is_refused(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_PATH", str(make_toy(tmp_path / "toy")))
    (tmp_path / "log.jsonl").write_text(line("coding"))
    prices = ["--price", "fast=1", "--price", "fast=5", "--price-large", "2"]

    assert main(["replay", str(tmp_path / "log.jsonl"), *prices, "--out", str(tmp_path / "r.html")]) == 2

    assert "--price fast is said twice" in capsys.readouterr().err


def test_a_log_whose_name_is_not_utf8_gets_its_page(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_PATH", str(make_toy(tmp_path / "toy")))
    log = tmp_path / os.fsdecode(b"log\xff.jsonl")
    log.write_text(line("coding"))
    prices = ["--price-small", "1", "--price-large", "2"]

    assert main(["replay", str(log), *prices, "--out", str(tmp_path / "replay.html")]) == 0

    assert "Replay of log\ufffd.jsonl" in (tmp_path / "replay.html").read_text()


def test_a_page_may_go_down_a_pipe(tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_PATH", str(make_toy(tmp_path / "toy")))
    log, pipe = tmp_path / "log.jsonl", tmp_path / "pipe"
    log.write_text(line("coding"))
    os.mkfifo(pipe)
    prices = ["--price-small", "1", "--price-large", "2"]

    with ThreadPoolExecutor() as reader:
        page_read = reader.submit(pipe.read_text)
        assert main(["replay", str(log), *prices, "--out", str(pipe)]) == 0

        assert page_read.result(timeout=30).startswith("<!doctype html>")
    assert pipe.is_fifo()
