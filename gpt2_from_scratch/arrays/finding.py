"""Where a function keeps its arrays: every place that its code reaches, and a way to put something else there."""

import functools
import os
import re
import sys
import sysconfig
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any

import numpy
import torch
from torch import Tensor, nn

_LOOKED_AT = 1 << 16  # numbers of an array that may be a mask: one of two values shows both of them by then
_DEEPEST = 8  # levels of containers in containers; a model's blocks have four
_STANDARD = os.path.realpath(sysconfig.get_paths()["stdlib"]) + os.sep
_INSTALLED = re.compile(r".*[/\\](?:site|dist)-packages[/\\]([^/\\]+?)(?:\.py)?(?:[/\\].*)?")
_TYPED = ("<ipython", "<string", "<stdin", "<doctest")  # what Python calls the files of code that people type


@dataclass(frozen=True)
class Slot:
    """A place where code finds a value by name.

    Args:
        name: of the variable.
        where: in words.
        value: what is there.
        put: puts something else there.
    """

    name: str
    where: str
    value: Any
    put: Callable[[Any], object]


@dataclass(frozen=True)
class Found:
    """An array.

    Args:
        array: as the code has it.
        tensor: with the same memory.
        variable: the name under which the code reaches it.
        where: the place of that name, in words.
    """

    array: Any
    tensor: Tensor
    variable: str
    where: str


def slots(function: Any) -> Iterator[Slot]:
    """The places with arrays that a function reaches: closure, defaults, globals that it reads, its object."""
    seen: set[int] = set()
    waiting = [function]
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        for slot in places(each, is_users):
            if _is_code(slot.value):
                waiting.append(slot.value)
            elif id(slot.value) not in seen and next(_leaves(slot.value), None) is not None:
                seen.add(id(slot.value))
                yield slot
        waiting += called_by(each)


def called_by(each: Any) -> list[Any]:
    """What a callable calls: the function of a partial one, a method's function and object, an object's methods."""
    if isinstance(each, functools.partial):
        return [each.func]
    if isinstance(each, types.MethodType):
        return [each.__func__, each.__self__]
    kind = each if isinstance(each, type) else type(each)
    return [value for value in vars(kind).values() if isinstance(value, types.FunctionType)]


def _is_code(value: Any) -> bool:
    """Whether a value is a function, or an object of somebody's own that can be called, and no module."""
    if isinstance(value, functools.partial | types.MethodType):
        return True
    if isinstance(value, types.FunctionType):
        return is_users(value.__code__.co_filename)
    return callable(value) and not isinstance(value, nn.Module | type) and is_users_class(type(value))


def places(each: Any, is_users: Callable[[str], bool]) -> Iterator[Slot]:
    """Where one function or object finds values by name.

    Args:
        each: a function, a method, a partial one, or an object.
        is_users: whether a source file is somebody's own; objects of other files' classes are passed over.
    """
    if isinstance(each, functools.partial):
        for place, value in enumerate(each.args):
            yield Slot(f"arg{place}", "bound to it", value, functools.partial(_put_argument, each, place))
        yield from _in(each.keywords, each.keywords, "bound to it")
    elif isinstance(each, types.FunctionType):
        yield from _places_of_function(each, is_users)
    elif isinstance(each, types.MethodType | type | types.ModuleType):
        return
    elif hasattr(each, "__dict__") and is_users_class(type(each), is_users):
        yield from _in(vars(each), vars(each), f"in its {type(each).__name__}")


def _in(scope: dict[str, Any], names: Iterable[str], where: str) -> Iterator[Slot]:
    """Those of the names that a dictionary has."""
    for name in [name for name in names if name in scope]:
        yield Slot(name, where, scope[name], functools.partial(scope.__setitem__, name))


def _put_argument(partial: "functools.partial[Any]", place: int, value: Any) -> None:
    args = (*partial.args[:place], value, *partial.args[place + 1 :])
    partial.__setstate__((partial.func, args, partial.keywords, partial.__dict__))  # type: ignore[attr-defined]


def _places_of_function(function: types.FunctionType, is_users: Callable[[str], bool]) -> Iterator[Slot]:
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield Slot(name, "in its closure", cell.cell_contents, functools.partial(setattr, cell, "cell_contents"))
        except ValueError:  # a cell that is still empty
            continue
    defaults = function.__defaults__ or ()
    names = code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount]
    for place, (name, value) in enumerate(zip(names, defaults, strict=True)):
        yield Slot(name, "in its defaults", value, functools.partial(_put_default, function, place))
    yield from _in(function.__kwdefaults__ or {}, function.__kwdefaults__ or (), "in its defaults")
    read = dict.fromkeys(names_in(code))
    for slot in _in(function.__globals__, read, "in the globals of its file"):
        yield slot
        if isinstance(slot.value, types.ModuleType) and is_users(getattr(slot.value, "__file__", None) or "<frozen"):
            yield from _in(vars(slot.value), read, f"in the globals of {slot.value.__name__}")


def _put_default(function: types.FunctionType, place: int, value: Any) -> None:
    defaults = function.__defaults__ or ()
    function.__defaults__ = (*defaults[:place], value, *defaults[place + 1 :])


def names_in(code: types.CodeType) -> Iterator[str]:
    """The global names and attributes that code reads, that of functions inside it included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from names_in(constant)


@functools.cache
def is_users(file: str, packages: frozenset[str] = frozenset()) -> bool:
    """Whether a source file is somebody's own: of no installed package but these, not Python's, and not generated."""
    if file.startswith("<"):
        return file.startswith(_TYPED)
    path = os.path.realpath(file)
    if installed := _INSTALLED.fullmatch(path):
        return installed[1] in packages
    return not path.startswith(_STANDARD)


def is_users_class(kind: type, is_users: Callable[[str], bool] = is_users) -> bool:
    """Whether a class is somebody's own."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return kind.__module__ != "builtins" and (file is None or is_users(file)) and not issubclass(kind, Tensor)


# ------------------------------------------------------------------------------------------------------- containers


def _is_array(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.is_floating_point() and value.dim() > 0 and value.layout is torch.strided
    return isinstance(value, numpy.ndarray) and value.dtype.kind == "f" and value.ndim > 0


def _is_record(value: Any) -> bool:
    """Whether a value is an object that holds others as attributes."""
    if isinstance(value, type | types.ModuleType | nn.Module | numpy.ndarray | Tensor) or callable(value):
        return False
    return (
        isinstance(value, types.SimpleNamespace)
        or is_dataclass(value)
        or (hasattr(value, "__dict__") and is_users_class(type(value)))
    )


def _inside(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((str(key), each) for key, each in value.items()) if isinstance(value, dict) else ()
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from zip(value._fields, value, strict=True)
    elif isinstance(value, list | tuple):
        yield from ((str(place), each) for place, each in enumerate(value))
    elif isinstance(value, nn.Module):
        yield from value.named_parameters()
    elif _is_record(value):
        yield from vars(value).items()


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Arrays in a container, with the keys that lead there."""
    if _is_array(value):
        yield path, value
    elif len(path) < _DEEPEST:
        for key, each in _inside(value):
            yield from _leaves(each, (*path, key))


def found_in(places: Sequence[Slot]) -> tuple[dict[str, Found], dict[int, Tensor]]:
    """The arrays in these places.

    Args:
        places: of `slots`.

    Returns:
        The arrays by name: the variable's, unless there is one only, and the keys that lead there. Of several that
        share memory the largest. And for all of numpy's, the smaller ones included, a tensor with the same memory, by
        the array's id.
    """
    named: dict[str, tuple[Any, Slot]] = {}
    several = len(places) > 1 or any(_is_array(place.value) for place in places)
    for place in places:
        for path, array in _leaves(place.value):
            name = ".".join([*([place.name] if several else []), *path])
            named.setdefault(name, (array, place))
    memory: dict[int, Tensor] = {}
    found = {
        name: Found(array, tensor_of(array, memory), place.name, place.where)
        for name, (array, place) in named.items()
        if not _is_mask(array)
    }
    spans = {name: _span(each.tensor) for name, each in found.items()}
    kept: dict[str, tuple[int, int]] = {}
    for name in sorted(found, key=lambda name: spans[name][0] - spans[name][1]):  # the largest first
        low, high = spans[name]
        if not any(first <= low and high <= last for first, last in kept.values()):
            kept[name] = (low, high)
    tensors = {id(each.array): each.tensor for each in found.values() if isinstance(each.array, numpy.ndarray)}
    return {name: each for name, each in found.items() if name in kept}, tensors


def _is_mask(array: Any) -> bool:
    """Whether an array is what code adds to scores or multiplies them with: of two values, or with infinities."""
    values = array.detach() if isinstance(array, Tensor) else torch.from_numpy(numpy.array(array))
    return values.dim() > 1 and (bool(values.isinf().any()) or len(torch.unique(values.flatten()[:_LOOKED_AT])) == 2)


def tensor_of(array: Any, memory: dict[int, Tensor]) -> Tensor:
    """A tensor that shares memory with an array. `memory`: those of whole memories, so that views share a storage."""
    if isinstance(array, Tensor):
        return array.detach()
    if not array.flags.writeable or any(stride % array.itemsize or stride < 0 for stride in array.strides):
        return torch.from_numpy(numpy.array(array))  # cannot be shared; `arrays_of` refuses it
    root = array
    while isinstance(root.base, numpy.ndarray) and root.base.dtype == array.dtype and root.base.flags.writeable:
        root = root.base
    if id(root) not in memory:
        memory[id(root)] = torch.from_numpy(root)
    offset = (array.__array_interface__["data"][0] - root.__array_interface__["data"][0]) // array.itemsize
    return memory[id(root)].as_strided(array.shape, [stride // array.itemsize for stride in array.strides], offset)


def _span(tensor: Tensor) -> tuple[int, int]:
    """The addresses of a tensor's first element and of its last."""
    first = tensor.data_ptr()
    steps = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size)
    return first, first + steps * tensor.element_size()
