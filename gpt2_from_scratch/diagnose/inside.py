"""The search in a torch module whose layout is known: stage by stage, each by itself.

The one idea: what entered and what left each stage is on record, so each is a small riddle of its own: which fault
turns *their* input into *their* output? Errors do not build up, faults in different layers do not mix, and a fault in
one layer shows by itself. Weights are riddles without a run: they are compared with the checkpoint's, and with what
each fault would make of those. All answers together must then explain the logits.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gpt2_from_scratch.checks.candidate import Candidate
from gpt2_from_scratch.compare import FLOAT32_ULP
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.diagnose.clock import Clock
from gpt2_from_scratch.diagnose.evidence import Laboratory, gap
from gpt2_from_scratch.diagnose.fault import EMBED, HEAD, NORM, Cause, Causes, line, place_of, stages
from gpt2_from_scratch.diagnose.search import Distance, fitted, grown, plausible, ranked
from gpt2_from_scratch.diagnose.simulation import Rounding
from gpt2_from_scratch.diagnose.table import FAULT, FAULTS
from gpt2_from_scratch.errors import CandidateError
from gpt2_from_scratch.mapping import Layout, match_module
from gpt2_from_scratch.precision import run_in_float64
from gpt2_from_scratch.trace import Site, trace

_EQUAL = 1e-6  # relative: tensors that were made by the same steps in another order
_ALIKE = 3.0  # explanations that leave so many times what the best leaves are as good
_TRIED = 18  # explanations of one stage that are run in float64

# ---------------------------------------------------------------------------------------------------------- weights


def weights_of(candidate: Candidate, config: GPTConfig, layouts: Sequence[Layout]) -> Mapping[str, Tensor] | None:
    """The candidate's tensors under canonical names, the head's always; None where it does not fit its layout."""
    assert candidate.module is not None
    parameters = dict(candidate.module.named_parameters(remove_duplicate=False))
    matching = match_module(candidate.module, config, layouts)
    if not matching:
        return None
    found = {link.canonical: torch.zeros(link.shape) for link in matching.zeros if link.canonical is not None}
    for link in matching.links:
        if link.canonical is not None:
            found[link.canonical] = link.to_canonical([parameters[name].detach().cpu() for name in link.theirs])
    return {"lm_head.weight": found["wte.weight"]} | found


@dataclass(frozen=True)
class Weights:
    """What is wrong with the candidate's weights.

    Args:
        causes: faults that make exactly these tensors of the checkpoint's; rounding among them, which is none.
        left: tensors that no single fault makes.
    """

    causes: Causes = ()
    left: Mapping[str, Tensor] | None = None

    @property
    def whole(self) -> Causes:
        """All of it, the unexplained tensors as they are."""
        if not self.left:
            return self.causes
        if set(self.left) == {"lm_head.weight"}:
            return (*self.causes, Cause(FAULT["lm_head_not_tied"], self.left["lm_head.weight"]))
        return (*self.causes, Cause(FAULT["tensors_differ"], tuple(self.left.items())))


def wrong_weights(laboratory: Laboratory, theirs: Mapping[str, Tensor], clock: Clock) -> Weights:
    """Explains the candidate's tensors, value by value: the faults that explain most come first."""
    model, config = laboratory.model, laboratory.config
    theirs = {name: tensor.float() for name, tensor in theirs.items()}
    rounding = _rounding(theirs, {name: place_of(model, name).value for name in theirs})

    def ours(tensor: Tensor) -> Tensor:
        return tensor.to(rounding).float() if rounding is not None else tensor

    left = {name for name, tensor in theirs.items() if not _equal(tensor, ours(place_of(model, name).value))}
    explained: list[tuple[bool, int, Cause, set[str]]] = []
    for cause in clock.during(plausible(config)):
        right, paths, elsewhere = set[str](), set[str](), False
        changes = cause.changes(config)
        if any(path not in theirs or cause.fault.one_layer for pairs in changes.values() for path, _ in pairs):
            continue  # not a fault of weights
        if left.isdisjoint(path for pairs in changes.values() for path, _ in pairs):
            continue
        for stage, pairs in changes.items():
            made = {path: ours(change(place_of(model, path))) for path, change in pairs}
            moved = {path for path, tensor in made.items() if not _equal(tensor, ours(place_of(model, path).value))}
            if moved <= left and all(_equal(theirs[path], made[path]) for path in moved):
                right |= {stage} if moved else set()
                paths |= moved
            else:
                elsewhere = True  # it would have changed what is as it should be
        if paths:
            made_there = replace(cause, stages=frozenset(right)) if elsewhere else cause
            explained.append((elsewhere, -len(paths), made_there, paths))
    causes: list[Cause] = []
    for _, _, cause, paths in sorted(explained, key=lambda each: each[:2]):
        if paths <= left:
            causes.append(cause)
            left -= paths
    harmless = () if rounding is None else (Cause(FAULT["weights_rounded"], str(rounding).removeprefix("torch.")),)
    return Weights((*harmless, *causes), {name: theirs[name] for name in theirs if name in left})


def _rounding(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> torch.dtype | None:
    """The lower precision that most of the tensors went through."""
    for dtype in (torch.float16, torch.bfloat16):
        rounded = sum(
            torch.equal(tensor, ours[name].to(dtype).float()) and not torch.equal(tensor, ours[name])
            for name, tensor in theirs.items()
        )
        if rounded > len(theirs) / 2:
            return dtype
    return None


def _equal(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    return torch.equal(one, other) or bool((one - other).abs().max() <= _EQUAL * other.abs().max())


# ----------------------------------------------------------------------------------------------------------- stages


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


def passages(
    candidate: Candidate, config: GPTConfig, layouts: Sequence[Layout], ids: Tensor, rounding: Rounding
) -> tuple[Passage, ...] | None:
    """One forward pass of the candidate, cut into stages; None where it cannot be.

    What a stage returned is what the next one received. A block that never ran returned its input.
    """
    assert candidate.module is not None
    fitting = match_module(candidate.module, config, layouts).layout
    names = {site: theirs[0] for site, theirs in fitting.sites(config)}
    whole = Candidate(candidate.module, config)
    tracing = [names[stage] for stage in stages(config) if stage in names]

    def run() -> tuple[Mapping[str, Site], Tensor]:
        logits: list[Tensor] = []
        seen = trace(module, tracing, lambda: logits.append(whole.logits(ids)))
        return {stage: seen[names[stage]] for stage in stages(config) if names.get(stage) in seen}, logits[0]

    module = candidate.module
    try:
        (found, logits), moved = run_in_float64(run, module) if rounding == "float64" else (run(), ())
    except (CandidateError, NotImplementedError):
        return None
    if NORM not in found or not any(stage.startswith("h.") for stage in found):
        return None
    others = [_cut(other, other_logits, ids, config) for other, other_logits in moved]
    cut = []
    for place, passage in enumerate(_cut(found, logits, ids, config)):
        distances = [gap(other[place].leaving, passage.leaving) for other in others]
        cut.append(replace(passage, moved=sum(each for each in distances if math.isfinite(each))))
    width = (*ids.shape, config.n_embd)
    if any(tuple(passage.entering.shape) != width for passage in cut[1:]):
        return None
    return tuple(cut)


def _cut(found: Mapping[str, Site], logits: Tensor, ids: Tensor, config: GPTConfig) -> tuple[Passage, ...]:
    """The passages of all stages, in order: each stage returned what the next one received."""
    cut: list[Passage] = []
    leaving = logits
    for stage in reversed(stages(config)):
        if stage == EMBED:
            entering = ids
        elif stage == HEAD:
            entering = found[stage].input if stage in found else found[NORM].output
        else:
            entering = found[stage].input if stage in found else leaving
        cut.append(Passage(stage, entering.cpu(), leaving.cpu()))
        leaving = entering
    return tuple(reversed(cut))


class Inside:
    """The riddles of one candidate.

    Args:
        laboratory: where hypotheses are simulated.
        cut: the candidate's passages.
        rounding: in which they were computed.
        base: what is wrong with its weights.
        most: faults in one stage.
        clock: when to stop.
    """

    def __init__(
        self, laboratory: Laboratory, cut: Sequence[Passage], rounding: Rounding, base: Causes, most: int, clock: Clock
    ) -> None:
        self.laboratory = laboratory
        self.cut = cut
        self.rounding = rounding
        self.base = base
        self.most = most
        self.clock = clock
        self.hopeful = True
        self.usual: list[Causes] = []  # what explained earlier stages is tried first

    def unexplained(self) -> list[str]:
        """Stages that no fault explains."""
        return [stage for stage, answers in self.answers.items() if not answers]

    def run(self) -> Iterator[Causes]:
        """Sets of causes that explain every stage, the likeliest first; none where one of them is not explained."""
        self.answers = {passage.stage: self._explanations(passage) for passage in self.cut}
        whole = self.answers
        if self.unexplained() == [HEAD]:  # what is fitted to logits is left to arithmetic: see search.proven
            whole = whole | {HEAD: [()]}
        elif self.unexplained():
            return
        votes = Counter(cause for answers in whole.values() for causes in answers for cause in causes)
        chosen = {
            stage: max(answers, key=lambda causes: self._likely(causes, votes)) for stage, answers in whole.items()
        }
        yield (*self.base, *self._merged(chosen))
        for other in sorted(votes, key=votes.__getitem__, reverse=True):
            swapped = {
                stage: next((causes for causes in answers if other in causes), chosen[stage])
                for stage, answers in whole.items()
            }
            if swapped != chosen:
                yield (*self.base, *self._merged(swapped))

    @staticmethod
    def _likely(causes: Causes, votes: Counter[Cause]) -> tuple[float, ...]:
        return (-len(causes), -sum(cause.fault.general for cause in causes), sum(votes[cause] for cause in causes))

    def _merged(self, chosen: Mapping[str, Causes]) -> Causes:
        """The causes of all stages, each with where it was made; everywhere, if nothing says otherwise."""
        merged: list[Cause] = []
        for cause in dict.fromkeys(cause for causes in chosen.values() for cause in causes):
            made = frozenset(stage for stage, causes in chosen.items() if cause in causes)
            could = set(cause.changes(self.laboratory.config))
            silent = all(self._agrees(p, (*chosen[p.stage], cause)) for p in self.cut if p.stage in could - made)
            merged.append(replace(cause, stages=None if silent and not cause.fault.one_layer else made))
        order = {fault: number for number, fault in enumerate(FAULTS)}
        return tuple(sorted(merged, key=lambda cause: order.get(cause.fault, -1)))

    def left_by(self, causes: Causes) -> float:
        """The most that is left at any stage, in its floors."""
        added = tuple(cause for cause in causes if cause not in self.base)
        return max(self._left(passage, added) for passage in self.cut)

    # ------------------------------------------------------------------------------------------------ one stage

    def _explanations(self, passage: Passage) -> list[Causes]:
        """The smallest sets of causes that turn its input into its output; the empty set where nothing is wrong."""
        if self._agrees(passage, ()):
            return [()]
        config = self.laboratory.config
        pool = [cause for cause in plausible(config) if passage.stage in cause.changes(config)]
        pool = [replace(cause, stages=None) if cause.fault.one_layer else cause for cause in pool]
        for causes in self.usual:
            if self._agrees(passage, causes):
                return self._proven(passage, [others for others in self.usual if len(others) == len(causes)])
        most = self.most if self.hopeful and passage.stage != HEAD else 1
        for count in range(1, most + 1):
            nearest = [causes for _, causes in grown(self._distance_at(passage), (), pool, count, self.clock)]
            if count == 1:
                nearest = self._fitted(passage, pool) + nearest
            proven = self._proven(passage, nearest[:_TRIED])
            if proven:
                self.usual = [*proven, *(causes for causes in self.usual if causes not in proven)]
                return proven
        # A block does what is not in the table: the time that is left is for single faults in the other stages.
        self.hopeful &= passage.stage == HEAD
        return []

    def _proven(self, passage: Passage, hypotheses: Sequence[Causes]) -> list[Causes]:
        left = ranked(lambda causes: self._left(passage, causes), self.clock.during(dict.fromkeys(hypotheses)))
        whole = self._left(passage, ())
        if not left or not left[0][0] <= self._line(left[0][1], whole):
            return []
        best = max(left[0][0] * _ALIKE, self._line(()) / 10)
        return [causes for multiple, causes in left if multiple <= min(best, self._line(causes, whole))]

    def _fitted(self, passage: Passage, pool: Sequence[Cause]) -> list[Causes]:
        config, distance = self.laboratory.config, self._distance_at(passage)
        exactly = self._distance_at(passage, "float64") if self.rounding == "float64" else None
        acting = {cause.fault for cause in pool}
        found = (fitted(distance, (), fault, config, exactly) for fault in FAULTS if fault.neutral and fault in acting)
        return [(cause,) for cause in found if cause is not None]

    def _agrees(self, passage: Passage, causes: Causes) -> bool:
        return self._left(passage, causes) <= self._line(causes, self._left(passage, ()) if causes else math.inf)

    def _line(self, causes: Causes, difference: float = math.inf) -> float:
        """A stage agrees within this many of its own floors, as the whole does."""
        return line(causes, self.rounding == "float64", difference)

    def _left(self, passage: Passage, causes: Causes) -> float:
        """What the causes leave of the difference, in floors of the stage."""
        if not bool(torch.isfinite(passage.entering.double()).all()):  # NaN spreads from an earlier stage
            return 0.0
        result = self._result(passage, causes, self.rounding)
        scale = float(result.abs().nan_to_num().max())
        others = [self._result(passage, causes, rounding) for rounding in ("float32", "textbook", "float64")]
        floor = max(gap(others[0], others[2]), gap(others[1], others[2]), FLOAT32_ULP * scale)
        left = max(0.0, gap(result, passage.leaving) - passage.moved)
        return left / floor if math.isfinite(floor) else math.inf

    def _distance_at(self, passage: Passage, rounding: Rounding = "float32") -> Distance:
        known = ~passage.leaving.isnan()
        leaving = passage.leaving[known].double() if rounding == "float64" else passage.leaving[known].float()

        def distance(causes: Causes) -> float:
            result = self._result(passage, causes, rounding)
            if not torch.equal(~result.isnan(), known):
                return math.inf
            left = float((result[known] - leaving).norm() / leaving.norm())
            return left if math.isfinite(left) else math.inf

        return distance

    def _result(self, passage: Passage, causes: Causes, rounding: Rounding) -> Tensor:
        entering = passage.entering
        if entering.is_floating_point():
            entering = entering.double() if rounding == "float64" else entering.float()
        return self.laboratory.texts[0].run(passage.stage, entering, (*self.base, *causes), rounding)
