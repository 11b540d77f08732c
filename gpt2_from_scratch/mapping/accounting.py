"""Which tensor is which: every one of them claimed by exactly one row, or everything that is wrong, at once."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import torch

from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.mapping.layout import Layout, Link, Row, Shape, numbered
from gpt2_from_scratch.mapping.operations import SplitHeads
from gpt2_from_scratch.mapping.wording import alike, listed


@dataclass(frozen=True)
class Accounting:
    """What became of every tensor, before any is read: the proof that a layout fits, or the list of why it does not.

    Args:
        layout: the table used.
        links: parameters found, in execution order.
        zeros: parameters that theirs lacks because they are zero (``bias=False``).
        ignored: their tensor -> why it is left out.
        missing: expected and absent.
        unexpected: present and claimed by no row.
        misshapen: name -> (expected, found).
    """

    layout: Layout
    links: tuple[Link, ...] = ()
    zeros: tuple[Link, ...] = ()
    ignored: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshapen: Mapping[str, tuple[Shape, Shape]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return not (self.missing or self.unexpected or self.misshapen)

    @property
    def problems(self) -> int:
        """How many tensors do not fit."""
        return len(self.missing) + len(self.unexpected) + len(self.misshapen)

    @property
    def distance(self) -> tuple[bool, int]:
        """For `min`: a layout that fits comes first, then the one under which most was found."""
        return self.problems > 0, -len(self.links)

    def __str__(self) -> str:
        lines = [f"{len(self.links)} parameters fit the layout {self.layout.name!r}"]
        if self.missing:
            lines.append(f"missing ({len(self.missing)}): {listed(self.missing)}")
        if self.unexpected:
            lines.append(f"unexpected ({len(self.unexpected)}): {listed(self.unexpected)}")
        for names, (expected, found) in alike(self.misshapen).items():
            lines.append(f"wrong shape: {names} is {list(found)}, expected {list(expected)}")
        return "\n  ".join(lines)


def account(layout: Layout, config: GPTConfig, shapes: Mapping[str, Shape]) -> Accounting:
    """Matches their tensors against a layout. Whole names, exact shapes, everything counted.

    Args:
        layout: the table.
        config: gives the number of layers and every shape.
        shapes: their tensors.

    Returns:
        An `Accounting`, truthy when every parameter is there once and nothing is left over.
    """
    unrolled = layout.unroll(config)
    optional = {name for link in unrolled if link.absent_means_zero for name in link.theirs}
    without_optional = optional.isdisjoint(shapes)
    links, zeros, missing = [], [], []
    misshapen: dict[str, tuple[Shape, Shape]] = {}
    claimed: set[str] = set()
    for link in unrolled:
        absent = [name for name in link.theirs if name not in shapes]
        expected = dict(zip(link.theirs, link.shapes, strict=True))
        found = {name: tuple(shapes[name]) for name in link.theirs if name in shapes}
        wrong = {name: (expected[name], shape) for name, shape in found.items() if shape != expected[name]}
        claimed.update(found)
        misshapen |= wrong
        if link.absent_means_zero and without_optional:
            zeros.append(link)
        elif not found and link.tied_to is not None and config.tie_word_embeddings:
            continue
        elif absent:
            missing += absent
        elif not wrong:
            links.append(link)
    left_over = [name for name in shapes if name not in claimed]
    reasons = {name: layout.ignored(name, config) for name in left_over}
    return Accounting(
        layout,
        tuple(links),
        tuple(zeros),
        ignored={name: why for name, why in reasons.items() if why is not None},
        missing=tuple(missing),
        unexpected=tuple(name for name, why in reasons.items() if why is None),
        misshapen=misshapen,
    )


def sizes(layout: Layout, shapes: Mapping[str, Shape]) -> Mapping[str, int] | None:
    """What the shapes of a layout's own tensors say about the model, in config.json's fields.

    Args:
        layout: the table.
        shapes: their tensors.

    Returns:
        vocab_size, n_positions, n_embd, n_layer, n_inner; n_head too where heads are an axis of their own. None if the
        embeddings and the first feed-forward layer are not all there: the file is of another layout.

    Example:
        >>> from gpt2_from_scratch.mapping import embedding, linear
        >>> layout = Layout("mine", (embedding("wte", "tok"), embedding("wpe", "pos"), linear("h.*.mlp.c_fc", "up.*")))
        >>> sizes(layout, {"tok.weight": (65, 8), "pos.weight": (32, 8), "up.0.weight": (20, 8)})
        {'vocab_size': 65, 'n_positions': 32, 'n_embd': 8, 'n_layer': 1, 'n_inner': 20}
    """
    links = {name: link for link in layout.unroll(GPTConfig(n_layer=1)) for name in link.canonical}

    def canonical(name: str) -> list[Shape]:
        """Of the tensors that theirs becomes; none, if it is not there or cannot be it."""
        link = links.get(name)
        if link is None or any(len(shapes.get(theirs, ())) != len(link.shapes[0]) for theirs in link.theirs):
            return []
        stand_ins = tuple(torch.empty(1).expand(shapes[theirs]) for theirs in link.theirs)
        found = [tuple(tensor.shape) for tensor in link.to_canonical(stand_ins, GPTConfig())]
        return found if all(len(shape) == 2 for shape in found) else []

    found = [canonical(name) for name in ("wte.weight", "wpe.weight", "h.0.mlp.c_fc.weight")]
    if not all(found):
        return None
    (vocabulary, width), (positions, _), (_, inner) = (each[0] for each in found)
    result = {
        "vocab_size": vocabulary,
        "n_positions": positions,
        "n_embd": width,
        "n_layer": depth(layout, shapes) or len(found[2]),
        "n_inner": inner,
    }
    attention = links.get("h.0.attn.c_attn.weight")
    if attention and SplitHeads in map(type, attention.operations) and shapes.get(attention.theirs[0]):
        result["n_head"] = shapes[attention.theirs[0]][0]
    return result


def depth(layout: Layout, names: Collection[str]) -> int:
    """How many layers have a feed-forward layer under the layout's names; 0 also where one tensor holds all layers."""
    for row in layout.rows:
        if isinstance(row, Row) and row.site == "h.*.mlp.c_fc" and "*" in row.theirs[0]:
            name = f"{row.theirs[0]}{layout.separator}{row.parameters[0].theirs}"
            return sum(numbered(name, layer) in names for layer in range(len(names)))
    return 0


def best_fit(layouts: Iterable[Layout], config: GPTConfig, shapes: Mapping[str, Shape]) -> Accounting:
    """The accounting of the first layout that fits, or else of the one to explain the error by: most of it is there."""
    misfits = []
    for layout in sorted(layouts, key=lambda layout: layout.first not in shapes):  # the likeliest first
        accounting = account(layout, config, shapes)
        if accounting:
            return accounting  # at once: loading 124M takes milliseconds, of which each table costs two
        misfits.append(accounting)
    return min(misfits, key=lambda accounting: accounting.distance)
