"""Learn where the large model of a pair pays, from rows that say how both did.

A ridge regression of the gain (large minus small) on three looks at a query: its words
(TF-IDF of token ids and of pairs of them, hashed), the encoder's mean state, its length.
How strongly to hold it back is chosen by cross-validation; what the folds say of rows that
they have not seen is then calibrated (Platt 1999) to the probability that the large model
does better, which is served as `need`.

The encoder stays as it is, so a few thousand rows take seconds. Read `learnt` first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from outcome_training.curves import Curve, curve, interval, numbered

from handler.learnt import LENGTHS, LearntNeed, buckets, lengths, write

BUCKETS = 65_536
FOLDS = 5
TEXTS_MIN = 300
# How much the state and the length count beside the words, whose rows have length 1: what did best on
# the four pairs of docs/need-and-cost.md; the penalty is chosen anew for each pair.
STATE_WEIGHT = 1.0
LENGTH_WEIGHT = 0.1
PENALTIES = (1.0, 3.0, 5.0, 10.0, 20.0, 40.0)
STEPS_MAX = 60

Floats = NDArray[np.float64]


class Refused(Exception):
    """Rows from which nothing can be learnt that would help. The message says why."""


@dataclass(frozen=True)
class Looks:
    """What a model sees of texts.

    texts   as they are keyed, to tell equal ones
    rows    (text, token) token ids without [CLS] and [SEP]
    chars   (text,) characters
    states  (text, width) float32, the encoder's mean state (`Run.hidden`)
    """

    texts: Sequence[str]
    rows: Sequence[Sequence[int]]
    chars: Sequence[int]
    states: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, places: NDArray[np.int64]) -> Looks:
        return Looks(
            [self.texts[i] for i in places],
            [self.rows[i] for i in places],
            [self.chars[i] for i in places],
            self.states[places],
        )


@dataclass(frozen=True)
class Learnt:
    """A head, and what the folds say of it on rows that they have not seen.

    content     bytes of a `need.npz`
    seen        the curve over the folds
    interval    of its APGR, 90%
    by_length   the curve of the prompt's length alone, on the same rows
    penalty     that was chosen
    """

    content: bytes
    seen: Curve
    interval: tuple[float, float]
    by_length: Curve
    penalty: float


def learnt(looks: Looks, small: Floats, large: Floats) -> Learnt:
    """Learn a pair's gain.

    small, large  (text,) how good either model's answer was, 0 to 1

    Raises `Refused` when the texts are too few, tell nothing apart, or do not help.
    """
    gain = large - small
    _refuse_what_tells_nothing(looks, gain)
    words = _Words.of(looks)
    by_length = curve(np.array(looks.chars, dtype=np.float64), small, large)
    folds = _folds(looks.texts)
    guessed: dict[float, Floats] = {}
    for penalty in PENALTIES:
        guesses = np.zeros(len(gain))
        for fold in range(FOLDS):
            held = folds == fold
            if held.any() and not held.all():
                head = _ridge(words, looks, gain, np.flatnonzero(~held), penalty)
                guesses[held] = head.guess(words, looks, np.flatnonzero(held))
        guessed[penalty] = guesses
    penalty = max(guessed, key=lambda tried: _correlation(guessed[tried], gain))
    guesses = guessed[penalty]
    seen = curve(guesses, small, large)
    low, high = interval(guesses, small, large, numbered(looks.texts), level=0.90)
    if not low > 0.5:
        raise Refused(
            f"what was learnt does not help: on rows that it had not seen it recovers {seen.apgr:.3f} of the gap "
            f"(APGR; 90% interval {low:.3f} to {high:.3f}), and chance recovers 0.500. "
            f"The length of the prompt alone recovers {by_length.apgr:.3f}. More rows may help"
        )
    head = _ridge(words, looks, gain, np.arange(len(gain)), penalty)
    slope, bias = _calibrated(guesses, np.maximum(gain, 0.0))
    return Learnt(head.content(slope, bias), seen, (low, high), by_length, penalty)


def needs(content: bytes, looks: Looks) -> Floats:
    """What a head says of texts, exactly as it is served, (text,)."""
    found = LearntNeed(content).needs(looks.rows, looks.chars, looks.states)
    return found.astype(np.float64)


def _refuse_what_tells_nothing(looks: Looks, gain: Floats) -> None:
    if (texts := len(set(looks.texts))) < TEXTS_MIN:
        raise Refused(f"{texts} different texts in {len(gain)} rows; accepted: at least {TEXTS_MIN}")
    if not np.ptp(gain):
        raise Refused(
            "the gain is the same in every row: nothing tells a query for the large model from others"
        )
    if not gain.mean() > 0:
        raise Refused(
            f"the large model is no better than the small one on the whole of these rows (mean gain {gain.mean():.3f}), "
            "so there is no gap to learn. Where it pays for some tasks all the same, calibrate on these rows tells"
        )


def _folds(texts: Sequence[str]) -> NDArray[np.int64]:
    """The fold of each text: equal texts share one, so that none is asked about what it has seen."""
    digests = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts]
    return np.array([int.from_bytes(digest, "little") % FOLDS for digest in digests], dtype=np.int64)


@dataclass(frozen=True)
class _Words:
    """The words of texts as a sparse matrix: where each text's buckets begin, their places, their counts."""

    begins: NDArray[np.int64]
    places: NDArray[np.int64]
    times: Floats

    @classmethod
    def of(cls, looks: Looks) -> _Words:
        found = [np.unique(buckets(row, BUCKETS), return_counts=True) for row in looks.rows]
        begins = np.cumsum([0, *(len(places) for places, _ in found)])
        return cls(
            begins,
            np.concatenate([places for places, _ in found]),
            1 + np.log(np.concatenate([times for _, times in found])),
        )

    def part(self, there: NDArray[np.int64]) -> _Words:
        sizes = self.begins[there + 1] - self.begins[there]
        begins = np.cumsum([0, *sizes])
        picked = np.repeat(self.begins[there] - begins[:-1], sizes) + np.arange(begins[-1])
        return _Words(begins, self.places[picked], self.times[picked])

    def rarity(self) -> Floats:
        """Inverse document frequency by bucket, smoothed; 0 where no text has the bucket."""
        texts = len(self.begins) - 1
        among = np.bincount(self.places, minlength=BUCKETS)
        return np.asarray(np.where(among > 0, np.log((1 + texts) / (1 + among)) + 1, 0.0), dtype=np.float64)

    def weighed(self, rarity: Floats) -> Floats:
        """The value of each entry, so that every text's have length 1."""
        values = self.times * rarity[self.places]
        norms = np.sqrt(self._sums(values * values))
        return np.asarray(values / np.repeat(np.where(norms > 0, norms, 1.0), np.diff(self.begins)))

    def times_columns(self, values: Floats, weights: Floats) -> Floats:
        return self._sums(values * weights[self.places])

    def times_rows(self, values: Floats, weights: Floats) -> Floats:
        spread = np.repeat(weights, np.diff(self.begins))
        return np.asarray(
            np.bincount(self.places, weights=values * spread, minlength=BUCKETS), dtype=np.float64
        )

    def _sums(self, values: Floats) -> Floats:
        ends = np.concatenate([[0.0], np.cumsum(values)])
        return np.asarray(ends[self.begins[1:]] - ends[self.begins[:-1]])


@dataclass(frozen=True)
class _Head:
    """A linear head as it was learnt: weights of words, states and lengths as they were scaled."""

    rarity: Floats
    of_word: Floats
    of_dense: Floats
    mean: Floats
    scale: Floats
    bias: float

    def guess(self, words: _Words, looks: Looks, there: NDArray[np.int64]) -> Floats:
        part = words.part(there)
        dense = (_dense(looks, there) - self.mean) * self.scale
        return self.bias + part.times_columns(part.weighed(self.rarity), self.of_word) + dense @ self.of_dense

    def content(self, slope: float, bias: float) -> bytes:
        """As served: the calibration's slope and bias go into the weights."""
        of_dense = self.of_dense * self.scale
        return write(
            bias=slope * (self.bias - float(self.mean @ of_dense)) + bias,
            of_state=slope * of_dense[:-LENGTHS],
            of_length=slope * of_dense[-LENGTHS:],
            of_word=slope * self.of_word,
            rarity=self.rarity,
        )


def _dense(looks: Looks, there: NDArray[np.int64]) -> Floats:
    """States and lengths of some texts, (text, width + 3)."""
    measured = np.array([lengths(looks.chars[i], len(looks.rows[i])) for i in there]).reshape(-1, LENGTHS)
    return np.hstack([looks.states[there].astype(np.float64), measured])


def _ridge(
    words: _Words,
    looks: Looks,
    gain: Floats,
    there: NDArray[np.int64],
    penalty: float,
) -> _Head:
    """Fit gain by words, states and lengths of the rows `there`; solved by conjugate gradients.

    The squares of all weights together cost `penalty` (Hoerl and Kennard 1970).
    """
    part = words.part(there)
    rarity = part.rarity()
    values = part.weighed(rarity)
    dense = _dense(looks, there)
    mean = dense.mean(axis=0)
    dense = dense - mean
    width = dense.shape[1] - LENGTHS
    spread = np.sqrt((dense[:, :width] ** 2).sum(axis=1).mean())
    each = dense[:, width:].std(axis=0)
    scale = np.concatenate(
        [
            np.full(width, np.sqrt(STATE_WEIGHT) / (spread or 1.0)),
            np.sqrt(LENGTH_WEIGHT / LENGTHS) / np.where(each > 0, each, 1.0),
        ]
    )
    dense = dense * scale
    bias = float(gain[there].mean())
    target = gain[there] - bias

    def of_rows(rows: Floats) -> Floats:
        return np.concatenate([part.times_rows(values, rows), dense.T @ rows])

    def squared(weights: Floats) -> Floats:
        guessed = part.times_columns(values, weights[:BUCKETS]) + dense @ weights[BUCKETS:]
        return of_rows(guessed) + penalty * weights

    weights = np.zeros(BUCKETS + dense.shape[1])
    left = of_rows(target)
    step = left.copy()
    size = first = float(left @ left)
    for _ in range(STEPS_MAX):
        if size <= 1e-8 * first:
            break
        moved = squared(step)
        far = size / float(step @ moved)
        weights += far * step
        left -= far * moved
        before, size = size, float(left @ left)
        step = left + size / before * step
    return _Head(rarity, weights[:BUCKETS], weights[BUCKETS:], mean, scale, bias)


def _calibrated(guesses: Floats, better: Floats) -> tuple[float, float]:
    """Slope and bias of the logistic curve from a guessed gain to how much better the large model did.

    better  (row,) 0 to 1; a probability where outcomes are right or wrong

    Newton's method on the cross-entropy (Platt 1999); a little shrinkage keeps the slope finite.
    """
    spread = guesses.std() or 1.0
    columns = np.stack([guesses / spread, np.ones_like(guesses)], axis=1)
    base = float(np.clip(better.mean(), 1e-3, 1 - 1e-3))
    weights = np.array([0.0, np.log(base / (1 - base))])
    for _ in range(30):
        chance = 1 / (1 + np.exp(-columns @ weights))
        slope = columns.T @ (better - chance) - np.array([1e-3 * weights[0], 0.0])
        bend = (columns * (chance * (1 - chance))[:, None]).T @ columns + np.diag([1e-3, 1e-9])
        move = np.linalg.solve(bend, slope)
        weights += move
        if np.abs(move).max() < 1e-9:
            break
    return float(weights[0] / spread), float(weights[1])


def _correlation(guesses: Floats, gain: Floats) -> float:
    if not guesses.std() or not gain.std():
        return 0.0
    return float(np.corrcoef(guesses, gain)[0, 1])
