"""Packed bodies: what is unpacked, what is refused, and that nothing unpacks without bound."""

import gzip
import zlib
from collections.abc import Callable

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from handler.errors import PayloadTooLarge, UnsupportedMediaType, ValidationError
from handler.exchange import PIECE, unpacked, unpacker


def bare_deflate(body: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(body) + stream.flush()


PACKERS: dict[str, tuple[bytes, Callable[[bytes], bytes]]] = {
    "gzip": (b"gzip", gzip.compress),
    "x-gzip": (b"x-gzip", gzip.compress),
    "deflate": (b"deflate", zlib.compress),
    "deflate without its frame": (b"deflate", bare_deflate),
    "zstd": (b"zstd", zstd.compress),
    "upper case": (b" GZIP ", gzip.compress),
    "plain": (b"identity", bytes),
    "nothing": (b"", bytes),
}


@pytest.mark.parametrize("name", PACKERS)
@given(body=st.binary(max_size=2000))
def test_what_was_packed_is_read_as_it_was(name: str, body: bytes) -> None:
    encoding, pack = PACKERS[name]

    assert unpacked(pack(body), encoding, 2000) == body


@pytest.mark.parametrize("name", ["gzip", "deflate", "deflate without its frame", "zstd"])
@given(body=st.binary(min_size=1, max_size=500), step=st.integers(1, 7))
def test_a_body_in_pieces_is_read_as_it_was(name: str, body: bytes, step: int) -> None:
    encoding, pack = PACKERS[name]
    packed, stream, found = pack(body), unpacker(encoding), b""

    for i in range(0, len(packed), step):
        found += stream.feed(packed[i : i + step], 500)
    stream.end()

    assert found == body


@pytest.mark.parametrize("name", ["gzip", "deflate", "zstd"])
def test_a_bomb_is_refused_at_the_limit(name: str) -> None:
    encoding, pack = PACKERS[name]
    packed = pack(bytes(50_000_000))

    with pytest.raises(PayloadTooLarge):
        unpacked(packed, encoding, 1_000_000)


@pytest.mark.parametrize("name", ["gzip", "deflate", "zstd"])
def test_a_body_that_breaks_off_is_refused(name: str) -> None:
    encoding, pack = PACKERS[name]
    packed = pack(b"a text that is long enough to be cut" * 9)

    with pytest.raises(ValidationError):
        unpacked(packed[: len(packed) // 2], encoding, 1000)


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_bytes_after_the_end_are_refused(name: str) -> None:
    encoding, pack = PACKERS[name]

    with pytest.raises(ValidationError):
        unpacked(pack(b"a text") + b"more", encoding, 1000)


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate", b"zstd"])
@given(body=st.binary(min_size=1, max_size=100))
def test_any_bytes_are_unpacked_or_refused(encoding: bytes, body: bytes) -> None:
    try:
        found = unpacked(body, encoding, 1000)
    except (ValidationError, PayloadTooLarge):
        return

    assert len(found) <= 1000


@pytest.mark.parametrize("encoding", [b"br", b"identity, gzip", b"compress", b"\xff"])
def test_another_packing_is_refused(encoding: bytes) -> None:
    with pytest.raises(UnsupportedMediaType, match="gzip, deflate or zstd"):
        unpacked(b"{}", encoding, 1000)


@pytest.mark.parametrize("name", ["gzip", "deflate", "deflate without its frame", "zstd"])
def test_a_stream_is_unpacked_in_small_pieces_however_well_it_was_packed(name: str) -> None:
    encoding, pack = PACKERS[name]
    body, stream = b"the same line\n" * 400_000, unpacker(encoding)

    pieces = [*stream.pieces(pack(body))]
    stream.end()

    assert b"".join(pieces) == body
    assert max(map(len, pieces)) <= PIECE
