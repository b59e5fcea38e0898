"""Two stub models behind a proxy, which say what they got.

Each answers any request with 200 and, in headers, who it is and the digest of the body that it
received, so that who sent the request can tell whether it came through whole.
"""

import asyncio
import hashlib
import json
from dataclasses import dataclass, field
from typing import Self

import h11

READ_MAX = 1 << 18


@dataclass(frozen=True)
class Received:
    """A request as a model saw it. Header names are in lower case; a repeated one stands twice."""

    model: str
    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for header, value in self.headers if header == name]


@dataclass
class Models:
    """The small and the large model, each on a port of 127.0.0.1. Use as an async context manager."""

    small_port: int
    large_port: int
    received: list[Received] = field(default_factory=list)
    _servers: list[asyncio.Server] = field(default_factory=list)
    _open: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = field(default_factory=dict)

    async def __aenter__(self) -> Self:
        for model, port in (("small", self.small_port), ("large", self.large_port)):

            async def serve(
                reader: asyncio.StreamReader, writer: asyncio.StreamWriter, model: str = model
            ) -> None:
                await self._serve(model, reader, writer)

            self._servers.append(await asyncio.start_server(serve, "127.0.0.1", port))
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            server.close()
        serving = [task for task in self._open.values() if task]
        for writer in self._open:
            writer.close()
        await asyncio.gather(*serving, return_exceptions=True)

    def taken(self) -> list[Received]:
        """What came since this was last asked."""
        taken, self.received = self.received, []
        return taken

    async def _serve(self, model: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=READ_MAX)
        self._open[writer] = asyncio.current_task()
        try:
            while await self._one(model, connection, reader, writer):
                connection.start_next_cycle()
        except (h11.ProtocolError, ConnectionError):
            pass
        finally:
            writer.close()
            self._open.pop(writer, None)

    async def _one(
        self,
        model: str,
        connection: h11.Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        """Answer one request; whether the connection may be used again."""
        head: h11.Request | None = None
        body: list[bytes] = []
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                if connection.they_are_waiting_for_100_continue:
                    going_on = h11.InformationalResponse(status_code=100, headers=[])
                    writer.write(connection.send(going_on) or b"")
                connection.receive_data(await reader.read(READ_MAX))
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                return False
        if head is None:
            return False
        headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in head.headers]
        received = Received(model, head.method.decode(), head.target.decode(), headers, b"".join(body))
        self.received.append(received)
        answer, content_type = completion(received)
        sent = [
            ("content-type", content_type),
            ("content-length", str(len(answer))),
            ("x-model", model),
            ("x-received", hashlib.sha256(received.body).hexdigest()),
        ]
        for event in (h11.Response(status_code=200, headers=sent), h11.Data(data=answer), h11.EndOfMessage()):
            writer.write(connection.send(event) or b"")
        await writer.drain()
        return connection.our_state is h11.DONE and connection.their_state is h11.DONE


def completion(received: Received) -> tuple[bytes, str]:
    """An answer in OpenAI's chat form, and its content type: a stream where one was asked for."""
    whole = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": received.model,
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": received.model}}
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
    if b'"stream": true' in received.body or b'"stream":true' in received.body:
        delta = {"role": "assistant", "content": received.model}
        chunk = {
            **whole,
            "object": "chat.completion.chunk",
            "choices": [{"index": 0, "finish_reason": "stop", "delta": delta}],
        }
        return f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode(), "text/event-stream"
    return json.dumps(whole).encode(), "application/json"
