"""How much of this machine the process may really use.

A container sees all of the host's cores, but its affinity mask and its cgroup
quota (version 1 or 2) say how many it gets.
"""

import contextlib
import gc
import math
import os
import resource
from collections.abc import Callable
from pathlib import Path

import msgspec

# Connections, most of them idle, that one process accepts where it may open as many files.
CONNECTIONS_MAX = 16_384
# What a gateway holds open by itself (measured: 21 on Linux, 4 more to each Redis server and 1 to ask for its
# address; of a cluster, 4 are asked at once which servers there are).
OWN_FILES = 21
REDIS_FILES = 4
ASKED_AT_ONCE = 4
# A push of metrics and one of traces: a connection each, and what asks for its address.
EXPORT_FILES = 4
# Files for what is opened for a moment: the model's, keys, reports. A share of the limit, within bounds.
SPARE_MIN, SPARE_SHARE, SPARE_MAX = 2, 8, 128
# Below this many files the operator is told.
FEW = 1024

# glibc's malloc.h.
M_MMAP_THRESHOLD = -3
LARGE_BYTES = 1 << 20

CGROUP = Path("/sys/fs/cgroup")
PROC_CGROUP = Path("/proc/self/cgroup")


def usable_cpus(cgroup: Path = CGROUP, own: Path = PROC_CGROUP) -> int:
    """Whole CPUs that this process can keep busy; at least 1."""
    cpus = len(os.sched_getaffinity(0))
    quota = cpu_quota(cgroup, own)
    return max(1, min(cpus, math.ceil(quota))) if quota else cpus


class Files(msgspec.Struct, frozen=True):
    """How many files the process may open, and what of them is left for connections.

    shortage  what to tell the operator when that is little; empty when it is not
    """

    limit: int
    connections: int
    shortage: str = ""


def open_files(
    *, redis_servers: int, export: bool = False, raise_to: Callable[[int], int] | None = None
) -> Files:
    """Raise the limit of open files as far as it may be, and share it out.

    redis_servers  how many are connected to; 0 where there is no Redis

    A gateway without a file left cannot accept, read its model or reach Redis, so
    connections never get all of them.
    """
    limit = (raise_to or raise_open_files)(CONNECTIONS_MAX + SPARE_MAX)
    own = (
        OWN_FILES
        + redis_servers * REDIS_FILES
        + min(redis_servers, ASKED_AT_ONCE)
        + (EXPORT_FILES if export else 0)
    )
    spare = min(SPARE_MAX - own, SPARE_MIN + max(0, limit - own) // SPARE_SHARE)
    connections = min(CONNECTIONS_MAX, limit - own - spare)
    limited = f"the limit of open files (ulimit -n) is {limit}"
    if connections < 1:
        return Files(limit, 0, f"{limited}; at least {own + SPARE_MIN + 1} are needed")
    if limit < FEW:
        return Files(
            limit, connections, f"{limited}, so at most {connections} connections are open at a time"
        )
    return Files(limit, connections)


def raise_open_files(wanted: int) -> int:
    """Lift this process's limit of open files towards `wanted`, as far as it may; the limit that holds then."""
    unlimited = resource.RLIM_INFINITY
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != unlimited and soft < wanted:
        soft = wanted if hard == unlimited else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == unlimited else soft


def free_large_blocks_at_once() -> None:
    """See that blocks of a megabyte and more go back to the system when they are freed, where glibc is.

    It would raise that bound with the first large block that is freed, and put the next model's
    parts between what others hold. Blocks for a moment.
    """
    import ctypes  # numpy imports it too

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)


def give_memory_back() -> None:
    """Give freed memory back to the system, where glibc is. Blocks for some milliseconds.

    What a model has taken is scattered over the heap, and glibc keeps it when it is freed. Queries
    that failed go round in circles with their errors, and keep the model that they asked for until
    they are collected, which is seldom.
    """
    import ctypes

    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def cpu_quota(cgroup: Path, own: Path) -> float | None:
    """The tightest CPU quota on the way up from this process's cgroup, in CPUs."""
    quotas = [
        quota
        for folder in _folders(cgroup, own)
        for quota in (_quota_v2(folder), _quota_v1(folder))
        if quota is not None
    ]
    return min(quotas, default=None)


def _folders(cgroup: Path, own: Path) -> list[Path]:
    """Our own cgroup folders and all above them, for both versions of the tree."""
    folders = {cgroup, cgroup / "cpu"}
    for line in _text(own).splitlines():
        _, controllers, path = line.split(":", 2)
        roots = [cgroup] if not controllers else [cgroup / controllers, cgroup / "cpu"]
        if not controllers or "cpu" in controllers.split(","):
            for root in roots:
                place = root / path.lstrip("/")
                folders.update(p for p in (place, *place.parents) if p.is_relative_to(cgroup))
    return sorted(folders)


def _quota_v2(folder: Path) -> float | None:
    fields = _text(folder / "cpu.max").split()
    return int(fields[0]) / int(fields[1]) if len(fields) == 2 and fields[0] != "max" else None


def _quota_v1(folder: Path) -> float | None:
    quota_us, period_us = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
    return int(quota_us) / int(period_us) if quota_us and period_us and int(quota_us) > 0 else None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
