"""The results of a verification: every part of the evidence as a record, what was not checked, and one answer.

A part that was not checked is named, never counted as passed. Comparing nothing is no verdict. All facts are fields;
the sentences about them are made by the other files of this folder, and `Verdict` says them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from gpt2_from_scratch.checks.generation import Generation
from gpt2_from_scratch.checks.gradients import Gradients
from gpt2_from_scratch.checks.logits import Logits
from gpt2_from_scratch.checks.parts import PARTS, PartName, Status
from gpt2_from_scratch.checks.selftests import SelfTests
from gpt2_from_scratch.checks.weights import Weights
from gpt2_from_scratch.diagnose import Diagnosis
from gpt2_from_scratch.diagnose.divergence import Divergence
from gpt2_from_scratch.errors import short_repr

PartResult: TypeAlias = Weights | SelfTests | Logits | Generation | Gradients | Divergence
Fact: TypeAlias = str | int | float | bool | None

# Why a part is not checked where nothing more is to be said.
_USUAL: Mapping[PartName, str] = {"gradients": "not asked for", "where": "the logits agree"}


@dataclass(frozen=True)
class Part:
    """One kind of evidence.

    Args:
        name: one of `PARTS`.
        status: passed, failed, or not checked.
        reason: why it was not checked; empty where it was.
        result: the numbers; None where it was not checked.
    """

    name: PartName
    status: Status
    reason: str = ""
    result: PartResult | None = None

    def __repr__(self) -> str:
        return short_repr("Part", f"{self.name} {self.status}{f', {self.reason}' if self.reason else ''}")


@dataclass(frozen=True, repr=False)
class Results:
    """What `verify` found. Truthy when verified.

    Args:
        candidate: name of what was checked.
        checkpoint: name of what it was checked against.
        weights: the candidate's parameters against the checkpoint's.
        self_tests: the candidate against itself.
        logits: the candidate's logits against the reference's.
        generation: greedy continuations of both.
        gradients: loss and gradients of both.
        divergence: where in the candidate the numbers go wrong: the part that is called "where".
        diagnosis: which fault explains the difference; None where nobody has looked for one.
        notes: how the candidate was adapted to be asked at all.
        assumed: what no file says about the model, and what was assumed instead: ``activation_function gelu_new
            (GPT-2's)``.
        unchecked: what was not checked -> why; names of parts, and whatever else is worth knowing.
        environment: versions, device, threads and other circumstances.
        interrupted: the phase in which somebody stopped it, or None.
        error: why there is no verdict, or None.
    """

    candidate: str
    checkpoint: str
    weights: Weights | None = None
    self_tests: SelfTests | None = None
    logits: Logits | None = None
    generation: Generation | None = None
    gradients: Gradients | None = None
    divergence: Divergence | None = None
    diagnosis: Diagnosis | None = None
    notes: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    unchecked: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, Fact] = field(default_factory=dict)
    interrupted: str | None = None
    error: str | None = None

    @property
    def _results(self) -> Mapping[PartName, PartResult | None]:
        return {
            "weights": self.weights,
            "self-tests": self.self_tests,
            "logits": self.logits,
            "generation": self.generation,
            "gradients": self.gradients,
            "where": self.divergence,
        }

    @property
    def parts(self) -> tuple[Part, ...]:
        """All parts, in order."""
        return tuple(map(self._part, PARTS))

    def _part(self, name: PartName) -> Part:
        result = self._results[name]
        if result is None:
            usual = _USUAL.get(name, "nothing was compared") if self.reached else "there is no verdict"
            if self.interrupted is not None:
                usual = f"interrupted during {self.interrupted}"
            return Part(name, "not checked", self.unchecked.get(name, usual))
        # Where numbers part is a matter of degree: whether they part at all, the logits decide.
        good = (self.logits is None or not self.logits.differ) if name == "where" else bool(result)
        return Part(name, "passed" if good else "failed", result=result)

    @property
    def compared(self) -> tuple[Part, ...]:
        """The parts that the verdict rests on: those that were checked, except where the numbers part."""
        taken = [name for name, result in self._results.items() if result is not None and name != "where"]
        return tuple(map(self._part, taken))

    @property
    def failed(self) -> tuple[Part, ...]:
        """The parts that failed."""
        return tuple(part for part in self.parts if part.status == "failed")

    @property
    def reached(self) -> bool:
        """Whether there is a verdict at all."""
        return self.interrupted is None and self.error is None and bool(self.compared)

    def __bool__(self) -> bool:
        return self.reached and all(part.status == "passed" for part in self.compared)

    @property
    def outcome(self) -> str:
        """Passed, failed, interrupted, or error where there is no verdict for another reason."""
        if self.interrupted is not None:
            return "interrupted"
        return "error" if not self.reached else "passed" if self else "failed"
