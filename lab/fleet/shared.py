"""The level that all gateways share: a Redis Cluster over two zones, or none."""

from pathlib import Path

from lab.fleet.fleet import Member
from lab.redis_server import RedisServer


class Shared:
    """One Redis, in the zone that stays. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        self._server = RedisServer(folder)
        self.url = self._server.url
        self.what = "one Redis"

    def __enter__(self) -> "Shared":
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.kill()

    @property
    def cpu_s(self) -> float:
        facts = self._server.facts("cpu")
        return float(facts["used_cpu_user"] + facts["used_cpu_sys"])

    def lose_zone(self) -> str:
        """Lose what stands in the first zone; says what that was."""
        return ""

    def regain_zone(self) -> None:
        """Have it back."""

    def serves(self, member: Member) -> bool:
        """Whether this gateway is served by it."""
        return bool(member.served.metric("query_gateway_l2_healthy"))
