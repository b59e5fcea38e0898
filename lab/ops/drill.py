"""Fire the alerts for real and see them end: `just drill`.

A gateway, Redis, Prometheus and Alertmanager on loopback, the last two from Debian's
packages. The rules are the shipped ones with their ranges and waits divided, so that
an incident takes seconds; Alertmanager is the shipped one with a webhook added. Each
scene breaks one thing, waits for its alerts at the webhook, mends it and waits for their
end; of what burns slowly, at the drill's end. Then the dashboards' queries are run
against what was recorded. Read `Drill.play` first.
"""

import argparse
import asyncio
import contextlib
import http.server
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lab.drive import Driver, Outcome, meanwhile, request, requests, steady
from lab.launch import ROOT, Served, Server, answers, free_port
from lab.ops.stack import traffic
from lab.redis_server import binary
from lab.slow_proxy import SlowProxy
from lab.texts import texts

# A minute of the shipped rules is a second and a half here, an hour twelve seconds: divided as minutes are, the
# burn of three days would take half an hour to end. No range may hold fewer than four scrapes.
UNIT_S = {"s": 1 / 40, "m": 60 / 40, "h": 3600 / 300, "d": 86400 / 300}
SCRAPE_S = 1
RUNBOOKS = "https://git.example.com/query-gateway/blob/main/"
# What Redis takes to answer in the scene of a slow one, and what it may cost a query there.
SLOW_REDIS_S, PATIENCE_MS = 0.15, 500


def shortened(rules: str) -> str:
    """Rules with every range and wait divided; the names keep the windows they stand for."""

    def range_of(match: re.Match[str]) -> str:
        return f"[{max(4 * SCRAPE_S + 1, int(int(match[1]) * UNIT_S[match[2]]))}s]"

    def wait_of(match: re.Match[str]) -> str:
        return f"{match[1]}: {max(1, int(int(match[2]) * UNIT_S[match[3]]))}s"

    rules = re.sub(r"\[(\d+)([smhd])\]", range_of, rules)
    return re.sub(r"\b(for|interval): (\d+)([smhd])", wait_of, rules)


@dataclass(frozen=True)
class Notification:
    """One change of an alert's state, as the webhook heard it. `at` is monotonic seconds."""

    at: float
    status: str
    description: str


class Webhook:
    """What Alertmanager sent, by alert and in order; a repetition is not kept."""

    def __init__(self) -> None:
        self.received: dict[str, list[Notification]] = {}
        self.links: set[str] = set()
        self.labels: set[str] = set()
        hook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                for alert in body["alerts"]:
                    seen = hook.received.setdefault(alert["labels"]["alertname"], [])
                    if not seen or seen[-1].status != alert["status"]:
                        seen.append(
                            Notification(
                                time.monotonic(), alert["status"], alert["annotations"]["description"]
                            )
                        )
                    hook.links.add(alert["annotations"]["runbook_url"])
                    hook.labels |= alert["labels"].keys()
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def since(self, alert: str, at: float, status: str) -> Notification | None:
        """The first time after `at` that this alert had this status."""
        return next((t for t in self.received.get(alert, []) if t.at >= at and t.status == status), None)


class Drill:
    def __init__(self, folder: Path, tools: Path | None) -> None:
        self.folder = folder
        self.tools = tools
        self.hook = Webhook()
        self.ports = {name: free_port() for name in ("gateway", "redis", "prometheus", "alertmanager")}
        self.running: dict[str, Server] = {}
        self.lines: list[str] = []
        self.lingering: list[tuple[str, str, float, float]] = []
        self.model = self.folder / "model"
        self.proxy = SlowProxy(self.ports["redis"])

    def program(self, name: str) -> str:
        found = shutil.which(name, path=f"{self.tools}/usr/bin" if self.tools else None)
        if not found:
            raise SystemExit(
                f"drill: {name} is not installed (Debian: prometheus, prometheus-alertmanager, redis-server)"
            )
        return found

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def start(self, name: str, *command: str) -> None:
        server = Server(command, port=self.ports[name], environ=os.environ, wait_for=None)
        self.running[name] = server.__enter__()

    def stop(self, name: str) -> None:
        if server := self.running.pop(name, None):
            try:
                server.terminate()
            finally:
                server.__exit__()

    def gateway(self, **settings: str) -> None:
        given = {
            "MODEL_PATH": str(self.model),
            "PORT": str(self.ports["gateway"]),
            "REDIS_URL": f"redis://127.0.0.1:{self.ports['redis']}/0",
            **settings,
        }
        self.running["gateway"] = Served(given, wait_for=None, patient=False).__enter__()

    def with_training_mix(self) -> None:
        """The shipped model; if it does not say what it was trained on, as if on every task alike."""
        shutil.copytree(ROOT / "models/quantized", self.model)
        manifest = json.loads((self.model / "manifest.json").read_text())
        manifest.setdefault("training_mix", dict.fromkeys(manifest["tasks"], 1 / len(manifest["tasks"])))
        (self.model / "manifest.json").write_text(json.dumps(manifest))

    def slow_redis(self) -> str:
        """Redis behind a long line; its URL."""
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, daemon=True).start()
        self.proxy.delay_s = SLOW_REDIS_S
        asyncio.run_coroutine_threadsafe(self.proxy.start(), loop).result(5)
        return f"redis://127.0.0.1:{self.proxy.port}/0"

    def redis(self) -> None:
        self.start("redis", binary(), "--port", str(self.ports["redis"]), "--save", "")

    def watchers(self) -> None:
        source = ROOT / "monitoring"
        for name in ("recording", "alerts"):
            rules = shortened((source / f"prometheus/rules/{name}.yml").read_text())
            (self.folder / f"{name}.yml").write_text(rules)
        text = (source / "prometheus/prometheus.yml").read_text()
        text = re.sub(r"(scrape|evaluation)_interval: \d+s", rf"\1_interval: {SCRAPE_S}s", text)
        text = text.replace("  # external_labels:\n  #   runbooks:", "  external_labels:\n    runbooks:")
        (self.folder / "config").mkdir()
        shutil.copy(source / "prometheus/ops-key", self.folder / "config/ops-key")
        text = text.replace("rules/*.yml", f"{self.folder}/*s.yml\n  - {self.folder}/recording.yml")
        for shipped, name in (
            ("gateway:8000", "gateway"),
            ("alertmanager:9093", "alertmanager"),
            ("localhost:9090", "prometheus"),
        ):
            text = text.replace(shipped, f"127.0.0.1:{self.ports[name]}")
        (self.folder / "config/prometheus.yml").write_text(text)
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
            # An end that Alertmanager did not hear is sent again: after a minute, if this did not say otherwise.
            "--rules.alert.resend-delay=2s",
            f"--storage.tsdb.path={self.folder}/tsdb", f"--web.listen-address=127.0.0.1:{self.ports['prometheus']}",
        )  # fmt: skip

    def until(self, true: Callable[[], object], within_s: float, what: str) -> float:
        started = time.monotonic()
        while time.monotonic() - started < within_s:
            if true():
                return time.monotonic() - started
            time.sleep(0.1)
        logs = "\n".join(f"--- {name}\n{server.text()[-800:]}" for name, server in self.running.items())
        raise SystemExit(
            f"drill: {what}: not within {within_s:.0f} s; received so far: {self.hook.received}\n{logs}"
        )

    def scene(
        self,
        title: str,
        alerts: tuple[str, ...],
        broken: Callable[[], None],
        mended: Callable[[], None],
        *,
        later: tuple[str, ...] = (),
    ) -> None:
        """Break, wait for the alerts, mend, wait for their end.

        later  what the same break sets off and ends after other scenes: `linger` waits for it
        """
        for alert in (*alerts, *later):
            self.until(partial(self.quiet, alert), 120, f"{title}: {alert} is over from before")
        broke = time.monotonic()
        broken()
        for alert in alerts:
            self.until(partial(self.hook.since, alert, broke, "firing"), 90, f"{title}: {alert} fires")
        mending = time.monotonic()
        mended()
        for alert in alerts:
            self.ends(title, alert, broke, mending)
        self.lingering += [(title, alert, broke, mending) for alert in later]

    def linger(self) -> None:
        """Wait for what burns slowly: sent once the fast burn that held it back is over, and ended."""
        for title, alert, broke, mending in self.lingering:
            self.until(partial(self.hook.since, alert, broke, "firing"), 180, f"{title}: {alert} fires")
            self.ends(title, alert, broke, mending)

    def ends(self, title: str, alert: str, broke: float, mending: float) -> None:
        """Wait for the end of an alert that fired, and write its line."""
        firing = self.hook.since(alert, broke, "firing")
        assert firing
        over = partial(self.hook.since, alert, max(mending, firing.at), "resolved")
        self.until(over, 240, f"{title}: {alert} ends")
        ended = over()
        assert ended
        self.lines.append(
            f"| {title} | {alert} | {firing.at - broke:.0f} | {ended.at - mending:.0f} | {firing.description} |"
        )
        print(self.lines[-1], flush=True)

    def quiet(self, alert: str) -> bool:
        """Whether Prometheus has no such alert, and Alertmanager has said so if it ever had."""
        sent = self.hook.received.get(alert)
        return not self.active(alert) and (not sent or sent[-1].status == "resolved")

    def active(self, alert: str) -> bool:
        with urllib.request.urlopen(f"{self.url('prometheus')}/api/v1/alerts", timeout=5) as answer:
            found = json.loads(answer.read())["data"]["alerts"]
        return any(one["labels"]["alertname"] == alert for one in found)

    def ready(self) -> None:
        self.until(lambda: answers(f"{self.url('gateway')}/health/ready"), 60, "the gateway is ready")

    def play(self) -> None:
        self.with_training_mix()
        self.redis()
        self.gateway()
        self.ready()
        self.watchers()
        self.until(lambda: answers(f"{self.url('prometheus')}/-/ready"), 60, "Prometheus is ready")
        gateway = self.ports["gateway"]
        with traffic(gateway):
            time.sleep(15)
            self.scene("the gateway is stopped", ("ServiceDown",), lambda: self.stop("gateway"), self.again)
            self.scene("Redis is killed", ("RedisConnectionFailure",), lambda: self.stop("redis"), self.redis)
            # The first to burn latency: its slow burn ends long after the others', and the flood would set it off too.
            # Without L1, every query asks Redis: hits and misses are late alike.
            far = {
                "REDIS_URL": self.slow_redis(),
                "CACHE_L1_SIZE": "0",
                "CACHE_L2_TIMEOUT_MS": str(PATIENCE_MS),
            }
            self.scene(
                f"Redis takes {SLOW_REDIS_S * 1000:.0f} ms and may",
                ("HighP99Latency", "LatencyFastBurn", "CacheHitLatencyFastBurn"),
                lambda: self.again(**far),
                self.again,
                later=("LatencySlowBurn", "CacheHitLatencySlowBurn"),
            )
            # Its caller chose a deadline that nobody can meet: that is the caller's, and pages nobody.
            hasty = Meanwhile(gateway, lambda driver: driver.open(hasty_requests(), steady(20)))
            hasty.start()
            time.sleep(12)
            hasty.stop()
            if fired := [
                name for name in ("HighErrorRate", "AvailabilityFastBurn") if self.hook.received.get(name)
            ]:
                raise SystemExit(f"drill: a caller without patience set off {fired}")
            self.scene("it is killed every second", ("CrashLoop",), self.crashing, self.again)
            # Before the one without a model: ModelNotReady holds back the error rates that follow from it.
            self.scene(
                "queries have half a millisecond",
                ("HighErrorRate",),
                lambda: self.again(REQUEST_TIMEOUT_MS="0.5"),
                self.again,
                later=("AvailabilityFastBurn", "AvailabilitySlowBurn"),
            )
            self.scene(
                "it starts without a model",
                ("ModelNotReady",),
                lambda: self.again(MODEL_PATH=str(self.folder / "none")),
                self.again,
            )
            # One lane and one long query at a time: what limits is the model, not who asks.
            flood = Meanwhile(gateway, lambda driver: driver.closed(long_queries(), connections=24))
            narrow = {"LANES": "1", "BATCH_MAX_SIZE": "1", "QUEUE_MAX": "16"}

            def flooded() -> None:
                self.again(**narrow)
                flood.start()

            def ebbed() -> None:
                flood.stop()
                self.again()

            self.scene(
                "a flood of long queries, QUEUE_MAX=16",
                ("QueriesShed", "HighBatchQueueDepth"),
                flooded,
                ebbed,
            )
            mistakes = Meanwhile(gateway, lambda driver: driver.open(textless(), steady(90)))
            self.scene("a client sends no text", ("HighClientErrorRate",), mistakes.start, mistakes.stop)
            new = Meanwhile(gateway, lambda driver: driver.open(requests(1), steady(90)))
            self.scene("no query comes twice", ("LowCacheHitRate",), new.start, new.stop)
            self.linger()
        wrong = [link for link in self.hook.links if not link.startswith(f"{RUNBOOKS}docs/runbook.md#")]
        if wrong:
            raise SystemExit(f"drill: these are no links to the runbook: {wrong}")
        if "runbooks" in self.hook.labels:
            raise SystemExit("drill: where the runbook is read is a label of the alerts")

    def again(self, **settings: str) -> None:
        """Start the gateway anew."""
        self.stop("gateway")
        self.gateway(**settings)

    def crashing(self) -> None:
        """Kill it and start it anew, as a supervisor does, until Prometheus has seen four lives."""
        for _ in range(4):
            self.again()
            self.ready()
            time.sleep(2 * SCRAPE_S)

    def end(self) -> None:
        for name in list(self.running):
            self.stop(name)
        self.hook.server.shutdown()


LONG = " and then everybody sings about the harbour, the garden and the old lighthouse" * 20


def long_queries() -> Iterator[bytes]:
    return (request(text + LONG) for text in texts(2))


def hasty_requests() -> Iterator[bytes]:
    return (request(text, extra="x-request-timeout-ms: 0.01\r\n") for text in texts(3))


def textless() -> Iterator[bytes]:
    return itertools.repeat(request("no text").replace(b'"text"', b'"txet"'))


class Meanwhile:
    """A load that a scene starts and another step of it ends."""

    def __init__(self, port: int, run: Callable[[Driver], Outcome]) -> None:
        self._port, self._run = port, run
        self._running = contextlib.ExitStack()

    def start(self) -> None:
        self._running.enter_context(meanwhile(Driver(self._port), self._run))

    def stop(self) -> None:
        self._running.close()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tools", type=Path, help="where Debian's packages were unpacked, if not installed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="drill-") as made:
        drill = Drill(Path(made), options.tools)
        started = time.monotonic()
        try:
            drill.play()
            minutes = (time.monotonic() - started) / 60
            print(f"drill: {len(drill.lines)} alerts fired and ended in {minutes:.1f} min")
            return subprocess.run(
                [sys.executable, "-m", "lab.ops.dashboards", "--prometheus", drill.url("prometheus"), "--minutes", f"{minutes:.1f}"],
                cwd=ROOT,
                check=False,
            ).returncode  # fmt: skip
        finally:
            drill.end()


if __name__ == "__main__":
    sys.exit(main())
