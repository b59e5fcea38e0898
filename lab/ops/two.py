"""Two gateways behind one name, on a real engine: `just two`.

Brings up compose's profile `two` from a copy of the checkout, with Redis, and asks the
name `gateways` from inside the network, a connection a query, while one gateway and then
the other is stopped and started. Takes all of it down at the end. Standard library only.
"""

import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from lab.ops import stack
from lab.ops.image_smoke import ask, docker, until

NAMES = ("query-gateway", "query-gateway-2")
URLS = ("http://127.0.0.1:8080", "http://127.0.0.1:8081")
UP = "docker compose --profile two up -d --wait redis gateway gateway-2"
DOWN = "docker compose --profile two down --volumes --timeout 5"
TEXT = "Translate to French: good morning, all of you."
# Runs in a container beside them: asks until it is ended, and tells how it was answered. A name has several
# addresses, and a client tries the next one where the first does not take a connection; so does this one.
# Once it is connected, nothing is tried again.
CALLER = """
import collections, http.client, json, signal, socket, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
seen, failed, passed_over, number = collections.Counter(), [], 0, 0
try:
    while True:
        number += 1
        began = time.monotonic()
        made = None
        for *_, address in socket.getaddrinfo("gateways", 8000, socket.AF_INET, socket.SOCK_STREAM):
            try:
                made = socket.create_connection(address, timeout=2)
                break
            except OSError:
                passed_over += 1
        try:
            assert made, "no address takes a connection"
            made.settimeout(20)
            connection = http.client.HTTPConnection("gateways", 8000)
            connection.sock = made
            connection.request("POST", "/v1/query-classify", json.dumps({"text": f"Add {number % 50} and 7"}),
                               {"content-type": "application/json", "x-request-timeout-ms": "20000"})
            answer = connection.getresponse()
            seen[answer.status] += 1
            answer.read()
            connection.close()
        except (OSError, AssertionError, http.client.HTTPException) as problem:
            failed.append(f"{type(problem).__name__}: {problem} after {time.monotonic() - began:.1f} s")
        time.sleep(0.02)
finally:
    print(json.dumps({"seen": seen, "failed": failed, "passed_over": passed_over}), flush=True)
"""


def addresses(image: str) -> list[str]:
    """What the name stands for, as a container in the network sees it."""
    look = "import socket; print(*sorted({a[4][0] for a in socket.getaddrinfo('gateways', 8000)}))"
    return docker("run", "--rm", "--network=monitoring", image, "python3", "-c", look).split()


def answered(url: str) -> int:
    """Queries that one gateway has answered."""
    report = stack.must(f"curl -sf {url}/metrics")
    lines = [line for line in report.splitlines() if line.startswith("query_gateway_queries_total{")]
    return int(sum(float(line.rpartition(" ")[2]) for line in lines))


def cache_of(url: str) -> dict[str, Any]:
    report: dict[str, Any] = ask(f"{url}/health/deep")[1]["checks"]["cache"]
    return report


def share_what_they_know() -> None:
    """What one has answered, the other finds in Redis, once it was written there."""
    for url in URLS:
        until(lambda url=url: cache_of(url)["l2_healthy"], 20, f"{url} reaches Redis")  # type: ignore[misc]
    first = where_found(URLS[0])
    until(lambda: cache_of(URLS[0])["l2_size"] >= 1, 20, "the answer stands in Redis")
    second = where_found(URLS[1])
    assert (first, second) == ("miss", "l2"), (first, second)
    print("asked of one: miss; the same of the other: l2")


def where_found(url: str) -> str:
    """`x-cache` of one query's answer."""
    body, kind = json.dumps({"text": TEXT}), "content-type: application/json"
    command = [
        "curl",
        "-s",
        "-o",
        "/dev/null",
        "-w",
        "%header{x-cache}",
        f"{url}/v1/query-classify",
        "-d",
        body,
        "-H",
        kind,
    ]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def stay_while_one_goes(image: str) -> None:
    """No caller of the name fails while either is stopped and started again."""
    before = [answered(url) for url in URLS]
    caller = docker("run", "-d", "--network=monitoring", image, "python3", "-c", CALLER)
    try:
        time.sleep(1)
        for name, url in zip(NAMES, URLS, strict=True):
            docker("stop", "--time", "10", name)
            assert len(addresses(image)) == 1, "the name keeps an address that is gone"
            time.sleep(1)
            docker("start", name)
            until(lambda url=url: ask(f"{url}/health/ready")[0] == 200, 20, f"{name} ready")  # type: ignore[misc]
            time.sleep(1)
        docker("stop", "--time", "5", caller)
        told = json.loads(docker("logs", caller))
    finally:
        docker("rm", "-f", caller)
    assert not told["failed"], f"{len(told['failed'])} failed, e.g. {told['failed'][0]}"
    assert set(told["seen"]) == {"200"}, told["seen"]
    assert told["seen"]["200"] > 100, told["seen"]
    after = [answered(url) for url in URLS]
    # A count begins at 0 with a start: what is left shows that each took its part since.
    print(f"{told['seen']['200']} queries of the name, 0 failed, while each was stopped and started "
          f"({told['passed_over']} connections were taken by the other address only); "
          f"answered by each: {before} before, {after} since its last start")  # fmt: skip


def main() -> None:
    stack.images({"redis"})
    image = "query-gateway:latest"
    with tempfile.TemporaryDirectory() as name:
        folder = stack.copy(Path(name))
        try:
            stack.must(UP, folder)
            found = addresses(image)
            assert len(found) == 2, found
            print("gateways is", *found)
            share_what_they_know()
            stay_while_one_goes(image)
        finally:
            stack.shell(DOWN, folder)
    print("two: passed")


if __name__ == "__main__":
    main()
