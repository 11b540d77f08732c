"""Edits of any Python: each function makes those of one kind, its likeliest first.

What a file has is read from it: its names, first those that nobody reads, its layers, its statements of the same form.
"""

import ast
import itertools
import re
from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher

from gpt2_from_scratch.diagnose.edits.syntax import Code, Edit, Place, called, filled, in_turn, operands, orders

_MOST_NAMES = 8  # and other parts of one statement, of which any two are exchanged
_MOST_TOKENS = 300  # of a statement that is compared with others
_ALIKE = 0.4  # of the tokens that two statements of one form share at least
_TOKEN = re.compile(r"\w+|\*\*|//|[^\w\s]|\s+")
_BLOCKS = ast.For | ast.While | ast.If | ast.With


def names(code: Code, place: Place) -> Iterator[Edit]:
    """Another name that is in scope, another layer of the same class, another key, another order of targets."""
    for node in code.expressions(place):
        if isinstance(node, ast.Tuple) and isinstance(node.ctx, ast.Store):
            for order in orders([code.text(each) for each in node.elts]):
                yield code.replace(node, ", ".join(order))
    yield from in_turn(
        [*(_renamed(code, place, node) for node in code.expressions(place)), _renamed_throughout(code, place)]
    )


def _renamed(code: Code, place: Place, node: ast.expr) -> Iterator[Edit]:
    variables, attributes, text = code.names(place), code.attributes(place), code.text(node)
    match node:
        case ast.Constant(value=str(word)):
            yield from (code.replace(node, f'"{other}"') for other in _keys_like(code, word))
            if digit := re.search(r"\d", word):  # of the loop's number
                numbered = [word.replace(digit[0], f"{{{name}}}") for name in variables]
                yield from (code.replace(node, f'f"{each}"') for each in numbered)
        case ast.JoinedStr():
            parts = [str(each.value) for each in node.values if isinstance(each, ast.Constant)]
            for part in parts:
                yield from (code.replace(node, text.replace(part, other, 1)) for other in _keys_like(code, part))
        case ast.Constant(value=int() | float()):
            yield from (code.replace(node, name) for name in (*variables, *attributes))
        case ast.Name(ctx=ast.Load()) if text in variables:
            yield from (code.replace(node, other) for other in (*variables, *attributes))
        case ast.Attribute(value=ast.Name(id="self"), ctx=ast.Load()):
            alike = sorted(attributes, key=lambda other: -SequenceMatcher(None, text, other).ratio())
            yield from (code.replace(node, other) for other in (*alike, *variables))
        case ast.Attribute(value=value, ctx=ast.Load()):
            of = code.text(value)
            everywhere = [each for each in ast.walk(code.tree) if isinstance(each, ast.Attribute)]
            siblings = dict.fromkeys(each.attr for each in everywhere if code.text(each.value) == of)
            yield from (code.replace(node, f"{of}.{other}") for other in siblings)
        case ast.Call() | ast.Subscript(ctx=ast.Load()) | ast.BinOp():
            yield from (code.replace(node, name) for name in (*variables, *attributes))


def _keys_like(code: Code, word: str) -> list[str]:
    """Other keys: with the next number, of another projection, then what the file has, the most alike first."""
    numbered = [word.replace(digit, str(int(digit) + step)) for digit in re.findall(r"\d", word) for step in (1, -1)]
    roles = [word.replace(*pair) for pair in itertools.permutations(("query", "key", "value"), 2)]
    return [*numbered, *roles, *sorted(code.strings(), key=lambda other: -SequenceMatcher(None, word, other).ratio())]


def _renamed_throughout(code: Code, place: Place) -> Iterator[Edit]:
    """Another name wherever a statement reads one."""
    read = [code.text(node) for node in code.values(place) if isinstance(node, ast.Name)]
    for name in dict.fromkeys(each for each in read if read.count(each) > 1 and place.simple):
        yield from (_replaced(code, place, {name: other}) for other in code.names(place))


def _replaced(code: Code, place: Place, others: Mapping[str, str]) -> Edit:
    """What a statement reads, by other names."""
    start, end = code.span(place.statement)
    text, last = "", start
    for node in sorted(code.values(place), key=code.span):
        first, stop = code.span(node)
        if code.text(node) in others and first >= last:
            text, last = text + code.source[last:first] + others[code.text(node)], stop
    return Edit(start, end, text + code.source[last:end])


def exchanges(code: Code, place: Place) -> Iterator[Edit]:
    """Two names, arguments or operands of one statement exchanged."""
    named = [code.text(node) for node in code.values(place) if isinstance(node, ast.Name | ast.Attribute)]
    if place.simple:
        for one, other in itertools.combinations(list(dict.fromkeys(named))[:_MOST_NAMES], 2):
            yield _replaced(code, place, {one: other, other: one})
    for node in code.expressions(place):
        match node:
            case ast.Call(args=parts) | ast.List(elts=parts) | ast.Tuple(elts=parts):
                for first, second in itertools.combinations(parts[:_MOST_NAMES], 2):
                    start, end = code.span(first)[0], code.span(second)[1]
                    between = code.source[code.span(first)[1] : code.span(second)[0]]
                    yield Edit(start, end, f"{code.text(second)}{between}{code.text(first)}")
            case ast.BinOp(left=left, right=right):
                sign = code.source[code.span(left)[1] : code.span(right)[0]].strip("()")
                yield code.replace(node, filled(f"{{}}{sign}{{}}", code.text(right), code.text(left)))


def removals(code: Code, place: Place) -> Iterator[Edit]:
    """A step left out: a part of an expression in its place, an argument less, one of two targets."""
    values = code.values(place)
    parts = {node: [each for each in ast.walk(node) if each is not node and each in values] for node in values}
    yield from in_turn([code.replace(node, code.text(part)) for part in inside] for node, inside in parts.items())
    for node in code.expressions(place):
        match node:
            case ast.Subscript(slice=ast.Tuple(elts=[_, _, *_] as elements)):
                for left_out in elements:
                    kept = [code.text(each) for each in elements if each is not left_out]
                    yield code.replace(node.slice, ", ".join(kept))
            case ast.Call():
                given: list[ast.expr | ast.keyword] = [*node.args[1:], *node.keywords]
                yield from (_without(code, argument) for argument in given)
    match place.statement:
        case ast.Assign(targets=[_, _, *_] as targets, value=value):
            for target, following in itertools.pairwise([*targets, value]):
                yield Edit(code.span(target)[0], code.span(following)[0], "")


def _without(code: Code, argument: ast.expr | ast.keyword) -> Edit:
    start, end = code.span(argument)
    before = code.source[:start].rstrip()
    return Edit(len(before) - 1 if before.endswith(",") else start, end, "")


def rotations(code: Code, place: Place) -> Iterator[Edit]:
    """What is applied to a sum, a call or a quotient is applied to one part of it instead, or the reverse."""
    for node in code.values(place):
        for inner in operands(node):
            for innermost in operands(inner):
                within = _around(code, node, inner, code.text(innermost))
                yield code.replace(node, _around(code, inner, innermost, within))


def _around(code: Code, node: ast.AST, part: ast.expr, text: str) -> str:
    """A node's text with another one in the place of one of its parts."""
    (start, end), (first, last) = code.span(node), code.span(part)
    before, after = code.source[start:first], code.source[last:end]
    if isinstance(node, ast.Call) and part in node.args:
        return before + text + after
    if before.endswith("(") and after.startswith(")"):
        before, after = before[:-1], after[1:]
    return filled(f"{before}{{}}{after}", text)


def slices(code: Code, place: Place) -> Iterator[Edit]:
    """The other end of a slice, a slice instead of an index, a head's columns, a count that begins elsewhere."""
    for node in code.expressions(place):
        match node:
            case ast.Slice(lower=lower, upper=upper):
                first, last = (code.text(each) if each is not None else "" for each in (lower, upper))
                parts = [code.text(each) for each in (operands(upper) if upper is not None else [])]
                ends = dict.fromkeys(each.lstrip("-") for each in (first, last, *parts))
                ways = [f"{last}:{first}", *(f":{each}" for each in ends), f"{first}:", f"{last}:", ":"]
                ways += [f"{start}:{end}" for start, end in _columns(code, place, lower)]
                yield from (code.replace(node, way) for way in ways)
            case ast.Call(args=[lower, *_]) if called(node) == "slice":
                yield from (code.replace(node, f"slice({start}, {end})") for start, end in _columns(code, place, lower))
            case ast.Subscript(slice=index) if not isinstance(index, ast.Slice | ast.Tuple):
                text = code.text(index)
                ways = [f":{text}", f"{text} + 1", f"{text} - 1", *(f":{code.text(each)}" for each in operands(index))]
                yield from (code.replace(index, way) for way in (*ways, f"{text}:"))
            case ast.Call() if called(node) in ("arange", "cumsum", "range", "max", "len"):
                yield from (code.replace(node, f"{code.text(node)} {step} 1") for step in "-+")


def _columns(code: Code, place: Place, lower: ast.expr | None) -> Iterator[tuple[str, str]]:
    """Where the columns of one of several heads begin and end, by its number and each possible width."""
    numbers = [] if lower is None else [each.id for each in ast.walk(lower) if isinstance(each, ast.Name)]
    for number, width in itertools.product(numbers, (*code.attributes(place), *code.names(place))):
        if number not in (width, "self"):
            yield f"{number} * {width}", f"({number} + 1) * {width}"


def additions(code: Code, place: Place) -> Iterator[Edit]:
    """A step that is missing: a layer, a function, a shortcut, a bias, an argument."""
    layers, variables = code.layers(place), code.names(place)
    terms = [*(each for each in code.attributes(place) if each not in layers), *variables]
    calls = [*layers, *code.functions()]
    for node in code.expressions(place):
        match node:
            case ast.Call(func=ast.Subscript(value=value, slice=ast.Constant(value=str()))):  # layers["f"](x)
                calls += [f'{code.text(value)}["{key}"]' for key in code.strings()]
            case ast.Subscript(value=value, slice=ast.Constant(value=str())):  # weights["w"]
                terms += [f'{code.text(value)}["{key}"]' for key in code.strings()]
            case ast.Subscript(value=value, slice=ast.BinOp(right=ast.Constant(value=str()))):  # weights[name + "w"]
                terms.append(code.text(node).replace("weight", "bias").replace("kernel", "bias"))
    texts = {node: code.text(node) for node in code.values(place) if not isinstance(node, ast.Constant)}
    yield from in_turn(
        [
            *(code.replace(node, f"{call}({text})") for call in calls),
            *(code.replace(node, filled(f"{{}} + {term}", text)) for term in terms),
        ]
        for node, text in texts.items()
    )
    for node in code.expressions(place):
        if isinstance(node, ast.Call):
            for name in variables:
                yield from (with_argument(code, node, text) for text in (f"{name}={name}", name))


def with_argument(code: Code, node: ast.Call, text: str) -> Edit:
    """One more argument of a call."""
    end = code.span(node)[1] - 1
    inside = code.source[code.span(node.func)[1] + 1 : end].strip()
    return Edit(end, end, f", {text}" if inside and not inside.endswith(",") else text)


def statements(code: Code, place: Place) -> Iterator[Edit]:
    """A thrown-away result kept; a statement made two, left out, moved over its neighbour, in or out of a loop."""
    statement, text = place.statement, code.text(place.statement)
    variables, indent = code.names(place), "\n" + " " * place.statement.col_offset
    match statement:
        case ast.Expr(value=ast.Call() as call):
            read = sorted((each for each in ast.walk(call) if isinstance(each, ast.Name)), key=code.span)
            yield from (code.replace(statement, f"{each.id} = {text}") for each in read if each.id in variables)
        case ast.Assign(targets=[ast.Name() as target], value=value):
            read = [each for each in ast.walk(value) if isinstance(each, ast.Name)]
            yield from (code.replace(target, each.id) for each in read if each.id in variables)
            yield from (code.replace(target, other) for other in variables)
        case ast.Assign(targets=[one, other], value=value):
            made = code.text(value)
            yield code.replace(statement, f"{code.text(one)}, {code.text(other)} = {made}, {made}")
        case ast.AugAssign(target=target, value=value):
            name = code.text(target)
            ways = [f"{name} {sign} {code.text(value)}" for sign in ("+=", "*=", "=", f"= {name} +")]
            yield from (code.replace(statement, way) for way in ways)
    match statement:
        case ast.Assign(value=ast.BinOp(op=ast.Add()) as total) | ast.Return(value=ast.BinOp(op=ast.Add()) as total):
            x = next((each.id for each in ast.walk(total) if isinstance(each, ast.Name)), "x")
            second = text.removesuffix(code.text(total)) + f"{x} + {code.text(total.right)}"
            yield code.replace(statement, f"{x} = {code.text(total.left)}{indent}{second}")
    if place.simple:
        yield from _moves(code, place)


def _moves(code: Code, place: Place) -> Iterator[Edit]:
    """Exchanged with a neighbour; behind the loop that it ends, or at the end of the one before it; left out."""
    start, end = code.whole_lines(place.statement)
    at, owner = place.body.index(place.statement), place.around[0][0]
    returns = isinstance(place.statement, ast.Return)
    if at == len(place.body) - 1 and at > 0 and isinstance(owner, _BLOCKS):
        yield Edit(start, end, _shifted(code.source[start:end], owner.col_offset - place.statement.col_offset))
    before = place.body[at - 1] if at > 0 else None
    if isinstance(before, _BLOCKS):
        yield Edit(start, end, _shifted(code.source[start:end], before.body[0].col_offset - place.statement.col_offset))
    for neighbour in (*place.body[max(0, at - 1) : at], *place.body[at + 1 : at + 2]):
        if not (returns or isinstance(neighbour, ast.Return) or hasattr(neighbour, "body")):
            first, second = sorted((code.whole_lines(neighbour), (start, end)))
            swapped = code.source[slice(*second)] + code.source[first[1] : second[0]] + code.source[slice(*first)]
            yield Edit(first[0], second[1], swapped)
    if len(place.body) > 1 and not returns:
        yield Edit(start, end, "")


def _shifted(rows: str, by: int) -> str:
    return "".join(" " * by + row if by > 0 else row[-by:] for row in rows.splitlines(keepends=True))


def own_names(code: Code, place: Place) -> Iterator[Edit]:
    """A name of its own for what overwrites a value that is still needed: ``x = norm(x)`` before ``x + attn(x)``."""
    statement = place.statement
    if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
        return
    name, own = statement.targets[0].id, f"{statement.targets[0].id}_1"
    if not any(isinstance(each, ast.Name) and each.id == name for each in ast.walk(statement.value)):
        return
    start, at = code.span(statement.targets[0])[0], place.body.index(statement)
    read: list[ast.Name] = []
    inside: list[ast.Name] = []
    for following in place.body[at + 1 : at + 3]:
        named = [each for each in ast.walk(following) if isinstance(each, ast.Name) and each.id == name]
        read += [each for each in named if isinstance(each.ctx, ast.Load)]
        calls = [each for each in ast.walk(following) if isinstance(each, ast.Call)]
        inside += [each for each in read if any(each in ast.walk(call) for call in calls) and each not in inside]
        for chosen in (read, inside, *([each] for each in read)):
            spans = sorted({code.span(statement.targets[0]), *map(code.span, chosen)})
            text, last = "", start
            for begin, stop in spans:
                text, last = text + code.source[last:begin] + own, stop
            yield Edit(start, last, text)


def siblings(code: Code, place: Place) -> Iterator[Edit]:
    """What another statement of the same form has where this one differs, in one place or two."""
    start, end = code.span(place.statement)
    own = _TOKEN.findall(code.source[start:end])
    found: list[tuple[float, Edit]] = []
    for other in code.places:
        if (
            len(own) > _MOST_TOKENS
            or not place.simple
            or other is place
            or type(other.statement) is not type(place.statement)
        ):
            continue
        tokens = _TOKEN.findall(code.text(other.statement))
        matcher = SequenceMatcher(None, own, tokens, autojunk=False)
        if matcher.real_quick_ratio() < _ALIKE or (alike := matcher.ratio()) < _ALIKE:
            continue
        differences = [each for each in matcher.get_opcodes() if each[0] != "equal"]
        all_but_one = ([each for each in differences if each is not left] for left in differences[:4])
        for chosen in (*([each] for each in differences), *map(list, itertools.pairwise(differences)), *all_but_one):
            parts, last = [], 0
            for _, one, two, first, second in chosen:
                parts += [*own[last:one], *tokens[first:second]]
                last = two
            found.append((alike, Edit(start, end, "".join([*parts, *own[last:]]))))
    yield from (edit for _, edit in sorted(found, key=lambda pair: -pair[0]))
