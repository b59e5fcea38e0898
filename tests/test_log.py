"""Log lines that the runbook greps, and that never hold a query."""

import asyncio
import gc
import io
import logging
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.log import ERROR_LINES_PER_S, ForeignLines, Log

SECRET = "xyzzy-swordfish"


@dataclass
class Clock:
    """A time that passes when a test says so: 2023-11-14T22:13:20Z at first."""

    s: float = 1_700_000_000.0

    def __call__(self) -> float:
        return self.s


class Pages(io.StringIO):
    """A log stream that a test can read back, line by line."""

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(line) for line in self.getvalue().splitlines()]


@pytest.fixture
def pages() -> Pages:
    return Pages()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(pages: Pages, clock: Clock) -> Log:
    return Log(pages, now=clock)


def test_a_line_is_compact_json_with_its_time_level_and_event(log: Log, pages: Pages) -> None:
    log.info("started", port=8080)

    assert pages.getvalue() == (
        '{"timestamp":"2023-11-14T22:13:20.000Z","level":"info","event":"started","port":8080}\n'
    )


def test_an_error_line_holds_what_the_runbook_greps_for(log: Log, pages: Pages) -> None:
    log.error("request_failed", error_type="TimeoutError", request_id="r-1")

    assert '"level":"error"' in pages.getvalue()
    assert '"error_type":"TimeoutError"' in pages.getvalue()
    assert '"request_id":"r-1"' in pages.getvalue()


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=50))
def test_whatever_a_fact_holds_an_event_is_one_line(text: str) -> None:
    pages = Pages()

    Log(pages).info("event", fact=text)

    assert pages.getvalue().count("\n") == 1
    assert msgspec.json.decode(pages.getvalue())["fact"] == text


def test_a_line_under_the_least_level_is_not_written(pages: Pages) -> None:
    log = Log(pages, level="WARNING")

    log.info("started")
    log.warning("odd")

    assert [line["event"] for line in pages.lines] == ["odd"]


def test_the_text_form_is_for_people(pages: Pages, clock: Clock) -> None:
    log = Log(pages, form="text", now=clock)

    log.warning("odd", port=8080, host="localhost")

    assert pages.getvalue() == "2023-11-14T22:13:20.000Z warning odd port=8080 host=localhost\n"


def test_a_line_for_people_quotes_what_could_be_read_two_ways(pages: Pages, clock: Clock) -> None:
    Log(pages, form="text", now=clock).warning("odd", message="a port=1\nand more", host="größer")

    assert pages.getvalue().endswith(' odd message="a port=1\\nand more" host=größer\n')


def test_a_bug_is_written_for_people_with_a_frame_a_line(pages: Pages, clock: Clock) -> None:
    log = Log(pages, form="text", now=clock)

    try:
        raise ValueError(SECRET)
    except ValueError as bug:
        log.error("request_failed", error=bug)

    first, frame = pages.getvalue().splitlines()
    assert first.endswith("request_failed error_type=InternalError exception=ValueError")
    assert frame.startswith("    test_log.py:")


def test_a_bug_is_written_as_its_type_and_frames(log: Log, pages: Pages) -> None:
    try:
        raise ValueError(SECRET)
    except ValueError as bug:
        log.error("request_failed", error=bug)

    (line,) = pages.lines
    assert line["exception"] == "ValueError"
    assert "test_log.py" in line["traceback"][0]


def test_a_bugs_message_is_not_written(log: Log, pages: Pages) -> None:
    try:
        raise ValueError(SECRET)
    except ValueError as bug:
        log.error("request_failed", error=bug)

    assert SECRET not in pages.getvalue()


def test_a_reader_that_has_gone_away_fails_nothing() -> None:
    class Closed(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    Log(Closed()).info("started")


def test_equal_texts_have_one_fingerprint(log: Log) -> None:
    assert log.fingerprint("a query") == log.fingerprint("a query")
    assert log.fingerprint("a query") != log.fingerprint("another")


def test_another_processs_fingerprints_differ() -> None:
    one, other = Log(io.StringIO()), Log(io.StringIO())

    assert one.fingerprint("a query") != other.fingerprint("a query")


# The limit on error lines


def test_a_flood_of_one_error_is_cut_to_so_many_lines_a_second(log: Log, pages: Pages) -> None:
    for _ in range(ERROR_LINES_PER_S + 500):
        log.error("request_failed", error_type="Overloaded")

    assert len(pages.lines) == ERROR_LINES_PER_S


def test_the_first_line_after_a_flood_says_how_many_were_held_back(
    log: Log, pages: Pages, clock: Clock
) -> None:
    for _ in range(ERROR_LINES_PER_S + 500):
        log.error("request_failed", error_type="Overloaded")

    clock.s += 1
    log.error("request_failed", error_type="Overloaded")
    log.error("request_failed", error_type="Overloaded")

    assert pages.lines[-2]["suppressed"] == 500
    assert "suppressed" not in pages.lines[-1]


def test_a_flood_of_one_error_holds_back_no_other(log: Log, pages: Pages) -> None:
    for _ in range(ERROR_LINES_PER_S + 1):
        log.error("request_failed", error_type="Overloaded")

    log.error("request_failed", error_type="MemoryError")

    assert pages.lines[-1]["error_type"] == "MemoryError"


def test_a_flood_holds_back_no_other_level(log: Log, pages: Pages) -> None:
    for _ in range(ERROR_LINES_PER_S + 1):
        log.error("request_failed", error_type="Overloaded")

    log.info("draining")

    assert pages.lines[-1]["event"] == "draining"


@given(st.lists(st.tuples(st.sampled_from(["Overloaded", "TimeoutError"]), st.floats(0, 0.2)), max_size=200))
def test_every_error_is_either_written_or_counted_as_held_back(errors: list[tuple[str, float]]) -> None:
    pages, clock = Pages(), Clock()
    log = Log(pages, now=clock)

    for error_type, passed_s in errors:
        clock.s += passed_s
        log.error("request_failed", error_type=error_type)
    clock.s += 1
    for error_type in ("Overloaded", "TimeoutError"):
        log.error("request_failed", error_type=error_type)

    assert sum(1 + line.get("suppressed", 0) for line in pages.lines) == len(errors) + 2


# Lines of libraries


@pytest.fixture
def foreign(log: Log) -> logging.Logger:
    """A library's logger whose lines become ours."""
    logger = logging.Logger("some.library")
    logger.addHandler(ForeignLines(log))
    return logger


def test_a_librarys_warning_becomes_a_line_of_ours(foreign: logging.Logger, pages: Pages) -> None:
    foreign.warning("connection lost")

    (line,) = pages.lines
    assert (line["level"], line["event"]) == ("warning", "library_warning")
    assert (line["logger"], line["message"]) == ("some.library", "connection lost")


def test_a_librarys_arguments_are_never_written(foreign: logging.Logger, pages: Pages) -> None:
    foreign.error("cannot parse %r from %s", SECRET, "10.0.0.1")

    assert pages.lines[0]["message"] == "cannot parse %r from %s"
    assert SECRET not in pages.getvalue()


def test_a_librarys_exception_is_written_without_its_message(foreign: logging.Logger, pages: Pages) -> None:
    try:
        raise KeyError(SECRET)
    except KeyError:
        foreign.exception("failed")

    (line,) = pages.lines
    assert (line["level"], line["exception"]) == ("error", "KeyError")
    assert SECRET not in pages.getvalue()


def test_what_the_event_loop_says_of_a_lost_task_holds_no_exceptions_message(
    foreign: logging.Logger, pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail() -> None:
        raise ValueError(SECRET)

    async def lose_a_task() -> None:
        task = asyncio.ensure_future(fail())
        await asyncio.wait([task])
        del task
        gc.collect()

    monkeypatch.setattr(asyncio.base_events, "logger", foreign)
    asyncio.run(lose_a_task())

    (line,) = pages.lines
    assert line["message"] == "Task exception was never retrieved"
    assert SECRET not in pages.getvalue()
