"""What happens to a fleet while its callers go on asking, against what is promised of it."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lab.drive import Driver, Outcome, meanwhile, poisson, requests
from lab.fleet.fleet import Fleet, Member
from lab.fleet.judge import Judge, versions
from lab.fleet.shared import Shared
from lab.fleet.traffic import Seen, Stream, flowing, zipf_requests
from lab.launch import eventually
from lab.metrics import Metrics
from lab.rows import Row, at_most, holds

# HAProxy's checks in the recipe: 2 × (0.25 s between them + 0.4 s to wait), and a moment of our own.
OUT_WITHIN_S = 2.0
# `timeout server` of the recipe, then the other gateway's answer.
FROZEN_ANSWER_WITHIN_MS = 2500.0
SERVES_WITHIN_S = 60.0
# Of the callers, told to come again (429): a busy machine leaves one gateway less than its share.
REFUSED_MAX = 0.01
REFUSED_MAX_FLOODED = 0.05


@dataclass
class Stage:
    """What a scene plays on.

    per_s  queries a second that callers ask meanwhile
    old    the model that the fleet serves, and `new` the one that it is to serve
    """

    fleet: Fleet
    shared: Shared
    judge: Judge
    old: Path
    new: Path
    per_s: float
    seconds: float
    seeds: Iterator[int]

    @contextlib.contextmanager
    def flowing(self) -> Iterator[Seen]:
        with flowing(self.fleet.port, self.per_s, seed=next(self.seeds)) as seen:
            yield seen

    def right(self, name: str, seen: Seen) -> list[Row]:
        """Two rows that every scene has: nothing lost, and nothing wrong."""
        wrong = self.judge.wrong(seen.asked)
        for line in wrong[:3]:
            print("wrong:", line)
        return [
            holds(
                f"{name}: answers",
                seen.told,
                "none lost; at most 1% told to come again",
                seen.others == 0 and seen.refused <= REFUSED_MAX,
            ),
            holds(
                f"{name}: wrong answers",
                f"{len(wrong)} of {seen.outcome.codes[200]}",
                "0",
                not wrong and bool(seen.outcome.codes[200]),
            ),
        ]

    @contextlib.contextmanager
    def retried(self) -> Iterator[Callable[[], str]]:
        """Say, after the block, how often HAProxy asked another member."""
        before = self.fleet.seen()["BACKEND"]
        yield lambda: ", ".join(
            f"{int(self.fleet.seen()['BACKEND'][column]) - int(before[column])} {name}"
            for column, name in (("wretr", "asked again"), ("wredis", "of another gateway"))
        )


def capacity(fleet: Fleet, seed: int, seconds: float) -> Outcome:
    """What 32 callers who wait for their answers get out of the fleet, driver included.

    They are a crowd of their own: what they ask, nobody asks afterwards.
    """
    with Driver(fleet.port) as driver:
        driver.closed(zipf_requests(seed, crowd=1), connections=32, seconds=0.5)
        rounds = [
            driver.closed(zipf_requests(seed + turn, crowd=1), connections=32, seconds=seconds / 3)
            for turn in (1, 2, 3)
        ]
    # The best: a neighbour's moment makes a fleet look small, and nothing makes it look great.
    return max(rounds, key=lambda seen: seen.goodput)


def shares(counted: Metrics) -> tuple[float, float, float]:
    """Queries that L1, Redis and the model answered."""
    return (
        counted.total("query_gateway_cache_hits_total", level="L1"),
        counted.total("query_gateway_cache_hits_total", level="L2"),
        counted.total("query_gateway_cache_misses_total"),
    )


def steady(stage: Stage) -> list[Row]:
    """Nothing happens: what the rest is measured against."""
    before = stage.fleet.counted()
    with stage.flowing() as seen:
        time.sleep(stage.seconds)
    l1, l2, misses = shares(stage.fleet.counted().since(before))
    every = max(l1 + l2 + misses, 1)
    found = [
        *stage.right("steady", seen),
        Row("steady: latency", f"P50 {seen.ms(0.5):.1f}, P99 {seen.ms(0.99):.1f} ms"),
        Row(
            "steady: answered by",
            f"L1 {l1 / every:.0%}, Redis {l2 / every:.0%}, the model {misses / every:.0%}",
        ),
    ]
    known = l2 / max(l2 + misses, 1)
    return [
        *found,
        holds(
            "steady: of what a gateway did not know itself, Redis knew",
            f"{known:.0%} ({l2:.0f} of {l2 + misses:.0f})",
            "a shared level that pays: over 10%",
            known > 0.1,
        ),
    ]


def rolling(stage: Stage) -> list[Row]:
    """To a new model by new processes, one after the other; and back by a symlink, in place."""
    old, new = stage.judge.versions
    fleet = stage.fleet
    drains = []
    began = time.monotonic()
    with stage.flowing() as there:
        time.sleep(0.5)
        for member in fleet.members:
            drains.append(member.drain())
            member.lead(stage.new)
            member.start()
            fleet.noticed_s(member, True)
        there_s = time.monotonic() - began
        time.sleep(0.3)
        there_at = time.perf_counter()
        time.sleep(1.0)
    served = versions(there.asked)
    late = versions(one for one in there.asked if one.due_s > there_at)
    found = [
        *stage.right("update by new processes", there),
        holds(
            "update by new processes: models",
            f"{served.get(old, 0)} answers of the old, {served.get(new, 0)} of the new; after it "
            f"{late.get(old, 0)} and {late.get(new, 0)}",
            "none of the old after it",
            bool(late.get(new)) and not late.get(old) and bool(served.get(old)),
        ),
        Row(
            "update by new processes: time",
            f"{there_s:.1f} s for {len(fleet.members)}; SIGTERM to exit 0 {max(drains):.1f} s at most",
        ),
        Row("update by new processes: latency", f"P99 {there.ms(0.99):.1f}, slowest {there.ms(1.0):.0f} ms"),
    ]
    began = time.monotonic()
    with stage.flowing() as back:
        time.sleep(0.5)
        for member in fleet.members:
            member.lead(stage.old)
            member.tell(signal.SIGHUP)
            _serves(member, old)
        back_s = time.monotonic() - began
        time.sleep(0.3)
        back_at = time.perf_counter()
        time.sleep(1.0)
    late = versions(one for one in back.asked if one.due_s > back_at)
    return [
        *found,
        *stage.right("and back by a symlink", back),
        holds(
            "and back by a symlink: models after it",
            f"{late.get(new, 0)} answers of the new, {late.get(old, 0)} of the old",
            "none of the new",
            bool(late.get(old)) and not late.get(new),
        ),
        Row(
            "and back by a symlink: time and latency",
            f"{back_s:.1f} s; P99 {back.ms(0.99):.1f}, slowest {back.ms(1.0):.0f} ms",
        ),
    ]


def killed(stage: Stage) -> list[Row]:
    """SIGKILL, while each gateway also holds a stream; started again a moment later."""
    fleet, victim = stage.fleet, stage.fleet.members[0]
    with contextlib.ExitStack() as stack:
        # One stream each: they go where there are fewest connections.
        streams = []
        for number in range(len(fleet.members)):
            streams.append(stack.enter_context(Stream(fleet.port, seed=number)))
            time.sleep(0.3)
        again = stack.enter_context(stage.retried())
        seen = stack.enter_context(stage.flowing())
        time.sleep(0.3 * stage.seconds)
        victim.tell(signal.SIGKILL)
        out_s = fleet.noticed_s(victim, False)
        time.sleep(0.2 * stage.seconds)
        told = again()
        victim.end()
        began = time.monotonic()
        victim.start()
        fleet.noticed_s(victim, True)
        back_s = time.monotonic() - began
        time.sleep(0.3 * stage.seconds)
    torn = [stream for stream in streams if not stream.whole]
    whole = [stream for stream in streams if stream.whole]
    return [
        *stage.right("killed", seen),
        at_most("killed: HAProxy sends nothing there after", f"{out_s:.2f} s", out_s, OUT_WITHIN_S, "2 s"),
        Row("killed: what HAProxy did", told),
        holds(
            "killed: streams under way",
            f"{len(torn)} broke off ({sum(s.sent - s.answered for s in torn)} of "
            f"{sum(s.sent for s in torn)} lines without an answer), {len(whole)} whole, "
            f"{sum(s.sent - s.answered for s in whole)} of their lines without an answer",
            "only the killed one's, and the others whole",
            len(torn) <= 1 and all(s.sent == s.answered for s in whole),
        ),
        Row(
            "killed: latency",
            f"P99 {seen.ms(0.99):.1f}, slowest {seen.ms(1.0):.0f} ms; started again and asked again after {back_s:.1f} s",
        ),
    ]


def frozen(stage: Stage) -> list[Row]:
    """SIGSTOP: it takes connections and answers nothing. Then it goes on."""
    fleet, victim = stage.fleet, stage.fleet.members[1]
    with stage.retried() as again, stage.flowing() as seen:
        time.sleep(0.2 * stage.seconds)
        victim.tell(signal.SIGSTOP)
        stopped_at = time.perf_counter()
        out_s = fleet.noticed_s(victim, False)
        out_at = time.perf_counter()
        time.sleep(max(2.0, 0.3 * stage.seconds))
        thaw_at = time.perf_counter()
        told = again()
        victim.tell(signal.SIGCONT)
        back_s = fleet.noticed_s(victim, True)
        time.sleep(0.2 * stage.seconds)
    slowest = seen.ms(1.0)
    return [
        *stage.right("frozen", seen),
        at_most("frozen: HAProxy sends nothing there after", f"{out_s:.2f} s", out_s, OUT_WITHIN_S, "2 s"),
        Row("frozen: what HAProxy did", told),
        at_most(
            "frozen: slowest answer",
            f"{slowest:.0f} ms",
            slowest,
            FROZEN_ANSWER_WITHIN_MS,
            "2500 ms (its `timeout server`, then another's answer)",
        ),
        Row(
            "frozen: P99",
            f"{seen.ms_between(stopped_at, out_at, 0.99):.0f} ms until it is out, then "
            f"{seen.ms_between(out_at, thaw_at, 0.99):.1f} ms; asked again {back_s:.1f} s after it goes on",
        ),
    ]


def flooded(stage: Stage) -> list[Row]:
    """Somebody floods one gateway past HAProxy: twice what it does alone, new queries only."""
    fleet, victim = stage.fleet, stage.fleet.members[2]
    seconds = 0.6 * stage.seconds
    with Driver(victim.port) as driver:
        alone = driver.closed(requests(next(stage.seeds)), connections=16, seconds=1.0)
    per_s = 2 * alone.goodput
    seed = next(stage.seeds)
    sessions = {member.name: int(fleet.seen()[member.name]["stot"]) for member in fleet.members}
    with (
        stage.flowing() as seen,
        meanwhile(
            Driver(victim.port), lambda driver: driver.open(requests(seed), poisson(per_s, seed))
        ) as flood,
    ):
        time.sleep(seconds)
        stayed = fleet.up(victim)
    got = {
        member.name: int(fleet.seen()[member.name]["stot"]) - sessions[member.name]
        for member in fleet.members
    }
    wrong = stage.judge.wrong(seen.asked)
    not_answered = 1 - seen.outcome.codes[200] / max(seen.outcome.offered, 1)
    return [
        holds(
            "flooded: answers",
            seen.told,
            "none lost: at worst a 429, or a 504 after REQUEST_TIMEOUT_MS",
            not seen.outcome.lost and seen.outcome.codes.keys() <= {200, 429, 504},
        ),
        holds("flooded: wrong answers", f"{len(wrong)} of {seen.outcome.codes[200]}", "0", not wrong),
        at_most(
            "flooded: callers of the fleet who are told to come again",
            f"{not_answered:.1%}; the flooded gateway got {got[victim.name] / max(sum(got.values()), 1):.0%} of them",
            not_answered,
            REFUSED_MAX_FLOODED,
            "5%",
            ratio=True,
        ),
        Row(
            "flooded: the flood",
            f"{flood.seen.offered / seconds:.0f}/s, twice what one gateway does: {flood.seen.codes[200]} answered, "
            f"{flood.seen.codes[429]} refused, {flood.seen.others or 'nothing else'}",
        ),
        holds("flooded: the gateway stays in service", "yes" if stayed else "no", "yes", stayed),
        Row("flooded: latency of the fleet's callers", f"P50 {seen.ms(0.5):.1f}, P99 {seen.ms(0.99):.0f} ms"),
    ]


def zone(stage: Stage) -> list[Row]:
    """One of two zones goes dark at once: two of three gateways, and what of Redis stands there."""
    fleet = stage.fleet
    lost, left = fleet.members[:2], fleet.members[2:]
    before = sum(_misses(member) for member in left)
    with stage.retried() as again, stage.flowing() as seen:
        time.sleep(0.2 * stage.seconds)
        dark = [threading.Thread(target=member.tell, args=(signal.SIGKILL,)) for member in lost]
        for thread in dark:
            thread.start()
        gone = stage.shared.lose_zone()
        dark_at = time.perf_counter()
        out_s = max(fleet.noticed_s(member, False) for member in lost)
        eventually(stage.shared.covered, "every key of Redis has a primary again")
        took_over_s = time.perf_counter() - dark_at
        time.sleep(0.5 * stage.seconds)
        told, settled_at = again(), time.perf_counter()
        asked = sum(_misses(member) for member in left) - before
        with contextlib.suppress(AssertionError):
            eventually(lambda: stage.shared.serves(left[0]), "Redis serves it", within_s=5.0)
        healthy = stage.shared.serves(left[0])
        for member in lost:
            member.end()
        stage.shared.regain_zone()
        for member in lost:
            member.start()
            fleet.noticed_s(member, True)
        time.sleep(0.3)
    return [
        *stage.right("a zone of two lost", seen),
        at_most("a zone of two lost: HAProxy sends nothing there after", f"{out_s:.2f} s", out_s, OUT_WITHIN_S, "2 s"),
        Row("a zone of two lost: what HAProxy did", told),
        Row("a zone of two lost: what went", f"2 of 3 gateways{gone}"),
        holds("a zone of two lost: Redis serves the one that is left", f"every key has a primary again after {took_over_s:.1f} s, and the gateway {'uses' if healthy else 'does not use'} it", "yes", healthy),
        Row(
            "a zone of two lost: latency",
            f"P99 {seen.ms_between(dark_at, settled_at, 0.99):.0f} ms while one gateway serves all "
            f"({asked:.0f} by its model)",
        ),
    ]  # fmt: skip


def _misses(member: Member) -> float:
    return member.served.metric("query_gateway_cache_misses_total")


def _serves(member: Member, version: str) -> None:
    eventually(
        lambda: member.served.deep()["checks"]["model"]["version"] == version,
        f"gateway {member.name} serves {version}",
        within_s=SERVES_WITHIN_S,
    )


SCENES: dict[str, Callable[[Stage], list[Row]]] = {
    "steady": steady,
    "rolling": rolling,
    "killed": killed,
    "frozen": frozen,
    "flooded": flooded,
    "zone": zone,
}
