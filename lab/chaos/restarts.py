"""SIGTERM under full load, again and again; every query that was sent is answered."""

import asyncio
import contextlib
import signal
import statistics
import time
from collections import Counter

from lab.chaos.findings import Finding
from lab.drive import request
from lab.flood import Callers, texts
from lab.launch import Served

CALLERS = 64
LOAD_S = 1.0
ENDS_WITHIN_S = 10.0  # Cloud Run's own patience


def restarts(count: int) -> list[Finding]:
    """Full load from callers who never retry and go when told to."""
    outcomes: Counter[str] = Counter()
    exits: Counter[int] = Counter()
    ended_s: list[float] = []
    unready_ms: list[float] = []
    for turn in range(count):
        with Served() as served:
            seen, told_at = asyncio.run(_restart(served, turn, unready_ms))
            outcomes += seen
            exits[served.process.wait(timeout=20)] += 1
            ended_s.append(time.monotonic() - told_at)
    lost = sum(number for outcome, number in outcomes.items() if outcome != "200")
    return [
        Finding(
            f"{count} SIGTERMs under full load ({CALLERS} callers)",
            ", ".join(f"{number} × {outcome}" for outcome, number in sorted(outcomes.items())),
            "0 lost, all 200",
            lost == 0,
        ),
        Finding(
            "readiness after SIGTERM",
            f"503 after {statistics.median(unready_ms):.0f} ms (at most {max(unready_ms):.0f})",
            "at once: the first look sees it",
            max(unready_ms) < 1000,
        ),
        Finding(
            "the process ends after",
            f"{statistics.median(ended_s):.1f} s (at most {max(ended_s):.1f})",
            "within 10 s",
            max(ended_s) < ENDS_WITHIN_S,
        ),
        Finding(
            "exit codes", ", ".join(f"{n} × {code}" for code, n in exits.items()), "0", set(exits) == {0}
        ),
    ]


async def _restart(served: Served, turn: int, unready_ms: list[float]) -> tuple[Counter[str], float]:
    outcomes: Counter[str] = Counter()
    next_text = texts(f"restart {turn}")

    async def polite() -> None:
        """Never retries; opens no new connection once it was told to close."""
        pool = Callers(served.port)
        while True:
            try:
                head = await pool.ask(request(next_text()))
            except (OSError, TimeoutError) as exc:
                outcomes[f"lost ({type(exc).__name__})"] += 1
                return
            outcomes[head[9:12].decode()] += 1
            if b"\r\nconnection: close\r\n" in head.lower():
                return

    callers = [asyncio.create_task(polite()) for _ in range(CALLERS)]
    await asyncio.sleep(LOAD_S)
    told_at = time.monotonic()
    served.process.send_signal(signal.SIGTERM)
    with contextlib.suppress(OSError):
        while not await _unready(served.port):
            pass
        unready_ms.append((time.monotonic() - told_at) * 1000)
    await asyncio.gather(*callers)
    return outcomes, told_at


async def _unready(port: int) -> bool:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /health/ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    head = await reader.readuntil(b"\r\n")
    writer.close()
    return b" 503 " in head
