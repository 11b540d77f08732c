"""Puts other arrays in the place of those that code can reach, for as long as it runs.

Code finds its arrays through closures, globals, defaults, bound arguments, attributes and containers. Containers that
can be changed stay the same objects, so whoever else holds one sees the exchange, too.
"""

import functools
import types
from collections.abc import Callable, Iterator, MutableMapping, MutableSequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy

from gpt2_from_scratch.arrays.finding import called_by, is_users_class, places

_PLAIN = (str, bytes, int, float, type(None))  # passed over at once: a vocabulary has 50,000 of them
_MOST_OBJECTS = 200_000  # looked at in search of arrays: a model has thousands; more is somebody's data set


@contextmanager
def exchanged(code: object, stand_in: Callable[[Any], Any], is_users: Callable[[str], bool]) -> Iterator[None]:
    """Inside, each numpy array that some code reaches is what `stand_in` says; afterwards it is itself again.

    Args:
        code: a function, or an object that can be called.
        stand_in: an array -> what is put in its place: itself, to leave it.
        is_users: whether a source file is somebody's own. What libraries hold stays as it is.
    """
    with ExitStack() as undo:
        _Exchange(stand_in, is_users, undo).run(code)
        yield


class _Exchange:
    def __init__(self, stand_in: Callable[[Any], Any], is_users: Callable[[str], bool], undo: ExitStack) -> None:
        self.stand_in, self.is_users, self.undo = stand_in, is_users, undo
        self.seen: dict[int, object] = {}  # by id; kept, so that no other object gets the id

    def run(self, start: object) -> None:
        waiting = [start]
        while waiting and len(self.seen) < _MOST_OBJECTS:
            thing = waiting.pop()
            if id(thing) not in self.seen:
                self.seen[id(thing)] = thing
                waiting.extend(self._inside(thing))

    def _inside(self, thing: Any) -> Iterator[object]:
        if isinstance(thing, MutableMapping):
            yield from self._items(thing, list(thing.items()))
        elif isinstance(thing, MutableSequence):
            if not isinstance(thing, bytearray | memoryview) and len(thing) <= _MOST_OBJECTS:
                yield from self._items(thing, list(enumerate(thing)))
        elif isinstance(thing, tuple):
            yield from thing
        elif isinstance(thing, types.SimpleNamespace):
            yield vars(thing)
        elif isinstance(thing, types.ModuleType):
            if self.is_users(getattr(thing, "__file__", None) or "<"):
                yield vars(thing)
        elif self._is_code(thing):
            for slot in places(thing, self.is_users):
                yield from self._whole(slot.value, slot.put)
            yield from called_by(thing)

    def _is_code(self, thing: Any) -> bool:
        """Whether a thing is a function, a class or an object of somebody's own."""
        if isinstance(thing, types.FunctionType):
            return self.is_users(thing.__code__.co_filename)
        if isinstance(thing, functools.partial | types.MethodType):
            return True
        return is_users_class(thing if isinstance(thing, type) else type(thing), self.is_users)

    def _items(self, container: Any, items: list[tuple[Any, Any]]) -> Iterator[object]:
        for key, content in items:
            if isinstance(content, _PLAIN):
                continue
            yield from self._whole(content, functools.partial(container.__setitem__, key))

    def _whole(self, content: Any, put: Callable[[Any], object]) -> Iterator[object]:
        """What is in one place, after it was exchanged."""
        new = self._exchanged(content)
        if new is not content:
            try:
                put(new)
            except TypeError:  # a container that cannot be changed
                return
            self.undo.callback(put, content)
        yield new

    def _exchanged(self, content: Any) -> Any:
        if isinstance(content, numpy.ndarray):
            return self.stand_in(content)
        if isinstance(content, tuple):
            items = [self._exchanged(item) for item in content]
            if any(new is not old for new, old in zip(items, content, strict=True)):
                return type(content)(*items) if hasattr(content, "_fields") else tuple(items)
        return content
