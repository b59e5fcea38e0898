"""Request headers in, response headers out.

What a stranger sends is bounded and cleaned before it is echoed or logged.
"""

import itertools
import os
import re
from collections.abc import Iterable
from functools import lru_cache

import msgspec

from handler.errors import GatewayError, UnsupportedMediaType, ValidationError
from handler.gateway import Answer

Headers = list[tuple[bytes, bytes]]

REQUEST_ID_MAX = 128
LENGTH_DIGITS_MAX = 18  # a longer content-length counts as none; the body's own limit still holds
_UNSAFE = re.compile(r"[^A-Za-z0-9._:/+=@-]")
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
_JSON_TYPE = re.compile(rb"application/(?:[a-z0-9.!#$&^_-]+\+)?json", re.IGNORECASE)
_QUOTED = re.compile(rb'"(?:[^"\\]|\\.)*"')
_CHARSET = re.compile(rb"(?:^|;)\s*charset\s*=\s*([^;]*)", re.IGNORECASE)
# Names under which UTF-8 is declared; ASCII is a part of it.
_UTF8 = (b"utf-8", b"utf8", b"us-ascii", b"ascii", b"")
# A number as everybody writes one. Python's own reading takes `1_000` too, which is none elsewhere.
_NUMBER = re.compile(
    rb"\s*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?\s*|\s*[+-]?inf(?:inity)?\s*", re.IGNORECASE
)
# More keys in one request are not looked at.
KEYS_MAX = 4

# Made ids: unique across processes by their random half, cheap by their count.
_process = os.urandom(6).hex()
_count = itertools.count(1)


class Asked(msgspec.Struct, frozen=True):
    """What the gateway needs of a request's headers."""

    request_id: str
    traceparent: bytes
    content_type: bytes
    content_encoding: bytes
    content_length: int | None
    timeout_ms: bytes
    keys: tuple[bytes, ...]


def read(headers: Iterable[tuple[bytes, bytes]]) -> Asked:
    """Pick our headers out of a request's. The last of several wins, but every key counts."""
    headers = list(headers)
    found = dict(headers)
    length = found.get(b"content-length", b"")
    traceparent = found.get(b"traceparent", b"")
    return Asked(
        request_id=request_id(found.get(b"x-request-id", b""), traceparent),
        traceparent=traceparent,
        content_type=found.get(b"content-type", b""),
        content_encoding=found.get(b"content-encoding", b""),
        content_length=int(length) if length.isdigit() and len(length) <= LENGTH_DIGITS_MAX else None,
        timeout_ms=found.get(b"x-request-timeout-ms", b""),
        keys=_keys(headers) if b"authorization" in found or b"x-api-key" in found else (),
    )


def _keys(headers: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, ...]:
    """The keys that a caller sent, as `Authorization: Bearer …` or as `x-api-key`.

    Where a platform puts its own credentials into one of them, ours stands in the
    other: one right key is enough, whatever stands beside it.
    """
    found = []
    for name, value in headers:
        if name == b"x-api-key":
            found.append(value.strip())
        elif name == b"authorization":
            scheme, _, key = value.strip().partition(b" ")
            if scheme.lower() == b"bearer":
                found.append(key.strip())
    return tuple(key for key in found if key)[:KEYS_MAX]


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
    """A missing content type passes for JSON; a wrong one does not."""
    if asked.content_type and not _is_json(asked.content_type):
        raise UnsupportedMediaType(
            "the body must be sent as content-type application/json (in UTF-8), or as application/x-ndjson"
        )


def is_type(content_type: bytes, name: bytes) -> bool:
    """Whether a content type is the one of this name, whatever its parameters."""
    return content_type.partition(b";")[0].strip().lower() == name


def _is_json(content_type: bytes) -> bool:
    """Whether a content type is JSON in UTF-8. Parameters other than its charset change nothing."""
    if content_type == b"application/json":  # as nearly all say it
        return True
    kind, _, parameters = content_type.partition(b";")
    if not _JSON_TYPE.fullmatch(kind.strip()) or b"," in _QUOTED.sub(b"", parameters):
        return False  # a comma stands between two types, of which a joined header makes one
    charsets = _CHARSET.findall(parameters)
    return all(charset.strip(b" \t\"'").lower() in _UTF8 for charset in charsets)


def timeout_s(asked: Asked, *, at_most_s: float) -> float:
    """The caller's own time-out, in seconds, where it is shorter than ours."""
    if not asked.timeout_ms:
        return at_most_s
    own_ms = float(asked.timeout_ms) if _NUMBER.fullmatch(asked.timeout_ms) else 0.0
    if not own_ms > 0:
        raise ValidationError("x-request-timeout-ms must be a number of milliseconds over 0")
    return min(own_ms / 1000, at_most_s)


def of_answer(answer: "Answer | GatewayError | None", request_id: str, total_s: float) -> Headers:
    """The headers of an answer; the decision stands in them where it is a single one."""
    found = [(b"x-request-id", request_id.encode()), (b"x-router-latency", b"%.3f" % (total_s * 1000))]
    if not isinstance(answer, Answer):
        return found
    decision, scored = answer.decision, answer.scored
    found += _of_decision(decision.route, decision.label, decision.task)
    found.append((b"x-query-confidence", b"%.4f" % decision.confidence))
    if decision.reason is not None:
        found.append((b"x-query-reason", decision.reason.encode()))
    if answer.serving is not None:
        found.append((b"x-model-version", answer.serving.router.version.encode()))
    if scored is not None:
        timing = ", ".join([f"{stage};dur={spent_s * 1000:.3f}" for stage, spent_s in scored.stages])
        found += [(b"x-cache", scored.cache.encode()), (b"server-timing", timing.encode())]
    return found


@lru_cache(maxsize=256)  # a few tiers times a few tasks
def _of_decision(route: str, label: str, task: str) -> tuple[tuple[bytes, bytes], ...]:
    return (
        (b"x-query-route", route.encode()),
        (b"x-query-label", label.encode()),
        (b"x-query-task", task.encode()),
    )


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
