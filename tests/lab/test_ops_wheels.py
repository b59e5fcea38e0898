"""What the wheel is proven with: the versions that are tested, on interpreters that are what they are called."""

import re
import sys

from lab.ops import wheels


def test_every_constraint_is_a_version_without_a_hash() -> None:
    lines = wheels.constraints().splitlines()

    assert [line for line in lines if not re.fullmatch(r"[a-z0-9._-]+==\S+( ; .+)?", line)] == []
    assert [line for line in lines if line.startswith("onnxruntime==")]


def test_an_interpreter_of_another_version_is_not_taken() -> None:
    assert not wheels._is(sys.executable, "3.99")


def test_a_python_that_is_not_here_is_not_found() -> None:
    assert wheels.found("3.99") is None
