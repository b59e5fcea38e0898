"""A real gateway process for tests: started, asked, watched and always ended."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "models" / "quantized"
CLASSIFY = "/v1/query-classify"
# However slow the machine of a test is, only a test that is about shedding may shed.
UNHURRIED = {"QUEUE_MAX_WAIT_MS": "0"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def eventually(holds: Callable[[], Any], what: str, *, within_s: float = 20.0) -> Any:
    """Poll until `holds` is true; fail with `what` when it never is."""
    end = time.monotonic() + within_s
    while True:
        if result := holds():
            return result
        if time.monotonic() > end:
            raise AssertionError(f"not within {within_s} s: {what}")
        time.sleep(0.02)


class Served:
    """One gateway process on loopback. Use as a context manager."""

    def __init__(
        self,
        settings: Mapping[str, str] | None = None,
        *,
        wait_for: str = "/health/ready",
        fault: str = "",
        wrapped_in: Sequence[str] = (),
        cpus: Collection[int] = (),
    ) -> None:
        """
        fault       what `lab.faulty` shall break
        wrapped_in  a command to start the gateway with, such as `setpriv …`
        cpus        the CPUs that it may use; none: all
        """
        self.port = int((settings or {}).get("PORT") or free_port())
        self.url = f"http://127.0.0.1:{self.port}"
        # Nothing of the tester's own environment may turn a knob.
        kept = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH")}
        self._environ = {
            **kept,
            "MODEL_PATH": str(MODEL),
            "PORT": str(self.port),
            **UNHURRIED,
            **(settings or {}),
        }
        self._wait_for = wait_for
        start = [sys.executable, "-m", "lab.faulty"] if fault else [sys.executable, "-m", "handler", "serve"]
        if fault:
            self._environ["FAULT"] = fault
        self._command = [*wrapped_in, *start]
        self._cpus = cpus
        self._own = threading.local()
        self._clients: list[httpx.Client] = []
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 -- closed in __exit__

    def __enter__(self) -> "Served":
        self.process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            env=self._environ,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        if self._cpus:
            os.sched_setaffinity(self.process.pid, self._cpus)
        try:
            eventually(self._answers, f"{self._wait_for} answers 200; log:\n{self.text()}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.close()
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._log.close()

    @property
    def client(self) -> httpx.Client:
        """A client of the calling thread's own: httpx's pool is not safe to share between threads."""
        if not hasattr(self._own, "client"):
            self._own.client = httpx.Client(base_url=self.url, timeout=20.0, trust_env=False)
            self._clients.append(self._own.client)
        client: httpx.Client = self._own.client
        return client

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"the gateway ended with {self.process.returncode}:\n{self.text()}")
        try:
            return self.client.get(self._wait_for).status_code == 200
        except httpx.TransportError:
            return False

    def ask(self, text: str, **headers: str) -> httpx.Response:
        return self.client.post(CLASSIFY, json={"text": text}, headers=headers)

    def send(self, body: bytes, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(CLASSIFY, content=body, headers={"content-type": "application/json", **named})

    def metric(self, line: str) -> float:
        """A series' value by its full name and labels, as in the exposition; 0 when absent."""
        for found in self.client.get("/metrics").text.splitlines():
            if found.startswith(line + " "):
                return float(found.rsplit(" ", 1)[1])
        return 0.0

    def text(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]

    def events(self) -> list[str]:
        return [line["event"] for line in self.lines()]

    def terminate(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=15)
