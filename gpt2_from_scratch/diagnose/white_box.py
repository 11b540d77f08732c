"""The search in a torch module whose layout is known: first its weights, then stage by stage.

Weights are checked without running the model: they are compared with the checkpoint's, and with what each fault would
make of those. Then what entered and what left each stage is on record, so each stage is a small search of its own:
which fault turns *their* input into *their* output? Errors do not build up, faults in different layers do not mix, and
a fault in one layer shows by itself. All answers together must then explain the logits.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gpt2_from_scratch.compare import gap, noise_floor
from gpt2_from_scratch.diagnose.divergence import Passage
from gpt2_from_scratch.diagnose.evidence import Laboratory
from gpt2_from_scratch.diagnose.fault import HEAD, Cause, Causes, place_of, threshold
from gpt2_from_scratch.diagnose.search import Distance, SearchClock, fit_parameter, grown, plausible, ranked
from gpt2_from_scratch.diagnose.simulation import Rounding, Simulation
from gpt2_from_scratch.diagnose.table import FAULT, FAULTS

_EQUAL = 1e-6  # relative: tensors that were made by the same steps in another order
_ALIKE = 3.0  # explanations that leave so many times what the best leaves are as good
_TRIED = 18  # explanations of one stage that are run in float64

# ---------------------------------------------------------------------------------------------------------- weights


@dataclass(frozen=True)
class WrongWeights:
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


def wrong_weights(laboratory: Laboratory, theirs: Mapping[str, Tensor], clock: SearchClock) -> WrongWeights:
    """Explains the candidate's tensors, value by value: the faults that explain most come first.

    Args:
        laboratory: with the right model.
        theirs: canonical name -> the candidate's tensor.
        clock: when to stop.
    """
    model = laboratory.model
    theirs = {name: tensor.float() for name, tensor in theirs.items()}
    rounding = _rounding(theirs, {name: place_of(model, name).value for name in theirs})
    recogniser = _Recogniser(laboratory, theirs, rounding)
    left = set(recogniser.wrong)
    explained = [each for cause in clock.during(plausible(model.config)) if (each := recogniser.explained_by(cause))]
    causes: list[Cause] = []
    for each in sorted(explained, key=lambda each: (each.partly, -len(each.tensors))):
        if each.tensors <= left:
            causes.append(each.cause)
            left -= each.tensors
    harmless = () if rounding is None else (Cause(FAULT["weights_rounded"], str(rounding).removeprefix("torch.")),)
    return WrongWeights((*harmless, *causes), {name: theirs[name] for name in theirs if name in left})


@dataclass(frozen=True)
class _Recognised:
    """A cause that makes some of the wrong tensors exactly; in some stages only, if `partly`."""

    cause: Cause
    tensors: frozenset[str]
    partly: bool


class _Recogniser:
    """Compares the candidate's tensors with what faults of loading make of the checkpoint's."""

    def __init__(self, laboratory: Laboratory, theirs: Mapping[str, Tensor], rounding: torch.dtype | None) -> None:
        self.model = laboratory.model
        self.theirs = theirs
        self.rounding = rounding
        self.wrong = frozenset(name for name in theirs if not _equal(theirs[name], self._right(name)))

    def explained_by(self, cause: Cause) -> _Recognised | None:
        """The tensors that a cause explains; None where it is no fault of weights, or explains none."""
        changes = cause.changes(self.model.config)
        paths = {path for pairs in changes.values() for path, _ in pairs}
        if cause.fault.one_layer or not paths <= self.theirs.keys() or self.wrong.isdisjoint(paths):
            return None
        stages, tensors = set[str](), set[str]()
        partly = False
        for stage, pairs in changes.items():
            made = {path: self._rounded(change(place_of(self.model, path))) for path, change in pairs}
            moved = {path for path, tensor in made.items() if not _equal(tensor, self._right(path))}
            if not moved <= self.wrong or not all(_equal(self.theirs[path], made[path]) for path in moved):
                partly = True  # there it would have changed what is as it should be
            elif moved:
                stages.add(stage)
                tensors |= moved
        if not tensors:
            return None
        return _Recognised(replace(cause, stages=frozenset(stages)) if partly else cause, frozenset(tensors), partly)

    def _right(self, name: str) -> Tensor:
        return self._rounded(place_of(self.model, name).value)

    def _rounded(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.rounding).float() if self.rounding is not None else tensor


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


class WhiteBox:
    """The search for faults in the stages of one candidate.

    Args:
        laboratory: where hypotheses are simulated.
        cut: the candidate's passages.
        rounding: in which they were computed.
        base: what is wrong with its weights.
        most: faults in one stage.
        clock: when to stop.
    """

    def __init__(
        self,
        laboratory: Laboratory,
        cut: Sequence[Passage],
        rounding: Rounding,
        base: Causes,
        most: int,
        clock: SearchClock,
    ) -> None:
        self.laboratory = laboratory
        self.simulation = Simulation(laboratory.model, cut[0].entering)
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
        """The most that is left at any stage, in multiples of its rounding."""
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
        if not left or not left[0][0] <= self._threshold(left[0][1], whole):
            return []
        best = max(left[0][0] * _ALIKE, self._threshold(()) / 10)
        return [causes for multiple, causes in left if multiple <= min(best, self._threshold(causes, whole))]

    def _fitted(self, passage: Passage, pool: Sequence[Cause]) -> list[Causes]:
        config, distance = self.laboratory.config, self._distance_at(passage)
        exactly = self._distance_at(passage, "float64") if self.rounding == "float64" else None
        acting = {cause.fault for cause in pool}
        found = (
            fit_parameter(distance, (), fault, config, exactly) for fault in FAULTS if fault.neutral and fault in acting
        )
        return [(cause,) for cause in found if cause is not None]

    def _agrees(self, passage: Passage, causes: Causes) -> bool:
        return self._left(passage, causes) <= self._threshold(causes, self._left(passage, ()) if causes else math.inf)

    def _threshold(self, causes: Causes, difference: float = math.inf) -> float:
        """A stage agrees within this many times its own rounding, as the whole does."""
        return threshold(causes, self.rounding == "float64", difference)

    def _left(self, passage: Passage, causes: Causes) -> float:
        """What the causes leave of the difference, in multiples of the stage's rounding."""
        if not bool(torch.isfinite(passage.entering.double()).all()):  # NaN spreads from an earlier stage
            return 0.0
        result = self._result(passage, causes, self.rounding)
        scale = float(result.abs().nan_to_num().max())
        others = [self._result(passage, causes, rounding) for rounding in ("float32", "textbook", "float64")]
        rounding = noise_floor((gap(others[0], others[2]), gap(others[1], others[2])), scale)
        left = max(0.0, gap(result, passage.leaving) - passage.moved)
        return left / rounding if math.isfinite(rounding) else math.inf

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
        return self.simulation.run(passage.stage, entering, (*self.base, *causes), rounding)
