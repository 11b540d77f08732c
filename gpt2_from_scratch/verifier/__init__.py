"""Is this GPT-2? A verdict, with the evidence for it, and the first place that differs when it is not.

The one idea: "equal" means "no further from the reference than the reference is from itself". That distance, the
floor, is measured in the same run on the same prompts, so there is no tolerance to guess.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gpt2_from_scratch.compare import LINE
from gpt2_from_scratch.loading import TINY, LayoutChoice, layout_variants, open_checkpoint
from gpt2_from_scratch.reference import load_reference
from gpt2_from_scratch.verifier.battery import Prompt, battery
from gpt2_from_scratch.verifier.candidate import Candidate, load_object
from gpt2_from_scratch.verifier.evidence import (
    Divergence,
    Generation,
    Logits,
    Weights,
    check_generation,
    check_logits,
    check_weights,
    find_divergence,
)

__all__ = ["Prompt", "Verdict", "battery", "load_object", "verify"]

_GREEDY_STEPS = 16


@dataclass(frozen=True)
class Verdict:
    """The outcome of `verify`. Truthy when verified; ``str()`` is the verdict in one line.

    Args:
        candidate: what was checked.
        checkpoint: against what.
        logits: the battery's result.
        weights: None where the candidate is no module, or no layout was given.
        generation: None where the logits failed already.
        divergence: where it differs; None when verified, or when the candidate cannot be looked into.
        unchecked: what was not checked, and why.
    """

    candidate: str
    checkpoint: str
    logits: Logits
    weights: Weights | None = None
    generation: Generation | None = None
    divergence: Divergence | None = None
    unchecked: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        parts = (self.weights, self.logits, self.generation)
        return all(bool(part) for part in parts if part is not None)

    def __str__(self) -> str:
        if self:
            return f"PASSED  {self.candidate} is GPT-2 as in {self.checkpoint}: logits {self.logits}"
        parts = (("weights", self.weights), ("logits", self.logits), ("generation", self.generation))
        failed = "; ".join(f"{name}: {part}" for name, part in parts if part is not None and not part)
        return f"FAILED  {self.candidate} is not GPT-2 as in {self.checkpoint}: {failed}"

    def report(self) -> str:
        """All evidence, one line per part, and the verdict as the last line."""
        logits = self.logits
        rows = [("weights", str(self.weights))] if self.weights is not None else []
        if self.weights is not None:
            rows += [("", f"{name}: {how}") for name, how in list(self.weights.differing.items())[:8]]
        rows.append(("logits", f"{len(logits.results)} prompts, {logits.tokens:,} tokens: {logits}"))
        rows.append(("top-1", f"{logits.top1:.2%} of positions choose the same token"))
        if not logits:
            rows.append(("", f"worst: {logits.worst.prompt.name}, {logits.worst.comparison}"))
        if self.generation is not None:
            rows.append(("generation", str(self.generation)))
        if self.divergence is not None:
            rows.append(("where", str(self.divergence)))
        rows += [("unchecked", what) for what in self.unchecked]
        return "\n".join([*(f"  {name:<11} {text}" for name, text in rows), str(self)])


def verify(
    candidate: Any,
    checkpoint: str | os.PathLike[str] = TINY,
    layout: LayoutChoice | None = None,
    *,
    prompts: Sequence[Prompt] | None = None,
    line: float = LINE,
    progress: Callable[[str], None] = lambda phase: None,
    **options: Any,
) -> Verdict:
    """Checks a model against transformers' `GPT2LMHeadModel` on the same checkpoint.

    Args:
        candidate: an `nn.Module` with weights in it, or any callable ``ids [B, T] -> logits [B, T, V]``, torch or
            numpy. It is checked in eval mode and given back as it was.
        checkpoint: a file, a directory or a Hub id; the default is the small trained model inside the package.
        layout: of the candidate, for modules: a name from `LAYOUTS` or a `Layout`. With it the weights are compared
            too, and a failure is located.
        prompts: instead of the standard battery.
        line: multiples of the floor that pass.
        progress: called with the name of each phase as it begins.
        **options: of `open_checkpoint`, for the file (``file_layout`` instead of ``layout``).

    Returns:
        A `Verdict`, truthy when verified.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        CandidateError: the candidate cannot be checked.

    Example:
        >>> from gpt2_from_scratch import GPTModel, verify
        >>> bool(verify(GPTModel.from_pretrained(), layout="gpt2_from_scratch"))
        True
    """
    layouts = layout_variants(layout) if layout is not None else ()
    opened = open_checkpoint(checkpoint, layout=options.pop("file_layout", None), **options)
    subject = Candidate(candidate, opened.config)
    unchecked = []
    with subject.evaluating():
        weights = None
        if subject.module is not None and layouts:
            progress("weights")
            weights = check_weights(subject, opened, layouts)
        else:
            why = "no layout was given" if subject.module is not None else "the candidate is a function"
            unchecked.append(f"weights, as {why} (a dropped key bias cannot be seen in logits)")
        progress("loading the reference")
        reference = load_reference(opened)
        prompts = battery(opened.config) if prompts is None else prompts
        progress("logits")
        logits = check_logits(subject, reference, prompts, line)
        generation = divergence = None
        if logits:
            progress("generation")
            single = [prompt for prompt in prompts if prompt.ids.size(0) == 1 and prompt.ids.size(1) > 1][:2]
            generation = check_generation(subject, reference, single, _GREEDY_STEPS, line * logits.floor)
        elif layouts:
            progress("first divergence")
            divergence = find_divergence(subject, reference, logits.worst.prompt, layouts)
    name = str(checkpoint) if checkpoint != TINY else "the model inside the package"
    return Verdict(subject.name, name, logits, weights, generation, divergence, tuple(unchecked))
