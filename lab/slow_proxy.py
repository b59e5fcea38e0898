"""A TCP proxy that can be told to hold everything back for a while."""

import asyncio
from contextlib import suppress


class SlowProxy:
    """Forwards to a port; what it forwards leaves `delay_s` seconds late, in both directions together."""

    def __init__(self, target_port: int) -> None:
        self.delay_s = 0.0
        self.port = 0
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._target_port)
        for source, sink in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._pump(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s / 2)
                sink.write(data)
                await sink.drain()
        except OSError:
            pass  # the other end has gone; so do we
        finally:
            sink.close()
            with suppress(OSError):
                await sink.wait_closed()
