"""The Ray recipe on a real cluster of this machine: a head and two workers of one core each.

What runs there is `lab.integrations.probes.bulk`, in the environment that Ray is installed in
(`scripts/install.sh ray`, 0.8 GB). By name only: `just integrations ray`.
"""

import asyncio
import contextlib
import json
import os
import signal

from lab.integrations.checks import NotHere, Result, Table, Verdict
from lab.launch import ROOT

NAME = "ray"
PYTHON = ROOT / ".venv-ray" / "bin" / "python"
PROBE = "lab.integrations.probes.bulk"
WITHIN_S = 900.0
KEPT = ("PATH", "HOME", "LANG", "TMPDIR")


async def check(table: Table) -> None:
    """Run the probe, and give its promises as rows of the table."""
    if not PYTHON.exists():
        await table.run(NAME, _not_here)
        return
    environ = {name: value for name, value in os.environ.items() if name in KEPT}
    # Ray reports its use to its makers unless it is told not to.
    environ |= {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}
    process = await asyncio.create_subprocess_exec(
        str(PYTHON), "-W", "ignore", "-m", PROBE, cwd=ROOT, env=environ, process_group=0,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, limit=1 << 20,
    )  # fmt: skip
    told = 0
    complained = asyncio.ensure_future(process.stderr.read() if process.stderr else asyncio.sleep(0, b""))
    try:
        async with asyncio.timeout(WITHIN_S):
            assert process.stdout
            async for line in process.stdout:
                if line.startswith(b"{"):
                    told += 1
                    table.add(_row(line))
            await process.wait()
    except TimeoutError:
        table.add(Result(NAME, Verdict.FAILED, f"not done within {WITHIN_S:g} s", WITHIN_S))
    finally:
        # It ends its cluster itself; where it could not, nothing of it stays.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM if process.returncode is None else signal.SIGKILL)
        await process.wait()
    if not told:
        table.add(Result(NAME, Verdict.FAILED, (await complained).decode()[-600:], 0.0))


async def _not_here() -> str:
    raise NotHere("Ray is not installed: scripts/install.sh ray")


def _row(line: bytes) -> Result:
    found = json.loads(line)
    verdict = Verdict.FAILED if found["problem"] else Verdict.PASSED
    return Result(f"{NAME}/{found['promise']}", verdict, found["problem"] or found["seen"], found["seconds"])
