"""What came of a run, for people: the verdict, the curve, and two settings side by side."""

import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

from lab.load.run import Outcome
from lab.load.shapes import SHAPES, offered
from lab.load.slo import LATE_MS, curve, milliseconds, percentile
from lab.rows import Row, aligned

MEMORY_FROM = 8  # looks, for memory to be told as a course


def verdict(outcome: Outcome, lines: Sequence[Row]) -> str:
    """The promises, and below them what helps to read them."""
    samples = outcome.samples
    rows = [("", "users saw", "gateway says", "promised", "")]
    rows += [(line.what, line.seen, line.also, line.wanted, line.verdict.replace("*", "")) for line in lines]
    text = [*aligned(rows)]
    late_ms = percentile([s.late_ms for s in samples], 0.99) or 0.0
    due = offered(outcome.asked.shape, outcome.asked.rate, outcome.asked.seconds)
    from_sending = percentile([s.latency_ms - s.late_ms for s in samples if s.cache], 0.99)
    text.append(
        f"  {len(samples)} asked, {due:.0f} due; sent late: P99 {late_ms:.1f} ms; "
        f"counted from sending, the P99 of all answers is {milliseconds(from_sending)}"
    )
    if late_ms > LATE_MS:
        text.append(
            "  Late means that answers took over a second, or that the driver is short of processor: "
            "then lower --rate, or drive from another machine."
        )
    costs = []
    if outcome.cpu_ms:
        costs.append(f"{outcome.cpu_ms:.2f} ms of CPU per query")
    if outcome.batch:
        costs.append(f"{outcome.batch:.1f} queries per model run")
    if len(outcome.memory_mb) > MEMORY_FROM:
        late = outcome.memory_mb[len(outcome.memory_mb) // 4 :]  # until then, L1 fills
        costs.append(f"{late[0]:.0f} → {late[-1]:.0f} MB from the first quarter to the end")
    elif outcome.memory_mb:
        costs.append(f"{outcome.memory_mb[-1]:.0f} MB")
    if costs:
        text.append(f"  gateway: {', '.join(costs)}")
    return "\n".join(text)


def over_time(outcome: Outcome) -> str:
    """Ten slices of the run, by when the queries were due."""
    step_s = outcome.asked.seconds / 10
    rows = [("from", "asked/s", "hits", "refused", "P50", "P99")]
    for begin_s, part in curve(outcome.samples, outcome.asked.seconds):
        answered = part.answered_ms()
        hits = f"{len(part.hits_ms()) / len(answered):.0%}" if answered else "none"
        rows.append(
            (
                f"{begin_s:.1f} s",
                f"{len(part) / step_s:.0f}",
                hits,
                f"{part.share({429}):.1%}",
                milliseconds(percentile(answered, 0.5)),
                milliseconds(percentile(answered, 0.99)),
            )
        )
    return "\n".join(aligned(rows))


class Figure(NamedTuple):
    """One of the figures in which two settings are compared, by round."""

    what: str
    unit: str
    before: list[float]
    after: list[float]


def figures(pairs: Sequence[tuple[Outcome, Outcome]]) -> list[Figure]:
    """What changed; a figure that some run lacks is left out."""
    wanted: tuple[tuple[str, str, Callable[[Outcome], float | None]], ...] = (
        ("cache hit rate", "%", _hit_rate),
        ("all answers, P50", "ms", lambda o: percentile(o.samples.answered_ms(), 0.5)),
        ("all answers, P99", "ms", lambda o: percentile(o.samples.answered_ms(), 0.99)),
        ("cache hits, P99", "ms", lambda o: percentile(o.samples.hits_ms(), 0.99)),
        ("misses, P50", "ms", lambda o: percentile(o.samples.answered_ms(("miss",)), 0.5)),
        ("refused (429)", "%", lambda o: 100 * o.samples.share({429})),
        ("gateway CPU per query", "ms", lambda o: o.cpu_ms),
        ("queries per model run", "", lambda o: o.batch),
        ("memory", "MB", lambda o: o.memory_mb[-1] if o.memory_mb else None),
    )
    found = []
    for what, unit, of in wanted:
        before = [value for one, _ in pairs if (value := of(one)) is not None]
        after = [value for _, other in pairs if (value := of(other)) is not None]
        if len(before) == len(after) == len(pairs):
            found.append(Figure(what, unit, before, after))
    return found


def compared(before: str, after: str, found: Sequence[Figure]) -> str:
    """Medians of both settings, and the median of the rounds' ratios with its spread."""
    rows = [("", before, after, "after ÷ before", "(rounds)")]
    for figure in found:
        # Of nothing there is no ratio, and one of some rounds alone would mislead.
        ratios = (
            [b / a for a, b in zip(figure.before, figure.after, strict=True)] if all(figure.before) else []
        )
        digits = 2 if figure.unit == "ms" else 1
        told = [
            f"{statistics.median(side):.{digits}f} {figure.unit}".strip()
            for side in (figure.before, figure.after)
        ]
        ratio = f"{statistics.median(ratios):.2f}" if ratios else ""
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}" if ratios else ""
        rows.append((figure.what, told[0], told[1], ratio, spread))
    return "\n".join(aligned(rows))


def heading(shape: str, where: str) -> str:
    return f"\n== {shape}: {SHAPES[shape].about}\n  {where}"


def _hit_rate(outcome: Outcome) -> float | None:
    return 100 * len(outcome.samples.hits_ms()) / outcome.answers if outcome.answers else None
