"""Files of queries: every bad row is named by its line, and no row is read in another's sense."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from handler.errors import ValidationError
from handler.rows import BadRows, Row, check, read
from handler.wires import native


def written(folder: Path, content: str | bytes, name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows(folder: Path, content: str | bytes, name: str = "rows.jsonl") -> list[Row]:
    path = written(folder, content, name)
    check(path)
    return list(read(path))


def refusal(folder: Path, content: str | bytes, name: str = "rows.jsonl", **options: Any) -> str:
    with pytest.raises(BadRows) as refused:
        check(written(folder, content, name), **options)
    return str(refused.value)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ('{"text": "hi"}', "hi"),
        ('{"prompt": "hi"}', "hi"),
        ('{"query": "hi", "other": [1]}', "hi"),
        ('{"model": "m", "messages": [{"role": "user", "content": "hi"}]}', "hi"),
        ('{"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]}', "hi"),
        ('{"input": "hi"}', "hi"),
        ('{"input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}]}', "hi"),
        ('{"custom_id": "1", "body": {"messages": [{"role": "user", "content": "hi"}]}}', "hi"),
        ('{"request": "{\\"messages\\": [{\\"role\\": \\"user\\", \\"content\\": \\"hi\\"}]}"}', "hi"),
    ],
)
def test_a_text_is_found_where_logs_and_request_bodies_keep_it(line: str, text: str, tmp_path: Path) -> None:
    (row,) = rows(tmp_path, line)

    assert text in row.text


def test_a_csv_is_read_by_its_header(tmp_path: Path) -> None:
    content = 'text,small,large,time\n"a ""b"",\nc",0,1,2026-11-26T10:00:00Z\nd,0.5,0.25,1764115200\n'

    found = rows(tmp_path, content, "rows.csv")

    assert found == [
        Row(2, 'a "b",\nc', None, 0.0, 1.0, "2026-11-26"),
        Row(4, "d", None, 0.5, 0.25, "2025-11-26"),
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_csv_may_be_cut_as_spreadsheets_cut_it(delimiter: str, tmp_path: Path) -> None:
    (row,) = rows(tmp_path, f"task{delimiter}text\r\ncoding{delimiter}hi\r\n", "rows.csv")

    assert (row.text, row.task) == ("hi", "coding")


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.csv.gz"])
def test_a_packed_file_is_read_as_the_file_that_it_holds(name: str, tmp_path: Path) -> None:
    content = '{"text": "hi"}\n' if "jsonl" in name else "text\nhi\n"

    (row,) = rows(tmp_path, gzip.compress(content.encode()), name)

    assert row.text == "hi"


@pytest.mark.parametrize(
    ("content", "line", "told"),
    [
        ('{"text": "a"}\n\n{"other": ""}', 3, "no text; accepted"),
        ('{"text": 5}', 1, "no text; accepted"),
        ('{"text": "a"}\n{"text": "b"', 2, "no JSON object on one line"),
        ('["a"]', 1, "a row that is no JSON object"),
        (b'{"text": "\xff"}', 1, "no JSON object on one line: bytes that are not UTF-8"),
        ('{"text": "\\ud83d"}', 1, "no JSON object on one line"),
        ('{"text": "a", "small": "much", "large": 1}', 1, "small is a string; accepted: how good"),
        ('{"text": "a", "small": 0, "large": 1.01}', 1, "large is 1.01; accepted: how good"),
        ('{"text": "a", "small": -0.1, "large": 1}', 1, "small is -0.1; accepted: how good"),
        ('{"text": "a", "small": 1}', 1, "one of small and large; accepted: both or neither"),
        ('{"text": "a", "task": 3}', 1, "a task that is 3; accepted: its name"),
        ('{"text": "a", "time": "yesterday"}', 1, "a time that is a string; accepted: ISO 8601"),
        ('{"text": "a", "task": "x"}\n{"text": "b"}', 2, "this row has no task, and others have"),
        (
            '{"text": "a"}\n{"text": "b", "small": 1, "large": 1}',
            1,
            "this row has no outcomes, and others have",
        ),
        ("", 1, "no row at all"),
        ("\n\n", 1, "no row at all"),
        (b"\x1f\x8bnot gzip", 1, "this is no gzip to its end"),
    ],
)
def test_a_bad_row_is_named_by_its_line(content: str | bytes, line: int, told: str, tmp_path: Path) -> None:
    message = refusal(tmp_path, content)

    assert message.startswith(f"{tmp_path / 'rows.jsonl'}:{line}: ")
    assert told in message


@pytest.mark.parametrize(
    ("content", "line", "told"),
    [
        ("a,b\n1,2\n", 1, "a header without a text column; accepted: one of text, prompt"),
        ("text,small,large\nhi,1\n", 2, "2 cells under a header of 3"),
        ("text,small,large\nhi,1,1\n\nho,2,1\n", 4, "small is a string; accepted"),
        (b"text\nfine\n\xff\xfe\n", 3, "a text that is not UTF-8"),
    ],
)
def test_a_bad_row_of_csv_is_named_by_its_line(
    content: str | bytes, line: int, told: str, tmp_path: Path
) -> None:
    message = refusal(tmp_path, content, "rows.csv")

    assert message.startswith(f"{tmp_path / 'rows.csv'}:{line}: ")
    assert told in message


@pytest.mark.parametrize(
    ("name", "content", "line", "why"),
    [
        ("rows.jsonl", '{"text": "a"}\n\n{"text": ""}', 3, "its text is empty"),
        ("rows.jsonl", '{"body": {"prompt": ""}}\n{"text": "a"}', 1, "its text is empty"),
        ("rows.jsonl", '{"text": "a"}\n{"messages": [3]}', 2, "every message must be"),
        ("rows.jsonl", '{"text": "a"}\n{"messages": "secret"}', 2, "messages is a string; accepted: a list"),
        ("rows.csv", "text,time\na,2026-11-26\n,2026-11-27\n", 3, "its text is empty"),
    ],
)
def test_a_query_that_a_gateway_refuses_is_named_by_its_line_and_left_out(
    name: str, content: str, line: int, why: str, tmp_path: Path
) -> None:
    path = written(tmp_path, content, name)

    summary = check(path)

    assert (summary.rows, summary.refused) == (1, 1)
    assert summary.refusals[0].startswith(f"{path}:{line}: ")
    assert why in summary.refusals[0]
    assert "secret" not in summary.told()
    assert [row.text for row in read(path)] == ["a"]


@pytest.mark.parametrize("body", ['{"text": ""}', '{"text": "  "}', '{"prompt": ""}', '{"prompt": "\\n"}',
                                  '{"input": ""}', '{"input": " "}', '{"input": []}', '{"messages": []}',
                                  '{"messages": [{"role": "user", "content": " "}]}',
                                  '{"messages": [{"role": "user"}]}', '{"messages": [3]}'])  # fmt: skip
def test_a_row_is_refused_just_where_the_gateway_refuses_its_body(body: str, tmp_path: Path) -> None:
    path = written(tmp_path, body + '\n{"text": "a"}')
    try:
        asked = native.one(native.read(body.encode()))
    except ValidationError:
        asked = None

    summary = check(path)

    assert summary.refused == (asked is None)
    assert [row.text for row in read(path)] == [*([asked.text] if asked else []), "a"]


def test_all_refused_queries_are_counted_but_only_some_are_named(tmp_path: Path) -> None:
    told = check(written(tmp_path, '{"text": "a"}\n' + '{"text": ""}\n' * 50)).told()

    assert len(told.splitlines()) == 22
    assert told.endswith("and 30 more")


def test_a_file_of_refused_queries_alone_is_no_file_of_rows(tmp_path: Path) -> None:
    assert "its text is empty" in refusal(tmp_path, '{"text": ""}')


def test_all_bad_rows_are_counted_but_only_some_are_named(tmp_path: Path) -> None:
    message = refusal(tmp_path, "nonsense\n" * 50)

    assert len(message.splitlines()) == 21
    assert message.endswith("and 30 more")


def test_a_message_never_repeats_a_text(tmp_path: Path) -> None:
    message = refusal(tmp_path, '{"text": "a secret ask", "small": "a secret", "time": "secret", "large": 1}')

    assert "secret" not in message


def test_a_task_that_the_model_does_not_know_is_answered_with_those_there_are(tmp_path: Path) -> None:
    rows = '{"text": "a", "task": "coding"}\n{"text": "coding", "task": "a secret ask"}'

    message = refusal(tmp_path, rows, tasks={"coding": 1, "reasoning": 1})

    assert message.endswith(":2: its task is none of this model's; accepted: coding, reasoning")
    assert "secret" not in message


@settings(deadline=None)
@example(b'{"messages":0}')
@given(st.binary(max_size=300))
def test_no_bytes_whatever_are_more_than_refused(content: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for name in ("rows.jsonl", "rows.csv", "rows"):
            path = written(Path(folder), content, name)
            told = f"{path}:"
            try:
                check(path)
            except BadRows as exc:
                told = str(exc)

            assert f"{path}:" in told


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_a_text_comes_back_as_it_was_written(text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (row,) = rows(Path(folder), json.dumps({"text": text}))

    assert row.text == text


def test_a_quote_that_is_never_closed_is_named_and_swallows_no_rows(tmp_path: Path) -> None:
    content = "text\n" + "one\n" * 5 + '"two\n' + "three\n" * 5

    assert ":7: no row of CSV" in refusal(tmp_path, content, "rows.csv")


def test_a_csv_may_hold_request_bodies(tmp_path: Path) -> None:
    (row,) = rows(tmp_path, 'id,body\n1,"{""input"": ""hi""}"\n', "rows.csv")

    assert "hi" in row.text


def test_an_input_that_begins_like_a_list_is_a_text(tmp_path: Path) -> None:
    (row,) = rows(tmp_path, '{"input": "[1,2,3] sort these numbers"}\n')

    assert "sort these numbers" in row.text


@pytest.mark.parametrize(
    ("when", "day"),
    [
        ('"20261126"', "2026-11-26"),
        ("20261126", "2026-11-26"),
        ('"2026-11-26T23:30:00-08:00"', "2026-11-27"),
        ('"2026-11-27T07:30:00Z"', "2026-11-27"),
        ('"2026-11-26T23:30:00"', "2026-11-26"),
    ],
)
def test_one_instant_is_on_one_day(when: str, day: str, tmp_path: Path) -> None:
    (row,) = rows(tmp_path, f'{{"text": "hi", "time": {when}}}\n')

    assert row.day == day
