"""What docs/need-and-cost.md says of memory and CPU is made by a command: here in small."""

import json
from pathlib import Path

import pytest

from handler import calibrate
from handler.model import load
from handler.offline import LocalRouter
from lab import need
from tests.models import TASKS, make_toy


def test_a_log_holds_as_many_different_texts_as_was_said_over_a_month(tmp_path: Path) -> None:
    need.write_log(tmp_path / "log.jsonl", rows=300, different=40)

    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert (len(rows), len({row["text"] for row in rows})) == (300, 40)
    assert len({row["time"] for row in rows}) == need.DAYS


def test_a_replay_says_what_memory_it_took_at_most(tmp_path: Path) -> None:
    cost = need.replayed(rows=200, different=20, model=make_toy(tmp_path / "toy"))

    assert 20 < cost.memory_mb < 1000
    assert cost.cpu_s > 0


def test_cpu_is_compared_round_by_round_on_texts_of_the_wished_length(tmp_path: Path) -> None:
    router = load(make_toy(tmp_path / "toy"))

    found = need.ratios(router, router, tokens=19, rounds=3)

    assert len(found) == 3
    assert all(ratio > 0 for ratio in found)


def test_a_wished_share_is_held_against_texts_that_it_was_not_chosen_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrate, "RESAMPLES", 5)
    texts = [f"{TASKS[i % len(TASKS)]} of {'matter ' * (i // len(TASKS))}" for i in range(200)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts * 2))

    found = need.shares(tmp_path / "rows.jsonl", LocalRouter.open(make_toy(tmp_path / "toy")))

    assert [wished for wished, _ in found] == list(need.SHARES)
    assert all(0 <= sent <= 1 for _, sent in found)
