"""The gateway with one fault put in, for tests: `FAULT=… python -m lab.faulty`.

gate:FILE   model runs wait until FILE exists
poison      a run that holds a text with the word `poison` raises
lane        a lane's own code raises on a text with the word `fatal`
thread      the lane's thread is told to exit on such a text
filled:N    the in-process cache holds N entries from the start
fills       every query leaves a megabyte behind: a leak that a soak must see
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

from handler.batching import Batcher, Ticket
from handler.cache import L1
from handler.cli import main
from handler.model import Run
from handler.policy import Scores


def plant(fault: str) -> None:
    kind, _, argument = fault.partition(":")
    sound_timed, sound_run = Batcher._timed, Batcher._run
    kept: list[bytes] = []
    sound_init = L1.__init__

    def timed(self: Batcher, batch: list[Ticket]) -> Run:
        texts = [ticket.query.text for ticket in batch]
        while kind == "gate" and not Path(argument).exists():
            time.sleep(0.02)  # on the lane's thread: this is the fault
        if kind == "poison" and any("poison" in text for text in texts):
            raise ValueError(f"the runtime choked on {texts}")
        if kind == "thread" and any("fatal" in text for text in texts):
            sys.exit()
        if kind == "fills":
            kept.extend(bytes(1_000_000) for _ in texts)
        return sound_timed(self, batch)

    async def run(self: Batcher, lane: int, batch: list[Ticket]) -> None:
        if kind == "lane" and any("fatal" in ticket.query.text for ticket in batch):
            raise RuntimeError("a bug in the lane")
        await sound_run(self, lane, batch)

    def filled(self: L1, **options: Any) -> None:
        sound_init(self, **options)
        for _ in range(int(argument)):
            self.put(os.urandom(16), Scores(os.urandom(40)))

    if kind == "filled":
        L1.__init__ = filled  # type: ignore[method-assign]
    Batcher._timed = timed  # type: ignore[method-assign]
    Batcher._run = run  # type: ignore[method-assign]


if __name__ == "__main__":
    plant(os.environ.get("FAULT", ""))
    # As `handler.__main__` does: the end waits for no thread, hung ones least of all.
    os._exit(main(["serve"]))
