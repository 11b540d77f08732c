"""Arrays that numpy code takes for its own, computed by torch.

Numpy asks an argument that is no array of its own how to compute (``__array_ufunc__``, ``__array_function__``). Torch
has numpy's functions over tensors in `torch._numpy`, with numpy's rules for types and shapes, so the function of the
same name is called there.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy
import torch
import torch._numpy
from numpy.lib.mixins import NDArrayOperatorsMixin
from torch import Tensor

torch_numpy: Any = torch._numpy  # without annotations of its own

# A ufunc that is applied along an axis is another function.
_REDUCED = {"add": "sum", "multiply": "prod", "maximum": "max", "minimum": "min", "logical_and": "all"}
# What torch._numpy lacks, and people use: scipy's functions.
_MORE: dict[str, Callable[..., Any]] = {"erf": torch.special.erf, "expit": torch.sigmoid}
# Functions that make a plain array, or a tensor, of what they are given, without asking it.
_MAKERS = ("asarray", "array", "asanyarray", "ascontiguousarray")
_TENSOR_MAKERS = ("from_numpy", "as_tensor", "tensor")


class Followed(NDArrayOperatorsMixin):
    """An array that is a tensor.

    Args:
        tensor: its numbers.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        name = ufunc.__name__ if method == "__call__" else _REDUCED.get(ufunc.__name__, "")
        targets = options.pop("out", None)
        result = _call(name, inputs, options)
        if targets is None:
            return result
        targets[0].tensor.copy_(result.tensor)
        return targets[0]

    def __array_function__(self, func: Any, types: Any, args: Any, options: Any) -> Any:
        return _call(func.__name__, args, options)

    def __array__(self, *args: Any, **options: Any) -> Any:
        raise TypeError("numpy code makes a plain array of an activation, which cannot be followed")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = getattr(torch_numpy.ndarray(self.tensor), name)
        if not callable(value):
            return _followed(value)
        return lambda *args, **options: _followed(value(*map(_given, args), **_options(options)))

    def __getitem__(self, key: Any) -> Any:
        return _followed(torch_numpy.ndarray(self.tensor)[_given(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        torch_numpy.ndarray(self.tensor)[_given(key)] = _given(value)

    def __iter__(self) -> Iterator[Any]:
        return (self[place] for place in range(len(self)))

    def __len__(self) -> int:
        return len(self.tensor)

    def __bool__(self) -> bool:
        return bool(self.tensor)

    def __float__(self) -> float:
        return float(self.tensor)

    @property
    def dtype(self) -> numpy.dtype[Any]:
        """Numpy's name of the type."""
        return numpy.dtype(str(self.tensor.dtype).removeprefix("torch."))

    @property
    def mT(self) -> "Followed":
        """The last two axes exchanged."""
        return Followed(self.tensor.mT)


@contextmanager
def following() -> Iterator[None]:
    """Inside, ``np.asarray`` and its like give a followed array back, and ``torch.from_numpy`` its tensor."""
    with ExitStack() as undo:
        for library, names, make in ((numpy, _MAKERS, _maker), (torch, _TENSOR_MAKERS, _tensor_maker)):
            for name in names:
                original = getattr(library, name)
                undo.callback(setattr, library, name, original)
                setattr(library, name, make(original))
        yield


def _maker(original: Callable[..., Any]) -> Callable[..., Any]:
    def maker(value: Any, *args: Any, **options: Any) -> Any:
        if isinstance(value, list | tuple) and any(isinstance(each, Followed) for each in value):
            value = _call("stack", (value,), {})
        if not isinstance(value, Followed):
            return original(value, *args, **options)
        wanted = options.get("dtype", args[0] if args else None)
        return value if wanted is None else value.astype(wanted)

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


def _call(name: str, args: Any, options: dict[str, Any]) -> Any:
    if name in _MORE:
        return Followed(_MORE[name](args[0].tensor))
    function = getattr(torch_numpy, name, None)
    if function is None:
        raise TypeError(f"numpy's {name or 'function'} cannot be followed")
    return _followed(function(*map(_given, args), **_options(options)))


def _options(options: dict[str, Any]) -> dict[str, Any]:
    return {key: _dtype(value) if key == "dtype" else _given(value) for key, value in options.items()}


def _dtype(value: Any) -> Any:
    return value if value is None else getattr(torch_numpy, numpy.dtype(value).name)


def _given(value: Any) -> Any:
    """What torch._numpy is given for what numpy was given."""
    if isinstance(value, Followed):
        return torch_numpy.ndarray(value.tensor)
    if isinstance(value, numpy.ndarray):
        return torch_numpy.asarray(torch.from_numpy(numpy.ascontiguousarray(value)))
    if isinstance(value, Tensor):
        return torch_numpy.ndarray(value)
    if isinstance(value, numpy.generic):
        return value.item()
    if isinstance(value, numpy.dtype) or (isinstance(value, type) and issubclass(value, numpy.generic)):
        return _dtype(value)
    if isinstance(value, range):
        return torch_numpy.asarray(list(value))
    if isinstance(value, list | tuple):
        return type(value)(_given(each) for each in value)
    return value


def _followed(value: Any) -> Any:
    if isinstance(value, torch_numpy.ndarray):
        return Followed(value.tensor)
    if isinstance(value, list | tuple):
        return type(value)(_followed(each) for each in value)
    return value
