"""A Python source as its syntax tree, with the text of every node; what can be named at a statement; an edit."""

import ast
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

LIBRARIES = ("torch", "torch.nn", "torch.nn.functional", "np", "math", "nn", "nn.functional", "F", "functional", "self")


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
        self._lines = source.splitlines(keepends=True)
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
        parent, simple = self.parent(node), bracketed(text) == text
        if (
            self.source[start - 1 : start] == "("
            and self.source[end : end + 1] == ")"
            and node not in _arguments(parent)
        ):
            return Edit(start - 1, end + 1, text) if simple else Edit(start, end, text)
        operand = isinstance(parent, ast.BinOp | ast.UnaryOp | ast.Compare | ast.Attribute) or (
            isinstance(parent, ast.Subscript) and parent.value is node
        )
        return Edit(start, end, bracketed(text) if operand else text)

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
        while pending:
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
        """Arguments and variables of the functions around: first those that nobody reads, then the nearest.

        A step that was forgotten leaves something that nobody reads.
        """
        if not place.functions:
            return [
                t.id for s in self.tree.body if isinstance(s, ast.Assign) for t in s.targets if isinstance(t, ast.Name)
            ]
        found: dict[str, int] = {}
        read: set[str] = set()
        for function in place.functions:
            for node in ast.walk(function):
                match node:
                    case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()):
                        found.setdefault(name, abs(node.lineno - place.statement.lineno))
                    case ast.Name(id=name):
                        read.add(name)
        found.pop("self", None)
        return sorted(found, key=lambda name: (name in read, found[name]))

    def attributes(self, place: Place) -> list[str]:
        """``self.x`` of everything that the class around assigns: first what it never reads."""
        found: dict[str, None] = {}
        read: set[str] = set()
        for node in ast.walk(place.owner) if place.owner is not None else ():
            match node:
                case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                    found[f"self.{name}"] = None
                case ast.Attribute(value=ast.Name(id="self"), attr=name):
                    read.add(f"self.{name}")
                case ast.Call(args=[ast.Constant(value=str(name)), *_]) if called(node).startswith("register_"):
                    found[f"self.{name}"] = None
        return sorted(found, key=read.__contains__)

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
        return sorted(dict.fromkeys(words), key=words.count)

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


def bracketed(text: str) -> str:
    """The text as an operand of anything."""
    simple = text.replace("_", "a").replace(".", "a").isalnum() or (text.endswith((")", "]")) and _one_call(text))
    return text if simple else f"({text})"


def _one_call(text: str) -> bool:
    try:
        return isinstance(ast.parse(text, mode="eval").body, ast.Call | ast.Subscript | ast.Attribute)
    except SyntaxError:
        return False


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


def in_turn(several: Iterable[Iterable[Edit]]) -> Iterator[Edit]:
    """The first of each, then the second of each."""
    for row in itertools.zip_longest(*several):
        yield from (each for each in row if each is not None)
