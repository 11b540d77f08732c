"""The number that each element of a module's parameters has, and that each element of a tensor shows."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from gpt2_from_scratch.infer_layout.events import Placed


class Memory:
    """The number that each element of each storage shows. Storages that are gone are forgotten."""

    def __init__(self) -> None:
        self._entries: dict[int, tuple[StorageWeakRef, Tensor]] = {}
        self._sweep_at = 64
        self.of_parameters: set[int] = set()  # storages of numbers, all of which are elements

    def copy(self) -> "Memory":
        """Another one, which shows the same numbers to begin with."""
        other = Memory()
        other._entries.update(self._entries)
        other.of_parameters |= self.of_parameters
        return other

    def forget(self) -> None:
        """Lets go of all numbers: a pass that is over leads to them in a circle."""
        self._entries.clear()

    def own(self, tensor: Tensor, flat: Tensor) -> None:
        """Sets the numbers of a tensor's whole storage."""
        storage = tensor.untyped_storage()
        if len(self._entries) > self._sweep_at:
            self._entries = {key: entry for key, entry in self._entries.items() if not entry[0].expired()}  # type: ignore[no-untyped-call]
            self._sweep_at = 2 * len(self._entries) + 64
        # The weak reference keeps the storage's address from being used again.
        self._entries[storage._cdata] = (StorageWeakRef(storage), flat)  # type: ignore[no-untyped-call]

    def read(self, tensor: Tensor) -> Tensor | None:
        """The numbers that a tensor shows, in its shape; None if it shows none."""
        if tensor.layout is not torch.strided or tensor.is_meta:
            return None
        entry = self._entries.get(tensor.untyped_storage()._cdata)
        if entry is None:
            return None
        numbers = entry[1].as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())
        if entry[1].untyped_storage()._cdata in self.of_parameters:
            return numbers
        return numbers if bool(numbers.any()) else None

    def write(self, tensor: Tensor, numbers: Tensor | None) -> None:
        """Sets the numbers that a tensor shows: of a part of its storage, if it is a view."""
        key = tensor.untyped_storage()._cdata
        size = tensor.untyped_storage().nbytes() // tensor.element_size()
        if numbers is None and key not in self._entries:
            return
        if numbers is not None and size == tensor.numel() and tensor.is_contiguous():
            self.own(tensor, numbers.expand(tensor.shape).contiguous().flatten())  # shared: nobody writes into it
            return
        if key in self._entries:
            flat = self._entries[key][1].clone()
        else:
            flat = torch.zeros(size, dtype=torch.int32, device=tensor.device)
        shown = flat.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())
        shown.copy_(numbers if numbers is not None else torch.zeros((), dtype=torch.int32))
        self.own(tensor, flat)


class Numbered(NamedTuple):
    """A module's parameters with a number for each element: where they are, the numbers, and the last of them."""

    parameters: Mapping[str, Placed]
    memory: Memory
    last: int


def numbered(module: nn.Module) -> Numbered:
    """Gives every element of every storage that a parameter lies in a number, from 1 on."""
    memory = Memory()
    firsts: dict[int, int] = {}
    parameters: dict[str, Placed] = {}
    free = 1
    for name, parameter in module.named_parameters(remove_duplicate=False):
        storage = parameter.untyped_storage()
        size = storage.nbytes() // parameter.element_size()
        key = storage._cdata
        if key not in firsts:
            firsts[key] = free
            numbers = torch.arange(free, free + size, dtype=torch.int32, device=parameter.device)
            memory.own(parameter, numbers)
            memory.of_parameters.add(numbers.untyped_storage()._cdata)
            free += size
        first = firsts[key] + int(parameter.storage_offset())
        parameters[name] = Placed(name, int(first), tuple(parameter.shape), tuple(parameter.stride()))
    return Numbered(parameters, memory, free - 1)
