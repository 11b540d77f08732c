"""Prepares a model's tensors for a target, and writes them. Each is read, checked and rounded when it is written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from gpt2_from_scratch.checkpoint import StoredTensor
from gpt2_from_scratch.checkpoint.binary import pieces
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.converting.companions import Companions
from gpt2_from_scratch.converting.targets import Target
from gpt2_from_scratch.errors import CheckpointError, MappingError
from gpt2_from_scratch.loading import check_values
from gpt2_from_scratch.mapping import write_theirs

Progress: TypeAlias = Callable[[int, int], None]


@dataclass(frozen=True)
class Weights:
    """A model to write.

    Args:
        name: what it is called in errors.
        config: its configuration.
        read: canonical name -> tensor.
        dtype: of the written weights.
        bias: False leaves out the biases that the target's code may be built without, which must be zero.
    """

    name: str
    config: GPTConfig
    read: Callable[[str], Tensor]
    dtype: torch.dtype
    bias: bool = True


@dataclass
class Rounding:
    """The largest rounding so far, and the canonical tensor in which it happened."""

    largest: float = 0.0
    where: str = ""

    def note(self, name: str, before: Tensor, dtype: torch.dtype) -> None:
        """Compares a tensor with itself in another dtype."""
        if torch.promote_types(before.dtype, dtype) == dtype:
            return
        for piece in pieces(before):
            error = float((piece.double() - piece.to(dtype).double()).abs().max())
            if error > self.largest:
                self.largest, self.where = error, name

    def __str__(self) -> str:
        return f"rounded by up to {self.largest:.3g} ({self.where})" if self.where else "bit for bit"


@dataclass
class Outgoing:
    """A model's tensors under a target's names. Each is read, checked and rounded when it is written.

    Args:
        tensors: the target's name -> tensor; a tied head is its embedding.
        rounding: the largest rounding so far; final when all of them are written.
    """

    tensors: dict[str, StoredTensor]
    rounding: Rounding = field(default_factory=Rounding)


def prepare(weights: Weights, target: Target, progress: Progress | None = None) -> Outgoing:
    """Prepares a model for a target. No weight is read, except biases that are left out and must be zero.

    Args:
        weights: the model.
        target: its form.
        progress: called with the bytes written so far, and of all.

    Returns:
        The tensors, to be handed to `write`.

    Raises:
        MappingError: a bias is left out that is not zero, or the target always has biases.
    """
    links = target.layout.unroll(weights.config)
    reads = _reads(weights, target)
    shapes = {name: shape for link in links for name, shape in zip(link.theirs, link.shapes, strict=True)}
    canonical = {name: link.canonical or name for link in links for name in link.theirs}
    result = Outgoing({})
    written: dict[str, int] = {}  # name -> bytes

    def read(name: str, dtype: torch.dtype) -> Tensor:
        tensor = reads[name]()
        check_values(weights.name, canonical[name], tensor, dtype, "write")
        result.rounding.note(canonical[name], tensor, dtype)
        written[name] = result.tensors[name].nbytes
        if progress is not None:
            progress(sum(written.values()), sum(stored.nbytes for stored in set(result.tensors.values())))
        return tensor.to(dtype, memory_format=torch.contiguous_format)

    for name in reads:
        dtype = target.dtype_of(name, shapes[name], weights.dtype)
        result.tensors[name] = StoredTensor(shapes[name], dtype, partial(read, name, dtype))
    if weights.config.tie_word_embeddings:
        owners = {link.canonical: link.theirs[0] for link in links if link.tied_to is None}
        for link in links:
            if link.tied_to and link.identity and link.theirs[0] in result.tensors:
                result.tensors[link.theirs[0]] = result.tensors[owners[link.tied_to]]
    return result


def write(
    path: Path, outgoing: Outgoing, target: Target, config: GPTConfig, companions: Companions, overwrite: bool = True
) -> None:
    """Writes a prepared model, complete or not at all.

    Args:
        path: the file, or the directory; folders are made if needed.
        outgoing: from `prepare`.
        target: the same target.
        config: the model's.
        companions: the tokenizer and other files.
        overwrite: whether files of these names may exist.

    Raises:
        CheckpointError: it cannot be written there, or a value is not finite or too large for the dtype. The old files
            are as they were.
    """
    try:
        (path.parent if target.file else path).mkdir(parents=True, exist_ok=True)
        target.write(path, outgoing.tensors, config, companions, overwrite)
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}") from None


def _reads(weights: Weights, target: Target) -> Mapping[str, Callable[[], Tensor]]:
    if weights.bias:
        return write_theirs(target.layout, weights.config, weights.read)
    links = target.layout.unroll(weights.config)
    optional = {name for link in links if link.absent_means_zero for name in link.theirs}
    if not optional:
        raise MappingError(f"{target.name} has no form without biases", hint="nanogpt and llms_from_scratch do")
    return write_theirs(target.layout, weights.config, weights.read, lambda name: name not in optional)
