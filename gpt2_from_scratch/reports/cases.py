"""A verdict as a flat list of cases, as continuous integration counts them: passed, failed, or not checked and why.

The list says what the verdict says. It holds a failure or an error exactly when the verdict is false, so whoever
counts failures comes to the same conclusion as whoever asks for ``bool(verdict)``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from gpt2_from_scratch.checks.logits import Logits, PromptResult
from gpt2_from_scratch.checks.parts import PARTS, PartName
from gpt2_from_scratch.checks.selftests import SelfTests
from gpt2_from_scratch.checks.weights import Weights
from gpt2_from_scratch.compare import times
from gpt2_from_scratch.diagnose import Diagnosis
from gpt2_from_scratch.reports.results import Part, Results
from gpt2_from_scratch.reports.text import diagnosis_rows, said, weights_details

CaseStatus: TypeAlias = Literal["passed", "failed", "not checked", "error"]


@dataclass(frozen=True)
class Case:
    """One line of a report.

    Args:
        part: which kind of evidence; "verdict" for what ended all of it; "unchecked" for what belongs to none.
        name: what was checked.
        status: an error is what prevented a verdict.
        message: the finding in one line; for what was not checked, the reason.
        details: more lines.
        place: the file and line of the candidate's own code that it is about, where one is known.
    """

    part: PartName | Literal["verdict", "unchecked"]
    name: str
    status: CaseStatus
    message: str
    details: tuple[str, ...] = ()
    place: tuple[str, int] | None = None


def cases(verdict: Results) -> tuple[Case, ...]:
    """Every part of the evidence in order, what was not checked, and whatever prevented a verdict.

    Args:
        verdict: of `verify`.

    Example:
        >>> [case.status for case in cases(Results("model", "checkpoint"))][-1]
        'error'
    """
    return tuple(_cases(verdict))


def worst(found: tuple[Case, ...]) -> CaseStatus:
    """The status of several cases together; what was not checked counts only if nothing was."""
    statuses = {case.status for case in found}
    order: tuple[CaseStatus, ...] = ("error", "failed", "passed")
    return next((status for status in order if status in statuses), "not checked")


def diagnosis_lines(diagnosis: Diagnosis) -> tuple[str, ...]:
    """A diagnosis as lines, as the terminal shows it."""
    return tuple(f"{label}: {text}" if label else text for label, text in diagnosis_rows(diagnosis))


def _cases(verdict: Results) -> Iterator[Case]:
    for part in verdict.parts:
        yield from _part(part, verdict.diagnosis)
    for what, why in verdict.unchecked.items():
        if what not in PARTS:
            yield Case("unchecked", what, "not checked", why)
    if not verdict.reached:
        stopped = f"interrupted during {verdict.interrupted}" if verdict.interrupted is not None else verdict.error
        first, *rest = (stopped or "nothing was compared").splitlines()
        yield Case("verdict", "complete", "error", f"{first}: there is no verdict", tuple(rest))


def _part(part: Part, diagnosis: Diagnosis | None) -> Iterator[Case]:
    result = part.result
    if isinstance(result, SelfTests):
        for test in result.results:
            message, *rest = (test.unasked if test.difference is None else str(test)).splitlines()
            yield Case(part.name, test.name, test.status, message, tuple(rest))
    elif isinstance(result, Logits):
        yield from _logits(result)
    else:
        details = tuple(weights_details(result)) if isinstance(result, Weights) else ()
        if part.name == "where" and part.status == "failed" and diagnosis is not None:
            details = diagnosis_lines(diagnosis)
        yield Case(part.name, part.name, part.status, said(part), details)


def _logits(logits: Logits) -> Iterator[Case]:
    failing = [result for result in logits.results if _fails(result, logits)]
    for result in logits.results:
        message = f"{result.comparison}, {times(result.comparison.max_abs / logits.floor)} noise floors"
        yield Case("logits", result.prompt.name, "failed" if result in failing else "passed", message)
    for prompt, crash in logits.crashes:
        first, *rest = crash.report.splitlines()
        yield Case("logits", prompt.name, "failed", f"the candidate crashes on it: {first}", tuple(rest), crash.place)
    if logits.exact is not None:
        yield Case("logits", "in float64", "passed" if logits.exact else "failed", str(logits.exact))
    elif logits.differ and not failing:  # whatever the reason will once be: a failure is never lost
        yield Case("logits", "all prompts", "failed", str(logits))


def _fails(result: PromptResult, logits: Logits) -> bool:
    """Whether this prompt is one of those for which the logits failed."""
    if not logits.differ:
        return False
    if logits.tolerance is not None:
        return result.excess is None or not result.excess <= 0
    return not result.comparison.max_abs <= logits.threshold * logits.floor
