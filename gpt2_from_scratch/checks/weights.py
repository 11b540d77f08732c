"""The candidate's parameters against the checkpoint's, value by value.

A layout says where each of GPT-2's tensors is in the candidate, so each can be taken back into GPT-2's form and
compared bit by bit. This is the only evidence for what logits cannot show, a key's bias above all. What a difference
means is not asked here: the fault table in `diagnose` recognises it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from gpt2_from_scratch.checks.candidate import Candidate
from gpt2_from_scratch.checks.parts import Result
from gpt2_from_scratch.compare import Comparison, compare
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import MappingError
from gpt2_from_scratch.inspecting import OfficialWeights, identify, is_official_size
from gpt2_from_scratch.layouts import EVERY
from gpt2_from_scratch.loading import Checkpoint
from gpt2_from_scratch.mapping import Layout, Link, match_module
from gpt2_from_scratch.precision import dtype_name
from gpt2_from_scratch.ranks import Ranks, is_sharded, local, own_part, reshard
from gpt2_from_scratch.streaming import Units

_ROUNDINGS = (torch.bfloat16, torch.float16)


@dataclass(frozen=True, eq=False, repr=False)
class Fitted:
    """A module under the layout that fits it: found once, and used by every part that looks inside.

    Args:
        module: the candidate's.
        config: of the checkpoint.
        layout: the variant that fits.
        links: how the module's parameters become GPT-2's tensors.
        zeros: links of GPT-2's tensors that the module has no parameter for, because they are zero.
    """

    module: nn.Module
    config: GPTConfig
    layout: Layout
    links: tuple[Link, ...]
    zeros: tuple[Link, ...]

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """The module's parameters by name; shared ones under each of their names."""
        return dict(self.module.named_parameters(remove_duplicate=False))

    @property
    def theirs(self) -> Mapping[str, str]:
        """The module's own names of GPT-2's tensors, where they are others."""
        own = {link.canonical: " / ".join(link.theirs) for link in self.links if link.canonical is not None}
        return {canonical: names for canonical, names in own.items() if names != canonical}

    def canonical(self) -> dict[str, Tensor]:
        """The module's tensors under GPT-2's names, on the CPU; the head is always among them."""
        parameters = self.parameters
        found = {link.canonical: torch.zeros(link.shape) for link in self.zeros if link.canonical is not None}
        for link in self.links:
            if link.canonical is not None:
                found[link.canonical] = link.to_canonical([parameters[name].detach().cpu() for name in link.theirs])
        return {"lm_head.weight": found["wte.weight"]} | found


def fit(candidate: Candidate, config: GPTConfig, layouts: Sequence[Layout]) -> Fitted:
    """Finds the layout, of several variants, that a module has.

    Args:
        candidate: a torch module.
        config: of the checkpoint.
        layouts: the module's layout, or its variants.

    Raises:
        MappingError: the module does not fit the layout.
    """
    module = candidate.module
    assert module is not None, "only a module has a layout"
    matching = match_module(module, config, layouts)
    if not matching:
        other = match_module(module, config, EVERY)
        raise MappingError(
            f"{candidate.name} does not fit the checkpoint's configuration: {matching}",
            hint=f"the layout {other.layout.name!r} fits"
            if other
            else "build it with the checkpoint's sizes, or name its layout",
        )
    return Fitted(module, config, matching.layout, matching.links, matching.zeros)


@dataclass(frozen=True, repr=False)
class Weights(Result):
    """What was found. Truthy when every tensor is equal, or rounded to the precision that all are rounded to.

    Args:
        equal: number of canonical tensors that are equal.
        differing: canonical name -> by how much it differs.
        rounded: the lowest precision through which the equal ones went, or None.
        roundings: canonical name -> the lower precision that this tensor went through; files mix them.
        theirs: canonical name -> the candidate's own, where it is another.
        lacking: canonical names of what the candidate has no parameter for, and which is not zero: a key's bias.
        ranks: canonical name -> the ranks whose part of it differs, where the candidate runs on several.
        untied: copies of a parameter that GPT-2 has once, as (name of the copy, name of the original). Equal now;
            training would part them.
        identity: whose weights the checkpoint holds, where that is known.
    """

    equal: int
    differing: Mapping[str, Comparison]
    rounded: torch.dtype | None = None
    untied: tuple[tuple[str, str], ...] = ()
    identity: OfficialWeights | None = None
    roundings: Mapping[str, torch.dtype] = field(default_factory=dict)
    theirs: Mapping[str, str] = field(default_factory=dict)
    lacking: tuple[str, ...] = ()
    ranks: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return not self.differing and self.equal > 0

    def __str__(self) -> str:
        if not self:
            return f"{len(self.differing)} of {self.equal + len(self.differing)} tensors differ"
        rounding = f", rounded to {dtype_name(self.rounded)}" if self.rounded is not None else ""
        return f"{self.equal} of {self.equal} tensors equal{rounding}"


def check_weights(fitted: Fitted, checkpoint: Checkpoint, ranks: Ranks | None = None) -> Weights:
    """Compares every parameter with the checkpoint's.

    Args:
        fitted: a module and its layout.
        checkpoint: the truth.
        ranks: of a module that runs on several: each compares what it holds.
    """
    weights = _compared(fitted, checkpoint) if ranks is None else _joined(ranks.do(_compared_here, fitted.layout))
    return replace(weights, identity=identify(checkpoint) if is_official_size(fitted.config) else None)


def _compared_here(module: nn.Module, checkpoint: Checkpoint, layout: Layout) -> Weights:
    reshard(module)
    return _compared(fit(Candidate(module, checkpoint.config), checkpoint.config, (layout,)), checkpoint)


def _joined(parts: Sequence[Weights]) -> Weights:
    """What every rank found of the part that it holds, as one: equal is what is equal on every rank."""
    differing: dict[str, Comparison] = {}
    ranks: dict[str, tuple[int, ...]] = {}
    for rank, part in enumerate(parts):
        for name, comparison in part.differing.items():
            ranks[name] = (*ranks.get(name, ()), rank)
            if name not in differing or comparison.max_abs > differing[name].max_abs:
                differing[name] = comparison
    roundings = {name: dtype for part in parts for name, dtype in part.roundings.items() if name not in differing}
    first = parts[0]
    equal = first.equal + len(first.differing) - len(differing)
    return replace(
        first, equal=equal, differing=differing, rounded=_lowest(roundings), roundings=roundings, ranks=ranks
    )


def _compared(fitted: Fitted, checkpoint: Checkpoint) -> Weights:
    """What this process holds of every parameter against the checkpoint's."""
    config, parameters, units = fitted.config, fitted.parameters, getattr(fitted.module, "units", None)
    equal, differing = 0, {}
    roundings: dict[str, torch.dtype] = {}
    lacking = [link.canonical for link in fitted.zeros if link.canonical and checkpoint.read(link.canonical).any()]
    for link in fitted.links:
        name = link.tied_to if link.tied_to and config.tie_word_embeddings else link.canonical
        if link.canonical is None or name is None:
            continue
        whole = checkpoint.read(name)
        expected = link.without_absent(whole)
        if link.absent and not torch.equal(expected, whole):
            lacking.append(link.canonical)
        actual, held = _held(link, [parameters[each].detach() for each in link.theirs])
        rounding = _rounding(actual, expected) if held is None else _rounding(actual[held], expected[held])
        if isinstance(units, Units):
            units.give_back(parameters[each] for each in link.theirs)
        if rounding is None:
            expected = expected.to(actual.dtype)
            differing[link.canonical] = compare(actual if held is None else actual.where(held, expected), expected)
            continue
        equal += 1
        roundings.update((name, dtype) for dtype in rounding)
    untied = tuple(_untied(fitted))
    return Weights(equal, differing, _lowest(roundings), untied, None, roundings, fitted.theirs, tuple(lacking))


def _held(link: Link, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """GPT-2's tensor as these parameters hold it; and where this rank holds it, unless that is everywhere."""
    if not any(map(is_sharded, parameters)):
        return link.to_canonical([each.cpu() for each in parameters]), None
    values, held = [], []
    for parameter in parameters:
        part = own_part(parameter)
        values.append(torch.zeros(parameter.shape, dtype=parameter.dtype))
        values[-1][part] = local(parameter).cpu()
        held.append(torch.zeros(parameter.shape, dtype=torch.bool))
        held[-1][part] = True
    return link.to_canonical(values), link.to_canonical(held)


def _lowest(roundings: Mapping[str, torch.dtype]) -> torch.dtype | None:
    return max(roundings.values(), key=lambda dtype: torch.finfo(dtype).eps, default=None)


def _rounding(actual: Tensor, expected: Tensor) -> set[torch.dtype] | None:
    """The lower precisions that explain the difference: none where there is none; None where nothing does."""
    if torch.equal(actual, expected.to(actual.dtype)):
        return {actual.dtype} if actual.dtype in _ROUNDINGS and actual.dtype != expected.dtype else set()
    for dtype in _ROUNDINGS:
        if torch.equal(actual, expected.to(dtype).to(actual.dtype)):
            return {dtype}
    return None


def _untied(fitted: Fitted) -> Iterator[tuple[str, str]]:
    if not fitted.config.tie_word_embeddings:
        return
    parameters = fitted.parameters
    heads = [link.theirs[0] for link in fitted.links if link.tied_to == "wte.weight"]
    embeddings = [link.theirs[0] for link in fitted.links if link.canonical == "wte.weight"]
    for head, embedding in ((head, embedding) for head in heads for embedding in embeddings):
        one, other = local(parameters[head]), local(parameters[embedding])
        if one.data_ptr() != other.data_ptr() and torch.equal(one, other):
            yield head, embedding
