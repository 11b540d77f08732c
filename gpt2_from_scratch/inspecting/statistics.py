"""Statistics of a checkpoint's tensors, and warnings about them.

A file that loads may still hold wrong weights. NaN, a tensor of zeros, or two layers with the same bytes raise no error
when they are loaded. Every tensor is read once, in pieces.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gpt2_from_scratch.checkpoint.binary import pieces
from gpt2_from_scratch.loading import Checkpoint
from gpt2_from_scratch.mapping import listed
from gpt2_from_scratch.precision import dtype_name


@dataclass(frozen=True)
class Statistics:
    """Statistics of one canonical tensor. Minimum to std are of the finite values; None where there is none.

    Args:
        shape: canonical.
        dtype: as stored.
        minimum: smallest value.
        maximum: largest value.
        mean: average, computed in float64.
        std: standard deviation, of all values and not of a sample.
        zeros: how many are zero.
        nan: how many are NaN.
        infinite: how many are infinite.
    """

    shape: tuple[int, ...]
    dtype: str
    minimum: float | None
    maximum: float | None
    mean: float | None
    std: float | None
    zeros: int
    nan: int
    infinite: int


def statistics_of(tensor: Tensor) -> Statistics:
    """The statistics of a tensor, which is read once."""
    nan = infinite = zeros = count = 0
    low, high, total, squares = float("inf"), float("-inf"), 0.0, 0.0
    for piece in pieces(tensor):
        values = piece.double()
        finite = values[values.isfinite()]
        nan += int(values.isnan().sum())
        infinite += int(values.isinf().sum())
        zeros += values.numel() - int(values.count_nonzero())
        if finite.numel():
            count += finite.numel()
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
            total += float(finite.sum())
            squares += float(finite.square().sum())
    mean = total / count if count else None
    # In float64 the difference of squares keeps nine digits even where the mean is a thousand deviations from zero.
    std = max(0.0, squares / count - mean**2) ** 0.5 if mean is not None else None
    return Statistics(
        tuple(tensor.shape),
        dtype_name(tensor.dtype),
        minimum=low if count else None,
        maximum=high if count else None,
        mean=mean,
        std=std,
        zeros=zeros,
        nan=nan,
        infinite=infinite,
    )


def strange_values(numbers: Mapping[str, Statistics]) -> list[str]:
    """Warnings about NaN, infinities and tensors of zeros. Biases may be zero; weights and gains may not."""
    warnings = []
    for name, n in numbers.items():
        if n.nan or n.infinite:
            warnings.append(f"{name}: of {_elements(n):,} values, {n.nan:,} are NaN and {n.infinite:,} infinite")
    zero = [name for name, n in numbers.items() if n.zeros == _elements(n) and name.endswith(".weight")]
    if zero:
        warnings.append(f"all zero: {listed(zero)}")
    return warnings


def _elements(numbers: Statistics) -> int:
    return torch.Size(numbers.shape).numel()


def repeated_layers(checkpoint: Checkpoint, numbers: Mapping[str, Statistics]) -> list[str]:
    """Warnings about layers that equal another one bit for bit.

    Only layers with equal statistics are compared. Tensors of one value are not: two fresh layers may share these.
    """
    layers: dict[int, dict[str, Statistics]] = {}
    for name, each in numbers.items():
        if name.startswith("h."):
            _, number, part = name.split(".", 2)
            layers.setdefault(int(number), {})[part] = each
    warnings = []
    for layer, parts in layers.items():
        varied = [part for part, each in parts.items() if each.minimum != each.maximum]
        for other in range(layer):
            if varied and layers[other] == parts and all(_equal(checkpoint, layer, other, part) for part in varied):
                warnings.append(f"layer {layer} is bit for bit layer {other}: copied, or saved from a wrong loop")
                break
    return warnings


def _equal(checkpoint: Checkpoint, layer: int, other: int, part: str) -> bool:
    return torch.equal(checkpoint.read(f"h.{layer}.{part}"), checkpoint.read(f"h.{other}.{part}"))
