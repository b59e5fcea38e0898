"""A gateway's life as a process: put together, served, drained, ended.

Granian runs inside our own event loop and process, so that signals, readiness
and the listener are ours to put in order. Read `Process.run` first.
"""

import asyncio
import errno
import gc
import ipaddress
import logging
import os
import signal
import socket
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Thread
from time import monotonic
from typing import TYPE_CHECKING

from handler import __version__
from handler.batching import Batcher, Plan
from handler.cache import L1
from handler.gateway import Gateway
from handler.health import Health
from handler.keys import Keyring
from handler.l2 import L2
from handler.machine import raise_open_files, usable_cpus
from handler.policy import UnknownTask
from handler.settings import Settings, SettingsError
from handler.shelf import Shelf
from handler.telemetry import ForeignLines, Log, Telemetry

if TYPE_CHECKING:
    from granian.server.embed import Server

    from handler.model import Router

# A signal repeated within this time is the same one, sent to a whole process group.
SAME_SIGNAL_S = 1.0
# Cloud Run and `docker stop` kill after 10 s; a clean end must have happened by then.
DRAIN_MAX_S = 8.0
# How long the interpreter is kept by one thread while another waits for it: server, event loop and lanes
# hand queries to each other, and Python's own 5 ms add up in a flood (docs/decisions/0008).
THREAD_TURN_S = 0.001
# A start takes this long at most, with a model.
START_MAX_S = 5.0
# No model run takes this long: a lane that does hangs, and the process is not alive.
STALL_S = 10.0
# Connections, most of them idle, that one process accepts; fewer where it may not open as many
# files, since a gateway without a file left can answer nobody. `OTHER_FILES` are for all else.
CONNECTIONS_MAX = 16_384
OTHER_FILES = 128
# How often the files of keys are looked at.
KEYS_LOOK_S = 1.0
BACKLOG = 2048
SIZES = "Entries in a cache level; of L2, all keys in the Redis database."


def load_router(settings: Settings) -> "Router":
    """Open the model that the settings name. Blocks; raises `ModelError`."""
    from handler.model import load

    return load(settings.model_folder)


def open_keyring(name: str, given: str, file: str) -> Keyring | None:
    """The keys of a pair of settings; None when neither is set. Raises `SettingsError`."""
    if not given and not file:
        return None
    try:
        return Keyring(given, file)
    except OSError as exc:
        raise SettingsError(f"{name}_FILE: {file} cannot be read ({exc.strerror})") from None
    except ValueError as exc:
        raise SettingsError(f"{name}_FILE: {file}: {exc}") from None


class Process:
    """Everything that one gateway process holds, wired."""

    def __init__(self, settings: Settings, log: Log) -> None:
        self.settings = settings
        self.log = log
        self.telemetry = Telemetry(log)
        self.shelf = Shelf(
            settings.model_folder, lambda: load_router(settings), log, fast_tasks=settings.fast_tasks
        )
        lanes = settings.lanes or usable_cpus()
        self.batcher = Batcher(
            Plan(
                size_max=settings.batch_max_size,
                tokens_max=settings.batch_max_tokens,
                queue_max=settings.queue_max,
                queue_tokens_max=settings.queue_max_tokens,
                gather_s=settings.batch_max_wait_ms / 1000 if settings.batch_gather else 0.0,
                wait_max_s=settings.queue_max_wait_ms / 1000,
            ),
            self.shelf.score,
            lanes=lanes,
            executor=ThreadPoolExecutor(max_workers=lanes, thread_name_prefix="lane"),
            stall_s=STALL_S,
            telemetry=self.telemetry,
        )
        self.gateway = Gateway(
            shelf=self.shelf,
            l1=L1(size_max=settings.cache_l1_size, ttl_s=settings.cache_l1_ttl_sec, now=monotonic),
            batcher=self.batcher,
            telemetry=self.telemetry,
            threshold=settings.confidence_threshold,
            l2=self._open_l2() if settings.redis_url else None,
        )
        self.health = Health(self.gateway, settings)
        self.callers = open_keyring("API_KEYS", settings.api_keys, settings.api_keys_file)
        self.operators = open_keyring("OPS_KEYS", settings.ops_keys, settings.ops_keys_file)
        self._declare_gauges()

    def _open_l2(self) -> L2:
        """Prepare the shared cache level. Raises `SettingsError`; that Redis is away is no error."""
        from handler import redis_link, redis_url  # tens of milliseconds that only Redis is worth

        settings, gauge = self.settings, self.telemetry.gauge
        endpoint = redis_url.read(settings.redis_url)
        try:
            link = redis_link.open_link(
                endpoint,
                ca_file=settings.redis_ca_file,
                cert_file=settings.redis_cert_file,
                key_file=settings.redis_key_file,
            )
        except ValueError as exc:
            raise SettingsError(f"REDIS_URL, REDIS_*_FILE: Redis cannot be reached so: {exc}") from None
        l2 = L2(
            link,
            address=endpoint.shown,
            timeout_s=settings.cache_l2_timeout_ms / 1000,
            ttl_s=settings.cache_l2_ttl_sec,
            metrics=self.telemetry.with_l2(),
            log=self.log,
        )
        resting = "1 while Redis is not used, because it failed repeatedly."
        unknown = float("nan")
        gauge("l2_healthy", "1 when Redis can be read and written.", lambda: l2.healthy)
        gauge("l2_breaker_open", resting, lambda: not l2.reads.closed, breaker="reads")
        gauge("l2_breaker_open", resting, lambda: not l2.writes.closed, breaker="writes")
        gauge("cache_size", SIZES, lambda: unknown if l2.size is None else l2.size, level="L2")
        return l2

    def _declare_gauges(self) -> None:
        gauge, gateway = self.telemetry.gauge, self.gateway
        gauge("active_requests", "Queries being answered.", lambda: self.telemetry.active)
        gauge("cache_size", SIZES, lambda: len(gateway.l1), level="L1")
        gauge("batch_queue_size", "Queries that wait for a lane.", lambda: len(self.batcher.plan))
        gauge(
            "batch_queue_tokens", "Estimated tokens that wait for a lane.", lambda: self.batcher.plan.tokens
        )
        gauge(
            "batch_queue_fullness",
            "How near the queue is to refusing: 1 is full, by the nearest of its bounds.",
            lambda: self.batcher.plan.fullness,
        )
        gauge("model_loaded", "1 when a model is loaded.", lambda: self.shelf.loaded)
        self.telemetry.shares(
            "training_share",
            "Share of each task in what the model was trained on; absent where the model does not say.",
            "task",
            lambda: self.shelf.training_mix,
        )
        gauge("build_info", "Always 1; the labels say what runs.", lambda: 1, version=__version__)

    async def run(self, first_load: "Future[Router]") -> None:
        """Serve until told to end, then drain.

        Lanes and listener share one task group: if one of them dies, all do, and
        the process with them; a gateway without its batcher must not keep answering.
        """
        from granian.constants import HTTPModes, Interfaces
        from granian.http import HTTP1Settings
        from granian.server.embed import Server

        from handler import app

        told = self._watch_signals()
        server = Server(
            app.with_closing(
                app.build(
                    self.gateway,
                    self.health,
                    self.settings,
                    callers=self.callers,
                    operators=self.operators,
                ),
                lambda: self.health.draining,
            ),
            address=self.settings.host,
            port=self.settings.port,
            interface=Interfaces.ASGINL,
            http=HTTPModes.http1,
            http1_settings=HTTP1Settings(header_read_timeout=int(self.settings.read_timeout_ms)),
            websockets=False,
            backlog=BACKLOG,
            backpressure=max(
                1, min(CONNECTIONS_MAX, raise_open_files(CONNECTIONS_MAX + OTHER_FILES) - OTHER_FILES)
            ),
            log_enabled=False,
        )
        async with asyncio.TaskGroup() as tasks:
            background = [tasks.create_task(self.batcher.run_lane()) for _ in range(self.batcher.lanes)]
            background.append(tasks.create_task(self._settle(first_load)))
            if self.gateway.l2:
                background.append(tasks.create_task(self.gateway.l2.run()))
            background.append(tasks.create_task(self._watch_keys()))
            listener = tasks.create_task(server.serve())
            self.log.info("started", version=__version__, host=self.settings.host, port=self.settings.port)
            if self.callers is None and not is_loopback(self.settings.host):
                self.log.warning(
                    "open_to_all",
                    host=self.settings.host,
                    message="whoever reaches this address may ask; API_KEYS or API_KEYS_FILE would restrict it",
                )
            await told.wait()
            await self._drain(server, listener)
            for task in background:
                task.cancel()

    async def _settle(self, first_load: "Future[Router]") -> None:
        """Load the model, and from then on spare all that stands now the garbage collector's look.

        A full collection would take 50 ms of silence every so many thousand queries
        (docs/decisions/0007).
        """
        asyncio.get_running_loop().call_later(START_MAX_S, gc.enable)  # though no model comes
        await self.shelf.fill(first_load)
        gc.freeze()
        gc.enable()

    async def _watch_keys(self) -> None:
        """Follow the files of keys, for as long as the process lives."""
        rings = {"API_KEYS_FILE": self.callers, "OPS_KEYS_FILE": self.operators}
        told: dict[str, str] = {}
        while any(rings.values()):
            await asyncio.sleep(KEYS_LOOK_S)
            for name, ring in rings.items():
                try:
                    if ring is not None and await asyncio.to_thread(ring.refresh):
                        self.log.info("keys_loaded", setting=name, keys=len(ring))
                    told.pop(name, None)
                except (OSError, ValueError) as exc:
                    why = exc.strerror if isinstance(exc, OSError) else str(exc)
                    if told.get(name) != why:  # once per reason, not once per second
                        self.log.error("keys_not_loaded", setting=name, message=f"{why}; the old keys stay")
                    told[name] = str(why)

    async def _drain(self, server: "Server", listener: "asyncio.Task[None]") -> None:
        """Answer all that was accepted, then close.

        Readiness falls first and answers say `Connection: close`, so that balancers
        and clients turn away by themselves; only then does the listener close, since
        closing it resets what still waits in its accept queue.
        """
        self.health.draining = True
        self.log.info("draining", active=self.telemetry.active, linger_ms=self.settings.drain_linger_ms)
        asyncio.get_running_loop().call_later(DRAIN_MAX_S, self._end_now, "drain_over_limit", 1)
        await asyncio.sleep(self.settings.drain_linger_ms / 1000)
        server.stop()  # type: ignore[no-untyped-call]
        await listener

    def _watch_signals(self) -> asyncio.Event:
        loop = asyncio.get_running_loop()
        told = asyncio.Event()
        first_at = 0.0

        def on_signal(number: int) -> None:
            nonlocal first_at
            if not told.is_set():
                first_at = loop.time()
                self.log.info("signal", signal=signal.Signals(number).name)
                told.set()
            elif loop.time() - first_at > SAME_SIGNAL_S:
                self._end_now("second_signal", 128 + number)

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal, number)
        return told

    def _end_now(self, event: str, code: int) -> None:
        self.log.error(event, active=self.telemetry.active)
        os._exit(code)


def serve(settings: Settings) -> int:
    """Run a gateway until it is told to end. Returns the process's exit code.

    Raises `SettingsError` when the settings do not fit together.
    """
    log = Log(sys.stdout, level=settings.log_level, form=settings.log_format)
    if reason := port_taken(settings.host, settings.port):
        log.error("cannot_listen", error_type="SettingsError", message=reason)
        return 1
    sys.setswitchinterval(THREAD_TURN_S)
    gc.disable()  # a start makes much and leaves nothing to collect; `_settle` switches it on again
    # The model opens while the web framework is imported: both are over half of a start.
    first_load: Future[Router] = Future()
    Thread(target=_load_first, args=(settings, first_load), daemon=True, name="load").start()
    logging.basicConfig(level=logging.WARNING, handlers=[ForeignLines(log)], force=True)

    import uvloop

    process = Process(settings, log)
    try:
        uvloop.run(process.run(first_load))
    except* Exception as failures:
        for failure in _leaves(failures):
            if isinstance(failure, UnknownTask):
                log.error("settings", error_type="SettingsError", message=f"ROUTE_FAST_TASKS: {failure}")
                os._exit(2)
            log.error("died", error=failure, message="a part that the gateway cannot live without has ended")
        # Not `return`: a hung lane or a half-stopped listener must not keep a dead gateway up.
        os._exit(1)
    log.info("stopped")
    return 0


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def port_taken(host: str, port: int) -> str | None:
    """Why nothing can listen there; None when it can.

    Granian shares its port (SO_REUSEPORT), so a second gateway would start and
    silently take half of the first one's queries.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as exc:
        what = "Port already in use" if exc.errno == errno.EADDRINUSE else "Cannot listen"
        return f"{what}: {host}:{port} ({exc.strerror})"
    return None


def _load_first(settings: Settings, result: "Future[Router]") -> None:
    try:
        result.set_result(load_router(settings))
    except BaseException as exc:
        result.set_exception(exc)


def _leaves(failures: BaseExceptionGroup) -> list[BaseException]:
    return [
        leaf
        for failure in failures.exceptions
        for leaf in (_leaves(failure) if isinstance(failure, BaseExceptionGroup) else [failure])
    ]
