"""The Ray recipe on a cluster of this machine: a head without cores, and two workers with one each.

    python -m lab.integrations.probes.bulk                    every promise
    python -m lab.integrations.probes.bulk same linear        some of them
    python -m lab.integrations.probes.bulk many --many 1000000

Run in the environment of requirements/ray.txt. Prints a line of JSON a promise.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq
import ray
from ray.cluster_utils import Cluster

from handler import LocalRouter
from lab.texts import texts

ROOT = Path(__file__).parents[3]
RECIPE = ROOT / "integrations/ray/classify.py"
MODEL = str(ROOT / "models/quantized")
# Small, so that a killed worker has something left to do; the recipe's own is for millions.
ROWS_A_BLOCK, BATCH_ROWS = 250, 125
MEMORY_BYTES = 100_000_000
WITHIN_S = 240.0

spec = importlib.util.spec_from_file_location("classify", RECIPE)
assert spec
assert spec.loader
classify = importlib.util.module_from_spec(spec)
sys.modules["classify"] = classify
spec.loader.exec_module(classify)
# Workers are sent the recipe itself: they have no file to import it from.
ray.cloudpickle.register_pickle_by_value(classify)
RECIPES_BATCH_ROWS, classify.BATCH_ROWS = classify.BATCH_ROWS, BATCH_ROWS


class Recorded(classify.Router):
    """The recipe's router, which also writes down what it did: process, Ray's task, first id, rows, seconds of CPU."""

    record = ""

    def __call__(self, batch):
        began, cpu = time.monotonic(), time.process_time()
        made = super().__call__(batch)
        row = {
            "pid": os.getpid(), "task": ray.get_runtime_context().get_task_id(), "first": int(batch["id"][0]), "rows": len(batch["id"]),
            "cpu_s": time.process_time() - cpu, "began": began, "ended": time.monotonic(),
        }  # fmt: skip
        with open(self.record, "a") as lines:
            lines.write(json.dumps(row) + "\n")
        return made


def prompts(folder: Path, rows: int, seed: int, kind: str = "parquet") -> None:
    """A data set of so many rows: id and text, a file a block."""
    folder.mkdir()
    asked = texts(seed)
    for first in range(0, rows, ROWS_A_BLOCK):
        ids = list(range(first, min(first + ROWS_A_BLOCK, rows)))
        block = {"id": ids, "text": list(islice(asked, len(ids)))}
        if kind == "parquet":
            pq.write_table(pa.table(block), folder / f"{first:09}.parquet")
        else:
            lines = (json.dumps({"id": i, "text": t}) for i, t in zip(*block.values(), strict=True))
            (folder / f"{first:09}.jsonl").write_text("\n".join(lines) + "\n")


def run(source: Path, to: Path, actors: int, record: Path) -> float:
    """Classify a data set as the recipe does; seconds from the first batch's start to the last one's end."""
    kind = type("Recorded", (Recorded,), {"record": str(record)})
    kept, classify.Router = classify.Router, kind
    try:
        read = classify.read(str(source), "json" if any(source.glob("*.jsonl")) else None)
        classify.write(classify.routed(read, "text", actors, MODEL), str(to))
    finally:
        classify.Router = kept
    rows = recorded(record)
    return max(row["ended"] for row in rows) - min(row["began"] for row in rows)


def recorded(record: Path) -> list[dict]:
    return [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []


def whole(to: Path, rows: int) -> None:
    """Raise unless every id stands there once."""
    ids = pq.read_table(to, columns=["id"])["id"].to_pylist()
    times = Counter(ids)
    assert len(ids) == rows, f"{len(ids)} rows written, of {rows}"
    assert set(times) == set(range(rows)), "an id is missing"


def eventually(holds: Callable[[], object], what: str, within_s: float = 60.0) -> None:
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end, f"not within {within_s} s: {what}"
        time.sleep(0.02)


class Work:
    """Folders of one run, by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: Iterator[int] = iter(range(1000))

    def new(self) -> tuple[Path, Path]:
        number = next(self.names)
        return self.folder / f"routes-{number}", self.folder / f"record-{number}"


def same(work: Work, source: Path, rows: int) -> str:
    """JSON lines and Parquet give every row the answer that it gets alone."""
    local = LocalRouter.open(MODEL)
    lines = work.folder / "lines"
    prompts(lines, rows, seed=1, kind="jsonl")
    seen = []
    for folder in (source, lines):
        to, record = work.new()
        run(folder, to, 2, record)
        whole(to, rows)
        table = pq.read_table(to).sort_by("id")
        for n in range(0, rows, 97):
            row = {name: table[name][n].as_py() for name in table.column_names}
            alone = local.classify_one(row["text"])
            assert (row["route"], row["label"], row["task"], row["reason"]) == (
                alone.route, alone.label, alone.task, alone.reason or "",
            ), (n, row["route"], alone.route)  # fmt: skip
            assert abs(row["confidence"] - alone.confidence) < 1e-3
        seen.append(dict(Counter(table["route"].to_pylist())))
    assert seen[0] == seen[1], seen
    return f"{rows} rows of Parquet and as many of JSON lines: {seen[0]}"


def bad_rows(work: Work) -> str:
    """Rows without a text go to the last tier, and cost the others nothing."""
    folder = work.folder / "bad"
    folder.mkdir()
    asked = ["Translate to French: good morning", None, "", "Translate to French: good evening"]
    table = pa.table({"id": [0, 1, 2, 3], "text": pa.array(asked, pa.string())})
    pq.write_table(table, folder / "one.parquet")
    pq.write_table(table.slice(1, 2).set_column(0, "id", pa.array([4, 5])), folder / "two.parquet")
    to, record = work.new()
    run(folder, to, 1, record)
    whole(to, 6)
    told = pq.read_table(to).sort_by("id")
    assert told["route"].to_pylist() == ["fast", "slow", "slow", "fast", "slow", "slow"], told["route"]
    assert told["reason"].to_pylist() == ["", "no_text", "no_text", "", "no_text", "no_text"]
    return "null and empty rows: slow, no_text"


def killed(work: Work, source: Path, rows: int, cluster: Cluster, *, machine: bool) -> str:
    """A worker that is killed in the middle: its block is done again once, nothing is lost or doubled."""
    to, record = work.new()
    done: list[object] = []

    def go() -> None:
        try:
            done.append(run(source, to, 2, record))
        except BaseException as problem:
            done.append(problem)

    running = threading.Thread(target=go)
    running.start()
    try:
        # Both have begun, and neither is near its end.
        eventually(
            lambda: done or len({row["pid"] for row in recorded(record)}) == 2, "both workers work", 120
        )
        before = recorded(record)
        assert not done, f"over before anything was killed: {done}"
        victim = before[-1]["pid"]
        if machine:
            parent = psutil.Process(victim).parent()
            node = next(
                n for n in cluster.worker_nodes
                if parent and parent.pid == n.all_processes["raylet"][0].process.pid
            )  # fmt: skip
            cluster.remove_node(node, allow_graceful=False)
            cluster.add_node(num_cpus=1, object_store_memory=MEMORY_BYTES)
        else:
            os.kill(victim, signal.SIGKILL)
    finally:
        running.join(WITHIN_S)
    assert done, f"not done within {WITHIN_S} s"
    if isinstance(done[0], BaseException):
        raise done[0]
    whole(to, rows)
    after = recorded(record)
    again = {first: times for first, times in Counter(row["first"] for row in after).items() if times > 1}
    assert all(times == 2 for times in again.values()), f"done more than twice: {again}"
    if not machine:
        # Ray calls a block that is being routed a task. What the dead one had told of is not done again: that is
        # the task in its hands, and at most the one whose end nobody had heard of yet.
        its = [row for row in after if row["pid"] == victim]
        repeated = {row["task"] for row in its if row["first"] in again}
        assert repeated <= set(list(dict.fromkeys(row["task"] for row in its))[-2:]), repeated
        assert {row["first"] for row in its} >= set(again), "another's work was done again"
    assert len({row["pid"] for row in after}) > 2, "nobody took the dead one's place"
    return f"{rows} rows, every id once; batches done twice: {len(again)} of {len(after) - len(again)}, every other once"


def linear(work: Work, source: Path, rows: int) -> str:
    """A row costs as much CPU with two routers at work as with one, to 15%."""
    costs: dict[int, list[float]] = {1: [], 2: []}
    rates: dict[int, list[float]] = {1: [], 2: []}
    for actors in (1, 2, 2, 1):
        to, record = work.new()
        took = run(source, to, actors, record)
        whole(to, rows)
        made = recorded(record)
        assert len({row["pid"] for row in made}) == actors, f"{actors} wanted"
        costs[actors].append(sum(row["cpu_s"] for row in made) / rows * 1000)
        rates[actors].append(rows / took)
    one, two = (min(costs[actors]) for actors in (1, 2))
    assert two < one * 1.15, f"{one:.2f} ms a row with one, {two:.2f} with two"
    first, second = (max(rates[actors]) for actors in (1, 2))
    return (
        f"CPU a row: {one:.2f} ms with one router, {two:.2f} with two ({two / one:.2f}); "
        f"rows a second: {first:.0f} and {second:.0f} ({second / first:.2f} times, as busy as it was)"
    )


@contextlib.contextmanager
def on_cores(cores: Sequence[int]) -> Iterator[None]:
    """Keep this process, the cluster's and those that they start to these cores."""
    everything = sorted(os.sched_getaffinity(0))
    _keep_to(cores)
    try:
        yield
    finally:
        _keep_to(everything)


def _keep_to(cores: Sequence[int]) -> None:
    own = psutil.Process()
    for process in (own, *own.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            for thread in process.threads():
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(thread.id, cores)


def many(work: Work, rows: int) -> str:
    """So many rows, all of them different, in batches of the recipe's size: one router on one core, and two on two.

    The cluster has as many cores as routers: what Ray itself needs is taken from theirs both times.
    """
    folder = work.folder / "many"
    folder.mkdir()
    asked = texts(9)
    for number, first in enumerate(range(0, rows, RECIPES_BATCH_ROWS)):
        ids = list(range(first, min(first + RECIPES_BATCH_ROWS, rows)))
        block = {"id": ids, "text": list(islice(asked, len(ids)))}
        pq.write_table(pa.table(block), folder / f"{number:05}.parquet")
    took, cpu = {}, {}
    classify.BATCH_ROWS = RECIPES_BATCH_ROWS
    try:
        for actors in (1, 2):
            to, record = work.new()
            with on_cores(sorted(os.sched_getaffinity(0))[:actors]):
                took[actors] = run(folder, to, actors, record)
            whole(to, rows)
            cpu[actors] = sum(row["cpu_s"] for row in recorded(record)) / rows * 1000
    finally:
        classify.BATCH_ROWS = BATCH_ROWS
    return (
        f"{rows} different rows, every id once: {rows / took[1]:.0f} a second with a router on one core, "
        f"{rows / took[2]:.0f} with two on two ({took[1] / took[2]:.2f} times); CPU a row {cpu[1]:.2f} and {cpu[2]:.2f} ms"
    )


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("promises", nargs="*", help="which ones (default: all)")
    parser.add_argument("--rows", type=int, default=4000, help="of the measured runs")
    parser.add_argument("--many", type=int, default=0, help="of one long run, where it is wanted")
    options = parser.parse_args()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        cluster.add_node(num_cpus=1, object_store_memory=MEMORY_BYTES)
    failed = 0
    try:
        ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
        ray.data.DataContext.get_current().enable_progress_bars = False
        with tempfile.TemporaryDirectory() as name:
            work = Work(Path(name))
            rows = options.rows
            source = work.folder / "prompts"
            prompts(source, rows, seed=1)
            promises: dict[str, Callable[[], str]] = {
                "bad-rows": lambda: bad_rows(work),
                "linear": lambda: linear(work, source, rows),
                "same": lambda: same(work, source, rows),
                "worker-killed": lambda: killed(work, source, rows, cluster, machine=False),
                "machine-lost": lambda: killed(work, source, rows, cluster, machine=True),
            }
            if options.many:
                promises["many"] = lambda: many(work, options.many)
            for promise, kept in promises.items():
                if options.promises and promise not in options.promises:
                    continue
                began, seen, problem = time.monotonic(), "", ""
                try:
                    seen = kept()
                except Exception as exc:
                    problem = f"{type(exc).__name__}: {exc}"[:800]
                failed += bool(problem)
                took = round(time.monotonic() - began, 1)
                told = {"promise": promise, "seen": seen, "problem": problem, "seconds": took}
                print(json.dumps(told), flush=True)
    finally:
        ray.shutdown()
        cluster.shutdown()
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
