"""The candidate's parameters against the checkpoint's, value by value.

The one idea: a layout says where each of GPT-2's tensors is in the candidate, so each can be taken back into GPT-2's
form and compared bit by bit. This is the only evidence for what logits cannot show, a key's bias above all. A tensor
that differs is looked at once more: transposed, swapped, from another layer, rounded, or unknown.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor

from gpt2_from_scratch.checks.candidate import Candidate
from gpt2_from_scratch.compare import compare
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import MappingError
from gpt2_from_scratch.identity import identify, is_official_size
from gpt2_from_scratch.layouts import fitting_layout
from gpt2_from_scratch.loading import Checkpoint
from gpt2_from_scratch.mapping import Layout, Link, collapse, match_module

_ROUNDINGS = (torch.bfloat16, torch.float16)
_QKV = ("query", "key", "value")


@dataclass(frozen=True)
class Weights:
    """What was found. Truthy when every tensor is equal, or rounded to the precision that all are rounded to.

    Args:
        equal: number of canonical tensors that are equal.
        differing: canonical name -> how it differs.
        rounded: the lower precision through which the equal ones went, or None.
        notes: what is no difference, and worth knowing: an untied copy of the head, whose weights these are.
    """

    equal: int
    differing: Mapping[str, str]
    rounded: torch.dtype | None = None
    notes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return not self.differing and self.equal > 0

    def __str__(self) -> str:
        if not self:
            return f"{len(self.differing)} of {self.equal + len(self.differing)} tensors differ"
        rounding = f", rounded to {str(self.rounded).removeprefix('torch.')}" if self.rounded is not None else ""
        return f"{self.equal} of {self.equal} tensors equal{rounding}"

    def details(self) -> list[str]:
        """The differing tensors, those of one kind on one line, and the notes."""
        kinds: dict[str, list[str]] = {}
        for name, how in self.differing.items():
            kinds.setdefault(how, []).append(name)
        return [f"{', '.join(collapse(names))}: {how}" for how, names in kinds.items()] + list(self.notes)


def check_weights(candidate: Candidate, checkpoint: Checkpoint, layouts: Sequence[Layout]) -> Weights:
    """Compares every parameter under the candidate's layout.

    Args:
        candidate: a torch module.
        checkpoint: the truth.
        layouts: the module's layout, or its variants.

    Raises:
        MappingError: the module does not fit the layout.
    """
    config = checkpoint.config
    parameters, links = fitted(candidate, config, layouts)
    equal, differing = 0, {}
    rounded: set[torch.dtype] = set()
    for link in links:
        name = link.tied_to if link.tied_to and config.tie_word_embeddings else link.canonical
        if link.canonical is None or name is None:
            continue
        actual = link.to_canonical([parameters[each].detach().cpu() for each in link.theirs])
        expected = link.without_absent(checkpoint.read(name))
        rounding = _rounding(actual, expected)
        if rounding is None:
            differing[link.canonical] = _how(name, actual, expected, checkpoint)
            continue
        equal += 1
        rounded |= rounding
    lowest = max(rounded, key=lambda dtype: torch.finfo(dtype).eps, default=None)
    return Weights(equal, differing, lowest, tuple(_notes(parameters, links, checkpoint)))


def fitted(
    candidate: Candidate, config: GPTConfig, layouts: Sequence[Layout]
) -> tuple[Mapping[str, Tensor], tuple[Link, ...]]:
    """The module's parameters by their names, and the links that take them to GPT-2's; see `check_weights`."""
    assert candidate.module is not None
    parameters = dict(candidate.module.named_parameters(remove_duplicate=False))
    matching = match_module(candidate.module, config, layouts)
    if not matching:
        other = fitting_layout(config, {name: tuple(tensor.shape) for name, tensor in parameters.items()})
        raise MappingError(
            f"{candidate.name} does not fit the checkpoint's configuration: {matching}",
            hint=f"the layout {other!r} fits" if other else "build it with the checkpoint's sizes, or name its layout",
        )
    return parameters, matching.links


def _rounding(actual: Tensor, expected: Tensor) -> set[torch.dtype] | None:
    """The lower precisions that explain the difference: none where there is none; None where nothing does."""
    if torch.equal(actual, expected.to(actual.dtype)):
        return {actual.dtype} if actual.dtype in _ROUNDINGS and actual.dtype != expected.dtype else set()
    for dtype in _ROUNDINGS:
        if torch.equal(actual, expected.to(dtype).to(actual.dtype)):
            return {dtype}
    return None


def _how(name: str, actual: Tensor, expected: Tensor, checkpoint: Checkpoint) -> str:
    """The difference, in words where it is one that people make."""
    expected = expected.to(actual.dtype)
    if not bool(torch.isfinite(actual).all()):
        return "not finite"
    if not bool(actual.any()):
        return "all zero"
    if actual.dim() == 2 and actual.shape[0] == actual.shape[1] and torch.equal(actual, expected.t()):
        return "transposed"
    if ".attn.c_attn." in name and (known := _how_qkv(actual, expected, checkpoint.config.n_head)):
        return known
    for other in checkpoint.tensors:
        if other != name and _is(actual, checkpoint, other):
            return f"this is {other}"
    return str(compare(actual, expected))


def _how_qkv(actual: Tensor, expected: Tensor, heads: int) -> str | None:
    mine, theirs = actual.chunk(3, dim=-1), expected.chunk(3, dim=-1)
    for order in permutations(range(3)):
        if all(torch.equal(mine[place], theirs[part]) for place, part in enumerate(order)):
            return f"in the order {', '.join(_QKV[part] for part in order)}; GPT-2's is {', '.join(_QKV)}"
    if any(torch.equal(actual, regrouped) for regrouped in _regrouped(expected, heads)):
        return "query, key and value interleaved head by head; GPT-2 keeps all heads of each together"
    wrong = [part for part, one, other in zip(_QKV, mine, theirs, strict=True) if not torch.equal(one, other)]
    zero = [part for part, one in zip(_QKV, mine, strict=True) if not bool(one.any())]
    if wrong == zero:
        return f"the part of the {' and the '.join(wrong)} is zero"
    transposed = [
        part
        for part, one, other in zip(_QKV, mine, theirs, strict=True)
        if one.dim() == 2 and one.shape[0] == one.shape[1] and torch.equal(one, other.t())
    ]
    if wrong == transposed:
        return f"the part of the {' and the '.join(wrong)} is transposed"
    return None


def _regrouped(qkv: Tensor, heads: int) -> Iterator[Tensor]:
    """The columns as they would be if each head had its query, key and value side by side; and the other way round."""
    for groups in ((3, heads), (heads, 3)):
        yield qkv.reshape(*qkv.shape[:-1], *groups, -1).transpose(-3, -2).reshape(qkv.shape)


def _is(actual: Tensor, checkpoint: Checkpoint, other: str) -> bool:
    tensor = checkpoint.read(other)
    return tensor.shape == actual.shape and torch.equal(tensor.to(actual.dtype), actual)


def _notes(parameters: Mapping[str, Tensor], links: Sequence[Link], checkpoint: Checkpoint) -> Iterator[str]:
    if checkpoint.config.tie_word_embeddings:
        heads = [link.theirs[0] for link in links if link.tied_to == "wte.weight"]
        embeddings = [link.theirs[0] for link in links if link.canonical == "wte.weight"]
        for head, embedding in ((head, embedding) for head in heads for embedding in embeddings):
            if parameters[head].data_ptr() != parameters[embedding].data_ptr():
                yield f"{head} is a copy of {embedding}; GPT-2 ties them, and training would part them"
    if is_official_size(checkpoint.config) and (identity := identify(checkpoint)) is not None:
        yield f"the checkpoint: {identity}"
