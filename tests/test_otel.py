"""OpenTelemetry's own settings: what they switch on, and what is refused by name."""

from typing import Any

import pytest

from handler import otel
from handler.otel import Export
from handler.settings import SettingsError, from_env, misspelled

HERE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


def export(**given: str) -> Export:
    found = from_env({**HERE, **given}).export
    assert found is not None
    return found


def test_nothing_is_exported_where_no_endpoint_is_named() -> None:
    environ = {"OTEL_SERVICE_NAME": "router", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}

    assert from_env(environ).export is None


@pytest.mark.parametrize("seen", ["true", "TRUE", "1"])
def test_a_disabled_sdk_exports_nothing(seen: str) -> None:
    assert from_env({**HERE, "OTEL_SDK_DISABLED": seen, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}).export is None


@pytest.mark.parametrize("base", ["http://collector:4318", "http://collector:4318/"])
def test_a_signals_own_path_is_put_behind_the_endpoint_for_both(base: str) -> None:
    found = export(OTEL_EXPORTER_OTLP_ENDPOINT=base)

    assert found.metrics is not None
    assert found.traces is not None
    assert found.metrics.url == "http://collector:4318/v1/metrics"
    assert found.traces.url == "http://collector:4318/v1/traces"


def test_a_signals_own_endpoint_is_taken_as_it_stands() -> None:
    own = "https://prometheus:9090/api/v1/otlp/v1/metrics"

    found = from_env({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": own}).export

    assert found is not None
    assert found.metrics is not None
    assert (found.metrics.url, found.traces) == (own, None)


@pytest.mark.parametrize("signal", otel.SIGNALS)
def test_a_signal_is_switched_off_by_its_exporter(signal: otel.Signal) -> None:
    found = export(**{f"OTEL_{signal.upper()}_EXPORTER": "none"})

    assert found.target(signal) is None
    assert [found.target(other) is not None for other in otel.SIGNALS if other != signal] == [True]


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL"])
@pytest.mark.parametrize("seen", ["grpc", "http/json"])
def test_a_protocol_that_is_not_spoken_stops_the_start_and_names_the_one_that_is(
    name: str, seen: str
) -> None:
    with pytest.raises(SettingsError, match=rf"^{name}='{seen}' .*http/protobuf"):
        from_env({**HERE, name: seen})


def test_a_signals_own_protocol_goes_before_the_one_for_both() -> None:
    found = export(
        OTEL_EXPORTER_OTLP_PROTOCOL="grpc",
        OTEL_EXPORTER_OTLP_METRICS_PROTOCOL="http/protobuf",
        OTEL_EXPORTER_OTLP_TRACES_PROTOCOL="HTTP/protobuf",
    )

    assert found.metrics is not None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"OTEL_TRACES_SAMPLER": "xray"}, "OTEL_TRACES_SAMPLER='xray'"),
        ({"OTEL_METRICS_EXPORTER": "prometheus"}, "OTEL_METRICS_EXPORTER='prometheus'"),
        ({"OTEL_EXPORTER_OTLP_COMPRESSION": "zstd"}, "COMPRESSION='zstd'"),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "10"}, "at least 100"),
        ({"OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "10"}, "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT=10"),
        ({"OTEL_METRIC_EXPORT_INTERVAL": "60"}, "at least 100"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "team"}, "name=value"),
    ],
    ids=str,
)
def test_what_cannot_be_followed_stops_the_start(given: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        from_env({**HERE, **given})


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("OTEL_EXPORTER_OTLP_HEADERS", "swordfish"),
        ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "api-key=a%0d%0aswordfish"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318/swordfish"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://u:swordfish@collector"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://:4318/swordfish"),
    ],
)
def test_a_key_or_a_password_is_never_repeated(name: str, seen: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name}=") as stopped:
        from_env({name: seen})

    assert "swordfish" not in str(stopped.value)


def test_an_address_is_shown_without_its_password_and_its_query() -> None:
    assert otel.shown("https://u:p@c:4318/v1/metrics?key=k") == "https://c:4318/v1/metrics"


def test_headers_are_percent_decoded_and_a_signals_own_stand_for_all() -> None:
    found = export(
        OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20k%3D, x-scope=a",
        OTEL_EXPORTER_OTLP_TRACES_HEADERS="x-scope=b",
    )

    assert found.metrics is not None
    assert found.traces is not None
    assert found.metrics.headers == {"authorization": "Bearer k=", "x-scope": "a"}
    assert found.traces.headers == {"x-scope": "b"}


def test_durations_are_milliseconds_as_the_specification_has_them() -> None:
    found = export(OTEL_EXPORTER_OTLP_TIMEOUT="2500", OTEL_EXPORTER_OTLP_TRACES_TIMEOUT="500")

    assert found.metrics is not None
    assert found.traces is not None
    assert (found.metrics.timeout_s, found.traces.timeout_s) == (2.5, 0.5)
    assert (found.interval_s, found.delay_s) == (60, 5)


def test_the_services_name_goes_before_the_one_among_the_attributes() -> None:
    both = export(OTEL_SERVICE_NAME="a", OTEL_RESOURCE_ATTRIBUTES="service.name=b,zone=x")

    assert both.resource == {"service.name": "a", "zone": "x"}
    assert export().resource == {"service.name": "query-gateway"}


@pytest.mark.parametrize(
    ("sampler", "arg", "share", "follows"),
    [
        ("always_on", "", 1, False),
        ("always_off", "", 0, False),
        ("traceidratio", "0.25", 0.25, False),
        ("parentbased_always_on", "", 1, True),
        ("parentbased_traceidratio", "0.25", 0.25, True),
        ("", "", 0, True),
    ],
)
def test_a_sampler_is_a_share_of_new_traces_and_whether_callers_decide(
    sampler: str, arg: str, share: float, follows: bool
) -> None:
    found = export(OTEL_TRACES_SAMPLER=sampler, OTEL_TRACES_SAMPLER_ARG=arg)

    assert (found.share, found.follows) == (share, follows)


@pytest.mark.parametrize(
    "name",
    [
        "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
        "OTEL_BSP_EXPORT_TIMEOUT",
        "OTEL_BLRP_SCHEDULE_DELAY",
        "OTEL_LOGS_EXPORTER",
    ],
)
def test_opentelemetrys_names_for_what_we_have_not_are_not_called_misspelled(name: str) -> None:
    environ: dict[str, Any] = {name: "x"}

    assert misspelled(environ) == []
