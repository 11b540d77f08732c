"""What a GPT-2 must do whatever its weights are: no reference is asked, and transformers is not needed.

Each test compares the candidate with itself, in two ways of asking that cannot matter to a causal
language model. What differs is a fault, and the way of asking names it: dropout, the mask, positions, the batch, the
padding, the cache.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gpt2_from_scratch.checks.candidate import Candidate, crash_in
from gpt2_from_scratch.checks.parts import Result, Status
from gpt2_from_scratch.checks.stepping import Feed, stepper, without_options
from gpt2_from_scratch.compare import SELF_RTOL
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import CandidateError

_LENGTH = 17
_PAD = 5  # tokens of padding
_DETERMINISTIC, _FULL_CONTEXT, _CACHE, _IN_CHUNKS = "deterministic", "full context", "cache", "cache in chunks"
_PIECE = 128  # tokens of a full context that a cache is fed at once, if it takes several: their logits are 25 MB
_PIECE_WITHOUT_HEAD = 256  # where these logits are not computed: what a block of 774M holds of them is 30 MB
_STEPS = 4  # single tokens that a cache is fed first
_LATE = (33, 35)  # and these: beyond the first sizes at which tables and windows end


@dataclass(frozen=True, repr=False)
class SelfTest(Result):
    """One test. Truthy when the candidate agrees with itself.

    Args:
        name: of what is tested.
        what: the two ways of asking.
        difference: largest difference of what is `compared`, as a share of the largest; or how many things are wrong;
            None: it could not be asked so.
        limit: the largest that passes; for `differs`, the smallest.
        fault: what a failure means.
        differs: the two must *not* agree.
        crash: what it died of, when it was asked so.
        unasked: why it could not be asked; empty where it was.
        advisory: what it tests nobody needs, so a failure is told and not held against the candidate.
        compared: in words; empty where wrong things are counted, which `fault` then names.
    """

    name: str
    what: str
    difference: float | None
    limit: float
    fault: str
    differs: bool = False
    crash: str = ""
    unasked: str = ""
    advisory: bool = False
    compared: str = "logits"

    @property
    def status(self) -> Status:
        """Passed, failed, or not checked."""
        return "not checked" if self.difference is None else "passed" if self else "failed"

    def __bool__(self) -> bool:
        return self.difference is None or self.advisory or self.agrees

    @property
    def agrees(self) -> bool:
        """Whether the two ways of asking gave what they must."""
        if self.difference is None:
            return True
        if not math.isfinite(self.difference):  # it crashed, or a logit is not finite
            return False
        return self.difference > self.limit if self.differs else self.difference <= self.limit

    def __str__(self) -> str:
        if self.difference is None:
            return f"{self.name}: not checked, as {self.unasked}"
        if self.agrees:
            return f"{self.name} ({self.what}): passed"
        found = f"{self.compared} differ by {self.difference:.1%} of the largest; " if self.compared else ""
        if self.differs:
            found = "the logits are the same; "
        if self.crash:
            return f"{self.name} ({self.what}): it fails when it is asked in this way\n{self.crash}"
        if not math.isfinite(self.difference):
            found = f"{self.compared} are not finite; "
        return f"{self.name} ({self.what}): {found}{self.fault}"


@dataclass(frozen=True, repr=False)
class SelfTests(Result):
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
        passed = [result.name for result in self.results if result.difference is not None and result.agrees]
        return f"{len(passed)} passed: {', '.join(passed)}"

    @property
    def told(self) -> tuple[SelfTest, ...]:
        """Those that failed and are not held against the candidate."""
        return tuple(result for result in self.results if result and not result.agrees)

    def without(self, names: Collection[str]) -> "SelfTests":
        """The same, some tests counting as not asked, because the reference fails them on this checkpoint, too."""
        why = "the reference does not pass it on this checkpoint either"
        return SelfTests(
            tuple(
                replace(result, difference=None, unasked=why) if result.name in names else result
                for result in self.results
            )
        )


def check_itself(candidate: Candidate, full_context: bool = True) -> SelfTests:
    """Runs every test that the candidate can be asked.

    Args:
        candidate: the model under test, in eval mode.
        full_context: fill the context, which costs more than all other tests. Where the logits of a full context are
            compared with a reference's, `check_full_cache` is left to do afterwards.

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
    try:
        whole = candidate.logits(ids)
    except CandidateError as error:
        return _crashed(candidate, ids, error)
    asked = _Asked(candidate, ids, whole)
    found = _of_rows(asked)
    results: list[SelfTest] = []
    for test in _TESTS if full_context else [each for each in _TESTS if each.name != _FULL_CONTEXT]:
        if not all(results[:2]):  # noise would be the answer
            results.append(test.not_asked(candidate, "the model returns non-finite or non-deterministic logits"))
        else:
            results.append(found[test.name] if test.name in found else _result(test, asked))
    tests = SelfTests(tuple(results))
    return check_full_cache(candidate, tests) if full_context else tests


def _of_rows(asked: "_Asked") -> dict[str, SelfTest]:
    """The tests that ask for rows of one length, by name.

    One batch has the rows of all of them. Where a test fails so, each row is asked alone, to tell what is wrong in
    every row from what is wrong in a batch. A candidate that passes then has said something else before.
    """
    tests = [test for test in _TESTS if test.ask in (_alone, _twice, _other_future, _one_token_repeated, _in_a_batch)]
    asked.together = True
    at_once = {test.name: _result(test, asked) for test in tests}
    failed = next((each for each in at_once.values() if not each), None)
    if failed is None:
        return at_once
    asked.together = False
    alone: dict[str, SelfTest] = {}
    for test in tests:
        alone[test.name] = _result(test, asked)
        if len(alone) <= 2 and not alone[test.name]:  # noise would be the answer
            break
    if all(alone.values()) and not failed.differs:
        again = alone[_DETERMINISTIC]
        alone[_DETERMINISTIC] = replace(again, difference=failed.difference, crash=failed.crash)
    return alone


def check_full_cache(candidate: Candidate, tests: SelfTests) -> SelfTests:
    """The same tests, of which "cache" includes the last tokens of a full context.

    That takes a run with the cache over the full context, and one without, which is not repeated if the candidate has
    filled its context before.

    Args:
        candidate: the model under test, in eval mode.
        tests: what `check_itself` found.
    """
    of_cache = next(each for each in _TESTS if each.name == _CACHE)
    before = next((test for test in tests.results if test.name == _CACHE), None)
    if before is None or before.difference is None or not before:
        return tests
    if candidate.full is None:
        candidate.logits_until_asked_again(_two_rows(candidate.config, _prompt(candidate.config))[:1])
    assert candidate.full is not None
    asked = _Asked(candidate, *candidate.full)
    chunks = any(test.difference is not None and test.agrees for test in tests.results if test.name == _IN_CHUNKS)
    late = _result(of_cache._replace(ask=partial(_cached_at_the_end, chunks=chunks)), asked)
    if late.difference is None or late.difference <= before.difference:
        return tests
    return SelfTests(tuple(late if test is before else test for test in tests.results))


def _crashed(candidate: Candidate, ids: Tensor, error: CandidateError) -> SelfTests:
    """The first test as failed and nothing else asked, where it is this length that the candidate does not take."""
    if crash_in(error) is None:
        raise error
    try:
        candidate.logits(ids[:, :1])
    except CandidateError:
        raise error from error.__cause__
    first, *others = _TESTS
    fault = f"it takes 1 token and not {ids.size(1)}, where GPT-2 takes {candidate.config.n_positions}"
    failed = SelfTest(first.name, first.what, math.inf, SELF_RTOL[candidate.precision], fault, crash=error.message)
    return SelfTests((failed, *(each.not_asked(candidate, f"it crashes on {ids.size(1)} tokens") for each in others)))


class Pair(NamedTuple):
    """Logits that must agree, and where they were taken, if that says more than the test's name."""

    actual: Tensor
    expected: Tensor
    where: str = ""


Pairs = Iterator[Pair]
_Ask = Callable[["_Asked"], Pairs]


class _Test(NamedTuple):
    """What is tested, how, what a failure means, and how to ask; the others are those of `SelfTest`."""

    name: str
    what: str
    fault: str
    ask: _Ask
    differs: bool = False
    advisory: bool = False

    def not_asked(self, candidate: Candidate, why: str) -> SelfTest:
        return SelfTest(self.name, self.what, None, SELF_RTOL[candidate.precision], self.fault, unasked=why)


class _Asked:
    """The candidate, and its answers to what several tests ask for.

    Args:
        candidate: the model under test.
        ids: int64 ``[1, T]``.
        whole: its logits for them, or for the last of them.
    """

    def __init__(self, candidate: Candidate, ids: Tensor, whole: Tensor) -> None:
        self.candidate = candidate
        self.ids = ids
        self.whole = whole
        self.scale = float(whole.abs().max())
        self.limit = SELF_RTOL[candidate.precision]
        self.together = False  # whether rows are asked for in one batch
        self.hiding: _Meaning | None = None  # the meaning of a mask that was seen to hide padding
        half = ids.size(1) // 2
        other = torch.cat([ids[:, :half], (ids[:, half:] + 1) % candidate.config.vocab_size], dim=1)
        self.rows = torch.cat([ids, other, ids[:, :1].expand_as(ids)])
        self._batch: Tensor | None = None
        self._alone = {0: whole}

    def row(self, place: int) -> Tensor:
        """Logits ``[1, T, V]`` of one of the rows."""
        if self.together:
            self._batch = self.candidate.logits(self.rows) if self._batch is None else self._batch
            return self._batch[place : place + 1]
        if place not in self._alone:
            self._alone[place] = self.candidate.logits(self.rows[place : place + 1])
        return self._alone[place]

    @cached_property
    def two(self) -> tuple[Tensor, Tensor]:
        """Two rows that share no place, ``[2, T]``, and their logits; one row of a candidate that takes no batches."""
        rows = _two_rows(self.candidate.config, self.ids)[:, : _LATE[1]]
        try:
            return rows, self.candidate.logits(rows)
        except CandidateError:  # the test of batches says so
            return rows[:1], self.candidate.logits(rows[:1])

    def agree(self, one: Tensor, other: Tensor) -> bool:
        """Whether two answers are the same but for rounding."""
        return _share(one, other, self.scale) <= self.limit


_OTHER, _REPEATED = 1, 2  # places of rows: with other tokens in the second half, with the first token everywhere


def _result(test: _Test, asked: _Asked) -> SelfTest:
    """Asks one test; the largest difference counts, and the first that is too large says where."""
    limit = asked.limit
    largest, wrong, crash = 0.0, "", ""
    try:
        for pair in test.ask(asked):
            share = _share(pair.actual, pair.expected, asked.scale)
            wrong = wrong or (pair.where if not share <= limit else "")
            largest = max(largest, share)
    except NotImplementedError as error:  # it cannot be asked so
        return test.not_asked(asked.candidate, str(error))
    except CandidateError as error:  # the plain call worked, so this variant of the call is what fails
        if not wrong:
            largest, crash = math.inf, error.message
    fault = f"{test.fault}: wrong {wrong}" if wrong else test.fault
    return SelfTest(test.name, test.what, largest, limit, fault, test.differs, crash, advisory=test.advisory)


def _share(actual: Tensor, expected: Tensor, scale: float) -> float:
    """The largest difference, as a share of the largest logit; infinite when a logit is not finite."""
    largest = float((actual - expected).abs().max())
    if not math.isfinite(largest):
        return math.inf
    return largest / scale if scale else largest


def _alone(asked: _Asked) -> Pairs:
    yield Pair(asked.whole, asked.whole)  # what is not finite does not agree with itself


def _twice(asked: _Asked) -> Pairs:
    yield Pair(asked.row(0) if asked.together else asked.candidate.logits(asked.ids), asked.whole)


def _other_future(asked: _Asked) -> Pairs:
    """Tokens after a position are replaced; logits up to it must stay."""
    length = asked.ids.size(1)
    _need(length > 1, "the context is one token")
    for place, kept in ((_OTHER, length // 2), (_REPEATED, 1)):
        yield Pair(asked.row(place)[:, :kept], asked.whole[:, :kept])


def _prefix(asked: _Asked) -> Pairs:
    """A prompt cut short: what was said about its beginning must stay, and its positions with it."""
    _need(asked.ids.size(1) > 1, "the context is one token")
    kept = asked.ids.size(1) - 1
    yield Pair(asked.candidate.logits(asked.ids[:, :kept]), asked.whole[:, :kept])


def _in_a_batch(asked: _Asked) -> Pairs:
    if asked.together:  # other tests compare the other rows
        yield Pair(asked.row(0), asked.whole)
        return
    batch = asked.candidate.logits(asked.rows)
    for place in range(len(batch)):
        yield Pair(batch[place : place + 1], asked.row(place))


def _one_token_repeated(asked: _Asked) -> Pairs:
    """Nothing but its position tells one of these tokens from the next."""
    _need(asked.ids.size(1) > 1, "the context is one token")
    logits = asked.row(_REPEATED)
    yield Pair(logits[:, 1:], logits[:, :1].expand_as(logits[:, 1:]))


def _full_context(asked: _Asked) -> Pairs:
    """As many tokens as there are positions: a table that is too short, or read one too far, cannot do this."""
    filled = _two_rows(asked.candidate.config, asked.ids)[:1]
    yield Pair(asked.candidate.logits_until_asked_again(filled)[:, : asked.ids.size(1)], asked.whole)


def _left_padded(asked: _Asked) -> Pairs:
    """Two rows with different padding before them, under the meaning that the candidate gives to a mask.

    What stands in the padding must not matter. Whether positions count from the first token is only asked where the
    candidate takes `position_ids`: without them transformers' own GPT-2 counts the padding, too.
    """
    candidate, ids = asked.candidate, asked.ids
    takes = candidate.parameters
    _need("attention_mask" in takes, "it takes no attention_mask")
    room = candidate.config.n_positions - ids.size(1)
    _need(room > 0, "the context has no room for padding")
    long, short = min(_PAD, room), min(_PAD, room) // 2
    other = _two_rows(candidate.config, ids)[1:, : ids.size(1) + long - short]
    mask = torch.ones(2, ids.size(1) + long, dtype=torch.int64)
    mask[0, :long] = mask[1, :short] = 0
    options = {}
    if "position_ids" in takes:
        options["position_ids"] = (mask.cumsum(1) - 1).clamp_min(0).to(candidate.device)
    alone = (asked.whole, asked.two[1][1:, : ids.size(1)])

    def padded(filler: int, meaning: _Meaning) -> tuple[Tensor, Tensor]:
        filled = (torch.arange(mask.size(1)) + filler).expand_as(mask) % candidate.config.vocab_size
        filled = filled.contiguous()
        filled[0, long:], filled[1, short:] = ids[0], other[0]
        logits = candidate.logits(filled, attention_mask=meaning(mask).to(candidate.device), **options)
        return logits[:1, long:], logits[1:, short : short + ids.size(1)]

    def all_ones(meaning: _Meaning) -> _Meaning:
        return lambda mask: meaning(torch.ones_like(mask))

    first, moves = None, False
    for meaning in _MASKS:
        try:
            answers = padded(1, meaning)
            if "position_ids" in takes and all(map(asked.agree, answers, alone)):  # no trace of what was before them
                asked.hiding = meaning
                yield from map(Pair, answers, alone)
                return
            again = padded(candidate.config.vocab_size - 1, meaning)
        except CandidateError:
            continue
        if not all(bool(each.isfinite().all()) for each in (*answers, *again)):
            continue  # logits that are not finite do not show what the mask means
        first = first or (answers, again)
        if all(map(asked.agree, answers, again)):
            follows = all(map(asked.agree, answers, alone))
            _need(follows or "position_ids" in takes, "without position_ids its positions count the padding")
            yield from map(Pair, answers, alone)
            return
        moves = moves or not all(map(torch.equal, answers, padded(1, all_ones(meaning))))
    _need(first is not None, "its attention_mask has no meaning that is known here")
    _need(moves, "its attention_mask changes nothing")
    assert first is not None
    yield from map(Pair, *first)


# What a mask may say, given 1 for a token and 0 for padding.
_Meaning = Callable[[Tensor], Tensor]
_MASKS: Sequence[_Meaning] = (
    lambda mask: mask,
    lambda mask: mask.bool(),
    lambda mask: ~mask.bool(),
    lambda mask: (1.0 - mask.float())[:, None, None] * torch.finfo(torch.float32).min,
)


def _cached(asked: _Asked) -> Pairs:
    """Token by token, two rows that differ: a cache may keep only the first one's keys."""
    feed, (rows, expected) = stepper(asked.candidate), asked.two
    list(feed(without_options([rows[:, :1]])))  # to be forgotten
    steps = min(_STEPS, rows.size(1))
    yield from _in_pieces(feed, rows[:, :steps], expected[:, :steps], range(steps + 1))
    if _LATE[0] < rows.size(1):
        yield from _in_pieces(feed, rows, expected, (0, *range(_LATE[0], rows.size(1) + 1)))


def _cached_at_the_end(asked: _Asked, chunks: bool) -> Pairs:
    """The last tokens of a full context: positions may be misread, or a window end, late."""
    length, takes = asked.ids.size(1), asked.candidate.parameters
    start = length - asked.whole.size(1) + 1
    last_only = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}  # as transformers calls it
    piece = (_PIECE_WITHOUT_HEAD if last_only else _PIECE) if chunks else length
    cuts = [*range(0, start, piece), *range(start, length + 1)]
    yield from _in_pieces(stepper(asked.candidate), asked.ids, asked.whole, cuts, last_only)


def _in_pieces(
    feed: Feed, ids: Tensor, expected: Tensor, cuts: Sequence[int], options: Mapping[str, Any] | None = None
) -> Pairs:
    """What lies between these cuts, one piece after another. `expected` may lack the logits of the first tokens."""
    known = ids.size(1) - expected.size(1)
    spans = list(pairwise(cuts))
    pieces = ((ids[:, begin:stop], options or {}) for begin, stop in spans)
    for (begin, stop), logits in zip(spans, feed(pieces), strict=True):
        right = expected[:, max(begin - known, 0) : max(stop - known, 0)][:, -logits.size(1) :]
        if not right.size(1):
            continue
        where = f"in a step of {stop - begin} after {begin}" if begin else f"in a first step of {stop}"
        yield Pair(logits[:, -right.size(1) :], right, where)


def _cached_in_chunks(asked: _Asked) -> Pairs:
    """Several tokens at once after others: no GPT-2 needs that, and some caches do not bear it."""
    feed, length = stepper(asked.candidate), asked.ids.size(1)
    _need(length > 3, "the context is too short")
    yield from _in_pieces(feed, asked.ids, asked.whole, (0, length // 2, length - 1, length))


def _padded_steps(asked: _Asked) -> Pairs:
    """Two rows with different padding before them, and then steps of one token: the padding must stay hidden.

    What a mask says is what it says without a cache. Of which tokens it says it in a step is found out; if it is none
    of what is known here, nothing is held against the candidate.
    """
    candidate = asked.candidate
    takes = candidate.parameters
    _need("attention_mask" in takes, "it takes no attention_mask")
    feed = stepper(candidate)
    long = min(_PAD, candidate.config.n_positions - _STEPS)
    _need(long > 1, "the context has no room for padding")
    filled = _two_rows(candidate.config, asked.ids)[:, :_STEPS]
    filled = torch.cat([torch.zeros(2, long, dtype=torch.int64), filled], dim=1)[:, : candidate.config.n_positions]
    mask = torch.ones_like(filled)
    mask[0, :long] = mask[1, : long // 2] = 0
    changed = filled.where(mask.bool(), 1 % candidate.config.vocab_size)
    spans = [(0, long + 2), *((at, at + 1) for at in range(long + 2, filled.size(1)))]

    def options(mask: Tensor, said: Tensor | None, begin: int, end: int) -> dict[str, Tensor]:
        positions = (mask.cumsum(1) - 1).clamp_min(0).to(candidate.device)
        given = {"position_ids": positions[:, begin:end]} if "position_ids" in takes else {}
        return given if said is None else given | {"attention_mask": said.to(candidate.device)}

    def at_once(meaning: _Meaning, mask: Tensor, ids: Tensor) -> Tensor:
        return candidate.logits(ids, **options(mask, meaning(mask), 0, mask.size(1)))

    def in_steps(meaning: _Meaning, masked: _StepMask, mask: Tensor, told: Tensor, right: Tensor) -> list[Pair]:
        """The last logits of each piece and the right ones, if steps are told another mask; none if it crashes."""
        said = [masked(meaning, told if begin else mask, begin, end) for begin, end in spans]
        pieces = [(filled[:, b:e], options(mask, each, b, e)) for each, (b, e) in zip(said, spans, strict=True)]
        try:
            answers = list(feed(pieces))
        except CandidateError:
            return []
        return [
            Pair(logits[:, -1:], right[:, end - 1 : end], f"in a step of {end - begin} after {begin}")
            for (begin, end), logits in zip(spans, answers, strict=True)
        ]

    def agree(pairs: list[Pair]) -> bool:
        return bool(pairs) and all(asked.agree(pair.actual, pair.expected) for pair in pairs)

    wrong: list[Pair] = []
    for meaning in _MASKS:
        try:
            one = at_once(meaning, mask, filled)
            other = one if meaning is asked.hiding else at_once(meaning, mask, changed)
        except CandidateError:
            continue
        if not asked.agree(one[:, long:], other[:, long:]):
            continue
        for masked in _STEP_MASKS:
            pairs = in_steps(meaning, masked, mask, mask, one)
            if agree(pairs):
                yield from pairs
                return
            if pairs and not wrong:
                same = mask[:1].expand_as(mask)
                told_otherwise = in_steps(meaning, masked, mask, torch.ones_like(mask), one)
                unread = masked is _of_all and [pair.actual.tolist() for pair in pairs] == [
                    pair.actual.tolist() for pair in told_otherwise
                ]
                # Steps that do not read the mask forget the padding, and steps that hide it where all rows have the
                # same take one row's for all. What else they do with it may be right for a mask of another meaning.
                alike = in_steps(meaning, masked, same, same, at_once(meaning, same, filled))
                wrong = pairs if unread or agree(alike) else []
    _need(bool(wrong), "its attention_mask hides no padding, or its cached steps take none whose meaning is known here")
    yield from wrong


# Of which tokens a mask tells in a step of the tokens from `begin` to `end`: of all so far, of the new ones; or it is
# given in the first step only.
_StepMask = Callable[[_Meaning, Tensor, int, int], Tensor | None]


def _of_all(meaning: _Meaning, mask: Tensor, begin: int, end: int) -> Tensor:
    return meaning(mask[:, :end])


_STEP_MASKS: Sequence[_StepMask] = (
    _of_all,
    lambda meaning, mask, begin, end: meaning(mask[:, begin:end]),
    lambda meaning, mask, begin, end: meaning(mask[:, :end]) if begin == 0 else None,
)


def _two_rows(config: GPTConfig, ids: Tensor) -> Tensor:
    """Two rows of ids as long as the context, which begin with these ids and share no other place."""
    row = ids.repeat(1, -(-config.n_positions // ids.size(1)))[0, : config.n_positions]
    return torch.stack([row, (row * 3 + 1) % config.vocab_size])


_TESTS = (
    _Test("finite", "every logit", "a mask hides every token, or numbers overflow", _alone),
    _Test(_DETERMINISTIC, "the same ids twice", "dropout acts in eval mode, or something is random", _twice),
    _Test("causal", "other tokens later on", "tokens see later ones: the mask is missing or wrong", _other_future),
    _Test("length", "a prompt cut short", "positions or scores depend on the prompt's length", _prefix),
    _Test("positions", "one token, repeated", "position embeddings are not added", _one_token_repeated, differs=True),
    _Test(_FULL_CONTEXT, "as many tokens as positions", "positions are misread", _full_context),
    _Test("batch", "alone and in a batch", "rows of a batch mix: look at views and transposes", _in_a_batch),
    _Test("padding", "padded on the left", "padding is attended to, or shifts positions", _left_padded),
    _Test(_CACHE, "with and without its cache", "a cached step misplaces tokens, positions or mask", _cached),
    _Test("padding in steps", "padded, with its cache", "a cached step attends to padding", _padded_steps),
    _Test(_IN_CHUNKS, "several tokens after others", "its cache takes one token at a time", _cached_in_chunks,
          advisory=True),
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
