"""Small pictures of numbers: as SVG that stands alone, and as text for a terminal.

Nothing is drawn with more than the standard library, so that the tools that use them
work where only the gateway is installed.
"""

import math
from collections.abc import Sequence
from html import escape

import msgspec

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 14, 44
HALF_LETTER = 2.9  # of the small type under bars
LETTER = 7.2  # of the other type, the widest that is usual
NAME_CHARS_MAX = 30  # of a legend or a boundary; longer names are cut
ROW = 16
# As many as a policy may have tiers. The first three are Okabe and Ito's (2008); the others were chosen to lie
# far from all, also for people who do not see red from green, and to stand out on light and on dark.
COLORS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#3c00ff",
    "#5ac369",
    "#962d1e",
    "#2db4c3",
    "#3c5a69",
    "#5ab4ff",
    "#3c69f0",
)
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:currentColor}"
    ".axis{stroke:currentColor;stroke-opacity:.35;fill:none}.grid{stroke:currentColor;stroke-opacity:.12}"
)


def amount(value: float) -> str:
    """Write money with two decimals, and what is less than a tenth with two digits that tell something."""
    return f"{value:,.2f}" if abs(value) >= 0.1 or not value else f"{value:.2g}"


class Line(msgspec.Struct, frozen=True):
    """A curve: its points from left to right, and a band around it where one is known.

    low, high  bounds of the band, one for each point; both or neither
    """

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    dashed: bool = False


class Mark(msgspec.Struct, frozen=True):
    """A point that is pointed out."""

    x: float
    y: float
    text: str


def curve(
    lines: Sequence[Line],
    *,
    title: str,
    x_name: str,
    y_name: str,
    marks: Sequence[Mark] = (),
    x_percent: bool = True,
    y_percent: bool = True,
) -> str:
    """Draw curves as SVG, with a legend where there is more than one."""
    xs = [x for line in lines for x in line.xs]
    ys = [y for line in lines for y in (*line.ys, *line.low, *line.high)]
    x_low, x_high = _range(xs)
    y_low, y_high = _range(ys)

    def at(x: float, y: float) -> str:
        return f"{_x(x, x_low, x_high):.1f},{_y(y, y_low, y_high):.1f}"

    parts = [_axes(x_low, x_high, y_low, y_high, x_name, y_name, x_percent, y_percent)]
    for number, line in enumerate(lines):
        color = COLORS[number % len(COLORS)]
        if line.low:
            band = [at(x, y) for x, y in zip(line.xs, line.high, strict=True)]
            band += [at(x, y) for x, y in zip(reversed(line.xs), reversed(line.low), strict=True)]
            parts.append(f'<polygon points="{" ".join(band)}" fill="{color}" fill-opacity=".15"/>')
        points = " ".join(at(x, y) for x, y in zip(line.xs, line.ys, strict=True))
        dash = ' stroke-dasharray="5 4"' if line.dashed else ""
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"{dash}/>')
        if len(lines) > 1:
            top = HEIGHT - BOTTOM - 10 - 16 * (len(lines) - 1 - number)
            parts.append(
                f'<line x1="{WIDTH - RIGHT - 190}" x2="{WIDTH - RIGHT - 166}" y1="{top - 4}" y2="{top - 4}" '
                f'stroke="{color}" stroke-width="2"{dash}/>'
                f'<text x="{WIDTH - RIGHT - 160}" y="{top}">{escape(line.name)}</text>'
            )
    for mark in marks:
        x, y = _x(mark.x, x_low, x_high), _y(mark.y, y_low, y_high)
        end = "end" if x > WIDTH * 0.6 else "start"
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{COLORS[1]}"/>'
            f'<text x="{x + (-9 if end == "end" else 9):.1f}" y="{y + (16 if y < TOP + 20 else -8):.1f}" '
            f'text-anchor="{end}">{escape(mark.text)}</text>'
        )
    return _svg(title, parts)


def histogram(
    counts: Sequence[float], *, title: str, x_name: str, boundaries: Sequence[tuple[float, str]] = ()
) -> str:
    """Draw how often each part of 0 to 1 occurs, as SVG.

    counts      of equal parts of 0 to 1, from the left
    boundaries  where a line is to stand, and what it is called
    """
    total = sum(counts) or 1
    shares = [count / total for count in counts]
    top = _round_top(max(*shares, 1e-9))
    parts = [_axes(0, 1, 0, top, x_name, "share of queries", True, True)]
    for place, share in enumerate(shares):
        left, right = (_x(edge / len(shares), 0, 1) for edge in (place, place + 1))
        height = _y(0, 0, top) - _y(share, 0, top)
        if share:
            parts.append(
                f'<rect x="{left + 0.5:.1f}" y="{_y(share, 0, top):.1f}" width="{right - left - 1:.1f}" '
                f'height="{height:.1f}" fill="{COLORS[0]}"/>'
            )
    ends: list[float] = []  # of the last name in each row
    for x, name in sorted(boundaries):
        at = _x(x, 0, 1)
        wide = len(_cut(name)) * LETTER
        left = at + 6 if x <= 0.6 else at - 6 - wide
        row = next((row for row, end in enumerate(ends) if end < left), len(ends))
        ends[row : row + 1] = [left + wide]
        parts.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="{COLORS[1]}" '
            f'stroke-width="2" stroke-dasharray="4 3"/>'
            f'<text x="{at + (6 if x <= 0.6 else -6):.1f}" y="{TOP + 12 + ROW * row}" '
            f'text-anchor="{"start" if x <= 0.6 else "end"}">{escape(_cut(name))}</text>'
        )
    return _svg(title, parts)


def stacked(
    names: Sequence[str], columns: Sequence[tuple[str, Sequence[float]]], *, title: str, y_name: str
) -> str:
    """Draw bars, one for each column, cut into the named parts, as SVG.

    names    of the parts, from the bottom
    columns  what stands under a bar, and how much of each part there is
    """
    top = _round_top(max([sum(parts) for _, parts in columns], default=1) or 1)
    parts = [_axes(0, 1, 0, top, "", y_name, None, False)]
    width = (WIDTH - LEFT - RIGHT) / max(len(columns), 1)
    every = -(-len(columns) // 10)  # no more labels than can be read
    for place, (under, amounts) in enumerate(columns):
        base = 0.0
        for number, amount in enumerate(amounts):
            if amount:
                high, low = _y(base + amount, 0, top), _y(base, 0, top)
                parts.append(
                    f'<rect x="{LEFT + place * width + width * 0.1:.1f}" y="{high:.1f}" '
                    f'width="{width * 0.8:.1f}" height="{low - high:.1f}" '
                    f'fill="{COLORS[number % len(COLORS)]}"><title>{escape(under)}: {escape(names[number])} '
                    f"{amount:,.0f}</title></rect>"
                )
            base += amount
        if place % every == 0:
            words = under.split(" ", 1)  # on two lines: a task's name is longer than a bar is wide
            half = max(map(len, words)) * HALF_LETTER
            middle = f"{min(LEFT + (place + 0.5) * width, WIDTH - half):.1f}"
            lines = "".join(
                f'<tspan x="{middle}" y="{HEIGHT - BOTTOM + 15 + 11 * line}">{escape(word)}</tspan>'
                for line, word in enumerate(words)
            )
            parts.append(f'<text font-size="10" style="font-size:10px" text-anchor="middle">{lines}</text>')
    left, row = float(LEFT), 0
    for number, name in enumerate(names):
        wide = max(16 + len(_cut(name)) * LETTER, 96.0)
        if left + wide > WIDTH:
            left, row = float(LEFT), row + 1
        top = HEIGHT - 12 + ROW * row
        parts.append(
            f'<rect x="{left:.1f}" y="{top}" width="10" height="10" fill="{COLORS[number % len(COLORS)]}"/>'
            f'<text x="{left + 16:.1f}" y="{top + 9}">{escape(_cut(name))}</text>'
        )
        left += wide + 14
    return _svg(title, parts, HEIGHT + ROW * row)


def plotted(
    xs: Sequence[float],
    ys: Sequence[float],
    *,
    x_name: str,
    y_name: str,
    mark: tuple[float, float] | None = None,
    columns: int = 60,
    rows: int = 14,
) -> str:
    """Draw one curve as text; `mark` is shown as an X. In ASCII, for any terminal."""
    x_low, x_high = _range(xs)
    y_low, y_high = _range(ys)
    grid = [[" "] * columns for _ in range(rows)]

    def place(x: float, y: float) -> tuple[int, int]:
        column = round((x - x_low) / (x_high - x_low) * (columns - 1))
        row = round((y_high - y) / (y_high - y_low) * (rows - 1))
        return min(max(row, 0), rows - 1), min(max(column, 0), columns - 1)

    for x, y in zip(xs, ys, strict=True):
        row, column = place(x, y)
        grid[row][column] = "*"
    if mark:
        row, column = place(*mark)
        grid[row][column] = "X"
    lines = [y_name]
    for number, cells in enumerate(grid):
        value = y_high - (y_high - y_low) * number / (rows - 1)
        lines.append(f"{value:8.1%} |{''.join(cells)}".rstrip())
    lines.append(" " * 9 + "+" + "-" * columns)
    lines.append(f"{x_low:>10.0%}{x_name:^{columns - 6}}{x_high:>6.0%}")
    return "\n".join(lines)


def _axes(
    x_low: float,
    x_high: float,
    y_low: float,
    y_high: float,
    x_name: str,
    y_name: str,
    x_percent: bool | None,
    y_percent: bool | None,
) -> str:
    parts = [f'<path class="axis" d="M{LEFT},{TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>']
    for step in range(5):
        y = y_low + (y_high - y_low) * step / 4
        at = _y(y, y_low, y_high)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
            f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{_tick(y, y_high - y_low, y_percent)}</text>'
        )
        if x_percent is not None:
            x = x_low + (x_high - x_low) * step / 4
            parts.append(
                f'<text x="{_x(x, x_low, x_high):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">'
                f"{_tick(x, x_high - x_low, x_percent)}</text>"
            )
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_name)}</text>'
        f'<text transform="translate(12 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_name)}</text>"
    )
    return "".join(parts)


def _round_top(highest: float) -> float:
    """Return where an axis from 0 may end, so that its quarters are numbers of two digits."""
    unit = 10.0 ** math.floor(math.log10(highest))
    return next(
        step * unit for step in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 4.8, 6, 8, 10) if highest <= step * unit
    )


def _tick(value: float, reach: float, percent: bool | None) -> str:
    if percent:
        return f"{value:.{0 if reach > 0.08 else 1}%}"
    if reach >= 10_000 and value:  # more digits would not fit beside the axis
        return f"{value / 1e6:g}M" if reach >= 1e6 else f"{value / 1e3:g}k"
    return f"{value:,.{0 if reach > 8 else 2}f}"


def _cut(name: str) -> str:
    return name if len(name) <= NAME_CHARS_MAX else f"{name[: NAME_CHARS_MAX - 1]}…"


def _svg(title: str, parts: Sequence[str], height: int = HEIGHT) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(title)}"><title>{escape(title)}</title><style>{STYLE}</style>{"".join(parts)}</svg>'
    )


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    if high - low < 1e-9:  # a flat line stands in the middle
        return low - 0.05, high + 0.05
    return low, high


def _x(x: float, low: float, high: float) -> float:
    return LEFT + (x - low) / (high - low) * (WIDTH - LEFT - RIGHT)


def _y(y: float, low: float, high: float) -> float:
    return HEIGHT - BOTTOM - (y - low) / (high - low) * (HEIGHT - TOP - BOTTOM)
