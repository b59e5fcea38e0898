"""Which address a gateway takes, and that nobody shares it."""

import socket
import threading

import pytest

from handler import listening
from handler.listening import CannotListen, bind, resolve
from lab.launch import free_port


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "0.0.0.0"),
        ("localhost", "127.0.0.1"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("::", "::"),
    ],
)
def test_an_address_or_a_name_of_one_is_listened_on(host: str, address: str) -> None:
    port = free_port()

    with bind(host, port) as bound:
        assert bound.getsockname()[:2] == (address, port)


def test_the_machines_own_name_is_listened_on() -> None:
    with bind(socket.gethostname(), free_port()) as bound:
        assert bound.getsockname()[1] > 0


@pytest.mark.parametrize(
    "host",
    ["x86_64-conda-linux-gnu", "a..b", "a" * 300, "-", "300.1.1.1", "8.8.8.8", "fe80::1", "a b", "http://x"],
)
def test_what_is_no_address_of_this_machine_is_refused_by_its_setting(host: str) -> None:
    with pytest.raises(CannotListen, match="HOST=") as refused:
        bind(host, free_port())

    assert not refused.value.taken


def test_two_never_have_the_same_port() -> None:
    port = free_port()

    with bind("127.0.0.1", port), pytest.raises(CannotListen, match="Port already in use") as refused:
        bind("127.0.0.1", port)

    assert refused.value.taken


def test_who_shares_a_port_elsewhere_is_not_joined() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()

        with pytest.raises(CannotListen, match="Port already in use"):
            bind("127.0.0.1", other.getsockname()[1])


def test_a_port_that_was_just_left_is_taken_again() -> None:
    port = free_port()
    with bind("127.0.0.1", port) as bound, socket.create_connection(("127.0.0.1", port)) as caller:
        answering, _ = bound.accept()
        answering.close()  # ours closes first: the port stays in TIME_WAIT
        caller.recv(1)

    with bind("127.0.0.1", port) as again:
        assert again.getsockname()[1] == port


def test_a_name_server_that_is_silent_is_waited_for_no_longer_than_was_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    silent = threading.Event()
    monkeypatch.setattr(listening, "RESOLVE_S", 0.01)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: silent.wait())

    with pytest.raises(CannotListen, match=r"HOST='gateway\.example'"):
        resolve("gateway.example", 80)

    silent.set()
