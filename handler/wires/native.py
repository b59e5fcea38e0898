"""The gateway's own wire: `POST /v1/query-classify`.

One query (a text or a conversation), many (`texts`), or a stream of them (NDJSON).
Read `serve` first; a single text takes the shortest way through it.
"""

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from handler import headers, wire
from handler.errors import (
    CallerGone,
    GatewayError,
    MethodNotAllowed,
    ModelNotReady,
    Overloaded,
    PayloadTooLarge,
    ValidationError,
    from_bug,
)
from handler.exchange import JSON, NDJSON, Exchange, Unpacker, unpacker
from handler.gateway import Answer
from handler.tracing import Trace
from handler.wires.base import BULK_QUEUED_MAX, Query, Service
from handler.wires.messages import conversation, items

PATH = "/v1/query-classify"
FORMS = ("text", "texts", "messages", "input", "prompt")
# Of a stream that is not answered any further, what still comes is thrown away for so long, and until nothing comes.
DISCARD_S = 4.0
GAP_S = 0.1

_decode = msgspec.json.Decoder(wire.ClassifyRequest).decode
_decode_line = msgspec.json.Decoder(wire.ClassifyLine).decode


async def serve(service: Service, exchange: Exchange) -> None:
    """Answer one request: the whole of its life on this side of HTTP."""
    asked, telemetry = exchange.asked, service.telemetry
    telemetry.active += 1
    try:
        caller = service.admit(exchange)
        if exchange.method != "POST":
            raise MethodNotAllowed(f"{PATH} takes POST", headers=(("allow", "POST"),))
        if asked.content_type != JSON:  # as nearly all say it
            if asked.content_type and headers.is_type(asked.content_type, NDJSON):
                await _stream(service, exchange, caller)
                return
            headers.require_json(asked)
        request = read(await exchange.body(service.settings.max_body_bytes, service.read_timeout_s))
        if request.texts is not None:
            await _many(service, exchange, request, caller)
            return
        query = one(request)
        answer = await service.ask(
            query,
            "native",
            timeout_s=exchange.timeout_s(at_most_s=service.timeout_s),
            caller_left=exchange.hung_up,
            caller=caller,
        )
        total_s = exchange.spent_s
        service.succeeded(exchange, answer, query.text, total_s, "native")
        await exchange.answer(
            200, encode(answer, query), headers.of_answer(answer, asked.request_id, total_s)
        )
    except CallerGone as gone:
        telemetry.failed(gone.error_type, gone.code)
    except Overloaded as error:
        await service.gateway.refusals.delay(exchange.timeout_s(at_most_s=service.timeout_s))
        await service.fail(exchange, error)
    except GatewayError as error:
        await service.fail(exchange, error)
    except Exception as bug:
        await service.fail(exchange, from_bug(bug), bug)
    finally:
        telemetry.active -= 1


def read(body: bytes) -> wire.ClassifyRequest:
    """Parse a request's body. Raises `ValidationError`, whose message holds positions and types, never text."""
    try:
        return _decode(body)
    except msgspec.ValidationError as exc:
        raise ValidationError(f'expected {{"text": "…"}} with a non-empty string: {exc}') from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        reason = wire.unreadable(exc, body)
        raise ValidationError(f'expected a JSON object {{"text": "…"}} in UTF-8: {reason}') from None


def one(request: wire.ClassifyRequest | wire.ClassifyLine) -> Query:
    """The single query of a request or a line. Raises `ValidationError` where it asks none, or two."""
    text = request.text
    if request.messages is request.input is request.prompt is None and text is not None:
        return Query(text, None, request.threshold, request.explain)
    given = [form for form in FORMS if getattr(request, form, None) is not None]
    if len(given) > 1:
        raise ValidationError(f"{' and '.join(given)} were both given; one of them is one query")
    if request.messages is not None:
        found = conversation(request.messages, request.system)
    elif request.input is not None:
        found = items(request.input, request.instructions)
    elif isinstance(request.prompt, str) and request.prompt:
        found = Query(request.prompt)
    else:
        raise ValidationError(
            'expected {"text": "…"} with a non-empty string, or messages, input, prompt or texts'
        )
    return Query(found.text, found.reason, request.threshold, request.explain)


def encode(answer: Answer, query: Query) -> bytes:
    """An answer's body, with how it came about where that was asked for."""
    if not query.explain:
        return wire.write_answer(answer.decision)
    return wire.encode(explained(answer, query))


def explained(answer: Answer, query: Query) -> wire.ExplainedAnswer:
    """The answer, every task's probability, the need, its margin, and what the model read."""
    plain = wire.answer_of(answer.decision)
    tasks: dict[str, float] = {}
    read: list[tuple[int, int]] = []
    if answer.scored is not None and answer.serving is not None:
        names = answer.serving.policy.tasks
        tasks = {task: round(p, 4) for task, p in zip(names, answer.scored.scores.probabilities, strict=True)}
        read = answer.serving.router.seen(query.text)
    return wire.ExplainedAnswer(
        **{name: getattr(plain, name) for name in plain.__struct_fields__},
        tasks=tasks,
        need=round(answer.decision.need, 4),
        margin=round(answer.decision.margin, 4),
        seen=read,
    )


# Many in one body


async def _many(service: Service, exchange: Exchange, request: wire.ClassifyRequest, caller: bytes) -> None:
    given = [form for form in FORMS if getattr(request, form) is not None]
    if len(given) > 1:
        raise ValidationError(f"{' and '.join(given)} were both given; texts cannot be combined")
    texts = request.texts or []
    limit = service.settings.request_queries_max
    if not texts:
        raise ValidationError("texts must hold at least one query")
    if len(texts) > limit:
        raise ValidationError(
            f"{len(texts)} texts in one request; at most {limit} are answered, more go as NDJSON"
        )
    service.policy  # noqa: B018 - without a model no query of them could be answered: one 503
    good = [text for text in texts if isinstance(text, str) and text]
    queries = [Query(text, None, request.threshold, request.explain) for text in good]
    answers = iter(
        await service.ask_many(
            queries,
            "native",
            within_s=exchange.timeout_s(at_most_s=service.bulk_timeout_s),
            caller=caller,
            caller_left=exchange.hung_up,
            trace=service.trace(exchange),
        )
    )
    bad = ValidationError("every one of texts must be a non-empty string")
    outcomes = [next(answers) if isinstance(text, str) and text else bad for text in texts]
    results = b",".join(
        result(outcome, Query(text, None, None, request.explain), None)
        for outcome, text in zip(outcomes, texts, strict=True)
    )
    total_s = exchange.spent_s
    service.succeeded(exchange, None, "", total_s, "native")
    extra = headers.of_answer(None, exchange.asked.request_id, total_s)
    await exchange.answer(200, b'{"results":[' + results + b"]}", extra)


def result(outcome: Answer | GatewayError, query: Query, number: str | int | None) -> bytes:
    """One answer of many, or the error that stands in its place; with the line's id if it had one."""
    body = wire.write_error(outcome) if isinstance(outcome, GatewayError) else encode(outcome, query)
    if number is None:
        return body
    return b'{"id":' + wire.encode(number) + b"," + body[1:]


# A stream of them


class Line(msgspec.Struct, frozen=True):
    """A line that was read: its query, or the error that answers it."""

    query: Query
    number: str | int | None = None
    error: GatewayError | None = None


async def _stream(service: Service, exchange: Exchange, caller: bytes) -> None:
    """Answer line by line, in their order, while they come.

    At most `BULK_QUEUED_MAX` lines are under way; the next is read when the oldest has
    been written, so a reader that stalls stops the reading. When the gateway is told
    to end, no more lines are read, those read are answered, and a last one says so.
    """
    service.policy  # noqa: B018 - without a model no line could be answered: one 503
    unpack = unpacker(exchange.asked.content_encoding)
    timeout_s = exchange.timeout_s(at_most_s=service.timeout_s)
    await exchange.begin(200, headers.of_answer(None, exchange.asked.request_id, exchange.spent_s), NDJSON)
    under_way: deque[tuple[Line, asyncio.Task[Answer | GatewayError] | None]] = deque()
    last: GatewayError | None = None
    lines = _lines(service, exchange, unpack)
    reading: asyncio.Task[Line | None] | None = None
    ending = asyncio.ensure_future(service.health.drain_began.wait())
    try:
        more = True
        while more or under_way:
            if more and reading is None and len(under_way) < BULK_QUEUED_MAX:
                reading = asyncio.ensure_future(anext(lines, None))
            oldest = under_way[0][1] if under_way else None
            if under_way and (oldest is None or oldest.done()):
                await exchange.part(_written(under_way))
                continue
            waits = {task for task in (reading, oldest, ending if more else None) if task is not None}
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            # Asked first: of a sender without pause the next line is always there.
            if ending.done() and more:
                more, last = False, ModelNotReady("the gateway is shutting down; send the other lines again")
            elif reading is not None and reading.done():
                line, reading = reading.result(), None
                if line is None:
                    more = False
                else:
                    under_way.append(
                        (line, _begun(service, line, timeout_s, caller, service.trace(exchange)))
                    )
    except GatewayError as error:
        last = error  # the body cannot be read any further; what was read is answered
        if pending := [task for _, task in under_way if task is not None]:
            await asyncio.wait(pending)
        if under_way:
            await exchange.part(_written(under_way))
    finally:
        left: list[asyncio.Task[Any] | None] = [reading, ending, *(task for _, task in under_way)]
        for each in left:
            if each is not None and not each.done():
                each.cancel()
    if last is not None:
        await exchange.part(wire.write_error(last) + b"\n")
        await exchange.discard(DISCARD_S, GAP_S)
    service.succeeded(exchange, None, "", exchange.spent_s, "native")
    await exchange.end()


def _begun(
    service: Service, line: Line, timeout_s: float, caller: bytes, trace: Trace | None
) -> "asyncio.Task[Answer | GatewayError] | None":
    if line.error is not None:
        return None
    return asyncio.ensure_future(
        service.outcome(line.query, "native", timeout_s=timeout_s, caller=caller, trace=trace)
    )


def _written(under_way: "deque[tuple[Line, asyncio.Task[Answer | GatewayError] | None]]") -> bytes:
    """The answers that are there, from the oldest on."""
    found = bytearray()
    while under_way and ((task := under_way[0][1]) is None or task.done()):
        line, task = under_way.popleft()
        outcome = line.error if task is None else task.result()
        assert outcome is not None
        found += result(outcome, line.query, line.number) + b"\n"
    return bytes(found)


_SOMETHING = re.compile(rb"\S")


async def _lines(service: Service, exchange: Exchange, unpack: Unpacker) -> AsyncIterator[Line]:
    """The lines of a body as they come. Blank ones are passed over.

    Raises `ValidationError` where bytes are late or cannot be unpacked, and
    `PayloadTooLarge` where a line does not end.
    """
    limit = service.settings.max_body_bytes
    rest = bytearray()
    async for packed in exchange.chunks(service.read_timeout_s):
        for piece in unpack.pieces(packed):
            # A few packed bytes may make a gigabyte of pieces: others have their turn between them.
            await asyncio.sleep(0)
            rest += piece
            start = 0
            # Blank lines are passed over by the search alone, since a sender may send nothing else.
            while (begin := _SOMETHING.search(rest, start)) and (end := rest.find(b"\n", begin.start())) >= 0:
                yield _line(bytes(rest[begin.start() : end]).rstrip(), limit)
                start = end + 1
            del rest[: begin.start() if begin else len(rest)]
            if len(rest) > limit:
                raise PayloadTooLarge(f"a line is over {limit} bytes")
    unpack.end()
    if line := bytes(rest).strip():
        yield _line(line, limit)


def _line(line: bytes, limit: int) -> Line:
    number: str | int | None = None
    try:
        if len(line) > limit:
            raise PayloadTooLarge(f"the line is over {limit} bytes")
        try:
            found = _decode_line(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            number = _number(line)
            reason = wire.unreadable(exc, line)
            raise ValidationError(f'expected a line like {{"text": "…"}}: {reason}') from None
        number = found.id
        return Line(one(found), number)
    except GatewayError as error:
        return Line(Query(), number, error)


class _Numbered(msgspec.Struct):
    id: str | int | None = None


_decode_number = msgspec.json.Decoder(_Numbered).decode


def _number(line: bytes) -> str | int | None:
    """The id of a line that is no query, where at least that can be read."""
    try:
        return _decode_number(line).id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
