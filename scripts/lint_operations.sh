#!/usr/bin/env bash
# Lint what is not Python: shell, Dockerfiles, YAML, spelling, alert rules, dashboards, manifests.
# Part of `just check`. promtool and amtool are Debian's (prometheus, prometheus-alertmanager);
# where they or a container engine are missing, it says so and checks the rest.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$PWD/.venv-dev/bin
run() { echo "+ $*" >&2 && "$@"; }
# Where CI wants to know (NOT_PROVEN), what is missing is one of its last lines.
missing() { echo "- $1" >&2 && echo "$1" >>"${NOT_PROVEN:-/dev/null}"; }
has() { command -v "$1" >/dev/null || { missing "$2: $1 is not here" && return 1; }; }

run "$bin/shellcheck" .ci/run scripts/*.sh requirements/*.sh
run "$bin/hadolint" Dockerfile infra/lambda/Dockerfile lab/ops/stand_ins/Dockerfile
run "$bin/yamllint" --strict compose.yaml monitoring infra
run "$bin/typos" README.md docs scripts monitoring infra handler compose.yaml Dockerfile justfile
run "$bin/python" monitoring/grafana/generate.py
run "$bin/python" -m lab.ops.dashboards
run "$bin/python" -m lab.ops.manifests
if has promtool "the alert rules"; then
    run promtool check config monitoring/prometheus/prometheus.yml
    run promtool test rules monitoring/prometheus/tests/alerts.yml
fi
if has amtool "the routing of alerts"; then
    run amtool check-config monitoring/alertmanager/alertmanager.yml
fi
if docker compose version >/dev/null 2>&1; then
    run docker compose config --quiet
else
    missing "compose.yaml against its schema: docker compose is not here"
fi
