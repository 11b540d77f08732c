"""`Container`: what opening a weights file of any format gives, named tensors that are read on demand.

Opening a file reads its table of contents and checks that it is consistent. Tensor data are read by
`StoredTensor.read` alone, so a checkpoint can be inspected, matched and refused before any of it is read.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class StoredTensor:
    """One tensor as a container holds it.

    Args:
        shape: as stored.
        dtype: as stored.
        read: produces the tensor, on the CPU. Mapped containers return a view of the file (private: writing to it
            changes this process's copy only, never the file).
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    @property
    def nbytes(self) -> int:
        """Bytes of its values."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Container:
    """Named tensors of one checkpoint, and what the container itself says about the model.

    Args:
        form: the name of its file format, for people.
        files: all files that were opened.
        tensors: name -> tensor, in the container's order.
        layout: the name of the layout that the format always has, or None where the tensors' names decide.
        config: what the container says of the model, in `config.json`'s fields, or None.
        notes: remarks for `gpt2 inspect`.
        padded: tensors whose last rows may be no tokens' but padding, which the form does not tell.
    """

    form: str
    files: tuple[Path, ...]
    tensors: Mapping[str, StoredTensor]
    layout: str | None = None
    config: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    padded: tuple[str, ...] = ()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape."""
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    def renamed(self, names: Mapping[str, str]) -> "Container":
        """The same tensors under new names (old -> new); names not listed stay."""
        tensors = {names.get(name, name): tensor for name, tensor in self.tensors.items()}
        return replace(self, tensors=tensors, padded=tuple(names.get(name, name) for name in self.padded))

    def without_padding(self, vocabulary: int) -> "Container":
        """The same tensors, without the rows behind the vocabulary of those that may be padded.

        Args:
            vocabulary: how many rows are tokens'.
        """
        may_be = {name: self.tensors[name] for name in self.padded if name in self.tensors}
        longer = {name: tensor for name, tensor in may_be.items() if tensor.shape[0] > vocabulary}
        cut = {name: _first_rows(tensor, vocabulary) for name, tensor in longer.items()}
        notes = (
            f"{name}: {tensor.shape[0] - vocabulary:,} rows that pad the vocabulary are left out"
            for name, tensor in longer.items()
        )
        return replace(self, tensors={**self.tensors, **cut}, notes=(*self.notes, *notes))


def _first_rows(tensor: StoredTensor, rows: int) -> StoredTensor:
    return StoredTensor((rows, *tensor.shape[1:]), tensor.dtype, lambda: tensor.read()[:rows])
