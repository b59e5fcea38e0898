"""Whether every answer is right: exactly what the model that it names says of the text, asked alone."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from handler.model import MANIFEST
from handler.offline import LocalRouter

CONFIDENCE_OFF_MAX = 1e-3
NAMED = re.compile(rb"\r\nx-model-version: (\w+)")


class Asked(NamedTuple):
    """A query and what came of it.

    answer  the whole HTTP answer; empty where there was none
    due_s   when it was to be sent, by `time.perf_counter`
    took_s  from then to the answer's last byte
    """

    request: bytes
    answer: bytes
    due_s: float
    took_s: float


def renamed(model: Path, made: Path) -> Path:
    """Write a model that calls every task by another one's name, so that no answer of it is one of `model`'s.

    The graph and its golden queries stay as they are: they know tasks by their places.
    """
    made.mkdir(parents=True)
    for file in model.iterdir():
        (made / file.name).write_bytes(file.read_bytes())
    manifest = msgspec.json.decode((model / MANIFEST).read_bytes())
    manifest["tasks"] = [*manifest["tasks"][7:], *manifest["tasks"][:7]]
    (made / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    return made


class Judge:
    """Knows some models, and what each says of any text."""

    def __init__(self, models: Iterable[Path]) -> None:
        routers = [LocalRouter.open(model) for model in models]
        self._routers = {router.router.version: router for router in routers}

    @property
    def versions(self) -> list[str]:
        """The models' versions, in the order in which they were given."""
        return list(self._routers)

    def wrong(self, asked: Sequence[Asked]) -> list[str]:
        """Say what is wrong with the answers that are 200; of others, nothing. Never repeats a text."""
        by_version: dict[str, list[Asked]] = {version: [] for version in self._routers}
        found = []
        for one in asked:
            if not one.answer.startswith(b"HTTP/1.1 200"):
                continue
            named = NAMED.search(one.answer)
            version = named[1].decode() if named else "no model"
            if version in by_version:
                by_version[version].append(one)
            else:
                found.append(f"an answer names {version}")
        for version, answers in by_version.items():
            texts = [json.loads(one.request.partition(b"\r\n\r\n")[2])["text"] for one in answers]
            expected = self._routers[version].classify(texts)
            for one, decision in zip(answers, expected, strict=True):
                given = json.loads(one.answer.partition(b"\r\n\r\n")[2])
                said = (given["label"], given["route"], given["task"])
                off = abs(given["confidence"] - decision.confidence)
                if said != (decision.label, decision.route, decision.task) or off > CONFIDENCE_OFF_MAX:
                    found.append(f"{version} is said to answer {given}, and answers {decision}")
        return found


def versions(asked: Iterable[Asked]) -> dict[str, int]:
    """How many answers name each model."""
    counts: dict[str, int] = {}
    for one in asked:
        if named := NAMED.search(one.answer):
            counts[named[1].decode()] = counts.get(named[1].decode(), 0) + 1
    return counts
