"""Asks a gateway over HTTP, light enough not to be what is measured."""

import asyncio
import json
import random
import time
from contextlib import suppress
from typing import Self

import msgspec

from lab.launch import Served
from tests.l2.tiny_model import texts


class Reply(msgspec.Struct, frozen=True):
    """One query's fate. `at` is monotonic seconds when it was asked; `error` is empty when it was answered."""

    text: str
    at: float
    took_s: float
    status: int = 0
    cache: str = ""
    l2_ms: float = 0.0
    body: bytes = b""
    error: str = ""


class Client:
    """Asks one gateway, on keep-alive connections that carry one query at a time."""

    def __init__(self, gateway: Served) -> None:
        self._port = gateway.port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for _reader, writer in self._idle:
            await hang_up(writer)

    async def ask(self, text: str) -> Reply:
        """Ask one query, whatever happens to it. Never raises."""
        started = time.monotonic()
        try:
            line = self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self._port)
        except OSError as exc:
            return Reply(text, started, time.monotonic() - started, error=repr(exc))
        reader, writer = line
        try:
            body = json.dumps({"text": text}).encode()
            writer.write(
                b"POST /v1/query-classify HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n"
                b"content-length: %d\r\n\r\n%b" % (len(body), body)
            )
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = dict(part.lower().split(": ", 1) for part in head[1:] if part)
            answer = await reader.readexactly(int(headers["content-length"]))
            self._idle.append(line)
        except (OSError, EOFError, ValueError) as exc:
            await hang_up(writer)
            return Reply(text, started, time.monotonic() - started, error=repr(exc))
        return Reply(
            text,
            started,
            time.monotonic() - started,
            status=int(head[0].split()[1]),
            cache=headers.get("x-cache", ""),
            l2_ms=stage_ms(headers.get("server-timing", ""), "l2"),
            body=answer,
        )


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


def stage_ms(server_timing: str, stage: str) -> float:
    for part in server_timing.split(", "):
        name, _, duration = part.partition(";dur=")
        if name == stage:
            return float(duration)
    return 0.0


class Traffic:
    """Queries at a steady rate, whether or not the answers come: a waiting client would hide a stall.

    Four of five repeat a small hot set, the fifth is new.
    """

    def __init__(self, gateway: Served, *, per_s: float, seed: int, hot: int = 100) -> None:
        self.replies: list[Reply] = []
        self._client = Client(gateway)
        self._pause_s = 1 / per_s
        self._dice = random.Random(seed)
        self._hot = texts(hot, seed)
        self._cold = iter(texts(20_000, seed + 1))
        self._asking: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the stream and wait for every answer."""
        self._task.cancel()
        await asyncio.wait([self._task])
        while self._asking:
            await asyncio.wait(self._asking)
        async with self._client:
            pass

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            text = next(self._cold) if self._dice.random() < 0.2 else self._dice.choice(self._hot)
            task = asyncio.create_task(self._one(text))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
            due += self._pause_s
            await asyncio.sleep(max(0.0, due - loop.time()))

    async def _one(self, text: str) -> None:
        self.replies.append(await self._client.ask(text))

    def since(self, at: float) -> list[Reply]:
        return [reply for reply in self.replies if reply.at >= at]
