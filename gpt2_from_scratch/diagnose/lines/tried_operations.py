"""Another operation in the place of one that gives something wrong, or none, or the value that it resembles."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from gpt2_from_scratch.anatomy.identity import ROUNDED, Identity
from gpt2_from_scratch.diagnose.lines.tried import MOVING, PRODUCTS, Case, Found
from gpt2_from_scratch.recorder import Again, Operation

UNLIKE = "not a number of GPT-2's"
_TRIVIAL = (".square", ".mean_square", ".cube", ".odds_plain", ".odds_plain_open")  # of any input they are an entry
_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "sub, operands exchanged": lambda a, b: b - a,
    "mul": torch.mul,
    "div": torch.div,
    "div, operands exchanged": lambda a, b: b / a,
    "matmul": torch.matmul,
    "matmul, operands exchanged": lambda a, b: torch.matmul(b, a),
    "matmul, second operand transposed": lambda a, b: torch.matmul(a, b.transpose(-1, -2)),
    "matmul, first operand transposed": lambda a, b: torch.matmul(a.transpose(-1, -2), b),
}
_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh GELU": lambda a: F.gelu(a, approximate="tanh"),
    "erf GELU": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
    "quick GELU": lambda a: a * torch.sigmoid(1.702 * a),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "exp": torch.exp,
    "softmax over the last axis": lambda a: a.softmax(-1),
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "square": torch.square,
    "cube": lambda a: a**3,
    "reciprocal": torch.reciprocal,
    "mean over the last axis": lambda a: a.mean(-1, keepdim=True),
    "variance over the last axis": lambda a: a.var(-1, keepdim=True, unbiased=False),
    "sum over the last axis": lambda a: a.sum(-1, keepdim=True),
    "maximum over the last axis": lambda a: a.amax(-1, keepdim=True),
}


def operations(
    case: Case, operation: Operation, again: Again, inputs: Sequence[Identity], output: Tensor, only: int | None = None
) -> Iterator[Found]:
    """Another operation."""
    floating = [value for value in again.inputs if value.is_floating_point()]
    tries: list[tuple[str, Callable[..., Tensor], tuple[Tensor, ...]]] = []
    if len(floating) >= 2:
        tries += [(name, function, (floating[0], floating[1])) for name, function in _BINARY.items()]
    if floating:
        tries += [(name, function, (floating[0],)) for name, function in _UNARY.items()]
    if len(floating) == 1:
        numbers = [each for each in operation.constants.values() if isinstance(each, int | float)]
        for number in (torch.tensor(float(each)) for each in numbers if not isinstance(each, bool)):
            plain = [(name, function) for name, function in _BINARY.items() if "matmul" not in name]
            tries += [(name, function, (floating[0], number)) for name, function in plain]
    for name, function, operands in tries:
        try:
            if function(*(each.to("meta") for each in operands)).shape != output.shape:
                continue
            content = function(*operands)
        except (RuntimeError, IndexError, ValueError):
            continue
        became = case.accepted([content], inputs)
        if became is not None and became.entry is not None and not became.entry.key.endswith(_TRIVIAL):
            yield Found(case.score(became, inputs), None, None, operation.name, name, became, content)


def extras(
    case: Case, operation: Operation, again: Again, inputs: Sequence[Identity], output: Tensor, only: int | None = None
) -> Iterator[Found]:
    """An operation too many: what it took is what GPT-2 goes on with."""
    if operation.name in PRODUCTS:  # never too many for one of its values
        return
    for position, (label, value) in enumerate(zip(inputs, again.inputs, strict=True)):
        entry = label.entry
        if entry is None or label.kind != "entry" or entry.weight or not entry.main or abs(label.factor - 1) > ROUNDED:
            continue
        if value.shape == output.shape and operation.name not in MOVING:
            yield Found((-entry.order,), position, None, operation.name, str(label), label, value.clone())


def values(
    case: Case, operation: Operation, again: Again, inputs: Sequence[Identity], output: Tensor, only: int | None = None
) -> Iterator[Found]:
    """The value of GPT-2's that the output resembles most."""
    if not output.is_floating_point() or output.numel() < 8:
        return
    orders = [each.entry.order for each in inputs if each.entry is not None and not each.entry.weight]
    layers = {each.entry.layer for each in inputs if each.entry is not None}
    near = {layer + step for layer in layers if layer is not None for step in (0, 1)} | {None}
    fixed = dict(next((each.fixed for each in inputs if each.kind == "entry" and each.fixed), ()))
    mine = output.nan_to_num(0.0, 0.0, 0.0)
    for entry in case.table.entries:
        if entry.weight or entry.layer not in near or (orders and entry.order < min(orders)):
            continue
        for content, order, cut in case.arranged(entry, tuple(output.shape), fixed):
            norm = float(content.norm() * mine.norm())
            alike = float((content * mine).sum()) / norm if norm else 0.0
            off = float((content - mine).norm() / content.norm().clamp(min=1e-300))
            own = any(each.entry is entry and each.fixed for each in inputs)
            if (alike < 0.5 or off > 1.0) and not own:
                continue
            identity = Identity("entry", entry, 1.0, order, cut)
            yield Found((off,), None, None, UNLIKE, identity, identity, content)
