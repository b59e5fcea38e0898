"""A TCP proxy that can be told to hold everything back for a while, or to have nothing to do with somebody."""

import asyncio
from collections.abc import Callable
from contextlib import suppress


class SlowProxy:
    """Forwards to a port; what it forwards leaves `delay_s` seconds late, in both directions together.

    refuses  of whose address it takes no connection
    """

    def __init__(self, target_port: int, refuses: Callable[[str], bool] = lambda peer: False) -> None:
        self.delay_s = 0.0
        self.refuses = refuses
        self.port = 0
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._taken: dict[asyncio.StreamWriter, str] = {}

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def hang_up(self) -> None:
        """Break the connections of those whom it refuses by now."""
        for writer, peer in list(self._taken.items()):
            if self.refuses(peer):
                writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")[0]
        if self.refuses(peer):
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()  # the target is away, and so are we
            return
        self._taken[writer] = peer
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
            self._taken.pop(sink, None)
            sink.close()
            with suppress(OSError):
                await sink.wait_closed()
