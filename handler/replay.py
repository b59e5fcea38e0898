"""What would have gone where on a log of one's own: `query-gateway replay FILE`.

Counts by tier, task and day, money saved and risked, and the queries near a boundary, in
constant memory however long the log is. `page` writes it as one HTML file that stands
alone: no script, nothing fetched, nothing sent.
"""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

import msgspec

from handler import charts
from handler.offline import LocalRouter
from handler.policy import Policy, decide
from handler.rows import Row, check, read

PARTS = 50  # of the scale of need, in the picture
NEAR_MAX = 40  # queries near a boundary that are shown
NEAR_CHARS = 200
DAYS_MAX = 4000
# What a page shows of tasks in its picture, and of days in its picture and its table.
TASKS_DRAWN, DAYS_DRAWN, DAYS_LISTED = 8, 60, 366
OTHER_DAYS = "other days"
NO_DAY = "no day given"
# What a query is called whose body holds nothing to read: the last tier answers it.
UNREAD = "not read"


class Money(msgspec.Struct, frozen=True):
    """What some of the queries cost.

    counts          (tier,) queries
    cost, cost_last as routed, and if all went to the last tier
    expected_wrong  queries of the first tier that are expected to need more
    risked          what it costs to ask the last tier again for these
    """

    name: str
    counts: Sequence[int]
    queries: int
    cost: float
    cost_last: float
    expected_wrong: float
    risked: float

    @property
    def saved(self) -> float:
        return self.cost_last - self.cost


class Replay:
    """What a log came to. Filled by `add`, read by `summary` and `page`."""

    def __init__(self, policy: Policy, prices: Mapping[str, float]) -> None:
        """
        prices  of 1,000 queries, by tier (`Prices.of`)
        """
        self.policy = policy
        self.prices = dict(prices)
        self.rows = 0
        tiers = len(policy.names)
        self.by_tier = [0] * tiers
        self.by_task: dict[str, list[int]] = {}
        self.by_day: dict[str, list[int]] = {}
        self.needs = [0] * PARTS
        # Of what goes to the first tier: how many queries need a larger one, as the model expects.
        self.expected_by_task: dict[str, float] = {}
        self.expected_by_day: dict[str, float] = {}
        # Rows with outcomes, and of these the ones whose tier's outcome is known: a row tells of the
        # first tier and of the last, and of none between them.
        self.labelled = self.judged = 0
        self.quality = [0.0, 0.0, 0.0]  # of those: all to the first tier, as routed, all to the last
        self.wrong = 0
        self.refused = 0
        self.refusals = ""  # by line, in words
        self._near: list[tuple[float, int, str, str, float, str]] = []
        self._shown: set[int] = set()

    def add(self, path: Path, local: LocalRouter) -> None:
        """Route every row of one file. Raises `BadRows` before anything is computed."""
        summary = check(path, partly_labelled=True)
        self.refused, self.refusals = summary.refused, summary.told()

        def readable() -> Iterator[Row]:
            for row in read(path):
                if row.text:
                    yield row
                else:
                    self._count(UNREAD, row.day, len(self.by_tier) - 1)
                    self._judge(row, len(self.by_tier) - 1)

        bounds = self.policy.boundaries()
        for row, scores in local.scored(readable()):
            decision = decide(scores, self.policy)
            place = int(decision.label)
            self._count(decision.task, row.day, place, 0.0 if place else decision.need)
            self.needs[min(int(decision.need * PARTS), PARTS - 1)] += 1
            self._judge(row, place)
            if len(bounds) > 1:
                self._remember(decision.margin, row.text, decision.route, decision.need, decision.task)

    def _count(self, task: str, day: str | None, place: int, expected_wrong: float = 0.0) -> None:
        self.rows += 1
        self.by_tier[place] += 1
        self.by_task.setdefault(task, [0] * len(self.by_tier))[place] += 1
        day = day or NO_DAY
        if day not in self.by_day and len(self.by_day) >= DAYS_MAX:
            day = OTHER_DAYS
        self.by_day.setdefault(day, [0] * len(self.by_tier))[place] += 1
        self.expected_by_task[task] = self.expected_by_task.get(task, 0.0) + expected_wrong
        self.expected_by_day[day] = self.expected_by_day.get(day, 0.0) + expected_wrong

    def _judge(self, row: Row, place: int) -> None:
        """Count what a row's outcomes say of the tier that it goes to, if it has any."""
        if row.small is None or row.large is None:
            return
        self.labelled += 1
        self.wrong += place == 0 and row.large > row.small
        if place in (0, len(self.by_tier) - 1):
            self.judged += 1
            for n, quality in enumerate((row.small, row.large if place else row.small, row.large)):
                self.quality[n] += quality

    def _remember(self, margin: float, text: str, route: str, need: float, task: str) -> None:
        """Keep the queries nearest to a boundary, each once."""
        if len(self._near) == NEAR_MAX and margin >= -self._near[0][0]:
            return
        name = hash(text)
        if name in self._shown:
            return
        self._shown.add(name)
        heapq.heappush(self._near, (-margin, name, text[: NEAR_CHARS + 1], route, need, task))
        if len(self._near) > NEAR_MAX:
            self._shown.discard(heapq.heappop(self._near)[1])

    @property
    def near(self) -> list[tuple[str, str, float, str]]:
        """(text, route, need, task) of the queries nearest to a boundary, the nearest first."""
        return [
            (text, route, need, task)
            for _, _, text, route, need, task in sorted(self._near, key=lambda e: -e[0])
        ]

    def cost(self, counts: Sequence[int]) -> float:
        """What so many queries of each tier cost."""
        each = zip(self.policy.names, counts, strict=True)
        return sum(self.prices[name] * count for name, count in each) / 1000

    @property
    def total(self) -> "Money":
        return self._money("all", self.by_tier, sum(self.expected_by_task.values()))

    @property
    def tasks(self) -> list["Money"]:
        """By task, that with the most queries first."""
        found = [self._money(task, n, self.expected_by_task[task]) for task, n in self.by_task.items()]
        return sorted(found, key=lambda money: -money.queries)

    @property
    def days(self) -> list["Money"]:
        """By day, the first first; none where no row says when it was asked."""
        if set(self.by_day) == {NO_DAY}:
            return []
        return [self._money(day, n, self.expected_by_day[day]) for day, n in sorted(self.by_day.items())]

    def _money(self, name: str, counts: Sequence[int], expected_wrong: float) -> "Money":
        queries, last = sum(counts), self.prices[self.policy.names[-1]]
        risked = last * expected_wrong / 1000
        return Money(name, counts, queries, self.cost(counts), last * queries / 1000, expected_wrong, risked)

    def qualities(self) -> str:
        """The quality as routed, and of all to the first tier and to the last, in words."""
        if not self.judged:
            return "unknown"
        small, routed, large = (total / self.judged for total in self.quality)
        names = self.policy.names
        return f"{routed:.3f}; all to {names[0]} {small:.3f}, all to {names[-1]} {large:.3f}"

    def unknown(self) -> list[str]:
        """What is not known of the tiers between the first and the last, in words; nothing where there are none."""
        if len(self.policy.names) < 3:
            return []
        names, middle = self.policy.names, sum(self.by_tier[1:-1])
        told = f"not known: how good the answers of {', '.join(names[1:-1])} are; no risk is counted for these {middle:,} queries"
        if self.labelled:
            told += f", and the {self.labelled - self.judged:,} of them with outcomes stand in no quality"
        return [told]

    def summary(self) -> str:
        """The finding as text for a terminal."""
        names, total = self.policy.names, self.total
        lines = [f"{self.rows:,} queries", *([self.refusals] if self.refusals else [])]
        lines += [
            f"  to {name}: {count:,} ({_share(count, self.rows)}), {self.prices[name]:g} per 1,000"
            for name, count in zip(names, self.by_tier, strict=True)
        ]
        lines += [
            f"cost: {charts.amount(total.cost)}; all to {names[-1]}: {charts.amount(total.cost_last)}; "
            f"saved: {charts.amount(total.saved)} ({_share(total.saved, total.cost_last)})",
            f"risked: {total.expected_wrong:,.0f} queries ({_share(total.expected_wrong, self.rows)}) go to {names[0]} "
            f"and are expected to need more; asking {names[-1]} again for them: {charts.amount(total.risked)}",
        ]
        lines += self.unknown()
        if self.labelled:
            lines.append(
                f"by the outcomes of {self.judged:,} rows: quality {self.qualities()}; "
                f"wrongly to {names[0]}: {_share(self.wrong, self.judged)}"
            )
        lines += ["", _table(names, self.tasks, "task")]
        if self.days:
            lines += ["", _table(names, self.days, "day")]
        return "\n".join(lines)


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "–"


def _table(tiers: Sequence[str], groups: Sequence[Money], name: str) -> str:
    wide = max(len(name), *(len(group.name) for group in groups))
    heads = [
        "queries".rjust(9),
        *(f"to {tier}".rjust(12) for tier in tiers),
        *("saved".rjust(12), "risked".rjust(12)),
    ]
    lines = ["  ".join([name.ljust(wide), *heads])]
    for group in groups:
        cells = [
            _share(count, group.queries).rjust(len(head))
            for count, head in zip(group.counts, heads[1:], strict=False)
        ]
        money = f"{charts.amount(group.saved):>12}  {charts.amount(group.risked):>12}"
        lines.append("  ".join([group.name.ljust(wide), f"{group.queries:9,}", *cells, money]))
    return "\n".join(lines)


STYLE = """
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;
  color:light-dark(#1b1b1b,#eee);background:light-dark(#fff,#17191c)}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2.2rem}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(10rem,1fr));gap:1rem;padding:0}
.figures div{border:1px solid light-dark(#ccc,#444);border-radius:.5rem;padding:.8rem 1rem}
.figures b{display:block;font-size:1.5rem}
table{border-collapse:collapse;width:100%}th,td{text-align:right;white-space:nowrap;padding:.25rem .6rem;
  border-bottom:1px solid light-dark(#ddd,#3a3d42)}th:first-child,td:first-child{text-align:left}
td.text{text-align:left;white-space:normal;overflow-wrap:anywhere;min-width:14rem}svg{max-width:100%;height:auto}.wide{overflow-x:auto}
small{color:light-dark(#555,#aaa)}
"""


def page(replay: Replay, *, title: str, model: str, texts: bool) -> str:
    """The finding as one HTML file that stands alone.

    texts  whether the queries near a boundary are shown
    """
    names, total = replay.policy.names, replay.total
    figures = [
        (f"{replay.rows:,}", "queries"),
        (_share(replay.by_tier[0], replay.rows), f"would go to {names[0]}"),
        (f"{charts.amount(total.saved)}", f"saved of {charts.amount(total.cost_last)} ({_share(total.saved, total.cost_last)})"),
        (f"{total.expected_wrong:,.0f}", f"expected to need more than {names[0]} ({_share(total.expected_wrong, replay.rows)})"),
        (charts.amount(total.risked), f"risked: to ask {names[-1]} again for those"),
    ]  # fmt: skip
    if replay.refused:
        figures.append((f"{replay.refused:,}", "refused, as a gateway would, and not counted"))
    if replay.labelled:
        quality, _, others = replay.qualities().partition("; ")
        what = f"quality by the outcomes of {replay.judged:,} rows"
        figures.append((quality, f"{what}; {others}" if others else what))
    parts = ["".join(f"<div><b>{escape(value)}</b>{escape(what)}</div>" for value, what in figures)]
    boundaries = list(zip(replay.policy.boundaries()[:-1], names, strict=False))
    need = charts.histogram(
        replay.needs,
        title="How much the queries need a large model",
        x_name="need of a large model",
        boundaries=[(bound, f"{name} ends") for bound, name in boundaries],
    )
    tasks, days = replay.tasks, replay.days
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p>Every query goes to the cheapest tier that its need of a large model allows. Model {escape(model)}; "
        f"prices of 1,000 queries: {escape(', '.join(f'{name} {replay.prices[name]:g}' for name in names))}.</p>",
        f'<div class="figures">{parts[0]}</div>',
        *(f"<p>{escape(told[0].upper() + told[1:])}.</p>" for told in replay.unknown()),
        "<h2>How much the queries need a large model</h2>",
        need,
        "<h2>By task</h2>",
        charts.stacked(
            names, [(task.name.replace("_", " "), task.counts) for task in tasks[:TASKS_DRAWN]],
            title="Queries by task and tier", y_name="queries",
        ),
        *_of_all(TASKS_DRAWN, len(tasks), "The picture shows the {} tasks with the most queries, of {}."),
        _html_table(names, tasks, "task"),
    ]  # fmt: skip
    if days:
        body += [
            "<h2>By day</h2>",
            charts.stacked(
                names,
                [(day.name, day.counts) for day in days[-DAYS_DRAWN:]],
                title="Queries by day and tier",
                y_name="queries",
            ),
            *_of_all(DAYS_DRAWN, len(days), "The picture shows the last {} of {} days."),
            *_of_all(
                DAYS_LISTED, len(days), "The table shows the last {} of {} days; the terminal shows all."
            ),
            _html_table(names, days[-DAYS_LISTED:], "day"),
        ]
    if replay.near:
        body.append("<h2>Near the line</h2>")
        if texts:
            body += [
                "<p>Another threshold would send these elsewhere first. The text is your own log's.</p>",
                '<div class="wide"><table><tr><th>query</th><th>task</th><th>need</th><th>goes to</th></tr>',
                *(
                    f'<tr><td class="text">{_shortened(text)}</td><td>{escape(task)}</td><td>{near:.3f}</td>'
                    f"<td>{escape(route)}</td></tr>"
                    for text, route, near, task in replay.near
                ),
                "</table></div>",
            ]
        else:
            body.append(f"<p>{len(replay.near)} queries; their texts were left out.</p>")
    body.append(
        "<p><small>Expected figures come from the model's calibrated need, not from outcomes, unless they say so. "
        "This page holds all that it shows: it runs no script and asks nobody for anything.</small></p>"
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def _of_all(shown: int, count: int, words: str) -> list[str]:
    """Say that a part is shown, where it is not all."""
    return [f"<p><small>{words.format(shown, f'{count:,}')}</small></p>"] if count > shown else []


def _html_table(tiers: Sequence[str], groups: Sequence[Money], name: str) -> str:
    heads = ["queries", *(f"to {tier}" for tier in tiers), "cost", "saved", "risked"]
    lines = [
        f'<div class="wide"><table><tr><th>{name}</th>',
        *(f"<th>{escape(head)}</th>" for head in heads),
        "</tr>",
    ]
    for group in groups:
        shares = [_share(count, group.queries) for count in group.counts]
        money = [charts.amount(money) for money in (group.cost, group.saved, group.risked)]
        cells = "".join(f"<td>{cell}</td>" for cell in (f"{group.queries:,}", *shares, *money))
        lines.append(f"<tr><td>{escape(group.name)}</td>{cells}</tr>")
    return "".join([*lines, "</table></div>"])


def _shortened(text: str) -> str:
    return escape(text[:NEAR_CHARS]) + ("…" if len(text) > NEAR_CHARS else "")


class Prices(msgspec.Struct, frozen=True):
    """Prices of 1,000 queries as they were given on the command line."""

    small: float | None
    large: float | None
    named: dict[str, float]

    def of(self, policy: Policy) -> dict[str, float]:
        """By tier, cheapest first: the first has the small model's price, the last the large one's, unless they are named.

        Raises `ValueError` for a name that is no tier, a price that is none, and a tier without a price.
        """
        if unknown := [name for name in self.named if name not in policy.names]:
            raise ValueError(f"--price {unknown[0]}: not a tier; accepted: {', '.join(policy.names)}")
        found = dict(self.named)
        if self.small is not None:
            found.setdefault(policy.names[0], self.small)
        if self.large is not None:
            found.setdefault(policy.names[-1], self.large)
        for name, price in found.items():
            if not 0 <= price < float("inf"):
                raise ValueError(f"the price of {name} is {price}; accepted: a number, at least 0")
        if missing := [name for name in policy.names if name not in found]:
            options = {policy.names[0]: "--price-small", policy.names[-1]: "--price-large"}
            option = options.get(missing[0], f"--price {missing[0]}")
            raise ValueError(f"no price for {', '.join(missing)}; say {option}=…")
        return {name: found[name] for name in policy.names}
