"""Wires asked in this process: a whole gateway on virtual time, and no server around it."""

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec

from handler.exchange import Exchange
from handler.health import Health
from handler.keys import Keyring
from handler.settings import Settings
from handler.wires import endpoints, native
from handler.wires.base import Endpoint, Service, respond
from tests.fakes import WholeGateway


class Reply(msgspec.Struct):
    """What a caller gets."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class Wired:
    """The wires of a whole gateway."""

    def __init__(self, whole: WholeGateway, *, keys: str = "", **settings: Any) -> None:
        read = Settings(**settings)
        self.whole = whole
        self.service = Service(
            whole.gateway,
            Health(whole.gateway, read, None),  # type: ignore[arg-type]  # for the deep report alone
            whole.telemetry,
            whole.log,
            read,
            Keyring(keys) if keys else None,
        )
        self.endpoints = endpoints(read.wire_names)
        self.left = asyncio.Event()

    async def post(self, path: str, body: Any = None, **headers: str) -> Reply:
        """Send a JSON body, or bytes as they are."""
        return await self.ask("POST", path, body, headers)

    async def get(self, path: str, **headers: str) -> Reply:
        return await self.ask("GET", path, b"", headers)

    async def ask(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> Reply:
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
        sent: list[Any] = []
        given = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        waiting = [{"type": "http.request", "body": content, "more_body": False}]

        async def receive() -> Any:
            if waiting:
                return waiting.pop()
            await self.left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": method, "path": path, "headers": given}
        exchange = Exchange(scope, receive, send)
        if path == native.PATH:
            await native.serve(self.service, exchange)
        else:
            endpoint, rest = self._found(path)
            if endpoint.serve is not None:
                await endpoint.serve(self.service, exchange, rest)
            else:
                await respond(endpoint, self.service, exchange, rest)
        if not sent:
            return Reply(0, {}, b"")
        found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return Reply(sent[0]["status"], found, b"".join(each["body"] for each in sent[1:]))

    def _found(self, path: str) -> tuple[Endpoint, str]:
        for endpoint in self.endpoints:
            prefix, below, _ = endpoint.path.partition("/*")
            if path == prefix or (below and path.startswith(prefix + "/")):
                return endpoint, path.removeprefix(prefix).strip("/")
        raise LookupError(path)

    def count(self, name: str, **labels: str) -> float:
        return self.whole.count(name, **labels)
