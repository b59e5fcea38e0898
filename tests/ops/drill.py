"""Fire the alerts for real and see them end: `just drill`.

A gateway, Redis, Prometheus and Alertmanager on loopback, the last two from Debian's
packages. The rules are the shipped ones with their ranges and waits divided, so that
an incident takes seconds; Alertmanager is the shipped one with a webhook added. Each
scene breaks one thing, waits for its alert at the webhook, mends it and waits for the
alert's end. Then the dashboards' queries are run against what was recorded.
"""

import argparse
import contextlib
import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.ops.stack import ROOT, Traffic, answers

# A minute of the shipped rules is a second and a half here; no range may hold fewer than four scrapes.
FASTER = 40
SCRAPE_S = 1
UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def shortened(rules: str) -> str:
    """Rules with every range and wait divided by `FASTER`; the names keep the windows they stand for."""

    def range_of(match: re.Match[str]) -> str:
        return f"[{max(4 * SCRAPE_S + 1, int(match[1]) * UNIT_S[match[2]] // FASTER)}s]"

    def wait_of(match: re.Match[str]) -> str:
        return f"{match[1]}: {max(1, int(match[2]) * UNIT_S[match[3]] // FASTER)}s"

    rules = re.sub(r"\[(\d+)([smhd])\]", range_of, rules)
    return re.sub(r"\b(for|interval): (\d+)([smhd])", wait_of, rules)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Webhook:
    """What Alertmanager told, by alert: the last status, and when each first came."""

    def __init__(self) -> None:
        self.status: dict[str, str] = {}
        self.told: list[tuple[float, str, str, str]] = []
        hook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                for alert in body["alerts"]:
                    name = alert["labels"]["alertname"]
                    if hook.status.get(name) != alert["status"]:
                        hook.told.append(
                            (time.monotonic(), name, alert["status"], alert["annotations"]["description"])
                        )
                    hook.status[name] = alert["status"]
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Drill:
    def __init__(self, folder: Path, tools: Path | None) -> None:
        self.folder = folder
        self.tools = tools
        self.hook = Webhook()
        self.ports = {name: free_port() for name in ("gateway", "redis", "prometheus", "alertmanager")}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.lines: list[str] = []

    def program(self, name: str) -> str:
        found = shutil.which(name, path=f"{self.tools}/usr/bin" if self.tools else None)
        if not found:
            raise SystemExit(
                f"drill: {name} is not installed (Debian: prometheus, prometheus-alertmanager, redis-server)"
            )
        return found

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def start(self, name: str, *command: str, **environment: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                command, cwd=self.folder, stdout=log, stderr=log, env={**os.environ, **environment}
            )

    def stop(self, name: str) -> None:
        if process := self.running.pop(name, None):
            process.send_signal(signal.SIGTERM)
            process.wait(15)

    def gateway(self, **settings: str) -> None:
        self.start(
            "gateway", sys.executable, "-m", "handler", "serve",
            **{
                "PYTHONPATH": str(ROOT), "MODEL_PATH": str(ROOT / "models/quantized"), "HOST": "127.0.0.1",
                "PORT": str(self.ports["gateway"]), "REDIS_URL": f"redis://127.0.0.1:{self.ports['redis']}/0",
                **settings,
            },
        )  # fmt: skip

    def redis(self) -> None:
        self.start(
            "redis",
            shutil.which("redis-server") or self.program("redis-server"),
            "--port",
            str(self.ports["redis"]),
            "--save",
            "",
        )

    def watchers(self) -> None:
        source = ROOT / "monitoring"
        for name in ("recording", "alerts"):
            rules = shortened((source / f"prometheus/rules/{name}.yml").read_text())
            (self.folder / f"{name}.yml").write_text(rules)
        told = (source / "prometheus/prometheus.yml").read_text()
        told = re.sub(r"(scrape|evaluation)_interval: \d+s", rf"\1_interval: {SCRAPE_S}s", told)
        told = told.replace("rules/*.yml", f"{self.folder}/*s.yml\n  - {self.folder}/recording.yml")
        for shipped, name in (
            ("gateway:8000", "gateway"),
            ("alertmanager:9093", "alertmanager"),
            ("localhost:9090", "prometheus"),
        ):
            told = told.replace(shipped, f"127.0.0.1:{self.ports[name]}")
        (self.folder / "config").mkdir()
        (self.folder / "config/prometheus.yml").write_text(told)
        hooked = (source / "alertmanager/alertmanager.yml").read_text()
        hooked = hooked.replace(
            "  - name: on-call\n",
            f"  - name: on-call\n    webhook_configs: [{{url: '{self.hook.url}', send_resolved: true}}]\n",
        )
        hooked = hooked.replace("group_wait: 10s", "group_wait: 1s").replace(
            "group_interval: 1m", "group_interval: 1s"
        )
        (self.folder / "config/alertmanager.yml").write_text(hooked)
        self.start(
            "alertmanager", self.program("prometheus-alertmanager"), f"--config.file={self.folder}/config/alertmanager.yml",
            f"--storage.path={self.folder}/am", f"--web.listen-address=127.0.0.1:{self.ports['alertmanager']}", "--cluster.listen-address=",
        )  # fmt: skip
        self.start(
            "prometheus", self.program("prometheus"), f"--config.file={self.folder}/config/prometheus.yml",
            f"--storage.tsdb.path={self.folder}/tsdb", f"--web.listen-address=127.0.0.1:{self.ports['prometheus']}",
        )  # fmt: skip

    def until(self, true: Callable[[], bool], within_s: float, what: str) -> float:
        started = time.monotonic()
        while time.monotonic() - started < within_s:
            if true():
                return time.monotonic() - started
            time.sleep(0.1)
        logs = "\n".join(f"--- {log.name}\n{log.read_text()[-800:]}" for log in self.folder.glob("*.log"))
        raise SystemExit(f"drill: {what}: not within {within_s:.0f} s; told so far: {self.hook.told}\n{logs}")

    def scene(self, title: str, alert: str, broken: Callable[[], None], mended: Callable[[], None]) -> None:
        """Break, wait for the alert, mend, wait for its end."""
        self.until(lambda: not self.active(alert), 60, f"{title}: {alert} is over from before")
        self.hook.status.pop(alert, None)
        broken()
        fired_s = self.until(lambda: self.hook.status.get(alert) == "firing", 90, f"{title}: {alert} fires")
        description = next(d for _, name, _, d in reversed(self.hook.told) if name == alert)
        mended()
        over_s = self.until(lambda: self.hook.status.get(alert) == "resolved", 120, f"{title}: {alert} ends")
        self.lines.append(f"| {title} | {alert} | {fired_s:.0f} | {over_s:.0f} | {description} |")
        print(self.lines[-1], flush=True)

    def active(self, alert: str) -> bool:
        with urllib.request.urlopen(f"{self.url('prometheus')}/api/v1/alerts", timeout=5) as answer:
            found = json.loads(answer.read())["data"]["alerts"]
        return any(one["labels"]["alertname"] == alert for one in found)

    def ready(self) -> None:
        self.until(lambda: answers(f"{self.url('gateway')}/health/ready"), 20, "the gateway is ready")

    def play(self) -> None:
        self.redis()
        self.gateway()
        self.ready()
        self.watchers()
        self.until(lambda: answers(f"{self.url('prometheus')}/-/ready"), 20, "Prometheus is ready")
        gateway = self.url("gateway")
        with Traffic(gateway, per_s=20):
            time.sleep(15)
            self.scene("the gateway is stopped", "ServiceDown", lambda: self.stop("gateway"), self.again)
            self.scene("Redis is killed", "RedisConnectionFailure", lambda: self.stop("redis"), self.redis)
            self.scene(
                "it starts without a model",
                "ModelNotReady",
                lambda: self.again(MODEL_PATH=str(self.folder / "none")),
                self.again,
            )
            # Not without a model: ModelNotReady holds back the error rates that follow from it.
            self.scene(
                "queries have half a millisecond", "HighErrorRate",
                lambda: self.again(REQUEST_TIMEOUT_MS="0.5"), self.again,
            )  # fmt: skip
            flood = Flood(gateway)

            def flooded() -> None:
                self.again(QUEUE_MAX="8")
                flood.start()

            def ebbed() -> None:
                flood.stop()
                self.again()

            self.scene("a flood of new queries, QUEUE_MAX=8", "QueriesShed", flooded, ebbed)
            mistakes = Flood(gateway, body=b"{}", threads=1, pause_s=0.01)
            self.scene("a client sends no text", "HighClientErrorRate", mistakes.start, mistakes.stop)
            new = Flood(gateway, threads=1, pause_s=0.01)
            self.scene("no query comes twice", "LowCacheHitRate", new.start, new.stop)

    def again(self, **settings: str) -> None:
        """Start the gateway anew."""
        self.stop("gateway")
        self.gateway(**settings)

    def end(self) -> None:
        for name in list(self.running):
            self.stop(name)
        self.hook.server.shutdown()


class Flood:
    """Callers that ask new queries as fast as they are answered."""

    def __init__(self, url: str, body: bytes | None = None, threads: int = 24, pause_s: float = 0) -> None:
        self._url, self._body, self._threads, self._pause_s = (
            f"{url}/v1/query-classify",
            body,
            threads,
            pause_s,
        )
        self._over = threading.Event()

    def start(self) -> None:
        for number in range(self._threads):
            threading.Thread(target=self._run, args=(number,), daemon=True).start()

    def stop(self) -> None:
        self._over.set()

    def _run(self, number: int) -> None:
        count = 0
        while not self._over.wait(self._pause_s):
            count += 1
            body = (
                self._body
                or json.dumps({"text": f"Write poem {count} of poet {number} {os.urandom(4).hex()}"}).encode()
            )
            request = urllib.request.Request(self._url, body, {"content-type": "application/json"})
            with contextlib.suppress(OSError):
                urllib.request.urlopen(request, timeout=2).close()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tools", type=Path, help="where Debian's packages were unpacked, if not installed")
    parser.add_argument("--draw", type=Path, help="folder for pictures of the dashboards")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="drill-") as made:
        drill = Drill(Path(made), options.tools)
        started = time.monotonic()
        try:
            drill.play()
            minutes = (time.monotonic() - started) / 60
            print(f"drill: {len(drill.lines)} alerts fired and ended in {minutes:.1f} min")
            picture = ["--draw", str(options.draw)] if options.draw else []
            return subprocess.run(
                [sys.executable, str(ROOT / "tests/ops/dashboards.py"), "--prometheus", drill.url("prometheus"), "--minutes", f"{minutes:.1f}", *picture],
                check=False,
            ).returncode  # fmt: skip
        finally:
            drill.end()


if __name__ == "__main__":
    sys.exit(main())
