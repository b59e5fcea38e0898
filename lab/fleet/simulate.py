"""`just fleet simulate`: what one machine cannot show, reckoned from what one gateway was measured to cost.

With --write everything is measured anew (lab/fleet/measured.json), held against the real fleet, and
written into docs/scale.md with its pictures; without it, what was measured before is used. Exit code 1
when the sums are off where they can be looked at.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from lab.fleet import check, costs, sums
from lab.fleet.sums import Sums
from lab.pages import DOCS, Skipped, machine, put, report
from lab.rows import Row, aligned
from lab.unproven import unproven

PAGE = DOCS / "scale.md"
PICTURES = DOCS / "pictures"
PICTURE_BYTES_MAX = 60_000


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="just fleet simulate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="*", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--measure", action="store_true", help="measure what a query costs, and keep it")
    parser.add_argument("--write", action="store_true", help="the same, and write docs/scale.md and pictures")
    asked = parser.parse_args(arguments)
    names = asked.part or list(PARTS)
    if unknown := set(names) - PARTS.keys():
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    began = time.monotonic()
    try:
        if asked.measure or asked.write or not costs.FILE.is_file():
            print("measuring what a query costs …", file=sys.stderr, flush=True)
            costs.write(costs.measure())
        known = Sums(costs.read())
        failed = []
        for name in names:
            print(f"{name} … ({time.monotonic() - began:.0f} s so far)", file=sys.stderr, flush=True)
            failed += [row.what for row in PARTS[name](known, asked.write) if row.fails()]
    except Skipped as why:
        unproven([f"the fleet's sums: {why}"])
        return 0
    print("\noff:\n  " + "\n  ".join(failed) if failed else "\nthe sums agree with what was seen")
    return int(bool(failed))


def _measured(known: Sums, write: bool) -> list[Row]:
    """What the sums are fed with."""
    cost, redis = known.costs, known.costs.redis
    lines = [
        [name, f"{work.hit_us:.0f} µs", f"{work.shared_us:.0f} µs", ", ".join(f"{us / 1e3:.2f}" for _, us in work.misses_us) + " ms"]
        for name, work in (("open arrivals", cost.open), ("closed loop", cost.closed))
    ]  # fmt: skip
    tokens = ", ".join(str(tokens) for tokens, _ in cost.open.misses_us)
    _table("measured", ["CPU of", "a hit", "a hit in Redis", f"a miss of {tokens} tokens"], lines, write, "")
    more = [
        Row("from start to ready", f"{cost.cold_s:.2f} s, {cost.cold_cpu_s:.2f} s of CPU"),
        Row("from SIGTERM to the end", f"{cost.drain_s:.2f} s"),
        Row("memory of a gateway", f"{cost.memory_mb:.0f} MB"),
        Row("a lone query through HAProxy", f"hit {cost.hit_ms:.2f} ms, miss {cost.miss_ms:.2f} ms"),
        Row(
            "Redis, a look-up that finds",
            f"{redis.hit_us:.0f} µs, {redis.hit_bytes:.0f} bytes on the wire",
        ),
        Row(
            "Redis, one that does not, and the entry stored",
            f"{redis.miss_us:.0f} µs, {redis.miss_bytes:.0f} bytes; {redis.entry_bytes:.0f} bytes of memory",
        ),
    ]
    report("costs", more, on=cost.on, page=PAGE if write else None)
    return []


def _check(known: Sums, write: bool) -> list[Row]:
    on = machine()
    rows = check.compare(known.costs, 10.0)
    report("check", rows, on=on, page=PAGE if write else None)
    return rows


def _grains(known: Sums, write: bool) -> list[Row]:
    rows = sums.grains(known)
    report("grains", rows, on=known.costs.on, page=PAGE if write else None)
    return rows


def _knobs(known: Sums, write: bool) -> list[Row]:
    for platform, rows in sums.knobs(known).items():
        name = platform.lower().replace(" ", "-")
        head = [platform, "a burst of ten times in ten seconds, from 1,000/s", "a day, 10,000/s at its peak; $ a million queries"]  # fmt: skip
        _table(name, head, [[row.what, row.seen, row.wanted] for row in rows], write)
    return []


def _scales(known: Sums, write: bool) -> list[Row]:
    _table("scales", sums.SCALE_HEAD, sums.scales(known), write)
    return []


def _redis(known: Sums, write: bool) -> list[Row]:
    _table("redis", sums.REDIS_HEAD, sums.of_redis(known), write)
    rows = sums.ends(known)
    report("redis-ends", rows, on=known.costs.on, page=PAGE if write else None)
    return rows


def _pictures(known: Sums, write: bool) -> list[Row]:
    for name, drawn in sums.pictures(known).items():
        size = len(drawn.encode())
        if size > PICTURE_BYTES_MAX:
            raise SystemExit(f"just fleet simulate: {name}.svg has {size} bytes, over {PICTURE_BYTES_MAX}")
        print(f"{name}.svg: {size} bytes")
        if write:
            (PICTURES / f"{name}.svg").write_text(drawn + "\n", encoding="utf-8")
    return []


def _table(
    name: str, head: Sequence[str], lines: Sequence[Sequence[str]], write: bool, written: str | None = None
) -> None:
    """A table on the terminal and, where it is asked for, on the page."""
    print(f"\n== {name}")
    print("\n".join(aligned([head, *lines])), flush=True)
    if write:
        shown = [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines)]
        if written is None:
            command = " ".join(["just", Path(sys.argv[0]).parent.name, *sys.argv[1:]])
            written = f"Written by `{command}` on {datetime.now(UTC).date().isoformat()}."
        put(name, "\n".join([*shown, *(["", written] if written else [])]), PAGE)


PARTS: dict[str, Callable[[Sums, bool], list[Row]]] = {
    "measured": _measured,
    "check": _check,
    "grains": _grains,
    "knobs": _knobs,
    "scales": _scales,
    "redis": _redis,
    "pictures": _pictures,
}
