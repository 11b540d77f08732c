"""How many of the known faults does somebody's own test miss?

A test is judged by what it lets pass. The right model must pass; then every fault of the table is made
in a model that is otherwise right, and the test is asked again. A fault that does not move the logits on these weights
counts for nobody.
"""

import math
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt2_from_scratch.checks.parts import Result
from gpt2_from_scratch.compare import THRESHOLD, gap, noise_floor, scientific
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.diagnose.evidence import prompts_for
from gpt2_from_scratch.diagnose.fault import Cause, Fault
from gpt2_from_scratch.diagnose.simulation import Simulation, inject, simulated
from gpt2_from_scratch.diagnose.table import FAULT, FAULTS
from gpt2_from_scratch.diagnose.table.changes import formula
from gpt2_from_scratch.errors import CandidateError, crash_report
from gpt2_from_scratch.loading import TINY, Checkpoint, OpenOptions, Source, open_checkpoint
from gpt2_from_scratch.model import GPTModel

Check = Callable[[nn.Module], Any]
_SEED = 7


@dataclass(frozen=True, repr=False)
class Missed(Result):
    """A fault that the check let pass.

    Args:
        name: of the fault, with its parameter.
        says: what it does.
        difference: largest change of a logit.
        multiple: the same in floors.
        top1: share of positions at which the most probable token stays the same.
    """

    name: str
    says: str
    difference: float
    multiple: float
    top1: float

    def __str__(self) -> str:
        effect = f"moves logits by {scientific(self.difference)}" if math.isfinite(self.difference) else "makes NaN"
        return f"{self.name}: {self.says} ({effect})"


@dataclass(frozen=True, repr=False)
class Grade(Result):
    """What a check is worth. Truthy when it misses nothing that the logits show.

    Args:
        caught: faults that it noticed.
        missed: faults that it let pass, the largest first.
        invisible: faults that it let pass and that move no logit beyond rounding.
        floor: of the right model's logits: how far rounding moves them.
        advice: what to change in the check.
    """

    caught: tuple[str, ...]
    missed: tuple[Missed, ...]
    invisible: tuple[str, ...]
    floor: float
    advice: tuple[str, ...]

    def __bool__(self) -> bool:
        return not self.missed

    @property
    def score(self) -> float:
        """Share of the visible faults that are caught."""
        return len(self.caught) / (len(self.caught) + len(self.missed))

    def __str__(self) -> str:
        visible = len(self.caught) + len(self.missed)
        return f"catches {len(self.caught)} of {visible} faults that logits can show ({self.score:.0%})"

    def report(self) -> str:
        """All of it: what is missed, and what to do."""
        rows = [f"  misses {missed}" for missed in self.missed]
        rows += [f"  {name} is not counted: on these weights no logit shows it" for name in self.invisible]
        return "\n".join([*rows, *(f"  advice: {text}" for text in self.advice), str(self)])


def grade(
    check: Check,
    checkpoint: Source | Checkpoint = TINY,
    *,
    faults: Sequence[Fault] = FAULTS,
    progress: Callable[[str], None] = lambda phase: None,
    **options: Unpack[OpenOptions],
) -> Grade:
    """Asks a check about the right model, and about one with each fault in it.

    Args:
        check: gets a `GPTModel` in eval mode with the checkpoint's weights in it; returns False (or what counts
            as false), or raises, if it finds the model wrong. Each call gets a model of its own.
        checkpoint: whose weights: a file, a directory, a Hub id or an opened `Checkpoint`; the default is ``tiny``, the
            small trained model inside the package.
        faults: rows of the table.
        progress: called with the name of each fault.
        **options: how the checkpoint is opened; see `OpenOptions`.

    Raises:
        CandidateError: the check rejects the right model, or its answer is neither yes nor no.

    Example:
        >>> def same_shape(model):
        ...     return model(torch.tensor([[1, 2, 3]])).shape == (1, 3, 512)
        >>> print(grade(same_shape, faults=[FAULT["gelu_erf"], FAULT["no_scale"]]))
        catches 0 of 2 faults that logits can show (0%)
    """
    opened = open_checkpoint(checkpoint, **options)

    def fresh(*causes: Cause) -> GPTModel:
        model = simulated(opened.config, lambda name: opened.read(name).clone())
        for cause in causes:
            inject(model, cause)
        return model.requires_grad_(True)

    progress("the right model")
    objection = _objection(check, fresh())
    if objection is not None:
        raise CandidateError(
            f"the check rejects the right model: {objection}",
            hint="it gets a GPTModel with the checkpoint's weights in it, which must pass; is its tolerance below the "
            "noise of float32?",
        )
    scale = _Scale(fresh())
    caught, missed, invisible = [], [], []
    for cause in _examples(opened.config, faults):
        progress(str(cause))
        model = fresh(cause)
        effect = scale.effect(cause, model)
        if _objection(check, model) is not None:
            caught.append(str(cause))
        elif effect.multiple <= THRESHOLD:
            invisible.append(str(cause))
        else:
            missed.append(effect)
    missed.sort(key=lambda each: -each.multiple)
    return Grade(tuple(caught), tuple(missed), tuple(invisible), scale.floor, tuple(_advice(missed, invisible, scale)))


def _objection(check: Check, model: GPTModel) -> str | None:
    """What the check has against a model; None if nothing.

    Raises:
        CandidateError: its answer is neither yes nor no.
    """
    try:
        answer = check(model)
        if isinstance(answer, _NO_ANSWERS):
            if isinstance(answer, Coroutine):
                answer.close()  # nobody will wait for it
        elif answer is None or answer:
            return None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # pytest's own failures are no Exceptions, and a script ends with sys.exit(1)
        return crash_report(error)
    if isinstance(answer, _NO_ANSWERS):
        raise CandidateError(
            f"the check returned a {type(answer).__name__}, which is neither yes nor no",
            hint="make it an ordinary function that returns True or False, or raises",
        )
    return f"it returned {answer!r:.80}"


# They count as true, whatever is in them or would come of them.
_NO_ANSWERS = (Coroutine, Generator, AsyncGenerator, tuple, list, dict, str)


class _Scale:
    """How much a fault moves the logits of the right model."""

    def __init__(self, model: GPTModel) -> None:
        prompts = prompts_for(model.config)
        self.prompts = (prompts.text, prompts.check)
        simulations = [Simulation(model, ids) for ids in self.prompts]
        self.right = [simulation.logits() for simulation in simulations]
        exact = [simulation.logits((), "float64") for simulation in simulations]
        largest = max(float(logits.abs().max()) for logits in self.right)
        self.floor = noise_floor((gap(one, other) for one, other in zip(self.right, exact, strict=True)), largest)
        self.single = Simulation(model, prompts.single)

    def effect(self, cause: Cause, model: GPTModel) -> Missed:
        with torch.inference_mode():
            wrong = [model(ids) for ids in self.prompts]
        difference = max(gap(one, other) for one, other in zip(wrong, self.right, strict=True))
        same = [
            (one.argmax(-1) == other.argmax(-1)).double().mean() for one, other in zip(wrong, self.right, strict=True)
        ]
        value = f"{cause.value:.3g}" if isinstance(cause.value, float) else cause.value
        says = cause.fault.says.format(value=value, config=model.config)
        return Missed(str(cause), says, difference, difference / self.floor, float(sum(same) / len(same)))


def _examples(config: GPTConfig, faults: Sequence[Fault]) -> Iterator[Cause]:
    """One cause per fault, and each plausible value where the size of the effect depends on it."""
    for fault in faults:
        if fault.name in _MADE_UP:
            yield _MADE_UP[fault.name](config)
        elif fault.neutral and not fault.general:
            yield from fault.causes(config)
        else:
            yield from list(fault.causes(config))[:1]


def _noise(*shape: int, scale: float = 0.02) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(_SEED))


def _dropout(config: GPTConfig) -> Cause:
    acting = {"h.*.mlp.dropout.forward": formula(lambda x: F.dropout(x, 0.1))}
    return Cause(replace(FAULT["dropout_on"], changes=acting))


# What cannot be guessed when it is searched for can still be made up.
_MADE_UP: Mapping[str, Callable[[GPTConfig], Cause]] = {
    "lm_head_not_tied": lambda c: Cause(FAULT["lm_head_not_tied"], _noise(c.vocab_size, c.n_embd)),
    "lm_head_bias": lambda c: Cause(FAULT["lm_head_bias"], _noise(c.vocab_size)),
    "logits_scaled": lambda c: Cause(FAULT["logits_scaled"], 0.7),
    "tensors_differ": lambda c: Cause(
        FAULT["tensors_differ"], (("h.0.mlp.c_fc.weight", _noise(c.n_embd, c.inner_dim)),)
    ),
    "dropout_on": _dropout,
}


def _advice(missed: Sequence[Missed], invisible: Sequence[str], scale: _Scale) -> Iterator[str]:
    if invisible:
        yield "compare weights, too: logits cannot show everything"
    if not missed:
        return
    names = {each.name.split(" ")[0] for each in missed}
    if all(each.top1 == 1 for each in missed):
        yield "compare logits, not the tokens chosen: none of the missed faults changes a greedy choice"
    if all(_between_tokens(name, scale) for name in names):
        yield "use prompts of more than one token: what is missed lies between tokens (scores, mask, heads, positions)"
    vectors = ", ".join(sorted(filter(_only_vectors, names)))
    if vectors:
        yield f"use weights in which every parameter is perturbed: biases of 0 and gains of 1 hide {vectors}"
    least = min(each.difference for each in missed)
    tolerance = math.sqrt(least * scale.floor)  # half way, as floats go
    yield (
        f"compare all logits of a prompt within {tolerance:.0e}: right code stays within "
        f"{THRESHOLD * scale.floor:.0e}, and the mildest fault that was missed moves them by {least:.0e}"
    )


def _between_tokens(name: str, scale: _Scale) -> bool:
    """Whether a token by itself does not show the fault."""
    causes = next(((cause,) for cause in FAULT[name].causes(scale.single.model.config)), None)
    return causes is not None and gap(scale.single.logits(causes), scale.single.logits()) <= THRESHOLD * scale.floor


def _only_vectors(name: str) -> bool:
    """A fault of biases and of LayerNorm's parameters alone: nothing to see where these are 0 and 1."""
    changes = FAULT[name].changes
    return (
        isinstance(changes, Mapping)
        and bool(changes)
        and all(path.endswith(".bias") or ("ln_" in path and path.endswith(".weight")) for path in changes)
    )
