"""The stream's caller counts what came back, however it was cut, and says so when it breaks off."""

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

import pytest

from lab.stream import Stream, lines

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
ANSWERS = [b'{"label":"0"}\n', b'{"id":7,"error":{"code":400}}\n', b'{"label":"1"}\n']
BODY = b"".join(b"%x\r\n%b\r\n" % (len(line), line) for line in ANSWERS) + b"0\r\n\r\n"


@contextmanager
def answering(pieces: Sequence[bytes]) -> Iterator[tuple[int, list[bytes]]]:
    """A server that reads a request to its end and sends these pieces. Yields its port and what it read."""
    read: list[bytes] = []

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while not b"".join(read).endswith(b"0\r\n\r\n"):
                read.append(connection.recv(65536))
            for piece in pieces:
                connection.sendall(piece)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1], read
        thread.join()


@pytest.mark.parametrize("step", [1, 5, 7, 1000])
def test_answers_are_counted_however_they_come(step: int) -> None:
    told = HEAD + BODY
    with answering([told[i : i + step] for i in range(0, len(told), step)]) as (port, read):
        stream = Stream(port, islice(lines(1), 3), at_once=2)

        stream.run()

    assert (stream.sent, stream.answers, stream.errors) == (3, 3, 1)
    assert b"".join(read).count(b'{"text": ') == 3


def test_a_stream_that_is_stopped_ends_its_request() -> None:
    with answering([HEAD + b"0\r\n\r\n"]) as (port, read):
        stream = Stream(port, lines(1))
        stream.stop()

        stream.run()

    assert stream.sent == 0
    assert b"".join(read).endswith(b"\r\n\r\n0\r\n\r\n")


def test_an_answer_that_breaks_off_is_told() -> None:
    with (
        answering([HEAD + BODY[:-5]]) as (port, _),
        pytest.raises(SystemExit, match="closed after 3 answers"),
    ):
        Stream(port, islice(lines(1), 3)).run()
