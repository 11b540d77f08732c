"""A `Layout` as Python, in the style of the built-in tables."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from textwrap import indent
from typing import TypeAlias

from gpt2_from_scratch.errors import MappingError
from gpt2_from_scratch.mapping import (
    Ignore,
    Layout,
    Parameter,
    Row,
    bare,
    conv1d,
    embedding,
    linear,
    norm,
    parse,
    site,
    tied,
)

_WIDTH = 101  # characters of a row in one line


def to_python(layout: Layout, name: str = "LAYOUT") -> str:
    """Prints a layout as a Python file that builds it.

    Args:
        layout: any.
        name: of the variable; ``--layout FILE.py:LAYOUT`` then finds it.

    Returns:
        The file's text.

    Example:
        >>> from gpt2_from_scratch.mapping import embedding
        >>> print(to_python(Layout("mine", (embedding("wte", "tok"),))))
        from gpt2_from_scratch.mapping import Layout, embedding
        <BLANKLINE>
        LAYOUT = Layout(
            "mine",
            (
                embedding("wte", "tok"),
            ),
        )
        <BLANKLINE>
    """
    rows = [_row(row) for row in layout.rows]
    used = {"Layout"} | {row.partition("(")[0] for row in rows}
    used |= {"Parameter"} if any("Parameter(" in row for row in rows) else set()
    lines = [f"from gpt2_from_scratch.mapping import {', '.join(sorted(used))}", "", f"{name} = Layout("]
    lines += [f"    {_text(layout.name)},", "    ("]
    lines += [indent(row, " " * 8) + "," for row in rows]
    lines.append("    ),")
    if layout.separator != ".":
        lines.append(f"    separator={_text(layout.separator)},")
    if layout.about:
        lines.append(f"    about={_text(layout.about)},")
    return "\n".join([*lines, ")", ""])


def idiomatic(row: Row) -> Row:
    """The same row as one of the usual functions makes it, if one of them does."""
    found = _shortest(row)
    return row if found is None else found[0](*found[1], **found[2])


_Made: TypeAlias = tuple[Callable[..., Row], list[object], dict[str, object]]


def _shortest(row: Row) -> _Made | None:
    """The call that makes a row that says the same."""
    for function, arguments, options in _short(row):
        try:
            if _meaning(function(*arguments, **options)) == _meaning(row):
                return function, arguments, options
        except (MappingError, TypeError, ValueError):
            continue
    return None


def _meaning(row: Row) -> Row:
    """A row with its patterns in one spelling: patterns that change nothing are empty, axes are called in order."""
    return replace(row, parameters=tuple(replace(each, pattern=_spelled(each)) for each in row.parameters))


def _spelled(parameter: Parameter) -> str:
    if not parameter.pattern:
        return ""
    pattern = parse(parameter.pattern)
    if pattern.left == pattern.right and not ({"p", "h"} & set(pattern.axes)):
        return ""
    names = {axis: axis if axis in ("p", "h") else f"axis{place}" for place, axis in enumerate(pattern.axes)}
    return str([[[names[axis] for axis in group] for group in side] for side in (pattern.left, pattern.right)])


def _row(row: Row | Ignore) -> str:
    """The shortest way to write a row; the plain constructor, where there is no other."""
    if isinstance(row, Ignore):
        return _call("ignore", [row.theirs], {"why": row.why} | ({"zero": True} if row.zero else {}))
    if found := _shortest(row):
        return _call(found[0].__name__, found[1], found[2])
    options: dict[str, object] = {} if row.tied_to is None else {"tied_to": row.tied_to}
    if not row.compared:
        options["compared"] = False
    if not row.written_when_tied:
        options["written_when_tied"] = False
    parameters = "".join(indent(_parameter(each), " " * 8) + ",\n" for each in row.parameters)
    more = "".join(f"    {key}={_text(value)},\n" for key, value in options.items())
    return f"Row(\n    {_text(row.site)},\n    {_text(row.theirs)},\n    (\n{parameters}    ),\n{more})"


def _parameter(parameter: Parameter) -> str:
    options: dict[str, object] = {
        "parts": parameter.parts,
        "absent_means_zero": parameter.absent_means_zero,
        "must_be_zero": parameter.must_be_zero,
    }
    arguments = [parameter.name, parameter.theirs] + ([parameter.pattern] if parameter.pattern else [])
    return _call("Parameter", arguments, {key: value for key, value in options.items() if value})


def _short(row: Row) -> Iterator[_Made]:
    """Calls that may make this row, the shortest first."""
    by_name = {parameter.name: parameter for parameter in row.parameters}
    weight, bias = by_name.get("weight"), by_name.get("bias")
    if weight is None:
        if not row.parameters and len(row.theirs) == 1:
            yield site, [row.site, row.theirs[0]], {}
        return
    if row.tied_to is not None:
        theirs = row.theirs[0] if row.theirs else ""
        options: dict[str, object] = {"to": row.tied_to.removesuffix(".weight")}
        options |= {"weight": weight.theirs} if weight.theirs != "weight" else {}
        options |= {} if row.written_when_tied else {"written": False}
        options |= {"pattern": weight.pattern} if weight.pattern else {}
        yield tied, [row.site, theirs], options
        return
    if not row.theirs:
        names: list[object] = [row.site, weight.theirs]
        more: dict[str, object] = {}
        if bias is not None and bias.theirs is not None:
            names.append(bias.theirs)
            more |= {"bias_pattern": bias.pattern} if bias.pattern else {}
        more |= {"pattern": weight.pattern} if weight.pattern else {}
        yield bare, names, dict(sorted(more.items(), reverse=True))
        return
    options = {"weight": weight.theirs} if weight.theirs != "weight" else {}
    last = row.site.rpartition(".")[2]
    if last in ("wte", "wpe", "lm_head"):
        yield embedding, [row.site, *row.theirs], dict(options)
    if bias is not None and bias.theirs != "bias":
        options["bias"] = bias.theirs
    if bias is not None and bias.absent_means_zero:
        options["absent_bias_is_zero"] = True
    if last.startswith("ln_"):
        yield norm, [row.site, *row.theirs], dict(options)
    if weight.parts:
        options["parts"] = weight.parts
    for out in ("", "p h d", "h p d", "h d p", "p d h", "d h p", "d p h", "h d", "d h"):
        extra = {**options, **({"out": out} if out else {})}
        yield linear, [row.site, *row.theirs], extra
        yield conv1d, [row.site, *row.theirs], extra


def _call(name: str, arguments: Sequence[object], options: Mapping[str, object]) -> str:
    """On one line if it fits, otherwise an argument a line."""
    shown = [_text(each) for each in arguments] + [f"{key}={_text(value)}" for key, value in options.items()]
    line = f"{name}({', '.join(shown)})"
    return line if len(line) <= _WIDTH else f"{name}(\n" + "".join(f"    {each},\n" for each in shown) + ")"


def _text(value: object) -> str:
    """A string with double quotes, or a tuple of them."""
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, tuple):
        return f"({', '.join(map(_text, value))}{',' if len(value) == 1 else ''})"
    return repr(value)


__all__ = ["to_python"]
