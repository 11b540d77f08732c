"""The notes of a recording: which tensor is which value, and what happens when memory is written.

It knows no operation. `torch_calls` asks it for the value that a tensor is, and tells it what a call took and gave.
"""

import dataclasses
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from gpt2_from_scratch.precision import dtype_name
from gpt2_from_scratch.recorder.frames import Stack
from gpt2_from_scratch.recorder.graph import Operation, Place, Value

See: TypeAlias = Callable[[Value, Tensor], None]
"""Gets every value as soon as it exists. The tensor may change or go later: keep a copy, not the tensor.

A parameter comes in its own precision, however it is computed with: the numbers are the same.
"""


@dataclass(frozen=True, slots=True)
class Again:
    """The call that is being recorded, to be run again with other arguments. It changes nothing.

    Args:
        inputs: the values that it took, in the order of `Operation.inputs`, as they were before the call.
        run: gives its outputs for other inputs (by position in `inputs`) and other constants (by place).
    """

    inputs: tuple[Tensor, ...]
    run: Callable[[Mapping[int, Tensor], Mapping[Place, object]], tuple[Tensor, ...]]


Change: TypeAlias = Callable[[Operation, int, Tensor, Again], Tensor | None]
"""Gets an operation, which of its outputs this is, the value and the call. What it returns replaces the value.

None leaves the value. Its shape may be another where the operation does not write. The operation's `outputs` are not
known yet and empty.
"""


@dataclass(slots=True)
class Holder:
    """One tensor of the user's: the number of the value that it is now, and where its numbers are.

    Args:
        number: of the value.
        shadow: the same numbers, wide, where they are kept; None where the tensor itself is computed with, so that
            a recording keeps nothing alive.
        storage: which memory its numbers lie in, as long as the tensor lives.
        stale: the last operation that wrote to its memory through another tensor, and the value written there.
    """

    number: int
    shadow: Tensor | None
    storage: int
    stale: tuple[Operation, int] | None = None


class Tape:
    """Collects operations and values.

    Args:
        stack: finds the user's lines.
        see: gets every value.
        change: may replace what an operation made.
    """

    def __init__(self, stack: Stack, see: See | None = None, change: Change | None = None) -> None:
        self.stack = stack
        self.see = see
        self.change = change
        self.operations: list[Operation] = []
        self.values: list[Value] = []
        self.missing: dict[str, None] = {}
        self._holders: dict[int, tuple[weakref.ref[Tensor], Holder]] = {}
        self._by_storage: dict[int, list[weakref.ref[Tensor]]] = {}

    # -- tensors

    def known(self, thing: Tensor) -> Holder | None:
        """The holder of a tensor that was seen before."""
        found = self._holders.get(id(thing))
        if found is None or found[0]() is not thing:
            return None
        return found[1]

    def current(self, holder: Holder, view: Tensor) -> int:
        """The number of the value that a tensor is now; `view` is its content.

        Memory that was written through another tensor makes a new value: an operation named ``alias``.
        """
        if holder.stale is not None:
            writer, written = holder.stale
            holder.stale = None
            inputs = (holder.number, written)
            operation = Operation(len(self.operations), "alias", inputs, (0, 1), (), {}, writer.frames, True)
            holder.number = self._value(len(self.operations), 0, view)
            self.finish(operation, (holder.number,))
        return holder.number

    def hold(self, thing: Tensor, number: int, shadow: Tensor | None = None) -> Holder:
        """Remembers that a tensor is a value."""
        holder = Holder(number, shadow, _storage(thing if shadow is None else shadow))
        self._remember(thing, holder)
        return holder

    def also(self, thing: Tensor, holder: Holder) -> None:
        """Remembers that a second tensor has the same numbers."""
        if self.known(thing) is None:
            self._remember(thing, holder)

    def _remember(self, thing: Tensor, holder: Holder) -> None:
        reference = weakref.ref(thing)
        self._holders[id(thing)] = (reference, holder)
        self._by_storage.setdefault(holder.storage, []).append(reference)

    def leaf(self, view: Tensor, dtype: torch.dtype | None = None) -> int:
        """A new value that no recorded operation made; `dtype`: in which it is computed with, if not in its own."""
        return self._value(None, 0, view, dtype)

    # -- operations

    def begin(
        self,
        name: str,
        inputs: Sequence[int],
        places: Sequence[Place],
        constants: Mapping[Place, object],
        writes: bool,
    ) -> Operation:
        """The operation that is about to be noted; `finish` notes it."""
        frames, module = self.stack.look()
        return Operation(
            len(self.operations), name, tuple(inputs), tuple(places), (), constants, frames, writes, module
        )

    def changed(self, operation: Operation, position: int, view: Tensor, again: Again) -> Tensor | None:
        """What is to replace an output, None if nothing is."""
        if self.change is None:
            return None
        return self.change(operation, position, view, again)

    def output(self, position: int, view: Tensor) -> int:
        """A new value of the operation that was begun."""
        return self._value(len(self.operations), position, view)

    def finish(self, operation: Operation, outputs: Sequence[int], written: Sequence[Holder] = ()) -> None:
        """Notes the operation; all other tensors in the memory of `written` are out of date from now on."""
        self.operations.append(dataclasses.replace(operation, outputs=tuple(outputs)))
        for holder in written:
            alive = []
            for reference in self._by_storage.get(holder.storage, ()):
                thing = reference()
                other = None if thing is None else self.known(thing)
                if other is not None:
                    alive.append(reference)
                    if other is not holder:
                        other.stale = (self.operations[-1], holder.number)
            self._by_storage[holder.storage] = alive

    def numbers(self) -> dict[int, int]:
        """``id(tensor)`` -> value, of the tensors that are alive."""
        return {key: holder.number for key, (reference, holder) in self._holders.items() if reference() is not None}

    def _value(self, operation: int | None, position: int, view: Tensor, dtype: torch.dtype | None = None) -> int:
        value = Value(len(self.values), operation, position, tuple(view.shape), dtype_name(dtype or view.dtype))
        self.values.append(value)
        if self.see is not None:
            self.see(value, view)
        return value.number


def _storage(tensor: Tensor) -> int:
    """A number for the memory of a tensor."""
    try:
        return tensor.untyped_storage().data_ptr() or id(tensor)
    except (RuntimeError, NotImplementedError):
        return id(tensor)
