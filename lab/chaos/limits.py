"""One CPU and 512 MiB for a gateway: a cgroup (version 1) below our own."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from lab.pages import Skipped

CGROUP = Path("/sys/fs/cgroup")
MEMORY_BYTES = 512 * 1024 * 1024
LIMITS = {
    "cpu": {"cpu.cfs_period_us": 100_000, "cpu.cfs_quota_us": 100_000},
    "memory": {"memory.limit_in_bytes": MEMORY_BYTES},
}


@contextlib.contextmanager
def one_cpu_and_512_mib() -> Iterator[list[str]]:
    """The command that a gateway is to be started with, to live in such a cgroup; all that it starts must have ended.

    Raises `Skipped` where none can be made.
    """
    own = dict(
        re.findall(r"^\d+:(cpu|memory)[^:]*:(.*)$", Path("/proc/self/cgroup").read_text("utf-8"), re.M)
    )
    made: list[Path] = []
    try:
        for controller, values in LIMITS.items():
            group = (
                CGROUP / controller / own.get(controller, "/").lstrip("/") / f"query-gateway-{os.getpid()}"
            )
            try:
                group.mkdir()
                made.append(group)
                for name, value in values.items():
                    (group / name).write_text(str(value), encoding="utf-8")
            except OSError as exc:
                raise Skipped(f"no cgroup of our own can be made here ({exc.strerror})") from None
        enter = "; ".join(f"echo $$ > {group}/cgroup.procs" for group in made)
        yield ["sh", "-c", f'{enter}; exec "$@"', "sh"]
    finally:
        for group in made:
            group.rmdir()
