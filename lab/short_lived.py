"""Instances that live a quarter of a minute, and what is left of their counters: `just short-lived`.

Gateways come one after another, answer callers, and end with SIGTERM while they are asked. What they push goes
through a collector that is not ours (rotel, an OpenTelemetry collector on PyPI) to a receiver that keeps all
of it. Proven is that both count exactly the answers that the callers saw, and every traced query; beside that
stands what a scrape every 5 s had last seen. Without the collector's wheel, the gateways push to the receiver itself.
"""

import argparse
import concurrent.futures
import http.client
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from lab.launch import CLASSIFY, ROOT, Served, Server, eventually, free_port, scrape
from lab.receiver import Receiver
from lab.unproven import unproven

COLLECTOR = ".venv-integrations/lib/python3.*/site-packages/rotel/rotel-agent"
ANSWERS = "query_gateway_requests_total"
SCRAPE_S = 5.0
CALLERS = 8
# Of so many queries one is traced by its caller.
TRACED = 50
# How long what is left may take through the collector.
ARRIVES_S = 15.0


class Seen(NamedTuple):
    """What the callers of one instance saw: answers, traced ones among them, and anything else."""

    answers: int
    traced: int
    others: list[str]


class Life(NamedTuple):
    """One instance. `scraped` is the count of the last scrape before its end."""

    lived_s: float
    code: int
    seen: Seen
    scraped: float


@contextmanager
def collector(receiver: Receiver) -> Iterator[str]:
    """Where to push to: a collector that passes all on to the receiver, else the receiver."""
    found = next(ROOT.glob(COLLECTOR), None)
    if found is None:
        unproven(["OTLP through a collector: there is no rotel (scripts/install.sh integrations)"])
        yield receiver.url
        return
    found.chmod(0o755)
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="collector-") as folder:
        command = [
            *(str(found), "start", "--pid-file", f"{folder}/pid", "--log-file", f"{folder}/log"),
            *(
                "--otlp-http-endpoint",
                f"127.0.0.1:{port}",
                "--otlp-grpc-endpoint",
                f"127.0.0.1:{free_port()}",
            ),
            *("--exporter", "otlp", "--otlp-exporter-protocol", "http"),
            *("--otlp-exporter-endpoint", receiver.url, "--otlp-exporter-compression", "none"),
        ]
        with Server(command, port=port, environ={"HOME": folder}) as running:
            yield running.url


def call(served: Served, caller: int, stop: threading.Event) -> Seen:
    """Ask without pause and without a retry, and go away when told to."""
    found, traced, others = 0, 0, []
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
    try:
        for number in range(10_000_000):
            if stop.is_set():
                break
            headers = {"content-type": "application/json"}
            if number % TRACED == 0:
                headers["traceparent"] = f"00-{caller + 1:016x}{number + 1:016x}-{number + 1:016x}-01"
            text = f"What is {number % 200} plus {caller}?"
            connection.request("POST", CLASSIFY, json.dumps({"text": text}), headers)
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                others.append(str(answer.status))
                continue
            found += 1
            traced += "traceparent" in headers
            if answer.headers.get("connection") == "close":
                break
    except OSError as exc:
        others.append(type(exc).__name__)
    finally:
        connection.close()
    return Seen(found, traced, others)


def live(url: str, seconds: float) -> Life:
    """One instance's life, from its start to its end under load."""
    last = 0.0
    with Served({"OTEL_EXPORTER_OTLP_ENDPOINT": url}) as served:
        started, stop = time.monotonic(), threading.Event()
        with concurrent.futures.ThreadPoolExecutor(CALLERS) as pool:
            callers = [pool.submit(call, served, caller, stop) for caller in range(CALLERS)]
            while (left_s := started + seconds - time.monotonic()) > 0:
                time.sleep(min(left_s, SCRAPE_S))
                if left_s > SCRAPE_S:
                    found = scrape([served.url])
                    last = found.total(ANSWERS, status="success") if found else last
            code = served.terminate()
            lived_s = time.monotonic() - started
            stop.set()
            seen = [caller.result() for caller in callers]
    whole = Seen(
        sum(one.answers for one in seen),
        sum(one.traced for one in seen),
        [other for one in seen for other in one.others],
    )
    return Life(lived_s, code, whole, last)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=15.0, help="how long each lives")
    parser.add_argument("--instances", type=int, default=3, help="how many, one after another")
    options = parser.parse_args()
    print("| instance | lived, s | exit code | answers that the callers saw | scraped at last |")
    print("|---:|---:|---:|---:|---:|")
    lives: list[Life] = []
    with Receiver() as receiver, collector(receiver) as url:
        for number in range(options.instances):
            lives.append(live(url, options.seconds))
            lived_s, code, seen, scraped = lives[-1]
            print(f"| {number + 1} | {lived_s:.1f} | {code} | {seen.answers} | {scraped:.0f} |", flush=True)
        saw, traced = (sum(getattr(one.seen, name) for one in lives) for name in ("answers", "traced"))
        through = "the receiver itself" if url == receiver.url else "rotel"

        def counted() -> float:
            return receiver.total(ANSWERS, status="success")

        def grown() -> float:
            return receiver.increase(ANSWERS, status="success")

        def spans() -> int:
            return sum(span.name == "query" for span in receiver.spans())

        try:  # the collector passes on in its own time
            eventually(
                lambda: counted() >= saw and grown() >= saw and spans() >= traced,
                "all of it has arrived",
                within_s=ARRIVES_S,
            )
        except AssertionError as late:
            print(late)
        others = [other for one in lives for other in one.seen.others]
        print(
            f"\nthrough {through}: {counted():.0f} of {saw} answers counted, {grown():.0f} as an increase, "
            f"{spans()} of {traced} traced queries; "
            f"a scrape every {SCRAPE_S:g} s had seen {sum(one.scraped for one in lives):.0f}"
        )
        whole = counted() == grown() == saw and spans() == traced
    if others:
        print(f"the callers saw besides: {', '.join(others)}")
    return 0 if whole and not others and all(one.code == 0 for one in lives) else 1


if __name__ == "__main__":
    sys.exit(main())
