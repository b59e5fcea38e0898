"""Keys: whom a keyring admits, and what it makes of its file."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.keys import Keyring, digest, make, read

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

    assert ring.refresh()
    assert ring.admits(OTHER)
    assert not ring.admits(KEY)


def test_an_unchanged_file_is_not_read_again() -> None:
    ring, _ = filed(hexed(KEY))

    assert not ring.refresh()


def test_an_emptied_file_admits_nobody() -> None:
    ring, file = filed(hexed(KEY))

    rewrite(file, "")

    assert ring.refresh()
    assert not ring.admits(KEY)


def test_a_slip_in_the_file_keeps_the_old_keys() -> None:
    ring, file = filed(hexed(KEY))

    rewrite(file, "not a digest")

    with pytest.raises(ValueError):
        ring.refresh()
    assert ring.admits(KEY)
    assert not ring.admits(b"not a digest")


def test_a_file_that_is_gone_keeps_the_old_keys() -> None:
    ring, file = filed(hexed(KEY))

    file.unlink()

    with pytest.raises(FileNotFoundError):
        ring.refresh()
    assert ring.admits(KEY)


def test_keys_given_at_the_start_outlive_the_files() -> None:
    ring, file = filed(hexed(OTHER), given=hexed(KEY))

    rewrite(file, "")

    assert ring.refresh()
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
