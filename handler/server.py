"""A gateway's life as a process: served, drained, ended.

Granian runs inside our own event loop and process, so that signals, readiness
and the listener are ours to put in order. Read `Process.run` first, then `serve`.
"""

import asyncio
import faulthandler
import gc
import ipaddress
import logging
import os
import signal
import socket
import sys
import threading
from concurrent.futures import Future
from time import monotonic
from typing import TYPE_CHECKING, NoReturn

from handler import __version__, aside, listening
from handler.connections import Watch, kernel_tells
from handler.line_writer import LineWriter
from handler.log import ForeignLines, Log
from handler.machine import Files, open_files
from handler.policy import UnknownTask
from handler.policy_file import PolicyError
from handler.settings import Settings, SettingsError
from handler.wiring import Parts, assemble, followed_model, followed_shadow, load_router

if TYPE_CHECKING:
    from granian.server.embed import Server

    from handler.model import Router
    from handler.otlp import Exporter

ENDING = (signal.SIGTERM, signal.SIGINT)
# A signal repeated within this time is the same one, sent to a whole process group.
SAME_SIGNAL_S = 1.0
# Cloud Run and `docker stop` kill after 10 s; a clean end must have happened by then.
DRAIN_MAX_S = 8.0
# What the last push of metrics and traces may take of that, and what it must leave for the end itself.
LAST_PUSH_S = 3.0
END_S = 0.5
# When even the thread that ends a late drain is kept from running, the process is ended without Python.
FORCED_END_S = 9.0
# What is left of the log is waited for so long when the process ends.
LOG_END_S = 0.5
# How long the interpreter is kept by one thread while another waits for it: server, event loop and lanes
# hand queries to each other, and Python's own 5 ms add up in a flood (docs/decisions/0008).
THREAD_TURN_S = 0.001
# The collector looks after so many new objects. A query that waits, or a refusal that is held, is 90 of
# them: with Python's own 700, a crowd is looked through again and again (docs/decisions/0007).
YOUNG_OBJECTS = 50_000
# A start takes this long at most, with a model.
START_MAX_S = 5.0
BACKLOG = 2048
STDOUT = 1


class Process:
    """The life of one gateway process, from its first task to the last answer."""

    def __init__(
        self, parts: Parts, bound: socket.socket, files: Files, first_load: "Future[Router]"
    ) -> None:
        """
        bound       the socket that holds the address
        files       how many connections may be open
        first_load  the model, which is opened meanwhile
        """
        self.parts = parts
        self.settings = parts.settings
        self.log = parts.log
        self._bound = bound
        self._files = files
        self._first_load: Future[Router] | None = first_load
        self._ending = asyncio.Event()

    def end(self) -> None:
        """Begin to drain, and end when that is done. Called on the event loop."""
        self._ending.set()

    def reload(self) -> None:
        """Read again what stands in files. Called on the event loop."""
        self.parts.follower.nudge()

    async def run(self) -> None:
        """Serve until told to end, then drain.

        Lanes and listener share one task group: if one of them dies, all do, and
        the process with them; a gateway without its batcher must not keep answering.
        """
        server = self._server()
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(self.parts.batcher.run_lane()) for _ in range(self.parts.batcher.lanes)
            ]
            settled = tasks.create_task(self._settle())
            background.append(settled)
            if self.parts.gateway.l2:
                background.append(tasks.create_task(self.parts.gateway.l2.run()))
            if self.parts.gateway.shadow:
                background.append(tasks.create_task(self.parts.gateway.shadow.run()))
            background.append(tasks.create_task(self.parts.follower.run()))
            if self.parts.exporter:
                background.append(tasks.create_task(self._export(self.parts.exporter, settled)))
            listener = tasks.create_task(server.serve())
            self.log.info("started", version=__version__, host=self.settings.host, port=self.settings.port)
            if self.parts.callers is None and not is_loopback(self._bound):
                self.log.warning(
                    "open_to_all",
                    host=self.settings.host,
                    message="whoever reaches this address may ask; API_KEYS or API_KEYS_FILE would restrict it",
                )
            await self._ending.wait()
            ends_at = monotonic() + DRAIN_MAX_S - END_S
            await self._drain(server, listener)
            for task in background:
                task.cancel()
            if self.parts.exporter:  # after the last answer, so that it counts all of them
                await self.parts.exporter.finish(min(LAST_PUSH_S, max(ends_at - monotonic(), 0.1)))

    def _server(self) -> "Server":
        """The server on our own socket, with what holds for every path around the application."""
        from granian._granian import SocketHolder
        from granian.constants import HTTPModes, Interfaces
        from granian.http import HTTP1Settings
        from granian.server.embed import Server

        from handler import app, protocol
        from handler.origins import Origins

        bound = self._bound

        class OnOurSocket(Server):
            def _init_shared_socket(self) -> None:
                # It closes the descriptor that it is given, so it gets one of its own.
                descriptor = os.dup(bound.fileno())
                self._shd = SocketHolder(descriptor, False, BACKLOG)  # type: ignore[assignment, call-arg]

        busy: set[tuple[str, int | str]] = set()
        keep_alive_s, head_s = self.settings.keep_alive_sec, self.settings.read_timeout_ms / 1000
        if kernel_tells():
            watch = Watch(bound, busy=busy, head_s=head_s, connections_max=self._files.connections)
            watch.start()
            self.parts.telemetry.watch_connections(watch.closed)
        return OnOurSocket(
            protocol.conform(
                app.build(self.parts),  # type: ignore[arg-type]  # an ASGI application by a stricter type
                closing=lambda: self.parts.health.draining,
                refuse_hosts=app.refusing_hosts(self.parts),
                discard_s=head_s,
                busy=busy,
                origins=Origins.read(self.settings.cors_origins),
            ),
            interface=Interfaces.ASGINL,
            http=HTTPModes.http1,
            # The server's bound on a head runs while a kept connection is idle, too, so it is the
            # keep-alive time; `Watch` bounds the head itself.
            http1_settings=HTTP1Settings(header_read_timeout=int(keep_alive_s * 1000)),
            websockets=False,
            backlog=BACKLOG,
            backpressure=self._files.connections,
            log_enabled=False,
        )

    async def _settle(self) -> None:
        """Load the model, and from then on spare all that stands now the garbage collector's look.

        A full collection would take 50 ms of silence every so many thousand queries
        (docs/decisions/0007).
        """
        asyncio.get_running_loop().call_later(START_MAX_S, gc.enable)  # though no model comes
        await self.parts.model.fill(self._first_load)
        self._first_load = None  # it would keep its model when that was swapped long since
        gc.freeze()
        gc.set_threshold(YOUNG_OBJECTS)
        gc.enable()
        # On a thread: the volume that it stands on may hang.
        followed = aside.start(lambda: followed_model(self.settings, self.parts.model), "follow MODEL_PATH")
        self.parts.follower.add(await asyncio.wrap_future(followed))
        shadow, folder = self.parts.gateway.shadow, self.settings.shadow_folder
        if shadow is not None and folder is not None:
            # After the model in service, which queries wait for.
            self.parts.follower.add(followed_shadow(self.settings, folder, self.parts.model, shadow))

    async def _export(self, exporter: "Exporter", settled: "asyncio.Task[None]") -> None:
        """Push metrics and traces, from the moment on that queries are answered: the import would delay the first."""
        await asyncio.wait({settled}, timeout=START_MAX_S)
        await exporter.open()
        gc.freeze()  # what was imported stays, too
        await exporter.run()

    async def _drain(self, server: "Server", listener: "asyncio.Task[None]") -> None:
        """Answer all that was accepted, then close.

        Readiness falls first and answers say `Connection: close`, so that balancers
        and clients turn away by themselves; only then does the listener close, since
        closing it resets what still waits in its accept queue.
        """
        self.parts.health.drain_began.set()
        self.log.info("draining", active=self.parts.telemetry.active, linger_ms=self.settings.drain_linger_ms)
        await asyncio.sleep(self.settings.drain_linger_ms / 1000)
        server.stop()  # type: ignore[no-untyped-call]
        self._bound.close()
        await listener


class Signals:
    """Takes the process's signals on a thread of its own, whatever the event loop is doing.

    Before something is served there is nothing to drain, and the process ends at once;
    from `attach` on, the first signal begins the drain, and a later one ends it.
    """

    def __init__(self, log: Log) -> None:
        """Every thread of the process must have been started after `block`."""
        self._log = log
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process: Process | None = None
        self._first_at: float | None = None
        self._lock = threading.RLock()
        for number in (*ENDING, signal.SIGHUP):
            # Should a library have started a thread before `block`, that thread may get the signal.
            signal.signal(number, lambda number, _: self._take(number))
        threading.Thread(target=self._run, name="signals", daemon=True).start()

    @staticmethod
    def block() -> set[int]:
        """Keep signals from all threads, so that they reach the one that waits for them. Returns the old mask.

        As process 1 they wait, too, where the kernel would throw away what has no handler.
        """
        return signal.pthread_sigmask(signal.SIG_BLOCK, {*ENDING, signal.SIGHUP})

    def attach(self, process: Process, loop: asyncio.AbstractEventLoop) -> None:
        """Hand signals to a process from now on."""
        with self._lock:
            self._process, self._loop = process, loop

    def _run(self) -> None:
        while True:
            self._take(signal.sigwait({*ENDING, signal.SIGHUP}))

    def _take(self, number: int) -> None:
        with self._lock:
            if number == signal.SIGHUP:
                self._hang_up()
            else:
                self._end(number)

    def _hang_up(self) -> None:
        self._log.info("signal", signal="SIGHUP")
        if self._process is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._process.reload)

    def _end(self, number: int) -> None:
        if self._process is None or self._loop is None:
            self._log.info("signal", signal=signal.Signals(number).name)
            self._log.info("stopped")
            end(self._log, 0)
        if self._first_at is None:
            self._first_at = monotonic()
            self._log.info("signal", signal=signal.Signals(number).name)
            self._bound_the_end(self._process)
            self._loop.call_soon_threadsafe(self._process.end)
        elif monotonic() - self._first_at > SAME_SIGNAL_S:
            self._end_now(self._process, "second_signal", 128 + number)

    def _bound_the_end(self, process: Process) -> None:
        """See that the process ends, whatever its event loop, lanes and other threads do."""
        late = threading.Timer(DRAIN_MAX_S, self._end_now, (process, "drain_over_limit", 1))
        late.daemon = True
        late.start()
        # Should a thread never let go of the interpreter, this ends the process from outside of it, with 1.
        # Its report of all threads would go to a stream whose reader may be what hangs.
        self._nowhere = open(os.devnull, "w")  # noqa: SIM115 -- until the end
        faulthandler.dump_traceback_later(FORCED_END_S, exit=True, file=self._nowhere)

    def _end_now(self, process: Process, event: str, code: int) -> None:
        self._log.error(event, active=process.parts.telemetry.active)
        end(self._log, code)


def end(log: Log, code: int) -> NoReturn:
    """End the process now: an interpreter that ends by itself waits for threads, which may hang."""
    log.end(LOG_END_S)
    os._exit(code)


def serve(settings: Settings) -> int:
    """Run a gateway until it is told to end. Returns the process's exit code.

    Raises `SettingsError` when the settings do not fit together.
    """
    mask = Signals.block()
    writer = LineWriter(STDOUT)
    form = settings.log_format
    if form == "auto":
        form = "text" if os.isatty(STDOUT) else "json"
    log = Log(writer, level=settings.log_level, form=form)
    writer.dropped_line = log.dropped_line
    signals = Signals(log)
    try:
        return _serve(settings, log, signals)
    except SettingsError:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)  # nobody waits for them any more
        raise
    finally:
        log.end(LOG_END_S)


def _serve(settings: Settings, log: Log, signals: Signals) -> int:
    files = open_files(redis_servers=settings.redis_servers, export=settings.export is not None)
    if files.connections < 1:
        log.error("cannot_listen", error_type="SettingsError", message=files.shortage)
        return 1
    if files.shortage:
        log.warning("few_open_files", connections_max=files.connections, message=files.shortage)
    try:
        bound = listening.bind(
            settings.host, settings.port, backlog=BACKLOG, stalled_s=settings.keep_alive_sec
        )
    except listening.CannotListen as exc:
        log.error("cannot_listen", error_type="SettingsError", message=str(exc))
        return 1 if exc.taken else 2
    sys.setswitchinterval(THREAD_TURN_S)
    gc.disable()  # a start makes much and leaves nothing to collect; `_settle` switches it on again
    # The model opens while the web framework is imported: both are over half of a start.
    first_load = aside.start(lambda: load_router(settings), "load")
    logging.basicConfig(level=logging.WARNING, handlers=[ForeignLines(log)], force=True)

    import uvloop

    try:
        parts = assemble(settings, log)
    except SettingsError:
        bound.close()
        raise
    process = Process(parts, bound, files, first_load)
    del first_load  # it holds the model
    # Not `uvloop.run`: it would wait for threads that ask a silent name server.
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    signals.attach(process, loop)
    try:
        loop.run_until_complete(process.run())
    except* Exception as failures:
        for failure in _leaves(failures):
            if isinstance(failure, UnknownTask):
                log.error("settings", error_type="SettingsError", message=f"ROUTE_FAST_TASKS: {failure}")
                end(log, 2)
            if isinstance(failure, PolicyError):
                log.error("settings", error_type="SettingsError", message=f"POLICY_FILE: {failure}")
                end(log, 2)
            log.error("died", error=failure, message="a part that the gateway cannot live without has ended")
        # Not `return`: a hung lane or a half-stopped listener must not keep a dead gateway up.
        end(log, 1)
    log.info("stopped")
    end(log, 0)


def is_loopback(bound: socket.socket) -> bool:
    return ipaddress.ip_address(bound.getsockname()[0].partition("%")[0]).is_loopback


def _leaves(failures: BaseExceptionGroup) -> list[BaseException]:
    return [
        leaf
        for failure in failures.exceptions
        for leaf in (_leaves(failure) if isinstance(failure, BaseExceptionGroup) else [failure])
    ]
