"""A `Layout`: rows in execution order, and what they become for a model of so many layers.

A row pairs one canonical module with the module, or the modules, that hold the same weights elsewhere. Names match
whole; ``*`` stands for the layer number.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import torch

from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.mapping.operations import (
    Operation,
    Split,
    Stack,
    Tensors,
    Transpose,
)

Shape: TypeAlias = tuple[int, ...]

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

LAYER = "(0|[1-9][0-9]{0,8})"  # a layer number in a name; bounded, because Python refuses to read 5000 digits


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
            (numbered(row.site, layer), tuple(numbered(name, layer) for name in row.theirs))
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
            (re.compile(re.escape(row.theirs).replace(r"\*", LAYER)), row.why)
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
        canonical = tuple(f"{numbered(row.site, each)}.{parameter.name}" for each in layers)
        return Link(
            canonical=() if parameter.must_be_zero else canonical,
            theirs=tuple(f"{numbered(name, layer)}{self.separator}{end}" for name in row.theirs for end in ends),
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


def numbered(pattern: str, layer: int | None) -> str:
    """A name with the layer's number in place of the star."""
    return pattern if layer is None else pattern.replace("*", str(layer))
