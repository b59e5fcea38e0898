"""Our docstrings for mkdocstrings: lines of `name  meaning` become a list."""

import re
from typing import Any

import griffe

# Two blanks after a word begin its meaning; a line that is indented deeper goes on with it.
ENTRY = re.compile(r"^([\w.*, `()-]*[\w`)])  +(\S.*)$")


def as_markdown(text: str) -> str:
    """A docstring with its lines of `name  meaning` as a Markdown list, what follows them indented as before."""
    lines: list[str] = []
    listing = False
    for line in text.splitlines():
        if found := ENTRY.match(line):
            if not listing and lines and lines[-1]:
                lines.append("")
            name = found[1].strip()
            lines.append(f"- {name if '`' in name else f'`{name}`'}: {found[2]}")
            listing = True
        elif listing and line.startswith("  "):
            lines.append(f"    {line.strip()}")
        else:
            if listing and line:
                lines.append("")
            listing = False
            lines.append(line)
    return "\n".join(lines)


class Definitions(griffe.Extension):
    """Rewrites every docstring by `as_markdown` before it is rendered."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)
