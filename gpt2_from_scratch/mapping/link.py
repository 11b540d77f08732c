"""`Link`: one GPT-2 tensor, the tensors of somebody's code that hold it, and the way in both directions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce

import torch
from torch import Tensor

from gpt2_from_scratch.mapping.names import Index
from gpt2_from_scratch.mapping.pattern import Choice, Pattern, Shape


@dataclass(frozen=True)
class Piece:
    """The part of a GPT-2 tensor that one of their tensors holds.

    Args:
        name: of their tensor.
        shape: of their whole tensor.
        index: where in their tensor the piece lies; empty where it is the whole tensor.
        choice: which part and which head of the GPT-2 tensor it is; empty where it is all of it.
    """

    name: str
    shape: Shape
    index: Index = ()
    choice: Choice = field(default_factory=dict)


@dataclass(frozen=True)
class Link:
    """One parameter of a row, for one layer: names on both sides, and the pattern between them.

    Args:
        canonical: GPT-2's tensor; None for a vector of zeros that GPT-2 lacks.
        shape: of GPT-2's tensor.
        pieces: their tensors, which together hold it.
        absent: pieces that their code does not have: they are zero.
        pattern: from GPT-2's tensor to a piece; None where the two are the same.
        sizes: the length of every axis of the pattern.
        absent_means_zero: theirs may lack this parameter; see `rows.Parameter`.
        tied_to: the canonical tensor that this one repeats in a model with a tied head.
        written_when_tied: whether a file in this layout holds the tied weight a second time.
    """

    canonical: str | None
    shape: Shape
    pieces: tuple[Piece, ...]
    absent: tuple[Piece, ...] = ()
    pattern: Pattern | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    absent_means_zero: bool = False
    tied_to: str | None = None
    written_when_tied: bool = True

    @property
    def theirs(self) -> tuple[str, ...]:
        """The names of their tensors, one for each piece."""
        return tuple(piece.name for piece in self.pieces)

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The shapes of their tensors, one for each piece."""
        return tuple(piece.shape for piece in self.pieces)

    @property
    def identity(self) -> bool:
        """Whether their tensor is GPT-2's, unchanged."""
        return self.pattern is None and not any(piece.index for piece in self.pieces)

    def piece(self, tensor: Tensor, piece: Piece) -> Tensor:
        """The part of GPT-2's tensor that a piece of theirs holds: a view where strides allow."""
        return tensor if self.pattern is None else self.pattern.forward(tensor, self.sizes, piece.choice)

    def to_canonical(self, tensors: Sequence[Tensor]) -> Tensor:
        """GPT-2's tensor from theirs: the inverse of `piece`.

        Args:
            tensors: their whole tensors, one for each piece.

        Returns:
            GPT-2's tensor, ``[in, out]``: a view where one piece holds all of it, else assembled; absent pieces zero.
        """
        pieces = [
            tensor[piece.index] if piece.index else tensor for tensor, piece in zip(tensors, self.pieces, strict=True)
        ]
        if len(pieces) == 1 and not self.pieces[0].choice:
            return pieces[0] if self.pattern is None else self.pattern.backward(pieces[0], self.sizes)
        if not pieces:
            return torch.zeros(self.shape)
        assert self.pattern is not None  # several pieces, or a choice, need axes to choose from
        dtype = reduce(torch.promote_types, (piece.dtype for piece in pieces))
        result = torch.zeros(self.shape, dtype=dtype, device=pieces[0].device)
        for tensor, piece in zip(pieces, self.pieces, strict=True):
            self.pattern.place(tensor, self.sizes, piece.choice, into=result)
        return result

    def without_absent(self, tensor: Tensor) -> Tensor:
        """GPT-2's tensor with zeros in place of the pieces that theirs lacks: all that theirs can hold of it."""
        if not self.absent or self.pattern is None:
            return tensor
        result = tensor.clone(memory_format=torch.contiguous_format)
        for piece in self.absent:
            self.pattern.place(torch.zeros_like(self.piece(tensor, piece)), self.sizes, piece.choice, into=result)
        return result
