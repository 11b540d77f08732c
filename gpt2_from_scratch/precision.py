"""Runs anybody's model in float64, without changing it, and says what could not be made exact.

PyTorch dispatches every operation to a kernel. Here the operands are converted to float64 on the way: weights one at a
time, and large ones some columns at a time, so the model may stay mapped from its file. The code of the model may do
anything (plain functions, shared weights, hooks), and none of its tensors is written.

A cast to a narrower type is ignored, because the purpose of the run is to remove rounding. A *constant* that the code
keeps in float32 stays as it is, because its true value is unknown. `InFloat64` says whether there were any. Further
runs with the constants moved by half a unit in the last place (``nudge``) show how much they matter.
"""

import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack, _pop_mode, _push_mode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

Result = TypeVar("Result")

_aten = torch.ops.aten
_LOOKING_UP = (_aten.embedding.default, _aten.index.Tensor, _aten.index_select.default)
_LIKE_ANOTHER = (_aten.to.other, _aten.type_as.default)
_CASTS = (
    _aten._to_copy.default,
    _aten.type_as.default,
    _aten.clone.default,
    _aten.copy_.default,
    _aten.detach_.default,
)
_SLAB = 1 << 22  # weights that are in float64 at once: 32 MB

# A constant counts as exact if its mantissa has at most this many bits: 0.125 and 1.5 do, 0.044715 rounded to float32
# does not. A rounded constant looks exact by chance once in 2^16 in float32, in 2^5 in float16, in 2^4 in bfloat16.
_MEANT = {torch.float32: 8, torch.float16: 6, torch.bfloat16: 4}
_NARROW = tuple(_MEANT)

# Decimal digits of a number that somebody cut to float32's precision, such as 0.79788456 for sqrt(2 / pi). Fewer are
# meant as they stand (0.044715, 1e-5); more are float64's.
_CUT_TO_FLOAT32 = range(7, 11)

# 1: all constants up. 2: each up or down, by a bit of its mantissa. Effects that cancel in one run add up in the other.
NUDGES = (1, 2)


def dtype_name(dtype: torch.dtype) -> str:
    """``float32`` for `torch.float32`."""
    return str(dtype).removeprefix("torch.")


@dataclass
class InFloat64:
    """What a run in float64 found that it could not make exact. Filled during the run.

    Args:
        constants: the code keeps numbers in float32, or has them cut to its precision, that are no parameters.
        left_torch: numbers went to numpy or to Python, where nothing is widened.
    """

    constants: bool = False
    left_torch: bool = False


@contextmanager
def in_float64(module: nn.Module | None = None, nudge: int = 0) -> Iterator[InFloat64]:
    """Inside, every floating-point operation runs in float64; results are float64.

    Weights are exact in float64, so what comes out is the mathematics of the model with the rounding of its arithmetic
    taken away. Code that asks for a narrower type by name (`.float()`, ``dtype=torch.float32``, autocast) gets float64,
    too, and so does code that makes floating-point numbers of integers. Compiled code is run uncompiled.

    Args:
        module: its parameters are the weights, and all other narrow numbers are constants. None: constants are not
            looked for.
        nudge: 0, or one of `NUDGES`: constants are moved by half a unit in the last place of their type.

    Yields:
        What the run has met, to be read afterwards.

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
    met = InFloat64()
    stance, default = torch.compiler.set_stance("force_eager"), torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with stance, _Leaving(met), _Float64(met, module, nudge):
            yield met
    finally:
        torch.set_default_dtype(default)


def run_in_float64(
    run: Callable[[], Result],
    module: nn.Module,
    within: Callable[..., AbstractContextManager[InFloat64]] = in_float64,
) -> tuple[Result, tuple[Result, ...]]:
    """Runs something in float64, and twice more with the module's constants moved, if it has any.

    The sum of the distances of these two runs from the first bounds what rounded constants account for: where the
    effects of two groups of constants cancel in one run, they add up in the other.

    Args:
        run: computes with the module.
        module: its parameters are the weights.
        within: `in_float64`, or `parameters_in_float64`.

    Returns:
        The result, and those with moved constants: two or none.

    Raises:
        NotImplementedError: not everything can be run in float64.
    """
    with within(module) as met:
        result = run()
    if met.left_torch and met.constants:
        raise NotImplementedError("numbers leave torch on the way and come back in float32")
    moved = []
    for nudge in NUDGES if met.constants else ():
        with within(module, nudge):
            moved.append(run())
    return result, tuple(moved)


@contextmanager
def seeing_arithmetic() -> Iterator[set[torch.dtype]]:
    """Inside, the floating-point types that torch computes with are collected. Casts and views compute nothing.

    Compiled code is run uncompiled. What numpy computes is not seen.

    Example:
        >>> with seeing_arithmetic() as seen:
        ...     (torch.ones(2) * 3).bfloat16()
        tensor([3., 3.], dtype=torch.bfloat16)
        >>> seen
        {torch.float32}
    """
    seen: set[torch.dtype] = set()
    with torch.compiler.set_stance("force_eager"), _Seeing(seen):
        yield seen


class _Seeing(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, seen: set[torch.dtype]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen = seen

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if not func.is_view and func not in _CASTS:
            _each((args, dict(kwargs or {})), Tensor, self._see)
        return func(*args, **(kwargs or {}))

    def _see(self, tensor: Tensor) -> Tensor:
        if tensor.is_floating_point() and tensor.dim():  # numbers without a dimension take the others' type
            self.seen.add(tensor.dtype)
        return tensor


@contextmanager
def undisturbed() -> Iterator[None]:
    """Inside, autocast and all modes that were on before are off, so operations compute what the code says.

    Modes that are entered inside work as usual.
    """
    left_on = len(_get_current_function_mode_stack())  # type: ignore[no-untyped-call]
    modes = [_pop_mode() for _ in range(left_on)]  # type: ignore[no-untyped-call]
    try:
        with ExitStack() as stack:
            for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
                stack.enter_context(torch.autocast(device, enabled=False))
            stack.enter_context(_disable_current_modes())
            yield
    finally:
        for mode in reversed(modes):
            _push_mode(mode)  # type: ignore[no-untyped-call]


@contextmanager
def parameters_in_float64(module: nn.Module, nudge: int = 0) -> Iterator[InFloat64]:
    """Inside, the parameters are float64 copies, so that gradients are float64, too; afterwards they are as before.

    Memory: a second copy of the parameters, twice as large. Arguments and result are those of `in_float64`.
    """
    weights = {parameter: parameter.data for parameter in module.parameters()}
    with holding(weights, torch.float64), in_float64(module, nudge) as met:
        yield met


@contextmanager
def holding(data: Mapping[nn.Parameter, Tensor], dtype: torch.dtype | None = None) -> Iterator[None]:
    """Inside, parameters hold these numbers, in this precision or their own; afterwards what they held before."""
    before = {parameter: parameter.data for parameter in data}
    try:
        # What inference mode makes cannot be a parameter's data, and `in_float64` would widen all that it sees.
        with torch.inference_mode(False), _disable_current_modes():
            for parameter, each in data.items():
                parameter.data = each if dtype is None else each.to(dtype)
        yield
    finally:
        with _disable_current_modes():
            for parameter, each in before.items():
                parameter.data = each


class _Float64(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, met: InFloat64, module: nn.Module | None, nudge: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.met = met
        self.nudge = nudge
        self.weights = None if module is None else {_storage(parameter) for parameter in module.parameters()}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in _LIKE_ANOTHER and args[1].dtype in _NARROW:
            return self.wide(args[0]).double()
        reinterpreting = func is _aten.view.dtype
        narrowing = not reinterpreting and any(_is_narrow(value) for value in (*args, *kwargs.values()))
        if reinterpreting or (func.is_view and not narrowing) or func is _aten.detach_.default:
            return func(*args, **kwargs)  # a view of a mapped weight stays one; what reads it widens it
        if func.is_view and isinstance(args[0], Tensor) and args[0].dtype in _NARROW:
            result = func(*args, **kwargs)  # `.float()` of a float32 weight is that weight
            if _storage(result) == _storage(args[0]):
                return result
        if func in _LOOKING_UP:  # exact: widen the rows found, not the table
            return self.wide(func(*args, **kwargs), of=args[0])
        _refuse_narrow_writes(func, args, kwargs)
        args = tuple(torch.float64 if _is_narrow(value) else value for value in args)
        kwargs = {name: torch.float64 if _is_narrow(value) else value for name, value in kwargs.items()}
        if func in (_aten.mm.default, _aten.matmul.default) and _large(args[1]):
            return self.product(args[0], args[1])
        if func is _aten.bmm.default and args[1].size(0) == 1 and _large(args[1][0]):  # einsum of one prompt
            return self.product(args[0], args[1][0])
        if func is _aten.addmm.default and not kwargs and _large(args[2]):
            return self.product(args[1], args[2]).add_(self.wide(args[0]))
        if func is _aten.linear.default and _large(args[1]):
            product = self.product(args[0], args[1].t())
            return product if len(args) < 3 or args[2] is None else product.add_(self.wide(args[2]))
        args, kwargs = _each((args, kwargs), Tensor, self.wide)
        if self.weights is not None:
            args, kwargs = _each((args, kwargs), float, self.number)
        return _each(func(*args, **kwargs), Tensor, _wide)

    def wide(self, tensor: Tensor, of: Tensor | None = None) -> Tensor:
        """The tensor in float64, moved if it is a constant. `of`: the table whose rows it is, if it was looked up."""
        if tensor.dtype not in _NARROW:
            return tensor
        if self.weights is None or _storage(tensor if of is None else of) in self.weights:
            return _wide(tensor)
        return self.moved(_wide(tensor), tensor.dtype)

    def number(self, value: float) -> float:
        """A Python number among the arguments of an operation."""
        if not _cut_to_float32(value):
            return value
        return float(self.moved(torch.tensor(value, dtype=torch.float64), torch.float32))

    def moved(self, constant: Tensor, dtype: torch.dtype) -> Tensor:
        """A constant, moved by half a unit in the last place of its type, unless it counts as exact (see `_MEANT`)."""
        mantissa, _ = torch.frexp(constant)
        bits = mantissa * 2.0 ** _MEANT[dtype]
        rounded = constant.isfinite() & (constant != constant.round()) & (bits != bits.round())
        if not bool(rounded.any()):
            return constant
        self.met.constants = True
        if not self.nudge:
            return constant
        up = torch.ones_like(constant)
        if self.nudge == 2:  # by the parity of the seventh bit: any bit that numbers share by chance only
            up = 1 - 2 * (mantissa.abs() * 2**7).floor().remainder(2)
        return constant * torch.where(rounded, 1 + up * torch.finfo(dtype).eps / 2, 1.0)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """``x W`` in float64, some columns of ``W`` at a time."""
        x = self.wide(x)
        columns = max(1, _SLAB // weight.size(0))
        product = x.new_empty(*x.shape[:-1], weight.size(1))
        for start in range(0, weight.size(1), columns):
            product[..., start : start + columns] = x @ self.wide(weight[:, start : start + columns])
        return product


class _Leaving(TorchFunctionMode):
    """Sees numbers go to numpy or to Python."""

    _WAYS: tuple[Callable[..., Any], ...] = (Tensor.numpy, Tensor.__array__, Tensor.__dlpack__, Tensor.tolist)

    def __init__(self, met: InFloat64) -> None:
        super().__init__()
        self.met = met

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.met.left_torch |= func in self._WAYS
        return func(*args, **(kwargs or {}))


def _each(values: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """Changes all values of a kind among an operation's arguments or results, which are nested two or three deep.

    PyTorch's `tree_map_only` does the same for any tree; it took a third of a run of a small model.
    """
    if isinstance(values, kind):
        return change(values)
    if isinstance(values, (tuple, list)):
        changed = [_each(value, kind, change) for value in values]
        return changed if isinstance(values, list) else tuple(changed)
    if isinstance(values, dict):
        return {name: _each(value, kind, change) for name, value in values.items()}
    return values


def _is_narrow(value: Any) -> bool:
    return isinstance(value, torch.dtype) and value in _NARROW


def _wide(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.dtype in _NARROW else tensor


def _storage(tensor: Tensor) -> int:
    own = getattr(tensor, "_local_tensor", tensor)  # a `DTensor` is a shell around this rank's part, without memory
    return own.untyped_storage().data_ptr()


def _large(weight: Tensor) -> bool:
    return weight.dim() == 2 and weight.numel() > _SLAB


def _cut_to_float32(value: float) -> bool:
    """Whether a Python number is a float32 one, or a decimal with as many digits as float32 holds."""
    if not math.isfinite(value) or value.is_integer():
        return False
    digits = len(repr(value).split("e")[0].replace(".", "").lstrip("-0"))
    return digits in _CUT_TO_FLOAT32 or struct.unpack("f", struct.pack("f", value))[0] == value


def _refuse_narrow_writes(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Widening makes a copy, so a write into a narrow tensor would be lost."""
    for place, described in enumerate(func._schema.arguments):
        if described.alias_info is None or not described.alias_info.is_write:
            continue
        written = args[place] if place < len(args) else kwargs.get(described.name)
        if isinstance(written, Tensor) and written.dtype in _NARROW:
            raise NotImplementedError(f"{func} writes into a tensor of {written.dtype}")
