"""Every wire over HTTP, from a real process: told apart by path, counted by name, switched by WIRES."""

import json
import re
import socket
from typing import get_args

import pytest

from handler.settings import Wire
from handler.telemetry import FallbackReason
from handler.wires import endpoints
from lab.launch import ROOT, Served

EASY = "Summarize the following article in two sentences: The old lighthouse was built in 1857."
TIERS = ["fast", "slow"]
CHOICE = {"type": "choice", "choices": [{"value": name} for name in TIERS]}
TENSOR = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [EASY]}
ASKED = {
    "systemone": (
        "/v1/systemone",
        {"state": EASY, "questions": {"q": {"type": "choice", "criteria": dict.fromkeys(TIERS)}}},
    ),
    "decisions": ("/v1/decisions", {"input": EASY, "questions": [CHOICE]}),
    "predict": ("/predict", {"inputs": EASY}),
    "huggingface": ("/models/router", {"inputs": EASY}),
    "classify": ("/classify", {"inputs": EASY}),
    "v2": ("/v2/models/router/infer", {"inputs": [TENSOR]}),
    "route": ("/v1/route/v1/chat/completions", {"messages": [{"role": "user", "content": EASY}]}),
}


@pytest.mark.parametrize("name", ASKED)
def test_every_wire_says_in_its_headers_what_the_native_path_says(name: str, gateway: Served) -> None:
    path, body = ASKED[name]

    answer = gateway.client.post(path, json=body)

    assert answer.status_code == 200
    assert answer.headers["x-query-route"] == gateway.ask(EASY).json()["route"]


@pytest.mark.parametrize("name", ASKED)
def test_a_wire_that_is_off_is_not_found(name: str) -> None:
    path, body = ASKED[name]
    others = ",".join(other for other in ASKED if other != name)

    with Served({"WIRES": others}) as served:
        assert served.client.post(path, json=body).status_code == 404


PAGE = (ROOT / "docs" / "asking.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["json", "ndjson"])
def test_what_the_page_shows_is_answered(kind: str, gateway: Served) -> None:
    shown = re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)
    assert shown

    for body in shown:
        answer = gateway.client.post(
            "/v1/query-classify",
            content=body,
            headers={"content-type": {"json": "application/json", "ndjson": "application/x-ndjson"}[kind]},
        )
        assert answer.status_code == 200
        assert '"error"' not in answer.text
        assert answer.text.count('"label"') == (2 if "texts" in body or kind == "ndjson" else 1)


@pytest.mark.parametrize("reason", get_args(FallbackReason))
def test_the_page_tells_every_reason_of_a_safe_answer(reason: str) -> None:
    assert re.search(rf"^\|.*`{reason}`.*\|$", PAGE, re.MULTILINE)


def raw(served: Served, *head: str, body: bytes = b"") -> bytes:
    """Send a request as it is written, and read its answer to the connection's end."""
    lines = [*head, "connection: close", f"content-length: {len(body)}"]
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as caller:
        caller.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        told = b""
        while more := caller.recv(65536):
            told += more
    return told


@pytest.mark.parametrize(
    "head",
    [
        ("POST /v1/route HTTP/1.1", "host: a", "host: b"),
        ("POST /v1/route/v1/chat/completions HTTP/1.1", "host: a", "host: b"),
        ("POST /v1/route HTTP/1.1", "host: a b"),
    ],
)
def test_a_proxys_request_that_is_no_http_of_ours_goes_slow_with_200(
    head: tuple[str, ...], gateway: Served
) -> None:
    before = gateway.metric("query_gateway_fallbacks_total", wire="route", reason="unreadable")

    told = raw(gateway, *head, body=b'{"text": "Summarize this"}')

    assert told.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nx-query-route: slow\r\n" in told
    assert b"\r\nx-query-reason: unreadable\r\n" in told
    assert gateway.metric("query_gateway_fallbacks_total", wire="route", reason="unreadable") == before + 1


def test_two_hosts_are_refused_where_no_proxy_asks(gateway: Served) -> None:
    head = ("POST /v1/query-classify HTTP/1.1", "host: a", "host: b")

    assert raw(gateway, *head, body=b'{"text": "a"}').startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("path", ["/v1/routes", "/v1/modelsa", "/modelsa", "/v2a", "/a/v1/route"])
def test_a_path_that_only_begins_like_a_wires_is_not_found(path: str, gateway: Served) -> None:
    answer = gateway.client.post(path, json={"text": EASY})

    assert (answer.status_code, answer.json()["error"]["status"]) == (404, "NOT_FOUND")


def test_infinitys_client_finds_health_where_its_wire_is_the_only_one() -> None:
    with Served({"WIRES": "classify"}) as served:
        found = {path: served.client.get(path) for path in ("/health", "/models", "/v1/models")}

    assert {path: answer.status_code for path, answer in found.items()} == {
        "/health": 200,
        "/models": 200,
        "/v1/models": 404,
    }
    assert found["/health"].json()["unix"] > 0
    assert found["/models"].json()["data"][0]["owned_by"] == "infinity"


@pytest.mark.parametrize("name", ASKED)
def test_the_list_of_models_comes_with_the_wires_whose_clients_ask_for_it(name: str) -> None:
    listed = any(endpoint.path == "/v1/models/*" for endpoint in endpoints((name,)))

    assert listed == (name in ("systemone", "decisions"))


@pytest.mark.parametrize("name", ASKED)
def test_a_query_is_counted_by_its_wire(name: str, gateway: Served) -> None:
    path, body = ASKED[name]
    before = {wire: gateway.metric("query_gateway_queries_total", wire=wire) for wire in get_args(Wire)}

    gateway.client.post(path, json=body)

    after = {wire: gateway.metric("query_gateway_queries_total", wire=wire) for wire in get_args(Wire)}
    assert {wire for wire in after if after[wire] != before[wire]} == {name}


def test_a_stream_of_lines_is_answered_in_order_under_their_ids(gateway: Served) -> None:
    lines = [{"text": f"Summarize item {n % 7}", "id": n} for n in range(200)]
    body = "".join(json.dumps(line) + "\n" for line in lines) + '\n{"id": "bad", "text": ""}\n'

    answer = gateway.client.post(
        "/v1/query-classify", content=body, headers={"content-type": "application/x-ndjson"}
    )

    told = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["id"] for line in told] == [*range(200), "bad"]
    assert ["error" in line for line in told] == [False] * 200 + [True]


def test_a_stream_without_end_ends_with_the_process_and_says_why() -> None:
    line = b'{"text": "Summarize this"}\n' * 50
    head = (
        b"POST /v1/query-classify HTTP/1.1\r\nhost: a\r\ncontent-type: application/x-ndjson\r\n"
        b"transfer-encoding: chunked\r\n\r\n"
    )

    with Served({}) as served, socket.create_connection(("127.0.0.1", served.port), timeout=10) as caller:
        caller.sendall(head + b"%x\r\n%b\r\n" % (len(line), line))
        told = b""
        while told.count(b'"label"') < 50:
            told += caller.recv(65536)
        served.process.terminate()
        while not told.endswith(b"0\r\n\r\n") and (more := caller.recv(65536)):
            told += more

    assert told.count(b'"label"') == 50
    assert b'"status":"UNAVAILABLE"' in told.splitlines()[-4]
