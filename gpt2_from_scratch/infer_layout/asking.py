"""Logits of somebody's module, in each of the ways in which `gpt2_from_scratch.asking` can ask for them."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeAlias

from torch import Tensor, nn

from gpt2_from_scratch import asking

Call: TypeAlias = Callable[[Tensor], Tensor]


class Failed(Exception):
    """The module ran once, and failed when it was asked again; in words."""


def ways(module: nn.Module) -> Iterator[tuple[str, Call]]:
    """Ways to call a module (see `gpt2_from_scratch.asking`), the usual one first.

    Args:
        module: takes int64 ids, in some form.

    Returns:
        Pairs of a description and a function of ids ``[1, T]`` that returns logits ``[1, n, V]``: of all T positions,
        or of the last one. A function raises what the module raises, or ValueError where there are no logits.
    """
    for way in asking.ways(module):
        yield way.about or "ids [batch, tokens]", partial(_logits, way)


def _logits(way: asking.Way, ids: Tensor) -> Tensor:
    output = way.ask(ids)
    found = way.logits(output, tuple(ids.shape))
    if found is None or not found.is_floating_point():
        raise ValueError(f"the module returned a {type(output).__name__} without logits")
    if found.dim() == 2:
        found = found[:, None]
    if found.dim() != 3 or found.shape[0] != ids.shape[0] or found.shape[1] not in (1, ids.shape[1]):
        raise ValueError(f"the module returned {list(found.shape)} for ids {list(ids.shape)}, which are no logits")
    return found
