"""`/v1/route`: for proxies, which copy headers and must never fail a user's request.

Any method, any path behind it, the bodies of single queries whole or cut off. The
answer is 200 with an empty JSON object always, and stands in the headers; whatever
goes wrong is the last tier with an `x-query-reason`. What the end user controls
never steers it: neither threshold, explain, time-out nor authorization is read.
"""

import asyncio
from typing import Any

import msgspec

from handler import headers
from handler.errors import DeadlineExceeded, GatewayError, PayloadTooLarge, from_bug
from handler.exchange import Exchange
from handler.gateway import Answer
from handler.telemetry import FallbackReason
from handler.wires.base import Endpoint, Query, Reply, Service, reason_of
from handler.wires.documents import an_object, operation
from handler.wires.messages import conversation, items

PREFIX = "/v1/route"
KEY_HEADER = b"x-query-gateway-key"
# How Envoy says that it sent the beginning of a body alone.
PARTIAL_HEADER = b"x-envoy-auth-partial-body"

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


async def serve(service: Service, exchange: Exchange, _: str = "") -> None:
    """Answer one request, whatever it is."""
    telemetry = service.telemetry
    telemetry.active += 1
    telemetry.query("route")
    text = ""
    try:
        try:
            answer, text = await _answered(service, exchange)
        except GatewayError as error:
            answer = service.without_model("route", reason_of(error))
        except Exception as bug:
            failure = from_bug(bug)
            service.log.error(
                "route_failed", error_type=failure.error_type, error=bug, message=failure.message
            )
            answer = service.without_model("route", "unreadable")
        total_s = exchange.spent_s
        service.succeeded(exchange, answer, text, total_s, "route")
        await exchange.answer(200, b"{}", headers.of_answer(answer, exchange.asked.request_id, total_s))
    finally:
        telemetry.active -= 1


def unreadable(service: Service, request_id: str) -> headers.Headers:
    """Count a request that never came as far as `serve`; the headers of the 200 that it gets.

    A proxy takes any other status for a refusal of its user's request.
    """
    service.telemetry.query("route")
    answer = service.without_model("route", "unreadable")
    service.telemetry.succeeded_otherwise()
    return headers.of_answer(answer, request_id, 0.0)


async def _answered(service: Service, exchange: Exchange) -> tuple[Answer, str]:
    limit_s = service.settings.route_timeout_ms / 1000
    # Where there are no keys, those who come through proxies take turns with all others.
    caller = KEY_HEADER
    if service.callers is not None:
        caller = exchange.header(KEY_HEADER)
        if not service.callers.admits(caller):
            return service.without_model("route", "unauthenticated"), ""
    try:
        async with asyncio.timeout(limit_s):
            query = await _query(service, exchange)
            if query.reason is not None:
                return service.without_model("route", query.reason), ""
            left_s = limit_s - exchange.spent_s
            if left_s <= 0:
                raise DeadlineExceeded("the time ran out before the body arrived")
            answer = await service.decide(query, "route", timeout_s=left_s, caller=caller)
            return answer, query.text
    except TimeoutError:
        return service.without_model("route", "timeout"), ""


async def _query(service: Service, exchange: Exchange) -> Query:
    limit = service.settings.max_body_bytes
    try:
        body = await exchange.body(limit, service.read_timeout_s)
    except PayloadTooLarge:
        return Query(reason="cut_body")
    if exchange.header(PARTIAL_HEADER).lower() == b"true":
        return Query(reason="cut_body")
    return read(body)


def read(body: bytes) -> Query:
    """The query of a body, or why there is none."""
    if not body.strip():
        return Query(reason="no_text")
    try:
        found = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        return Query(reason=_why(body, exc))
    try:
        return _asked({name: _value(found[name]) for name in FORMS if name in found})
    except (GatewayError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Query(reason="unreadable")


FORMS = ("text", "texts", "messages", "input", "prompt", "system", "instructions")


def _value(raw: msgspec.Raw) -> object:
    found: object = msgspec.json.decode(raw)
    return found


def _asked(found: dict[str, object]) -> Query:
    given = {name: value for name, value in found.items() if value is not None}
    text, messages, entered, prompt = (given.get(name) for name in ("text", "messages", "input", "prompt"))
    if not isinstance(prompt, str | list):
        prompt = None  # a stored prompt's name, beside `input`
    if "texts" in given or sum(one is not None for one in (text, messages, entered, prompt)) > 1:
        return Query(reason="many")
    if isinstance(messages, list):
        return conversation(messages, given.get("system"))
    if entered is not None:
        return items(entered, given.get("instructions"))
    if isinstance(prompt, list):
        if len(prompt) != 1:
            return Query(reason="many" if prompt else "no_text")
        prompt = prompt[0]
    asked = prompt if text is None else text
    if asked is None:
        return Query(reason="unreadable" if messages is not None else "no_text")
    if not isinstance(asked, str):
        return Query(reason="unreadable")
    return Query(text=asked) if asked.strip() else Query(reason="no_text")


def _why(body: bytes, exc: Exception) -> FallbackReason:
    """Whether a body that cannot be decoded breaks off, or is something else."""
    if "truncated" in str(exc) and body.lstrip()[:1] == b"{":
        return "cut_body"
    # A character that was cut in two, at the very end of what came.
    if isinstance(exc, UnicodeDecodeError) and exc.end >= len(body) - 3 and body.lstrip()[:1] == b"{":
        return "cut_body"
    return "unreadable"


def _refuse(error: GatewayError) -> Reply:
    """Nothing is refused here; whatever happens before it is reached still answers 200."""
    return Reply(b"{}")


def _documented(name: str, *below: str) -> dict[str, Any]:
    documented = operation(
        name,
        "One query for a proxy: always 200, the decision in the headers, whatever was sent.",
        body=an_object(),
        answer=an_object(),
        error=an_object(),
        below=below,
    )
    documented["responses"] = {"200": documented["responses"]["200"]}
    documented["security"] = [{}]  # a key comes in a header of its own
    return {"post": documented}


ENDPOINTS = (
    Endpoint(
        path=PREFIX + "/*",
        methods=(),
        wire="route",
        refuse=_refuse,
        serve=serve,
        documents={PREFIX: _documented("route"), PREFIX + "/{path}": _documented("routeBelow", "path")},
    ),
)
