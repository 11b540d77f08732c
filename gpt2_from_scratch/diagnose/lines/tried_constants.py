"""Another constant, another mask or another factor for an operation that gives something wrong."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise, permutations

import torch
from torch import Tensor

from gpt2_from_scratch.anatomy.activations import CUBIC, ROOT
from gpt2_from_scratch.anatomy.identity import FILL, ROUNDED, Identity
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.diagnose.lines.tried import HIDDEN, MOVING, Case, Found, again_with, is_turned
from gpt2_from_scratch.recorder import Again, Operation

_FILLING = frozenset("setitem masked_fill masked_fill_ where copyto putmask index_put_ index_put tril triu".split())
_AXES = frozenset("dim axis dim0 dim1 -1 -2 dims".split())
_OVER_AXES = frozenset(
    "softmax mean var std sum amax max min log_softmax logsumexp cumsum cat stack concatenate split norm".split()
)
_SIZED = frozenset("view reshape unflatten".split())  # their numbers are sizes
_ABSENT: dict[str, tuple[tuple[str, object], ...]] = {
    "var": (("unbiased", False), ("correction", 0)),
    "std": (("unbiased", False), ("correction", 0)),
    "var_mean": (("unbiased", False), ("correction", 0)),
    "gelu": (("approximate", "tanh"),),
    "scaled_dot_product_attention": (("is_causal", True),),
    "mean": (("dim", -1), ("axis", -1)),
    "sum": (("dim", -1), ("axis", -1)),
    "softmax": (("dim", -1),),
    "tril": (("diagonal", 0),),
}


def constants(
    case: Case, operation: Operation, again: Again, inputs: Sequence[Identity], output: Tensor, only: int | None = None
) -> Iterator[Found]:
    """Another constant, or of an axis that is split both sizes."""
    for one, other in _splits(case, operation) if only is None else ():
        sizes: dict[int | str, object] = {one: case.config.n_head, other: case.config.head_dim}
        for outputs in again_with(again, {}, sizes):
            label = case.accepted(outputs, inputs, same=True)
            if label is not None:
                heads = case.config.n_head
                yield Found(case.score(label, inputs), None, one, operation.constants[one], heads, label, outputs[0])
    for place, was, wanted in (
        *_other_constants(operation, case.config, inputs, case.table.sizes["T"]),
        *_mask_not_given(case, operation),
    ):
        for outputs in again_with(again, {}, {place: wanted}):
            label = case.accepted(outputs, inputs, same=operation.name in MOVING)
            if label is not None:
                yield Found(case.score(label, inputs), None, place, was, wanted, label, outputs[0])


def _splits(case: Case, operation: Operation) -> Iterator[tuple[int | str, int | str]]:
    """Places of two sizes that the width is split into, as if there were another number of heads."""
    sizes = [(place, each) for place, each in operation.constants.items() if isinstance(each, int)]
    for (one, heads), (other, width) in pairwise(sizes if operation.name in _SIZED else []):
        if heads * width == case.config.n_embd and heads != case.config.n_head:
            yield one, other


def _mask_not_given(case: Case, operation: Operation) -> Iterator[tuple[int | str, object, object]]:
    """Of torch's attention in one call."""
    if operation.name == "multi_head_attention_forward" and operation.constants.get("attn_mask", ...) is None:
        tokens = case.table.sizes["T"]
        yield "attn_mask", None, torch.full((tokens, tokens), -math.inf).triu(1).double()


def masks(
    case: Case, operation: Operation, again: Again, inputs: Sequence[Identity], output: Tensor, only: int | None = None
) -> Iterator[Found]:
    """Another mask."""
    for position, value in enumerate(again.inputs):
        label = inputs[position]
        if operation.name in _FILLING and label.kind == "uniform" and value.numel() == 1:
            for outputs in again_with(again, {position: torch.full_like(value, -math.inf)}, {}):
                became = case.accepted(outputs, inputs) if value.is_floating_point() else None
                if became is not None:
                    yield Found(case.score(became, inputs), position, None, label, "-inf", became, outputs[0])
        if label.entry is not None or value.dim() < 2 or (only is not None and position != only):
            continue
        if label.kind not in ("mask", "uniform") and value.dtype != torch.bool:
            continue
        rows, columns = value.shape[-2:]
        seen = torch.ones(rows, columns, dtype=torch.bool).tril(max(columns - rows, 0))
        numbers = torch.unique(value)
        pairs = [(numbers[0], numbers[-1])] if numbers.numel() > 1 else []
        if value.dtype == torch.bool:
            pairs = [(torch.tensor(False), torch.tensor(True))]
        elif not pairs:
            pairs = [(torch.tensor(0), torch.tensor(1))]
        pairs += [(torch.tensor(-math.inf), torch.tensor(0.0))] if value.is_floating_point() else []
        for low, high in pairs:
            for pattern in (seen, ~seen):
                mask = torch.where(pattern, high.to(value.dtype), low.to(value.dtype)).expand(value.shape)
                for outputs in again_with(again, {position: mask}, {}):
                    became = case.accepted(outputs, inputs)
                    if became is not None:
                        wanted = "a mask that hides later keys"
                        yield Found(case.score(became, inputs), position, None, label, wanted, became, outputs[0])
    yield from _filled(case, operation, inputs, output)


def _filled(case: Case, operation: Operation, inputs: Sequence[Identity], output: Tensor) -> Iterator[Found]:
    """Scores that are written to, at indices or where something holds: GPT-2's masked scores instead."""
    label = next((each for each in inputs if each.entry is not None), None)
    if operation.name not in _FILLING or label is None or label.entry is None or abs(label.factor - 1) > ROUNDED:
        return
    if not label.entry.place.endswith(".scores") or is_turned(label) or not output.is_floating_point():
        return
    entry = case.table.by_key[f"{label.entry.key.rpartition('.')[0]}.masked"]
    for content, order, cut in case.arranged(entry, tuple(output.shape), dict(label.fixed), label.order):
        if order == label.order and cut == label.fixed:
            became = Identity("entry", entry, 1.0, order, cut)
            seen = content != HIDDEN
            fill = output[~seen]
            only_fill = bool(torch.isclose(output, content)[seen].all() and (fill == fill[0]).all())
            was: object = float(fill[0]) if only_fill else "others than later keys"
            yield Found((10.0,), None, None, was, "only later keys hidden", became, content.clone())


def factors(
    case: Case, operation: Operation, again: Again, inputs: Sequence[Identity], output: Tensor, only: int | None = None
) -> Iterator[Found]:
    """An operand without its factor, or with another one."""
    for position, value in enumerate(again.inputs):
        label = inputs[position]
        if label.kind != "entry" or label.entry is None or (only is not None and position != only):
            continue
        if label.factor == 1.0:
            continue
        for wanted in (1.0, *_factors_of(case.config)):
            scaled = value * (wanted / label.factor)
            scaled = torch.where(value <= FILL, value, scaled) if label.entry.causal else scaled  # no number: a fill
            for outputs in again_with(again, {position: scaled}, {}):
                became = case.accepted(outputs, inputs)
                if became is not None:
                    yield Found(case.score(became, inputs), position, None, label, wanted, became, outputs[0])


def _factors_of(config: GPTConfig) -> tuple[float, ...]:
    d = config.head_dim
    return (d**-0.5, d**0.5, d**-0.25, 0.5, 2.0, CUBIC, ROOT, ROOT * CUBIC)


def _other_slices(index: object, config: GPTConfig) -> Iterator[object]:
    """An index with the columns of one head, or of queries, keys or values, in a slice's place; the nearest first."""
    parts = index if isinstance(index, tuple) else (index,)
    for at, part in enumerate(parts):
        start = part.start if isinstance(part, slice) else None
        if not isinstance(start, int):
            continue
        for width, count in ((config.head_dim, config.n_head), (config.n_embd, 3)):
            for first in sorted(range(0, width * count, width), key=lambda each: abs(each - start)):
                other = slice(first, first + width)
                if other != part:
                    yield (*parts[:at], other, *parts[at + 1 :]) if isinstance(index, tuple) else other


def _other_constants(
    operation: Operation, config: GPTConfig, inputs: Sequence[Identity], tokens: int
) -> Iterator[tuple[int | str, object, object]]:
    """Constants that an operation might have had: place, what it has, what it could have."""
    name, given = operation.name, dict(operation.constants)
    d, eps = config.head_dim, config.layer_norm_epsilon
    scale = d**-0.5 if config.scale_attn_weights else 1.0
    numbers = [eps, scale, 1 / scale, CUBIC, ROOT, d**-0.25, d**0.25, 0.5, 1.0, 2.0, 3.0, 1.702, 0.0]
    if config.scale_attn_by_inverse_layer_idx:
        layers = {each.entry.layer for each in inputs if each.entry is not None and each.entry.layer is not None}
        numbers += [scale / (layer + 1) for layer in layers] + [1.0 / (layer + 1) for layer in layers]
        numbers += [(layer + 1) / scale for layer in layers] + [layer + 1.0 for layer in layers]
    for place, was in given.items():
        if place in ("inplace", "out"):  # it would overwrite what the operation took
            continue
        if isinstance(was, bool):
            yield place, was, not was
        elif isinstance(was, int) and name == "getitem":  # one position for all
            yield place, was, slice(tokens)
        elif isinstance(was, int) and name in _SIZED:
            for size in (config.n_head, d, config.n_embd, 3):
                if size != was:
                    yield place, was, size
        elif isinstance(was, int) and (place in _AXES or name in _OVER_AXES or name in MOVING):
            for axis in range(-4, 5):
                if axis != was:
                    yield place, was, axis
            if name not in MOVING:
                for number in (eps, 2, 3):
                    yield place, was, number
        elif isinstance(was, int | float):
            for number in (*numbers, -math.inf):
                if number != was:
                    yield place, was, int(number) if isinstance(was, int) and float(number).is_integer() else number
        elif isinstance(was, str) and place == "approximate":
            yield place, was, "none" if was == "tanh" else "tanh"
        elif isinstance(was, str) and name == "einsum" and "->" in was:
            pass
        elif isinstance(was, tuple) and name in ("permute", "transpose") and all(isinstance(each, int) for each in was):
            for order in permutations(range(len(was))):
                yield place, was, order
        elif isinstance(was, tuple) and name in ("mean", "var", "std", "sum", "softmax", "amax", "layer_norm"):
            yield place, was, (-1,)
        elif name == "getitem" and place == 1:
            for index in _other_slices(was, config):
                yield place, was, index
        elif was is None and place == "scale":
            yield place, was, scale
    for place, wanted in _ABSENT.get(name, ()):
        if place not in given:
            yield place, None, wanted
    if name == "scaled_dot_product_attention" and "scale" not in given:
        yield "scale", None, scale
    if name in ("layer_norm",) and "eps" not in given and 4 not in given:
        yield "eps", 1e-5, eps
