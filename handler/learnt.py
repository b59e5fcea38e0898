"""The need that a model has learnt from outcomes of a small and a large model.

One number from three looks at a query: the model's own state, its words, its length.
Linear, then a logistic curve; a query costs some tens of microseconds. `LearntNeed`
reads what `build/outcome_training` wrote. Here too are the features themselves, since
what is learnt and what is served must see the same.
"""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from handler.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Beside the graph in a model's folder.
NEED = "need.npz"
LENGTHS = 3
# Odd numbers whose products spread token ids over 64 bits (multiplicative hashing, Knuth 1973).
_ONE, _NEXT, _PAIR = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0xD6E8FEB86659FD93))


def buckets(ids: Sequence[int], count: int) -> "NDArray[np.int64]":
    """Hash a query's words, one by one and in pairs that follow each other.

    ids      (token,) ids of the whole text that the model was given, without [CLS] and [SEP]
    count    of buckets, a power of two
    returns  (2 · token - 1,) bucket of each
    """
    row = np.asarray(ids, dtype=np.uint64)
    hashed = np.concatenate((row * _ONE, (row[:-1] * _ONE ^ row[1:] * _NEXT) * _PAIR))
    return (hashed >> np.uint64(65 - int(count).bit_length())).astype(np.int64)


def lengths(chars: int, tokens: int) -> "NDArray[np.float64]":
    """The length of a query in three forms, (3,): logarithms of characters and tokens, and kilocharacters."""
    return np.array([np.log1p(chars), np.log1p(tokens), chars / 1000])


def words(
    ids: Sequence[int], rarity: "NDArray[np.float32]"
) -> "tuple[NDArray[np.int64], NDArray[np.float64]]":
    """Weigh a query's buckets: (bucket,) places, each once, and weights of length 1 in all.

    rarity  (bucket,) inverse document frequency; 0 for what no learning has seen

    Term frequency counts by its logarithm (Manning et al. 2008, "Introduction to Information
    Retrieval", 6.4).
    """
    places, times = np.unique(buckets(ids, len(rarity)), return_counts=True)
    weights = (1 + np.log(times)) * rarity[places]
    norm = float(np.sqrt(weights @ weights))
    return places, np.asarray(weights / (norm or 1.0), dtype=np.float64)


class LearntNeed:
    """A head that was learnt, ready to be asked. Safe to call from several threads at once."""

    def __init__(self, content: bytes) -> None:
        """Parse a `need.npz`. Raises `ModelError`."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                self.bias = float(arrays["bias"])
                self.of_state = arrays["of_state"].astype(np.float64)
                self.of_length = arrays["of_length"].astype(np.float64)
                self.of_word = arrays["of_word"].astype(np.float32)
                self.rarity = arrays["rarity"].astype(np.float32)
        except Exception as exc:  # a zip's and an array's readers have no common exception
            raise ModelError(f"{NEED} is not a learnt need: {type(exc).__name__}") from None
        count = len(self.of_word)
        fits = (
            self.of_length.shape == (LENGTHS,)
            and self.of_state.ndim == self.of_word.ndim == 1
            and self.rarity.shape == self.of_word.shape
            and count >= 2
            and not count & (count - 1)
        )
        arrays_ = (self.of_state, self.of_length, self.of_word, self.rarity, np.float64(self.bias))
        if not (fits and all(np.isfinite(array).all() for array in arrays_)):
            raise ModelError(f"{NEED} holds arrays that do not fit together")

    def needs(
        self, rows: Sequence[Sequence[int]], chars: Sequence[int], states: "NDArray[np.float32]"
    ) -> "NDArray[np.float32]":
        """How much each query needs the large model of the pair that was learnt, 0 to 1.

        rows     (query, token) ids of each whole text, without [CLS] and [SEP]
        chars    (query,) characters of each text
        states   (query, width) float32, the model's state of each (`Run.hidden`)
        returns  (query,) float32
        """
        of_words = [self._of_words(row) for row in rows]
        of_lengths = [lengths(n, len(row)) @ self.of_length for n, row in zip(chars, rows, strict=True)]
        scores = self.bias + states.astype(np.float64) @ self.of_state + of_words + of_lengths
        return np.asarray(1 / (1 + np.exp(-np.clip(scores, -30, 30))), dtype=np.float32)

    def _of_words(self, row: Sequence[int]) -> float:
        places, weights = words(row, self.rarity)
        return float(weights @ self.of_word[places])


def write(
    *,
    bias: float,
    of_state: "NDArray[np.floating]",
    of_length: "NDArray[np.floating]",
    of_word: "NDArray[np.floating]",
    rarity: "NDArray[np.floating]",
) -> bytes:
    """The bytes of a `need.npz`: the same for the same numbers."""
    content = io.BytesIO()
    np.savez_compressed(
        content,
        bias=np.float64(bias),
        of_state=of_state.astype(np.float32),
        of_length=of_length.astype(np.float64),
        of_word=of_word.astype(np.float32),
        rarity=rarity.astype(np.float32),
    )
    return content.getvalue()
