"""Which bug is it? Named only when our own model, with that bug in it, gives the candidate's wrong numbers.

The one idea: a hypothesis is a program. Every fault of the table is a small change of our own GPT-2; the search looks
for the changes after which our model says what the candidate says, down to rounding. What cannot be reproduced is not
named.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch

from gpt2_from_scratch.checks.candidate import Candidate
from gpt2_from_scratch.compare import LINE
from gpt2_from_scratch.diagnose.clock import Clock
from gpt2_from_scratch.diagnose.diagnosis import Closest, Diagnosis, Finding, findings
from gpt2_from_scratch.diagnose.evidence import Evidence, Explained, Laboratory
from gpt2_from_scratch.diagnose.fault import Cause, Causes, Fault
from gpt2_from_scratch.diagnose.inside import Inside, passages, weights_of, wrong_weights
from gpt2_from_scratch.diagnose.search import Found, Outcome, Search, proven, simplest
from gpt2_from_scratch.diagnose.simulation import Rounding, simulated
from gpt2_from_scratch.diagnose.steady import WithoutDropout, is_steady
from gpt2_from_scratch.diagnose.table import FAULT, FAULTS
from gpt2_from_scratch.loading import Checkpoint
from gpt2_from_scratch.mapping import Layout, collapse, match_module
from gpt2_from_scratch.reference import Reference

__all__ = ["FAULTS", "Closest", "Diagnosis", "Fault", "Finding", "Laboratory", "diagnose", "diagnose_in"]


def diagnose(
    candidate: Candidate,
    checkpoint: Checkpoint,
    reference: Reference,
    *,
    layouts: Sequence[Layout] = (),
    seconds: float = 60,
    progress: Callable[[str], None] = lambda phase: None,
) -> Diagnosis:
    """Names the faults that explain a candidate's logits, or says that none of those known does.

    Args:
        candidate: a model that is not GPT-2 as in the checkpoint.
        checkpoint: what it should be.
        reference: the same, running.
        layouts: of the candidate, if it is a module: then it is looked into, stage by stage.
        seconds: the time it may take.
        progress: called with what is being tried.
    """
    progress("measuring the floor")
    laboratory = Laboratory(simulated(checkpoint.config, checkpoint.read), reference)
    return diagnose_in(laboratory, candidate, layouts=layouts, seconds=seconds, progress=progress)


def diagnose_in(
    laboratory: Laboratory,
    candidate: Candidate,
    *,
    layouts: Sequence[Layout] = (),
    seconds: float = 60,
    progress: Callable[[str], None] = lambda phase: None,
) -> Diagnosis:
    """The same, for several candidates of one checkpoint: the laboratory remembers what it has simulated."""
    clock = Clock(seconds)
    ids = laboratory.prompts.text
    random = not is_steady(candidate, ids)
    with WithoutDropout() if random else nullcontext():
        if random and not is_steady(candidate, ids):
            return Diagnosis(why="the same ids give other logits each time, and dropout is not the reason")
        base: Causes = (Cause(FAULT["dropout_on"]),) if random else ()
        return _Case(laboratory, candidate, base, layouts, clock, progress).diagnosis()


class _Case:
    """One candidate, steady by now: looked into if it can be, then searched from outside."""

    def __init__(
        self,
        laboratory: Laboratory,
        candidate: Candidate,
        base: Causes,
        layouts: Sequence[Layout],
        clock: Clock,
        progress: Callable[[str], None],
    ) -> None:
        if candidate.module is not None and layouts:  # remedies are told in the names of the variant that fits
            matching = match_module(candidate.module, laboratory.config, layouts)
            layouts = (matching.layout,) if matching else ()
        self.laboratory, self.candidate, self.base, self.layouts = laboratory, candidate, base, layouts
        self.clock, self.progress = clock, progress
        self.evidence = Evidence(candidate, laboratory)
        self.unexplained: list[str] = []

    def diagnosis(self) -> Diagnosis:
        open_to_view = self.candidate.module is not None and self.layouts
        theirs = weights_of(self.candidate, self.laboratory.config, self.layouts) if open_to_view else None
        if theirs is not None:
            self.progress("weights")
            weights = wrong_weights(self.laboratory, theirs, self.clock)
            for base in dict.fromkeys((weights.causes, weights.whole)):
                self.progress("stage by stage")
                found = self._inside((*self.base, *base), most=2 if weights.left and base == weights.causes else 3)
                if found:
                    return self._named(found)
            self.base = (*self.base, *weights.whole)
        silent = self._without_search()
        if silent is not None:
            return silent
        if self.unexplained and not self.clock.over:  # what cannot be explained from inside cannot be from outside
            return self._unknown(Outcome())
        outcome = Search(self.evidence, self.clock, self.progress, self.base).run()
        return self._named(list(outcome.proven)) if outcome.proven else self._unknown(outcome)

    def _inside(self, base: Causes, most: int) -> list[Found]:
        config, ids = self.laboratory.config, self.laboratory.prompts.text
        rounding: Rounding = "float64"
        cut = passages(self.candidate, config, self.layouts, ids, rounding)
        if cut is None:
            rounding = "float32"
            cut = passages(self.candidate, config, self.layouts, ids, rounding)
        if cut is None:
            return []
        inside = Inside(self.laboratory, cut, rounding, base, most, self.clock)
        found = [self._judged(inside, causes) for causes in self.clock.during(inside.run())]
        self.unexplained = inside.unexplained()
        return simplest([each for each in found if each is not None])

    def _judged(self, inside: Inside, causes: Causes) -> Found | None:
        if not self.evidence.finite:  # logits that are all NaN prove nothing; the stage before NaN spread does
            left = inside.left_by(causes)
            return Found(causes, Explained(left, left, math.inf, LINE))
        known = Found(causes, self.evidence.explained(causes))
        if known.explained or (causes and self._invisible(known)):
            return known
        return proven(self.evidence, causes)

    def _invisible(self, found: Found) -> bool:
        """Whether it is something that logits do not show: the weights, or two runs, are proof enough."""
        return not self.evidence.differs and found.explained.multiple <= LINE

    def _without_search(self) -> Diagnosis | None:
        """The cases in which there is nothing to search for, or no way to."""
        baseline = self.evidence.baseline
        if self.base:
            known = Found(self.base, self.evidence.explained(self.base))
            if known.explained or self._invisible(known):
                return self._named([known])
        if not self.evidence.differs:
            why = f"there is nothing to explain, logits are within {baseline:.2g} x floor"
            return Diagnosis(baseline=baseline, why=why)
        dtypes = {self.candidate.dtype, *(logits.dtype for logits in self.evidence.logits)}
        low = [str(dtype).removeprefix("torch.") for dtype in dtypes if torch.finfo(dtype).bits < 32]
        if low:
            why = f"it computes in {low[0]}, which is too coarse to prove a cause: run it in float32"
            return Diagnosis(baseline=baseline, why=why)
        return None

    def _named(self, found: Sequence[Found]) -> Diagnosis:
        layout = self.layouts[0] if self.layouts else None
        config = self.laboratory.config
        best, *others = (tuple(cause for cause in each.causes if not cause.fault.harmless) for each in found)
        notes = tuple(
            findings((cause,), config, layout)[0].says + ": a matter of precision, not a bug"
            for cause in found[0].causes
            if cause.fault.harmless
        )
        if not best:
            return Diagnosis(baseline=self.evidence.baseline, why="; ".join(notes))
        return Diagnosis(
            findings(best, config, layout, others),
            tuple(findings(other, config, layout) for other in dict.fromkeys(others) if other != best),
            found[0].explained.multiple,
            self.evidence.baseline,
            notes=notes,
        )

    def _unknown(self, outcome: Outcome) -> Diagnosis:
        nearest = (Closest(" and ".join(map(str, c)) or "no fault", self.evidence.rough(c)) for c in outcome.nearest)
        why = "no fault of the table, nor a set of them, reproduces these logits"
        if not self.evidence.finite:
            why = "logits are not finite, and there is no number to reproduce: look at the mask, and for NaN in weights"
        elif self.unexplained:
            why += f"; stages that none explains: {', '.join(collapse(self.unexplained))}"
        if self.clock.over:
            why += f"; the search stopped after {self.clock.seconds:g} s"
        return Diagnosis(baseline=self.evidence.baseline, closest=tuple(nearest), why=why)
