"""Finds a small edit of somebody's source that makes the model right, near the lines that are known to be guilty.

Every edit is tried: the edited source is built, filled with the checkpoint's weights and asked for logits. An edit is
accepted only when these are GPT-2's in float64, so a wrong patch cannot be found. What cannot be repaired by one small
edit is not repaired.
"""

import ast
import difflib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt2_from_scratch.diagnose.clock import Clock

# The source of an edited file -> the largest difference of its logits from GPT-2's, as a share of the largest logit;
# infinite where it does not run.
Judge = Callable[[str], float]

# Right code is 1e-14 to 1e-12 from GPT-2 in float64, the mildest bug (an epsilon of 1e-6 in one norm) above 1e-8.
RIGHT = 1e-10


@dataclass(frozen=True)
class Patch:
    """An edit that was tried and makes the logits GPT-2's. Truthy; ``str()`` is a unified diff.

    Args:
        path: the file.
        before: its source.
        after: the edited source.
        lines: numbers of the lines that change, in the old source.
        error: what is left between its logits and GPT-2's, as a share of the largest logit.
        trials: how many edits were tried until this one.
        proof: on what it was tried, for people.
    """

    path: Path
    before: str
    after: str
    lines: tuple[int, ...]
    error: float
    trials: int
    proof: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return True

    def __str__(self) -> str:
        lines = difflib.unified_diff(
            self.before.splitlines(keepends=True),
            self.after.splitlines(keepends=True),
            f"a/{self.path.name}",
            f"b/{self.path.name}",
            n=1,
        )
        return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


def find_patch(
    path: Path,
    lines: Sequence[int],
    judge: Judge,
    confirm: Callable[[str], tuple[str, ...]] = lambda source: ("the prompts of the search",),
    *,
    seconds: float = 30,
) -> Patch | None:
    """The first edit at these lines, or at their neighbours, that the judge accepts and that is confirmed.

    Args:
        path: the user's file, which is read and never written.
        lines: numbers of the guilty lines, the guiltiest first.
        judge: runs an edited source on a few short prompts; it is asked hundreds of times.
        confirm: runs an accepted source on more (every length, another size); what it was proven on, nothing if it was
            refused there.
        seconds: of processor time, see `clock.Clock`.

    Returns:
        None if no edit was accepted, or the time was over.
    """
    before = path.read_text(encoding="utf-8")
    clock = Clock(seconds)
    tried: set[str] = {before}
    for after in itertools.chain(_once(before, lines), _twice(before, lines)):
        if clock.over:
            return None
        if after in tried or not _parses(after):
            continue
        tried.add(after)
        error = judge(after)
        if error <= RIGHT and (proof := confirm(after)):
            return Patch(path, before, after, _changed(before, after), error, len(tried) - 1, proof)
    return None


def _once(source: str, lines: Sequence[int]) -> Iterator[str]:
    return (edit.apply(source) for edit in edits(source, lines))


def _twice(source: str, lines: Sequence[int]) -> Iterator[str]:
    """Something is taken away first, and then any edit is made of what is left of the line."""
    code = _Code(source)
    for line in lines:
        for place in code.statements_on(line):
            shorter_ones = [edit.apply(source) for edit in _removals(code, place)]
            shorter_ones = [shorter for shorter in shorter_ones if _parses(shorter)]
            for shorter in shorter_ones:
                again = _Code(shorter)
                places = again.statements_on(line)
                yield from (second.apply(shorter) for each in places for second in _removals(again, each))
            for shorter in shorter_ones:
                yield from (second.apply(shorter) for second in edits(shorter, [line], neighbours=False))


def _changed(before: str, after: str) -> tuple[int, ...]:
    """Numbers of the old lines that are not in the new source."""
    matcher = difflib.SequenceMatcher(None, before.splitlines(), after.splitlines(), autojunk=False)
    return tuple(
        number + 1
        for tag, start, stop, *_ in matcher.get_opcodes()
        if tag != "equal"
        for number in range(start, max(stop, start + 1))
    )


# ------------------------------------------------------------------------------------------------------------ edits


@dataclass(frozen=True)
class Edit:
    """Characters of a source, and what to put in their place."""

    start: int
    end: int
    text: str

    def apply(self, source: str) -> str:
        """The source with this edit made."""
        return source[: self.start] + self.text + source[self.end :]


def edits(source: str, lines: Sequence[int], neighbours: bool = True) -> Iterator[Edit]:
    """Small edits of the statements on these lines, then of their neighbours; the likeliest kinds first.

    Args:
        source: of a Python file.
        lines: numbers of lines, from 1.
        neighbours: whether the lines before and behind are edited, too.
    """
    code = _Code(source)
    guilty = [place for line in lines for place in code.statements_on(line)]
    around = [other for line in lines for other in (line - 1, line + 1)] if neighbours else []
    near = [place for line in around for place in code.statements_on(line)]
    rounds = [list(dict.fromkeys(guilty)), [place for place in dict.fromkeys(near) if place not in guilty]]
    for places in rounds:
        for kind in KINDS:
            for place in places:
                yield from kind(code, place)


@dataclass(frozen=True)
class _Place:
    """A statement, and what can be named there."""

    statement: ast.stmt
    function: ast.FunctionDef | None
    owner: ast.ClassDef | None
    body: tuple[ast.stmt, ...]  # the block that the statement stands in

    def __hash__(self) -> int:
        return hash(id(self.statement))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Place) and self.statement is other.statement


class _Code:
    """A source with its syntax tree, and texts and places of its nodes."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.tree = ast.parse(source)
        self._starts = list(itertools.accumulate((len(line) for line in source.splitlines(keepends=True)), initial=0))
        self._lines = source.splitlines(keepends=True)
        self._places = list(self._walk(self.tree.body, None, None))

    def span(self, node: ast.AST) -> tuple[int, int]:
        """Where a node's text begins and ends, in characters."""
        first, last = node.lineno, node.end_lineno  # type: ignore[attr-defined]
        return self._offset(first, node.col_offset), self._offset(last, node.end_col_offset)  # type: ignore[attr-defined]

    def text(self, node: ast.AST) -> str:
        """A node's own text."""
        start, end = self.span(node)
        return self.source[start:end]

    def replace(self, node: ast.AST, text: str) -> Edit:
        """This text in the node's place."""
        return Edit(*self.span(node), text)

    def whole_lines(self, statement: ast.stmt) -> tuple[int, int]:
        """Where the lines of a statement begin and end."""
        return self._starts[statement.lineno - 1], self._starts[statement.end_lineno or statement.lineno]

    def statements_on(self, line: int) -> list[_Place]:
        """The innermost statements that touch a line, compound ones by their heads only."""
        found = []
        for place in self._places:
            last = place.statement.end_lineno or place.statement.lineno
            if body := getattr(place.statement, "body", None):
                last = body[0].lineno - 1 if body[0].lineno > place.statement.lineno else place.statement.lineno
            if place.statement.lineno <= line <= last:
                found.append(place)
        return found

    def expressions(self, place: _Place) -> list[ast.expr]:
        """All expressions of a statement, without those of statements inside it, the outer ones first."""
        found: list[ast.expr] = []
        pending: list[ast.AST] = [place.statement]
        while pending:
            node = pending.pop(0)
            if isinstance(node, ast.expr) and hasattr(node, "lineno"):
                found.append(node)
            pending += [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.stmt)]
        return found

    def names_in_scope(self, place: _Place) -> list[str]:
        """Arguments and assigned names of the function around, those near the statement first."""
        if place.function is None:
            return [
                t.id for s in self.tree.body if isinstance(s, ast.Assign) for t in s.targets if isinstance(t, ast.Name)
            ]
        names: dict[str, int] = {argument.arg: place.function.lineno for argument in place.function.args.args}
        for node in ast.walk(place.function):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.setdefault(node.id, node.lineno)
        names.pop("self", None)
        return sorted(names, key=lambda name: abs(names[name] - place.statement.lineno))

    def attributes(self, place: _Place) -> list[str]:
        """``self.x`` of everything that the class around assigns."""
        found: dict[str, None] = {}
        for node in ast.walk(place.owner) if place.owner is not None else ():
            match node:
                case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                    found[f"self.{name}"] = None
        return list(found)

    def functions(self) -> list[str]:
        """Functions of the file that can be called with one argument."""
        found = [each for each in self.tree.body if isinstance(each, ast.FunctionDef)]
        return [each.name for each in found if len(each.args.args) - len(each.args.defaults) == 1]

    def strings(self) -> list[str]:
        """Short texts in the file: keys and names of weights."""
        found = [node.value for node in ast.walk(self.tree) if isinstance(node, ast.Constant)]
        return list(dict.fromkeys(each for each in found if isinstance(each, str) and 0 < len(each) < 30))

    def modules(self, place: _Place) -> list[str]:
        """Those of `attributes` that are called somewhere in the class: layers."""
        called = {self.text(node.func) for node in ast.walk(place.owner or self.tree) if isinstance(node, ast.Call)}
        return [name for name in self.attributes(place) if name in called]

    def _offset(self, line: int, column: int) -> int:
        return self._starts[line - 1] + len(self._lines[line - 1].encode()[:column].decode())

    def _walk(
        self, body: Sequence[ast.stmt], function: ast.FunctionDef | None, owner: ast.ClassDef | None
    ) -> Iterator[_Place]:
        for statement in body:
            yield _Place(statement, function, owner, tuple(body))
            inner_function = statement if isinstance(statement, ast.FunctionDef) else function
            inner_owner = statement if isinstance(statement, ast.ClassDef) else owner
            for name in ("body", "orelse", "finalbody"):
                yield from self._walk(getattr(statement, name, []), inner_function, inner_owner)


def _parses(source: str) -> bool:
    try:
        ast.parse(source)
    except (SyntaxError, ValueError):
        return False
    return True


# What GPT-2 has, in the words of torch and numpy.
_ACTIVATIONS = ("relu", "gelu", "silu", "sigmoid", "tanh", "leaky_relu", "elu", "mish", "hardswish", "softplus", "selu")
_SETTINGS = {
    "gelu": ['approximate="tanh"'],
    "GELU": ['approximate="tanh"'],
    "var": ["unbiased=False", "correction=0", "keepdim=True"],
    "std": ["unbiased=False", "correction=0", "keepdim=True"],
    "var_mean": ["unbiased=False", "correction=0"],
    "mean": ["keepdim=True"],
    "softmax": ["dim=-1"],
    "Softmax": ["dim=-1"],
    "triu": ["diagonal=1"],
    "tril": ["diagonal=0"],
    "scaled_dot_product_attention": ["is_causal=True"],
    "MultiheadAttention": ["batch_first=True"],
    "TransformerEncoderLayer": [
        "norm_first=True",
        "batch_first=True",
        'activation=lambda x: F.gelu(x, approximate="tanh")',
    ],
    "LayerNorm": ["eps=1e-5"],
    "layer_norm": ["eps=1e-5"],
    "dropout": ["training=self.training", "training=False"],
}
# GPT-2's own numbers, sqrt(2 / pi) among them, and the axes and shifts that people mean.
_NUMBERS = ("1e-5", "0.5", "1.0", "0.044715", "0.7978845608028654", "2", "3", "0", "1", "-1", "-2", '-float("inf")')


def _keywords(code: _Code, place: _Place) -> Iterator[Edit]:
    """Keyword arguments of calls: those that GPT-2 needs added, wrong ones taken away or turned."""
    for node in code.expressions(place):
        if not isinstance(node, ast.Call):
            continue
        name = _called(node)
        given = {keyword.arg for keyword in node.keywords}
        for setting in _SETTINGS.get(name, ()):
            key, _, value = setting.partition("=")
            if key in given:
                yield from (code.replace(each.value, value) for each in node.keywords if each.arg == key)
            else:
                yield from _with_argument(code, node, setting)
        for keyword in node.keywords:
            if isinstance(keyword.value, ast.Constant) and isinstance(keyword.value.value, bool):
                yield code.replace(keyword.value, str(not keyword.value.value))
            yield from _without_argument(code, node, keyword)
        if name.lower().replace("_", "") in [each.replace("_", "") for each in _ACTIVATIONS]:
            prefix = code.text(node.func)[: -len(name)]
            if name[0].isupper() or not node.args:
                yield code.replace(node, f'{prefix}GELU(approximate="tanh")')
            else:
                first = code.text(node.args[0])
                yield code.replace(node, f'{prefix}gelu({first}, approximate="tanh")')
                yield code.replace(
                    node,
                    f"0.5 * {first} * (1 + {_tanh(code)}(0.7978845608028654 * ({first} + 0.044715 * {first} ** 3)))",
                )


def _names(code: _Code, place: _Place) -> Iterator[Edit]:
    """Another name that is in scope, another layer of the same class, another order of the names on the left."""
    match place.statement:
        case ast.Assign(targets=[ast.Tuple(elts=targets) as left]) if len(targets) <= 4:
            for order in itertools.permutations(map(code.text, targets)):
                yield code.replace(left, ", ".join(order))
    names, attributes = code.names_in_scope(place), code.attributes(place)
    expressions = code.expressions(place)
    yield from _exchanges(code, place, expressions)
    for node in expressions:
        match node:
            case ast.Constant(value=str(text)) if text in code.strings():
                yield from (code.replace(node, repr(other)) for other in code.strings() if other != text)
            case ast.Constant(value=int()):
                yield from (code.replace(node, name) for name in names)
            case ast.Name(id=name, ctx=ast.Load()) if name in names:
                yield from (code.replace(node, other) for other in names if other != name)
            case ast.Attribute(value=ast.Name(id="self"), ctx=ast.Load()):
                yield from (code.replace(node, other) for other in attributes if other != code.text(node))
            case ast.Attribute(value=value, attr=name, ctx=ast.Load()):
                siblings = {
                    each.attr
                    for each in ast.walk(code.tree)
                    if isinstance(each, ast.Attribute) and code.text(each.value) == code.text(value)
                }
                yield from (code.replace(node, f"{code.text(value)}.{other}") for other in siblings - {name})


def _exchanges(code: _Code, place: _Place, expressions: Iterable[ast.expr]) -> Iterator[Edit]:
    """Two names, or two layers, of one statement exchanged everywhere in it."""
    named = [
        node
        for node in expressions
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load) and code.text(node) != "self"
    ]
    texts = list(dict.fromkeys(map(code.text, named)))
    start, end = code.span(place.statement)
    for one, other in itertools.combinations(texts[:8], 2):
        text, last = "", start
        for node in sorted(named, key=lambda node: code.span(node)):
            if code.text(node) in (one, other) and code.span(node)[0] >= last:
                text += code.source[last : code.span(node)[0]] + (other if code.text(node) == one else one)
                last = code.span(node)[1]
        yield Edit(start, end, text + code.source[last:end])


def _numbers(code: _Code, place: _Place) -> Iterator[Edit]:
    """Another number: the neighbours, the negative, and GPT-2's own."""
    negated = {id(node.operand) for node in code.expressions(place) if isinstance(node, ast.UnaryOp)}
    for node in code.expressions(place):
        if id(node) in negated:
            continue
        match node:
            case ast.Constant(value=bool(value)):
                yield code.replace(node, str(not value))
            case ast.Tuple(elts=elements) if all(isinstance(each, ast.Constant | ast.UnaryOp) for each in elements):
                yield from (code.replace(node, axis) for axis in ("-1", "1", "0", "-2"))  # of axes
            case ast.Constant(value=int(value)):
                yield from (code.replace(node, str(n)) for n in (value - 1, value + 1, -value, 0, 1, 2, 3, -1, -2, -3))
                yield from (code.replace(node, number) for number in _NUMBERS)
            case ast.Constant(value=float()):
                yield from (code.replace(node, number) for number in _NUMBERS)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(value))):
                yield from (code.replace(node, str(n)) for n in (-value - 1, -value + 1, value, 0, 1, 2))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                yield code.replace(node, code.text(operand))
                yield from (code.replace(node, number) for number in _NUMBERS)
            case ast.Call(func=ast.Name(id="float"), args=[ast.Constant(value=str(text))]):
                yield code.replace(node, f"-{code.text(node)}" if text == "inf" else '-float("inf")')


_SWAPS = {
    ast.Add: ("-", "*"),
    ast.Sub: ("+",),
    ast.Mult: ("/", "+", "@"),
    ast.Div: ("*", "//"),
    ast.Pow: ("*",),
    ast.MatMult: ("*",),
    ast.FloorDiv: ("*", "/"),
}
_COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")


def _removals(code: _Code, place: _Place) -> Iterator[Edit]:
    """A step left out: an operand, a call, a subscript, a minus, one of two targets."""
    for node in code.expressions(place):
        match node:
            case ast.BinOp(left=left, right=right):
                yield code.replace(node, code.text(left))
                yield code.replace(node, code.text(right))
            case ast.UnaryOp(operand=operand) if not isinstance(operand, ast.Constant):
                yield code.replace(node, code.text(operand))
            case ast.Subscript(value=value) | ast.Attribute(value=value, attr="T" | "mT"):
                yield code.replace(node, code.text(value))
            case ast.Call(func=function, args=arguments):
                if isinstance(function, ast.Attribute):
                    yield code.replace(node, code.text(function.value))  # x.f(...) -> x
                yield from (code.replace(node, code.text(argument)) for argument in arguments[:2])  # f(x) -> x
    if isinstance(place.statement, ast.Assign) and len(place.statement.targets) > 1:
        for target, following in itertools.pairwise([*place.statement.targets, place.statement.value]):
            yield Edit(code.span(target)[0], code.span(following)[0], "")


def _operators(code: _Code, place: _Place) -> Iterator[Edit]:
    """Operands exchanged or left out, another operator."""
    for node in code.expressions(place):
        match node:
            case ast.BinOp(left=left, op=op, right=right):
                first, second = code.text(left), code.text(right)
                between = code.source[code.span(left)[1] : code.span(right)[0]]
                yield code.replace(node, f"{_bracketed(second)}{between}{_bracketed(first)}")
                for other in _SWAPS.get(type(op), ()):
                    yield code.replace(node, f"{_bracketed(first)} {other} {_bracketed(second)}")
            case ast.Compare(left=left, ops=[_], comparators=[right]):
                for other in _COMPARISONS:
                    yield code.replace(node, f"{code.text(left)} {other} {code.text(right)}")
                yield code.replace(node, f"{code.text(right)} < {code.text(left)}")


def _calls(code: _Code, place: _Place) -> Iterator[Edit]:
    """A call left out, arguments exchanged, other axes, another function of the same kind."""
    twins = {
        "tril": "triu",
        "triu": "tril",
        "ones": "zeros",
        "zeros": "ones",
        "view": "reshape",
        "sum": "mean",
        "max": "mean",
    }
    for node in code.expressions(place):
        if not isinstance(node, ast.Call):
            continue
        name = _called(node)
        for one, other in itertools.combinations(node.args, 2):
            start, end = code.span(one)[0], code.span(other)[1]
            middle = code.source[code.span(one)[1] : code.span(other)[0]]
            yield Edit(start, end, f"{code.text(other)}{middle}{code.text(one)}")
        if name in ("transpose", "swapaxes", "permute") and 2 <= len(node.args) <= 4:
            axes = range(-2, len(node.args) if name == "permute" else 4)
            orders = (
                itertools.permutations(range(len(node.args))) if name == "permute" else itertools.combinations(axes, 2)
            )
            for order in orders:
                start, end = code.span(node.args[-len(order)])[0], code.span(node.args[-1])[1]
                yield Edit(start, end, ", ".join(map(str, order)))
        if name in twins:
            start, end = code.span(node.func)
            yield Edit(end - len(name), end, twins[name])
        for argument in node.args[1:]:
            yield from _without_argument(code, node, argument)


_MOST_AXES = 4  # of a view whose sizes and order of axes are both changed: 36 ways; of more, one of the two


def _reshapes(code: _Code, place: _Place) -> Iterator[Edit]:
    """A view and the order of axes behind it, changed together: ``x.view(b, t, h, d).permute(0, 2, 1, 3)``."""
    for node in code.expressions(place):
        match node:
            case ast.Call(
                func=ast.Attribute(
                    value=ast.Call(
                        func=ast.Attribute(attr="view" | "reshape") as view, args=[_, _, *_] as sizes
                    ) as inner,
                    attr="permute" | "transpose" | "swapaxes",
                ),
            ):
                head, first, *rest = code.text(view), *map(code.text, sizes)
                tail = code.source[code.span(inner)[1] : code.span(node)[1]]
                axes = [(0, *order) for order in itertools.permutations(range(1, len(sizes)))]
                orders = [f".permute({', '.join(map(str, order))})" for order in axes]
                for other in itertools.permutations(rest):
                    for order in (tail, *(orders if len(sizes) <= _MOST_AXES else ())):
                        yield code.replace(node, f"{head}({', '.join((first, *other))}){order}")


def _rewrites(code: _Code, place: _Place) -> Iterator[Edit]:
    """Known mistakes that take more than one change: epsilon outside the root, post-norm, shared layers, einsum."""
    for node in code.expressions(place):
        match node:
            case ast.BinOp(left=ast.BinOp(left=base, op=ast.Pow(), right=power), op=ast.Add(), right=small):
                yield code.replace(node, f"({code.text(base)} + {code.text(small)}) ** {code.text(power)}")
            case ast.BinOp(left=ast.Call(args=[inside]) as root, op=ast.Add(), right=small) if _called(root) == "sqrt":
                yield code.replace(node, f"{code.text(root.func)}({code.text(inside)} + {code.text(small)})")
            case ast.BinOp(left=ast.Call(func=ast.Attribute(value=inside, attr="sqrt")), op=ast.Add(), right=small):
                yield code.replace(node, f"({code.text(inside)} + {code.text(small)}).sqrt()")
            case ast.Call(func=norm, args=[ast.BinOp(left=left, op=ast.Add(), right=ast.Call(args=[x, *_]) as call)]):
                head = code.source[code.span(call)[0] : code.span(x)[0]]
                tail = code.source[code.span(x)[1] : code.span(call)[1]]
                yield code.replace(node, f"{code.text(left)} + {head}{code.text(norm)}({code.text(x)}){tail}")
            case ast.BinOp(left=ast.Name() as size, op=ast.Pow()) | ast.Call(args=[ast.Name() as size]) if (
                isinstance(node, ast.BinOp) or _called(node) == "sqrt"
            ):
                yield from (code.replace(size, f"{name}.shape[-1]") for name in code.names_in_scope(place))
            case ast.Call(func=table, args=[x, *_]) if "pos" in code.text(table).lower():
                arange = "np.arange" if "import torch" not in code.source else "torch.arange"
                for name in code.names_in_scope(place):
                    yield code.replace(x, f"{arange}({name}.shape[1])")
                    yield code.replace(x, f"{arange}({name})")
            case ast.JoinedStr():
                own = code.text(node)
                parts = [str(each.value) for each in node.values if isinstance(each, ast.Constant)]
                yield from (
                    code.replace(node, own.replace(part, other, 1)) for part in parts for other in code.strings()
                )
            case ast.BinOp(left=ast.List(elts=[one]), op=ast.Mult(), right=count):
                yield code.replace(node, f"[{code.text(one)} for _ in range({code.text(count)})]")
            case ast.ListComp(elt=ast.Name() as element) if "import copy" in code.source:
                yield code.replace(element, f"copy.deepcopy({code.text(element)})")
            case ast.Call(args=[ast.Constant(value=str(letters)) as equation, *_]) if "->" in letters:
                yield from (code.replace(equation, repr(other)) for other in _other_equations(letters))


def _other_equations(equation: str) -> Iterator[str]:
    """Two letters exchanged in one operand of an einsum, or in its result."""
    terms = equation.replace("->", ",->").split(",")
    for at, term in enumerate(terms):
        letters = [place for place, letter in enumerate(term) if letter.isalpha()]
        for one, other in itertools.combinations(letters, 2):
            swapped = list(term)
            swapped[one], swapped[other] = swapped[other], swapped[one]
            yield ",".join([*terms[:at], "".join(swapped), *terms[at + 1 :]]).replace(",->", "->")


def _wraps(code: _Code, place: _Place) -> Iterator[Edit]:
    """A step that is missing: a transpose, a scale, a shortcut, a bias, a norm."""
    names, modules = code.names_in_scope(place), code.modules(place)
    owner = code.text(place.owner) if place.owner is not None else code.source
    biases = [name for name in code.attributes(place) if "bias" in name or name.endswith((".b", ".shift", ".beta"))]
    values = [node for node in code.expressions(place) if not isinstance(getattr(node, "ctx", None), ast.Store)]
    for node in values:
        text = code.text(node)
        if isinstance(node, ast.Constant | ast.Slice | ast.Starred | ast.Tuple) or _is_callee(node, values):
            continue
        bracketed = _bracketed(text)
        yield from (code.replace(node, f"{name}({text})") for name in (*modules, *code.functions()))
        yield from (code.replace(node, f"{bracketed} + {name}") for name in (*names, *biases, *_items(code, place)))
        for step in (".transpose(-2, -1)", ".transpose(1, 2)", ".swapaxes(-2, -1)", ".swapaxes(1, 2)", ".T"):
            yield code.replace(node, f"{bracketed}{step}")
        yield code.replace(node, f"{bracketed} ** 0.5")
        if "sqrt" in owner or "** -0.5" in owner or "**-0.5" in owner or "@" in text or "matmul" in text:
            for width in [name for name in (*names, *code.attributes(place)) if not name.isupper() or len(name) < 3]:
                yield code.replace(node, f"{bracketed} / ({width} ** 0.5)")
            yield from (code.replace(node, f"{bracketed} / ({name}.shape[-1] ** 0.5)") for name in names)


def _items(code: _Code, place: _Place) -> list[str]:
    """``w["b"]`` for every ``w["..."]`` of the statement and every short text of the file."""
    found = []
    for node in code.expressions(place):
        match node:
            case ast.Subscript(value=value, slice=ast.Constant(value=str())):
                found += [f"{code.text(value)}[{text!r}]" for text in code.strings()]
    return found


def _statements(code: _Code, place: _Place) -> Iterator[Edit]:
    """A statement left out, or exchanged with its neighbour."""
    start, end = code.whole_lines(place.statement)
    if getattr(place.statement, "body", None) or isinstance(place.statement, ast.Return):
        return
    if isinstance(place.statement, ast.AugAssign):
        for operator in ("+=", "*=", "="):
            target, value = code.text(place.statement.target), code.text(place.statement.value)
            yield code.replace(place.statement, f"{target} {operator} {value}")
    at = place.body.index(place.statement)
    for neighbour in place.body[max(0, at - 1) : at] + place.body[at + 1 : at + 2]:
        if not getattr(neighbour, "body", None) and not isinstance(neighbour, ast.Return):
            first, second = sorted((code.whole_lines(neighbour), (start, end)))
            swapped = code.source[slice(*second)] + code.source[first[1] : second[0]] + code.source[slice(*first)]
            yield Edit(first[0], second[1], swapped)
    if len(place.body) > 1:
        yield Edit(start, end, "")


def _own_names(code: _Code, place: _Place) -> Iterator[Edit]:
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
        names = [each for each in ast.walk(following) if isinstance(each, ast.Name) and each.id == name]
        read += [each for each in names if isinstance(each.ctx, ast.Load)]
        calls = [each for each in ast.walk(following) if isinstance(each, ast.Call)]
        inside += [each for each in read if any(each in ast.walk(call) for call in calls) and each not in inside]
        for chosen in (read, inside, *([each] for each in read)):
            spans = sorted({code.span(statement.targets[0]), *map(code.span, chosen)})
            text, last = "", start
            for begin, stop in spans:
                text, last = text + code.source[last:begin] + own, stop
            yield Edit(start, last, text)


KINDS = (
    _keywords,
    _rewrites,
    _removals,
    _operators,
    _numbers,
    _names,
    _calls,
    _own_names,
    _reshapes,
    _statements,
    _wraps,
)


def _called(node: ast.Call) -> str:
    """The last part of the name of what is called."""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _is_callee(node: ast.AST, values: Iterable[ast.AST]) -> bool:
    return any(isinstance(other, ast.Call) and other.func is node for other in values)


def _with_argument(code: _Code, node: ast.Call, text: str) -> Iterator[Edit]:
    end = code.span(node)[1] - 1
    inside = code.source[code.span(node.func)[1] + 1 : end].strip()
    yield Edit(end, end, f", {text}" if inside and not inside.endswith(",") else text)


def _without_argument(code: _Code, node: ast.Call, argument: ast.expr | ast.keyword) -> Iterator[Edit]:
    start, end = code.span(argument)
    before = code.source[:start].rstrip()
    if before.endswith(","):
        yield Edit(len(before) - 1, end, "")
    else:
        after = len(code.source) - len(code.source[end:].lstrip(", "))
        yield Edit(start, after, "")


def _bracketed(text: str) -> str:
    """The text as an operand of anything."""
    simple = text.replace("_", "a").replace(".", "a").isalnum() or (text.endswith(")") and _one_call(text))
    return text if simple else f"({text})"


def _one_call(text: str) -> bool:
    try:
        return isinstance(ast.parse(text, mode="eval").body, ast.Call | ast.Subscript | ast.Attribute)
    except SyntaxError:
        return False


def _tanh(code: _Code) -> str:
    return "np.tanh" if "import numpy as np" in code.source and "import torch" not in code.source else "torch.tanh"
