#!/usr/bin/env python3
"""Write the table of settings into docs/settings.md, from `handler.settings`. Part of `just fix`."""

import sys
from pathlib import Path
from typing import get_type_hints

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from handler.settings import Settings, accepted, shown  # noqa: E402 -- of this checkout
from lab.pages import put  # noqa: E402

PAGE = ROOT / "docs/settings.md"


def main() -> None:
    if put("settings", table(), PAGE):
        print(f"{PAGE.relative_to(ROOT)} was not what handler/settings.py says, and is now")


def table() -> str:
    """All settings as a Markdown table, in the order of the code."""
    hints = get_type_hints(Settings, include_extras=True)
    rows = ["| Name | Default | Meaning | Accepts |", "|---|---|---|---|"]
    for field, default in zip(Settings.__struct_fields__, Settings.__struct_defaults__, strict=True):
        meaning = " ".join(meta.description for meta in hints[field].__metadata__ if meta.description)
        usual = f"`{shown(default)}`" if shown(default) else "none"
        cells = (f"`{field.upper()}`", usual, meaning, accepted(field))
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
