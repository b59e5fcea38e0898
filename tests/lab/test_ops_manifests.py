"""What no schema sees of the manifests is seen by `manifests.disagreements`."""

import copy
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab.ops import manifests
from lab.ops.manifests import INFRA, disagreements, kubectl, rendered

Manifests = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def sound() -> Manifests:
    """The overlay with the most kinds, as a cluster would be sent it, by kind."""
    # Where there is none, one comes from an npm package: on CI alone, nobody else is made to load it.
    if not (kubectl() if os.environ.get("CI") == "true" else shutil.which("kubectl")):
        pytest.skip("there is no kubectl to render with")
    return {one["kind"]: one for one in rendered(INFRA / "kubernetes/overlays/prometheus-operator")}


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
