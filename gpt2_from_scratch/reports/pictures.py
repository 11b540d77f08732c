"""Two pictures: where in the model and in the prompt the numbers differ, and how the differences are distributed.

The one idea: the drawing stretches, the text does not. Each picture is an SVG without text, stretched to the width
there is; what is written stands beside it in HTML, at its own size, and is the picture's text alternative.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from gpt2_from_scratch.compare import SITE_RTOL
from gpt2_from_scratch.reports.markup import BREAK, Markup, joined, scientific, tag, times
from gpt2_from_scratch.verifier import Divergence, Logits, SiteResult

_COLUMNS = 128  # at most; of a longer prompt, one column is the worst of several positions
_HEIGHT = (2.0, 6.0)  # pixels per site, at least and at most
_PICTURE = 900  # pixels that all sites together should take

_PER_DECADE = 2  # steps of the colour scale
_CALM, _HOT = 6, 9  # steps below and above SITE_RTOL: from 2e-8 to 0.6, float32's rounding to nothing in common

_DECADES = 12  # of the distribution at most; what lies below is counted in the first bin


def heat_map(divergence: Divergence) -> Markup:
    """A table with a row per layer, in execution order: its sites as lines of a picture, positions as columns.

    Args:
        divergence: with the sites to draw.
    """
    positions = max((len(site.positions) for site in divergence.sites), default=0) or 1
    height = min(max(_PICTURE / max(len(divergence.sites), 1), _HEIGHT[0]), _HEIGHT[1])
    head = tag(
        "tr",
        tag("th", "Layer", scope="col"),
        tag("th", tag("span", "Position", class_="sr"), _axis(positions), scope="col", class_="axis"),
        tag("th", "Largest", scope="col", class_="n"),
    )
    rows = [_layer(name, sites, positions, height, divergence.first) for name, sites in _layers(divergence.sites)]
    table = tag("table", tag("thead", head), tag("tbody", *rows), class_="heat")
    return joined(_key(), table)


def _layers(sites: Sequence[SiteResult]) -> Iterator[tuple[str, list[SiteResult]]]:
    for number, (name, group) in enumerate(groupby(sites, _layer_of)):
        yield name or ("output" if number else "input"), list(group)


def _layer_of(site: SiteResult) -> str:
    match = re.match(r"h\.\d+", site.site)
    return match[0] if match else ""


def _layer(name: str, sites: list[SiteResult], positions: int, height: float, first: SiteResult | None) -> Markup:
    worst = max(sites, key=lambda site: _sortable(site.output))
    marked = [index for index, site in enumerate(sites) if site is first]
    inside = [_paths(sites, positions), *_hints(sites, positions)]
    pointers = [tag("span", "▸", class_="pointer", style=f"top:{_percent(i + 0.5, len(sites))}") for i in marked]
    label = f"{name}: largest relative error {scientific(worst.output)} at {worst.name}"
    picture = tag(
        "svg",
        *inside,
        viewBox=f"0 0 {_columns(positions)} {len(sites)}",
        preserveAspectRatio="none",
        role="img",
        aria_label=label,
        style=f"height:{height * len(sites):.0f}px",
    )
    shown = worst if first is None or not marked else first
    short = joined(*(joined(piece, BREAK) for piece in re.split(r"(?<=\.)", shown.name.removeprefix(f"{name}."))))
    note = tag("small", "first: " if marked else None, short, class_="first" if marked else None)
    largest = joined(scientific(worst.output) if worst.called else "never ran", note)
    cells = tag("th", name, scope="row"), tag("td", tag("div", picture, *pointers)), tag("td", largest, class_="n")
    return tag("tr", *cells, class_="marked" if marked else None)


def _paths(sites: Sequence[SiteResult], positions: int) -> Markup:
    """One path per colour: a stroke for every run of columns that share it."""
    strokes: dict[str, list[str]] = {}
    for row, site in enumerate(sites):
        column = 0
        for colour, run in groupby(_colours(site, positions)):
            length = len(list(run))
            strokes.setdefault(colour, []).append(f"M{column} {row}.5h{length}")
            column += length
    return joined(*(tag("path", d="".join(parts), class_=colour) for colour, parts in sorted(strokes.items())))


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


def _hints(sites: Sequence[SiteResult], positions: int) -> Iterator[Markup]:
    """What a pointer that rests on a site is told."""
    for row, site in enumerate(sites):
        errors = f"in {scientific(site.input)}, out {scientific(site.output)}" if site.called else "never ran"
        if len(site.positions) == positions > 1:
            worst = max(range(positions), key=lambda position: _sortable(site.positions[position]))
            errors += f", worst at position {worst}"
        hint = tag("title", f"{site.name}: {errors}")
        yield tag("rect", hint, y=row, width=_columns(positions), height=1, class_="hint")


def _axis(positions: int) -> Markup:
    every = next(step for step in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 1 << 30) if positions <= 8 * step)
    marks = [
        tag("span", position, style=f"left:{_percent(position + 0.5, positions)}")
        for position in range(0, positions, every)
    ]
    return tag("span", *marks, class_="ticks")


def _key() -> Markup:
    """The colour scale, its limits written below the steps that they end."""
    calm = [(f"c{step}", _limit(step - _CALM)) for step in range(1, _CALM + 1)]
    hot = [(f"h{step}", _limit(step)) for step in range(1, _HOT + 1)]
    steps = [("c0", "identical"), *calm, *hot[:-1], (hot[-1][0], "more"), ("nan", "not finite")]
    shown = {"c0", "c2", f"c{_CALM}", "h4", "nan"}  # more would not fit on a telephone
    items = [
        tag("li", tag("span", text, class_=None if colour in shown else "sr"), class_=colour) for colour, text in steps
    ]
    return tag("ol", *items, class_="key", aria_label="Colours, by relative error up to")


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


def histogram(logits: Logits) -> Markup:
    """How many tokens differ by how much: the candidate as bars, the reference's distance from itself as a line.

    Args:
        logits: with errors and floors per token.
    """
    mine = [value / logits.floor for result in logits.results for value in result.errors.flatten().tolist()]
    theirs = [value / logits.floor for result in logits.results for value in result.floors.flatten().tolist()]
    positive = [value for value in (*mine, *theirs) if 0 < value < math.inf] or [1.0]
    top = math.ceil(math.log10(max(*positive, logits.line)) + 1e-9)
    bottom = max(min(math.floor(math.log10(min(positive))), -1), top - _DECADES)
    per_decade = 10 if top - bottom <= 4 else 5
    bins = (top - bottom) * per_decade
    zero = 2 if 0 in mine or 0 in theirs else 0  # columns at the left for what is identical, and a gap
    odd = 2 if not all(map(math.isfinite, mine)) else 0  # and at the right for what is not finite
    columns = zero + bins + odd

    def place(value: float) -> int:
        if not math.isfinite(value):
            return columns - 1
        if value == 0:
            return 0
        return zero + min(max(math.floor((math.log10(value) - bottom) * per_decade), 0), bins - 1)

    def across(value: float) -> float:
        return zero + (math.log10(value) - bottom) * per_decade

    bars, outline = _counts(map(place, mine), columns), _counts(map(place, theirs), columns)
    highest = max(*bars, *outline)
    beyond = across(logits.line)
    drawn = [
        tag("rect", x=f"{index + 0.06:.2f}", y=f"{100 * (1 - count / highest):.2f}", width="0.88",
            height=f"{100 * count / highest:.2f}", class_="beyond" if index + 0.5 > beyond else "bar")
        for index, count in enumerate(bars)
        if count
    ]  # fmt: skip
    steps = "".join(f"V{100 * (1 - count / highest):.2f}h1" for count in outline)
    lines = [
        tag("path", d=f"M{across(value):.3f} 0V100", class_=kind)
        for value, kind in ((1.0, "floor-line"), (logits.line, "line"))
    ]
    picture = tag(
        "svg",
        *drawn,
        tag("path", d=f"M0 100{steps}V100", class_="floor"),
        *lines,
        viewBox=f"0 0 {columns} 100",
        preserveAspectRatio="none",
        role="img",
        aria_label=f"Distribution of {len(mine)} tokens' largest differences: candidate {_span(mine)}, reference from "
        f"itself {_span(theirs)}, in floors",
    )
    ticks = [(across(10.0**decade), _power(decade)) for decade in range(bottom, top + 1)]
    sparse = -(-len(ticks) // 7)
    ticks = [tick for index, tick in enumerate(ticks) if (index + bottom) % sparse == 0]
    ticks += [(0.5, "0")] * bool(zero) + [(columns - 0.5, "∞")] * bool(odd)
    marks = [tag("span", text, style=f"left:{_percent(at, columns)}") for at, text in ticks]
    names = [
        tag("span", "floor", style=f"left:{_percent(across(1.0), columns)}", class_="left"),
        tag("span", f"{logits.line:g} ×", style=f"left:{_percent(beyond, columns)}"),
    ]
    return tag(
        "div",
        tag("div", *names, class_="names", aria_hidden="true"),
        picture,
        tag("div", *marks, class_="ticks", aria_hidden="true"),
        class_="distribution",
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
