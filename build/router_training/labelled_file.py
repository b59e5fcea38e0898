"""A user's own labelled texts: one JSON object a line, {"text": …, "task": …}.

`read` accepts the whole file or says, line by line, what is wrong with it.
"""

from __future__ import annotations

import json
from pathlib import Path

from router_training.sources import DataError, Prompt, normalised_key, side

KEYS = {"text", "task"}
FAULTS_SHOWN_MAX = 20


def read(path: Path) -> list[Prompt]:
    """Read a user's file. Raises DataError with every bad line's number, before any training."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text: {error}") from None
    prompts: list[Prompt] = []
    faults: list[str] = []
    first_line: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        found = _parse(line)
        if isinstance(found, str):
            faults.append(f"line {number}: {found}")
            continue
        text, task = found
        key = normalised_key(text)
        if key in first_line:
            # Two copies may carry two tasks, and after an edit land on both sides of the split.
            faults.append(f"line {number}: the same text as line {first_line[key]}")
            continue
        first_line[key] = number
        prompts.append(Prompt(str(path), side(text), text, "", (task,)))
    tasks = {prompt.tasks[0] for prompt in prompts}
    if not faults and not prompts:
        faults.append('no row in it; accepted: {"text": "…", "task": "…"}, one a line')
    elif not faults and len(tasks) < 2:
        first, last = min(first_line.values()), max(first_line.values())
        faults.append(
            f"lines {first} to {last}: all are {prompts[0].tasks[0]!r}; at least two tasks are needed"
        )
    if not faults:
        faults.extend(
            f"task {task!r} has no text on the training side; give it more rows"
            for task in sorted(tasks)
            if not any(p.tasks == (task,) and p.side == "train" for p in prompts)
        )
    if faults:
        shown = faults[:FAULTS_SHOWN_MAX]
        if len(faults) > len(shown):
            shown.append(f"… and {len(faults) - len(shown)} more")
        raise DataError("\n".join([f"{path} cannot be trained on:", *shown]))
    return prompts


def _parse(line: str) -> tuple[str, str] | str:
    """Return a line's text and task, or what is wrong with it."""
    try:
        row = json.loads(line)
    except ValueError:
        return "not JSON"
    if not isinstance(row, dict):
        return 'not an object; accepted: {"text": "…", "task": "…"}'
    if unknown := sorted(set(row) - KEYS):
        return f"unknown key {', '.join(unknown)}; accepted: text, task"
    for key in ("text", "task"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            return f"no {key}"
    return row["text"], row["task"].strip()
