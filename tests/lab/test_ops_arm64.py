"""What `just arm64` takes from the serving lock for another Python than its own."""

import re

import pytest

from lab.launch import ROOT
from lab.ops.arm64 import PYTHONS, entries

LOCK = """\
numpy==2.4.6 ; python_full_version < '3.12' \\
    --hash=sha256:aa \\
    --hash=sha256:bb
numpy==2.5.5 ; python_full_version >= '3.12' \\
    --hash=sha256:cc
redis==8.1.0 \\
    --hash=sha256:dd
"""


@pytest.mark.parametrize(("python", "numpy", "hashes"), [("3.11", "2.4.6", "aa bb"), ("3.14", "2.5.5", "cc")])
def test_an_entry_is_taken_by_the_python_that_is_asked_for(python: str, numpy: str, hashes: str) -> None:
    taken = entries(LOCK, python)

    assert re.findall(r"^(\S+)==(\S+) \\$", taken, re.M) == [("numpy", numpy), ("redis", "8.1.0")]
    assert re.findall(r"sha256:(\w+)", taken) == [*hashes.split(), "dd"]


def test_every_python_takes_each_package_of_the_lock_once() -> None:
    lock = (ROOT / "requirements/serve.txt").read_text()

    for python in PYTHONS:
        names = re.findall(r"^(\S+)==", entries(lock, python), re.M)
        assert len(names) == len(set(names)) > 20
