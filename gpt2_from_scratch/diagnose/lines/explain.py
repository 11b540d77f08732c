"""Why an operation that takes GPT-2's numbers gives others.

The operation is run again with one thing changed: a constant, a mask, a factor or the order of axes of what it takes,
an operand exchanged for another of GPT-2's values, or another operation in its place. The change after which it gives
one of GPT-2's numbers says what is wrong, and repairs the run.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from gpt2_from_scratch.anatomy.activations import CUBIC, ROOT
from gpt2_from_scratch.anatomy.entries import Entry
from gpt2_from_scratch.anatomy.identity import ROUNDED, Identity, Table, arrangements
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.recorder import Again, Operation

Kind = Literal[
    "constant", "mask", "factor", "order", "module", "operand", "exchange", "operation", "extra", "rounding", "value"
]
KINDS: tuple[Kind, ...] = (
    "mask",
    "constant",
    "factor",
    "order",
    "module",
    "operand",
    "exchange",
    "operation",
    "extra",
    "value",
)

_MOST_SUPPOSED = 4  # values in the place of an unexplained one: each takes a run
_MOST_TRIED = 400  # operands for one input: the values of two blocks
_HIDDEN = -1e30  # what stands for a mask's fill: exp of it is 0, and sums of it are finite


@dataclass(frozen=True)
class Explanation:
    """What is wrong with an operation.

    Args:
        kind: which thing, once changed, makes it right.
        operation: the operation.
        position: which of its inputs, for the kinds that change one.
        place: which of its constants.
        found: the input's identity, or the constant.
        wanted: what GPT-2 has instead: an identity of another operand, a constant, a name of an operation.
        becomes: what the operation gives then.
        distance: how far its numbers are from those, relative to the largest.
        unknown: which of its inputs were unknown; in another call of the line more may be, by another mistake.
    """

    kind: Kind
    operation: Operation
    position: int | None
    place: int | str | None
    found: object
    wanted: object
    becomes: Identity
    distance: float
    unknown: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Found:
    score: tuple[float, ...]
    position: int | None
    place: int | str | None
    was: object
    wanted: object
    becomes: Identity
    output: Tensor


class Explainer:
    """Explains operations of one run.

    Args:
        config: of the checkpoint.
        table: GPT-2's values.
        place: the only values that are tried as operands, such as ``h.*.attn.k``; None: all.
    """

    def __init__(self, config: GPTConfig, table: Table, place: str | None = None) -> None:
        self.config, self.table, self.place = config, table, place

    def explain(
        self,
        operation: Operation,
        again: Again,
        labels: Sequence[Identity],
        output: Tensor,
        kinds: Sequence[Kind] = KINDS,
    ) -> tuple[Explanation, Tensor] | None:
        """What is wrong with an operation, and what it should have given."""
        inputs = [labels[number] for number in operation.inputs]
        if len(inputs) != len(again.inputs):
            return None
        for kind in kinds:
            best: _Found | None = None
            for found in _SEARCHES[kind](self, operation, again, inputs, output):
                if best is None or found.score < best.score:
                    best = found
            if best is not None:
                explained, repaired = self._told(kind, operation, best, output)
                return replace(explained, unknown=_unknown(inputs)), repaired
        return None

    def same(
        self, known: Explanation, operation: Operation, again: Again, labels: Sequence[Identity], output: Tensor
    ) -> Tensor | None:
        """The repaired output of another call of the same line, by the same change; None if that repairs nothing."""
        inputs = [labels[number] for number in operation.inputs]
        if len(inputs) != len(again.inputs) or not set(_unknown(inputs)) <= set(known.unknown):
            return None
        if known.kind == "rounding":
            again_found = self.explain(operation, again, labels, output, ("factor", "operand", "order", "value"))
            return again_found[1] if again_found is not None and again_found[0].kind == "rounding" else None
        kind, wanted = known.kind, known.wanted
        if kind == "value" and isinstance(wanted, Identity) and wanted.entry is not None:
            there = self._there(wanted, inputs)
            return self._content(there, tuple(output.shape)) if there is not None else None
        if kind == "operand" and self.place is None and isinstance(wanted, Identity) and wanted.entry is not None:
            narrow = Explainer(self.config, self.table, wanted.entry.place)
            repaired = narrow.same(known, operation, again, labels, output)
            if repaired is not None:
                return repaired
        best: _Found | None = None
        for found in _SEARCHES[kind](self, operation, again, inputs, output, known.position):
            if kind == "constant" and (found.place != known.place or not _equal(found.wanted, known.wanted)):
                continue
            if kind == "operation" and found.wanted != known.wanted:
                continue
            if best is None or found.score < best.score:
                best = found
        return None if best is None else best.output

    def supposed(
        self, wanted: Identity, operation: Operation, labels: Sequence[Identity], output: Tensor
    ) -> tuple[Explanation, Tensor] | None:
        """GPT-2's value in the place of what an operation gave, and that as an explanation."""
        unknown = _unknown([labels[number] for number in operation.inputs])
        content = self._content(wanted, tuple(output.shape))
        if content is None:
            return None
        return Explanation("value", operation, None, None, UNLIKE, wanted, wanted, math.inf, unknown), content

    def next_ones(self, operation: Operation, labels: Sequence[Identity], shape: tuple[int, ...]) -> Iterator[Identity]:
        """What GPT-2 may have in the place of an operation's output: the next steps behind its inputs, in its shape."""
        inputs = [labels[number] for number in operation.inputs]
        taken = [each.entry for each in inputs if each.entry is not None]
        data = [each for each in taken if not each.weight]
        last = max((each.order for each in data), default=-1)
        layers = {each.layer for each in data or taken}
        near = {layer + step for layer in layers if layer is not None for step in (0, 1)} | {None}
        fixed = dict(pair for each in inputs if each.kind == "entry" for pair in each.fixed)
        count = 0
        for entry in (*taken[:1], *self.table.entries):
            itself = entry in taken and entry.weight and entry.value.numel() == math.prod(shape)
            step = entry.main or entry.axes == "BT2HD"
            if not itself and (entry.weight or not step or entry.order <= last or entry.layer not in near):
                continue
            if not data and not itself and not _made_of(entry, taken):
                continue
            for _, order, cut in self.arranged(entry, shape, fixed):
                yield Identity("entry", entry, 1.0, order, cut)
                count += 1
                break
            if count >= _MOST_SUPPOSED:
                return

    def _there(self, wanted: Identity, inputs: Sequence[Identity]) -> Identity | None:
        """The same value of the block that the inputs belong to."""
        assert wanted.entry is not None
        layers = [each.entry.layer for each in inputs if each.entry is not None and each.entry.layer is not None]
        if wanted.entry.layer is None or not layers:
            return wanted
        key = wanted.entry.key.replace(f"h.{wanted.entry.layer}.", f"h.{max(layers)}.", 1)
        entry = self.table.by_key.get(key)
        fixed = dict(pair for each in inputs if each.kind == "entry" for pair in each.fixed)
        cut = tuple((letter, fixed.get(letter, index)) for letter, index in wanted.fixed)
        return Identity("entry", entry, 1.0, wanted.order, cut) if entry is not None else None

    def _content(self, wanted: Identity, shape: tuple[int, ...]) -> Tensor | None:
        """An identity's numbers in a shape and in its order of axes."""
        if wanted.entry is None:
            return None
        for content, order, cut in self.arranged(wanted.entry, shape, dict(wanted.fixed), wanted.order):
            if order == wanted.order and cut == wanted.fixed:
                return content.clone()
        return None

    def _told(self, kind: Kind, operation: Operation, best: _Found, output: Tensor) -> tuple[Explanation, Tensor]:
        distance = math.inf
        if best.output.shape == output.shape:
            scale = float(best.output.abs().max()) or 1.0
            distance = float((best.output - output).abs().nan_to_num(math.inf, math.inf).max()) / scale
        shown: Kind = kind
        if distance <= ROUNDED and kind in ("factor", "operand", "value", "order"):
            shown = "rounding"
        explained = Explanation(
            shown, operation, best.position, best.place, best.was, best.wanted, best.becomes, distance
        )
        return explained, best.output

    # -- judging

    def _accepted(self, outputs: Sequence[Tensor], inputs: Sequence[Identity], same: bool = False) -> Identity | None:
        """What changed outputs are, if they are a later number of GPT-2's than the inputs."""
        if not outputs or not outputs[0].is_floating_point():
            return None
        label = self.table.entry_of(outputs[0])
        if label.kind != "entry" or not label.known or label.entry is None or label.entry.weight:
            return None
        for each in inputs:
            if each.entry is None or each.entry.weight:
                continue
            if label.entry is each.entry and not same:
                return None
            if label.entry.order < each.entry.order and not (same or _one_step(label.entry, each.entry)):
                return None
        return label

    def _score(self, label: Identity, inputs: Sequence[Identity], more: float = 0) -> tuple[float, ...]:
        assert label.entry is not None
        last = max((each.entry.order for each in inputs if each.entry is not None and not each.entry.weight), default=0)
        factor = 0.0 if abs(label.factor - 1) <= ROUNDED else 1.0
        return (more, label.entry.order - last if label.entry.order >= last else last - label.entry.order, factor)

    # -- searches

    def _constants(
        self, operation: Operation, again: Again, inputs: Sequence[Identity], output: Tensor, only: int | None = None
    ) -> Iterator[_Found]:
        for place, was, wanted in (*_other_constants(operation, self.config, inputs), *self._mask_not_given(operation)):
            for outputs in _tried(again, {}, {place: wanted}):
                label = self._accepted(outputs, inputs, same=operation.name in _MOVING)
                if label is not None:
                    yield _Found(self._score(label, inputs), None, place, was, wanted, label, outputs[0])

    def _mask_not_given(self, operation: Operation) -> Iterator[tuple[int | str, object, object]]:
        """Of torch's attention in one call."""
        if operation.name == "multi_head_attention_forward" and operation.constants.get("attn_mask", ...) is None:
            tokens = self.table.sizes["T"]
            yield "attn_mask", None, torch.full((tokens, tokens), -math.inf).triu(1).double()

    def _masks(
        self, operation: Operation, again: Again, inputs: Sequence[Identity], output: Tensor, only: int | None = None
    ) -> Iterator[_Found]:
        for position, value in enumerate(again.inputs):
            label = inputs[position]
            if operation.name in _FILLING and label.kind == "uniform" and value.numel() == 1:
                for outputs in _tried(again, {position: torch.full_like(value, -math.inf)}, {}):
                    became = self._accepted(outputs, inputs) if value.is_floating_point() else None
                    if became is not None:
                        yield _Found(self._score(became, inputs), position, None, label, "-inf", became, outputs[0])
            if label.entry is not None or value.dim() < 2 or (only is not None and position != only):
                continue
            if label.kind not in ("mask", "uniform") and value.dtype != torch.bool:
                continue
            rows, columns = value.shape[-2:]
            seen = torch.ones(rows, columns, dtype=torch.bool).tril(max(columns - rows, 0))
            numbers = torch.unique(value)
            pairs = [(numbers[0], numbers[-1])] if numbers.numel() > 1 else []
            if value.dtype == torch.bool:
                pairs = [(torch.tensor(False), torch.tensor(True))]
            elif not pairs:
                pairs = [(torch.tensor(0), torch.tensor(1))]
            pairs += [(torch.tensor(-math.inf), torch.tensor(0.0))] if value.is_floating_point() else []
            for low, high in pairs:
                for pattern in (seen, ~seen):
                    mask = torch.where(pattern, high.to(value.dtype), low.to(value.dtype)).expand(value.shape)
                    for outputs in _tried(again, {position: mask}, {}):
                        became = self._accepted(outputs, inputs)
                        if became is not None:
                            wanted = "a mask that hides later keys"
                            yield _Found(self._score(became, inputs), position, None, label, wanted, became, outputs[0])
        yield from self._filled(operation, inputs, output)

    def _filled(self, operation: Operation, inputs: Sequence[Identity], output: Tensor) -> Iterator[_Found]:
        """Scores that are written to, at indices or where something holds: GPT-2's masked scores instead."""
        label = next((each for each in inputs if each.entry is not None), None)
        if operation.name not in _FILLING or label is None or label.entry is None or abs(label.factor - 1) > ROUNDED:
            return
        if not label.entry.place.endswith(".scores") or _turned(label) or not output.is_floating_point():
            return
        entry = self.table.by_key[f"{label.entry.key.rpartition('.')[0]}.masked"]
        for content, order, cut in self.arranged(entry, tuple(output.shape), dict(label.fixed), label.order):
            if order == label.order and cut == label.fixed:
                became = Identity("entry", entry, 1.0, order, cut)
                wanted = "only the later keys hidden"
                yield _Found((10.0,), None, None, "the pattern of what is hidden", wanted, became, content.clone())

    def _factors(
        self, operation: Operation, again: Again, inputs: Sequence[Identity], output: Tensor, only: int | None = None
    ) -> Iterator[_Found]:
        for position, value in enumerate(again.inputs):
            label = inputs[position]
            if label.kind != "entry" or label.entry is None or (only is not None and position != only):
                continue
            if label.factor == 1.0:
                continue
            for wanted in (1.0, *_FACTORS(self.config)):
                for outputs in _tried(again, {position: value * (wanted / label.factor)}, {}):
                    became = self._accepted(outputs, inputs)
                    if became is not None:
                        yield _Found(self._score(became, inputs), position, None, label, wanted, became, outputs[0])

    def _orders(
        self, operation: Operation, again: Again, inputs: Sequence[Identity], output: Tensor, only: int | None = None
    ) -> Iterator[_Found]:
        for position, value in enumerate(again.inputs):
            label = inputs[position]
            if label.kind not in ("entry", "scrambled") or value.dim() < 2 or (only is not None and position != only):
                continue
            if label.entry is None or (label.entry.weight and value.dim() > 3):
                continue
            if operation.name in _MOVING and position == 0 and label.kind == "entry":
                fixed = dict(label.fixed)
                for content, shown, cut in self.arranged(label.entry, tuple(output.shape), fixed):
                    same = Identity("entry", label.entry, label.factor, shown, cut)
                    yield _Found((9.0,), position, None, label, shown, same, label.factor * content)
            axes = tuple(range(value.dim()))
            for order in permutations(axes):
                if order == axes:
                    continue
                for outputs in _tried(again, {position: value.permute(order).contiguous()}, {}, output.shape):
                    became = self._accepted(outputs, inputs, same=operation.name in _MOVING)
                    if became is not None:
                        moved = sum(one != other for one, other in zip(order, axes, strict=True))
                        score = self._score(became, inputs)
                        unusual = became.entry is not None and _natural(became.order) != _natural(became.entry.axes)
                        yield _Found((*score, unusual, moved), position, None, label, order, became, outputs[0])

    def _modules(
        self, operation: Operation, again: Again, inputs: Sequence[Identity], output: Tensor, only: int | None = None
    ) -> Iterator[_Found]:
        """All weights that an operation takes exchanged for those of another module."""
        mine = {position: each for position, each in enumerate(inputs) if each.entry is not None and each.entry.weight}
        if len(mine) < (2 if only is None else 1):
            return
        first = next(iter(mine))
        entry = mine[first].entry
        assert entry is not None
        for other in self.table.entries:
            if not other.weight or other is entry or other.axes != entry.axes or other.shape != entry.shape:
                continue
            if other.key.rsplit(".", 1)[1] != entry.key.rsplit(".", 1)[1]:
                continue
            module = other.key.rsplit(".", 1)[0]
            contents: dict[int, Tensor] = {}
            for position, label in mine.items():
                assert label.entry is not None
                there = self.table.by_key.get(f"{module}.{label.entry.key.rsplit('.', 1)[1]}")
                if there is None or there.axes != label.entry.axes:
                    break
                for content, order, _ in self.arranged(
                    there, tuple(again.inputs[position].shape), dict(label.fixed), label.order
                ):
                    if order == label.order:
                        contents[position] = content
                        break
            if len(contents) < len(mine):
                continue
            for outputs in _tried(again, contents, {}):
                became = self._accepted(outputs, inputs)
                if became is not None:
                    identity = Identity("entry", other, 1.0, mine[first].order, mine[first].fixed)
                    yield _Found(self._score(became, inputs), first, None, mine[first], identity, became, outputs[0])

    def _exchanges(
        self, operation: Operation, again: Again, inputs: Sequence[Identity], output: Tensor, only: int | None = None
    ) -> Iterator[_Found]:
        """Operands in another order."""
        entries = {position: each.entry for position, each in enumerate(inputs) if each.kind == "entry"}
        groups = [
            [position for position, entry in entries.items() if entry is not None and entry.weight == weight]
            for weight in (False, True)
        ]
        orders = [(data, order) for data in groups if 2 <= len(data) <= 3 for order in permutations(data)]
        for data, order in orders:
            if order == tuple(data):
                continue
            changed = {position: again.inputs[other] for position, other in zip(data, order, strict=True)}
            for outputs in _tried(again, changed, {}, output.shape):
                became = self._accepted(outputs, inputs)
                if became is not None:
                    first = next(position for position, other in zip(data, order, strict=True) if position != other)
                    wanted = inputs[order[data.index(first)]]
                    score = self._score(became, inputs)
                    yield _Found(score, first, None, inputs[first], wanted, became, outputs[0])

    def _operands(
        self, operation: Operation, again: Again, inputs: Sequence[Identity], output: Tensor, only: int | None = None
    ) -> Iterator[_Found]:
        yield from self._biases(again, inputs, output)
        for position, value in enumerate(again.inputs):
            label = inputs[position]
            if only is not None and position != only:
                continue
            others = [each for index, each in enumerate(inputs) if index != position]
            if not value.is_floating_point():
                yield from self._indices(position, value, label, again, others)
                continue
            if value.numel() < 2:
                continue
            twins = [
                index
                for index, each in enumerate(inputs)
                if index != position
                and each.entry is not None
                and each.entry is label.entry
                and each.order == label.order
            ]
            others = [each for each in others if not twins or each.entry is not label.entry]
            candidates = self._candidates(label, others, value)
            scaled = label.kind == "entry" and abs(label.factor - 1) > ROUNDED and not twins
            for entry, identity, content in _also_times(label.factor, candidates) if scaled else candidates:
                changed = {position: label.factor * content if twins else content}
                changed |= {index: inputs[index].factor * content for index in twins}
                for outputs in _tried(again, changed, {}, output.shape):
                    became = self._accepted(outputs, [*others, identity])
                    if became is None or became.entry is None:
                        continue
                    if operation.name == "add" and _of_next_block(label, identity):
                        continue
                    data = label.entry is not None and not label.entry.weight
                    back = data and label.entry is not None and became.entry.order < label.entry.order
                    apart = abs(entry.order - label.entry.order) if label.entry is not None else 0
                    form = not entry.main and not entry.weight
                    score = (float(back), float(_turned(became)), float(form), *self._score(became, others), apart)
                    yield _Found(score, position, None, label, identity, became, outputs[0])

    def _biases(self, again: Again, inputs: Sequence[Identity], output: Tensor) -> Iterator[_Found]:
        """All operands that lack a bias exchanged for those that have it."""
        contents: dict[int, Tensor] = {}
        first: tuple[int, Identity] | None = None
        for position, label in enumerate(inputs):
            if label.entry is None or not label.entry.key.endswith("_without"):
                continue
            whole = self.table.by_key.get(label.entry.key.removesuffix("_without"))
            shape = tuple(again.inputs[position].shape)
            found = next(iter(self.arranged(whole, shape, dict(label.fixed), label.order)), None) if whole else None
            if whole is not None and found is not None:
                contents[position] = label.factor * found[0]
                first = first or (position, Identity("entry", whole, label.factor, found[1], found[2]))
        if len(contents) < 2 or first is None:
            return
        for outputs in _tried(again, contents, {}):
            rest = [each for position, each in enumerate(inputs) if position not in contents]
            became = self._accepted(outputs, [*rest, first[1]])
            if became is not None and outputs[0].shape == output.shape:
                position, wanted = first
                yield _Found((-1.0,), position, None, inputs[position], wanted, became, outputs[0])

    def _indices(
        self, position: int, value: Tensor, label: Identity, again: Again, others: Sequence[Identity]
    ) -> Iterator[_Found]:
        tokens = self.table.ids.shape[-1]
        for wanted, content in (("the token ids", self.table.ids), ("positions 0, 1, …", torch.arange(tokens))):
            with contextlib.suppress(RuntimeError):
                content = content.to(value.dtype) if value.dtype != torch.bool else content
                shaped = (
                    content.expand(value.shape) if content.numel() != value.numel() else content.reshape(value.shape)
                )
                for outputs in _tried(again, {position: shaped}, {}):
                    became = self._accepted(outputs, others)
                    if became is not None:
                        yield _Found(self._score(became, others), position, None, label, wanted, became, outputs[0])

    def _candidates(
        self, label: Identity, others: Sequence[Identity], value: Tensor
    ) -> Iterator[tuple[Entry, Identity, Tensor]]:
        """GPT-2's values that could stand in the place of an operand, in the operand's shape."""
        weight = label.entry is not None and label.entry.weight
        taken = [each.entry for each in (label, *others) if each.entry is not None]
        near = {block + step for entry in taken for block in self._blocks(entry) for step in (-1, 0, 1)}
        fixed = dict(label.fixed if label.kind == "entry" else ())
        for each in others:  # what the other operands are of decides
            fixed |= dict(each.fixed if each.kind == "entry" else ())
        count = 0
        orders = [each.entry.order for each in others if each.entry is not None]
        here = label.entry.order if label.entry is not None else max(orders, default=0)
        nearest = sorted(self.table.entries, key=lambda each: (not (each.main or each.weight), abs(each.order - here)))
        for entry in nearest:
            if entry.weight != weight and label.kind == "entry":
                continue
            if not weight and taken and not near.intersection(self._blocks(entry)):
                continue
            if self.place is not None and entry.place != self.place:
                continue
            for content, order, cut in self.arranged(entry, tuple(value.shape), fixed, label.order):
                if weight and label.entry is entry and "DH" in order.replace(" ", ""):
                    continue  # rows of a weight in another order: then its operand is in the wrong one
                if (
                    label.entry is entry
                    and order == label.order
                    and abs(label.factor - 1) < ROUNDED
                    and cut == label.fixed
                ):
                    continue
                count += 1
                if count > _MOST_TRIED:
                    return
                yield entry, Identity("entry", entry, 1.0, order, cut), content

    def _blocks(self, entry: Entry) -> tuple[int, ...]:
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
            value = value.masked_fill(hidden, _HIDDEN)
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

    def _operations(
        self, operation: Operation, again: Again, inputs: Sequence[Identity], output: Tensor, only: int | None = None
    ) -> Iterator[_Found]:
        floating = [value for value in again.inputs if value.is_floating_point()]
        tries: list[tuple[str, Callable[..., Tensor], tuple[Tensor, ...]]] = []
        if len(floating) >= 2:
            tries += [(name, function, (floating[0], floating[1])) for name, function in _BINARY.items()]
        if floating:
            tries += [(name, function, (floating[0],)) for name, function in _UNARY.items()]
        if len(floating) == 1:
            numbers = [each for each in operation.constants.values() if isinstance(each, int | float)]
            for number in (torch.tensor(float(each)) for each in numbers if not isinstance(each, bool)):
                plain = [(name, function) for name, function in _BINARY.items() if "matmul" not in name]
                tries += [(name, function, (floating[0], number)) for name, function in plain]
        for name, function, operands in tries:
            try:
                if function(*(each.to("meta") for each in operands)).shape != output.shape:
                    continue
                content = function(*operands)
            except (RuntimeError, IndexError, ValueError):
                continue
            became = self._accepted([content], inputs)
            if became is not None and became.entry is not None and not became.entry.key.endswith(_TRIVIAL):
                yield _Found(self._score(became, inputs), None, None, operation.name, name, became, content)

    def _extras(
        self, operation: Operation, again: Again, inputs: Sequence[Identity], output: Tensor, only: int | None = None
    ) -> Iterator[_Found]:
        """An operation too many: what it took is what GPT-2 goes on with."""
        for position, (label, value) in enumerate(zip(inputs, again.inputs, strict=True)):
            entry = label.entry
            if (
                entry is None
                or label.kind != "entry"
                or entry.weight
                or not entry.main
                or abs(label.factor - 1) > ROUNDED
            ):
                continue
            if value.shape == output.shape and operation.name not in _MOVING:
                yield _Found((-entry.order,), position, None, operation.name, str(label), label, value.clone())

    def _values(
        self, operation: Operation, again: Again, inputs: Sequence[Identity], output: Tensor, only: int | None = None
    ) -> Iterator[_Found]:
        """The value of GPT-2's that the output resembles most."""
        if not output.is_floating_point() or output.numel() < 8:
            return
        orders = [each.entry.order for each in inputs if each.entry is not None and not each.entry.weight]
        layers = {each.entry.layer for each in inputs if each.entry is not None}
        near = {layer + step for layer in layers if layer is not None for step in (0, 1)} | {None}
        fixed = dict(next((each.fixed for each in inputs if each.kind == "entry" and each.fixed), ()))
        mine = output.nan_to_num(0.0, 0.0, 0.0)
        for entry in self.table.entries:
            if entry.weight or entry.layer not in near or (orders and entry.order < min(orders)):
                continue
            for content, order, cut in self.arranged(entry, tuple(output.shape), fixed):
                norm = float(content.norm() * mine.norm())
                alike = float((content * mine).sum()) / norm if norm else 0.0
                off = float((content - mine).norm() / content.norm().clamp(min=1e-300))
                own = any(each.entry is entry and each.fixed for each in inputs)
                if (alike < 0.5 or off > 1.0) and not own:
                    continue
                identity = Identity("entry", entry, 1.0, order, cut)
                yield _Found((off,), None, None, UNLIKE, identity, identity, content)


def _unknown(inputs: Sequence[Identity]) -> tuple[int, ...]:
    """Positions of the inputs that are no numbers of GPT-2's and no constants."""
    return tuple(at for at, each in enumerate(inputs) if each.kind in ("unknown", "scrambled", "not finite"))


def _made_of(entry: Entry, weights: Sequence[Entry]) -> bool:
    """Whether a step is the first that its weights are used in: rows of a table, a norm, a linear layer."""
    modules = {each.key.rpartition(".")[0] for each in weights}
    modules |= {"wte", "wpe"} if modules & {"wte", "wpe"} else set()  # one table may stand for the other
    return any(entry.key == module or entry.key.startswith(f"{module}.") for module in modules)


UNLIKE = "not a number of GPT-2's"


def _equal(one: object, other: object) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other)
    return one == other


def _also_times(
    factor: float, candidates: Iterator[tuple[Entry, Identity, Tensor]]
) -> Iterator[tuple[Entry, Identity, Tensor]]:
    """Each as it is, and times a factor: of ``0.044715 * x * x`` it is the square that is wrong, not the factor."""
    for entry, identity, content in candidates:
        yield entry, identity, content
        yield entry, replace(identity, factor=factor), factor * content


def _turned(label: Identity) -> bool:
    """Whether scores have keys before queries."""
    flat = label.order.replace(" ", "")
    return "S" in flat and "T" in flat and flat.index("S") < flat.index("T")


def _natural(order: str) -> str:
    """The order of queries, keys and tokens alone."""
    return "".join(letter for letter in order if letter in "TS")


def _of_next_block(label: Identity, wanted: Identity) -> bool:
    """Whether what is wanted belongs to a later block than what is there."""
    if label.entry is None or wanted.entry is None or label.entry.layer is None or wanted.entry.layer is None:
        return False
    return wanted.entry.layer > label.entry.layer


def _one_step(one: Entry, other: Entry) -> bool:
    """Whether two entries are forms of one step: their keys begin alike."""
    return one.layer == other.layer and one.key.rsplit(".", 1)[0] == other.key.rsplit(".", 1)[0]


def _unusual(order: str) -> bool:
    """Whether axes stand in an order that code seldom has: prompts not first, the width of a head before the heads."""
    flat = order.replace(" ", "")
    return "DH" in flat or ("B" in flat and not flat.startswith("B"))


def _tried(
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


def _FACTORS(config: GPTConfig) -> tuple[float, ...]:
    d = config.head_dim
    return (d**-0.5, d**0.5, d**-0.25, 0.5, 2.0, CUBIC, ROOT, ROOT * CUBIC)


_TRIVIAL = (".square", ".mean_square", ".cube", ".odds_plain", ".odds_plain_open")  # of any input they are an entry
_MOVING_NAMES = "view reshape transpose permute swapaxes flatten unflatten movedim split chunk unbind getitem"
_MOVING = frozenset(_MOVING_NAMES.split())

_FILLING_NAMES = "setitem masked_fill masked_fill_ where copyto putmask index_put_ index_put tril triu"
_FILLING = frozenset(_FILLING_NAMES.split())

_AXES_NAMES = "dim axis dim0 dim1 -1 -2 dims"
_AXES = frozenset(_AXES_NAMES.split())
_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "sub, operands exchanged": lambda a, b: b - a,
    "mul": torch.mul,
    "div": torch.div,
    "div, operands exchanged": lambda a, b: b / a,
    "matmul": torch.matmul,
    "matmul, operands exchanged": lambda a, b: torch.matmul(b, a),
    "matmul, second operand transposed": lambda a, b: torch.matmul(a, b.transpose(-1, -2)),
    "matmul, first operand transposed": lambda a, b: torch.matmul(a.transpose(-1, -2), b),
}
_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh GELU": lambda a: F.gelu(a, approximate="tanh"),
    "erf GELU": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
    "quick GELU": lambda a: a * torch.sigmoid(1.702 * a),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "exp": torch.exp,
    "softmax over the last axis": lambda a: a.softmax(-1),
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "square": torch.square,
    "cube": lambda a: a**3,
    "reciprocal": torch.reciprocal,
    "mean over the last axis": lambda a: a.mean(-1, keepdim=True),
    "variance over the last axis": lambda a: a.var(-1, keepdim=True, unbiased=False),
    "sum over the last axis": lambda a: a.sum(-1, keepdim=True),
    "maximum over the last axis": lambda a: a.amax(-1, keepdim=True),
}


def _other_constants(
    operation: Operation, config: GPTConfig, inputs: Sequence[Identity]
) -> Iterator[tuple[int | str, object, object]]:
    """Constants that an operation might have had: place, what it has, what it could have."""
    name, given = operation.name, dict(operation.constants)
    d, eps = config.head_dim, config.layer_norm_epsilon
    scale = d**-0.5 if config.scale_attn_weights else 1.0
    numbers = [eps, scale, 1 / scale, CUBIC, ROOT, d**-0.25, d**0.25, 0.5, 1.0, 2.0, 3.0, 1.702, 0.0]
    if config.scale_attn_by_inverse_layer_idx:
        layers = {each.entry.layer for each in inputs if each.entry is not None and each.entry.layer is not None}
        numbers += [scale / (layer + 1) for layer in layers] + [1.0 / (layer + 1) for layer in layers]
        numbers += [(layer + 1) / scale for layer in layers] + [layer + 1.0 for layer in layers]
    for place, was in given.items():
        if place in ("inplace", "out"):  # it would overwrite what the operation took
            continue
        if isinstance(was, bool):
            yield place, was, not was
        elif isinstance(was, int) and (place in _AXES or name in _OVER_AXES or name in _MOVING):
            for axis in range(-4, 5):
                if axis != was:
                    yield place, was, axis
            if name not in _MOVING:
                for number in (eps, 2, 3):
                    yield place, was, number
        elif isinstance(was, int | float):
            for number in (*numbers, -math.inf):
                if number != was:
                    yield place, was, int(number) if isinstance(was, int) and float(number).is_integer() else number
        elif isinstance(was, str) and place == "approximate":
            yield place, was, "none" if was == "tanh" else "tanh"
        elif isinstance(was, str) and name == "einsum" and "->" in was:
            pass
        elif isinstance(was, tuple) and name in ("permute", "transpose") and all(isinstance(each, int) for each in was):
            for order in permutations(range(len(was))):
                yield place, was, order
        elif isinstance(was, tuple) and name in ("mean", "var", "std", "sum", "softmax", "amax", "layer_norm"):
            yield place, was, (-1,)
        elif was is None and place == "scale":
            yield place, was, scale
    for place, wanted in _ABSENT.get(name, ()):
        if place not in given:
            yield place, None, wanted
    if name == "scaled_dot_product_attention" and "scale" not in given:
        yield "scale", None, scale
    if name in ("layer_norm",) and "eps" not in given and 4 not in given:
        yield "eps", 1e-5, eps


_OVER_AXES_NAMES = "softmax mean var std sum amax max min log_softmax logsumexp cumsum cat stack concatenate split norm"
_OVER_AXES = frozenset(_OVER_AXES_NAMES.split())
_ABSENT: dict[str, tuple[tuple[str, object], ...]] = {
    "var": (("unbiased", False), ("correction", 0)),
    "std": (("unbiased", False), ("correction", 0)),
    "var_mean": (("unbiased", False), ("correction", 0)),
    "gelu": (("approximate", "tanh"),),
    "scaled_dot_product_attention": (("is_causal", True),),
    "mean": (("dim", -1), ("axis", -1)),
    "sum": (("dim", -1), ("axis", -1)),
    "softmax": (("dim", -1),),
    "tril": (("diagonal", 0),),
}

_Search = Callable[..., Iterator[_Found]]
_SEARCHES: dict[str, _Search] = {
    "constant": Explainer._constants,
    "mask": Explainer._masks,
    "factor": Explainer._factors,
    "order": Explainer._orders,
    "module": Explainer._modules,
    "operand": Explainer._operands,
    "exchange": Explainer._exchanges,
    "operation": Explainer._operations,
    "extra": Explainer._extras,
    "value": Explainer._values,
}
