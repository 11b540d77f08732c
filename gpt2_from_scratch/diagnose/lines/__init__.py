"""Which line of somebody's file is wrong, what stands there, and what GPT-2 has.

`accuse` runs the code once in float64 under the recorder, recognises every value among GPT-2's (`trial`), finds the
first operation that makes something else out of GPT-2's numbers, explains it by running it again with one thing changed
(`explain`), and names the line (`naming`). With the change made, the run goes on: so several bugs are found, and a line
is proven when the logits are right after it.

own_code.py    which code is the candidate's own, and which only calls it
trial.py       a run of the candidate, with every value recognised
explain.py     what is wrong with an operation
scope.py       what the user's functions hold under which names
tried.py       what the searches for that share; `tried_constants`, `tried_operands` and `tried_operations` are these
source.py      the user's source as syntax trees
classes.py     what the user's classes assign, and where they build modules
origins.py     where a constant was written
places.py      where in the source an operation is
constants.py   the lines for a wrong constant or a wrong factor
masks.py       the lines for a wrong or missing mask
names.py       the lines for a wrong name or a wrong order of axes
blocks.py      the lines for weights of another block or module
missing.py     the lines for a step that is never taken
operands.py    the lines for another wrong operand
words.py       an accused line, and the sentences about it
values.py      what the line gives and what GPT-2 has there, to be drawn
naming.py      from an explanation to its lines
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gpt2_from_scratch.anatomy.entries import entries
from gpt2_from_scratch.anatomy.forward import Weights
from gpt2_from_scratch.anatomy.identity import ROUNDED, Identity, Table
from gpt2_from_scratch.asking import logits_in as logits_of
from gpt2_from_scratch.checks.candidate import Candidate
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.diagnose.clock import Clock
from gpt2_from_scratch.diagnose.lines import source
from gpt2_from_scratch.diagnose.lines.explain import KINDS, STREAMS, Explainer, Explanation, Kind, is_weight
from gpt2_from_scratch.diagnose.lines.naming import between, named, named_in_logits
from gpt2_from_scratch.diagnose.lines.operands import lifted
from gpt2_from_scratch.diagnose.lines.own_code import own_code
from gpt2_from_scratch.diagnose.lines.places import Observed
from gpt2_from_scratch.diagnose.lines.trial import Called, Trial, casts_to_half, run
from gpt2_from_scratch.diagnose.lines.values import Values, values
from gpt2_from_scratch.diagnose.lines.words import Line, words
from gpt2_from_scratch.errors import short_repr
from gpt2_from_scratch.recorder import Again, Frame, Operation

__all__ = ["Accusation", "Finding", "Line", "Values", "accuse", "lines_of", "prompts_for"]

Status = Literal["named", "between", "nothing wrong", "could not record"]

_PADDED = "the prompt is padded to the context here, and the logits are wrong only if there is something to pad"
_MOST_STEPS = 3  # behind an unexplained value, until one has the shape of a number of GPT-2's
# Kinds of findings of which one wrong name may bring several about.
_OF_WIRING = ("operand", "module", "exchange", "order")
_MOST = 8  # findings: of more than a few, the later ones follow from what was not understood
_TOKENS = (13, 11, 7, 5, 3, 2)  # primes: products of axes must not coincide with the model's sizes
_MORE_TOKENS = (31, 29, 23, 19, 17)  # for what is right in the first few tokens, as a window over the last 16 is


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Args:
        lines: where, the accused line first.
        kind: what kind of thing: see `explain.Explanation`.
        says: what stands there.
        expected: what GPT-2 has.
        values: the numbers of both, to be drawn; None where GPT-2 has nothing in that place, or where nobody knows.
    """

    lines: tuple[Line, ...]
    kind: str
    says: str
    expected: str
    values: Values | None = None

    @property
    def others(self) -> tuple[Line, ...]:
        """The lines but the accused one, in the order of their files."""
        return tuple(sorted(self.lines[1:], key=lambda line: (line.file, line.line)))

    def __repr__(self) -> str:
        return short_repr("Finding", f"{self.lines[0]}" if self.lines else f"{self.says}; {self.expected}")


@dataclass(frozen=True)
class Accusation:
    """The lines that make a candidate's logits wrong. Truthy if a line is named.

    Args:
        status: ``named``; ``between``: something is wrong between two lines; ``nothing wrong``: the logits are GPT-2's;
            ``could not record``.
        findings: what is wrong, in the order of the run.
        proven: whether the logits are GPT-2's after GPT-2's values were put in at the named lines.
        why: where nothing is named, why not.
        unknown: how many operations on the way to the logits are not GPT-2's in the candidate as it is.
        operations: how many were recorded.
        notes: what else is worth knowing.
    """

    status: Status
    findings: tuple[Finding, ...] = ()
    proven: bool = False
    why: str = ""
    unknown: int = 0
    operations: int = 0
    notes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.status in ("named", "between")

    @property
    def lines(self) -> tuple[Line, ...]:
        """All lines, the accused first."""
        return tuple(line for finding in self.findings for line in (*finding.lines[:1], *finding.others))

    def __repr__(self) -> str:
        return short_repr("Accusation", str(self))

    @property
    def proof(self) -> str:
        """Whether the lines are proven, as a sentence."""
        places = "this place" if len(self.findings) == 1 else "these places"
        if self.proven:
            return f"Tested: with GPT-2's values in {places}, the logits are GPT-2's."
        if self.status == "named":
            return f"Likely, not proven: with GPT-2's values in {places} the logits are still others."
        return "Not proven: the mistake is in this line or near it."

    def __str__(self) -> str:
        if not self.findings:
            return self.why or self.status
        rows: list[str] = []
        for finding in self.findings:
            rows += map(str, finding.lines[:1])
            rows += [f"    {line.role}: {line}".replace("\n", "\n    ") for line in finding.others]
        rows.append(self.proof)
        rows += self.notes
        return "\n".join(rows)


def prompts_for(config: GPTConfig, batch: int = 2) -> Tensor:
    """Prompts on which axes can be told apart: a prime number of tokens that is no size of the model's.

    Example:
        >>> prompts_for(GPTConfig(vocab_size=11, n_positions=8, n_embd=6, n_layer=2, n_head=3)).shape
        torch.Size([2, 7])
    """
    tokens = _length(config, batch, _TOKENS) or 1
    return _prompts(config, batch, tokens)


def _length(config: GPTConfig, batch: int, lengths: Sequence[int]) -> int:
    """The first of some lengths that fits the context and is no size of the model's, 0 if none fits."""
    sizes = {
        config.n_embd,
        config.n_head,
        config.head_dim,
        config.inner_dim,
        config.vocab_size,
        config.n_layer,
        3,
        batch,
    }
    fitting = [tokens for tokens in lengths if tokens <= config.n_positions]
    return next((each for each in fitting if each not in sizes), fitting[0] if fitting else 0)


def _prompts(config: GPTConfig, batch: int, tokens: int) -> Tensor:
    generator = torch.Generator().manual_seed(tokens)
    return torch.randint(config.vocab_size, (batch, tokens), generator=generator)


def accuse(
    candidate: nn.Module | Callable[..., object],
    config: GPTConfig,
    weights: Weights,
    prompts: Tensor | None = None,
    *,
    logits_in: Callable[[object, Tensor], Tensor] | None = None,
    call: Callable[[Tensor], object] | None = None,
    seconds: float = 60,
) -> Accusation:
    """Names the lines of a candidate that make its logits others than GPT-2's.

    The candidate's weights must be the checkpoint's: wrong weights read like wrong lines.

    Args:
        candidate: a module, or a function from ids; torch or numpy.
        config: of the checkpoint.
        weights: canonical name -> tensor.
        prompts: int64 ``[B, T]``; by default `prompts_for`.
        logits_in: finds the logits in what the candidate returns for ids.
        call: how the candidate is called with ids, where it is not ``candidate(ids)``.
        seconds: of processor time, after which no further bug is looked for.
    """
    ids = prompts if prompts is not None else prompts_for(config)
    compiled = [name for name, each in _modules(candidate) if isinstance(each, torch.jit.ScriptModule)]
    if compiled:
        where = compiled[0] or type(candidate).__name__
        return Accusation("could not record", why=f"{where} is compiled by torch.jit: check the Python module instead")
    clock = Clock(seconds)
    case = _Case(candidate, config, weights, ids, logits_in, call)
    try:
        first = case.first()
        padding = first.padding()
        length = first.recording.values[padding.outputs[0]].shape[1] if padding is not None else 0
        if padding is None or length != config.n_positions:
            found = case.accusation(clock, first)
            more = _length(config, 2, _MORE_TOKENS) if prompts is None and found.status == "nothing wrong" else 0
            if more and not clock.over:
                longer = _Case(candidate, config, weights, _prompts(config, 2, more), logits_in, call).accusation(clock)
                return longer or found
            if found.status != "between" or clock.over:
                return found
            # Code that reads token by token holds the keys of some tokens only: of two tokens that is one, or all.
            two = _Case(candidate, config, weights, ids[:1, :2], logits_in, call)
            try:
                narrower = two.accusation(clock)
            except _Unrecordable:  # it takes prompts of another size only
                return found
            guessed = any(each.kind == "value" for each in narrower.findings)
            return narrower if narrower.proven and narrower.findings and not guessed else found
        whole = torch.cat([ids] * (1 + length // ids.shape[-1]), dim=-1)[:, :length]  # nothing is left to pad
        found = _Case(candidate, config, weights, whole, logits_in, call).accusation(clock)
        if found or first.right:
            return found
        frame = padding.frames[0] if padding.frames else None
        lines = () if frame is None else (Line.of(frame, "made here", _PADDED, "GPT-2 reads the prompt as it is"),)
        return replace(found, status="between", findings=(Finding(lines, "padding", _PADDED, ""),), proven=False)
    except _Unrecordable as error:
        return Accusation("could not record", why=str(error))


def lines_of(candidate: Candidate, config: GPTConfig, weights: Weights) -> Accusation:
    """The same for a candidate of the verifier's, which knows how it is called and where its logits are.

    Args:
        candidate: whose logits are wrong.
        config: of the checkpoint.
        weights: the checkpoint's, canonical name -> tensor.
    """
    if candidate.engine:
        return Accusation("could not record", why=f"{candidate.engine} computes the logits, and not Python code")
    try:
        candidate = candidate.alone
    except NotImplementedError as why:
        return Accusation("could not record", why=str(why))
    ids = prompts_for(config)
    model = candidate.uncompiled()

    def found(output: object, given: Tensor) -> Tensor:
        return model.logits_in(output, given, last_suffices=True)

    return accuse(candidate.module or candidate.model, config, weights, ids, logits_in=found, call=model.call)


def _usual_logits(output: object, ids: Tensor) -> Tensor:
    found = logits_of(output, (ids.shape[0], ids.shape[1]))
    if found is None:
        raise TypeError(f"no logits in what the candidate returns, of type {type(output).__name__}")
    return found


class _Unrecordable(Exception):
    """The candidate cannot be run under the recorder."""


Site = tuple[str, str, int, int, str]


def _site(operation: Operation) -> Site:
    frame: Frame | None = operation.frame
    if frame is None:
        return ("", "", operation.index, 0, operation.name)
    return (frame.file, frame.function, frame.line, frame.column, operation.name)


class _Case:
    """One candidate: runs it, explains what is wrong, repairs that and goes on."""

    def __init__(
        self,
        candidate: nn.Module | Callable[..., object],
        config: GPTConfig,
        weights: Weights,
        ids: Tensor,
        logits_in: Callable[[object, Tensor], Tensor] | None,
        call: Callable[[Tensor], object] | None,
    ) -> None:
        module = candidate if isinstance(candidate, nn.Module) else None
        original = getattr(module, "_orig_mod", None)
        self.module = original if isinstance(original, nn.Module) else module
        self.candidate = self.module if self.module is not None else candidate
        self.config, self.ids, self.logits_in = config, ids, logits_in or _usual_logits
        kept = [weights["wte.weight"], *(self.module.parameters() if self.module is not None else ())]
        self.full = all(each.dtype in (torch.float32, torch.float64) for each in kept if each.is_floating_point())
        self.table = Table(entries(config, weights, ids), ids)
        self.explainer = Explainer(config, self.table)
        self.packages = _packages(self.candidate)
        self.own = own_code(self.candidate)
        self.call = call
        self.numpy = False
        self.repairs: dict[Site, list[Explanation]] = {}
        self.sums: dict[Site, tuple[str, str]] = {}  # where a sum is missing: the place of a part, and of the sum
        self.supposition: Identity | None = None  # what the operation that is looked at may have to give
        self.kinds: Sequence[Kind] = KINDS  # of explanations that are tried
        self.refused: dict[Site, tuple[tuple[str, int | None], ...]] = {}  # explanations that led to nothing
        self.layers: Explanation | None = None  # blocks in another order: then all weights are of another block
        source.forget()

    def accusation(self, clock: Clock, first: Trial | None = None) -> Accusation:
        """What is wrong, in the time of the clock; `first` is the first run, if there was one.

        Where the logits are not right with the first explanation that was found, the next one is tried.
        """
        first = first or self.first()
        found = self._greedy(clock, first)
        site, explained = next(((site, each[0]) for site, each in self.repairs.items() if each), (None, None))
        if found.proven or clock.over or site is None or explained is None or not _may_be_another(explained):
            return found
        self.repairs, self.sums, self.layers = {}, {}, None
        self.refused = {site: ((explained.search, explained.position),)}
        other = self._greedy(clock, first)
        guessed = any(each.kind == "value" for each in other.findings)
        fewer = 0 < len(other.findings) <= len(found.findings)
        return other if other.proven and fewer and not guessed else found

    def _greedy(self, clock: Clock, first: Trial) -> Accusation:
        """What is wrong, with the likeliest explanation at each step."""
        trial = base = first
        narrowed = self._narrowed(trial)
        if trial.right:
            status: Status = "named" if narrowed else "nothing wrong"
            count = len(trial.recording.operations)
            return Accusation(status, narrowed, bool(narrowed), unknown=trial.unknown(), operations=count)
        if not trial.meets:
            why = "none of the operations that could be recorded takes a weight of GPT-2's"
            return Accusation("could not record", why=why, operations=len(trial.recording.operations))
        findings: list[Finding] = []
        nowhere: list[str] = []  # what is wrong and stands in no line of the user's
        unexplained = out_of_step = False  # out of step with GPT-2's blocks, by weights of another one
        tried: set[int] = set()
        for _ in range(_MOST):
            culprit = next((each for each in trial.culprits() if each.index not in tried), None)
            if culprit is None or clock.over:
                break
            tried.add(culprit.index)
            explained, following = self._explained(culprit, trial)
            if explained is not None and not following.right and following.unknown() >= trial.unknown():
                self.repairs[_site(culprit)].pop()  # nothing that follows became known by it
                explained = None
            if explained is None and not clock.over:
                explained, following = self._supposed(culprit, trial)
            if explained is None:
                unexplained = True
                findings.append(self._between(culprit, trial))
                break
            observed = Observed(self.module, following, self.table, trial)
            explained = lifted(observed, explained, self.config.layer_norm_epsilon)
            lines = named(observed, explained, culprit)
            more = named(observed, replace(explained, kind="factor", wanted=1.0), culprit) if _also(explained) else []
            trial = self._with_sum(explained, following) or following
            crossed = _crosses_blocks(explained)
            follows = (crossed and out_of_step) or _made_there(observed, explained, findings)
            if explained.kind != "rounding" and not follows:
                said = (lines[0].says, lines[0].expected) if lines else ("", "")
                findings.append(Finding(tuple(lines), explained.kind, *said, explained.values))
                if not lines:
                    nowhere.append(self._nowhere(explained, following))
                if more:
                    findings.append(Finding(tuple(more), "factor", more[0].says, more[0].expected))
            out_of_step = out_of_step or (crossed and is_weight(explained.wanted))
            if trial.right or (explained.kind == "module" and _other_layer(explained, same_place=False)):
                break
        if not findings and not unexplained and not trial.right:
            final = named_in_logits(Observed(self.module, trial, self.table, trial))
            if final:
                findings.append(Finding(tuple(final), "logits", final[0].says, final[0].expected))
        notes = (*trial.recording.missing, *nowhere)
        unknown, count = base.unknown(), len(base.recording.operations)
        findings = _once([*(_by_one_line(findings) if trial.right else findings), *narrowed])
        if not findings:
            if trial.right and not nowhere:
                return Accusation(
                    "nothing wrong",
                    proven=True,
                    unknown=unknown,
                    operations=count,
                    notes=(*notes, "constants are rounded to float32"),
                )
            why = "; and ".join(nowhere)
            if not why and clock.over:
                why = "the search ran out of time"
            why = why or "no line is named: no operation was found that makes something else of GPT-2's numbers"
            return Accusation("between", (), False, why, unknown, count, trial.recording.missing)
        status = "between" if unexplained and len(findings) == 1 else "named"
        return Accusation(status, tuple(findings), trial.right, "", unknown, count, notes)

    def _narrowed(self, trial: Trial) -> tuple[Finding, ...]:
        """Where numbers are cast to half precision, which the recorder leaves out; nowhere for a checkpoint in it."""
        if not self.full:
            return ()
        says, expected = "numbers are cast to half precision here", "GPT-2 keeps the precision of the weights"
        frames = dict.fromkeys(each.frames[0] for each in trial.recording.operations if casts_to_half(each))
        lines = [Line.of(frame, "made here", says, expected) for frame in frames]
        return tuple(Finding((line,), "precision", says, expected) for line in lines)

    # -- runs

    def first(self) -> Trial:
        """The candidate as it is."""
        try:
            return self._run(None)
        except Exception as error:
            if self.module is None:
                self.numpy = True
                try:
                    return self._run(None)
                except Exception:
                    self.numpy = False
            raise _Unrecordable(f"it cannot be recorded: {type(error).__name__}: {error}") from error

    def _run(self, target: int | None, before: tuple[Trial, int] | None = None) -> Trial:
        self.explanation: Explanation | None = None
        ids = self.ids

        def called() -> object:
            given: Any = ids.numpy().copy() if self.numpy else ids.clone()
            function = self.call or self.candidate
            return function(given)

        def hook(
            operation: Operation, position: int, content: Tensor, again: Again, labels: list[Identity]
        ) -> Tensor | None:
            return self._hook(target, operation, position, content, again, labels)

        if before is not None:
            taken = frozenset(before[0].weights())
            self.explainer.case = replace(self.explainer.case, taken=taken)
        arrays = self.candidate if self.module is None else None
        with _kept(self.module):
            return run(
                Called(called, lambda output: self.logits_in(output, ids), self.own, tuple(self.packages), arrays),
                self.table,
                hook if target is not None or self.repairs or self.sums else None,
                before,
            )

    def _hook(
        self,
        target: int | None,
        operation: Operation,
        position: int,
        content: Tensor,
        again: Again,
        labels: list[Identity],
    ) -> Tensor | None:
        missing = self.sums.get(_site(operation))
        if missing is not None:
            added = self._added(missing, operation, content)
            if added is not None:
                return added
        known = self.repairs.get(_site(operation), [])
        is_target = operation.index == target and position == 0
        if (
            self.layers is not None
            and position == 0
            and any(
                label.entry is not None and label.entry.weight for label in (labels[each] for each in operation.inputs)
            )
        ):
            known = [*known, self.layers]
        if not is_target and not known:
            return None
        label = self.table.identify(content)
        if label.kind == "entry" and label.known and not is_target:
            return None
        if position == 0:
            for explained in known:
                output = self.explainer.same(explained, operation, again, labels, content)
                if output is not None and (output.shape == content.shape or not operation.writes):
                    return output
        if not is_target:
            return None
        if self.supposition is not None:
            found = self.explainer.supposed(self.supposition, operation, labels, content)
        else:
            refused = self.refused.get(_site(operation), ())
            found = self.explainer.explain(operation, again, labels, content, self.kinds, refused)
        if found is None:
            return None
        explained, output = found
        self.explanation = replace(explained, values=values(operation.frame, content, output))
        if self.explanation.kind == "module" and _other_layer(self.explanation, same_place=True):
            self.layers = self.explanation
        self.repairs.setdefault(_site(operation), []).append(self.explanation)
        return output if output.shape == content.shape or not operation.writes else None

    def _explained(self, culprit: Operation, before: Trial) -> tuple[Explanation | None, Trial]:
        """Why an operation gives something unknown, and the run in which it is repaired."""
        explained, trial = self._explained_by(KINDS, culprit, before)
        if trial.right:
            return explained, trial
        if explained is None or explained.kind in ("extra", "value"):
            return self._without_call(culprit, before, trial) or (explained, trial)
        alone = _of_one_value(explained, before)
        if explained.kind != "operation" and not _makes_sum(explained) and not alone:
            return explained, trial
        # Another operation belongs there, or none: what becomes known by it decides.
        first = self.repairs[_site(culprit)].pop()
        extra, without = self._explained_by(("extra",), culprit, before)
        if extra is not None and (without.right if alone else without.unknown() < trial.unknown()):
            return extra, without
        self.repairs[_site(culprit)] = [*self.repairs[_site(culprit)][: None if extra is None else -1], first]
        return explained, trial

    def _explained_by(
        self, kinds: Sequence[Kind], culprit: Operation, before: Trial
    ) -> tuple[Explanation | None, Trial]:
        count = len(self.repairs.get(_site(culprit), []))
        self.kinds = kinds
        try:
            trial = self._run(culprit.index, (before, culprit.outputs[0]))
        except Exception:  # the candidate itself ran: it does not bear the repair, whose shape may be another
            del self.repairs.get(_site(culprit), [])[count:]
            return None, before
        return self.explanation, trial

    def _without_call(self, culprit: Operation, before: Trial, other: Trial) -> tuple[Explanation, Trial] | None:
        """A call that GPT-2 does not make: it goes on with what a function of the user's is given, as that is.

        Args:
            culprit: in the function.
            before: the run.
            other: the run with another explanation, or with none.

        Returns:
            Why the call is wrong, and the run without it; None unless more of what follows is known then.
        """
        around, labels = culprit.frames[1:], [before.labels[number] for number in culprit.inputs]
        given = [each for each in labels if each.entry is not None and each.entry.main and not each.entry.weight]
        recording = before.recording

        def within(operation: Operation | None) -> bool:
            return operation is not None and operation.frames[1:][-len(around) :] == around

        inside = list(takewhile(within, recording.operations[culprit.index :]))
        entries = [before.labels[number].entry for each in inside for number in each.inputs]
        weights = any(entry is not None and entry.weight for entry in entries)
        handed = not any(within(recording.maker(number)) for number in culprit.inputs)
        if not around or len(inside) < 2 or len(given) != len(labels) or weights or not handed:
            return None
        count = len(self.repairs.get(_site(inside[-1]), []))
        self.supposition = given[0]
        try:
            explained, without = self._explained_by((), inside[-1], before)
        finally:
            self.supposition = None

        def outside(trial: Trial) -> int:
            """How many operations outside of the call make something that is not known."""
            made = (trial.recording.operations[each.index].outputs for each in inside)
            return trial.unknown() - sum(not trial.known(number) for numbers in made for number in numbers)

        if explained is None or outside(without) >= outside(other):
            del self.repairs.get(_site(inside[-1]), [])[count:]
            return None
        called, name = replace(inside[-1], frames=around), culprit.frames[0].function
        here = source.at(culprit.frames[0])
        kind = source.class_around(here.node) if here is not None and name == "forward" else None
        return replace(explained, kind="extra", operation=called, found=kind.name if kind else name), without

    def _supposed(self, culprit: Operation, before: Trial) -> tuple[Explanation | None, Trial]:
        """The value of GPT-2's that belongs in the place of an unexplained one: most of what follows is known then."""
        operation: Operation | None = culprit
        for _ in range(_MOST_STEPS):
            if operation is None:
                break
            explained = self._supposed_at(operation, culprit, before)
            if explained is not None:
                return explained, self._run(None)
            operation = next((each for number in operation.outputs for each in before.consumers.get(number, ())), None)
        return None, before

    def _supposed_at(self, operation: Operation, culprit: Operation, before: Trial) -> Explanation | None:
        shape = before.recording.values[operation.outputs[0]].shape
        site = _site(operation)
        calls = sum(_site(each) == site for each in before.recording.operations)
        kept = len(self.repairs.get(site, []))
        best: tuple[float, Explanation] | None = None
        for identity in self.explainer.next_ones(culprit, before.labels, shape):
            self.supposition = identity
            try:
                following = self._run(operation.index, (before, culprit.outputs[0]))
            except Exception:  # as above
                del self.repairs.get(site, [])[kept:]
                continue
            finally:
                self.supposition = None
            if self.explanation is None:
                continue
            explained = self.repairs[site].pop()
            left = -1 if following.right else following.unknown()
            enough = left < 0 or before.unknown() - left > calls  # itself, and what takes it
            if enough and (best is None or left < best[0]):
                best = (left, explained)
            if left < 0:
                break
        if best is None:
            return None
        self.repairs.setdefault(site, []).append(best[1])
        return best[1]

    def _added(self, missing: tuple[str, str], operation: Operation, content: Tensor) -> Tensor | None:
        """The sum in the place of a part of it, in the same order of axes."""
        label = self.table.identify(content)
        part, whole = missing
        if label.entry is None or label.entry.place != part or not label.known:
            return None
        layer = "" if label.entry.layer is None else str(label.entry.layer)
        entry = self.table.by_key.get(whole.replace("*", layer))
        found = (
            self.explainer.case.arranged(entry, tuple(content.shape), dict(label.fixed), label.order) if entry else ()
        )
        return next((value.clone() for value, order, _ in found if order == label.order), None)

    def _with_sum(self, explained: Explanation, trial: Trial) -> Trial | None:
        """The run in which a missing sum is made where its part is made: then all that takes it is right."""
        found, wanted = explained.found, explained.wanted
        if explained.kind != "operand" or explained.position is None:
            return None
        if not isinstance(found, Identity) or not isinstance(wanted, Identity) or not found.entry or not wanted.entry:
            return None
        maker = trial.made(explained.operation.inputs[explained.position])
        if wanted.entry.place not in STREAMS or maker is None or found.entry.weight:
            return None
        if any(
            label.entry is wanted.entry
            for label in trial.labels[: trial.recording.operations[explained.operation.index].outputs[0]]
        ):
            return None
        site = _site(maker)
        self.sums[site] = (found.entry.place, wanted.entry.place)
        repairs = self.repairs.pop(_site(explained.operation), [])
        following = self._run(None)
        if following.right or following.unknown() < trial.unknown():
            return following
        del self.sums[site]
        self.repairs[_site(explained.operation)] = repairs
        return None

    def _nowhere(self, explained: Explanation, trial: Trial) -> str:
        """What is wrong where no line can be named, as in a module that only the outermost `nn.Sequential` calls."""
        operation = explained.operation
        name = next((name for name, each in _modules(self.module) if each is operation.module), "")
        place = f"{name} ({type(operation.module).__name__})" if name else operation.name
        why = "the source of what calls it was not found" if operation.frames else "no function of yours calls it"
        return f"no line is named for {place}, because {why}: {'; '.join(words(explained, trial))}"

    def _between(self, culprit: Operation, trial: Trial) -> Finding:
        known = [trial.labels[number] for number in culprit.inputs]
        takes = " and ".join(str(label) for label in known) or "nothing"
        says = f"GPT-2's numbers end here: it takes {takes} and gives a value that is not known"
        lines = between(culprit, says)
        return Finding(tuple(lines), "between", says if lines else "", "")


def _modules(candidate: object) -> list[tuple[str, nn.Module]]:
    return list(candidate.named_modules()) if isinstance(candidate, nn.Module) else []


@contextmanager
def _kept(root: nn.Module | None) -> Iterator[None]:
    """In eval mode; afterwards each module has the attributes that it had: what it caches is made anew in each run."""
    modules = list(root.modules()) if root is not None else []
    states = [(vars(module).copy(), module._buffers.copy()) for module in modules]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, (attributes, buffers) in zip(modules, states, strict=True):
            vars(module).clear()
            vars(module).update(attributes)
            module._buffers.clear()
            module._buffers.update(buffers)


def _other_layer(explained: Explanation, same_place: bool) -> bool:
    """Whether the weights are of another block: of the same module there, or of another one.

    After weights of another module, what follows runs out of step with GPT-2.
    """
    found, wanted = explained.found, explained.wanted
    return (
        isinstance(found, Identity)
        and isinstance(wanted, Identity)
        and found.entry is not None
        and wanted.entry is not None
        and found.entry.layer != wanted.entry.layer
        and (found.entry.place == wanted.entry.place) is same_place
    )


def _crosses_blocks(explained: Explanation) -> bool:
    """Whether a value of one block stands where GPT-2 has one of another block."""
    return _other_layer(explained, same_place=True) or _other_layer(explained, same_place=False)


def _made_there(observed: Observed, explained: Explanation, findings: Sequence[Finding]) -> bool:
    """Whether an unfinished step of GPT-2's is taken that an accused line made: it is that line's fault."""
    found = explained.found
    if explained.kind != "operand" or explained.position is None or not isinstance(found, Identity):
        return False
    maker = observed.trial.recording.maker(explained.operation.inputs[explained.position])
    if found.entry is None or found.entry.main or maker is None or maker.frame is None:
        return False
    accused = [(each.lines[0].file, each.lines[0].line) for each in findings if each.lines]
    return (maker.frame.file, maker.frame.line) in accused


def _may_be_another(explained: Explanation) -> bool:
    """Whether another operand may be the wrong one; where weights are another block's, what follows cannot be right."""
    weights = is_weight(explained.found) or is_weight(explained.wanted)
    return explained.search in ("operand", "constant", "factor", "order") and not weights


def _makes_sum(explained: Explanation) -> bool:
    """Whether an addition would make a sum of GPT-2's of another operand: it may also be one too many."""
    entry = explained.becomes.entry
    sums = entry is not None and entry.place in STREAMS and explained.operation.name == "add"
    return explained.kind == "operand" and sums


def _of_one_value(explained: Explanation, trial: Trial) -> bool:
    """Whether an operation takes one step of GPT-2's, where it would have to take another: it may be one too many."""
    entries = [trial.labels[number].entry for number in explained.operation.inputs]
    data = [entry for entry in entries if entry is not None and not entry.weight]
    return explained.kind == "operand" and len(data) == 1 and data[0].main and not is_weight(explained.wanted)


def _also(explained: Explanation) -> bool:
    """Whether scores that are not masked where they should be have a wrong factor, too."""
    found, wanted = explained.found, explained.wanted
    return (
        explained.kind == "operand"
        and isinstance(found, Identity)
        and isinstance(wanted, Identity)
        and found.entry is not None
        and found.entry.place.endswith((".scores", ".visible"))
        and abs(found.factor - 1) > ROUNDED
    )


def _once(findings: Sequence[Finding]) -> list[Finding]:
    """Without those whose accused line was accused before."""
    kept: list[Finding] = []
    for finding in findings:
        first = finding.lines[0] if finding.lines else None
        if first is None or any(
            other.lines and (other.lines[0].file, other.lines[0].line) == (first.file, first.line) for other in kept
        ):
            continue
        kept.append(finding)
    return kept


def _by_one_line(findings: Sequence[Finding]) -> list[Finding]:
    """All findings, if a line is accused by one, and gives the others what is wrong: then it explains them all.

    Sums too many, behind one line that adds already, are explained by that line.
    """
    kinds = {each.kind for each in findings}
    common = [line for each in findings for line in each.lines[:1]] if kinds <= set(_OF_WIRING) else []
    common = list(findings[0].lines[1:]) if kinds == {"extra"} else common
    for one in common if len(findings) > 1 else ():
        place = (one.file, one.line)
        chosen: list[Finding] = []
        for each in findings:
            line = next((line for line in each.lines if (line.file, line.line) == place), None)
            if line is None or (line.role != "made here" and line is not each.lines[0]):
                break
            said = replace(line, says=each.says, expected=each.expected, likely=True)
            chosen.append(replace(each, lines=(said, *(other for other in each.lines if other is not line))))
        if len(chosen) == len(findings):
            return chosen
    return list(findings)


def _packages(candidate: object) -> list[str]:
    """Installed packages whose classes and functions the candidate is made of."""
    modules = {type(candidate).__module__, getattr(candidate, "__module__", "") or ""}
    if isinstance(candidate, nn.Module):
        modules |= {type(each).__module__ for each in candidate.modules()}
    return sorted({name.split(".")[0] for name in modules if name.split(".")[0] in sys.modules})
