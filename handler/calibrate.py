"""Choose where the first tier ends by what it brings: `query-gateway calibrate FILE`.

Unlabelled queries tell which boundary sends a wished share to the first tier. Labelled
ones (their true task, or how good a small and a large model's answers were) tell what
that costs: the curve of quality against calls to larger models, its knee, and the
boundary that keeps wrongly fast answers under a bound. Every choice comes with how sure
it is at that many rows.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from handler import charts, policy_file
from handler.offline import LocalRouter
from handler.policy import Policy, Tier
from handler.query import key, normalise
from handler.rows import Row, check, read

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

RESAMPLES = 300
LEVEL = 0.95
# A wished share that ties keep us from by more than this is pointed out.
SHARE_OFF = 0.02
# A written boundary has so many digits, and lies at least so far under the second tier's.
DIGITS = 6
BOUND_STEP = 1e-6


class Unfit(ValueError):
    """Rows from which the wished boundary cannot be chosen. The message says why, and what would do."""


class Measured(msgspec.Struct, frozen=True):
    """Queries in the order of their needs, and what was known of them.

    needs    (row,) ascending
    quality  (row, 2) how good an answer of the first tier is, and of a larger one; 0 to 1. None without labels
    kind     what the labels are
    texts    (row,) int64, which text a row asks: equal ones have one number, below the number of texts
    uppers   the greatest needs of the tiers after the first, cheapest first; the first ends before them
    refused  rows that a gateway would refuse, in words; empty where there are none
    """

    needs: "Floats"
    quality: "Floats | None"
    kind: str
    texts: "NDArray[np.int64]"
    uppers: tuple[float, ...] = (1.0,)
    refused: str = ""

    @property
    def bound_max(self) -> float:
        """The greatest need that the first tier may end at."""
        return max(self.uppers[0] - BOUND_STEP, 0.0)

    def valid(self) -> "NDArray[np.int64]":
        """How many rows a boundary can send to the first tier: rows of one need go together, (cut,)."""
        # A need of 0 is always answered by the first tier, one of 1 never.
        none = [0] if self.needs[0] > 0 else []
        last_of_need = np.append(np.diff(self.needs) > 0, True)
        some = np.flatnonzero(last_of_need & (self.needs <= self.bound_max)) + 1
        return np.concatenate([none, some]).astype(np.int64)

    def boundary(self, fast: int) -> float:
        """A bound of need that sends so many rows to the first tier: halfway to the next need, in few digits."""
        low = float(self.needs[fast - 1]) if fast else 0.0
        high = float(self.needs[fast]) if fast < len(self.needs) else 1.0
        middle = min((low + high) / 2, self.bound_max)
        short = round(middle, DIGITS)
        return short if low <= short < high else middle if middle < high else low

    def drawn(self, draw: np.random.Generator) -> "NDArray[np.int64]":
        """How often each row stands in a sample drawn anew (bootstrap, Efron 1979), (row,).

        Whole texts are drawn: a text that stands in many rows says no more than one.
        """
        texts = int(self.texts.max()) + 1
        times = np.bincount(draw.integers(0, texts, texts), minlength=texts)
        return np.asarray(times[self.texts])

    def cost_at(self, fast: int, prices: Sequence[float]) -> float:
        """Price of 1,000 such queries when so many rows go to the first tier.

        prices  (tier,) of 1,000 queries each, cheapest first
        """
        ends = np.searchsorted(self.needs, self.uppers[:-1], side="right")
        ends = np.concatenate([[0, fast], np.maximum(ends, fast), [len(self.needs)]])
        return float(np.diff(ends) @ np.array(prices) / len(self.needs))

    def quality_at(self) -> "Floats":
        """Mean quality when the first n rows go to the first tier, (row + 1,). Needs labels."""
        assert self.quality is not None
        first, larger = self.quality[:, 0], self.quality[:, 1]
        lost = np.concatenate([[0.0], np.cumsum(first - larger)])
        return np.asarray((larger.sum() + lost) / len(first))

    def wrong_at(self) -> "Floats":
        """Share of all queries that go to the first tier though a larger one does better, (row + 1,)."""
        assert self.quality is not None
        wrong = self.quality[:, 1] > self.quality[:, 0]
        return np.concatenate([[0.0], np.cumsum(wrong)]) / len(wrong)


class Chosen(msgspec.Struct, frozen=True):
    """A boundary, and how sure it is.

    fast                how many of the rows it sends to the first tier
    threshold_interval  where it would lie for other rows of the same kind, 95%
    share_interval      the share that it would send there
    """

    boundary: float
    fast: int
    threshold_interval: tuple[float, float]
    share_interval: tuple[float, float]
    note: str = ""

    @property
    def threshold(self) -> float:
        return 1 - self.boundary


def measure(path: Path, local: LocalRouter) -> Measured:
    """Ask the model about a file. Raises `BadRows` before anything is computed."""
    policy = local.policy
    summary = check(path, tasks=dict.fromkeys((*policy.tasks, *policy.names)))
    limits, digest = local.router.manifest.limits, local.router.digest
    needs: list[float] = []
    labels: list[tuple[float, float]] = []
    numbers: dict[bytes, int] = {}
    texts: list[int] = []

    def add(row: Row, need: float) -> None:
        needs.append(need)
        # Equal as the model reads them; a query without a text is like no other.
        text = key(normalise(row.text, limits), digest) if row.text else b"%d" % row.line
        texts.append(numbers.setdefault(text, len(numbers)))
        if row.small is not None and row.large is not None:
            labels.append((row.small, row.large))
        elif row.task is not None:
            labels.append((0.0 if _needs_large(policy, row.task) else 1.0, 1.0))

    def readable() -> Iterator[Row]:
        for row in read(path):
            if row.text:
                yield row
            else:
                add(row, 1.0)  # an image, say: the last tier answers it, whatever the threshold

    for row, scores in local.scored(readable()):
        add(row, policy.need(scores))
    order = np.argsort(needs, kind="stable")
    quality = np.array(labels)[order] if labels else None
    kind = "outcomes" if summary.outcomes else "tasks" if summary.tasks else "none"
    found = np.array(needs)[order], quality, kind, np.array(texts)[order]
    return Measured(*found, policy.uppers[1:], summary.told())


def _needs_large(policy: Policy, label: str) -> bool:
    """Whether a label says that the first tier could not answer."""
    return policy.routes.get(label, label) != policy.names[0]


def by_share(measured: Measured, share: float) -> Chosen:
    """The boundary that sends a share of such queries to the first tier, or the nearest that ties allow."""
    fast = _nearest(measured, share)
    off = fast / len(measured.needs) - share
    note = ""
    if abs(off) > SHARE_OFF:
        note = (
            f"many rows have the same need, and go together: {share:.1%} cannot be had, "
            f"{fast / len(measured.needs):.1%} is the nearest"
        )
    return _sure(measured, lambda again: _nearest(again, share), note)


def by_wrong_fast(measured: Measured, bound: float) -> Chosen:
    """The boundary that sends the most to the first tier while wrongly fast answers stay within a bound.

    bound  of the share of all queries
    """
    _refuse_one_class(measured)
    fast = _within(measured, bound)
    over = measured.wrong_at()[fast] > bound + 1e-12
    note = f"no boundary keeps wrongly fast answers within {bound:.1%}; this is the nearest" if over else ""
    if not fast:
        note = f"no query can go to the first tier with at most {bound:.1%} wrongly fast"
    return _sure(measured, lambda again: _within(again, bound), note)


def by_knee(measured: Measured) -> Chosen:
    """The boundary after which quality falls faster than calls are saved.

    Where the curve of quality against calls to larger models lies farthest over the straight line
    between its ends (Satopää et al. 2011, "Finding a Kneedle in a Haystack"). Where the small model is as
    good as the large one on the whole, that is the boundary of the best quality.
    """
    _refuse_one_class(measured)
    return _sure(measured, _knee, "")


def _refuse_one_class(measured: Measured) -> None:
    if measured.quality is None:
        raise Unfit("the rows have no labels; accepted: a task in every row, or small and large")
    wrong = measured.quality[:, 1] > measured.quality[:, 0]
    if not wrong.any():
        raise Unfit(
            "no row needs a larger model by its label, so nothing tells where the first tier should end; "
            "--fast-share needs no labels"
        )
    if wrong.all():
        raise Unfit(
            "every row needs a larger model by its label, so nothing should go to the first tier; "
            "--fast-share needs no labels"
        )


def _nearest(measured: Measured, share: float) -> int:
    cuts = measured.valid()
    return int(cuts[np.argmin(np.abs(cuts / len(measured.needs) - share))])


def _within(measured: Measured, bound: float) -> int:
    cuts = measured.valid()
    within = cuts[measured.wrong_at()[cuts] <= bound + 1e-12]
    return int(within.max() if len(within) else cuts.min())


def _knee(measured: Measured) -> int:
    cuts = measured.valid()
    quality = measured.quality_at()
    low, high = quality[-1], quality[0]
    if not high > low:
        return int(cuts[quality[cuts] >= quality[cuts].max() - 1e-12].max())
    large = 1 - cuts / len(measured.needs)  # share of calls to larger models
    return int(cuts[np.argmax((quality[cuts] - low) / (high - low) - large)])


def _sure(measured: Measured, choose: Callable[[Measured], int], note: str) -> Chosen:
    """Choose, and choose again on texts drawn anew: how far would the boundary lie elsewhere?"""
    if not np.ptp(measured.needs):
        raise Unfit(
            f"every row has the same need, {measured.needs[0]:.3f}: no threshold tells them apart; "
            "other texts, or more kinds of them, would"
        )
    fast = choose(measured)
    if fast < choose(msgspec.structs.replace(measured, uppers=(1.0,))):
        note = f"the first tier would end later, if the second did not end at need {measured.uppers[0]:g}"
    draw = np.random.default_rng(0)
    count = len(measured.needs)
    bounds, shares = [], []
    for _ in range(RESAMPLES):
        rows = np.repeat(np.arange(count), measured.drawn(draw))
        quality = None if measured.quality is None else measured.quality[rows]
        again = msgspec.structs.replace(
            measured, needs=measured.needs[rows], quality=quality, texts=measured.texts[rows]
        )
        bound = again.boundary(choose(again))
        bounds.append(1 - bound)
        shares.append(np.searchsorted(measured.needs, bound, side="right") / count)
    edges = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    low, high = np.quantile(bounds, edges)
    few, many = np.quantile(shares, edges)
    return Chosen(measured.boundary(fast), fast, (float(low), float(high)), (float(few), float(many)), note)


def policy_text(policy: Policy, need: dict[str, float], chosen: Chosen, comments: Sequence[str]) -> str:
    """The policy in force with another first boundary, as a POLICY_FILE."""
    return policy_file.write(
        tiers=[Tier(policy.names[0], chosen.boundary), *policy.tiers[1:]],
        need=need,
        source=policy.source,
        options=policy.options,
        predicates=policy.predicates,
        comments=comments,
    )


def table(measured: Measured, prices: Sequence[float]) -> str:
    """What boundaries do, at every tenth of the queries, as aligned text.

    prices  (tier,) of 1,000 queries each, cheapest first; empty where they are not known
    """
    heads = ["threshold", "to the first tier"]
    if measured.quality is not None:
        heads += ["quality", "wrongly fast"]
    if prices:
        heads.append("cost per 1,000")
    lines = ["  ".join(heads)]
    count = len(measured.needs)
    quality = measured.quality_at() if measured.quality is not None else None
    wrong = measured.wrong_at() if measured.quality is not None else None
    for fast in dict.fromkeys(_nearest(measured, tenth / 10) for tenth in range(11)):
        cells = [f"{1 - measured.boundary(fast):9.4f}", f"{fast / count:17.1%}"]
        if quality is not None and wrong is not None:
            cells += [f"{quality[fast]:7.3f}", f"{wrong[fast]:12.2%}"]
        if prices:
            cells.append(charts.amount(measured.cost_at(fast, prices)).rjust(14))
        lines.append("  ".join(cells))
    return "\n".join(lines)


def pictures(measured: Measured, chosen: Chosen) -> tuple[str, str]:
    """The curve as SVG and as text: quality against calls to larger models, or without labels how needs lie."""
    count = len(measured.needs)
    cuts = measured.valid()
    cuts = cuts[np.unique(np.linspace(0, len(cuts) - 1, min(len(cuts), 201)).round().astype(int))]
    if measured.quality is None:
        counts = np.histogram(measured.needs, bins=40, range=(0, 1))[0]
        svg = charts.histogram(
            [float(n) for n in counts],
            title="How much the queries need a large model",
            x_name="need",
            boundaries=[(chosen.boundary, f"first tier ends at {chosen.boundary:.3f}")],
        )
        shares = [float(cut) / count for cut in cuts]
        text = charts.plotted(
            [measured.boundary(int(cut)) for cut in cuts],
            shares,
            x_name="boundary of need",
            y_name="share of queries that go to the first tier",
            mark=(chosen.boundary, chosen.fast / count),
        )
        return svg, text
    quality = measured.quality_at()
    large = [1 - float(cut) / count for cut in cuts][::-1]  # ascending
    reached = [float(quality[cut]) for cut in cuts][::-1]
    low, high = _band(measured, cuts)
    mark = (1 - chosen.fast / count, float(quality[chosen.fast]))
    names = ("share of calls to larger models", "mean quality")
    svg = charts.curve(
        [
            charts.Line("by need", large, reached, low[::-1], high[::-1]),
            charts.Line("by chance", [0.0, 1.0], [float(quality[-1]), float(quality[0])], dashed=True),
        ],
        title="Quality against calls to larger models",
        x_name=names[0],
        y_name=names[1],
        marks=[charts.Mark(*mark, f"threshold {chosen.threshold:.3f}")],
    )
    return svg, charts.plotted(large, reached, x_name=names[0], y_name=names[1], mark=mark)


def _band(measured: Measured, cuts: "NDArray[np.int64]") -> tuple[list[float], list[float]]:
    """A 95% band of the quality at each cut, by the bootstrap."""
    assert measured.quality is not None
    draw = np.random.default_rng(0)
    found = np.empty((100, len(cuts)))
    for n in range(len(found)):
        times = measured.drawn(draw)
        first, larger = (np.concatenate([[0.0], np.cumsum(times * column)]) for column in measured.quality.T)
        found[n] = (first[cuts] + larger[-1] - larger[cuts]) / times.sum()
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low.tolist(), high.tolist()
