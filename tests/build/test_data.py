"""The split is law, and only the rows that we know are trained on."""

import gzip
import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import data
import pytest
from data import DataError, Source

ROWS: list[dict[str, object]] = [{"text": "b ö"}, {"text": "a"}]
SOURCE = Source("stand-in", ("text",), "text", data.canonical_digest(ROWS, ("text",)), hub_name="some/set")


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

    assert data.canonical_digest(ROWS, ("text",)) == hashlib.sha256(written_out.encode()).hexdigest()


def test_a_row_is_on_the_test_side_by_the_hash_of_its_folded_text() -> None:
    texts = [f"  Text   Number\n{i} " for i in range(200)]

    for text in texts:
        folded = " ".join(text.strip().lower().split())
        by_law = int(hashlib.sha256(folded.encode()).hexdigest(), 16) % 10 < 2
        assert (data.side(text) == "test") == by_law


def test_rows_with_the_known_digest_are_read_from_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_DIR", str(in_folder(tmp_path, ROWS)))

    assert data.read(SOURCE) == ROWS


def test_rows_with_another_digest_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", str(in_folder(tmp_path, ROWS[:1])))

    with pytest.raises(DataError, match=r"stand-in: these are not the rows we know .*1 rows"):
        data.read(SOURCE)


def test_rows_with_the_known_digest_are_read_from_a_hub_in_any_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DATA_DIR", raising=False)
    monkeypatch.setitem(sys.modules, "datasets", hub_of(ROWS[::-1]))

    assert data.read(SOURCE) == ROWS[::-1]


def test_rows_with_another_digest_are_refused_from_a_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATA_DIR", raising=False)
    monkeypatch.setitem(sys.modules, "datasets", hub_of([{"text": "changed"}]))

    with pytest.raises(DataError, match="not the rows we know"):
        data.read(SOURCE)


def test_a_source_on_no_hub_asks_for_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATA_DIR", raising=False)

    with pytest.raises(DataError, match="set DATA_DIR"):
        data.read(replace(SOURCE, hub_name=None))


def test_an_instruction_with_two_categories_is_on_no_side() -> None:
    def row(instruction: str, category: str) -> dict[str, object]:
        return {"instruction": instruction, "context": "", "response": "", "category": category}

    rows = [row("Name it", "open_qa"), row("name  IT ", "general_qa"), row("Sum it up", "summarization")]

    assert [prompt.ask for prompt in data._dolly("dolly", rows)] == ["Sum it up"]
