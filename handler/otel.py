"""What OpenTelemetry's own settings ask for: where metrics and traces go, and how. Nothing of it is imported here.

`read` turns the settings into an `Export`, or says which of them cannot be followed.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal, get_args
from urllib.parse import unquote, urlsplit

import msgspec

Signal = Literal["metrics", "traces"]
SIGNALS: tuple[Signal, ...] = get_args(Signal)
PROTOCOL = "http/protobuf"
ADDRESS = "http:// or https://, a host, and a port and a path where they are wanted"
PAIRS = "name=value pairs, separated by commas, in which other characters are percent-encoded"
SAMPLERS = (
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
)
COMPRESSIONS = ("none", "gzip", "deflate")
# No push is done in less: whoever says less means seconds.
MILLIS_MIN = 100
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class Target(msgspec.Struct, frozen=True):
    """Where one signal is sent.

    url      with the signal's own path
    shown    the same for people: no password, no query
    headers  sent along; they may hold a key
    """

    url: str
    shown: str
    headers: dict[str, str]
    timeout_s: float
    compression: str


class Export(msgspec.Struct, frozen=True):
    """What is exported. A signal without a target is not.

    certificate  authorities to trust; empty: the system's
    resource     what the receiver is told of this process, beside what it finds out itself
    share        of new traces that are sampled, 0 to 1
    follows      whether a caller's decision to sample goes before ours
    queue_max    queries whose spans may wait; more are dropped
    delay_s      how long a span waits for company
    """

    metrics: Target | None
    traces: Target | None
    certificate: str
    client_certificate: str
    client_key: str
    resource: dict[str, str]
    interval_s: float
    share: float
    follows: bool
    queue_max: int
    delay_s: float

    def target(self, signal: Signal) -> Target | None:
        return self.metrics if signal == "metrics" else self.traces


def read(given: Mapping[str, Any]) -> Export | None:
    """What the settings, by their lower-case names, ask for; None where nothing is exported.

    Raises `ValueError`, which names the setting and what it accepts.
    """
    if given["otel_sdk_disabled"]:
        return None
    metrics, traces = (_target(signal, given) for signal in SIGNALS)
    if metrics is None and traces is None:
        return None
    sampler = str(given["otel_traces_sampler"]).lower()
    if sampler not in SAMPLERS:
        raise ValueError(f"OTEL_TRACES_SAMPLER={sampler!r} is not known: one of {', '.join(SAMPLERS)}")
    share = {"always_on": 1.0, "always_off": 0.0}.get(
        sampler.removeprefix("parentbased_"), float(given["otel_traces_sampler_arg"])
    )
    resource = {"service.name": "query-gateway", **pairs(given["otel_resource_attributes"])}
    if given["otel_service_name"]:
        resource["service.name"] = given["otel_service_name"]
    return Export(
        metrics=metrics,
        traces=traces,
        certificate=given["otel_exporter_otlp_certificate"],
        client_certificate=given["otel_exporter_otlp_client_certificate"],
        client_key=given["otel_exporter_otlp_client_key"],
        resource=resource,
        interval_s=given["otel_metric_export_interval"] / 1000,
        share=share,
        follows=sampler.startswith("parentbased_"),
        queue_max=given["otel_bsp_max_queue_size"],
        delay_s=given["otel_bsp_schedule_delay"] / 1000,
    )


def _target(signal: Signal, given: Mapping[str, Any]) -> Target | None:
    exporter = str(given[f"otel_{signal}_exporter"]).lower()
    if exporter == "none":
        return None
    base, own = given["otel_exporter_otlp_endpoint"], given[f"otel_exporter_otlp_{signal}_endpoint"]
    if not (base or own):
        return None
    name = f"OTEL_{signal.upper()}_EXPORTER"
    if exporter != "otlp":
        raise ValueError(f"{name}={exporter!r} is not known: one of otlp, none")
    for field in (f"otel_exporter_otlp_{signal}_protocol", "otel_exporter_otlp_protocol"):
        if spoken := str(given[field]).lower():
            if spoken != PROTOCOL:
                raise ValueError(
                    f"{field.upper()}={spoken!r} is not spoken: {PROTOCOL} alone is, which receivers take on port "
                    "4318 as a rule (grpc's is 4317)"
                )
            break
    own_ms = given[f"otel_exporter_otlp_{signal}_timeout"]
    if 0 < own_ms < MILLIS_MIN:
        raise ValueError(
            f"OTEL_EXPORTER_OTLP_{signal.upper()}_TIMEOUT={own_ms:g} is too short: a number of milliseconds, at least "
            f"{MILLIS_MIN}, or 0"
        )
    compression = str(_nearest(signal, "compression", given) or "none").lower()
    if compression not in COMPRESSIONS:
        raise ValueError(
            f"OTEL_EXPORTER_OTLP_COMPRESSION={compression!r} is not known: one of {', '.join(COMPRESSIONS)}"
        )
    url = own or f"{base.removesuffix('/')}/v1/{signal}"
    return Target(
        url=url,
        shown=shown(url),
        headers=pairs(_nearest(signal, "headers", given)),
        timeout_s=_nearest(signal, "timeout", given) / 1000,
        compression=compression,
    )


def _nearest(signal: Signal, what: str, given: Mapping[str, Any]) -> Any:
    """A signal's own setting, else the one for both."""
    return given[f"otel_exporter_otlp_{signal}_{what}"] or given[f"otel_exporter_otlp_{what}"]


def shown(url: str) -> str:
    """An address for people: it may hold a password, or a key in its query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def address(text: str) -> str:
    """A receiver's address as given. Raises `ValueError`, whose message does not repeat it."""
    try:
        parts = urlsplit(text)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        whole = False
    if not whole or re.search(r"\s", text):
        raise ValueError(f"expected {ADDRESS}")
    return text


def pairs(text: str) -> dict[str, str]:
    """`name=value,name=value` as a dict. Raises `ValueError`, whose message does not repeat it."""
    found = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (part.strip() for part in pair.partition("="))
        decoded = unquote(value)
        if not equals or not _NAME.fullmatch(name) or not decoded.isprintable():
            raise ValueError(f"expected {PAIRS}")
        found[name] = decoded
    return found
