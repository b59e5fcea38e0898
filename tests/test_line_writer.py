"""A log that nobody reads costs lines, and never a moment."""

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from handler.line_writer import LINES_MAX, LineWriter
from lab.launch import eventually


class Pipe:
    """A pipe of one page, whose reader may stall."""

    def __init__(self) -> None:
        self.out, self.into = os.pipe()
        fcntl.fcntl(self.into, fcntl.F_SETPIPE_SZ, 4096)
        self._writers: list[LineWriter] = []

    def writer(self, dropped_line: Callable[[int], str] = lambda dropped: "") -> LineWriter:
        self._writers.append(LineWriter(self.into, dropped_line=dropped_line))
        return self._writers[-1]

    def close(self) -> None:
        with suppress(OSError):  # the test may have closed it
            os.close(self.out)
        for writer in self._writers:  # with its descriptor, it would write into the next test's
            assert writer.close(within_s=60)
        os.close(self.into)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


def written(tmp_path: Path, write: Callable[[LineWriter], None]) -> bytes:
    file = tmp_path / "log"
    descriptor = os.open(file, os.O_CREAT | os.O_WRONLY)
    writer = LineWriter(descriptor)
    write(writer)
    assert writer.close(within_s=60)
    os.close(descriptor)
    return file.read_bytes()


def test_lines_arrive_in_order(tmp_path: Path) -> None:
    def write(writer: LineWriter) -> None:
        for i in range(1000):
            writer.write(f"line {i}\n")

    assert written(tmp_path, write).decode().splitlines() == [f"line {i}" for i in range(1000)]


def test_a_line_is_utf_8_whatever_the_locale_says(tmp_path: Path) -> None:
    assert written(tmp_path, lambda writer: writer.write("modèle … 👩‍🚀\n")) == "modèle … 👩‍🚀\n".encode()


def test_what_is_no_text_is_written_as_escapes(tmp_path: Path) -> None:
    assert written(tmp_path, lambda writer: writer.write("a\udcff\n")) == b"a\\udcff\n"


def test_a_reader_who_stalls_costs_lines_that_are_counted(pipe: Pipe) -> None:
    writer = pipe.writer()

    for _ in range(3 * LINES_MAX):
        writer.write("x" * 100 + "\n")

    assert writer.dropped >= LINES_MAX


def test_who_closes_while_the_reader_stalls_waits_no_longer_than_was_said(pipe: Pipe) -> None:
    writer = pipe.writer()
    for _ in range(1000):
        writer.write("x" * 100 + "\n")

    assert not writer.close(within_s=0.01)


def test_when_the_reader_goes_on_a_line_says_how_many_are_missing(pipe: Pipe) -> None:
    writer = pipe.writer(dropped_line=lambda dropped: f"{dropped} dropped\n")
    for i in range(2 * LINES_MAX):
        writer.write(f"{i:0100}\n")
    lost = writer.dropped

    said = 0
    seen = ""
    while said < lost:  # in two lines where the writer's thread was kept from running meanwhile
        seen += os.read(pipe.out, 65536).decode()
        said = sum(int(line.split()[0]) for line in seen.splitlines() if line.endswith(" dropped"))

    assert lost > 0
    assert said == lost


def test_a_reader_who_has_gone_costs_lines_and_nothing_else(pipe: Pipe) -> None:
    os.close(pipe.out)
    writer = pipe.writer()

    for _ in range(10):
        writer.write("line\n")

    assert writer.close(within_s=60)
    assert writer.dropped == 10


def test_a_closed_descriptor_costs_lines_and_nothing_else() -> None:
    into, out = os.pipe()
    os.close(into)
    os.close(out)
    writer = LineWriter(out)

    writer.write("line\n")

    assert writer.close(within_s=60)
    assert writer.dropped == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_costs_lines_and_nothing_else() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    writer = LineWriter(descriptor)

    writer.write("line\n")

    assert writer.close(within_s=60)
    assert writer.dropped == 1
    os.close(descriptor)


def test_after_a_cut_line_the_next_begins_on_a_line_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk that is full in the middle of a line, and has room again later."""
    real, tries = os.write, iter([3, errno.ENOSPC])

    def write(descriptor: int, content: bytes) -> int:
        what = next(tries, None)
        if what == errno.ENOSPC:
            raise OSError(what, "No space left on device")
        return real(descriptor, content[:what] if what else content)

    monkeypatch.setattr(os, "write", write)
    file = tmp_path / "log"
    descriptor = os.open(file, os.O_CREAT | os.O_WRONLY)
    writer = LineWriter(descriptor)
    writer.write("first\n")
    eventually(lambda: writer.dropped == 1, "the first line is lost")
    writer.write("second\n")

    assert writer.close(within_s=60)
    assert file.read_text() == "fir\nsecond\n"
    os.close(descriptor)


def test_a_pipe_that_somebody_set_not_to_block_loses_nothing(pipe: Pipe) -> None:
    os.set_blocking(pipe.into, False)
    writer = pipe.writer()
    lines = [f"{i:0100}" for i in range(200)]
    for line in lines:
        writer.write(line + "\n")

    seen = ""
    while len(seen) < 200 * 101:
        seen += os.read(pipe.out, 65536).decode()

    assert seen.splitlines() == lines
    assert writer.dropped == 0


def test_after_the_end_lines_are_dropped(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY)
    writer = LineWriter(descriptor)
    writer.close(within_s=60)

    writer.write("late\n")

    assert writer.dropped == 1
    os.close(descriptor)
