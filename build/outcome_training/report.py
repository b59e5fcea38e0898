"""RouteLLM's tables for files of outcomes: what ours recovers, learnt and not, beside all else.

Every figure is of the half of the texts that no learning saw, over three splits or as many as
are asked for; the interval is a bootstrap over the first split's texts. A text that stands in
several rows is in one half alone. Where all rows name their `group`, whole groups are split,
too: what is learnt of one subject need not hold for another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from outcome_training.curves import SPLITS, Curve, curve, interval, numbered
from outcome_training.learner import Looks, Refused, learnt, needs
from outcome_training.looking import labelled, looked_at, outcomes

from handler import charts
from handler.model import Router, load
from handler.policy import NEED
from handler.rows import BadRows
from lab.pages import put

ROOT = Path(__file__).resolve().parent.parent.parent
PICTURES = ROOT / "docs/pictures"
PAGE = ROOT / "docs/need-and-cost.md"
SIZES = (300, 1000, 1500, 3000)  # different texts
GROUPS_MIN = 4  # to be split into halves
ENDINGS = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz")
# As RouteLLM published them (arXiv 2406.18665): APGR, CPT50, CPT80.
PUBLISHED: dict[str, tuple[tuple[str, float, int, int], ...]] = {
    "routellm-mmlu": (
        ("published: BERT", 0.572, 41, 72),
        ("published: matrix factorization", 0.597, 35, 71),
        ("published: similarity-weighted ranking", 0.603, 35, 72),
        ("published: causal LLM, 8 billion parameters", 0.600, 35, 70),
    ),
    "routellm-gsm8k": (
        ("published: BERT", 0.531, 45, 79),
        ("published: matrix factorization", 0.565, 39, 73),
        ("published: similarity-weighted ranking", 0.568, 41, 72),
        ("published: causal LLM, 8 billion parameters", 0.622, 34, 63),
    ),
}

Floats = NDArray[np.float64]


def report(
    model: Path, path: Path, *, write: bool, quick: bool, splits: int = SPLITS, without: Sequence[str] = ()
) -> None:
    """Print the tables of a file, or of every file of a folder. Raises `BadRows`.

    write    into the page and its pictures, too, which are of `SPLITS` splits
    quick    one split, and no learning curve
    without  groups whose rows are left out
    """
    files = [path] if path.is_file() else sorted(p for p in path.glob("*") if p.name.endswith(ENDINGS))
    if not files:
        raise BadRows(f"{path}: no file of outcomes; accepted: {', '.join(ENDINGS)}")
    checked = {file: labelled(file) for file in files}  # every bad row is named before anything is computed
    groups = {row.group for _, rows in checked.values() for row in rows if row.group is not None}
    if unknown := [group for group in without if group not in groups]:
        raise BadRows(
            f"--without {unknown[0]}: no row has this group; accepted: {', '.join(sorted(groups)) or 'none'}"
        )
    router = load(model)
    parts = []
    for file, (_, all_rows) in checked.items():
        rows = [row for row in all_rows if row.group not in without]
        if not rows:
            continue
        name = file.name.split(".")[0]
        small, large = outcomes(rows)
        looks, probabilities = looked_at(router, [row.text for row in rows])
        text, picture = _of_pair(
            name,
            router,
            looks,
            probabilities,
            small,
            large,
            [row.group for row in rows],
            1 if quick else splits,
            quick,
        )
        parts.append(text)
        print(text, flush=True)
        if write and picture:
            (PICTURES / f"outcomes-{name}.svg").write_text(picture + "\n", encoding="utf-8")
    if write and not quick:
        put("outcomes", "\n\n".join(parts), PAGE)


def _of_pair(
    name: str,
    router: Router,
    looks: Looks,
    probabilities: Floats,
    small: Floats,
    large: Floats,
    groups: Sequence[str | None],
    count: int,
    quick: bool,
) -> tuple[str, str]:
    """One pair's table as Markdown, and its curves as SVG; words alone where the large model is no better."""
    manifest = router.manifest
    unlearnt = probabilities @ np.array([NEED[manifest.policy[task]] for task in manifest.tasks])
    length = np.array(looks.chars, dtype=np.float64)
    chance = np.random.default_rng(0).random(len(small))
    texts = numbered(looks.texts)
    among = int(texts.max()) + 1
    rows_of = f"{len(small):,} rows" + (f" of {among:,} different texts" if among < len(small) else "")
    title = f"**{name}**: {rows_of}; small {small.mean():.3f}, large {large.mean():.3f}"
    splits = [_halves(texts, seed) for seed in range(count)]
    if any(not large[score].mean() > small[score].mean() for _, score in splits):
        return (
            f"{title}. The large model is no better on a half that is scored: there is no gap to recover.",
            "",
        )
    half = among // 2
    sizes = [*(size for size in SIZES if not quick and size < half), half]
    row = partial(_row, splits, texts, small, large)
    began = time.monotonic()
    rows = [
        row("length of the prompt alone", lambda learn, score: length[score]),
        row("chance", lambda learn, score: chance[score]),
        row("oracle", lambda learn, score: (large - small)[score]),
        row("ours, unlearnt", lambda learn, score: unlearnt[score]),
    ]
    rows += [row(f"ours, learnt from {n:,} texts", partial(_learnt, looks, small, large, n)) for n in sizes]
    took = (time.monotonic() - began) / max(len(sizes) * len(splits), 1)
    drawn = {"length of the prompt alone", "ours, unlearnt", rows[-1][0]}
    rows += [] if quick else _of_groups(looks, small, large, groups, count)
    lines = [
        f"{title}; a learning took {took:.0f} s on average.",
        "",
        "| score | APGR (splits) | 95% interval | CPT50 | CPT80 |",
        "|---|---|---|---|---|",
    ]
    curves = []
    for title, found, bounds in rows:
        done = [c for c in found if c is not None]
        if not done:
            lines.append(f"| {title} | refused | – | – | – |")
            continue
        each = _each([c.apgr for c in done])
        refused = f", {len(found) - len(done)} refused" if len(done) < len(found) else ""
        lines.append(
            f"| {title} | **{np.mean([c.apgr for c in done]):.3f}** ({each}{refused}) | "
            f"{bounds[0]:.3f} to {bounds[1]:.3f} | {np.mean([c.cpt(0.5) for c in done]):.0%} | "
            f"{np.mean([c.cpt(0.8) for c in done]):.0%} |"
        )
        curves.append((title, done[0]))
    for title, apgr, half, most in PUBLISHED.get(name, ()):
        lines.append(f"| {title} | {apgr:.3f} | – | {half}% | {most}% |")
    lines += ["", f"![Quality against calls to the large model](pictures/outcomes-{name}.svg)"]
    shown = [(t, c) for t, c in curves if t in drawn]
    picture = charts.curve(
        [charts.Line(title, list(c.shares), list(c.quality)) for title, c in shown],
        title=f"{name}: quality against the share of calls to the large model",
        x_name="share of calls to the large model",
        y_name="mean quality",
    )
    return "\n".join(lines), picture


def _of_groups(
    looks: Looks, small: Floats, large: Floats, groups: Sequence[str | None], count: int
) -> list[tuple[str, list[Curve | None], tuple[float, float]]]:
    """What half of the groups tells of the other half, and length beside it; nothing without groups."""
    named = [group for group in groups if group is not None]
    if len(named) < len(groups) or len(set(named)) < GROUPS_MIN:
        return []
    texts = numbered(looks.texts)
    splits = []
    for seed in range(count):
        learn, score = _halves(numbered(named), seed)
        score = score[~np.isin(texts[score], texts[learn])]
        splits.append((learn, score))
    if any(not large[score].mean() > small[score].mean() for _, score in splits):
        return []
    length = np.array(looks.chars, dtype=np.float64)
    row = partial(_row, splits, texts, small, large)
    half = len(set(named)) // 2
    return [
        row(f"length, on {len(set(named)) - half} of the groups", lambda learn, score: length[score]),
        row(f"ours, learnt from the other {half} groups", partial(_learnt, looks, small, large, len(texts))),
    ]


def _each(found: Sequence[float]) -> str:
    """The figure of each split, or where they are many their number and the standard error of their mean."""
    if len(found) <= SPLITS:
        return " ".join(f"{one:.3f}" for one in found)
    return f"± {np.std(found, ddof=1) / len(found) ** 0.5:.3f}, {len(found)} splits"


def _halves(texts: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows of one half of the texts and of the other, those of a text side by side, in a drawn order.

    texts  (row,) which text a row asks, all numbers from 0 on
    """
    count = int(texts.max()) + 1
    place = np.argsort(np.random.default_rng(seed).permutation(count))[texts]
    rows = np.argsort(place, kind="stable")
    learn = int((place < count // 2).sum())
    return rows[:learn], rows[learn:]


Scored = Callable[[NDArray[np.int64], NDArray[np.int64]], Floats | None]


def _row(
    splits: list[tuple[NDArray[np.int64], NDArray[np.int64]]],
    texts: NDArray[np.int64],
    small: Floats,
    large: Floats,
    title: str,
    scored: Scored,
) -> tuple[str, list[Curve | None], tuple[float, float]]:
    found: list[Curve | None] = []
    bounds = (float("nan"), float("nan"))
    for learn, score in splits:
        scores = scored(learn, score)
        found.append(None if scores is None else curve(scores, small[score], large[score]))
        if scores is not None and np.isnan(bounds[0]):
            bounds = interval(scores, small[score], large[score], texts[score])
    return title, found, bounds


def _learnt(
    looks: Looks,
    small: Floats,
    large: Floats,
    size: int,
    learn: NDArray[np.int64],
    score: NDArray[np.int64],
) -> Floats | None:
    learn = learn[numbered([looks.texts[i] for i in learn]) < size]
    try:
        found = learnt(looks.at(learn), small[learn], large[learn])
    except Refused:
        return None
    return needs(found.content, looks.at(score))
