"""The user's source: which expression an operation is, where its names were bound, and where a constant was written.

Everything is read from syntax trees of the files that the frames name. What cannot be followed is None.
"""

import ast
import builtins
import inspect
import linecache
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from gpt2_from_scratch.recorder import Frame

_DEEPEST = 8  # steps that a constant or a name is followed: through arguments, attributes, defaults


@dataclass(frozen=True)
class Spot:
    """A place in a source file.

    Args:
        file: its path.
        line: counted from 1.
        column: offset of its first byte in the line.
        function: name of the function around it, empty outside functions.
    """

    file: str
    line: int
    column: int
    function: str = ""

    @property
    def text(self) -> str:
        """The line, without its indentation."""
        return linecache.getline(self.file, self.line).strip()


@dataclass(frozen=True)
class Expression:
    """An expression in a file, with what is around it.

    Args:
        file: path of the file.
        node: the expression.
        depth: how many of the user's frames up from the innermost it stands; None where no frame executes it.
    """

    file: str
    node: ast.expr
    depth: int | None

    @property
    def spot(self) -> Spot:
        """Where it begins."""
        function = enclosing(self.file, self.node)
        return Spot(self.file, self.node.lineno, self.node.col_offset, function.name if function else "")


Function = ast.FunctionDef | ast.AsyncFunctionDef


@lru_cache(maxsize=256)
def tree(file: str) -> ast.Module | None:
    """The syntax tree of a file, None if there is none to read."""
    text = "".join(linecache.getlines(file))
    if not text:
        return None
    try:
        module = ast.parse(text)
    except SyntaxError:
        return None
    for parent in ast.walk(module):
        for child in ast.iter_child_nodes(parent):
            child._parent = parent  # type: ignore[attr-defined]
    return module


def forget() -> None:
    """Reads files anew from now on."""
    tree.cache_clear()
    linecache.checkcache()


def parents(node: ast.AST) -> Iterator[ast.AST]:
    """What a node stands in, from the inside out."""
    while (node := getattr(node, "_parent", None)) is not None:  # type: ignore[assignment]
        yield node


def is_dropped(spot: Spot) -> bool:
    """Whether a place is in a statement that computes something and does nothing with it."""
    module = tree(spot.file)
    return any(
        isinstance(each, ast.Expr) and each.lineno <= spot.line <= (each.end_lineno or each.lineno)
        for each in (ast.walk(module) if module is not None else ())
    )


def enclosing(file: str, node: ast.AST) -> Function | None:
    """The function around a node."""
    return next((each for each in parents(node) if isinstance(each, Function)), None)


def loop_around(node: ast.AST) -> ast.For | None:
    """The innermost loop around a node, in the same function."""
    for each in parents(node):
        if isinstance(each, ast.For):
            return each
        if isinstance(each, Function | ast.Lambda):
            return None
    return None


def scope_of(node: ast.AST) -> ast.AST | None:
    """The function or lambda around a node."""
    return next((each for each in parents(node) if isinstance(each, Function | ast.Lambda)), None)


def class_around(node: ast.AST) -> ast.ClassDef | None:
    """The class around a node."""
    return next((each for each in parents(node) if isinstance(each, ast.ClassDef)), None)


def at(frame: Frame, depth: int = 0) -> Expression | None:
    """The expression that a frame executes."""
    module = tree(frame.file)
    if module is None:
        return None
    best: ast.expr | None = None
    for node in ast.walk(module):
        if not isinstance(node, ast.expr) or node.lineno != frame.line:
            continue
        here = (node.lineno, node.col_offset, node.end_lineno, node.end_col_offset)
        if here == (frame.line, frame.column, frame.end_line, frame.end_column):
            return Expression(frame.file, node, depth)
        best = best or node
    for node in ast.walk(module):  # an augmented assignment is a statement: its expression is its value
        if isinstance(node, ast.AugAssign) and (node.lineno, node.col_offset) == (frame.line, frame.column):
            return Expression(frame.file, node.value, depth)
    return Expression(frame.file, best, depth) if best is not None else None


def operand(found: Expression, place: int | str) -> Expression | None:
    """The source of one of an operation's arguments.

    Args:
        found: the operation.
        place: the argument: of ``a + b`` 0 is a; of ``x.mean(-1)`` 0 is x; of ``f(a, b)`` 0 is a.
    """
    node = found.node
    parent = getattr(node, "_parent", None)
    if isinstance(parent, ast.AugAssign) and parent.value is node:
        return Expression(found.file, parent.target if place == 0 else node, found.depth)
    result: ast.expr | None = None
    if isinstance(node, ast.BinOp):
        result = node.left if place == 0 else node.right if place == 1 else None
    elif isinstance(node, ast.UnaryOp):
        result = node.operand
    elif isinstance(node, ast.Compare):
        result = node.left if place == 0 else node.comparators[0]
    elif isinstance(node, ast.Subscript):
        result = node.value if place == 0 else node.slice
    elif isinstance(node, ast.Attribute):
        result = node.value
    elif isinstance(node, ast.Call):
        result = _argument(node, place)
    return Expression(found.file, result, found.depth) if result is not None else None


def _argument(call: ast.Call, place: int | str) -> ast.expr | None:
    if isinstance(place, str):
        written = next((keyword.value for keyword in call.keywords if keyword.arg == place), None)
        position = _position(last_name(call.func), place)
        return written if written is not None or position is None else _argument(call, position)
    positional: list[ast.expr] = list(call.args)
    if isinstance(call.func, ast.Attribute) and not _is_module(call.func.value):
        positional.insert(0, call.func.value)
    if place < len(positional) and not any(isinstance(each, ast.Starred) for each in positional[: place + 1]):
        return positional[place]
    return None


@lru_cache(maxsize=512)
def _position(function: str, keyword: str) -> int | None:
    """Where torch's function takes an argument that it hands on by keyword."""
    for room in (torch.nn.functional, torch):
        try:
            names = list(inspect.signature(getattr(room, function)).parameters)
        except (AttributeError, TypeError, ValueError):
            continue
        if keyword in names:
            return names.index(keyword)
    return None


def moved(expression: Expression) -> Expression:
    """The expression whose numbers an expression only moves: ``keys`` of ``keys.transpose(2, 3)``."""
    node: ast.expr = expression.node
    while (inner := _moved_once(node)) is not None:
        node = inner
    return Expression(expression.file, node, expression.depth)


def _moved_once(node: ast.expr) -> ast.expr | None:
    if isinstance(node, ast.Attribute):
        return node.value if node.attr in ("T", "mT", "H") else None
    if not isinstance(node, ast.Call):
        return None
    first = node.args[0] if node.args else None
    if isinstance(node.func, ast.Attribute) and node.func.attr in _MOVES:
        return first if _is_module(node.func.value) else node.func.value
    return first if isinstance(node.func, ast.Name) and node.func.id in _MOVES else None


_MOVES_NAMES = (
    "view reshape transpose permute swapaxes contiguous unsqueeze squeeze expand flatten clone to double "
    "float rearrange type repeat unflatten swapdims movedim moveaxis"
)
_MOVES = frozenset(_MOVES_NAMES.split())


def _is_module(node: ast.expr) -> bool:
    """Whether ``node.f(x)`` is a function of a module (torch, F, np), rather than a method of a tensor."""
    known = {"torch", "F", "nn", "np", "numpy", "math", "functional", "einops", "jnp", "scipy", "special", "self"}
    if isinstance(node, ast.Attribute):
        return _is_module(node.value)
    return isinstance(node, ast.Name) and node.id in known


def bindings(expression: Expression) -> list[tuple[ast.stmt | ast.comprehension | ast.NamedExpr, ast.expr]]:
    """Assignments to a name in its function, those before the name last to first, then those after it.

    Returns:
        Pairs of a statement and the expression whose value the name gets (of an unpacking, the whole right side).
    """
    node = expression.node
    if not isinstance(node, ast.Name):
        return []
    scope = scope_of(node) or tree(expression.file)
    if scope is None:
        return []
    found: list[tuple[ast.stmt | ast.comprehension | ast.NamedExpr, ast.expr]] = []
    for each in ast.walk(scope):
        targets: list[ast.expr] = []
        value: ast.expr | None = None
        if isinstance(each, ast.Assign):
            targets, value = each.targets, each.value
        elif isinstance(each, ast.AugAssign | ast.AnnAssign) and each.value is not None:
            targets, value = [each.target], each.value
        elif isinstance(each, ast.For):
            targets, value = [each.target], each.iter
        elif isinstance(each, ast.NamedExpr):
            targets, value = [each.target], each.value
        if value is not None and any(node.id in assigned_names(target) for target in targets):
            found.append((each, value))  # type: ignore[arg-type]
    statement = _statement(node)
    line = statement.lineno if statement is not None else node.lineno

    def before(pair: tuple[ast.stmt | ast.comprehension | ast.NamedExpr, ast.expr]) -> bool:
        where = pair[0]
        return where is not statement and getattr(where, "lineno", 0) <= line

    earlier = sorted((pair for pair in found if before(pair)), key=lambda pair: -pair[1].lineno)
    return earlier + [pair for pair in found if pair not in earlier]


def assigned_names(node: ast.expr) -> set[str]:
    """Names that an assignment to an expression binds."""
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}


def _statement(node: ast.AST) -> ast.stmt | None:
    if isinstance(node, ast.stmt):
        return node
    return next((each for each in parents(node) if isinstance(each, ast.stmt)), None)


def is_parameter(expression: Expression) -> str | None:
    """The name of the parameter that an expression is, if its function never binds that name anew before it."""
    node = expression.node
    if not isinstance(node, ast.Name):
        return None
    scope = scope_of(node)
    if not isinstance(scope, Function | ast.Lambda) or node.id not in parameters(scope):
        return None
    statement = _statement(node)
    for each, _ in bindings(expression):
        if statement is None or each.lineno < statement.lineno:  # type: ignore[union-attr]
            return None
    return node.id


def parameters(scope: Function | ast.Lambda) -> list[str]:
    """Names of a function's parameters."""
    arguments = scope.args
    return [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]


def default_of(scope: Function | ast.Lambda, name: str) -> ast.expr | None:
    """The default of a parameter."""
    arguments = scope.args
    positional = [each.arg for each in (*arguments.posonlyargs, *arguments.args)]
    if name in positional:
        index = positional.index(name) - (len(positional) - len(arguments.defaults))
        return arguments.defaults[index] if index >= 0 else None
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if argument.arg == name:
            return default
    return None


def passed(call: ast.Call, scope: Function | ast.Lambda, name: str, bound: bool) -> ast.expr | None:
    """What a call gives for a parameter; `bound` if the first parameter is the object itself."""
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    names = parameters(scope)
    if name not in names:
        return None
    index = names.index(name) - (1 if bound else 0)
    if 0 <= index < len(call.args) and not any(isinstance(each, ast.Starred) for each in call.args[: index + 1]):
        return call.args[index]
    return None


def caller(expression: Expression, frames: Sequence[Frame]) -> Expression | None:
    """The argument that the calling frame gives for the parameter that an expression is."""
    name = is_parameter(expression)
    if name is None or expression.depth is None or expression.depth + 1 >= len(frames):
        return None
    scope = scope_of(expression.node)
    outer = at(frames[expression.depth + 1], expression.depth + 1)
    if outer is None or not isinstance(outer.node, ast.Call) or not isinstance(scope, Function | ast.Lambda):
        return None
    names = parameters(scope)
    given = passed(outer.node, scope, name, bool(names) and names[0] in ("self", "cls"))
    return Expression(outer.file, given, outer.depth) if given is not None else None


# -- constants


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
        if following is None or following.node is expression.node:
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
        if isinstance(scope, Function | ast.Lambda) and node.id in parameters(scope):
            call = _only_call_with(file, scope, node.id)
            if call is not None and not _is_other(call, value):
                return Expression(file, call, None)
            default = default_of(scope, node.id)
            return Expression(file, default, None) if default is not None and not _is_other(default, value) else None
        return _global(file, node.id)
    if isinstance(node, ast.Attribute):
        if isinstance(node.value, ast.Name) and node.value.id == "self":
            return _attribute(file, node)
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
    names = [each for each in ast.walk(expression.node) if isinstance(each, ast.Name) and not _is_module(each)]
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


def _attribute(file: str, node: ast.Attribute) -> Expression | None:
    """``self.x``: what the constructor, or another method, assigned to it."""
    around = class_around(node)
    return attribute_of(file, around, node.attr) if around is not None else None


def attribute_behind(expression: Expression) -> Expression | None:
    """What ``self.x`` was given in its class; None for all else."""
    node = expression.node
    return _attribute(expression.file, node) if isinstance(node, ast.Attribute) and is_self(node.value) else None


def attribute_of(file: str, around: ast.ClassDef, name: str) -> Expression | None:
    """What ``self.name`` was given in a class, or its registered buffer."""
    best: Expression | None = None
    for each in ast.walk(around):
        value: ast.expr | None = None
        if isinstance(each, ast.Assign | ast.AnnAssign) and each.value is not None:
            targets = each.targets if isinstance(each, ast.Assign) else [each.target]
            for target in targets:
                for part in ast.walk(target):
                    if isinstance(part, ast.Attribute) and part.attr == name and is_self(part.value):
                        value = each.value
                if isinstance(target, ast.Name) and target.id == name and each in around.body:
                    value = each.value
        elif isinstance(each, ast.Call) and isinstance(each.func, ast.Attribute):
            first = each.args[0] if each.args else None
            registers = each.func.attr in ("register_buffer", "register_parameter", "add_module", "register_module")
            if registers and isinstance(first, ast.Constant) and first.value == name and len(each.args) > 1:
                value = each.args[1]
        if value is not None:
            function = enclosing(file, value)
            found = Expression(file, value, None)
            if function is not None and function.name == "__init__":
                return found
            best = best or found
    if best is not None:
        return best
    module = tree(file)
    for base in around.bases:
        if isinstance(base, ast.Name) and module is not None:
            other = class_named(file, base.id)
            if other is not None and other is not around:
                return attribute_of(file, other, name)
    return None


def is_self(node: ast.expr) -> bool:
    """Whether an expression is the name ``self``."""
    return isinstance(node, ast.Name) and node.id == "self"


def class_named(file: str, name: str) -> ast.ClassDef | None:
    """The class of that name in a file."""
    module = tree(file)
    for each in ast.walk(module) if module is not None else ():
        if isinstance(each, ast.ClassDef) and each.name == name:
            return each
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


def last_name(node: ast.expr) -> str:
    """What a function is called by: ``Linear`` in ``nn.Linear``."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


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


def next_with(expression: Expression) -> Expression | None:
    """The first statement behind an assignment that takes the assigned name, as the expression that it computes."""
    statement = _statement(expression.node)
    scope = enclosing(expression.file, expression.node)
    if not isinstance(statement, ast.Assign) or len(statement.targets) != 1 or scope is None:
        return None
    names = assigned_names(statement.targets[0])
    for each in sorted((part for part in ast.walk(scope) if isinstance(part, ast.stmt)), key=lambda part: part.lineno):
        value = getattr(each, "value", None)
        if each.lineno <= (statement.end_lineno or statement.lineno) or not isinstance(value, ast.expr):
            continue
        if any(isinstance(part, ast.Name) and part.id in names for part in ast.walk(value)):
            return Expression(expression.file, value, expression.depth)
    return None


def guards(scope: Function) -> list[str]:
    """Parameters of a function of which an ``if`` in it asks whether they were given."""
    names = set(parameters(scope))
    tests = [each.test for each in ast.walk(scope) if isinstance(each, ast.If | ast.IfExp)]
    return sorted({each.id for test in tests for each in ast.walk(test) if isinstance(each, ast.Name)} & names)


def given(call: ast.Call, scope: Function, name: str) -> ast.expr | None:
    """What a call gives for a parameter of the function that it ends up in."""
    names = parameters(scope)
    return passed(call, scope, name, bool(names) and names[0] in ("self", "cls"))


def attribute_in(owner: type, name: str) -> Expression | None:
    """What a class of the user's assigns to one of its attributes."""
    try:
        file = inspect.getsourcefile(owner)
    except TypeError:
        return None
    around = class_named(file, owner.__name__) if file else None
    return attribute_of(file, around, name) if file and around is not None else None


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


def is_range(node: ast.AST) -> bool:
    """Whether an expression is a call of `range`."""
    return isinstance(node, ast.Call) and last_name(node.func) == "range" and bool(node.args)


def end_of_range(over: Expression) -> Expression | None:
    """Where the end of a range is computed: in ``range(n - 1)``, or where its name was bound; None if it is not."""
    if not isinstance(over.node, ast.Call) or not is_range(over.node):
        return None
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


def only_construction(kind: type, file: str) -> Expression | None:
    """The call in a file that builds a class, if there is one such call."""
    module = tree(file)
    calls = [
        each
        for each in (ast.walk(module) if module is not None else ())
        if isinstance(each, ast.Call) and last_name(each.func) == kind.__name__
    ]
    return Expression(file, calls[0], None) if len(calls) == 1 else None


def constructions(kind: type, inside: type, attribute: str) -> list[Expression]:
    """Where a class of the user's builds a module of torch's: the calls in its source that may have built it.

    Args:
        kind: class of the module, such as `nn.GELU`.
        inside: the user's class.
        attribute: path of the module from there: ``act``, ``layers.1``.

    Returns:
        Calls, the likeliest first; empty if the source is not at hand.
    """
    try:
        file = inspect.getsourcefile(inside)
        lines, first = inspect.getsourcelines(inside)
    except (OSError, TypeError):
        return []
    module = tree(file) if file else None
    if module is None or file is None:
        return []
    last = first + len(lines)
    calls = [
        each
        for each in ast.walk(module)
        if isinstance(each, ast.Call) and first <= each.lineno < last and last_name(each.func) == kind.__name__
    ]
    head, _, rest = attribute.partition(".")

    def near(call: ast.Call) -> tuple[bool, bool]:
        statement = _statement(call)
        text = ast.unparse(statement) if statement is not None else ""
        named = text.startswith((f"self.{head} =", f"self.{head}:"))
        key = rest.split(".")[-1] if rest else head
        in_sequence = False
        parent = getattr(call, "_parent", None)
        if rest and key.isdigit() and isinstance(parent, ast.Call) and call in parent.args:
            in_sequence = parent.args.index(call) == int(key)
        elif isinstance(parent, ast.keyword):
            in_sequence = parent.arg == key
        elif isinstance(parent, ast.Dict):
            keys = [each.value if isinstance(each, ast.Constant) else None for each in parent.keys]
            in_sequence = key in keys and parent.values[keys.index(key)] is call
        elif isinstance(parent, ast.Tuple) and parent.elts and isinstance(parent.elts[0], ast.Constant):
            in_sequence = parent.elts[0].value == key
        return (not named, not in_sequence)

    return [Expression(file, call, None) for call in sorted(calls, key=near)]
