"""Which code is the candidate's own, and which only calls the candidate.

A script, a test or a harness that calls the candidate is on the stack, too, but it is never at fault. So the frames
further out than the candidate are cut off.
"""

import functools
import inspect
import os
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from gpt2_from_scratch.recorder import Frame
from gpt2_from_scratch.recorder.frames import Stack

_DEEPEST = 4  # closures within closures: a function of the candidate's behind a wrapper's wrapper
_USERS = Stack(skip=[str(Path(__file__).parents[2]) + os.sep])  # no file of this package, nor of an installed one
_Place = tuple[str, str, int]  # file, name and first line of a function


@dataclass(frozen=True)
class OwnCode:
    """What a candidate is made of.

    Args:
        methods: places of the methods of its modules.
        files: paths of the files of its functions; empty for a module.
        known: whether anything is known; otherwise all frames count as the candidate's.
    """

    methods: frozenset[_Place]
    files: frozenset[str] = frozenset()
    known: bool = True

    def within(self, frames: Sequence[Frame]) -> tuple[Frame, ...]:
        """The frames without those of whoever calls the candidate; innermost first."""
        if not self.known:
            return tuple(frames)
        mine = [depth for depth, frame in enumerate(frames) if self._has(frame)]
        return tuple(frames[: mine[-1] + 1]) if mine else ()

    def _has(self, frame: Frame) -> bool:
        if self.methods:
            return (frame.file, frame.function, frame.first_line) in self.methods
        return frame.file in self.files


def own_code(candidate: nn.Module | Callable[..., object]) -> OwnCode:
    """The code of a candidate: its classes' methods, or its functions' files.

    A lambda, or a function inside another one, may only pass the ids on: if it holds functions or Python modules of
    other files, these are the candidate.
    """
    if isinstance(candidate, nn.Module):
        methods = {place for module in candidate.modules() for place in _methods(module)}
        return OwnCode(frozenset(methods))
    files = frozenset(_files(candidate, 0))
    return OwnCode(frozenset(), files, known=bool(files))


def _methods(module: nn.Module) -> Iterator[_Place]:
    """Places of the functions in a module's classes that are not torch's, and in the module itself."""
    kinds = [kind for kind in type(module).__mro__ if kind.__module__.split(".")[0] not in ("torch", "builtins")]
    for value in (*vars(module).values(), *(value for kind in kinds for value in vars(kind).values())):
        value = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        function = inspect.unwrap(value) if callable(value) else value
        if isinstance(function, types.FunctionType):
            code = function.__code__
            yield code.co_filename, code.co_name, code.co_firstlineno


def _files(value: object, depth: int) -> set[str]:
    """Files of the functions that a callable consists of."""
    if isinstance(value, functools.partial):
        return _files(value.func, depth)
    if isinstance(value, types.ModuleType):
        file = getattr(value, "__file__", None)
        return {file} if file else set()
    if isinstance(value, nn.Module):
        return {file for module in value.modules() for file, _, _ in _methods(module)}
    value = inspect.unwrap(value) if callable(value) else value
    function = getattr(value, "__func__", value)
    if not isinstance(function, types.FunctionType):
        called = inspect.getattr_static(type(value), "__call__", None)
        return {called.__code__.co_filename} if isinstance(called, types.FunctionType) else set()
    file = function.__code__.co_filename
    wraps = function.__name__ == "<lambda>" or "<locals>" in function.__qualname__
    if not wraps or depth > _DEEPEST:
        return {file}
    cells = inspect.getclosurevars(function)
    held = [*cells.nonlocals.values(), *cells.globals.values()]
    others = {each for inner in held for each in _files(inner, depth + 1)} - {file}
    return {each for each in others if _USERS.is_users(each)} or {file}
