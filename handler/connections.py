"""Open connections: which are idle, which keep us waiting, and which must make room.

The server closes a connection that has been idle for `KEEP_ALIVE_SEC`, and knows no
other bound. The two others are kept here: a request's head must have come in full
within `READ_TIMEOUT_MS`, and when all connections that may be open are and more wait
to be accepted, those that have been idle the longest give way.

What a connection does is read from the kernel (TCP_INFO), by its file descriptor.
Where the kernel does not tell, nothing is closed here. Read `Watch.look` first.
"""

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Set
from contextlib import suppress

import msgspec

Peer = tuple[str, int]

# How often to look for heads that are late, as a share of what they may take, and in seconds.
LOOKS_PER_TIMEOUT = 4
LOOK_MIN_S, LOOK_MAX_S = 0.1, 2.5
# How often to see whether somebody waits to be accepted.
CROWD_LOOK_S = 0.1
# Far from the bound, or where it is high, a look each second does.
CALM_LOOK_S = 1.0
FEW = 256
# Looking takes at most this share of one CPU, however many connections there are.
LOOK_SHARE = 0.03
# While others wait to be accepted it may be more.
CROWD_SHARE = 0.25
# After so many descriptors the event loop gets a turn.
BREATH_AFTER, BREATH_S = 64, 0.001
# Who was answered a moment ago may be about to ask again. Where only a few connections may be open
# they change hands sooner: seconds for each of them.
IDLE_MIN_S = 1.0
IDLE_MIN_S_EACH = 0.01

# `struct tcp_info` of linux/tcp.h: state, five bytes, then 32-bit and 64-bit fields.
_INFO_BYTES = 136
_UNACKED = struct.Struct("@24xI")
_INFO = struct.Struct("@B43xI4xI64xQQ")
_ESTABLISHED = 1


class Facts(msgspec.Struct, frozen=True):
    """What the kernel knows of a connection.

    received     bytes from the peer; `answered`: bytes that the peer has confirmed
    sent_ago_s, received_ago_s   seconds since data last went either way
    """

    received: int
    answered: int
    sent_ago_s: float
    received_ago_s: float

    @property
    def idle(self) -> bool:
        """Whether nothing has come since we last answered."""
        return self.answered > 0 and self.sent_ago_s <= self.received_ago_s

    @property
    def idle_s(self) -> float:
        return min(self.sent_ago_s, self.received_ago_s)


def facts(connection: socket.SocketType) -> Facts | None:
    """What the kernel knows of it; None when it is not open, or the kernel does not tell."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
    if len(info) < _INFO_BYTES:
        return None
    state, sent_ms, received_ms, answered, received = _INFO.unpack(info)
    if state != _ESTABLISHED:
        return None
    return Facts(received, answered, sent_ms / 1000, received_ms / 1000)


def kernel_tells() -> bool:
    """Whether what is read of a connection here is true; some sandboxes' kernels say nothing but noughts."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as caller:
            caller.settimeout(1.0)
            caller.connect(listener.getsockname())
            with listener.accept()[0] as answering:
                caller.sendall(b"?")
                answering.settimeout(1.0)
                answering.recv(1)
                seen = facts(answering)
                return seen is not None and seen.received == 1
    except (OSError, AttributeError):
        return False


class Late(msgspec.Struct):
    """A connection that owes us the rest of a head: since when, and what had been answered before."""

    since: float
    answered: int


class Watch:
    """Looks at the connections of one listener from time to time, on a thread of its own."""

    def __init__(
        self,
        listener: socket.socket,
        *,
        busy: Set[tuple[str, int | str]],
        head_s: float,
        connections_max: int,
        idle_min_s: float | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        busy             peers whose requests are being read or answered; the event loop's, only read here
        head_s           what a head may take, in seconds, from its first byte or from the connection's
        connections_max  that the server keeps open at a time
        idle_min_s       who has been idle for less never gives way; None: by `connections_max`
        """
        self.closed_late = self.closed_idle = 0
        self._count = 0
        self._listener = listener
        self._family = listener.family
        self._port = listener.getsockname()[1:2]
        self._busy = busy
        self._head_s = head_s
        self._max = connections_max
        self._idle_min_s = (
            min(IDLE_MIN_S, connections_max * IDLE_MIN_S_EACH) if idle_min_s is None else idle_min_s
        )
        self._now = now
        self._late: dict[Peer, Late] = {}
        self._look_s = min(max(head_s / LOOKS_PER_TIMEOUT, LOOK_MIN_S), LOOK_MAX_S)

    def start(self) -> None:
        threading.Thread(target=self._run, name="connections", daemon=True).start()

    def _run(self) -> None:
        look_at = crowd_at = 0.0
        while True:
            now = self._now()
            waiting = self.waiting() if now >= crowd_at else 0
            if now >= look_at or waiting:
                with suppress(
                    OSError, ValueError, struct.error
                ):  # whatever one look meets, there is a next one
                    self.look(waiting)
                took_s = self._now() - now
                look_at, crowd_at = now + max(self._look_s, took_s / LOOK_SHARE), now + took_s / CROWD_SHARE
            near = self._max < FEW or 2 * self._count >= self._max
            time.sleep(min(self._look_s, CROWD_LOOK_S if near else CALM_LOOK_S))

    def waiting(self) -> int:
        """Connections that stand in the accept queue."""
        try:
            return int(_UNACKED.unpack_from(self._info())[0])
        except (OSError, struct.error):
            return 0

    def closed(self) -> dict[str, int]:
        """Connections that were closed from here, by reason."""
        return {"late_head": self.closed_late, "idle": self.closed_idle}

    def _info(self) -> bytes:
        return self._listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)

    def look(self, waiting: int = 0) -> None:
        """Close whoever owes us a head for too long; and for those who wait, whoever is idle."""
        now = self._now()
        late: dict[Peer, Late] = {}
        idle: list[tuple[float, int, Peer]] = []
        count = 0
        for descriptor, peer, seen in self._open():
            count += 1
            if self._is_busy(peer):
                continue
            if seen.idle:
                idle.append((seen.idle_s, descriptor, peer))
                continue
            before = self._late.get(peer)
            owed = before if before and before.answered == seen.answered else Late(now, seen.answered)
            if now - owed.since >= self._head_s:
                self.closed_late += self._hang_up(descriptor, peer)
            else:
                late[peer] = owed
        self._late, self._count = late, count
        if waiting and count >= self._max:
            idle.sort(reverse=True)
            for idle_s, descriptor, peer in idle[:waiting]:
                if idle_s >= self._idle_min_s:
                    self.closed_idle += self._hang_up(descriptor, peer)

    def _is_busy(self, peer: Peer) -> bool:
        # Granian writes a port as text, the standard as a number.
        host, port = peer
        return peer in self._busy or (host, str(port)) in self._busy

    def _open(self) -> Iterator[tuple[int, Peer, Facts]]:
        """Our callers' connections: descriptor, peer and state."""
        try:
            names = os.listdir("/proc/self/fd")
        except OSError:
            return
        for number, name in enumerate(names):
            if number % BREATH_AFTER == BREATH_AFTER - 1:
                time.sleep(BREATH_S)
            descriptor = int(name)
            try:
                peer, seen = self._of(descriptor)
            except OSError:
                continue  # no socket, or not connected, or closed meanwhile
            if seen is not None:
                yield descriptor, peer, seen

    def _of(self, descriptor: int) -> tuple[Peer, Facts | None]:
        # The descriptor stays the server's: it is lent to an object that must never close it.
        lent = socket.SocketType(self._family, socket.SOCK_STREAM, 0, descriptor)
        try:
            if lent.getsockname()[1:2] != self._port:
                raise OSError
            host, port, *_ = lent.getpeername()
            return (host, port), facts(lent)
        except (TypeError, ValueError):  # another family's address
            raise OSError from None
        finally:
            lent.detach()

    def _hang_up(self, descriptor: int, peer: Peer) -> bool:
        """End a connection, unless its descriptor has come to mean another one or a request has begun."""
        try:
            own = os.dup(descriptor)
        except OSError:
            return False
        with socket.socket(self._family, socket.SOCK_STREAM, 0, fileno=own) as held:
            try:
                if held.getpeername()[:2] != peer or self._is_busy(peer):
                    return False
                held.shutdown(socket.SHUT_RDWR)
            except (OSError, TypeError):
                return False
        return True
