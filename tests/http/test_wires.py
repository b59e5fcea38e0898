"""Every wire over HTTP, from a real process: told apart by path, counted by name, switched by WIRES."""

import json
import socket

import pytest

from lab.launch import Served

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
