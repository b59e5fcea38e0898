"""One server process on loopback: started, asked, watched and always ended.

`Served` is a gateway; `Server` is whatever else is measured beside one. Importing this
module takes the standard library alone, since locust's environment has little else.
"""

import contextlib
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast

from lab.metrics import Metrics

if TYPE_CHECKING:
    import httpx
    import psutil

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "models" / "quantized"
CLASSIFY = "/v1/query-classify"
# However slow the machine of a test is, only a test that is about shedding may shed.
UNHURRIED = {"QUEUE_MIN": "1024"}
# The gateway that users get, installed by scripts/install.sh.
INSTALLED = (str(ROOT / ".venv" / "bin" / "query-gateway"), "serve")
KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH")
READY_WITHIN_S = 60.0  # a start takes half a second of processor, of which a busy machine gives little
END_WITHIN_S = 15.0


class NotStarted(Exception):
    """The process ended, or never answered; the message holds its log."""


# Below what the kernel gives to outgoing connections, which would take a port between our look and its use.
PORTS = range(12_000, 32_000)
_given: set[int] = set()


def free_port() -> int:
    """A port of loopback that nobody listens on, and that this process was not given before."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                if port not in _given:
                    _given.add(port)
                    return port


def eventually(holds: Callable[[], Any], what: str, *, within_s: float = 20.0) -> Any:
    """Poll until `holds` is true; fail with `what` when it never is."""
    end = time.monotonic() + within_s
    while True:
        if result := holds():
            return result
        if time.monotonic() > end:
            raise AssertionError(f"not within {within_s} s: {what}")
        time.sleep(0.02)


def get(url: str, key: str = "") -> tuple[int, bytes]:
    """Status and body of one GET, past any proxy. Raises `OSError` where nobody answers."""
    request = urllib.request.Request(url, headers={"x-api-key": key} if key else {})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=5) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read()


def answers(url: str) -> bool:
    """Whether a GET of this URL is answered with 200."""
    try:
        return get(url)[0] == 200
    except OSError:
        return False


def scrape(urls: Sequence[str], key: str = "") -> Metrics | None:
    """What these gateways count, in sum; None where one does not tell."""
    found = []
    for url in urls:
        try:
            status, body = get(f"{url}/metrics", key)
        except OSError:
            return None
        if status != 200:
            return None
        found.append(body.decode())
    return Metrics.read(found)


def open_files_max() -> int:
    """As many open files as we are allowed; a gateway that we start inherits it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


class Cpus(NamedTuple):
    """Who runs where. On one CPU they share it, and the figures are of both."""

    gateway: Sequence[int]
    driver: Sequence[int]


def cpus() -> Cpus:
    usable = sorted(os.sched_getaffinity(0))
    return Cpus(usable[:-1] or usable, usable[-1:])


@contextlib.contextmanager
def apart() -> Iterator[Cpus]:
    """Keep this process, and what it starts unasked, to the driver's CPU for as long as the block lasts.

    Its threads too, such as those of servers that run in it.
    """
    split = cpus()
    threads = {int(name): os.sched_getaffinity(int(name)) for name in os.listdir("/proc/self/task")}
    for thread in threads:
        _move(thread, split.driver)
    try:
        yield split
    finally:
        for thread, before in threads.items():
            _move(thread, before)


def _move(thread: int, to: Iterable[int]) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
        os.sched_setaffinity(thread, to)


@contextlib.contextmanager
def pinned(to: Sequence[int]) -> Iterator[None]:
    """Keep this process to these CPUs for as long as the block lasts; none given: where it is."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, to or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """A signal that comes during the block is handled at its end.

    A process is there a moment before `Popen` returns it; an interrupt just then would leave nobody
    who could end it. What is started keeps the default handlers.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    ours = threading.current_thread() is threading.main_thread()  # no other thread is interrupted
    handlers = {
        number: handler for number in numbers if ours and callable(handler := signal.getsignal(number))
    }
    came: list[int] = []
    for number in handlers:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for late in came:
            signal.raise_signal(late)


class Server:
    """A process that listens on a port of 127.0.0.1. Use as a context manager.

    It leads a process group of its own: a Ctrl-C at the terminal is for who started it, and
    whatever it started ends with it. No session of its own: where the kernel shares the CPU out
    by sessions, who drives and who is driven would not be on one footing.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        port: int,
        environ: Mapping[str, str],
        wait_for: str | None = "",
        cpus: Sequence[int] = (),
    ) -> None:
        """
        wait_for  the path that must answer 200; empty: the port must listen; None: nothing
        cpus      the CPUs that it may use, from its first moment; none: all of ours
        """
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._command = list(command)
        self._environ = dict(environ)
        self._wait_for = wait_for
        self._cpus = cpus

    def __enter__(self) -> Self:
        self._log = tempfile.TemporaryFile("w+")
        try:
            with pinned(self._cpus), signals_held():
                self.process = subprocess.Popen(
                    self._command,
                    cwd=ROOT,
                    env=self._environ,
                    stdout=self._log,
                    stderr=subprocess.STDOUT,
                    process_group=0,
                )
            self._wait_ready()
        except FileNotFoundError:
            self._log.close()
            raise NotStarted(f"there is no {self._command[0]}") from None
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._log.close()

    def _wait_ready(self) -> None:
        if self._wait_for is None:
            return
        end = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise NotStarted(f"the process ended with {self.process.returncode}:\n{self.text()}")
            if answers(self.url + self._wait_for) if self._wait_for else self.listens():
                return
            time.sleep(0.02)
        raise NotStarted(
            f"not within {READY_WITHIN_S:g} s: {self._wait_for or 'it listens'}; log:\n{self.text()}"
        )

    def listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def terminate(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=END_WITHIN_S)

    def text(self) -> str:
        """All that it wrote to its standard streams."""
        # Not by the file's own position, which the process shares: what it writes meanwhile would land there.
        file = self._log.fileno()
        return os.pread(file, os.fstat(file).st_size, 0).decode(errors="replace")

    # What it uses.

    @property
    def usage(self) -> "psutil.Process":
        """The process itself, also where a command such as `unshare` stands before it."""
        import psutil

        parent = psutil.Process(self.process.pid)
        return (parent.children(recursive=True) or [parent])[-1]

    @property
    def cpu_s(self) -> float:
        times = self.usage.cpu_times()
        return float(times.user + times.system)

    @property
    def memory_mb(self) -> float:
        return float(self.usage.memory_info().rss) / 1e6

    @contextlib.contextmanager
    def sampled_memory(self) -> Iterator[list[float]]:
        """Resident megabytes twice a second, for as long as the block lasts."""
        samples, over = [self.memory_mb], threading.Event()

        def sample() -> None:
            while not over.wait(0.5):
                samples.append(self.memory_mb)

        sampler = threading.Thread(target=sample)
        sampler.start()
        try:
            yield samples
        finally:
            over.set()
            sampler.join()


class Served(Server):
    """A gateway, as `python -m handler serve` starts it."""

    def __init__(
        self,
        settings: Mapping[str, str] | None = None,
        *,
        wait_for: str | None = "/health/ready",
        fault: str = "",
        wrapped_in: Sequence[str] = (),
        command: Sequence[str] = (sys.executable, "-m", "handler", "serve"),
        cpus: Sequence[int] = (),
        patient: bool = True,
        inherits: bool = False,
    ) -> None:
        """
        fault       what `lab.faulty` shall break
        wrapped_in  a command to start the gateway with, such as `setpriv …`
        patient     nothing is refused for the time that it would have to wait
        inherits    settings come from our environment too
        """
        settings = dict(settings or {})
        port = int(settings.get("PORT") or free_port())
        # Nothing of the tester's own environment may turn a knob, unless it is asked for.
        environ = dict(os.environ) if inherits else {k: v for k, v in os.environ.items() if k in KEPT}
        if not inherits:
            environ["MODEL_PATH"] = str(MODEL)
        environ |= {"HOST": "127.0.0.1"} | (UNHURRIED if patient else {}) | settings | {"PORT": str(port)}
        if fault:
            command = (sys.executable, "-m", "lab.faulty")
            environ["FAULT"] = fault
        super().__init__([*wrapped_in, *command], port=port, environ=environ, wait_for=wait_for, cpus=cpus)
        self._own = threading.local()
        self._clients: list[httpx.Client] = []

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.close()
        super().__exit__()

    @property
    def client(self) -> "httpx.Client":
        """A client of the calling thread's own: httpx's pool is not safe to share between threads."""
        import httpx

        if not hasattr(self._own, "client"):
            self._own.client = httpx.Client(base_url=self.url, timeout=20.0, trust_env=False)
            self._clients.append(self._own.client)
        return cast("httpx.Client", self._own.client)

    def ask(self, text: str, **headers: str) -> "httpx.Response":
        return self.client.post(CLASSIFY, json={"text": text}, headers=headers)

    def send(self, body: bytes, **headers: str) -> "httpx.Response":
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(CLASSIFY, content=body, headers={"content-type": "application/json", **named})

    def status(self, path: str) -> int:
        return get(self.url + path)[0]

    def deep(self) -> dict[str, Any]:
        """The report of `/health/deep`."""
        report: dict[str, Any] = json.loads(get(f"{self.url}/health/deep")[1])
        return report

    def metric(self, name: str, **labels: str) -> float:
        """A series by its full name and labels, or the sum of a name's series; 0 where there is none."""
        return Metrics.read([get(f"{self.url}/metrics")[1].decode()]).total(name, **labels)

    def lines(self) -> list[dict[str, Any]]:
        """The log so far. A line is written a moment after it is logged, so wait for what must be there."""
        return [json.loads(line) for line in self.text().splitlines()]

    def events(self) -> list[str]:
        return [line["event"] for line in self.lines()]
