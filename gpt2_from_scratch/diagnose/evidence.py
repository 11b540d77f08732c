"""What the candidate says, and how nearly a simulation says the same.

There are two measures, for two questions. *Which hypothesis is nearest?* is asked thousands of times, so it is
answered on some of the vocabulary, and blind to what may happen after the last block (a scale, a softmax, a bias): the
search for what is wrong inside need not know what is wrong outside. *Is this it?* is asked of the few that are near, on
all logits of all prompts, and answered in multiples of the simulation's own rounding: a wrong model may amplify it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gpt2_from_scratch.checks.candidate import Candidate
from gpt2_from_scratch.compare import THRESHOLD, gap, noise_floor
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.diagnose.fault import HEAD, NORM, Cause, Causes, threshold
from gpt2_from_scratch.diagnose.simulation import Rounding, Simulation
from gpt2_from_scratch.model import GPTModel
from gpt2_from_scratch.reference import Reference

_SEED = 4242  # of the prompts; another than the verifier's
_COLUMNS = 1024  # of the vocabulary that are looked at while searching
_VISIBLE = 5e-7  # relative change of a stream that is more than rounding: 5e-8 by one stage
BETTER = 4.0  # an explanation must leave less than a quarter of the difference: a fault as small as the line proves
# nothing by coming within it


@dataclass(frozen=True)
class Prompts:
    """Where the candidate is asked. What one token shows cannot be a fault between tokens, and the search uses that.

    Args:
        single: ``[16, 1]``: tokens by themselves.
        text: ``[1, 24]``: enough for every score path and mask.
        check: ``[2, 17]``: not searched on; whatever was fitted to the others must hold here.
    """

    single: Tensor
    text: Tensor
    check: Tensor

    def ended_otherwise(self, vocab_size: int) -> Tensor:
        """`text` with another last token, which must not change what is said before it."""
        ids = self.text.clone()
        ids[:, -1] = (ids[:, -1] + 1) % vocab_size
        return ids

    def all(self, vocab_size: int) -> tuple[Tensor, ...]:
        """Everything that a candidate is asked: for programs that cannot be called."""
        return self.single, self.text, self.check, self.ended_otherwise(vocab_size)


def prompts_for(config: GPTConfig) -> Prompts:
    """Ids without repetition as long as the vocabulary allows; the same for the same configuration.

    Example:
        >>> prompts_for(GPTConfig()).check.shape
        torch.Size([2, 17])
    """
    generator = torch.Generator().manual_seed(_SEED)
    shapes = [(16, 1), (1, min(24, config.n_positions)), (2, min(17, config.n_positions))]
    count = sum(rows * tokens for rows, tokens in shapes)
    rounds = -(-count // config.vocab_size)
    ids = torch.cat([torch.randperm(config.vocab_size, generator=generator) for _ in range(rounds)])[:count]
    parts = torch.split(ids, [rows * tokens for rows, tokens in shapes])
    return Prompts(*(part.view(shape) for part, shape in zip(parts, shapes, strict=True)))


class Measure:
    """How far simulations are from the candidate's logits on one prompt, whatever happens after the last block.

    Args:
        simulation: on that prompt.
        logits: the candidate's; probabilities are recognised by their sum.
        precise: compare in float64.
    """

    def __init__(self, simulation: Simulation, logits: Tensor, precise: bool = False) -> None:
        self.simulation = simulation
        self.rounding: Rounding = "float64" if precise else "float32"
        head = simulation.model.lm_head.weight
        generator = torch.Generator().manual_seed(_SEED)
        self.columns = torch.randperm(len(head), generator=generator)[:_COLUMNS]
        self.head = head[self.columns].to(torch.float64 if precise else torch.float32)
        shown = logits[..., self.columns].double()
        if are_probabilities(logits):
            shown = shown.clamp_min(torch.finfo(torch.float32).tiny).log()
        self.targets = _shapes_of(shown)

    def distance(self, causes: Causes = ()) -> float:
        """Between 0 (the same) and 2; infinite for what is not finite."""
        stream = self.simulation.stream(NORM, causes, self.rounding)
        shapes = _shapes_of(torch.matmul(stream, self.head.t()))
        shifts = (0, -1, 1) if stream.size(1) > 1 else (0,)
        gaps = [
            float((shape.roll(shift, dims=1) - target).norm())
            for shape, target in zip(shapes, self.targets, strict=True)
            for shift in shifts
        ]
        return min((gap for gap in gaps if math.isfinite(gap)), default=math.inf)


def _shapes_of(logits: Tensor) -> tuple[Tensor, Tensor]:
    """What remains of logits without their scale and a constant per token; and without one per vocabulary entry, too.

    Both, because a model whose tokens are all alike keeps little beside such constants.
    """
    rows = logits.double()
    rows = rows - rows.mean(-1, keepdim=True)
    return _unit(rows), _unit(rows - rows.mean((0, 1), keepdim=True))


def _unit(values: Tensor) -> Tensor:
    norm = values.norm()
    return values / norm if norm > 0 else values


def are_probabilities(logits: Tensor) -> bool:
    """Whether these are probabilities: none negative, and each row's sum 1."""
    if not bool((logits >= 0).all()):
        return False
    return bool(((logits.double().sum(-1) - 1).abs() < 1e-3).all())  # float16 sums to 1 within 1e-3


@dataclass(frozen=True)
class Explained:
    """How well a hypothesis explains the candidate. Truthy when it does.

    Args:
        multiple: largest difference that remains, in multiples of the simulation's rounding.
        left: the same as a number, in float64 where the candidate can be run so.
        difference: largest difference from the reference, which is to be explained; computed like `left`.
        limit: expected rounding error of the simulation; if it exceeds the observed difference, the hypothesis proves
            nothing.
    """

    multiple: float
    left: float
    difference: float
    limit: float

    def __bool__(self) -> bool:
        return self.left <= self.limit <= self.difference and self.left * BETTER <= self.difference


class Laboratory:
    """All that is needed for simulations and does not depend on the candidate; it may serve several.

    Args:
        model: from `simulated`.
        reference: what the candidate should be.
        prompts: where the candidate is asked; default: the usual ones.
        floor: the noise floor of the run; None where no logits were compared: our own model's rounding, then.
    """

    def __init__(
        self, model: GPTModel, reference: Reference, prompts: Prompts | None = None, floor: float | None = None
    ) -> None:
        self.model = model
        self.reference = reference
        self.config = model.config
        self.prompts = prompts if prompts is not None else prompts_for(model.config)
        self.single = Simulation(model, self.prompts.single)
        self._moving: dict[Cause, bool] = {}
        self.texts = [Simulation(model, ids) for ids in (self.prompts.text, self.prompts.check)]
        self.expected = [reference.logits(simulation.ids) for simulation in self.texts]
        # What proves a fault is judged by the rounding on these prompts, which are short. The run's noise floor is
        # larger where its prompts are long, and is only what differences are told in.
        self.right = self.rounding(())
        self.floor = self.right if floor is None else floor

    def asking(self, ids: Tensor) -> "Laboratory":
        """Another one, which searches on these ids ``[B, T]`` and on their tokens by themselves."""
        single = torch.unique(ids)[: len(self.prompts.single), None]
        return Laboratory(self.model, self.reference, Prompts(single, ids, self.prompts.check), self.floor)

    def moves_single_tokens(self, cause: Cause) -> bool:
        """Whether a fault shows on a token by itself."""
        if cause not in self._moving:
            self._moving[cause] = any(self._moves(cause, stage) for stage in cause.changes(self.config))
        return self._moving[cause]

    def _moves(self, cause: Cause, stage: str) -> bool:
        if stage == HEAD:
            return False
        number = self.single.stages.index(stage)
        entering = self.single.stream(self.single.stages[number - 1]) if number else self.single.ids
        right = self.single.stream(stage)
        moved = float((self.single.run(stage, entering, (cause,)) - right).norm() / right.norm())
        return not moved <= _VISIBLE  # NaN is a move

    def rounding(self, causes: Causes) -> float:
        """How far rounding moves the logits of our model with these faults. Measured on them: some amplify rounding."""
        return max(self._rounding_of(simulation, causes) for simulation in self.texts)

    @staticmethod
    def _rounding_of(simulation: Simulation, causes: Causes) -> float:
        exact, textbook = simulation.logits(causes, "float64"), simulation.logits(causes, "textbook")
        usual, scale = simulation.logits(causes), float(exact.abs().nan_to_num().max())
        return noise_floor((gap(usual, exact), gap(textbook, exact), gap(usual, textbook)), scale)


class Evidence:
    """The candidate's logits on the prompts, and the judge of what explains them.

    Args:
        candidate: the model under test.
        laboratory: where hypotheses are simulated.
    """

    def __init__(self, candidate: Candidate, laboratory: Laboratory) -> None:
        self.candidate = candidate
        self.laboratory = laboratory
        asked = [*(simulation.ids for simulation in laboratory.texts), laboratory.prompts.single]
        *self.logits, self.single = [candidate.logits(ids) for ids in asked]
        self.exact, self.moved = in_float64_of(candidate, asked)
        pairs = zip(self.logits, laboratory.expected, strict=True)
        baseline = max(gap(logits, expected) for logits, expected in pairs)
        self.baseline = baseline / laboratory.floor  # what is to be explained, in noise floors
        self.difference = baseline if self.exact is None else self._left_exactly(())
        self.leaks = self._leaks(candidate)

    def _left_exactly(self, causes: Causes) -> float:
        """The largest difference between candidate and simulation in float64."""
        assert self.exact is not None
        texts = zip(self.laboratory.texts, self.exact, strict=False)
        return max(gap(simulation.logits(causes, "float64"), logits) for simulation, logits in texts)

    def _leaks(self, candidate: Candidate) -> bool:
        """Whether another last token changes what was said before it."""
        ids = self.laboratory.prompts.ended_otherwise(self.laboratory.config.vocab_size)
        return not gap(candidate.logits(ids)[:, :-1], self.logits[0][:, :-1]) <= THRESHOLD * self.laboratory.right

    @property
    def differs(self) -> bool:
        """Whether there is anything to explain."""
        return not self.difference <= max(threshold((), self.exact is not None) * self.laboratory.right, self.moved)

    @property
    def finite(self) -> bool:
        """Whether every logit is."""
        return all(bool(torch.isfinite(logits).all()) for logits in self.logits)

    def measures(self, precise: bool) -> tuple[Measure, Measure]:
        """Of single tokens, and of text."""
        single, text = self.laboratory.single, self.laboratory.texts[0]
        if precise and self.exact is not None:
            return Measure(single, self.exact[-1], precise=True), Measure(text, self.exact[0], precise=True)
        return Measure(single, self.single), Measure(text, self.logits[0])

    def explained(self, causes: Causes) -> Explained:
        """How well these faults explain all logits."""
        pairs = list(zip(self.laboratory.texts, self.logits, strict=True))
        left = max(gap(simulation.logits(causes), logits) for simulation, logits in pairs)
        if not math.isfinite(left):
            return Explained(math.inf, math.inf, self.difference, 0.0)
        rounding = self.laboratory.rounding(causes)
        finely = left if self.exact is None else self._left_exactly(causes)
        limit = threshold(causes, self.exact is not None, self.difference / rounding) * rounding
        return Explained(left / rounding, finely, self.difference, max(limit, self.moved))

    def rough(self, causes: Causes) -> float:
        """The largest difference on the first prompt alone: to rank, not to judge."""
        return gap(self.laboratory.texts[0].logits(causes), self.logits[0])


def in_float64_of(candidate: Candidate, prompts: Sequence[Tensor]) -> tuple[list[Tensor] | None, float]:
    """The candidate's mathematics without its rounding, and the most that its rounded constants move; or None, 0."""
    try:
        answers = [candidate.exact_logits(ids) for ids in prompts]
    except NotImplementedError:
        return None, 0.0
    return [answer.logits for answer in answers], max(answer.moved for answer in answers)
