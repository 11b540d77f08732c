"""How to ask somebody's model for logits: what it must be given beside the ids, and where its logits are.

Models take ids alone, with targets or a mask, in a dictionary, with the tokens first, or as numpy arrays. They return
logits, a tuple, a dictionary, or an object. `ways` lists the ways to ask, the usual one first; `logits_in` finds the
logits in an answer.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy
import torch
from torch import Tensor, nn

from gpt2_from_scratch.arrays import Arrays


@dataclass(frozen=True)
class Way:
    """One way to ask.

    Args:
        about: how the model is called, for people; empty for the usual way.
        ask: takes ids ``[B, T]`` and keyword arguments, and returns what the model returns.
        tokens_first: whether the answer has the axes ``[T, B, ...]``.
        arrays: whether the ids are given as a numpy array, or as a list.
    """

    about: str
    ask: Callable[..., Any]
    tokens_first: bool = False
    arrays: bool = False

    def logits(self, output: Any, shape: tuple[int, ...]) -> Tensor | None:
        """The logits in an answer for ids of this shape, ``[B, T, V]``, or ``[B, 1, V]`` of the last position."""
        found = logits_in(output, tuple(reversed(shape)) if self.tokens_first else shape)
        return found.transpose(0, 1) if found is not None and self.tokens_first and found.dim() == 3 else found

    def call(self, ids: Tensor) -> Tensor:
        """Logits ``[B, n, V]`` for ids ``[B, T]``: of all T positions, or of the last one.

        Raises:
            ValueError: the model returned something else.
            Exception: whatever it raised.
        """
        output = self.ask(ids.clone())  # somebody's code may write into them
        found = self.logits(output, tuple(ids.shape))
        if found is None or not found.is_floating_point():
            raise ValueError(f"the module returned a {type(output).__name__} without logits")
        found = found[:, None] if found.dim() == 2 else found
        if found.dim() != 3 or found.shape[0] != ids.shape[0] or found.shape[1] not in (1, ids.shape[1]):
            raise ValueError(f"the module returned {list(found.shape)} for ids {list(ids.shape)}, which are no logits")
        return found


Call: TypeAlias = Callable[[Tensor], Tensor]  # from ids to logits, as `Way.call`
_Filling: TypeAlias = tuple[str, Callable[[Tensor], Any]]
_IDS: _Filling = ("the ids", torch.clone)
_ONES: _Filling = ("a mask of ones", torch.ones_like)
_PLACES: _Filling = ("0, 1, 2, ...", lambda ids: torch.arange(ids.size(1), device=ids.device).expand_as(ids))
_NOTHING: _Filling = ("None", lambda ids: None)
_NO: _Filling = ("False", lambda ids: False)
_YES: _Filling = ("True", lambda ids: True)
_ZERO: _Filling = ("0", lambda ids: 0)

_TARGETS = ("targets", "target", "labels", "label", "y", "tgt", "trg", "yb", "targetids")

# Arguments that models require beside the ids, by `plain` name -> what they are given, for people, and a function that
# makes it from the ids.
_FILLINGS: Mapping[str, _Filling] = {
    **dict.fromkeys(_TARGETS, _IDS),
    **dict.fromkeys(("mask", "attentionmask", "attnmask", "paddingmask", "padmask", "srcmask", "inputmask"), _ONES),
    **dict.fromkeys(("positionids", "positions", "position", "pos", "posids"), _PLACES),
    **dict.fromkeys(("pastkeyvalues", "past", "layerpast", "kvcache", "cache", "state", "rng", "generator"), _NOTHING),
    **dict.fromkeys(("usecache", "training", "train", "istraining", "outputattentions", "returndict", "verbose"), _NO),
    **dict.fromkeys(("deterministic", "inference", "isinference"), _YES),
    **dict.fromkeys(("startpos", "offset", "pastlength", "dropout", "dropoutp"), _ZERO),
    "device": ("where its parameters are", lambda ids: ids.device),
}

# Names of the argument for the ids, as `plain` returns them.
IDS = frozenset(
    (
        *("ids", "inputids", "tokenids", "tokens", "inputs", "input", "x", "xs", "idx", "index", "indices"),
        *("sequence", "prompt", "words", "context", "batch"),
    )
)


def is_filled(name: str) -> bool:
    """Whether an argument of this name, such as a mask, is made up for a model that requires it."""
    return plain(name) in _FILLINGS


def ways(model: Callable[..., Any]) -> Iterator[Way]:
    """Ways to call a model, the usual one first.

    Args:
        model: a module, or a function.
    """
    others = _parameters(model)[1:]
    required = [each.name for each in others if each.default is each.empty]
    if required and all(plain(name) in _FILLINGS for name in required):
        fillings = {name: _FILLINGS[plain(name)] for name in required}
        about = ", ".join(f"{name}: {what}" for name, (what, _) in fillings.items())
        yield Way(
            f"it is called with what it demands beside the ids, {about}",
            lambda ids, **options: model(ids, **{name: make(ids) for name, (_, make) in fillings.items()} | options),
        )
    yield _usual(model)
    for name in [each.name for each in others]:
        if plain(name) in _TARGETS and name not in required:
            yield Way(
                f"the ids are also given as {name}: without, it did not give logits at every position",
                lambda ids, name=name, **options: model(ids, **{name: ids.clone()} | options),
            )
    yield Way("it is called with {'input_ids': ids}", lambda ids, **options: model({"input_ids": ids}, **options))
    yield Way(
        "it is called with ids [tokens, batch]",
        lambda ids, **options: model(ids.t().contiguous(), **options),
        tokens_first=True,
    )
    yield Way("it is called with one row of ids at a time", partial(_row_by_row, model, torch.clone))
    if not isinstance(model, nn.Module) or isinstance(model, Arrays):
        about = "it is called with numpy arrays"
        yield Way(about, lambda ids, **options: model(ids.cpu().numpy(), **options), arrays=True)
        yield Way(f"{about}, one row of ids at a time", partial(_row_by_row, model, _as_array), arrays=True)
        about = "it is called with lists of ids"
        yield Way(about, lambda ids, **options: model(ids.tolist(), **options), arrays=True)
        yield Way(f"{about}, one row at a time", partial(_row_by_row, model, Tensor.tolist), arrays=True)


def _row_by_row(model: Callable[..., Any], convert: Callable[[Tensor], Any], ids: Tensor, **options: Any) -> Tensor:
    """The logits ``[B, T, V]`` of a model that takes ids ``[T]`` and returns logits ``[T, V]``."""
    rows = []
    for row in ids:
        output = model(convert(row), **options)
        found = logits_in(output, tuple(row.shape))
        if found is None or found.dim() != 2 or (convert is torch.clone and isinstance(output, numpy.ndarray)):
            raise ValueError("the model returned no logits [T, V] for ids [T]")
        rows.append(found)
    return torch.stack(rows)


def _as_array(ids: Tensor) -> Any:
    return ids.cpu().numpy()


def _usual(model: Callable[..., Any]) -> Way:
    return Way("", lambda ids, **options: model(ids, **options))


def find_way(
    model: Callable[..., Any], alike: Callable[..., Any], vocab_size: int, context: int, device: torch.device
) -> Way:
    """The first way in which a model gives logits at every position that do not depend on the other rows.

    If there is none: the first in which it gives logits, or else the usual one.

    Args:
        model: to ask.
        alike: what is tried instead, such as the module inside a compiled one.
        vocab_size: ids are below it, and logits have at least as many columns.
        context: the most tokens that may be asked.
        device: of the model.
    """
    length = min(3, context)
    ids = torch.arange(2 * length, device=device).remainder(vocab_size).view(2, length)
    gives_logits = []
    for way, tried in zip(ways(model), ways(alike), strict=True):
        try:
            output = tried.ask(ids.clone())
            together = tried.logits(output, (2, length))
            if together is None or tuple(together.shape[:2]) != (2, length) or together.shape[-1] < vocab_size:
                continue
            if isinstance(output, numpy.ndarray) and not way.arrays:
                continue  # numpy takes some tensors for arrays, and those of one element for a number
            gives_logits.append(way)
            # Asked alone: the last row, which would be a second token if the model took rows for tokens. And its first
            # token, which depends on no other: a model that mixes its rows is not one that takes tokens first.
            alone = tried.logits(tried.ask(ids[1:].clone()), (1, length))
            first = tried.logits(tried.ask(ids[1:, :1].clone()), (1, 1)) if way.tokens_first else None
        except Exception:  # not this way
            continue
        if _same(together[1:], alone) and (not way.tokens_first or _same(together[1:, :1], first)):
            return way
    return next(iter(gives_logits), _usual(model))


def _same(some: Tensor, others: Tensor | None) -> bool:
    """Whether two answers differ by rounding at most."""
    if others is None or some.shape != others.shape:
        return False
    return bool((some - others).detach().abs().max() <= _ROUNDING * others.detach().abs().max())


_ROUNDING = 0.05  # of the largest logit, which rounding moves by 1e-6 in float32 and 1e-2 in bfloat16


def logits_in(output: Any, shape: tuple[int, ...]) -> Tensor | None:
    """The logits in what a model returned for ids of this shape.

    They are the answer itself, its ``.logits`` or ``["logits"]``, or one of several tensors: then the one with an axis
    behind the axes of the ids. Rows that were flattened, ``[B T, V]``, get their two axes back.

    Args:
        output: of the model.
        shape: of the ids, ``(B, T)``.

    Returns:
        A tensor, whatever its shape; None if there is none.
    """
    if hasattr(output, "logits"):
        output = output.logits
    elif isinstance(output, Mapping) and "logits" in output:
        output = output["logits"]
    elif isinstance(output, Mapping | tuple | list) or is_dataclass(output):
        output = vars(output) if is_dataclass(output) and not isinstance(output, Mapping) else output
        several = output.values() if isinstance(output, Mapping) else output
        tensors = [found for each in several if (found := _as_tensor(each)) is not None and found.is_floating_point()]
        fitting = [each for each in tensors if tuple(each.shape[:-1]) in (shape, (shape[0], 1))]
        output = next(iter(fitting if isinstance(output, Mapping) else fitting or tensors), None)
    found = _as_tensor(output)
    rows = shape[0] * shape[1] if len(shape) == 2 else 0
    if found is not None and found.dim() == 2 and rows > shape[0] and found.shape[0] == rows:
        return found.view(*shape, -1)
    return found


def _as_tensor(value: Any) -> Tensor | None:
    if hasattr(value, "__array__") and not isinstance(value, Tensor):
        value = torch.from_numpy(numpy.ascontiguousarray(value))
    return value if isinstance(value, Tensor) else None


def _parameters(model: Callable[..., Any]) -> list[inspect.Parameter]:
    """The named parameters of a model, that of the ids among them."""
    try:
        signature = inspect.signature(model.forward if isinstance(model, nn.Module) else model)
    except (TypeError, ValueError):
        return []
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [each for each in signature.parameters.values() if each.kind in kinds]


@contextmanager
def in_mode(modules: Iterable[nn.Module], training: bool) -> Iterator[None]:
    """Inside, modules are in training mode or in eval mode; afterwards each is in the mode it was in."""
    before = {module: module.training for module in modules}
    try:
        for module in before:
            module.training = training
        yield
    finally:
        for module, mode in before.items():
            module.training = mode


def plain(name: str) -> str:
    """A name in the form in which names are looked up: lower case, without underscores and hyphens.

    Example:
        >>> plain("Input_IDs")
        'inputids'
    """
    return name.lower().replace("_", "").replace("-", "")
