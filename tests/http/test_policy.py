"""A policy that changes under a running gateway: free, at once, or refused by line."""

import signal
from pathlib import Path
from typing import Any

from lab.launch import Served, eventually

TEXT = "Summarize the following in one sentence: the ferry was late because of fog, and nobody minded."

TIERS = """
[[tier]]
name = "small"
need_max = 0.0001
[[tier]]
name = "middle"
need_max = 0.9
[[tier]]
name = "large"
need_max = 1
"""


def policy(served: Served) -> dict[str, Any]:
    found: dict[str, Any] = served.client.get("/health/deep").json()["checks"]["policy"]
    return found


def test_a_changed_policy_answers_what_is_cached_in_another_way(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('source = "tasks"')
    with Served({"POLICY_FILE": str(path)}) as served:
        before = served.ask(TEXT)

        path.write_text(TIERS)
        eventually(lambda: policy(served)["threshold"] == 0.9999, "the new policy is in force")
        after = served.ask(TEXT)

        assert (before.json()["route"], before.json()["label"]) == ("fast", "0")
        assert (after.json()["route"], after.json()["label"]) == ("middle", "1")
        assert after.headers["x-cache"] == "l1"


def test_a_broken_policy_is_told_by_line_while_the_old_one_answers(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(TIERS)
    with Served({"POLICY_FILE": str(path)}) as served:
        path.write_text(TIERS.replace("0.9", "nine"))
        served.process.send_signal(signal.SIGHUP)
        eventually(lambda: policy(served)["error"] is not None, "the slip is told")

        report = served.client.get("/health/deep").json()
        metrics = served.client.get("/metrics").text
        assert report["status"] == "degraded"
        assert report["checks"]["policy"]["error"].startswith(f"{path}:7: ")
        assert served.ask(TEXT).json()["route"] == "middle"
        assert "query_gateway_policy_refused 1.0" in metrics
        assert 'query_gateway_policy_need_max{label="1"} 0.9' in metrics


def test_a_policy_that_is_emptied_is_told_by_name_while_the_old_one_answers(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(TIERS)
    with Served({"POLICY_FILE": str(path)}) as served:
        path.write_text("")  # as a writer that was killed leaves it
        served.process.send_signal(signal.SIGHUP)
        eventually(lambda: policy(served)["error"] is not None, "the empty file is told")

        assert policy(served)["error"].startswith(f"{path} is empty")
        assert served.ask(TEXT).json()["route"] == "middle"


def test_a_policy_that_stands_under_a_swapped_symlink_is_taken_up(tmp_path: Path) -> None:
    for name, text in (("v1", 'source = "tasks"'), ("v2", TIERS)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "policy.toml").write_text(text)
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "policy.toml").symlink_to("..data/policy.toml")
    with Served({"POLICY_FILE": str(tmp_path / "policy.toml")}) as served:
        assert served.ask(TEXT).json()["route"] == "fast"

        (tmp_path / "..new").symlink_to("v2")
        (tmp_path / "..new").rename(tmp_path / "..data")

        eventually(lambda: served.ask(TEXT).json()["route"] == "middle", "the new volume is in force")


def test_the_default_policy_is_told_with_its_threshold(gateway: Served) -> None:
    metrics = gateway.client.get("/metrics").text

    assert policy(gateway)["tiers"] == [{"name": "fast", "need_max": 0.3}, {"name": "slow", "need_max": 1.0}]
    assert "query_gateway_threshold 0.7" in metrics
    assert 'query_gateway_policy_info{source="tasks",version="default"} 1.0' in metrics
