"""What `scripts/install.sh` does to the system: nothing, unless it is CI's. Every tool that it calls is a stub."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from lab.launch import ROOT

# What the script needs of the system, and nothing of Redis or of packages.
SYSTEM = ("bash", "cat", "cp", "cut", "dirname", "id", "mkdir", "rm", "sha256sum")
STUB = """#!{bash}
echo "$(basename "$0") $*" >>{calls}
[ "$1 $2" != "-m venv" ] || {{ mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; }}
"""


class Machine:
    """A checkout's copy, a PATH with the given tools, and what was called of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls, self.path = folder, folder / "calls", folder / "path"
        self.path.mkdir()
        self.calls.touch()
        for place in ("scripts/install.sh", "pyproject.toml", "handler/__init__.py"):
            (folder / "checkout" / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / place, folder / "checkout" / place)
        shutil.copytree(ROOT / "requirements", folder / "checkout/requirements")
        for tool in (*SYSTEM, "basename"):
            found = shutil.which(tool)
            assert found
            (self.path / tool).symlink_to(found)
        self.stub("python3", "apt-get", "service")

    def stub(self, *tools: str) -> None:
        for tool in tools:
            (self.path / tool).write_text(STUB.format(bash=shutil.which("bash"), calls=self.calls))
            (self.path / tool).chmod(0o755)

    def install(self, **environ: str) -> str:
        """Run it for the tests. Returns what it said."""
        ran = subprocess.run(
            [self.folder / "checkout/scripts/install.sh", "dev"],
            env={"PATH": str(self.path), **environ},
            stderr=subprocess.PIPE,
            text=True,
            check=True,
        )
        return ran.stderr

    def called(self, tool: str) -> list[str]:
        return [line for line in self.calls.read_text().splitlines() if line.startswith(f"{tool} ")]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_unasked_no_system_package_is_installed(machine: Machine) -> None:
    told = machine.install()

    assert machine.called("apt-get") == []
    assert "apt-get install redis-server redis-sentinel openssl" in told


def test_unasked_no_service_is_stopped(machine: Machine) -> None:
    machine.install()

    assert machine.called("service") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root installs packages")
def test_ci_installs_what_is_missing(machine: Machine) -> None:
    machine.stub("openssl")

    machine.install(CI="true")

    assert machine.called("apt-get")[-1].endswith("--no-install-recommends redis-server redis-sentinel")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root installs packages")
def test_ci_does_not_stop_a_redis_that_was_there(machine: Machine) -> None:
    machine.stub("redis-server")

    machine.install(CI="true")

    assert machine.called("service") == ["service redis-sentinel stop"]


def test_a_second_run_does_nothing(machine: Machine) -> None:
    machine.install()
    before = machine.calls.read_text()

    machine.install()

    assert machine.calls.read_text() == before
