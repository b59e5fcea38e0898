"""Load a gateway as its users would, and say which promises it kept.

    just load                      a tour: steady, spike, cold-cache, zipf; two and a half minutes
    just load steady --seconds 60
    just load zipf --set CACHE_L1_SIZE=500 --against CACHE_L1_SIZE=10000
    just load --ui                 locust's page

Each shape meets a fresh gateway of its own on loopback, or the one at --host. The rate is
half of what a short probe finds this machine to answer, unless --rate says it. Exit code
0 when every promise was kept, 1 when one was missed. LOAD_KEY in the environment is sent
as x-api-key.
"""

import argparse
import contextlib
import os
import shlex
import signal
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from lab.drive import Driver, requests
from lab.launch import INSTALLED, ROOT, Cpus, NotStarted, Served, answers, apart
from lab.load import run, tables
from lab.load.shapes import SHAPES, TOUR
from lab.load.slo import judge

REPORTS = ROOT / "reports" / "load"
CONNECTIONS = 64
UI_PORT = 8089


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="just load", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shape", nargs="*", help=f"of {', '.join(SHAPES)} (default: all but soak)")
    parser.add_argument("--rate", type=_at_least_one, help="queries a second (default: half of the capacity)")
    parser.add_argument("--seconds", type=_positive, help="length of a shape (default 30; of soak 600)")
    parser.add_argument(
        "--host",
        type=_url,
        action="append",
        default=[],
        help="a running gateway's URL, instead of one of our own; may be repeated",
    )
    parser.add_argument(
        "--instances", type=_at_least_one, default=1, help="gateways of our own, asked in turns (default 1)"
    )
    parser.add_argument(
        "--set", type=_setting, action="append", default=[], metavar="NAME=VALUE", help="a setting for them"
    )
    parser.add_argument(
        "--against", type=_setting, action="append", default=[], metavar="NAME=VALUE",
        help="run in pairs, without and with this setting on top, and compare",
    )  # fmt: skip
    parser.add_argument("--rounds", type=_at_least_one, default=3, help="pairs (default 3)")
    parser.add_argument("--seed", type=int, help="of the texts and their order (default: a new one)")
    parser.add_argument(
        "--tolerance",
        type=_positive,
        default=1.0,
        help="how many times its limit a figure may reach (default 1)",
    )
    parser.add_argument("--ui", action="store_true", help="open locust's page instead")
    parser.add_argument(
        "--ui-port", type=_at_least_one, default=UI_PORT, help=f"its port (default {UI_PORT})"
    )
    parser.add_argument("--reports", type=Path, default=REPORTS, help="where to (default reports/load)")
    parser.add_argument(
        "--gateway", type=shlex.split, default=list(INSTALLED), help="the command that starts one"
    )
    asked = parser.parse_args(given)
    if unknown := [name for name in asked.shape if name not in SHAPES]:
        parser.error(f"no such shape: {', '.join(unknown)}; there are {', '.join(SHAPES)}")
    if asked.host and not asked.rate:
        parser.error("--host needs --rate: what it can take is not tried out on somebody else's gateway")
    if asked.host and (asked.set or asked.against or asked.instances > 1):
        parser.error("--set, --against and --instances are for gateways of our own, not for --host")
    if asked.against and (asked.ui or len(asked.shape) != 1):
        parser.error("--against compares in one shape: name it")
    asked.shapes = asked.shape or list(TOUR)
    asked.seed = int(time.time()) % 1_000_000 if asked.seed is None else asked.seed
    asked.key = os.environ.get("LOAD_KEY", "")
    return asked


def main(given: Sequence[str] | None = None) -> int:
    asked = arguments(given)
    try:
        with interruptible(), contextlib.ExitStack() as stack:
            split = Cpus((), ()) if asked.host else stack.enter_context(apart())
            asked.rate = asked.rate or half_of_capacity(asked, split)
            if asked.ui:
                return page(asked, split)
            return compare(asked, split) if asked.against else tour(asked, split)
    except NotStarted as why:
        raise SystemExit(f"load: no gateway could be started ({why}); try `query-gateway check`") from None
    except KeyboardInterrupt:
        print("\nload: interrupted; what was started has ended", file=sys.stderr)
        return 130


@contextlib.contextmanager
def loaded(
    asked: argparse.Namespace, split: Cpus, settings: Sequence[tuple[str, str]] = (), *, patient: bool = False
) -> Iterator[list[str]]:
    """URLs of what is loaded: those of --host, or fresh gateways."""
    if asked.host:
        yield asked.host
        return
    given = {"DRAIN_LINGER_MS": "0", **dict(asked.set), **dict(settings)}
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                Served(given, command=asked.gateway, cpus=split.gateway, patient=patient, inherits=True)
            ).url
            for _ in range(asked.instances)
        ]


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed terminal all end the block, by way of its `finally`s."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def half_of_capacity(asked: argparse.Namespace, split: Cpus) -> int:
    """Half of the new queries a second that a closed loop gets answered: the median of three rounds."""
    with loaded(asked, split, patient=True) as urls:
        at = urlsplit(urls[0])
        with Driver(at.port or 80, at.hostname or "") as driver:
            rounds = [
                driver.closed(requests(asked.seed + turn), connections=CONNECTIONS, seconds=0.8).goodput
                for turn in range(4)
            ]
    capacity = statistics.median(rounds[1:])  # the first one warms
    rate = max(1, round(capacity / 2))
    print(f"{capacity:.0f} new queries a second are answered here at most; the rate is {rate}", flush=True)
    return rate


def tour(asked: argparse.Namespace, split: Cpus) -> int:
    """Each shape on its own, and the verdict."""
    missed = []
    for name in asked.shapes:
        with loaded(asked, split) as urls:
            told = tables.heading(name, where(asked, split, name))
            print(told, flush=True)
            outcome = run.load(one(asked, name, urls), asked.reports)
        lines = judge(
            outcome.samples, outcome.server, tolerance=asked.tolerance, refuses=SHAPES[name].refuses
        )
        missed += [f"{name}: {line.what}" for line in lines if line.holds is False]
        text = tables.verdict(outcome, lines)
        if SHAPES[name].by_time:
            text += "\n" + tables.over_time(outcome)
        print(text, flush=True)
        (asked.reports / f"{name}.txt").write_text(f"{told}\n{text}\n".lstrip(), encoding="utf-8")
    print("\nreports: " + ", ".join(f"{_shown(asked.reports)}/{name}.html" for name in asked.shapes))
    print(f"missed: {'; '.join(missed)}" if missed else "every promise was kept")
    return int(bool(missed))


def compare(asked: argparse.Namespace, split: Cpus) -> int:
    """Without and with a setting, in turns: what drifts meanwhile drifts for both."""
    (name,) = asked.shapes
    told = tables.heading(name, where(asked, split, name))
    print(told, flush=True)
    pairs = []
    for turn in range(asked.rounds):
        outcomes: dict[bool, run.Outcome] = {}
        for after in (False, True) if turn % 2 == 0 else (True, False):
            with loaded(asked, split, asked.against if after else ()) as urls:
                # The same texts for both, and new ones for each round: Redis outlives a run.
                shape = one(asked, name, urls, seed=asked.seed + turn)
                outcomes[after] = run.load(shape, asked.reports / "pair")
        pairs.append((outcomes[False], outcomes[True]))
        print(f"  pair {turn + 1} of {asked.rounds}", flush=True)
    before = ", ".join(f"{key}={value}" for key, value in asked.set) or "as it is"
    after_ = ", ".join(f"{key}={_without_password(value)}" for key, value in asked.against)
    text = tables.compared(before, after_, tables.figures(pairs))
    print(text)
    (asked.reports / "pair.txt").write_text(f"{told}\n{text}\n".lstrip(), encoding="utf-8")
    return 0


def page(asked: argparse.Namespace, split: Cpus) -> int:
    """Locust's own page, until somebody ends it."""
    name = asked.shapes[0]
    with loaded(asked, split) as urls:
        asked.reports.mkdir(parents=True, exist_ok=True)
        shape = one(asked, name, urls)
        command = [
            *run.locust(shape),
            *("--web-host", "127.0.0.1", "--web-port", str(asked.ui_port), "--class-picker"),
            *("--users", str(asked.rate), "--spawn-rate", str(asked.rate)),
        ]
        log = asked.reports / "page.log"
        with run.started(command, shape, None, log) as process:
            url = f"http://127.0.0.1:{asked.ui_port}"
            while process.poll() is None and not answers(url):
                time.sleep(0.1)
            if process.poll() is None:
                print(f"locust's page: {url} (a user asks one query a second; Ctrl-C ends it)", flush=True)
            process.wait()
        raise SystemExit(f"load: locust ended with {process.returncode}:\n{log.read_text()[-2000:]}")


def one(asked: argparse.Namespace, name: str, urls: Sequence[str], *, seed: int | None = None) -> run.Asked:
    return run.Asked(
        shape=name,
        rate=asked.rate,
        seconds=asked.seconds or SHAPES[name].seconds,
        seed=asked.seed if seed is None else seed,
        urls=urls,
        key=asked.key,
    )


def where(asked: argparse.Namespace, split: Cpus, name: str) -> str:
    """What is asked of whom, in a line."""
    seconds = asked.seconds or SHAPES[name].seconds
    told = f"{asked.rate} queries/s for {seconds:g} s, seed {asked.seed}; "
    if asked.host:
        return told + f"at {', '.join(asked.host)}"
    count = "a gateway" if asked.instances == 1 else f"{asked.instances} gateways"
    if set(split.gateway) & set(split.driver):
        return told + f"{count} and the driver share {_cpus(split.driver)}, so figures are of both"
    return told + f"{count} on {_cpus(split.gateway)}, the driver on {_cpus(split.driver)}"


def _cpus(numbers: Iterable[int]) -> str:
    return f"CPU {', '.join(str(number) for number in numbers)}"


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def _without_password(value: str) -> str:
    """A URL without what stands before its host."""
    scheme, found, rest = value.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if found else value


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number over 0, not {text}")
    return value


def _at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number, at least 1, not {text}")
    return value


def _setting(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not (found and name):
        raise argparse.ArgumentTypeError("expected NAME=VALUE")
    return name, value


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise argparse.ArgumentTypeError("expected a URL such as http://127.0.0.1:8080")
    return text.rstrip("/")


if __name__ == "__main__":
    sys.exit(main())
