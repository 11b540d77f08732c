"""What a constructor asks for, read from its source and its signature; nothing is run."""

import ast
import inspect
import types
import typing
from collections.abc import Callable
from dataclasses import fields as dataclass_fields
from dataclasses import is_dataclass
from typing import Any

from gpt2_from_scratch.arrays.finding import names_in
from gpt2_from_scratch.building.importing import is_of


def is_required(parameter: inspect.Parameter) -> bool:
    """Whether a call has to give it."""
    return parameter.default is parameter.empty and parameter.kind not in (
        parameter.VAR_POSITIONAL,
        parameter.VAR_KEYWORD,
    )


def is_settings_object(value: Any) -> bool:
    """Whether a default value is an object of somebody's own class that holds settings."""
    if value is inspect.Parameter.empty or value is None or isinstance(value, int | float | str | bool | dict | tuple):
        return False
    return not inspect.isclass(value) and not callable(value) and bool(attributes(value))


def attributes(settings: Any) -> list[str]:
    """Names of the plain values that a settings object holds, its class's included."""
    if isinstance(settings, type):
        return []
    if is_dataclass(settings):
        return [each.name for each in dataclass_fields(settings)]
    names = dict.fromkeys([*vars(settings), *vars(type(settings))]) if hasattr(settings, "__dict__") else {}
    return [name for name in names if not name.startswith("_") and not callable(getattr(settings, name))]


def type_hints(target: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of what is called; none where they cannot be evaluated."""
    constructor = target.__init__ if inspect.isclass(target) else target
    try:
        return typing.get_type_hints(constructor)
    except Exception:  # an annotation may name what is not there; then there is no hint
        return {}


def _source_tree(target: Any) -> ast.AST:
    try:
        source = inspect.getsource(target)
        return ast.parse(inspect.cleandoc(source) if source[:1].isspace() else source)
    except (OSError, TypeError, SyntaxError):
        return ast.Module(body=[], type_ignores=[])


def keys_read(module: types.ModuleType, target: Callable[..., Any], name: str) -> list[str]:
    """Keys that the code reads from its ``**kwargs``: ``kwargs["x"]``, ``kwargs.get("x")``, ``kwargs.pop("x")``.

    They may be read later, from an attribute that they were kept in (``self.hparams = kwargs``), or as attributes of
    the object (``self.__dict__.update(kwargs)``).
    """
    keys: dict[str, None] = {}
    holders, spread = {name}, False
    for node in ast.walk(_source_tree(target)):
        match node:
            case ast.Assign(targets=[ast.Attribute(attr=kept)], value=value) if _is_kept(value, name):
                holders.add(kept)
            case ast.Call(func=ast.Attribute(attr="update"), args=[ast.Name(id=given)]) if given == name:
                spread = True
    for node in ast.walk(_source_tree(module)):
        match node:
            case ast.Subscript(value=holder, slice=ast.Constant(value=str(key))) if _last_name(holder) in holders:
                keys[key] = None
            case ast.Call(
                func=ast.Attribute(value=holder, attr="get" | "pop"), args=[ast.Constant(value=str(key)), *_]
            ) if _last_name(holder) in holders:
                keys[key] = None
            case ast.Attribute(value=holder, attr=key) if _last_name(holder) in holders - {name} or (
                spread and _last_name(holder) == "self"
            ):
                keys[key] = None
    return list(keys)


def _is_kept(value: ast.expr, name: str) -> bool:
    """Whether an expression is ``kwargs`` itself, or an object made of it: ``SimpleNamespace(**kwargs)``."""
    match value:
        case ast.Name(id=given):
            return given == name
        case ast.Call(args=args, keywords=keywords):
            spread = [each.value for each in keywords if each.arg is None]
            return any(isinstance(each, ast.Name) and each.id == name for each in (*args, *spread))
    return False


def _last_name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def words_in(module: types.ModuleType) -> set[str]:
    """Names, attributes, argument names and short strings in the source of a module."""
    words: set[str] = set()
    for node in ast.walk(_source_tree(module)):
        match node:
            case ast.Name(id=word) | ast.Attribute(attr=word) | ast.arg(arg=word) | ast.Constant(value=str(word)):
                words.add(word)
    return words


def read_by_functions(module: types.ModuleType) -> set[str]:
    """Global names that functions and methods of the module read."""
    names: set[str] = set()
    for value in list(vars(module).values()):
        if not is_of(module, value):
            continue
        members = vars(value).values() if inspect.isclass(value) else [value]
        for member in members:
            function = inspect.unwrap(getattr(member, "__func__", member)) if callable(member) else member
            if isinstance(function, types.FunctionType):
                names.update(names_in(function.__code__))
    return names
