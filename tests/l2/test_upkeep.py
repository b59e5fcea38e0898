"""`query-gateway cache`, against a real Redis."""

from collections.abc import Callable
from pathlib import Path

import pytest

from handler.cli import FAILED, UNUSABLE, main
from handler.entries import key
from handler.model import read_manifest
from lab.launch import free_port
from lab.redis_server import RedisServer


@pytest.fixture
def redis(
    start_redis: Callable[..., RedisServer],
    model: Path,
    other_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> RedisServer:
    """A Redis with 700 entries of this model, 30 of another, one of an old format, and a stranger's key."""
    server = start_redis()
    this, other = (read_manifest(folder).version for folder in (model, other_model))
    server.admin.mset({key(this, i.to_bytes(16, "big")): b"x" for i in range(700)})
    server.admin.mset({key(other, i.to_bytes(16, "big")): b"x" for i in range(30)})
    server.admin.mset({f"qg:0:{this}:00": b"x", "stranger": b"x"})
    monkeypatch.setenv("REDIS_URL", server.url)
    monkeypatch.setenv("MODEL_PATH", str(model))
    return server


def test_stats_count_by_model(
    redis: RedisServer, model: Path, other_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["cache", "stats"])

    told = capsys.readouterr().out.splitlines()
    assert code == 0
    assert told[:4] == [
        f"model {read_manifest(model).version}: 701 entries (this model)",
        f"model {read_manifest(other_model).version}: 30 entries",
        "all models: 731 entries",
        "keys in the database, whoever's they are: 732",
    ]


def test_a_dry_run_says_how_many_and_removes_none(
    redis: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["cache", "flush", "--dry-run"])

    assert code == 0
    assert "would remove 701 entries" in capsys.readouterr().out
    assert redis.admin.dbsize() == 732


def test_flush_removes_this_models_entries_of_every_format(
    redis: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["cache", "flush"])

    assert code == 0
    assert "removed 701 entries" in capsys.readouterr().out
    assert redis.admin.dbsize() == 31


def test_flush_of_all_models_leaves_strangers_alone(redis: RedisServer) -> None:
    code = main(["cache", "flush", "--all-models"])

    assert code == 0
    assert redis.admin.keys("*") == [b"stranger"]


def test_without_a_redis_url_the_command_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)

    assert main(["cache", "stats"]) == UNUSABLE
    assert "REDIS_URL is not set" in capsys.readouterr().err


def test_without_a_redis_the_command_fails_and_says_why(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REDIS_URL", f"redis://:hunter2@127.0.0.1:{free_port()}/0")

    assert main(["cache", "stats"]) == FAILED
    told = capsys.readouterr().err
    assert "Connection refused" in told
    assert "hunter2" not in told
