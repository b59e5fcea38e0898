"""Callers who hold connections and do nothing good with them; others must feel nothing."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any

from lab.drive import Driver, Outcome, poisson, request, requests
from lab.launch import Served
from lab.rows import Row, holds

IDLE = 2000
NUISANCES = 200
SECONDS = 8.0
PER_S = 100.0
SLO_MS = 100.0

Nuisance = Callable[[int], AbstractAsyncContextManager[None]]


def connections() -> list[Row]:
    """A bystander asks 100 new queries a second, alone and beside each kind of nuisance."""
    with Served(patient=False) as served:
        asyncio.run(_bystander(served.port, _alone, 0))
        alone = asyncio.run(_bystander(served.port, _alone, 1))
        rows = [Row("nobody else", f"P99 {alone.answered_ms(0.99):.1f} ms")]
        for seed, (name, nuisance) in enumerate(NUISANCE.items(), 2):
            seen = asyncio.run(_bystander(served.port, nuisance, seed))
            unhurt = set(seen.codes) == {200} and not seen.lost and seen.answered_ms(0.99) < SLO_MS
            rows.append(
                holds(
                    name,
                    f"{seen.codes[200]} of {seen.offered} answered, P99 {seen.answered_ms(0.99):.1f} ms",
                    "all answered, P99 under 100 ms",
                    unhurt,
                )
            )
        rows.append(
            Row("memory and open files afterwards", f"{served.memory_mb:.0f} MB, {served.usage.num_fds()}")
        )
    return rows


async def _bystander(port: int, nuisance: Nuisance, seed: int) -> Outcome:
    async with nuisance(port):
        return await asyncio.to_thread(_asks, port, seed)


def _asks(port: int, seed: int) -> Outcome:
    with Driver(port) as driver:
        return driver.open(requests(seed), poisson(PER_S, seed), seconds=SECONDS)


@contextlib.asynccontextmanager
async def _alone(port: int) -> AsyncIterator[None]:
    yield


@contextlib.asynccontextmanager
async def _many(
    port: int, count: int, behave: Callable[[int], Coroutine[Any, Any, None]]
) -> AsyncIterator[None]:
    """`count` callers who behave so until the block ends."""
    callers = [asyncio.create_task(behave(port)) for _ in range(count)]
    await asyncio.sleep(2.0)  # for all of them to be connected: the bystander comes into a full house
    try:
        yield
    finally:
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)


async def _connect(port: int, *, read_buffer: int = 0) -> socket.socket:
    """A connected socket; with a read buffer of a few bytes for those who read slowly."""
    caller = socket.socket()
    if read_buffer:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, read_buffer)
    caller.setblocking(False)
    await asyncio.get_running_loop().sock_connect(caller, ("127.0.0.1", port))
    return caller


async def _idle(port: int) -> None:
    """Asks once, and keeps the connection."""
    loop = asyncio.get_running_loop()
    with await _connect(port) as caller:
        await loop.sock_sendall(caller, b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        await loop.sock_recv(caller, 4096)
        await asyncio.Event().wait()


async def _silent(port: int) -> None:
    """Connects, and never sends; comes again when shown the door."""
    loop = asyncio.get_running_loop()
    while True:
        with await _connect(port) as caller:
            await loop.sock_recv(caller, 1)


async def _trickle(port: int, head: bytes, rest: bytes) -> None:
    loop = asyncio.get_running_loop()
    while True:
        with contextlib.suppress(OSError), await _connect(port) as caller:
            await loop.sock_sendall(caller, head)
            for byte in rest:
                await loop.sock_sendall(caller, bytes([byte]))
                await asyncio.sleep(1.0)


async def _slow_head(port: int) -> None:
    await _trickle(port, b"", request("a head that comes a byte a second"))


async def _slow_body(port: int) -> None:
    head, _, body = request("a body that comes a byte a second").partition(b"\r\n\r\n")
    await _trickle(port, head + b"\r\n\r\n", body)


async def _slow_reader(port: int) -> None:
    """Asks for far more than fits between us, and reads a byte a second."""
    loop = asyncio.get_running_loop()
    while True:
        with contextlib.suppress(OSError), await _connect(port, read_buffer=1024) as caller:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await loop.sock_sendall(caller, b"GET /schema HTTP/1.1\r\nhost: x\r\n\r\n" * 50)
            while await loop.sock_recv(caller, 1):  # noqa: ASYNC110 -- the pace is the point
                await asyncio.sleep(1.0)


NUISANCE: dict[str, Nuisance] = {
    f"{IDLE} idle kept-alive connections": lambda port: _many(port, IDLE, _idle),
    f"{IDLE} connections that never send": lambda port: _many(port, IDLE, _silent),
    f"{NUISANCES} who send a head a byte a second": lambda port: _many(port, NUISANCES, _slow_head),
    f"{NUISANCES} who send a body a byte a second": lambda port: _many(port, NUISANCES, _slow_body),
    f"{NUISANCES} who read a byte a second": lambda port: _many(port, NUISANCES, _slow_reader),
}
