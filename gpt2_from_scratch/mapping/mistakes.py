"""Checks a table that a user wrote, and lists all mistakes in it at once, in the words of the table."""

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator

from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import MappingError
from gpt2_from_scratch.mapping.names import INDEXED, numbered, places
from gpt2_from_scratch.mapping.pattern import parse
from gpt2_from_scratch.mapping.rows import ATTENTION, MODULES, Ignore, Parameter, Row, module_of

_ROW = "a row is written embedding(...), norm(...), linear(...), conv1d(...), bare(...), site(...), tied() or ignore()"


def mistakes_in(rows: object, separator: str) -> list[str]:
    """Checks the rows of a layout, without a model.

    Args:
        rows: what was given as the rows.
        separator: the layout's.

    Returns:
        A sentence for each mistake; none for a table that can be used.
    """
    if not isinstance(rows, tuple):
        return [f"its rows are a {type(rows).__name__}: give a tuple of rows; {_ROW}"]
    odd = [row for row in rows if not isinstance(row, Row | Ignore)]
    if odd:
        return [f"{row!r:.80} is a {type(row).__name__} and not a row; {_ROW}" for row in odd]
    table = [row for row in rows if isinstance(row, Row)]
    found = [mistake for row in table for mistake in _in_row(row, separator)]
    found += [f"{site} has {count} rows" for site, count in Counter(_claims(table)).items() if count > 1]
    return found or list(_in_names(table, separator))


def _claims(table: Iterable[Row]) -> Iterator[str]:
    """What a row claims for itself: each parameter of a GPT-2 module, or the module as a place to compare."""
    for row in table:
        if not row.parameters:
            yield row.site
        yield from (f"{row.site}.{parameter.name}" for parameter in row.parameters if not parameter.must_be_zero)


def _in_row(row: Row, separator: str) -> Iterator[str]:
    if module_of(row.site) not in MODULES:
        near = difflib.get_close_matches(row.site, MODULES, n=1)
        yield f"{row.site} is no module of GPT-2" + (
            f"; did you mean {near[0]}?" if near else f"; its modules are {', '.join(MODULES)}"
        )
        return
    theirs: tuple[object, ...] = row.theirs  # whatever the types say, a user's table may hold anything
    not_names = [name for name in theirs if not isinstance(name, str)]
    if not_names:
        yield f"{row.site}: {not_names[0]!r} is not a name; write several modules one after the other"
        return
    if row.tied_to is not None and row.tied_to != "wte.weight":
        yield f"{row.site} is tied to {row.tied_to.removesuffix('.weight')}: GPT-2's lm_head is tied to wte"
    for parameter in row.parameters:
        yield from _in_parameter(row, parameter, separator)
    names = _all_names(row, separator) if row.parameters else row.theirs
    yield from [mistake for name in names if (mistake := _about_stars(row.site, name))][:1]  # one explains them all


def _all_names(row: Row, separator: str) -> list[str]:
    """The whole names in a row, without parameters whose names are wrong."""
    fitting = [each for each in row.parameters if not _wrong_names(row, each)]
    return [name for each in fitting for name in row.names(each, separator) if name is not None]


def _wrong_names(row: Row, parameter: Parameter) -> str:
    """The mistake in a parameter's names; "" if there is none."""
    ends: tuple[object, ...] = parameter.theirs if isinstance(parameter.theirs, tuple) else (parameter.theirs,)
    odd = [end for end in ends if not isinstance(end, str | None)]
    if odd:
        return f"{odd[0]!r} is not a name"
    if isinstance(parameter.theirs, tuple) and len(row.theirs) > 1 and len(ends) != len(row.theirs):
        return f"{len(ends)} names for {len(row.theirs)} modules"
    return ""


def _in_parameter(row: Row, parameter: Parameter, separator: str) -> Iterator[str]:
    place, axes = f"{row.site}.{parameter.name}", MODULES[module_of(row.site)].get(parameter.name)
    if wrong := _wrong_names(row, parameter):
        yield f"{place}: {wrong}"
        return
    names = row.names(parameter, separator)
    if parameter.must_be_zero:
        if not isinstance(getattr(GPTConfig(), parameter.must_be_zero, None), int):
            yield f"{place}: {parameter.must_be_zero!r} is no size of a GPTConfig"
        return
    if axes is None:
        has = " and ".join(MODULES[module_of(row.site)]) or "no parameters; write site(...) to compare it"
        yield f"{row.site} has no {parameter.name}: it has {has}"
        return
    yield from (f"{place}: {mistake}" for mistake in _about_parts(row, parameter, len(names)))
    yield from (f"{place}: {mistake}" for mistake in _about_pattern(parameter, axes, names))


def _about_stars(site: str, name: str) -> str:
    """A name has the layer's star if its module has one; a second one is the head's."""
    found = places(name)
    if "*" in found:
        return f"{site}: {name} has {name.count('*')} stars; the first is the layer's number, a second one the head's"
    if "*" in site and "layer" not in found:
        return f"{site} is in every layer, so {name} needs a * where the layer's number stands"
    if "*" not in site and {"layer", "head"} & set(found):
        return f"{site} is there once, but {name} has a * for a layer's number"
    return ""


def _about_parts(row: Row, parameter: Parameter, count: int) -> Iterator[str]:
    if not parameter.parts:
        if module_of(row.site) == ATTENTION and count not in (1, 3):
            yield f"{count} names for query, key and value: give one or three, or say parts=('q', 'kv')"
        return
    if module_of(row.site) != ATTENTION:
        yield "parts are those of query, key and value, which only h.*.attn.c_attn has"
    elif len(parameter.parts) != count:
        yield f"parts={parameter.parts!r} describes {len(parameter.parts)} tensors, but {count} are named"
    elif sorted("".join(parameter.parts)) != sorted("qkv") or not all(parameter.parts):
        yield f"parts={parameter.parts!r} must hold q, k and v exactly once, for query, key and value"


def _about_pattern(parameter: Parameter, axes: int, names: tuple[str | None, ...]) -> Iterator[str]:
    try:
        pattern = parse(parameter.pattern) if parameter.pattern else None
    except MappingError as error:
        yield str(error)
        return
    if pattern is not None and len(pattern.left) != axes:
        yield f"the left side of {parameter.pattern!r} has {len(pattern.left)} axes, GPT-2's tensor has {axes}"
    known = () if pattern is None else pattern.axes
    if len(names) > 1 and any(names) and "p" not in known:
        yield f"{len(names)} names, but no axis of the pattern is called p, for the parts that they hold"
    if any(name is not None and "head" in places(name) for name in names) and "h" not in known:
        yield "a name with a second * for the head, but no axis of the pattern is called h, for the heads"


def _in_names(table: Iterable[Row], separator: str) -> Iterator[str]:
    """Mistakes in the names of tensors: one that is named twice, or as a whole and in parts."""
    rows_of: dict[str, list[str]] = {}
    for row in table:
        for parameter in row.parameters:
            for name in row.names(parameter, separator):
                if name is not None:
                    rows_of.setdefault(name, []).append(f"{row.site}.{parameter.name}")
    for name, claims in rows_of.items():
        if len(claims) > 1:
            yield f"{name} is named {len(claims)} times: as {', '.join(dict.fromkeys(claims))}"
        match = INDEXED.fullmatch(numbered(name, 0, 0, 1))
        if match and any(match[1] == numbered(other, 0, 0, 1) for other in rows_of):
            yield f"{name} is part of a tensor that another row names as a whole"
