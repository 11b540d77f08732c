"""The outcome: every part of the evidence as a value, what was not checked, and one answer.

The one idea: a part that was not checked is named, never counted as passed, and comparing nothing is no verdict.
"""

from dataclasses import dataclass, field
from typing import Any

from gpt2_from_scratch.checks.generation import Generation
from gpt2_from_scratch.checks.gradients import Gradients
from gpt2_from_scratch.checks.logits import Logits
from gpt2_from_scratch.checks.selftests import SelfTests
from gpt2_from_scratch.checks.weights import Weights
from gpt2_from_scratch.diagnose import Diagnosis
from gpt2_from_scratch.diagnose.divergence import Divergence

_MOST_LINES = 8  # of detail per part, unless all are asked for


@dataclass(frozen=True)
class Verdict:
    """The outcome of `verify`. Truthy when verified; ``str()`` is the verdict in one line.

    Args:
        candidate: what was checked.
        checkpoint: against what.
        weights: None where the candidate is no module, no layout was given, or it was skipped.
        self_tests: None where they were skipped, or the candidate is a recording.
        logits: None where they were skipped.
        generation: None where the logits failed already, or it was skipped.
        gradients: None unless asked for.
        divergence: where it differs; None when verified, or when the candidate cannot be looked into.
        diagnosis: which fault explains it; None when verified, or where nobody has looked.
        notes: how the candidate was adapted to be asked at all.
        unchecked: what was not checked, and why.
        environment: versions, device, threads and other circumstances.
        interrupted: the phase in which somebody stopped it, or None.
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
    unchecked: tuple[str, ...] = ()
    environment: dict[str, Any] = field(default_factory=dict)
    interrupted: str | None = None

    @property
    def parts(self) -> dict[str, Weights | SelfTests | Logits | Generation | Gradients]:
        """The evidence that was taken, in order."""
        parts = {
            "weights": self.weights,
            "self-tests": self.self_tests,
            "logits": self.logits,
            "generation": self.generation,
            "gradients": self.gradients,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def __bool__(self) -> bool:
        return self.interrupted is None and bool(self.parts) and all(map(bool, self.parts.values()))

    def __str__(self) -> str:
        failed = "; ".join(f"{name}: {part}" for name, part in self.parts.items() if not part)
        if self.interrupted is not None:
            so_far = f"what was checked before had failed: {failed}" if failed else "nothing had failed so far"
            return f"INTERRUPTED  during {self.interrupted}: no verdict on {self.candidate}; {so_far}"
        if not self:
            return f"FAILED  {self.candidate} is not GPT-2 as in {self.checkpoint}: {failed or 'nothing was compared'}"
        if self.logits is None:
            return f"PASSED  {self.candidate}: {' and '.join(self.parts)} only; logits were not compared"
        return f"PASSED  {self.candidate} is GPT-2 as in {self.checkpoint}: logits {self.logits}"

    def report(self, verbose: bool = False) -> str:
        """All evidence, a few lines per part, and the verdict as the last line.

        Args:
            verbose: every prompt, every self-test, every site, and the environment.
        """
        rows = [row for name, part in self.parts.items() for row in _ROWS[name](part, verbose)]
        if self.divergence is not None:
            if verbose:
                rows += [("sites" if not index else "", line) for index, line in enumerate(_sites(self.divergence))]
            if not self:
                rows.append(("where", str(self.divergence)))
        if self.diagnosis is not None:
            rows.append(("diagnosis", str(self.diagnosis)))
        rows += [("note", what) for what in self.notes]
        rows += [("unchecked", what) for what in self.unchecked]
        if verbose:
            rows.append(("ran with", ", ".join(f"{name} {value}" for name, value in self.environment.items())))
        lines = (f"  {name:<11} {line}" for name, text in rows for name, line in _indented(name, text))
        return "\n".join([*lines, str(self)])


Rows = list[tuple[str, str]]


def _weights(part: Any, verbose: bool) -> Rows:
    return [("weights", str(part)), *_limited(part.details(), verbose)]


def _self_tests(part: Any, verbose: bool) -> Rows:
    shown = part.results if verbose else part.failed
    rows = [("self-tests", f"{len(part.failed)} of {len(part.results)} failed" if not part else str(part))]
    return rows + [("", str(result)) for result in shown]


def _logits(part: Any, verbose: bool) -> Rows:
    rows = [("logits", f"{len(part.results)} prompts, {part.tokens:,} tokens: {part}")]
    agreement = f"same first choice at {part.top1:.2%}, same ten best {part.top10:.2%}, KL {part.kl:.1e} nats per token"
    if part.loss is not None:
        mine, theirs = part.loss
        agreement += f", loss {mine:.4f} ({mine - theirs:+.1e})"
    rows.append(("", agreement))
    if not part and not verbose:
        rows.append(("", f"worst: {part.worst.prompt.name}, {part.worst.comparison}"))
    if verbose:
        for result in part.results:
            multiple = result.comparison.max_abs / part.floor
            rows.append(("", f"{result.prompt.name}: {result.comparison}, {multiple:.2f} x floor"))
    return rows


def _plain(name: str) -> Any:
    return lambda part, verbose: [(name, str(part))]


_ROWS = {
    "weights": _weights,
    "self-tests": _self_tests,
    "logits": _logits,
    "generation": _plain("generation"),
    "gradients": _plain("gradients"),
}


def _limited(lines: list[str], verbose: bool) -> Rows:
    shown = lines if verbose else lines[:_MOST_LINES]
    rest = [f"and {len(lines) - len(shown)} more (-v)"] if len(shown) < len(lines) else []
    return [("", line) for line in (*shown, *rest)]


def _sites(divergence: Divergence) -> list[str]:
    return [
        f"{site.name}: never ran" if not site.called else f"{site.name}: in {site.input:.1e}, out {site.output:.1e}"
        for site in divergence.sites
    ]


def _indented(name: str, text: str) -> Rows:
    return [(name if not index else "", line) for index, line in enumerate(text.splitlines() or [""])]
