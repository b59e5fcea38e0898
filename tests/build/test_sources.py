"""The split is law, and only the rows that we know are trained on."""

import gzip
import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from router_training import sources
from router_training.sources import DataError, Source
from router_training.tasks import TASKS

ROWS: list[dict[str, object]] = [{"text": "b ö"}, {"text": "a"}]
SOURCE = Source("stand-in", ("text",), "text", sources.canonical_digest(ROWS, ("text",)), hub_name="some/set")


def in_folder(folder: Path, rows: list[dict[str, object]]) -> Path:
    with gzip.open(folder / SOURCE.file_name, "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)
    return folder


def hub_of(rows: list[dict[str, object]]) -> ModuleType:
    hub = ModuleType("datasets")
    hub.load_dataset = lambda name, config, split: rows  # type: ignore[attr-defined]
    return hub


def test_the_digest_is_the_one_that_the_data_readme_defines() -> None:
    written_out = '{"text":"a"}\n{"text":"b ö"}'

    assert sources.canonical_digest(ROWS, ("text",)) == hashlib.sha256(written_out.encode()).hexdigest()


def test_a_row_is_on_the_test_side_by_the_hash_of_its_folded_text() -> None:
    texts = [f"  Text   Number\n{i} " for i in range(200)]

    for text in texts:
        folded = " ".join(text.strip().lower().split())
        by_law = int(hashlib.sha256(folded.encode()).hexdigest(), 16) % 10 < 2
        assert (sources.side(text) == "test") == by_law


def test_rows_with_the_known_digest_are_read_from_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_DIR", str(in_folder(tmp_path, ROWS)))

    assert sources.read(SOURCE) == ROWS


def test_rows_with_another_digest_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", str(in_folder(tmp_path, ROWS[:1])))

    with pytest.raises(DataError, match=r"stand-in: these are not the rows we know .*1 rows"):
        sources.read(SOURCE)


def test_rows_with_the_known_digest_are_read_from_a_hub_in_any_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DATA_DIR", raising=False)
    monkeypatch.setitem(sys.modules, "datasets", hub_of(ROWS[::-1]))

    assert sources.read(SOURCE) == ROWS[::-1]


def test_rows_with_another_digest_are_refused_from_a_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATA_DIR", raising=False)
    monkeypatch.setitem(sys.modules, "datasets", hub_of([{"text": "changed"}]))

    with pytest.raises(DataError, match="not the rows we know"):
        sources.read(SOURCE)


def test_a_source_on_no_hub_asks_for_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATA_DIR", raising=False)

    with pytest.raises(DataError, match="set DATA_DIR"):
        sources.read(replace(SOURCE, hub_name=None))


def test_an_instruction_with_two_categories_is_on_no_side() -> None:
    def row(instruction: str, category: str) -> dict[str, object]:
        return {"instruction": instruction, "context": "", "response": "", "category": category}

    rows = [row("Name it", "open_qa"), row("name  IT ", "general_qa"), row("Sum it up", "summarization")]

    assert [prompt.ask for prompt in sources._dolly("dolly", rows)] == ["Sum it up"]


def test_a_pair_is_on_one_side_whole() -> None:
    sides: dict[str, set[str]] = {}
    for prompt in sources.own_prompts():
        if prompt.pair:
            sides.setdefault(prompt.pair, set()).add(prompt.side)

    assert all(len(found) == 1 for found in sides.values())


def test_no_prompt_of_ours_is_on_two_sides() -> None:
    sides: dict[str, set[str]] = {}
    for prompt in sources.own_prompts():
        sides.setdefault(sources.prompt_digest(prompt.text), set()).add(prompt.side)

    assert not [digest for digest, found in sides.items() if len(found & {"test", "train"}) > 1]


def test_a_correction_names_a_task_of_ours_by_a_prompts_digest() -> None:
    for digest, task in sources.corrections().items():
        assert task in TASKS
        assert len(digest) == 16
