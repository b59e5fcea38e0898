"""Litestar, and the only module that knows it: routes, probes, reports, errors outside the wires.

What a request for a decision goes through stands in `wires/`; read `wires/native.py` first.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from litestar import HttpMethod, Litestar, Request, Response, asgi, get, route
from litestar.exceptions import HTTPException
from litestar.handlers import ASGIRouteHandler
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send

from handler import headers, wire
from handler.errors import (
    GatewayError,
    MethodNotAllowed,
    NotFound,
    Unauthenticated,
    ValidationError,
    from_bug,
)
from handler.exchange import Exchange
from handler.keys import Keyring
from handler.settings import Settings
from handler.wires import endpoints, native
from handler.wires import route as route_wire
from handler.wires.base import Endpoint, Service, respond
from handler.wiring import Parts

if TYPE_CHECKING:
    from handler.page import Page

NOTHING_HERE = f"there is nothing here; send queries with POST to {native.PATH}"


def build(parts: Parts) -> Litestar:
    """Wire the routes to one gateway."""
    health, settings, operators = parts.health, parts.settings, parts.operators
    telemetry = parts.telemetry
    service = _service(parts)

    @asgi(native.PATH, copy_scope=False)
    async def classify(scope: Scope, receive: Receive, send: Send) -> None:
        await native.serve(service, Exchange(scope, receive, send))

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

        return ASGIResponse(
            body=document(settings.wire_names), headers={"content-type": "application/vnd.oai.openapi+json"}
        )

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
        if _is_for_proxies(parts, request.scope["path"]):
            found = route_wire.unreadable(service, asked.request_id)
            return Response(b"{}", headers={name.decode(): value.decode() for name, value in found})
        _record(
            error, asked.request_id, exc if error.code == 500 else None, counted=_is_v1(request.scope["path"])
        )
        extra = {name.decode(): value.decode() for name, value in headers.of_error(error, asked.request_id)}
        return Response(
            wire.write_error(error), status_code=error.code, headers=extra, media_type="application/json"
        )

    _record = partial(record, parts)

    return Litestar(
        [
            classify,
            *(_handler(endpoint, service) for endpoint in endpoints(settings.wire_names)),
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
    service = _service(parts)

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        request_id = exchange.asked.request_id
        if _is_for_proxies(parts, scope["path"]):
            await exchange.answer(200, b"{}", route_wire.unreadable(service, request_id))
            return
        error = ValidationError("the request has more than one host line; exactly one is accepted")
        record(parts, error, request_id, counted=_is_v1(scope["path"]))
        await exchange.answer(error.code, wire.write_error(error), headers.of_error(error, request_id))

    return refuse


def _service(parts: Parts) -> Service:
    return Service(
        parts.gateway, parts.health, parts.telemetry, parts.log, parts.settings, parts.callers, parts.tracer
    )


def _open_page(settings: Settings) -> "Page":
    """Import and pack the page when it is first asked for: no start and no query pays for it. Blocks."""
    from handler.page import Page, read_url

    url = read_url(settings.prometheus_url) if settings.prometheus_url else ""
    page = Page(prometheus_url=url, docs=settings.schema_enabled)
    page.load()
    return page


def _handler(endpoint: Endpoint, service: Service) -> ASGIRouteHandler:
    """Litestar's handler of one path of a wire, or of all that lies below it."""
    prefix, below, _ = endpoint.path.partition("/*")

    @asgi(prefix, copy_scope=False, is_mount=bool(below))
    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        # A mount sees the path with what it is mounted at taken off.
        path = scope["path"]
        if not path.startswith("/"):
            raise NotFound(NOTHING_HERE)  # of `/v1/routes` it sees `s`, too
        rest = path.removeprefix(prefix).strip("/") if below else ""
        if endpoint.serve is not None:
            await endpoint.serve(service, exchange, rest)
        else:
            await respond(endpoint, service, exchange, rest)

    return handle


def _admit(ring: Keyring | None, asked: headers.Asked) -> None:
    if ring is not None and not any(ring.admits(key) for key in asked.keys):
        raise Unauthenticated(
            "a known key is needed, as authorization: Bearer … or as x-api-key",
            headers=(("www-authenticate", 'Bearer realm="query-gateway"'),),
        )


def _json(code: int, body: bytes) -> ASGIResponse:
    return ASGIResponse(body=body, status_code=code, headers={"content-type": "application/json"})


def _probe(probe: wire.Probe) -> ASGIResponse:
    return _json(200 if probe.status in ("alive", "ready") else 503, wire.encode(probe))


def _is_for_proxies(parts: Parts, path: str) -> bool:
    """Whether whatever is wrong with a request must be answered with 200 all the same."""
    prefix = route_wire.PREFIX
    return (path == prefix or path.startswith(prefix + "/")) and "route" in parts.settings.wire_names


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
            return MethodNotAllowed("this path does not take this method", headers=allowed)
        if exc.status_code < 500:
            return ValidationError("the request cannot be read as HTTP/1.1 with a valid host")
    return from_bug(exc)
