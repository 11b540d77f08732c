"""A verdict as a flat list of checks, as continuous integration counts them: passed, failed, or not checked and why.

The one idea: the list says what the verdict says. It holds a failure or an error exactly when the verdict is false, so
whoever counts failures comes to the same conclusion as whoever asks for ``bool(verdict)``.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from gpt2_from_scratch.checks.logits import PromptResult
from gpt2_from_scratch.verifier import PARTS, Logits, Verdict

Outcome: TypeAlias = Literal["passed", "failed", "not checked", "error"]


@dataclass(frozen=True)
class Check:
    """One line of a report.

    Args:
        part: which kind of evidence, one of `verifier.PARTS`; "verdict" for what ended all of it; "unchecked" for what
            belongs to none.
        name: what was checked.
        outcome: an error is what prevented a verdict.
        message: the finding in one line; for what was not checked, the reason.
        details: more lines.
    """

    part: str
    name: str
    outcome: Outcome
    message: str
    details: tuple[str, ...] = ()


def checks(verdict: Verdict) -> tuple[Check, ...]:
    """Every part of the evidence in order, what was not checked, and whatever prevented a verdict.

    Example:
        >>> [check.outcome for check in checks(Verdict("model", "checkpoint"))][-1]
        'error'
    """
    return tuple(_checks(verdict))


def worst(found: tuple[Check, ...]) -> Outcome:
    """The outcome of several checks together; what was not checked counts only if nothing was."""
    outcomes = {check.outcome for check in found}
    order: tuple[Outcome, ...] = ("error", "failed", "passed")
    return next((outcome for outcome in order if outcome in outcomes), "not checked")


def _checks(verdict: Verdict) -> Iterator[Check]:
    for part in PARTS:
        yield from _evidence(part, verdict) or [Check(part, part, "not checked", _reason(part, verdict))]
    for text in verdict.unchecked:
        what, _ = _what_and_why(text)
        if what not in PARTS:
            yield Check("unchecked", what, "not checked", text)
    if verdict.interrupted is not None:
        yield Check("verdict", "complete", "error", f"interrupted during {verdict.interrupted}: there is no verdict")
    elif not verdict.parts:
        yield Check("verdict", "complete", "error", "nothing was compared: there is no verdict")


def _evidence(part: str, verdict: Verdict) -> list[Check]:
    """What was found, or nothing where nothing was looked at."""
    if part == "self-tests" and verdict.self_tests is not None:
        return [
            Check(part, test.name, "not checked", test.fault)
            if test.difference is None
            else Check(part, test.name, _outcome(bool(test)), str(test))
            for test in verdict.self_tests.results
        ]
    if part == "logits" and verdict.logits is not None:
        return list(_logits(verdict.logits))
    if part == "where" and verdict.divergence is not None:
        agree = verdict.logits is None or bool(verdict.logits)
        explained = () if verdict.diagnosis is None else (str(verdict.diagnosis),)
        found = "every compared module agrees" if agree else str(verdict.divergence)
        return [Check(part, part, _outcome(agree), found, () if agree else explained)]
    if part in verdict.parts:
        found_part = verdict.parts[part]
        details = tuple(verdict.weights.details()) if part == "weights" and verdict.weights is not None else ()
        return [Check(part, part, _outcome(bool(found_part)), str(found_part), details)]
    return []


def _logits(logits: Logits) -> Iterator[Check]:
    failing = [result for result in logits.results if _fails(result, logits)]
    for result in logits.results:
        message = f"{result.comparison}, {result.comparison.max_abs / logits.floor:.2f} x floor"
        yield Check("logits", result.prompt.name, _outcome(result not in failing), message)
    if logits.exact is not None:
        yield Check("logits", "in float64", _outcome(bool(logits.exact)), str(logits.exact))
    elif not logits and not failing:  # whatever the reason will once be: a failure is never lost
        yield Check("logits", "all prompts", "failed", str(logits))


def _fails(result: PromptResult, logits: Logits) -> bool:
    """Whether this prompt is one of those for which the logits failed."""
    if logits:
        return False
    if logits.tolerance is not None:
        return result.excess is None or not result.excess <= 0
    return not result.comparison.max_abs <= logits.line * logits.floor


def _outcome(good: bool) -> Outcome:
    return "passed" if good else "failed"


def _reason(part: str, verdict: Verdict) -> str:
    """Why nothing was found in this part."""
    for text in verdict.unchecked:
        what, why = _what_and_why(text)
        if what == part:
            return why
    if verdict.interrupted is not None:
        return f"interrupted during {verdict.interrupted}"
    if part == "where":
        if verdict.logits is not None and not verdict.logits:
            return "it takes a torch module and its layout to look inside"
        return "nothing that could be located differs"
    return "not asked for"


def _what_and_why(unchecked: str) -> tuple[str, str]:
    """What was not checked, and why, from "logits, as asked" or "natural text: there is no tokenizer"."""
    what, _, why = re.sub(", as |: ", "\n", unchecked, count=1).partition("\n")
    return what, why
