"""One table, three readings: how the tensors of somebody's code base correspond to GPT-2's.

A `Layout` is a tuple of rows in execution order. A row pairs one *canonical* module (Hugging Face's `GPT2Model` names
without a prefix, linear weights ``[in, out]``) with the module, or the modules, that hold the same weights elsewhere.
Loading runs down the table, saving runs it backwards, and the verifier walks it to find the first place that differs.

The one idea: everything a code base does to a tensor is one of a small closed set of operations, each of which is
*asked for its inverse*. No direction is ever written twice, and nothing is inferred from a shape: GPT-2's attention
projection is square, so a wrong orientation there has the right shape. Names match whole; ``*`` stands for the layer
number.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import MappingError

Tensors: TypeAlias = tuple[Tensor, ...]
Shape: TypeAlias = tuple[int, ...]

# ------------------------------------------------------------------------------------------------------ operations


class Operation(Protocol):
    """One reversible step from canonical tensors to theirs. Values in, values out: arguments are never written to."""

    def __call__(self, tensors: Tensors, config: GPTConfig) -> Tensors: ...

    @property
    def inverse(self) -> "Operation": ...


@dataclass(frozen=True)
class Transpose:
    """``[in, out]`` <-> ``[out, in]``; its own inverse."""

    def __call__(self, tensors: Tensors, config: GPTConfig) -> Tensors:
        return tuple(tensor.t() for tensor in tensors)

    @property
    def inverse(self) -> "Operation":
        return self


@dataclass(frozen=True)
class Split:
    """One tensor into equal parts along an axis: the fused q, k, v into three. Inverse: `Join`."""

    parts: int
    axis: int

    def __call__(self, tensors: Tensors, config: GPTConfig) -> Tensors:
        (tensor,) = tensors
        return tensor.tensor_split(self.parts, dim=self.axis)

    @property
    def inverse(self) -> "Operation":
        return Join(self.parts, self.axis)


@dataclass(frozen=True)
class Join:
    """Parts side by side along an axis. Inverse: `Split`."""

    parts: int
    axis: int

    def __call__(self, tensors: Tensors, config: GPTConfig) -> Tensors:
        return (torch.cat(tensors, dim=self.axis),)

    @property
    def inverse(self) -> "Operation":
        return Split(self.parts, self.axis)


@dataclass(frozen=True)
class SplitHeads:
    """Axis of width E into ``[H, d]``, heads first: ``[E, E] -> [H, E, d]`` (axis 1). Inverse: `MergeHeads`."""

    axis: int

    def __call__(self, tensors: Tensors, config: GPTConfig) -> Tensors:
        return tuple(_split_axis(t, self.axis, config.n_head).movedim(self.axis, 0) for t in tensors)

    @property
    def inverse(self) -> "Operation":
        return MergeHeads(self.axis)


def _split_axis(tensor: Tensor, axis: int, parts: int) -> Tensor:
    return tensor.reshape(*tensor.shape[:axis], parts, -1, *tensor.shape[axis + 1 :])


@dataclass(frozen=True)
class MergeHeads:
    """``[H, ..., d, ...]`` back to one axis of width E. Inverse: `SplitHeads`."""

    axis: int

    def __call__(self, tensors: Tensors, config: GPTConfig) -> Tensors:
        return tuple(t.movedim(0, self.axis).flatten(self.axis, self.axis + 1) for t in tensors)

    @property
    def inverse(self) -> "Operation":
        return SplitHeads(self.axis)


@dataclass(frozen=True)
class AddAxis:
    """A leading axis of length 1, as in OpenAI's ``[1, in, out]``. Inverse: `DropAxis`."""

    def __call__(self, tensors: Tensors, config: GPTConfig) -> Tensors:
        return tuple(tensor.unsqueeze(0) for tensor in tensors)

    @property
    def inverse(self) -> "Operation":
        return DropAxis()


@dataclass(frozen=True)
class DropAxis:
    """The leading axis of length 1 removed. Inverse: `AddAxis`."""

    def __call__(self, tensors: Tensors, config: GPTConfig) -> Tensors:
        return tuple(tensor.squeeze(0) for tensor in tensors)

    @property
    def inverse(self) -> "Operation":
        return AddAxis()


@dataclass(frozen=True)
class Stack:
    """One tensor per layer into one with a leading layer axis, as in llm.c. Inverse: `Unstack`."""

    def __call__(self, tensors: Tensors, config: GPTConfig) -> Tensors:
        return (torch.stack(tensors),)

    @property
    def inverse(self) -> "Operation":
        return Unstack()


@dataclass(frozen=True)
class Unstack:
    """A leading layer axis into one tensor per layer. Inverse: `Stack`."""

    def __call__(self, tensors: Tensors, config: GPTConfig) -> Tensors:
        (tensor,) = tensors
        return tensor.unbind(0)

    @property
    def inverse(self) -> "Operation":
        return Stack()


@dataclass(frozen=True)
class Zeros:
    """Out of nothing, a vector of zeros: a bias that GPT-2 does not have. Inverse: `Dropped`.

    Args:
        size: the field of the configuration that says how long it is.
    """

    size: str

    def __call__(self, tensors: Tensors, config: GPTConfig) -> Tensors:
        return (torch.zeros(1).expand(getattr(config, self.size)),)

    @property
    def inverse(self) -> "Operation":
        return Dropped(self.size)


@dataclass(frozen=True)
class Dropped:
    """A vector left out; that it is zero, the loader checks. Inverse: `Zeros`."""

    size: str

    def __call__(self, tensors: Tensors, config: GPTConfig) -> Tensors:
        return ()

    @property
    def inverse(self) -> "Operation":
        return Zeros(self.size)


# ------------------------------------------------------------------------------------------------------------ rows


@dataclass(frozen=True)
class Parameter:
    """One canonical tensor of a module and where it is found in theirs.

    Args:
        name: canonical, ``weight`` or ``bias``.
        theirs: the name behind each of their modules; several, where one module holds the parts.
        operations: from canonical to theirs, in order.
        absent_means_zero: theirs may lack it, which says that it is all zero (``bias=False``). One switch: a layout's
            optional tensors are all there, or none is.
        must_be_zero: GPT-2 has no such tensor; theirs has, and it must be all zero.
    """

    name: str
    theirs: str | tuple[str, ...]
    operations: tuple[Operation, ...] = ()
    absent_means_zero: bool = False
    must_be_zero: bool = False


@dataclass(frozen=True)
class Row:
    """One canonical module and its counterparts; without parameters it is a *site*: a place to compare.

    Args:
        site: canonical module, ``*`` for the layer number.
        theirs: their module, or the modules that hold equal slices of it in order.
        parameters: which tensors it has.
        tied_to: canonical tensor that this row's weight repeats when the model's head is tied.
        written_when_tied: whether a file in this layout repeats the tied weight.
        compared: whether their module computes what the canonical one does; False where it only holds the weights.
    """

    site: str
    theirs: tuple[str, ...]
    parameters: tuple[Parameter, ...] = ()
    tied_to: str | None = None
    written_when_tied: bool = True
    compared: bool = True


@dataclass(frozen=True)
class Ignore:
    """Tensors that are no parameters, by their whole name, and why they may be left out."""

    theirs: str
    why: str


def embedding(site: str, theirs: str, weight: str = "weight") -> Row:
    """A table of vectors, ``[rows, E]`` on both sides."""
    return Row(site, (theirs,), (Parameter("weight", weight),))


def norm(site: str, theirs: str, weight: str = "weight", bias: str = "bias", absent_bias_is_zero: bool = False) -> Row:
    """A LayerNorm: gain and bias ``[E]``."""
    parameters = (Parameter("weight", weight), Parameter("bias", bias, absent_means_zero=absent_bias_is_zero))
    return Row(site, (theirs,), parameters)


def linear(
    site: str, *theirs: str, weight: str = "weight", bias: str = "bias", absent_bias_is_zero: bool = False
) -> Row:
    """A linear layer that stores ``[out, in]``, as `nn.Linear` does; several names split the output evenly."""
    split = (Split(len(theirs), axis=0),) if len(theirs) > 1 else ()
    return Row(
        site,
        theirs,
        (
            Parameter("weight", weight, (Transpose(), *split)),
            Parameter("bias", bias, split, absent_means_zero=absent_bias_is_zero),
        ),
    )


def conv1d(site: str, theirs: str, weight: str = "weight", bias: str = "bias") -> Row:
    """A linear layer that stores ``[in, out]``, as GPT-2's own files do."""
    return Row(site, (theirs,), (Parameter("weight", weight), Parameter("bias", bias)))


def site(site: str, theirs: str) -> Row:
    """A module without parameters of its own, compared by its output."""
    return Row(site, (theirs,))


def tied(site: str, theirs: str, to: str, weight: str = "weight", written: bool = True) -> Row:
    """The head: a copy of the embedding `to`, unless the model is untied.

    Args:
        site: canonical module.
        theirs: their module.
        to: canonical module whose weight it repeats.
        weight: the name of their tensor.
        written: whether files in this layout hold the copy.
    """
    return Row(site, (theirs,), (Parameter("weight", weight),), tied_to=f"{to}.weight", written_when_tied=written)


def ignore(theirs: str, why: str) -> Ignore:
    """Tensors to leave out, by whole name; ``*`` is the layer number."""
    return Ignore(theirs, why)


# ---------------------------------------------------------------------------------------------------------- links

_LAYER = "(0|[1-9][0-9]{0,8})"  # a layer number in a name; bounded, because Python refuses to read 5000 digits


@dataclass(frozen=True)
class Link:
    """A parameter's row, unrolled: concrete names on both sides and the operations between them."""

    canonical: tuple[str, ...]  # none, for what GPT-2 lacks and theirs holds as zeros
    theirs: tuple[str, ...]
    operations: tuple[Operation, ...]
    shapes: tuple[Shape, ...] = ()  # of theirs
    absent_means_zero: bool = False
    tied_to: str | None = None
    written_when_tied: bool = True

    def to_theirs(self, tensors: Tensors, config: GPTConfig) -> Tensors:
        """Canonical tensors to theirs; views where the operations allow."""
        for operation in self.operations:
            tensors = operation(tensors, config)
        return tensors

    def to_canonical(self, tensors: Tensors, config: GPTConfig) -> Tensors:
        """The inverse of `to_theirs`, derived from it."""
        for operation in reversed(self.operations):
            tensors = operation.inverse(tensors, config)
        return tensors


@dataclass(frozen=True)
class Layout:
    """Where GPT-2's weights live in one code base: rows in execution order.

    Args:
        name: how users call it.
        rows: the table.
        separator: between a module's name and its tensor's.
        about: one line for `gpt2 inspect`.

    Example:
        >>> layout = Layout("mine", (embedding("wte", "tok"), embedding("wpe", "pos")))
        >>> [link.theirs for link in layout.unroll(GPTConfig())]
        [('tok.weight',), ('pos.weight',)]
    """

    name: str
    rows: tuple[Row | Ignore, ...]
    separator: str = "."
    about: str = ""

    def unroll(self, config: GPTConfig) -> tuple[Link, ...]:
        """Every parameter's link, layer by layer, in execution order. The tied head's is included."""
        canonical = config.tensor_shapes()
        canonical.setdefault("lm_head.weight", canonical["wte.weight"])
        links = []
        shapes: dict[tuple[str, str], tuple[Shape, ...]] = {}  # of theirs, by row and parameter: one for all layers
        for row, layer in self._walk(config):
            for parameter in row.parameters:
                key = row.site, parameter.name
                link = self._link(row, parameter, layer, config, shapes.get(key, ()))
                if key not in shapes:
                    shapes[key] = _their_shapes(link, canonical, config)
                    link = replace(link, shapes=shapes[key])
                links.append(link)
        return tuple(links)

    @property
    def first(self) -> str:
        """Their name of the first row's first tensor: the token embedding, in every layout."""
        row = next(row for row in self.rows if isinstance(row, Row))
        end = row.parameters[0].theirs
        return f"{row.theirs[0]}{self.separator}{end if isinstance(end, str) else end[0]}"

    def sites(self, config: GPTConfig) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Every canonical module with their modules, layer by layer, in execution order."""
        return tuple(
            (_numbered(row.site, layer), tuple(_numbered(name, layer) for name in row.theirs))
            for row, layer in self._walk(config)
            if row.compared
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
            (re.compile(re.escape(row.theirs).replace(r"\*", _LAYER)), row.why)
            for row in self.rows
            if isinstance(row, Ignore)
        )

    def _walk(self, config: GPTConfig) -> Iterable[tuple[Row, int | None]]:
        """Rows in execution order: runs of per-layer rows are repeated layer by layer, stacked ones stand once."""
        run: list[Row] = []
        for row in (row for row in self.rows if isinstance(row, Row)):
            if "*" in row.site and all("*" in name for name in row.theirs):
                run.append(row)
                continue
            yield from ((per_layer, layer) for layer in range(config.n_layer) for per_layer in run)
            run = []
            yield row, None
        yield from ((per_layer, layer) for layer in range(config.n_layer) for per_layer in run)

    def _link(
        self, row: Row, parameter: Parameter, layer: int | None, config: GPTConfig, shapes: tuple[Shape, ...]
    ) -> Link:
        stacked = "*" in row.site and layer is None
        layers: Iterable[int | None] = range(config.n_layer) if stacked else (layer,)
        ends = (parameter.theirs,) if isinstance(parameter.theirs, str) else parameter.theirs
        canonical = tuple(f"{_numbered(row.site, each)}.{parameter.name}" for each in layers)
        return Link(
            canonical=() if parameter.must_be_zero else canonical,
            theirs=tuple(f"{_numbered(name, layer)}{self.separator}{end}" for name in row.theirs for end in ends),
            operations=(*parameter.operations, Stack()) if stacked else parameter.operations,
            shapes=shapes,
            absent_means_zero=parameter.absent_means_zero,
            tied_to=None if parameter.must_be_zero else row.tied_to,
            written_when_tied=row.written_when_tied,
        )


def _their_shapes(link: Link, shapes: Mapping[str, Shape], config: GPTConfig) -> tuple[Shape, ...]:
    """Asked of the operations themselves, run on stand-ins that own one element each.

    Stand-ins on the meta device would be the obvious choice; their first use imports half a torch compiler (4 s).
    """
    stacked = link.operations[-1:] == (Stack(),)
    names = link.canonical[:1] if stacked else link.canonical
    tensors: Tensors = tuple(torch.empty(1).expand(shapes[name]) for name in names)
    for operation in link.operations[:-1] if stacked else link.operations:
        tensors = operation(tensors, config)
    layers = (len(link.canonical),) if stacked else ()
    return tuple((*layers, *tensor.shape) for tensor in tensors)


def _numbered(pattern: str, layer: int | None) -> str:
    return pattern if layer is None else pattern.replace("*", str(layer))


# ------------------------------------------------------------------------------------------------------ accounting


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
        for names, (expected, found) in _alike(self.misshapen).items():
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
            return sum(_numbered(name, layer) in names for layer in range(len(names)))
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


# ------------------------------------------------------------------------------------------------------- directions

Reader: TypeAlias = Callable[[str], Tensor]


def read_canonical(accounting: Accounting, config: GPTConfig, read: Reader) -> Mapping[str, Callable[[], Tensor]]:
    """Runs down the table: canonical name -> a function that produces the tensor when called.

    Nothing is read before its function is called, so a caller may stream. A tied head is left out where it repeats the
    embedding; the caller compares the two.

    Args:
        accounting: a truthy one.
        config: the model's.
        read: their name -> their tensor.
    """
    shapes = config.tensor_shapes()
    tensors: dict[str, Callable[[], Tensor]] = {}
    for link in accounting.links:
        if link.tied_to is not None and config.tie_word_embeddings:
            continue
        for index, name in enumerate(link.canonical):
            tensors[name] = partial(_run, link.to_canonical, link.theirs, read, config, index)
    for link in accounting.zeros:
        for name in link.canonical:
            tensors[name] = partial(torch.zeros, shapes[name])
    return {name: tensors[name] for name in shapes}


def write_theirs(
    layout: Layout, config: GPTConfig, read: Reader, wanted: Callable[[str], bool] | None = None
) -> Mapping[str, Callable[[], Tensor]]:
    """Runs the table backwards: their name -> a function that produces the tensor when called.

    Args:
        layout: the target.
        config: the model's.
        read: canonical name -> tensor.
        wanted: whether the target has a tensor of that name; None: all that the layout writes.

    Raises:
        MappingError: the target lacks a bias (``bias=False``) that is not zero here.
    """
    tensors: dict[str, Callable[[], Tensor]] = {}
    nonzero: dict[str, float] = {}
    for link in layout.unroll(config):
        repeats = link.tied_to is not None and config.tie_word_embeddings
        if wanted is None and repeats and not link.written_when_tied:
            continue
        canonical = (link.tied_to,) if repeats and link.tied_to else link.canonical
        if wanted is not None and not any(wanted(name) for name in link.theirs):
            if link.absent_means_zero:
                largest = max(float(read(name).abs().max()) for name in canonical)
                if largest != 0:
                    nonzero |= dict.fromkeys(link.theirs, largest)
            continue
        for index, name in enumerate(link.theirs):
            tensors[name] = partial(_run, link.to_theirs, canonical, read, config, index)
    if nonzero:
        raise MappingError(
            f"the target has no {listed(nonzero)}, but these biases are not zero in the checkpoint "
            f"(largest value {max(nonzero.values()):.3g})",
            hint="build the model with biases (qkv_bias=True in the book, bias=True in nanoGPT)",
        )
    return tensors


def _run(
    direction: Callable[[Tensors, GPTConfig], Tensors],
    names: Iterable[str],
    read: Reader,
    config: GPTConfig,
    index: int,
) -> Tensor:
    return direction(tuple(read(name) for name in names), config)[index]


# --------------------------------------------------------------------------------------------------------- wording


def collapse(names: Iterable[str]) -> list[str]:
    """Names with their layer numbers folded together, in order of first appearance.

    Example:
        >>> collapse(["h.0.ln_1.bias", "h.1.ln_1.bias", "h.2.ln_1.bias", "wte.weight"])
        ['h.{0...2}.ln_1.bias', 'wte.weight']
    """
    layers: dict[tuple[str, str], list[int]] = {}
    for name in names:
        before, number, after = _numbers(name)
        layers.setdefault((before, after), []).extend(number)
    return [f"{before}{_range(sorted(set(found)))}{after}" for (before, after), found in layers.items()]


def listed(names: Iterable[str]) -> str:
    """All names in one line, collapsed; of a file that is something else entirely, the first of them."""
    collapsed = collapse(names)
    more = len(collapsed) - _MOST_LISTED
    return ", ".join(collapsed[:_MOST_LISTED]) + (f" and {more:,} more" if more > 0 else "")


_MOST_LISTED = 40  # GPT-2 itself has 16 kinds of parameters, and the masks and adapters found beside them are fewer


def _numbers(name: str) -> tuple[str, list[int], str]:
    """What stands before a name's layer number, the number (if it has one), and what stands behind it."""
    match = re.search(rf"(?<![0-9A-Za-z_])(?:h|h_\._)?{_LAYER}(?=[./])", name)  # h.0., OpenAI's h0/, Keras' h_._0/
    if match is None:
        return name, [], ""
    return name[: match.start(1)], [int(match[1])], name[match.end(1) :]


def _range(numbers: list[int]) -> str:
    if len(numbers) < 2:
        return "".join(map(str, numbers))
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{{{numbers[0]}...{numbers[-1]}}}"
    return "{" + ",".join(map(str, numbers)) + "}"


def _alike(misshapen: Mapping[str, tuple[Shape, Shape]]) -> dict[str, tuple[Shape, Shape]]:
    """Misshapen tensors with equal shapes and equal patterns folded into one line."""
    groups: dict[tuple[str, str, tuple[Shape, Shape]], list[str]] = defaultdict(list)
    for name, both in misshapen.items():
        before, _, after = _numbers(name)
        groups[before, after, both].append(name)
    return {collapse(names)[0]: both for (*_, both), names in groups.items()}
