"""Other operands for an operation that gives something wrong: another value of GPT-2's, or another order of axes."""

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gpt2_from_scratch.anatomy.entries import Entry
from gpt2_from_scratch.anatomy.identity import ROUNDED, Identity
from gpt2_from_scratch.diagnose.lines.tried import MOVING, PRODUCTS, Case, Found, again_with, is_turned
from gpt2_from_scratch.recorder import Again, Operation

_TAKEN_TOGETHER = (("q", "k"), ("k", "q"), ("q", "k", "v"), ("probabilities", "v"))
_MOST_TRIED = 400  # operands for one input: the values of two blocks


def orders(
    case: Case, operation: Operation, again: Again, inputs: Sequence[Identity], output: Tensor, only: int | None = None
) -> Iterator[Found]:
    """An operand with its axes in another order."""
    for position, value in enumerate(again.inputs):
        label = inputs[position]
        if label.kind not in ("entry", "scrambled") or value.dim() < 2 or (only is not None and position != only):
            continue
        if label.entry is None or (label.entry.weight and value.dim() > 3):
            continue
        if operation.name in MOVING and position == 0 and label.kind == "entry":
            fixed = dict(label.fixed)
            for content, shown, cut in case.arranged(label.entry, tuple(output.shape), fixed):
                same = Identity("entry", label.entry, label.factor, shown, cut)
                yield Found((9.0,), position, None, label, shown, same, label.factor * content)
        axes = tuple(range(value.dim()))
        for order in itertools.permutations(axes):
            if order == axes:
                continue
            for outputs in again_with(again, {position: value.permute(order).contiguous()}, {}, output.shape):
                became = case.accepted(outputs, inputs, same=operation.name in MOVING)
                if became is not None:
                    moved = sum(one != other for one, other in zip(order, axes, strict=True))
                    score = case.score(became, inputs)
                    unusual = became.entry is not None and _natural(became.order) != _natural(became.entry.axes)
                    yield Found((*score, unusual, moved), position, None, label, order, became, outputs[0])


def modules(
    case: Case, operation: Operation, again: Again, inputs: Sequence[Identity], output: Tensor, only: int | None = None
) -> Iterator[Found]:
    """All weights that an operation takes exchanged for those of another module."""
    mine = {position: each for position, each in enumerate(inputs) if each.entry is not None and each.entry.weight}
    if len(mine) < (2 if only is None else 1):
        return
    first = next(iter(mine))
    entry = mine[first].entry
    assert entry is not None
    for other in case.table.entries:
        if not other.weight or other is entry or other.key.rsplit(".", 1)[1] != entry.key.rsplit(".", 1)[1]:
            continue
        module = other.key.rsplit(".", 1)[0]
        found: dict[int, list[tuple[Tensor, str, tuple[tuple[str, int], ...]]]] = {}
        for position, label in mine.items():
            assert label.entry is not None
            there = case.table.by_key.get(f"{module}.{label.entry.key.rsplit('.', 1)[1]}")
            if there is None:
                break
            shape = tuple(again.inputs[position].shape)
            ways = _of_any_third(case, there, shape, dict(label.fixed), label.order)
            found[position] = [way for way in ways if there.axes != label.entry.axes or way[1] == label.order]
        if len(found) < len(mine):
            continue
        for cut in dict.fromkeys(way[2] for way in found[first]):
            ways_there = {at: [way for way in ways if way[2] == cut] for at, ways in found.items()}
            for chosen in itertools.product(*ways_there.values()):
                contents = {at: way[0] for at, way in zip(ways_there, chosen, strict=True)}
                for outputs in again_with(again, contents, {}):
                    became = case.accepted(outputs, inputs)
                    if became is not None:
                        identity = Identity("entry", other, 1.0, chosen[0][1], cut)
                        yield Found(case.score(became, inputs), first, None, mine[first], identity, became, outputs[0])


def exchanges(
    case: Case, operation: Operation, again: Again, inputs: Sequence[Identity], output: Tensor, only: int | None = None
) -> Iterator[Found]:
    """Operands in another order."""
    entries = {position: each.entry for position, each in enumerate(inputs) if each.kind == "entry"}
    groups = [
        [position for position, entry in entries.items() if entry is not None and entry.weight == weight]
        for weight in (False, True)
    ]
    orders = [(data, order) for data in groups if 2 <= len(data) <= 3 for order in itertools.permutations(data)]
    for data, order in orders:
        if order == tuple(data):
            continue
        changed = {position: again.inputs[other] for position, other in zip(data, order, strict=True)}
        for outputs in again_with(again, changed, {}, output.shape):
            became = case.accepted(outputs, inputs)
            if became is not None:
                first = next(position for position, other in zip(data, order, strict=True) if position != other)
                wanted = inputs[order[data.index(first)]]
                score = case.score(became, inputs)
                yield Found(score, first, None, inputs[first], wanted, became, outputs[0])


def operands(
    case: Case, operation: Operation, again: Again, inputs: Sequence[Identity], output: Tensor, only: int | None = None
) -> Iterator[Found]:
    """Another value of GPT-2's in an operand's place."""
    yield from _biases(case, again, inputs, output)
    if operation.name in PRODUCTS:
        yield from _of_attention(case, again, inputs, output)
    for position, value in enumerate(again.inputs):
        label = inputs[position]
        if only is not None and position != only:
            continue
        others = [each for index, each in enumerate(inputs) if index != position]
        if not value.is_floating_point():
            yield from _indices(case, position, value, label, again, others)
            continue
        if value.numel() < 2:
            continue
        twins = [
            index
            for index, each in enumerate(inputs)
            if index != position and each.entry is not None and each.entry is label.entry and each.order == label.order
        ]
        others = [each for each in others if not twins or each.entry is not label.entry]
        candidates = _candidates(case, label, others, value)
        if operation.name == "add":
            candidates = itertools.chain(candidates, _expanded_biases(case, label, others, value))
        if label.kind == "entry" and label.entry is not None and label.fixed:  # one row for all
            candidates = itertools.chain(_wholes(case, label, output), candidates)
        scaled = label.kind == "entry" and abs(label.factor - 1) > ROUNDED and not twins
        for entry, identity, content in _also_times(label.factor, candidates) if scaled else candidates:
            changed = {position: label.factor * content if twins else content}
            changed |= {index: inputs[index].factor * content for index in twins}
            alone = again_with(again, {position: content}, {}, output.shape) if twins else ()
            for outputs in (*again_with(again, changed, {}, output.shape), *alone):
                became = case.accepted(outputs, [*others, identity])
                if became is None or became.entry is None:
                    continue
                if operation.name == "add" and _of_next_block(label, identity):
                    continue
                if became.entry.key.endswith(".square") and label.entry is not entry in [each.entry for each in others]:
                    continue  # of any value times itself
                data = label.entry is not None and not label.entry.weight
                back = data and label.entry is not None and became.entry.order < label.entry.order
                apart = abs(entry.order - label.entry.order) if label.entry is not None else 0
                form = not entry.main and not entry.weight
                bias = entry.weight and data  # that nothing takes
                score = (
                    -1.0 if bias else float(back),
                    float(is_turned(became)),
                    float(form),
                    *case.score(became, others),
                    apart,
                )
                yield Found(score, position, None, label, identity, became, outputs[0])


def _biases(case: Case, again: Again, inputs: Sequence[Identity], output: Tensor) -> Iterator[Found]:
    """All operands that lack a bias exchanged for those that have it."""
    contents: dict[int, Tensor] = {}
    first: tuple[int, Identity] | None = None
    for position, label in enumerate(inputs):
        if label.entry is None or not label.entry.key.endswith("_without"):
            continue
        whole = case.table.by_key.get(label.entry.key.removesuffix("_without"))
        shape = tuple(again.inputs[position].shape)
        found = next(iter(case.arranged(whole, shape, dict(label.fixed), label.order)), None) if whole else None
        if whole is not None and found is not None:
            contents[position] = label.factor * found[0]
            first = first or (position, Identity("entry", whole, label.factor, found[1], found[2]))
    if len(contents) < 2 or first is None:
        return
    for outputs in again_with(again, contents, {}):
        rest = [each for position, each in enumerate(inputs) if position not in contents]
        became = case.accepted(outputs, [*rest, first[1]])
        if became is not None and outputs[0].shape == output.shape:
            position, wanted = first
            yield Found((-1.0,), position, None, inputs[position], wanted, became, outputs[0])


def _of_attention(case: Case, again: Again, inputs: Sequence[Identity], output: Tensor) -> Iterator[Found]:
    """Several operands exchanged at once for what attention takes together: queries and keys, and values."""
    entries = {position: each.entry for position, each in enumerate(inputs) if each.entry and not each.entry.weight}
    layers = {entry.layer for entry in entries.values()}
    for names in _TAKEN_TOGETHER:
        if len(names) != len(entries) or len(layers) != 1 or None in layers:
            continue
        contents: dict[int, Tensor] = {}
        wanted: dict[int, Identity] = {}
        for name, position in zip(names, entries, strict=True):
            entry, label = case.table.by_key[f"h.{next(iter(layers))}.attn.{name}"], inputs[position]
            ways = case.arranged(entry, tuple(again.inputs[position].shape), dict(label.fixed), label.order)
            content, order, cut = next(ways, (None, "", ()))
            if content is not None and label.entry is not entry:
                contents[position], wanted[position] = content, Identity("entry", entry, 1.0, order, cut)
        for outputs in again_with(again, contents, {}, output.shape) if len(contents) > 1 else ():
            became = case.accepted(outputs, list(wanted.values()))
            if became is not None:
                first = next(iter(wanted))
                yield Found((9.0,), first, None, inputs[first], wanted[first], became, outputs[0])


def _indices(
    case: Case, position: int, value: Tensor, label: Identity, again: Again, others: Sequence[Identity]
) -> Iterator[Found]:
    tokens = case.table.ids.shape[-1]
    for wanted, content in (("the token ids", case.table.ids), ("positions 0, 1, …", torch.arange(tokens))):
        with contextlib.suppress(RuntimeError):
            content = content.to(value.dtype) if value.dtype != torch.bool else content
            shaped = content.expand(value.shape) if content.numel() != value.numel() else content.reshape(value.shape)
            for outputs in again_with(again, {position: shaped}, {}):
                became = case.accepted(outputs, others)
                if became is not None:
                    yield Found(case.score(became, others), position, None, label, wanted, became, outputs[0])


def _candidates(
    case: Case, label: Identity, others: Sequence[Identity], value: Tensor
) -> Iterator[tuple[Entry, Identity, Tensor]]:
    """GPT-2's values that could stand in the place of an operand, in the operand's shape."""
    weight = label.entry is not None and label.entry.weight
    taken = [each.entry for each in (label, *others) if each.entry is not None]
    near = {block + step for entry in taken for block in case.blocks(entry) for step in (-1, 0, 1)}
    fixed = dict(label.fixed if label.kind == "entry" else ())
    for each in others:  # what the other operands are of decides
        fixed |= dict(each.fixed if each.kind == "entry" else ())
    count = 0
    orders = [each.entry.order for each in others if each.entry is not None]
    here = label.entry.order if label.entry is not None else max(orders, default=0)
    nearest = sorted(case.table.entries, key=lambda each: (not (each.main or each.weight), abs(each.order - here)))
    for entry in nearest:
        if entry.weight != weight and label.kind == "entry":
            continue
        if not weight and taken and not near.intersection(case.blocks(entry)):
            continue
        if case.place is not None and entry.place != case.place:
            continue
        if _of_heads(entry) and not any(map(_of_heads, taken)):
            continue
        for content, order, cut in _of_any_third(case, entry, tuple(value.shape), fixed, label.order):
            if weight and label.entry is entry and "DH" in order.replace(" ", ""):
                continue  # rows of a weight in another order: then its operand is in the wrong one
            if label.entry is entry and order == label.order and abs(label.factor - 1) < ROUNDED and cut == label.fixed:
                continue
            count += 1
            if count > _MOST_TRIED:
                return
            yield entry, Identity("entry", entry, 1.0, order, cut), content


def _of_heads(entry: Entry) -> bool:
    """Whether a value is of one head's, or of some heads', part of attention's output: few add them up one by one."""
    return entry.place.rpartition(".")[2].isdigit() or entry.place.endswith(".by_head")


def _wholes(case: Case, label: Identity, output: Tensor) -> Iterator[tuple[Entry, Identity, Tensor]]:
    """All of a value of which one row is there, in the shape of what is made of it."""
    assert label.entry is not None
    for content, order, cut in case.arranged(label.entry, tuple(output.shape), {}, label.order):
        yield label.entry, Identity("entry", label.entry, 1.0, order, cut), content


def _expanded_biases(
    case: Case, label: Identity, others: Sequence[Identity], value: Tensor
) -> Iterator[tuple[Entry, Identity, Tensor]]:
    """Biases of a block that nothing takes, where something else is added to a product with a weight."""
    blocks = {block for each in others if each.entry is not None for block in case.blocks(each.entry)}
    if label.entry is not None and label.entry.weight:
        return
    for entry in case.table.entries:
        missing = entry.key.endswith(".bias") and entry.key not in case.taken
        if missing and entry.size == value.shape[-1] and blocks.intersection(case.blocks(entry)):
            yield entry, Identity("entry", entry, 1.0, entry.axes), entry.value.reshape(-1).expand(value.shape)


def _of_any_third(
    case: Case, entry: Entry, shape: tuple[int, ...], fixed: dict[str, int], like: str
) -> Iterator[tuple[Tensor, str, tuple[tuple[str, int], ...]]]:
    """An entry in a shape; of a weight of queries, keys and values together each of the three, where one fits."""
    parts = range(3) if entry.weight and "3" in entry.axes and entry.size != math.prod(shape) else range(1)
    for part in parts:
        yield from case.arranged(entry, shape, fixed | ({"3": part} if len(parts) > 1 else {}), like)


def _also_times(
    factor: float, candidates: Iterator[tuple[Entry, Identity, Tensor]]
) -> Iterator[tuple[Entry, Identity, Tensor]]:
    """Each as it is, and times a factor: of ``0.044715 * x * x`` it is the square that is wrong, not the factor."""
    for entry, identity, content in candidates:
        yield entry, identity, content
        yield entry, replace(identity, factor=factor), factor * content


def _natural(order: str) -> str:
    """The order of queries, keys and tokens alone."""
    return "".join(letter for letter in order if letter in "TS")


def _of_next_block(label: Identity, wanted: Identity) -> bool:
    """Whether what is wanted belongs to a later block than what is there."""
    if label.entry is None or wanted.entry is None or label.entry.layer is None or wanted.entry.layer is None:
        return False
    return wanted.entry.layer > label.entry.layer
