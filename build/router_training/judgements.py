"""What teachers say of prompts that they had not seen, and how much of it is learnt.

`read` gives the kept judgements, which `teachers.py` made; `targets` mixes them with the
labels. Knows nothing of models.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from router_training.sources import PROMPTS

FILE = PROMPTS / "judgements.npz"


def read() -> dict[str, NDArray[np.float32]]:
    """Read them: (20,) probabilities, in the order of `tasks.TASKS`, by the prompt's digest."""
    with np.load(FILE) as kept:
        said = kept["probability"].astype(np.float32)
        said /= said.sum(axis=1, keepdims=True)
        return {f"{prompt:016x}": row for prompt, row in zip(kept["prompt"].tolist(), said, strict=True)}


def write(said: dict[str, NDArray[np.float32]]) -> None:
    """Keep probabilities by the prompt's digest, in 255ths."""
    names = sorted(said)
    np.savez_compressed(
        FILE,
        prompt=np.array([int(name, 16) for name in names], dtype=np.uint64),
        probability=np.round(np.stack([said[name] for name in names]) * 255).astype(np.uint8),
    )


def targets(allowed: NDArray[np.bool_], judged: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    """Mix labels and judgements into what is to be learnt.

    Where several tasks are allowed, the label's part is shared out as the teachers do.

    allowed  (row, task)
    judged   (row, task); zeros where a row is not judged, and the target is zeros too
    share    of the judgement, 0 to 1; the rest is the label's
    """
    within = np.where(allowed, judged + np.float32(1e-6), np.float32(0))
    within /= within.sum(axis=1, keepdims=True)
    mixed = (1 - share) * within + share * judged
    return np.where(judged.any(axis=1, keepdims=True), mixed, 0).astype(np.float32)
