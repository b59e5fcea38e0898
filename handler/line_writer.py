"""Lines out of the process, never waited for.

Whoever reads our log may stall, go away or run out of disk. `LineWriter` takes a line
and returns; a thread writes it. What cannot be kept is dropped and counted, and the
next line that gets through is preceded by one that says how many did not.
"""

import os
import select
import threading
from collections import deque
from collections.abc import Callable

# Lines that wait for their reader, and their bytes; more are dropped.
LINES_MAX = 4096
BYTES_MAX = 4 * 1024 * 1024
# At most this goes out in one system call.
CHUNK_BYTES = 65_536
POLL_MS = 1000


class LineWriter:
    """Writes lines to a file descriptor, in order, on a thread of its own."""

    def __init__(self, descriptor: int, *, dropped_line: Callable[[int], str] = lambda dropped: "") -> None:
        """
        dropped_line  a line that says how many were dropped; empty: none is written
        """
        self.dropped = 0
        self.dropped_line = dropped_line
        self._descriptor = descriptor
        self._reported = 0
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._torn = False
        self._change = threading.Condition()
        self._writing = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """Take a line with its line break. Never waits and never raises."""
        content = line.encode("utf-8", "backslashreplace")
        with self._change:
            if self._closed or len(self._lines) >= LINES_MAX or self._bytes + len(content) > BYTES_MAX:
                self.dropped += 1
                return
            self._lines.append(content)
            self._bytes += len(content)
            self._change.notify_all()

    def flush(self) -> None:
        """There is nothing to do: a line is on its way as soon as it is taken."""

    def close(self, within_s: float) -> bool:
        """Take no more lines and write what was taken; whether all of it was written in time."""
        with self._change:
            self._closed = True
            self._change.notify_all()
            return self._change.wait_for(lambda: not self._lines and not self._writing, within_s)

    def _run(self) -> None:
        while True:
            with self._change:
                self._writing = False
                self._change.notify_all()
                self._change.wait_for(lambda: self._lines)
                lines = self._take()
                self._writing = True
            self._write_out(lines)

    def _take(self) -> list[bytes]:
        lines: list[bytes] = []
        size = 0
        while self._lines and size < CHUNK_BYTES:
            lines.append(self._lines.popleft())
            size += len(lines[-1])
        self._bytes -= size
        return lines

    def _write_out(self, lines: list[bytes]) -> None:
        if self.dropped > self._reported and (line := self.dropped_line(self.dropped - self._reported)):
            lines = [line.encode("utf-8", "backslashreplace"), *lines]
            self._reported = self.dropped
        # A line that was cut by an error must not swallow the next one.
        rest = b"\n" * self._torn + b"".join(lines)
        try:
            while rest:
                rest = rest[self._write_some(rest) :]
                self._torn = not rest.startswith(b"\n") if rest else False
        except OSError:  # the reader is gone, or its disk is full
            with self._change:
                self.dropped += rest.count(b"\n")

    def _write_some(self, content: bytes) -> int:
        while True:
            try:
                return os.write(self._descriptor, content)
            except BlockingIOError:  # somebody set our end not to block
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll(POLL_MS)
