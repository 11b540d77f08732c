"""From an explanation to the lines: where the wrong thing was made, and where it was used.

Each kind of explanation has its own function, which gives the places, the accused one first.
"""

import ast
from dataclasses import replace

from gpt2_from_scratch.anatomy.identity import ROUNDED, Identity
from gpt2_from_scratch.diagnose.lines import classes, source
from gpt2_from_scratch.diagnose.lines.blocks import shared_modules
from gpt2_from_scratch.diagnose.lines.constants import constant_spots, factor_maker, factor_spots
from gpt2_from_scratch.diagnose.lines.explain import STREAMS, Explanation
from gpt2_from_scratch.diagnose.lines.masks import mask_spots
from gpt2_from_scratch.diagnose.lines.names import exchange_spots, order_spots
from gpt2_from_scratch.diagnose.lines.operands import (
    exists,
    module_of,
    not_renewed,
    of_outer_value,
    operand_spots,
    unread_values,
    unused_value,
)
from gpt2_from_scratch.diagnose.lines.places import (
    Observed,
    Spots,
    blamed_depth,
    built_at,
    first_maker,
    owner_of,
    plain_built_at,
    source_of,
    spot_of,
    use_of,
)
from gpt2_from_scratch.diagnose.lines.source import Expression, Spot
from gpt2_from_scratch.diagnose.lines.way import Way, passed_on, way_of
from gpt2_from_scratch.diagnose.lines.words import Line, words
from gpt2_from_scratch.recorder import Operation

_JOINING = ("cat", "concat", "concatenate", "hstack", "stack", "vstack")
_MOST_LINES = 4  # of one finding: more than a screenful of them helps nobody
_BY_RULE = ("operand", "order", "value", "module", "exchange")  # kinds for which a rule about wiring chose the line
_OF_OPERAND = ("operand", "order", "factor", "exchange")  # kinds that say that one operand is another value


def named(observed: Observed, explained: Explanation, culprit: Operation) -> list[Line]:
    """The lines, the accused first.

    Args:
        observed: the candidate's run.
        explained: what is wrong.
        culprit: the first operation that gives something unknown; the explained one may come a step later.
    """
    operation = explained.operation
    if not operation.frames:
        return []
    spots = [each for each in _WAYS[explained.kind](observed, explained) if each[0] is not None]
    if culprit.index != operation.index and explained.kind == "value":
        spots = [*_WAYS[explained.kind](observed, replace(explained, operation=culprit)), *spots]
    if blamed_depth(observed, operation):  # a function that other calls use rightly may still do this one wrong
        spots.append((spot_of(operation.frames[0]), "used here"))
    stale = not_renewed(observed, explained)
    dead = unused_value(observed, explained) if explained.kind in ("factor", "operand") and stale is None else None
    if dead is not None:
        # Where the value still has a name, that it is not used is the fault of the use.
        there = [frame.line for frame in operation.frames if (frame.file, frame.function) == (dead.file, dead.function)]
        first_spot = spots[0][0] if spots else None
        there = [first_spot.line] if first_spot is not None and source.same_function(first_spot, dead) else there
        at_hand = bool(there) and there[0] > dead.line and not source.is_dropped(dead)
        first = 1 if at_hand or source.is_returned(dead) else 0
        other = source.other_return(dead) if not first and not source.is_dropped(dead) else None
        spots = [(other, "used here"), *spots] if other is not None else spots
        first = 1 if other is not None else first
        spots = [*spots[:first], (dead, "made here"), *spots[first:]]
    spots = [(_at_operand(explained, spot), role) for spot, role in spots]
    way = way_of(observed, explained) if explained.kind in _OF_OPERAND else Way(())
    outer = of_outer_value(observed, operation) if explained.kind in ("operand", "value") else None
    first_ones: Spots = [(outer, "made here")] if outer is not None else _on_the_way(observed, explained, way, spots)
    spots = [*first_ones, *spots]
    spots += [(spot, "passed on here") for spot in passed_on(way, [spot for spot, _ in spots if spot is not None])]
    found: list[Line] = []
    for spot, role in spots:
        if spot is None or any((line.file, line.line) == (spot.file, spot.line) for line in found):
            continue
        likely = explained.kind in _BY_RULE and not found
        said = words(explained, observed.trial) if not found else ("", "")
        found.append(Line(spot.file, spot.line, spot.column, spot.text, role, said[0], said[1], likely))
    chosen = found[0] if found and found[0].likely else None
    places = [(chosen.file, chosen.line), (operation.frames[0].file, operation.frames[0].line)] if chosen else []
    for file, number in places:  # names that were bound together may be in each other's place
        code = source.code_at(file, number)
        for alone, spot in _set_before(file, code) if code is not None else ():
            if not alone and all((line.file, line.line) != (spot.file, spot.line) for line in found):
                found.append(Line(spot.file, spot.line, spot.column, spot.text, "made here", "", ""))
    return found[:_MOST_LINES]


def _on_the_way(observed: Observed, explained: Explanation, way: Way, spots: Spots) -> Spots:
    """Where on its way to its use a value should have become another one."""
    operation, wanted = explained.operation, explained.wanted
    if explained.kind != "operand" or not isinstance(wanted, Identity) or wanted.entry is None or wanted.entry.weight:
        return []
    used, lines = [(frame.file, frame.line) for frame in operation.frames], (*way.spots, *way.earlier)
    for dead, itself, behind in unread_values(observed, explained):
        places = (*lines, *map(spot_of, operation.frames)) if behind else lines
        later = [each for each in places if each.line > dead.line and source.same_function(each, dead)]
        if itself:  # its name was given to something else
            later = [each for each in later if source.assigned_at(each) & source.assigned_at(dead)]
        elif not behind:
            later = [each for each in later if (each.file, each.line) not in used]
        if later:
            return [(min(later, key=lambda each: each.line), "used here"), (dead, "made here")]
    if way.unchanged is not None:
        return [(way.unchanged, "passed on here")]
    assert explained.position is not None
    maker = observed.trial.made(operation.inputs[explained.position])
    computing = [*used, *((frame.file, frame.line) for frame in (maker.frames if maker is not None else ()))]
    first, there = spots[0][0] if spots else None, explained.found
    at_use = first is not None and (first.file, first.line) in used
    if maker is None or not at_use or not isinstance(there, Identity) or wanted.entry.place in STREAMS:
        return []
    if exists(observed, operation, wanted):
        return []
    if way.untaken is not None:
        return [(way.untaken, "used here")]
    # A function that has returned has done its part, unless the step that is missing belongs to the same module.
    inside = there.entry is not None and module_of(there.entry) == module_of(wanted.entry)
    running = list(map(spot_of, operation.frames))
    idle = [each for each in way.spots if (each.file, each.line) not in computing]
    idle = [each for each in idle if inside or any(source.same_function(each, other) for other in running)]
    return [(next((each for each in idle if source.renames(each)), idle[0]), "passed on here")] if idle else []


def between(operation: Operation, says: str) -> list[Line]:
    """The line of an operation that nothing explains, and those where its numbers and indices were set."""
    here = source.at(operation.frames[0]) if operation.frames else None
    if here is None:
        return [Line.of(operation.frames[0], "made here", says)] if operation.frames else []
    found = [Line.of(operation.frames[0], "made here", says)]
    for _, spot in _set_before(here.file, here.node):
        if all((line.file, line.line) != (spot.file, spot.line) for line in found):
            found.append(Line(spot.file, spot.line, spot.column, spot.text, "made here", "", ""))
    return found[:_MOST_LINES]


def _set_before(file: str, around: ast.AST) -> list[tuple[bool, Spot]]:
    """Where the names and the attributes in a piece of code got their values, and whether each alone; those last."""
    found: list[tuple[bool, Spot]] = []
    for node in ast.walk(around):
        if not isinstance(node, ast.Name | ast.Attribute):
            continue
        each = Expression(file, node, 0)
        bound = [pair for pair in source.bindings(each)[:1] if pair[1].lineno < node.lineno]
        for statement, value in bound:
            alone = isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
            found.append((alone, Expression(file, value, 0).spot))
        behind = classes.attribute_behind(each)
        if behind is not None and not bound:
            found.append((True, behind.spot))
    return sorted(found, key=lambda each: each[0])


def _at_operand(explained: Explanation, spot: Spot | None) -> Spot | None:
    """The line of the operand that is meant, where an operation spans several lines; otherwise the place itself."""
    frames, position = explained.operation.frames, explained.position
    if spot is None or position is None or explained.kind not in _OF_OPERAND:
        return spot
    argument = source_of(explained.operation, position)
    while argument is not None and argument.depth is not None:
        if spot == spot_of(frames[argument.depth]):
            return argument.spot if argument.node.lineno > spot.line else spot
        argument = source.caller(source.moved(argument), frames)
    return spot


def named_in_logits(observed: Observed) -> list[Line]:
    """The lines for logits that are a multiple of GPT-2's, or another number of GPT-2's."""
    trial = observed.trial
    label = trial.labels[trial.logits]
    if label.entry is None:
        return []
    maker = factor_maker(observed, trial.logits) if abs(label.factor - 1) > ROUNDED else trial.made(trial.logits)
    spot = use_of(observed, maker)
    if spot is None:
        return []
    says = f"the candidate returns {label}"
    return [Line(spot.file, spot.line, spot.column, spot.text, "made here", says, "GPT-2 returns the logits")]


def _operation_spots(observed: Observed, explained: Explanation) -> Spots:
    operation, trial = explained.operation, observed.trial
    built, use = built_at(observed, operation, ("activation",)) or _listed(explained), use_of(observed, operation)
    elsewhere = any(  # the module is right where another line calls it
        each.module is operation.module and each.frames != operation.frames and trial.labels[each.outputs[0]].known
        for each in trial.recording.operations
        if operation.module is not None and each.outputs
    )
    if built and not elsewhere:
        return [(built, "made here"), (use, "used here")]
    return [(use, "made here"), *((spot, "made here") for spot in _summed_before(observed, explained))]


def _summed_before(observed: Observed, explained: Explanation) -> list[Spot]:
    """Where the sum was made that GPT-2 goes on with, in the place of a sum too many."""
    entry, trial = explained.becomes.entry, observed.trial
    if explained.kind != "extra" or entry is None or entry.place not in STREAMS:
        return []
    taken = [trial.made(each) for each in explained.operation.inputs if trial.labels[each].entry is entry]
    return [spot_of(each.frames[0]) for each in taken if each is not None and each.frames and each.name == "add"]


def _listed(explained: Explanation) -> Spot | None:
    """Where an object of the class that is applied once too often stands in a list that is called as a whole."""
    here = source.at(explained.operation.frames[0]) if explained.kind == "extra" else None
    called = here.node.func if here is not None and isinstance(here.node, ast.Call) else None
    behind = classes.attribute_behind(Expression(here.file, called, 0)) if here is not None and called else None
    for each in reversed(list(ast.walk(behind.node))) if behind is not None else ():
        if isinstance(each, ast.Call) and each is not behind.node and source.last_name(each.func) == explained.found:  # type: ignore[union-attr]
            return Expression(behind.file, each, None).spot  # type: ignore[union-attr]
    return None


def _value_spots(observed: Observed, explained: Explanation) -> Spots:
    operation, use = explained.operation, use_of(observed, explained.operation)
    labels = [observed.trial.labels[number] for number in operation.inputs]
    table = any(each.entry is not None and each.entry.key in ("wte.weight", "wpe.weight") for each in labels)
    spots: Spots = [(shared_modules(observed), "made here")]
    for number, label in zip(operation.inputs, labels, strict=True):
        if table and label.entry is None:  # which row it takes
            first = first_maker(observed, number)
            spots.append((use_of(observed, first) if first is not None else owner_of(observed, number), "made here"))
    spots += [(_cut(observed, number), "made here") for number in operation.inputs]
    here = source.at(operation.frames[0])
    parts = source.operand(here, 0) if here is not None and operation.name in _JOINING else None
    for _, value in source.bindings(parts)[:1] if parts is not None else ():  # a list that has another order
        if not (isinstance(value, ast.List) and not value.elts):
            spots.append((Expression(parts.file, value, 0).spot, "made here"))  # type: ignore[union-attr]
    return [*spots, (plain_built_at(observed, operation), "made here"), (use, "made here")]


def _cut(observed: Observed, number: int) -> Spot | None:
    """The operation that took one head, or one token, of a value that is used beside a whole one."""
    trial = observed.trial
    letters = {letter for letter, _ in trial.labels[number].fixed} & {"H", "T"}
    while letters and (maker := trial.recording.maker(number)) is not None and maker.inputs:
        before = trial.labels[maker.inputs[0]]
        if before.entry is not trial.labels[number].entry:
            return None
        if not letters & {letter for letter, _ in before.fixed}:
            return use_of(observed, maker)
        number = maker.inputs[0]
    return None


_WAYS = {
    "constant": constant_spots,
    "mask": mask_spots,
    "factor": factor_spots,
    "order": order_spots,
    "module": operand_spots,
    "exchange": exchange_spots,
    "operand": operand_spots,
    "operation": _operation_spots,
    "extra": _operation_spots,
    "value": _value_spots,
    "rounding": _value_spots,
}
