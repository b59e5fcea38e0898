"""Type the runbook at a live stack: `just runbook`.

Every command of every shell block of docs/runbook.md, in its order, must show what
`commands.DOCUMENT` says, and every command of the runbook that the product was
ordered from (`commands.REFERENCE`) either does too or fails as typed for the reason
given there. Needs a container engine. Works on a copy of the checkout, whose
compose.yaml it edits as the runbook says; takes the stack down at the end.
"""

import contextlib
import os
import pty
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lab.launch import ROOT
from lab.ops import stack
from lab.ops.commands import DOCUMENT, REFERENCE, Command
from lab.unproven import unproven

ENDLESS_S = 4
APPLY = "docker compose up -d gateway"  # an edit of compose.yaml
SETTING = re.compile(r"^# ([A-Z][A-Z0-9_]+)=(\S+)")


def blocks(page: str) -> list[list[str]]:
    """The shell blocks of a page, as lines."""
    return [block.splitlines() for block in re.findall(r"^```bash\n(.*?)^```", page, re.M | re.S)]


def commands(block: list[str]) -> list[tuple[str, list[str]]]:
    """A block's commands, each with the comment lines above it."""
    found: list[tuple[str, list[str]]] = []
    comments: list[str] = []
    pending = ""
    for line in block:
        if not pending and (not line.strip() or line.startswith("#")):
            comments.append(line)
            continue
        pending += line + "\n"
        try:
            shlex.split(pending)
        except ValueError:  # a quotation goes on
            continue
        if line.endswith("\\"):
            continue
        found.append((pending.strip(), comments))
        pending, comments = "", []
    assert not pending, pending
    return found


class Typist:
    """Types commands in one folder, bounded, and keeps what did not show what it should."""

    def __init__(self, folder: Path, absent: set[str]) -> None:
        self.folder = folder
        self.absent = absent
        self.failed: list[str] = []
        self.typed = 0
        self.left_out: list[str] = []

    def type(self, command: str, expected: Command) -> None:
        if missing := expected.needs & self.absent:
            self.left_out.append(f"{first_line(command)} (no {', '.join(sorted(missing))} here)")
            print(f"----  {first_line(command)}", flush=True)
            return
        if not command.startswith("docker compose") and not stack.settled():
            print("      (not settled)")
        started = time.monotonic()
        for _ in range(expected.tries):
            shown, code = run(command, self.folder, expected.endless)
            right = bool(re.search(expected.shows, shown, re.S)) and (
                not expected.codes or code in expected.codes or expected.endless
            )
            if right:
                break
            time.sleep(2)
        self.typed += 1
        took_s = time.monotonic() - started
        print(f"{'ok  ' if right else 'FAIL'}  {took_s:5.1f} s  {first_line(command)}", flush=True)
        if not right:
            self.failed.append(command)
            print(f"      expected {expected.shows!r}, codes {expected.codes}; code {code}, shown:")
            print("\n".join("      " + line for line in shown.splitlines()[-15:]))


def run(command: str, folder: Path, endless: bool) -> tuple[str, int]:
    """Type one command, as on-call would. One that never ends gets a terminal, and Ctrl-C after a while."""
    if shutil.which("sudo") is None and os.geteuid() == 0:
        command = command.replace("sudo ", "")  # root on a machine without sudo
    if endless:
        return watched(command, folder)
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        text=True, errors="replace", env=stack.environment(), timeout=180, check=False,
    )  # fmt: skip
    return done.stdout, done.returncode


def watched(command: str, folder: Path) -> tuple[str, int]:
    """What a command writes to a terminal in some seconds. (Into a pipe, grep would hold its lines back.)"""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ["bash", "-c", command], cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env=stack.environment(),
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    until = time.monotonic() + ENDLESS_S
    while (left_s := until - time.monotonic()) > 0:
        if select.select([ours], [], [], left_s)[0]:
            try:
                shown += os.read(ours, 65536)
            except OSError:  # it ended by itself
                break
    for number in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(3)
    os.close(ours)
    return shown.decode(errors="replace"), process.returncode


def first_line(command: str) -> str:
    lines = command.splitlines()
    return lines[0] + (" …" if len(lines) > 1 else "")


def edit(folder: Path, comments: list[str]) -> dict[str, str]:
    """Do to compose.yaml what the comments above a command say. Returns the settings changed."""
    file = folder / "compose.yaml"
    text = file.read_text()
    changed = {}
    for line in comments:
        if match := SETTING.match(line):
            name, value = match.groups()
            text, count = re.subn(rf"^( +- {name}=).*$", rf"\g<1>{value}", text, flags=re.M)
            assert count == 1, f"{name} is not there to edit in compose.yaml"
            changed[name] = value
        if match := re.match(r"^#\s+memory: (\d+)G  \(from (\d+)G\)", line):
            old = f"memory: {match[2]}G"
            assert text.count(old) == 1, f"{old} is not there to edit"
            text = text.replace(old, f"memory: {match[1]}G")
            changed["memory"] = match[1]
    file.write_text(text)
    return changed


def applied(folder: Path, changed: dict[str, str]) -> list[str]:
    """Which of the edits the running gateway does not have."""
    seen = stack.must("docker exec query-gateway env", folder).splitlines()
    wrong = [f"{k}={v}" for k, v in changed.items() if k != "memory" and f"{k}={v}" not in seen]
    if "memory" in changed:
        limit = int(stack.must("docker inspect -f '{{.HostConfig.Memory}}' query-gateway", folder))
        wrong += [f"memory {limit}"] if limit != int(changed["memory"]) << 30 else []
    return wrong


def complete() -> list[str]:
    """What the tables and the page do not agree on; needs no engine."""
    page = (ROOT / "docs/runbook.md").read_text()
    typed = {command for block in blocks(page) for command, _ in commands(block)}
    wrong = [f"in the page, not in the table: {command}" for command in typed - DOCUMENT.keys()]
    wrong += [f"in the table, not in the page: {command}" for command in DOCUMENT.keys() - typed]
    for reference in REFERENCE:
        if reference.instead is not None and reference.instead not in typed:
            wrong.append(f"said to be instead of {reference.typed}, not in the page: {reference.instead}")
        if reference.instead is None and reference.shows is None and reference.typed not in typed:
            wrong.append(f"the order's command is neither in the page nor replaced: {reference.typed}")
    return wrong


def main() -> int:
    if wrong := complete():
        print("\n".join(wrong))
        return 1
    if stack.shell("docker info").returncode:
        print("runbook: no container engine answers (docker info); nothing was typed")
        return 1
    page = (ROOT / "docs/runbook.md").read_text()
    with tempfile.TemporaryDirectory(prefix="runbook-") as made:
        folder = stack.copy(Path(made))
        absent = {"grafana"} & stack.images()
        stack.must("docker compose down -v --remove-orphans && docker compose build -q gateway", folder)
        # All but Grafana must become healthy; a stand-in for it cannot.
        services = "gateway redis prometheus alertmanager" + ("" if absent else " grafana")
        started = time.monotonic()
        stack.must(f"docker compose up -d --wait {services} && docker compose up -d", folder)
        print(
            f"the stack was healthy after {time.monotonic() - started:.1f} s; stand-ins without content: {absent or 'none'}"
        )
        if '"l2_enabled":true' not in stack.must("curl -s http://localhost:8080/health/deep"):
            absent.add("L2")
        typist = Typist(folder, absent)
        try:
            with stack.traffic(8080):
                time.sleep(30)  # two scrapes by the rules' own interval, and some queries
                for block in blocks(page):
                    changed: dict[str, str] = {}
                    for command, comments in commands(block):
                        changed |= edit(folder, comments)
                        typist.type(command, DOCUMENT[command])
                        if command == APPLY and stack.settled() and (missing := applied(folder, changed)):
                            typist.failed.append(f"{command}: not applied: {missing}")
                print("-- what the order types otherwise")
                for reference in REFERENCE:
                    if reference.shows is not None:
                        typist.type(
                            reference.typed,
                            Command(
                                reference.shows, endless=reference.endless, codes=(), needs=reference.needs
                            ),
                        )
        finally:
            stack.shell("docker compose down -v --remove-orphans", folder)
    unproven(f"the runbook's {line}" for line in typist.left_out)
    print(f"runbook: {typist.typed} commands typed, {len(typist.failed)} did not show what they should")
    for line in typist.failed:
        print("  ", line)
    return 1 if typist.failed else 0


if __name__ == "__main__":
    sys.exit(main())
