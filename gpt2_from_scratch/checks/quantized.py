"""A model of another program whose weights are quantised, compared with GPT-2 that has the same quantised weights.

A quantised weight is its original, rounded to a grid of a few numbers; the grid is a row's or a block's own. Programs
that compute with such weights round what they multiply by them, too, to eight bits. So the noise floor is what rounding
the weights does to the reference's logits: as in the candidate's file, but to no fewer than eight bits. It is far wider
than that of float32. The report also has what the quantisation costs: the divergence from the checkpoint's own weights,
the first choices and the loss. Weights that differ from the checkpoint's by more than such rounding are other weights,
and are judged as before.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from gpt2_from_scratch.checks.candidate import Candidate
from gpt2_from_scratch.checks.logits import Logits, distances, measure
from gpt2_from_scratch.compare import USABLE
from gpt2_from_scratch.errors import CheckpointError
from gpt2_from_scratch.loading import Checkpoint, open_checkpoint
from gpt2_from_scratch.reference import Reference

# Values that share a grid in every quantised type: llama.cpp's have blocks of 16 or 32 with a scale of their own,
# CTranslate2's a scale for a row.
_BLOCK = 16
# Steps of the grid that a value may be off. Rounding to nearest is half a step off; llama.cpp's Q4_0 cuts the largest
# value of a block by up to one step. The rest is the rounding of the scale itself, in float16.
_STEPS = 1.1
_GREATEST = 127  # of eight bits with a sign


def judged_by_quantization(
    logits: Logits, candidate: Candidate, weights: Mapping[str, Tensor], checkpoint: Checkpoint, reference: Reference
) -> Logits:
    """The same logits, compared with the reference that has the candidate's quantised weights.

    They are returned as they are if there is no usable noise floor.

    Args:
        logits: compared with the reference as it is.
        candidate: the model under test.
        weights: of `quantized_weights`.
        checkpoint: what it should be.
        reference: the same, running.
    """
    prompts = [result.prompt.ids for result in logits.results]
    usual = [reference.logits(ids) for ids in prompts]

    def moved_by(numbers: Mapping[str, Tensor]) -> list[Tensor]:
        with reference.with_weights(numbers):
            return [distances(reference.logits(ids), expected) for ids, expected in zip(prompts, usual, strict=True)]

    floors = min(moved_by(weights), moved_by(_in_eight_bits(weights, checkpoint)), key=_largest)
    floor = _largest(floors)
    if not floor <= USABLE * _largest([expected.abs() for expected in usual]):
        return logits
    with reference.with_weights(weights):
        compared = [
            measure(result.prompt, candidate.logits(result.prompt.ids), reference.logits(result.prompt.ids))
            for result in logits.results
        ]
    results = tuple(
        replace(result, comparison=other.comparison, errors=other.errors, worst=other.worst, floors=floors_there)
        for result, other, floors_there in zip(logits.results, compared, floors, strict=True)
    )
    return replace(logits, results=results, floor=floor, quantized=True, exact=None, inexact="")


def _largest(tensors: Iterable[Tensor]) -> float:
    return max(float(each.max()) for each in tensors)


def _in_eight_bits(weights: Mapping[str, Tensor], checkpoint: Checkpoint) -> Mapping[str, Tensor]:
    """The checkpoint's weights, with eight bits for those that the candidate has quantised: a scale for each output."""
    rounded = {}
    for name, read in checkpoint.tensors.items():
        original = read().float()
        rounded[name] = original
        if not torch.equal(original, weights[name]):
            inputs = 1 if name.startswith(("wte", "wpe", "lm_head")) else 0
            step = original.abs().amax(inputs, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / _GREATEST
            rounded[name] = (original / step).round() * step
    return rounded


def quantized_weights(candidate: Candidate, checkpoint: Checkpoint) -> Mapping[str, Tensor] | None:
    """The float32 weights in the file of a model of another program, by canonical name.

    None unless they are the checkpoint's, quantised, in a form that this package reads.

    Args:
        candidate: the model under test.
        checkpoint: what it should be.
    """
    file = candidate.loaded.file if candidate.loaded is not None else None
    if file is None:
        return None
    try:
        stored = open_checkpoint(file)
    except CheckpointError:
        return None
    if stored.tensors.keys() != checkpoint.tensors.keys():
        return None
    weights, different = {}, 0
    for name, read in checkpoint.tensors.items():
        original, rounded = read().float(), stored.tensors[name]().float()
        if original.shape != rounded.shape:
            return None
        if not torch.equal(original, rounded):
            different += 1
            if not is_quantization_of(rounded, original):
                return None
        weights[name] = rounded
    return weights if different else None


def is_quantization_of(rounded: Tensor, original: Tensor) -> bool:
    """Whether each block of values is a block of the original, rounded to a grid.

    Args:
        rounded: a matrix, as it was read from a quantised file.
        original: what it should be a rounding of, in the same shape.

    Example:
        >>> weight = torch.arange(64.0).sin().view(2, 32)
        >>> is_quantization_of((weight * 7).round() / 7, weight)
        True
        >>> is_quantization_of(weight * 1.01, weight)
        False
    """
    if rounded.dim() != 2:
        return False
    return any(_on_grid(*pair) for pair in ((rounded, original), (rounded.t(), original.t())))


def _on_grid(rounded: Tensor, original: Tensor) -> bool:
    """The same along the rows."""
    size = _BLOCK if rounded.size(1) % _BLOCK == 0 else rounded.size(1)
    blocks = rounded.reshape(-1, size).sort(-1).values
    gaps = blocks.diff(dim=-1)
    # Equal values come out of the same numbers, so they are equal to the last bit.
    steps = gaps.masked_fill(gaps <= 0, torch.inf).amin(-1) if size > 1 else gaps.new_full((len(blocks),), torch.inf)
    several = torch.isfinite(steps)
    if not several.any():
        return False
    steps[~several] = steps[several].median()  # a block of equal values shows no step of its own
    apart = (rounded - original).abs().reshape(-1, size).amax(-1)
    return bool((apart <= _STEPS * steps).all())
