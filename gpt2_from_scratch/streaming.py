"""Runs a model whose weights stay in their file, so that the file may be larger than memory.

A model is run unit by unit: the embeddings, one block after another, the head. `Units` converts a unit's weights to the
precision that is computed in when the unit begins, and drops the converted ones when it ends. A model that streams also
gives the pages of its mapped file back to the system then, so that it holds one unit at a time.
"""

import ctypes
import mmap
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from gpt2_from_scratch.precision import holding

_DONT_NEED = 4  # Linux's MADV_DONTNEED: a page is read from its file again when it is next touched
_FLOAT32 = 4  # bytes of a weight in the precision in which the reference computes
_SHARE = 0.5  # of the free memory, for the weights of one model; logits and activations need the rest
_ROWS = 4096  # of the head's table at a time: 20 MB of GPT-2 large, whose whole table is a twelfth of the model


class Units:
    """The parts of a model that run one after another.

    Args:
        tables: the embeddings. The rows that are looked up are converted, and not the table.
        modules: the blocks, and what comes after them.
        dtype: that the model computes in where nothing else is asked.
    """

    def __init__(self, tables: Sequence[nn.Module], modules: Sequence[nn.Module], dtype: torch.dtype) -> None:
        self.tables = tables
        self.modules = modules
        self.dtype = dtype
        self._ready: set[nn.Module] = set()
        self._mapped: dict[int, Tensor] = {}  # by address; as they are kept, nothing else can get that address
        self._running: list[AbstractContextManager[None]] = []
        self._in_parts: nn.Module | None = None  # the head of a model that streams

    @contextmanager
    def computing_in(self, dtype: torch.dtype) -> Iterator[None]:
        """Inside, rows that are looked up have this dtype, and so has every unit that streams."""
        before, self.dtype = self.dtype, dtype
        hooks = [table.register_forward_hook(self._looked_up, prepend=True) for table in self.tables]
        try:
            yield
        finally:
            self.dtype = before
            for hook in hooks:
                hook.remove()

    @contextmanager
    def ready(self, module: nn.Module, dtype: torch.dtype | None = None) -> Iterator[None]:
        """Inside, the weights of a unit have this dtype, or their own. If they were ready before, nothing is done.

        A head that streams is converted in parts when it is run, unless its weights are to have their own dtype.
        """
        if module in self._ready or (module is self._in_parts and dtype is not None):
            yield
            return
        stored = {parameter: parameter.data for parameter in module.parameters()}
        self._ready.add(module)
        try:
            with holding(stored, dtype):
                yield
        finally:
            self._ready.remove(module)
            self.give_back(stored.values())

    def give_back(self, parameters: Iterable[Tensor]) -> None:
        """Takes the pages of these parameters out of memory, if they are mapped from a file and the model streams."""
        mapped = [parameter for parameter in parameters if self._is_mapped(parameter)]
        for parameter in mapped:
            _give_back(parameter)
        if mapped:
            _give_heap_back()

    def _is_mapped(self, parameter: Tensor) -> bool:
        kept = self._mapped.get(parameter.data_ptr())
        return kept is not None and kept.data_ptr() == parameter.data_ptr()  # not in a copy of this object

    def stream(self, files: Collection[Path]) -> int:
        """From now on every unit is ready while it runs, and its pages are given back afterwards.

        Nobody may write to mapped weights: with the pages the changes would go.

        Args:
            files: that the weights are mapped from. Memory of other kinds is not given back.

        Returns:
            Bytes of matrices that stay in memory, as they are not mapped. Only Linux tells; elsewhere 0.
        """
        ranges = _mappings(files)
        parameters = {parameter for module in (*self.tables, *self.modules) for parameter in module.parameters()}
        for data in (parameter.data for parameter in parameters):
            if any(begin <= data.data_ptr() and data.data_ptr() + data.nbytes <= end for begin, end in ranges):
                self._mapped[data.data_ptr()] = data
        held = [each.nbytes for each in parameters if each.dim() > 1 and not self._is_mapped(each)]
        for table in self.tables:
            table.register_forward_hook(self._looked_up)
        *units, head = self.modules
        for module in units:
            module.register_forward_pre_hook(self._begin, prepend=True)
            module.register_forward_hook(self._end, always_call=True)
        self._in_parts = head
        head.forward = partial(self._some_rows_at_a_time, head, head.forward)
        return sum(held) if sys.platform == "linux" else 0

    def _begin(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._running.append(self.ready(module, self.dtype))
        self._running[-1].__enter__()

    def _end(self, *_: Any) -> None:
        self._running.pop().__exit__(None, None, None)

    def _some_rows_at_a_time(self, head: nn.Module, forward: Callable[[Tensor], Tensor], states: Tensor) -> Tensor:
        """The logits, as the head computes them, for some rows of its table after others."""
        if head in self._ready:
            return forward(states)
        weight = head.get_parameter("weight")
        table, logits, start = weight.data, None, 0
        with torch.inference_mode(False), _disable_current_modes():  # as in `holding`
            parts = torch.split(table, _ROWS)
        try:
            for rows in parts:
                with holding({weight: rows}, self.dtype):
                    part = forward(states)
                if logits is None:
                    logits = part.new_empty(*part.shape[:-1], len(table))
                logits[..., start : start + len(rows)] = part
                start += len(rows)
                if self._is_mapped(table):
                    _give_back(rows)
        finally:
            self.give_back([table])
        assert logits is not None, "a vocabulary has a token"
        return logits

    def _looked_up(self, table: nn.Module, args: tuple[Any, ...], rows: Tensor) -> Tensor:
        with self.ready(table):
            return rows.to(self.dtype)


def larger_than_memory(weights: int) -> bool:
    """Whether so many weights, in float32, are too many to be held beside all else that a run needs."""
    limits = []
    for path in ("/proc/meminfo", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(path).read_text()
        except OSError:
            continue
        if path == "/proc/meminfo":
            limits += [int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("MemAvailable:")]
        elif text.strip().isdigit():  # and not "max"
            limits.append(int(text))
    return bool(limits) and weights * _FLOAT32 > _SHARE * min(limits)


def _mappings(files: Collection[Path]) -> list[tuple[int, int]]:
    """The addresses, from and to, at which this process has mapped these files. Only Linux says them."""
    if sys.platform != "linux":
        return []
    names = {str(path.resolve()) for path in files}
    lines = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
    found = [line[0].split("-") for line in lines if len(line) == 6 and line[5] in names]
    return [(int(begin, 16), int(end, 16)) for begin, end in found]


def _give_back(data: Tensor) -> None:
    """Takes the pages that only this tensor lies on out of memory. They are mapped from a file, and unchanged."""
    begin = -(-data.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (data.data_ptr() + data.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - begin
    if length > 0:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(length), _DONT_NEED)


def _give_heap_back() -> None:
    """Takes memory that was freed, and that glibc keeps for later, out of memory: 100 MB after a block in float64."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # not in every C library
    if trim is not None:
        trim(0)
