"""What code bases do to GPT-2's tensors: a small closed set of operations, each of which is asked for its inverse."""

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from gpt2_from_scratch.config import GPTConfig

Tensors: TypeAlias = tuple[Tensor, ...]


class Operation(Protocol):
    """One reversible step from canonical tensors to theirs. Values in, values out: arguments are never written to."""

    def __call__(self, tensors: Tensors, config: GPTConfig) -> Tensors: ...

    @property
    def inverse(self) -> "Operation": ...


@dataclass(frozen=True)
class Transpose:
    """``[in, out]`` <-> ``[out, in]``; its own inverse."""

    def __call__(self, tensors: Tensors, config: GPTConfig) -> Tensors:
        return tuple(tensor.t() for tensor in tensors)

    @property
    def inverse(self) -> "Operation":
        return self


@dataclass(frozen=True)
class Split:
    """One tensor into equal parts along an axis: the fused q, k, v into three. Inverse: `Join`."""

    parts: int
    axis: int

    def __call__(self, tensors: Tensors, config: GPTConfig) -> Tensors:
        (tensor,) = tensors
        return tensor.tensor_split(self.parts, dim=self.axis)

    @property
    def inverse(self) -> "Operation":
        return Join(self.parts, self.axis)


@dataclass(frozen=True)
class Join:
    """Parts side by side along an axis. Inverse: `Split`."""

    parts: int
    axis: int

    def __call__(self, tensors: Tensors, config: GPTConfig) -> Tensors:
        return (torch.cat(tensors, dim=self.axis),)

    @property
    def inverse(self) -> "Operation":
        return Split(self.parts, self.axis)


@dataclass(frozen=True)
class SplitHeads:
    """Axis of width E into ``[H, d]``, heads first: ``[E, E] -> [H, E, d]`` (axis 1). Inverse: `MergeHeads`."""

    axis: int

    def __call__(self, tensors: Tensors, config: GPTConfig) -> Tensors:
        return tuple(_split_axis(t, self.axis, config.n_head).movedim(self.axis, 0) for t in tensors)

    @property
    def inverse(self) -> "Operation":
        return MergeHeads(self.axis)


def _split_axis(tensor: Tensor, axis: int, parts: int) -> Tensor:
    return tensor.reshape(*tensor.shape[:axis], parts, -1, *tensor.shape[axis + 1 :])


@dataclass(frozen=True)
class MergeHeads:
    """``[H, ..., d, ...]`` back to one axis of width E. Inverse: `SplitHeads`."""

    axis: int

    def __call__(self, tensors: Tensors, config: GPTConfig) -> Tensors:
        return tuple(t.movedim(0, self.axis).flatten(self.axis, self.axis + 1) for t in tensors)

    @property
    def inverse(self) -> "Operation":
        return SplitHeads(self.axis)


@dataclass(frozen=True)
class AddAxis:
    """A leading axis of length 1, as in OpenAI's ``[1, in, out]``. Inverse: `DropAxis`."""

    def __call__(self, tensors: Tensors, config: GPTConfig) -> Tensors:
        return tuple(tensor.unsqueeze(0) for tensor in tensors)

    @property
    def inverse(self) -> "Operation":
        return DropAxis()


@dataclass(frozen=True)
class DropAxis:
    """The leading axis of length 1 removed. Inverse: `AddAxis`."""

    def __call__(self, tensors: Tensors, config: GPTConfig) -> Tensors:
        return tuple(tensor.squeeze(0) for tensor in tensors)

    @property
    def inverse(self) -> "Operation":
        return AddAxis()


@dataclass(frozen=True)
class Stack:
    """One tensor per layer into one with a leading layer axis, as in llm.c. Inverse: `Unstack`."""

    def __call__(self, tensors: Tensors, config: GPTConfig) -> Tensors:
        return (torch.stack(tensors),)

    @property
    def inverse(self) -> "Operation":
        return Unstack()


@dataclass(frozen=True)
class Unstack:
    """A leading layer axis into one tensor per layer. Inverse: `Stack`."""

    def __call__(self, tensors: Tensors, config: GPTConfig) -> Tensors:
        (tensor,) = tensors
        return tensor.unbind(0)

    @property
    def inverse(self) -> "Operation":
        return Stack()


@dataclass(frozen=True)
class Zeros:
    """Out of nothing, a vector of zeros: a bias that GPT-2 does not have. Inverse: `Dropped`.

    Args:
        size: the field of the configuration that says how long it is.
    """

    size: str

    def __call__(self, tensors: Tensors, config: GPTConfig) -> Tensors:
        return (torch.zeros(1).expand(getattr(config, self.size)),)

    @property
    def inverse(self) -> "Operation":
        return Dropped(self.size)


@dataclass(frozen=True)
class Dropped:
    """A vector left out; that it is zero, the loader checks. Inverse: `Zeros`."""

    size: str

    def __call__(self, tensors: Tensors, config: GPTConfig) -> Tensors:
        return ()

    @property
    def inverse(self) -> "Operation":
        return Zeros(self.size)
