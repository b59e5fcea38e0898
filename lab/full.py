"""A gateway that has no room left: its only lane and its whole queue are taken, until a gate opens."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab.launch import CLASSIFY, Served, eventually

WAIT_MAX_S = 60


@contextlib.contextmanager
def full_gateway(*, queue_max: int, cpus: Sequence[int] = ()) -> Iterator[tuple[Served, Path]]:
    """A gateway that has answered "known", and the gate: while that file is missing, its lane stays taken.

    Whoever waits in it is answered when the block ends.
    """
    settings = {
        "LANES": "1",
        "BATCH_MAX_SIZE": "1",
        "QUEUE_MAX": str(queue_max),
        "REQUEST_TIMEOUT_MS": str(WAIT_MAX_S * 1000),
    }
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        gate = Path(folder) / "gate"
        gate.touch()
        served = stack.enter_context(Served(settings, fault=f"gate:{gate}", cpus=cpus))
        assert served.ask("known").status_code == 200
        gate.unlink()
        callers = stack.enter_context(ThreadPoolExecutor(1 + queue_max))
        stack.callback(gate.touch)

        def wait(text: str) -> int:
            return served.client.post(CLASSIFY, json={"text": text}, timeout=WAIT_MAX_S).status_code

        waiting = [callers.submit(wait, "the lane takes this one")]
        eventually(lambda: served.metric("query_gateway_active_requests") == 1, "the lane is taken")
        eventually(lambda: served.metric("query_gateway_batch_queue_size") == 0, "by the first query")
        waiting += [callers.submit(wait, f"waiter {number}") for number in range(queue_max)]
        eventually(lambda: served.metric("query_gateway_batch_queue_size") == queue_max, "the queue is full")
        yield served, gate
        gate.touch()
        assert [caller.result() for caller in waiting] == [200] * (1 + queue_max)
