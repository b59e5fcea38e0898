"""The stack of compose.yaml, brought up from a copy of the checkout, and the images it needs.

A machine with a registry pulls them; one without makes stand-ins from Debian's packages.
"""

import itertools
import os
import shutil
import subprocess
import time
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from lab.drive import Driver, meanwhile, request, steady
from lab.launch import ROOT, answers

# What compose.yaml names (and the runbook's `alpine`), by the stand-in's target.
IMAGES = {
    "redis": "redis:8.0",
    "prometheus": "prom/prometheus:v2.53.3",
    "alertmanager": "prom/alertmanager:v0.28.1",
    "grafana": "grafana/grafana:11.6.0",
    "alpine": "alpine:latest",
}


def shell(command: str, cwd: Path = ROOT, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command], cwd=cwd, capture_output=True, text=True, timeout=timeout_s, check=False
    )


def must(command: str, cwd: Path = ROOT, timeout_s: float = 600) -> str:
    done = shell(command, cwd, timeout_s)
    if done.returncode:
        raise SystemExit(f"$ {command}\n{done.stdout}{done.stderr}\nexit code {done.returncode}")
    return done.stdout


def images(wanted: Collection[str] = tuple(IMAGES)) -> set[str]:
    """Have the images that compose.yaml names, or those of them that are wanted. Returns which are stand-ins."""
    made = set()
    for target, tag in ((target, IMAGES[target]) for target in wanted):
        label = shell(f"docker image inspect -f '{{{{index .Config.Labels \"stand-in\"}}}}' {tag}")
        if label.returncode and shell(f"timeout 120 docker pull -q {tag}").returncode:
            must(f"docker build -q --label stand-in=yes --target {target} -t {tag} lab/ops/stand_ins")
            made.add(target)
        elif label.stdout.strip() == "yes":
            made.add(target)
    return made


def copy(to: Path) -> Path:
    """The checkout as git has it, uncommitted changes included: its compose.yaml may be edited there."""
    for name in must("git ls-files -co --exclude-standard").splitlines():
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    (to / "monitoring/grafana/dashboards").mkdir(parents=True, exist_ok=True)
    to.chmod(0o755)
    return to


def settled(within_s: float = 25) -> bool:
    """Wait until gateway and Prometheus answer, if their containers run."""
    running = shell("docker ps --format '{{.Names}}'").stdout.split()
    probes = {
        "query-gateway": "http://localhost:8080/health/ready",
        "query-gateway-prometheus": "http://localhost:9090/-/ready",
    }
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if all(answers(url) for name, url in probes.items() if name in running):
            return True
        time.sleep(0.1)
    return False


PER_S = 20.0
# Of several tasks, so that dashboards have something to show; the number makes a query new.
QUERIES = (
    "Write a poem about the number {}",
    "Summarize in one sentence: ferry {} was late because of fog, and nobody on board minded.",
    "Extract every date from this note: we met on 3 May and again on 9 June, at table {}.",
    "Is this review positive or negative? Soup number {} was cold and the waiter colder.",
    "According to the text, who opened the gate? Text: Mara opened gate {} before the guards woke.",
    "Write a Python function that adds {} to every element of a list",
    "A train leaves at noon and covers {} miles an hour. When has it gone 300 miles? Show your reasoning.",
    "Give me {} ideas for a birthday party on a small boat",
)


def queries() -> Iterator[bytes]:
    """Repeated, new and a few mistaken ones."""
    for count in itertools.count(1):
        # Every other one is asked again and again.
        kind = count // 2 % len(QUERIES)
        text = QUERIES[kind].format(count if count % 2 else kind)
        yield request(text) if count % 40 else request(text).replace(b'"text"', b'"txet"')


def traffic(port: int) -> AbstractContextManager[Driver]:
    """Queries at a small rate for as long as the block lasts, whatever becomes of them."""
    return meanwhile(Driver(port), lambda driver: driver.open(queries(), steady(PER_S)))


def environment() -> dict[str, str]:
    return {**os.environ, "TERM": os.environ.get("TERM") or "xterm", "COLUMNS": "200"}
