"""Tensors in both directions: theirs to GPT-2's, and GPT-2's to theirs. A tensor is read when it is asked for."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import MappingError
from gpt2_from_scratch.mapping.layout import Layout
from gpt2_from_scratch.mapping.link import Link, Piece
from gpt2_from_scratch.mapping.matching import Matching
from gpt2_from_scratch.mapping.names import listed

Reader: TypeAlias = Callable[[str], Tensor]


def read_canonical(matching: Matching, config: GPTConfig, read: Reader) -> Mapping[str, Callable[[], Tensor]]:
    """From their tensors to GPT-2's: loading runs down the table.

    A tied head is left out, as it repeats the embedding; the caller compares the two.

    Args:
        matching: a truthy one.
        config: the model's.
        read: their name -> their tensor.

    Returns:
        Canonical name -> a function that reads and rearranges this tensor alone. Nothing is read before.
    """
    shapes = config.tensor_shapes()
    tensors: dict[str, Callable[[], Tensor]] = {}
    for link in matching.links:
        if link.canonical is None or (link.tied_to is not None and config.tie_word_embeddings):
            continue
        tensors[link.canonical] = partial(_canonical, link, read)
    for link in matching.zeros:
        if link.canonical is not None:
            tensors[link.canonical] = partial(torch.zeros, link.shape)
    return {name: tensors[name] for name in shapes}


def _canonical(link: Link, read: Reader) -> Tensor:
    return link.to_canonical([read(name) for name in link.theirs])


class _Source(NamedTuple):
    """Where a piece of theirs comes from: from this GPT-2 tensor, or, if it is None, from zeros."""

    link: Link
    piece: Piece
    canonical: str | None

    def values(self, read: Reader) -> Tensor:
        """The piece's values; `read` returns GPT-2's tensors."""
        if self.canonical is None:
            return torch.zeros(1).expand(self.link.shape)
        return self.link.piece(read(self.canonical), self.piece)


def write_theirs(
    layout: Layout, config: GPTConfig, read: Reader, wanted: Callable[[str], bool] | None = None
) -> Mapping[str, Callable[[], Tensor]]:
    """From GPT-2's tensors to theirs: saving runs the table backwards.

    Args:
        layout: the target.
        config: the model's.
        read: canonical name -> tensor.
        wanted: whether the target has a tensor of that name; None: all that the layout writes.

    Returns:
        Their name -> a function that reads and rearranges this tensor alone.

    Raises:
        MappingError: no row claims a tensor of GPT-2; or the target lacks a bias that is not zero here.
    """
    if unmapped := layout.unmapped(config):
        raise MappingError(
            f"the layout {layout.name!r} has no row for {listed(unmapped)}",
            hint="add the rows: these weights would be lost",
        )
    sources: dict[str, list[_Source]] = {}  # their name -> what is in this tensor
    lost: list[_Source] = []  # what the target has no tensor for: it must be zero
    for link in layout.unroll(config):
        repeats = link.tied_to is not None and config.tie_word_embeddings
        if wanted is None and repeats and not link.written_when_tied:
            continue
        canonical = link.tied_to if repeats else link.canonical
        if wanted is not None and link.pieces and not any(map(wanted, link.theirs)):
            if link.absent_means_zero and canonical:
                lost += [_Source(link, piece, canonical) for piece in link.pieces]
            continue
        if canonical:
            lost += [_Source(link, piece, canonical) for piece in link.absent if not _is_key_bias(link, piece)]
        for piece in link.pieces:
            sources.setdefault(piece.name, []).append(_Source(link, piece, canonical))
    _check_zero(lost, read)
    return {name: partial(_theirs, parts, read) for name, parts in sources.items()}


def _theirs(sources: Sequence[_Source], read: Reader) -> Tensor:
    """One tensor of theirs, from everything that is in it."""
    parts = [source.values(read) for source in sources]
    piece = sources[0].piece
    if not piece.index:
        return parts[0]
    whole = torch.empty(piece.shape, dtype=reduce(torch.promote_types, (part.dtype for part in parts)))
    for source, part in zip(sources, parts, strict=True):
        whole[source.piece.index] = part
    return whole


def _is_key_bias(link: Link, piece: Piece) -> bool:
    """Whether this is the key's bias: it adds the same to every score of a query, so softmax removes it."""
    return bool(link.canonical) and str(link.canonical).endswith(".attn.c_attn.bias") and piece.choice.get("p") == (1,)


def _check_zero(lost: Sequence[_Source], read: Reader) -> None:
    nonzero: dict[str, float] = {}
    for source in lost:
        largest, name = float(source.values(read).abs().max()), source.piece.name or str(source.canonical)
        if largest != 0:
            nonzero[name] = max(largest, nonzero.get(name, 0.0))
    if nonzero:
        raise MappingError(
            f"the target has no {listed(nonzero)}, but these biases are not zero in the checkpoint "
            f"(largest value {max(nonzero.values()):.3g})",
            hint="keep the biases: build the model with them (qkv_bias=True in the book, bias=True in nanoGPT), or "
            "convert without leaving them out",
        )
