"""Small edits of the statements near a guilty line, the likeliest first.

syntax.py    a source, what stands where in it, and an edit of it
changes.py   edits of any Python: names, operands, brackets, statements
gpt2.py      edits that know what GPT-2 has: its numbers, its activation, its norm, its mask, its order of axes

Nothing is known here of whether an edit is right: `patch` tries them.
"""

import re
from collections.abc import Callable, Iterator, Sequence

from gpt2_from_scratch.diagnose.edits import changes, gpt2
from gpt2_from_scratch.diagnose.edits.syntax import Code, Edit, Place

__all__ = ["Edit", "edits"]

# How many of a hundred bugs in one line each kind of edit mends, as counted on bugs in public styles of code. Of the
# edits of one kind the first are the likeliest.
_SHARES: dict[Callable[[Code, Place], Iterator[Edit]], float] = {
    gpt2.keywords: 6,
    gpt2.activations: 3,
    gpt2.numbers: 12,
    changes.names: 15,
    changes.exchanges: 5,
    changes.removals: 20,
    gpt2.operators: 5,
    changes.rotations: 7,
    gpt2.axes: 4,
    gpt2.reshapes: 2,
    gpt2.masks: 3,
    changes.slices: 3,
    gpt2.norms: 2,
    gpt2.blocks: 2,
    changes.additions: 5,
    gpt2.scales: 3,
    changes.statements: 4,
    changes.own_names: 1,
    changes.siblings: 4,
}
_FORGOTTEN = 4  # how much likelier an edit is that reads a name which nothing else reads
_BESIDE = 0.1  # likelihood of an edit of the line before or behind the guilty one, as a share of that of the same there


def edits(source: str, lines: Sequence[int], neighbours: bool = True) -> list[Edit]:
    """Small edits of the statements on these lines and of their neighbours, the likeliest first.

    Args:
        source: of a Python file.
        lines: numbers of lines, from 1, the guiltiest first.
        neighbours: whether the lines before and behind are edited, too.
    """
    code = Code(source)
    places: dict[Place, float] = {}
    for rank, line in enumerate(lines, 1):
        beside = (line - 1, line + 1) if neighbours else ()
        for weight, near in ((1 / rank, (line,)), (_BESIDE / rank, beside)):
            for place in (place for each in near for place in code.statements_on(each)):
                places[place] = max(weight, places.get(place, 0))
    likelihood: dict[Edit, float] = {}
    for place, weight in places.items():
        unread = re.compile("|".join(rf"(?<![\w.]){re.escape(name)}(?!\w)" for name in code.unread(place)) or r"(?!)")
        for kind, share in _SHARES.items():
            made = dict.fromkeys(each for each in kind(code, place) if each.text != source[each.start : each.end])
            for rank, edit in enumerate(made, 1):
                reads = unread.search(edit.text) and not unread.search(source[edit.start : edit.end])
                more = _FORGOTTEN if reads else 1
                likelihood[edit] = max(weight * share * more / rank, likelihood.get(edit, 0))
    return sorted(likelihood, key=lambda edit: -likelihood[edit])
