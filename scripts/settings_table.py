#!/usr/bin/env python3
"""Write the table of settings into docs/settings.md, from `handler.settings`.

python scripts/settings_table.py           writes the table between its two markers
python scripts/settings_table.py --check   says whether it is true: exit code 0 or 1
"""

import argparse
import sys
from pathlib import Path
from typing import get_type_hints

from handler.settings import Settings, accepted, shown

PAGE = Path(__file__).resolve().parent.parent / "docs/settings.md"
BEGIN = "<!-- settings: written by scripts/settings_table.py from handler/settings.py -->"
END = "<!-- settings: end -->"


def main() -> int:
    parser = argparse.ArgumentParser(description="Write docs/settings.md's table from handler/settings.py.")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 when the table is not true"
    )
    arguments = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    true_page = with_table(page)
    if arguments.check:
        return int(page != true_page)
    PAGE.write_text(true_page, encoding="utf-8")
    return 0


def with_table(page: str) -> str:
    """`page` with the table that is true now between its markers."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        sys.exit(f"settings_table.py: {PAGE.name} must hold the lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


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
    sys.exit(main())
