"""A gateway's life as a process: served, drained, ended.

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
from concurrent.futures import Future
from threading import Thread
from typing import TYPE_CHECKING

from handler import __version__
from handler.log import ForeignLines, Log
from handler.machine import raise_open_files
from handler.policy import UnknownTask
from handler.policy_file import PolicyError
from handler.settings import Settings
from handler.wiring import Parts, assemble, load_router

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
# Connections, most of them idle, that one process accepts; fewer where it may not open as many
# files, since a gateway without a file left can answer nobody. `OTHER_FILES` are for all else.
CONNECTIONS_MAX = 16_384
OTHER_FILES = 128
BACKLOG = 2048


class Process:
    """The life of one gateway process, from the first signal handler to the last answer."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.settings = parts.settings
        self.log = parts.log

    async def run(self, first_load: "Future[Router]") -> None:
        """Serve until told to end, then drain.

        Lanes and listener share one task group: if one of them dies, all do, and
        the process with them; a gateway without its batcher must not keep answering.
        """
        from granian.constants import HTTPModes, Interfaces
        from granian.http import HTTP1Settings
        from granian.server.embed import Server

        from handler import app

        ending = self._watch_signals()
        server = Server(
            app.with_closing(
                app.build(self.parts),
                lambda: self.parts.health.draining,
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
            background = [
                tasks.create_task(self.parts.batcher.run_lane()) for _ in range(self.parts.batcher.lanes)
            ]
            background.append(tasks.create_task(self._settle(first_load)))
            if self.parts.gateway.l2:
                background.append(tasks.create_task(self.parts.gateway.l2.run()))
            background.append(tasks.create_task(self.parts.follower.run()))
            listener = tasks.create_task(server.serve())
            self.log.info("started", version=__version__, host=self.settings.host, port=self.settings.port)
            if self.parts.callers is None and not is_loopback(self.settings.host):
                self.log.warning(
                    "open_to_all",
                    host=self.settings.host,
                    message="whoever reaches this address may ask; API_KEYS or API_KEYS_FILE would restrict it",
                )
            await ending.wait()
            await self._drain(server, listener)
            for task in background:
                task.cancel()

    async def _settle(self, first_load: "Future[Router]") -> None:
        """Load the model, and from then on spare all that stands now the garbage collector's look.

        A full collection would take 50 ms of silence every so many thousand queries
        (docs/decisions/0007).
        """
        asyncio.get_running_loop().call_later(START_MAX_S, gc.enable)  # though no model comes
        await self.parts.model.fill(first_load)
        gc.freeze()
        gc.enable()

    async def _drain(self, server: "Server", listener: "asyncio.Task[None]") -> None:
        """Answer all that was accepted, then close.

        Readiness falls first and answers say `Connection: close`, so that balancers
        and clients turn away by themselves; only then does the listener close, since
        closing it resets what still waits in its accept queue.
        """
        self.parts.health.draining = True
        self.log.info("draining", active=self.parts.telemetry.active, linger_ms=self.settings.drain_linger_ms)
        asyncio.get_running_loop().call_later(DRAIN_MAX_S, self._end_now, "drain_over_limit", 1)
        await asyncio.sleep(self.settings.drain_linger_ms / 1000)
        server.stop()  # type: ignore[no-untyped-call]
        await listener

    def _watch_signals(self) -> asyncio.Event:
        loop = asyncio.get_running_loop()
        ending = asyncio.Event()
        first_at = 0.0

        def on_signal(number: int) -> None:
            nonlocal first_at
            if not ending.is_set():
                first_at = loop.time()
                self.log.info("signal", signal=signal.Signals(number).name)
                ending.set()
            elif loop.time() - first_at > SAME_SIGNAL_S:
                self._end_now("second_signal", 128 + number)

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal, number)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        return ending

    def _on_hangup(self) -> None:
        self.log.info("signal", signal="SIGHUP")
        self.parts.follower.nudge()

    def _end_now(self, event: str, code: int) -> None:
        self.log.error(event, active=self.parts.telemetry.active)
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

    process = Process(assemble(settings, log))
    try:
        uvloop.run(process.run(first_load))
    except* Exception as failures:
        for failure in _leaves(failures):
            if isinstance(failure, UnknownTask):
                log.error("settings", error_type="SettingsError", message=f"ROUTE_FAST_TASKS: {failure}")
                os._exit(2)
            if isinstance(failure, PolicyError):
                log.error("settings", error_type="SettingsError", message=f"POLICY_FILE: {failure}")
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
