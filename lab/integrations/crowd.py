"""Callers who ask a gateway for more than it can answer, until they are ended.

    python -m lab.integrations.crowd PORT KEY

Each has a connection of its own and asks again as soon as it is answered, always something new. On
SIGTERM the statuses are printed as JSON, with how often each came.
"""

import asyncio
import contextlib
import itertools
import json
import re
import signal
import sys
from collections import Counter

CALLERS = 64
WORDS = 40
PAUSE_S = 0.002


async def caller(port: int, key: str, numbers: "itertools.count[int]", statuses: Counter[str]) -> None:
    while True:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            while True:
                text = " ".join(f"word{next(numbers)}" for _ in range(WORDS))
                body = json.dumps({"text": text})
                writer.write(
                    f"POST /v1/query-classify HTTP/1.1\r\nhost: crowd\r\nx-api-key: {key}\r\n"
                    f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()
                )
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
                await reader.readexactly(int(length[1]) if length else 0)
                statuses[head[9:12]] += 1
                # A refusal costs next to nothing: without a pause the driver would need all of the CPU.
                await asyncio.sleep(PAUSE_S)
        await asyncio.sleep(0.05)


async def main(port: int, key: str, statuses: Counter[str]) -> None:
    numbers = itertools.count()
    me = asyncio.current_task()
    assert me
    # Not SIGINT, which whoever is started in the background of a shell ignores.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, me.cancel)
    async with asyncio.TaskGroup() as group:
        for _ in range(CALLERS):
            group.create_task(caller(port, key, numbers, statuses))


if __name__ == "__main__":
    seen: Counter[str] = Counter()
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(main(int(sys.argv[1]), sys.argv[2], seen))
    print(json.dumps(seen))
