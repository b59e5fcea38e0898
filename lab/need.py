"""Measure what docs/need-and-cost.md says of memory, CPU and wished shares: `just need`.

    just need replay                    a million rows, 10,000 of them different, and a tenth as many
    just need cpu --learnt models/mine  a query with the learnt need against one without
    just need share rows.jsonl          shares chosen on half of a file's texts, and what comes of them

All of them take --model, the shipped one by default. Figures go to standard output.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date, timedelta
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from handler import calibrate
from handler.model import Router, load
from handler.offline import LocalRouter
from handler.query import normalise
from handler.rows import check, read
from lab.launch import MODEL, ROOT
from lab.rows import spread
from lab.texts import texts

DAYS = 30
TOKENS = (19, 78)
SHARES = (0.2, 0.3, 0.5)
LOOK_S = 0.005  # between two looks at a process's memory
RUNS = 20  # of each model, before the other has its turn


class Cost(NamedTuple):
    """What a process took: the most memory at once in MB of 1,000,000 bytes, seconds, seconds of CPU."""

    memory_mb: float
    took_s: float
    cpu_s: float


def write_log(path: Path, rows: int, different: int) -> None:
    """Write a log of so many rows, the different ones again and again, over a month of days."""
    asked = list(islice(texts(0), different))
    first = date(2026, 11, 1)
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            day = first + timedelta(days=number * DAYS // rows)
            file.write(json.dumps({"text": asked[number % different], "time": day.isoformat()}) + "\n")


def replayed(rows: int, different: int, model: Path) -> Cost:
    """Replay such a log in a process of its own. Raises `SystemExit` where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.jsonl"
        write_log(log, rows, different)
        command = [
            sys.executable,
            "-m",
            "handler",
            "replay",
            str(log),
            "--out",
            str(Path(folder) / "page.html"),
        ]
        began = time.monotonic()
        process = subprocess.Popen(
            [*command, "--price-small", "0.1", "--price-large", "0.9"],
            cwd=ROOT,
            env={**os.environ, "MODEL_PATH": str(model)},
            stdout=subprocess.DEVNULL,
        )
        peak_kb = 0
        while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
            peak_kb = _peak_kb(process.pid) or peak_kb
            time.sleep(LOOK_S)
        _, status, used = ended
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the replay ended with {process.returncode}")
    return Cost(peak_kb * 1024 / 1e6, time.monotonic() - began, used.ru_utime + used.ru_stime)


def _peak_kb(pid: int) -> int:
    """The most memory that a process has had of its own, in KiB; 0 once it has ended.

    What `wait4` tells instead begins at the size of the process that started it.
    """
    found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="utf-8"))
    return int(found[1]) if found else 0


def ratios(plain: Router, learnt: Router, tokens: int, rounds: int) -> list[float]:
    """CPU of a query with a learnt need against one without, a ratio a round; both are asked in turn.

    tokens  of a query, with [CLS] and [SEP]
    """
    asked = texts(1)
    found = []
    for _ in range(rounds):
        queries = [normalise(_of_tokens(plain, asked, tokens), plain.manifest.limits) for _ in range(RUNS)]
        spent = []
        for router in (plain, learnt):
            began = time.process_time()
            for query in queries:
                router.score([query])
            spent.append(time.process_time() - began)
        found.append(spent[1] / spent[0])
    return found


def _of_tokens(router: Router, asked: Iterator[str], tokens: int) -> str:
    """A text of about so many tokens: sentences, cut at a word."""
    words = " ".join(islice(asked, tokens // 10 + 1)).split()
    while len(words) > 1:
        text = " ".join(words)
        (ids,) = router.token_ids([normalise(text, router.manifest.limits)])
        if len(ids) <= tokens:
            return text
        del words[tokens - len(ids) :]
    return words[0]


def shares(path: Path, local: LocalRouter) -> list[tuple[float, float]]:
    """What `calibrate --fast-share` is asked for on one half of a file's texts, and what it sends of the other."""
    check(path)
    asked = [row.text for row in read(path) if row.text]
    different = list(dict.fromkeys(asked))
    halves = []
    with tempfile.TemporaryDirectory() as folder:
        for place in range(2):
            half = Path(folder) / f"{place}.jsonl"
            half.write_text("".join(json.dumps({"text": text}) + "\n" for text in different[place::2]))
            halves.append(calibrate.measure(half, local))
    chosen, others = halves
    bounds = [calibrate.by_share(chosen, share).boundary for share in SHARES]
    return [
        (share, float((others.needs <= bound).mean())) for share, bound in zip(SHARES, bounds, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="just need", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    replay = commands.add_parser("replay", help="memory and seconds of a replay")
    replay.add_argument("--rows", type=int, default=1_000_000)
    replay.add_argument("--different", type=int, default=10_000)
    cpu = commands.add_parser("cpu", help="CPU of a learnt need")
    cpu.add_argument("--learnt", type=Path, required=True, help="a model that learnt from outcomes")
    cpu.add_argument("--rounds", type=int, default=40)
    share = commands.add_parser("share", help="wished shares, and what comes of them")
    share.add_argument("file", type=Path, help="JSON lines or CSV with texts")
    for command in (replay, cpu, share):
        command.add_argument("--model", type=Path, default=MODEL, help="[models/quantized]")
    given = parser.parse_args()
    if given.command == "replay":
        for rows in (given.rows // 10, given.rows):
            cost = replayed(rows, min(given.different, rows), given.model)
            print(
                f"{rows:,} rows, {min(given.different, rows):,} of them different: {cost.memory_mb:.0f} MB at most, "
                f"{cost.took_s:.0f} s, {cost.cpu_s:.0f} s of CPU",
                flush=True,
            )
        return
    if given.command == "share":
        for wished, sent in shares(given.file, LocalRouter.open(given.model)):
            print(f"asked for {wished:.0%} to the first tier: {sent:.1%} of the texts that it had not seen")
        return
    plain, learnt = load(given.model), load(given.learnt)
    if not learnt.learns:
        raise SystemExit(
            f"{given.learnt} has learnt from no outcomes; accepted: what `just train --outcomes` wrote"
        )
    for tokens in TOKENS:
        found = ratios(plain, learnt, tokens, given.rounds)
        print(f"{tokens} tokens: {spread(found, '{:.3f}')} of the CPU without a learnt need", flush=True)


if __name__ == "__main__":
    main()
