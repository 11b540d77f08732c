"""Prints tables, and curves as bars."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from benchmarks.measuring import Line


class Column(NamedTuple):
    """A title, the key of the value in each row, its format, and its unit."""

    title: str
    key: str
    spec: str
    times: float = 1.0


def print_columns(title: str, rows: Mapping[str, Mapping[str, float]], columns: Iterable[Column]) -> None:
    """One row per contender; a column that nobody has is left out, a value that somebody has not is a dash."""
    shown = [column for column in columns if any(column.key in row for row in rows.values())]
    cells = [
        [name, *(format(row[c.key] * c.times, c.spec) if c.key in row else "-" for c in shown)]
        for name, row in rows.items()
    ]
    table = [["", *(column.title for column in shown)], *cells]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    print(f"\n{title}")
    for row in table:
        name, *values = (
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        print("  " + "  ".join([name, *values]).rstrip(), flush=True)


WIDTH = 60  # characters of the longest bar


def print_curve(title: str, unit: str, points: Sequence[tuple[float, float]], times: float = 1.0) -> Line:
    """A bar for each ``(x, y)``, a mark where the straight line through them is, and that line."""
    line = Line.through(points)
    longest = max(*(y for _, y in points), *(line.at(x) for x, _ in points))
    print(f"\n{title}")
    for x, y in points:
        bar = ("#" * round(WIDTH * y / longest)).ljust(WIDTH + 1)
        mark = max(0, round(WIDTH * line.at(x) / longest))
        print(f"  {x:>13,.0f}  {y * times:>9.2f} {unit}  {bar[:mark]}|{bar[mark + 1 :]}".rstrip())
    print(
        f"  | is {line.intercept * times:.2f} {unit} + {line.slope * times * 1000:.3g} {unit} per thousand; "
        f"it explains {line.straight:.1%} of the variation",
        flush=True,
    )
    return line
