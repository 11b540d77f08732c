"""A Python source as its syntax tree, with the text of every node; what can be named at a statement; an edit."""

import ast
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

LIBRARIES = ("torch", "torch.nn", "torch.nn.functional", "np", "math", "nn", "nn.functional", "F", "functional", "self")

_OPERATIONS = ast.BinOp | ast.UnaryOp | ast.BoolOp | ast.Compare | ast.IfExp | ast.Attribute | ast.Subscript
_SIMPLE = re.compile(r"[A-Za-z_][\w.]*|\d+")  # which needs no brackets anywhere
_MOST = 4  # parts that are put into every order
_MOST_EXPRESSIONS = 100  # of one statement: a table of numbers is no formula
_MOST_NAMES = 40  # in scope


@dataclass(frozen=True)
class Edit:
    """Characters of a source, and what to put in their place."""

    start: int
    end: int
    text: str

    def apply(self, source: str) -> str:
        """The source with this edit made."""
        return source[: self.start] + self.text + source[self.end :]


@dataclass(frozen=True, eq=False)
class Place:
    """A statement, and what stands around it.

    Args:
        statement: the statement.
        functions: the functions that it stands in, the innermost first.
        owner: the class that it stands in.
        around: the blocks that it stands in, each with the statement that owns it, the innermost first.
    """

    statement: ast.stmt
    functions: tuple[ast.FunctionDef, ...]
    owner: ast.ClassDef | None
    around: tuple[tuple[ast.AST, Sequence[ast.stmt]], ...]

    @property
    def body(self) -> Sequence[ast.stmt]:
        """The block that the statement stands in."""
        return self.around[0][1]

    @property
    def simple(self) -> bool:
        """Whether it has no block of its own."""
        return not hasattr(self.statement, "body")


class Code:
    """A source with its syntax tree, and texts and places of its nodes."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.tree = ast.parse(source)
        self.numpy = "import torch" not in source and "from torch" not in source
        self._lines = [f"{row}\n" for row in source.split("\n")]  # as `ast` counts them
        self._starts = list(itertools.accumulate(map(len, self._lines), initial=0))
        self._parents = {id(child): node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}
        self.places = list(self._walk(self.tree, (), None, ()))

    def span(self, node: ast.AST) -> tuple[int, int]:
        """Where a node's text begins and ends, in characters."""
        first, last = node.lineno, node.end_lineno  # type: ignore[attr-defined]
        return self._offset(first, node.col_offset), self._offset(last, node.end_col_offset)  # type: ignore[attr-defined]

    def text(self, node: ast.AST) -> str:
        """A node's own text."""
        start, end = self.span(node)
        return self.source[start:end]

    def parent(self, node: ast.AST) -> ast.AST:
        """The node that a node is a part of."""
        return self._parents[id(node)]

    def replace(self, node: ast.AST, text: str) -> Edit:
        """This text in the node's place, in brackets if it is to be an operand, without those that it does not need."""
        start, end = self.span(node)
        parent = self.parent(node)
        if (
            self.source[start - 1 : start] == "("
            and self.source[end : end + 1] == ")"
            and node not in _arguments(parent)
        ):
            start, end = start - 1, end + 1
        if not isinstance(parent, _OPERATIONS):
            return Edit(start, end, text)
        first, last = self.span(parent)
        whole = filled("{}".join((self.source[first:start], self.source[end:last])), text)
        return Edit(start, end, whole[start - first : len(whole) - (last - end)])

    def whole_lines(self, statement: ast.stmt) -> tuple[int, int]:
        """Where the lines of a statement begin and end."""
        return self._starts[statement.lineno - 1], self._starts[statement.end_lineno or statement.lineno]

    def statements_on(self, line: int) -> list[Place]:
        """The innermost statements that touch a line, compound ones by their heads only."""
        found = []
        for place in self.places:
            last = place.statement.end_lineno or place.statement.lineno
            if body := getattr(place.statement, "body", None):
                last = max(body[0].lineno - 1, place.statement.lineno)
            if place.statement.lineno <= line <= last:
                found.append(place)
        return found

    def expressions(self, place: Place) -> list[ast.expr]:
        """All expressions of a statement, without those of statements inside it, the outer ones first."""
        found: list[ast.expr] = []
        pending: list[ast.AST] = [place.statement]
        while pending and len(found) < _MOST_EXPRESSIONS:
            node = pending.pop(0)
            if isinstance(node, ast.expr) and hasattr(node, "lineno"):
                found.append(node)
            pending += [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.stmt)]
        return found

    def values(self, place: Place) -> list[ast.expr]:
        """Those of `expressions` that are computed: no targets, slices, libraries and names of what is called."""
        return [
            node
            for node in self.expressions(place)
            if not isinstance(node, ast.Slice | ast.Starred | ast.Tuple)
            and not isinstance(getattr(node, "ctx", None), ast.Store)
            and getattr(self.parent(node), "func", None) is not node
            and self.text(node) not in LIBRARIES
        ]

    def names(self, place: Place) -> list[str]:
        """Arguments and variables of the functions around: first those that nobody reads, then the nearest."""
        if not place.functions:
            return [
                t.id for s in self.tree.body if isinstance(s, ast.Assign) for t in s.targets if isinstance(t, ast.Name)
            ]
        found: dict[str, int] = {}
        for function in place.functions:
            for node in ast.walk(function):
                match node:
                    case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()):
                        found.setdefault(name, abs(node.lineno - place.statement.lineno))
        read = self._read(place)
        return sorted(found.keys() - {"self", "_"}, key=lambda name: (name in read, found[name], name))[:_MOST_NAMES]

    def attributes(self, place: Place) -> list[str]:
        """``self.x`` of everything that the class around assigns: first what it never reads."""
        found: dict[str, None] = {}
        for node in ast.walk(place.owner) if place.owner is not None else ():
            match node:
                case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                    found[f"self.{name}"] = None
                case ast.Call(args=[ast.Constant(value=str(name)), *_]) if called(node).startswith("register_"):
                    found[f"self.{name}"] = None
        return sorted(found, key=self._read(place).__contains__)[:_MOST_NAMES]

    def unread(self, place: Place) -> list[str]:
        """Names and attributes that nobody reads: a step that was forgotten leaves some."""
        read = self._read(place)
        return [each for each in (*self.names(place), *self.attributes(place)) if each not in read]

    def _read(self, place: Place) -> set[str]:
        """The names and attributes that the class or the function around reads."""
        around = place.owner or (place.functions[-1] if place.functions else self.tree)
        loads = (node for node in ast.walk(around) if isinstance(getattr(node, "ctx", None), ast.Load))
        return {self.text(node) for node in loads if isinstance(node, ast.Name | ast.Attribute)}

    def layers(self, place: Place) -> list[str]:
        """Those of `attributes` that are modules: the class assigns what a class with a capital letter makes."""
        around = self.text(place.owner) if place.owner is not None else ""
        made = r" = (?![\w.]*Parameter)[\w.]*[A-Z]\w*\("
        return [each for each in self.attributes(place) if re.search(re.escape(each) + made, around)]

    def functions(self) -> list[str]:
        """Functions of the file that can be called with one argument."""
        found = [each for each in self.tree.body if isinstance(each, ast.FunctionDef)]
        return [each.name for each in found if len(each.args.args) - len(each.args.defaults) == 1]

    def strings(self) -> list[str]:
        """Short texts in the file, keys and names of weights: first those that stand there once."""
        found = [node.value for node in ast.walk(self.tree) if isinstance(node, ast.Constant)]
        words = [each for each in found if isinstance(each, str) and 0 < len(each) < 30]
        return sorted(dict.fromkeys(words), key=words.count)[:_MOST_NAMES]

    def _offset(self, line: int, column: int) -> int:
        return self._starts[line - 1] + len(self._lines[line - 1].encode()[:column].decode())

    def _walk(
        self,
        owner: ast.AST,
        functions: tuple[ast.FunctionDef, ...],
        of: ast.ClassDef | None,
        around: tuple[tuple[ast.AST, Sequence[ast.stmt]], ...],
    ) -> Iterator[Place]:
        if isinstance(owner, ast.FunctionDef):
            functions = (owner, *functions)
        elif isinstance(owner, ast.ClassDef):
            of = owner
        for name in ("body", "orelse", "finalbody"):
            block = getattr(owner, name, [])
            for statement in block if isinstance(block, list) else []:
                yield Place(statement, functions, of, ((owner, block), *around))
                yield from self._walk(statement, functions, of, ((owner, block), *around))


def filled(pattern: str, *texts: str) -> str:
    """A pattern with the texts in the places of ``{}``, each in brackets where it would be torn apart without."""
    for text in texts:
        bare, safe = pattern.replace("{}", text, 1), pattern.replace("{}", f"({text})", 1)
        enclosed = None if _SIMPLE.fullmatch(text) else _tree(safe.replace("{}", "x"))
        torn = enclosed is not None and enclosed != _tree(bare.replace("{}", "x"))
        pattern = safe if torn else bare
    return pattern


def _tree(expression: str) -> str | None:
    try:
        return ast.dump(ast.parse(f"({expression})", mode="eval"))
    except (SyntaxError, ValueError):
        return None


def called(node: ast.AST) -> str:
    """The last part of the name of what a call calls; nothing for anything else."""
    function = node.func if isinstance(node, ast.Call) else None
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _arguments(node: ast.AST) -> list[ast.expr]:
    """What stands in a call's own brackets."""
    return node.args if isinstance(node, ast.Call) else []


def receiver(node: ast.AST) -> ast.expr | None:
    """``x`` of a call ``x.f()``; None for a function's call."""
    function = node.func if isinstance(node, ast.Call) else None
    found = function.value if isinstance(function, ast.Attribute) else None
    return None if found is None or ast.unparse(found) in LIBRARIES else found


def operands(node: ast.AST) -> list[ast.expr]:
    """The parts of an expression that carry a value; of a call, its receiver and two arguments."""
    match node:
        case ast.BinOp(left=left, right=right):
            return [left, right]
        case ast.UnaryOp(operand=operand):
            return [operand]
        case ast.Call(args=arguments):
            of = receiver(node)
            return [*([] if of is None else [of]), *arguments[:2]]
    return []


def orders(parts: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Any order of up to four; of more, two exchanged."""
    if len(parts) <= _MOST:
        yield from itertools.permutations(parts)
        return
    for one, other in itertools.combinations(range(len(parts)), 2):
        order = list(parts)
        order[one], order[other] = order[other], order[one]
        yield tuple(order)


def in_turn(several: Iterable[Iterable[Edit]]) -> Iterator[Edit]:
    """The first of each, then the second of each."""
    for row in itertools.zip_longest(*several):
        yield from (each for each in row if each is not None)
