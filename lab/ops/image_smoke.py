"""Prove the image as a platform would meet it: `just image-smoke`.

Runs it read-only, without capabilities, with 512 MiB and one CPU, and asks it real
queries. Needs a container engine and the image; only the standard library here.
"""

import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

IMAGE = "query-gateway:latest"
UNPACKED_MB, COMPRESSED_MB = 420, 160
CONFINED = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--memory=512m", "--cpus=1"]
QUERIES = {
    "Summarize the following article in two sentences: The lighthouse was built in 1857 by two brothers.": "0",
    "Write a poem about the sea in the style of a sailor who has never seen it.": "1",
}
# What the runbook types inside the container, and what a serving image must not carry.
INSIDE = """
import shutil, sys, importlib.util as find, handler.server, handler.app, handler.model, granian, psutil
for tool in ("ping", "ls", "env", "python3"):
    assert shutil.which(tool), f"{tool} is missing"
for tool in ("gcc", "cc", "pip", "pip3", "uv"):
    assert not shutil.which(tool), f"{tool} is in the image"
for module in ("torch", "transformers", "optimum", "pip", "flit_core"):
    assert find.find_spec(module) is None, f"{module} is in the image"
import os
loaded = [m.__spec__ for m in list(sys.modules.values()) if getattr(m, "__spec__", None)]
bare = [s.name for s in loaded if str(s.origin).endswith(".py") and not (s.cached and os.path.exists(s.cached))]
assert not bare, f"not compiled: {bare}"
print(len(loaded), "modules are loaded, and all are compiled")
"""


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"docker {' '.join(arguments[:3])}: {done.stderr}"
    return done.stdout.strip()


def ask(url: str, text: str | None = None) -> tuple[int, Any]:
    body = None if text is None else json.dumps({"text": text}).encode()
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as refused:
        return refused.code, json.loads(refused.read())


def until(true: Callable[[], bool], within_s: float, what: str) -> float:
    """Seconds until `true`, polled."""
    started = time.monotonic()
    while time.monotonic() - started < within_s:
        try:
            if true():
                return time.monotonic() - started
        except OSError:
            pass
        time.sleep(0.02)
    raise AssertionError(f"{what}: not within {within_s} s")


@contextmanager
def container(*options: str, port: int = 8000, confined: bool = True) -> Iterator[tuple[str, str]]:
    """A running gateway: its container's name and its base URL."""
    name = docker("run", "-d", "-p", f"127.0.0.1::{port}", *(CONFINED if confined else []), *options, IMAGE)
    try:
        at = docker("port", name, f"{port}/tcp").splitlines()[0]
        yield name, f"http://{at}"
    finally:
        docker("rm", "-f", "-v", name)


def size() -> None:
    unpacked = int(docker("image", "inspect", "-f", "{{.Size}}", IMAGE)) / 1e6
    piped = subprocess.run(
        f"docker save {IMAGE} | gzip -6 | wc -c", shell=True, capture_output=True, check=True
    )
    packed = int(piped.stdout) / 1e6
    print(f"size: {unpacked:.0f} MB (of {UNPACKED_MB}), {packed:.0f} MB compressed (of {COMPRESSED_MB})")
    assert unpacked <= UNPACKED_MB
    assert packed <= COMPRESSED_MB


def serves() -> None:
    with container() as (name, url):
        ready_s = until(lambda: ask(f"{url}/health/ready")[0] == 200, 20, "ready")
        for text, label in QUERIES.items():
            code, answer = ask(f"{url}/v1/query-classify", text)
            assert code == 200, answer
            assert answer["label"] == label, answer
            print("answer:", json.dumps(answer))
        print(f"ready {ready_s:.2f} s after its start with one CPU, read-only, 512 MiB")
        until(lambda: docker("inspect", "-f", "{{.State.Health.Status}}", name) == "healthy", 15, "healthy")
        print("inside:", docker("exec", name, "python3", "-c", INSIDE))
        ping = docker("exec", name, "ping", "-c1", "localhost")
        assert "1 received" in ping, ping
        user = docker("exec", name, "id", "-u")
        assert user != "0", "runs as root"
        memory = docker("stats", "--no-stream", "--format", "{{.MemUsage}}", name)
        lines = docker("logs", name).splitlines()
        for line in lines:
            json.loads(line)
        assert not subprocess.run(["docker", "logs", name], capture_output=True, check=True).stderr
        started = time.monotonic()
        docker("stop", "--time", "10", name)
        took_s = time.monotonic() - started
        exit_code = docker("inspect", "-f", "{{.State.ExitCode}}", name)
        assert exit_code == "0", exit_code
        assert took_s < 9, took_s
        print(f"user {user}, memory {memory}, {len(lines)} log lines, SIGTERM to exit 0 in {took_s:.1f} s")


def honours_port() -> None:
    with container("-e", "PORT=9999", port=9999) as (_, url):
        until(lambda: ask(f"{url}/health/ready")[0] == 200, 20, "ready on PORT")
    print("PORT is honoured")


def without_a_model() -> None:
    """An empty folder mounted over the model: up, alive, not ready, and says why."""
    with container("--tmpfs", "/app/models") as (name, url):
        until(lambda: ask(f"{url}/health/live")[0] == 200, 20, "alive")
        code, report = ask(f"{url}/health/ready")
        assert code == 503, report
        assert "Model file not found" in report["reason"], report
        code, answer = ask(f"{url}/v1/query-classify", "x")
        assert (code, answer["error"]["status"]) == (503, "UNAVAILABLE"), answer
        print("without a model:", report["reason"], f"({name[:6]})")


if __name__ == "__main__":
    for proof in (serves, honours_port, without_a_model, size):
        proof()
    print("image-smoke: passed")
