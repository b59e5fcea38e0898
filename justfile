# Tasks of the Intelligence Query Gateway. `just` lists them.

set positional-arguments

python := ".venv-dev/bin/python"

[private]
default:
    @{{ just_executable() }} --list --unsorted

# Install what serving needs (once) and serve on http://localhost:8080
serve *arguments: (_install "serve")
    @exec .venv/bin/query-gateway serve "$@"

# Install what the tests need (once) and run them: `just test tests/test_batching_plan.py -x`
test *arguments: (_install "dev")
    {{ python }} -m pytest "$@"

# Print which lines of handler/ the tests do not run (in their own process: what they start is not counted)
coverage *arguments: (_install "dev")
    @mkdir -p reports
    {{ python }} -m coverage run --data-file=reports/coverage --source=handler -m pytest "$@"
    {{ python }} -m coverage report --data-file=reports/coverage --show-missing --skip-covered

# Lint, types and format, as CI does
check: (_install "dev")
    {{ python }} -m ruff check .
    {{ python }} -m ruff format --check .
    {{ python }} -m mypy
    {{ python }} -m vulture
    scripts/lint_operations.sh

# Mend what can be mended: format, lint, and what is written from code (settings' table, dashboards, manifests)
fix: (_install "dev")
    {{ python }} -m ruff check --fix .
    {{ python }} -m ruff format .
    {{ python }} scripts/settings_table.py
    {{ python }} monitoring/grafana/generate.py --write
    {{ python }} -m lab.ops.manifests --write

# Train the router: DATA_DIR=… just train, or just train --data mine.jsonl
train *arguments: (_install "dev")
    {{ python }} build/{{ if arguments =~ "(^| )--outcomes" { "outcomes.py train" } else { "train.py" } }} "$@"

# Let larger teachers judge the prompts that `just train` learns from (once; docs/training.md)
judge *arguments: (_install "dev")
    {{ python }} build/judge.py "$@"

# Use the page, and replay's, in a real browser and hold them against the API and the terminal (Chromium: `just page --install`; `--pictures`)
page *arguments: (_install "dev")
    @exec tests/browser/run.sh "$@"

# Turn the checkpoint in models/router into the INT8 model in models/quantized
build-model *arguments: (_install "dev")
    {{ python }} build/build_model.py "$@"

# Score the shipped model as it is served (needs DATA_DIR; `--write`: into its manifest, docs/ and pictures)
evaluate *arguments: (_install "dev")
    {{ python }} build/{{ if arguments =~ "(^| )--outcomes" { "outcomes.py evaluate" } else { "evaluate.py" } }} "$@"

# Measure how many unique queries a second this machine answers
capacity *arguments: (_install "serve") (_install "dev")
    {{ python }} -m lab.capacity "$@"

# Measure what an instance of one vCPU answers, and what follows (30 s; `--write`: into docs/deployment.md, infra/)
sizing *arguments: (_install "dev")
    {{ python }} -m lab.sizing "$@"

# Measure a replay's memory and time, and what a learnt need costs (`just need replay`, `just need cpu --learnt DIR`, `just need share FILE`)
need *arguments: (_install "dev")
    {{ python }} -m lab.need "$@"

# Measure it against its limits (14 minutes; `just bench --short`: two; `--write`: into docs/performance.md)
bench *arguments: (_install "serve") (_install "dev")
    {{ python }} -m lab.bench "$@"

# Load it as its users would, and say which promises it kept (2.5 minutes; `just load --help`)
load *arguments: (_install "serve") (_install "load")
    @exec .venv-load/bin/python -m lab.load "$@"

# Break it on purpose (10 minutes; `just chaos soak ndjson`: 15 more; `--write`: into docs/reliability.md)
chaos *arguments: (_install "dev")
    {{ python }} -m lab.chaos "$@"

# Three gateways behind HAProxy, killed, frozen, flooded, replaced under load (needs Debian's haproxy; `just fleet simulate`: the sums past it)
fleet *arguments: (_install "dev")
    {{ python }} -m lab.fleet "$@"

# Run every recipe of integrations/ against its real program, and print the table (`just integrations --list`)
integrations *arguments: (_install "dev") (_install if arguments == "ray" { "ray" } else { "integrations" })
    {{ python }} -m lab.integrations "$@"

# Build the wheel, with the model inside it, into dist/
wheel: (_install "serve")
    .venv/bin/python -m pip --disable-pip-version-check wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
    @ls -l dist

# Install the built wheel on every Python from 3.11 to 3.14 that is here, in an empty folder, and use it
wheel-check *arguments: wheel
    .venv/bin/python -m lab.ops.wheels dist/query_gateway-*.whl "$@"

# Build the serving image
image *arguments:
    docker build --build-arg REVISION="$(git rev-parse HEAD 2>/dev/null || echo unknown)" -t query-gateway:latest "$@" .

# Prove the image: read-only, 512 MiB, one CPU, real queries (needs a container engine)
image-smoke *arguments:
    python3 -m lab.ops.image_smoke "$@"

# What a serverless platform asks of the image, and what a query costs (needs a container engine)
cloud-run:
    python3 -m lab.ops.cloud_run

# The lock and the model for arm64 under emulation (minutes; needs a container engine; `--image`: the image, too)
arm64 *arguments: (_install "serve")
    python3 -m lab.ops.arm64 "$@"

# Two gateways behind one name, and one of them stopped under load (needs a container engine and the image)
two:
    python3 -m lab.ops.two

# Type every command of docs/runbook.md at a live stack (needs a container engine)
runbook *arguments:
    python3 -m lab.ops.runbook "$@"

# Fire the alerts for real on loopback, and see them end (needs Debian's prometheus, prometheus-alertmanager)
drill *arguments: (_install "dev")
    {{ python }} -m lab.ops.drill "$@"

# Prove that instances which live 15 s leave their metrics whole at an OpenTelemetry collector
short-lived *arguments: (_install "dev") (_install "integrations")
    {{ python }} -m lab.short_lived "$@"

# Say which of Grafana's dashboards are not what monitoring/grafana/generate.py says (`--write`: write them)
dashboards *arguments: (_install "dev")
    {{ python }} monitoring/grafana/generate.py "$@"

# Build the documentation as a site into reports/site, every link and anchor checked
docs: (_install "dev")
    {{ python }} -m lab.docs

# Make the lock files anew, from requirements/*.in and pyproject.toml (needs uv; `--upgrade`: newer versions of all)
lock *arguments:
    requirements/lock.sh "$@"

_install kind:
    @scripts/install.sh {{ kind }}
