"""From the rows of a layout to one `Link` for each parameter of each layer, for a model of given sizes."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

import torch

from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import MappingError
from gpt2_from_scratch.mapping.link import Link, Piece
from gpt2_from_scratch.mapping.names import INDEXED, index_of, listed, numbered, places
from gpt2_from_scratch.mapping.pattern import Choice, Shape, parse
from gpt2_from_scratch.mapping.rows import Ignore, Parameter, Row, parts_of


def walk(rows: Iterable[Row | Ignore], layers: int) -> Iterator[tuple[Row, int | None]]:
    """Rows in execution order: a run of rows for every layer is repeated layer by layer."""
    run: list[Row] = []
    for row in (row for row in rows if isinstance(row, Row)):
        if "*" in row.site:
            run.append(row)
            continue
        yield from ((per_layer, layer) for layer in range(layers) for per_layer in run)
        run = []
        yield row, None
    yield from ((per_layer, layer) for layer in range(layers) for per_layer in run)


@lru_cache(maxsize=32)  # the built-in layouts for two sizes; names and shapes, no tensors: 0.5 MB for 48 layers
def unrolled(rows: tuple[Row | Ignore, ...], separator: str, config: GPTConfig) -> tuple[Link, ...]:
    """One link for each parameter of each layer, in execution order.

    Args:
        rows: of a layout.
        separator: the layout's.
        config: of the model. Nothing but its sizes changes the links.

    Raises:
        MappingError: the table does not fit a model of these sizes.
    """
    shapes: dict[str, Shape] = config.replace(tie_word_embeddings=False).tensor_shapes()
    links = [
        _link(separator, row, parameter, layer, config, shapes)
        for row, layer in walk(rows, config.n_layer)
        for parameter in row.parameters
    ]
    return _with_whole_shapes(links)


def _link(
    separator: str, row: Row, parameter: Parameter, layer: int | None, config: GPTConfig, shapes: dict[str, Shape]
) -> Link:
    canonical = f"{numbered(row.site, layer)}.{parameter.name}"
    names = row.names(parameter, separator)
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
            f"{canonical} {list(shape)} cannot be divided as {parameter.pattern!r} says, with {count} parts and "
            f"{config.n_head} heads"
        )
    pieces: dict[bool, list[Piece]] = {True: [], False: []}  # by whether theirs has it
    for name, part in zip(names, parts, strict=True):
        chosen = {} if part == tuple(range(count)) else {"p": part}
        for head, each in enumerate(of_heads(name or "", layer, config)):
            of_head = {"h": (head,)} if name and "head" in places(name) else {}
            choice = {**chosen, **of_head}
            held = pattern.shape({**sizes, **{axis: len(choice[axis]) for axis in choice}}) if pattern else shape
            pieces[name is not None].append(_piece(each, held, choice, config))
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


def of_heads(name: str, layer: int | None, config: GPTConfig) -> Iterable[str]:
    """A name with its layer's number; with a second star, one name for each head."""
    heads: Iterable[int | None] = range(config.n_head) if "head" in places(name) else (None,)
    return [numbered(name, layer, head, config.n_layer) for head in heads]


def _piece(name: str, shape: Shape, choice: Choice, config: GPTConfig) -> Piece:
    match = INDEXED.fullmatch(name)
    if match is None:
        return Piece(name, shape, (), choice)
    lengths = iter(shape)
    index: list[int | slice] = []
    for step in index_of(match[2], config):
        if isinstance(step, slice):  # it is as long as the piece, whether its end is given or not
            length = next(lengths, 0)
            if step.stop not in (None, step.start + length):
                raise MappingError(f"{name} has room for {step.stop - step.start}, but what it holds is {length} long")
            step = slice(step.start, step.start + length)
        index.append(step)
    return Piece(match[1], shape, tuple(index), choice)


def _with_whole_shapes(links: list[Link]) -> tuple[Link, ...]:
    """The links, with the shapes of tensors of which each piece is a part; and a check that pieces fill them."""
    places: dict[str, list[Piece]] = defaultdict(list)
    for piece in (piece for link in links for piece in link.pieces):
        places[piece.name].append(piece)
    twice = [name for name, pieces in places.items() if len(pieces) > 1 and not pieces[0].index]
    if twice:
        raise MappingError(f"tensors are named twice: {listed(twice)}")
    whole = {name: _whole_shape(name, pieces) for name, pieces in places.items() if pieces[0].index}
    if not whole:
        return tuple(links)
    return tuple(
        replace(link, pieces=tuple(replace(piece, shape=whole.get(piece.name, piece.shape)) for piece in link.pieces))
        for link in links
    )


def _whole_shape(name: str, pieces: Sequence[Piece]) -> Shape:
    """The shape of a tensor of which pieces are given by their index.

    Raises:
        MappingError: the pieces leave a gap, overlap, or have different shapes.
    """
    depth = len(pieces[0].index)
    inner = {piece.shape[sum(isinstance(step, slice) for step in piece.index) :] for piece in pieces}
    stops = zip(
        *([step.stop if isinstance(step, slice) else step + 1 for step in piece.index] for piece in pieces), strict=True
    )
    extents = tuple(max(stop) for stop in stops)
    filled = torch.zeros(extents, dtype=torch.int32)
    for piece in pieces:
        filled[piece.index] += 1
    if len(inner) > 1 or not bool((filled == 1).all()) or any(len(piece.index) != depth for piece in pieces):
        raise MappingError(
            f"the rows do not fill {name} {list(extents)}: {int((filled == 0).sum())} of "
            f"{filled.numel()} places are in no row, {int((filled > 1).sum())} in two"
        )
    return (*extents, *inner.pop())
