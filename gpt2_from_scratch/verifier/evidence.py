"""The parts of a verdict: what was compared, what came out, and whether that is GPT-2.

The one idea: each part is a value with its own verdict, so a report can say what was checked, what failed, and what
could not be checked. None of them knows transformers or this package's model: a reference is whatever answers to
`Reference`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gpt2_from_scratch.compare import FLOAT32_ULP, LINE, SITE_RTOL, Comparison, compare
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import CandidateError, MappingError
from gpt2_from_scratch.loading import Checkpoint
from gpt2_from_scratch.mapping import Layout, Link, best_fit, collapse
from gpt2_from_scratch.trace import Site, trace
from gpt2_from_scratch.verifier.battery import Prompt
from gpt2_from_scratch.verifier.candidate import Candidate


class Reference(Protocol):
    """What a verdict is measured against."""

    @property
    def config(self) -> GPTConfig: ...

    def logits(self, input_ids: Tensor) -> Tensor: ...

    def other_roundings(self, input_ids: Tensor) -> Iterator[tuple[str, Tensor]]: ...

    def logits_in(self, dtype: torch.dtype, input_ids: Tensor) -> Tensor: ...

    def trace(self, input_ids: Tensor) -> Mapping[str, Site]: ...


# ---------------------------------------------------------------------------------------------------------- weights


@dataclass(frozen=True)
class Weights:
    """The candidate's parameters against the checkpoint's, value by value. Truthy when all are equal.

    Args:
        equal: number of canonical tensors that are equal.
        differing: canonical name -> how it differs.
    """

    equal: int
    differing: Mapping[str, str]

    def __bool__(self) -> bool:
        return not self.differing and self.equal > 0

    def __str__(self) -> str:
        if self:
            return f"{self.equal} of {self.equal} tensors equal"
        return f"{len(self.differing)} of {self.equal + len(self.differing)} tensors differ"


def check_weights(candidate: Candidate, checkpoint: Checkpoint, layouts: Sequence[Layout]) -> Weights:
    """Compares every parameter under the candidate's layout: the only evidence for what logits cannot show.

    Args:
        candidate: a torch module.
        checkpoint: the truth.
        layouts: the module's layout, or its variants.

    Raises:
        MappingError: the module does not fit the layout.
    """
    config = checkpoint.config
    parameters, links = _fitted(candidate, config, layouts)
    equal, differing = 0, {}
    for link in links:
        theirs = tuple(parameters[name].detach().cpu() for name in link.theirs)
        canonical = (link.tied_to,) if link.tied_to and config.tie_word_embeddings else link.canonical
        for name, actual in zip(canonical, link.to_canonical(theirs, config), strict=True):
            expected = checkpoint.read(name).to(actual.dtype)
            if torch.equal(actual, expected):
                equal += 1
            else:
                differing[link.canonical[0] if len(link.canonical) == 1 else name] = _how(actual, expected)
    return Weights(equal, differing)


def _fitted(
    candidate: Candidate, config: GPTConfig, layouts: Sequence[Layout]
) -> tuple[Mapping[str, Tensor], tuple[Link, ...]]:
    assert candidate.module is not None
    parameters = dict(candidate.module.named_parameters(remove_duplicate=False))
    accounting = best_fit(layouts, config, {name: tuple(tensor.shape) for name, tensor in parameters.items()})
    if not accounting:
        raise MappingError(
            f"{candidate.name} does not fit the checkpoint's configuration: {accounting}",
            hint="build it with the checkpoint's sizes, or name its layout",
        )
    return parameters, accounting.links


def _how(actual: Tensor, expected: Tensor) -> str:
    if not bool(torch.isfinite(actual).all()):
        return "not finite"
    if not bool(actual.any()):
        return "all zero"
    if actual.dim() == 2 and actual.shape[0] == actual.shape[1] and torch.equal(actual, expected.t()):
        return "transposed"
    return str(compare(actual, expected))


# ----------------------------------------------------------------------------------------------------------- logits


@dataclass(frozen=True)
class PromptResult:
    """One prompt: how far the candidate, and the reference's other roundings, are from the reference."""

    prompt: Prompt
    comparison: Comparison
    floor: float
    top1: float  # share of positions at which the most probable token is the same


@dataclass(frozen=True)
class Logits:
    """The candidate's logits against the reference's, in floors. Truthy within the line.

    Args:
        results: per prompt.
        floor: pooled over the battery: the largest distance between the reference and its own other roundings.
        dtype: the precision in which the candidate computes, and by whose floor it is judged.
        line: multiples of the floor that pass.
    """

    results: tuple[PromptResult, ...]
    floor: float
    dtype: torch.dtype
    line: float = LINE

    @property
    def max_abs(self) -> float:
        """Largest difference over all prompts; infinite when a logit is not finite."""
        return max(result.comparison.max_abs for result in self.results)

    @property
    def multiple(self) -> float:
        """`max_abs` in floors: the verdict's number."""
        return self.max_abs / self.floor

    @property
    def tokens(self) -> int:
        """Tokens compared."""
        return sum(result.prompt.tokens for result in self.results)

    @property
    def top1(self) -> float:
        """Share of positions at which both would choose the same token."""
        return sum(result.top1 * result.prompt.tokens for result in self.results) / self.tokens

    @property
    def worst(self) -> PromptResult:
        """The prompt with the largest difference."""
        return max(self.results, key=lambda result: result.comparison.max_abs)

    def __bool__(self) -> bool:
        return math.isfinite(self.max_abs) and self.multiple <= self.line

    def __str__(self) -> str:
        if not math.isfinite(self.max_abs):
            return f"not finite, prompt {self.worst.prompt.name!r}, at {list(self.worst.comparison.at)}"
        same = "identical" if self.max_abs == 0 else f"max difference {self.max_abs:.2e}"
        return f"{same} = {self.multiple:.2f} x floor (floor {self.floor:.2e}, line {self.line:g} x)"


def check_logits(candidate: Candidate, reference: Reference, prompts: Sequence[Prompt], line: float = LINE) -> Logits:
    """Runs the battery, one prompt at a time.

    A candidate in lower precision is judged by the floor of that precision: the reference's own distance from itself
    when it is rounded alike. Rounding is never called a bug.

    Args:
        candidate: the model under test.
        reference: what it should be.
        prompts: the battery.
        line: multiples of the floor that pass.
    """
    if not prompts:
        raise CandidateError("there is no prompt to compare on", hint="give at least one")
    results, scale = [], 0.0
    low = candidate.dtype if torch.finfo(candidate.dtype).bits < 32 else None
    for prompt in prompts:
        expected = reference.logits(prompt.ids)
        scale = max(scale, float(expected.abs().max()))
        if low is not None:
            roundings = iter([(str(low), reference.logits_in(low, prompt.ids))])
        else:
            roundings = reference.other_roundings(prompt.ids)
        floor = max(compare(logits, expected).max_abs for _, logits in roundings)
        actual = candidate.logits(prompt.ids)
        top1 = float((actual.argmax(-1) == expected.argmax(-1)).double().mean())
        results.append(PromptResult(prompt, compare(actual, expected), floor, top1))
    pooled = max(*(result.floor for result in results), FLOAT32_ULP * scale)
    return Logits(tuple(results), pooled, candidate.dtype, line)


# ------------------------------------------------------------------------------------------------------- generation


@dataclass(frozen=True)
class Generation:
    """Greedy continuations, token by token. Truthy when they are the same, or part ways at a tie.

    Args:
        tokens: generated and equal.
        parted: the prompt and step at which they first differ, or None.
        gap: there, how far apart the reference's two best logits are.
        tie: whether that gap is within the floor, so that rounding decides.
    """

    tokens: int
    parted: tuple[str, int] | None = None
    gap: float = 0.0
    tie: bool = False

    def __bool__(self) -> bool:
        return self.parted is None or self.tie

    def __str__(self) -> str:
        if self.parted is None:
            return f"{self.tokens} greedy tokens identical"
        prompt, step = self.parted
        kind = "a tie, decided by rounding" if self.tie else "not a tie"
        return (
            f"prompt {prompt!r} parts ways at step {step}, where the best two logits are {self.gap:.2e} apart: {kind}"
        )


def check_generation(
    candidate: Candidate, reference: Reference, prompts: Sequence[Prompt], steps: int, tolerance: float
) -> Generation:
    """Continues each prompt greedily with both, recomputing everything at every step.

    Args:
        candidate: the model under test.
        reference: what it should be.
        prompts: one row each.
        steps: tokens to generate; fewer where the context ends.
        tolerance: gap between the best two logits below which their order is rounding.
    """
    tokens = 0
    for prompt in prompts:
        ids = prompt.ids
        for step in range(min(steps, reference.config.n_positions - ids.size(1))):
            expected = reference.logits(ids)[:, -1]
            choice = expected.argmax(-1)
            if not torch.equal(candidate.logits(ids)[:, -1].argmax(-1), choice):
                best, second = (float(value) for value in expected[0].topk(2).values)
                return Generation(tokens, (prompt.name, step), best - second, best - second <= tolerance)
            ids = torch.cat([ids, choice[:, None]], dim=1)
            tokens += 1
    return Generation(tokens)


# ------------------------------------------------------------------------------------------------------- divergence


@dataclass(frozen=True)
class SiteResult:
    """One compared module: the relative error of what it received and of what it returned.

    Token ids and positions count as received rightly: whoever looks up wrong positions is at fault himself.
    """

    site: str
    input: float
    output: float
    called: bool = True

    @property
    def diverges(self) -> bool:
        """Whether it received the right numbers and returned wrong ones."""
        return self.called and self.input <= SITE_RTOL and not self.output <= SITE_RTOL


@dataclass(frozen=True)
class Divergence:
    """Where the candidate leaves the reference.

    Args:
        sites: every site of the layout that the candidate has a module for, in execution order.
        absent: sites that it has no module for.
    """

    sites: tuple[SiteResult, ...]
    absent: tuple[str, ...] = ()

    @property
    def first(self) -> SiteResult | None:
        """The first module with the right input and the wrong output, or that never ran and was missed.

        A module that never ran is at fault only if what follows it received wrong numbers: its work may have been done
        by a function.
        """
        idle: SiteResult | None = None
        for site in self.sites:
            if not site.called:
                idle = idle or site
            elif site.diverges:
                return site
            elif not site.input <= SITE_RTOL and idle is not None:
                return idle
            elif site.input <= SITE_RTOL:
                idle = None
        return None

    def __str__(self) -> str:
        first = self.first
        gap = self._gap()
        if first is not None and not first.called:
            return f"first divergence at {first.site}, which never ran; what follows received wrong numbers"
        if first is not None:
            errors = f"its input agrees (relative error {first.input:.1e}), its output does not ({first.output:.1e})"
            inside = f"; inside it, {gap}" if gap else ""
            return f"first divergence at {first.site}: {errors}{inside}"
        return (
            f"first divergence {gap}" if gap else "every compared module agrees: the difference arises after the last"
        )

    def _gap(self) -> str:
        """Between which two modules the numbers go wrong, where no module by itself does."""
        for before, site in zip((None, *self.sites), self.sites, strict=False):
            if site.diverges:
                return ""
            if site.called and not site.input <= SITE_RTOL:
                return f"between {before.site if before else 'the input'} and {site.site}"
        return ""


def find_divergence(
    candidate: Candidate, reference: Reference, prompt: Prompt, layouts: Sequence[Layout]
) -> Divergence | None:
    """Traces both models on one prompt and walks the layout's sites in execution order.

    Returns:
        None when the candidate is no module, so that nothing inside it can be seen.
    """
    module, config = candidate.module, reference.config
    if module is None:
        return None
    parameters = {name: tuple(p.shape) for name, p in module.named_parameters(remove_duplicate=False)}
    theirs_of = dict(best_fit(layouts, config, parameters).layout.sites(config))
    actual = trace(
        module, [name for names in theirs_of.values() for name in names], lambda: candidate.logits(prompt.ids)
    )
    existing = {name for name, _ in module.named_modules()}
    results, absent = [], []
    for site, expected in reference.trace(prompt.ids).items():
        names = theirs_of.get(site, ())
        if not names or not existing.issuperset(names):
            absent.append(site)
        elif not all(name in actual for name in names):
            results.append(SiteResult(site, math.nan, math.nan, called=False))
        else:
            results.append(_site_result(site, [actual[name] for name in names], expected))
    return Divergence(tuple(results), tuple(collapse(absent)))


def _site_result(site: str, parts: Sequence[Site], expected: Site) -> SiteResult:
    output = torch.cat([part.output for part in parts], dim=-1) if len(parts) > 1 else parts[0].output
    received = _relative(parts[0].input, expected.input) if expected.input.is_floating_point() else 0.0
    return SiteResult(site, received, _relative(output, expected.output))


def _relative(actual: Tensor, expected: Tensor) -> float:
    if actual.numel() != expected.numel():
        return math.inf
    return compare(actual.cpu().reshape(expected.shape), expected).relative
