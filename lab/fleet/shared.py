"""The level that all gateways share: a Redis Cluster that stands in two zones."""

import contextlib
from pathlib import Path

import redis

from lab.fleet.fleet import Member
from lab.launch import eventually
from lab.pages import Skipped
from lab.redis_cluster import RedisCluster
from lab.redis_server import RedisServer

HEALS_WITHIN_S = 30.0


class Shared:
    """Three primaries, a replica each. Use as a context manager. Raises `Skipped` where there is no Redis.

    In the first zone stand one primary and the replicas of the other two, so that the primaries that are left
    are the majority which a fail-over takes.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self._cluster = RedisCluster(folder)
        except FileNotFoundError as why:
            raise Skipped(f"{why}: apt-get install redis-server") from None
        self.what = "a Redis Cluster of six processes"
        self._lost: list[RedisServer] = []

    def __enter__(self) -> "Shared":
        self._cluster.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.stop()

    @property
    def url(self) -> str:
        return self._cluster.url

    @property
    def cpu_s(self) -> float:
        """CPU seconds of all its servers."""
        facts = [server.facts("cpu") for server in self._cluster.servers if server.running]
        return sum(float(fact["used_cpu_user"] + fact["used_cpu_sys"]) for fact in facts)

    def lose_zone(self) -> str:
        """Kill what stands in the first zone; says what that was."""
        nodes = self._cluster.nodes()
        primary = self._cluster.primaries()[0]
        replicas = [node for node in nodes if node.primary_id and node.primary_id != primary.node_id]
        self._lost = [self._cluster.server(node.port) for node in (primary, *replicas)]
        for server in self._lost:
            server.kill()
        return f", and of Redis one primary of three with {len(replicas)} replicas of the others"

    def regain_zone(self) -> None:
        """Have it back, as replicas of whoever took over."""
        for server in self._lost:
            server.start()
        eventually(self._cluster.whole, "a whole cluster", within_s=HEALS_WITHIN_S)
        self._lost = []

    def covered(self) -> bool:
        """Whether every slot has a primary that runs."""
        with contextlib.suppress(AssertionError, redis.exceptions.RedisError):
            primaries = self._cluster.primaries()
            return len(primaries) == 3 and all(self._cluster.server(node.port).running for node in primaries)
        return False

    def serves(self, member: Member) -> bool:
        """Whether this gateway is served by it."""
        return bool(member.served.metric("query_gateway_l2_healthy"))
