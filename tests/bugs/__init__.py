"""Bugs that people write into a right GPT-2: edits of the styles in `tests.foreign`, and the lines that are guilty.

Each set is a module of this folder; `SETS` says what they are. ``python -m tests.bugs`` measures with them::

    model = bug.load(tensors, config, folder)   # the edited file is in the folder, so its lines can be named
    bug.lines                                   # the lines that a reviewer would point at
"""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from gpt2_from_scratch.config import GPTConfig
from tests.foreign import STYLES, Edit, Style, Tensors, edited, with_edits

# In the order in which they were written. All but the last were tuned on, once they had measured a diagnosis.
SETS = {
    "development": "drawn by chance from one list, by style and by kind",
    "more_styles": "of the styles that this list left out",
    "held_out": "the other third of that list",
    "fresh": "written without knowledge of the rules, as all that follow but `choices`",
    "unseen": "no bug of an earlier set is repeated, here and in what follows but the last",
    "untouched": "the same",
    "reserve": "the same",
    "later": "the same",
    "choices": "Python chooses wrongly; by whoever wrote the rules",
    "strangers_a": "students' bugs, and refactorings; written at one time with the next two",
    "strangers_b": "bugs of people who port from another language or framework",
    "unread": "of all these kinds; the bugs that come to mind first were taken by then",
    "natural": "what comes to mind first, whether or not it is in another set",
}


@dataclass(frozen=True)
class Bug:
    """One or several mistakes in one file.

    Args:
        style: name of the style whose file is edited.
        name: of the bug; unique in its style.
        kind: what part of GPT-2 is wrong.
        why: one sentence.
        edits: text of the file and what stands in its place.
        guilty: lines of the edited file, each by a text that occurs there once and ends in that line; without them the
            guilty lines are those that the edits changed or added.
        parts: names of the bugs that this one combines.
        short: prompts as long as the context crash; shorter ones do not.
    """

    style: str
    name: str
    kind: str
    why: str
    edits: tuple[Edit, ...]
    guilty: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    short: bool = False

    @property
    def id(self) -> str:
        return f"{self.style}/{self.name}"

    @property
    def source(self) -> str:
        """The edited file."""
        return with_edits(STYLES[self.style], self.edits)

    @property
    def lines(self) -> tuple[int, ...]:
        """Numbers of the guilty lines in the edited file, from 1."""
        source = self.source
        if not self.guilty:
            return tuple(sorted(changed(STYLES[self.style], source.splitlines())))
        found = []
        for text in self.guilty:
            assert source.count(text) == 1, f"{self.id}: {source.count(text)} times in the edited file: {text!r}"
            found.append(source[: source.index(text) + len(text)].count("\n") + 1)
        return tuple(sorted(found))

    def write(self, folder: Path) -> Path:
        """Writes the edited file into the folder, under the style's name."""
        return edited(STYLES[self.style], self.edits, folder)

    def load(self, tensors: Tensors, config: GPTConfig, folder: Path) -> Any:
        """The model of the edited file with these weights; see `Style.load`."""
        return STYLES[self.style].load(tensors, config, self.write(folder))


def combination(singles: Iterable[Bug], style: str, *names: str) -> Bug:
    """Several single bugs of one style in one file; the guilty lines are those that their edits changed."""
    known = {(bug.style, bug.name): bug for bug in singles}
    parts = [known[style, name] for name in names]
    assert not any(part.guilty for part in parts), f"{style}: {names}: a part names its guilty lines itself"
    return Bug(
        style,
        "_and_".join(names),
        "several",
        " ".join(part.why for part in parts),
        tuple(edit for part in parts for edit in part.edits),
        parts=names,
        short=any(part.short for part in parts),
    )


def changed(style: Style, source: Iterable[str]) -> set[int]:
    """Lines of an edited source that are not in the style's file."""
    return _changed(style.path.read_text().splitlines(), list(source))


def _changed(before: list[str], lines: list[str]) -> set[int]:
    matcher = SequenceMatcher(None, before, lines, autojunk=False)
    return {
        number + 1
        for tag, _, _, start, stop in matcher.get_opcodes()
        if tag != "equal"
        for number in range(start, stop)
        if lines[number].strip()
    }


def lines_of_part(combined: Bug, part: Bug) -> tuple[int, ...]:
    """Guilty lines of one part of a combination, as numbers in the combination's file."""
    source = combined.source
    if part.guilty and all(source.count(text) == 1 for text in part.guilty):
        return tuple(sorted(source[: source.index(text) + len(text)].count("\n") + 1 for text in part.guilty))
    without = Bug(
        combined.style, "rest", "several", "", tuple(each for each in combined.edits if each not in part.edits)
    )
    return tuple(sorted(_changed(without.source.splitlines(), source.splitlines())))
