"""What every wire is made of: the service it asks, its endpoints, and one request's life.

    Endpoint.read(request) → Question(queries, write) → answers → Question.write → Reply

A wire's file holds `ENDPOINTS`. `respond` does the rest for all of them: admission,
reading, asking, counting, and errors in the wire's own form.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from handler import headers, wire
from handler.errors import (
    CallerGone,
    DeadlineExceeded,
    GatewayError,
    MethodNotAllowed,
    ModelNotReady,
    NotFound,
    Overloaded,
    Unauthenticated,
    ValidationError,
    from_bug,
)
from handler.exchange import JSON, Exchange
from handler.gateway import Answer, Gateway
from handler.health import Health
from handler.keys import Keyring
from handler.log import Log
from handler.policy import TIERS, Policy, Scores, route_shares, safe_decision
from handler.settings import Settings, Wire
from handler.telemetry import FallbackReason, Telemetry
from handler.tracing import Trace, Tracer

# Of one bulk request so many queries are queued; the rest wait outside.
BULK_QUEUED_MAX = 16
# What spans are called, and the methods that one may name: a caller can make up others.
QUERY_SPAN, REQUEST_SPAN = "query", "request"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
# What every wire may call the model in a path, whatever the manifest calls it.
ROUTER = "router"


class Query(msgspec.Struct, frozen=True):
    """One query as a wire has read it.

    text       what is asked; with `reason` it is not read
    reason     why it is answered without the model, if it is
    threshold  its own threshold, 0 to 1, if it has one
    explain    whether the answer tells how it came about
    """

    text: str = ""
    reason: FallbackReason | None = None
    threshold: float | None = None
    explain: bool = False


class Request(msgspec.Struct, frozen=True):
    """A request, whose body was read where one is wanted.

    rest   what of the path lies below an endpoint's own; empty elsewhere
    asked  its headers, as far as every wire reads them
    """

    method: str
    rest: str
    body: bytes
    header: Callable[[bytes], bytes]
    asked: headers.Asked

    def json(self) -> Any:
        """The body, decoded. Raises `ValidationError` or `UnsupportedMediaType`."""
        headers.require_json(self.asked)
        return decoded(self.body)

    def members(self) -> dict[str, Any]:
        """The members of a body that is a JSON object. Raises like `json`."""
        found = self.json()
        if not isinstance(found, dict):
            raise ValidationError("the body must be a JSON object")
        if found.get("stream") is True:
            raise ValidationError("answers are not streamed here; leave stream out, or send false")
        return found


class Reply(msgspec.Struct, frozen=True):
    """An answer in a wire's form."""

    body: bytes
    code: int = 200
    extra: tuple[tuple[bytes, bytes], ...] = ()
    content_type: bytes = JSON


class Question(msgspec.Struct, frozen=True):
    """What a request asks: queries, and how their answers are written."""

    queries: Sequence[Query]
    write: Callable[[Sequence["Answer | GatewayError"]], Reply]
    timeout_s: float | None = None


class Endpoint(msgspec.Struct, frozen=True):
    """One path of a wire.

    path      exact, or with `/*` at its end for all that lies below it as well
    methods   it is asked with; empty: any
    wire      whose it is
    read      decodes a request for a decision; raises `GatewayError`
    refuse    encodes an error in the wire's form
    facts     answers what asks for no decision (a list of models, say), without its body; None
              where the request is not of that kind
    degrade   whether overload and time-outs are answered with the last tier instead of an error
    serve     takes the whole request instead of all of these
    open      whether a method and what lies below the path need no key
    headers   what answers and errors carry besides, from the request's id
    documents what OpenAPI says of it: a path item by path
    """

    path: str
    methods: tuple[str, ...]
    wire: Wire
    refuse: "Callable[[GatewayError], Reply]"
    read: "Callable[[Request, Service], Question] | None" = None
    facts: "Callable[[Request, Service], Reply | None] | None" = None
    degrade: bool = False
    serve: "Callable[[Service, Exchange, str], Awaitable[None]] | None" = None
    open: Callable[[str, str], bool] = lambda method, rest: False
    headers: Callable[[str], tuple[tuple[bytes, bytes], ...]] = lambda request_id: ()
    documents: dict[str, Any] = {}


class Service:
    """The gateway as a wire asks it."""

    def __init__(
        self,
        gateway: Gateway,
        health: Health,
        telemetry: Telemetry,
        log: Log,
        settings: Settings,
        callers: Keyring | None,
        tracer: Tracer | None = None,
    ) -> None:
        self.gateway = gateway
        self.health = health
        self.telemetry = telemetry
        self.log = log
        self.settings = settings
        self.callers = callers
        self.tracer = tracer
        self.timeout_s = settings.request_timeout_ms / 1000
        self.read_timeout_s = settings.read_timeout_ms / 1000
        self.bulk_timeout_s = settings.bulk_timeout_ms / 1000

    def admit(self, exchange: Exchange) -> bytes:
        """Let a caller in. Returns what names its key among the others; raises `Unauthenticated`."""
        if self.callers is None:
            return b""
        for key in exchange.asked.keys:
            if self.callers.admits(key):
                return key
        raise Unauthenticated(
            "a known key is needed, as authorization: Bearer … or as x-api-key",
            headers=(("www-authenticate", 'Bearer realm="query-gateway"'),),
        )

    @property
    def policy(self) -> Policy:
        """The policy in force. Raises `ModelNotReady` while there is no model."""
        return self.gateway.model.serving.policy

    @property
    def tasks(self) -> tuple[str, ...]:
        return self.policy.tasks

    @property
    def model_name(self) -> str:
        """The name of the model in its manifest; `router` while there is none."""
        holder = self.gateway.model
        return holder.serving.router.manifest.name if holder.loaded else ROUTER

    def ask(
        self,
        query: Query,
        name: Wire,
        *,
        timeout_s: float,
        caller_left: Callable[[], Awaitable[None]] | None = None,
        bulk: bool = False,
        caller: bytes = b"",
    ) -> Awaitable[Answer]:
        """Count and answer one query, from the model or, where it says why not, without it.

        No coroutine of its own, as `decide` is none: every query would pay for each.
        """
        self.telemetry.query(name)
        return self.decide(
            query, name, timeout_s=timeout_s, caller_left=caller_left, bulk=bulk, caller=caller
        )

    def decide(
        self,
        query: Query,
        name: Wire,
        *,
        timeout_s: float,
        caller_left: Callable[[], Awaitable[None]] | None = None,
        bulk: bool = False,
        caller: bytes = b"",
    ) -> Awaitable[Answer]:
        """Answer one query that has been counted."""
        if query.reason is not None:
            return _ready(self.without_model(name, query.reason))
        return self.gateway.classify(
            query.text,
            timeout_s=timeout_s,
            threshold=query.threshold,
            caller_left=caller_left,
            bulk=bulk,
            caller=caller,
        )

    async def ask_many(
        self,
        queries: Sequence[Query],
        name: Wire,
        *,
        within_s: float,
        caller: bytes,
        caller_left: Callable[[], Awaitable[None]],
        trace: Trace | None = None,
    ) -> list[Answer | GatewayError]:
        """Answer many queries, in their order, each with an answer or an error of its own.

        trace  their request's, if it is traced

        At most `BULK_QUEUED_MAX` of them are queued at once. Raises `CallerGone`, and asks for
        no more, when the caller hangs up.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + within_s
        slots = asyncio.Semaphore(BULK_QUEUED_MAX)

        async def one(query: Query) -> Answer | GatewayError:
            async with slots:
                left_s = min(self.timeout_s, until - loop.time())
                if left_s <= 0:
                    return DeadlineExceeded(
                        "the time for the whole request was over before this query's turn"
                    )
                return await self.outcome(query, name, timeout_s=left_s, caller=caller, trace=trace)

        everything = asyncio.gather(*(one(query) for query in queries))
        # Once it is given up nobody asks how it ended, which would be logged as an error of ours.
        everything.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        gone = asyncio.ensure_future(caller_left())
        waits: set[asyncio.Future[Any]] = {everything, gone}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if not everything.done():
                raise CallerGone("the caller hung up before its queries were answered")
            return everything.result()
        finally:
            everything.cancel()
            gone.cancel()

    async def outcome(
        self, query: Query, name: Wire, *, timeout_s: float, caller: bytes, trace: Trace | None = None
    ) -> Answer | GatewayError:
        """Answer one query of a bulk request; its failure is its own.

        trace  the request's, if it is traced
        """
        if trace is None or self.tracer is None:
            return await self._outcome(query, name, timeout_s=timeout_s, caller=caller)
        started = time.perf_counter()
        found = await self._outcome(query, name, timeout_s=timeout_s, caller=caller)
        failed = found.error_type if isinstance(found, GatewayError) else ""
        self.tracer.end(
            self.tracer.below(trace),
            QUERY_SPAN,
            time.perf_counter() - started,
            stages=found.stages if isinstance(found, Answer) else (),
            attributes=_attributes(found, name),
            error_type=failed,
            server=False,
        )
        return found

    async def _outcome(
        self, query: Query, name: Wire, *, timeout_s: float, caller: bytes
    ) -> Answer | GatewayError:
        try:
            return await self.ask(query, name, timeout_s=timeout_s, bulk=True, caller=caller)
        except Overloaded as error:
            # Told at once, a request of a million lines would be refused to its end while the queue is full.
            await self.gateway.refusals.delay(timeout_s)
            return error
        except GatewayError as error:
            return error
        except Exception as bug:
            failure = from_bug(bug)
            self.log.error("query_failed", error_type=failure.error_type, error=bug, message=failure.message)
            return failure

    def without_model(self, name: Wire, reason: FallbackReason) -> Answer:
        """The safe answer, the last tier, for a query that the model is not asked about. Counted."""
        self.telemetry.fallback(name, reason)
        holder = self.gateway.model
        serving = holder.serving if holder.loaded else None
        if serving is None:
            return Answer(safe_decision(TIERS[-1].name, len(TIERS) - 1, reason), None, None)
        policy = serving.policy
        decision = safe_decision(policy.names[-1], len(policy.names) - 1, reason)
        return Answer(decision, None, serving)

    def record(
        self,
        exchange: Exchange,
        error: GatewayError,
        bug: Exception | None = None,
        *,
        code: int | None = None,
        counted: bool = True,
    ) -> None:
        """Count and log a request that failed.

        code     the HTTP status that its wire has for the error, where that is another
        counted  whether it asked for a decision
        """
        code = code or error.code
        if counted and self.tracer is not None:
            self._span(exchange, error, exchange.spent_s, None, code)
        if counted:
            self.telemetry.failed(error.error_type, code)
        if self.ended_by_caller(exchange, error):
            self.telemetry.caller_deadline()
        self.log.error(
            "request_failed",
            error_type=error.error_type,
            error=bug,
            request_id=exchange.asked.request_id,
            code=code,
            message=error.message,
        )

    def ended_by_caller(self, exchange: Exchange, error: GatewayError) -> bool:
        """Whether a query was late by its caller's own time-out, and would not have been by ours."""
        own_s = exchange.own_timeout_s
        if own_s is None or not isinstance(error, DeadlineExceeded):
            return False
        # Many queries have more time together than each alone, which then may have been late by ours.
        return own_s < self.timeout_s or exchange.spent_s >= own_s

    def succeeded(
        self,
        exchange: Exchange,
        answer: "Answer | GatewayError | None",
        text: str,
        total_s: float,
        name: Wire,
    ) -> None:
        """Count a request that was answered, and write its line where lines are asked for.

        answer  where it was a single query
        """
        if self.tracer is not None:
            self._span(exchange, answer, total_s, name, 200)
        if not isinstance(answer, Answer) or answer.scored is None:
            self.telemetry.succeeded_otherwise()
            return
        self.telemetry.succeeded(total_s, answer.stages, hit=answer.cache != "miss")
        if self.settings.log_requests:
            self._log_request(exchange, answer, text, total_s, name)

    def trace(self, exchange: Exchange) -> Trace | None:
        """A request's trace; None where it is not traced."""
        if self.tracer is not None and not exchange.traced:
            exchange.traced = True
            exchange.trace = self.tracer.begin(exchange.asked.traceparent)
        return exchange.trace

    def _span(
        self,
        exchange: Exchange,
        answer: "Answer | GatewayError | None",
        total_s: float,
        name: Wire | None,
        code: int,
    ) -> None:
        trace = self.trace(exchange)
        if trace is None or self.tracer is None:
            return
        self.tracer.end(
            trace,
            QUERY_SPAN if isinstance(answer, Answer) else REQUEST_SPAN,
            total_s,
            stages=answer.stages if isinstance(answer, Answer) else (),
            attributes={
                "http.request.method": exchange.method if exchange.method in METHODS else "_OTHER",
                "http.response.status_code": code,
                "query_gateway.request_id": exchange.asked.request_id,
                **_attributes(answer, name),
            },
            error_type=answer.error_type if isinstance(answer, GatewayError) else "",
        )

    def _log_request(self, exchange: Exchange, answer: Answer, text: str, total_s: float, name: Wire) -> None:
        self.log.info(
            "request",
            request_id=exchange.asked.request_id,
            wire=name,
            label=answer.decision.label,
            task=answer.decision.task,
            confidence=round(answer.decision.confidence, 4),
            cache=answer.cache,
            latency_ms=round(total_s * 1000, 3),
            query_chars=len(text),
            query_digest=self.log.fingerprint(text),
        )

    async def fail(self, exchange: Exchange, error: GatewayError, bug: Exception | None = None) -> None:
        """Count, log and send an error in the gateway's own form."""
        self.record(exchange, error, bug)
        extra = headers.of_error(
            error, exchange.asked.request_id, exchange.spent_s, self.gateway.model.version
        )
        await exchange.answer(error.code, wire.write_error(error), extra)


def _attributes(answer: "Answer | GatewayError | None", name: Wire | None) -> dict[str, str | int | float]:
    """What a span says of a query: the decision, and nothing of what was asked."""
    found: dict[str, str | int | float] = {}
    if name is not None:
        found["query_gateway.wire"] = name
    if isinstance(answer, Answer):
        decision = answer.decision
        found["query_gateway.route"] = decision.route
        found["query_gateway.task"] = decision.task
        found["query_gateway.confidence"] = decision.confidence
        if decision.reason is not None:
            found["query_gateway.reason"] = decision.reason
        if answer.scored is not None:
            found["query_gateway.cache"] = answer.cache
        if answer.version is not None:
            found["query_gateway.model_version"] = answer.version
    return found


def safe_scores(policy: Policy) -> Scores:
    """Scores that any question is answered from as for the hardest query there can be."""
    hardest = max(policy.needs)
    hard = [need == hardest for need in policy.needs]
    return Scores.of([is_hard / sum(hard) for is_hard in hard], learnt=1.0)


async def _ready(answer: Answer) -> Answer:
    return answer


def reason_of(error: GatewayError) -> FallbackReason:
    """Why an error is answered with the last tier, on wires that answer always."""
    if isinstance(error, Overloaded):
        return "overloaded"
    if isinstance(error, DeadlineExceeded):
        return "timeout"
    if isinstance(error, Unauthenticated):
        return "unauthenticated"
    return "model_not_ready" if isinstance(error, ModelNotReady) else "unreadable"


async def respond(endpoint: Endpoint, service: Service, exchange: Exchange, rest: str) -> None:
    """One request's life on a wire. `rest` is what of the path lies below the endpoint's own."""
    telemetry = service.telemetry
    telemetry.active += 1
    try:
        reply, question, outcomes = await _replied(endpoint, service, exchange, rest)
        total_s = exchange.spent_s
        alone = outcomes[0] if len(outcomes) == 1 else None
        if question is not None:
            service.succeeded(exchange, alone, question.queries[0].text, total_s, endpoint.wire)
        request_id = exchange.asked.request_id
        extra = [*headers.of_answer(alone, request_id, total_s), *endpoint.headers(request_id), *reply.extra]
        await exchange.answer(reply.code, reply.body, extra, reply.content_type)
    except CallerGone as gone:
        telemetry.failed(gone.error_type, gone.code)
    except GatewayError as error:
        await _refuse(endpoint, service, exchange, error)
    except Exception as bug:
        await _refuse(endpoint, service, exchange, from_bug(bug), bug)
    finally:
        telemetry.active -= 1


async def _replied(
    endpoint: Endpoint, service: Service, exchange: Exchange, rest: str
) -> tuple[Reply, Question | None, Sequence[Answer | GatewayError]]:
    method = exchange.method
    if endpoint.methods and method not in endpoint.methods:
        allowed = ", ".join(endpoint.methods)
        raise MethodNotAllowed(f"this path takes {allowed}", headers=(("allow", allowed),))
    caller = b"" if endpoint.open(method, rest) else service.admit(exchange)
    request = Request(method, rest, b"", exchange.header, exchange.asked)
    if endpoint.facts is not None and (found := endpoint.facts(request, service)) is not None:
        return found, None, ()
    if endpoint.read is None:
        raise NotFound("there is nothing at this path")
    body = await exchange.body(service.settings.max_body_bytes, service.read_timeout_s)
    question = endpoint.read(msgspec.structs.replace(request, body=body), service)
    limit = service.settings.request_queries_max
    if not 0 < len(question.queries) <= limit:
        raise ValidationError(f"{len(question.queries)} queries in one request; 1 to {limit} are answered")
    outcomes: list[Answer | GatewayError]
    if len(question.queries) == 1:
        own_s = exchange.timeout_s(at_most_s=service.timeout_s, also_s=question.timeout_s)
        outcomes = [await _one(endpoint, service, exchange, question.queries[0], own_s, caller)]
    else:
        outcomes = await service.ask_many(
            question.queries,
            endpoint.wire,
            within_s=exchange.timeout_s(at_most_s=service.bulk_timeout_s, also_s=question.timeout_s),
            caller=caller,
            caller_left=exchange.hung_up,
            trace=service.trace(exchange),
        )
        if endpoint.degrade:
            outcomes = [_degraded(endpoint, service, exchange, outcome) for outcome in outcomes]
    return question.write(outcomes), question, outcomes


async def _one(
    endpoint: Endpoint, service: Service, exchange: Exchange, query: Query, timeout_s: float, caller: bytes
) -> Answer:
    try:
        return await service.ask(
            query, endpoint.wire, timeout_s=timeout_s, caller_left=exchange.hung_up, caller=caller
        )
    except (Overloaded, DeadlineExceeded) as error:
        if not endpoint.degrade:
            if isinstance(error, Overloaded):
                await service.gateway.refusals.delay(timeout_s)
            raise
        return _last_tier(endpoint, service, exchange, error)


def _degraded(
    endpoint: Endpoint, service: Service, exchange: Exchange, outcome: Answer | GatewayError
) -> Answer | GatewayError:
    if isinstance(outcome, Overloaded | DeadlineExceeded):
        return _last_tier(endpoint, service, exchange, outcome)
    return outcome


def _last_tier(endpoint: Endpoint, service: Service, exchange: Exchange, error: GatewayError) -> Answer:
    """What a wire that answers always says instead of an error. Counted."""
    if service.ended_by_caller(exchange, error):
        service.telemetry.caller_deadline(200)
    return service.without_model(endpoint.wire, reason_of(error))


async def _refuse(
    endpoint: Endpoint,
    service: Service,
    exchange: Exchange,
    error: GatewayError,
    bug: Exception | None = None,
) -> None:
    reply = endpoint.refuse(error)
    request_id = exchange.asked.request_id
    asking = endpoint.read is not None and (endpoint.facts is None or exchange.method == "POST")
    service.record(exchange, error, bug, code=reply.code, counted=asking)
    extra = headers.of_error(error, request_id, exchange.spent_s, service.gateway.model.version)
    extra += [*endpoint.headers(request_id), *reply.extra]
    await exchange.answer(reply.code, reply.body, extra, reply.content_type)


# What several wires share


def decoded(body: bytes) -> Any:
    """A body's JSON. Raises `ValidationError`, whose message holds places and types, never text."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ValidationError(f"expected JSON in UTF-8: {wire.unreadable(exc, body)}") from None


def answers(outcomes: Sequence[Answer | GatewayError]) -> list[Answer]:
    """The answers to all queries, on wires where one failure is everybody's. Raises the first."""
    found: list[Answer] = []
    for outcome in outcomes:
        if isinstance(outcome, GatewayError):
            raise outcome
        found.append(outcome)
    return found


def require_name(name: str, service: Service) -> None:
    """Raise `NotFound` unless a model's name in a path is ours."""
    if name not in (ROUTER, service.model_name):
        raise NotFound(f"there is no model of this name; there is {service.model_name}, also called {ROUTER}")


def rounded(shares: Sequence[float]) -> list[float]:
    """Shares with four digits that sum to 1: what rounding takes or adds, the largest bears."""
    found = [round(share, 4) for share in shares]
    largest = max(range(len(found)), key=shares.__getitem__)
    found[largest] = round(found[largest] + 1.0 - sum(found), 4)
    return found


def tier_scores(answer: Answer) -> dict[str, float]:
    """Each tier's probability, cheapest tier first. The largest is the route taken; they sum to 1."""
    names: Sequence[str] = [tier.name for tier in TIERS]
    shares = [0.0] * (len(names) - 1) + [1.0]
    if answer.serving is not None:
        policy = answer.serving.policy
        names = policy.names
        if answer.scored is None:
            shares = [0.0] * (len(policy.names) - 1) + [1.0]
        else:
            shares = route_shares(answer.decision.need, policy.boundaries())
    return dict(zip(names, rounded(shares), strict=True))
