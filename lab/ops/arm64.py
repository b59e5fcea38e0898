"""The gateway on arm64, as far as a machine of another kind can show it: `just arm64`.

    just arm64 --lock     whether every locked package has a wheel for it, by the lock's hashes
    just arm64            that, and with those wheels the golden queries, real texts and a server
    just arm64 --image    that, and the image for linux/arm64, which must serve

All that is for arm64 runs under qemu's user emulation: the same machine code, on another's instructions.
What that shows is right answers; of speed it shows nothing. Needs a container engine (with buildx for
the image), and root where the kernel does not know what to do with such a program: then qemu 8 or newer
as `qemu-aarch64` or in QEMU_AARCH64. Minutes; where no registry
can be reached, `mmdebstrap` and `arch-test` make the base image of Debian's packages.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from pip._vendor.packaging.markers import Marker

from lab.launch import ROOT
from lab.ops.image_smoke import QUERIES, ask, docker, until
from lab.ops.stack import must, shell
from lab.texts import texts

PLATFORM = "linux/arm64"
BASE = "python:3.13-slim-trixie"
STAND_IN = "query-gateway-base:arm64"
IMAGE = "query-gateway:arm64"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# What a current arm64 Linux takes: Debian 12's C library is 2.36.
WHEELS = (
    "manylinux2014_aarch64",
    "manylinux_2_27_aarch64",
    "manylinux_2_28_aarch64",
    "manylinux_2_34_aarch64",
)
BINFMT = Path("/proc/sys/fs/binfmt_misc")
# How a program for arm64 begins, and which of those bytes count: the rule that distributions ship.
MAGIC = r"\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
MASK = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
# Debian 12's 7.2 crashes in ONNX Runtime.
QEMU_MIN = 8
COMPARED = 60
# How far a need may lie from this machine's own: another processor may round another way.
TOLERANCE = 0.02
LOADED = """
import json, platform, sys
from handler import LocalRouter
from handler.query import normalise
local = LocalRouter.open()
manifest = local.router.manifest
off = 0.0
for golden in manifest.golden:
    (scores,) = local.router.score([normalise(golden.text, manifest.limits)])
    off = max(off, *(abs(a - b) for a, b in zip(scores.probabilities, golden.probabilities, strict=True)))
answers = [[a.route, a.task, a.need] for a in local.classify(json.load(sys.stdin))]
print(json.dumps(dict(machine=platform.machine(), version=local.router.version, golden=len(manifest.golden),
                      off=off, allowed=manifest.golden_tolerance, answers=answers)))
"""


def wheels(python: str, to: Path) -> list[Path]:
    """Have pip fetch the serving lock for arm64 and a Python, by its hashes."""
    kinds = " ".join(f"--platform={name}" for name in WHEELS)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(entries((ROOT / "requirements/serve.txt").read_text(), python))
        file.flush()
        must(
            f"{sys.executable} -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes "
            f"--only-binary=:all: --implementation=cp --python-version={python} {kinds} -r {file.name} -d {to}"
        )
    return sorted(to.iterdir())


def entries(locked: str, python: str) -> str:
    """A lock's entries for a Python, without their markers: pip would ask the Python that it runs on itself."""
    wanted = []
    for entry in re.findall(r"^\S.*?(?=^\S|\Z)", locked, re.M | re.S):
        head, hashes = entry.split("\\\n", 1)
        name, _, marker = head.partition(";")
        full = {"python_full_version": f"{python}.9", "python_version": python}
        if not marker or Marker(marker.strip()).evaluate(full):
            wanted.append(f"{name.strip()} \\\n{hashes}")
    return "".join(wanted)


def lock() -> None:
    """Every package of the serving lock has a wheel for arm64, by a hash that the lock holds."""
    for python in PYTHONS:
        with tempfile.TemporaryDirectory() as folder:
            found = [path.name for path in wheels(python, Path(folder))]
        native = [name for name in found if "aarch64" in name]
        print(
            f"Python {python}: {len(found)} wheels by the lock's hashes, {len(native)} of them for aarch64",
            flush=True,
        )
        assert all("aarch64" in name or name.endswith("-none-any.whl") for name in found), found


@contextmanager
def emulated() -> Iterator[None]:
    """The kernel hands programs for arm64 to qemu, for as long as the block lasts."""
    if platform.machine() == "aarch64" or any(
        (BINFMT / name).exists() for name in ("qemu-aarch64", "aarch64")
    ):
        yield
        return
    qemu = (
        os.environ.get("QEMU_AARCH64") or shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    )
    assert qemu, "there is no qemu-aarch64 (Debian 13: apt-get install qemu-user), and none in QEMU_AARCH64"
    version = must(f"{qemu} --version").split()[2]
    assert int(version.split(".")[0]) >= QEMU_MIN, (
        f"{qemu} is {version}, which is too old: {QEMU_MIN} or newer"
    )
    if not (BINFMT / "register").exists():
        must(f"mount -t binfmt_misc none {BINFMT}")
    # F: opened now, so that it is found from inside a container, too.
    (BINFMT / "register").write_text(f":qemu-aarch64:M::{MAGIC}:{MASK}:{Path(qemu).resolve()}:POF")
    try:
        yield
    finally:
        (BINFMT / "qemu-aarch64").write_text("-1")


def base() -> str:
    """The base image for arm64, or a stand-in of Debian's packages where there is no registry."""
    if shell(f"docker image inspect {STAND_IN}").returncode == 0:
        return STAND_IN
    if shell(f"timeout 120 docker pull -q --platform {PLATFORM} {BASE}").returncode == 0:
        return BASE
    with tempfile.TemporaryDirectory() as folder:
        link = 'cp /etc/ssl/certs/ca-certificates.crt "$1/etc/ssl/certs/" && ln -s /usr/bin/python3 "$1/usr/local/bin/python"'
        must(
            "mmdebstrap -q --arch=arm64 --dpkgopt=force-unsafe-io --variant=minbase "
            f"--include=python3,python3-venv,ca-certificates --customize-hook='{link}' trixie {folder}/base.tar",
            timeout_s=3000,
        )
        certificates = "/etc/ssl/certs/ca-certificates.crt"
        must(
            f"docker import --platform {PLATFORM} -c 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' "
            f"-c 'ENV PIP_CERT={certificates}' -c 'ENV SSL_CERT_FILE={certificates}' {folder}/base.tar {STAND_IN}"
        )
    return STAND_IN


def build(image: str) -> None:
    must(
        f"docker buildx build --quiet --platform {PLATFORM} --build-arg BASE={image} -t {IMAGE} --load .",
        timeout_s=3000,
    )
    unpacked = int(docker("image", "inspect", "-f", "{{.Size}}", IMAGE)) / 1e6
    kind = docker("image", "inspect", "-f", "{{.Architecture}}", IMAGE)
    assert kind == "arm64", kind
    print(f"image: {kind}, {unpacked:.0f} MB unpacked")


def loaded(command: list[str], asked: list[str]) -> dict:  # type: ignore[type-arg]
    done = subprocess.run(
        [*command, "-c", LOADED], input=json.dumps(asked), cwd=ROOT, check=False,
        capture_output=True, text=True, timeout=3000,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@contextmanager
def unpacked(image: str) -> Iterator[list[str]]:
    """Docker's options that put the lock's wheels and this checkout into a bare image."""
    version = "import sys; print(*sys.version_info[:2], sep='.')"
    python = docker("run", "--rm", f"--platform={PLATFORM}", image, "python3", "-c", version)
    with tempfile.TemporaryDirectory() as site, tempfile.TemporaryDirectory() as folder:
        # Unpacked here: under emulation pip alone takes minutes, and here it takes nothing for another Python.
        for wheel in wheels(python, Path(folder)):
            zipfile.ZipFile(wheel).extractall(site)
        Path(site).chmod(0o755)
        yield [
            f"-v={site}:/site:ro", f"-v={ROOT}:/source:ro", "-w=/source",
            "-e=PYTHONPATH=/site:/source", "-e=PYTHONDONTWRITEBYTECODE=1", "-e=HOST=0.0.0.0", "-e=PORT=8000",
        ]  # fmt: skip


def answers(image: str, options: list[str]) -> None:
    """The model loads, which its golden queries decide, and routes as it does here."""
    asked = list(islice(texts(3), COMPARED))
    here = loaded([str(ROOT / ".venv/bin/python")], asked)
    run = ["docker", "run", "--rm", "-i", f"--platform={PLATFORM}", "--network=none", *options, image]
    there = loaded([*run, "python3"], asked)
    assert there["machine"] == "aarch64", there["machine"]
    assert there["version"] == here["version"]
    needs = [abs(a[2] - b[2]) for a, b in zip(there["answers"], here["answers"], strict=True)]
    routes = sum(a[0] != b[0] for a, b in zip(there["answers"], here["answers"], strict=True))
    print(
        f"model {there['version']} on {there['machine']}: {there['golden']} golden queries, off by at most "
        f"{there['off']:.1g} of {there['allowed']} allowed (here {here['off']:.1g}); {COMPARED} others: "
        f"need off by at most {max(needs):.1g} from {here['machine']}, {routes} routes differ",
        flush=True,
    )
    assert max(needs) < TOLERANCE, max(needs)


def serves(image: str, options: list[str], command: list[str]) -> None:
    """A server under emulation answers, and ends with 0."""
    port = ("-p", "127.0.0.1::8000", "-e", "REQUEST_TIMEOUT_MS=20000")
    name = docker("run", "-d", f"--platform={PLATFORM}", *port, *options, image, *command)
    try:
        url = f"http://{docker('port', name, '8000/tcp').splitlines()[0]}"
        until(lambda: ask(f"{url}/health/ready")[0] == 200, 900, "ready")
        for text, label in QUERIES.items():
            code, answer = ask(f"{url}/v1/query-classify", text)
            assert (code, answer["label"]) == (200, label), answer
            print("answer:", json.dumps(answer))
        docker("stop", "--time", "60", name)
        ended = docker("inspect", "-f", "{{.State.ExitCode}}", name)
        assert ended == "0", ended
    finally:
        docker("rm", "-f", "-v", name)


def main() -> None:
    parser = argparse.ArgumentParser(prog="just arm64")
    parser.add_argument("--lock", action="store_true", help="look only whether the lock holds wheels for it")
    parser.add_argument("--image", action="store_true", help="build the image, too, and let it serve")
    options = parser.parse_args()
    lock()
    if not options.lock:
        docker("info")  # before anything that takes minutes
        with emulated():
            image = base()
            with unpacked(image) as bare:
                answers(image, bare)
                serves(image, bare, ["python3", "-m", "handler", "serve"])
            if options.image:
                build(image)
                serves(IMAGE, [], [])
    print("arm64: passed")


if __name__ == "__main__":
    main()
