"""What a GPT-2 must do whatever its weights are: no reference is asked, and transformers is not needed.

The one idea: each test compares the candidate with itself, in two ways of asking that cannot matter to a causal
language model. What differs is a fault, and the way of asking names it: dropout, the mask, positions, the batch, the
padding, the cache.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from gpt2_from_scratch.checks.candidate import Candidate
from gpt2_from_scratch.checks.parts import Status
from gpt2_from_scratch.checks.stepping import stepper
from gpt2_from_scratch.compare import SELF_RTOL
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import CandidateError

_LENGTH = 17
_PAD = 5  # tokens of padding


@dataclass(frozen=True)
class SelfTest:
    """One test. Truthy when the candidate agrees with itself.

    Args:
        name: of what is tested.
        what: the two ways of asking.
        difference: largest difference of logits, as a share of the largest logit; None: it could not be asked so.
        limit: largest share that passes; for `differs`, the smallest.
        fault: what a failure means.
        differs: the two must *not* agree.
        crash: what it died of, when it was asked so.
        unasked: why it could not be asked; empty where it was.
    """

    name: str
    what: str
    difference: float | None
    limit: float
    fault: str
    differs: bool = False
    crash: str = ""
    unasked: str = ""

    @property
    def status(self) -> Status:
        """Passed, failed, or not checked."""
        return "not checked" if self.difference is None else "passed" if self else "failed"

    def __bool__(self) -> bool:
        if self.difference is None:
            return True
        if not math.isfinite(self.difference):  # it crashed, or a logit is not finite
            return False
        return self.difference > self.limit if self.differs else self.difference <= self.limit

    def __str__(self) -> str:
        if self.difference is None:
            return f"{self.name}: not checked, as {self.unasked}"
        if self:
            return f"{self.name} ({self.what}): passed"
        found = f"logits differ by {self.difference:.1%} of the largest"
        if self.differs:
            found = "the same logits"
        if not math.isfinite(self.difference):
            found = "asked so it fails" if self.crash else "logits are not finite"
        died = f"\n{self.crash}" if self.crash else ""  # last, as it may be several lines
        return f"{self.name} ({self.what}): {found}; {self.fault}{died}"


@dataclass(frozen=True)
class SelfTests:
    """All of them. Truthy when none fails."""

    results: tuple[SelfTest, ...]

    @property
    def failed(self) -> tuple[SelfTest, ...]:
        """Those in which the candidate contradicts itself."""
        return tuple(result for result in self.results if not result)

    def __bool__(self) -> bool:
        return not self.failed

    def __str__(self) -> str:
        if not self:
            return "; ".join(map(str, self.failed))
        passed = [result.name for result in self.results if result.difference is not None]
        return ", ".join(passed)


def check_itself(candidate: Candidate, full_context: bool = True) -> SelfTests:
    """Runs every test that the candidate can be asked.

    Args:
        candidate: the model under test, in eval mode.
        full_context: fill the context, which costs more than all other tests; needless where the logits of a full
            context are compared with a reference's.

    Raises:
        CandidateError: it crashed, or returned no logits.

    Example:
        >>> import torch
        >>> from gpt2_from_scratch import GPTConfig
        >>> config = GPTConfig(n_layer=1, n_embd=8, n_head=2, vocab_size=64, n_positions=32)
        >>> noise = Candidate(lambda ids: torch.randn(*ids.shape, 64), config)
        >>> check_itself(noise).failed[0].name
        'deterministic'
    """
    ids = _prompt(candidate.config)
    whole = candidate.logits(ids)
    results: list[SelfTest] = []
    for name, what, fault, ask in _TESTS:
        if ask is _full_context and not full_context:
            continue
        if not all(results[:2]):  # noise would be the answer
            why = "the model returns non-finite or non-deterministic logits"
            results.append(SelfTest(name, what, None, results[0].limit, fault, unasked=why))
        else:
            results.append(_result(name, what, fault, ask, candidate, ids, whole))
    return SelfTests(tuple(results))


class Pair(NamedTuple):
    """Logits that must agree, and where they were taken, if that says more than the test's name."""

    actual: Tensor
    expected: Tensor
    where: str = ""


Pairs = Iterator[Pair]
_Ask = Callable[[Candidate, Tensor, Tensor], Pairs]


def _result(name: str, what: str, fault: str, ask: _Ask, candidate: Candidate, ids: Tensor, whole: Tensor) -> SelfTest:
    """Asks one test; the largest difference counts, and the first that is too large says where."""
    scale = float(whole.abs().max())
    differs = ask is _one_token_repeated
    limit = SELF_RTOL[candidate.precision]
    largest, wrong = 0.0, ""
    try:
        for pair in ask(candidate, ids, whole):
            share = _share(pair.actual, pair.expected, scale)
            wrong = wrong or (pair.where if not share <= limit else "")
            largest = max(largest, share)
    except NotImplementedError as error:  # it cannot be asked so
        return SelfTest(name, what, None, limit, fault, unasked=str(error))
    except CandidateError as error:  # it answered before, so it is this way of asking that it cannot bear
        return SelfTest(name, what, math.inf, limit, fault, differs, crash=error.message)
    return SelfTest(name, what, largest, limit, fault + (f": wrong {wrong}" if wrong else ""), differs)


def _share(actual: Tensor, expected: Tensor, scale: float) -> float:
    """The largest difference, as a share of the largest logit; infinite when a logit is not finite."""
    gap = float((actual.double() - expected.double()).abs().max())
    if not math.isfinite(gap):
        return math.inf
    return gap / scale if scale else gap


def _alone(candidate: Candidate, ids: Tensor, whole: Tensor) -> Pairs:
    yield Pair(whole, whole)  # what is not finite does not agree with itself


def _twice(candidate: Candidate, ids: Tensor, whole: Tensor) -> Pairs:
    yield Pair(candidate.logits(ids), whole)


def _other_future(candidate: Candidate, ids: Tensor, whole: Tensor) -> Pairs:
    """Tokens after a position are replaced; logits up to it must stay."""
    length, vocab = ids.size(1), candidate.config.vocab_size
    _need(length > 1, "the context is one token")
    for kept in {length // 2, length - 1}:
        changed = ids.clone()
        changed[:, kept:] = (changed[:, kept:] + 1) % vocab
        yield Pair(candidate.logits(changed)[:, :kept], whole[:, :kept])


def _prefix(candidate: Candidate, ids: Tensor, whole: Tensor) -> Pairs:
    """A prompt cut short: what was said about its beginning must stay, and its positions with it."""
    _need(ids.size(1) > 1, "the context is one token")
    kept = ids.size(1) // 2
    yield Pair(candidate.logits(ids[:, :kept]), whole[:, :kept])


def _in_a_batch(candidate: Candidate, ids: Tensor, whole: Tensor) -> Pairs:
    others = torch.stack([ids[0].roll(shift) for shift in (0, 1, 3)])
    yield Pair(candidate.logits(others)[:1], whole)


def _one_token_repeated(candidate: Candidate, ids: Tensor, whole: Tensor) -> Pairs:
    """Nothing but its position tells one of these tokens from the next."""
    _need(ids.size(1) > 1, "the context is one token")
    logits = candidate.logits(ids[:, :1].expand_as(ids).contiguous())
    yield Pair(logits[:, 1:], logits[:, :1].expand_as(logits[:, 1:]))


def _full_context(candidate: Candidate, ids: Tensor, whole: Tensor) -> Pairs:
    """As many tokens as there are positions: a table that is too short, or read one too far, cannot do this."""
    context, length = candidate.config.n_positions, ids.size(1)
    filled = ids.repeat(1, -(-context // length))[:, :context]
    yield Pair(candidate.logits(filled)[:, :length], whole)


def _left_padded(candidate: Candidate, ids: Tensor, whole: Tensor) -> Pairs:
    takes = candidate.parameters
    _need("attention_mask" in takes, "it takes no attention_mask")
    room = candidate.config.n_positions - ids.size(1)
    _need(room > 0, "the context has no room for padding")
    padding = torch.zeros(1, min(_PAD, room), dtype=ids.dtype)
    mask = torch.cat([torch.zeros_like(padding), torch.ones_like(ids)], dim=1)
    options = {"attention_mask": mask.to(candidate.device)}
    if "position_ids" in takes:
        options["position_ids"] = (mask.cumsum(1) - 1).clamp_min(0).to(candidate.device)
    padded = candidate.logits(torch.cat([padding, ids], dim=1), **options)
    yield Pair(padded[:, padding.size(1) :], whole)


def _cached(candidate: Candidate, ids: Tensor, whole: Tensor) -> Pairs:
    """One token, to be forgotten; then a long step, another, and single ones: each kind has bugs of its own."""
    feed = stepper(candidate)
    _need(feed is not None, "it has no cache that is known here")
    assert feed is not None
    length = ids.size(1)
    for cuts in ({0, 1}, {0, length // 2, max(0, length - 2), length - 1, length}):
        spans = list(pairwise(sorted(cuts)))
        for (start, end), logits in zip(spans, feed(ids[:, start:end] for start, end in spans), strict=True):
            where = f"in a step of {end - start} after {start}" if start else f"in a first step of {end}"
            yield Pair(logits, whole[:, start:end][:, -logits.size(1) :], where)


# What is tested, how, what a failure means, and how to ask.
_TESTS: Sequence[tuple[str, str, str, _Ask]] = (
    ("finite", "every logit", "a mask hides every token, or numbers overflow", _alone),
    ("deterministic", "the same ids twice", "dropout acts in eval mode, or something is random", _twice),
    ("causal", "other tokens later on", "tokens see later ones: the mask is missing or wrong", _other_future),
    ("length", "a prompt cut short", "positions or scores depend on the prompt's length", _prefix),
    ("positions", "one token, repeated", "position embeddings are not added", _one_token_repeated),
    ("full context", "as many tokens as positions", "positions are misread", _full_context),
    ("batch", "alone and in a batch", "rows of a batch mix: look at views and transposes", _in_a_batch),
    ("padding", "padded on the left", "padding is attended to, or shifts positions", _left_padded),
    ("cache", "with and without its cache", "a cached step misplaces tokens, positions or mask", _cached),
)  # fmt: skip


def _need(condition: bool, otherwise: str) -> None:
    if not condition:
        raise NotImplementedError(otherwise)


def _prompt(config: GPTConfig) -> Tensor:
    """Distinct ids, int64 ``[1, T]``."""
    generator = torch.Generator().manual_seed(17)
    length = max(1, min(_LENGTH, config.n_positions - 1))
    ids = torch.randperm(config.vocab_size, generator=generator)[:length]
    return ids.repeat(-(-length // len(ids)))[None, :length]
