"""Where the candidate leaves the reference: the first place that received the right numbers and returned wrong ones.

The one idea: a layout's sites are walked in execution order, both sides of each. Between modules there is computation,
too: what the query-key-value layer returned and what the projection after it received enclose the attention itself, and
so such gaps are sites of their own (`h.0.attn.probabilities`, `h.0.attn.merged`, `h.0.mlp.act` where it is no module).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from gpt2_from_scratch.checks.candidate import Candidate
from gpt2_from_scratch.checks.prompts import Prompt
from gpt2_from_scratch.compare import EXACT_SITE_RTOL, LINE, SITE_RTOL, compare
from gpt2_from_scratch.mapping import Layout, collapse, match_module
from gpt2_from_scratch.precision import run_in_float64
from gpt2_from_scratch.reference import Reference
from gpt2_from_scratch.trace import Site, trace

_QKV = ("query", "key", "value")


@dataclass(frozen=True)
class SiteResult:
    """One compared place: the relative error of what it received and of what it returned.

    Token ids and positions count as received rightly: whoever looks up wrong positions is at fault himself.

    Args:
        site: canonical name.
        input: relative error (L2) of what it received.
        output: of what it returned.
        called: False for a module that never ran.
        calls: how often it ran, if more than once.
        parts: of query, key and value, those that are wrong.
        positions: relative error of the output at each position, where it has positions.
        limit: largest relative error that is rounding, here.
    """

    site: str
    input: float
    output: float
    called: bool = True
    calls: int = 1
    parts: tuple[str, ...] = ()
    positions: tuple[float, ...] = ()
    limit: float = SITE_RTOL

    @property
    def diverges(self) -> bool:
        """Whether it received the right numbers and returned wrong ones."""
        return self.called and self.input <= self.limit and not self.output <= self.limit

    @property
    def name(self) -> str:
        """The site, and which of its parts."""
        return f"{self.site} ({', '.join(self.parts)})" if self.parts else self.site


@dataclass(frozen=True)
class Divergence:
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

    def __str__(self) -> str:
        first = self.first
        gap = self._gap()
        if first is not None and not first.called:
            return f"first divergence at {first.name}, which never ran; what follows received wrong numbers"
        if first is not None:
            errors = f"its input agrees (relative error {first.input:.1e}), its output does not ({first.output:.1e})"
            inside = f"; inside it, {gap}" if gap else ""
            often = f"; it ran {first.calls} times, the first is compared" if first.calls > 1 else ""
            return f"first divergence at {first.name}: {errors}{inside}{often}"
        return (
            f"first divergence {gap}" if gap else "every compared module agrees: the difference arises after the last"
        )

    def _gap(self) -> str:
        """Between which two modules the numbers go wrong, where no module by itself does."""
        for before, site in zip((None, *self.sites), self.sites, strict=False):
            if site.diverges:
                return ""
            if site.called and not site.input <= site.limit:
                return f"between {before.site if before else 'the input'} and {site.site}"
        return ""


def find_divergence(
    candidate: Candidate, reference: Reference, prompt: Prompt, layouts: Sequence[Layout], exact: bool = False
) -> Divergence | None:
    """Traces both models on one prompt and walks the layout's sites in execution order.

    Args:
        candidate: a torch module; others cannot be looked into.
        reference: what it should be.
        prompt: short: every site's numbers are held at once.
        layouts: the module's layout, or its variants.
        exact: run both in float64, which the candidate can be: the smallest faults are seen only there.

    Returns:
        None when the candidate is no module, so that nothing inside it can be seen.
    """
    module, config = candidate.module, reference.config
    if module is None:
        return None
    theirs_of = dict(match_module(module, config, layouts).layout.sites(config))
    uncompiled = candidate.uncompiled()
    run = partial(
        trace,
        module,
        [name for names in theirs_of.values() for name in names],
        lambda: uncompiled.logits(prompt.ids),
        attention=[name for site, names in theirs_of.items() if site.endswith(".attn") for name in names],
    )
    actual, moved = run_in_float64(run, module) if exact else (run(), ())
    existing = {name for name, _ in module.named_modules(remove_duplicate=False)}
    if exact:
        right = reference.trace(prompt.ids, torch.float64)
        limits = _exact_limits(list(right), theirs_of, actual, moved)
    else:
        right = reference.trace(prompt.ids)
        rounding = torch.float64 if candidate.precision == torch.float32 else candidate.precision
        limits = _limits(right, reference.trace(prompt.ids, rounding))
    pairs: dict[str, _Pair] = {}
    results, absent = [], []
    for site, expected in right.items():
        names = theirs_of.get(site, ())
        if not names or not existing.issuperset(names):
            absent.append(site)
        elif not all(name in actual for name in names):
            results.append(SiteResult(site, math.nan, math.nan, called=False))
        else:
            pairs[site] = _Pair([actual[name] for name in names], expected, limits[site])
            results.append(_compare(site, pairs[site]))
    walked = [place for result in results for place in (*_before(result.site, pairs), result)]
    absent = [site for site in absent if site not in {place.site for place in walked}]
    return Divergence(tuple(walked), tuple(collapse(absent)), prompt.name)


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
                limit = max(limit, LINE * _relative(actual, expected))
        limits[site] = limit
    return limits


def _exact_limits(
    sites: Sequence[str],
    theirs_of: Mapping[str, Sequence[str]],
    actual: Mapping[str, Site],
    moved: Sequence[Mapping[str, Site]],
) -> Mapping[str, float]:
    """How far from the reference's float64 run a site may be: as far as rounded constants can have moved it."""
    limits, limit = {}, EXACT_SITE_RTOL
    for site in sites:
        for name in theirs_of.get(site, ()):
            if name in actual and all(name in other for other in moved):
                limit = max(limit, sum(_relative(other[name].output, actual[name].output) for other in moved))
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
    if actual.numel() != expected.numel():
        return ()
    thirds = zip(_QKV, actual.cpu().reshape(expected.shape).chunk(3, -1), expected.chunk(3, -1), strict=True)
    wrong = tuple(part for part, mine, theirs in thirds if not _relative(mine, theirs) <= limit)
    return wrong if len(wrong) < len(_QKV) else ()


def _relative(actual: Tensor, expected: Tensor) -> float:
    if actual.numel() != expected.numel():
        return math.inf
    return compare(actual.cpu().reshape(expected.shape), expected).relative


def _by_position(actual: Tensor, expected: Tensor) -> tuple[float, ...]:
    """Relative error at each position of an output ``[B, T, ...]``."""
    if expected.dim() != 3 or actual.numel() != expected.numel():
        return ()
    expected = expected.double()
    gap = (actual.cpu().double().reshape(expected.shape) - expected).square().sum((0, 2)).sqrt()
    errors = gap / expected.square().sum((0, 2)).sqrt().clamp_min(torch.finfo(torch.float64).tiny)
    return tuple(float(error) for error in errors)
