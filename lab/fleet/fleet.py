"""Gateways behind HAProxy, with Redis behind them: real processes on loopback, each ended with its block.

HAProxy runs `integrations/haproxy/balance.cfg` as it stands there, but for the addresses.
"""

import contextlib
import csv
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from lab.launch import KEPT, ROOT, NotStarted, Served, Server, eventually, free_port, scrape
from lab.metrics import Metrics
from lab.pages import Skipped

RECIPE = ROOT / "integrations/haproxy/balance.cfg"
LISTENER = "127.0.0.1:8000"
GATEWAYS = ("127.0.0.1:8081", "127.0.0.1:8082", "127.0.0.1:8083")
# One model run at a time: an instance of one CPU, as it is deployed.
SETTINGS = {"LANES": "1"}


class Member:
    """One gateway at an address of its own, which may be ended and started again.

    Its MODEL_PATH is a symlink, as where Kubernetes mounts a volume.
    """

    def __init__(self, name: str, folder: Path, settings: Mapping[str, str]) -> None:
        self.name = name
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._link = folder / f"model-{name}"
        self._settings = dict(settings) | {"PORT": str(self.port), "MODEL_PATH": str(self._link)}
        self._served: Served | None = None

    @property
    def served(self) -> Served:
        assert self._served is not None, f"{self.name} does not run"
        return self._served

    @property
    def running(self) -> bool:
        return self._served is not None

    def lead(self, model: Path) -> None:
        """Point the symlink at a model, in one step; who runs takes it up within 10 s, or on SIGHUP."""
        made = self._link.with_suffix(".new")
        made.symlink_to(model)
        made.replace(self._link)

    def start(self, *, wait: bool = True) -> None:
        served = Served(self._settings, patient=False, wait_for="/health/ready" if wait else None)
        self._served = served.__enter__()

    def tell(self, number: signal.Signals) -> None:
        self.served.process.send_signal(number)

    def drain(self) -> float:
        """SIGTERM, and the seconds until it has ended with 0."""
        began = time.monotonic()
        code = self.served.terminate()
        took_s = time.monotonic() - began
        assert code == 0, f"{self.name} ended with {code}:\n{self.served.text()}"
        self.end()
        return took_s

    def end(self) -> None:
        """Kill it, if it runs."""
        if self._served is not None:
            self._served.__exit__()
            self._served = None


class Fleet:
    """Members behind one HAProxy. Use as a context manager."""

    def __init__(
        self,
        folder: Path,
        model: Path,
        *,
        redis_url: str = "",
        gateways: int = 3,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """`settings` of every gateway, beside those that make it an instance of one CPU."""
        all_of_them = SETTINGS | ({"REDIS_URL": redis_url} if redis_url else {}) | dict(settings or {})
        self.members = [Member(str(number + 1), folder, all_of_them) for number in range(gateways)]
        self._folder = folder
        self._model = model

    def __enter__(self) -> "Fleet":
        program = shutil.which("haproxy", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
        if program is None:
            raise Skipped("there is no haproxy: apt-get install haproxy")
        with contextlib.ExitStack() as stack:
            for member in self.members:
                member.lead(self._model)
                stack.callback(member.end)
                member.start()
            self.port = free_port()
            recipe = self._folder / "balance.cfg"
            recipe.write_text(recipe_for(self.port, [member.port for member in self.members]))
            # A second file: what only this run needs, to ask HAProxy what it thinks.
            self._control = self._folder / "haproxy.sock"
            control = self._folder / "control.cfg"
            control.write_text(f"global\n    stats socket {self._control} mode 600\n")
            environ = {name: value for name, value in os.environ.items() if name in KEPT}
            self.proxy = stack.enter_context(
                Server(
                    [program, "-f", str(recipe), "-f", str(control), "-db"], port=self.port, environ=environ
                )
            )
            self.wait_up()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def urls(self) -> list[str]:
        return [member.url for member in self.members if member.running]

    def counted(self) -> Metrics:
        """What all running members count, in sum."""
        found = scrape(self.urls)
        assert found is not None, "a member does not tell its metrics"
        return found

    def seen(self) -> dict[str, dict[str, str]]:
        """What HAProxy knows of each member, by the member's name; and of them together, as `BACKEND`."""
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(5)
            control.connect(str(self._control))
            control.sendall(b"show stat gateways -1 -1\n")
            told = b"".join(iter(lambda: control.recv(65536), b"")).decode()
        rows = csv.DictReader(told.removeprefix("# ").splitlines())
        return {row["svname"].removeprefix("gateway-"): row for row in rows if row["pxname"] == "gateways"}

    def up(self, member: Member) -> bool:
        """Whether HAProxy sends queries there."""
        return self.seen()[member.name]["status"].startswith("UP")

    def wait_up(self, *, within_s: float = 20.0) -> None:
        def all_up() -> bool:
            if self.proxy.process.poll() is not None:
                raise NotStarted(f"HAProxy ended:\n{self.proxy.text()}")
            with contextlib.suppress(OSError):  # its control socket comes a moment after its port
                return all(self.up(member) for member in self.members)
            return False

        eventually(all_up, "HAProxy sees all", within_s=within_s)

    def noticed_s(self, member: Member, up: bool, *, within_s: float = 20.0) -> float:
        """How long until HAProxy sees that a member is up, or is not."""
        began = time.monotonic()
        eventually(lambda: self.up(member) is up, f"HAProxy sees {member.name}", within_s=within_s)
        return time.monotonic() - began


def recipe_for(listener: int, gateways: Sequence[int]) -> str:
    """The recipe with these ports for its own; gateways that it has and we have not are left out."""
    lines = []
    for line in RECIPE.read_text(encoding="utf-8").splitlines():
        address = next((address for address in GATEWAYS if f" {address} " in f"{line} "), None)
        if address is None:
            lines.append(line.replace(LISTENER, f"127.0.0.1:{listener}"))
        elif (place := GATEWAYS.index(address)) < len(gateways):
            lines.append(line.replace(address, f"127.0.0.1:{gateways[place]}"))
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Whoever ends us ends what we started, too."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before: Callable[[int, FrameType | None], object] | int | None = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
