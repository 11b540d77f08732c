"""The user's classes: what they assign to their attributes, and where they build modules."""

import ast
import inspect

from gpt2_from_scratch.diagnose.lines.source import (
    Expression,
    class_around,
    enclosing,
    is_self,
    last_name,
    statement_of,
    tree,
)


def own_attribute(file: str, node: ast.Attribute) -> Expression | None:
    """``self.x``: what the constructor, or another method, assigned to it."""
    around = class_around(node)
    return attribute_of(file, around, node.attr) if around is not None else None


def attribute_behind(expression: Expression) -> Expression | None:
    """What ``self.x`` was given in its class; None for all else."""
    node = expression.node
    return own_attribute(expression.file, node) if isinstance(node, ast.Attribute) and is_self(node.value) else None


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


def attribute_in(owner: type, name: str) -> Expression | None:
    """What a class of the user's assigns to one of its attributes."""
    try:
        file = inspect.getsourcefile(owner)
    except TypeError:
        return None
    around = class_named(file, owner.__name__) if file else None
    return attribute_of(file, around, name) if file and around is not None else None


def class_named(file: str, name: str) -> ast.ClassDef | None:
    """The class of that name in a file."""
    module = tree(file)
    for each in ast.walk(module) if module is not None else ():
        if isinstance(each, ast.ClassDef) and each.name == name:
            return each
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


def call_with(file: str, kinds: list[str], position: int) -> Expression | None:
    """An argument of the call in a file whose arguments build objects of these classes, in this order."""
    module = tree(file)
    for each in ast.walk(module) if module is not None else ():
        given = each.args if isinstance(each, ast.Call) else []
        if [last_name(arg.func) if isinstance(arg, ast.Call) else "" for arg in given] == kinds:
            return Expression(file, given[position], None)
    return None


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
        statement = statement_of(call)
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
