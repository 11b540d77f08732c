"""The search for what explains the candidate's logits, from logits alone.

A token by itself cannot show what happens *between* tokens. On single-token prompts only faults inside a
token act (weights, LayerNorm, activation, shortcuts, embeddings); scores, masks, heads and positions do not. So the
search is two small ones instead of a large one: which faults explain single tokens, and then, with those made, which
faults between tokens explain text. What may happen after the last block is invisible to both (see `Measure`) and is
settled at the end, by arithmetic. Fewer faults are tried before more.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor

from gpt2_from_scratch.compare import gap
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.diagnose.clock import Clock
from gpt2_from_scratch.diagnose.evidence import BETTER, Evidence, Explained
from gpt2_from_scratch.diagnose.fault import HEAD, NORM, Cause, Causes, Fault
from gpt2_from_scratch.diagnose.simulation import Rounding, Simulation
from gpt2_from_scratch.diagnose.table import FAULT, FAULTS, PRECISIONS
from gpt2_from_scratch.errors import CandidateError
from gpt2_from_scratch.model import GPTModel

# Distances (see `Measure`). Float32 rounding leaves 1e-7 to 1e-6 in a healthy model, and up to a hundred times that in
# one whose fault amplifies it; the mildest fault makes 1e-5.
_NEAR = 1e-4  # a hypothesis may be the truth, and is judged
_STANDING_OUT = 3  # also verify the three best hypotheses if they are far ahead, because some faults amplify rounding
_SAME = 2e-6  # as good as no difference
_NEAR_LOGITS = 1e-3  # near for logits, as a share of their range
_FITS = 0.1  # what is fitted to the difference must explain nine tenths of it

_BEAM = 8
_JUDGED = 12  # hypotheses per round that are judged: each costs runs in float64

Distance: TypeAlias = Callable[[Causes], float]
Item = TypeVar("Item")


class SearchClock(Clock):
    """The time of a search, and which faults it has tried until then.

    Args:
        seconds: see `Clock`.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.tried: set[Fault] = set()

    def during(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, until time runs out."""
        for item in items:
            if self.over:
                return
            yield item

    def trying(self, hypotheses: Iterable[Causes]) -> Iterator[Causes]:
        """The hypotheses, until time runs out; their faults count as tried."""
        for causes in self.during(hypotheses):
            self.tried.update(cause.fault for cause in causes)
            yield causes

    def share(self, config: GPTConfig) -> float:
        """The share of the table that was tried: of the faults that a model of this configuration can have."""
        possible = {cause.fault for cause in plausible(config)}
        return len(possible & self.tried) / len(possible)


@dataclass(frozen=True)
class Hypothesis:
    """A hypothesis and how well it explains the candidate."""

    causes: Causes
    explained: Explained

    @property
    def general(self) -> bool:
        """Whether it rests on a row that gives way to others."""
        return any(cause.fault.general for cause in self.causes)


@dataclass(frozen=True)
class Searched:
    """What a search found.

    Args:
        proven: hypotheses that explain everything, the best first; all have the same number of faults.
        nearest: where nothing is proven, those that came nearest on text.
    """

    proven: tuple[Hypothesis, ...] = ()
    nearest: tuple[Causes, ...] = ()


class Search:
    """One candidate's search.

    Args:
        evidence: its logits.
        clock: when to stop.
        progress: called with what is being tried.
        base: what is known to be wrong already.
    """

    def __init__(
        self,
        evidence: Evidence,
        clock: SearchClock,
        progress: Callable[[str], None] = lambda phase: None,
        base: Causes = (),
    ) -> None:
        self.evidence = evidence
        self.clock = clock
        self.progress = progress
        self.base = base
        config = evidence.laboratory.config
        # Where the difference is small, float32 would hide which hypothesis is nearer.
        self.single, self.text = evidence.measures(precise=evidence.baseline < 100)
        causes = [cause for cause in plausible(config) if not _only_head(cause, config)]
        if not evidence.leaks:  # what makes tokens see later ones is ruled out
            clock.tried.update(cause.fault for cause in causes if cause.fault.leaks)
            causes = [cause for cause in causes if not cause.fault.leaks]
        self.inside = [cause for cause in clock.during(causes) if evidence.laboratory.moves_single_tokens(cause)]
        self.between = [cause for cause in causes if cause not in self.inside]
        self.seen: dict[Causes, float] = {}

    def run(self, most: int = 3) -> Searched:
        """Searches for one fault, then for one in a single layer, then for two, up to `most`."""
        if not self.evidence.finite:
            return Searched(tuple(self._judge([(*self.base, c) for c in self.inside if not self._finite(c)])))
        for rounds in range(most + 1):
            for phase, hypotheses in self._rounds(rounds):
                self.progress(phase)
                found = self._judge(hypotheses())
                if found or self.clock.over:
                    return Searched(tuple(found), self._nearest())
        return Searched((), self._nearest())

    def _rounds(self, count: int) -> Iterator[tuple[str, Callable[[], list[Causes]]]]:
        if count == 0:
            yield "after the last block", self._after_the_last_block
            yield "precision", self._rounded
        elif count == 1:
            yield "one fault", lambda: self._near(1)
            yield "one fault with another parameter", self._fitted
            yield "one fault in a single layer", self._in_one_layer
            yield "a head of its own", self._own_head
        else:
            yield f"{count} faults at once", lambda: self._near(count)
            if count == 2:  # wherever a fault hides its partner so well that neither is near by itself
                yield "all pairs of faults", lambda: self._near(count, beam=len(self.inside) + len(self.between))

    # ------------------------------------------------------------------------------------------ hypotheses

    def _near(self, count: int, beam: int = _BEAM) -> list[Causes]:
        """Hypotheses of `count` faults before the head that are near on text, the nearest first."""
        found: list[Causes] = []
        before = math.inf
        for inside in range(count + 1):
            ranked = self._grown(self.single.distance, self.base, self.inside, inside, beam)
            if not ranked or (ranked[0][0] > before / 2 and before <= _NEAR):
                break  # fewer faults explain single tokens as well
            before = ranked[0][0]
            alike = [causes for distance, causes in ranked if distance <= max(_SAME, 3 * before)]
            for base in alike[:_JUDGED]:
                found += self._on_text(self._grown(self.text.distance, base, self.between, count - inside, beam))
        return sorted(found, key=self.seen.__getitem__)

    def _after_the_last_block(self) -> list[Causes]:
        """What happens to logits alone is added when a hypothesis is judged, here to none."""
        config = self.evidence.laboratory.config
        self.clock.tried.update(cause.fault for cause in plausible(config) if _only_head(cause, config))
        return [self.base]

    def _rounded(self) -> list[Causes]:
        causes = [cause for fault in PRECISIONS for cause in fault.causes(self.evidence.laboratory.config)]
        return self._on_text(self._ranked(self.text.distance, ((*self.base, cause) for cause in causes)))

    def _in_one_layer(self) -> list[Causes]:
        """Every fault of the table, confined to each of its stages in turn."""
        hypotheses: list[Causes] = []
        if self.single.distance(self.base) <= _NEAR:
            hypotheses += [(*self.base, cause) for cause in self._confined(self.between)]
        inside = ((*self.base, cause) for cause in self._confined(self.inside))
        hypotheses += [causes for distance, causes in self._ranked(self.single.distance, inside) if distance <= _NEAR]
        return self._on_text(self._ranked(self.text.distance, hypotheses))

    def _confined(self, causes: Sequence[Cause]) -> Iterator[Cause]:
        for cause in causes:
            for stage in cause.changes(self.evidence.laboratory.config):
                if cause.stages is None and stage.startswith(("h.", NORM)):
                    yield replace(cause, stages=frozenset({stage}))

    def _fitted(self) -> list[Causes]:
        """Continuous parameters, where some value of them explains much."""
        config = self.evidence.laboratory.config
        found: list[Causes] = []
        exactly: Sequence[Distance | None] = (None, None)
        if self.evidence.exact is not None:
            exactly = [measure.distance for measure in self.evidence.measures(precise=True)]
        distances = (self.single.distance, self.text.distance)
        pools = list(zip((self.inside, self.between), distances, exactly, strict=True))
        for fault in self.clock.during(fault for fault in FAULTS if fault.neutral):
            for pool, distance, exact in pools:
                if any(cause.fault is fault for cause in pool):
                    cause = fit_parameter(distance, self.base, fault, config, exact)
                    found += [(*self.base, cause)] if cause is not None else []
        return self._on_text(self._ranked(self.text.distance, found))

    def _own_head(self) -> list[Causes]:
        if self.evidence.leaks:  # no head does that
            return []
        head = own_head(self.evidence, self.base, self.clock)
        return [] if head is None else [(*self.base, head)]

    def _on_text(self, ranked: Sequence[tuple[float, Causes]]) -> list[Causes]:
        """Those that are near on text, or are the nearest by far; all are remembered."""
        self.seen |= {causes: distance for distance, causes in ranked}
        standing_out = self.text.distance(self.base) / BETTER
        return [
            causes
            for rank, (distance, causes) in enumerate(ranked)
            if distance <= _NEAR or (rank < _STANDING_OUT and distance <= standing_out)
        ]

    def _grown(
        self, distance: Distance, start: Causes, pool: Sequence[Cause], count: int, beam: int
    ) -> list[tuple[float, Causes]]:
        return grown(distance, start, pool, count, self.clock, beam)

    def _ranked(self, distance: Distance, hypotheses: Iterable[Causes]) -> list[tuple[float, Causes]]:
        return ranked(distance, self.clock.during(hypotheses))

    # ----------------------------------------------------------------------------------------------- judging

    def _judge(self, hypotheses: Sequence[Causes]) -> list[Hypothesis]:
        """Those that explain everything, with what happens after the last block added where that is needed."""
        found: list[Hypothesis] = []
        enough = math.inf
        for rank, causes in enumerate(hypotheses[:_JUDGED]):
            distance = self.seen.get(causes, 0.0)
            if distance > enough or (rank > 0 and self.clock.over):  # the nearest is judged even when time is up
                break
            each = proven(self.evidence, causes)
            if each is not None:
                found.append(each)
                enough = min(enough, max(_SAME, 5 * distance))
        return simplest(found)

    def _nearest(self) -> tuple[Causes, ...]:
        return tuple(sorted(self.seen, key=self.seen.__getitem__))[:3]

    def _finite(self, cause: Cause) -> bool:
        return math.isfinite(float(self.evidence.laboratory.texts[0].stream(NORM, (*self.base, cause)).sum()))


def plausible(config: GPTConfig) -> list[Cause]:
    """Everything of the table that may be wrong with a model of this configuration."""
    return [cause for fault in FAULTS for cause in fault.causes(config)]


def proven(evidence: Evidence, causes: Causes) -> Hypothesis | None:
    """The hypothesis if it explains everything, with what happens after the last block added if it must be."""
    for whole in _with_head(evidence, causes):
        explained = evidence.explained(whole)
        if explained:
            return Hypothesis(whole, explained)
    return None


def _with_head(evidence: Evidence, causes: Causes) -> Iterator[Causes]:
    """The hypothesis if it explains much, then with what may happen to logits, the simplest first, if near."""
    rounding: Rounding = "float32" if evidence.exact is None else "float64"
    actual = (evidence.logits if evidence.exact is None else evidence.exact)[0].double()
    simulated = evidence.laboratory.texts[0].logits(causes, rounding).double()
    difference = gap(actual, simulated)
    near = _NEAR_LOGITS * float(actual.max() - actual.min())
    if not math.isfinite(difference):
        yield causes
        return
    if difference * BETTER <= evidence.difference:
        yield causes
    others = [*_fits(actual, simulated)]
    if difference > near:
        config = evidence.laboratory.config
        outputs = [cause for cause in plausible(config) if _only_head(cause, config)]
        others += [(output,) for output in outputs]
        others += [(one, other) for one, other in product(outputs, repeat=2) if one != other]
    for other in others:
        if evidence.rough((*causes, *other)) <= near:
            yield (*causes, *other)


def _fits(actual: Tensor, simulated: Tensor) -> Iterator[Causes]:
    """A scale and a bias of the logits, where they explain nearly all of the difference."""
    difference = gap(actual, simulated)
    scale = float((actual * simulated).sum() / simulated.square().sum())
    if gap(actual, simulated * scale) < _FITS * difference:
        yield (Cause(FAULT["logits_scaled"], scale),)
    bias = (actual - simulated).mean((0, 1))
    if gap(actual, simulated + bias) < _FITS * difference:
        yield (Cause(FAULT["lm_head_bias"], bias),)


def simplest(found: Sequence[Hypothesis]) -> list[Hypothesis]:
    """Of what is proven: the fewest faults, special rows before general ones, the best explained first."""
    if any(not each.general for each in found):
        found = [each for each in found if not each.general]
    fewest = min((len(each.causes) for each in found), default=0)
    return sorted((each for each in found if len(each.causes) == fewest), key=lambda each: each.explained.left)


def ranked(distance: Distance, hypotheses: Iterable[Causes]) -> list[tuple[float, Causes]]:
    """Hypotheses with their distances, the nearest first."""
    return sorted(((distance(causes), causes) for causes in hypotheses), key=lambda pair: pair[0])


def grown(
    distance: Distance, start: Causes, pool: Sequence[Cause], count: int, clock: SearchClock, beam: int = _BEAM
) -> list[tuple[float, Causes]]:
    """A beam: all sets that are one larger than the best so far, until they are `count` larger than `start`."""
    best = ranked(distance, clock.during([start]))
    for _ in range(count):
        best = ranked(distance, clock.trying(_one_more([causes for _, causes in best[:beam]], pool)))
    return best


def _one_more(kept: Sequence[Causes], pool: Sequence[Cause]) -> Iterator[Causes]:
    """Each set with one fault more, each resulting set once, in the table's order; no two that exclude each other."""
    seen: set[frozenset[Cause]] = set()
    for causes in kept:
        for cause in pool:
            larger = frozenset({*causes, cause})
            if len(larger) == len(causes) or larger in seen or any(_exclude(cause, other) for other in causes):
                continue
            seen.add(larger)
            yield tuple(sorted(larger, key=lambda each: _ORDER[each.fault.name]))


_ORDER: Mapping[str, int] = {name: number for number, name in enumerate(["weights_rounded", "tensors_differ", *FAULT])}


def _exclude(one: Cause, other: Cause) -> bool:
    """Two that put something else in the same place: the second would undo the first."""
    return one.fault is other.fault or bool(_methods(one) & _methods(other))


def _methods(cause: Cause) -> frozenset[str]:
    changes = cause.fault.changes
    table = changes if isinstance(changes, Mapping) else changes(cause.value)
    return frozenset(path for path in table if path.rsplit(".", 1)[1] not in ("weight", "bias", "scale", "eps"))


def _only_head(cause: Cause, config: GPTConfig) -> bool:
    return set(cause.changes(config)) == {HEAD}


# ------------------------------------------------------------------------------------------------------- parameters


def fit_parameter(
    distance: Distance, base: Causes, fault: Fault, config: GPTConfig, exactly: Distance | None = None
) -> Cause | None:
    """A fault with its continuous parameter fitted, by golden section between the neighbours of the best value.

    Args:
        distance: to be made small.
        base: faults that are there, too.
        fault: one with a parameter.
        config: of the model.
        exactly: the same distance in float64, for the last digits; None where float32 is all there is.

    Returns:
        None where no value explains half of what there is.
    """
    assert fault.neutral is not None
    neutral = fault.neutral(config)
    values = sorted({neutral, *(cause.value for cause in fault.causes(config) if cause.value)})
    without = distance(base)

    distances = [without if value == neutral else distance((*base, Cause(fault, value))) for value in values]
    best = min(range(len(values)), key=distances.__getitem__)
    sign = math.copysign(1.0, values[best])
    around = [abs(values[near]) for near in (max(best - 1, 0), best, min(best + 1, len(values) - 1))]
    low, high = min(*around, around[1] / 2), max(*around, around[1] * 2)

    def valley(distance: Distance, low: float, high: float) -> tuple[float, float]:
        def along(logarithm: float) -> float:
            return distance((*base, Cause(fault, sign * math.exp(logarithm))))

        lowest = _golden_section(along, math.log(low), math.log(high))
        return sign * math.exp(lowest), along(lowest)

    value, least = valley(distance, low, high)
    if not least < without / 2:
        return None
    same = _SAME
    if exactly is not None:
        distance, same = exactly, 0.0
        value, least = valley(exactly, abs(value) / _FINELY, abs(value) * _FINELY)
    for digits in (0, 1, 2):  # people write round numbers
        rounded = Cause(fault, float(f"{value:.{digits}e}"))
        if distance((*base, rounded)) <= max(same, 2 * least):
            return rounded
    return Cause(fault, value)


_GOLDEN = (math.sqrt(5) - 1) / 2
_STEPS = 32  # each narrows the range to 0.62 of it: to a millionth
_FINELY = 1.01  # what float32 found is right within this factor


def _golden_section(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one valley is lowest."""
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = function(left), function(right)
    for _ in range(_STEPS):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = function(right)
    return (low + high) / 2


# ------------------------------------------------------------------------------------------------- a head of its own

# Logits are linear in the final hidden states, and those are known if nothing else is wrong. So the head is the
# solution of linear equations, one per token: more tokens than the width determine it, and what it then says to other
# prompts proves it or not. It is the one fault with as many unknown numbers as it has weights, and a common one: the
# file holds no head, so one that is not tied stays as random as it was built.

_HEAD_SEED = 2424  # of the prompts; others than those that judge
_PER_WIDTH = 2  # tokens per unknown: rounding then reaches the logits of other prompts with sqrt(2) of its size
_TOKENS, _ROWS = 64, 4  # of a prompt, and prompts at once
_UNKNOWN = 0.5  # of a head must be new; one that is nearly the embedding, or it rescaled, has another cause


def own_head(evidence: Evidence, base: Causes, clock: SearchClock) -> Cause | None:
    """The head that a candidate would have if nothing else were wrong with it.

    Args:
        evidence: of the candidate, which is asked for the logits of twice as many tokens as it is wide; a recording has
            what it has.
        base: what is known to be wrong.
        clock: when to give up.

    Returns:
        A hypothesis, to be judged on prompts that are not among those asked here. None where that head is too much like
        the embedding to be one of its own, where the candidate failed, or time ran out.
    """
    model = evidence.laboratory.model
    prompts = _prompts_for_head(model)
    if evidence.candidate.recording is not None:
        judging = evidence.laboratory.texts
        recorded = [prompt.ids for prompt in evidence.candidate.recording.prompts]
        prompts = [ids for ids in recorded if not any(torch.equal(ids, each.ids) for each in judging)]
        if sum(ids.numel() for ids in prompts) < model.config.n_embd:
            return None
    streams = [Simulation(model, ids).stream(NORM, base, "float64").flatten(0, 1) for ids in clock.during(prompts)]
    if len(streams) < len(prompts):
        return None
    solving = torch.linalg.pinv(torch.cat(streams), rtol=1e-10)  # (E, tokens)
    weight = solving.new_zeros(model.config.vocab_size, model.config.n_embd)
    parts = solving.split([len(stream) for stream in streams], dim=1)
    asked = 0
    for ids, part in clock.during(zip(prompts, parts, strict=True)):
        try:
            exact = evidence.exact is not None
            logits = evidence.candidate.exact_logits(ids).logits if exact else evidence.candidate.logits(ids)
        except (CandidateError, NotImplementedError):
            return None
        weight += logits.flatten(0, 1).double().t() @ part.t()  # (V, tokens) (tokens, E)
        asked += 1
    if asked < len(prompts):
        return None
    tied = model.wte.weight.double()
    return Cause(FAULT["lm_head_not_tied"], weight.float()) if _share_beside(weight, tied) >= _UNKNOWN else None


def _prompts_for_head(model: GPTModel) -> list[Tensor]:
    config = model.config
    shape = (_ROWS, min(_TOKENS, config.n_positions))
    generator = torch.Generator().manual_seed(_HEAD_SEED)
    count = -(-_PER_WIDTH * config.n_embd // (shape[0] * shape[1]))
    return [torch.randint(config.vocab_size, shape, generator=generator) for _ in range(count)]


def _share_beside(weight: Tensor, tied: Tensor) -> float:
    """How much of a head is left when each of its columns is compared with a multiple of the embedding's."""
    multiples = (weight * tied).sum(0) / tied.square().sum(0)
    return float((weight - multiples * tied).norm() / weight.norm())
