"""The candidate's logits against the reference's, in multiples of the noise floor.

The noise floor is measured on the same prompts, in the precision in which the candidate computes. It is pooled over
all prompts: at a single token, correct code may be five times that token's own rounding away. A torch module is then
run in float64, where correct code and the mildest fault are a factor of a million apart, and that run decides. Where
there is no such run, or it is not float64 throughout, the threshold of the candidate's own precision decides, and the
result says why.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor, nn

from gpt2_from_scratch.checks.candidate import Candidate, Crash, crash_in
from gpt2_from_scratch.checks.parts import Result
from gpt2_from_scratch.checks.prompts import Prompt
from gpt2_from_scratch.compare import (
    EXACT_THRESHOLD,
    NEAR,
    THRESHOLD,
    USABLE,
    WORTH_A_LONG_RUN,
    Comparison,
    noise_floor,
    scientific,
    times,
)
from gpt2_from_scratch.errors import CandidateError
from gpt2_from_scratch.precision import dtype_name
from gpt2_from_scratch.ranks import local
from gpt2_from_scratch.reference import Reference

Precision: TypeAlias = torch.dtype | Mapping[str, torch.dtype]  # of all weights, or of each tensor by canonical name

_SLAB = 16  # tokens whose logits are in float64 at once: 6 MB at GPT-2's vocabulary, which caches hold
_WORST = 8  # tokens per prompt that a report can show
_SHORT = 64  # tokens: prompts up to here are run in float64
_LOOKED_AT = 1 << 20  # weights at once: their places take 8 MB
_SAMPLED = 256  # values per parameter that are looked for among the checkpoint's
_FEW = 17  # tokens: shorter prompts add nothing to a pooled floor, and cost as much as ten more tokens
_EXACT = 128  # tokens of a prompt on which the floor is measured in float64, too: it costs twice float32
_LONG = 128  # tokens: the floor is measured on longer prompts only where the verdict depends on it


@dataclass(frozen=True)
class Token:
    """One position, for people to look at: what was given, and what each side would say next.

    Args:
        row: of the prompt.
        position: in the row.
        id: the token there.
        expected: the reference's most probable next token, and its logit.
        actual: the candidate's.
        error: largest difference of the logits there.
        kl: divergence there, nats.
    """

    row: int
    position: int
    id: int
    expected: tuple[int, float]
    actual: tuple[int, float]
    error: float
    kl: float


@dataclass(frozen=True, repr=False)
class PromptResult(Result):
    """One prompt: how far the candidate, and the reference's other roundings, are from the reference.

    Args:
        prompt: what was asked.
        comparison: of all logits.
        errors: float64 ``[B, T]``, the candidate's largest difference at each token.
        floors: float64 ``[B, T]``, the same for the reference's other roundings; 0 where they were not run.
        kl: float64 ``[B, T]``, divergence of the candidate's distribution from the reference's, nats.
        top1: share of positions at which the most probable token is the same.
        top10: share of the reference's ten most probable tokens that are among the candidate's ten.
        loss: of the next tokens, nats per token: the candidate's and the reference's; None for a single token.
        worst: the tokens with the largest differences, the worst first.
        excess: largest difference beyond the tolerance given, if one was; at most 0 passes.
    """

    prompt: Prompt
    comparison: Comparison
    errors: Tensor
    floors: Tensor
    kl: Tensor
    top1: float
    top10: float
    loss: tuple[float, float] | None
    worst: tuple[Token, ...]
    excess: float | None = None

    def __str__(self) -> str:
        return f"{self.prompt.name}, {self.comparison}"

    @property
    def floor(self) -> float:
        """The largest distance of the reference from itself on this prompt."""
        return float(self.floors.max())


@dataclass(frozen=True, repr=False)
class Exact(Result):
    """The candidate's own float64 run against the reference's.

    Args:
        max_abs: largest difference.
        multiple: the same in float32 noise floors.
        tokens: compared.
        threshold: the largest multiple that passes: `EXACT_THRESHOLD`, or what rounded constants can account for.
        constants: the candidate keeps numbers in float32 that are no parameters, so float64 does not make it exact.
    """

    max_abs: float
    multiple: float
    tokens: int
    threshold: float = EXACT_THRESHOLD
    constants: bool = False

    def __bool__(self) -> bool:
        return self.multiple <= self.threshold

    def __str__(self) -> str:
        verdict = "only rounding" if self else "more than rounding"
        constants = ", as it keeps constants in float32" if self.constants else ""
        threshold = f"threshold {times(self.threshold)}{constants}"
        return f"in float64, which decides, {times(self.multiple)} noise floors ({threshold}): {verdict}"


@dataclass(frozen=True, repr=False)
class Logits(Result):
    """The candidate's logits against the reference's. Truthy within the threshold.

    Args:
        results: per prompt.
        floor: the largest distance between the reference and its own other roundings, over the tokens of all prompts.
        dtype: the precision in which the candidate computes, and by whose floor it is judged.
        threshold: multiples of the noise floor that pass.
        weights_dtype: the precision that the candidate's weights were rounded to, where arithmetic is finer.
        rounded: the same, of all weights or by canonical name.
        quantized: differences are from the reference with the candidate's quantised weights, and the noise floor is
            that of such weights; divergence, choices and loss are compared with the checkpoint's own. See
            `judged_by_quantization`.
        exact: the float64 run, where it was needed and possible.
        inexact: why there is no float64 run to decide, where one was wanted.
        tolerance: (atol, rtol) that the user set instead of the threshold.
        crashes: the other prompts, on which the candidate crashed: GPT-2 takes them.
        vocab_size: the checkpoint's: how many rows of the embedding prompts can meet.
    """

    results: tuple[PromptResult, ...]
    floor: float
    dtype: torch.dtype = torch.float32
    threshold: float = THRESHOLD
    weights_dtype: torch.dtype | None = None
    rounded: Precision | None = None
    quantized: bool = False
    exact: Exact | None = None
    inexact: str = ""
    tolerance: tuple[float, float] | None = None
    crashes: tuple[tuple[Prompt, Crash], ...] = ()
    vocab_size: int = 0

    @property
    def max_abs(self) -> float:
        """Largest difference over all prompts; infinite when a logit is not finite."""
        return max(result.comparison.max_abs for result in self.results)

    @property
    def mean_abs(self) -> float:
        """Mean absolute difference over all logits."""
        return sum(result.comparison.mean_abs * result.prompt.tokens for result in self.results) / self.tokens

    @property
    def multiple(self) -> float:
        """`max_abs` in floors: the verdict's number."""
        return self.max_abs / self.floor

    @property
    def tokens(self) -> int:
        """Tokens compared."""
        return sum(result.prompt.tokens for result in self.results)

    @property
    def ids_met(self) -> int:
        """How many rows of the embedding the prompts have met."""
        return len(torch.unique(torch.cat([result.prompt.ids.flatten() for result in self.results])))

    @property
    def lengths(self) -> tuple[int, ...]:
        """The prompts' lengths, in tokens."""
        return tuple(sorted({result.prompt.ids.size(1) for result in self.results}))

    @property
    def batches(self) -> tuple[int, ...]:
        """The prompts' batch sizes."""
        return tuple(sorted({result.prompt.ids.size(0) for result in self.results}))

    @property
    def kl(self) -> float:
        """Mean divergence, nats per token."""
        return sum(float(result.kl.sum()) for result in self.results) / self.tokens

    @property
    def top1(self) -> float:
        """Share of positions at which both would choose the same token."""
        return sum(result.top1 * result.prompt.tokens for result in self.results) / self.tokens

    @property
    def top10(self) -> float:
        """Share of the reference's ten most probable tokens that are among the candidate's."""
        return sum(result.top10 * result.prompt.tokens for result in self.results) / self.tokens

    @property
    def loss(self) -> tuple[float, float] | None:
        """Mean loss of the next tokens, nats per token: the candidate's and the reference's."""
        counted = [(*result.loss, _targets(result.prompt)) for result in self.results if result.loss is not None]
        total = sum(count for *_, count in counted)
        if not total:
            return None
        mine, theirs = (sum(row[side] * row[2] for row in counted) / total for side in (0, 1))
        return mine, theirs

    @property
    def measured(self) -> tuple[PromptResult, ...]:
        """Those on which the noise floor was measured; see `check_logits`."""
        return tuple(result for result in self.results if result.floor > 0) or self.results

    @property
    def worst(self) -> PromptResult:
        """The prompt with the largest difference."""
        return max(self.results, key=lambda result: result.comparison.max_abs)

    def __bool__(self) -> bool:
        return not self.crashes and not self.differ

    @property
    def differ(self) -> bool:
        """Whether there are logits that are not the reference's. If not, they can only have failed by a crash."""
        if not math.isfinite(self.max_abs):
            return True
        if self.tolerance is not None:
            return not all(result.excess is not None and result.excess <= 0 for result in self.results)
        if self.exact is not None:
            return not (self.multiple <= NEAR and self.exact)
        return not self.multiple <= self.threshold

    def __str__(self) -> str:
        if not self.crashes:
            return self._numbers
        return f"{self.crashed}; elsewhere: {self._numbers}"

    @property
    def crashed(self) -> str:
        """Where it crashed and of what, in one line; empty if it did not."""
        if not self.crashes:
            return ""
        prompt, crash = self.crashes[0]
        more = f" and {len(self.crashes) - 1} more" if len(self.crashes) > 1 else ""
        return f"it crashes on {prompt.name}{more}, where GPT-2 does not: {crash}"

    @property
    def _numbers(self) -> str:
        if not math.isfinite(self.max_abs):
            return f"not finite, prompt {self.worst.prompt.name!r}, at {list(self.worst.comparison.at)}"
        same = "identical" if self.max_abs == 0 else f"largest difference {scientific(self.max_abs)}"
        judged = f"; threshold {self.threshold:g}" + (f", as {self.inexact}" if self.inexact else "") + ")"
        if self.tolerance is not None:
            judged = f"); judged by atol {self.tolerance[0]:g}, rtol {self.tolerance[1]:g}"
        elif self.exact is not None:
            judged = f"); {self.exact}"
        precision = "" if self.dtype == torch.float32 else f" of {dtype_name(self.dtype)}"
        if self.weights_dtype is not None:
            precision += f" with weights in {dtype_name(self.weights_dtype)}"
        if self.quantized:
            same, precision = f"{same} from GPT-2 with the same quantised weights", " of quantised weights"
        if same == "identical" and not precision:
            return same
        return f"{same} = {times(self.multiple)} noise floors{precision} ({scientific(self.floor)} each{judged}"


def check_logits(
    candidate: Candidate,
    reference: Reference,
    prompts: Sequence[Prompt],
    threshold: float = THRESHOLD,
    *,
    tolerance: tuple[float, float] | None = None,
    weights_equal: bool = False,
    progress: Callable[[str], None] = lambda phase: None,
) -> Logits:
    """Runs the prompts, one at a time.

    The noise floor is measured on prompts that are neither very short nor long. It is the largest distance on any
    prompt, so who passes by these passes by all; only for who does not it is measured on the long ones, too.

    A candidate in lower precision is judged by the floor of that precision: the reference's own distance from itself
    when it is rounded alike. Rounding is never called a bug.

    Args:
        candidate: the model under test.
        reference: what it should be.
        prompts: what is asked; usually `choose_prompts`.
        threshold: multiples of the noise floor that pass.
        tolerance: (atol, rtol) instead of the threshold: every logit within ``atol + rtol * |expected|``.
        weights_equal: the candidate's weights are known to be the checkpoint's; otherwise its values are looked for
            there before its float64 run may fail it.
        progress: called with what is being done.

    Raises:
        CandidateError: there is no prompt, or the candidate crashed on all of them, or returned no logits.
    """
    if not prompts:
        raise CandidateError("there is no prompt to compare on", hint="give at least one")
    run = _PromptsRun(candidate, reference, prompts, threshold, tolerance)
    for turn, place in enumerate(run.order):
        if turn == 1:
            progress(f"logits: the reference{run.so_far}")
            run.prepare()
        progress(f"logits: {prompts[place].name}{run.so_far}")
        run.ask(place)
    logits = run.result()
    if not math.isfinite(logits.max_abs):
        _check_reference(logits, reference)
        return logits
    _check_floor(logits, run.scale)
    if tolerance is not None:
        return logits
    logits = _looked_at_closely(logits, candidate, reference, weights_equal, progress)
    if logits.differ and (measured := _measured_on_long(logits, reference, run.enough)) is not logits:
        _check_floor(measured, run.scale)
        logits = _looked_at_closely(measured, candidate, reference, weights_equal, progress)
    if not logits.differ or logits.dtype != torch.float32:
        return logits
    return _with_rounded_weights(logits, candidate, reference) or logits


class _PromptsRun:
    """The prompts that were run so far, and what they have shown.

    Args:
        candidate: the model under test.
        reference: what it should be.
        prompts: at least one.
        threshold: multiples of the noise floor that pass.
        tolerance: as of `check_logits`.
    """

    def __init__(
        self,
        candidate: Candidate,
        reference: Reference,
        prompts: Sequence[Prompt],
        threshold: float,
        tolerance: tuple[float, float] | None,
    ) -> None:
        self.candidate = candidate
        self.reference = reference
        self.prompts = prompts
        self.threshold = threshold
        self.tolerance = tolerance
        self.enough = min(_FEW, max(prompt.ids.size(1) for prompt in prompts))  # tokens that a noise floor takes
        self.scale = 0.0  # the largest logit
        self._found: dict[int, PromptResult] = {}
        self._crashes: dict[int, tuple[Prompt, Crash]] = {}
        self._rounding: list[float] = []  # the reference's, on prompts long enough to measure it

    @property
    def order(self) -> list[int]:
        """Places of the prompts: what is wrong shows soon.

        The first is the shortest that has a noise floor. The reference has run it before, to be proven. Of the others
        the short ones come first.
        """
        by_length = sorted(range(len(self.prompts)), key=lambda place: self.prompts[place].tokens)
        first = next(place for place in by_length if self._is_measured(self.prompts[place]))
        return [first, *(place for place in by_length if place != first)]

    @property
    def so_far(self) -> str:
        """What is told of the prompts that were run while others run."""
        return "; shorter prompts differ" if self._rounding and not self._agrees() else ""

    def prepare(self) -> None:
        """Runs the reference on all short prompts at once, which takes less time than one after the other."""
        short = [prompt.ids for prompt in self.prompts if prompt.tokens <= _LONG]
        full = torch.finfo(self.candidate.precision).bits >= 32
        self.reference.run_together(short, [ids for ids in short if full and ids.size(1) >= self.enough])

    def ask(self, place: int) -> None:
        """Runs one prompt, and measures the noise floor on it where the verdict may depend on that.

        Raises:
            CandidateError: the candidate crashed on every prompt, or returned no logits.
        """
        prompt = self.prompts[place]
        expected = self.reference.logits(prompt.ids)
        try:
            actual = self.candidate.logits_until_asked_again(prompt.ids)
        except CandidateError as error:
            crash = crash_in(error)
            if crash is None or len(self._crashes) == len(self.prompts) - 1:
                raise
            self._crashes[place] = (prompt, crash)
            if self._is_measured(prompt):
                self._measure(prompt, expected)
            return
        self.scale = max(self.scale, float(torch.linalg.vector_norm(expected, math.inf)))  # `abs` would make a copy
        actual = _before_last_cast(actual, expected, self.candidate.last_cast)
        result = self._found[place] = measure(prompt, actual, expected, self.tolerance)
        del actual
        decided = bool(self._rounding) and self._agrees()
        if self._is_measured(prompt) and not (decided and prompt.tokens > _LONG):
            self._found[place] = replace(result, floors=self._measure(prompt, expected))

    def result(self) -> Logits:
        """What was found, in the order of the prompts."""
        return Logits(
            tuple(self._found[place] for place in sorted(self._found)),
            noise_floor(self._rounding, self.scale),
            self.candidate.precision,
            self.threshold,
            tolerance=self.tolerance,
            crashes=tuple(self._crashes[place] for place in sorted(self._crashes)),
            vocab_size=self.candidate.config.vocab_size,
        )

    def _is_measured(self, prompt: Prompt) -> bool:
        return prompt.ids.size(1) >= self.enough

    def _measure(self, prompt: Prompt, expected: Tensor) -> Tensor:
        floors = _floors(self.candidate.precision, self.reference, prompt, expected)
        self._rounding.append(float(floors.max()))
        return floors

    def _agrees(self) -> bool:
        """Whether every difference so far lies within the noise floor that was measured so far."""
        worst = max((result.comparison.max_abs for result in self._found.values()), default=0.0)
        return worst <= self.threshold * noise_floor(self._rounding, self.scale)


def _measured_on_long(logits: Logits, reference: Reference, enough: int) -> Logits:
    """The same with the noise floor measured on every prompt of at least `enough` tokens, and no float64 run."""

    def left(result: PromptResult) -> bool:
        return result.prompt.tokens > _LONG and result.prompt.ids.size(1) >= enough and not result.floor

    def measured(result: PromptResult) -> PromptResult:
        expected = reference.logits(result.prompt.ids)
        return replace(result, floors=_floors(logits.dtype, reference, result.prompt, expected))

    if not any(map(left, logits.results)):
        return logits
    results = tuple(measured(result) if left(result) else result for result in logits.results)
    floor = noise_floor([logits.floor, *(result.floor for result in results)], scale=0.0)
    return replace(logits, results=results, floor=floor, exact=None, inexact="")


def _check_reference(logits: Logits, reference: Reference) -> None:
    """Raises CandidateError where no candidate could do better: GPT-2's own logits are not finite either."""
    failed = [each.prompt for each in logits.results if not math.isfinite(each.comparison.max_abs)]
    if not any(bool(reference.logits(prompt.ids).isfinite().all()) for prompt in failed):
        raise CandidateError(
            f"with these weights GPT-2's own logits are NaN or infinite, on {failed[0].name}",
            hint="`gpt2 inspect` names the weights that are; if none are, they are too large",
        )


def _check_floor(logits: Logits, scale: float) -> None:
    """Raises CandidateError where the reference is so far from itself that the noise floor says nothing."""
    if not math.isfinite(logits.floor):  # every distance would be within it
        raise CandidateError(
            f"there is no noise floor to judge {dtype_name(logits.dtype)} by: the reference itself overflows in it",
            hint="verify it in float32 or bfloat16",
        )
    if logits.tolerance is None and not logits.floor <= USABLE * scale and scale > 0:
        raise CandidateError(
            f"there is no noise floor to judge {dtype_name(logits.dtype)} by: the reference is "
            f"{scientific(logits.floor)} from itself where the largest logit is {scientific(scale)}",
            hint="verify it in float32, or give --atol and --rtol",
        )


def _before_last_cast(actual: Tensor, expected: Tensor, cast: torch.dtype | None) -> Tensor:
    """Logits that were rounded at the very end, as near to the expected ones as that rounding allows."""
    if cast is None:
        return actual
    room = expected.abs() * (torch.finfo(cast).eps / 2)
    return expected.to(actual.dtype if actual.dtype == torch.float64 else torch.float32).clamp(
        actual.float() - room, actual.float() + room
    )


def _floors(dtype: torch.dtype, reference: Reference, prompt: Prompt, expected: Tensor) -> Tensor:
    """The largest distance of each token's logits from those of the reference's other roundings."""
    floors = torch.zeros(prompt.ids.shape, dtype=torch.float64)
    if torch.finfo(dtype).bits < 32:
        roundings: Iterator[tuple[str, Tensor]] = iter([(str(dtype), reference.logits_in(dtype, prompt.ids))])
    else:
        roundings = reference.other_roundings(prompt.ids, _EXACT)
    for _, logits in roundings:
        length = logits.size(1)
        floors[:, :length] = torch.maximum(floors[:, :length], distances(logits, expected[:, :length]))
        del logits
    return floors


def distances(actual: Tensor, expected: Tensor) -> Tensor:
    """Largest absolute difference at each token, float64 ``[B, T]``."""
    found = torch.empty(expected.shape[:2].numel(), dtype=torch.float64)
    for place, mine, theirs in zip(torch.split(found, _SLAB), _slabs(actual), _slabs(expected), strict=True):
        place.copy_((mine - theirs).abs().amax(-1))
    return found.view(expected.shape[:2])


def _slabs(logits: Tensor) -> Sequence[Tensor]:
    """Some tokens' logits at a time, ``[B, T, V] -> [<= _SLAB, V]``."""
    return torch.split(logits.flatten(0, 1), _SLAB)


def measure(
    prompt: Prompt, actual: Tensor, expected: Tensor, tolerance: tuple[float, float] | None = None
) -> PromptResult:
    """All statistics of a prompt in one pass, some tokens at a time; sums are float64."""
    # Filled in place: what is kept between large slabs keeps the heap from using their memory again, 370 MB in all.
    error, kl = torch.zeros(2, prompt.tokens, dtype=torch.float64)
    column = torch.zeros(prompt.tokens, dtype=torch.int64)
    agreement, loss = torch.ones(2, prompt.tokens, 2, dtype=torch.float64)
    total = squares = norm = 0.0
    excess = -math.inf
    following = torch.cat([prompt.ids[:, 1:], torch.full_like(prompt.ids[:, :1], -1)], dim=1).flatten()
    for index, (mine, theirs) in enumerate(zip(_slabs(actual), _slabs(expected), strict=True)):
        here = slice(index * _SLAB, (index + 1) * _SLAB)
        size = _squares(theirs)
        norm += size
        if tolerance is None and math.isfinite(size) and torch.equal(mine, theirs):  # as what is already there says
            loss[here] = _losses(theirs, following[here])[:, None]
            continue
        gap = mine - theirs  # exact, where they are close: floating-point numbers within a factor of two subtract so
        kl[here] = _divergence(gap, mine, theirs)
        gap = gap.abs_()
        total += float(gap.sum(-1).double().sum())
        if not math.isfinite(total):
            gap.nan_to_num_(nan=math.inf, posinf=math.inf)
        error[here], column[here] = gap.max(-1)
        squares += _squares(gap)
        if tolerance is not None:
            excess = max(excess, float((gap - tolerance[1] * theirs.abs()).max()) - tolerance[0])
        agreement[here] = _agreement(mine, theirs)
        for side, logits in enumerate((mine, theirs)):
            loss[here, side] = _losses(logits, following[here])
    shape, loss = prompt.ids.shape, loss[following >= 0]
    peak = int(error.argmax())
    finite = bool(torch.isfinite(error).all())
    comparison = Comparison(
        float(error[peak]),
        total / expected.numel() if finite else math.inf,
        math.sqrt(squares / norm) if finite and norm > 0 else math.inf,
        (*divmod(peak, shape[1]), int(column[peak])),
    )
    return PromptResult(
        prompt,
        comparison,
        errors=error.view(shape),
        floors=torch.zeros(shape, dtype=torch.float64),
        kl=kl.view(shape),
        top1=float(agreement[:, 0].mean()),
        top10=float(agreement[:, 1].mean()),
        loss=(float(loss[:, 0].mean()), float(loss[:, 1].mean())) if len(loss) else None,
        worst=_worst(prompt, actual, expected, error, kl),
        excess=None if tolerance is None else excess,
    )


def _divergence(gap: Tensor, mine: Tensor, theirs: Tensor) -> Tensor:
    """KL divergence of each token's distribution from the reference's, nats, float64.

    With ``d`` the difference of the logits, it is ``log E[exp d] - E[d]`` under the reference's distribution. Log1p and
    expm1 keep its digits where it matters, at differences so small that two softmaxes would cancel.
    """
    if float(gap.abs().max()) < 10:
        p, d = theirs.float().softmax(-1), gap.float()
        d = d - (p * d).sum(-1, keepdim=True)  # of the mean, the divergence does not depend: now only it is left
        kl = ((p * d.expm1()).sum(-1).double()).log1p() - (p * d).sum(-1).double()
    else:
        log_p, log_q = theirs.double().log_softmax(-1), mine.double().log_softmax(-1)
        kl = (log_p.exp() * (log_p - log_q)).sum(-1)
    return kl.clamp_min(0)


def _agreement(mine: Tensor, theirs: Tensor) -> Tensor:
    """For each token: is the best the same, and which share of the best ten; float64 ``[n, 2]``."""
    best = min(10, theirs.size(-1))
    mine, theirs = mine.topk(best).indices, theirs.topk(best).indices
    shared = (mine[:, :, None] == theirs[:, None, :]).any(1).double().mean(-1)
    return torch.stack([(mine[:, 0] == theirs[:, 0]).double(), shared], dim=1)


def _losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each token that has a target (at least 0), nats; of the others anything."""
    return logits.logsumexp(-1) - logits.gather(1, targets[:, None].clamp_min(0))[:, 0]


def _squares(logits: Tensor) -> float:
    return float(torch.linalg.vector_norm(logits, dim=-1).double().square().sum())


def _worst(prompt: Prompt, actual: Tensor, expected: Tensor, errors: Tensor, kl: Tensor) -> tuple[Token, ...]:
    tokens = []
    for index in errors.topk(min(_WORST, len(errors))).indices.tolist():
        row, position = divmod(index, prompt.ids.size(1))
        mine, theirs = (logits[row, position].max(-1) for logits in (actual.float(), expected))
        tokens.append(
            Token(
                row,
                position,
                int(prompt.ids[row, position]),
                (int(theirs.indices), float(theirs.values)),
                (int(mine.indices), float(mine.values)),
                float(errors[index]),
                float(kl[index]),
            )
        )
    return tuple(tokens)


def _targets(prompt: Prompt) -> int:
    return prompt.tokens - prompt.ids.size(0)


def _looked_at_closely(
    logits: Logits,
    candidate: Candidate,
    reference: Reference,
    weights_equal: bool = False,
    progress: Callable[[str], None] = lambda phase: None,
) -> Logits:
    """With the candidate's float64 run, where there is a difference that may be rounding, and it can be run so."""
    if logits.max_abs == 0 or logits.multiple > NEAR or candidate.module is None:
        return logits
    progress("logits: in float64")
    dtypes = candidate.parameter_dtypes
    lower = next(iter(dtypes)) if len(dtypes) == 1 and torch.finfo(next(iter(dtypes))).bits < 32 else None
    try:
        with reference.with_weights_in(lower) if lower is not None else nullcontext():
            exact = _run_in_float64(logits, candidate, reference)
            if not exact and not weights_equal and not _same_values(candidate.module, reference):
                raise NotImplementedError("its weights are not the checkpoint's, bit for bit")
    except NotImplementedError as why:
        return replace(logits, inexact=str(why))
    return replace(logits, exact=exact)


def _run_in_float64(logits: Logits, candidate: Candidate, reference: Reference) -> Exact:
    """The candidate's mathematics without its rounding, on short prompts and on long ones that differ much."""
    largest = rounding = moved = 0.0
    scale, tokens, constants = 0.0, 0, False
    shortest = min(result.prompt.ids.size(1) for result in logits.results)
    for result in logits.results:
        ids = result.prompt.ids
        long = ids.size(1) > max(_SHORT, shortest)
        if long and result.comparison.max_abs < WORTH_A_LONG_RUN * logits.floor:
            continue
        actual, expected, usual = candidate.exact_logits(ids), reference.in_float64(ids), reference.logits(ids)
        largest = max(largest, float(distances(actual.logits, expected).max()))
        rounding = max(rounding, float(distances(usual, expected).max()))
        scale = max(scale, float(usual.abs().max()))
        moved = max(moved, actual.moved)
        constants |= actual.constants is not None
        tokens += ids.numel()
    floor = noise_floor((logits.floor if logits.dtype == torch.float32 else rounding,), scale)
    return Exact(largest, largest / floor, tokens, max(EXACT_THRESHOLD, moved / floor), constants)


def _same_values(module: nn.Module, reference: Reference) -> bool:
    """Whether the module's numbers are the checkpoint's, wherever they are in it.

    A sample of its parameters is looked for among all of the reference's. Weights that were folded, or computed with,
    differ in their last bits, and a run in float64 would show nothing but that.
    """
    generator = torch.Generator().manual_seed(0)
    parts = []
    for parameter in module.parameters():
        flat = local(parameter).detach().cpu().flatten()
        if not len(flat):  # a rank may hold none of it
            continue
        parts.append(flat[torch.randint(len(flat), (min(len(flat), _SAMPLED),), generator=generator)].float())
    if not parts:  # weights that are kept as buffers are rounded constants, for which the threshold makes room
        return True
    sample = torch.unique(torch.cat(parts))
    found = sample == 0
    for parameter in reference.model.parameters():
        for values in parameter.detach().flatten().split(_LOOKED_AT):
            values = values.float()
            places = torch.searchsorted(sample, values).clamp_(max=len(sample) - 1)
            found[places[sample[places] == values]] = True
        reference.units.give_back([parameter])
    return bool(found.all())


def _with_rounded_weights(logits: Logits, candidate: Candidate, reference: Reference) -> Logits | None:
    """The same verdict against a reference with rounded weights, if that explains the candidate; else None.

    A function in float32 whose weights went through bfloat16 cannot be told by its types. It is told by its numbers:
    they are those of the rounded reference, down to the floor.
    """
    lower = (torch.bfloat16, torch.float16)
    ways: list[tuple[torch.dtype, Precision]] = [(dtype, dtype) for dtype in lower]
    ways += [(dtype, reference.matrices_in(dtype)) for dtype in lower]
    for dtype, precision in ways:
        with reference.with_weights_in(precision):
            results = []
            for before in logits.results:
                ids = before.prompt.ids
                result = measure(before.prompt, candidate.logits(ids), reference.logits(ids))
                if not result.comparison.max_abs <= logits.threshold * logits.floor:
                    break
                results.append(replace(result, floors=before.floors))
            else:
                rounded = replace(
                    logits, results=tuple(results), weights_dtype=dtype, rounded=precision, exact=None, inexact=""
                )
                rounded = _looked_at_closely(rounded, candidate, reference)
                if not rounded.differ:
                    return rounded
    return None
