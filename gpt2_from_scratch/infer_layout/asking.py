"""How to get logits out of somebody's module: which arguments it takes, and where the logits are in what it returns."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from torch import Tensor, nn

Call: TypeAlias = Callable[[Tensor], Tensor]


class Failed(Exception):
    """The module ran once, and failed when it was asked again; in words."""


def ways(module: nn.Module) -> Iterator[tuple[str, Call]]:
    """Ways to call a module, the usual one first.

    Args:
        module: takes int64 ids, in some form.

    Returns:
        Pairs of a description and a function of ids ``[1, T]`` that returns logits ``[1, n, V]``: of all T positions,
        or of the last one. A function raises what the module raises, or ValueError where there are no logits.
    """
    yield "ids [batch, tokens]", lambda ids: _logits(module(ids), ids)
    yield "ids and targets", lambda ids: _logits(module(ids, ids), ids)
    yield "a batch {'input_ids': ids}", lambda ids: _logits(module({"input_ids": ids}), ids)
    yield "ids [tokens, batch]", lambda ids: _logits(module(ids.t()), ids.t()).transpose(0, 1)


def _logits(output: Any, ids: Tensor) -> Tensor:
    found = output
    if hasattr(found, "logits"):
        found = found.logits
    elif isinstance(found, Mapping):
        found = found.get("logits")
    elif isinstance(found, tuple | list):
        several = [each for each in found if isinstance(each, Tensor) and each.is_floating_point() and each.dim() > 1]
        found = several[0] if several else None
    if not isinstance(found, Tensor) or not found.is_floating_point():
        raise ValueError(f"the module returned a {type(output).__name__} without logits")
    if found.dim() == 2:
        whole = found.shape[0] == ids.numel() and ids.numel() > 1
        found = found.view(*ids.shape, -1) if whole else found[:, None]
    if found.dim() != 3 or found.shape[0] != ids.shape[0] or found.shape[1] not in (1, ids.shape[1]):
        raise ValueError(f"the module returned {list(found.shape)} for ids {list(ids.shape)}, which are no logits")
    return found
