"""The training loop: batches of like lengths, bfloat16 where it pays, and resumable.

`fit` trains any sequence classifier on rows of token ids; `logits` runs one.
Neither knows where the rows came from.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from tqdm import tqdm
from transformers import BertForSequenceClassification

ROWS_PER_BATCH = 32
STEPS_BETWEEN_SAVES = 200
WARMUP_SHARE = 0.06
# Batches are cut from runs of this many rows sorted by length: little padding, still random.
ROWS_SORTED = 32 * 64


@cache
def has_bfloat16() -> bool:
    """Tell whether this processor multiplies bfloat16 in tiles (AMX), where it halves the time of a step.

    With AVX512_BF16 alone a step took as long again as a third of its time in float32, and without
    either half as long again: there float32 is used.
    """
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return False
    return "amx_bf16" in flags


@dataclass(frozen=True)
class Rows:
    """What to learn from, row by row.

    ids      token ids, ragged
    allowed  (row, task) bool, the tasks that are right
    """

    ids: Sequence[Sequence[int]]
    allowed: NDArray[np.bool_]


@dataclass(frozen=True)
class Schedule:
    """How long and how hard to train."""

    epochs: int
    learning_rate: float
    seed: int
    steps_max: int | None = None


def batches_by_length(lengths: Sequence[int], seed: int) -> list[list[int]]:
    """Cut shuffled row numbers into batches of rows of like length, in random order."""
    rng = random.Random(seed)
    order = list(range(len(lengths)))
    rng.shuffle(order)
    batches: list[list[int]] = []
    for start in range(0, len(order), ROWS_SORTED):
        run = sorted(order[start : start + ROWS_SORTED], key=lengths.__getitem__)
        batches.extend(run[i : i + ROWS_PER_BATCH] for i in range(0, len(run), ROWS_PER_BATCH))
    rng.shuffle(batches)
    return batches


def padded(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad to the longest: ids (batch, token) int64 and mask (batch, token) int64."""
    ids = torch.zeros((len(rows), max(map(len, rows))), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    return ids, mask


def loss_of(logits: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    """Punish the probability outside the allowed tasks.

    logits, allowed  (batch, task); allowed is bool
    """
    log_p = functional.log_softmax(logits, dim=1)
    return -torch.logsumexp(log_p.masked_fill(~allowed, -torch.inf), dim=1).mean()


def fit(
    model: BertForSequenceClassification,
    rows_of_epoch: Callable[[int], Rows],
    schedule: Schedule,
    state_file: Path,
    title: str,
) -> None:
    """Train the model in place. Stopped and called again with one state_file, it goes on.

    rows_of_epoch  the rows of epoch 0, 1, …; asked again after a resume, so it must be pure
    """
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=schedule.learning_rate, weight_decay=0.01, fused=True
    )
    steps_an_epoch = len(batches_by_length([len(r) for r in rows_of_epoch(0).ids], 0))
    steps = schedule.steps_max or steps_an_epoch * schedule.epochs
    warmup = max(1, int(steps * WARMUP_SHARE))
    done = _resume(model, optimiser, state_file)
    model.train()
    with tqdm(total=steps, initial=min(done, steps), desc=title, unit="step", smoothing=0.05) as bar:
        step = 0
        for epoch in range(schedule.epochs):
            if done >= min(step + steps_an_epoch, steps):
                step += steps_an_epoch
                continue
            rows = rows_of_epoch(epoch)
            order = batches_by_length([len(r) for r in rows.ids], schedule.seed + epoch)
            # Rounds differ by a few rows; every epoch counts the same number of steps.
            for batch in order[:steps_an_epoch]:
                step += 1
                if step <= done:
                    continue
                if step > steps:
                    break
                # By step and not by history: a resumed run drops out the same units.
                torch.manual_seed(schedule.seed * 1_000_003 + step)
                rate = min(step / warmup, max(0.0, (steps - step) / max(1, steps - warmup)))
                for group in optimiser.param_groups:
                    group["lr"] = schedule.learning_rate * rate
                loss = _step(model, optimiser, rows, batch)
                bar.update()
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                if step % STEPS_BETWEEN_SAVES == 0:
                    _save(model, optimiser, step, state_file)
    _save(model, optimiser, max(steps, done), state_file)
    model.eval()


def _step(
    model: BertForSequenceClassification,
    optimiser: torch.optim.Optimizer,
    rows: Rows,
    batch: Sequence[int],
) -> float:
    ids, mask = padded([rows.ids[i] for i in batch])
    allowed = torch.from_numpy(rows.allowed[list(batch)])
    with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16()):
        scores = model(input_ids=ids, attention_mask=mask).logits
    loss = loss_of(scores.float(), allowed)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    optimiser.zero_grad()
    return loss.item()


def logits(
    model: BertForSequenceClassification,
    rows: Sequence[Sequence[int]],
    title: str,
) -> NDArray[np.float32]:
    """Run the model over ragged rows of token ids, in float32; returns (row, task) float32."""
    model.eval()
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    found = np.empty((len(rows), model.config.num_labels), dtype=np.float32)
    with torch.inference_mode():
        for start in tqdm(range(0, len(order), ROWS_PER_BATCH), desc=title, unit="batch"):
            batch = order[start : start + ROWS_PER_BATCH]
            ids, mask = padded([rows[i] for i in batch])
            found[batch] = model(input_ids=ids, attention_mask=mask).logits.float().numpy()
    return found


def _save(
    model: BertForSequenceClassification, optimiser: torch.optim.Optimizer, step: int, path: Path
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    half_written = path.with_suffix(".tmp")
    torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step}, half_written)
    os.replace(half_written, path)


def _resume(model: BertForSequenceClassification, optimiser: torch.optim.Optimizer, path: Path) -> int:
    """Load a saved state if there is one, and return how many steps it has seen."""
    if not path.is_file():
        return 0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])
