"""Finds a small edit of somebody's source that makes the model right, near the lines that are known to be guilty.

Every edit is tried: the edited source is built, filled with the checkpoint's weights and asked for logits. An edit is
accepted only when these are GPT-2's in float64, so a wrong patch cannot be found. What cannot be repaired by one or two
small edits is not repaired. `edits` says which ones are tried; `repair` tries them on somebody's model.
"""

import ast
import difflib
import heapq
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt2_from_scratch.diagnose.clock import Clock
from gpt2_from_scratch.diagnose.edits import edits

# The source of an edited file -> the largest difference of its logits from GPT-2's, as a share of the largest logit;
# infinite where it does not run.
Judge = Callable[[str], float]

# Right code is 1e-14 to 1e-12 from GPT-2 in float64, the mildest bug (an epsilon of 1e-6 in one norm) above 1e-8.
RIGHT = 1e-10
_SEEDS = 24  # edits that are made a second time: those that left the smallest differences


@dataclass(frozen=True)
class Patch:
    """An edit that was tried and makes the logits GPT-2's. Truthy; ``str()`` is a unified diff.

    Args:
        path: the file.
        before: its source.
        after: the edited source.
        lines: numbers of the lines that change or go, in the old source; none where lines are only added.
        error: what is left between its logits and GPT-2's, as a share of the largest logit.
        trials: how many edits were tried until this one.
        proof: on what it was tried, for people.
    """

    path: Path
    before: str
    after: str
    lines: tuple[int, ...]
    error: float
    trials: int
    proof: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return True

    def __str__(self) -> str:
        lines = difflib.unified_diff(
            self.before.splitlines(keepends=True),
            self.after.splitlines(keepends=True),
            f"a/{self.path.name}",
            f"b/{self.path.name}",
            n=1,
        )
        return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


def find_patch(
    path: Path,
    lines: Sequence[int],
    judge: Judge,
    confirm: Callable[[str], tuple[str, ...]] = lambda source: ("the prompts of the search",),
    *,
    clock: Clock,
) -> Patch | None:
    """The first edit at these lines, or at their neighbours, that the judge accepts and that is confirmed.

    Args:
        path: the user's file, which is read and never written.
        lines: numbers of the guilty lines, the guiltiest first.
        judge: runs an edited source on a few short prompts; it is asked hundreds of times.
        confirm: runs an accepted source on more (every length, another size); what it was proven on, nothing if it was
            refused there.
        clock: the time that may be taken; where it is over in the end, not all edits were tried.

    Returns:
        None if no edit was accepted, or the time was over.
    """
    before = path.read_text(encoding="utf-8")
    errors: dict[str, float] = {before: math.inf}
    once = (edit.apply(before) for edit in edits(before, lines))
    for after in itertools.chain(once, _twice(errors, lines)):
        if clock.over:
            return None
        if after in errors or not _parses(after):
            continue
        error = errors[after] = judge(after)
        if error <= RIGHT and (proof := confirm(after)):
            return Patch(path, before, after, _changed(before, after), error, len(errors) - 1, proof)
    return None


def _twice(errors: dict[str, float], lines: Sequence[int]) -> Iterator[str]:
    """A second edit of the sources that one edit brought nearest to GPT-2, the likeliest second edits of all first."""
    seeds = [source for source in heapq.nsmallest(_SEEDS, errors, key=errors.__getitem__) if errors[source] < math.inf]
    rows = [(edit.apply(seed) for edit in edits(seed, lines, neighbours=False)) for seed in seeds]
    for row in itertools.zip_longest(*rows):
        yield from (after for after in row if after is not None)


def _changed(before: str, after: str) -> tuple[int, ...]:
    """Numbers of the old lines that are not in the new source."""
    matcher = difflib.SequenceMatcher(None, before.splitlines(), after.splitlines(), autojunk=False)
    edits = [(start, stop) for tag, start, stop, *_ in matcher.get_opcodes() if tag != "equal"]
    return tuple(number + 1 for edit in edits for number in range(*edit))


def _parses(source: str) -> bool:
    try:
        ast.parse(source)
    except (SyntaxError, ValueError):
        return False
    return True
