"""What an instance is given follows from one measurement: the page and the manifests say the same."""

import re
from pathlib import Path

import pytest

from lab import sizing
from lab.launch import ROOT

PAGE = sizing.PAGE.read_text(encoding="utf-8")


def block(name: str) -> str:
    return PAGE.partition(f"<!-- {name}:begin -->\n")[2].partition(f"<!-- {name}:end -->")[0]


def told(what: str) -> float:
    """A figure of the table of an instance."""
    found = re.search(rf"^\| {what}[^|]*\| ([\d.]+)", block("instance"), re.MULTILINE)
    assert found, what
    return float(found[1])


def test_the_concurrency_follows_from_what_a_query_costs() -> None:
    new_ms = told("CPU of a new query")

    assert told("new queries a second of a vCPU") == round(1000 / new_ms)
    assert told("its concurrency") == sizing.concurrency(1000 / new_ms)


@pytest.mark.parametrize("path", sizing.manifests(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_manifest_lets_as_many_through_as_the_page_says(path: Path) -> None:
    text = path.read_text(encoding="utf-8")

    assert sizing.bounds(text) == [told("its concurrency")]


def test_cloud_run_and_knative_are_among_the_manifests() -> None:
    assert {path.parent.name for path in sizing.manifests()} == {"cloud-run", "knative"}


def test_the_instances_of_a_load_follow_from_the_measured_costs() -> None:
    lines = sizing.load_table(told("CPU of a new query"), told("CPU of a cache hit"))

    assert block("load").rstrip("\n").split("\n") == lines


@pytest.mark.parametrize(("per_s", "wanted"), [(373, 35), (424, 40), (610, 60), (5000, 60), (10, 5)])
def test_no_concurrency_passes_what_may_always_wait(per_s: float, wanted: int) -> None:
    assert sizing.concurrency(per_s) == wanted <= sizing.QUEUE_MIN


def test_a_new_concurrency_is_set_and_nothing_else() -> None:
    text = (ROOT / "infra/knative/service.yaml").read_text(encoding="utf-8")

    changed = sizing.bounded(text, 20)

    assert sizing.bounds(changed) == [20]
    assert sizing.bounded(changed, sizing.bounds(text)[0]) == text
