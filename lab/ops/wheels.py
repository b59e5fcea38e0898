"""Prove the built wheel on every Python that is supported and can be had here: `just wheel-check`.

In an environment and a folder with nothing else in it, `pip install` takes the wheel with all that it declares, at the
versions that are tested; then it says its version, verifies itself, classifies, serves, and ends on SIGTERM.
Only the standard library here, so that any Python runs it.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

from lab.launch import CLASSIFY, ROOT, Server, free_port
from lab.unproven import unproven

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
EASY = "Summarize the following article in two sentences: The lighthouse was built in 1857."
KEPT = ("PATH", "HOME", "LANG", "TMPDIR")
INSTALL_WITHIN_S = 600


def found(version: str) -> str | None:
    """An interpreter of this version that can make environments: on PATH, or one of pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    candidates = [shutil.which(f"python{version}"), *sorted(map(str, pyenv.glob(f"{version}.*/bin/python3")))]
    return next((python for python in candidates if python and _is(python, version)), None)


def _is(python: str, version: str) -> bool:
    code = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"
    asked = subprocess.run([python, "-c", code], capture_output=True, text=True)
    return asked.returncode == 0 and asked.stdout.strip() == version


def constraints() -> str:
    """The versions that are tested, without their hashes: pip takes no wheel of ours beside hashes."""
    locked = (ROOT / "requirements/dev.txt").read_text(encoding="utf-8")
    return "\n".join(re.findall(r"^(\S+==[^\\\n]*?) *\\?$", locked, re.MULTILINE)) + "\n"


def prove(wheel: Path, python: str, folder: Path) -> str:
    """Install a wheel, and use it in an empty folder. Returns what it answered; raises what failed."""
    environment, empty = folder / "environment", folder / "empty"
    empty.mkdir()
    (folder / "tested.txt").write_text(constraints(), encoding="utf-8")
    environ = {name: value for name in KEPT if (value := os.environ.get(name))}

    def run(*command: str | Path, within_s: float = 60, **more: str) -> str:
        return subprocess.run(
            command,
            cwd=empty,
            env={**environ, **more},
            check=True,
            text=True,
            stdout=subprocess.PIPE,
            timeout=within_s,
        ).stdout

    run(python, "-m", "venv", environment, within_s=INSTALL_WITHIN_S)
    pip: list[str | Path] = [
        environment / "bin/python",
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--no-input",
        "-qqq",
    ]
    # Where packages come from is the caller's to say.
    pips = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    install = [*pip, "install", "-c", folder / "tested.txt", wheel.resolve()]
    run(*install, within_s=INSTALL_WITHIN_S, **pips)
    run(*pip, "check", within_s=INSTALL_WITHIN_S)
    gateway = str(environment / "bin/query-gateway")
    version = run(gateway, "--version").strip()
    assert str(environment) in run(gateway, "check"), "the model is not the one inside the wheel"
    answer = json.loads(run(gateway, "classify", "--json", EASY))
    port = free_port()
    command = ["env", "-C", str(empty), gateway, "serve", "--port", str(port)]
    with Server(command, port=port, environ=environ, wait_for="/health/ready") as server:
        request = urllib.request.Request(
            server.url + CLASSIFY, json.dumps({"text": EASY}).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            served = json.load(response)
        assert served == answer, f"served {served}, classified {answer}"
        assert (code := server.terminate()) == 0, f"SIGTERM ended it with {code}"
    return f"{version} answered {answer['route']}, {answer['task']}, {answer['confidence']}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path, help="the built wheel")
    parser.add_argument(
        "--python", action="append", metavar="VERSION", help=f"instead of {', '.join(PYTHONS)}"
    )
    arguments = parser.parse_args()
    missing, failed = [], 0
    for version in arguments.python or PYTHONS:
        if (python := found(version)) is None:
            missing.append(f"the wheel on Python {version}: it is not here")
            continue
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            try:
                print(f"Python {version}: {prove(arguments.wheel, python, Path(folder))}", flush=True)
            except (subprocess.SubprocessError, AssertionError, OSError) as failure:
                failed += 1
                print(f"Python {version}: FAILED: {failure}", file=sys.stderr)
    unproven(missing)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
