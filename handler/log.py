"""The log: one JSON object (or line of text) per event, straight to a stream.

Lines carry facts and ids. Nothing here ever sees a query's text.
"""

import hashlib
import logging
import os
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

import msgspec

from handler.line_writer import LineWriter

Level = Literal["debug", "info", "warning", "error"]
SEVERITY: dict[Level, int] = {"debug": 10, "info": 20, "warning": 30, "error": 40}

# A flood of one kind of error must not become a flood of lines.
ERROR_LINES_PER_S = 20


class Stream(Protocol):
    """Where lines go: a text file, or a `LineWriter`, which never waits."""

    def write(self, line: str, /) -> object: ...

    def flush(self) -> object: ...


class Log:
    """One JSON object (or line of text) per event, straight to a stream.

    Errors are limited per `error_type` and second; the next line that gets
    through says how many did not.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        level: str = "INFO",
        form: Literal["json", "text"] = "json",
        now: Callable[[], float] = time.time,
    ) -> None:
        self._stream = stream
        self._least = SEVERITY[level.lower()]  # type: ignore[index]
        self._json = form == "json"
        self._now = now
        self._secret = os.urandom(16)
        self._second: dict[str, int] = {}
        self._lines: dict[str, int] = {}
        self._failed = 0

    def fingerprint(self, text: str) -> str:
        """Name a query in log lines: equal texts are equal, for this process's life alone."""
        return hashlib.blake2b(text.encode(), digest_size=6, key=self._secret).hexdigest()

    def info(self, event: str, **facts: Any) -> None:
        self._write("info", event, facts)

    def warning(self, event: str, **facts: Any) -> None:
        self._write("warning", event, facts)

    def error(
        self,
        event: str,
        *,
        error_type: str = "InternalError",
        error: BaseException | None = None,
        **facts: Any,
    ) -> None:
        """Write an error with its type; `error` adds where in the code a bug was raised.

        An exception's message may quote its input, so only its type and its
        frames are written.
        """
        suppressed = self._suppressed(error_type)
        if suppressed is None:
            return
        if suppressed:
            facts["suppressed"] = suppressed
        if error is not None:
            facts["exception"] = type(error).__name__
            facts["traceback"] = [
                f"{os.path.basename(frame.filename)}:{frame.lineno} {frame.name}"
                for frame in traceback.extract_tb(error.__traceback__)
            ]
        self._write("error", event, {"error_type": error_type, **facts})

    def _suppressed(self, error_type: str) -> int | None:
        """How many lines of this type were held back; None when this one must be too."""
        second = int(self._now())
        lines = self._lines.get(error_type, 0)
        if self._second.get(error_type) == second:
            self._lines[error_type] = lines + 1
            return 0 if lines < ERROR_LINES_PER_S else None
        self._second[error_type], self._lines[error_type] = second, 1
        return max(0, lines - ERROR_LINES_PER_S)

    @property
    def dropped(self) -> int:
        """Lines that could not be written, since the start."""
        return self._failed + int(getattr(self._stream, "dropped", 0))

    def dropped_line(self, count: int) -> str:
        """A line that says how many before it are missing."""
        return self._line("warning", "log_lines_dropped", {"lines": count})

    def end(self, within_s: float) -> None:
        """Wait until what was logged is written, but not longer than `within_s` seconds."""
        if isinstance(self._stream, LineWriter):
            self._stream.close(within_s)

    def _write(self, level: Level, event: str, facts: dict[str, Any]) -> None:
        if SEVERITY[level] < self._least:
            return
        try:
            self._stream.write(self._line(level, event, facts))
            self._stream.flush()
        except (OSError, ValueError):
            self._failed += 1  # a log reader that has gone away must not fail a query

    def _line(self, level: Level, event: str, facts: dict[str, Any]) -> str:
        at = (
            datetime.fromtimestamp(self._now(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        )
        if self._json:
            return (
                msgspec.json.encode({"timestamp": at, "level": level, "event": event, **facts}).decode()
                + "\n"
            )
        frames = facts.pop("traceback", ())
        line = " ".join(
            [at, f"{level:7}", event, *(f"{name}={_readable(value)}" for name, value in facts.items())]
        )
        return "\n    ".join([line, *frames]) + "\n"


class ForeignLines(logging.Handler):
    """Lines of libraries (server, event loop) in our own form.

    Their arguments and exception messages may quote a request, so only the
    format string's first line (asyncio puts an exception's text on the next) and
    the exception's type are kept.
    """

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if record.levelno >= logging.ERROR:
            self._log.error("library_error", error=error, logger=record.name, message=_plain(record))
        else:
            self._log.warning("library_warning", logger=record.name, message=_plain(record))


def _readable(value: Any) -> str:
    """A fact for people; in quotes where its end, or the line's, could be doubted."""
    text = str(value)
    return text if text.isprintable() and not set(text) & set(' "=') else msgspec.json.encode(text).decode()


def _plain(record: logging.LogRecord) -> str:
    return str(record.msg).partition("\n")[0]
