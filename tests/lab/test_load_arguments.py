"""What `just load` is told, and what it makes of it."""

import ast
from pathlib import Path

import pytest

from lab.launch import ROOT, Cpus
from lab.load.__main__ import arguments, where
from lab.load.run import LOCUST, Asked, Outcome, class_name
from lab.load.shapes import SHAPES, TOUR
from lab.load.slo import Sample, Samples, judge
from lab.load.tables import compared, figures, over_time, verdict
from lab.metrics import Metrics


def refused(*given: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        arguments(given)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_without_a_shape_it_tours_all_but_the_soak() -> None:
    assert arguments([]).shapes == list(TOUR)


def test_shapes_run_in_the_order_in_which_they_are_named() -> None:
    assert arguments(["zipf", "soak", "steady"]).shapes == ["zipf", "soak", "steady"]


def test_an_unknown_shape_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    told = refused("stedy", capsys=capsys)

    assert "no such shape: stedy" in told
    assert ", ".join(SHAPES) in told


def test_somebody_elses_gateway_is_not_probed_for_its_capacity(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--host needs --rate" in refused("--host", "http://127.0.0.1:8080", capsys=capsys)


@pytest.mark.parametrize("option", [["--set", "LANES=1"], ["--against", "LANES=1"], ["--instances", "2"]])
def test_settings_are_not_for_somebody_elses_gateway(
    option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "not for --host" in refused(
        "zipf", "--host", "http://127.0.0.1:8080", "--rate", "9", *option, capsys=capsys
    )


def test_a_comparison_is_of_one_shape(capsys: pytest.CaptureFixture[str]) -> None:
    assert "name it" in refused("--against", "CACHE_L1_SIZE=9", capsys=capsys)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--rate", "0"),
        ("--rate", "many"),
        ("--seconds", "-1"),
        ("--seconds", "nan"),
        ("--seconds", "inf"),
        ("--tolerance", "0"),
        ("--rounds", "0"),
        ("--instances", "0"),
        ("--set", "CACHE_L1_SIZE"),
        ("--set", "=5"),
        ("--host", "127.0.0.1:8080"),
        ("--host", "ftp://127.0.0.1"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_its_options_name(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"argument {option}" in refused(option, value, capsys=capsys)


def test_a_setting_may_hold_an_equals_sign() -> None:
    assert arguments(["--set", "REDIS_URL=unix:///r?db=1"]).set == [("REDIS_URL", "unix:///r?db=1")]


def test_two_runs_ask_different_texts_unless_told_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([1000.0, 2000.0])
    monkeypatch.setattr("lab.load.__main__.time.time", lambda: next(clock))

    assert arguments([]).seed != arguments([]).seed
    assert arguments(["--seed", "0"]).seed == 0


def test_the_key_comes_from_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOAD_KEY", "secret")

    assert arguments([]).key == "secret"
    assert "secret" not in where(arguments(["--rate", "5"]), Cpus([0], [1]), "steady")


def test_it_is_said_when_gateway_and_driver_share_a_cpu() -> None:
    told = where(arguments(["--rate", "5"]), Cpus([0], [0]), "steady")

    assert "share CPU 0" in told


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_has_a_class_of_users(shape: str) -> None:
    classes = {
        node.name: ast.literal_eval(kept.value)
        for node in ast.parse((LOCUST / "locustfile.py").read_text()).body
        if isinstance(node, ast.ClassDef)
        for kept in node.body
        if isinstance(kept, ast.Assign) and ast.unparse(kept.targets[0]) == "shape"
    }

    assert classes[class_name(shape)] == shape


def test_locust_is_known_to_its_two_files_alone() -> None:
    lab = [*(ROOT / "lab").rglob("*.py"), *LOCUST.glob("*.py")]

    knowing = {path.name for path in lab if _imports(path, "locust")}

    assert knowing == {"locustfile.py", "spike.py"}


@pytest.mark.parametrize(
    "path",
    [*(ROOT / "lab/load").glob("*.py"), *LOCUST.glob("*.py")],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_what_drives_the_load_needs_no_package_of_the_gateways(path: Path) -> None:
    assert not _imports(path, "handler", "httpx", "msgspec", "numpy", "psutil")


def _imports(path: Path, *packages: str) -> bool:
    names = [
        name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
    ]
    return any(name.split(".")[0] in packages for name in names)


# What is printed


def outcome(*, hit_ms: float = 1.0, hits: int = 50, late_ms: float = 0.1, shape: str = "steady") -> Outcome:
    samples = Samples(
        Sample(n / 10, late_ms, hit_ms if n < hits else 5.0, 200, "l1" if n < hits else "miss")
        for n in range(100)
    )
    asked = Asked(shape, rate=10, seconds=10, seed=1, urls=["http://127.0.0.1:1"])
    metrics = Metrics.read(['query_gateway_requests_total{code="200"} 100', "process_cpu_seconds_total 0.2"])
    return Outcome(asked, samples, metrics, [140.0])


def test_the_verdict_names_what_was_missed() -> None:
    seen = outcome(hit_ms=30)

    text = verdict(seen, judge(seen.samples, seen.server))

    (missed,) = (line for line in text.splitlines() if "missed" in line)
    assert "cache hits, P99" in missed
    assert "30.0 ms" in missed
    assert "2.00 ms of CPU per query" in text


def test_a_late_driver_is_told_of() -> None:
    on_time, late = outcome(), outcome(late_ms=20)

    assert "short of processor" not in verdict(on_time, judge(on_time.samples))
    assert "short of processor" in verdict(late, judge(late.samples))


def test_queries_that_were_due_and_never_asked_are_told_of() -> None:
    seen = outcome()
    del seen.samples[90:]

    assert "90 asked, 100 due" in verdict(seen, judge(seen.samples))


def test_the_curve_has_ten_slices() -> None:
    lines = over_time(outcome(shape="spike")).splitlines()

    assert len(lines) == 11
    assert "100%" in lines[1]
    assert " 0% " in lines[10]


def test_two_settings_are_compared_by_the_ratios_within_each_round() -> None:
    pairs = [(outcome(hits=20), outcome(hits=40)), (outcome(hits=10), outcome(hits=50))]

    hit_rate = next(figure for figure in figures(pairs) if figure.what == "cache hit rate")

    assert hit_rate.before == [20.0, 10.0]
    assert hit_rate.after == [40.0, 50.0]
    assert "3.50" in compared("a", "b", [hit_rate])  # the median of 2 and 5
    assert "2.00 to 5.00" in compared("a", "b", [hit_rate])


def test_no_ratio_is_told_where_a_round_began_with_nothing() -> None:
    pairs = [(outcome(hits=0), outcome(hits=40)), (outcome(hits=10), outcome(hits=50))]

    hit_rate = next(figure for figure in figures(pairs) if figure.what == "cache hit rate")

    assert "to" not in compared("a", "b", [hit_rate]).splitlines()[1]


def test_a_figure_that_a_run_lacks_is_not_compared() -> None:
    without_hits = outcome(hits=0)

    found = [figure.what for figure in figures([(without_hits, outcome())])]

    assert "cache hits, P99" not in found
    assert "all answers, P99" in found
