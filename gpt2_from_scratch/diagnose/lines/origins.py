"""Where a constant of the user's was written: through names, arguments, defaults, attributes and fields."""

import ast
import builtins
from collections.abc import Sequence

from gpt2_from_scratch.diagnose.lines.classes import (
    attribute_in,
    own_attribute,
)
from gpt2_from_scratch.diagnose.lines.source import (
    Expression,
    Function,
    assigned_names,
    bindings,
    caller,
    class_around,
    default_of,
    is_module,
    is_range,
    is_self,
    last_name,
    parameters,
    parents,
    passed,
    scope_of,
    tree,
)
from gpt2_from_scratch.recorder import Frame

_DEEPEST = 8  # steps that a constant or a name is followed: through arguments, attributes, defaults


def origin(expression: Expression, frames: Sequence[Frame], value: object = None) -> Expression:
    """Where a constant was written: the literal, or the expression that computes it.

    Follows names to their assignment, parameters to the call or the default, ``self.x`` to the constructor, keys and
    fields of a configuration to where they are given. Stops at what it cannot follow.

    Args:
        expression: the constant, as an operation's argument.
        frames: of the operation.
        value: the number, if it is known: then no default and no argument that is another number is its source.
    """
    for _ in range(_DEEPEST):
        following = _followed(expression, frames, value)
        if following is None or following.node is expression.node or _is_other(following.node, value):
            return expression
        if isinstance(following.node, ast.Attribute) and is_self(following.node.value):
            return following  # a size that other code uses, too
        expression = following
    return expression


def _is_other(node: ast.expr, value: object) -> bool:
    """Whether an expression writes out another number than this one."""
    written = number(Expression("", node, None))
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return known and written is not None and written != value


def written_as(expression: Expression, frames: Sequence[Frame], value: object) -> Expression | None:
    """Where a constant of this value was written, if the places that an expression may lead to have it once.

    Args:
        expression: the constant, as an operation's argument.
        frames: of the operation.
        value: the number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    pending, seen = [(expression, 0)], set[tuple[str, int, int]]()
    found: dict[tuple[str, int], Expression] = {}
    while pending:
        each, steps = pending.pop()
        place = (each.file, each.node.lineno, each.node.col_offset)
        if place in seen or steps > _DEEPEST:
            continue
        seen.add(place)
        if number(each) == value:
            found.setdefault(place[:2], each)
        following = _followed(each, frames)
        pending += [(other, steps + 1) for other in (*([following] if following else []), *_given_anywhere(each))]
    return next(iter(found.values())) if len(found) == 1 else None


def _element(statement: ast.AST, value: ast.expr, name: str) -> ast.expr:
    """The part of the right side that a name gets, where both sides are written out: ``a, b = 1, 2``."""
    target = statement.targets[0] if isinstance(statement, ast.Assign) else None
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
        for left, right in zip(target.elts, value.elts, strict=True):
            if isinstance(left, ast.Name) and left.id == name:
                return right
    return value


def _given_anywhere(expression: Expression) -> list[Expression]:
    """What all calls in the file give for a parameter, and its default."""
    node = expression.node
    scope = scope_of(node) if isinstance(node, ast.Name) else None
    if not isinstance(node, ast.Name) or not isinstance(scope, Function) or node.id not in parameters(scope):
        return []
    values = [*_calls_with(expression.file, scope, node.id), default_of(scope, node.id)]
    return [Expression(expression.file, each, None) for each in values if each is not None]


def _followed(expression: Expression, frames: Sequence[Frame], value: object = None) -> Expression | None:
    node, file = expression.node, expression.file
    if isinstance(node, ast.Name):
        bound = bindings(expression)
        if bound:
            return Expression(file, _element(*bound[0], node.id), expression.depth)
        given = caller(expression, frames)
        if given is not None:
            return given
        scope = scope_of(node)
        outer = _in_closure(expression)
        if outer is not None:
            return outer
        around = (each for each in parents(node) if isinstance(each, Function | ast.Lambda))
        scope = next((each for each in around if node.id in parameters(each)), scope)  # of a function around its own
        if isinstance(scope, Function | ast.Lambda) and node.id in parameters(scope):
            call = _only_call_with(file, scope, node.id)
            if call is not None and not _is_other(call, value):
                return Expression(file, call, None)
            default = default_of(scope, node.id)
            return Expression(file, default, None) if default is not None and not _is_other(default, value) else None
        return _global(file, node.id)
    if isinstance(node, ast.Attribute):
        if isinstance(node.value, ast.Name) and node.value.id == "self":
            return own_attribute(file, node)
        return _field(file, node.attr)
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
        return _field(file, node.slice.value)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get" and node.args:
        key = node.args[0]
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            return _field(file, key.value) or (Expression(file, node.args[1], None) if len(node.args) > 1 else None)
    return None


def _in_closure(expression: Expression) -> Expression | None:
    """What a name was given in a function around its own one."""
    node = expression.node
    scopes = [each for each in parents(node) if isinstance(each, Function | ast.Lambda)]
    if not isinstance(node, ast.Name) or not scopes or node.id in parameters(scopes[0]):
        return None
    for scope in scopes[1:]:
        for each in ast.walk(scope):
            if isinstance(each, ast.Assign) and any(node.id in assigned_names(target) for target in each.targets):
                return Expression(expression.file, _element(each, each.value, node.id), None)
    return None


def number(expression: Expression) -> float | None:
    """The number that an expression writes out."""
    try:
        value = ast.literal_eval(expression.node)
    except (ValueError, TypeError, SyntaxError):
        return None
    return float(value) if isinstance(value, int | float) else None


def size_in(expression: Expression) -> Expression | None:
    """Where the one name in an expression was bound: ``d_k = k.shape[-2]`` for ``math.sqrt(d_k)``."""
    names = [each for each in ast.walk(expression.node) if isinstance(each, ast.Name) and not is_module(each)]
    names = [each for each in names if each.id not in dir(builtins)]
    if len(names) != 1 or isinstance(getattr(names[0], "_parent", None), ast.Attribute):
        return None
    bound = bindings(Expression(expression.file, names[0], expression.depth))
    alone = bound and isinstance(bound[0][0], ast.Assign) and isinstance(bound[0][0].targets[0], ast.Name)
    return Expression(expression.file, bound[0][1], expression.depth) if alone else None


def _global(file: str, name: str) -> Expression | None:
    module = tree(file)
    for each in module.body if module is not None else ():
        if isinstance(each, ast.Assign) and any(name in assigned_names(target) for target in each.targets):
            return Expression(file, each.value, None)
        if isinstance(each, ast.AnnAssign) and each.value is not None and name in assigned_names(each.target):
            return Expression(file, each.value, None)
    return None


def _field(file: str, name: str) -> Expression | None:
    """A field of a configuration: of a dataclass, a dictionary, or a keyword that is written in the same file."""
    module = tree(file)
    if module is None:
        return None
    found: list[ast.expr] = []
    for each in ast.walk(module):
        if isinstance(each, ast.Dict):
            for key, value in zip(each.keys, each.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == name:
                    found.append(value)
        elif isinstance(each, ast.ClassDef):
            for statement in each.body:
                if isinstance(statement, ast.AnnAssign) and statement.value is not None:
                    if isinstance(statement.target, ast.Name) and statement.target.id == name:
                        found.append(statement.value)
                elif isinstance(statement, ast.Assign) and any(name in assigned_names(t) for t in statement.targets):
                    found.append(statement.value)
    return Expression(file, found[0], None) if len(found) == 1 else None


def _only_call_with(file: str, scope: Function | ast.Lambda, name: str) -> ast.expr | None:
    """The argument for a parameter, if the calls in the file that give it agree in it."""
    given = [] if isinstance(scope, ast.Lambda) else _calls_with(file, scope, name)
    return given[0] if given and len({ast.dump(each) for each in given}) == 1 else None


def _calls_with(file: str, scope: Function, name: str) -> list[ast.expr]:
    """What the calls in the file give for a parameter."""
    called = scope.name
    bound = False
    around = getattr(scope, "_parent", None)
    if isinstance(around, ast.ClassDef):
        bound = True
        if scope.name == "__init__":
            called = around.name
    module = tree(file)
    given = []
    for each in ast.walk(module) if module is not None else ():
        if isinstance(each, ast.Call) and last_name(each.func) == called:
            value = passed(each, scope, name, bound)
            if value is not None:
                given.append(value)
    return given


def returned(expression: Expression) -> Expression:
    """What a call of a function in the same file returns, if it has one return; otherwise the call."""
    node = expression.node
    module = tree(expression.file)
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or module is None:
        return expression
    for each in ast.walk(module):
        if isinstance(each, Function) and each.name == node.func.id:
            values = [part.value for part in ast.walk(each) if isinstance(part, ast.Return) and part.value is not None]
            if len(values) == 1:
                return Expression(expression.file, values[0], None)
    return expression


def end_of_range(over: Expression) -> Expression | None:
    """Where the end of a range is computed: in ``range(n - 1)``, or where its name was bound; None if it is not.

    Of a range that does not begin at 0, it is the range itself that has another length.
    """
    if not isinstance(over.node, ast.Call) or not is_range(over.node):
        return None
    if len(over.node.args) > 1 and number(Expression(over.file, over.node.args[0], None)) != 0:
        return over
    end = Expression(over.file, over.node.args[min(1, len(over.node.args) - 1)], over.depth)
    for _ in range(_DEEPEST):
        counts = isinstance(end.node, ast.Call) and last_name(end.node.func) in ("max", "min", "sum", "int")
        if isinstance(end.node, ast.BinOp) or counts:
            return end
        following = _followed(end, ())
        if following is None:
            return None
        end = following
    return None


def count_of(owner: type, attribute: str) -> Expression | None:
    """What says how many parts a list in a class of the user's has: the end of the range that it is built over.

    Args:
        owner: the user's class.
        attribute: of the class, that holds the list or is it.
    """
    built = attribute_in(owner, attribute)
    if built is None:
        return None
    over = [each for each in ast.walk(built.node) if is_range(each)]
    around = class_around(built.node)
    for loop in ast.walk(around) if around is not None and not over else ():
        if isinstance(loop, ast.For) and any(
            isinstance(each, ast.Attribute) and each.attr == attribute and is_self(each.value)
            for each in ast.walk(loop)
        ):
            over += [each for each in ast.walk(loop.iter) if is_range(each)]
    return end_of_range(Expression(built.file, over[0], None)) if len(over) == 1 else None  # type: ignore[arg-type]
