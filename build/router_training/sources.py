"""The labelled prompts: where they come from, that they are the right ones, which side they are on.

`prompts()` is the public way in: every prompt of every source, with its side.
A `Prompt` keeps the ask and the passage apart, so that `synthesis.py` can show
the one without the other. What a model does with them is not known here.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from router_training.tasks import ALIASES, SLOW, TASKS

from handler.conversation import recognised

# Prompts written for this project, and the labels that proved wrong.
PROMPTS = Path(__file__).resolve().parent.parent / "prompts"
OWN = "own/"


class DataError(Exception):
    """Data that we cannot or will not use; the message says what would be accepted."""


@dataclass(frozen=True)
class Source:
    """One public data set, recognised by its rows wherever they come from."""

    name: str
    columns: tuple[str, ...]
    text_column: str
    digest: str
    hub_name: str | None = None
    hub_split: str = "train"
    hub_config: str | None = None

    folder: str = ""

    @property
    def file_name(self) -> str:
        return f"{self.folder}{self.name}.jsonl.gz"


# The wide sets' names and digests: files of one shape, from many origins (docs/model-card.md).
WIDE = {
    "agentic": "43a7606f212078311a27c626260c03260c4d44c53c79f5ec53334435079a6bbc",
    "asks-over-passages": "513cf5d7f4fc21964b824de81c3bdc3535053dcfd46b416e21398faae47b1aad",
    "chitchat": "50d5c02b6b64372927d447ffb599e5ae568c0106b29d9f8f6f820c50f4252e2b",
    "coding": "2c77a67866015d3eb53ea728489f170acecf690f297e388bf735bc3a948f05e1",
    "ifeval": "653322b0e805165adb48103710121dbccb8b7a205b39a9bf2b4444195027dc07",
    "math-reasoning": "4bc2f557cc828d3ac18e1248c093366b8102c62cbde875e343ab50f423ed03e9",
    "messages": "0f0c87112426f5bec64cf40bca77c0f98a77915da5fcc442a44f44d7cef1539e",
    "multi-turn": "892c7343bfc69e7fdc9eef3b74144613cb12c92c0ef74ba142e367afd8d68049",
    "oasst-prompts": "05828630f6d19069a5957da4ceb87a46450238dd76e06f98e02b5a43adb095c4",
    "p3-wide": "cb5aadbf5eced7ff88c76232c5bd6eb9eb44d68c20747208dee375b5dcc3a892",
    "reading": "c9e94383049281db7a37c9c23e890c54126759b6a7e1b4e3d55bf0d2c248ec49",
    "rewriting-translation": "bd66c80421720220dc4366e42e60e25198c94bc8c4fcf64a57fc7637e52d380d",
    "self-instruct-user-tasks": "a643c7763d1dc0b9ad2172d4703c6e9dc3700758e2dadb86a60f1d633ba94b02",
    "short-questions": "52ab408585d595ac9877353bf5f21cc2a625e82f0a00333cd4f5a394f4631922",
    "system-prompts": "e1e64da16cb844acce3f02f652a343f783fa3c23b5b635579207d13629d1cf6f",
    "tables": "e53304924cf538606d645c09d08599e153d8e23593ca33fe4733b5f951822d4a",
}

SOURCES = {
    source.name: source
    for source in (
        Source(
            "databricks-dolly-15k",
            ("instruction", "context", "response", "category"),
            "instruction",
            "932b6f72e2e9cf30279f01cb3e7fb240a388f0bdd3bd74e3b07cab2573cd2258",
            hub_name="databricks/databricks-dolly-15k",
        ),
        Source(
            "mbpp",
            ("text",),
            "text",
            "8dbf3555b380b3d7d21dca815399d4b10a20f41be5a27594479e30504354d36e",
            hub_name="google-research-datasets/mbpp",
            hub_split="train+test+validation+prompt",
            hub_config="full",
        ),
        Source(
            "gsm8k-train",
            ("question",),
            "question",
            "003e708d15ff62133a90d893f960ab368920276cf2616b8e5b6209c0e23939f8",
            hub_name="openai/gsm8k",
            hub_config="main",
        ),
        Source(
            "awesome-chatgpt-prompts",
            ("act", "prompt"),
            "prompt",
            "b96237efbea312ebaec8747bd5788868f909343801d3273383beda107f3f08c7",
            hub_name="fka/awesome-chatgpt-prompts",
        ),
        Source(
            "humaneval",
            ("prompt",),
            "prompt",
            "d5378af16c2a7bd282ae80f69e3ea68ad9630d1bc750640d7f93f2500b942064",
        ),
        Source(
            "p3-sample",
            ("template", "prompt", "task"),
            "prompt",
            "b713a091323bb9532091ec1ad1a4fb1d01f70efd79ac5798a4ca3b28e364b6e4",
        ),
        Source(
            "arena-hard-v0.1",
            ("prompt", "cluster"),
            "prompt",
            "b1a0a0e7d128ec26373fd0916eb3d41e3ac18a204e6796b3898ee6166467ae99",
        ),
        Source(
            "self-instruct-seed-tasks",
            ("name", "instruction", "is_classification", "input"),
            "instruction",
            "74a6bbd1792ae7aa4899e930f4167f1fb2d8f41d78e43c4c79e3eae8690edf9d",
        ),
        *(
            Source(name, ("text", "task", "source"), "text", digest, folder="wide/")
            for name, digest in WIDE.items()
        ),
    )
}

# Without these there is no model of all tasks; the others only make it better.
REQUIRED = ("databricks-dolly-15k", "mbpp", "gsm8k-train", "awesome-chatgpt-prompts")

# GSM8K would outweigh every other task; its first rows are enough to know it by.
GSM8K_ROWS_MAX = 900


@dataclass(frozen=True)
class Prompt:
    """One prompt of a data set.

    tasks     the tasks that it may be: one, or several when only the route is known or not
              even that; empty when the data set does not say
    template  what its data set made it from, or where it says that it is from
    pair      prompts that share words or material and differ in their route have one
    language  of the ask, where it is not English
    """

    source: str
    side: str
    ask: str
    passage: str
    tasks: tuple[str, ...]
    template: str = ""
    pair: str = ""
    language: str = ""

    @property
    def text(self) -> str:
        """The prompt as its data set gives it: the ask, then the passage if there is one."""
        return f"{self.ask}\n\n{self.passage}" if self.passage else self.ask


def canonical_digest(rows: Iterable[dict[str, object]], columns: Sequence[str]) -> str:
    """Name a set of rows by its content, whatever the order or the file that held it."""
    lines = sorted(
        json.dumps(
            {column: row.get(column) for column in columns},
            sort_keys=True,
            ensure_ascii=False,
            separators=(",", ":"),
        )
        for row in rows
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def normalised_key(text: str) -> str:
    """Return the form of a text under which two copies of a row are the same row."""
    return " ".join(text.lower().split())


def side(text: str) -> str:
    """Put a row on the `test`, `validation` or `train` side, by its text alone.

    The test side is the published split and is looked at only by `evaluate.py`.
    A tenth of what remains is kept for choosing and calibrating.
    """
    key = normalised_key(text)
    if int(hashlib.sha256(key.encode()).hexdigest(), 16) % 10 < 2:
        return "test"
    if int(hashlib.sha256(f"validation:{key}".encode()).hexdigest(), 16) % 10 < 1:
        return "validation"
    return "train"


def read(source: Source) -> list[dict[str, object]]:
    """Read one source's rows, from the folder named by DATA_DIR or else from the public hub.

    Raises DataError when they cannot be had, or are not the rows that we know.
    """
    folder = os.environ.get("DATA_DIR")
    rows = _read_file(Path(folder) / source.file_name) if folder else _read_hub(source)
    seen = canonical_digest(rows, source.columns)
    if seen != source.digest:
        raise DataError(
            f"{source.name}: these are not the rows we know "
            f"(digest {seen[:12]}, {len(rows)} rows; accepted: {source.digest[:12]})"
        )
    return rows


def _read_file(path: Path) -> list[dict[str, object]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]
    except FileNotFoundError:
        raise DataError(f"{path} is not there; DATA_DIR must name the folder that holds it") from None
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path} cannot be read as gzipped JSON lines: {error}") from None


def _read_hub(source: Source) -> list[dict[str, object]]:
    if source.hub_name is None:
        raise DataError(f"{source.name} is on no hub; set DATA_DIR to a folder that holds it")
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"{source.name}: set DATA_DIR to a folder with {source.file_name}, "
            "or install the `datasets` package to fetch it from the public hub"
        ) from None
    try:
        table = datasets.load_dataset(source.hub_name, source.hub_config, split=source.hub_split)
    except Exception as error:  # the hub's client has no common base for its errors
        raise DataError(f"{source.hub_name} cannot be fetched from the hub: {error}") from None
    return [{column: row.get(column) for column in source.columns} for row in table]


def available() -> list[Source]:
    """List the sources that this machine can offer: all that DATA_DIR holds, or all on the hub."""
    folder = os.environ.get("DATA_DIR")
    return [
        source
        for source in SOURCES.values()
        if source.name in REQUIRED or (folder and (Path(folder) / source.file_name).is_file())
    ]


def prompts(sources: Iterable[Source] | None = None) -> list[Prompt]:
    """Read every source and the prompts of our own; return them all, each with the side it belongs to.

    A label that proved wrong is put right by `corrections()`. Raises DataError.
    """
    right = corrections()
    found: list[Prompt] = []
    for source in available() if sources is None else sources:
        found.extend(_prompts_of(source, read(source)))
    found.extend(own_prompts())
    return [
        replace(prompt, tasks=(right[name],)) if (name := prompt_digest(prompt.text)) in right else prompt
        for prompt in found
    ]


def prompt_digest(text: str) -> str:
    """Name a prompt in the files that speak of prompts: corrections, judgements."""
    return hashlib.sha256(normalised_key(text).encode()).hexdigest()[:16]


def corrections() -> dict[str, str]:
    """Read the labels that proved wrong: the right task by the prompt's digest."""
    content = json.loads((PROMPTS / "corrections.json").read_text(encoding="utf-8"))
    return dict(content)


def own_prompts() -> list[Prompt]:
    """Read `build/prompts/`, written for this project. A pair is on one side whole."""
    found = []
    for path in sorted(PROMPTS.glob("*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                row = json.loads(line)
                if row["task"] not in TASKS or not row["text"].strip():
                    raise DataError(
                        f"{path.name}, line {number}: task {row['task']!r} is none of ours, or no text"
                    )
                pair = f"{path.stem}:{row['pair']}" if row.get("pair") else ""
                found.append(
                    Prompt(
                        source=f"{OWN}{path.stem}", side=side(pair or row["text"]), ask=row["text"], passage="",
                        tasks=(row["task"],), pair=pair, language=_language(row.get("lang")),
                    )
                )  # fmt: skip
    return found


def is_conversation(prompt: Prompt) -> bool:
    """Tell a prompt that is a transcript of two turns or more."""
    turns = recognised(prompt.text)
    return turns is not None and len(turns) > 1


def _language(name: object) -> str:
    return "" if name in (None, "", "en") else str(name)


def _prompts_of(source: Source, rows: list[dict[str, object]]) -> Iterator[Prompt]:
    if source.name == "databricks-dolly-15k":
        yield from _dolly(source.name, rows)
        return
    if source.name == "messages":  # no prompts: what other prompts are about
        return
    if source.name == "gsm8k-train":
        rows = rows[:GSM8K_ROWS_MAX]
    for row in rows:
        ask = str(row[source.text_column])
        yield Prompt(
            source=source.name,
            side=side(ask),
            ask=ask,
            passage=str(row.get("input") or ""),
            tasks=_tasks_of(source, row),
            template=str(row.get("template") or row.get("source") or ""),
        )


def _tasks_of(source: Source, row: dict[str, object]) -> tuple[str, ...]:
    match source.name:
        case "mbpp" | "humaneval":
            return ("coding",)
        case "gsm8k-train":
            return ("reasoning",)
        case "p3-sample":
            return (str(row["task"]),)
        # All of them ask for much; what for is not said.
        case "arena-hard-v0.1" | "ifeval" | "awesome-chatgpt-prompts":
            return SLOW
        case "self-instruct-seed-tasks":
            return ("classification",) if row["is_classification"] else ()
        case "short-questions":
            return SHORT_QUESTIONS
    task = str(row["task"])
    task = ALIASES.get(task, task)
    return OPEN_QUESTIONS if task in OPEN_QUESTIONS else (task,)


# Open and general questions are told apart by nobody; the route does not depend on it.
OPEN_QUESTIONS = ("open_qa", "general_qa")
# Everyday and obscure ones mixed, some that take a step of reasoning: even their route is unknown.
SHORT_QUESTIONS = ("open_qa", "general_qa", "reasoning", "simple_fact")
# What Dolly calls by one name the twenty tasks call by several.
DOLLY_TASKS = {
    "open_qa": ("open_qa", "general_qa", "simple_fact", "simple_math"),
    "general_qa": ("general_qa", "open_qa"),
}
# A fact that everybody has is answered in a line; longer answers explain.
FACT_CHARS_MAX = 200


def _dolly(name: str, rows: list[dict[str, object]]) -> Iterator[Prompt]:
    """Yield each distinct instruction once; one that carries two categories is on no side."""
    by_key: dict[str, list[dict[str, object]]] = defaultdict(list)
    for row in rows:
        by_key[normalised_key(str(row["instruction"]))].append(row)
    for same in by_key.values():
        if len({row["category"] for row in same}) > 1:
            continue
        # Of several copies the longest context wins: it is the complete one.
        row = max(same, key=lambda row: len(str(row["context"])))
        ask = str(row["instruction"])
        category = str(row["category"])
        tasks = DOLLY_TASKS.get(category, (category,))
        if category == "open_qa" and len(str(row["response"])) > FACT_CHARS_MAX:
            tasks = OPEN_QUESTIONS
        yield Prompt(
            source=name, side=side(ask), ask=ask, passage=str(row["context"]), tasks=tasks, template=category
        )
