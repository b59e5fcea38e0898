"""HTTP, and the only module that knows Litestar.

One handler decodes a request, asks the gateway and encodes its answer or its
error; the rest are probes and reports. `build` wires the app; read `classify` in
it first.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from litestar import HttpMethod, Litestar, Request, Response, asgi, get, route
from litestar.exceptions import HTTPException
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send

from handler import headers, wire
from handler.errors import (
    CallerGone,
    GatewayError,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    Unauthenticated,
    ValidationError,
    from_bug,
)
from handler.gateway import Answer
from handler.keys import Keyring
from handler.settings import Settings
from handler.wiring import Parts

if TYPE_CHECKING:
    from handler.page import Page

CLASSIFY = "/v1/query-classify"
NOTHING_HERE = f"there is nothing here; queries are asked with POST {CLASSIFY}"
JSON = (b"content-type", b"application/json")


def build(parts: Parts) -> Litestar:
    """Wire the routes to one gateway."""
    gateway, health, settings = parts.gateway, parts.health, parts.settings
    callers, operators = parts.callers, parts.operators
    telemetry, log = parts.telemetry, parts.log
    timeout_s = settings.request_timeout_ms / 1000
    read_timeout_s = settings.read_timeout_ms / 1000

    @asgi(CLASSIFY, copy_scope=False)
    async def classify(scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one query: the whole of a request's life on this side of HTTP."""
        started = time.perf_counter()
        asked = headers.read(scope["headers"])
        telemetry.active += 1
        try:
            _admit(callers, asked)
            if scope["method"] != "POST":  # type: ignore[typeddict-item]
                raise MethodNotAllowed(f"{CLASSIFY} is asked with POST", headers=(("allow", "POST"),))
            headers.require_json(asked)
            text = wire.read_query(
                await _body(receive, asked.content_length, settings.max_body_bytes, read_timeout_s)
            )
            telemetry.query("native")
            answer = await gateway.classify(
                text,
                timeout_s=headers.timeout_s(asked, at_most_s=timeout_s),
                caller_left=lambda: _hung_up(receive),
            )
            total_s = time.perf_counter() - started
            telemetry.succeeded(total_s, answer.stages, hit=answer.cache != "miss")
            if settings.log_requests:
                _log_request(answer, asked.request_id, text, total_s)
            await _send(
                send,
                200,
                wire.write_answer(answer.decision),
                headers.of_answer(answer, asked.request_id, total_s),
            )
        except CallerGone as gone:
            telemetry.failed(gone.error_type, gone.code)
        except GatewayError as error:
            await _fail(send, error, asked.request_id, started)
        except Exception as bug:
            await _fail(send, from_bug(bug), asked.request_id, started, bug)
        finally:
            telemetry.active -= 1

    @get("/health/live")
    async def live() -> ASGIResponse:
        return _probe(health.live())

    @get("/health/ready")
    async def ready() -> ASGIResponse:
        return _probe(health.ready())

    @get("/health/deep")
    async def deep(request: Request[Any, Any, Any]) -> ASGIResponse:
        _admit(operators, headers.read(request.scope["headers"]))
        return _json(200, wire.encode(await health.deep()))

    @get("/metrics")
    async def metrics(request: Request[Any, Any, Any]) -> ASGIResponse:
        _admit(operators, headers.read(request.scope["headers"]))
        body, content_type = telemetry.scrape(request.headers.get("accept", ""))
        return ASGIResponse(body=body, headers={"content-type": content_type})

    @get("/schema")
    async def schema() -> ASGIResponse:
        from handler.schema import document  # not needed to answer queries

        return ASGIResponse(body=document(), headers={"content-type": "application/vnd.oai.openapi+json"})

    page: Page | None = None

    @route(["/", "/docs", "/page/{name:str}"], http_method=[HttpMethod.GET, HttpMethod.HEAD])
    async def show(request: Request[Any, Any, Any]) -> ASGIResponse:
        nonlocal page
        if page is None:
            page = await asyncio.to_thread(_open_page, settings)
        reply = page.answer(
            request.scope["path"],
            accept_encoding=request.headers.get("accept-encoding", ""),
            if_none_match=request.headers.get("if-none-match", ""),
        )
        if reply is None:
            raise NotFound(NOTHING_HERE)
        head = request.method == "HEAD"
        return ASGIResponse(
            body=b"" if head else reply.body,
            status_code=reply.status,
            headers=reply.headers,
            is_head_response=head,
        )

    def on_error(request: Request[Any, Any, Any], exc: Exception) -> Response[bytes]:
        """Everything that fails outside `classify`: unknown paths, wrong methods, bugs in a report."""
        asked = headers.read(request.scope["headers"])
        error = _translated(exc)
        _record(
            error, asked.request_id, exc if error.code == 500 else None, counted=_is_v1(request.scope["path"])
        )
        extra = {name.decode(): value.decode() for name, value in headers.of_error(error, asked.request_id)}
        return Response(
            wire.write_error(error), status_code=error.code, headers=extra, media_type="application/json"
        )

    _record = partial(record, parts)

    async def _fail(
        send: Send, error: GatewayError, request_id: str, started: float, bug: Exception | None = None
    ) -> None:
        _record(error, request_id, bug, counted=True)
        total_s = time.perf_counter() - started
        extra = headers.of_error(error, request_id, total_s, gateway.model.version)
        await _send(send, error.code, wire.write_error(error), extra)

    def _log_request(answer: Answer, request_id: str, text: str, total_s: float) -> None:
        log.info(
            "request",
            request_id=request_id,
            label=answer.decision.label,
            task=answer.decision.task,
            confidence=round(answer.decision.confidence, 4),
            cache=answer.cache,
            latency_ms=round(total_s * 1000, 3),
            query_chars=len(text),
            query_digest=log.fingerprint(text),
        )

    return Litestar(
        [
            classify,
            live,
            ready,
            deep,
            metrics,
            *([schema] if settings.schema_enabled else []),
            *([show] if settings.page_on else []),
        ],
        openapi_config=None,  # `handler.schema` documents every answer, errors included
        exception_handlers={HTTPException: on_error, Exception: on_error},
        logging_config=None,
        debug=False,  # said, so that no variable of the environment says otherwise
        pdb_on_exception=False,
    )


def record(
    parts: Parts, error: GatewayError, request_id: str, bug: Exception | None = None, *, counted: bool
) -> None:
    """Count and log a request that is answered with an error."""
    if counted:
        parts.telemetry.failed(error.error_type, error.code)
    parts.log.error(
        "request_failed",
        error_type=error.error_type,
        error=bug,
        request_id=request_id,
        code=error.code,
        message=error.message,
    )


def refusing_hosts(parts: Parts) -> Callable[[Any, Any, Any], Awaitable[None]]:
    """What answers a request that names more than one host."""

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        asked = headers.read(scope["headers"])
        error = ValidationError("the request has more than one host line; exactly one is accepted")
        record(parts, error, asked.request_id, counted=_is_v1(scope["path"]))
        await _send(send, error.code, wire.write_error(error), headers.of_error(error, asked.request_id))

    return refuse


def _open_page(settings: Settings) -> "Page":
    """Import and pack the page when it is first asked for: no start and no query pays for it. Blocks."""
    from handler.page import Page, read_url

    url = read_url(settings.prometheus_url) if settings.prometheus_url else ""
    page = Page(prometheus_url=url, docs=settings.schema_enabled)
    page.load()
    return page


def _admit(ring: Keyring | None, asked: headers.Asked) -> None:
    if ring is not None and not any(ring.admits(key) for key in asked.keys):
        raise Unauthenticated(
            "a known key is needed, as authorization: Bearer … or as x-api-key",
            headers=(("www-authenticate", 'Bearer realm="query-gateway"'),),
        )


async def _body(receive: Receive, declared: int | None, bytes_max: int, within_s: float) -> bytes:
    """Read a request's body, and stop as soon as it is over `bytes_max` or `within_s` seconds."""
    if declared is not None and declared > bytes_max:
        raise PayloadTooLarge(f"the body is {declared} bytes; at most {bytes_max} are read")
    try:
        async with asyncio.timeout(within_s):
            return await _chunks(receive, declared, bytes_max)
    except TimeoutError:
        raise ValidationError(f"the body had not come in full after {within_s:g} s") from None


async def _chunks(receive: Receive, declared: int | None, bytes_max: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            # So the server tells of a caller who left, and of chunks that cannot be read; who
            # sent the latter is still there.
            raise ValidationError("the body broke off before its end, or its chunks cannot be read")
        chunk = message["body"]  # type: ignore[typeddict-item]
        size += len(chunk)
        if size > bytes_max:
            raise PayloadTooLarge(f"the body is over {bytes_max} bytes")
        chunks.append(chunk)
        if size == declared or not message.get("more_body"):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(send: Send, code: int, body: bytes, extra: list[tuple[bytes, bytes]]) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": code,
            "headers": [JSON, (b"content-length", b"%d" % len(body)), *extra],
        }
    )
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _json(code: int, body: bytes) -> ASGIResponse:
    return ASGIResponse(body=body, status_code=code, headers={"content-type": "application/json"})


def _probe(probe: wire.Probe) -> ASGIResponse:
    return _json(200 if probe.status in ("alive", "ready") else 503, wire.encode(probe))


def _is_v1(path: str) -> bool:
    return path.startswith("/v1/")


def _translated(exc: Exception) -> GatewayError:
    """Litestar's refusals in our vocabulary. Their own texts may quote the request."""
    if isinstance(exc, GatewayError):
        return exc
    if isinstance(exc, HTTPException):
        if exc.status_code == 404:
            return NotFound(NOTHING_HERE)
        if exc.status_code == 405:
            allowed = tuple((exc.headers or {}).items())
            return MethodNotAllowed("this path is not asked with this method", headers=allowed)
        if exc.status_code < 500:
            return ValidationError("the request cannot be read as HTTP/1.1 with a valid host")
    return from_bug(exc)
