"""Greedy continuations: what a user would see.

Where both part ways, the reference's two best logits say whether that is a difference or a tie that
rounding decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gpt2_from_scratch.checks.candidate import Candidate
from gpt2_from_scratch.checks.parts import Result
from gpt2_from_scratch.checks.prompts import Prompt
from gpt2_from_scratch.compare import scientific
from gpt2_from_scratch.reference import Reference


@dataclass(frozen=True, repr=False)
class Generation(Result):
    """Greedy continuations compared. Truthy when they are the same, or part ways at a tie.

    Args:
        tokens: generated and equal.
        at_once: whether the candidate read the reference's continuation in one pass, and not token by token.
        parted: the prompt and step at which they first differ, or None.
        gap: there, how far apart the reference's two best logits are.
        tie: whether that gap is within the floor, so that rounding decides.
    """

    tokens: int
    at_once: bool = False
    parted: tuple[str, int] | None = None
    gap: float = 0.0
    tie: bool = False

    def __bool__(self) -> bool:
        return self.parted is None or self.tie

    def __str__(self) -> str:
        if self.parted is None:
            how = ", read in one pass" if self.at_once else ""
            return f"{self.tokens} greedy tokens identical{how}"
        prompt, step = self.parted
        kind = "a tie, decided by rounding" if self.tie else "not a tie"
        apart = f"where the reference's best two logits are {scientific(self.gap)} apart"
        return f"prompt {prompt!r}: the texts differ from step {step} on, {apart}: {kind}"


def check_generation(
    candidate: Candidate,
    reference: Reference,
    prompts: Sequence[Prompt],
    steps: int,
    tolerance: float,
    *,
    at_once: bool = False,
) -> Generation:
    """Compares the greedy choices of both along the reference's continuation of each prompt.

    As long as the choices are the same, the continuation is the candidate's own, too.

    Args:
        candidate: the model under test.
        reference: what it should be.
        prompts: one row each.
        steps: tokens to generate; fewer where the context ends.
        tolerance: gap between the best two logits below which their order is rounding.
        at_once: the candidate reads each continuation in one pass. That is what it would say step by step, if it is
            deterministic and causal; otherwise it recomputes everything at every step.
    """
    tokens, tie = 0, Generation(0)
    for prompt in prompts:
        ids, start = reference.continued(prompt.ids, steps), prompt.ids.size(1)
        count = ids.size(1) - start
        if count == 0:
            continue
        expected = reference.logits(ids[:, :-1])[0, start - 1 :]  # without a cache, as the candidate is asked
        whole = candidate.greedy(ids[:, :-1])[0, start - 1 :] if at_once else None
        for step in range(count):
            choice = candidate.greedy(ids[:, : start + step])[0, -1] if whole is None else whole[step]
            if choice != expected[step].argmax():
                best, second = (float(value) for value in expected[step].topk(2).values)
                parted = Generation(tokens, at_once, (prompt.name, step), best - second, best - second <= tolerance)
                if not parted:
                    return parted
                tie = parted
                break
            tokens += 1
            if choice != ids[0, start + step]:  # the reference itself, with its cache, has chosen the other of a tie
                break
    return Generation(tokens, at_once, tie.parted, tie.gap, tie.tie)
