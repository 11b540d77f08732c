"""Numbers of elements as the rows of a `Layout`.

For each of GPT-2's tensors the reading says which element of which parameter is which of its own. Here that is put into
words: which parameters hold it, each of them all of it, a part (query, key, value) or a head; in which order its axes
lie in their memory; and whether one parameter serves several layers. Names come in only now, to be printed: a star
stands where the names of the layers differ by the layer's number.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from gpt2_from_scratch.arrays import name_of
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.infer_layout.events import ROWS, Placed, Record
from gpt2_from_scratch.infer_layout.printing import idiomatic
from gpt2_from_scratch.infer_layout.skeleton import Reading
from gpt2_from_scratch.mapping import Ignore, Layout, Parameter, Row, ignore
from gpt2_from_scratch.mapping.names import numbered


class Inexpressible(Exception):
    """What was read and proven, but no row can say; in words."""


# The rows in execution order, and the axes of their weights, grouped as GPT-2's tensor is.
_SITES = {
    "wte": "(v) (e)",
    "wpe": "(t) (e)",
    "h.*.ln_1": "(e)",
    "h.*.attn.c_attn": "(i) (p h d)",
    "h.*.attn.c_proj": "(h d) (o)",
    "h.*.ln_2": "(e)",
    "h.*.mlp.c_fc": "(i) (o)",
    "h.*.mlp.c_proj": "(i) (o)",
    "ln_f": "(e)",
    "lm_head": "(v) (e)",
}


@dataclass(frozen=True)
class _Piece:
    """A parameter that holds a block of a canonical tensor: of which parts and heads, with which axes in which order.

    Args:
        name: of the parameter.
        index: where in the parameter the block lies; empty where it is all of it.
        right: the pattern's right side, as groups of axis names.
        parts: of query, key and value, in the parameter's order; empty where the tensor has no parts.
        head: whose; None for all.
    """

    name: str
    index: tuple[str, ...]
    right: tuple[tuple[str, ...], ...]
    parts: tuple[int, ...] = ()
    head: int | None = None


def layout_of(
    module: nn.Module,
    record: Record,
    reading: Reading,
    config: GPTConfig,
    name: str,
    unused: Mapping[str, bool],
) -> Layout:
    """Writes the table.

    Args:
        module: whose parameters they are; says which names are one tensor, and which modules hold nothing else.
        record: says where the parameters' elements are.
        reading: which are GPT-2's.
        config: sizes.
        name: of the layout.
        unused: parameters that are none of GPT-2's; True for those that no forward pass uses.

    Returns:
        The layout.

    Raises:
        Inexpressible: no row can say it.
    """
    return _Writer(module, record, reading, config, unused).layout(name)


class _Writer:
    def __init__(
        self, module: nn.Module, record: Record, reading: Reading, config: GPTConfig, unused: Mapping[str, bool]
    ) -> None:
        self.module = module
        self.config = config
        self.unused = unused
        self.numbers = dict(reading.canonical)
        self.head_bias = reading.head_bias
        self.record = record
        self.owners: dict[int, Placed] = {}  # by first number; of several names of one tensor the first
        self.aliases: dict[int, list[str]] = {}
        for each in record.parameters.values():
            self.owners.setdefault(each.first, each)
            self.aliases.setdefault(each.first, []).append(each.name)
        self.firsts = sorted(self.owners)

    def layout(self, name: str) -> Layout:
        rows = [row for site in _SITES for row in self.rows(site)]
        return Layout(name, (*rows, *self.leftovers()), about=f"{name_of(self.module)}, inferred")

    # --------------------------------------------------------------------------------------------------------- rows

    def rows(self, site: str) -> list[Row]:
        """The row of a module; several, where names of different layers have nothing in common."""
        if site == "lm_head":
            return self.head()
        ends = [end for end in ("weight", "bias") if f"{site.replace('*', '0')}.{end}" in self.numbers]
        if not ends:
            return []
        if "*" not in site:
            return [self.row(site, {end: [self.pieces(f"{site}.{end}", site, end)] for end in ends})]
        layers = range(self.config.n_layer)
        found = {
            end: [self.pieces(f"{site.replace('*', str(layer))}.{end}", site, end) for layer in layers] for end in ends
        }
        try:
            return [self.row(site, found)]
        except Inexpressible:
            return [
                self.row(site.replace("*", str(layer)), {end: [pieces[layer]] for end, pieces in found.items()})
                for layer in layers
            ]

    def row(self, site: str, found: Mapping[str, Sequence[list[_Piece]]]) -> Row:
        """One row from the pieces of each of its parameters, layer by layer."""
        pieces = {end: self.starred(site, end, layers) for end, layers in found.items()}
        modules = self.modules([[piece.name for piece in each] for each in pieces.values() if each])
        result = [self.parameter(site, end, each, modules) for end, each in pieces.items()]
        return idiomatic(Row(site, tuple(modules), tuple(result), compared=self.compared(modules, result)))

    def starred(self, site: str, end: str, layers: Sequence[list[_Piece]]) -> list[_Piece]:
        """Pieces of all layers as those of one, with stars in their names; heads with modules of their own as one."""
        first = layers[0]
        if any(
            [replace(a, name="", index=()) for a in each] != [replace(a, name="", index=()) for a in first]
            for each in layers
        ):
            raise Inexpressible(f"{site}.{end} is arranged differently from layer to layer")
        pieces = []
        for place, piece in enumerate(first):
            names = [self.whole(each[place]) for each in layers]
            pieces.append(replace(piece, name=_counted(names, "layer") if "*" in site else names[0], index=()))
        by_head = [piece for piece in pieces if piece.head is not None]
        if not by_head:
            return pieces
        joined = []
        for parts in dict.fromkeys(piece.parts for piece in by_head):
            heads = [piece for piece in by_head if piece.parts == parts]
            if [piece.head for piece in heads] != list(range(self.config.n_head)):
                raise Inexpressible(f"{site}.{end}: only some heads have parameters of their own")
            if len({piece.right for piece in heads}) > 1:
                raise Inexpressible(f"{site}.{end} is arranged differently from head to head")
            joined.append(
                replace(heads[0], name=_counted([piece.name for piece in heads], "head").replace("{head}", "*"))
            )
        return [piece for piece in pieces if piece.head is None] + joined

    def whole(self, piece: _Piece) -> str:
        return f"{piece.name}[{','.join(piece.index)}]" if piece.index else piece.name

    def modules(self, lists: Sequence[list[str]]) -> list[str]:
        """The modules of these names, a list for each parameter, if each is a module's name and one end; else none."""
        if any(not name.rpartition(".")[0] or "[" in name for names in lists for name in names):
            return []
        longest = max(lists, key=len)
        modules = [name.rpartition(".")[0] for name in longest]
        for names in lists:
            owners = [name.rpartition(".")[0] for name in names]
            if len(names) == len(longest) and owners != modules:
                return []
            if len(names) < len(longest) and not set(owners) <= set(modules):
                return []
        distinct = list(dict.fromkeys(modules))
        return distinct if len(distinct) in (1, len(modules)) else []

    def parameter(self, site: str, end: str, pieces: list[_Piece], modules: Sequence[str]) -> Parameter:
        """One parameter of a row."""
        if not pieces:
            return Parameter(end, None)
        left = self.groups(site, end)
        rights = {piece.right for piece in pieces}
        fused = [right for right in rights if "p" in _flat(right)]
        if len(fused) == 1:  # a part that has a parameter of its own is a fused one of length 1
            rights = {
                fused[0]
                if right == tuple(tuple(axis for axis in group if axis != "p") for group in fused[0])
                else right
                for right in rights
            }
        if len(rights) > 1:
            raise Inexpressible(f"{site}.{end}: query, key and value are arranged differently")
        several: tuple[str | None, ...]
        several = tuple(piece.name.rpartition(".")[2] if modules else piece.name for piece in pieces)
        parts: tuple[str, ...] = ()
        if site.endswith("attn.c_attn"):
            held = ["".join("qkv"[part] for part in piece.parts) for piece in pieces]
            lacking = [(letter, None) for letter in "qkv" if letter not in "".join(held)]
            ordered = sorted([*zip(held, several, strict=True), *lacking], key=lambda pair: "qkv".find(pair[0][0]))
            parts, several = zip(*ordered, strict=True)
            if parts in (("qkv",), ("q", "k", "v")):
                parts = ()
        theirs: str | tuple[str | None, ...] = several if len(several) > 1 else str(several[0])
        if len(modules) == len(several) and len(set(several)) == 1:
            theirs = str(several[0])
        pattern = _pattern(
            left,
            next(iter(rights)),
            by_part=len(several) > 1 or bool(parts),
            by_head=any(piece.head is not None for piece in pieces),
        )
        return Parameter(end, theirs, pattern, parts)

    def groups(self, site: str, end: str) -> tuple[tuple[str, ...], ...]:
        """The axes of a canonical tensor, grouped as it is."""
        key = re.sub(r"^h\.\d+\.", "h.*.", site)
        groups = tuple(tuple(group.split()) for group in re.findall(r"\(([^)]*)\)", _SITES[key]))
        return groups if end == "weight" else groups[-1:]

    def compared(self, modules: Sequence[str], parameters: Sequence[Parameter]) -> bool:
        """Whether the module's output can be compared with GPT-2's: it holds this row's parameters and nothing else."""
        if not modules or any(parameter.parts or _moves(parameter) for parameter in parameters):
            return False
        for name in modules:
            found = self.module.get_submodule(numbered(name, 0, 0, self.config.n_layer))
            own = {end for end, _ in found.named_parameters()}
            if own != {str(parameter.theirs) for parameter in parameters if parameter.theirs is not None}:
                return False
            if isinstance(found, nn.ParameterDict | nn.ParameterList | nn.MultiheadAttention):
                return False
        return True

    def head(self) -> list[Row]:
        """The head's row, where it is a parameter with a name of its own; and its bias, which has to be zero."""
        own = self.numbers.get("lm_head.weight")
        rows: list[Row] = []
        if own is not None:
            row = self.row("lm_head", {"weight": [self.pieces("lm_head.weight", "lm_head", "weight")]})
            rows.append(idiomatic(replace(row, tied_to="wte.weight")))
        else:
            table = self.row("wte", {"weight": [self.pieces("wte.weight", "wte", "weight")]})
            for alias in self.aliases[self.owner(self.numbers["wte.weight"]).first][1:]:
                owner, _, end = alias.rpartition(".")
                parameter = replace(table.parameters[0], theirs=end if owner else alias)
                compared = bool(owner) and not _moves(parameter)
                rows.append(Row("lm_head", (owner,) if owner else (), (parameter,), "wte.weight", True, compared))
        if self.head_bias is not None:
            placed = self.owner(self.head_bias)
            owner, _, end = placed.name.rpartition(".")
            bias = Parameter("bias", end if owner else placed.name, must_be_zero="vocab_size")
            if rows and rows[-1].theirs == ((owner,) if owner else ()):
                rows[-1] = replace(rows[-1], parameters=(*rows[-1].parameters, bias))
            else:
                rows.append(Row("lm_head", (owner,) if owner else (), (bias,), compared=False))
        return rows

    def leftovers(self) -> list[Ignore]:
        """Parameters that are none of GPT-2's."""
        bias = self.owner(self.head_bias).name if self.head_bias is not None else None
        reasons = {True: "never used", False: "GPT-2 lacks it: it has to be zero"}
        ignored = []
        for reason in (True, False):
            names = [name for name, unused in self.unused.items() if unused is reason and name != bias]
            grouped = _grouped(names, self.config.n_layer)
            ignored += [ignore(name, why=reasons[reason], zero=not reason) for name in grouped]
        return ignored

    # ------------------------------------------------------------------------------------------------------- pieces

    def owner(self, numbers: Tensor) -> Placed:
        """The parameter to which the elements belong; raises `Inexpressible` if they belong to several."""
        low, high = int(numbers.min()), int(numbers.max())
        first = max(first for first in self.firsts if first <= low)
        placed = self.owners[first]
        if high > placed.last:
            raise Inexpressible("elements of several parameters make one of GPT-2's tensors")
        return placed

    def pieces(self, name: str, site: str, end: str) -> list[_Piece]:
        """The parameters that hold a canonical tensor."""
        groups = self.groups(site, end)
        axes = [axis for group in groups for axis in group]
        config = self.config
        known = {"p": 3, "h": config.n_head, "d": config.head_dim}
        numbers = self.numbers[name]
        sizes: list[int] = []
        for group, length in zip(groups, numbers.shape, strict=True):
            sizes += [known.get(axis, length) for axis in group] if len(group) > 1 else [length]
        numbers = numbers.reshape(sizes)
        if "p" not in axes:
            return self.of_part(numbers, axes, ())
        of_parts = {part: numbers.select(axes.index("p"), part) for part in range(3)}
        rest = [axis for axis in axes if axis != "p"]
        present = {part: each for part, each in of_parts.items() if bool(each.any())}
        if not present:
            return []
        try:
            owners = {part: self.owner(each).first for part, each in present.items()}
        except Inexpressible:
            return [piece for part, each in present.items() for piece in self.of_part(each, rest, (part,))]
        pieces = []
        for first in dict.fromkeys(owners.values()):
            parts = sorted(
                (part for part, owner in owners.items() if owner == first), key=lambda part: int(present[part].min())
            )
            if len(parts) == 1:
                pieces += self.of_part(present[parts[0]], rest, tuple(parts))
                continue
            joined = torch.stack([present[part] for part in parts])
            try:
                pieces.append(self.block(joined, ["p", *rest], tuple(parts), None))
            except Inexpressible:  # slices of one tensor, such as [L, 3, ...], each a block of its own
                pieces += [piece for part in parts for piece in self.of_part(present[part], rest, (part,))]
        return pieces

    def of_part(self, numbers: Tensor, axes: list[str], parts: tuple[int, ...]) -> list[_Piece]:
        """A tensor as one block; or as a block for each head."""
        if not bool(numbers.any()):
            return []
        if not bool(numbers.all()):
            raise Inexpressible("some elements of a tensor are there, and others not")
        try:
            return [self.block(numbers, axes, parts, None)]
        except Inexpressible:
            if "h" not in axes:
                raise
        place = axes.index("h")
        rest = [axis for axis in axes if axis != "h"]
        return [self.block(numbers.select(place, head), rest, parts, head) for head in range(self.config.n_head)]

    def block(self, numbers: Tensor, axes: list[str], parts: tuple[int, ...], head: int | None) -> _Piece:
        """A block of one parameter: the order of its axes along each of the parameter's, and where it starts."""
        placed = self.owner(numbers)
        base = int(_logical(numbers[(0,) * numbers.dim()] - placed.first, placed))
        lengths = dict(zip(axes, numbers.shape, strict=True))
        steps = {}
        for place, (name, size) in enumerate(lengths.items()):
            along = numbers[tuple(slice(None) if other == place else 0 for other in range(numbers.dim()))]
            along = _logical(along - placed.first, placed)
            steps[name] = int(along[1] - along[0]) if size > 1 else 0
        if not _evenly_spaced(numbers, placed, base, list(steps.values())):
            raise Inexpressible(f"{placed.name} is arranged in a way that is no reordering of axes")
        left = sorted((axis for axis in axes if lengths[axis] > 1), key=lambda axis: -steps[axis])
        index: list[str] = []
        groups: list[tuple[str, ...]] = []
        for dimension, size in enumerate(placed.shape):
            step = math.prod(placed.shape[dimension + 1 :])
            group = [axis for axis in left if step <= steps[axis] < step * size]
            start, length = base // step % size, 1
            for axis in reversed(group):
                if steps[axis] != step * length:
                    raise Inexpressible(f"{placed.name} holds something between the elements of one of GPT-2's axes")
                length *= lengths[axis]
            if start + length > size:
                raise Inexpressible(f"{placed.name} {list(placed.shape)} divides one of GPT-2's axes")
            if group or size == 1:
                index.append(self._range(start, start + length, size))
                groups.append(tuple(group))
            else:
                index.append(str(start))
        while index and index[-1] == ":":
            index.pop()
        if sum(len(group) for group in groups) != len(left) or not groups:
            raise Inexpressible(f"{placed.name} {list(placed.shape)} holds one of GPT-2's tensors across its axes")
        for name in [each for each in axes if lengths[each] == 1]:
            empty = [at for at, group in enumerate(groups) if not group]
            last = empty[0] if empty else len(groups) - 1
            groups[last] = (*groups[last], name)
        return _Piece(placed.name, tuple(index), tuple(groups), parts, head)

    def _range(self, start: int, stop: int, size: int) -> str:
        """A range of an axis, in sizes of the configuration where they are what it says."""
        config = self.config
        named = {config.vocab_size: "vocab_size", config.n_positions: "n_positions", config.n_embd: "n_embd"}
        named |= {factor * config.n_embd: f"{factor}*n_embd" for factor in (2, 3)}
        named |= {config.inner_dim: "inner_dim", 0: "0"}
        first = "" if start == 0 else named.get(start, str(start))
        last = "" if stop == size else named.get(stop, str(stop))
        return f"{first}:{last}"


def _evenly_spaced(numbers: Tensor, placed: Placed, base: int, steps: Sequence[int]) -> bool:
    """Whether each step along an axis of the numbers leads as far in the parameter, everywhere."""
    start = 0
    for some in torch.split(numbers, ROWS):  # a token table has 38 million elements
        expected = torch.tensor(base + start * steps[0], dtype=torch.int32)
        for place, (size, step) in enumerate(zip(some.shape, steps, strict=True)):
            shape = [size if other == place else 1 for other in range(some.dim())]
            expected = expected + (torch.arange(size, dtype=torch.int32) * step).reshape(shape)
        if not torch.equal(_logical(some - placed.first, placed), expected.expand_as(some)):
            return False
        start += len(some)
    return True


def _logical(offsets: Tensor, placed: Placed) -> Tensor:
    """Places in a parameter's memory as places in its elements' order."""
    contiguous = [math.prod(placed.shape[axis + 1 :]) for axis in range(len(placed.shape))]
    if all(
        size == 1 or own == usual for size, own, usual in zip(placed.shape, placed.strides, contiguous, strict=True)
    ):
        return offsets
    result = torch.zeros_like(offsets)
    rest = offsets
    axes = sorted(range(len(placed.shape)), key=lambda axis: (-placed.strides[axis], -placed.shape[axis]))
    for axis in axes:
        if placed.shape[axis] == 1:
            continue
        result = result + (rest // placed.strides[axis]) * contiguous[axis]
        rest = rest % placed.strides[axis]
    return result


def _pattern(
    left: tuple[tuple[str, ...], ...], right: tuple[tuple[str, ...], ...], by_part: bool, by_head: bool
) -> str:
    """A pattern with as few axes as will do: neighbours that stay together are one axis, ``i`` or ``o``."""
    if "h" in _flat(left) and "h" not in _flat(right) and by_head:
        right = _inserted(right, "h", before="d")
    if "p" in _flat(left) and "p" not in _flat(right):
        right = _inserted(right, "p", before="h")
    keep = ({"p"} if by_part else set()) | ({"h"} if by_head else set())
    groups, target = [list(group) for group in left], [list(group) for group in right]
    merged = True
    while merged:
        merged = False
        for group in groups:
            for outer, inner in pairwise(group):
                together = [i for side in target for i in range(len(side)) if side[i : i + 2] == [outer, inner]]
                if together and not {outer, inner} & keep:
                    for side in (*groups, *target):
                        if inner in side:
                            side[side.index(outer) : side.index(inner) + 1] = [f"{outer}{inner}"]
                    merged = True
                    break
            if merged:
                break
    names = {group[-1]: name for group, name in zip(groups, ("i", "o") if len(groups) > 1 else ("o",), strict=True)}
    names = {axis: name for axis, name in names.items() if axis not in keep and axis not in ("d", "h", "p")}
    renamed = [[[names.get(axis, axis) for axis in group] for group in side] for side in (groups, target)]
    if renamed[0] == renamed[1] and not keep:
        return ""
    return f"{_side(renamed[0])} -> {_side(renamed[1])}"


def _flat(groups: Sequence[Sequence[str]]) -> list[str]:
    return [axis for group in groups for axis in group]


def _inserted(right: tuple[tuple[str, ...], ...], axis: str, before: str) -> tuple[tuple[str, ...], ...]:
    """A right side with one more axis, which has length 1 in every piece, before another."""
    place = next(i for i, group in enumerate(right) if before in group)
    at = right[place].index(before)
    return (*right[:place], (*right[place][:at], axis, *right[place][at:]), *right[place + 1 :])


def _side(groups: Sequence[Sequence[str]]) -> str:
    words = ["1" if not group else group[0] if len(group) == 1 else f"({' '.join(group)})" for group in groups]
    return " ".join(words)


def _moves(parameter: Parameter) -> bool:
    """Whether a pattern does more than exchange a matrix's axes."""
    left, _, right = parameter.pattern.partition("->")
    mine, theirs = (re.findall("[a-z1]+", side) for side in (left, right))
    kept = [axis for axis in theirs if axis in ("p", "h", "d", "o")]
    return "1" in theirs or kept != [axis for axis in mine if axis in kept]


def _counted(names: Sequence[str], what: str) -> str:
    """One name for a series of names, in which one number is computed from the layer's or the head's.

    Args:
        names: of layer (or head) 0, 1, 2 ...
        what: "layer" or "head".

    Raises:
        Inexpressible: they do not count in equal steps.

    Example:
        >>> _counted(["norms.1", "norms.3", "norms.5"], "layer")
        'norms.{2*layer+1}'
    """
    for match in re.finditer(r"(?<!\d)(0|[1-9]\d*)(?!\d)", names[0]):
        before, after = names[0][: match.start()], names[0][match.end() :]
        start = int(match[0])
        second = re.fullmatch(re.escape(before) + r"(0|[1-9]\d*)" + re.escape(after), names[min(1, len(names) - 1)])
        if second is None:
            continue
        step = int(second[1]) - start if len(names) > 1 else 1
        if step < 1 or any(name != f"{before}{start + step * place}{after}" for place, name in enumerate(names)):
            continue
        if (step, start) == (1, 0):
            return f"{before}{'*' if what == 'layer' else '{head}'}{after}"
        return f"{before}{{{f'{step}*' if step > 1 else ''}{what}{f'+{start}' if start else ''}}}{after}"
    raise Inexpressible(f"{', '.join(names[:3])} ... have no number that counts with the {what}s")


def _grouped(names: Sequence[str], layers: int) -> list[str]:
    """Names of which each layer has one, as one name with a star."""
    left = list(names)
    result = []
    while left:
        name = left.pop(0)
        for match in re.finditer(r"(?<!\d)0(?!\d)", name):
            before, after = name[: match.start()], name[match.end() :]
            others = [f"{before}{number}{after}" for number in range(1, layers)]
            if others and all(other in left for other in others):
                left = [other for other in left if other not in others]
                name = f"{before}*{after}"
                break
        result.append(name)
    return result
