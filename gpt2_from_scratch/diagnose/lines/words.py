"""An accused line of the user's source, and the sentences about it: what stands there, and what GPT-2 has."""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from gpt2_from_scratch.anatomy.identity import Identity
from gpt2_from_scratch.diagnose.lines.explain import Explanation
from gpt2_from_scratch.diagnose.lines.places import Role
from gpt2_from_scratch.diagnose.lines.trial import Trial
from gpt2_from_scratch.errors import short_repr
from gpt2_from_scratch.recorder import Frame


@dataclass(frozen=True)
class Line:
    """One line of the user's source, and what is the matter with it.

    Args:
        file: path of the file.
        line: counted from 1.
        column: offset of the expression in the line, counted from 0.
        text: the source line.
        role: whether the wrong thing is made, passed on or used here; or that the patch edits the line.
        says: what stands there.
        expected: what GPT-2 has.
        likely: whether a rule about wiring chose this line among several that could be repaired.
    """

    file: str
    line: int
    column: int
    text: str
    role: Role
    says: str
    expected: str
    likely: bool = False

    def __repr__(self) -> str:
        return short_repr("Line", str(self))

    @classmethod
    def of(cls, frame: Frame, role: Role, says: str, expected: str = "") -> "Line":
        """The line that a frame executes."""
        return cls(frame.file, frame.line, frame.column, frame.text, role, says, expected)

    def __str__(self) -> str:
        """The place and its source; on a second row what is the matter, where that is known."""
        said = "; ".join(part for part in (self.says, self.expected) if part)
        return f"{Path(self.file).name}:{self.line}  {self.text}\n{said}".rstrip()


def words(explained: Explanation, trial: Trial) -> tuple[str, str]:
    """What stands there, and what GPT-2 has."""
    found, wanted = explained.found, explained.wanted
    if explained.kind in ("constant",):
        place = explained.place if isinstance(explained.place, str) else "the constant"
        has = "is not given" if found is None else f"is {_shown(found)}"
        return f"{place} {has}", f"GPT-2 has {_shown(wanted)}"
    if explained.kind == "mask" and explained.position is None:
        if isinstance(found, float):
            return f"later keys are hidden with {found:g}", "GPT-2 hides them with a very negative number"
        return "other scores are hidden here than those of later keys", "GPT-2 hides the keys after each query"
    if explained.kind == "mask":
        return f"the mask is {found}", "GPT-2 hides the keys after each query"
    if explained.kind == "factor":
        assert isinstance(found, Identity)
        if found.entry is not None and found.entry.place == "h.*.attn.masked":
            # The accused line may come before the mask. The factor is that of the scores either way.
            found = replace(found, entry=replace(found.entry, words="the attention scores"))
        return f"this is {found}", f"in GPT-2 the factor is {wanted:.6g}"
    if explained.kind == "order":
        return f"this is {found} in another order of axes", f"GPT-2 has {explained.becomes} here"
    if explained.kind in ("operand", "module", "exchange"):
        has = (
            str(found)
            if isinstance(found, Identity) and found.kind != "unknown"
            else "a value that GPT-2 does not have"
        )
        exists = isinstance(wanted, Identity) and any(
            label.entry is wanted.entry and label.kind == "entry" for label in trial.labels
        )
        never = "" if exists or not isinstance(wanted, Identity) else ", which are never computed"
        return f"this is {has}", f"GPT-2 has {wanted} here{never}"
    if explained.kind == "extra":
        return f"{found} is applied to {explained.becomes}", "GPT-2 goes on with it as it is"
    if explained.kind == "operation":
        return f"{found} is computed here", f"GPT-2 has {explained.becomes}, by {wanted}"
    return "no number of GPT-2's is made here", f"GPT-2 has {explained.becomes}"


def _shown(value: object) -> str:
    if isinstance(value, Tensor):
        return "a mask that hides later keys"
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value))
    if isinstance(value, slice):
        return ":".join("" if each is None else str(each) for each in (value.start, value.stop))
    return f"{value:.8g}" if isinstance(value, float) else str(value)
