"""The kinds of evidence, by name, and what results have in common.

No torch is imported here: the command line needs the names before anything else.
"""

from typing import Literal, TypeAlias, get_args

from gpt2_from_scratch.errors import short_repr

PartName: TypeAlias = Literal["weights", "self-tests", "logits", "generation", "gradients", "where"]

# In the order in which the evidence is taken. Gradients are compared on request; all others unless skipped.
PARTS: tuple[PartName, ...] = get_args(PartName)

Status: TypeAlias = Literal["passed", "failed", "not checked"]


class Result:
    """Something that was found. ``str()`` says it; ``repr()`` says as much of it as fits into two lines."""

    def __repr__(self) -> str:
        return short_repr(type(self).__name__, str(self))
