"""Pictures of numbers, as data: where they differ, how much, and those of the accused line beside GPT-2's.

The templates make SVG of them. Drawings stretch to the width there is; text does not, and stands beside them.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import NamedTuple

from torch import Tensor

from gpt2_from_scratch.anatomy.identity import FILL
from gpt2_from_scratch.checks.logits import Logits
from gpt2_from_scratch.compare import SITE_RTOL, scientific, times
from gpt2_from_scratch.diagnose.divergence import Divergence, SiteResult
from gpt2_from_scratch.diagnose.lines import Values

_COLUMNS = 128  # at most; of a longer prompt, one column is the worst of several positions
_HEIGHT = (2.0, 6.0)  # pixels per site, at least and at most
_PICTURE = 900  # pixels that all sites together should take

_PER_DECADE = 2  # steps of the colour scale
_CALM, _HOT = 6, 9  # steps below and above SITE_RTOL: from 2e-8 to 0.6, float32's rounding to nothing in common

_SHADES = 6  # on each side of zero

_DECADES = 12  # of the distribution at most; what lies below is counted in the first bin


class Tick(NamedTuple):
    """A text at a place along an axis, from 0 % to 100 %."""

    at: str
    text: str


class KeyStep(NamedTuple):
    """A colour and the largest error that has it; `shown` if there is room to write it on a telephone."""

    colour: str
    text: str
    shown: bool


@dataclass(frozen=True)
class HeatRow:
    """One layer: its sites as lines of a picture, positions as columns.

    Args:
        name: of the layer.
        label: the picture in words.
        columns: of the picture.
        lines: of the picture.
        height: in pixels.
        paths: (colour, drawing) for each colour.
        hints: what a pointer that rests on a line is told.
        pointers: places of the first divergence, from the top.
        largest: the largest error, in words.
        worst: the name of the site that has it, in pieces between which a line may break.
    """

    name: str
    label: str
    columns: int
    lines: int
    height: str
    paths: tuple[tuple[str, str], ...]
    hints: tuple[str, ...]
    pointers: tuple[str, ...]
    largest: str
    worst: tuple[str, ...]


@dataclass(frozen=True)
class HeatMap:
    """A row per layer, in execution order, with a key of the colours and an axis of positions."""

    key: tuple[KeyStep, ...]
    ticks: tuple[Tick, ...]
    rows: tuple[HeatRow, ...]


def heat_map(divergence: Divergence) -> HeatMap:
    """Where in the model, and at which positions, the numbers differ.

    Args:
        divergence: with the sites to draw.
    """
    positions = max((len(site.positions) for site in divergence.sites), default=0) or 1
    height = min(max(_PICTURE / max(len(divergence.sites), 1), _HEIGHT[0]), _HEIGHT[1])
    layers = _layers(divergence.sites)
    rows = tuple(_layer(name, sites, positions, height, divergence.first) for name, sites in layers)
    return HeatMap(tuple(_key()), tuple(_axis(positions)), rows)


def _layers(sites: Sequence[SiteResult]) -> Iterator[tuple[str, list[SiteResult]]]:
    for number, (name, group) in enumerate(groupby(sites, _layer_of)):
        yield name or ("output" if number else "input"), list(group)


def _layer_of(site: SiteResult) -> str:
    match = re.match(r"h\.\d+", site.site)
    return match[0] if match else ""


def _layer(name: str, sites: list[SiteResult], positions: int, height: float, first: SiteResult | None) -> HeatRow:
    worst = max(sites, key=lambda site: _sortable(site.output))
    marked = [index for index, site in enumerate(sites) if site is first]
    shown = worst if first is None or not marked else first
    return HeatRow(
        name,
        f"{name}: largest relative error {scientific(worst.output)} at {worst.place}",
        _columns(positions),
        len(sites),
        f"{height * len(sites):.0f}",
        tuple(_paths(_colours(site, positions) for site in sites)),
        tuple(_hints(sites, positions)),
        tuple(_percent(index + 0.5, len(sites)) for index in marked),
        scientific(worst.output) if worst.called else "never ran",
        tuple(re.split(r"(?<=\.)", shown.name.removeprefix(f"{name}."))),
    )


def _paths(rows: Iterable[Iterable[str]]) -> Iterator[tuple[str, str]]:
    """One path per colour: a stroke for every run of columns that share it."""
    strokes: dict[str, list[str]] = {}
    for row, colours in enumerate(rows):
        column = 0
        for colour, run in groupby(colours):
            length = len(list(run))
            strokes.setdefault(colour, []).append(f"M{column} {row}.5h{length}")
            column += length
    yield from ((colour, "".join(parts)) for colour, parts in sorted(strokes.items()))


def _colours(site: SiteResult, positions: int) -> list[str]:
    """The colour of each column; what has no positions of its own is one band."""
    if not site.called:
        return ["none"] * _columns(positions)
    if len(site.positions) != positions:
        return [_colour(site.output)] * _columns(positions)
    step = _step(positions)
    parts = (site.positions[start : start + step] for start in range(0, positions, step))
    return [_colour(max(part, key=_sortable)) for part in parts]


def _colour(error: float) -> str:
    """The class of a relative error: identical, or so many steps below or above what a site may differ by."""
    if not math.isfinite(error):
        return "nan"
    if error == 0:
        return "c0"
    steps = math.ceil(_PER_DECADE * math.log10(error / SITE_RTOL))
    return f"h{min(steps, _HOT)}" if steps > 0 else f"c{max(steps + _CALM, 1)}"


def _hints(sites: Sequence[SiteResult], positions: int) -> Iterator[str]:
    """What a pointer that rests on a site is told."""
    for site in sites:
        text = str(site)
        if len(site.positions) == positions > 1:
            worst = max(range(positions), key=lambda position: _sortable(site.positions[position]))
            text += f", worst at position {worst}"
        yield text


def _axis(positions: int) -> Iterator[Tick]:
    every = next(step for step in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 1 << 30) if positions <= 8 * step)
    for position in range(0, positions, every):
        yield Tick(_percent(position + 0.5, positions), str(position))


def _key() -> Iterator[KeyStep]:
    """The colour scale, its limits written below the steps that they end."""
    calm = [(f"c{step}", _limit(step - _CALM)) for step in range(1, _CALM + 1)]
    hot = [(f"h{step}", _limit(step)) for step in range(1, _HOT + 1)]
    shown = {"c0", "c2", f"c{_CALM}", "h4", "nan"}  # more would not fit on a telephone
    for colour, text in [("c0", "identical"), *calm, *hot[:-1], (hot[-1][0], "more"), ("nan", "not finite")]:
        yield KeyStep(colour, text, colour in shown)


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.2f}%"


def _limit(steps: int) -> str:
    return scientific(SITE_RTOL * 10 ** (steps / _PER_DECADE))


def _columns(positions: int) -> int:
    return -(-positions // _step(positions))


def _step(positions: int) -> int:
    return -(-positions // _COLUMNS)


def _sortable(error: float) -> float:
    return error if math.isfinite(error) else math.inf


# ------------------------------------------------------------------------------------------------- distribution


class Bar(NamedTuple):
    """One bar: its place, its height in per cent of the highest, its colour."""

    x: str
    y: str
    height: str
    colour: str


@dataclass(frozen=True)
class Histogram:
    """How many tokens differ by how much: the candidate as bars, the reference's distance from itself as an outline.

    Args:
        label: the picture in words.
        columns: of the picture.
        bars: the candidate's.
        outline: the reference's, as a path.
        lines: (style, path) of the noise floor and of the threshold.
        names: of these two, above the picture.
        ticks: below it.
    """

    label: str
    columns: int
    bars: tuple[Bar, ...]
    outline: str
    lines: tuple[tuple[str, str], ...]
    names: tuple[Tick, ...]
    ticks: tuple[Tick, ...]


@dataclass(frozen=True)
class _Axis:
    """A logarithmic axis in columns: zero at its left and what is not finite at its right, each with a gap."""

    bottom: int  # decades
    top: int
    per_decade: int
    has_zero: bool
    has_infinity: bool

    @property
    def start(self) -> int:
        return 2 if self.has_zero else 0

    @property
    def columns(self) -> int:
        return self.start + (self.top - self.bottom) * self.per_decade + (2 if self.has_infinity else 0)

    def across(self, value: float) -> float:
        """Where a positive number stands, in columns."""
        return self.start + (math.log10(value) - self.bottom) * self.per_decade

    def column(self, value: float) -> int:
        """The column in which a number is counted."""
        if not math.isfinite(value):
            return self.columns - 1
        if value == 0:
            return 0
        last = self.start + (self.top - self.bottom) * self.per_decade - 1
        return min(max(math.floor(self.across(value)), self.start), last)

    def ticks(self) -> Iterator[Tick]:
        """Powers of ten, as many as fit, and the two ends."""
        every = -(-(self.top - self.bottom + 1) // 7)
        for decade in range(self.bottom, self.top + 1):
            if decade % every == 0:
                yield Tick(_percent(self.across(10.0**decade), self.columns), _power(decade))
        if self.has_zero:
            yield Tick(_percent(0.5, self.columns), "0")
        if self.has_infinity:
            yield Tick(_percent(self.columns - 0.5, self.columns), "∞")


def _axis_for(mine: Sequence[float], theirs: Sequence[float], threshold: float) -> _Axis:
    positive = [value for value in (*mine, *theirs) if 0 < value < math.inf] or [1.0]
    top = math.ceil(math.log10(max(*positive, threshold)) + 1e-9)
    bottom = max(min(math.floor(math.log10(min(positive))), -1), top - _DECADES)
    return _Axis(
        bottom, top, 10 if top - bottom <= 4 else 5, 0 in mine or 0 in theirs, not all(map(math.isfinite, mine))
    )


def histogram(logits: Logits) -> Histogram:
    """How many tokens differ by how much, in noise floors.

    Args:
        logits: with errors and noise floors per token.
    """
    mine = [value / logits.floor for result in logits.results for value in result.errors.flatten().tolist()]
    theirs = [value / logits.floor for result in logits.measured for value in result.floors.flatten().tolist()]
    axis = _axis_for(mine, theirs, logits.threshold)
    bars, outline = (_counts(map(axis.column, values), axis.columns) for values in (mine, theirs))
    highest = max(*bars, *outline)
    threshold = axis.across(logits.threshold)

    def height(count: int) -> float:
        return 100 * count / highest

    drawn = (
        Bar(f"{at + 0.06:.2f}", f"{100 - height(count):.2f}", f"{height(count):.2f}",
            "beyond" if at + 0.5 > threshold else "bar")
        for at, count in enumerate(bars)
        if count
    )  # fmt: skip
    return Histogram(
        f"Distribution of {len(mine)} tokens' largest differences: candidate {_span(mine)}, reference from itself "
        f"{_span(theirs)}, in noise floors",
        axis.columns,
        tuple(drawn),
        "M0 100" + "".join(f"V{100 - height(count):.2f}h1" for count in outline) + "V100",
        (("floor-line", f"M{axis.across(1.0):.3f} 0V100"), ("line", f"M{threshold:.3f} 0V100")),
        (
            Tick(_percent(axis.across(1.0), axis.columns), "noise floor"),
            Tick(_percent(threshold, axis.columns), f"{logits.threshold:g} x"),
        ),
        tuple(axis.ticks()),
    )


def _power(decade: int) -> str:
    """A power of ten as people write it where it is short, else with its exponent."""
    if -2 <= decade <= 3:
        return f"{10.0**decade:g}"
    return "10" + str(decade).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _counts(places: Iterable[int], columns: int) -> list[int]:
    counts = [0] * columns
    for place in places:
        counts[place] += 1
    return counts


def _span(values: Sequence[float]) -> str:
    return f"{times(min(values))} to {times(max(values))}"


# ------------------------------------------------------------------------------------------------- values of a line


@dataclass(frozen=True)
class Panel:
    """A matrix of numbers, one coloured cell for each.

    Args:
        name: what is written below it.
        label: the picture in words.
        columns: of the matrix.
        lines: of the matrix.
        paths: (colour, drawing) for each colour.
    """

    name: str
    label: str
    columns: int
    lines: int
    paths: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Panels:
    """The candidate's values, GPT-2's and how far they are apart.

    Args:
        panels: the three of them.
        scale: the number that has the strongest colour.
        hidden: whether a mask hides some of them.
    """

    panels: tuple[Panel, ...]
    scale: float
    hidden: bool


def panels(values: Values) -> Panels:
    """What a line gives beside what GPT-2 has there.

    Args:
        values: of an accused line.
    """
    seen = values.gpt2[values.gpt2.isfinite() & (values.gpt2 > FILL)].abs()
    scale = float(seen.max()) if seen.numel() else 0.0
    gaps = (values.yours - values.gpt2).masked_fill((values.yours <= FILL) & (values.gpt2 <= FILL), 0.0)
    rows, columns = values.gpt2.shape

    def panel(name: str, numbers: Tensor, colour: Callable[[float], str]) -> Panel:
        label = f"{name}: {rows} rows of {columns} numbers"
        return Panel(name, label, columns, rows, tuple(_paths(map(colour, row) for row in numbers.tolist())))

    return Panels(
        (
            panel("yours", values.yours, partial(_shade, scale=scale or 1.0)),
            panel("GPT-2", values.gpt2, partial(_shade, scale=scale or 1.0)),
            panel("difference", gaps.abs() / (scale or 1.0), _colour),
        ),
        scale,
        bool(((values.yours <= FILL) | (values.gpt2 <= FILL)).any()),
    )


def _shade(number: float, scale: float) -> str:
    """The class of a number: below zero, zero, above zero, or hidden by a mask."""
    if number <= FILL:
        return "none"
    if not math.isfinite(number):
        return "nan"
    steps = min(math.ceil(_SHADES * math.sqrt(min(abs(number) / scale, 1.0))), _SHADES)
    return f"{'c' if number < 0 or not steps else 'h'}{steps}"
