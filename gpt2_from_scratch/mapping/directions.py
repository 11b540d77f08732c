"""The two directions: their tensors to GPT-2's, and GPT-2's to theirs. Tensors are read when they are asked for."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import MappingError
from gpt2_from_scratch.mapping.accounting import Accounting
from gpt2_from_scratch.mapping.layout import Layout
from gpt2_from_scratch.mapping.operations import Tensors
from gpt2_from_scratch.mapping.wording import listed

Reader: TypeAlias = Callable[[str], Tensor]


def read_canonical(accounting: Accounting, config: GPTConfig, read: Reader) -> Mapping[str, Callable[[], Tensor]]:
    """Runs down the table: canonical name -> a function that produces the tensor when called.

    Nothing is read before its function is called, so a caller may stream. A tied head is left out where it repeats the
    embedding; the caller compares the two.

    Args:
        accounting: a truthy one.
        config: the model's.
        read: their name -> their tensor.
    """
    shapes = config.tensor_shapes()
    tensors: dict[str, Callable[[], Tensor]] = {}
    for link in accounting.links:
        if link.tied_to is not None and config.tie_word_embeddings:
            continue
        for index, name in enumerate(link.canonical):
            tensors[name] = partial(_run, link.to_canonical, link.theirs, read, config, index)
    for link in accounting.zeros:
        for name in link.canonical:
            tensors[name] = partial(torch.zeros, shapes[name])
    return {name: tensors[name] for name in shapes}


def write_theirs(
    layout: Layout, config: GPTConfig, read: Reader, wanted: Callable[[str], bool] | None = None
) -> Mapping[str, Callable[[], Tensor]]:
    """Runs the table backwards: their name -> a function that produces the tensor when called.

    Args:
        layout: the target.
        config: the model's.
        read: canonical name -> tensor.
        wanted: whether the target has a tensor of that name; None: all that the layout writes.

    Raises:
        MappingError: the target lacks a bias (``bias=False``) that is not zero here.
    """
    tensors: dict[str, Callable[[], Tensor]] = {}
    nonzero: dict[str, float] = {}
    for link in layout.unroll(config):
        repeats = link.tied_to is not None and config.tie_word_embeddings
        if wanted is None and repeats and not link.written_when_tied:
            continue
        canonical = (link.tied_to,) if repeats and link.tied_to else link.canonical
        if wanted is not None and not any(wanted(name) for name in link.theirs):
            if link.absent_means_zero:
                largest = max(float(read(name).abs().max()) for name in canonical)
                if largest != 0:
                    nonzero |= dict.fromkeys(link.theirs, largest)
            continue
        for index, name in enumerate(link.theirs):
            tensors[name] = partial(_run, link.to_theirs, canonical, read, config, index)
    if nonzero:
        raise MappingError(
            f"the target has no {listed(nonzero)}, but these biases are not zero in the checkpoint "
            f"(largest value {max(nonzero.values()):.3g})",
            hint="build the model with biases (qkv_bias=True in the book, bias=True in nanoGPT)",
        )
    return tensors


def _run(
    direction: Callable[[Tensors, GPTConfig], Tensors],
    names: Iterable[str],
    read: Reader,
    config: GPTConfig,
    index: int,
) -> Tensor:
    return direction(tuple(read(name) for name in names), config)[index]
