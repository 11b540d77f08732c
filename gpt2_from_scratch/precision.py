"""Runs anybody's model in another precision, without touching it.

The one idea: precision is a property of the run, not of the model. Every operation that PyTorch dispatches is seen on
its way to the kernel, and its operands are widened there: weights one at a time, and large ones a slab at a time, so
the model may stay mapped from its file. What a model does in Python (functional code, shared weights, hooks) does not
matter, and none of its tensors is written.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

_aten = torch.ops.aten
_NARROW = (torch.float32, torch.float16, torch.bfloat16)
_LOOKING_UP = (_aten.embedding.default, _aten.index.Tensor, _aten.index_select.default)
_SLAB = 1 << 22  # weights that are in float64 at once: 32 MB


@contextmanager
def in_float64() -> Iterator[None]:
    """Inside, every floating-point operation runs in float64; results are float64.

    Weights are exact in float64, so what comes out is the mathematics of the model with the rounding of its arithmetic
    taken away. Code that asks for a narrower type by name (`.float()`, ``dtype=torch.float32``) gets float64, too, and
    so does code that makes floating-point numbers of integers. Compiled code is run uncompiled.

    Raises:
        NotImplementedError: inside, when the model writes into a tensor that is not float64, such as a buffer.

    Example:
        >>> layer = torch.nn.Linear(3, 2)
        >>> with in_float64():
        ...     layer(torch.ones(1, 3)).dtype
        torch.float64
        >>> layer.weight.dtype
        torch.float32
    """
    stance, default = torch.compiler.set_stance("force_eager"), torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with stance, _Float64():  # type: ignore[no-untyped-call]
            yield
    finally:
        torch.set_default_dtype(default)


@contextmanager
def parameters_in_float64(module: nn.Module) -> Iterator[None]:
    """Inside, the parameters are float64 copies, so that gradients are float64, too; afterwards they are as before.

    Memory: a second copy of the parameters, twice as large.
    """
    narrow = {parameter: parameter.data for parameter in module.parameters()}
    try:
        for parameter, data in narrow.items():
            parameter.data = data.double()
        with in_float64():
            yield
    finally:
        for parameter, data in narrow.items():
            parameter.data = data


class _Float64(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func.is_view:  # a view of a mapped weight stays one; what reads it widens it
            return func(*args, **kwargs)
        if func in _LOOKING_UP:  # exact: widen the rows found, not the table
            return _wide(func(*args, **kwargs))
        _refuse_narrow_writes(func, args, kwargs)
        if kwargs.get("dtype") in _NARROW:
            kwargs["dtype"] = torch.float64
        if func in (_aten.mm.default, _aten.matmul.default) and _large(args[1]):
            return _product(args[0], args[1])
        if func is _aten.addmm.default and not kwargs and _large(args[2]):
            return _product(args[1], args[2]).add_(_wide(args[0]))
        if func is _aten.linear.default and _large(args[1]):
            product = _product(args[0], args[1].t())
            return product if len(args) < 3 or args[2] is None else product.add_(_wide(args[2]))
        args, kwargs = tree_map_only(Tensor, _wide, (args, kwargs))
        return tree_map_only(Tensor, _wide, func(*args, **kwargs))


def _wide(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.dtype in _NARROW else tensor


def _large(weight: Tensor) -> bool:
    return weight.dim() == 2 and weight.numel() > _SLAB


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """``x W`` in float64, some columns of ``W`` at a time."""
    x = _wide(x)
    columns = max(1, _SLAB // weight.size(0))
    product = x.new_empty(*x.shape[:-1], weight.size(1))
    for start in range(0, weight.size(1), columns):
        product[..., start : start + columns] = x @ _wide(weight[:, start : start + columns])
    return product


def _refuse_narrow_writes(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Widening makes a copy, so a write into a narrow tensor would be lost."""
    for place, described in enumerate(func._schema.arguments):
        if described.alias_info is None or not described.alias_info.is_write:
            continue
        written = args[place] if place < len(args) else kwargs.get(described.name)
        if isinstance(written, Tensor) and written.dtype in _NARROW:
            raise NotImplementedError(f"{func} writes into a tensor of {written.dtype}")
