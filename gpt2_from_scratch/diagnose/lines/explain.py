"""Why an operation that takes GPT-2's numbers gives others.

The operation is run again with one thing changed: a constant, a mask, a factor or the order of axes of what it takes,
an operand exchanged for another of GPT-2's values, or another operation in its place. The change after which it gives
one of GPT-2's numbers says what is wrong, and repairs the run.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from gpt2_from_scratch.anatomy.entries import Entry
from gpt2_from_scratch.anatomy.identity import FILL, ROUNDED, Identity, Table
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.diagnose.lines import tried_constants, tried_operands, tried_operations
from gpt2_from_scratch.diagnose.lines.scope import scopes
from gpt2_from_scratch.diagnose.lines.tried import Case, Found
from gpt2_from_scratch.diagnose.lines.tried_operations import UNLIKE
from gpt2_from_scratch.diagnose.lines.values import Values
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
STREAMS = ("embedding", "h.*.middle", "h.*.output")  # sums of two values that are steps themselves
_MOST_SUPPOSED = 4  # values in the place of an unexplained one: each takes a run


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
        search: the kind that was found; `kind` is ``rounding`` where that makes no more difference than float32's.
        unknown: which of its inputs were unknown; in another call of the line more may be, by another mistake.
        scopes: what the functions of the operation's frames hold under which names, when it runs.
        values: what it gives and what GPT-2 has, to be drawn.
    """

    kind: Kind
    operation: Operation
    position: int | None
    place: int | str | None
    found: object
    wanted: object
    becomes: Identity
    search: Kind
    unknown: tuple[int, ...] = ()
    scopes: tuple[Mapping[str, Identity], ...] = ()
    values: Values | None = None


class Explainer:
    """Explains operations of one run.

    Args:
        config: of the checkpoint.
        table: GPT-2's values.
        place: the only values that are tried as operands, such as ``h.*.attn.k``; None: all.
    """

    def __init__(self, config: GPTConfig, table: Table, place: str | None = None) -> None:
        self.case = Case(config, table, place)

    def explain(
        self,
        operation: Operation,
        again: Again,
        labels: Sequence[Identity],
        output: Tensor,
        kinds: Sequence[Kind] = KINDS,
        refused: Collection[tuple[str, int | None]] = (),
    ) -> tuple[Explanation, Tensor] | None:
        """What is wrong with an operation, and what it should have given.

        Args:
            operation: the operation.
            again: runs it with something else.
            labels: what the values of the run are.
            output: what it gave.
            kinds: of explanations, in the order in which they are tried.
            refused: kinds and positions of inputs that were tried, and led to nothing.
        """
        inputs = [labels[number] for number in operation.inputs]
        if len(inputs) != len(again.inputs):
            return None
        made = {_key(each) for each in labels if each.entry is not None and each.known}

        def again_made(found: Found) -> bool:
            """Whether the run made that before: of another value that it takes it is not wanted again."""
            return _key(found.becomes) in made

        streams = {each.entry.key for each in inputs if each.entry is not None and each.entry.place in STREAMS}
        if operation.name == "add" and len(streams) > 1:  # the later one has the earlier one in it already
            kinds = ("extra", *kinds)
        if type(operation.module).__module__ == "torch.nn.modules.activation" and "operation" in kinds:
            kinds = (*kinds[: kinds.index("factor")], "operation", *kinds[kinds.index("factor") :])
        best: tuple[Kind, Found] | None = None
        for kind in kinds:
            all_found = list(_SEARCHES[kind](self.case, operation, again, inputs, output))
            all_found = [each for each in all_found if (kind, each.position) not in refused]
            found = min(all_found, key=_score, default=None)
            if kind == "module" and found is not None and again_made(found):  # queries were made: then keys or values
                found = min((each for each in all_found if not again_made(each)), key=_score, default=found)
            if kind == "operand" and found is not None and again_made(found):
                weight = is_weight(found.wanted)  # otherwise only for a value that is there already
                new = [each for each in all_found if not again_made(each) and not is_weight(each.wanted)]
                new = [each for each in new if weight or _key(each.wanted) in made]
                found = min(new, key=_score, default=found)
            if best is not None:  # weights of another module, for a step that was taken before
                best = best if found is None or again_made(found) else (kind, found)
                break
            best = None if found is None else (kind, found)
            if found is not None and (kind != "module" or not again_made(found)):
                break
        if best is None:
            return None
        explained, repaired = self._told(best[0], operation, best[1], output)
        return replace(explained, unknown=_unknown(inputs), scopes=scopes(operation.frames, self.case.table)), repaired

    def same(
        self, known: Explanation, operation: Operation, again: Again, labels: Sequence[Identity], output: Tensor
    ) -> Tensor | None:
        """The repaired output of another call of the same line, by the same change; None if that repairs nothing."""
        inputs = [labels[number] for number in operation.inputs]
        if len(inputs) != len(again.inputs) or not set(_unknown(inputs)) <= set(known.unknown):
            return None
        repaired = self._repaired(known, operation, again, inputs, labels, output)
        if known.kind == "rounding" and (repaired is None or _distance(repaired, output) > ROUNDED):
            return None
        return repaired

    def _repaired(
        self,
        known: Explanation,
        operation: Operation,
        again: Again,
        inputs: Sequence[Identity],
        labels: Sequence[Identity],
        output: Tensor,
    ) -> Tensor | None:
        kind, wanted = known.search, known.wanted
        if kind == "value" and isinstance(wanted, Identity) and wanted.entry is not None:
            there = self._there(wanted, inputs)
            return self._content(there, tuple(output.shape)) if there is not None else None
        if kind == "operand" and self.case.place is None and isinstance(wanted, Identity) and wanted.entry is not None:
            narrow = Explainer(self.case.config, self.case.table, _place_there(known, inputs))
            repaired = narrow.same(known, operation, again, labels, output)
            if repaired is not None:
                return repaired
        best: Found | None = None
        for found in _SEARCHES[kind](self.case, operation, again, inputs, output, known.position):
            sliced = operation.name == "getitem"  # of another head other columns
            if kind == "constant" and (
                found.place != known.place or not (sliced or _equal(found.wanted, known.wanted))
            ):
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
        return Explanation("value", operation, None, None, UNLIKE, wanted, wanted, "value", unknown), content

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
        for entry in (*taken[:1], *self.case.table.entries):
            itself = entry in taken and entry.weight and entry.value.numel() == math.prod(shape)
            step = entry.main or entry.axes == "BT2HD"
            if not itself and (entry.weight or not step or entry.order <= last or entry.layer not in near):
                continue
            if not data and not itself and not _made_of(entry, taken):
                continue
            for _, order, cut in self.case.arranged(entry, shape, fixed):
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
        entry = self.case.table.by_key.get(key)
        fixed = dict(pair for each in inputs if each.kind == "entry" for pair in each.fixed)
        cut = tuple((letter, fixed.get(letter, index)) for letter, index in wanted.fixed)
        return Identity("entry", entry, 1.0, wanted.order, cut) if entry is not None else None

    def _content(self, wanted: Identity, shape: tuple[int, ...]) -> Tensor | None:
        """An identity's numbers in a shape and in its order of axes."""
        if wanted.entry is None:
            return None
        for content, order, cut in self.case.arranged(wanted.entry, shape, dict(wanted.fixed), wanted.order):
            if order == wanted.order and cut == wanted.fixed:
                return content.clone()
        return None

    def _told(self, kind: Kind, operation: Operation, best: Found, output: Tensor) -> tuple[Explanation, Tensor]:
        shown: Kind = kind
        if _distance(best.output, output) <= ROUNDED and kind in ("factor", "operand", "value", "order"):
            shown = "rounding"
        explained = Explanation(shown, operation, best.position, best.place, best.was, best.wanted, best.becomes, kind)
        return explained, best.output


def _score(found: Found) -> tuple[float, ...]:
    return found.score


def _distance(right: Tensor, output: Tensor) -> float:
    """How far what an operation gave is from what it should have given, relative to the largest number.

    Scores that both hide are no numbers: beside a fill of -1e30 all others would be alike.
    """
    if right.shape != output.shape:
        return math.inf
    hidden = (right <= FILL) & (output <= FILL)
    gaps = (right - output).abs().nan_to_num(math.inf, math.inf).masked_fill(hidden, 0.0)
    return float(gaps.max()) / (float(right.abs().masked_fill(hidden, 0.0).max()) or 1.0)


def _place_there(known: Explanation, inputs: Sequence[Identity]) -> str:
    """Which value belongs in another call of the line: in another norm that one's own, if it is an inner number."""
    found, wanted = known.found, known.wanted
    assert isinstance(wanted, Identity)
    assert wanted.entry is not None
    place, here = wanted.entry.place, inputs[known.position].entry if known.position is not None else None
    step, _, name = place.rpartition(".")
    inner = isinstance(found, Identity) and found.entry is not None and found.entry.place.rpartition(".")[0] == step
    return f"{here.place.rpartition('.')[0]}.{name}" if inner and here is not None else place


def _unknown(inputs: Sequence[Identity]) -> tuple[int, ...]:
    """Positions of the inputs that are no numbers of GPT-2's and no constants."""
    return tuple(at for at, each in enumerate(inputs) if each.kind in ("unknown", "scrambled", "not finite"))


def _key(value: object) -> tuple[object, ...]:
    """What tells one of GPT-2's numbers from others, whatever the order of its axes."""
    return (id(value.entry), value.fixed) if isinstance(value, Identity) else (value,)


def is_weight(value: object) -> bool:
    """Whether this is known to be one of GPT-2's weights."""
    return isinstance(value, Identity) and value.entry is not None and value.entry.weight


def _made_of(entry: Entry, weights: Sequence[Entry]) -> bool:
    """Whether a step is the first that its weights are used in: rows of a table, a norm, a linear layer."""
    modules = {each.key.rpartition(".")[0] for each in weights}
    modules |= {"wte", "wpe"} if modules & {"wte", "wpe"} else set()  # one table may stand for the other
    return any(entry.key == module or entry.key.startswith(f"{module}.") for module in modules)


def _equal(one: object, other: object) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other)
    return one == other


_Search = Callable[..., Iterator[Found]]
_SEARCHES: dict[str, _Search] = {
    "constant": tried_constants.constants,
    "mask": tried_constants.masks,
    "factor": tried_constants.factors,
    "order": tried_operands.orders,
    "module": tried_operands.modules,
    "operand": tried_operands.operands,
    "exchange": tried_operands.exchanges,
    "operation": tried_operations.operations,
    "extra": tried_operations.extras,
    "value": tried_operations.values,
}
