"""Validate infra/ without a cluster, and keep the operator's rules equal to Prometheus's.

    python tests/ops/manifests.py           validate
    python tests/ops/manifests.py --write   make prometheusrule.yaml anew from monitoring/prometheus/rules

Kubernetes kinds are held to the published schemas, strictly. Knative's (and Cloud
Run's, which is the same kind) are held to the validators that the npm package
@kubernetes-models/knative makes of its CRDs, where there is npm.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
RULE = INFRA / "kubernetes/overlays/prometheus-operator/prometheusrule.yaml"
KUBERNETES = "1.31"
KNATIVE = "@kubernetes-models/knative@2.4.4"
KNATIVE_FOLDER = ROOT / ".state/knative"
KNATIVE_CHECK = """
const {validate} = require('./node_modules/@kubernetes-models/knative/_schemas/ServingKnativeDevV1Service');
const manifest = JSON.parse(require('fs').readFileSync(0));
if (!validate(manifest)) { console.log(JSON.stringify(validate.errors)); process.exit(1); }
"""


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
    told = "# Made by tests/ops/manifests.py --write from monitoring/prometheus/rules.\n"
    return told + str(yaml.safe_dump(made, sort_keys=False, width=110, indent=2))


def refused(manifest: dict[str, Any]) -> str | None:
    """Why a manifest is not valid; None when it is, or when nothing here knows its kind."""
    group = manifest["apiVersion"].partition("/")[0]
    try:
        if group == "serving.knative.dev":
            return knative(manifest)
        if group not in ("kustomize.config.k8s.io", "monitoring.coreos.com"):
            kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as wrong:
        return str(getattr(wrong, "message", wrong))
    return None


def knative(manifest: dict[str, Any]) -> str | None:
    if not (shutil.which("npm") and shutil.which("node")):
        print("- npm is not here: a Knative service was not validated")
        return None
    if not (KNATIVE_FOLDER / "node_modules/@kubernetes-models/knative").exists():
        KNATIVE_FOLDER.mkdir(parents=True, exist_ok=True)
        install = [
            "npm",
            "install",
            "--silent",
            "--no-audit",
            "--no-fund",
            "--ignore-scripts",
            "--prefix",
            str(KNATIVE_FOLDER),
        ]
        if subprocess.run([*install, KNATIVE], capture_output=True, check=False).returncode:
            print(f"- {KNATIVE} could not be installed: a Knative service was not validated")
            return None
    done = subprocess.run(
        ["node", "-e", KNATIVE_CHECK], input=json.dumps(manifest), cwd=KNATIVE_FOLDER, capture_output=True, text=True, check=False
    )  # fmt: skip
    return (done.stdout or done.stderr) if done.returncode else None


def main() -> int:
    if "--write" in sys.argv:
        RULE.write_text(rule())
    failures = []
    count = 0
    for file in sorted(INFRA.rglob("*.yaml")):
        for manifest in yaml.safe_load_all(file.read_text()):
            count += 1
            if why := refused(manifest):
                failures.append(f"{file.relative_to(ROOT)}: {why}")
            named = [
                *manifest.get("resources", []),
                *(patch["path"] for patch in manifest.get("patches", [])),
            ]
            missing = [name for name in named if not (file.parent / name).exists()]
            failures += [f"{file.relative_to(ROOT)}: {name} is not there" for name in missing]
    if RULE.read_text() != rule():
        failures.append(f"{RULE.relative_to(ROOT)} is not what the rules say: tests/ops/manifests.py --write")
    print(f"{count} manifests, {len(failures)} refused")
    print("\n".join(failures))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
