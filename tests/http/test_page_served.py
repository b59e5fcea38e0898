"""The page over HTTP: where it is served, to whom, and that queries do not notice."""

import gzip
from collections.abc import Iterator

import pytest

from handler.page import FOLDER
from lab.launch import Served


@pytest.fixture(scope="module")
def closed() -> Iterator[Served]:
    with Served({"PAGE": "0"}) as served:
        yield served


def test_on_a_loopback_address_the_page_is_there_unasked(gateway: Served) -> None:
    answer = gateway.client.get("/")

    assert answer.status_code == 200
    assert answer.text.startswith("<!doctype html>")
    assert "content-security-policy" in answer.headers


@pytest.mark.parametrize("path", ["/", "/docs", "/page/main.js"])
def test_a_gateway_that_is_told_so_serves_no_page(closed: Served, path: str) -> None:
    assert closed.client.get(path).status_code == 404


def test_on_an_address_that_others_reach_there_is_no_page_unless_asked_for() -> None:
    with Served({"HOST": "0.0.0.0"}) as served:
        assert served.client.get("/").status_code == 404


def test_every_file_comes_as_it_lies_in_the_package(gateway: Served) -> None:
    for file in FOLDER.iterdir():
        if file.suffix != ".html":
            assert gateway.client.get(f"/page/{file.name}").content == file.read_bytes(), file.name


def test_a_browser_gets_it_packed_and_asks_again_for_nothing(gateway: Served) -> None:
    first = gateway.client.get("/page/line.js", headers={"accept-encoding": "gzip"})
    again = gateway.client.get(
        "/page/line.js", headers={"accept-encoding": "gzip", "if-none-match": first.headers["etag"]}
    )

    assert first.headers["content-encoding"] == "gzip"
    assert int(first.headers["content-length"]) == len(gzip.compress(first.content, 9, mtime=0))
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("path", ["/", "/docs", "/page/page.css"])
def test_a_head_request_gets_the_headers_of_the_get_and_no_body(gateway: Served, path: str) -> None:
    got, head = gateway.client.get(path), gateway.client.head(path)

    assert (head.status_code, head.content) == (200, b"")
    assert {**head.headers, "date": ""} == {**got.headers, "date": ""}


@pytest.mark.parametrize(
    "path", ["/page/", "/page/none.js", "/page/index.html", "/page/%2e%2e/page.py", "/page/../app.py"]
)
def test_what_is_no_file_of_the_page_is_not_found(gateway: Served, path: str) -> None:
    answer = gateway.client.get(path)

    assert answer.status_code == 404
    assert answer.json()["error"]["status"] == "NOT_FOUND"


def test_the_page_is_asked_with_get_alone(gateway: Served) -> None:
    answer = gateway.client.post("/", content=b"x")

    assert answer.status_code == 405
    assert {"GET", "HEAD"} <= set(answer.headers["allow"].split(", "))
    assert "POST" not in answer.headers["allow"]


def test_without_a_schema_there_is_no_reference() -> None:
    with Served({"SCHEMA_ENABLED": "0"}) as served:
        assert served.client.get("/docs").status_code == 404
        assert served.client.get("/").status_code == 200


def test_the_page_is_served_without_a_key_and_without_a_model() -> None:
    with Served({"API_KEYS": "0" * 64, "MODEL_PATH": "/nowhere"}, wait_for="/health/live") as served:
        assert served.client.get("/").status_code == 200


def test_asking_for_the_page_is_no_request_for_a_decision(gateway: Served) -> None:
    before = gateway.client.get("/metrics").text.count("query_gateway_requests_total{")
    series = 'query_gateway_requests_total{code="200",error_type="",status="success"}'
    counted = gateway.metric(series)

    gateway.client.get("/")

    assert gateway.metric(series) == counted
    assert gateway.client.get("/metrics").text.count("query_gateway_requests_total{") == before
