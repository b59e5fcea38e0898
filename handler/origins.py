"""Web pages whose scripts may ask the gateway: CORS_ORIGINS, and what a browser is told of it.

A browser asks before a page of another origin may send (a preflight), and shows the
page an answer only if the answer names the page's origin. Knows nothing of paths.
"""

import re

import msgspec

Headers = list[tuple[bytes, bytes]]

# How long a browser may remember what a preflight said.
PREFLIGHT_AGE_S = 600
# What a page may send is for it to say: client libraries add headers of their own. It is echoed, bounded.
REQUEST_HEADERS = re.compile(rb"[A-Za-z0-9_,\- ]{1,2000}")
EXPOSED_HEADERS = (
    b"retry-after, server-timing, x-cache, x-model-version, x-query-confidence, x-query-label, x-query-reason, "
    b"x-query-route, x-query-task, x-request-id, x-router-latency"
)


class Origins(msgspec.Struct, frozen=True):
    """Web pages whose scripts may ask; `everyone` stands for any page."""

    known: frozenset[bytes]
    everyone: bool

    @classmethod
    def read(cls, text: str) -> "Origins | None":
        """Parse origins by comma, or `*`; None when there is none. Raises `ValueError`."""
        given = [origin for word in text.split(",") if (origin := word.strip())]
        for origin in given:
            scheme, separator, host = origin.partition("://")
            if origin != "*" and (not separator or not scheme or not host or "/" in host or "*" in origin):
                raise ValueError("an origin is written scheme://host[:port], as in https://app.example, or *")
        known = frozenset(origin.lower().encode() for origin in given if origin != "*")
        return cls(known, "*" in given) if given else None

    def answer(self, origin: bytes) -> Headers:
        """What every answer to a page of this origin says; nothing to a stranger but that answers differ."""
        if self.everyone:
            return [
                (b"access-control-allow-origin", b"*"),
                (b"access-control-expose-headers", EXPOSED_HEADERS),
            ]
        varies = (b"vary", b"origin")
        if origin.lower() not in self.known:
            return [varies]
        return [
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", EXPOSED_HEADERS),
            varies,
        ]

    def preflight(self, origin: bytes, request_headers: bytes) -> Headers:
        """The answer to a browser that asks whether it may send these headers."""
        headers = self.answer(origin)
        if len(headers) > 1:
            headers += [
                (b"access-control-allow-methods", b"GET, HEAD, POST"),
                (b"access-control-max-age", b"%d" % PREFLIGHT_AGE_S),
            ]
            if REQUEST_HEADERS.fullmatch(request_headers):
                headers.append((b"access-control-allow-headers", request_headers))
        return [*headers, (b"content-length", b"0")]
