"""The user's source as syntax trees: which expression an operation is, and where its names were bound.

Everything is read from syntax trees of the files that the frames name. What cannot be followed is None.
"""

import ast
import inspect
import linecache
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from gpt2_from_scratch.recorder import Frame


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


def element_of(statement: ast.AST, name: ast.expr) -> int:
    """Which of several values a name gets in ``a, b = f(x)``."""
    target = statement.targets[0] if isinstance(statement, ast.Assign) else None
    names = [ast.dump(each) for each in target.elts] if isinstance(target, ast.Tuple) else []
    stored = ast.dump(name).replace("Load()", "Store()")
    return names.index(stored) if stored in names else 0


def assigned_at(spot: Spot) -> set[str]:
    """The names that a line assigns to."""
    code = code_at(spot.file, spot.line)
    targets = code.targets if isinstance(code, ast.Assign) else []
    return {name for target in targets for name in assigned_names(target)}


def renames(spot: Spot) -> bool:
    """Whether a place only gives a value another name: ``a = b``."""
    code = code_at(spot.file, spot.line)
    return isinstance(code, ast.Assign) and isinstance(code.value, ast.Name)


def is_assigned(node: ast.expr) -> bool:
    """Whether an expression is the whole right side of an assignment."""
    statement = statement_of(node)
    return isinstance(statement, ast.Assign) and statement.value is node


def is_returned(spot: Spot) -> bool:
    """Whether a place assigns to a name that its function returns."""
    module = tree(spot.file)
    for each in ast.walk(module) if module is not None else ():
        scope = enclosing(spot.file, each) if isinstance(each, ast.Assign) and each.lineno == spot.line else None
        if isinstance(each, ast.Assign) and scope is not None:
            names = {name for target in each.targets for name in assigned_names(target)}
            ends = [part for part in ast.walk(scope) if isinstance(part, ast.Return) and part.lineno > spot.line]
            return any(isinstance(part, ast.Name) and part.id in names for end in ends for part in ast.walk(end))
    return False


def other_return(spot: Spot) -> Spot | None:
    """The return of a function in which a place assigns to a name, if that is behind it and takes another name."""
    code = code_at(spot.file, spot.line)
    scope = enclosing(spot.file, code) if code is not None else None
    ends = [each for each in ast.walk(scope) if isinstance(each, ast.Return)] if scope is not None else []
    if not isinstance(code, ast.Assign) or len(ends) != 1 or not isinstance(ends[0].value, ast.Name):
        return None
    return Spot(spot.file, ends[0].lineno, ends[0].col_offset, spot.function) if ends[0].lineno > spot.line else None


def enclosing(file: str, node: ast.AST) -> Function | None:
    """The function around a node."""
    return next((each for each in parents(node) if isinstance(each, Function)), None)


def loops_around(node: ast.AST) -> Iterator[ast.For | ast.comprehension]:
    """The loops around a node, in the same function, from the inside out; those of comprehensions, too."""
    for each in parents(node):
        if isinstance(each, ast.For):
            yield each
        elif isinstance(each, ast.GeneratorExp | ast.ListComp | ast.SetComp | ast.DictComp):
            yield from reversed(each.generators)
        elif isinstance(each, Function | ast.Lambda):
            return


def loop_around(node: ast.AST) -> ast.For | None:
    """The innermost loop around a node, in the same function."""
    return next((each for each in loops_around(node) if isinstance(each, ast.For)), None)


def scope_of(node: ast.AST) -> ast.AST | None:
    """The function or lambda around a node."""
    return next((each for each in parents(node) if isinstance(each, Function | ast.Lambda)), None)


def takes_from_around(node: ast.AST) -> bool:
    """Whether an expression in an inner function takes an argument of the function around that."""
    scopes = [each for each in parents(node) if isinstance(each, Function | ast.Lambda)]
    names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    own = set(parameters(scopes[0])) if scopes else set()
    return any((names - own) & set(parameters(each)) for each in scopes[1:])


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


def is_at(frame: Frame, expression: Expression) -> bool:
    """Whether a frame executes an expression."""
    node = expression.node
    here = (node.lineno, node.col_offset, node.end_lineno, node.end_col_offset)
    return frame.file == expression.file and here == (frame.line, frame.column, frame.end_line, frame.end_column)


def function_at(frame: Frame) -> Function | None:
    """The function that a frame is a call of."""
    module = tree(frame.file)
    functions = (each for each in (ast.walk(module) if module is not None else ()) if isinstance(each, Function))
    for each in functions:
        first = [each.lineno, *(decorator.lineno for decorator in each.decorator_list)]
        if each.name == frame.function and frame.first_line in first:
            return each
    return None


def same_function(one: Spot, other: Spot) -> bool:
    """Whether two places are in the same function."""
    scopes = [enclosing(each.file, code) if (code := code_at(each.file, each.line)) else None for each in (one, other)]
    return one.file == other.file and scopes[0] is scopes[1] is not None


def returns(scope: Function) -> list[ast.Return]:
    """The returns of a function, without those of functions in it."""
    return [each for each in ast.walk(scope) if isinstance(each, ast.Return) and enclosing("", each) is scope]


def unread(file: str, line: int) -> bool:
    """Whether a line assigns to a name that nothing reads before it is assigned anew."""
    module = tree(file)
    for each in ast.walk(module) if module is not None else ():
        if not isinstance(each, ast.Assign) or each.lineno > line or (each.end_lineno or each.lineno) < line:
            continue
        scope = scope_of(each)
        names = {name for target in each.targets for name in assigned_names(target) if not name.startswith("_")}
        return scope is not None and bool(names) and any(not _is_read(name, each, scope) for name in names)
    return False


def overwritten(spot: Spot) -> bool:
    """Whether a line assigns to a name that its function assigns to again behind it."""
    code = code_at(spot.file, spot.line)
    scope = scope_of(code) if code is not None else None
    stored = (each for each in (ast.walk(scope) if scope is not None else ()) if isinstance(each, ast.Name))
    return any(
        each.id in assigned_at(spot) and isinstance(each.ctx, ast.Store) and each.lineno > spot.line for each in stored
    )


def _is_read(name: str, assigned: ast.Assign, scope: ast.AST) -> bool:
    """Whether a name that a statement assigns to is read before it is assigned anew."""
    loop = loop_around(assigned)
    end = assigned.end_lineno or assigned.lineno
    later: list[tuple[int, bool]] = []
    for each in ast.walk(scope):
        if not isinstance(each, ast.Name) or each.id != name or assigned in parents(each):
            continue
        statement = statement_of(each)
        read = not isinstance(each.ctx, ast.Store) or isinstance(statement, ast.AugAssign)
        if each.lineno > end:
            later.append((statement.lineno if statement is not None else each.lineno, not read))
        elif loop is not None and loop in parents(each) and read:  # in the next turn
            return True
    return bool(later) and not min(later)[1]


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
    if isinstance(call.func, ast.Attribute) and not is_module(call.func.value):
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
        return first if is_module(node.func.value) else node.func.value
    return first if isinstance(node.func, ast.Name) and node.func.id in _MOVES else None


_MOVES = frozenset(
    "view reshape transpose permute swapaxes contiguous unsqueeze squeeze expand flatten clone to double float "
    "rearrange type repeat unflatten swapdims movedim moveaxis".split()
)


def is_module(node: ast.expr) -> bool:
    """Whether ``node.f(x)`` is a function of a module (torch, F, np), rather than a method of a tensor."""
    known = {"torch", "F", "nn", "np", "numpy", "math", "functional", "einops", "jnp", "scipy", "special", "self"}
    if isinstance(node, ast.Attribute):
        return is_module(node.value)
    return isinstance(node, ast.Name) and node.id in known


def bindings(expression: Expression) -> list[tuple[ast.stmt | ast.comprehension | ast.NamedExpr, ast.expr]]:
    """Assignments to a name in its function, those before the name last to first, then those after it.

    Returns:
        Pairs of a statement and the expression whose value the name gets (of an unpacking, the whole right side).
    """
    node = expression.node
    if not isinstance(node, ast.Name):
        return []
    for loop in loops_around(node):
        inside = isinstance(loop, ast.comprehension) and loop.iter is not node and loop.iter not in parents(node)
        if inside and node.id in assigned_names(loop.target):
            return [(loop, loop.iter)]
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
    statement = statement_of(node)
    line = statement.lineno if statement is not None else node.lineno

    def before(pair: tuple[ast.stmt | ast.comprehension | ast.NamedExpr, ast.expr]) -> bool:
        where = pair[0]
        return where is not statement and getattr(where, "lineno", 0) <= line

    earlier = sorted((pair for pair in found if before(pair)), key=lambda pair: -pair[1].lineno)
    return earlier + [pair for pair in found if pair not in earlier]


def elements(expression: Expression) -> list[ast.Name]:
    """The names that the variable of a loop is one of, where they are written out: ``for x in (query, key, value)``."""
    node = expression.node
    for loop in loops_around(node) if isinstance(node, ast.Name) else ():
        names = loop.target.elts if isinstance(loop.target, ast.Tuple) else [loop.target]
        for position, name in enumerate(names):
            if isinstance(name, ast.Name) and isinstance(node, ast.Name) and name.id == node.id:
                over = part_of(loop, position)
                written = over.elts if isinstance(over, ast.Tuple | ast.List) else []
                return [each for each in written if isinstance(each, ast.Name)]
    return []


def part_of(loop: ast.For | ast.comprehension, position: int) -> ast.expr:
    """What one of the variables of a loop runs over: of a `zip` the argument in its place."""
    over = loop.iter
    names = loop.target.elts if isinstance(loop.target, ast.Tuple) else [loop.target]
    if isinstance(over, ast.Call) and last_name(over.func) == "zip" and len(over.args) == len(names):
        return over.args[position]
    return over


def handed_on(expression: Expression) -> Expression:
    """The expression that a name has its value from, if only names and parts are between: ``gain, shift = both``."""
    for _, value in bindings(expression)[:1]:
        if isinstance(value, ast.Name) and value.lineno < expression.node.lineno:
            return handed_on(Expression(expression.file, value, expression.depth))
    return expression


def assigned_names(node: ast.expr) -> set[str]:
    """Names that an assignment to an expression binds."""
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}


def statement_of(node: ast.AST) -> ast.stmt | None:
    """The innermost statement that a node stands in, or is."""
    if isinstance(node, ast.stmt):
        return node
    return next((each for each in parents(node) if isinstance(each, ast.stmt)), None)


def called_alike(frame: Frame, line: Spot) -> bool:
    """Whether a frame calls the same name as the expression that begins at a place does, in the same function."""
    module = tree(line.file)
    there = (
        each
        for each in (ast.walk(module) if module is not None else ())
        if isinstance(each, ast.Call) and (each.lineno, each.col_offset) == (line.line, line.column)
    )
    here = at(frame)
    if (
        here is None
        or not isinstance(here.node, ast.Call)
        or (frame.file, frame.function) != (line.file, line.function)
    ):
        return False
    return any(ast.dump(each.func) == ast.dump(here.node.func) for each in there)


def code_at(file: str, line: int) -> ast.AST | None:
    """The innermost statement that a line is in; of a loop or a condition, its head."""
    module = tree(file)
    lines = [
        each
        for each in (ast.walk(module) if module is not None else ())
        if isinstance(each, ast.stmt) and each.lineno <= line <= (each.end_lineno or each.lineno)
    ]
    found = min(lines, key=lambda each: (each.end_lineno or each.lineno) - each.lineno, default=None)
    if isinstance(found, ast.For):
        return found.iter
    return getattr(found, "test", None if hasattr(found, "body") else found)


def is_parameter(expression: Expression) -> str | None:
    """The name of the parameter that an expression is, if its function never binds that name anew before it."""
    node = expression.node
    if not isinstance(node, ast.Name):
        return None
    scope = scope_of(node)
    if not isinstance(scope, Function | ast.Lambda) or node.id not in parameters(scope):
        return None
    statement, loops = statement_of(node), set(loops_around(node))
    for each, _ in bindings(expression):
        if statement is None or each.lineno < statement.lineno or loops & set(parents(each)):  # type: ignore[union-attr]
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


def is_self(node: ast.expr) -> bool:
    """Whether an expression is the name ``self``."""
    return isinstance(node, ast.Name) and node.id == "self"


def is_a_size_elsewhere(expression: Expression) -> bool:
    """Whether other statements take the name, or the attribute, that an expression has, as a size of an array."""
    nodes = [each for each in ast.walk(expression.node) if isinstance(each, ast.Name | ast.Attribute)]
    own = next((each for each in nodes if isinstance(each, ast.Attribute) and is_self(each.value)), None)
    node = own or next((each for each in nodes if isinstance(each, ast.Name) and not is_module(each)), None)
    scope = class_around(node) if own is not None and node is not None else scope_of(node) if node is not None else None
    found = [each for each in ast.walk(scope) if isinstance(each, type(node))] if scope is not None else []
    return any(
        isinstance(each.ctx, ast.Load)
        and ast.dump(each) == ast.dump(node)  # type: ignore[arg-type]
        and statement_of(each) is not statement_of(expression.node)
        and any(isinstance(around, ast.Slice | ast.Tuple) for around in parents(each))
        for each in found
    )


def last_name(node: ast.expr) -> str:
    """What a function is called by: ``Linear`` in ``nn.Linear``."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def next_with(expression: Expression) -> Expression | None:
    """The first statement behind an assignment that takes the assigned name, as the expression that it computes."""
    statement = statement_of(expression.node)
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


def return_of(expression: Expression) -> Spot | None:
    """The first statement behind an assignment that returns the assigned name, from the same function."""
    statement = statement_of(expression.node)
    scope = enclosing(expression.file, expression.node)
    names = {name for each in getattr(statement, "targets", ()) for name in assigned_names(each)}
    ends = [each for each in ast.walk(scope) if isinstance(each, ast.Return)] if scope is not None else []
    for each in sorted(ends, key=lambda end: end.lineno):
        taken = {part.id for part in ast.walk(each) if isinstance(part, ast.Name)}
        if scope is not None and each.lineno > expression.node.lineno and taken & names:
            return Spot(expression.file, each.lineno, each.col_offset, scope.name)
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


def is_range(node: ast.AST) -> bool:
    """Whether an expression is a call of `range`."""
    return isinstance(node, ast.Call) and last_name(node.func) == "range" and bool(node.args)
