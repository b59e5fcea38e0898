"""The load driver sees what happened: a server that answers as it is told, and every ending of a query."""

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from lab.drive import Driver, meanwhile, poisson, request, requests, steady
from lab.launch import open_files_max

HIT = b"HTTP/1.1 200 OK\r\nx-cache: l1\r\ncontent-length: 2\r\n\r\n{}"
MISS = HIT.replace(b"l1", b"miss")
REFUSED = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 2\r\nretry-after: 1\r\n\r\n{}"
LAST = b"HTTP/1.1 200 OK\r\nx-cache: l1\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}"

Answer = Callable[[socket.socket], None]


@contextmanager
def server(answer: Answer) -> Iterator[tuple[int, list[int]]]:
    """A server that does `answer` for every request. Yields its port and one entry per connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    connections: list[int] = []

    def serve(connection: socket.socket) -> None:
        with connection:
            while connection.recv(65536):
                try:
                    answer(connection)
                except OSError:
                    return

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connections.append(1)
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield listener.getsockname()[1], connections
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join()


def asked() -> Iterator[bytes]:
    return itertools.repeat(request("q"))


def test_hits_misses_and_refusals_are_told_apart() -> None:
    answers = itertools.cycle([HIT, MISS, REFUSED])
    with server(lambda c: c.sendall(next(answers))) as (port, _), Driver(port) as driver:
        seen = driver.open(asked(), steady(300), seconds=0.2)

    assert seen.offered == seen.codes[200] + seen.codes[429] == 60
    assert (len(seen.hits_s), len(seen.misses_s), len(seen.refusals_s)) == (20, 20, 20)
    assert seen.without_retry_after == seen.lost == 0


def test_an_answer_in_pieces_is_one_answer() -> None:
    def drip(connection: socket.socket) -> None:
        for start in range(0, len(HIT), 7):
            connection.sendall(HIT[start : start + 7])
            time.sleep(0.0005)

    with server(drip) as (port, _), Driver(port) as driver:
        seen = driver.closed(asked(), connections=2, seconds=0.1)

    assert seen.offered == seen.codes[200] > 0


def test_a_connection_that_breaks_loses_its_query_and_no_other() -> None:
    turns = itertools.count()

    def every_tenth_breaks(connection: socket.socket) -> None:
        if next(turns) % 10 == 9:
            connection.shutdown(socket.SHUT_RDWR)
        connection.sendall(HIT)

    with server(every_tenth_breaks) as (port, _), Driver(port) as driver:
        seen = driver.open(asked(), steady(500), seconds=0.2)

    assert seen.offered == 100
    assert (seen.lost, seen.codes[200]) == (10, 90)


def test_a_connection_that_is_told_to_close_is_not_used_again() -> None:
    with server(lambda c: c.sendall(LAST)) as (port, connections), Driver(port) as driver:
        seen = driver.open(asked(), steady(200), seconds=0.1)

    assert seen.lost == 0
    assert len(connections) == seen.codes[200] == 20


def test_a_query_that_was_sent_late_has_waited_since_it_was_due() -> None:
    def slow(connection: socket.socket) -> None:
        time.sleep(0.05)
        connection.sendall(MISS)

    with server(slow) as (port, _), Driver(port) as driver:
        seen = driver.open(asked(), iter([0.0, 0.001, 0.002, 9.0]), seconds=1.0)

    assert seen.codes[200] == 3
    assert min(seen.misses_s) >= 0.05


def test_a_polite_caller_that_is_told_to_close_does_not_come_again() -> None:
    with server(lambda c: c.sendall(LAST)) as (port, connections), Driver(port) as driver:
        seen = driver.closed(asked(), connections=3, polite=True)

    assert seen.offered == seen.codes[200] == len(connections) == 3


def test_a_polite_caller_whose_connection_breaks_does_not_come_again() -> None:
    with (
        server(lambda c: c.shutdown(socket.SHUT_RDWR)) as (port, connections),
        Driver(port) as driver,
    ):
        seen = driver.closed(asked(), connections=3, polite=True)

    assert (seen.offered, seen.lost, len(connections)) == (3, 3, 3)


def test_a_closed_loop_ends_with_the_last_query() -> None:
    with server(lambda c: c.sendall(HIT)) as (port, _), Driver(port) as driver:
        seen = driver.closed(iter([request("q")] * 7), connections=3)

    assert seen.offered == seen.codes[200] == 7


def test_callers_whom_nobody_answers_come_again() -> None:
    with server(lambda c: c.sendall(HIT)) as (port, _):
        pass
    with Driver(port) as driver:
        seen = driver.closed(asked(), connections=2, seconds=0.35)

    assert seen.lost == seen.offered >= 6


def test_every_query_is_kept_with_its_answer_or_with_none() -> None:
    turns = itertools.count()
    kept: list[tuple[bytes, bytes]] = []

    def first_breaks(connection: socket.socket) -> None:
        if next(turns) == 0:
            connection.shutdown(socket.SHUT_RDWR)
        connection.sendall(HIT)

    with (
        server(first_breaks) as (port, _),
        Driver(port, keep=lambda query, answer, due_s, took_s: kept.append((query, answer))) as driver,
    ):
        driver.open(iter([b"one", b"two"]), iter([0.0, 0.1]), seconds=0.2)

    assert kept == [(b"one", b""), (b"two", HIT)]


def test_a_driver_on_a_thread_ends_with_its_block() -> None:
    with (
        server(lambda c: c.sendall(HIT)) as (port, _),
        meanwhile(Driver(port), lambda driver: driver.open(asked(), steady(500))) as driver,
    ):
        time.sleep(0.1)

    assert driver.seen.offered == driver.seen.codes[200] > 0


def test_arrivals_keep_their_rate() -> None:
    assert next(itertools.islice(steady(50), 100, None)) == 2.0
    assert 9_700 < sum(1 for _ in itertools.takewhile(lambda due: due < 10, poisson(1000, seed=3))) < 10_300


def test_a_driver_works_beside_thousands_of_open_files() -> None:
    if open_files_max() < 1200:
        pytest.skip("this machine allows too few open files")
    with contextlib.ExitStack() as files:
        for _ in range(1100):
            files.enter_context(socket.socket())
        with server(lambda c: c.sendall(HIT)) as (port, _), Driver(port) as driver:
            seen = driver.open(asked(), steady(100), seconds=0.1)

    assert seen.codes == {200: 10}


def test_a_request_is_whole() -> None:
    head, _, body = next(requests(1)).partition(b"\r\n\r\n")

    assert int(head.rpartition(b"content-length: ")[2]) == len(body)
