"""How many CPUs are really ours: the affinity mask, and quotas of both cgroup versions."""

import gc
import os
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.machine import cpu_quota, give_memory_back, usable_cpus

PERIOD_US = 100_000

HasCpus = Callable[[int], None]


@pytest.fixture
def cgroup(tmp_path: Path) -> Path:
    folder = tmp_path / "cgroup"
    folder.mkdir()
    return folder


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Stands for /proc/self/cgroup; not there until a test writes it."""
    return tmp_path / "own"


@pytest.fixture
def has_cpus(monkeypatch: pytest.MonkeyPatch) -> HasCpus:
    """Say how many CPUs the process's affinity mask holds."""

    def set_affinity(cpus: int) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(cpus)))

    return set_affinity


def limit_v2(folder: Path, cpus: float | None, *, period_us: int = PERIOD_US) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    quota = "max" if cpus is None else int(cpus * period_us)
    (folder / "cpu.max").write_text(f"{quota} {period_us}\n")


def limit_v1(folder: Path, cpus: float | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.cfs_quota_us").write_text("-1\n" if cpus is None else f"{int(cpus * PERIOD_US)}\n")
    (folder / "cpu.cfs_period_us").write_text(f"{PERIOD_US}\n")


def test_without_any_cgroup_the_affinity_mask_counts(cgroup: Path, own: Path, has_cpus: HasCpus) -> None:
    has_cpus(6)

    assert usable_cpus(cgroup, own) == 6


def test_a_quota_under_the_affinity_mask_counts(cgroup: Path, own: Path, has_cpus: HasCpus) -> None:
    has_cpus(64)
    limit_v2(cgroup, 2)

    assert usable_cpus(cgroup, own) == 2


def test_an_affinity_mask_under_the_quota_counts(cgroup: Path, own: Path, has_cpus: HasCpus) -> None:
    has_cpus(3)
    limit_v2(cgroup, 16)

    assert usable_cpus(cgroup, own) == 3


@pytest.mark.parametrize(("quota", "cpus"), [(0.05, 1), (0.5, 1), (1.0, 1), (1.5, 2), (2.001, 3)])
def test_a_part_of_a_cpu_counts_as_one(
    quota: float, cpus: int, cgroup: Path, own: Path, has_cpus: HasCpus
) -> None:
    has_cpus(64)
    limit_v2(cgroup, quota)

    assert usable_cpus(cgroup, own) == cpus


@pytest.mark.parametrize("limit", [limit_v1, limit_v2])
def test_a_cgroup_without_a_limit_leaves_the_affinity_mask(
    limit: Callable[[Path, float | None], None], cgroup: Path, own: Path, has_cpus: HasCpus
) -> None:
    has_cpus(6)
    limit(cgroup, None)

    assert usable_cpus(cgroup, own) == 6


def test_a_quota_is_of_its_own_period(cgroup: Path, own: Path) -> None:
    limit_v2(cgroup, 2, period_us=20_000)

    assert cpu_quota(cgroup, own) == 2


def test_version_2_is_read_at_the_place_that_the_process_has(cgroup: Path, own: Path) -> None:
    own.write_text("0::/kubepods/pod1/gateway\n")
    limit_v2(cgroup / "kubepods/pod1/gateway", 1.5)

    assert cpu_quota(cgroup, own) == 1.5


@pytest.mark.parametrize("tightest", ["", "kubepods", "kubepods/pod1", "kubepods/pod1/gateway"])
def test_the_tightest_quota_on_the_way_up_counts(tightest: str, cgroup: Path, own: Path) -> None:
    own.write_text("0::/kubepods/pod1/gateway\n")
    for folder in ("", "kubepods", "kubepods/pod1", "kubepods/pod1/gateway"):
        limit_v2(cgroup / folder, 1 if folder == tightest else 4)

    assert cpu_quota(cgroup, own) == 1


def test_a_neighbours_quota_does_not_count(cgroup: Path, own: Path) -> None:
    own.write_text("0::/kubepods/pod1\n")
    limit_v2(cgroup / "kubepods/pod2", 1)
    limit_v2(cgroup / "kubepods/pod1/child", 1)

    assert cpu_quota(cgroup, own) is None


@pytest.mark.parametrize("controllers", ["cpu", "cpu,cpuacct", "cpuacct,cpu"])
def test_version_1_is_read_under_the_cpu_controllers_own_tree(
    controllers: str, cgroup: Path, own: Path
) -> None:
    own.write_text(f"5:memory:/docker/abc\n4:{controllers}:/docker/abc\n1:name=systemd:/docker/abc\n")
    limit_v1(cgroup / controllers / "docker/abc", 2.5)

    assert cpu_quota(cgroup, own) == 2.5


def test_version_1_is_found_under_the_short_name_of_a_shared_tree(cgroup: Path, own: Path) -> None:
    own.write_text("4:cpu,cpuacct:/docker/abc\n")
    limit_v1(cgroup / "cpu/docker/abc", 3)

    assert cpu_quota(cgroup, own) == 3


def test_version_1_is_found_at_the_trees_root_where_a_container_sees_nothing_above_itself(
    cgroup: Path, own: Path
) -> None:
    own.write_text("4:cpu,cpuacct:/docker/abc\n")
    limit_v1(cgroup / "cpu", 0.5)

    assert cpu_quota(cgroup, own) == 0.5


def test_a_parents_quota_counts_in_version_1_too(cgroup: Path, own: Path) -> None:
    own.write_text("4:cpu:/docker/abc\n")
    limit_v1(cgroup / "cpu/docker", 1)
    limit_v1(cgroup / "cpu/docker/abc", 4)

    assert cpu_quota(cgroup, own) == 1


def test_the_cpuset_controller_is_not_taken_for_cpu(cgroup: Path, own: Path) -> None:
    own.write_text("7:cpuset:/docker/abc\n")
    limit_v1(cgroup / "cpuset/docker/abc", 1)

    assert cpu_quota(cgroup, own) is None


def test_both_versions_together_give_the_tighter(cgroup: Path, own: Path) -> None:
    own.write_text("4:cpu:/a\n0::/b\n")
    limit_v1(cgroup / "cpu/a", 3)
    limit_v2(cgroup / "b", 2)

    assert cpu_quota(cgroup, own) == 2


def test_a_place_outside_the_mounted_tree_is_not_followed(cgroup: Path, own: Path) -> None:
    own.write_text("0::/../outside\n")
    limit_v2(cgroup, 2)

    assert cpu_quota(cgroup, own) == 2


@given(
    cpus=st.integers(1, 256),
    quotas=st.lists(st.none() | st.floats(0.01, 256), min_size=1, max_size=4),
)
def test_there_is_always_a_cpu_and_never_one_too_many(
    tmp_path_factory: pytest.TempPathFactory, cpus: int, quotas: list[float | None]
) -> None:
    root = tmp_path_factory.mktemp("tree")
    own = root / "own"
    own.write_text("0::" + "/x" * (len(quotas) - 1) + "\n")
    for folder, quota in zip(_nested(root / "cgroup"), quotas, strict=False):
        limit_v2(folder, quota)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda _pid: set(range(cpus)))
        usable = usable_cpus(root / "cgroup", own)

    tightest = min([quota for quota in quotas if quota], default=float(cpus))
    assert 1 <= usable <= cpus
    assert usable < tightest + 1


def test_this_very_machine_has_a_cpu_for_us() -> None:
    assert usable_cpus() >= 1


def _nested(folder: Path) -> Iterable[Path]:
    while True:
        yield folder
        folder = folder / "x"


class Circle:
    """Holds itself."""

    def __init__(self) -> None:
        self.itself = self


def test_what_goes_round_in_circles_is_collected_before_memory_is_given_back() -> None:
    gc.disable()
    try:
        freed = weakref.ref(Circle())
        assert freed() is not None

        give_memory_back()

        assert freed() is None
    finally:
        gc.enable()
