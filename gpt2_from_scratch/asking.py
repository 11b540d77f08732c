"""How to ask somebody's model for logits: what it must be given beside the ids, and where its logits are.

Models take ids alone, with targets or a mask, in a dictionary, with the tokens first, or as numpy arrays. They return
logits, a tuple, a dictionary, or an object. `ways` lists the ways to ask, the usual one first; `logits_in` finds the
logits in an answer.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Way:
    """One way to ask.

    Args:
        about: what is unusual about it, for people; empty for the usual way.
        ask: takes ids ``[B, T]`` and keyword arguments, and returns what the model returns.
        tokens_first: whether the answer has the axes ``[T, B, ...]``.
    """

    about: str
    ask: Callable[..., Any]
    tokens_first: bool = False

    def logits(self, output: Any, shape: tuple[int, ...]) -> Tensor | None:
        """The logits in an answer for ids of this shape, ``[B, T, V]``, or ``[B, 1, V]`` of the last position."""
        found = logits_in(output, tuple(reversed(shape)) if self.tokens_first else shape)
        return found.transpose(0, 1) if found is not None and self.tokens_first and found.dim() == 3 else found


# What arguments that a model insists on are given, by their names without underscores.
_TARGETS = ("targets", "target", "labels", "label", "y", "tgt", "trg", "targetids", "yb")
_ONES = ("mask", "attentionmask", "attnmask", "paddingmask", "padmask", "srcmask", "inputmask")
_NOTHING = ("cache", "past", "pastkeyvalues", "kvcache", "layerpast", "state", "headmask", "inputsembeds", "labelsmask")
_OFF = ("usecache", "training", "train", "istraining", "returndict", "verbose", "returnattn", "returnattention")
_ON = ("deterministic", "inference", "isinference")


def ways(model: Callable[..., Any]) -> Iterator[Way]:
    """Ways to call a model, the usual one first.

    Args:
        model: a module, or a function.
    """
    if required := _required(model):
        given = {name: _filling(name) for name in required}
        if all(filling is not None for filling in given.values()):
            names = ", ".join(required)
            yield Way(
                f"it is called with {names}, too, which it insists on",
                lambda ids, **options: model(ids, **{n: f(ids) for n, f in given.items() if f} | options),
            )
    yield Way("", lambda ids, **options: model(ids, **options))
    yield Way("it is called with {'input_ids': ids}", lambda ids, **options: model({"input_ids": ids}, **options))
    yield Way(
        "it is called with ids [tokens, batch]",
        lambda ids, **options: model(ids.t().contiguous(), **options),
        tokens_first=True,
    )
    if not isinstance(model, nn.Module):
        yield Way("it is called with numpy arrays", lambda ids, **options: model(ids.cpu().numpy(), **options))


def mixes_rows(way: Way, vocab_size: int, context: int, device: torch.device) -> bool:
    """Whether a row's logits depend on the other rows: a batch that is not one, or tokens that are taken for rows.

    Args:
        way: to ask.
        vocab_size: ids are below it.
        context: the most tokens that may be asked.
        device: of the model.
    """
    length = min(3, context)
    ids = torch.arange(2 * length, device=device).remainder(vocab_size).view(2, length)
    together = way.logits(way.ask(ids.clone()), (2, length))
    alone = way.logits(way.ask(ids[1:].clone()), (1, length))  # the last row: as a second token it has a first
    if together is None or alone is None or together.shape[1:] != alone.shape[1:]:
        return True
    scale = alone.detach().abs().max()
    # Rounding in another order is 1e-6 of the largest logit, 1e-2 in bfloat16; another row's tokens change all of it.
    return not bool((together[1:] - alone).detach().abs().max() <= 0.05 * scale)


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
    elif isinstance(output, Mapping):
        output = output["logits"] if "logits" in output else list(output.values())
    if isinstance(output, tuple | list):
        tensors = [found for each in output if (found := _as_tensor(each)) is not None and found.is_floating_point()]
        fitting = [each for each in tensors if tuple(each.shape[:-1]) in (shape, (shape[0], 1))]
        output = next(iter(fitting or tensors), None)
    found = _as_tensor(output)
    rows = shape[0] * shape[1] if len(shape) == 2 else 0
    if found is not None and found.dim() == 2 and rows > shape[0] and found.shape[0] == rows:
        return found.view(*shape, -1)
    return found


def _as_tensor(value: Any) -> Tensor | None:
    if hasattr(value, "__array__") and not isinstance(value, Tensor):
        value = torch.from_numpy(numpy.ascontiguousarray(value))
    return value if isinstance(value, Tensor) else None


def _required(model: Callable[..., Any]) -> list[str]:
    """Names of the arguments that the model insists on, behind the first."""
    try:
        signature = inspect.signature(model.forward if isinstance(model, nn.Module) else model)
    except (TypeError, ValueError):
        return []
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = [each for each in signature.parameters.values() if each.kind in kinds]
    return [each.name for each in named[1:] if each.default is each.empty]


def _filling(name: str) -> Callable[[Tensor], Any] | None:
    """What an argument of this name is given, made from the ids; None if nobody knows."""
    word = name.lower().replace("_", "")
    if word in _TARGETS:
        return lambda ids: ids.clone()
    if word in _ONES:
        return torch.ones_like
    if word in ("positionids", "positions", "pos", "posids"):
        return lambda ids: torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)
    if word == "device":
        return lambda ids: ids.device
    if word in _NOTHING:
        return lambda ids: None
    if word in _OFF or word in _ON:
        return lambda ids: word in _ON
    return None
