"""A load driver that is cheap enough to share a machine with what it drives.

Raw sockets and one epoll, no framework: about 30 µs of CPU a query, where an
asyncio client takes 150 to 200. `Driver.closed` keeps so many queries in flight;
`Driver.open` sends each at its own moment, answered or not. A closed loop slows
down with the server that it measures and so hides its stalls: rates are measured
with the first, latencies with the second, counted from the moment that was due.
`meanwhile` asks on a thread, while something is done to the gateway.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import random
import select
import socket
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from lab.texts import texts

CLASSIFY = "/v1/query-classify"
CONNECTIONS_MAX = 4000
ANSWER_WITHIN_S = 20.0
LOOK_EVERY_S = 0.1  # whether it shall stop
FD_SETSIZE = 1024  # select() takes no greater descriptor (select(2))

Keep = Callable[[bytes, bytes, float, float], None]


def request(text: str, *, path: str = CLASSIFY, extra: str = "") -> bytes:
    """One HTTP request that asks for `text`; `extra` holds header lines, each with its CRLF."""
    return post(path, {"text": text}, extra=extra)


def post(path: str, content: Any, *, extra: str = "") -> bytes:
    """One HTTP request with a JSON body; `extra` as above."""
    body = json.dumps(content).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n{extra}"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def requests(seed: int) -> Iterator[bytes]:
    """Endless requests, each for a query of its own."""
    return (request(text) for text in texts(seed))


def steady(per_s: float) -> Iterator[float]:
    """Moments at a constant pace, in seconds."""
    return (number / per_s for number in itertools.count())


def poisson(per_s: float, seed: int) -> Iterator[float]:
    """Moments as independent callers make them, in seconds."""
    dice = random.Random(seed)
    return itertools.accumulate(dice.expovariate(per_s) for _ in itertools.count())


def percentile(ordered: Sequence[float], fraction: float) -> float:
    """The nearest-rank percentile of sorted values; NaN of none."""
    if not ordered:
        return math.nan
    return ordered[min(len(ordered) - 1, math.ceil(fraction * len(ordered)) - 1)]


@dataclass
class Outcome:
    """What the callers saw.

    hits_s, misses_s, refusals_s  seconds from the moment due to the answer's last byte
    lost        had no answer, or the connection broke
    took_s      the span in which queries were sent
    behind_s    how late the driver itself was, at worst
    """

    offered: int = 0
    codes: Counter[int] = field(default_factory=Counter)
    hits_s: array[float] = field(default_factory=lambda: array("d"))
    misses_s: array[float] = field(default_factory=lambda: array("d"))
    refusals_s: array[float] = field(default_factory=lambda: array("d"))
    without_retry_after: int = 0
    lost: int = 0
    took_s: float = 0.0
    behind_s: float = 0.0

    @property
    def goodput(self) -> float:
        """Answers a second."""
        return self.codes[200] / self.took_s if self.took_s else 0.0

    def answered_ms(self, fraction: float) -> float:
        """A percentile of the latencies of all answers, hit or miss, in milliseconds."""
        return percentile(sorted([*self.hits_s, *self.misses_s]), fraction) * 1000

    @property
    def others(self) -> str:
        """What was neither an answer nor a refusal; empty where there was nothing else."""
        odd = [f"{number} × {code}" for code, number in sorted(self.codes.items()) if code not in (200, 429)]
        return ", ".join(odd + [f"{self.lost} lost"] * bool(self.lost))

    def add(self, other: Outcome) -> None:
        """Count what another run's callers saw, too; spans add up."""
        self.offered += other.offered
        self.codes += other.codes
        self.hits_s += other.hits_s
        self.misses_s += other.misses_s
        self.refusals_s += other.refusals_s
        self.without_retry_after += other.without_retry_after
        self.lost += other.lost
        self.took_s += other.took_s
        self.behind_s = max(self.behind_s, other.behind_s)

    def note(self, answer: bytes, waited_s: float) -> None:
        code = int(answer[9:12])
        self.codes[code] += 1
        if code == 200:
            (self.misses_s if b"\r\nx-cache: miss" in answer else self.hits_s).append(waited_s)
        elif code == 429:
            self.refusals_s.append(waited_s)
            self.without_retry_after += b"\r\nretry-after: " not in answer


class _Connection:
    __slots__ = ("asked", "due", "seen", "sock", "unsent", "whole")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.asked = b""  # the query under way, where it is kept
        self.due = 0.0
        self.unsent = b""  # until the connection stands
        self.seen = b""
        self.whole = 0  # bytes of the answer, once its head is read


class Driver:
    """Connections to one gateway, kept alive between runs. Use as a context manager.

    keep  is called with each query, its answer (empty where there was none), the moment that it
          was due and the seconds that it took
    """

    def __init__(self, port: int, host: str = "127.0.0.1", *, keep: Keep | None = None) -> None:
        self._address = (host, port)
        self._epoll = select.epoll()
        self._all: dict[int, _Connection] = {}
        self._idle: list[_Connection] = []
        self._under_way = 0
        self._gone = 0  # connections that were lost, or told to close
        self._keep = keep
        self._over = False
        self.seen = Outcome()

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *exc: object) -> None:
        for connection in self._all.values():
            connection.sock.close()
        self._epoll.close()

    def stop(self) -> None:
        """End what another thread drives; what was sent is still waited for."""
        self._over = True

    def closed(
        self, asked: Iterator[bytes], *, connections: int, seconds: float = math.inf, polite: bool = False
    ) -> Outcome:
        """Keep `connections` queries in flight for `seconds`, or to the last; a query is due when it is sent.

        polite  a caller that is told to close, or loses its connection, does not come again
        """
        began = self._begin()
        sending = True
        while sending and (now := time.perf_counter()) < began + seconds and not self._over:
            callers = connections - self._gone if polite else connections
            for _ in range(callers - self._under_way):
                if (query := next(asked, None)) is None:
                    sending = False
                    break
                self._send(query, now)
            if polite and self._gone >= connections:
                break
            self._poll(min(began + seconds - now, LOOK_EVERY_S))
        return self._end(began)

    def open(
        self, asked: Iterator[bytes], arrivals: Iterator[float], *, seconds: float = math.inf
    ) -> Outcome:
        """Send a query at each of `arrivals` (in seconds from now) for `seconds`, or to the last."""
        began = self._begin()
        due = began + next(arrivals, math.inf)
        while due < began + seconds and not self._over:
            now = time.perf_counter()
            if now < due:
                self._poll(min(due - now, LOOK_EVERY_S))
                continue
            self.seen.behind_s = max(self.seen.behind_s, now - due)
            # A few at a time, so that a late driver still reads its answers.
            for _ in range(8):
                self._send(next(asked), due)
                due = began + next(arrivals, math.inf)
                if due > now or due >= began + seconds:
                    break
            self._poll(0.0)
        return self._end(began, seconds)

    def _begin(self) -> float:
        self.seen = Outcome()
        self._under_way = self._gone = 0
        return time.perf_counter()

    def _end(self, began: float, seconds: float = math.inf) -> Outcome:
        """Wait for what is under way, as long as answers come."""
        now = time.perf_counter()
        self.seen.took_s = now - began if self._over or seconds == math.inf else seconds
        silent_since = now
        while self._under_way and time.perf_counter() < silent_since + ANSWER_WITHIN_S:
            if self._poll(LOOK_EVERY_S):
                silent_since = time.perf_counter()
        for connection in [c for c in self._all.values() if c.due]:
            self._lose(connection)
        return self.seen

    def _send(self, asked: bytes, due: float) -> None:
        self.seen.offered += 1
        connection = self._idle.pop() if self._idle else self._connect()
        if connection is None:
            self.seen.lost += 1
            return
        connection.due = due
        if self._keep:
            connection.asked = asked
        self._under_way += 1
        try:
            connection.unsent = asked[connection.sock.send(asked) :]
        except BlockingIOError:  # a new connection does not stand yet
            connection.unsent = asked
        except OSError:
            self._lose(connection)
            return
        if connection.unsent:
            self._epoll.modify(connection.sock, select.EPOLLIN | select.EPOLLOUT)

    def _connect(self) -> _Connection | None:
        if len(self._all) >= CONNECTIONS_MAX:
            return None
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect_ex(self._address)
        connection = _Connection(sock)
        self._all[sock.fileno()] = connection
        self._epoll.register(sock, select.EPOLLIN)
        return connection

    def _poll(self, wait_s: float) -> int:
        """Wait for answers, and read what has come. Returns how many queries ended."""
        if wait_s > 0 and self._epoll.fileno() < FD_SETSIZE:
            # Waits to the microsecond, where epoll itself waits in whole milliseconds.
            if not select.select([self._epoll], [], [], wait_s)[0]:
                return 0
            wait_s = 0.0
        ended = 0
        for number, event in self._epoll.poll(wait_s):
            connection = self._all.get(number)
            if connection is None:
                continue
            broke = bool(event & select.EPOLLOUT) and not self._flush(connection)
            ended += broke or (bool(event & ~select.EPOLLOUT) and self._read(connection))
        return ended

    def _flush(self, connection: _Connection) -> bool:
        try:
            connection.unsent = connection.unsent[connection.sock.send(connection.unsent) :]
        except BlockingIOError:
            return True
        except OSError:
            self._lose(connection)
            return False
        if not connection.unsent:
            self._epoll.modify(connection.sock, select.EPOLLIN)
        return True

    def _read(self, connection: _Connection) -> bool:
        """Read from one connection. Returns whether its query ended, well or not."""
        try:
            data = connection.sock.recv(65536)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            had_query = bool(connection.due)
            self._lose(connection)
            return had_query
        seen = connection.seen = connection.seen + data if connection.seen else data
        if not connection.whole:
            end = seen.find(b"\r\n\r\n")
            if end < 0:
                return False
            start = seen.index(b"content-length: ") + 16
            connection.whole = end + 4 + int(seen[start : seen.index(b"\r", start)])
        if len(seen) < connection.whole:
            return False
        took_s = time.perf_counter() - connection.due
        self.seen.note(seen, took_s)
        if self._keep:
            self._keep(connection.asked, seen, connection.due, took_s)
        self._under_way -= 1
        connection.due, connection.seen, connection.whole = 0.0, b"", 0
        if b"\r\nconnection: close" in seen:
            self._gone += 1
            self._drop(connection)
        else:
            self._idle.append(connection)
        return True

    def _lose(self, connection: _Connection) -> None:
        if connection.due:
            self.seen.lost += 1
            self._under_way -= 1
            self._gone += 1
            if self._keep:
                self._keep(connection.asked, b"", connection.due, time.perf_counter() - connection.due)
        elif connection in self._idle:
            self._idle.remove(connection)
        self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        self._all.pop(connection.sock.fileno(), None)
        connection.sock.close()


@contextlib.contextmanager
def meanwhile(driver: Driver, run: Callable[[Driver], Outcome]) -> Iterator[Driver]:
    """Run a driver on a thread of its own while the block lasts; then what it has seen is whole."""
    with driver, ThreadPoolExecutor(1) as thread:
        ending = thread.submit(run, driver)
        try:
            yield driver
        finally:
            driver.stop()
            ending.result()
