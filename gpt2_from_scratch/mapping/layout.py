"""`Layout`: a table of rows in execution order, and the links it becomes for a model of given sizes."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import MappingError
from gpt2_from_scratch.mapping.link import Link, Piece
from gpt2_from_scratch.mapping.mistakes import mistakes_in
from gpt2_from_scratch.mapping.names import INDEXED, LAYER, listed, numbered, places
from gpt2_from_scratch.mapping.pattern import Choice, Pattern, Shape, parse
from gpt2_from_scratch.mapping.rows import Ignore, Parameter, Row, parts_of


@dataclass(frozen=True)
class Layout:
    """Where GPT-2's weights live in one code base.

    Args:
        name: what users call it.
        rows: the table, in execution order.
        separator: what stands between a module's name and its parameter's.
        about: one line for `gpt2 inspect`.

    Raises:
        MappingError: the table contradicts itself or GPT-2. All mistakes are named at once.

    Example:
        >>> from gpt2_from_scratch.mapping import embedding
        >>> layout = Layout("mine", (embedding("wte", "tok"), embedding("wpe", "pos")))
        >>> [link.theirs for link in layout.unroll(GPTConfig())]
        [('tok.weight',), ('pos.weight',)]
    """

    name: str
    rows: tuple[Row | Ignore, ...]
    separator: str = "."
    about: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.rows, list):
            object.__setattr__(self, "rows", tuple(self.rows))
        if mistakes := mistakes_in(self.rows, self.separator):
            number = "a mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
            raise MappingError(f"the layout {self.name!r} has {number}:" + "".join(f"\n  {each}" for each in mistakes))

    def unroll(self, config: GPTConfig) -> tuple[Link, ...]:
        """Every parameter's link, layer by layer, in execution order. The tied head's is included.

        The links are computed once for each layout and each set of sizes, and kept.
        """
        sizes = (config.vocab_size, config.n_positions, config.n_embd, config.n_layer, config.n_head, config.n_inner)
        return _unrolled(self, *sizes)

    def unmapped(self, config: GPTConfig) -> tuple[str, ...]:
        """Canonical tensors that no row claims. A complete layout has none."""
        claimed = {link.canonical for link in self.unroll(config)}
        return tuple(name for name in config.tensor_shapes() if name not in claimed)

    @property
    def first(self) -> str:
        """The name of the first row's first tensor: the token embedding, in every built-in layout."""
        row = next(row for row in self.rows if isinstance(row, Row) and row.parameters)
        return next(name for name in row.names(row.parameters[0], self.separator) if name is not None)

    def sites(self, config: GPTConfig) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Every GPT-2 module whose output can be compared, with their modules, layer by layer, in execution order."""
        return tuple(
            (numbered(row.site, layer), tuple(name for each in row.theirs for name in _of_heads(each, layer, config)))
            for row, layer in _walk(self, config.n_layer)
            if row.compared and ("*" not in row.site or all("layer" in places(name) for name in row.theirs))
        )

    def ignored(self, name: str, config: GPTConfig) -> str | None:
        """Why this tensor of theirs may be left out, or None if it may not."""
        for pattern, why in self._ignores:
            match = pattern.fullmatch(name)
            if match and all(int(layer) < config.n_layer for layer in match.groups()):
                return why
        return None

    @cached_property
    def _ignores(self) -> tuple[tuple[re.Pattern[str], str], ...]:
        return tuple(
            (re.compile(re.escape(row.theirs).replace(r"\*", LAYER)), row.why)
            for row in self.rows
            if isinstance(row, Ignore)
        )


def _walk(layout: Layout, layers: int) -> Iterator[tuple[Row, int | None]]:
    """Rows in execution order: a run of rows for every layer is repeated layer by layer."""
    run: list[Row] = []
    for row in (row for row in layout.rows if isinstance(row, Row)):
        if "*" in row.site:
            run.append(row)
            continue
        yield from ((per_layer, layer) for layer in range(layers) for per_layer in run)
        run = []
        yield row, None
    yield from ((per_layer, layer) for layer in range(layers) for per_layer in run)


@lru_cache(maxsize=128)  # names and shapes, no tensors: about 0.2 MB for a layout of 48 layers
def _unrolled(
    layout: Layout, vocabulary: int, positions: int, width: int, layers: int, heads: int, inner: int | None
) -> tuple[Link, ...]:
    config = GPTConfig(vocabulary, positions, width, layers, heads, inner)
    shapes: dict[str, Shape] = config.replace(tie_word_embeddings=False).tensor_shapes()
    links = [
        _link(layout, row, parameter, layer, config, shapes)
        for row, layer in _walk(layout, layers)
        for parameter in row.parameters
    ]
    return _with_whole_shapes(layout, links)


def _link(
    layout: Layout, row: Row, parameter: Parameter, layer: int | None, config: GPTConfig, shapes: dict[str, Shape]
) -> Link:
    canonical = f"{numbered(row.site, layer)}.{parameter.name}"
    names = row.names(parameter, layout.separator)
    if parameter.must_be_zero:
        size = (int(getattr(config, parameter.must_be_zero)),)
        return Link(
            None, size, tuple(Piece(numbered(name, layer, layers=config.n_layer), size) for name in names if name)
        )
    pattern = parse(parameter.pattern) if parameter.pattern else None
    parts = parts_of(row, parameter, len(names))
    shape = shapes[canonical]
    count = sum(map(len, parts))
    sizes = pattern.solve(shape, {"p": count, "h": config.n_head}) if pattern else {}
    if sizes is None:
        raise MappingError(
            f"the layout {layout.name!r}: {canonical} {list(shape)} cannot be divided as {parameter.pattern!r} says, "
            f"with {count} parts and {config.n_head} heads"
        )
    pieces: dict[bool, list[Piece]] = {True: [], False: []}  # by whether theirs has it
    for name, part in zip(names, parts, strict=True):
        chosen = {} if part == tuple(range(count)) else {"p": part}
        for head, each in enumerate(_of_heads(name or "", layer, config)):
            of_head = {"h": (head,)} if name and "head" in places(name) else {}
            pieces[name is not None].append(_piece(each, pattern, shape, sizes, {**chosen, **of_head}))
    changed = pattern is not None and (pattern.left != pattern.right or any(piece.choice for piece in pieces[True]))
    return Link(
        canonical,
        shape,
        tuple(pieces[True]),
        tuple(pieces[False]),
        pattern if changed or pieces[False] else None,
        sizes,
        parameter.absent_means_zero,
        row.tied_to,
        row.written_when_tied,
    )


def _of_heads(name: str, layer: int | None, config: GPTConfig) -> Iterable[str]:
    """A name with its layer's number; with a second star, one name for each head."""
    heads: Iterable[int | None] = range(config.n_head) if "head" in places(name) else (None,)
    return [numbered(name, layer, head, config.n_layer) for head in heads]


def _piece(name: str, pattern: Pattern | None, shape: Shape, sizes: Mapping[str, int], choice: Choice) -> Piece:
    shape = shape if pattern is None else pattern.shape({**sizes, **{axis: len(some) for axis, some in choice.items()}})
    if match := INDEXED.fullmatch(name):
        return Piece(match[1], shape, tuple(int(number) for number in match[2].split(",")), choice)
    return Piece(name, shape, (), choice)


def _with_whole_shapes(layout: Layout, links: list[Link]) -> tuple[Link, ...]:
    """The links, with the shapes of tensors of which each piece is a part; and a check that pieces fill them."""
    places: dict[str, list[Piece]] = defaultdict(list)
    for piece in (piece for link in links for piece in link.pieces):
        places[piece.name].append(piece)
    twice = [name for name, pieces in places.items() if max(Counter(piece.index for piece in pieces).values()) > 1]
    if twice:
        raise MappingError(f"the layout {layout.name!r} names tensors twice: {listed(twice)}")
    whole: dict[str, Shape] = {}
    for name, pieces in places.items():
        if not pieces[0].index:
            continue
        extents = tuple(max(numbers) + 1 for numbers in zip(*(piece.index for piece in pieces), strict=True))
        if len(pieces) != math.prod(extents) or len({piece.shape for piece in pieces}) > 1:
            raise MappingError(
                f"the layout {layout.name!r}: the rows do not fill {name} {list(extents)}: "
                f"{len(pieces)} of {math.prod(extents)} places are named"
            )
        whole[name] = (*extents, *pieces[0].shape)
    if not whole:
        return tuple(links)
    return tuple(
        replace(
            link,
            pieces=tuple(replace(piece, shape=whole.get(piece.name, piece.shape)) for piece in link.pieces),
        )
        for link in links
    )
