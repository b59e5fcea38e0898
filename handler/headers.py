"""Request headers in, response headers out.

What a stranger sends is bounded and cleaned before it is echoed or logged.
"""

import itertools
import os
import re
from collections.abc import Iterable

import msgspec

from handler.errors import GatewayError, UnsupportedMediaType, ValidationError
from handler.gateway import Answer

Headers = list[tuple[bytes, bytes]]

REQUEST_ID_MAX = 128
LENGTH_DIGITS_MAX = 18  # a longer content-length counts as none; the body's own limit still holds
_UNSAFE = re.compile(r"[^A-Za-z0-9._:/+=@-]")
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
_JSON_TYPE = re.compile(
    rb"application/(?:[a-z0-9.!#$&^_-]+\+)?json\s*(?:;\s*charset\s*=\s*\"?utf-?8\"?\s*)?;?\s*", re.IGNORECASE
)

# Made ids: unique across processes by their random half, cheap by their count.
_process = os.urandom(6).hex()
_count = itertools.count(1)


class Asked(msgspec.Struct, frozen=True):
    """What the gateway needs of a request's headers."""

    request_id: str
    content_type: bytes
    content_encoding: bytes
    content_length: int | None
    timeout_ms: bytes
    key: bytes


def read(headers: Iterable[tuple[bytes, bytes]]) -> Asked:
    """Pick our headers out of a request's. The last of several wins."""
    found = {
        name: value
        for name, value in headers
        if name
        in (
            b"x-request-id",
            b"traceparent",
            b"content-type",
            b"content-encoding",
            b"content-length",
            b"x-request-timeout-ms",
            b"authorization",
            b"x-api-key",
        )
    }
    length = found.get(b"content-length", b"")
    return Asked(
        request_id=request_id(found.get(b"x-request-id", b""), found.get(b"traceparent", b"")),
        content_type=found.get(b"content-type", b""),
        content_encoding=found.get(b"content-encoding", b""),
        content_length=int(length) if length.isdigit() and len(length) <= LENGTH_DIGITS_MAX else None,
        timeout_ms=found.get(b"x-request-timeout-ms", b""),
        key=_key(found.get(b"authorization", b""), found.get(b"x-api-key", b"")),
    )


def _key(authorization: bytes, plain: bytes) -> bytes:
    """The caller's key: from `Authorization: Bearer …`, else from `x-api-key`; empty where there is none."""
    scheme, _, key = authorization.partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else plain.strip()


def request_id(given: bytes, traceparent: bytes) -> str:
    """The caller's id made harmless, else the trace's (W3C Trace Context), else a new one."""
    if given and (cleaned := clean(given.decode("latin-1"), REQUEST_ID_MAX)):
        return cleaned
    if (trace := _TRACEPARENT.fullmatch(traceparent)) and trace[1].strip(b"0"):
        return trace[1].decode()
    return f"{_process}-{next(_count):x}"


def clean(text: str, chars_max: int) -> str:
    return _UNSAFE.sub("", text[: 4 * chars_max])[:chars_max]


def require_json(asked: Asked) -> None:
    """A missing content type passes for JSON; a wrong one, or a packed body, does not."""
    if asked.content_type and not _JSON_TYPE.fullmatch(asked.content_type.strip()):
        raise UnsupportedMediaType("the body must be sent as content-type application/json (in UTF-8)")
    if asked.content_encoding and asked.content_encoding.strip().lower() != b"identity":
        raise UnsupportedMediaType("the body must be sent without content-encoding")


def timeout_s(asked: Asked, *, at_most_s: float) -> float:
    """The caller's own time-out, in seconds, where it is shorter than ours."""
    if not asked.timeout_ms:
        return at_most_s
    try:
        own_ms = float(asked.timeout_ms)
    except ValueError:
        own_ms = 0.0
    if not own_ms > 0:
        raise ValidationError("x-request-timeout-ms must be a number of milliseconds over 0")
    return min(own_ms / 1000, at_most_s)


def of_answer(answer: Answer, request_id: str, total_s: float) -> Headers:
    timing = ", ".join(f"{stage};dur={spent_s * 1000:.3f}" for stage, spent_s in answer.stages)
    return [
        (b"x-request-id", request_id.encode()),
        (b"x-router-latency", b"%.3f" % (total_s * 1000)),
        (b"x-cache", answer.cache.encode()),
        (b"x-model-version", answer.version.encode()),
        (b"server-timing", timing.encode()),
    ]


def of_error(
    error: GatewayError, request_id: str, total_s: float | None = None, version: str | None = None
) -> Headers:
    """
    total_s  time in the gateway, in seconds
    version  of the loaded model, if there is one
    """
    found = [(b"x-request-id", request_id.encode())]
    if version is not None:
        found.append((b"x-model-version", version.encode()))
    if total_s is not None:
        found.append((b"x-router-latency", b"%.3f" % (total_s * 1000)))
    found += [(name.lower().encode(), value.encode()) for name, value in error.headers]
    return found
