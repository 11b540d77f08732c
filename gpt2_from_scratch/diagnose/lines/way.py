"""The way of a value through the user's code: from where it is used back to where it was made.

Names, arguments, views and the returns of the user's own functions hand a value on. A step of GPT-2's that is missing
is missing on this way: in a function that returns what it was given, behind a value that nothing reads, or in a line
that only hands the value on.
"""

import ast
from collections.abc import Container, Sequence
from dataclasses import dataclass

from gpt2_from_scratch.diagnose.lines import classes, source
from gpt2_from_scratch.diagnose.lines.explain import Explanation
from gpt2_from_scratch.diagnose.lines.places import Observed, source_of
from gpt2_from_scratch.diagnose.lines.source import Expression, Function, Spot
from gpt2_from_scratch.diagnose.lines.trial import VIEWS
from gpt2_from_scratch.recorder import Operation

_MOST_STEPS = 12  # of a value from name to name


@dataclass(frozen=True)
class Way:
    """How a value came to where it is used.

    Args:
        spots: the lines that handed it on, the last one first.
        unchanged: the return of a function that returned the value as it was given it, None if there is none.
        earlier: the lines that handed on what the value was computed of, as far as that is one name.
        untaken: the condition of an assignment that was not run, None if all were.
    """

    spots: tuple[Spot, ...]
    unchanged: Spot | None = None
    earlier: tuple[Spot, ...] = ()
    untaken: Spot | None = None


@dataclass(frozen=True)
class _Inside:
    """A function that the value came out of."""

    scope: Function
    call: Expression
    end: Spot


def way_of(observed: Observed, explained: Explanation) -> Way:
    """The way of the operand that is wrong."""
    operation, position = explained.operation, explained.position
    spots: list[Spot] = []
    unchanged: Spot | None = None
    inside: list[_Inside] = []
    element, plain = 0, True  # which of several values it is; whether nothing moved its axes since it left a function
    argument = source_of(operation, position) if position is not None else None
    maker = observed.trial.made(operation.inputs[position]) if position is not None else None
    made = {(frame.file, frame.line) for frame in (maker.frames if maker is not None else ())}
    computed: int | None = None  # how many spots there were when something had been computed
    untaken: Spot | None = None
    for _ in range(_MOST_STEPS):
        if argument is None:
            break
        moved = source.moved(argument)
        plain = plain and moved.node is argument.node
        argument, node = moved, moved.node
        bound = _bound(argument, made)
        while bound is not None and (condition := _not_run(observed, argument, bound)) is not None:
            untaken = untaken or (None if _joins(bound[1]) else condition)  # joining is no step of GPT-2's
            bound = _bound(argument, made, bound[1].lineno)
        if bound is not None:
            statement, value = bound
            if isinstance(statement, ast.AugAssign):
                break
            element = source.element_of(statement, node)
            argument = Expression(argument.file, value, argument.depth)
            spots.append(argument.spot)
        elif isinstance(node, ast.Name) and inside and node.id in source.parameters(inside[-1].scope):
            left = inside.pop()
            unchanged = unchanged or (left.end if plain else None)
            given = source.given(left.call.node, left.scope, node.id) if isinstance(left.call.node, ast.Call) else None
            argument = Expression(left.call.file, given, left.call.depth) if given is not None else None
        elif isinstance(node, ast.Name):
            argument = None if inside else source.caller(argument, operation.frames)
            spots += [argument.spot] if argument is not None else []
        elif isinstance(node, ast.Call):
            called = _called(observed, argument, maker)
            ends = source.returns(called) if called is not None else []
            if called is None:
                idle = _only_moves(observed, argument)
                argument = Expression(argument.file, node.args[0], argument.depth) if idle else None
                continue
            if len(ends) != 1 or ends[0].value is None:
                break
            end = Spot(argument.file, ends[0].lineno, ends[0].col_offset, called.name)
            spots.append(end)
            inside.append(_Inside(called, argument, end))
            plain = True
            value = ends[0].value
            several = value.elts if isinstance(value, ast.Tuple) else [value]
            argument = Expression(argument.file, several[element] if element < len(several) else value, None)
        elif isinstance(node, ast.IfExp):
            argument = Expression(argument.file, node.body, argument.depth)
        elif isinstance(node, ast.Subscript):
            argument, plain = Expression(argument.file, node.value, argument.depth), False
        elif isinstance(node, ast.BinOp) and isinstance(node.left, ast.Name) != isinstance(node.right, ast.Name):
            computed = len(spots) if computed is None else computed
            name = node.left if isinstance(node.left, ast.Name) else node.right
            argument, plain = Expression(argument.file, name, argument.depth), False
        else:
            break
    earlier = tuple(spots[computed:] if computed is not None else ())
    return Way(tuple(spots[:computed]), unchanged, earlier, untaken)


def _not_run(observed: Observed, name: Expression, bound: tuple[ast.AST, ast.expr]) -> Spot | None:
    """The condition of an assignment that computes something, if that was not run."""
    statement, value = bound
    around = set(source.parents(name.node))
    tests = [each for each in source.parents(statement) if isinstance(each, ast.If) and each not in around]
    lines = range(value.lineno, (value.end_lineno or value.lineno) + 1)
    # Such as dropout, which leaves no record in eval mode.
    alone = isinstance(value, ast.Call) and len(value.args) == 1 and not _joins(value)
    computes = not alone and any(isinstance(each, ast.Call | ast.BinOp) for each in ast.walk(value))
    if not tests or not computes:
        return None
    run = {(frame.file, frame.line) for each in observed.before.recording.operations for frame in each.frames}
    return None if any((name.file, line) in run for line in lines) else Expression(name.file, tests[0].test, None).spot


def _joins(value: ast.expr) -> bool:
    """Whether an expression makes one value of several that are listed, as keys of earlier tokens and of this one."""
    return isinstance(value, ast.Call) and bool(value.args) and isinstance(value.args[0], ast.Tuple | ast.List)


def _bound(
    name: Expression, made: Container[tuple[str, int]], above: int | None = None
) -> tuple[ast.AST, ast.expr] | None:
    """The assignment that a name has its value from; in a loop it may be one behind the name, in the turn before.

    Args:
        name: the name.
        made: lines where the value was made.
        above: only assignments above this line.
    """
    pairs = [pair for pair in source.bindings(name) if above is None or pair[1].lineno < above]
    turns = list(source.loops_around(name.node))
    before = [pair for pair in pairs if pair[1].lineno < name.node.lineno]
    carried = [
        pair
        for pair in pairs
        if pair not in before and (name.file, pair[1].lineno) in made and set(turns) & set(source.parents(pair[0]))
    ]
    return next(iter([*carried, *before]), None)


def _called(observed: Observed, call: Expression, maker: Operation | None) -> Function | None:
    """The user's function that a call runs: as it was recorded, otherwise the one of that name in the file.

    A call in a loop runs several: the one that made the value, if one of them did.
    """
    for operation in (*([maker] if maker is not None else []), *observed.before.recording.operations):
        for depth, frame in enumerate(operation.frames):
            if source.is_at(frame, call) and (depth or operation is maker):
                return source.function_at(operation.frames[depth - 1]) if depth else None
    return _named(call)


def _named(call: Expression) -> Function | None:
    """The function of that name, in the class for ``self.f(x)``; for a module, the one that runs when it is called."""
    node = call.node
    if not isinstance(node, ast.Call):
        return None
    around = source.class_around(node)
    if isinstance(node.func, ast.Name):
        module = source.tree(call.file)
        named = [
            each
            for each in (ast.walk(module) if module is not None else ())
            if isinstance(each, Function) and each.name == node.func.id and source.class_around(each) is None
        ]
        return named[0] if len(named) == 1 else None
    if around is None or not isinstance(node.func, ast.Attribute) or not source.is_self(node.func.value):
        return None
    names = [node.func.attr]
    built = classes.attribute_of(call.file, around, node.func.attr)
    if built is not None and isinstance(built.node, ast.Call):
        around, names = classes.class_named(call.file, source.last_name(built.node.func)), ["forward", "__call__"]
    methods = around.body if around is not None else []
    return next((each for each in methods if isinstance(each, Function) and each.name in names), None)


def _only_moves(observed: Observed, call: Expression) -> bool:
    """Whether a call takes one value and computes nothing: dropout in eval mode."""
    here = [
        each.name for each in observed.before.recording.operations if each.frames and source.is_at(each.frames[0], call)
    ]
    taken = call.node.args if isinstance(call.node, ast.Call) else []
    return len(taken) == 1 and set(here) <= VIEWS


def passed_on(way: Way, known: Sequence[Spot]) -> list[Spot]:
    """Lines of a way that are not among the known ones."""
    taken = {(spot.file, spot.line) for spot in known}
    return [spot for spot in way.spots if (spot.file, spot.line) not in taken]
