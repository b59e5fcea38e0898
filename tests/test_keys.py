"""Keys: whom a keyring admits, and what it makes of its file."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.keys import BYTES_MAX, Keyring, digest, make, read

KEY = b"qg_the-right-one"
OTHER = b"qg_another"


def hexed(key: bytes) -> str:
    return digest(key).hex()


def test_a_keyring_admits_its_own_keys_alone() -> None:
    ring = Keyring(f"{hexed(KEY)},{hexed(OTHER)}")

    assert ring.admits(KEY)
    assert ring.admits(OTHER)
    assert not ring.admits(b"qg_a-wrong-one")
    assert not ring.admits(b"")
    assert not ring.admits(hexed(KEY).encode())


@given(st.binary(max_size=200))
def test_no_other_bytes_are_admitted(given_key: bytes) -> None:
    assert Keyring(hexed(KEY)).admits(given_key) == (given_key == KEY)


def test_a_made_key_is_long_and_never_the_same() -> None:
    made = {make() for _ in range(100)}

    assert len(made) == 100
    assert all(len(key) >= 43 for key in made)


def test_digests_stand_apart_by_commas_blanks_or_lines_with_comments() -> None:
    text = f"# ours\n{hexed(KEY)}  # team a\n\n sha256:{hexed(OTHER).upper()},{hexed(KEY)}\n"

    assert read(text) == (digest(KEY), digest(OTHER), digest(KEY))


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("{0}  -", id="sha256sum of its input"),
        pytest.param("{0}  keys/team a.key", id="sha256sum of a file"),
        pytest.param("{0} *team-a.key", id="sha256sum --binary"),
        pytest.param("\\{0}  a\\nb", id="sha256sum of a name with a line break"),
        pytest.param("SHA256 (team-a.key) = {0}", id="sha256sum --tag"),
        pytest.param("SHA2-256(stdin)= {0}".replace("(", " ("), id="openssl dgst"),
        pytest.param("{0}\tteam a", id="a name after a tab"),
        pytest.param("\ufeff{0}", id="a byte order mark"),
        pytest.param("\ufeff{0}  -", id="sha256sum after a byte order mark"),
        pytest.param("{0}\r", id="a line of Windows"),
    ],
)
def test_a_line_of_sha256sum_is_taken(line: str) -> None:
    assert read(line.format(hexed(KEY)) + "\n" + hexed(OTHER)) == (digest(KEY), digest(OTHER))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_file_is_read_in_the_encoding_that_its_first_bytes_name(encoding: str) -> None:
    file = Path("keys")
    file.write_bytes(f"\ufeff{hexed(KEY)}\r\n".encode(encoding.removesuffix("-sig")))

    assert Keyring(file=str(file)).admits(KEY)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"qg_secret\xfc", b"\x80"])
def test_a_file_that_is_no_text_is_refused_without_its_bytes(content: bytes) -> None:
    Path("keys").write_bytes(content)

    with pytest.raises(ValueError, match="not text in UTF-8") as refused:
        Keyring(file="keys")

    assert refused.type is ValueError
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("text", ["qg_a-key-itself", "abc", "0" * 63, "0" * 65, f"{'0' * 64};{'0' * 64}"])
def test_what_is_no_digest_is_refused_and_never_repeated(text: str) -> None:
    with pytest.raises(ValueError, match="line 2 is not a digest") as refused:
        read(f"{'0' * 64}\n{text}")

    assert text not in str(refused.value)


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n"])
def test_a_keyring_without_a_key_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(text)

    with pytest.raises(ValueError, match="no key"):
        Keyring(file=str(file))


def test_a_changed_file_is_read_again() -> None:
    ring, file = filed(hexed(KEY))

    rewrite(file, hexed(OTHER))
    ring.place(ring.load())

    assert ring.admits(OTHER)
    assert not ring.admits(KEY)


@pytest.mark.parametrize("text", ["", "\n", "# team a has left\n"])
def test_an_emptied_file_keeps_the_old_keys(text: str) -> None:
    ring, file = filed(hexed(KEY))

    rewrite(file, text)

    with pytest.raises(ValueError, match="it holds no key"):
        ring.load()
    assert ring.admits(KEY)


def test_a_digest_that_is_nobodys_takes_all_keys_back() -> None:
    ring, file = filed(hexed(KEY))

    rewrite(file, "0" * 64)
    ring.place(ring.load())

    assert not ring.admits(KEY)
    assert not ring.admits(b"0" * 64)


def test_what_is_read_admits_nobody_before_it_is_placed() -> None:
    ring, file = filed(hexed(KEY))

    rewrite(file, hexed(OTHER))
    ring.load()

    assert (ring.admits(KEY), ring.admits(OTHER)) == (True, False)


def test_a_key_that_is_named_twice_counts_once() -> None:
    ring, _ = filed(f"{hexed(KEY)}\n{hexed(KEY)}", given=hexed(KEY))

    assert len(ring) == 1


def not_a_digest(file: Path) -> None:
    rewrite(file, "not a digest")


def gone(file: Path) -> None:
    file.unlink()


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def unreadable(file: Path) -> None:
    file.chmod(0)
    if os.access(file, os.R_OK):
        pytest.skip("root reads everything")


def no_text(file: Path) -> None:
    file.write_bytes(b"\x80")


def too_long(file: Path) -> None:
    rewrite(file, hexed(OTHER) + " " * BYTES_MAX)


def without_end(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


@pytest.mark.parametrize("harm", [not_a_digest, gone, a_folder, unreadable, no_text, too_long, without_end])
def test_a_file_that_would_stop_a_start_keeps_the_old_keys(harm: Callable[[Path], None]) -> None:
    ring, file = filed(hexed(KEY))

    harm(file)

    with pytest.raises((ValueError, OSError)):
        ring.load()
    assert ring.admits(KEY)
    with pytest.raises((ValueError, OSError)):
        Keyring(file=str(file))


def test_keys_given_at_the_start_outlive_the_files() -> None:
    ring, file = filed(hexed(OTHER), given=hexed(KEY))

    rewrite(file, "")
    ring.place(ring.load())

    assert (ring.admits(KEY), ring.admits(OTHER)) == (True, False)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def filed(text: str, *, given: str = "") -> tuple[Keyring, Path]:
    file = Path("keys")
    file.write_text(text)
    return Keyring(given, str(file)), file


def rewrite(file: Path, text: str) -> None:
    """As editors and secret mounts do: a new file in the place of the old."""
    fresh = file.with_suffix(".new")
    fresh.write_text(text)
    os.replace(fresh, file)
