"""Numpy's operations, through a subclass of its array that computes in float64 and writes every call to the tape.

Three things let plain arrays into a computation, and each is met for the time of the recording: arrays that the code
can reach (closures, globals, attributes, containers) are exchanged for recorded ones; functions that make arrays out of
nothing (``np.tri``, ``np.arange``) give recorded ones where the user's files call them; and so does ``np.asarray``.
All is put back in the end.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from gpt2_from_scratch.arrays.exchange import exchanged
from gpt2_from_scratch.recorder.graph import Operation, Place
from gpt2_from_scratch.recorder.tape import Again, Holder, Tape
from gpt2_from_scratch.recorder.torch_calls import _plain, name_of

Array = np.ndarray[Any, Any]

_MAKERS = (
    "arange tri zeros ones full eye identity linspace array asarray asanyarray ascontiguousarray asfortranarray empty "
    "fromfunction indices"
).split()
_METHODS = (
    "reshape transpose swapaxes mean sum var std max min prod astype copy flatten ravel dot squeeze repeat clip argmax "
    "argmin cumsum take round diagonal trace conj"
).split()
_UFUNCS = {
    "true_divide": "div",
    "divide": "div",
    "multiply": "mul",
    "subtract": "sub",
    "power": "pow",
    "absolute": "abs",
}


class RecordedArray(np.ndarray):
    """An array whose operations are recorded while a recording is under way; otherwise a plain array."""

    calls: "NumpyCalls | None" = None

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        name = ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"
        return self._noted(_UFUNCS.get(name, name), getattr(ufunc, method), inputs, kwargs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return self._noted(func.__name__, func, args, kwargs)

    def __getitem__(self, key: Any) -> Any:
        return self._noted("getitem", np.ndarray.__getitem__, (self, key), {})

    def __setitem__(self, key: Any, value: Any) -> None:
        self._noted("setitem", np.ndarray.__setitem__, (self, key, value), {}, writes=True)

    @property
    def T(self) -> Any:
        """Transposed."""
        return self._noted("T", np.transpose, (self,), {})

    @property
    def mT(self) -> Any:
        """The last two axes exchanged."""
        return self._noted("mT", np.swapaxes, (self, -1, -2), {})

    def __iter__(self) -> Iterator[Any]:
        return (self[position] for position in range(len(self)))

    def _noted(self, name: str, func: Any, args: Any, kwargs: Any, writes: bool = False) -> Any:
        calls = RecordedArray.calls
        if calls is None:
            return func(*_stripped(args), **{key: _stripped(value) for key, value in kwargs.items()})
        return calls.noted(name, func, args, kwargs, writes)


def _method(name: str) -> Callable[..., Any]:
    original = getattr(np.ndarray, name)

    def method(self: RecordedArray, *args: Any, **kwargs: Any) -> Any:
        return self._noted(name, original, (self, *args), kwargs)

    method.__name__ = name
    return method


for _name in _METHODS:
    setattr(RecordedArray, _name, _method(_name))


class NumpyCalls(AbstractContextManager["NumpyCalls"]):
    """Records numpy's operations on everything that `function` can reach, while it is entered."""

    def __init__(self, tape: Tape, function: object) -> None:
        self.tape = tape
        self.function = function
        self._undo = ExitStack()
        self._keep: list[Array] = []
        self._wrapped: dict[int, RecordedArray] = {}

    def __enter__(self) -> Self:
        RecordedArray.calls = self
        self._undo.callback(setattr, RecordedArray, "calls", None)
        for name in _MAKERS:
            original = getattr(np, name)
            setattr(np, name, self._maker(name, original))
            self._undo.callback(setattr, np, name, original)
        self._undo.enter_context(exchanged(self.function, self.wrap, self.tape.stack.is_users))
        return self

    def __exit__(self, *error: object) -> None:
        self._undo.close()

    def wrap(self, array: Array) -> Array:
        """The recorded array that stands for a plain one: a wide copy, the same one each time."""
        if isinstance(array, RecordedArray) or array.dtype.kind not in "fbiu":
            return array
        known = self._wrapped.get(id(array))
        if known is None:
            wide = np.array(array, dtype=_wide(array.dtype)).view(RecordedArray)
            known = self._wrapped[id(array)] = wide
            self._keep += [array, wide]
        return known

    def _maker(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        import sys

        @functools.wraps(original)
        def maker(*args: Any, **kwargs: Any) -> Any:
            if not self.tape.stack.is_users(sys._getframe(1).f_code.co_filename):
                return original(*_stripped(args), **kwargs)
            if args and isinstance(args[0], RecordedArray) and name.startswith("as") and len(args) == 1 and not kwargs:
                return args[0]
            return self.noted(name, original, args, kwargs, False)

        return maker

    def noted(self, name: str, func: Any, args: Any, kwargs: Any, writes: bool) -> Any:
        """Runs one call and notes it."""
        call = _Arguments(self)
        wide_args = [call.argument(position, value) for position, value in enumerate(args)]
        outs = kwargs.get("out")
        wide_kwargs = {key: call.argument(key, value) for key, value in kwargs.items()}
        written = [(call.arrays[0], call.holders[0])] if writes else []
        if outs is not None:
            targets = outs if isinstance(outs, tuple) else (outs,)
            held = [(target, self.tape.known(target)) for target in targets]
            written = [(self.plain(target, holder), holder) for target, holder in held if holder is not None]
        before = (
            tuple(_tensor(array.copy() if written else array) for array in call.arrays)
            if self.tape.change is not None
            else ()
        )
        again = Again(
            before,
            lambda inputs, constants: _again(
                func, (args, kwargs), (wide_args, wide_kwargs), before, inputs, constants, writes
            ),
        )
        result = func(*wide_args, **wide_kwargs)
        operation = self.tape.begin(name, call.inputs, call.places, call.constants, bool(written))
        numbers: list[int] = []
        for plain, holder in written:
            other = self.tape.changed(operation, len(numbers), _tensor(plain), again)
            if other is not None:
                np.copyto(plain, _array(other))
            holder.number = self.tape.output(len(numbers), _tensor(plain))
            numbers.append(holder.number)
        if outs is not None:
            answer = outs[0] if isinstance(outs, tuple) and len(outs) == 1 else outs
        else:
            answer = None if writes else self._recorded(result, operation, numbers, again)
        self.tape.finish(operation, numbers, [holder for _, holder in written])
        return answer

    def _recorded(self, result: Any, operation: Operation, numbers: list[int], again: Again) -> Any:
        if isinstance(result, tuple | list):
            items = [self._recorded(item, operation, numbers, again) for item in result]
            return type(result)(items) if type(result) in (tuple, list) else tuple(items)
        if isinstance(result, np.floating):
            result = np.asarray(result)  # a scalar would leave the recording
        if not isinstance(result, np.ndarray) or result.dtype.kind not in "fbiu":
            return result
        wide = result.view(np.ndarray)
        if wide.dtype != _wide(wide.dtype):
            wide = wide.astype(_wide(wide.dtype))
        other = self.tape.changed(operation, len(numbers), _tensor(wide), again)
        if other is not None:
            wide = np.ascontiguousarray(_array(other))
        array = wide.view(RecordedArray)
        number = self.tape.output(len(numbers), _tensor(wide))
        self.tape.hold(array, number, None, _storage(wide))
        numbers.append(number)
        return array

    def holder(self, array: Array) -> Holder:
        """The holder of an array, known or new."""
        holder = self.tape.known(array)
        if holder is None:
            wide = array.view(np.ndarray)
            if wide.dtype != _wide(wide.dtype):
                wide = wide.astype(_wide(wide.dtype))
            self._keep.append(wide)
            holder = self.tape.hold(array, self.tape.leaf(_tensor(wide)), wide, _storage(wide))
        return holder

    def plain(self, array: Array, holder: Holder) -> Array:
        """What is computed with in the place of an array."""
        if holder.shadow is None:
            return array.view(np.ndarray)
        assert isinstance(holder.shadow, np.ndarray)
        return holder.shadow


class _Arguments:
    """The arguments of one call."""

    def __init__(self, calls: NumpyCalls) -> None:
        self.calls = calls
        self.inputs: list[int] = []
        self.places: list[Place] = []
        self.constants: dict[Place, object] = {}
        self.holders: list[Holder] = []
        self.arrays: list[Array] = []

    def argument(self, place: Place, value: Any) -> Any:
        before = len(self.inputs)
        wide = self._wide(place, value)
        if len(self.inputs) == before or isinstance(value, tuple | list):
            self.constants[place] = _constant(value)
        return wide

    def _wide(self, place: Place, value: Any) -> Any:
        if isinstance(value, np.ndarray) and value.dtype.kind in "fbiu":
            holder = self.calls.holder(value)
            self.holders.append(holder)
            plain = self.calls.plain(value, holder)
            self.inputs.append(self.calls.tape.current(holder, _tensor(plain)))
            self.places.append(place)
            self.arrays.append(plain)
            return plain
        if isinstance(value, tuple | list) and any(isinstance(item, np.ndarray | tuple | list) for item in value):
            return type(value)([self._wide(place, item) for item in value])
        if isinstance(value, np.floating):
            return float(value)
        if place == "dtype" or value in (np.float32, np.float16, "float32", "float16") if _hashable(value) else False:
            return _wide_request(value)
        return value


def _again(
    func: Any,
    given: tuple[Any, Any],
    wide: tuple[Any, Any],
    before: tuple[Tensor, ...],
    inputs: Any,
    constants: Any,
    writes: bool,
) -> tuple[Tensor, ...]:
    operands = iter([_array(inputs.get(position, value)) for position, value in enumerate(before)])
    first: list[Array] = []

    def filled(given: Any, wide: Any) -> Any:
        if isinstance(given, np.ndarray) and given.dtype.kind in "fbiu":
            array = next(operands)
            first.append(array.copy() if writes and not first else array)
            return first[-1]
        if isinstance(given, tuple | list) and any(isinstance(item, np.ndarray | tuple | list) for item in given):
            return type(given)([filled(one, other) for one, other in zip(given, wide, strict=True)])
        return wide

    args = [filled(one, other) for one, other in zip(given[0], wide[0], strict=True)]
    kwargs = {key: filled(value, wide[1][key]) for key, value in given[1].items() if key != "out"}
    for place, value in constants.items():
        if isinstance(place, int) and place < len(args):
            args[place] = value
        else:
            kwargs[str(place)] = value
    result = func(*args, **kwargs)
    if writes:
        result = first[0]
    results = result if isinstance(result, tuple | list) else (result,)
    return tuple(_tensor(np.asarray(each)) for each in results)


def _hashable(value: object) -> bool:
    return isinstance(value, type | str | np.dtype)


def _wide_request(value: Any) -> Any:
    try:
        return _wide(np.dtype(value))
    except TypeError:
        return value


def _wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.float64) if dtype.kind == "f" else dtype


def _constant(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return np.dtype(value).name
    if isinstance(value, np.ndarray):
        return ...
    if isinstance(value, tuple | list):
        return tuple(_constant(item) for item in value)
    return _plain(value)


def _tensor(array: object) -> Tensor:
    assert isinstance(array, np.ndarray)
    plain = array.view(np.ndarray)
    if plain.dtype.kind == "u" and plain.dtype.itemsize > 1:
        plain = plain.astype(np.int64)
    if any(stride < 0 for stride in plain.strides) or not plain.flags.writeable:
        plain = plain.copy()
    with torch._C.DisableTorchFunction():  # no call of the code's, so it must not be recorded
        return torch.from_numpy(plain)


def _array(tensor: Tensor) -> Array:
    with torch._C.DisableTorchFunction():  # the same
        return tensor.numpy()


def _storage(array: Array) -> int:
    base: Any = array
    while isinstance(base.base, np.ndarray):
        base = base.base
    return int(base.__array_interface__["data"][0])


def _stripped(value: Any) -> Any:
    if isinstance(value, RecordedArray):
        return value.view(np.ndarray)
    if isinstance(value, tuple | list):
        items = [_stripped(item) for item in value]
        return type(value)(items) if type(value) in (tuple, list) else tuple(items)
    return value


__all__ = ["NumpyCalls", "RecordedArray", "name_of"]
