"""What an operator may turn, read once from the environment.

Each field is a setting: its name in lower case, type, bounds, default and meaning.
`docs/settings.md` is the same table for readers, and a test keeps the two equal.
"""

import difflib
import ipaddress
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec
from msgspec import Meta

from handler import keys, otel
from handler import redis_url as redis_urls
from handler.origins import Origins

Count = Annotated[int, Meta(ge=1)]
Size = Annotated[int, Meta(ge=0)]
Millis = Annotated[float, Meta(ge=0, le=60_000)]
# Milliseconds as OpenTelemetry counts them; a number under 100 was meant to be seconds.
ExportMillis = Annotated[float, Meta(ge=otel.MILLIS_MIN, le=3_600_000)]
OwnExportMillis = Annotated[float, Meta(ge=0, le=3_600_000)]
Seconds = Annotated[float, Meta(gt=0, le=31_536_000)]

# A number as everybody writes one: `.7` and `+5` too, and never `1_000`.
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,30}\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")

# May hold a password, or a key where its digest belongs, and is therefore never repeated:
# what reads each, and what that accepts.
SECRET: dict[str, tuple[Callable[[str], object], str]] = {
    "redis_url": (redis_urls.read, redis_urls.ACCEPTED),
    "api_keys": (keys.read, keys.ACCEPTED),
    "ops_keys": (keys.read, keys.ACCEPTED),
    # An address may hold a password, and headers are where a receiver's key stands.
    "otel_exporter_otlp_endpoint": (otel.address, otel.ADDRESS),
    "otel_exporter_otlp_metrics_endpoint": (otel.address, otel.ADDRESS),
    "otel_exporter_otlp_traces_endpoint": (otel.address, otel.ADDRESS),
    "otel_exporter_otlp_headers": (otel.pairs, otel.PAIRS),
    "otel_exporter_otlp_metrics_headers": (otel.pairs, otel.PAIRS),
    "otel_exporter_otlp_traces_headers": (otel.pairs, otel.PAIRS),
}

# What reads a text that has a form of its own.
FORMS: dict[str, Callable[[str], object]] = {
    "cors_origins": Origins.read,
    "otel_resource_attributes": otel.pairs,
}

# OpenTelemetry's names for what we have not: not misspelled, and not for us.
NOT_OURS = re.compile(
    r"OTEL_(?:EXPORTER_OTLP_LOGS_\w+|LOGS_EXPORTER|BLRP_\w+|BSP_(?:EXPORT_TIMEOUT|MAX_EXPORT_BATCH_SIZE)"
    r"|METRIC_EXPORT_TIMEOUT|METRICS_EXEMPLAR_FILTER|PROPAGATORS)"
)


class Default(float):
    """A default that can be told from the same number given by an operator."""


# Settings of earlier editions: what took their place.
RETIRED = {
    "BATCH_GATHER": "nothing: queries are never held back for company",
    "QUEUE_MAX_TOKENS": "QUEUE_MIN and each query's own deadline, which a long text uses up sooner",
    "QUEUE_MAX_WAIT_MS": "QUEUE_MIN: so many queries may wait, whatever the expected time",
}


class SettingsError(Exception):
    """A value that cannot be read. The message names the setting and what it accepts."""


def _doc(text: str) -> Meta:
    return Meta(description=text)


MODEL_PATH = "models/quantized"
# Where a wheel holds its model (scripts/backend.py); a checkout has none there, but one beside this package.
BUNDLED_MODEL = Path(__file__).with_name("bundled_model")
CHECKOUT = Path(__file__).resolve().parent.parent
# Room for the connections to so many servers of a Redis Cluster is kept.
CLUSTER_SERVERS = 16
# A wire's name is that of its file in handler/wires.
OtherWire = Literal["systemone", "decisions", "predict", "huggingface", "classify", "v2", "route"]
Wire = Literal["native", OtherWire]
WIRES: tuple[OtherWire, ...] = get_args(OtherWire)


class Settings(msgspec.Struct, frozen=True):
    """The gateway's settings. Read them with `from_env`."""

    model_path: Annotated[
        str,
        _doc(
            "Folder of the model that is served; from an installed wheel, the one inside it; from a checkout in another folder, its own."
        ),
    ] = MODEL_PATH
    shadow_model_path: Annotated[
        str,
        _doc(
            "Folder of a second model that scores a share of the misses in idle time, to be compared; empty: none."
        ),
    ] = ""
    shadow_share: Annotated[
        float,
        Meta(ge=0, le=1, description="Share of the misses that the second model is offered."),
    ] = 0.1
    host: Annotated[str, _doc("Address to listen on (the image sets 0.0.0.0).")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535, description="Port to listen on (the image sets 8000).")] = 8080
    batch_max_size: Annotated[
        Count,
        _doc("Most queries in one model run. All lanes together hold a quarter of QUEUE_MIN at most."),
    ] = 32
    batch_max_tokens: Annotated[
        Count, _doc("Most estimated tokens in one model run; one query always fits.")
    ] = 256
    batch_max_wait_ms: Annotated[
        Millis,
        _doc(
            "Does nothing: no query is held back for company, which does not pay. Any value means the same."
        ),
    ] = 10
    lanes: Annotated[Size, _doc("Model runs at once; 0 means one per CPU that the process may use.")] = 0
    cache_l1_size: Annotated[Size, _doc("Entries in the in-process cache; 0 turns it off.")] = 10_000
    cache_l1_ttl_sec: Annotated[Seconds, _doc("Life of an entry in the in-process cache.")] = 300
    redis_url: Annotated[
        str,
        _doc(
            "Redis behind the in-process cache, shared by instances; empty: none. redis://, rediss:// (TLS), "
            "unix://, redis+sentinel://[user:password@]host:port[,host:port…]/service[/db], or "
            "redis+cluster://[user:password@]host:port[,host:port…] (rediss+sentinel:// and rediss+cluster:// "
            "with TLS)."
        ),
    ] = ""
    redis_ca_file: Annotated[str, _doc("Certificate authorities for rediss://; empty: the system's.")] = ""
    redis_cert_file: Annotated[str, _doc("Our own certificate, for a Redis that asks for one.")] = ""
    redis_key_file: Annotated[str, _doc("Key of REDIS_CERT_FILE.")] = ""
    cache_l2_ttl_sec: Annotated[Seconds, _doc("Life of an entry in Redis.")] = 3600
    cache_l2_timeout_ms: Annotated[
        float,
        Meta(
            gt=0,
            le=1000,  # `redis_link.LOST_AFTER_S`: then the connection is given up, whoever waits
            description="The most that asking Redis may cost a query; after that it is a miss.",
        ),
    ] = 20
    confidence_threshold: Annotated[
        float, Meta(ge=0, le=1, description="A fast answer less sure than this goes to slow.")
    ] = Default(0.7)
    route_fast_tasks: Annotated[
        str,
        Meta(
            pattern=r"[^\s,]",
            description="Tasks that go to the fast path, separated by commas, instead of the model's own policy; "
            "all others go slow.",
        ),
    ] = ""
    policy_file: Annotated[
        str,
        _doc(
            "TOML file with an operator's own needs and tiers (docs/need-and-cost.md); read again when it changes."
        ),
    ] = ""
    max_body_bytes: Annotated[Count, _doc("Longest request body that is read.")] = 1_048_576
    read_timeout_ms: Annotated[
        Annotated[float, Meta(ge=1, le=60_000)],
        _doc("Time for a request's head, and then for its body, to come in full."),
    ] = 10_000
    keep_alive_sec: Annotated[
        float,
        Meta(
            ge=1,
            le=3600,
            description="How long a connection may be idle between requests; longer than a balancer before us "
            "keeps its own.",
        ),
    ] = 75
    cors_origins: Annotated[
        str,
        _doc("Origins of web pages whose scripts may ask, separated by commas, or * for all; empty: none."),
    ] = ""
    request_timeout_ms: Annotated[
        Annotated[float, Meta(gt=0, le=60_000)],
        _doc("Time for one query; the header x-request-timeout-ms may shorten it."),
    ] = 1000
    route_timeout_ms: Annotated[
        Annotated[float, Meta(gt=0, le=60_000)],
        _doc("Time for one query on /v1/route, its body included; then the answer is the last tier."),
    ] = 150
    bulk_timeout_ms: Annotated[
        Annotated[float, Meta(gt=0, le=3_600_000)], _doc("Time for all of a request's texts.")
    ] = 30_000
    request_queries_max: Annotated[Count, _doc("Most texts in one request; more go as NDJSON.")] = 256
    wires: Annotated[
        str,
        Meta(
            pattern=r"[^\s,]",
            description="Wires that are on, separated by commas, or all, or none. The others are 404; the gateway's "
            "own path always is on.",
        ),
    ] = "all"
    queue_min: Annotated[
        Count,
        _doc(
            "Queries that may always wait for a lane, however long they are, unless the measured rate says that "
            "a query's own time will not do."
        ),
    ] = 64
    queue_max: Annotated[
        Count,
        _doc(
            "Queries that may wait in a short burst; more are refused with 429. Also how many refusals are delayed at a time. "
            "Where it is under QUEUE_MIN, it is the bound."
        ),
    ] = 1024
    drain_linger_ms: Annotated[
        float,
        Meta(
            ge=0,
            le=7000,  # the whole drain must fit into the 8 s that `server.DRAIN_MAX_S` gives it
            description="After SIGTERM: how long queries that still come are answered before the listener closes.",
        ),
    ] = 1000
    api_keys: Annotated[
        str,
        _doc(
            "SHA-256 digests of the keys that may ask, separated by commas (`query-gateway key`); empty: anybody."
        ),
    ] = ""
    api_keys_file: Annotated[
        str, _doc("File with more such digests, one a line; read again when it changes.")
    ] = ""
    ops_keys: Annotated[
        str, _doc("The same for /metrics and /health/deep; empty: anybody who reaches them.")
    ] = ""
    ops_keys_file: Annotated[str, _doc("File with more such digests; read again when it changes.")] = ""
    schema_enabled: Annotated[bool, _doc("0 takes /schema and /docs away.")] = True
    page: Annotated[
        bool | None,
        _doc(
            "1 serves the page at / and the API reference at /docs; empty: 1 where HOST is this machine alone, else 0."
        ),
    ] = None
    prometheus_url: Annotated[
        str,
        Meta(
            pattern=r"^https?://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?(?:/[A-Za-z0-9._~/-]*)?$",
            description="Prometheus whose alerts the page shows, as the browser reaches it; empty: none.",
        ),
    ] = ""
    otel_exporter_otlp_endpoint: Annotated[
        str,
        _doc(
            "Receiver that metrics and traces are sent to by OTLP over HTTP (http://collector:4318), under v1/metrics "
            "and v1/traces; empty: none. These names are OpenTelemetry's own (docs/monitoring.md)."
        ),
    ] = ""
    otel_exporter_otlp_metrics_endpoint: Annotated[
        str,
        _doc("The whole address for metrics, where it is another; alone: metrics are sent, traces are not."),
    ] = ""
    otel_exporter_otlp_traces_endpoint: Annotated[
        str,
        _doc("The whole address for traces, where it is another; alone: traces are sent, metrics are not."),
    ] = ""
    otel_exporter_otlp_protocol: Annotated[
        str, _doc("http/protobuf alone is spoken; grpc and http/json stop the start.")
    ] = ""
    otel_exporter_otlp_metrics_protocol: Annotated[
        str, _doc("In place of OTEL_EXPORTER_OTLP_PROTOCOL, for metrics.")
    ] = ""
    otel_exporter_otlp_traces_protocol: Annotated[
        str, _doc("In place of OTEL_EXPORTER_OTLP_PROTOCOL, for traces.")
    ] = ""
    otel_exporter_otlp_headers: Annotated[
        str,
        _doc(
            "Headers for the receiver, its key among them: name=value, separated by commas, percent-encoded. "
            "Never repeated."
        ),
    ] = ""
    otel_exporter_otlp_metrics_headers: Annotated[
        str, _doc("In place of OTEL_EXPORTER_OTLP_HEADERS, for metrics.")
    ] = ""
    otel_exporter_otlp_traces_headers: Annotated[
        str, _doc("In place of OTEL_EXPORTER_OTLP_HEADERS, for traces.")
    ] = ""
    otel_exporter_otlp_timeout: Annotated[
        ExportMillis, _doc("The most that one push may take, in milliseconds; its retries included.")
    ] = 10_000
    otel_exporter_otlp_metrics_timeout: Annotated[
        OwnExportMillis, _doc("In place of OTEL_EXPORTER_OTLP_TIMEOUT, for metrics; 0: as that one.")
    ] = 0
    otel_exporter_otlp_traces_timeout: Annotated[
        OwnExportMillis, _doc("In place of OTEL_EXPORTER_OTLP_TIMEOUT, for traces; 0: as that one.")
    ] = 0
    otel_exporter_otlp_compression: Annotated[str, _doc("How pushes are packed: none, gzip or deflate.")] = (
        "none"
    )
    otel_exporter_otlp_metrics_compression: Annotated[
        str, _doc("In place of OTEL_EXPORTER_OTLP_COMPRESSION, for metrics.")
    ] = ""
    otel_exporter_otlp_traces_compression: Annotated[
        str, _doc("In place of OTEL_EXPORTER_OTLP_COMPRESSION, for traces.")
    ] = ""
    otel_exporter_otlp_certificate: Annotated[
        str, _doc("File with the authorities to trust for https; empty: those that come with the gateway.")
    ] = ""
    otel_exporter_otlp_client_certificate: Annotated[
        str, _doc("Our own certificate, for a receiver that asks for one.")
    ] = ""
    otel_exporter_otlp_client_key: Annotated[str, _doc("Key of OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE.")] = ""
    otel_service_name: Annotated[
        str, _doc("service.name of all that is sent, job in Prometheus; empty: query-gateway.")
    ] = ""
    otel_resource_attributes: Annotated[
        str, _doc("More about this process for the receiver: name=value, separated by commas.")
    ] = ""
    otel_metric_export_interval: Annotated[
        ExportMillis,
        _doc(
            "Time between two pushes of metrics, in milliseconds. One more goes at the start, and the last one "
            "after the last answer."
        ),
    ] = 60_000
    otel_metrics_exporter: Annotated[str, _doc("none sends no metrics, though there is an endpoint.")] = (
        "otlp"
    )
    otel_traces_exporter: Annotated[str, _doc("none sends no traces, though there is an endpoint.")] = "otlp"
    otel_traces_sampler: Annotated[
        str,
        _doc(
            "Which queries are traced: always_on, always_off, traceidratio, or the same after parentbased_, where a "
            "caller's traceparent decides. By default those alone whose caller traces them."
        ),
    ] = "parentbased_always_off"
    otel_traces_sampler_arg: Annotated[
        float, Meta(ge=0, le=1, description="Share of queries that traceidratio traces.")
    ] = 1
    otel_bsp_max_queue_size: Annotated[
        Count, _doc("Traced queries that may wait to be sent; more are dropped and counted.")
    ] = 2048
    otel_bsp_schedule_delay: Annotated[
        ExportMillis, _doc("How long a traced query waits to be sent with others, in milliseconds.")
    ] = 5000
    otel_sdk_disabled: Annotated[bool, _doc("true sends nothing, whatever the others say.")] = False
    log_requests: Annotated[bool, _doc("1 writes one log line per query (never its text).")] = False
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"], _doc("Least severe line that is written.")
    ] = "INFO"
    log_format: Annotated[
        Literal["auto", "json", "text"],
        _doc("One JSON object a line, or text for people; auto: text on a terminal, else json."),
    ] = "auto"

    @property
    def fast_tasks(self) -> list[str]:
        """`route_fast_tasks` as a list; empty when the model's own policy holds."""
        return [task for given in self.route_fast_tasks.split(",") if (task := given.strip())]

    @property
    def redis_servers(self) -> int:
        """Redis servers that room is kept for. How many a cluster has is not known before it is asked."""
        if not self.redis_url:
            return 0
        return CLUSTER_SERVERS if redis_urls.read(self.redis_url).cluster else 1

    @property
    def threshold_given(self) -> bool:
        """Whether an operator set `confidence_threshold`, be it to its default."""
        return not isinstance(self.confidence_threshold, Default)

    @property
    def page_on(self) -> bool:
        """Whether the page is served: as `page` says, else on a loopback address alone."""
        return is_loopback(self.host) if self.page is None else self.page

    @property
    def export(self) -> otel.Export | None:
        """What is sent by OTLP; None: nothing. Raises `SettingsError` for what OpenTelemetry knows and we do not."""
        try:
            return otel.read(msgspec.structs.asdict(self))
        except ValueError as exc:
            raise SettingsError(str(exc)) from None

    @property
    def wire_names(self) -> tuple[str, ...]:
        """`wires` as a tuple, in the order of `WIRES`. Raises `SettingsError` for a name that is none."""
        given = {name.strip().lower() for name in self.wires.split(",")} - {""}
        if given == {"none"}:
            return ()
        if unknown := sorted(given - {*WIRES, "all"}):
            raise SettingsError(
                f"WIRES: {', '.join(unknown)}: expected some of {', '.join(WIRES)}, or all, or none alone"
            )
        return WIRES if "all" in given else tuple(name for name in WIRES if name in given)

    @property
    def model_folder(self) -> Path:
        """The folder that `model_path` names. Without one: from an installed wheel, the model inside it; from a
        checkout that is installed as it stands (`pip install -e`), its own, where there is none in the working folder.
        """
        folder = Path(self.model_path).absolute()
        if self.model_path != MODEL_PATH:
            return folder
        if BUNDLED_MODEL.is_dir():
            return BUNDLED_MODEL
        own = CHECKOUT / MODEL_PATH
        return own if own.is_dir() and not folder.exists() else folder

    @property
    def shadow_folder(self) -> Path | None:
        """The folder that `shadow_model_path` names; None where there is no shadow."""
        return Path(self.shadow_model_path).absolute() if self.shadow_model_path else None


def names() -> list[str]:
    """The environment's names of all settings, in their order here."""
    return [field.upper() for field in Settings.__struct_fields__]


def from_env(environ: Mapping[str, str]) -> Settings:
    """Read the settings. An empty value counts as not set.

    Raises `SettingsError` on the first value that cannot be read.
    """
    hints = get_type_hints(Settings, include_extras=True)
    values: dict[str, Any] = {}
    for field in Settings.__struct_fields__:
        seen = environ.get(field.upper(), "").strip()
        if not seen:
            continue
        try:
            seen.encode()  # bytes outside UTF-8 arrive as lone surrogates: no text, host or path to log
            values[field] = msgspec.convert(_plain(field, seen), hints[field], strict=False)
            if field in SECRET:
                SECRET[field][0](seen)
            elif field in FORMS:
                FORMS[field](seen)
        except ValueError as exc:  # msgspec's and the encoder's are of this kind too
            why = f"{accepted(field)} ({exc})"
            if field in SECRET:  # not even the reason: an encoder's quotes its input
                seen, why = "…", SECRET[field][1] if isinstance(exc, UnicodeError) else str(exc)
            raise SettingsError(f"{field.upper()}={seen!r} cannot be read: {why}") from None
    settings = Settings(**values)
    settings.export  # noqa: B018 - read once here, so that what cannot be followed stops the start
    return settings


def accepted(field: str) -> str:
    """What a setting takes, in words."""
    plain = get_type_hints(Settings)[field]
    if plain == bool | None:
        plain = bool
    if choices := get_args(plain):
        return "one of " + ", ".join(map(str, choices))
    return {bool: "0 or 1", int: "a whole number", float: "a number"}.get(plain, "text") + bounds(field)


def bounds(field: str) -> str:
    """The limits of a number setting, in words; empty where there are none."""
    words = {"ge": "at least", "gt": "over", "le": "at most"}
    found: dict[str, Any] = {}
    kind = get_type_hints(Settings, include_extras=True)[field]
    for meta in getattr(kind, "__metadata__", ()):
        found |= {name: value for name in words if (value := getattr(meta, name)) is not None}
    return "".join(f", {words[name]} {value:g}" for name, value in found.items())


def table() -> str:
    """All settings as aligned text: name, default, what it takes, what it means."""
    hints = get_type_hints(Settings, include_extras=True)
    rows = []
    for field, default in zip(Settings.__struct_fields__, Settings.__struct_defaults__, strict=True):
        text = " ".join(meta.description for meta in hints[field].__metadata__ if meta.description)
        rows.append(f"  {field.upper():22} [{shown(default)}] {text} ({accepted(field)})")
    return "\n".join(rows)


def shown(default: Any) -> str:
    """A default as an operator would type it."""
    if default is None:
        return ""
    return (
        str(int(default))
        if isinstance(default, bool)
        else f"{default:g}"
        if isinstance(default, float)
        else str(default)
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def misspelled(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """Names in the environment that look like a setting written wrong, each with the likely one."""
    known = names()
    return [
        (name, close[0])
        for name in environ
        if name not in known
        and name not in RETIRED
        and not NOT_OURS.fullmatch(name)
        and (close := difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.82))
    ]


def retired(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """Settings of earlier editions that are still set, each with what took its place."""
    return [(name, instead) for name, instead in RETIRED.items() if environ.get(name, "").strip()]


def _plain(field: str, value: str) -> str:
    """A value in the one form that is converted: choices in their case, numbers as JSON has them."""
    if _NUMBER.fullmatch(value) and get_type_hints(Settings)[field] in (int, float):
        return str(int(value)) if re.fullmatch(r"[+-]?[0-9]+", value) else repr(float(value))
    return {"log_level": value.upper(), "log_format": value.lower()}.get(field, value)
