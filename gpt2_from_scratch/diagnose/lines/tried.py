"""What the searches for an explanation share: the table of GPT-2's values, and what counts as an answer.

An operation is run again with something else (`again_with`). The answer is one of GPT-2's numbers that comes later in
the run than what the operation takes (`Case.accepted`).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gpt2_from_scratch.anatomy.entries import Entry
from gpt2_from_scratch.anatomy.identity import ROUNDED, Identity, Table, arrangements
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.recorder import Again

HIDDEN = -1e30  # what stands for a mask's fill: exp of it is 0, and sums of it are finite
MOVING = frozenset(
    "view reshape transpose permute swapaxes flatten unflatten movedim split chunk unbind getitem".split()
)

PRODUCTS = frozenset("matmul dot bmm baddbmm einsum scaled_dot_product_attention".split())  # of several values


@dataclass(frozen=True)
class Found:
    """A change after which an operation gives one of GPT-2's numbers; the one of the lowest score is the answer."""

    score: tuple[float, ...]
    position: int | None
    place: int | str | None
    was: object
    wanted: object
    becomes: Identity
    output: Tensor


@dataclass(frozen=True)
class Case:
    """What the searches know.

    Args:
        config: of the checkpoint.
        table: GPT-2's values.
        place: the only values that are tried as operands, such as ``h.*.attn.k``; None: all.
        taken: keys of the weights that the run takes somewhere.
    """

    config: GPTConfig
    table: Table
    place: str | None = None
    taken: frozenset[str] = frozenset()

    def accepted(self, outputs: Sequence[Tensor], inputs: Sequence[Identity], same: bool = False) -> Identity | None:
        """What changed outputs are, if they are a later number of GPT-2's than the inputs."""
        if not outputs or not outputs[0].is_floating_point():
            return None
        label = self.table.entry_of(outputs[0])
        if label.kind != "entry" or not label.known or label.entry is None:
            return None
        if label.entry.weight:
            return label if same and any(each.entry is label.entry for each in inputs) else None
        for each in inputs:
            if each.entry is None or each.entry.weight:
                continue
            if label.entry is each.entry and not same:
                return None
            if label.entry.order < each.entry.order and not (same or _one_step(label.entry, each.entry)):
                return None
        return label

    def score(self, label: Identity, inputs: Sequence[Identity], more: float = 0) -> tuple[float, ...]:
        assert label.entry is not None
        last = max((each.entry.order for each in inputs if each.entry is not None and not each.entry.weight), default=0)
        factor = 0.0 if abs(label.factor - 1) <= ROUNDED else 1.0
        return (more, label.entry.order - last if label.entry.order >= last else last - label.entry.order, factor)

    def blocks(self, entry: Entry) -> tuple[int, ...]:
        """The number of an entry's block: -1 before the blocks, and the number of blocks behind them."""
        if entry.layer is not None:
            return (entry.layer,)
        first, last = -1, self.config.n_layer
        if entry.key in ("wte.weight", "lm_head.weight"):
            return first, last
        return (first,) if entry.key in ("wte", "wpe", "embedding", "wpe.weight") else (last,)

    def arranged(
        self, entry: Entry, shape: tuple[int, ...], fixed: dict[str, int], like: str = ""
    ) -> Iterator[tuple[Tensor, str, tuple[tuple[str, int], ...]]]:
        """An entry in a given shape: as it is, in the likeliest order of axes first."""
        count = math.prod(shape)
        cuts: list[tuple[tuple[str, int], ...]] = [()]
        if fixed and entry.size != count:
            cuts.append(tuple((letter, index) for letter, index in fixed.items() if letter in entry.axes))
        repeats = entry.size < count and shape[0] == self.table.ids.shape[0]
        if entry.size != count and len(cuts) == 1 and not repeats:
            return
        value, letters = entry.value, entry.axes
        if entry.causal:
            hidden = torch.ones(value.shape[-2:], dtype=torch.bool).triu(1)
            value = value.masked_fill(hidden, HIDDEN)
        for cut in cuts:
            sliced, left = value, letters
            for letter, index in cut:
                sliced = sliced.select(left.index(letter), index)
                left = left.replace(letter, "", 1)
            target = shape[1:] if repeats and sliced.numel() * shape[0] == count else shape
            if math.prod(target) != sliced.numel():
                continue
            found = []
            for axes in arrangements(target, left, tuple(sliced.shape)):
                order = " ".join("".join(left[axis] for axis in group) for group in axes)
                content = sliced.permute([axis for group in axes for axis in group]).reshape(target).expand(shape)
                found.append((order.replace("S", "T") != like.replace("S", "T"), _unusual(order), order, content))
            for _, _, order, content in sorted(found, key=lambda each: each[:2])[:4]:
                yield content, order, cut


def _one_step(one: Entry, other: Entry) -> bool:
    """Whether two entries are forms of one step: their keys begin alike."""
    return one.layer == other.layer and one.key.rsplit(".", 1)[0] == other.key.rsplit(".", 1)[0]


def is_turned(label: Identity) -> bool:
    """Whether scores have keys before queries."""
    flat = label.order.replace(" ", "")
    return "S" in flat and "T" in flat and flat.index("S") < flat.index("T")


def _unusual(order: str) -> bool:
    """Whether axes stand in an order that code seldom has: prompts not first, the width of a head before the heads."""
    flat = order.replace(" ", "")
    return "DH" in flat or ("B" in flat and not flat.startswith("B"))


def again_with(
    again: Again,
    inputs: dict[int, Tensor],
    constants: dict[int | str, object],
    shape: torch.Size | None = None,
) -> Iterator[tuple[Tensor, ...]]:
    """What the call gives with other arguments; nothing where it fails, or its first output has not that shape."""
    if shape is not None and not _may_have(shape, again, inputs):
        return
    try:
        outputs = again.run(inputs, constants)
    except Exception:  # whatever torch, numpy or the user's own class object to: then this change is not the answer
        return
    if outputs and isinstance(outputs[0], Tensor):
        yield outputs


def _may_have(shape: torch.Size, again: Again, inputs: dict[int, Tensor]) -> bool:
    """Whether the call may give this shape, as far as can be known without computing it.

    Operands in another order of axes may broadcast to thousands of times as many numbers.
    """
    operands = {position: inputs.get(position, value) for position, value in enumerate(again.inputs)}
    if all(value.shape == again.inputs[position].shape for position, value in operands.items()):
        return True
    try:
        outputs = again.run({position: value.to("meta") for position, value in operands.items()}, {})
    except Exception:  # numpy has no such tensors, and torch not every operation for them
        return True
    return not outputs or outputs[0].shape == shape
