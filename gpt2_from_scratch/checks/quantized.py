"""A model of another program whose weights are quantised, judged by what that quantisation does to GPT-2's logits.

A quantised weight is its original, rounded to a grid of a few numbers; the grid is a row's or a block's own. The noise
floor is then the distance between the reference and the reference with the quantised weights. It is far wider than that
of float32, so the report also has the divergence, the first choices and the loss. Weights that differ from the
checkpoint's by more than such rounding are other weights, and are judged as before.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from gpt2_from_scratch.checks.candidate import Candidate
from gpt2_from_scratch.checks.logits import Logits, distances
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


def judged_by_quantization(
    logits: Logits, candidate: Candidate, checkpoint: Checkpoint, reference: Reference
) -> Logits:
    """The same logits, judged by the noise floor of the candidate's quantised weights.

    They are returned as they are if they pass already, or if the candidate is no model of another program whose weights
    are the checkpoint's in a quantised form that this package reads.

    Args:
        logits: the verdict on the candidate.
        candidate: the model under test.
        checkpoint: what it should be.
        reference: the same, running.
    """
    file = candidate.loaded.file if candidate.loaded is not None and candidate.engine else None
    if file is None or not logits.differ or logits.tolerance is not None:
        return logits
    weights = _quantized_weights(file, checkpoint)
    if weights is None:
        return logits
    results, scale = [], 0.0
    for result in logits.results:
        usual = reference.logits(result.prompt.ids)
        scale = max(scale, float(usual.abs().max()))
        floors = distances(reference.logits_with(weights, result.prompt.ids), usual)
        results.append(replace(result, floors=floors))
    floor = max(result.floor for result in results)
    if not floor <= USABLE * scale:
        return logits
    return replace(logits, results=tuple(results), floor=floor, quantized=True, exact=None, inexact="")


def _quantized_weights(file: Path, checkpoint: Checkpoint) -> Mapping[str, Tensor] | None:
    """The weights in a candidate's own file; None unless they are the checkpoint's, quantised."""
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
