"""Files of queries, with or without labels: what `calibrate`, `replay` and learning read.

JSON lines, one object each, or CSV with a header line; `.gz` of either.

    text | prompt | query   the query as its user wrote it
    messages, input, body   or a request body as OpenAI's and Anthropic's APIs take it
    task                    its true task, or the route it should have taken
    small, large            how good a small and a large model's answer was, 0 to 1
    group                   its subject or data set; only measuring reads it
    time                    when it was asked: ISO 8601, or seconds since 1970

`check` reads a file to its end and names every bad row by its line before anything is
computed; `read` then gives the rows, one at a time. Both take constant memory. A query that
a gateway refuses (its text is empty, its messages are none) is no bad row: it is counted and
named by its line, and left out.
"""

import csv
import gzip
import io
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import IO, Any

import msgspec

TEXT = ("text", "prompt", "query", "question", "instruction")
BODY = ("body", "request")
CONVERSATION = ("messages", "input")
TASK = ("task",)
GROUP = ("group",)
TIME = ("time", "timestamp", "date", "created_at", "created", "ts")
# So many bad rows are named; their number is told whole.
NAMED_MAX = 20
# A row longer than this is no query.
ROW_BYTES_MAX = 16_000_000
YEARS = (1970, 2200)
COMPACT_DATES = (19900101, 21000101)  # 20261126; as seconds they would all be days of 1970


class Row(msgspec.Struct, frozen=True):
    """One query.

    line          where it begins in its file, counted from 1
    text          as a gateway would be given it; empty where a body asks nothing, or asks with
                  an image or a file: then a gateway answers with the last tier
    task          its true task, if the file says
    small, large  how good either model's answer was, 0 to 1; both or neither
    day           when it was asked, as 2026-11-26; None where the file does not say
    refused       why a gateway answers it with 400; None where it gives an answer
    group         its subject or data set, if the file says
    """

    line: int
    text: str
    task: str | None = None
    small: float | None = None
    large: float | None = None
    day: str | None = None
    refused: str | None = None
    group: str | None = None


class Summary(msgspec.Struct, frozen=True):
    """What a file holds, when it holds no bad row.

    rows      how many queries that a gateway would answer
    outcomes, tasks  whether every row has them
    refused   how many rows a gateway would refuse
    refusals  the first `NAMED_MAX` of these, by line, and why
    """

    rows: int
    outcomes: bool
    tasks: bool
    days: bool
    refused: int = 0
    refusals: tuple[str, ...] = ()

    def told(self) -> str:
        """What a gateway would refuse, in words; empty where that is nothing."""
        return _refused(self.refused, self.refusals)


def _refused(count: int, named: Sequence[str]) -> str:
    if not count:
        return ""
    more = [f"  and {count - len(named)} more"] if count > len(named) else []
    head = f"refused: {count:,} rows, which a gateway answers with 400 and which are not counted here"
    return "\n".join([head, *(f"  {one}" for one in named), *more])


class BadRows(ValueError):
    """A file with rows that cannot be read. The message names them by line, and what is accepted."""


def check(path: Path, *, tasks: Mapping[str, Any] | None = None, partly_labelled: bool = False) -> Summary:
    """Read a file to its end. Raises `BadRows`, or `OSError` when it cannot be opened.

    tasks            those that a row may name; None accepts any name
    partly_labelled  whether some rows may be without the labels that others have
    """
    bad: list[str] = []
    bad_count = rows = outcomes = labelled = days = 0
    unlabelled: dict[str, int] = {}
    refused: list[str] = []
    refused_count = 0
    for line, made in _made(path):
        if isinstance(made, str):
            problem: str | None = made
        elif tasks is not None and made.task is not None and made.task not in tasks:
            # Not repeated: where two columns were swapped, it is the query.
            problem = f"its task is none of this model's; accepted: {', '.join(tasks)}"
        elif made.refused:
            problem = None
            refused_count += 1
            if len(refused) < NAMED_MAX:
                refused.append(f"{path}:{line}: {made.refused}")
        else:
            problem = None
            rows += 1
            for name, there in (("outcomes", made.small is not None), ("a task", made.task is not None)):
                if not there:
                    unlabelled.setdefault(name, line)
            outcomes += made.small is not None
            labelled += made.task is not None
            days += made.day is not None
        if problem:
            bad_count += 1
            if len(bad) < NAMED_MAX:
                bad.append(f"{path}:{line}: {problem}")
    # Half a label is a slip: a file is judged by labels that all its rows have.
    for name, count in (("outcomes", outcomes), ("a task", labelled)):
        if 0 < count < rows and not bad and not partly_labelled:
            bad.append(
                f"{path}:{unlabelled[name]}: this row has no {name.removeprefix('a ')}, and others have; "
                f"accepted: every row with {name}, or none"
            )
            bad_count += 1
    if bad:
        more = f"\nand {bad_count - len(bad)} more" if bad_count > len(bad) else ""
        raise BadRows("\n".join(bad) + more)
    if not rows:
        raise BadRows(
            _refused(refused_count, refused)
            or f"{path}:1: no row at all; accepted: JSON lines, or CSV with a header line"
        )
    return Summary(rows, outcomes > 0, labelled > 0, days > 0, refused_count, tuple(refused))


def read(path: Path) -> Iterator[Row]:
    """The rows that a gateway would answer, of a file that `check` found good.

    Raises `BadRows` if it has changed since.
    """
    for line, made in _made(path):
        if isinstance(made, str):
            raise BadRows(f"{path}:{line}: {made}")
        if not made.refused:
            yield made


def _made(path: Path) -> Iterator[tuple[int, Row | str]]:
    """Each row with its line, or why it is none."""
    with path.open("rb") as plain:
        head = plain.read(2)
        plain.seek(0)
        file: Any = gzip.GzipFile(fileobj=plain) if head == b"\x1f\x8b" else plain
        try:
            yield from (_csv_rows if _is_csv(path, file) else _json_rows)(file)
        except (gzip.BadGzipFile, EOFError, zlib.error) as exc:
            yield 1, f"this is no gzip to its end: {exc}"


def _is_csv(path: Path, file: Any) -> bool:
    ending = path.name.removesuffix(".gz").rpartition(".")[2].lower()
    if ending in ("csv", "tsv", "json", "jsonl", "ndjson"):
        return ending in ("csv", "tsv")
    begins: bytes = file.peek(64)[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
    return not begins.startswith((b"{", b"["))


def _json_rows(file: IO[bytes]) -> Iterator[tuple[int, Row | str]]:
    decode = msgspec.json.Decoder().decode
    number = 0
    while content := file.readline(ROW_BYTES_MAX + 1):
        number += 1
        if len(content) > ROW_BYTES_MAX:
            yield number, f"a row of over {ROW_BYTES_MAX} bytes"
            return
        if number == 1:
            content = content.removeprefix(b"\xef\xbb\xbf")
        if not content.strip():
            continue
        try:
            seen = decode(content)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            reason = "bytes that are not UTF-8" if isinstance(exc, UnicodeDecodeError) else str(exc)
            yield number, f"no JSON object on one line: {reason}"
            continue
        yield number, _row(number, seen) if isinstance(seen, dict) else "a row that is no JSON object"


def _csv_rows(file: IO[bytes]) -> Iterator[tuple[int, Row | str]]:
    # Bytes outside UTF-8 become lone surrogates, and their row is named below.
    with io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        yield from _rows_under_header(text)


def _rows_under_header(text: IO[str]) -> Iterator[tuple[int, Row | str]]:
    csv.field_size_limit(ROW_BYTES_MAX)
    first = text.readline(ROW_BYTES_MAX)
    delimiter = max(",;\t", key=first.count)
    names = next(csv.reader([first], delimiter=delimiter), [])
    names = [name.strip().lower() for name in names]
    if not set(names) & {*TEXT, *CONVERSATION, *BODY}:
        accepted = ", ".join((*TEXT, *CONVERSATION, *BODY))
        yield 1, f"a header without a text column; accepted: one of {accepted}"
        return
    # Strict: a quote that is never closed would take all rows behind it into one cell.
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 2
        try:
            cells = next(reader, None)
        except csv.Error as exc:
            yield line, f"no row of CSV: {exc}"
            return  # where the next row begins is anybody's guess
        if cells is None:
            return
        if not any(cells):
            continue
        if len(cells) != len(names):
            yield line, f"{len(cells)} cells under a header of {len(names)}"
            continue
        # An empty cell is one that says nothing; but a text may be empty.
        given = {n: cell for n, cell in zip(names, cells, strict=True) if cell != "" or n in TEXT}
        yield line, _row(line, given)


def _row(line: int, seen: Mapping[str, Any]) -> Row | str:
    """Make a row of an object's members, or say what is wrong with it."""
    found = _text(seen)
    if found is None:
        return f"no text; accepted: one of {', '.join((*TEXT, *CONVERSATION))}, as a string that is not empty"
    text, refused = found
    try:
        text.encode()
    except UnicodeEncodeError:
        return "a text that is not UTF-8"
    task = _first(seen, TASK)
    if task is not None and (not isinstance(task, str) or not task):
        return f"a task that is {_kind(task)}; accepted: its name"
    scores: list[float | None] = []
    for name in ("small", "large"):
        value = seen.get(name)
        score = _number(value)
        if value is not None and (score is None or not 0 <= score <= 1):
            return f"{name} is {_kind(value)}; accepted: how good the answer was, a number from 0 to 1"
        scores.append(score)
    if (scores[0] is None) != (scores[1] is None):
        return "one of small and large; accepted: both or neither"
    when = _first(seen, TIME)
    day = None if when is None else _day(when)
    if when is not None and day is None:
        return f"a time that is {_kind(when)}; accepted: ISO 8601, or seconds since 1970"
    group = _first(seen, GROUP)
    return Row(
        line, text, task, scores[0], scores[1], day, refused, group if isinstance(group, str) else None
    )


def _text(seen: Mapping[str, Any]) -> tuple[str, str | None] | None:
    """A row's text, and why a gateway would refuse it if it would; None where there is no text at all."""
    texts = [value for name in TEXT if isinstance(value := seen.get(name), str)]
    if full := [text for text in texts if text.strip()]:
        return full[0], None
    for name in BODY:
        inner = seen.get(name)
        if isinstance(inner, str):
            inner = _decoded(inner)
        if isinstance(inner, Mapping) and (found := _text(inner)) is not None:
            return found
    if any(name in seen for name in CONVERSATION) and (found := _conversation(seen)) is not None:
        return found
    if not texts:
        return None
    blank = max(texts)  # a gateway answers white space, and refuses nothing at all
    return blank, None if blank else "its text is empty"


def _decoded(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None


def _conversation(body: Mapping[str, Any]) -> tuple[str, str | None] | None:
    """A request body as the one text that a gateway makes of it, empty where it asks nothing; as `_text`."""
    from handler.errors import ValidationError
    from handler.wires import messages

    try:
        for name in CONVERSATION:
            found = body.get(name)
            if isinstance(found, str) and found.lstrip().startswith("["):
                # A text may begin so, too.
                items = _decoded(found)
                found = items if isinstance(items, list) or name == "messages" else found
            if found is None:
                continue
            if name == "messages":
                if not isinstance(found, list):
                    return "", f"messages is {_kind(found)}; accepted: a list of turns"
                return messages.conversation(found, body.get("system")).text, None
            return messages.items(found, body.get("instructions")).text, None
    except ValidationError as exc:
        return "", str(exc)  # positions and types, never text
    return None


def _first(seen: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((seen[name] for name in names if seen.get(name) is not None), None)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _day(when: Any) -> str | None:
    number = _number(when)
    day: date | None = None
    try:
        if number is not None and number == int(number) and COMPACT_DATES[0] <= number < COMPACT_DATES[1]:
            day = date.fromisoformat(str(int(number)))
        elif number is not None:
            for divisor in (1, 1e3, 1e6, 1e9):  # seconds, and what others write for them
                day = datetime.fromtimestamp(number / divisor, UTC).date() if number / divisor < 7e9 else None
                if day is not None:
                    break
        elif isinstance(when, str):
            day = date.fromisoformat(when) if len(when) == 10 else _utc_day(datetime.fromisoformat(when))
        else:
            return None
    except (ValueError, OverflowError, OSError):
        return None
    return day.isoformat() if day is not None and YEARS[0] <= day.year < YEARS[1] else None


def _utc_day(when: datetime) -> date:
    """Return the day in UTC, so that one instant is on one day; without an offset, the day that is written."""
    return (when.astimezone(UTC) if when.tzinfo else when).date()


def _kind(value: Any) -> str:
    """Say what a value is, without repeating what may be a query."""
    if isinstance(value, bool | int | float) or value is None:
        return repr(value)[:40]
    return "a string" if isinstance(value, str) else "a list" if isinstance(value, list) else "an object"
