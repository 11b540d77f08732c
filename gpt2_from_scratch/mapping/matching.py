"""Key matching: which tensor of theirs is which of GPT-2's, decided by whole names and exact shapes.

Every tensor on either side must be claimed exactly once. A `Matching` lists all that are not, so that one error names
every problem. No value is read here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from torch import nn

from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.mapping.layout import Layout
from gpt2_from_scratch.mapping.link import Link
from gpt2_from_scratch.mapping.names import INDEXED, alike, listed, numbered
from gpt2_from_scratch.mapping.pattern import Pattern, Shape
from gpt2_from_scratch.mapping.rows import ATTENTION, Row, module_of


@dataclass(frozen=True)
class Matching:
    """How their tensors match a layout. Truthy if each one, and each of GPT-2's, is claimed exactly once.

    Args:
        layout: the table used.
        links: parameters that were found, in execution order.
        zeros: parameters that theirs lacks because they are zero (``bias=False``).
        ignored: tensors of theirs that are left out -> why.
        missing: names that the layout expects and theirs lacks.
        unexpected: tensors of theirs that no row claims.
        misshapen: name -> (expected shape, found shape).
        unmapped: tensors of GPT-2 that no row of the layout claims.
    """

    layout: Layout
    links: tuple[Link, ...] = ()
    zeros: tuple[Link, ...] = ()
    ignored: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshapen: Mapping[str, tuple[Shape, Shape]] = field(default_factory=dict)
    unmapped: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.problems == 0

    @property
    def problems(self) -> int:
        """How many tensors do not fit, on either side."""
        return len(self.missing) + len(self.unexpected) + len(self.misshapen) + len(self.unmapped)

    @property
    def distance(self) -> tuple[bool, int]:
        """Sort key for choosing between layouts: one that fits comes first, then the most parameters matched."""
        return self.problems > 0, -len(self.links)

    def __str__(self) -> str:
        lines = [f"{len(self.links)} parameters fit the layout {self.layout.name!r}"]
        if self.unmapped:
            lines.append(f"without a row in the layout ({len(self.unmapped)}): {listed(self.unmapped)}")
        if self.missing:
            lines.append(f"missing ({len(self.missing)}): {listed(self.missing)}")
        if self.unexpected:
            lines.append(f"unexpected ({len(self.unexpected)}): {listed(self.unexpected)}")
        for names, (expected, found) in alike(self.misshapen).items():
            lines.append(f"wrong shape: {names} is {list(found)}, expected {list(expected)}")
        return "\n  ".join(lines)


def match(layout: Layout, config: GPTConfig, shapes: Mapping[str, Shape]) -> Matching:
    """Matches their tensors against one layout.

    Args:
        layout: the table.
        config: gives the number of layers and every shape.
        shapes: their tensors.

    Returns:
        A `Matching`, truthy if the layout fits.
    """
    unrolled = layout.unroll(config)
    optional = {name for link in unrolled if link.absent_means_zero for name in link.theirs}
    without_optional = optional.isdisjoint(shapes)
    links, zeros = [], []
    missing: dict[str, None] = {}  # a set in order: several links may share a tensor
    misshapen: dict[str, tuple[Shape, Shape]] = {}
    claimed: set[str] = set()
    for link in unrolled:
        expected = dict(zip(link.theirs, link.shapes, strict=True))
        found = {name: tuple(shapes[name]) for name in expected if name in shapes}
        wrong = {name: (expected[name], shape) for name, shape in found.items() if shape != expected[name]}
        claimed.update(found)
        misshapen |= wrong
        if not expected or (link.absent_means_zero and without_optional):
            zeros.append(link)
        elif not found and link.tied_to is not None and config.tie_word_embeddings:
            continue
        elif len(found) < len(expected):
            missing |= dict.fromkeys(name for name in expected if name not in found)
        elif not wrong:
            links.append(link)
    left_over = [name for name in shapes if name not in claimed]
    reasons = {name: layout.ignored(name, config) for name in left_over}
    return Matching(
        layout,
        tuple(links),
        tuple(zeros),
        ignored={name: why for name, why in reasons.items() if why is not None},
        missing=tuple(missing),
        unexpected=tuple(name for name, why in reasons.items() if why is None),
        misshapen=misshapen,
        unmapped=layout.unmapped(config),
    )


def best_match(layouts: Iterable[Layout], config: GPTConfig, shapes: Mapping[str, Shape]) -> Matching:
    """Matches their tensors against several layouts.

    Args:
        layouts: the tables; at least one.
        config: gives the number of layers and every shape.
        shapes: their tensors.

    Returns:
        The matching of the first layout that fits; otherwise of the closest one, for the error message.
    """
    misfits = []
    for layout in sorted(layouts, key=lambda layout: layout.first not in shapes):  # the likeliest first
        matching = match(layout, config, shapes)
        if matching:
            return matching  # at once: loading 124M takes milliseconds, of which each table costs two
        misfits.append(matching)
    return min(misfits, key=lambda matching: matching.distance)


def match_module(module: nn.Module, config: GPTConfig, layouts: Iterable[Layout]) -> Matching:
    """Matches a module's parameters against the variants of a layout; ``.layout`` is then the variant that fits.

    Args:
        module: somebody's GPT-2. A parameter with two names counts under both.
        config: of the checkpoint that it is compared with.
        layouts: the variants.

    Returns:
        The matching of the variant that fits; otherwise of the closest one.
    """
    parameters = module.named_parameters(remove_duplicate=False)
    return _of_shapes(tuple(layouts), config, tuple((name, tuple(each.shape)) for name, each in parameters))


@lru_cache(maxsize=8)  # loading, weights and the search ask the same of one module
def _of_shapes(layouts: tuple[Layout, ...], config: GPTConfig, shapes: tuple[tuple[str, Shape], ...]) -> Matching:
    return best_match(layouts, config, dict(shapes))


# ------------------------------------------------------------------------------------------------- sizes from shapes


def sizes(layout: Layout, shapes: Mapping[str, Shape]) -> Mapping[str, int] | None:
    """The sizes of the model that the shapes of tensors under a layout's names show, in config.json's fields.

    Args:
        layout: the table.
        shapes: their tensors.

    Returns:
        vocab_size, n_positions, n_embd, n_layer, n_inner; n_head too where heads are an axis or modules of their own.
        None if the embeddings and the first feed-forward layer are not all there: the file is of another layout.

    Example:
        >>> from gpt2_from_scratch.mapping import embedding, linear
        >>> layout = Layout("mine", (embedding("wte", "tok"), embedding("wpe", "pos"), linear("h.*.mlp.c_fc", "up.*")))
        >>> sizes(layout, {"tok.weight": (65, 8), "pos.weight": (32, 8), "up.0.weight": (20, 8)})
        {'vocab_size': 65, 'n_positions': 32, 'n_embd': 8, 'n_layer': 1, 'n_inner': 20}
    """
    links = {link.canonical: link for link in layout.unroll(GPTConfig(n_layer=1))}
    embedding, positions, inner = (
        _canonical_shape(links.get(name), shapes) for name in ("wte.weight", "wpe.weight", "h.0.mlp.c_fc.weight")
    )
    if not (embedding and positions and inner):
        return None
    result = {
        "vocab_size": embedding[0],
        "n_positions": positions[0],
        "n_embd": embedding[1],
        "n_layer": depth(layout, shapes),
        "n_inner": inner[1],
    }
    heads = _heads(links.get(f"{numbered(ATTENTION, 0)}.weight"), layout, shapes)
    return result | {"n_head": heads} if heads else result


def _axes_of_theirs(link: Link, shapes: Mapping[str, Shape]) -> dict[str, int] | None:
    """The lengths of the pattern's axes, as far as the shape of their first tensor determines them."""
    piece = link.pieces[0]
    shape = shapes.get(piece.name, ())[len(piece.index) :]
    if link.pattern is None:
        return None
    known = {axis: len(some) for axis, some in piece.choice.items()}
    if "p" not in piece.choice and "p" in link.sizes:
        known["p"] = link.sizes["p"]
    return Pattern(link.pattern.right, link.pattern.left).solve(shape, known)


def _canonical_shape(link: Link | None, shapes: Mapping[str, Shape]) -> Shape | None:
    """The shape ``[rows, columns]`` of GPT-2's tensor; None if theirs are not all there or cannot be it."""
    if link is None or not link.pieces or any(isinstance(step, slice) for step in link.pieces[0].index):
        return None  # of a part of an axis, the shape does not show the length
    if any(len(shapes.get(piece.name, ())) != len(piece.shape) for piece in link.pieces):
        return None
    if link.pattern is None:
        return tuple(shapes[link.pieces[0].name][len(link.pieces[0].index) :])
    axes = _axes_of_theirs(link, shapes)
    if axes is None:
        return None
    if "p" in axes:
        axes["p"] = link.sizes["p"]
    return Pattern(link.pattern.right, link.pattern.left).shape(axes)


def _heads(link: Link | None, layout: Layout, shapes: Mapping[str, Shape]) -> int | None:
    """The number of heads, where it is the length of an axis, or where each head has a module of its own."""
    if link is None or not link.pieces or link.pattern is None or link.pieces[0].name not in shapes:
        return None
    if "h" in link.pieces[0].choice:
        row = next(row for row in layout.rows if isinstance(row, Row) and module_of(row.site) == ATTENTION)
        return sum(numbered(row.first_name(layout.separator), 0, head) in shapes for head in range(len(shapes)))
    return (_axes_of_theirs(link, shapes) or {}).get("h")


def depth(layout: Layout, shapes: Mapping[str, Shape]) -> int:
    """How many layers have a feed-forward layer under the layout's names."""
    for row in layout.rows:
        if isinstance(row, Row) and row.site == "h.*.mlp.c_fc":
            name = row.first_name(layout.separator)
            if indexed := INDEXED.fullmatch(numbered(name, 0, 0)):  # W[*]: one tensor for all layers
                axis = name[len(indexed[1]) + 1 : -1].replace(" ", "").split(",").index("*")
                return shapes[indexed[1]][axis] if len(shapes.get(indexed[1], ())) > axis else 0
            return sum(numbered(name, layer) in shapes for layer in range(len(shapes)))
    return 0
