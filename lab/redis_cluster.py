"""A real Redis Cluster on loopback: made, resharded, failed over, and none of its processes left behind."""

import asyncio
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Coroutine, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import redis
from redis.crc import key_slot

from lab.launch import eventually, free_port
from lab.redis_server import RedisServer
from lab.slow_proxy import SlowProxy

SLOTS = 16384


class Node(NamedTuple):
    """What CLUSTER NODES says of one server. `primary_id` is empty for a primary; slots are pairs, both ends included."""

    node_id: str
    port: int
    flags: frozenset[str]
    primary_id: str
    slots: tuple[tuple[int, int], ...]

    @property
    def failed(self) -> bool:
        return "fail" in self.flags

    def holds(self, slot: int) -> bool:
        return any(first <= slot <= last for first, last in self.slots)


class RedisCluster:
    """Redis servers in cluster mode: `shards` primaries, each with `replicas`. Use as a context manager, or start it.

    options          for every server, as redis-server takes them
    password         of every server; none where it is empty
    tls              files `ca`, `cert` and `key`: the servers' only way in is then TLS, with a client's certificate
    node_timeout_ms  after which the servers take one of them for lost. A fail-over takes about twice that
    divisible        whether `cut_off` works: the servers then talk to one another through proxies
    Raises `FileNotFoundError` where there is no redis-cli, which makes the cluster.
    """

    def __init__(
        self,
        folder: Path,
        *options: str,
        shards: int = 3,
        replicas: int = 1,
        password: str = "",
        node_timeout_ms: int = 1000,
        tls: Mapping[str, Path] | None = None,
        divisible: bool = False,
    ) -> None:
        self._cli = cli()
        self._shards = shards
        self._replicas = replicas
        self.password = password
        self._options = [
            *("--cluster-enabled", "yes", "--cluster-node-timeout", str(node_timeout_ms)),
            # A lost shard costs its own keys alone; and what was lost comes back as a replica at once.
            *("--cluster-require-full-coverage", "no", "--repl-diskless-sync-delay", "0"),
            *options,
        ]
        if password:
            self._options += ["--requirepass", password, "--masterauth", password]
        self.tls = tls
        if tls:
            self._options += ["--tls-cluster", "yes", "--tls-replication", "yes", "--tls-auth-clients", "yes"]
            for option, file in (("cert-file", "cert"), ("key-file", "key"), ("ca-cert-file", "ca")):
                self._options += [f"--tls-{option}", str(tls[file])]
        self.folder = folder
        self.servers: list[RedisServer] = []
        self._tls_ports: dict[int, int] = {}

        self._bus = Bus() if divisible else None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """As `REDIS_URL` takes it; it names the first three servers."""
        entry = f":{self.password}@" if self.password else ""
        places = ",".join(f"127.0.0.1:{self.port(server)}" for server in self.servers[:3])
        return f"redis{'s' if self.tls else ''}+cluster://{entry}{places}"

    def port(self, server: RedisServer) -> int:
        """At which the cluster reaches a server, and says that it is reached."""
        return self._tls_ports.get(server.port, server.port)

    def start(self) -> None:
        """Start the servers and make a cluster of them; returns when every key has a primary, and that a replica."""
        for _ in range(self._shards * (1 + self._replicas)):
            self.add_server()
        self.create()

    def add_server(self) -> RedisServer:
        """Start a server that belongs to no cluster yet."""
        # Their talk among themselves would else take the port 10,000 higher, which may not exist.
        bus_port = free_port()
        ports = ["--cluster-port", str(bus_port)]
        if self._bus:
            ports += self._bus.add(bus_port)
        if self.tls:
            ports += ["--tls-port", str(free_port())]
        server = RedisServer(self.folder, *self._options, *ports)
        if self.tls:
            self._tls_ports[server.port] = int(ports[-1])
        server.password = self.password or None
        server.start()
        self.servers.append(server)
        return server

    def create(self) -> None:
        self.cli(
            *("--cluster", "create", *(f"127.0.0.1:{self.port(server)}" for server in self.servers)),
            *("--cluster-replicas", str(self._replicas), "--cluster-yes"),
        )
        eventually(self.whole, "a whole cluster", within_s=60)

    def stop(self) -> None:
        for server in self.servers:
            server.kill()
        if self._bus:
            self._bus.stop()

    def cut_off(self, server: RedisServer | None) -> None:
        """Let one server and the others not hear from one another; clients reach all. None: all hear one another again."""
        assert self._bus is not None, "the cluster is not divisible"
        self._bus.cut_off(None if server is None else self.servers.index(server))

    def cli(self, *arguments: str) -> str:
        """What redis-cli prints. Raises `AssertionError` with it where it failed."""
        secret = {"REDISCLI_AUTH": self.password} if self.password else {}
        entry: list[str | Path] = []
        if self.tls:
            entry = [
                "--tls",
                "--cacert",
                self.tls["ca"],
                "--cert",
                self.tls["cert"],
                "--key",
                self.tls["key"],
            ]
        told = subprocess.run(
            [self._cli, *entry, *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**os.environ, **secret},
        )
        if told.returncode or "[ERR]" in told.stdout:
            raise AssertionError(f"redis-cli {' '.join(arguments)}: {told.stdout[-2000:]}{told.stderr}")
        return told.stdout

    def server(self, port: int) -> RedisServer:
        """Whom the cluster reaches at a port."""
        return next(server for server in self.servers if self.port(server) == port)

    def nodes(self, asked: RedisServer | None = None) -> list[Node]:
        """The cluster as one of its servers sees it; as the first that answers does when none is named."""
        for server in [asked] if asked else [one for one in self.servers if one.running]:
            try:
                told = server.admin.execute_command("CLUSTER NODES")  # type: ignore[no-untyped-call]
            except redis.exceptions.RedisError:
                server.forget()
                continue
            return [_node(place, facts) for place, facts in told.items()]
        raise AssertionError("no server of the cluster answers")

    def primaries(self) -> list[Node]:
        """Those that hold slots and are not lost, by their first slot."""
        found = [node for node in self.nodes() if node.slots and not node.failed]
        return sorted(found, key=lambda node: node.slots)

    def holder(self, key: bytes | str) -> RedisServer:
        """The primary of a key."""
        slot = key_slot(key.encode() if isinstance(key, str) else key)
        return self.server(next(node.port for node in self.primaries() if node.holds(slot)))

    def whole(self) -> bool:
        """Whether all running servers agree that every slot has a primary, and every primary its replicas, in step."""
        views = []
        for server in self.servers:
            if not server.running:
                continue
            try:
                nodes = self.nodes(server)
                link = server.facts("replication").get("master_link_status", "up")
                state = server.admin.cluster("INFO")["cluster_state"]
            except (redis.exceptions.RedisError, AssertionError):
                server.forget()
                return False
            primaries = [node for node in nodes if node.slots and not node.failed]
            replicas = sum(1 for node in nodes if node.primary_id and not node.failed)
            covered = sum(last - first + 1 for node in primaries for first, last in node.slots)
            if (state, link, covered) != ("ok", "up", SLOTS):
                return False
            if replicas < self._replicas * self._shards or any(
                "handshake" in node.flags or "fail?" in node.flags for node in nodes
            ):
                return False
            views.append(sorted((node.node_id, node.slots) for node in primaries))
        return bool(views) and all(view == views[0] for view in views)

    def reshard(self, slots: int, *, source: Node, target: Node) -> None:
        """Move slots with their keys from one primary to another, as an operator does it; returns when they have moved."""
        self.cli(
            *("--cluster", "reshard", f"127.0.0.1:{target.port}", "--cluster-slots", str(slots)),
            *("--cluster-from", source.node_id, "--cluster-to", target.node_id, "--cluster-yes"),
        )

    def entries(self) -> list[bytes]:
        """Keys of entries on all primaries."""
        return [key for node in self.primaries() for key in self.server(node.port).entries()]


class Bus:
    """The servers' talk among themselves, through a proxy before each, so that one can be cut off.

    Each server calls from an address of its own, so that a proxy knows whose call it is.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._proxies: list[SlowProxy] = []
        self._lone: int | None = None

    def add(self, port: int) -> list[str]:
        """Put a proxy before the next server's port; the options that its redis-server needs."""
        number = len(self._proxies)
        proxy = SlowProxy(
            port, refuses=lambda peer: self._lone in (number, int(peer.rpartition(".")[2]) - 10)
        )
        self._proxies.append(proxy)
        self._do(proxy.start())
        # fmt: off
        return [
            "--cluster-announce-bus-port", str(proxy.port), "--cluster-announce-ip", "127.0.0.1",
            "--bind-source-addr", f"127.0.0.{number + 10}", "--protected-mode", "no", "--bind", "127.0.0.1",
        ]
        # fmt: on

    def cut_off(self, number: int | None) -> None:
        self._lone = number
        for proxy in self._proxies:
            self._do(proxy.hang_up())

    def stop(self) -> None:
        for proxy in self._proxies:
            self._do(proxy.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)


def cli() -> str:
    """redis-cli from the system. Raises `FileNotFoundError`."""
    own = str(Path(sys.executable).parent)
    system = [place for place in os.environ.get("PATH", "").split(os.pathsep) if place != own]
    if found := shutil.which("redis-cli", path=os.pathsep.join(system)):
        return found
    raise FileNotFoundError("there is no redis-cli on the PATH")


def _node(place: str, facts: dict[str, str | list[list[str]]]) -> Node:
    """One server of CLUSTER NODES, as redis-py reads it."""
    primary = str(facts["master_id"])
    return Node(
        node_id=str(facts["node_id"]),
        port=int(place.rpartition(":")[2]),
        flags=frozenset(str(facts["flags"]).split(",")),
        primary_id="" if primary == "-" else primary,
        slots=tuple((int(pair[0]), int(pair[-1])) for pair in facts["slots"]),
    )
