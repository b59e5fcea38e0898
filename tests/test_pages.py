"""The pages, rules and dashboards agree with each other and with the gateway's metrics."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from handler.errors import ERRORS
from handler.settings import names
from lab.docs import reference
from lab.launch import ROOT
from lab.ops import runbook
from lab.ops.commands import REFERENCE

# Prometheus puts before it what its external label says.
RUNBOOK = "{{ $externalLabels.runbooks }}docs/runbook.md#"
RULES = ROOT / "monitoring/prometheus/rules"
PAGE = (ROOT / "docs/runbook.md").read_text()
BOARDS = sorted((ROOT / "monitoring/grafana/dashboards").glob("*.json"))
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "integrations/README.md"]
HEADINGS = re.findall(r"^#+ (.*)$", PAGE, re.M)
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((RULES / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]

# What fires always says no value, and has no case that stays quiet.
ALWAYS = {"Watchdog"}


def anchors(text: str) -> list[str]:
    return [
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", text, re.M)
    ]


def test_the_table_of_commands_and_the_runbook_have_the_same_commands() -> None:
    assert runbook.complete() == []


def test_the_runbook_says_why_it_departs_from_the_order() -> None:
    section = PAGE.split("## Where this page departs from the order")[1].split("\n## ")[0]

    assert {
        reference.why for reference in REFERENCE if reference.why and reference.why not in section
    } == set()


def test_the_runbook_counts_the_orders_commands_right() -> None:
    kept = [reference for reference in REFERENCE if reference.shows is None]

    assert f"has {len(REFERENCE)} commands; {len(kept)} stand here word for word" in PAGE


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_says_what_to_do(alert: dict[str, Any]) -> None:
    told = alert["annotations"]

    assert alert["labels"]["severity"] in ("critical", "warning") or alert["alert"] in ALWAYS
    assert told["summary"]
    assert told["runbook_url"] == RUNBOOK + alert["alert"].lower()
    assert HEADINGS.count(alert["alert"]) == 1
    assert "$" in told["description"] or alert["alert"] in ALWAYS


def test_every_alert_is_in_the_monitoring_guide() -> None:
    guide = (ROOT / "docs/monitoring.md").read_text()

    missing = [a["alert"] for a in ALERTS if a["alert"] not in guide and "Burn" not in a["alert"]]

    assert missing == []


def test_every_error_type_has_one_heading() -> None:
    for error in ERRORS:
        assert HEADINGS.count(error.error_type) == 1, error.error_type


def test_every_code_stands_in_the_table_of_error_types() -> None:
    rows = [line.split("|")[1:] for line in PAGE.splitlines() if re.match(r"\| \d{3}\b", line)]
    told = {
        (int(code), status.strip(), error_type)
        for codes, status, types, *_ in rows
        for code in re.findall(r"\d{3}", codes)
        for error_type in re.findall(r"\[(\w+)\]", types)
    }

    missing = [e for e in ERRORS if (e.code, e.status, e.error_type) not in told]

    assert missing == []


def test_every_alert_has_a_case_that_fires_and_one_that_stays_quiet() -> None:
    cases = yaml.safe_load((ROOT / "monitoring/prometheus/tests/alerts.yml").read_text())["tests"]
    fires: set[str] = set()
    quiet: set[str] = set()

    for case in cases:
        last = case["alert_rule_test"][-1]
        (fires if last["exp_alerts"] else quiet).add(last["alertname"])

    every = {alert["alert"] for alert in ALERTS}
    assert (fires, quiet) == (every, every - ALWAYS)


@pytest.mark.parametrize("name", sorted(str(page.relative_to(ROOT)) for page in PAGES))
def test_every_link_leads_somewhere(name: str) -> None:
    page = ROOT / name

    for target in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file.read_text()), target


@pytest.mark.parametrize("board", BOARDS)
def test_no_panel_reaches_past_the_edge_of_its_dashboard(board: Path) -> None:
    panels = json.loads(board.read_text())["panels"]

    assert [p["title"] for p in panels if p["gridPos"]["x"] + p["gridPos"]["w"] > 24] == []


def test_live_tasks_are_drawn_against_those_of_the_training() -> None:
    panels = json.loads((ROOT / "monitoring/grafana/dashboards/model.json").read_text())["panels"]

    asked = {
        panel["title"]: " ".join(target["expr"] for target in panel["targets"])
        for panel in panels
        if any("query_gateway_training_share" in target["expr"] for target in panel.get("targets", []))
    }

    assert len(asked) == 3
    assert all("query_gateway_classifications_total" in queries for queries in asked.values())


def test_every_metric_that_rules_and_dashboards_ask_for_is_declared() -> None:
    texts = [path.read_text() for path in RULES.glob("*.yml")]
    texts += [
        target["expr"]
        for path in BOARDS
        for panel in json.loads(path.read_text())["panels"]
        for target in panel.get("targets", [])
    ]
    asked = set(re.findall(r"(?<![:\w])query_gateway_(\w+)", " ".join(texts)))

    assert asked - declared() == set()


def declared() -> set[str]:
    """The names of all series of ours, without the prefix."""
    return {
        sample.name.removeprefix("query_gateway_")
        for family in reference.families()
        for sample in family.samples
    }


def test_every_setting_that_compose_sets_is_one() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())

    set_there = [line.partition("=")[0] for line in compose["services"]["gateway"]["environment"]]

    assert [name for name in set_there if name not in names()] == []


def test_compose_uses_the_names_that_the_runbook_types() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    containers = {service: made["container_name"] for service, made in compose["services"].items()}

    assert containers["gateway"] == "query-gateway"
    assert all(containers[s] == f"query-gateway-{s}" for s in ("redis", "prometheus", "grafana"))
    assert compose["networks"]["monitoring"]["name"] == "monitoring"
    assert compose["volumes"]["prometheus-data"]["name"] == "prometheus-data"


def test_every_edit_that_the_runbook_tells_of_can_be_made_in_compose(tmp_path: Path) -> None:
    for block in runbook.blocks(PAGE):
        for _, comments in runbook.commands(block):
            shutil.copy(ROOT / "compose.yaml", tmp_path)

            changed = runbook.edit(tmp_path, comments)

            made = (tmp_path / "compose.yaml").read_text()
            gateway = yaml.safe_load(made)["services"]["gateway"]
            memory = changed.pop("memory", None)
            assert {f"{name}={value}" for name, value in changed.items()} <= set(gateway["environment"])
            assert memory is None or gateway["deploy"]["resources"]["limits"]["memory"] == f"{memory}G"
