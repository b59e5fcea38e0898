"""Every way to reach a Redis Cluster, against real ones; redirections of every kind; and what must be refused."""

import asyncio
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot

from handler.cli import FAILED, main
from handler.entries import key
from handler.model import read_manifest
from handler.redis_cluster import PATIENCE_S, View, open_cluster, read_place
from handler.redis_url import read
from handler.shard import Elsewhere, LinkError
from lab.launch import ROOT, eventually
from lab.redis_cluster import Node, RedisCluster
from lab.redis_server import RedisServer
from tests.l2.certificates import certificates, unavailable
from tests.l2.rig import SCORES, name, running, scores, written

# What an ACL user needs beside docs/cache.md's rights for a single Redis.
ACL = "on >hunter2 ~qg:* -@all +ping +hello +mget +set +dbsize +select +asking +cluster|slots +cluster|info"


def started(folder: Path, **more: Any) -> RedisCluster:
    try:
        return RedisCluster(folder, **more)
    except FileNotFoundError as why:
        unavailable(str(why))
        raise


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    with started(tmp_path_factory.mktemp("cluster"), password="hunter2") as made:
        yield made


@pytest.fixture(autouse=True)
def emptied(request: pytest.FixtureRequest) -> None:
    if "cluster" in request.fixturenames:
        made: RedisCluster = request.getfixturevalue("cluster")
        for node in made.primaries():
            made.server(node.port).admin.flushall()


async def works(url: str, **files: str) -> bool:
    """Find the servers, write and read on all of them."""
    made = open_cluster(read(url), **files)
    await made.look()
    right = made.trouble is None and len(made.holders) == 3
    for holder in made.holders:
        mine = [
            entry for entry in (b"qg:1:%d" % number for number in range(60)) if made.holder(entry) == holder
        ]
        link = made.link(holder)
        await link.greet()
        right &= await link.set_many([(entry, entry) for entry in mine], ttl_s=60) == [None] * len(mine)
        right &= await link.get_many([*mine, link.probe]) == [*mine, None]
        await link.close()
    return right


async def refusal(url: str, **files: str) -> LinkError:
    """How looking fails."""
    with pytest.raises(LinkError) as caught:
        await open_cluster(read(url), **files).look()
    return caught.value


async def test_a_cluster_works(cluster: RedisCluster) -> None:
    assert await works(cluster.url)


async def test_one_server_that_answers_is_enough_to_find_the_others(cluster: RedisCluster) -> None:
    assert await works(f"redis+cluster://:hunter2@127.0.0.1:1,127.0.0.1:{cluster.servers[4].port}")


async def test_when_nobody_known_answers_the_urls_servers_are_asked_again(cluster: RedisCluster) -> None:
    made = open_cluster(read(cluster.url))
    made._known = [("127.0.0.1", 1), ("127.0.0.1", 2)]

    await made.look()

    assert made.trouble is None
    # A replica that has been sent nothing yet is not told of.
    assert {node.port for node in cluster.primaries()} <= {port for _, port in made._known}


async def test_a_server_that_hangs_holds_nobody_up(cluster: RedisCluster) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        made = open_cluster(read(f"{cluster.url},127.0.0.1:{silent.getsockname()[1]}"))

        async with asyncio.timeout(5 * PATIENCE_S):
            await made.look()

    assert made.trouble is None


def test_the_view_of_the_latest_change_is_believed_unless_its_server_is_cut_off() -> None:
    everything = ((0, 16383, (("a", 1),)),)
    cut_off, old, new = View(False, 9, everything), View(True, 7, everything), View(True, 8, everything)

    assert max([old, cut_off, new], key=lambda view: view.weight) is new
    assert max([View(True, 8, ()), new], key=lambda view: view.weight) is new


@pytest.mark.parametrize("told", [None, b"", b"?"])
def test_a_server_that_does_not_know_its_own_name_is_where_it_was_asked(told: bytes | None) -> None:
    assert read_place([told, 7000, b"id"], asked=("cache.example", 6379)) == ("cache.example", 7000)


async def test_an_acl_user_with_the_documented_rights_works(cluster: RedisCluster) -> None:
    for server in cluster.servers:
        server.admin.execute_command("ACL", "SETUSER", "gateway", *ACL.split())  # type: ignore[no-untyped-call]

    assert await works(cluster.url.replace("//:", "//gateway:"))


async def test_a_user_who_may_not_see_the_clusters_state_works(cluster: RedisCluster) -> None:
    rights = ACL.replace(" +cluster|info", "").split()
    for server in cluster.servers:
        server.admin.execute_command("ACL", "SETUSER", "few", *rights)  # type: ignore[no-untyped-call]

    assert await works(cluster.url.replace("//:", "//few:"))


async def test_a_wrong_password_is_told_as_such(cluster: RedisCluster) -> None:
    error = await refusal(cluster.url.replace("hunter2", "wrong"))

    assert error.kind == "auth"


async def test_servers_that_are_away_are_told_as_such() -> None:
    error = await refusal("redis+cluster://127.0.0.1:1,127.0.0.1:2")

    assert error.kind == "connection"


async def test_a_single_redis_taken_for_a_cluster_is_refused_in_plain_words(
    start_redis: Callable[..., RedisServer],
) -> None:
    error = await refusal(f"redis+cluster://127.0.0.1:{start_redis().port}")

    assert "write it as redis://" in str(error)


async def test_tls_works(tmp_path: Path) -> None:
    made = certificates(tmp_path, "ours")
    files = {name: str(made[name]) for name in ("ca", "cert", "key")}
    try:
        with started(tmp_path, tls=made, replicas=0) as cluster:
            assert await works(
                cluster.url, ca_file=files["ca"], cert_file=files["cert"], key_file=files["key"]
            )
            error = await refusal(cluster.url)
    except AssertionError:
        if "Bad directive" in logs(tmp_path):
            unavailable("this redis-server is built without TLS")
        raise
    assert error.kind == "tls"


def logs(folder: Path) -> str:
    return "".join(log.read_text() for log in folder.glob("redis-*/log"))


# What the shared cache level makes of it.


async def test_many_look_ups_at_once_are_one_round_trip_to_each_server(cluster: RedisCluster) -> None:
    async with running(open_cluster(read(cluster.url)), timeout_s=5) as rig:
        for i in range(250):
            rig.l2.put(name(i), scores(i))
        await asyncio.gather(*(written(rig, name(i)) for i in range(250)))
        asked = {node.port: calls(cluster.server(node.port), "mget") for node in cluster.primaries()}
        trips = rig.round_trips["get"]

        found = await asyncio.gather(*(rig.l2.get(name(i), 2) for i in range(250)))

        assert [one and one.scores for one in found] == [scores(i) for i in range(250)]
        assert rig.round_trips["get"] - trips == 3
        assert all(calls(cluster.server(port), "mget") > before for port, before in asked.items())


def calls(server: RedisServer, command: str) -> int:
    count: int = server.facts("commandstats")[f"cmdstat_{command}"]["calls"]
    return count


async def test_moved_keys_are_found_where_they_went(cluster: RedisCluster) -> None:
    async with running(open_cluster(read(cluster.url)), timeout_s=5) as rig:
        for i in range(200):
            rig.l2.put(name(i), scores(i))
        await asyncio.gather(*(written(rig, name(i)) for i in range(200)))
        source, target, _ = cluster.primaries()

        cluster.reshard(500, source=source, target=target)
        found = await asyncio.gather(*(rig.l2.get(name(i), 2) for i in range(200)))

        assert [one and one.scores for one in found] == [scores(i) for i in range(200)]


async def test_a_key_of_a_slot_that_is_on_its_way_is_found_on_either_side(cluster: RedisCluster) -> None:
    source, target, _ = cluster.primaries()
    stays, goes, new = in_one_slot(source, 3)
    async with running(open_cluster(read(cluster.url)), timeout_s=5) as rig:
        for entry in (stays, goes):
            rig.l2.put(entry, SCORES)
            await written(rig, entry)
        with on_its_way(cluster, source, target, goes):
            found = [await rig.l2.get(entry, 2) for entry in (stays, goes, new)]
            rig.l2.put(new, SCORES)
            await written(rig, new)
            there = cluster.server(target.port).entries()

    assert [one is not None for one in found] == [True, True, False]
    assert sorted(there) == sorted([goes, new])


def in_one_slot(node: Node, count: int) -> list[bytes]:
    """Names of entries that share a slot of a server."""
    slot = node.slots[0][0]
    tag = next(tag for tag in (b"{%d}" % number for number in range(200_000)) if key_slot(tag) == slot)
    return [b"qg:2:%012d:%s" % (number, tag) for number in range(count)]


class on_its_way:
    """While the block lasts the slot of a key is being moved, and that key has been already."""

    def __init__(self, cluster: RedisCluster, source: Node, target: Node, moved: bytes) -> None:
        self._from, self._to = cluster.server(source.port).admin, cluster.server(target.port).admin
        self._ids = (source.node_id, target.node_id)
        self._slot, self._moved, self._port = key_slot(moved), moved, target.port

    def __enter__(self) -> None:
        self._to.execute_command("CLUSTER SETSLOT", self._slot, "IMPORTING", self._ids[0])  # type: ignore[no-untyped-call]
        self._from.execute_command("CLUSTER SETSLOT", self._slot, "MIGRATING", self._ids[1])  # type: ignore[no-untyped-call]
        self._from.execute_command(  # type: ignore[no-untyped-call]
            "MIGRATE", "127.0.0.1", self._port, self._moved, 0, 1000, "AUTH", "hunter2"
        )

    def __exit__(self, *_: object) -> None:
        self._to.flushall()
        for side in (self._to, self._from):
            side.execute_command("CLUSTER SETSLOT", self._slot, "STABLE")  # type: ignore[no-untyped-call]


async def test_a_moved_slot_is_noted_from_the_first_answer_on(cluster: RedisCluster) -> None:
    made = open_cluster(read(cluster.url))
    await made.look()
    source, target, _ = cluster.primaries()
    entry = in_one_slot(source, 1)[0]
    wrong = made.link(f"127.0.0.1:{target.port}")

    answer = await wrong.get_many([entry])

    await wrong.close()
    assert answer == [Elsewhere(f"127.0.0.1:{source.port}", asking=False)]
    assert made.holder(entry) == f"127.0.0.1:{source.port}"


# The commands of query-gateway.


@pytest.fixture
def filled(
    cluster: RedisCluster, model: Path, other_model: Path, monkeypatch: pytest.MonkeyPatch
) -> RedisCluster:
    """700 entries of this model and 30 of another, all over the cluster, and a stranger's key."""
    this, other = (read_manifest(folder).version for folder in (model, other_model))
    names = [key(this, i.to_bytes(16, "big")) for i in range(700)]
    names += [key(other, i.to_bytes(16, "big")) for i in range(30)]
    nodes = cluster.primaries()
    for entry in [*names, b"stranger"]:
        holder = next(node.port for node in nodes if node.holds(key_slot(entry)))
        cluster.server(holder).admin.set(entry, "x")
    monkeypatch.setenv("REDIS_URL", cluster.url)
    monkeypatch.setenv("MODEL_PATH", str(model))
    return cluster


def keys_left(cluster: RedisCluster) -> int:
    return sum(cluster.server(node.port).admin.dbsize() for node in cluster.primaries())


def test_stats_count_on_all_servers(
    filled: RedisCluster, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["cache", "stats"])

    told = capsys.readouterr().out.splitlines()
    assert code == 0
    assert told[0] == f"model {read_manifest(model).version}: 700 entries (this model)"
    assert told[2:4] == ["all models: 730 entries", "keys in the database, whoever's they are: 731"]


def test_a_dry_run_counts_on_all_servers(filled: RedisCluster, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["cache", "flush", "--dry-run"])

    assert code == 0
    assert "would remove 700 entries" in capsys.readouterr().out
    assert keys_left(filled) == 731


def test_flush_removes_on_all_servers(filled: RedisCluster, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["cache", "flush"])

    assert code == 0
    assert "removed 700 entries" in capsys.readouterr().out
    assert keys_left(filled) == 31


def test_without_a_cluster_the_command_fails_and_says_why(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis+cluster://:hunter2@127.0.0.1:1")
    monkeypatch.setenv("MODEL_PATH", str(model))

    assert main(["cache", "stats"]) == FAILED
    told = capsys.readouterr().err
    assert "Connection refused" in told
    assert "hunter2" not in told


def test_check_takes_a_clusters_url(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis+cluster://ann:hunter2@one:7000,two")
    monkeypatch.setenv("MODEL_PATH", str(model))

    assert main(["check"]) == 0
    assert "hunter2" not in capsys.readouterr().out


# The commands of the runbook. These take servers away, and so come last.


def test_the_runbooks_commands_for_a_lost_shard_show_what_it_says(cluster: RedisCluster) -> None:
    lost, living, _ = cluster.primaries()
    replicas = {node.primary_id: node.port for node in cluster.nodes() if node.primary_id}
    for port in (replicas[lost.node_id], lost.port):
        cluster.server(port).kill()
    eventually(lambda: any(node.failed for node in cluster.nodes() if node.port == lost.port), "the loss")

    # 4 and 5
    assert re.search(rf":{lost.port}@.* master,fail ", typed(cluster, "cluster nodes", living.port))
    assert "Not all 16384 slots are covered" in typed(cluster, "--cluster check", living.port)
    # 6
    typed(cluster, "cluster failover takeover", replicas[living.node_id])
    eventually(
        lambda: replicas[living.node_id] in [node.port for node in cluster.primaries()], "the takeover"
    )
    # 7 and 8
    eventually(lambda: steady(cluster), "one view of who is who")
    typed(cluster, "--cluster fix", living.port)
    eventually(
        lambda: "All 16384 slots covered" in typed(cluster, "--cluster check", living.port), "the repair"
    )
    eventually(lambda: whole_without(cluster, lost), "the gateway's following")


def whole_without(cluster: RedisCluster, lost: Node) -> bool:
    """Whether a gateway that looks now finds a server for every key, and not the lost one."""
    made = open_cluster(read(cluster.url))
    asyncio.run(made.look())
    return made.trouble is None and f"127.0.0.1:{lost.port}" not in made.holders


def steady(cluster: RedisCluster) -> bool:
    """Whether all that live agree on who has which slots."""
    views = [
        sorted((node.port, node.slots) for node in cluster.nodes(server) if node.slots and not node.failed)
        for server in cluster.servers
        if server.running
    ]
    return all(view == views[0] for view in views)


def typed(cluster: RedisCluster, which: str, port: int) -> str:
    """Type the command of the runbook that has these words, at a server of this cluster."""
    page = (ROOT / "docs/runbook.md").read_text()
    lines = [
        line for block in re.findall(r"^```sh\n(.*?)^```", page, re.M | re.S) for line in block.splitlines()
    ]
    command = next(line for line in lines if "redis-cli" in line and which in line)
    done = subprocess.run(
        ["bash", "-c", re.sub(r"700[14]", str(port), command)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "REDISCLI_AUTH": cluster.password},
    )
    return done.stdout + done.stderr
