"""Who may ask: the keys that callers send, known to us by their digests alone.

A digest gives no key away, so it may stand in an environment or a file. Keys are
long random strings (`make`), so one round of SHA-256 is enough. Knows nothing of
HTTP: `headers.py` finds the key in a request.
"""

import codecs
import hashlib
import hmac
import re
import secrets
from pathlib import Path
from typing import Any

# Every request is compared with each; so many bytes are 15,000 digests.
BYTES_MAX = 1_000_000
ACCEPTED = "SHA-256 digests (64 hex digits) of keys, separated by commas; `query-gateway key` makes both"
_DIGEST = re.compile(r"(?:sha256:)?([0-9a-fA-F]{64})")
_COMMENT = re.compile(r"#.*")
# What `sha256sum` writes of a file, and with --tag or on BSD: a digest beside a name, which says nothing here.
_SUM = re.compile(r"\s*\\?([0-9a-fA-F]{64})(?: [ *]|\t)\S.*|\s*\\?SHA2?-?256 \(.*\) ?= ?([0-9a-fA-F]{64})\s*")


def make() -> str:
    """A new key: 256 random bits."""
    return "qg_" + secrets.token_urlsafe(32)


def digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def read(text: str) -> tuple[bytes, ...]:
    """Parse digests: 64 hex digits each, separated by commas, blanks or lines; `#` begins a comment.

    Lines as `sha256sum` writes them, with a name beside the digest, are taken too.
    Raises `ValueError`, which never repeats what it saw: that may be a key.
    """
    found: list[str] = []
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), start=1):
        matches = [_DIGEST.fullmatch(word) for word in _COMMENT.sub("", line).replace(",", " ").split()]
        if all(matches):
            found += [match[1] for match in matches if match]
        elif summed := _SUM.fullmatch(line):
            found.append(summed[1] or summed[2])
        else:
            raise ValueError(f"line {number} is not a digest; accepted: {ACCEPTED}")
    return tuple(bytes.fromhex(digits) for digits in found)


def _decoded(content: bytes) -> str:
    """A file's text: UTF-8, or UTF-16 where its first bytes say so. Raises `ValueError`."""
    if content.startswith(
        (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    ):  # as some shells write redirected output
        return content.decode("utf-16")
    return content.decode("utf-8")


class Keyring:
    """The digests of one set of keys, some given at the start, some in a file that may change."""

    def __init__(self, given: str = "", file: str = "") -> None:
        """Raises `ValueError` or `OSError` when there is no key to be had."""
        self._given = read(given)
        self._file = Path(file) if file else None
        self._digests = self.load()

    def __len__(self) -> int:
        return len(self._digests)

    def admits(self, key: bytes) -> bool:
        """Whether a key is one of ours, in a time that does not tell which, or how nearly."""
        seen = digest(key)
        known = False
        for each in self._digests:
            known |= hmac.compare_digest(each, seen)
        return known

    def load(self) -> tuple[bytes, ...]:
        """The digests given at the start and those that the file holds now, each once. Blocks.

        Raises `ValueError` or `OSError` for whatever would stop a start: a file that is not there or cannot be
        read, that holds something else, or nothing. A slip of the pen neither opens the gateway nor locks
        everybody out.
        """
        digests = self._given
        if self._file is not None:
            with open(self._file, "rb") as file:
                content = file.read(BYTES_MAX + 1)
            if len(content) > BYTES_MAX:
                raise ValueError(f"it is over {BYTES_MAX} bytes; accepted: {ACCEPTED}")
            try:
                digests += read(_decoded(content))
            except UnicodeDecodeError:  # whose message would repeat bytes of the file
                raise ValueError(f"it is not text in UTF-8; accepted: {ACCEPTED}") from None
        if not digests:
            raise ValueError("it holds no key, so nobody could ask")
        return tuple(dict.fromkeys(digests))

    def place(self, digests: tuple[bytes, ...]) -> dict[str, Any]:
        """Admit the keys of these digests, and no other, from now on. Returns facts for the log."""
        self._digests = digests
        return {"keys": len(digests)}
