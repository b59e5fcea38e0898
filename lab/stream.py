"""One NDJSON request without end: sent, and its answers read, on one socket and one thread.

Sends as fast as it is let, and keeps no line and no answer, so that its own memory
says nothing of how long it has run.
"""

import json
import select
import socket
import threading
import time
from collections.abc import Iterator

from lab.drive import CLASSIFY
from lab.texts import texts

SILENT_MAX_S = 20.0
_END = b"0\r\n\r\n"


def lines(seed: int) -> Iterator[bytes]:
    """Endless lines, each a query of its own."""
    return (json.dumps({"text": text}).encode() + b"\n" for text in texts(seed))


class Stream:
    """A stream to a gateway on loopback.

    answers  lines that came back so far; of them `errors` were errors
    sent     lines that were sent so far
    """

    def __init__(self, port: int, asked: Iterator[bytes], *, at_once: int = 64) -> None:
        """`at_once`: lines in a chunk."""
        self._port = port
        self._asked = asked
        self._at_once = at_once
        self._over = threading.Event()
        self._rest = b""  # of an answer whose line has not ended
        self._tail = b""
        self.answers = self.errors = self.sent = 0

    def stop(self) -> None:
        """End it from another thread; what was sent is still answered."""
        self._over.set()

    def run(self) -> None:
        """Send until the lines end or it is stopped, and read to the end. Raises `SystemExit` where nothing comes."""
        head = (
            f"POST {CLASSIFY} HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/x-ndjson\r\n"
            "transfer-encoding: chunked\r\n\r\n"
        )
        unsent, ended = head.encode(), False
        with socket.create_connection(("127.0.0.1", self._port)) as caller:
            caller.setblocking(False)
            heard = time.monotonic()
            while True:
                if not unsent and not ended:
                    unsent, ended = self._next()
                readable, writable, _ = select.select([caller], [caller] if unsent else [], [], 1.0)
                if readable:
                    data = caller.recv(65536)
                    heard = time.monotonic()
                    if self._read(data):
                        return
                if writable:
                    unsent = unsent[caller.send(unsent) :]
                if time.monotonic() - heard > SILENT_MAX_S:
                    raise SystemExit(f"no answer in {SILENT_MAX_S:g} s, after {self.answers} of {self.sent}")

    def _next(self) -> tuple[bytes, bool]:
        """The next chunk, and whether it is the last."""
        some: list[bytes] = []
        while len(some) < self._at_once and not self._over.is_set():
            line = next(self._asked, None)
            if line is None:
                break
            some.append(line)
        self.sent += len(some)
        body = b"".join(some)
        chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        ended = len(some) < self._at_once
        return (chunk + _END if ended else chunk), ended

    def _read(self, data: bytes) -> bool:
        """Count what has come; whether it was the last. Raises `SystemExit` where the connection broke."""
        if not data:
            raise SystemExit(f"the connection was closed after {self.answers} answers of {self.sent} lines")
        seen = self._rest + data
        cut = seen.rfind(b"\n") + 1
        whole, self._rest = seen[:cut], seen[cut:]
        self.answers += whole.count(b"}\n")
        self.errors += whole.count(b'"error":{')
        self._tail = (self._tail + whole)[-len(_END) :]
        return self._tail == _END
