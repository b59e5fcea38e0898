"""Settings: what is read is what was meant, or the start stops and says why."""

import runpy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handler import settings
from handler.settings import (
    RETIRED,
    WIRES,
    Settings,
    SettingsError,
    accepted,
    from_env,
    misspelled,
    names,
    retired,
    table,
)

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/settings.md"
WRITE_THE_PAGE = "just fix"

NUMBERS = {
    "PORT": "a whole number, at least 1, at most 65535",
    "BATCH_MAX_SIZE": "a whole number, at least 1",
    "BATCH_MAX_TOKENS": "a whole number, at least 1",
    "BATCH_MAX_WAIT_MS": "a number, at least 0",
    "LANES": "a whole number, at least 0",
    "CACHE_L1_SIZE": "a whole number, at least 0",
    "CACHE_L1_TTL_SEC": "a number, over 0",
    "CONFIDENCE_THRESHOLD": "a number, at least 0, at most 1",
    "MAX_BODY_BYTES": "a whole number, at least 1",
    "REQUEST_TIMEOUT_MS": "a number, over 0",
    "QUEUE_MAX": "a whole number, at least 1",
    "QUEUE_MIN": "a whole number, at least 1",
    "READ_TIMEOUT_MS": "a number, at least 1",
    "DRAIN_LINGER_MS": "a number, at least 0",
}
SWITCHES = ("LOG_REQUESTS", "PAGE", "SCHEMA_ENABLED")
BAD_VALUES = [
    *[
        (name, seen, takes)
        for name, takes in NUMBERS.items()
        for seen in ("-1", "many", "nan", "1,5", "0x10", "1_000", "1 000", ".", "1e", "１２")
    ],
    *[(name, "0.5", takes) for name, takes in NUMBERS.items() if takes.startswith("a whole number")],
    *[(name, seen, "0 or 1") for name in SWITCHES for seen in ("yes", "on", "2", "-1", "0.0")],
    ("PORT", "0", "at least 1"),
    ("PORT", "65536", "at most 65535"),
    ("QUEUE_MAX", "0", "at least 1"),
    ("CACHE_L1_TTL_SEC", "0", "over 0"),
    ("REQUEST_TIMEOUT_MS", "0", "over 0"),
    ("CONFIDENCE_THRESHOLD", "1.01", "at most 1"),
    ("LOG_LEVEL", "LOUD", "one of DEBUG, INFO, WARNING, ERROR"),
    ("LOG_FORMAT", "xml", "one of auto, json, text"),
]


def value(name: str, seen: str) -> Any:
    return getattr(from_env({name: seen}), name.lower())


def test_an_empty_environment_gives_the_contracts_defaults() -> None:
    read = from_env({})

    assert read.model_path == "models/quantized"
    assert (read.batch_max_size, read.batch_max_wait_ms) == (32, 10)
    assert (read.cache_l1_size, read.cache_l1_ttl_sec) == (10_000, 300)
    assert (read.confidence_threshold, read.max_body_bytes, read.queue_max) == (0.7, 1_048_576, 1024)
    assert (read.host, read.port) == ("127.0.0.1", 8080)
    assert (read.request_timeout_ms, read.drain_linger_ms) == (1000, 1000)
    assert (read.log_requests, read.log_level, read.log_format) == (False, "INFO", "auto")


@pytest.mark.parametrize(
    ("name", "seen", "meant"),
    [
        ("PORT", "8000", 8000),
        ("BATCH_MAX_WAIT_MS", "0", 0),
        ("BATCH_MAX_WAIT_MS", "2.5", 2.5),
        ("CONFIDENCE_THRESHOLD", "1", 1),
        ("CACHE_L1_SIZE", "0", 0),
        ("CACHE_L1_SIZE", "1e4", 10_000),
        ("CACHE_L1_SIZE", "+8", 8),
        ("PORT", "08000", 8000),
        ("CONFIDENCE_THRESHOLD", ".7", 0.7),
        ("CONFIDENCE_THRESHOLD", "+.7", 0.7),
        ("CONFIDENCE_THRESHOLD", "0.70", 0.7),
        ("CONFIDENCE_THRESHOLD", "7e-1", 0.7),
        ("CONFIDENCE_THRESHOLD", "1.", 1),
        ("BATCH_MAX_WAIT_MS", "-0", 0),
        ("LOG_REQUESTS", "1", True),
        ("LOG_REQUESTS", "0", False),
        ("LOG_REQUESTS", "true", True),
        ("LOG_LEVEL", "debug", "DEBUG"),
        ("LOG_FORMAT", "TEXT", "text"),
        ("MODEL_PATH", "/app/models", "/app/models"),
        ("HOST", "  0.0.0.0 ", "0.0.0.0"),
    ],
)
def test_a_good_value_is_read_as_it_was_meant(name: str, seen: str, meant: Any) -> None:
    assert value(name, seen) == meant


@pytest.mark.parametrize(
    ("environ", "on"),
    [
        ({}, True),
        ({"HOST": "localhost"}, True),
        ({"HOST": "::1"}, True),
        ({"HOST": "0.0.0.0"}, False),
        ({"HOST": "gateway.example"}, False),
        ({"HOST": "0.0.0.0", "PAGE": "1"}, True),
        ({"PAGE": "0"}, False),
    ],
)
def test_the_page_is_on_where_only_this_machine_sees_it_unless_told(
    environ: dict[str, str], on: bool
) -> None:
    assert from_env(environ).page_on is on


@pytest.mark.parametrize(
    "seen", ["localhost:9090", "http://a b", "http://u:p@h", "http://h;x", "http://h/?q"]
)
def test_a_prometheus_that_is_no_plain_address_is_refused_by_name(seen: str) -> None:
    with pytest.raises(SettingsError, match=r"^PROMETHEUS_URL="):
        from_env({"PROMETHEUS_URL": seen})


@pytest.mark.parametrize(("name", "seen", "takes"), BAD_VALUES)
def test_a_bad_value_stops_with_its_name_what_was_seen_and_what_is_accepted(
    name: str, seen: str, takes: str
) -> None:
    with pytest.raises(SettingsError) as stopped:
        from_env({name: seen})

    message = str(stopped.value)
    assert message.startswith(f"{name}={seen!r} cannot be read: ")
    assert takes in message


@pytest.mark.parametrize("name", names())
def test_bytes_that_are_no_text_are_refused_by_name(name: str) -> None:
    # What the system passes outside UTF-8 comes as lone surrogates.
    with pytest.raises(SettingsError, match=f"^{name}='.*' cannot be read: "):
        from_env({name: "a\udcff"})


@given(name=st.sampled_from(names()), seen=st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
@example(name="PORT", seen="٣")
@example(name="BATCH_MAX_WAIT_MS", seen="1e999")
@example(name="CONFIDENCE_THRESHOLD", seen="-0.0")
def test_whatever_is_seen_is_either_within_bounds_or_refused_by_name(name: str, seen: str) -> None:
    refusal = None
    read = None

    try:
        read = value(name, seen)
    except SettingsError as exc:
        refusal = str(exc)

    takes = accepted(name.lower())
    assert refusal is None or refusal.startswith(f"{name}=")
    assert read is None or "over 0" not in takes or read > 0
    assert read is None or "at least 0" not in takes or read >= 0
    assert read is None or "at least 1" not in takes or read >= 1
    assert read is None or "at most" not in takes or read <= float(takes.split("at most ")[1])


@pytest.mark.parametrize("name", names())
def test_an_empty_value_counts_as_not_set(name: str) -> None:
    assert from_env({name: ""}) == from_env({name: "  "}) == Settings()


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=20)))
def test_what_is_no_setting_changes_nothing(environ: dict[str, str]) -> None:
    strangers = {name: seen for name, seen in environ.items() if name not in names()}

    assert from_env(strangers) == Settings()


def test_a_relative_model_path_starts_at_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert Settings(model_path="models/mine").model_folder == tmp_path / "models/mine"


def test_a_model_of_the_working_folder_goes_before_the_checkouts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models/quantized").mkdir(parents=True)

    assert Settings().model_folder == tmp_path / "models/quantized"


def test_without_a_model_anywhere_the_working_folder_is_where_it_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("handler.settings.CHECKOUT", tmp_path / "nowhere")

    assert Settings().model_folder == tmp_path / "models/quantized"


@pytest.mark.parametrize(
    ("seen", "tasks"),
    [
        ("", []),
        ("coding", ["coding"]),
        ("coding,open_qa", ["coding", "open_qa"]),
        (" coding , open_qa,", ["coding", "open_qa"]),
    ],
)
def test_tasks_are_read_by_comma(seen: str, tasks: list[str]) -> None:
    assert from_env({"ROUTE_FAST_TASKS": seen}).fast_tasks == tasks


@pytest.mark.parametrize(
    ("seen", "meant"),
    [
        ("LOGLEVEL", "LOG_LEVEL"),
        ("MODELPATH", "MODEL_PATH"),
        ("MODEL_PTAH", "MODEL_PATH"),
        ("BATCH_SIZE", "BATCH_MAX_SIZE"),
        ("BATCH_MAX_WAIT", "BATCH_MAX_WAIT_MS"),
        ("CACHE_L1_TTL", "CACHE_L1_TTL_SEC"),
        ("CONFIDENCE_TRESHOLD", "CONFIDENCE_THRESHOLD"),
        ("LOG_REQUEST", "LOG_REQUESTS"),
        ("LANE", "LANES"),
        ("port", "PORT"),
        ("Request_Timeout_Ms", "REQUEST_TIMEOUT_MS"),
    ],
)
def test_a_likely_misspelling_is_named_with_what_was_meant(seen: str, meant: str) -> None:
    assert misspelled({seen: "1"}) == [(seen, meant)]


@pytest.mark.parametrize("name", [name for name in names() if len(name) >= 6])
def test_a_name_without_one_of_its_letters_is_taken_for_a_misspelling(name: str) -> None:
    seen = name[:2] + name[3:]

    assert misspelled({seen: "1"}) == [(seen, name)]


def test_a_right_name_is_no_misspelling() -> None:
    assert misspelled(dict.fromkeys(names(), "1")) == []


def test_what_else_an_environment_holds_is_no_misspelling() -> None:
    usual = (
        "PATH", "HOME", "USER", "SHELL", "PWD", "OLDPWD", "LANG", "LC_ALL", "TERM", "SHLVL", "HOSTNAME", "TZ",
        "LOGNAME", "EDITOR", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV", "TOKENIZERS_PARALLELISM",
        "OMP_NUM_THREADS", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "GATEWAY_PORT", "K_SERVICE",
        "K_REVISION", "DATA_DIR", "CI", "HTTP_PROXY", "NO_PROXY", "SSL_CERT_FILE", "XDG_RUNTIME_DIR",
    )  # fmt: skip

    assert misspelled(dict.fromkeys(usual, "1")) == []


@pytest.mark.parametrize("name", names())
def test_the_help_table_gives_a_line_to_every_setting(name: str) -> None:
    lines = [line for line in table().splitlines() if line.split()[0] == name]

    assert len(lines) == 1
    assert accepted(name.lower()) in lines[0]


def test_every_setting_has_a_meaning() -> None:
    meanings = {line.split("] ", 1)[1].split(" (")[0] for line in table().splitlines()}

    assert all(meaning.strip() for meaning in meanings)


def test_the_table_in_the_docs_is_the_one_that_the_code_makes() -> None:
    script = runpy.run_path(str(ROOT / "scripts/settings_table.py"))
    page = PAGE.read_text(encoding="utf-8")

    true_table = f"<!-- settings:begin -->\n{script['table']()}\n<!-- settings:end -->"
    assert true_table in page, f"docs/settings.md is not true; rewrite it: {WRITE_THE_PAGE}"


def test_the_docs_say_how_their_table_is_written() -> None:
    assert WRITE_THE_PAGE in PAGE.read_text(encoding="utf-8")


def test_the_defaults_shown_are_read_back_as_the_defaults() -> None:
    environ = {
        field.upper(): settings.shown(default)
        for field, default in zip(Settings.__struct_fields__, Settings.__struct_defaults__, strict=True)
    }

    assert from_env(environ) == Settings()


@pytest.mark.parametrize("name", sorted(RETIRED))
def test_a_retired_setting_is_told_with_what_took_its_place(name: str) -> None:
    told = retired({name: "1", "PORT": "8080"})

    assert told == [(name, RETIRED[name])]


@pytest.mark.parametrize("name", sorted(RETIRED))
def test_a_retired_setting_is_not_called_a_misspelling(name: str) -> None:
    assert misspelled({name: "1"}) == []


def test_an_empty_retired_setting_is_none() -> None:
    assert retired({"BATCH_GATHER": ""}) == []


@pytest.mark.parametrize(
    ("asked", "names"),
    [("all", WIRES), ("none", ()), (" Route , v2 ", ("v2", "route")), ("all,route", WIRES)],
)
def test_the_wires_that_are_on_are_those_named(asked: str, names: tuple[str, ...]) -> None:
    assert Settings(wires=asked).wire_names == names


@pytest.mark.parametrize("asked", ["none,route", "rout", ","])
def test_a_wire_that_is_none_stops_the_start(asked: str) -> None:
    with pytest.raises(SettingsError, match="WIRES"):
        from_env({"WIRES": asked}).wire_names  # noqa: B018 - reading is what fails
