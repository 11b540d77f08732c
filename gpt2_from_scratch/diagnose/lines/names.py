"""The lines for values that are GPT-2's and are taken for each other: by a wrong name, or by axes in another order.

Either the use of a name is wrong, or the name was bound to the wrong value. What a name claims to be (`role_in`) only
decides between these two.
"""

import ast

from gpt2_from_scratch.anatomy.identity import Identity
from gpt2_from_scratch.diagnose.lines import source
from gpt2_from_scratch.diagnose.lines.explain import Explanation
from gpt2_from_scratch.diagnose.lines.places import (
    Observed,
    Spots,
    function_of,
    source_of,
    use_of,
)
from gpt2_from_scratch.diagnose.lines.source import Expression, Spot
from gpt2_from_scratch.diagnose.lines.trial import VIEWS
from gpt2_from_scratch.recorder import Operation


def order_spots(observed: Observed, explained: Explanation) -> Spots:
    """The lines for an operand whose axes have another order than GPT-2's."""
    assert explained.position is not None
    operation = explained.operation
    use = use_of(observed, operation)
    number = operation.inputs[explained.position]
    label = observed.trial.labels[number]
    if operation.name in VIEWS:
        mixed = _mixed(observed, number)
        if mixed is not None:
            return [(mixed, "made here"), (use, "used here")]
        sizes = _sizes(observed, operation, number) if _in_usual_order(label) else None
        return [(_turned_by(observed, number), "made here"), (sizes, "made here"), (use, "used here")]
    if label.kind == "entry" and _in_usual_order(label):
        return [(use, "used here")]  # it is made in its usual order
    maker = observed.trial.recording.maker(number)
    made: Spot | None = None
    while maker is not None and label.entry is not None and role_of(label) == "":
        same = [each for each in maker.inputs if observed.trial.labels[each].entry is label.entry]
        if not same or _in_usual_order(observed.trial.labels[same[0]]):
            break
        maker = observed.trial.recording.maker(same[0])
    if maker is not None and maker.frames:
        made = use_of(observed, maker)
        roles = [role_of(observed.trial.labels[each]) for each in maker.inputs]
        if roles == ["k", "q"]:
            return [*_bound(observed, maker, 0, "q", made), (made, "used here"), (use, "used here")]
    return [(made, "made here"), (use, "used here")] if made else [(use, "used here")]


def _turned_by(observed: Observed, number: int) -> Spot | None:
    """The operation that mixed the values and put the heads elsewhere among the axes than the values have them."""
    mixed, maker = observed.trial.labels[number], observed.trial.recording.maker(number)
    for each in maker.inputs if maker is not None and maker.name == "einsum" else ():
        label = observed.trial.labels[each]
        before = label.order.replace(" ", "").replace("S", "T")
        if role_of(label) == "v" and before != mixed.order.replace(" ", "") and mixed.entry is not None:
            return use_of(observed, maker) if mixed.entry.place == "h.*.attn.mixed" else None
    return None


def _mixed(observed: Observed, number: int) -> Spot | None:
    """Where prompts ceased to be the first axis of a value; None if they are the first, or never were."""
    trial = observed.trial
    while not trial.labels[number].order.startswith("B") and (maker := trial.recording.maker(number)) is not None:
        last = [each for each in maker.inputs if trial.labels[each].kind == "entry"]
        other = [each for each in last if not trial.labels[each].order.startswith("B")]
        if last and not other:
            return use_of(observed, maker)
        if not other:
            break
        number = other[-1]
    return None


def _sizes(observed: Observed, operation: Operation, number: int) -> Spot | None:
    """Where the sizes were written that an operation splits an axis into, if a name holds them."""
    recording = observed.trial.recording
    made = recording.operations[operation.index].outputs[0]
    splits = len(recording.values[made].shape) > len(recording.values[number].shape)
    here = source.at(operation.frames[0]) if splits else None
    given = source.operand(here, 1) if here is not None else None
    if given is None or here is None or not isinstance(here.node, ast.Call) or here.node.args[-1] is not given.node:
        return None
    return next((Expression(given.file, value, 0).spot for _, value in source.bindings(given)), None)


def _in_usual_order(label: Identity) -> bool:
    """Whether a value has the axes of its entry that are left in it in the entry's own order."""
    cut = {letter for letter, _ in label.fixed}
    left = [letter for letter in label.entry.axes if letter not in cut] if label.entry is not None else []
    return label.order.replace(" ", "") == "".join(left)


def exchange_spots(observed: Observed, explained: Explanation) -> Spots:
    """The lines for two operands in each other's place."""
    assert explained.position is not None
    assert isinstance(explained.wanted, Identity)
    use = use_of(observed, explained.operation)
    role = role_of(explained.wanted)
    return [*_bound(observed, explained.operation, explained.position, role, use), (use, "used here")]


def _bound(observed: Observed, operation: Operation, position: int, role: str, use: Spot | None) -> Spots:
    """Where operands got their order: the call that exchanged them, or the assignment that named them wrongly."""
    argument = source_of(operation, position)
    if argument is None:
        return []
    argument = source.moved(argument)
    is_there = role_of(observed.trial.labels[operation.inputs[position]])
    while (outer := source.caller(argument, operation.frames)) is not None:
        if isinstance(argument.node, ast.Name) and role and _role_in(argument.node.id) == is_there:
            break  # its name is right: it is used wrongly
        argument = source.moved(outer)
    spot = argument.spot
    if use is not None and (spot.file, spot.function) != (use.file, use.function):
        if isinstance(argument.node, ast.Name) and role and _role_in(argument.node.id) == role:
            spots = _binding_of(argument)
            if spots:
                return [*spots, (spot, "used here")]
        return [(spot, "used here")]
    if isinstance(argument.node, ast.Name) and (
        _unpacked(argument) if not role else _role_in(argument.node.id) == role
    ):
        return _binding_of(argument)
    return []


def _unpacked(argument: Expression) -> bool:
    """Whether a name was bound together with others, which it may have been exchanged with."""
    statement = next((statement for statement, _ in source.bindings(argument)), None)
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return any(isinstance(each, ast.Tuple) for each in targets)


def bound_as(operation: Operation, position: int, wanted: Identity) -> Spot | None:
    """Where a name that claims the right role got the wrong value."""
    argument = source_of(operation, position)
    while argument is not None:
        argument = source.moved(argument)
        if not _claims(argument, role_of(wanted)):
            return None
        for spot, _ in _binding_of(argument):
            return spot
        argument = source.caller(argument, operation.frames)
    return None


def _binding_of(argument: Expression) -> Spots:
    """The statement that unpacked several values at once into names, behind statements that only move them."""
    for statement, value in source.bindings(argument):
        inner = source.moved(Expression(argument.file, value, argument.depth))
        target = statement.targets[0] if isinstance(statement, ast.Assign) else None
        roles = [_role_in(each.id) for each in _elements(target) if isinstance(each, ast.Name)]
        if sorted(roles) == ["k", "q", "v"] and roles != ["q", "k", "v"] and target is not None:  # an unusual order
            return [(Expression(argument.file, target, argument.depth).spot, "made here")]
        if isinstance(argument.node, ast.Name) and _renews(statement, inner.node, argument.node.id):
            continue
        if isinstance(value, ast.GeneratorExp | ast.ListComp):  # what it runs over has the order
            value = value.generators[0].iter
            over = source.bindings(Expression(argument.file, value, argument.depth))
            value = over[0][1] if over else value
        spots: Spots = [(Spot(argument.file, value.lineno, value.col_offset), "made here")]
        taken = [each for each in ast.walk(value) if isinstance(each, ast.Name)]
        if isinstance(statement, ast.comprehension) and taken:  # what it runs over may have the order
            over = source.bindings(Expression(argument.file, taken[-1], argument.depth))
            made: Spots = [(Expression(argument.file, each, argument.depth).spot, "made here") for _, each in over[:1]]
            names = statement.target.elts if isinstance(statement.target, ast.Tuple) else []
            usual = [_role_in(each.id) for each in names if isinstance(each, ast.Name)] == ["q", "k", "v"]
            return [*made, *spots] if usual else [*spots, *made]
        return spots
    return []


def _elements(target: ast.AST | None) -> list[ast.expr]:
    """What an assignment to several names assigns to; none for one name."""
    return target.elts if isinstance(target, ast.Tuple) else []


def _renews(statement: ast.AST, value: ast.expr, name: str) -> bool:
    """Whether a value is that of the name before, or is made of it: ``k = split(k)``, ``k = cat((past, k))``."""
    over = value.generators[0].iter if isinstance(value, ast.GeneratorExp | ast.ListComp) else value
    if isinstance(over, ast.Tuple):
        target = statement.targets[0] if isinstance(statement, ast.Assign) else None
        given = [source.moved(Expression("", each, None)).node for each in over.elts]
        pairs = zip(_elements(target) or given, given, strict=False)
        return any(all(isinstance(each, ast.Name) and each.id == name for each in pair) for pair in pairs)
    if isinstance(value, ast.Call):
        listed = [each.elts if isinstance(each, ast.Tuple | ast.List) else [each] for each in value.args]
        return any(isinstance(each, ast.Name) and each.id == name for given in listed for each in given)
    parts = [value.left, value.right] if isinstance(value, ast.BinOp) else [value]  # a multiple of it
    return any(isinstance(each, ast.Name) and each.id == name for each in parts)


def other_name(
    observed: Observed, explained: Explanation, wanted: Identity, use: Spot | None, made: Spot | None
) -> Spots:
    """The right value was made. Where a name holds it, that should have been used; otherwise a name was bound wrongly.

    A parameter is followed to the call that gave it, until some name there holds the right value.
    """
    operation, position = explained.operation, explained.position
    assert position is not None
    argument = source_of(operation, position)
    if argument is None:
        return [(use, "used here"), (made, "made here")]
    argument, role = source.moved(argument), role_of(wanted)
    highest = _reach(observed, operation, wanted)
    is_there = role_of(observed.trial.labels[operation.inputs[position]])
    while not (is_there and _claims(argument, is_there)) and (
        not _at_hand(explained, argument, wanted) or _misnamed(argument, is_there)
    ):
        outer = _element(explained, argument) or source.caller(argument, operation.frames)
        if outer is None or (outer.depth is not None and outer.depth > highest):
            break
        argument = source.moved(outer)
    spot = argument.spot
    if _misnamed(argument, is_there):
        spots = _binding_of(argument)
        if spots:
            return [*spots, (spot, "used here"), (made, "made here")]
    bound = source.bindings(argument)
    if not bound or (is_there and _claims(argument, is_there)):  # its name is right
        return [(spot, "used here"), (made, "made here")]
    statement, value = bound[0]
    where = Spot(argument.file, value.lineno, value.col_offset, spot.function)
    before = [
        user
        for user in observed.trial.consumers.get(operation.inputs[position], ())
        if user.index < operation.index and user.name == operation.name
    ]
    in_it = any(  # the right value was made by the statement that takes the wrong one
        (frame.file, frame.line) == (spot.file, spot.line)
        for earlier in observed.trial.recording.operations[: operation.index]
        if any(_is(observed.trial.labels[number], wanted) for number in earlier.outputs)
        for frame in earlier.frames
    )
    if (
        (not _at_hand(explained, argument, wanted) and not before and not in_it)  # no name for the right value is left
        or (not role and _together(observed, operation, position, wanted))
        or (isinstance(statement, ast.Assign) and len(statement.targets) > 1)  # one name too many
        or isinstance(value, ast.Subscript)  # another part was picked
        or (
            isinstance(value, ast.Name) and not before and not _right_elsewhere(observed, operation, position, argument)
        )
        or _only_for(observed, operation, position, argument, value)
    ):
        return [(where, "made here"), (spot, "used here"), (made, "made here")]
    return [(spot, "used here"), (where, "made here")]


def _right_elsewhere(observed: Observed, operation: Operation, position: int, argument: Expression) -> bool:
    """Whether another line of the function takes the value by the same name and makes a number of GPT-2's of it."""
    trial, number = observed.trial, operation.inputs[position]
    for user in trial.consumers.get(number, ()):
        right = user.index != operation.index and bool(user.frames) and trial.labels[user.outputs[0]].known
        taken = source_of(user, user.inputs.index(number)) if right else None
        name = source.moved(taken).node if taken is not None else argument.node
        same = ast.dump(name) == ast.dump(argument.node) and source.scope_of(name) is source.scope_of(argument.node)
        if same and name.lineno != argument.node.lineno:
            return True
    return False


def _claims(argument: Expression, role: str) -> bool:
    """Whether a name says that it is the queries, the keys or the values."""
    return isinstance(argument.node, ast.Name) and _role_in(argument.node.id) == role


def _misnamed(argument: Expression, is_there: str) -> bool:
    """Whether a name says that it is another of queries, keys and values than it is."""
    claimed = _role_in(argument.node.id) if isinstance(argument.node, ast.Name) else ""
    return bool(is_there and claimed) and claimed != is_there


def _at_hand(explained: Explanation, argument: Expression, wanted: Identity) -> bool:
    """Whether a name in the function of an expression holds the right value."""
    depth = argument.depth
    held = explained.scopes[depth] if depth is not None and depth < len(explained.scopes) else {}
    names = {name for name, label in held.items() if _is(label, wanted)}
    scope = source.scope_of(argument.node)
    if source.is_parameter(argument) and isinstance(scope, ast.FunctionDef | ast.Lambda):
        names -= set(source.parameters(scope))  # given by the same call: it may have exchanged them
    return bool(names)


def _element(explained: Explanation, argument: Expression) -> Expression | None:
    """What a loop's variable was taken from, where that holds the same value: a name in ``for x in (query, key)``."""
    depth, found, frames = argument.depth, explained.found, explained.operation.frames
    if depth is not None and frames[depth].function in ("<genexpr>", "<listcomp>"):  # a frame of its own
        depth += 1
    held = explained.scopes[depth] if depth is not None and depth < len(explained.scopes) else {}
    for each in source.elements(argument):
        label = held.get(each.id)
        if isinstance(found, Identity) and label is not None and label.entry is found.entry:
            return Expression(argument.file, each, depth)
    return None


def _only_for(observed: Observed, operation: Operation, position: int, argument: Expression, value: ast.expr) -> bool:
    """Whether what a name is bound to was computed by that statement, and is taken by one operation alone."""
    trial = observed.trial
    maker = trial.made(operation.inputs[position])
    if maker is None or not any((each.file, each.line) == (argument.file, value.lineno) for each in maker.frames):
        return False
    pending, users = list(maker.outputs), set[int]()
    while pending:
        for user in trial.consumers.get(pending.pop(), ()):
            pending += user.outputs if user.name in VIEWS else ()
            users |= set() if user.name in VIEWS else {user.index}
    return users == {operation.index}


def _together(observed: Observed, operation: Operation, position: int, wanted: Identity) -> bool:
    """Whether one operation made what is there and what is wanted: then its results got each other's names."""
    maker = observed.trial.recording.maker(operation.inputs[position])
    outputs = maker.outputs if maker is not None and maker.name not in VIEWS else ()
    return any(_is(observed.trial.labels[number], wanted) for number in outputs)


def _reach(observed: Observed, operation: Operation, wanted: Identity) -> int:
    """How many calls up from an operation the right value was made, in the same call."""
    frames, reach = operation.frames, -1
    for earlier in observed.trial.recording.operations[: operation.index]:
        if not any(_is(observed.trial.labels[number], wanted) for number in earlier.outputs):
            continue
        pairs = zip(reversed(frames), reversed(earlier.frames), strict=False)
        for depth, (mine, other) in enumerate(pairs):
            if function_of(mine) != function_of(other):
                break
            reach = max(reach, depth)
            if mine != other:
                break
    return len(frames) - 1 - reach if reach >= 0 else len(frames)


def _is(label: Identity, wanted: Identity) -> bool:
    """Whether a value is the one that is wanted, whatever the order of its axes."""
    return label.kind == "entry" and label.entry is wanted.entry and label.fixed == wanted.fixed


def role_of(label: Identity) -> str:
    """``q``, ``k`` or ``v`` for queries, keys and values; empty for all else."""
    if label.entry is None:
        return ""
    last = label.entry.key.rsplit(".", 1)[-1].removesuffix("_without")
    if last in ("q", "k", "v"):
        return last
    return "qkv"[dict(label.fixed)["3"]] if last == "qkv" and "3" in dict(label.fixed) else ""


def _role_in(name: str) -> str:
    """The role that a name claims: it only decides between two lines that could both be repaired."""
    plain = name.lower().strip("_")
    for role, wholes in (
        ("q", ("q", "query", "queries")),
        ("k", ("k", "key", "keys")),
        ("v", ("v", "value", "values")),
    ):
        if plain in wholes or any(part in wholes for part in plain.split("_")) or plain.startswith(wholes[1][:3]):
            return role
    return plain[0] if plain[:1] in ("q", "k", "v") and len(plain) <= 3 else ""
