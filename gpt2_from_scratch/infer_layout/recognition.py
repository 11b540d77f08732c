"""The layout of a module that holds a checkpoint's weights already: each parameter is known by its values.

No code is run, so what the module computes does not matter: a model in which query and key are exchanged by mistake is
still seen to hold the query's weights where its author put them.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor, nn

from gpt2_from_scratch.arrays import name_of
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import MappingError
from gpt2_from_scratch.infer_layout.arrangement import Inexpressible, layout_of
from gpt2_from_scratch.infer_layout.events import Record, numbers_of
from gpt2_from_scratch.infer_layout.memory import numbered
from gpt2_from_scratch.infer_layout.skeleton import Reading
from gpt2_from_scratch.mapping import Layout

# Sums of the same float32 numbers in another order differ by less than this share of the sum of their magnitudes.
_SUMS = 1e-12


@dataclass(frozen=True)
class _Block:
    """A tensor of the checkpoint, or the parts or the head of it that a parameter may hold.

    Args:
        name: canonical.
        key: which elements of the tensor, as an index of its axes taken apart.
        values: of these elements.
    """

    name: str
    key: tuple[int | slice | list[int], ...]
    values: Tensor


def recognise(module: nn.Module, config: GPTConfig, read: Callable[[str], Tensor]) -> Layout | None:
    """Finds every tensor of a checkpoint among a module's parameters, in any arrangement of its axes.

    Args:
        module: somebody's GPT-2.
        config: of the checkpoint.
        read: canonical name -> the checkpoint's tensor.

    Returns:
        The layout, if each parameter holds the values of exactly one of GPT-2's tensors; else None.
    """
    return _Recognising(module, config, read).layout()


def holds_some(module: nn.Module, config: GPTConfig, read: Callable[[str], Tensor]) -> bool:
    """Whether any parameter holds the values of one of a checkpoint's matrices, in whatever arrangement."""
    recognising = _Recognising(module, config, read)
    return any(
        recognising.place(parameter.detach().cpu(), numbers_of(placed))
        for (_, parameter), placed in zip(
            module.named_parameters(remove_duplicate=False), numbered(module)[0].values(), strict=True
        )
        if parameter.dim() > 1
    )


class _Recognising:
    def __init__(self, module: nn.Module, config: GPTConfig, read: Callable[[str], Tensor]) -> None:
        self.module = module
        self.config = config
        self.tensors = {name: read(name) for name in config.tensor_shapes()}
        self.axes = {name: _atomic(name, tuple(tensor.shape), config) for name, tensor in self.tensors.items()}
        self.numbers = {
            name: torch.zeros(self.axes[name], dtype=torch.int32)
            for name in (*self.tensors, "lm_head.weight")
            if name in self.axes
        }
        self.blocks: dict[int, list[tuple[float, float, _Block]]] = defaultdict(list)
        for block in self._all_blocks():
            self.blocks[block.values.numel()].append((*_sums(block.values), block))

    def layout(self) -> Layout | None:
        placed_parameters, _, last = numbered(self.module)
        named = dict(self.module.named_parameters(remove_duplicate=False))
        done: set[int] = set()
        for name, placed in placed_parameters.items():
            if placed.first in done:
                continue
            done.add(placed.first)
            if not self.place(named[name].detach().cpu(), numbers_of(placed)):
                return None
        canonical = {name: numbers.reshape(self._shape(name)) for name, numbers in self.numbers.items()}
        for name, numbers in canonical.items():
            if bool((self.tensors[name][numbers == 0] != 0).any()):
                return None
        reading = Reading(canonical=canonical, tied="lm_head.weight" not in canonical)
        record = Record(placed_parameters, last)
        try:
            return layout_of(self.module, record, reading, self.config, name_of(self.module), {})
        except (Inexpressible, MappingError):
            return None

    def _shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors.get(name, self.tensors["wte.weight"]).shape)

    def _all_blocks(self) -> Iterator[_Block]:
        for name, tensor in self.tensors.items():
            axes = tensor.reshape(self.axes[name])
            if "attn" not in name or axes.dim() == 1:
                yield _Block(name, (slice(None),) * axes.dim(), axes)
                continue
            fused = "c_attn" in name
            parts = axes.dim() - 3 if fused else -1
            head = axes.dim() - 2 if fused else 0
            orders = [list(order) for size in (1, 2, 3) for order in permutations(range(3), size)] if fused else [[]]
            for order in orders:
                key: list[int | slice | list[int]] = [slice(None)] * axes.dim()
                if fused:
                    key[parts] = order if len(order) > 1 else order[0]
                yield _Block(name, tuple(key), axes[tuple(key)])
                if len(order) > 1:
                    continue
                for each in range(self.config.n_head):
                    key[head] = each
                    yield _Block(name, tuple(key), axes[tuple(key)])

    def place(self, values: Tensor, numbers: Tensor) -> bool:
        """Finds the block that a parameter holds; or those that its slices hold, where it holds several."""
        total, size = _sums(values)
        found: dict[tuple[str, str], tuple[_Block, tuple[int, ...]]] = {}
        for other_total, other_size, block in self.blocks.get(values.numel(), ()):
            if abs(total - other_total) > _SUMS * (size + other_size) or abs(size - other_size) > _SUMS * (size + 1):
                continue
            order = _arranged(block.values.to(values.dtype), values)
            if order is not None:
                found.setdefault((block.name, str(block.key)), (block, order))
        if len(found) == 1:
            ((block, order),) = found.values()
            return self._put(block, order, numbers)
        if found or values.dim() < 2:
            return False  # values that are in several places say nothing
        return all(self.place(part, shown) for part, shown in zip(values, numbers, strict=True))

    def _put(self, block: _Block, order: tuple[int, ...], numbers: Tensor) -> bool:
        sizes = [block.values.shape[axis] for axis in order]
        arranged = numbers.reshape(sizes).permute([order.index(axis) for axis in range(len(order))])
        target = self.numbers[block.name]
        if bool(target[block.key].any()):
            if block.name != "wte.weight" or "lm_head.weight" in self.numbers:
                return False
            self.numbers["lm_head.weight"] = torch.zeros_like(target)  # an untied copy of the head
            self.tensors["lm_head.weight"] = self.tensors["wte.weight"]
            target = self.numbers["lm_head.weight"]
        target[block.key] = arranged
        return True


def _atomic(name: str, shape: tuple[int, ...], config: GPTConfig) -> tuple[int, ...]:
    """A canonical shape with parts and heads as axes of their own."""
    heads = (config.n_head, config.head_dim)
    if "attn.c_attn" in name:
        return (*shape[:-1], 3, *heads)
    return (*heads, shape[1]) if name.endswith("attn.c_proj.weight") else shape


def _sums(values: Tensor) -> tuple[float, float]:
    return float(values.sum(dtype=torch.float64)), float(values.abs().sum(dtype=torch.float64))


def _arranged(block: Tensor, values: Tensor) -> tuple[int, ...] | None:
    """The order of axes in which a block is what a parameter holds."""
    for order in permutations(range(block.dim())):
        if torch.equal(block.permute(order).reshape(values.shape), values):
            return order
    return None
