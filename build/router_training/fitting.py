"""The training loop: batches of like lengths, bfloat16 where it pays, resumable, the same bytes twice.

`fit` trains any sequence classifier on rows of token ids; `logits` runs one.
Neither knows where the rows came from.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from tqdm import tqdm

ROWS_PER_BATCH = 32  # of a user's own data, and where nothing is learnt
STEPS_BETWEEN_SAVES = 200
WARMUP_SHARE = 0.06
# Batches are cut from runs of so many sorted by length: little padding, still random.
BATCHES_SORTED = 64


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


class Classifier(Protocol):
    """What is trained here: token ids and their mask in, `.logits` (batch, task) out."""

    config: Any

    def __call__(self, *, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any: ...
    def parameters(self) -> Iterator[torch.nn.Parameter]: ...
    def state_dict(self) -> Any: ...
    def load_state_dict(self, state: Any, /) -> Any: ...
    def to(self, device: Any, /) -> Any: ...
    def train(self) -> Any: ...
    def eval(self) -> Any: ...


@cache
def device() -> str:
    """Say where to train: on an accelerator of CUDA if there is one, with sums that come out the same twice."""
    if not torch.cuda.is_available():
        return "cpu"
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cuda.enable_flash_sdp(False)
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    torch.backends.cuda.enable_cudnn_sdp(False)
    return "cuda"


@dataclass(frozen=True)
class Rows:
    """What to learn from, row by row.

    ids      token ids, ragged
    allowed  (row, task) bool, the tasks that are right
    target   (row, task) float32, what to answer, summing to 1; zeros where any allowed task will do
    """

    ids: Sequence[Sequence[int]]
    allowed: NDArray[np.bool_]
    target: NDArray[np.float32]


@dataclass(frozen=True)
class Schedule:
    """How long and how hard to train."""

    epochs: int
    learning_rate: float
    seed: int
    rows_per_batch: int = ROWS_PER_BATCH
    steps_max: int | None = None


def batches_by_length(
    lengths: Sequence[int], seed: int, rows_per_batch: int = ROWS_PER_BATCH
) -> list[list[int]]:
    """Cut shuffled row numbers into batches of rows of like length, in random order."""
    rng = random.Random(seed)
    order = list(range(len(lengths)))
    rng.shuffle(order)
    batches: list[list[int]] = []
    rows_sorted = rows_per_batch * BATCHES_SORTED
    for start in range(0, len(order), rows_sorted):
        run = sorted(order[start : start + rows_sorted], key=lengths.__getitem__)
        batches.extend(run[i : i + rows_per_batch] for i in range(0, len(run), rows_per_batch))
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


def loss_of(logits: torch.Tensor, allowed: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Punish what differs from the target; where there is none, the probability outside the allowed tasks.

    logits, allowed, target  (batch, task); allowed is bool, a row of target sums to 1 or is all zeros
    """
    log_p = functional.log_softmax(logits, dim=1)
    outside = -torch.logsumexp(log_p.masked_fill(~allowed, -torch.inf), dim=1)
    differs = -(target * log_p).sum(dim=1)
    return torch.where(target.any(dim=1), differs, outside).mean()


def fit(
    model: Classifier,
    rows_of_epoch: Callable[[int], Rows],
    schedule: Schedule,
    state_file: Path,
    title: str,
) -> None:
    """Train the model in place, on the accelerator if there is one. Called again with one state_file, it goes on.

    rows_of_epoch  the rows of epoch 0, 1, …; asked again after a resume, so it must be pure
    """
    model.to(torch.device(device()))
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=schedule.learning_rate, weight_decay=0.01, fused=True
    )
    steps_an_epoch = len(
        batches_by_length([len(r) for r in rows_of_epoch(0).ids], 0, schedule.rows_per_batch)
    )
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
            order = batches_by_length(
                [len(r) for r in rows.ids], schedule.seed + epoch, schedule.rows_per_batch
            )
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
                _step(model, optimiser, rows, batch)
                bar.update()
                if step % STEPS_BETWEEN_SAVES == 0:
                    _save(model, optimiser, step, state_file)
    _save(model, optimiser, max(steps, done), state_file)
    model.to(torch.device("cpu")).eval()


def _step(
    model: Classifier,
    optimiser: torch.optim.Optimizer,
    rows: Rows,
    batch: Sequence[int],
) -> None:
    on = device()
    ids, mask = padded([rows.ids[i] for i in batch])
    allowed = torch.from_numpy(rows.allowed[list(batch)]).to(on)
    with torch.autocast(on, torch.bfloat16, enabled=on == "cuda" or has_bfloat16()):
        scores = model(input_ids=ids.to(on), attention_mask=mask.to(on)).logits
    loss = loss_of(scores.float(), allowed, torch.from_numpy(rows.target[list(batch)]).to(on))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    optimiser.zero_grad()


def logits(
    model: Classifier,
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


def _save(model: Classifier, optimiser: torch.optim.Optimizer, step: int, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    half_written = path.with_suffix(".tmp")
    torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step}, half_written)
    os.replace(half_written, path)


def _resume(model: Classifier, optimiser: torch.optim.Optimizer, path: Path) -> int:
    """Load a saved state if there is one, and return how many steps it has seen."""
    if not path.is_file():
        return 0
    state = torch.load(path, weights_only=True, map_location=device())
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])
