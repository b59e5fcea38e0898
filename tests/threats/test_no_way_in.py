"""Keys, closed doors, and what a gateway says that has none. A real process each."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from handler.keys import digest, make
from lab.launch import MODEL, ROOT, Served, eventually, free_port

CALLER, OPERATOR = make(), make()


def hexed(key: str) -> str:
    return digest(key.encode()).hex()


@pytest.fixture(scope="module")
def locked() -> Iterator[Served]:
    with Served({"API_KEYS": hexed(CALLER), "OPS_KEYS": hexed(OPERATOR), "SCHEMA_ENABLED": "0"}) as served:
        yield served


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer qg_wrong"},
        {"authorization": f"Basic {CALLER}"},
        {"authorization": "Bearer"},
        {"authorization": f"Bearer {hexed(CALLER)}"},
        {"authorization": f"Bearer {OPERATOR}"},
        {"x-api-key": "qg_wrong"},
        {"x-api-key": CALLER[:-1]},
    ],
)
def test_without_a_known_key_a_query_is_a_401_in_the_contracts_shape(
    locked: Served, headers: dict[str, str]
) -> None:
    answer = locked.ask("who goes there?", **headers)

    assert answer.status_code == 401
    assert list(answer.json()["error"]) == ["code", "status", "message", "details"]
    assert answer.json()["error"]["status"] == "UNAUTHENTICATED"
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {CALLER}"},
        {"authorization": f"bearer  {CALLER}"},
        {"x-api-key": CALLER},
        {"authorization": "Basic b3RoZXI6cHJveHk=", "x-api-key": CALLER},
    ],
)
def test_a_known_key_opens(locked: Served, headers: dict[str, str]) -> None:
    assert locked.ask("a friend", **headers).status_code == 200


def test_nothing_of_a_body_is_looked_at_without_a_key(locked: Served) -> None:
    assert locked.send(b"{").status_code == 401
    assert locked.client.get("/v1/query-classify").status_code == 401


@pytest.mark.parametrize("path", ["/metrics", "/health/deep"])
def test_the_operators_pages_take_the_operators_key_alone(locked: Served, path: str) -> None:
    def code(**headers: str) -> int:
        return locked.client.get(path, headers=headers).status_code

    assert code() == 401
    assert code(authorization=f"Bearer {CALLER}") == 401
    assert code(authorization=f"Bearer {OPERATOR}") == 200


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
def test_probes_are_open_to_the_orchestrator(locked: Served, path: str) -> None:
    assert locked.client.get(path).status_code == 200


def test_the_schema_can_be_taken_away(locked: Served) -> None:
    assert locked.client.get("/schema").status_code == 404


def test_no_key_and_no_digest_is_ever_written_down(locked: Served) -> None:
    locked.ask("q", authorization="Bearer qg_somebody-elses-secret")
    locked.ask("q", **{"x-api-key": CALLER})

    metrics = locked.client.get("/metrics", headers={"x-api-key": OPERATOR}).text
    for secret in (CALLER, hexed(CALLER), OPERATOR, "somebody-elses-secret"):
        assert secret not in locked.text()
        assert secret not in metrics
    assert 'error_type="Unauthenticated"' in metrics


def test_a_key_is_taken_back_without_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{hexed(CALLER)}  # team a\n")
    with Served({"API_KEYS_FILE": str(file)}) as served:
        assert served.ask("q", **{"x-api-key": CALLER}).status_code == 200

        file.write_text("not a digest")
        eventually(lambda: "keys_not_loaded" in served.events(), "the slip is logged")
        assert served.ask("q", **{"x-api-key": CALLER}).status_code == 200
        file.write_text(f"{hexed(OPERATOR)}\n")

        eventually(lambda: served.ask("q", **{"x-api-key": CALLER}).status_code == 401, "the old key is out")
        assert served.ask("q", **{"x-api-key": OPERATOR}).status_code == 200


def test_an_emptied_file_of_keys_locks_nobody_out(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{hexed(CALLER)}\n")
    with Served({"API_KEYS_FILE": str(file)}) as served:
        file.write_text("")
        served.process.send_signal(signal.SIGHUP)
        eventually(lambda: "keys_not_loaded" in served.events(), "it is refused")

        report = served.client.get("/health/deep").json()
        told = next(line for line in served.lines() if line["event"] == "keys_not_loaded")
        assert served.ask("q", **{"x-api-key": CALLER}).status_code == 200
        assert (told["level"], told["setting"]) == ("error", "API_KEYS_FILE")
        assert report["status"] == "degraded"
        assert report["checks"]["keys"] == {"API_KEYS_FILE": "it holds no key, so nobody could ask"}
        assert served.metric("query_gateway_keys_refused", setting="API_KEYS_FILE") == 1

        file.write_text(f"{hexed(CALLER)}\n")
        eventually(
            lambda: served.metric("query_gateway_keys_refused", setting="API_KEYS_FILE") == 0, "mended"
        )


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"API_KEYS": "qg_a-key-not-its-digest"}, "API_KEYS='…' cannot be read"),
        ({"OPS_KEYS": "qg_a-key-not-its-digest"}, "OPS_KEYS='…' cannot be read"),
        ({"API_KEYS_FILE": "nowhere/keys"}, "API_KEYS_FILE: nowhere/keys cannot be read"),
    ],
)
def test_keys_that_cannot_be_read_stop_the_start(settings: dict[str, str], told: str) -> None:
    for command in ("serve", "check"):
        ran = subprocess.run(
            [sys.executable, "-m", "handler", command],
            cwd=ROOT,
            env={**os.environ, "MODEL_PATH": str(MODEL), "PORT": str(free_port()), **settings},
            capture_output=True,
            text=True,
            timeout=30,
        )

        assert ran.returncode == 2
        assert told in ran.stderr
        assert "a-key-not" not in ran.stderr + ran.stdout


def test_a_made_key_fits_the_digest_made_with_it() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "handler", "key"], cwd=ROOT, capture_output=True, text=True, check=True
    )

    key, found = (line.rsplit(" ", 1)[1] for line in ran.stdout.splitlines())
    assert hexed(key) == found


@pytest.mark.parametrize(
    ("host", "keys", "said"),
    [("127.0.0.1", "", False), ("0.0.0.0", "", True), ("0.0.0.0", hexed(CALLER), False)],
)
def test_a_gateway_open_to_more_than_this_machine_says_so(host: str, keys: str, said: bool) -> None:
    with Served({"HOST": host, "API_KEYS": keys}) as served:
        eventually(lambda: "model_loaded" in served.events(), "the start is logged")
        assert ("open_to_all" in served.events()) == said
