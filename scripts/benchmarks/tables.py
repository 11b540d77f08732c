"""Tables for people, and the README's."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple


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
