"""Progress on stderr, where a terminal is."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """The name of the running phase on stderr, on a terminal only."""
    if not sys.stderr.isatty():
        yield lambda phase: None
        return
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:
        yield lambda phase: status.update(phase)


@contextmanager
def bar() -> Iterator[Callable[[int, int], None] | None]:
    """A bar of bytes on stderr, on a terminal only."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    with Progress(BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        task = bars.add_task("")
        yield lambda done, everything: bars.update(task, completed=done, total=everything)
