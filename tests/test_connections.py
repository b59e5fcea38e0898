"""Connections that keep us waiting are closed, and the idle make room: on real sockets, at a clock of our own."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from handler.connections import Watch, facts, kernel_tells
from lab.launch import eventually

HEAD_S = 10.0
IDLE_MIN_S = 0.02
pytestmark = pytest.mark.skipif(not kernel_tells(), reason="this kernel does not tell of its connections")


class Street:
    """A listener, its callers, and a watch whose time moves when told to."""

    def __init__(self, family: socket.AddressFamily, host: str, connections_max: int = 100) -> None:
        self.stack = ExitStack()
        self.host = host
        anywhere = "::" if family == socket.AF_INET6 else host
        self.listener = self.stack.enter_context(
            socket.create_server(
                (anywhere, 0), family=family, backlog=50, dualstack_ipv6=family == socket.AF_INET6
            )
        )
        self.now = 1000.0
        self.busy: set[tuple[str, int | str]] = set()
        self.watch = Watch(
            self.listener,
            busy=self.busy,
            head_s=HEAD_S,
            connections_max=connections_max,
            idle_min_s=IDLE_MIN_S,
            now=lambda: self.now,
        )

    def call(self) -> socket.socket:
        address = (self.host, self.listener.getsockname()[1])
        return self.stack.enter_context(socket.create_connection(address, timeout=5))

    def connect(self) -> tuple[socket.socket, socket.socket]:
        """A caller, and our end of its connection."""
        caller = self.call()
        return caller, self.stack.enter_context(self.listener.accept()[0])

    def look_after(self, seconds: float, waiting: int = 0) -> None:
        self.now += seconds
        self.watch.look(waiting)


@pytest.fixture(params=["ipv4", "ipv6", "ipv4 on an ipv6 listener"])
def street(request: pytest.FixtureRequest) -> Iterator[Street]:
    if request.param == "ipv4":
        street = Street(socket.AF_INET, "127.0.0.1")
    else:
        street = Street(socket.AF_INET6, "::1" if request.param == "ipv6" else "127.0.0.1")
    with street.stack:
        yield street


def send(sender: socket.socket, content: bytes, *receivers: socket.socket) -> None:
    """Send, and wait until it has come."""
    sender.sendall(content)
    for receiver in receivers:
        assert receiver.recv(len(content)) == content


def acknowledged(ours: socket.socket) -> bool:
    seen = facts(ours)
    return seen is not None and seen.answered > 0


def is_open(caller: socket.socket) -> bool:
    caller.setblocking(False)
    try:
        return caller.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionError:
        return False


def test_a_connection_that_never_sends_is_closed(street: Street) -> None:
    caller, _ = street.connect()

    street.look_after(0)
    street.look_after(HEAD_S - 1)
    assert is_open(caller)
    street.look_after(1)

    assert not is_open(caller)
    assert street.watch.closed_late == 1


def test_a_head_that_never_ends_is_given_up_though_bytes_keep_coming(street: Street) -> None:
    caller, ours = street.connect()

    for _ in range(3):
        send(caller, b"x", ours)
        street.look_after(HEAD_S / 2)

    assert not is_open(caller)


@pytest.mark.parametrize("port", [int, str])
def test_a_request_that_is_being_answered_is_waited_for(street: Street, port: type[int] | type[str]) -> None:
    caller, ours = street.connect()
    send(caller, b"whole", ours)
    street.busy.add((ours.getpeername()[0], port(ours.getpeername()[1])))

    street.look_after(0)
    street.look_after(100 * HEAD_S)

    assert is_open(caller)


def test_an_idle_connection_is_left_to_the_server(street: Street) -> None:
    caller, ours = street.connect()
    send(caller, b"asked", ours)
    send(ours, b"answered", caller)
    eventually(lambda: acknowledged(ours), "the answer is confirmed")

    street.look_after(0)
    street.look_after(100 * HEAD_S)

    assert is_open(caller)


def test_a_second_head_that_never_ends_is_given_up(street: Street) -> None:
    caller, ours = street.connect()
    send(caller, b"asked", ours)
    send(ours, b"answered", caller)
    eventually(lambda: acknowledged(ours), "the answer is confirmed")
    eventually(lambda: facts(ours).sent_ago_s > 0.01, "time has passed")  # type: ignore[union-attr]
    send(caller, b"half", ours)

    street.look_after(0)
    street.look_after(HEAD_S)

    assert not is_open(caller)


def test_requests_one_after_another_never_add_up_to_a_late_head(street: Street) -> None:
    caller, ours = street.connect()

    for _ in range(5):
        send(caller, b"asked", ours)
        street.look_after(HEAD_S / 2)
        before = facts(ours)
        send(ours, b"answered", caller)
        eventually(lambda seen=before: facts(ours).answered > seen.answered, "it is confirmed")  # type: ignore[misc, union-attr]

    assert is_open(caller)


def test_connections_of_others_in_this_process_are_left_alone(street: Street) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        caller = street.stack.enter_context(socket.create_connection(other.getsockname()))
        ours = street.stack.enter_context(other.accept()[0])

        street.look_after(0)
        street.look_after(100 * HEAD_S)

        assert is_open(caller)
        assert ours.fileno() > 0


def crowded(connections_max: int) -> Street:
    return Street(socket.AF_INET, "127.0.0.1", connections_max)


def idle(street: Street) -> socket.socket:
    caller, ours = street.connect()
    send(caller, b"asked", ours)
    send(ours, b"answered", caller)
    eventually(lambda: facts(ours).idle_s >= IDLE_MIN_S, "it has been idle")  # type: ignore[union-attr]
    return caller


def test_when_others_wait_the_longest_idle_connection_gives_way() -> None:
    street = crowded(2)
    with street.stack:
        first, second = idle(street), idle(street)
        street.call()
        eventually(street.watch.waiting, "somebody waits")

        street.look_after(0, street.watch.waiting())

        assert (is_open(first), is_open(second)) == (False, True)
        assert street.watch.closed_idle == 1


def test_while_there_is_room_nobody_gives_way() -> None:
    street = crowded(3)
    with street.stack:
        first = idle(street)
        street.call()

        street.look_after(0, 1)

        assert is_open(first)


def test_who_is_being_answered_never_gives_way() -> None:
    street = crowded(1)
    with street.stack:
        caller, ours = street.connect()
        send(caller, b"asked", ours)
        street.busy.add(ours.getpeername()[:2])

        street.look_after(0, 1)

        assert is_open(caller)
