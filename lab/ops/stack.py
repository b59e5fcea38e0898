"""The stack of compose.yaml, brought up from a copy of the checkout, and the images it needs.

A machine with a registry pulls them; one without makes stand-ins from Debian's packages.
"""

import contextlib
import os
import shutil
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

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


def images() -> set[str]:
    """Have every image that compose.yaml names. Returns those that are stand-ins."""
    made = set()
    for target, tag in IMAGES.items():
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


class Traffic:
    """Queries at a steady, small rate: repeated, new and a few mistaken ones."""

    def __init__(self, url: str, per_s: float = 20) -> None:
        self._url, self._pause_s = f"{url}/v1/query-classify", 1 / per_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Traffic":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        count = 0
        while not self._over.wait(self._pause_s):
            count += 1
            # Every other one is asked again and again.
            kind = count // 2 % len(QUERIES)
            text = QUERIES[kind].format(count if count % 2 else kind)
            body = b"{}" if count % 40 == 0 else f'{{"text": "{text}"}}'.encode()
            request = urllib.request.Request(self._url, body, {"content-type": "application/json"})
            with contextlib.suppress(OSError):  # the stack is being restarted under it
                urllib.request.urlopen(request, timeout=2).close()


def environment() -> dict[str, str]:
    return {**os.environ, "TERM": os.environ.get("TERM") or "xterm", "COLUMNS": "200"}
