"""Greedy continuations, token by token: what a user would see.

Where both part ways, the reference's two best logits say whether that is a difference or a tie that
rounding decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

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
        parted: the prompt and step at which they first differ, or None.
        gap: there, how far apart the reference's two best logits are.
        tie: whether that gap is within the floor, so that rounding decides.
    """

    tokens: int
    parted: tuple[str, int] | None = None
    gap: float = 0.0
    tie: bool = False

    def __bool__(self) -> bool:
        return self.parted is None or self.tie

    def __str__(self) -> str:
        if self.parted is None:
            return f"{self.tokens} greedy tokens identical"
        prompt, step = self.parted
        kind = "a tie, decided by rounding" if self.tie else "not a tie"
        apart = f"where the best two logits are {scientific(self.gap)} apart"
        return f"prompt {prompt!r} parts ways at step {step}, {apart}: {kind}"


def check_generation(
    candidate: Candidate, reference: Reference, prompts: Sequence[Prompt], steps: int, tolerance: float
) -> Generation:
    """Continues each prompt greedily with both, recomputing everything at every step.

    Args:
        candidate: the model under test.
        reference: what it should be.
        prompts: one row each.
        steps: tokens to generate; fewer where the context ends.
        tolerance: gap between the best two logits below which their order is rounding.
    """
    tokens, tie = 0, Generation(0)
    for prompt in prompts:
        ids = prompt.ids
        for step in range(min(steps, reference.config.n_positions - ids.size(1))):
            expected = reference.logits(ids)[:, -1]
            choice = expected.argmax(-1)
            if not torch.equal(candidate.greedy(ids), choice):
                best, second = (float(value) for value in expected[0].topk(2).values)
                parted = Generation(tokens, (prompt.name, step), best - second, best - second <= tolerance)
                if not parted:
                    return parted
                tie = parted
                break
            ids = torch.cat([ids, choice[:, None]], dim=1)
            tokens += 1
    return Generation(tokens, tie.parted, tie.gap, tie.tie)
