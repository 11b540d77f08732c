"""Einops-style patterns: how the axes of GPT-2's tensor become the axes of somebody else's.

``"i (p o) -> p o i"`` reads: the second axis is ``p`` groups of ``o``; move ``p`` to the front and ``i`` to the end. A
space separates axes, parentheses group several into one, and ``1`` is an axis of length one. The same pattern read from
right to left is the inverse. An empty pattern changes nothing.

`einops` is not used, because it lacks three things that are needed here: the shape of the result without a tensor, a
choice along an axis (the key's third of query, key and value), and an import that does not load torch's compiler.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from torch import Tensor

from gpt2_from_scratch.errors import MappingError

Shape: TypeAlias = tuple[int, ...]
Group: TypeAlias = tuple[str, ...]  # the axes that a tensor's axis is made of, outermost first
Choice: TypeAlias = Mapping[str, tuple[int, ...]]  # axis -> which of its elements, in which order

_SIDE = re.compile(r"(?:\s*(?:\(\s*[a-z]+(?:\s+[a-z]+)*\s*\)|[a-z]+|1)(?=[\s(]|$))*\s*")


@dataclass(frozen=True)
class Pattern:
    """A parsed pattern; see `parse`.

    Args:
        left: the axes of the canonical tensor.
        right: the axes of theirs: the same names in another order or grouping.
    """

    left: tuple[Group, ...]
    right: tuple[Group, ...]

    @property
    def axes(self) -> Group:
        """The names on the left, outermost first."""
        return tuple(axis for group in self.left for axis in group)

    def solve(self, shape: Shape, known: Mapping[str, int]) -> dict[str, int] | None:
        """The length of every axis, given the shape of the tensor on the left.

        Args:
            shape: of the tensor on the left.
            known: lengths that are known, such as the number of heads.

        Returns:
            Axis -> length; None if the shape does not fit the pattern, or if lengths cannot be told from it.

        Example:
            >>> parse("i (p o) -> p o i").solve((4, 12), {"p": 3})
            {'p': 3, 'i': 4, 'o': 4}
        """
        if len(shape) != len(self.left):
            return None
        sizes = {axis: size for axis, size in known.items() if axis in self.axes}
        for group, length in sorted(zip(self.left, shape, strict=True), key=lambda each: len(each[0])):
            unknown = [axis for axis in group if axis not in sizes]
            rest = math.prod(sizes[axis] for axis in group if axis in sizes)
            if len(unknown) > 1 or rest == 0 or length % rest or (not unknown and length != rest):
                return None
            sizes.update(dict.fromkeys(unknown, length // rest))
        return sizes

    def shape(self, sizes: Mapping[str, int]) -> Shape:
        """The shape of the tensor on the right, given the length of every axis."""
        return tuple(math.prod(sizes[axis] for axis in group) for group in self.right)

    def forward(self, tensor: Tensor, sizes: Mapping[str, int], choice: Choice) -> Tensor:
        """From left to right; a view of `tensor` wherever the target's axes can be strides into it.

        Args:
            tensor: the one on the left.
            sizes: the length of every axis.
            choice: take only these elements of an axis.
        """
        if self.left == self.right and not choice:
            return tensor
        split = tensor.reshape([sizes[axis] for axis in self.axes])
        if choice:
            split = split[self._key(choice)]
        targets = [axis for group in self.right for axis in group]
        found = dict(zip(self.axes, split.shape, strict=True))
        return split.permute([self.axes.index(axis) for axis in targets]).reshape(self.shape(found))

    def backward(self, tensor: Tensor, sizes: Mapping[str, int]) -> Tensor:
        """From right to left: `forward` of the pattern with its sides exchanged."""
        return Pattern(self.right, self.left).forward(tensor, sizes, {})

    def place(self, tensor: Tensor, sizes: Mapping[str, int], choice: Choice, into: Tensor) -> None:
        """Writes what `forward` took with this choice back to where it was taken from.

        Args:
            tensor: the one on the right.
            sizes: the length of every axis of `into`.
            choice: the elements that `tensor` holds.
            into: a contiguous tensor on the left.
        """
        chosen = {axis: len(choice.get(axis, range(sizes[axis]))) for axis in self.axes}
        alone = Pattern(self.right, tuple((axis,) for axis in self.axes))
        into.view([sizes[axis] for axis in self.axes])[self._key(choice)] = alone.forward(tensor, chosen, {})

    def _key(self, choice: Choice) -> tuple[slice | list[int], ...]:
        """An index for a tensor with one axis per name. Slices where possible: they make views, lists make copies."""

        def of(axis: str) -> slice | list[int]:
            if axis not in choice:
                return slice(None)
            first, *others = choice[axis]
            in_order = others == list(range(first + 1, first + 1 + len(others)))
            return slice(first, first + 1 + len(others)) if in_order else [first, *others]

        return tuple(of(axis) for axis in self.axes)


@lru_cache(maxsize=256)  # of text: the built-in layouts have a dozen patterns
def parse(text: str) -> Pattern:
    """Reads a pattern such as ``"e (p h d) -> p h e d"``.

    Raises:
        MappingError: not a pattern, or an axis that is not exactly once on each side.
    """
    sides = text.split("->")
    if len(sides) != 2 or not all(_SIDE.fullmatch(side) for side in sides):
        raise MappingError(
            f"{text!r} is no pattern", hint='a pattern looks like "i (p o) -> (p o) i": lower-case words, one arrow'
        )
    left, right = (_groups(side) for side in sides)
    one, other = (sorted(axis for group in side for axis in group) for side in (left, right))
    if one != other or len(set(one)) < len(one):
        odd = sorted({axis for axis in (*one, *other) if one.count(axis) != 1 or other.count(axis) != 1})
        raise MappingError(f"the pattern {text!r} must have {', '.join(odd)} exactly once on each side")
    return Pattern(left, right)


def _groups(side: str) -> tuple[Group, ...]:
    tokens = re.findall(r"\([^)]*\)|[a-z]+|1", side)
    return tuple(() if token == "1" else tuple(re.findall("[a-z]+", token)) for token in tokens)
