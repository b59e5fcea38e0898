"""From rows of outcomes to what a model sees of them: the same that it sees when it serves."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from outcome_training.learner import Looks
from tqdm import tqdm

from handler.errors import ModelError
from handler.model import Router
from handler.query import normalise
from handler.rows import BadRows, Row, Summary, check, read

ROWS_PER_RUN = 64

Floats = NDArray[np.float64]


def labelled(path: Path) -> tuple[Summary, list[Row]]:
    """The rows of a file of outcomes. Raises `BadRows` where any is bad, refused or without outcome."""
    summary = check(path)
    if summary.refused:
        raise BadRows(f"{summary.told()}\naccepted: rows that a gateway answers")
    if not summary.outcomes:
        raise BadRows(f"{path}:1: no outcomes; accepted: small and large in every row, numbers from 0 to 1")
    return summary, list(read(path))


def outcomes(rows: Sequence[Row]) -> tuple[Floats, Floats]:
    """How good the small and the large model's answers were, (row,) each."""
    return (
        np.array([row.small for row in rows], dtype=np.float64),
        np.array([row.large for row in rows], dtype=np.float64),
    )


def digest(rows: Sequence[Row]) -> str:
    """The rows' SHA-256, whatever their order: of their texts and outcomes alone, as sorted JSON lines."""
    lines = sorted(
        msgspec.json.encode({"large": row.large, "small": row.small, "text": row.text}) for row in rows
    )
    return hashlib.sha256(b"\n".join(lines)).hexdigest()


def looked_at(router: Router, texts: Sequence[str]) -> tuple[Looks, Floats]:
    """Let a model look at texts.

    returns  what it sees, and its probabilities (text, task)
    """
    limits = router.manifest.limits
    queries = [normalise(text, limits) for text in texts]
    rows = [ids[1:-1] for ids in router.token_ids(queries)]
    order = sorted(range(len(queries)), key=lambda i: len(rows[i]))
    states: list[NDArray[np.float32] | None] = [None] * len(queries)
    probabilities = np.zeros((len(queries), len(router.manifest.tasks)))
    for start in tqdm(range(0, len(order), ROWS_PER_RUN), desc="reading", unit="run"):
        places = order[start : start + ROWS_PER_RUN]
        try:
            run = router.run([queries[i] for i in places], hidden=True)
        except ValueError:  # ONNX Runtime's own, for an output that a graph does not have
            raise ModelError(
                "the model's graph does not give out its hidden state; build it anew first"
            ) from None
        assert run.hidden is not None
        for n, i in enumerate(places):
            states[i] = run.hidden[n]
            probabilities[i] = run.scores[n].probabilities
    looks = Looks(
        [query.text for query in queries],
        rows,
        [len(query.text) for query in queries],
        np.stack(states),  # type: ignore[arg-type]
    )
    return looks, probabilities
