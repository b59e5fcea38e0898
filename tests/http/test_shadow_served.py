"""A second model beside the one in service: scored, swapped, refused by name. A real server, real folders."""

import os
from pathlib import Path
from typing import Any

import pytest

from handler import keys
from handler.cli import main
from lab.launch import Served, eventually, get
from tests.models import LIMITS, SLOW, TASKS, change, make_toy

Captured = pytest.CaptureFixture[str]


def shadow(served: Served) -> dict[str, Any]:
    """What the deep report says of the shadow."""
    found: dict[str, Any] = served.deep()["checks"]["shadow"]
    return found


def toy_pair(folder: Path, **changes: Any) -> dict[str, str]:
    """The settings of a toy model and a second one beside it, which may be another."""
    make_toy(folder / "model")
    make_toy(folder / "shadow", **({"name": "second"} | changes))
    return {
        "MODEL_PATH": str(folder / "model"),
        "SHADOW_MODEL_PATH": str(folder / "shadow"),
        "SHADOW_SHARE": "1",
    }


def test_the_command_prints_where_the_models_part(tmp_path: Path, capsys: Captured) -> None:
    everything_slow = dict.fromkeys(TASKS, "slow")
    with Served(toy_pair(tmp_path, policy=everything_slow)) as served:
        eventually(lambda: shadow(served)["loaded"], "the shadow is loaded")
        for task in ("summarization", "closed_qa", *SLOW[:2]):
            assert served.ask(task).status_code == 200
        eventually(lambda: shadow(served)["compared"] == 4, "all were compared")

        assert main(["shadow", "--url", served.url]) == 0

    told = capsys.readouterr().out
    assert told.startswith("shadow second ")
    assert "4 queries: 50.0% take the same route, 50.0% move to a dearer tier, 0.0% to a cheaper one" in told
    assert "0                    0  2" in told
    assert "1                    0  2" in told
    assert "offered and not compared" not in told


def test_the_command_sends_an_operators_key_from_a_file(tmp_path: Path, capsys: Captured) -> None:
    key = keys.make()
    (tmp_path / "key").write_text(key + "\n")
    protected = {"OPS_KEYS": keys.digest(key.encode()).hex()}
    with Served(toy_pair(tmp_path) | protected) as served:
        eventually(lambda: b"shadow_loaded 1.0" in get(f"{served.url}/metrics", key)[1], "it is loaded")

        assert main(["shadow", "--url", served.url]) == 1
        assert "give the file that holds one, --key-file FILE" in capsys.readouterr().err
        assert main(["shadow", "--url", served.url, "--key-file", str(tmp_path / "key")]) == 0

    assert "no query was compared yet" in capsys.readouterr().out


def test_a_shadow_that_is_not_there_is_named_and_harms_nobody(tmp_path: Path, capsys: Captured) -> None:
    settings = toy_pair(tmp_path) | {"SHADOW_MODEL_PATH": str(tmp_path / "nowhere")}
    with Served(settings) as served:
        eventually(lambda: shadow(served)["error"], "the report names it")

        assert f"Model file not found: {tmp_path}/nowhere/manifest.json" in shadow(served)["error"]
        assert (served.status("/health/ready"), served.ask("coding").status_code) == (200, 200)
        assert served.metric("query_gateway_shadow_refused") == 1
        refused = eventually(
            lambda: [line for line in served.lines() if line["event"] == "shadow_not_loaded"], "and the log"
        )
        assert refused[0]["setting"] == "SHADOW_MODEL_PATH"
        assert main(["shadow", "--url", served.url]) == 1

        make_toy(tmp_path / "nowhere", name="second")
        eventually(lambda: shadow(served)["loaded"], "it is taken up as soon as it is there")
        assert served.metric("query_gateway_shadow_refused") == 0


def test_a_shadow_that_is_swapped_is_the_next_one_and_counts_anew(tmp_path: Path) -> None:
    settings = toy_pair(tmp_path)
    make_toy(tmp_path / "next", limits=LIMITS | {"tail_chars_max": 101})
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "shadow")
    with Served(settings | {"SHADOW_MODEL_PATH": str(link)}) as served:
        eventually(lambda: shadow(served)["loaded"], "the first is loaded")
        first = shadow(served)["version"]
        served.ask("coding")
        eventually(lambda: shadow(served)["compared"] == 1, "it was compared")

        (tmp_path / "new").symlink_to(tmp_path / "next")
        os.replace(tmp_path / "new", link)

        eventually(lambda: shadow(served)["version"] not in (first, None), "the next is the shadow")
        assert shadow(served)["compared"] == 0


def test_a_shadow_that_breaks_on_disk_leaves_the_one_before_it(tmp_path: Path) -> None:
    settings = toy_pair(tmp_path)
    with Served(settings) as served:
        eventually(lambda: shadow(served)["loaded"], "it is loaded")

        (tmp_path / "shadow" / "model.onnx").write_bytes(b"rubbish")
        eventually(lambda: shadow(served)["error"], "the report says what is wrong")
        served.ask("coding")

        eventually(lambda: shadow(served)["compared"] == 1, "the one before it still scores")


def test_a_new_model_in_service_begins_the_comparison_anew(tmp_path: Path) -> None:
    with Served(toy_pair(tmp_path)) as served:
        eventually(lambda: shadow(served)["loaded"], "the shadow is loaded")
        served.ask("coding")
        eventually(lambda: shadow(served)["compared"] == 1, "it was compared")
        before = served.deep()["checks"]["model"]["version"]

        change(tmp_path / "model", limits=LIMITS | {"tail_chars_max": 101})

        eventually(lambda: served.deep()["checks"]["model"]["version"] != before, "the next is in service")
        assert shadow(served)["compared"] == 0
        served.ask("coding")
        eventually(lambda: shadow(served)["compared"] == 1, "and is compared with the same shadow")


def test_without_a_shadow_there_is_no_series_about_one(gateway: Served, capsys: Captured) -> None:
    assert b"shadow" not in get(f"{gateway.url}/metrics")[1]
    assert gateway.deep()["checks"]["shadow"] is None

    assert main(["shadow", "--url", gateway.url]) == 1
    assert "SHADOW_MODEL_PATH names its model" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "ftp://127.0.0.1", "/etc/passwd"])
def test_the_command_says_whom_it_cannot_reach(url: str, capsys: Captured) -> None:
    assert main(["shadow", "--url", url]) == 1

    assert url in capsys.readouterr().err
