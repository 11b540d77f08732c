"""The kinds of evidence, by name, and what results have in common.

No torch is imported here: the command line needs the names before anything else.
"""

from typing import Literal, TypeAlias, get_args

from gpt2_from_scratch.errors import printable

PartName: TypeAlias = Literal["weights", "self-tests", "logits", "generation", "gradients", "where"]

# In the order in which the evidence is taken. Gradients are compared on request; all others unless skipped.
PARTS: tuple[PartName, ...] = get_args(PartName)

Status: TypeAlias = Literal["passed", "failed", "not checked"]

_REPR = 199  # characters: a line or two in a notebook, and less than 200


class Result:
    """Something that was found. ``str()`` says it; ``repr()`` says as much of it as fits into two lines."""

    def __repr__(self) -> str:
        return short_repr(type(self).__name__, str(self))


def short_repr(kind: str, text: str) -> str:
    """A repr of fewer than 200 characters, on one line.

    Args:
        kind: of object.
        text: what to say of it.

    Example:
        >>> short_repr("Weights", "149 of 149 tensors equal")
        '<Weights: 149 of 149 tensors equal>'
    """
    line = f"<{kind}: {printable(text.partition(chr(10))[0], lines=False, most=10 * _REPR)}"
    return f"{line[: _REPR - 4]}...>" if len(line) >= _REPR else f"{line}>"
