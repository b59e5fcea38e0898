"""What crosses HTTP, as frozen structs: the query, its answer, errors and reports."""

import re
from functools import lru_cache
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from handler.errors import GatewayError
from handler.policy import Decision, Label
from handler.statistics import L2Drop, L2Failure, L2Operation, L2Reject, ShadowDrop

Text = Annotated[
    str, Meta(min_length=1, description="The query as its user wrote it.", examples=["Summarize: …"])
]
Threshold = Annotated[
    float,
    Meta(ge=0, le=1, description="How sure a fast answer must be, for this query alone."),
]
Messages = Annotated[
    list[Any],
    Meta(
        description="A conversation in OpenAI's chat form or Anthropic's: objects with role and content. "
        "The last user turn is the ask.",
        examples=[[{"role": "user", "content": "What is the capital of Australia?"}]],
    ),
]
Input = Annotated[Any, Meta(description="OpenAI's responses form: a string or a list of items.")]
Prompt = Annotated[Any, Meta(description="A query as a completions client sends it.")]
Beside = Annotated[Any, Meta(description="A system prompt beside the conversation: a string or text parts.")]
Explain = Annotated[bool, Meta(description="Whether the answer tells how it came about.")]


class ClassifyRequest(msgspec.Struct, frozen=True):
    """One query (`text`, `messages`, `input` or `prompt`) or many (`texts`). Other members are ignored."""

    text: Text | None = None
    messages: Messages | None = None
    input: Input = None
    prompt: Prompt = None
    system: Beside = None
    instructions: Beside = None
    texts: Annotated[list[Any], Meta(description="Many queries, each a non-empty string.")] | None = None
    threshold: Threshold | None = None
    explain: Explain = False


class ClassifyLine(msgspec.Struct, frozen=True):
    """One line of a stream: a query, and what its answer is to be known by."""

    id: Annotated[str | int, Meta(description="Echoed in the line's answer.")] | None = None
    text: Text | None = None
    messages: Messages | None = None
    input: Input = None
    prompt: Prompt = None
    system: Beside = None
    instructions: Beside = None
    threshold: Threshold | None = None
    explain: Explain = False


class ClassifyAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the query should go, and how sure the model is."""

    label: Annotated[
        Label,
        Meta(
            description='The route\'s place, "0" the cheapest: "0" is fast and "1" slow, unless a policy names tiers.'
        ),
    ]
    route: Annotated[str, Meta(description="Name of the tier that is to answer.", examples=["fast"])]
    task: Annotated[
        str,
        Meta(
            description="The most probable task of the route that the model preferred; "
            "`unknown` where the model was not asked."
        ),
    ]
    confidence: Annotated[
        float,
        Meta(ge=0, le=1, description="Calibrated probability of the route that the model preferred."),
    ]
    reason: Annotated[
        Literal["low_confidence", "no_text", "not_text"] | None,
        Meta(description="Why the route taken is not the one preferred, or the model was not asked."),
    ] = None
    truncated: Annotated[
        bool, Meta(description="True when the query was too long for the model to see all of it.")
    ] = False


class ExplainedAnswer(ClassifyAnswer, frozen=True, kw_only=True, omit_defaults=False):
    """The same, and how it came about."""

    tasks: Annotated[dict[str, float], Meta(description="The probability of every task.")]
    need: Annotated[float, Meta(ge=0, le=1, description="How much the query needs a large model.")]
    margin: Annotated[float, Meta(ge=0, description="Distance of need to the nearest boundary in force.")]
    seen: Annotated[
        list[tuple[int, int]],
        Meta(
            description="What of the text the model read: [start, end) in code points, in order. Of a conversation "
            "it counts in the JSON list of objects with role and content that it travels as, without blanks."
        ),
    ]


class ManyAnswers(msgspec.Struct, frozen=True):
    """The answers to `texts`, in their order; each an answer or an error of its own."""

    results: list[Any]


class ErrorBody(msgspec.Struct, frozen=True):
    """One failure: `code` is the HTTP status, `status` its stable name."""

    code: int
    status: str
    message: str
    details: list[str]


class ErrorAnswer(msgspec.Struct, frozen=True):
    """The one shape of every answer that is not the one asked for."""

    error: ErrorBody


class Probe(msgspec.Struct, frozen=True, omit_defaults=True):
    """A liveness or readiness answer."""

    status: Literal["alive", "ready", "not_ready", "dead"]
    reason: str | None = None


# `unreadable`: the volume does not answer.
FilesState = Literal["present", "missing", "changed", "unreadable"]


class CurveCheck(msgspec.Struct, frozen=True):
    """What one threshold does, as the model's builder measured it on prompts kept from training.

    share_fast  of all queries, sent fast
    wrong_fast  of the queries that need the large model, sent fast
    easy_fast   of the queries that the small model can answer, sent fast
    """

    threshold: float
    share_fast: float
    wrong_fast: float
    easy_fast: float


class ModelCheck(msgspec.Struct, frozen=True):
    """The model in service.

    since   when it went into service (RFC 3339, UTC); None while there is none
    error   why there is none, or why the one that stands on disk was refused
    curve   empty where its builder did not measure one
    """

    loaded: bool
    version: str | None
    path: str
    device: str
    tasks: list[str]
    files: FilesState
    error: str | None
    since: str | None = None
    curve: list[CurveCheck] = []


class TierCheck(msgspec.Struct, frozen=True):
    name: str
    need_max: float


class PolicyCheck(msgspec.Struct, frozen=True):
    """The policy in force.

    version    of an operator's POLICY_FILE, by its content
    threshold  how sure an answer of the first tier must be: 1 less the first boundary
    need       how much each task needs a large model, 0 to 1
    error      why the file as it stands now is not in force
    """

    source: str
    file: str | None
    version: str | None
    threshold: float
    tiers: list[TierCheck]
    need: dict[str, float]
    options: dict[str, float]
    predicates: list[str]
    error: str | None


class ShadowCheck(msgspec.Struct, frozen=True):
    """The second model that scores a share of the misses in idle time.

    version    empty while it does not score
    since      when its counts began (RFC 3339, UTC); None while it does not score
    compared   queries that both models scored since then
    agreement  share of those that take the same route; None of none
    error      why it does not score, or why what stands on disk is not used
    """

    loaded: bool
    version: str | None
    path: str
    share: float
    since: str | None
    compared: int
    agreement: float | None
    dropped: dict[ShadowDrop, int]
    error: str | None


BreakerState = Literal["closed", "open"]


class ShardCheck(msgspec.Struct, frozen=True):
    """How one Redis server of the shared cache level fares. `size` counts every key in its database."""

    address: str
    trouble: str | None
    breakers: dict[str, BreakerState]
    size: int | None


class L2Check(msgspec.Struct, frozen=True):
    """How the shared cache level fares since the start.

    breakers    `open` is not used for the moment, on one server or more
    shards      the servers that have the keys: one, or those of a cluster
    latency_ms  of an average round trip, by operation
    """

    address: str
    trouble: str | None
    breakers: dict[str, BreakerState]
    shards: list[ShardCheck]
    latency_ms: dict[L2Operation, float | None]
    errors: dict[L2Failure, int]
    rejected_values: dict[L2Reject, int]
    dropped_writes: dict[L2Drop, int]


class CacheCheck(msgspec.Struct, frozen=True):
    """The cache's levels. `l2_size` counts every key in the Redis database, whoever's it is."""

    l1_enabled: bool
    l1_size: int
    l1_max_size: int
    l2_enabled: bool
    l2_healthy: bool
    l2_size: int | None
    l2: L2Check | None = None


class BatchCheck(msgspec.Struct, frozen=True):
    running: bool
    queue_depth: int
    max_batch_size: int
    max_wait_ms: float
    average_batch_size: float
    lanes: int


class MetricsCheck(msgspec.Struct, frozen=True):
    active_requests: int
    model_loaded: bool


class Checks(msgspec.Struct, frozen=True):
    model: ModelCheck
    cache: CacheCheck
    batch_processor: BatchCheck
    metrics: MetricsCheck
    policy: PolicyCheck | None = None
    shadow: ShadowCheck | None = None
    keys: Annotated[
        dict[str, str | None],
        Meta(
            description="By the setting that names a file of keys: why it was refused as it stands now, and those "
            "before it are in force; null when it was not."
        ),
    ] = {}


class DeepReport(msgspec.Struct, frozen=True):
    """Everything an on-call engineer asks first, in one answer."""

    status: Literal["healthy", "degraded"]
    version: str
    uptime_s: float
    checks: Checks


# Half of a surrogate pair, as an escape whose backslash is not itself escaped.
_LONE = re.compile(
    rb"(?<!\\)(?:\\\\)*\\(?P<half>u(?:d[89ab][0-9a-f]{2}(?!\\ud[c-f][0-9a-f]{2})|"
    rb"(?<!\\ud[89ab][0-9a-f]{2}\\u)d[c-f][0-9a-f]{2}))",
    re.IGNORECASE,
)
_BYTE = re.compile(r"\(byte (\d+)\)")
# Bytes on each side of where a decoder stopped in which the cause is looked for.
NEAR = 32

encode = msgspec.json.Encoder().encode


def unreadable(exc: Exception, body: bytes) -> str:
    """Why a body could not be read as JSON, for its sender; it repeats nothing of the body.

    A text cut in the middle of an emoji, as a slice in JavaScript does, ends in half of
    its escape, which decoders call truncated or malformed.
    """
    if isinstance(exc, UnicodeDecodeError):
        return "bytes that are not UTF-8"
    # The decoder says where it stopped, or else it stopped at the end.
    stopped = int(found[1]) if (found := _BYTE.search(str(exc))) else len(body)
    begin = max(0, stopped - NEAR)
    if isinstance(exc, msgspec.DecodeError) and (lone := _LONE.search(body[begin : stopped + NEAR])):
        at = begin + lone.start("half") - 1
        return f"a lone surrogate at byte {at}: half of a character such as an emoji, which was cut in two"
    return str(exc)


def answer_of(decision: Decision) -> ClassifyAnswer:
    """A decision as it crosses HTTP."""
    return ClassifyAnswer(
        label=decision.label,
        route=decision.route,
        task=decision.task,
        confidence=round(decision.confidence, 4),
        reason=decision.reason,  # type: ignore[arg-type]  # a closed set, by whoever made the decision
        truncated=decision.truncated,
    )


def write_answer(decision: Decision) -> bytes:
    return encode(answer_of(decision))


def write_error(error: GatewayError) -> bytes:
    return _error(error.code, error.status, error.message, error.details)


@lru_cache(maxsize=64)  # in a flood it is one and the same refusal, again and again
def _error(code: int, status: str, message: str, details: tuple[str, ...]) -> bytes:
    return encode(ErrorAnswer(ErrorBody(code=code, status=status, message=message, details=list(details))))
