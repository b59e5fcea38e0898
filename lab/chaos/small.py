"""On little: one CPU and 512 MiB, a root that cannot be written, no user of note, no home."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from lab.chaos.limits import one_cpu_and_512_mib
from lab.drive import Driver, poisson, requests
from lab.launch import Served
from lab.pages import Skipped
from lab.rows import Row, holds

NOBODY = "65534"


def small() -> list[Row]:
    rows: list[Row] = []
    for scenario in (_one_cpu_and_512_mib, _read_only_as_nobody):
        try:
            rows += scenario()
        except Skipped as why:
            rows.append(Row((scenario.__doc__ or "").rstrip("."), f"not shown on this machine: {why}"))
    return rows


def _one_cpu_and_512_mib() -> list[Row]:
    """One CPU and 512 MiB."""
    with (
        one_cpu_and_512_mib() as wrapped,
        Served(wrapped_in=wrapped, patient=False) as served,
    ):
        lanes = served.deep()["checks"]["batch_processor"]["lanes"]
        with Driver(served.port) as driver:
            seen = driver.open(requests(4), poisson(2000, seed=4), seconds=10.0)
        peak_mb = served.memory_mb
        code = served.terminate()
    lived = code == 0 and seen.lost == 0 and seen.codes.keys() <= {200, 429}
    return [
        holds("1 CPU, 512 MiB (a cgroup): lanes", str(lanes), "1", lanes == 1),
        holds(
            "1 CPU, 512 MiB: 10 s of 2,000 new queries/s",
            f"{seen.codes[200]} answered, {seen.codes[429]} refused, {seen.others or 'nothing else'}, "
            f"exit code {code}",
            "nothing else",
            lived,
        ),
        holds("1 CPU, 512 MiB: memory afterwards", f"{peak_mb:.0f} MB", "under 512 MiB", peak_mb < 537),
    ]


def _read_only_as_nobody() -> list[Row]:
    """A read-only root as a user without a home."""
    if os.geteuid() != 0 or not (shutil.which("unshare") and shutil.which("setpriv")):
        raise Skipped("it takes root, unshare and setpriv")
    nobody = ["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--no-new-privs"]
    may_read = ""
    if subprocess.run([*nobody, "test", "-x", os.path.realpath(sys.executable)]).returncode:
        # An interpreter in a home of its own: nobody may read it, and still write nothing.
        may_read = " that may read all files"
        nobody += ["--inh-caps", "-all,+dac_read_search", "--ambient-caps", "+dac_read_search"]
    enter = (
        # Every mount that could be written becomes read-only, for this process alone.
        "awk '$2 !~ \"^/(proc|sys|dev)\" {print $2}' /proc/mounts | sort -u | while read -r place; do "
        'mount -o remount,bind,ro "$place"; done 2>/dev/null; exec "$@"'
    )
    wrapped = ["unshare", "--mount", "sh", "-c", enter, "sh", *nobody, "env", "-u", "HOME"]
    check = (
        "import os; print(os.geteuid(), any(os.access(p, os.W_OK) for p in ('/', '/tmp', '/var/tmp', '.')))"
    )
    tried = subprocess.run([*wrapped, sys.executable, "-c", check], capture_output=True, text=True)
    if tried.stdout.split() != [NOBODY, "False"]:
        said = (tried.stderr or tried.stdout).strip()[-200:]
        raise Skipped(f"the mounts cannot be made read-only here ({said})")
    with Served(wrapped_in=wrapped, patient=False) as served:
        code = served.ask("nothing here can be written").status_code
        owner = served.usage.uids().effective
        status = Path(f"/proc/{served.usage.pid}/status").read_text(encoding="utf-8")
        powers = re.search(r"CapEff:\s*(\w+)", status)
        ended = served.terminate()
    seen = f"answers {code} as user {owner}{may_read}, with capabilities {powers[1] if powers else '?'}, ends with {ended}"
    return [
        holds("read-only root, user 65534, no home", seen, "answers, ends with 0", (code, ended) == (200, 0))
    ]
