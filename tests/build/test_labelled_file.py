"""A user's bad rows are named by line before anything is trained."""

from pathlib import Path

import pytest
from router_training import labelled_file
from router_training.sources import DataError, side
from tiny_world import rows, run, write_rows


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"task": "tracking"}', "no text"),
        ('{"text": "  ", "task": "tracking"}', "no text"),
        ('{"text": "where is it", "task": 3}', "no task"),
        ('{"text": "where is it", "label": "x", "task": "tracking"}', "unknown key label"),
        ('["where is it", "tracking"]', "not an object"),
        ("where is it", "not JSON"),
        ('{"text": "Where is my  PARCEL number 0", "task": "complaint"}', "the same text as line 1"),
    ],
)
def test_a_bad_row_is_reported_by_its_line_number(tmp_path: Path, line: str, fault: str) -> None:
    path = write_rows(tmp_path / "mine.jsonl", [*rows(), line])

    with pytest.raises(DataError, match=f"line 61: {fault}"):
        labelled_file.read(path)


def test_every_bad_row_is_reported_at_once(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "mine.jsonl", [*rows(), "oops", "{}"])

    with pytest.raises(DataError) as refused:
        labelled_file.read(path)

    assert "line 61:" in str(refused.value)
    assert "line 62:" in str(refused.value)


def test_rows_of_one_task_alone_are_refused(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "mine.jsonl", [{"text": f"where {i}", "task": "tracking"} for i in range(9)])

    with pytest.raises(DataError, match="lines 1 to 9: all are 'tracking'; at least two tasks"):
        labelled_file.read(path)


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "mine.jsonl", ["", "  "])

    with pytest.raises(DataError, match="no row in it"):
        labelled_file.read(path)


def test_two_copies_of_a_text_are_on_one_side_whatever_their_case() -> None:
    assert side("Where is my  parcel?") == side(" where is my parcel? ")


@pytest.mark.parametrize("fast", ["", "tracking,complaint,account"])
def test_a_policy_with_one_route_is_refused_before_training(tmp_path: Path, fast: str) -> None:
    path = write_rows(tmp_path / "mine.jsonl", [*rows()])

    done = run("train.py", "--data", path, "--fast-tasks", fast, "--out", tmp_path / "out")

    assert done.returncode == 1
    assert "with one route there is nothing to decide" in done.stderr


def test_training_on_bad_rows_ends_without_a_traceback(tmp_path: Path, tiny_base: Path) -> None:
    path = write_rows(tmp_path / "mine.jsonl", [*rows(), '{"task": "tracking"}'])

    done = run("train.py", "--data", path, "--base", tiny_base, "--out", tmp_path / "out")

    assert done.returncode == 1
    assert "line 61: no text" in done.stderr
    assert "Traceback" not in done.stderr
