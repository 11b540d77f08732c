"""Which bug is it? Named only when our own model, with that bug in it, gives the candidate's wrong numbers.

A hypothesis is a program. Every fault of the table is a small change of our own GPT-2; the search looks for the changes
after which our model says what the candidate says, down to rounding. What cannot be reproduced is not named. A torch
module whose layout is known is searched stage by stage (`white_box`), everything else from its logits (`search`).
"""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from gpt2_from_scratch.checks.candidate import Candidate
from gpt2_from_scratch.checks.prompts import Prompt
from gpt2_from_scratch.checks.training import WithoutDropout
from gpt2_from_scratch.checks.weights import Fitted
from gpt2_from_scratch.compare import THRESHOLD
from gpt2_from_scratch.diagnose.clock import Clock
from gpt2_from_scratch.diagnose.diagnosis import Closest, Diagnosis, Finding, Reason, findings
from gpt2_from_scratch.diagnose.divergence import Traced, passages, record
from gpt2_from_scratch.diagnose.evidence import Evidence, Explained, Laboratory, prompts_for
from gpt2_from_scratch.diagnose.fault import Cause, Causes, Remedy
from gpt2_from_scratch.diagnose.lines import Accusation, Line, lines_of
from gpt2_from_scratch.diagnose.patch import Patch
from gpt2_from_scratch.diagnose.repair import repair
from gpt2_from_scratch.diagnose.search import Hypothesis, Search, SearchClock, Searched, proven, simplest
from gpt2_from_scratch.diagnose.simulation import simulated
from gpt2_from_scratch.diagnose.table import FAULT
from gpt2_from_scratch.diagnose.white_box import WhiteBox, wrong_weights
from gpt2_from_scratch.errors import CandidateError
from gpt2_from_scratch.loading import Checkpoint
from gpt2_from_scratch.reference import Reference

__all__ = ["Checked", "Closest", "Diagnosis", "Finding", "Remedy", "diagnose", "diagnose_in", "prompts_for"]

NAMING = 20  # seconds for a fault's name, once the line is proven

_SHARE = 2 / 3  # of the time, for a fault's name where there may be a patch: the rest is for that

_PATCHING = 30  # seconds at most for a patch; most bugs of a toy model take less than one

_HALF = 0.5  # of the difference: a hypothesis that leaves more explains nothing, and is not worth a word


@dataclass(frozen=True)
class Checked:
    """What the checks have found out about a candidate, for the diagnosis to build on.

    Args:
        inside: if it is a module with a layout: that, or a record of a run of it, to be looked into stage by stage.
        failing: ids ``[B, T]`` on which it is known to be wrong; searched on where the usual prompts show nothing.
        weights_right: whether its weights are the checkpoint's; None where nobody knows. If they are, the line comes
            first, and once that is proven, the search for a name takes at most `NAMING` seconds. If they are not, no
            line is named: wrong weights read like wrong lines.
        floor: the noise floor of the run; None where no logits were compared.
    """

    inside: Traced | Fitted | None = None
    failing: Tensor | None = None
    weights_right: bool | None = None
    floor: float | None = None


def diagnose(
    candidate: Candidate,
    checkpoint: Checkpoint,
    reference: Reference,
    checked: Checked = Checked(),
    *,
    seconds: float = 60,
    progress: Callable[[str], None] = lambda phase: None,
) -> Diagnosis:
    """Names the faults that explain a candidate's logits, or says that none of those known does.

    Args:
        candidate: a model that is not GPT-2 as in the checkpoint; a recording holds answers to `prompts_for`.
        checkpoint: what it should be.
        reference: the same, running.
        checked: what is known about the candidate; default: nothing.
        seconds: of processor time that it may take, see `clock.Clock`.
        progress: called with what is being tried.
    """
    clock = Clock(seconds)
    inside, weights_right = checked.inside, checked.weights_right
    progress("our own model")
    laboratory = Laboratory(simulated(checkpoint.config, checkpoint.read), reference, floor=checked.floor)
    if candidate.recording is not None:
        found = diagnose_in(laboratory, candidate, seconds=seconds, progress=progress)
        return replace(found, no_line="a recording has logits and no code")
    weights = {name: parameter.detach() for name, parameter in laboratory.model.named_parameters()}
    accusation = None
    if weights_right:
        progress("lines")
        accusation = lines_of(candidate, checkpoint.config, weights)
        if accusation.proven:
            seconds = min(seconds, NAMING)
    if candidate.loaded is not None and weights_right is not False:
        seconds = min(seconds, _SHARE * clock.left)
    found = diagnose_in(laboratory, candidate, checked, seconds=seconds, progress=progress)
    if weights_right is False or found.reason == "random":
        return found
    if accusation is None:
        progress("lines")
        accusation = lines_of(candidate, checkpoint.config, weights)
        if weights_right is None:
            unknown = "Its weights were not compared with the checkpoint's; wrong weights read like wrong lines."
            accusation = replace(accusation, notes=(*accusation.notes, unknown))
    if not accusation:
        return replace(found, no_line=_why_no_line(accusation))
    layout = None if inside is None else (inside.fitted if isinstance(inside, Traced) else inside).layout
    lines = _editable(candidate, accusation)
    if not lines or candidate.loaded is None:
        return replace(found, lines=accusation)
    progress("patch")
    clock = Clock(min(clock.left, _PATCHING))
    patch = repair(candidate.loaded, lines, checkpoint.config, weights, layout, clock=clock)
    if patch is not None:
        accusation = _with_edited(accusation, patch)
    return replace(found, lines=accusation, patch=patch, patch_stopped=patch is None and clock.over)


def _with_edited(accusation: Accusation, patch: Patch) -> Accusation:
    """The accusation, with the lines that the patch edits and that it does not show: behind its first finding's."""
    shown = {line.line for line in accusation.lines if Path(line.file).resolve() == patch.path.resolve()}
    source = patch.before.splitlines()
    edited = tuple(
        Line(str(patch.path), number, 0, source[number - 1].strip(), "edited by the patch", "", "")
        for number in patch.lines
        if number not in shown
    )
    first, *rest = accusation.findings
    return replace(accusation, findings=(replace(first, lines=(*first.lines, *edited)), *rest))


def _why_no_line(accusation: Accusation) -> str:
    """Why no line is named, as far as that is known."""
    if accusation.status == "nothing wrong":
        return "run in float64, the code computes what GPT-2 does: look for a step that loses digits"
    return accusation.why if accusation.status == "could not record" else ""


def diagnose_in(
    laboratory: Laboratory,
    candidate: Candidate,
    checked: Checked = Checked(),
    *,
    seconds: float = 60,
    progress: Callable[[str], None] = lambda phase: None,
) -> Diagnosis:
    """The faults alone, without line and patch. The laboratory remembers what it has simulated.

    Args:
        laboratory: of the checkpoint; it can serve several candidates.
        candidate: a model that is not GPT-2 as in the checkpoint.
        checked: what is known about it.
        seconds: for the search.
        progress: called with what is being tried.
    """
    clock = SearchClock(seconds)
    ids, inside = laboratory.prompts.text, checked.inside
    random = not is_deterministic(candidate, ids)
    with WithoutDropout() if random else nullcontext():
        if random and not is_deterministic(candidate, ids):
            return Diagnosis(reason="random")
        if random and isinstance(inside, Traced):  # recorded while dropout acted
            inside = inside.fitted
        base: Causes = (Cause(FAULT["dropout_on"]),) if random else ()
        evidence = Evidence(candidate, laboratory)
        if checked.failing is not None and not evidence.differs:
            laboratory = laboratory.asking(checked.failing)
            evidence = Evidence(candidate, laboratory)
        return _Case(evidence, inside, base, clock, progress).diagnosis()


def _editable(candidate: Candidate, accusation: Accusation) -> list[int]:
    """The accused lines, the guiltiest first, that stand in the file that the candidate was loaded from."""
    loaded = candidate.loaded
    if loaded is None or loaded.file is None or loaded.again is None:
        return []
    file = loaded.file.resolve()
    # Edits are judged in float64, in which a cast to half precision is none.
    findings = [each for each in accusation.findings if each.kind != "precision"]
    return list(
        dict.fromkeys(line.line for each in findings for line in each.lines if Path(line.file).resolve() == file)
    )


class _Case:
    """One candidate, deterministic by now: looked into if it can be, then searched from its logits."""

    def __init__(
        self,
        evidence: Evidence,
        inside: Traced | Fitted | None,
        base: Causes,
        clock: SearchClock,
        progress: Callable[[str], None],
    ) -> None:
        self.evidence = evidence
        self.laboratory, self.candidate = evidence.laboratory, evidence.candidate
        self.base, self.clock, self.progress = base, clock, progress
        self.traced = inside if isinstance(inside, Traced) else None
        self.fitted = inside.fitted if isinstance(inside, Traced) else inside
        self.weights_right = False
        self.unexplained: list[str] = []

    def diagnosis(self) -> Diagnosis:
        if self.fitted is not None:
            self.progress("weights")
            weights = wrong_weights(self.laboratory, self.fitted.canonical(), self.clock)
            self.traced = self.traced or self._record(self.fitted)
            self.weights_right = not any(not cause.fault.harmless for cause in weights.whole)
            for base in dict.fromkeys((weights.causes, weights.whole)):
                self.progress("stage by stage")
                found = self._stage_by_stage((*self.base, *base), 2 if weights.left and base == weights.causes else 3)
                if found:
                    return self._named(found)
            self.base = (*self.base, *weights.whole)
        silent = self._without_search()
        if silent is not None:
            return silent
        if self.unexplained and not self.clock.over:  # what the record does not explain, its logits cannot
            return self._unknown(Searched())
        searched = Search(self.evidence, self.clock, self.progress, self.base).run()
        return self._named(list(searched.proven)) if searched.proven else self._unknown(searched)

    def _stage_by_stage(self, base: Causes, most: int) -> list[Hypothesis]:
        cut = passages(self.traced) if self.traced is not None else None
        if self.traced is None or cut is None:
            return []
        white_box = WhiteBox(self.laboratory, cut, self.traced.rounding, base, most, self.clock)
        found = [self._judged(white_box, causes) for causes in self.clock.during(white_box.run())]
        self.unexplained = white_box.unexplained()
        return simplest([each for each in found if each is not None])

    def _record(self, fitted: Fitted) -> Traced | None:
        """A run of the module on the prompt of the search; None where it bears no hooks, or fails on this prompt."""
        try:
            return record(self.candidate, fitted, Prompt("the prompt of the search", self.laboratory.prompts.text))
        except CandidateError:
            return None

    def _judged(self, white_box: WhiteBox, causes: Causes) -> Hypothesis | None:
        if not self.evidence.finite:  # logits that are all NaN prove nothing; the stage before NaN spread does
            left = white_box.left_by(causes)
            return Hypothesis(causes, Explained(left, left, math.inf, THRESHOLD))
        known = Hypothesis(causes, self.evidence.explained(causes))
        if known.explained or (causes and self._invisible(known)):
            return known
        return proven(self.evidence, causes)

    def _invisible(self, found: Hypothesis) -> bool:
        """Whether it is something that logits do not show: the weights, or two runs, are proof enough."""
        return not self.evidence.differs and found.explained.multiple <= THRESHOLD

    def _without_search(self) -> Diagnosis | None:
        """The cases in which there is nothing to search for, or no way to."""
        if self.base:
            known = Hypothesis(self.base, self.evidence.explained(self.base))
            if known.explained or self._invisible(known):
                return self._named([known])
        if not self.evidence.differs:
            return self._silent("nothing differs")
        dtypes = {self.candidate.dtype, *(logits.dtype for logits in self.evidence.logits)}
        if any(torch.finfo(dtype).bits < 32 for dtype in dtypes):
            return self._silent("low precision")
        return None

    def _silent(self, reason: Reason, closest: Closest | None = None) -> Diagnosis:
        return Diagnosis(
            baseline=self.evidence.baseline,
            reason=reason,
            stages=tuple(self.unexplained),
            closest=closest,
            seconds=self.clock.seconds,
            tried=self.clock.share(self.laboratory.config),
        )

    def _named(self, found: Sequence[Hypothesis]) -> Diagnosis:
        layout = self.fitted.layout if self.fitted is not None else None
        config = self.laboratory.config
        best, *others = (tuple(cause for cause in each.causes if not cause.fault.harmless) for each in found)
        harmless = findings(tuple(cause for cause in found[0].causes if cause.fault.harmless), config, layout)
        if not best:
            return replace(self._silent("nothing differs"), harmless=harmless)
        return Diagnosis(
            findings(best, config, layout, others, weights_right=self.weights_right),
            tuple(findings(other, config, layout) for other in dict.fromkeys(others) if other != best),
            found[0].explained.multiple,
            self.evidence.baseline,
            harmless,
            seconds=self.clock.seconds,
            tried=self.clock.share(config),
        )

    def _unknown(self, searched: Searched) -> Diagnosis:
        if not self.evidence.finite:
            return self._silent("not finite")
        closest = None
        for causes in searched.nearest[:1]:
            left = self.evidence.rough(causes) / self.laboratory.floor
            if causes and left <= _HALF * self.evidence.baseline:
                closest = Closest(" and ".join(map(str, causes)), left)
        return self._silent("out of time" if self.clock.over else "no known fault", closest)


def is_deterministic(candidate: Candidate, ids: Tensor) -> bool:
    """Whether the same ids give the same logits, twice."""
    one, other = candidate.logits(ids), candidate.logits(ids)
    return bool(torch.equal(one.nan_to_num(), other.nan_to_num()))
