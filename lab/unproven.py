"""What this machine could not show, told and, where CI asks for it (NOT_PROVEN), written down."""

import os
from collections.abc import Iterable
from pathlib import Path


def unproven(lines: Iterable[str]) -> None:
    """Print each line, and append it to the file that NOT_PROVEN names."""
    found = list(lines)
    for line in found:
        print("-", line)
    if (file := os.environ.get("NOT_PROVEN")) and found:
        with Path(file).open("a", encoding="utf-8") as collected:
            collected.writelines(f"{line}\n" for line in found)
