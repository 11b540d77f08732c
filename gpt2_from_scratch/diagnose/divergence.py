"""Where the candidate leaves the reference: one forward pass of the candidate, recorded and compared place by place.

A module is at fault where its input agrees with the reference's and its output does not. The layout's sites are walked
in execution order, both sides of each. Between modules there is computation, too: what the query-key-value layer
returned and what the projection after it received enclose the attention itself, and so such gaps are sites of their
own (`h.0.attn.probabilities`, `h.0.attn.merged`, `h.0.mlp.act` where it is no module). The same record, cut into
stages, is what the search for the fault explains.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gpt2_from_scratch.checks.candidate import Candidate
from gpt2_from_scratch.checks.parts import Result
from gpt2_from_scratch.checks.prompts import Prompt
from gpt2_from_scratch.checks.weights import Fitted
from gpt2_from_scratch.compare import EXACT_SITE_RTOL, SITE_RTOL, THRESHOLD, compare, gap, scientific
from gpt2_from_scratch.diagnose.fault import EMBED, HEAD, NORM, stages
from gpt2_from_scratch.diagnose.simulation import Rounding
from gpt2_from_scratch.errors import CandidateError
from gpt2_from_scratch.mapping import collapse
from gpt2_from_scratch.precision import run_in_float64
from gpt2_from_scratch.reference import Reference
from gpt2_from_scratch.trace import Site, trace

_QKV = ("query", "key", "value")


@dataclass(frozen=True, repr=False)
class SiteResult(Result):
    """One compared place: the relative error of what it received and of what it returned.

    Integer inputs are treated as correct, so wrong positions are blamed on the embedding lookup.

    Args:
        site: canonical name.
        input: relative error (L2) of what it received.
        output: of what it returned.
        called: False for a module that never ran.
        calls: how often it ran, if more than once.
        parts: of query, key and value, those that are wrong.
        positions: relative error of the output at each position, where it has positions.
        limit: largest relative error that is rounding, here.
        modules: the candidate's own names for it.
    """

    site: str
    input: float
    output: float
    called: bool = True
    calls: int = 1
    parts: tuple[str, ...] = ()
    positions: tuple[float, ...] = ()
    limit: float = SITE_RTOL
    modules: tuple[str, ...] = ()

    @property
    def diverges(self) -> bool:
        """Whether it received the right numbers and returned wrong ones."""
        return self.called and self.input <= self.limit and not self.output <= self.limit

    def __str__(self) -> str:
        if not self.called:
            return f"{self.place}: never ran"
        return f"{self.place}: in {scientific(self.input)}, out {scientific(self.output)}"

    @property
    def name(self) -> str:
        """The site, and which of its parts."""
        return f"{self.site} ({', '.join(self.parts)})" if self.parts else self.site

    @property
    def place(self) -> str:
        """The same in the candidate's words first, where it has other words."""
        modules = self.modules
        if self.parts and len(modules) == len(_QKV):
            modules = tuple(name for part, name in zip(_QKV, modules, strict=True) if part in self.parts)
        theirs = " / ".join(modules)
        return f"{theirs} ({', '.join((self.site, *self.parts))})" if theirs not in ("", self.site) else self.name


@dataclass(frozen=True, repr=False)
class Divergence(Result):
    """Where the candidate leaves the reference.

    Args:
        sites: every site of the layout that the candidate has a module for, in execution order.
        absent: sites that it has no module for.
        prompt: name of the prompt that was traced.
    """

    sites: tuple[SiteResult, ...]
    absent: tuple[str, ...] = ()
    prompt: str = ""

    @property
    def first(self) -> SiteResult | None:
        """The first place with the right input and the wrong output, or a module that never ran and was missed.

        A module that never ran is at fault only if what follows it received wrong numbers: its work may have been done
        by a function.
        """
        idle: SiteResult | None = None
        for site in self.sites:
            if not site.called:
                idle = idle or site
            elif site.diverges:
                return site
            elif not site.input <= site.limit and idle is not None:
                return idle
            elif site.input <= site.limit:
                idle = None
        return None

    @property
    def gap(self) -> tuple[str, str] | None:
        """Between which two places the numbers go wrong, where no module by itself does. None where one does."""
        for before, site in zip((None, *self.sites), self.sites, strict=False):
            if site.diverges:
                return None
            if site.called and not site.input <= site.limit:
                return (before.place if before else "the input", site.place)
        return None

    def __str__(self) -> str:
        first, gap = self.first, self.gap
        between = f"between {gap[0]} and {gap[1]}" if gap else ""
        if first is None:
            last = "every compared module agrees; the numbers differ only after the last one"
            return f"first divergence {between}" if gap else last
        if not first.called:
            return f"first divergence at {first.place}, which never ran; what follows received wrong numbers"
        inside = f"; inside it, {between}" if gap else ""
        often = f"; it ran {first.calls} times, the first is compared" if first.calls > 1 else ""
        return (
            f"first divergence at {first.place}: its input agrees (relative error {scientific(first.input)}), its "
            f"output does not ({scientific(first.output)}){inside}{often}"
        )


# ----------------------------------------------------------------------------------------------------------- record


@dataclass(frozen=True, eq=False, repr=False)
class Traced:
    """One forward pass of a module, with what every site of its layout received and returned.

    Args:
        fitted: the module and its layout.
        prompt: what was asked.
        logits: what was answered.
        sites: the candidate's own module name -> what it received and returned.
        rounding: "float64" where the module could be run so, else "float32": as it is.
        moved: the same run with the module's rounded constants moved, twice, if it has any: sites and logits.
    """

    fitted: Fitted
    prompt: Prompt
    logits: Tensor
    sites: Mapping[str, Site]
    rounding: Rounding
    moved: tuple[tuple[Mapping[str, Site], Tensor], ...] = ()

    @property
    def names(self) -> Mapping[str, tuple[str, ...]]:
        """GPT-2's modules -> the candidate's."""
        return dict(self.fitted.layout.sites(self.fitted.config))


def record(candidate: Candidate, fitted: Fitted, prompt: Prompt, exact: bool = True) -> Traced:
    """Runs a module once and records every site, in float64 if that is possible.

    Args:
        candidate: the model under test.
        fitted: its module and layout.
        prompt: short: every site's numbers are held at once.
        exact: try float64 first.

    Raises:
        CandidateError: it crashed, or returned no logits.
    """
    names = dict(fitted.layout.sites(fitted.config))
    attention = [name for site, theirs in names.items() if site.endswith(".attn") for name in theirs]
    uncompiled = candidate.uncompiled()

    def run() -> tuple[Mapping[str, Site], Tensor]:
        logits: list[Tensor] = []
        sites = trace(
            fitted.module,
            [name for theirs in names.values() for name in theirs],
            lambda: logits.append(uncompiled.logits(prompt.ids)),
            attention=attention,
        )
        return sites, logits[0]

    if exact:
        try:
            (sites, logits), moved = run_in_float64(run, fitted.module)
            return Traced(fitted, prompt, logits, sites, "float64", moved)
        except (CandidateError, NotImplementedError):  # then as it is
            pass
    sites, logits = run()
    return Traced(fitted, prompt, logits, sites, "float32")


@dataclass(frozen=True)
class Passage:
    """What one stage of the candidate received and returned.

    Args:
        stage: its name.
        entering: what it received.
        leaving: what it returned.
        moved: the most by which rounded constants can have moved what it returned.
    """

    stage: str
    entering: Tensor
    leaving: Tensor
    moved: float = 0.0


def passages(traced: Traced) -> tuple[Passage, ...] | None:
    """The record cut into the stages of a forward pass; None where it cannot be.

    Args:
        traced: a run of the candidate.
    """
    config, ids = traced.fitted.config, traced.prompt.ids
    seen = _stages_in(traced, traced.sites)
    if NORM not in seen or not any(stage.startswith("h.") for stage in seen):
        return None
    others = [_cut(_stages_in(traced, sites), logits, traced) for sites, logits in traced.moved]
    cut = []
    for place, passage in enumerate(_cut(seen, traced.logits, traced)):
        distances = [gap(other[place].leaving, passage.leaving) for other in others]
        cut.append(replace(passage, moved=sum(each for each in distances if math.isfinite(each))))
    width = (*ids.shape, config.n_embd)
    return tuple(cut) if all(tuple(passage.entering.shape) == width for passage in cut[1:]) else None


def _stages_in(traced: Traced, sites: Mapping[str, Site]) -> Mapping[str, Site]:
    first = {stage: traced.names[stage][0] for stage in stages(traced.fitted.config) if traced.names.get(stage)}
    return {stage: sites[name] for stage, name in first.items() if name in sites}


def _cut(seen: Mapping[str, Site], logits: Tensor, traced: Traced) -> tuple[Passage, ...]:
    """All stages in order. What a stage returned is what the next one received; a block that never ran, its input."""
    cut: list[Passage] = []
    leaving = logits
    for stage in reversed(stages(traced.fitted.config)):
        if stage == EMBED:
            entering = traced.prompt.ids
        elif stage == HEAD:
            entering = seen[stage].input if stage in seen else seen[NORM].output
        else:
            entering = seen[stage].input if stage in seen else leaving
        entering = batch_first(entering, (*traced.prompt.ids.shape, traced.fitted.config.n_embd))
        cut.append(Passage(stage, entering.cpu().contiguous(), leaving.cpu().contiguous()))
        leaving = entering
    return tuple(reversed(cut))


# ---------------------------------------------------------------------------------------------------------- compare


def locate(
    candidate: Candidate, fitted: Fitted, reference: Reference, prompt: Prompt, exact: bool = False
) -> tuple[Traced, Divergence]:
    """Runs both models on one prompt and walks the layout's sites in execution order.

    Args:
        candidate: the model under test.
        fitted: its module and layout.
        reference: what it should be.
        prompt: short: every site's numbers are held at once.
        exact: what differs is so small that it shows only beyond float32's rounding.

    Returns:
        The record of the candidate's run, and where it leaves the reference.
    """
    traced = record(candidate, fitted, prompt)
    divergence = _compared(traced, reference, candidate.precision, exact)
    if traced.rounding == "float64" and not exact and divergence.first is None and divergence.gap is None:
        rounded = record(candidate, fitted, prompt, exact=False)  # a fault of the rounding itself
        return traced, _compared(rounded, reference, candidate.precision, exact)
    return traced, divergence


def _compared(traced: Traced, reference: Reference, precision: torch.dtype, exact: bool) -> Divergence:
    ids = traced.prompt.ids
    existing = {name for name, _ in traced.fitted.module.named_modules(remove_duplicate=False)}
    rounded = reference.trace(ids)
    if traced.rounding == "float64":
        right = reference.trace(ids, torch.float64)
        other = rounded if precision == torch.float32 else reference.trace(ids, precision)
    else:
        right = rounded
        other = reference.trace(ids, torch.float64 if precision == torch.float32 else precision)
    sharp = exact and traced.rounding == "float64"
    limits = _exact_limits(list(right), traced) if sharp else _limits(right, other)
    pairs: dict[str, _Pair] = {}
    results, absent = [], []
    for site, expected in right.items():
        names = traced.names.get(site, ())
        if not names or not existing.issuperset(names):
            absent.append(site)
        elif not all(name in traced.sites for name in names):
            results.append(SiteResult(site, math.nan, math.nan, called=False, modules=names))
        else:
            pair = _Pair([traced.sites[name] for name in names], expected, limits[site])
            if not pair.comparable:
                absent.append(site)
                continue
            pairs[site] = pair
            results.append(replace(_compare(site, pair), modules=names))
    walked = [place for result in results for place in (*_before(result.site, pairs), result)]
    absent = [site for site in absent if site not in {place.site for place in walked}]
    return Divergence(tuple(walked), tuple(collapse(absent)), traced.prompt.name)


def _limits(right: Mapping[str, Site], rounded: Mapping[str, Site]) -> Mapping[str, float]:
    """How far from the reference a site may be: its own distance when it is rounded otherwise, with the usual line.

    Rounding grows on its way through the layers, so a limit holds for all that follows.
    """
    limits, limit = {}, SITE_RTOL
    for site, one in right.items():
        other = rounded[site]
        sides = ((other.input, one.input), (other.output, one.output), (other.probabilities, one.probabilities))
        for actual, expected in sides:
            if actual is not None and expected is not None and expected.is_floating_point():
                limit = max(limit, THRESHOLD * _relative(actual, expected))
        limits[site] = limit
    return limits


def _exact_limits(sites: Sequence[str], traced: Traced) -> Mapping[str, float]:
    """How far from the reference's float64 run a site may be: as far as rounded constants can have moved it."""
    limits, limit = {}, EXACT_SITE_RTOL
    for site in sites:
        for name in traced.names.get(site, ()):
            if name in traced.sites and all(name in other for other, _ in traced.moved):
                output = traced.sites[name].output
                limit = max(limit, sum(_relative(other[name].output, output) for other, _ in traced.moved))
        limits[site] = limit
    return limits


@dataclass(frozen=True)
class _Pair:
    """What ran at one site, on both sides. Where the candidate has several modules, their outputs are joined."""

    parts: Sequence[Site]
    expected: Site
    limit: float

    @property
    def input(self) -> Tensor:
        return self.parts[0].input

    @property
    def output(self) -> Tensor:
        return torch.cat([part.output for part in self.parts], dim=-1) if len(self.parts) > 1 else self.parts[0].output

    @property
    def comparable(self) -> bool:
        """Whether both sides are as large as the reference's. If not, a number would say nothing."""
        received = not self.expected.input.is_floating_point() or self.input.numel() == self.expected.input.numel()
        return received and self.output.numel() == self.expected.output.numel()


def _compare(site: str, pair: _Pair) -> SiteResult:
    received = _relative(pair.input, pair.expected.input) if pair.expected.input.is_floating_point() else 0.0
    output, expected = pair.output, pair.expected.output
    return SiteResult(
        site,
        received,
        _relative(output, expected),
        calls=max(part.calls for part in pair.parts),
        parts=_wrong_parts(output, expected, pair.limit) if site.endswith("attn.c_attn") else (),
        positions=_by_position(output, expected),
        limit=pair.limit,
    )


def _before(site: str, pairs: Mapping[str, _Pair]) -> Iterator[SiteResult]:
    """The computation between the module before and this one, as sites of its own."""
    layer, _, name = site.rpartition(".")
    if site not in pairs or name != "c_proj":
        return
    if layer.endswith(".mlp") and f"{layer}.act" not in pairs and f"{layer}.c_fc" in pairs:
        yield _enclosed(f"{layer}.act", _output_error(pairs[f"{layer}.c_fc"]), pairs[site])
    if layer.endswith(".attn") and f"{layer}.c_attn" in pairs:
        received = _output_error(pairs[f"{layer}.c_attn"])
        around = pairs.get(layer)
        if around is not None and around.expected.probabilities is not None:
            probabilities = around.parts[0].probabilities
            if probabilities is not None:
                wrong = _of_heads(probabilities, around.expected.probabilities)
                yield SiteResult(f"{layer}.probabilities", received, wrong, limit=around.limit)
                received = max(received, wrong)
        yield _enclosed(f"{layer}.merged", received, pairs[site])


def _enclosed(site: str, received: float, after: _Pair) -> SiteResult:
    """What the module after it received, as the output of what comes before it."""
    actual, expected = after.input, after.expected.input
    return SiteResult(
        site, received, _relative(actual, expected), positions=_by_position(actual, expected), limit=after.limit
    )


def _output_error(pair: _Pair) -> float:
    return _relative(pair.output, pair.expected.output)


def _of_heads(actual: Tensor, expected: Tensor) -> float:
    """The relative error of probabilities ``[B, H, T, S]``, which some code has as ``[H, B, T, S]``."""
    orders = [actual, actual.transpose(0, 1)] if actual.dim() == 4 else [actual]
    return min(_relative(order, expected) for order in orders)


def _wrong_parts(actual: Tensor, expected: Tensor, limit: float) -> tuple[str, ...]:
    """Which of query, key and value are wrong, if not all of them."""
    thirds = zip(_QKV, _aligned(actual, expected).chunk(3, -1), expected.chunk(3, -1), strict=True)
    wrong = tuple(part for part, mine, theirs in thirds if not _relative(mine, theirs) <= limit)
    return wrong if len(wrong) < len(_QKV) else ()


def _aligned(actual: Tensor, expected: Tensor) -> Tensor:
    """The candidate's numbers in the reference's order of axes: some code keeps positions before rows."""
    return batch_first(actual.cpu(), expected.shape).reshape(expected.shape)


def batch_first(values: Tensor, shape: Sequence[int]) -> Tensor:
    """``[T, B, E]`` as ``[B, T, E]``, where that is the shape wanted; anything else as it is."""
    swapped = values.dim() == len(shape) == 3 and tuple(values.shape[:2]) == (shape[1], shape[0])
    return values.transpose(0, 1) if swapped and tuple(values.shape) != tuple(shape) else values


def _relative(actual: Tensor, expected: Tensor) -> float:
    if actual.numel() != expected.numel():
        return math.inf
    return compare(_aligned(actual, expected), expected).relative


def _by_position(actual: Tensor, expected: Tensor) -> tuple[float, ...]:
    """Relative error at each position of an output ``[B, T, ...]``."""
    if expected.dim() != 3 or actual.numel() != expected.numel():
        return ()
    expected = expected.double()
    gap = (_aligned(actual, expected).double() - expected).square().sum((0, 2)).sqrt()
    errors = gap / expected.square().sum((0, 2)).sqrt().clamp_min(torch.finfo(torch.float64).tiny)
    return tuple(float(error) for error in errors)
