"""A head of its own, found from logits alone.

The one idea: logits are linear in the final hidden states, and those are known if nothing else is wrong. So the head is
the solution of linear equations, one per token: more tokens than the width determine it, and what it then says to other
prompts proves it or not. It is the one fault with as many unknown numbers as it has weights, and a common one: the
file holds no head, so one that is not tied stays as random as it was built.
"""

from contextlib import nullcontext

import torch
from torch import Tensor

from gpt2_from_scratch.diagnose.clock import Clock
from gpt2_from_scratch.diagnose.evidence import Evidence
from gpt2_from_scratch.diagnose.fault import NORM, Cause, Causes
from gpt2_from_scratch.diagnose.simulation import Simulation
from gpt2_from_scratch.diagnose.table import FAULT
from gpt2_from_scratch.errors import CandidateError
from gpt2_from_scratch.model import GPTModel
from gpt2_from_scratch.precision import in_float64

_SEED = 2424  # of the prompts; others than those that judge
_PER_WIDTH = 2  # tokens per unknown: rounding then reaches the logits of other prompts with sqrt(2) of its size
_TOKENS, _ROWS = 64, 4  # of a prompt, and prompts at once
_UNKNOWN = 0.5  # of a head must be new; one that is nearly the embedding, or it rescaled, has another cause


def own_head(evidence: Evidence, base: Causes, clock: Clock) -> Cause | None:
    """The head that a candidate would have if nothing else were wrong with it.

    Args:
        evidence: of the candidate, which is asked for the logits of twice as many tokens as it is wide.
        base: what is known to be wrong.
        clock: when to give up.

    Returns:
        A hypothesis, to be judged on prompts that are not among those asked here. None where that head is too much like
        the embedding to be one of its own, where the candidate failed, or time ran out.
    """
    model = evidence.laboratory.model
    prompts = _prompts(model)
    streams = [Simulation(model, ids).stream(NORM, base, "float64").flatten(0, 1) for ids in clock.during(prompts)]
    if len(streams) < len(prompts):
        return None
    solving = torch.linalg.pinv(torch.cat(streams), rtol=1e-10)  # (E, tokens)
    weight = solving.new_zeros(model.config.vocab_size, model.config.n_embd)
    parts = solving.split([len(stream) for stream in streams], dim=1)
    asked = 0
    for ids, part in clock.during(zip(prompts, parts, strict=True)):
        try:
            with nullcontext() if evidence.exact is None else in_float64():
                logits = evidence.candidate.logits(ids).flatten(0, 1).double()  # (tokens, V)
        except (CandidateError, NotImplementedError):
            return None
        weight += logits.t() @ part.t()
        asked += 1
    if asked < len(prompts):
        return None
    tied = model.wte.weight.double()
    return Cause(FAULT["lm_head_not_tied"], weight.float()) if _share_beside(weight, tied) >= _UNKNOWN else None


def _prompts(model: GPTModel) -> list[Tensor]:
    config = model.config
    shape = (_ROWS, min(_TOKENS, config.n_positions))
    generator = torch.Generator().manual_seed(_SEED)
    count = -(-_PER_WIDTH * config.n_embd // (shape[0] * shape[1]))
    return [torch.randint(config.vocab_size, shape, generator=generator) for _ in range(count)]


def _share_beside(weight: Tensor, tied: Tensor) -> float:
    """How much of a head is left when each of its columns is compared with a multiple of the embedding's."""
    multiples = (weight * tied).sum(0) / tied.square().sum(0)
    return float((weight - multiples * tied).norm() / weight.norm())
