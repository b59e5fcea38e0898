"""What a fleet is asked while something happens to it, and what its callers saw."""

import contextlib
import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

from lab.drive import Driver, Outcome, meanwhile, percentile, poisson, request
from lab.fleet.judge import Asked
from lab.texts import Texts, Zipf, texts

# So many different queries are asked, the r-th most frequent as often as 1/r.
KINDS = 20_000
NDJSON = "application/x-ndjson"
STREAM_WITHIN_S = 30.0


@dataclass
class Seen:
    """What one stretch of traffic saw."""

    outcome: Outcome = field(default_factory=Outcome)
    asked: list[Asked] = field(default_factory=list)

    @property
    def others(self) -> int:
        """Queries that got neither an answer nor a 429."""
        return self.outcome.offered - self.outcome.codes[200] - self.outcome.codes[429]

    @property
    def refused(self) -> float:
        """The share of queries that were told to come again."""
        return self.outcome.codes[429] / max(self.outcome.offered, 1)

    def ms(self, fraction: float) -> float:
        """A percentile of the answers' latencies, counted from the moment that each was due."""
        return self.outcome.answered_ms(fraction)

    def ms_between(self, begin_s: float, end_s: float, fraction: float) -> float:
        """The same for those that were due in this span of `time.perf_counter`."""
        took = sorted(one.took_s for one in self.asked if one.answer and begin_s <= one.due_s < end_s)
        return percentile(took, fraction) * 1000

    @property
    def told(self) -> str:
        refused = f"{self.outcome.codes[429]} refused, " if self.outcome.codes[429] else ""
        answered = f"{self.outcome.codes[200]} of {self.outcome.offered} answered"
        return f"{answered}, {refused}{self.outcome.others or 'nothing else'}"


def zipf(seed: int, kinds: int = KINDS) -> Iterator[int]:
    """Numbers of texts as a crowd asks them: without end, the r-th most frequent as often as 1/r."""
    dice, ranks = random.Random(seed), Zipf(kinds)
    return (ranks.rank(dice) for _ in count())


def zipf_requests(seed: int, kinds: int = KINDS, *, crowd: int = 0) -> Iterator[bytes]:
    """The same as requests. In one crowd the same number is always the same text, whatever the seed."""
    known = Texts(crowd)
    return (request(known.text(number)) for number in zipf(seed, kinds))


@contextlib.contextmanager
def flowing(port: int, per_s: float, *, seed: int) -> Iterator[Seen]:
    """Independent callers ask `per_s` queries a second while the block lasts; afterwards all is counted."""
    seen = Seen()

    def keep(asked: bytes, answer: bytes, due_s: float, took_s: float) -> None:
        seen.asked.append(Asked(asked, answer, due_s, took_s))

    with meanwhile(
        Driver(port, keep=keep), lambda driver: driver.open(zipf_requests(seed), poisson(per_s, seed))
    ) as driver:
        yield seen
    seen.outcome = driver.seen


class Stream:
    """One NDJSON request whose lines are sent slowly, on threads of its own. Use as a context manager."""

    def __init__(self, port: int, *, seed: int, every_s: float = 0.05) -> None:
        self.sent = 0
        self.answered = 0
        self.whole = False  # the answer came to its end
        self._every_s = every_s
        self._texts = texts(seed)
        self._over = threading.Event()
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=STREAM_WITHIN_S)
        self._threads = [threading.Thread(target=self._send), threading.Thread(target=self._read)]

    def __enter__(self) -> "Stream":
        self._socket.sendall(
            f"POST /v1/query-classify HTTP/1.1\r\nhost: gateway\r\ncontent-type: {NDJSON}\r\n"
            "transfer-encoding: chunked\r\n\r\n".encode()
        )
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._socket.close()

    def _send(self) -> None:
        with contextlib.suppress(OSError):
            while not self._over.is_set():
                line = json.dumps({"text": next(self._texts)}).encode() + b"\n"
                self._socket.sendall(b"%x\r\n%s\r\n" % (len(line), line))
                self.sent += 1
                time.sleep(self._every_s)
            self._socket.sendall(b"0\r\n\r\n")

    def _read(self) -> None:
        seen = b""
        with contextlib.suppress(OSError):
            while data := self._socket.recv(65536):
                seen += data
                # A line that was too late or refused has its own error for an answer.
                self.answered = seen.count(b'"label"') + seen.count(b'"error"')
                if seen.endswith(b"\r\n0\r\n\r\n"):
                    self.whole = True
                    break
