"""The page to try the gateway on: files of the package, packed once, as they go over the wire.

`Page.load` reads the folder `handler/page/` and packs each file; `Page.answer` is
then a look-up. Knows nothing of the gateway, and of HTTP only headers: `app.py`
serves what is prepared here. Imported only where the page is on.
"""

import gzip
import hashlib
import html
import re
from pathlib import Path

import msgspec

FOLDER = Path(__file__).with_name("page")
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# What stands at a path of its own; all else is under /page/.
PAGES = {"/": "index.html", "/docs": "docs.html"}
PROMETHEUS = '<meta name="prometheus-url" content="{url}">'
# Where Prometheus lists what fires: the one foreign address that the page may ask.
ALERTS = "/api/v1/alerts"

_URL = re.compile(r"https?://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?(?:/[A-Za-z0-9._~/-]*)?")
_NOT_ACCEPTED = re.compile(r";\s*q\s*=\s*0(?:\.0{1,3})?\s*$")

Headers = list[tuple[str, str]]


class File(msgspec.Struct, frozen=True):
    """One file, plain and packed, each with an ETag of its own."""

    content_type: str
    plain: bytes
    packed: bytes
    etag: str
    packed_etag: str


class Reply(msgspec.Struct, frozen=True):
    """What goes out: status, headers and body; a HEAD request gets no body, but its length."""

    status: int
    headers: Headers
    body: bytes


def read_url(text: str) -> str:
    """Check the address of a Prometheus and return it without a slash at its end.

    Strict, since it goes into a header and into the page. Raises `ValueError`.
    """
    if not _URL.fullmatch(text):
        raise ValueError(ACCEPTED)
    return text.rstrip("/")


ACCEPTED = "http:// or https://, a host, perhaps a port and a path; no user, password, query or blank"


def policy(prometheus_url: str = "") -> str:
    """The Content-Security-Policy: nothing but our own files, and alerts from one Prometheus.

    Scripts may not write HTML either (Trusted Types): text from outside stays text.
    """
    allowed = f"'self' {prometheus_url}{ALERTS}" if prometheus_url else "'self'"
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        f"connect-src {allowed}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )


class Page:
    """All files of the page, ready to be sent. `load` first, off the event loop."""

    def __init__(self, *, prometheus_url: str = "", docs: bool = True) -> None:
        """
        prometheus_url  asked by the browser for alerts; empty: none are shown
        docs            whether /docs is served: it reads /schema, which can be off
        """
        self._prometheus_url = prometheus_url
        self._paths = {path: name for path, name in PAGES.items() if docs or path != "/docs"}
        self._files: dict[str, File] = {}
        self._common: Headers = [
            ("cache-control", "no-cache"),
            ("vary", "accept-encoding"),
            ("content-security-policy", policy(prometheus_url)),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
        ]

    @property
    def loaded(self) -> bool:
        return bool(self._files)

    def load(self) -> None:
        """Read and pack the files: a few milliseconds, once. Blocks; raises `OSError`."""
        files = {}
        names = {name: path for path, name in self._paths.items()}
        for file in sorted(FOLDER.iterdir()):
            if file.suffix not in TYPES or (file.suffix == ".html" and file.name not in names):
                continue
            content = file.read_bytes()
            if file.name == "index.html":
                empty, named = (
                    PROMETHEUS.format(url=html.escape(url)).encode() for url in ("", self._prometheus_url)
                )
                content = content.replace(empty, named)
            files[names.get(file.name, f"/page/{file.name}")] = packed(content, TYPES[file.suffix])
        self._files = files

    def answer(self, path: str, *, accept_encoding: str = "", if_none_match: str = "") -> Reply | None:
        """The file at a path; None where there is none."""
        file = self._files.get(path)
        if file is None:
            return None
        pack = accepts_gzip(accept_encoding)
        etag = file.packed_etag if pack else file.etag
        headers = [("etag", etag), *self._common]
        if matches(if_none_match, etag):
            return Reply(304, headers, b"")
        if pack:
            headers.append(("content-encoding", "gzip"))
        body = file.packed if pack else file.plain
        headers += [("content-type", file.content_type), ("content-length", str(len(body)))]
        return Reply(200, headers, body)


def packed(content: bytes, content_type: str) -> File:
    digest = hashlib.sha256(content).hexdigest()[:20]
    return File(
        content_type=content_type,
        plain=content,
        packed=gzip.compress(content, 9, mtime=0),
        etag=f'"{digest}"',
        packed_etag=f'"{digest}-gzip"',
    )


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether an Accept-Encoding takes gzip: named, or by `*`, and not at a weight of 0."""
    weights = {}
    for coding in accept_encoding.lower().split(","):
        name = coding.partition(";")[0].strip()
        weights[name] = not _NOT_ACCEPTED.search(coding)
    return weights.get("gzip", weights.get("*", False))


def matches(if_none_match: str, etag: str) -> bool:
    """Whether an If-None-Match names an ETag; compared weakly, as RFC 9110 (13.1.2) says."""
    given = [each.strip().removeprefix("W/") for each in if_none_match.split(",")]
    return etag in given or given == ["*"]
