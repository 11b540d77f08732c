"""Arrays that numpy code takes for its own, computed by torch.

Numpy asks an argument that is no array of its own how to compute (``__array_ufunc__``, ``__array_function__``). Torch
has numpy's functions over tensors in `torch._numpy`, with numpy's rules for types and shapes, so the function of the
same name is called there. To torch's function modes each is one call, like a function of torch's own.
"""

import functools
import operator
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy
import torch
import torch._numpy
from numpy.lib.mixins import NDArrayOperatorsMixin
from torch import Tensor
from torch.overrides import wrap_torch_function

from gpt2_from_scratch.arrays.exchange import exchanged
from gpt2_from_scratch.arrays.finding import tensor_of

torch_numpy: Any = torch._numpy  # without annotations of its own

# A ufunc that is applied along an axis is another function.
_REDUCED = {"add": "sum", "multiply": "prod", "maximum": "max", "minimum": "min", "logical_and": "all"}
# What torch._numpy lacks, or does otherwise: attributes, a cast that copies, scipy's functions.
_ATTRIBUTES: dict[str, Callable[..., Any]] = {
    "T": lambda array: array.tensor.permute(*reversed(range(array.ndim))),
    "mT": lambda array: array.tensor.mT,
}
_MORE = _ATTRIBUTES | {
    "astype": lambda array, dtype, copy=True: array.tensor.to(dtype, copy=copy),
    "erf": lambda array: torch.special.erf(array.tensor),
    "expit": lambda array: torch.sigmoid(array.tensor),
}
_RESHAPING = ("reshape", "ravel", "flatten")
# Functions that make a plain array, or a tensor, of what they are given, without asking it; or out of nothing.
_MAKERS = (
    "array asarray asanyarray ascontiguousarray asfortranarray "
    "arange tri zeros ones full eye identity linspace empty fromfunction indices"
).split()
_TENSOR_MAKERS = ("from_numpy", "as_tensor", "tensor")


class Followed(NDArrayOperatorsMixin):
    """An array that is a tensor.

    Args:
        tensor: its numbers.
    """

    by_numpy = False  # whether numpy may compute what torch._numpy lacks, out of torch's sight

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if method == "reduce" and ufunc.__name__ in _REDUCED:
            axis = {} if len(inputs) > 1 else {"axis": 0}
            return _call(_REDUCED[ufunc.__name__], ufunc.reduce, inputs, axis | options)
        name = ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"
        return _call(name, getattr(ufunc, method), inputs, options)

    def __array_function__(self, func: Any, types: Any, args: Any, options: Any) -> Any:
        return _call(func.__name__, func, args, options)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        if Followed.by_numpy:
            return numpy.array(self.tensor.numpy(), dtype=dtype)
        raise TypeError("numpy code makes a plain array of an activation, which cannot be followed")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in _ATTRIBUTES:
            return _call(name, None, (self,), {})
        value = getattr(torch_numpy.ndarray(self.tensor), name)
        if not callable(value):
            return _followed(_tensor(value))
        return lambda *args, **options: _call(name, None, (self, *args), options)

    def __getitem__(self, key: Any) -> Any:
        return _call("__getitem__", None, (self, key), {})

    def __setitem__(self, key: Any, value: Any) -> None:
        _call("__setitem__", None, (self, key, value), {})

    def __iter__(self) -> Iterator[Any]:
        return (self[place] for place in range(len(self)))

    def __len__(self) -> int:
        return len(self.tensor)

    def __bool__(self) -> bool:
        return bool(self.tensor)

    def __float__(self) -> float:
        return float(self.tensor)

    def __index__(self) -> int:
        return operator.index(self.tensor)

    def astype(self, dtype: Any, *_: Any, copy: bool = True, **__: Any) -> Any:
        """The numbers in another type."""
        return _call("astype", None, (self, numpy.dtype(dtype)), {} if copy else {"copy": False})

    @property
    def dtype(self) -> Any:
        """Numpy's name of the type."""
        return _numpys(self.tensor.dtype)


@contextmanager
def following(
    code: object, is_users: Callable[[str], bool], tensors: Mapping[int, Tensor] | None = None
) -> Iterator[None]:
    """Inside, the arrays that some code reaches are followed arrays; afterwards they are themselves again.

    ``np.asarray`` and its like give a followed array back, and ``torch.from_numpy`` its tensor.

    Args:
        code: a function, or an object that can be called.
        is_users: whether a source file is somebody's own.
        tensors: for each array, by its id, a tensor with its numbers. None follows all arrays, also those that the
            user's files make out of nothing, and lets numpy compute what torch._numpy lacks.
    """
    memory: dict[int, Tensor] = {}
    known: dict[int, Followed] = {}

    def stand_in(array: Any) -> Any:
        if tensors is not None:
            found = tensors.get(id(array))
            return array if found is None else Followed(found)
        if id(array) not in known and array.dtype.kind in "fbiu":
            known[id(array)] = Followed(tensor_of(array, memory))
        return known.get(id(array), array)

    def is_followed(file: str) -> bool:
        return tensors is None and is_users(file)

    with ExitStack() as undo:
        undo.callback(setattr, Followed, "by_numpy", Followed.by_numpy)
        Followed.by_numpy = tensors is None
        makers = functools.partial(_maker, is_followed)
        for library, names, make in ((numpy, _MAKERS, makers), (torch, _TENSOR_MAKERS, _tensor_maker)):
            for name in names:
                original = getattr(library, name)
                undo.callback(setattr, library, name, original)
                setattr(library, name, make(original))
        undo.enter_context(exchanged(code, stand_in, is_users))
        yield


def _maker(is_followed: Callable[[str], bool], original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def maker(*args: Any, **options: Any) -> Any:
        value = args[0] if args else None
        if isinstance(value, list | tuple) and any(isinstance(each, Followed) for each in value):
            value = _call("stack", numpy.stack, (value,), {})
        if isinstance(value, Followed):
            wanted = options.get("dtype", args[1] if len(args) > 1 else None)
            same = value if original.__name__.startswith("as") else value.copy()
            return same if wanted is None else value.astype(wanted)
        if is_followed(sys._getframe(1).f_code.co_filename):
            return _call(original.__name__, original, args, options)
        return original(*args, **options)

    return maker


def _tensor_maker(original: Callable[..., Any]) -> Callable[..., Any]:
    def maker(value: Any, *args: Any, **options: Any) -> Any:
        return value.tensor if isinstance(value, Followed) else original(value, *args, **options)

    return maker


def unwrapped(output: Any) -> Any:
    """The tensors in what a function returned."""
    if isinstance(output, Followed):
        return output.tensor
    if isinstance(output, dict):
        return {key: unwrapped(value) for key, value in output.items()}
    if isinstance(output, list | tuple) and not hasattr(output, "_fields"):
        return type(output)(map(unwrapped, output))
    return output


def _call(name: str, original: Callable[..., Any] | None, args: Any, options: dict[str, Any]) -> Any:
    """Calls numpy's function `original` as torch has it; without one, the array's method of this name."""
    options = dict(options)
    targets, order = options.pop("out", None), options.pop("order", "C")  # of a copy: where it lies, not what it is
    if name in _RESHAPING and order in ("F", "K"):
        return _reshaped(order, *args)
    if options.get("dtype") is not None:
        options["dtype"] = numpy.dtype(options["dtype"])
    operation = _operation(name, original)
    given, chosen = _each(list(args), _tensor), {key: _each(value, _tensor) for key, value in options.items()}
    if targets is None:
        return _each(operation(*given, **chosen), _followed)
    target = targets[0] if isinstance(targets, tuple) else targets
    operation(*given, **chosen, out=target.tensor)
    return target


def _reshaped(order: str, array: Any, *shape: Any) -> Any:
    """An array in another shape, its numbers read with the first axis the fastest (F), or as they lie in memory (K)."""
    axes = list(range(array.ndim))
    axes.sort(key=lambda axis: -axis if order == "F" else -array.tensor.stride(axis))
    read = array.transpose(axes)
    sizes = shape[0] if len(shape) == 1 and isinstance(shape[0], list | tuple) else shape or (-1,)
    return read.reshape(tuple(reversed(sizes))).transpose(tuple(reversed(range(len(sizes)))))


def _operation(name: str, original: Callable[..., Any] | None) -> Callable[..., Any]:
    """A function over tensors, which torch's function modes see as one call."""
    function = _MORE.get(name) or getattr(torch_numpy.ndarray if original is None else torch_numpy, name, None)
    made_of = _torch_numpys
    if function is None and Followed.by_numpy:
        function, made_of = original, _numpys
    if function is None:
        raise TypeError(f"numpy's {name} cannot be followed")

    def operation(*args: Any, out: Tensor | None = None, **options: Any) -> Any:
        values = {key: _each(value, made_of) for key, value in options.items()}
        result = _each(function(*_each(args, made_of), **values), _tensor)
        return result if out is None else out.copy_(result)

    operation.__name__ = "eq" if name == "equal" else name  # torch's own `equal` gives a number to Python
    return wrap_torch_function(lambda *args, **options: (None,))(operation)


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    """Changes everything in lists and tuples."""
    if isinstance(value, list | range):
        return [_each(item, change) for item in value]
    return tuple(_each(item, change) for item in value) if isinstance(value, tuple) else change(value)


def _tensor(value: Any) -> Any:
    """What torch has for something of numpy's."""
    if isinstance(value, Followed | torch_numpy.ndarray):
        return value.tensor
    if isinstance(value, numpy.ndarray) and value.dtype.kind in "fbiu":
        return torch.from_numpy(numpy.require(value, requirements=("C", "W")))
    if isinstance(value, type) and issubclass(value, numpy.generic):
        value = numpy.dtype(value)
    if isinstance(value, numpy.dtype):
        return getattr(torch, value.name)
    return value.item() if isinstance(value, numpy.generic) else value


def _followed(value: Any) -> Any:
    return Followed(value) if isinstance(value, Tensor) else value


def _torch_numpys(value: Any) -> Any:
    return torch_numpy.ndarray(value) if isinstance(value, Tensor) else value


def _numpys(value: Any) -> Any:
    if isinstance(value, torch.dtype):
        return numpy.dtype(str(value).removeprefix("torch."))
    return value.numpy() if isinstance(value, Tensor) else value
