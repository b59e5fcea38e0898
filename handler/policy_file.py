"""An operator's own policy, read from a TOML file and put together with a model's.

    source = "tasks"            # or "outcomes": the need that the model learnt from your outcomes
    [need]                      # instead of the model's own 0 or 1; tasks that are not named keep theirs
    open_qa = 0.6
    [[tier]]                    # cheapest first; each answers needs up to and including its need_max
    name = "small"
    need_max = 0.3
    [[tier]]
    name = "large"
    need_max = 1.0
    [options]                   # bounds of need that questions may be asked by
    SIMPLE = 0.3
    [predicates]                # a bound of need, or tasks
    needs_large = 0.3

`read` checks all that can be checked without a model, `policy_for` the rest. Whatever is
wrong is told with file and line, what was seen and what is accepted; a file is taken
whole or not at all.
"""

import difflib
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from handler.policy import (
    LABELS,
    NEED,
    OPTIONS,
    PREDICATES,
    THRESHOLD,
    Policy,
    Predicate,
    Route,
    Source,
    Tier,
    override,
)

BYTES_MAX = 1_000_000
TIERS_MAX = len(LABELS)
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,63}")  # goes into headers and metrics as it is
NAME_ACCEPTED = "1 to 64 letters, digits, and _ . : -"
SOURCES: tuple[Source, ...] = ("tasks", "outcomes")
MEMBERS = ("source", "need", "tier", "options", "predicates")

FAST_TASKS_TOO = 'ROUTE_FAST_TASKS is set too, and with source = "outcomes" tasks do not decide; name tasks in [need] instead'

Where = tuple[str | int, ...]  # where a value stands in the file: ("tier", 0, "need_max")


class PolicyError(ValueError):
    """A policy that cannot be followed. The message names file and line, and what is accepted."""


class PolicyFile(msgspec.Struct, frozen=True):
    """What a policy file says; it fits no model yet.

    path        as it was given
    version     the first 12 hex digits of the file's SHA-256
    need        by task; only tasks that the file names
    tiers       none where fast and slow are meant
    lines       where in the file each value stands, counted from 1
    """

    path: str
    version: str
    source: Source
    need: dict[str, float]
    tiers: tuple[Tier, ...]
    options: dict[str, float]
    predicates: dict[str, Predicate]
    lines: dict[Where, int]

    def error(self, where: Where, message: str) -> PolicyError:
        return _error(self.path, self.lines, where, message)


def read(path: str | Path, *, fast_tasks: bool = False, threshold_given: bool = False) -> PolicyFile:
    """Read and check a file. Blocks.

    fast_tasks       whether ROUTE_FAST_TASKS is set
    threshold_given  whether CONFIDENCE_THRESHOLD is

    Raises `PolicyError`, also where the file and those settings contradict each other.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(BYTES_MAX + 1)
    except OSError as exc:
        raise PolicyError(f"{path} cannot be read ({exc.strerror})") from None
    if len(content) > BYTES_MAX:
        raise PolicyError(f"{path} is not a policy: it is over {BYTES_MAX} bytes")
    policy = parse(content, str(path))
    if fast_tasks and policy.need:
        raise policy.error(
            ("need",), "ROUTE_FAST_TASKS is set too, and both say what tasks need; set one of the two"
        )
    if fast_tasks and policy.source == "outcomes":
        raise policy.error(("source",), FAST_TASKS_TOO)
    if threshold_given and policy.tiers:
        raise policy.error(
            ("tier", 0),
            "CONFIDENCE_THRESHOLD is set too, and both say where the first tier ends; set one of the two",
        )
    return policy


def parse(content: bytes, path: str) -> PolicyFile:
    """Parse a file's bytes; `path` is for messages alone. Raises `PolicyError`."""
    import tomllib  # only who has a policy file pays for it

    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = content[: exc.start].count(b"\n") + 1
        raise PolicyError(f"{path}:{line}: bytes that are not UTF-8") from None
    try:
        seen = tomllib.loads(text)
    except (ValueError, RecursionError) as exc:  # its own, and Python's for a number of thousands of digits
        found = re.search(r"\(at (?:line (\d+), column \d+|(end) of document)\)", str(exc))
        line = int(found[1]) if found and found[1] else text.rstrip().count("\n") + 1
        reason = re.sub(r" \(at .*\)$", "", str(exc))
        raise PolicyError(f"{path}:{line}: this is not TOML: {reason}") from None
    if not seen:  # half written, or emptied: not the wish for the model's own policy
        raise PolicyError(
            f"{path} is empty, or holds nothing but comments; accepted: at least one of {_listed(MEMBERS)}. "
            "To have the model's own policy, leave POLICY_FILE unset"
        )
    return _Reader(seen, path, _lines(text)).policy(hashlib.sha256(content).hexdigest()[:12])


def policy_for(
    tasks: Sequence[str],
    routes: Mapping[str, Route],
    *,
    fast_tasks: Sequence[str] = (),
    threshold: float = THRESHOLD,
    file: PolicyFile | None = None,
    learnt: bool = False,
) -> Policy:
    """Put the model's own policy and an operator's together.

    tasks, routes  of the model
    fast_tasks     ROUTE_FAST_TASKS: these alone are fast
    threshold      CONFIDENCE_THRESHOLD: where the first of two tiers ends
    learnt         whether the model has learnt a need from outcomes

    Raises `UnknownTask` for a task in `fast_tasks` that the model does not know, and
    `PolicyError` for what in the file does not fit the model.
    """
    needs = {
        task: NEED[route] for task, route in (override(tasks, fast_tasks) if fast_tasks else routes).items()
    }
    if file is None:
        return Policy(tasks, needs, threshold=threshold)
    for task in file.need:
        _known_task(file, ("need", task), task, tasks)
    for name, meant in file.predicates.items():
        for task in meant if isinstance(meant, tuple) else ():
            _known_task(file, ("predicates", name), task, tasks)
    if file.source == "outcomes" and not learnt:
        raise file.error(
            ("source",),
            'source = "outcomes" takes a model that has learnt from outcomes (`just train --outcomes`); '
            "the one at MODEL_PATH has not",
        )
    return Policy(
        tasks,
        needs | file.need,
        tiers=file.tiers,
        threshold=threshold,
        source=file.source,
        overridden=file.need if file.source == "outcomes" else (),
        options=file.options,
        predicates=file.predicates,
    )


def with_source(file: PolicyFile | None, source: Source) -> PolicyFile:
    """A policy file, or one that says nothing else where there is none, that takes need from elsewhere."""
    return msgspec.structs.replace(file or parse(b'source = "tasks"', "policy"), source=source)


def write(
    *,
    tiers: Sequence[Tier] = (),
    need: Mapping[str, float] | None = None,
    source: Source = "tasks",
    options: Mapping[str, float] = OPTIONS,
    predicates: Mapping[str, Predicate] = PREDICATES,
    comments: Sequence[str] = (),
) -> str:
    """A policy file's text, which `parse` reads back; `comments` stand above it, a line each."""
    lines = [f"# {comment}".rstrip() for comment in comments]
    lines += [f'source = "{source}"']
    if need:
        lines += ["", "[need]", *(f"{_key(task)} = {value!r}" for task, value in need.items())]
    for tier in tiers:
        lines += ["", "[[tier]]", f"name = {_key(tier.name, quoted=True)}", f"need_max = {tier.need_max!r}"]
    if options != OPTIONS:
        lines += ["", "[options]", *(f"{_key(name)} = {bound!r}" for name, bound in options.items())]
    if predicates != PREDICATES:
        lines += ["", "[predicates]"]
        for name, meant in predicates.items():
            shown = [_key(task, quoted=True) for task in meant] if isinstance(meant, tuple) else [repr(meant)]
            lines.append(
                f"{_key(name)} = [{', '.join(shown)}]"
                if isinstance(meant, tuple)
                else f"{_key(name)} = {shown[0]}"
            )
    return "\n".join(lines) + "\n"


def _key(name: str, *, quoted: bool = False) -> str:
    return name if not quoted and re.fullmatch(r"[A-Za-z0-9_-]+", name) else f'"{name}"'


def _known_task(file: PolicyFile, where: Where, task: str, tasks: Sequence[str]) -> None:
    if task not in tasks:
        raise file.error(where, f"{task!r} is not a task of this model, which knows {', '.join(tasks)}")


class _Reader:
    """Checks parsed TOML member by member, and knows the line to blame."""

    def __init__(self, seen: dict[str, Any], path: str, lines: dict[Where, int]) -> None:
        self.seen = seen
        self.path = path
        self.lines = lines

    def policy(self, version: str) -> PolicyFile:
        for member in self.seen:
            if member not in MEMBERS:
                raise self.unknown((member,), member, MEMBERS)
        return PolicyFile(
            path=self.path,
            version=version,
            source=self.source(),
            need={task: self.number(("need", task), n) for task, n in self.table("need").items()},
            tiers=self.tiers(),
            options=self.options(),
            predicates=self.predicates(),
            lines=self.lines,
        )

    def source(self) -> Source:
        seen = self.seen.get("source", "tasks")
        for source in SOURCES:
            if seen == source:
                return source
        raise self.error(("source",), f"source is {_shown(seen)}; accepted: {_listed(SOURCES)}")

    def table(self, name: str) -> dict[str, Any]:
        seen = self.seen.get(name, {})
        if not isinstance(seen, dict):
            raise self.error((name,), f"{name} is {_kind(seen)}; accepted: a table [{name}]")
        return seen

    def tiers(self) -> tuple[Tier, ...]:
        seen = self.seen.get("tier", [])
        if not (isinstance(seen, list) and all(isinstance(tier, dict) for tier in seen)):
            raise self.error(("tier",), f"tier is {_kind(seen)}; accepted: tables [[tier]], cheapest first")
        if "tier" in self.seen and not 2 <= len(seen) <= TIERS_MAX:
            raise self.error(("tier",), f"{len(seen)} tier(s); accepted: 2 to {TIERS_MAX}")
        tiers = [self.tier(place, tier) for place, tier in enumerate(seen)]
        for place, (before, tier) in enumerate(pairwise(tiers), start=1):
            if not tier.need_max > before.need_max:
                raise self.error(
                    ("tier", place, "need_max"),
                    f"tier {tier.name!r} has need_max {tier.need_max:g}; accepted: over the {before.need_max:g} "
                    f"of the tier before it (tiers stand cheapest first)",
                )
        for place, tier in enumerate(tiers):
            if tier.name in {other.name for other in tiers[:place]}:
                raise self.error(("tier", place, "name"), f"a second tier is called {tier.name!r}")
        if tiers and tiers[-1].need_max != 1:
            raise self.error(
                ("tier", len(tiers) - 1, "need_max"),
                f"the last tier has need_max {tiers[-1].need_max:g}; accepted: 1, since it answers all that is left",
            )
        return tuple(tiers)

    def tier(self, place: int, seen: dict[str, Any]) -> Tier:
        for member in seen:
            if member not in ("name", "need_max"):
                raise self.unknown(("tier", place, member), member, ("name", "need_max"))
        for member in ("name", "need_max"):
            if member not in seen:
                raise self.error(("tier", place), f"a tier without {member}")
        name = self.name(("tier", place, "name"), seen["name"])
        return Tier(name, self.number(("tier", place, "need_max"), seen["need_max"]))

    def options(self) -> dict[str, float]:
        if "options" not in self.seen:
            return dict(OPTIONS)
        return {
            self.name(("options", name), name): self.number(("options", name), bound)
            for name, bound in self.table("options").items()
        }

    def predicates(self) -> dict[str, Predicate]:
        if "predicates" not in self.seen:
            return dict(PREDICATES)
        found: dict[str, Predicate] = {}
        for name, meant in self.table("predicates").items():
            where = ("predicates", name)
            self.name(where, name)
            if isinstance(meant, list) and meant and all(isinstance(task, str) for task in meant):
                found[name] = tuple(meant)
            elif isinstance(meant, int | float) and not isinstance(meant, bool):
                found[name] = self.number(where, meant)
            else:
                raise self.error(
                    where, f"{name} is {_shown(meant)}; accepted: a bound of need, 0 to 1, or a list of tasks"
                )
        return found

    def number(self, where: Where, seen: Any) -> float:
        # A bool is an int to Python, and NaN is within no bounds.
        if isinstance(seen, bool) or not isinstance(seen, int | float) or not 0 <= seen <= 1:
            raise self.error(where, f"{where[-1]} is {_shown(seen)}; accepted: a number from 0 to 1")
        return float(seen)

    def name(self, where: Where, seen: Any) -> str:
        if not isinstance(seen, str) or not NAME.fullmatch(seen):
            raise self.error(where, f"a name is {_shown(seen)}; accepted: {NAME_ACCEPTED}")
        return seen

    def unknown(self, where: Where, seen: str, known: Sequence[str]) -> PolicyError:
        close = difflib.get_close_matches(seen, known, n=1)
        meant = f"; did you mean {close[0]!r}?" if close else ""
        return self.error(where, f"{_shown(seen)} is not a member; accepted: {_listed(known)}{meant}")

    def error(self, where: Where, message: str) -> PolicyError:
        return _error(self.path, self.lines, where, message)


def _error(path: str, lines: Mapping[Where, int], where: Where, message: str) -> PolicyError:
    """Blame a value's line, or else the nearest one that holds it."""
    for length in range(len(where), 0, -1):
        if line := lines.get(where[:length]):
            return PolicyError(f"{path}:{line}: {message}")
    return PolicyError(f"{path}: {message}")


def _shown(seen: Any) -> str:
    try:
        shown = repr(seen)
    except ValueError:  # Python writes no number of thousands of digits
        shown = "a very long number"
    return shown if len(shown) <= 60 else f"{shown[:60]}…"


def _kind(seen: Any) -> str:
    return {dict: "a table", list: "a list", str: "a string", bool: "true or false"}.get(
        type(seen), _shown(seen)
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


_HEADER = re.compile(r"\s*(\[\[?)\s*(.+?)\s*\]\]?\s*(?:#.*)?$")
_PAIR = re.compile(r"""\s*((?:"[^"]*"|'[^']*'|[\w.\s-])+?)\s*=""")
_PART = re.compile(r""""([^"]*)"|'([^']*)'|([\w-]+)""")


def _lines(text: str) -> dict[Where, int]:
    """Where each key of a TOML text stands: tomllib does not tell. Wrong at worst in a message."""
    found: dict[Where, int] = {}
    table: Where = ()
    count: dict[Where, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            table = tuple(_parts(header[2]))
            found.setdefault(table, number)
            if header[1] == "[[":
                place = count[table] = count.get(table, -1) + 1
                table = (*table, place)
                found.setdefault(table, number)
        elif pair := _PAIR.match(line):
            where = table
            for part in _parts(pair[1]):
                where = (*where, part)
                found.setdefault(where, number)
    return found


def _parts(dotted: str) -> Iterator[str]:
    for part in _PART.finditer(dotted):
        yield next(group for group in part.groups() if group is not None)
