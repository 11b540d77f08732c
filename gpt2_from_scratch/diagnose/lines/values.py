"""What a line gives and what GPT-2 has there, side by side: a part of both, small enough to be drawn."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gpt2_from_scratch.errors import short_repr
from gpt2_from_scratch.recorder import Frame

_ROWS, _COLUMNS = 32, 64  # of a picture that can be read on a telephone; 64 channels are a head of every official GPT-2


@dataclass(frozen=True)
class Values:
    """A part of a tensor, as it is and as it should be.

    Args:
        frame: the user's line that computes it; None where no line is known.
        shape: of the whole tensor.
        part: which part, as an index: ``[1, 0:13, 64:128]``.
        yours: float64 ``[rows, columns]``, what the candidate has.
        gpt2: the same part of GPT-2's.
    """

    frame: Frame | None
    shape: tuple[int, ...]
    part: str
    yours: Tensor
    gpt2: Tensor

    def __repr__(self) -> str:
        return short_repr("Values", f"{self.part} of {list(self.shape)}")


def values(frame: Frame | None, yours: Tensor, gpt2: Tensor) -> Values | None:
    """The part of two tensors around their largest difference.

    Args:
        frame: of the line that computes it.
        yours: of any shape.
        gpt2: of the same shape; of another one there is nothing to compare.

    Example:
        >>> wrong, right = torch.zeros(2, 3, 100), torch.zeros(2, 3, 100)
        >>> wrong[1, 2, 70] = 1
        >>> values(None, wrong, right).part
        '[1, 0:3, 64:100]'
    """
    if yours.shape != gpt2.shape or not yours.numel() or not yours.dim():
        return None
    gaps = (yours.double() - gpt2.double()).abs().nan_to_num(math.inf)
    worst = [int(at) for at in torch.unravel_index(gaps.argmax(), gaps.shape)]
    index: list[int | slice] = [*worst[:-2]]
    for at, size, most in zip(worst[-2:], yours.shape[-2:], (_ROWS, _COLUMNS)[-yours.dim() :], strict=True):
        start = at // most * most
        index.append(slice(start, min(start + most, size)))
    part = ", ".join(f"{each.start}:{each.stop}" if isinstance(each, slice) else str(each) for each in index)
    cut = [each.detach()[tuple(index)].double().cpu().clone() for each in (yours, gpt2)]
    rows = [each.unsqueeze(0) if each.dim() == 1 else each for each in cut]
    return Values(frame, tuple(yours.shape), f"[{part}]", rows[0], rows[1])
