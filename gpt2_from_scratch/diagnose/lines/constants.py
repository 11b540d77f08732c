"""The lines for a wrong constant, and for a value that is a multiple of GPT-2's.

A constant is accused where it was written. A factor is accused where the number that gave it was written, otherwise at
the operation that applied it.
"""

import ast
from collections.abc import Iterator, Sequence

from gpt2_from_scratch.anatomy.activations import CUBIC, ROOT
from gpt2_from_scratch.anatomy.identity import ROUNDED, Identity
from gpt2_from_scratch.diagnose.lines import origins, source
from gpt2_from_scratch.diagnose.lines.built import number_givers
from gpt2_from_scratch.diagnose.lines.explain import Explanation
from gpt2_from_scratch.diagnose.lines.places import (
    Observed,
    Role,
    Spots,
    built_at,
    construction,
    function_of,
    switch_before,
    use_of,
)
from gpt2_from_scratch.diagnose.lines.source import Expression, Spot
from gpt2_from_scratch.diagnose.lines.trial import VIEWS
from gpt2_from_scratch.recorder import Operation

# Arguments of torch's classes that decide about an argument of the operation inside.
_DECIDING: dict[int | str | None, tuple[str, ...]] = {
    "approximate": ("approximate", "activation"),
    "eps": ("eps", "layer_norm_eps"),
    4: ("eps", "layer_norm_eps"),  # of `torch.layer_norm`
}


def constant_spots(observed: Observed, explained: Explanation) -> Spots:
    """The lines for a constant in whose place GPT-2 has another one."""
    operation = explained.operation
    built = built_at(observed, operation, _DECIDING.get(explained.place, (str(explained.place),)))
    use = use_of(observed, operation)
    if explained.place == "attn_mask":
        here = source.at(operation.frames[0])
        given = source.operand(here, "attn_mask") if here is not None else None
        none = origins.origin(given, operation.frames) if given is not None else None
        absent = none.spot if none is not None and isinstance(none.node, ast.Constant) else None
        return [(absent, "made here"), (use, "used here"), (built, "made here")]
    if built is not None:
        return [(_setting(observed, operation, explained), "made here"), (built, "made here"), (use, "used here")]
    here = source.at(operation.frames[0])
    place = explained.place
    written: Spot | None = None
    size = operation.name in VIEWS and _is_size(observed, explained.found, (1,))  # right, in a wrong place
    if here is not None and place is not None and not size and not isinstance(explained.wanted, slice):
        argument = _argument(here, operation, place, explained.wanted)
        if argument is not None:
            literal = origins.written_as(argument, operation.frames, explained.found)
            givers = number_givers(observed.root, argument, explained.found) if literal is None else []
            argument = givers[0] if givers else argument
            origin = literal or origins.returned(origins.origin(argument, operation.frames, explained.found))
            written = origin.spot if givers or source.is_parameter(origin) is None else None  # nobody knows who gave it
    return [(written, "made here"), (use, "used here")] if written else [(use, "made here")]


def _argument(here: Expression, operation: Operation, place: int | str, wanted: object) -> Expression | None:
    """The source of a constant; through the wrappers of torch's own the names of keywords change."""
    found = source.operand(here, place)
    index = operation.constants.get(place)
    if found is not None and isinstance(found.node, ast.Tuple) and isinstance(index, tuple):
        others = wanted if isinstance(wanted, tuple) else ()
        differ = [at for at, (one, other) in enumerate(zip(index, others, strict=False)) if one != other]
        if differ and len(found.node.elts) == len(index):
            return Expression(found.file, found.node.elts[differ[0]], found.depth)
    places = [each for each in operation.constants if isinstance(each, int)]
    if found is None and isinstance(here.node, ast.Call) and place in places:  # behind ``*sizes``: from the end
        last = here.node.args[len(here.node.args) - 1 - (max(places) - int(place)) :]
        if last and not any(isinstance(each, ast.Starred) for each in last):
            return Expression(here.file, last[0], here.depth)
    if found is None and isinstance(here.node, ast.Call):
        value = operation.constants.get(place)
        literals = [each for each in here.node.args if isinstance(each, ast.Constant) and each.value == value]
        if len(literals) == 1:
            found = Expression(here.file, literals[0], here.depth)
    return found


def _setting(observed: Observed, operation: Operation, explained: Explanation) -> Spot | None:
    """The literal that the construction of one of torch's modules is given by way of a configuration."""
    call = construction(observed, operation)
    if call is None or not isinstance(explained.found, float):
        return None
    for argument in (*[each.value for each in call.node.keywords], *call.node.args):  # type: ignore[attr-defined]
        given = Expression(call.file, argument, None)
        written = origins.written_as(given, (), explained.found)
        if written is not None and written.node is not argument:
            return written.spot
    return None


def factor_spots(observed: Observed, explained: Explanation) -> Spots:
    """The lines for an operand that is a multiple of GPT-2's."""
    assert explained.position is not None
    operation, trial = explained.operation, observed.trial
    number = operation.inputs[explained.position]
    maker = factor_maker(observed, number)
    use = use_of(observed, operation)
    if maker is None or not maker.frames:
        return [(use, "used here")]
    spots: list[tuple[Spot | None, Role]] = []
    scaling = _scaling(observed, number)
    second = _once_too_often(observed, scaling)
    if second is not None:
        return [*((use_of(observed, each), "made here") for each in (second, *scaling)), (use, "used here")]
    gave = trial.labels[maker.outputs[0]]
    same = [each for each in maker.inputs if trial.labels[each].entry is gave.entry]
    here = source.at(maker.frames[0])
    numbers = [each for each in maker.constants.values() if isinstance(each, float)]
    right = _is_root(observed, maker)  # wrongly used
    if same and any(abs(each / own - 1) < ROUNDED for each in numbers for own in (CUBIC, ROOT)):
        return [(use, "used here"), (use_of(observed, maker), "made here")]  # that is GPT-2's number there
    if same and here is not None and not right:
        spots.append((_written(observed, maker), "made here"))
    built = built_at(observed, maker)
    idle = _idle(observed, number)
    if idle is not None:
        spots += [(_written(observed, idle), "made here"), (use_of(observed, idle), "made here")]
    spots += [(switch_before(observed, operation.frames), "made here")] if abs(gave.factor) > 1 else []
    spots += [(built, "made here"), (use_of(observed, maker), "made here")]
    spots += [(use_of(observed, each), "made here") for each in scaling if each is not maker]
    return [*spots, (use, "used here")]


def _written(observed: Observed, maker: Operation) -> Spot | None:
    """Where a number that an operation takes was written, or computed; None if that is in the operation itself."""
    here = source.at(maker.frames[0])
    for place in maker.constants if here is not None else ():
        argument = source.operand(here, place) if here is not None else None
        if argument is not None and not isinstance(argument.node, ast.Slice | ast.Tuple):
            if _right_elsewhere(observed, maker, argument):
                continue
            written = origins.origin(argument, maker.frames, maker.constants[place])
            counts = isinstance(argument.node, ast.BinOp) and isinstance(argument.node.op, ast.Add | ast.Sub)
            if written.node is argument.node and not counts and not _is_width(observed, maker.constants[place]):
                written = origins.size_in(argument) or written
            size = _is_size(observed, maker.constants[place], (1, 2)) and source.is_a_size_elsewhere(argument)
            if written.node is not argument.node and not size:  # otherwise it is right, and used wrongly
                return written.spot
    return None


def _right_elsewhere(observed: Observed, maker: Operation, argument: Expression) -> bool:
    """Whether another operation takes a number by the same name, and gives one of GPT-2's values with it."""
    names = {each.id for each in ast.walk(argument.node) if isinstance(each, ast.Name) and not source.is_module(each)}
    for other in observed.before.recording.operations:
        around = other.frames[max(len(other.frames) - len(maker.frames), 0) :]  # a comprehension has a frame of its own
        if other.index == maker.index or around[1:] != maker.frames[1:] or not around or not other.outputs:
            continue
        label = observed.before.labels[other.outputs[0]]
        here = source.at(other.frames[0])
        if function_of(around[0]) != function_of(maker.frames[0]) or not label.known or label.entry is None:
            continue
        given = [source.operand(here, place) for place in other.constants] if here is not None else []
        if abs(label.factor - 1) <= ROUNDED and any(
            isinstance(part, ast.Name) and part.id in names
            for each in given
            if each is not None
            for part in ast.walk(each.node)
        ):
            return True
    return False


def _idle(observed: Observed, number: int) -> Operation | None:
    """A multiplication, or a division, on a value's way, that changes nothing: by 1."""
    label = observed.trial.labels[number]
    for maker in _ancestors(observed, number):
        same = [each for each in maker.inputs if _same_step(observed.trial.labels[each], label)]
        changes = any(abs(observed.trial.labels[each].factor / label.factor - 1) > ROUNDED for each in same)
        if maker.name in ("mul", "div") and same and not changes and len(maker.inputs) == 1 and maker.frames:
            return maker
    return None


def _scaling(observed: Observed, number: int) -> list[Operation]:
    """Operations on a value's way, in the same step, that give a value a factor."""
    labels = observed.trial.labels
    found = []
    for maker in _ancestors(observed, number):
        gave = labels[maker.outputs[0]]
        takes = [labels[each] for each in maker.inputs if labels[each].entry is gave.entry is not None]
        if takes and maker.name not in VIEWS and abs(takes[0].factor / gave.factor - 1) > ROUNDED:
            found.append(maker)
    return found


def _is_root(observed: Observed, maker: Operation) -> bool:
    """Whether an operation multiplies with the root of the width of a head, or divides by it."""
    root = observed.table.sizes.get("D", 1) ** 0.5
    numbers = [each for each in maker.constants.values() if isinstance(each, float)]
    return any(min(abs(each * root - 1), abs(each / root - 1)) < ROUNDED for each in numbers)


def _once_too_often(observed: Observed, scaling: list[Operation]) -> Operation | None:
    """Of two operations that scale a value, as GPT-2 does once, the one too many.

    That is the one with another number; of two with the right one that of the caller, for a function that scales what
    it is given is right; in one function the later one.
    """
    if len(scaling) != 2 or not all(each.frames for each in scaling):
        return None
    others = [each for each in scaling if not _is_root(observed, each)]
    if others:
        return others[0] if len(others) == 1 else None
    one, other = scaling
    if one.frames[0].function != other.frames[0].function:
        return min(scaling, key=lambda each: len(each.frames))
    return max(scaling, key=lambda each: each.index)


def _ancestors(observed: Observed, number: int) -> Iterator[Operation]:
    """What made a value, and what that took, back to the block's norm."""
    pending, seen = [number], set[int]()
    while pending:
        maker = observed.trial.recording.maker(pending.pop())
        if maker is None or maker.index in seen:
            continue
        seen.add(maker.index)
        yield maker
        for each in maker.inputs:
            entry = observed.trial.labels[each].entry
            if entry is not None and not entry.weight and ".attn." in entry.key:
                pending.append(each)


def _is_width(observed: Observed, number: object) -> bool:
    """Whether a number is the width of a head, its root, or one by those: then its name is the right one."""
    width = observed.table.sizes.get("D", 1)
    powers = (1.0, -1.0, 0.5, -0.5, 2.0)
    return isinstance(number, int | float) and any(abs(number / width**each - 1) <= ROUNDED for each in powers)


def _is_size(observed: Observed, number: object, powers: Sequence[int]) -> bool:
    """Whether a number, to one of these powers, is a size of GPT-2's: tokens, width, heads, width of a head."""
    sizes = {size for letter, size in observed.table.sizes.items() if letter in "TEHD"}
    known = isinstance(number, int | float)
    return known and any(abs(number**power / size - 1) < ROUNDED for power in powers for size in sizes)  # type: ignore[operator]


def factor_maker(observed: Observed, number: int) -> Operation | None:
    """The operation that gave a value its factor."""
    trial = observed.trial
    for _ in range(64):
        label = trial.labels[number]
        maker = trial.recording.maker(number)
        if maker is None:
            return None
        same = [
            each
            for each in maker.inputs
            if _same_step(trial.labels[each], label) and abs(trial.labels[each].factor / label.factor - 1) <= ROUNDED
        ]
        same += [each for each in maker.inputs if _is_multiple(trial.labels[each], label.factor)]
        if same:
            number = same[0]
            continue
        odd = [
            each
            for each in maker.inputs
            if trial.labels[each].entry is not label.entry
            and trial.labels[each].kind == "entry"
            and trial.labels[each].entry is not None
            and not trial.labels[each].entry.weight  # type: ignore[union-attr]
            and abs(trial.labels[each].factor - 1) > ROUNDED
            and maker.name in ("matmul", "bmm", "einsum", "linear", "baddbmm")
        ]
        if len(odd) == 1:
            number = odd[0]
            continue
        return maker
    return None


def _is_multiple(label: Identity, factor: float) -> bool:
    """Whether a value is that multiple of a weight."""
    weight = label.entry is not None and label.entry.weight
    return weight and abs(factor - 1) > ROUNDED and abs(label.factor / factor - 1) <= ROUNDED


def _same_step(one: Identity, other: Identity) -> bool:
    """Whether two values are the same entry, or belong to the same part of a block."""
    if one.entry is None or other.entry is None or one.entry.weight:
        return False
    return one.entry is other.entry or (
        one.entry.key.rsplit(".", 1)[0] == other.entry.key.rsplit(".", 1)[0] and abs(one.factor - 1) > ROUNDED
    )
