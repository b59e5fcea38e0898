"""What every wire is made of: the service it asks, its endpoints, and one request's life.

    Endpoint.read(request) → Question(queries, write) → answers → Question.write → Reply

A wire's file holds `ENDPOINTS`. `respond` does the rest for all of them: admission,
reading, asking, counting, and errors in the wire's own form.
"""

import asyncio
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
from handler.policy import LABELS, TIERS, Decision, Policy, Scores
from handler.settings import Settings
from handler.telemetry import FallbackReason, Telemetry, Wire

# Of one bulk request so many queries are queued; the rest wait outside.
BULK_QUEUED_MAX = 16
# What an answer that was made without the model calls its task: nobody knows it.
UNKNOWN = "unknown"


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
    """A request whose body was read.

    rest  what of the path lies below an endpoint's own; empty elsewhere
    """

    method: str
    path: str
    rest: str
    body: bytes
    header: Callable[[bytes], bytes]
    request_id: str


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
    read      decodes a request; raises `GatewayError`
    refuse    encodes an error in the wire's form
    facts     answers without a query (a list of models, say); then `read` is not called
    degrade   whether overload and time-outs are answered with the last tier instead of an error
    documents what OpenAPI says of it: an operation object by method
    """

    path: str
    methods: tuple[str, ...]
    wire: Wire
    refuse: "Callable[[GatewayError], Reply]"
    read: "Callable[[Request, Service], Question] | None" = None
    facts: "Callable[[Request, Service], Reply] | None" = None
    degrade: bool = False
    serve: "Callable[[Service, Exchange, str], Awaitable[None]] | None" = None
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
    ) -> None:
        self.gateway = gateway
        self.health = health
        self.telemetry = telemetry
        self.log = log
        self.settings = settings
        self.callers = callers
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
        return holder.serving.router.manifest.name if holder.loaded else "router"

    async def ask(
        self,
        query: Query,
        name: Wire,
        *,
        timeout_s: float,
        caller_left: Callable[[], Awaitable[None]] | None = None,
        bulk: bool = False,
        caller: bytes = b"",
    ) -> Answer:
        """Count and answer one query, from the model or, where it says why not, without it."""
        self.telemetry.query(name)
        return await self.decide(
            query, name, timeout_s=timeout_s, caller_left=caller_left, bulk=bulk, caller=caller
        )

    async def decide(
        self,
        query: Query,
        name: Wire,
        *,
        timeout_s: float,
        caller_left: Callable[[], Awaitable[None]] | None = None,
        bulk: bool = False,
        caller: bytes = b"",
    ) -> Answer:
        """Answer one query that has been counted."""
        if query.reason is not None:
            return self.without_model(name, query.reason)
        return await self.gateway.classify(
            query.text,
            timeout_s=timeout_s,
            threshold=query.threshold,
            caller_left=caller_left,
            bulk=bulk,
            caller=caller,
        )

    async def ask_many(
        self, queries: Sequence[Query], name: Wire, *, within_s: float, caller: bytes
    ) -> list[Answer | GatewayError]:
        """Answer many queries, in their order, each with an answer or an error of its own.

        At most `BULK_QUEUED_MAX` of them are queued at once.
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
                return await self.outcome(query, name, timeout_s=left_s, caller=caller)

        return await asyncio.gather(*(one(query) for query in queries))

    async def outcome(
        self, query: Query, name: Wire, *, timeout_s: float, caller: bytes
    ) -> Answer | GatewayError:
        """Answer one query of a bulk request; its failure is its own."""
        try:
            return await self.ask(query, name, timeout_s=timeout_s, bulk=True, caller=caller)
        except Overloaded as error:
            # Told at once, a request of a million lines would be refused to its end while the queue is full.
            await self.gateway.refusals.hold(timeout_s)
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

    def record(self, exchange: Exchange, error: GatewayError, bug: Exception | None = None) -> None:
        """Count and log a request that failed."""
        self.telemetry.failed(error.error_type, error.code)
        own = exchange.asked.timeout_ms
        if isinstance(error, DeadlineExceeded) and own and float(own) / 1000 < self.timeout_s:
            self.telemetry.caller_deadline()
        self.log.error(
            "request_failed",
            error_type=error.error_type,
            error=bug,
            request_id=exchange.asked.request_id,
            code=error.code,
            message=error.message,
        )

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
        if not isinstance(answer, Answer) or answer.scored is None:
            self.telemetry.succeeded_otherwise()
            return
        self.telemetry.succeeded(total_s, answer.stages, hit=answer.cache != "miss")
        if self.settings.log_requests:
            self._log_request(exchange, answer, text, total_s, name)

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


def safe_decision(route: str, place: int, reason: str) -> Decision:
    """The last tier, chosen without the model: nothing is known of the query's task."""
    return Decision(route, LABELS[place], UNKNOWN, 0.5, 1.0, 0.0, reason)


def safe_scores(policy: Policy) -> Scores:
    """Scores that any question is answered from as for the hardest query there can be."""
    hardest = max(policy.needs)
    hard = [need == hardest for need in policy.needs]
    return Scores.of([is_hard / sum(hard) for is_hard in hard], learnt=1.0)


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
        extra = headers.of_answer(alone, exchange.asked.request_id, total_s)
        await exchange.answer(reply.code, reply.body, [*extra, *reply.extra], reply.content_type)
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
    if endpoint.methods and exchange.method not in endpoint.methods:
        allowed = ", ".join(endpoint.methods)
        raise MethodNotAllowed(f"this path is asked with {allowed}", headers=(("allow", allowed),))
    caller = service.admit(exchange)
    body = b""
    if endpoint.read is not None:
        body = await exchange.body(service.settings.max_body_bytes, service.read_timeout_s)
    request = Request(exchange.method, exchange.path, rest, body, exchange.header, exchange.asked.request_id)
    if endpoint.facts is not None:
        return endpoint.facts(request, service), None, ()
    assert endpoint.read is not None
    question = endpoint.read(request, service)
    limit = service.settings.request_queries_max
    if len(question.queries) > limit:
        raise ValidationError(f"{len(question.queries)} queries in one request; at most {limit} are answered")
    own_s = headers.timeout_s(exchange.asked, at_most_s=service.timeout_s)
    if question.timeout_s is not None:
        own_s = min(own_s, question.timeout_s)
    outcomes: list[Answer | GatewayError]
    if len(question.queries) == 1:
        outcomes = [await _one(endpoint, service, exchange, question.queries[0], own_s, caller)]
    else:
        within_s = service.bulk_timeout_s if question.timeout_s is None else question.timeout_s
        outcomes = await service.ask_many(question.queries, endpoint.wire, within_s=within_s, caller=caller)
        if endpoint.degrade:
            outcomes = [_degraded(endpoint, service, outcome) for outcome in outcomes]
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
                await service.gateway.refusals.hold(timeout_s)
            raise
        return service.without_model(endpoint.wire, reason_of(error))


def _degraded(endpoint: Endpoint, service: Service, outcome: Answer | GatewayError) -> Answer | GatewayError:
    if isinstance(outcome, Overloaded | DeadlineExceeded):
        return service.without_model(endpoint.wire, reason_of(outcome))
    return outcome


async def _refuse(
    endpoint: Endpoint,
    service: Service,
    exchange: Exchange,
    error: GatewayError,
    bug: Exception | None = None,
) -> None:
    service.record(exchange, error, bug)
    reply = endpoint.refuse(error)
    extra = headers.of_error(
        error, exchange.asked.request_id, exchange.spent_s, service.gateway.model.version
    )
    await exchange.answer(reply.code, reply.body, [*extra, *reply.extra], reply.content_type)
