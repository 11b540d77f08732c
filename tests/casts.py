"""Ordinary casts inside a right model: each as a change of what some PyTorch calls do while the model runs.

People write `att.float()` before a softmax, or ask it for ``dtype=torch.float32``, as transformers does; they compute a
LayerNorm in float32, keep constants in float32 tensors, and run under autocast. In a float32 model none of that changes
the mathematics. A `Cast` is given to any module, whatever its style: its forward then runs inside the change.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

Cast = Callable[[], AbstractContextManager[Any]]

_SOFTMAX = (torch.softmax, F.softmax, Tensor.softmax)
_NORM = (F.layer_norm, torch.layer_norm)
_BY_A_NUMBER = (Tensor.mul, Tensor.__mul__, Tensor.__rmul__, Tensor.add, Tensor.__add__, Tensor.__radd__, torch.mul)


class _Calls(TorchFunctionMode):
    """Hands every PyTorch call to a function that may answer it otherwise."""

    def __init__(self, answer: Callable[..., Any]) -> None:
        super().__init__()
        self.answer = answer

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return self.answer(func, args, dict(kwargs or {}))


def _softmax_dtype(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if func in _SOFTMAX:
        kwargs["dtype"] = torch.float32
    if func is F.scaled_dot_product_attention:
        return _spelled_out(*args, **kwargs, softmax=lambda x: torch.softmax(x, -1, dtype=torch.float32))
    return func(*args, **kwargs)


def _softmax_float(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if func in _SOFTMAX:
        return func(args[0].float(), *args[1:], **kwargs).type_as(args[0])
    if func is F.scaled_dot_product_attention:
        return _spelled_out(*args, **kwargs, softmax=lambda x: x.float().softmax(-1).type_as(x))
    return func(*args, **kwargs)


def _scores_float(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if func in (torch.matmul, Tensor.matmul, Tensor.__matmul__) and args[0].dim() == 4:
        return func(args[0].float(), args[1].float(), *args[2:], **kwargs)
    if func is F.scaled_dot_product_attention:
        return func(*(part.float() for part in args[:3]), *args[3:], **kwargs)
    return func(*args, **kwargs)


def _norm_float(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if func in _NORM:
        return func(args[0].to(torch.float32), *args[1:], **kwargs).to(args[0].dtype)
    if func in (torch.mean, Tensor.mean, torch.var, Tensor.var):
        return func(args[0].float(), *args[1:], **kwargs)
    return func(*args, **kwargs)


def _constants(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if func in _BY_A_NUMBER and any(isinstance(value, float) for value in args):
        args = tuple(torch.tensor(x, dtype=torch.float32) if isinstance(x, float) else x for x in args)
    return func(*args, **kwargs)


def _spelled_out(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    *,
    softmax: Callable[[Tensor], Tensor],
) -> Tensor:
    scores = q @ k.mT * (q.size(-1) ** -0.5 if scale is None else scale)
    if is_causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
    if attn_mask is not None:
        masked = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -torch.inf) if masked else scores + attn_mask
    return softmax(scores) @ v


CASTS: Mapping[str, Cast] = {
    "softmax(dtype=float32)": lambda: _Calls(_softmax_dtype),
    "softmax(x.float())": lambda: _Calls(_softmax_float),
    "LayerNorm in float32": lambda: _Calls(_norm_float),
    "scores in float32": lambda: _Calls(_scores_float),
    "float32 constants": lambda: _Calls(_constants),
    "autocast off": lambda: torch.autocast("cpu", enabled=False),
    "autocast on": lambda: torch.autocast("cpu", torch.bfloat16),
}


def cast(model: nn.Module, change: Cast) -> nn.Module:
    """The same module, whose forward runs inside a change. In place."""
    forward = model.forward

    def changed(*args: Any, **kwargs: Any) -> Any:
        with change():
            return forward(*args, **kwargs)

    changed.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    model.forward = changed
    return model
