"""What only a terminal gets: progress on stderr; on stdout, colours and lines that fit."""

import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from gpt2_from_scratch.errors import printable

LABELLED = 14  # columns before a report's text: labels and source code stand to the left of nothing
_COLOURS = {"PASSED": "1;32", "FAILED": "1;31", "NO VERDICT": "1;33", "INTERRUPTED": "1;33"}  # ECMA-48, bold
_COLOURS |= {"+": "32", "-": "31"}  # what a patch adds and takes away


def for_terminal(report: str) -> str:
    """A report as stdout gets it: on a terminal with lines that fit its width, the verdict and the patch in colour.

    The environment variable ``NO_COLOR`` turns colours off.

    Args:
        report: of `Verdict.report`.
    """
    if not sys.stdout.isatty():
        return report
    rows, _, last = report.rpartition("\n")
    word, gap, _ = last.partition("  ")
    lines = fitted(rows, sys.stdout).splitlines()
    head, *more = fitted(last, sys.stdout, len(word) + len(gap)).splitlines()
    if "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb":
        lines = [_coloured(line, line[LABELLED:]) if not line[:LABELLED].strip() else line for line in lines]
        head = _coloured(head, word)
    return "\n".join([*lines, head, *more])


def _coloured(line: str, part: str) -> str:
    """A line of which a part is in colour: that of the whole part, or else of its first letter."""
    colour = _COLOURS.get(part) or _COLOURS.get(part[:1])
    return line if colour is None else line.replace(part, f"\x1b[{colour}m{part}\x1b[0m", 1)


def fitted(text: str, stream: TextIO, indent: int = LABELLED) -> str:
    """A text with lines that fit the terminal behind a stream; as it is where there is no terminal.

    Args:
        text: of any number of lines.
        stream: that it is printed to.
        indent: columns before the rest of a line that is broken, and before the text where labels stand.
    """
    if not stream.isatty():
        return text
    width = max(shutil.get_terminal_size().columns, 3 * LABELLED)
    return "\n".join(line for row in text.splitlines() for line in _broken(row, width, indent))


def _broken(row: str, width: int, indent: int) -> list[str]:
    """A line broken at spaces; the rest of one that is indented deeper is deeper still. What a patch changes stays."""
    text = row[indent:]
    if len(row) <= width or text.startswith(("+", "-", "@@")):
        return [row]
    deeper = len(text) - len(text.lstrip())
    hanging = " " * (indent + deeper + (2 if deeper else 0))
    rest = width - len(hanging)
    lines = textwrap.wrap(text.lstrip(), rest, break_long_words=False, break_on_hyphens=False)
    return [row[: indent + deeper] + lines[0], *(hanging + line for line in lines[1:])]


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """The running phase and the time so far on stderr, on a terminal only."""
    if not sys.stderr.isatty():
        yield lambda phase: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))  # the text is cut, not the time
    with Progress(*columns, console=Console(stderr=True), transient=True) as running:
        task = running.add_task("starting")
        yield lambda phase: running.update(task, description=escape(printable(phase, lines=False)))


@contextmanager
def bar() -> Iterator[Callable[[int, int], None] | None]:
    """A bar of bytes on stderr, on a terminal only."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("", total=None)
        yield lambda done, everything: bars.update(task, completed=done, total=everything)
