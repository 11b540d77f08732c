"""`infer_layout`: reads a module, proves what was read, and says which of the three answers it is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from gpt2_from_scratch.anatomy import forward
from gpt2_from_scratch.arrays import module_of, name_of
from gpt2_from_scratch.asking import Call, ways
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import MappingError, short_repr
from gpt2_from_scratch.infer_layout import proof
from gpt2_from_scratch.infer_layout.arrangement import Inexpressible, layout_of
from gpt2_from_scratch.infer_layout.deviations import Unexplained, explain
from gpt2_from_scratch.infer_layout.events import ROWS, Record
from gpt2_from_scratch.infer_layout.memory import Numbered, numbered
from gpt2_from_scratch.infer_layout.skeleton import Reading, read
from gpt2_from_scratch.infer_layout.tracing import trace, trace_tables
from gpt2_from_scratch.layouts import EVERY
from gpt2_from_scratch.mapping import Layout, collapse, match_module, write_theirs

# Tokens of the pass that is recorded. What does not depend on the position is read from a few; the tables are recorded
# over the whole context. A prime number, so that no other axis is as long by chance.
_TRACED = 61


class Status(Enum):
    """The three answers."""

    PROVEN = "proven"
    PROVEN_UP_TO = "proven up to"
    NOT_FOUND = "not found"


@dataclass(frozen=True)
class InferredLayout:
    """Which parameter of a module is which of GPT-2's. Truthy if that is proven, and the module computes GPT-2.

    Args:
        status: proven; proven up to what `because` names; or not found.
        layout: the table; None where it was not found.
        because: what the module computes otherwise than GPT-2; or why no layout was found. Empty if it is proven.
        conditions: what the proof takes for granted, such as parameters that GPT-2 lacks and that have to be zero.
        evidence: how each decision was made, in order.
        width: of the module's token table; None where it has none, or could not be read.

    Example:
        >>> from gpt2_from_scratch import GPTModel
        >>> config = GPTConfig(vocab_size=11, n_positions=8, n_embd=6, n_layer=2, n_head=3)
        >>> print(infer_layout(GPTModel(config), config))
        PROVEN
    """

    status: Status
    layout: Layout | None = None
    because: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    width: int | None = None

    def __bool__(self) -> bool:
        return self.status is Status.PROVEN

    def __repr__(self) -> str:
        return short_repr("InferredLayout", str(self))

    def __str__(self) -> str:
        provided = f", provided that {'; '.join(self.conditions)}" if self.conditions else ""
        if self.status is Status.PROVEN:
            return f"PROVEN{provided}"
        if self.status is Status.PROVEN_UP_TO:
            return f"PROVEN, except that {'; '.join(self.because)}{provided}"
        return f"NOT FOUND, because {'; '.join(self.because)}"


def infer_layout(
    module: nn.Module | Callable[..., Any], config: GPTConfig, *, call: Call | None = None, name: str | None = None
) -> InferredLayout:
    """Finds out which parameter of a module is which of GPT-2's, without reading a name, and proves it.

    The module is run with random weights, and has its own values, buffers and modes back afterwards. No checkpoint is
    needed: the sizes say enough.

    Args:
        module: somebody's GPT-2, on the CPU: a module, or a function of ids with its arrays in its closure, its
            defaults, or the globals that it reads (`arrays.arrays_of`).
        config: the sizes and options of the GPT-2 that it is expected to be.
        call: ids ``[1, T]`` to logits ``[1, n, V]`` by way of the module, where it is called in a way of its own. None
            tries the usual ways.
        name: what the layout is called, unless it is a built-in one; None: the module's class.

    Returns:
        An `InferredLayout`.

    Example:
        >>> from gpt2_from_scratch import GPTModel
        >>> config = GPTConfig(vocab_size=11, n_positions=8, n_embd=6, n_layer=2, n_head=3)
        >>> inferred = infer_layout(GPTModel(config), config)
        >>> inferred.status, inferred.layout.name
        (<Status.PROVEN: 'proven'>, 'gpt2_from_scratch')
    """
    found = module_of(module)
    if found is None:
        reason = "the function has no arrays in its closure, its defaults, or the globals that it reads"
        return InferredLayout(Status.NOT_FOUND, because=(reason,))
    devices = {parameter.device.type for parameter in found.parameters()}
    if devices != {"cpu"}:
        reason = "parameters are not on the CPU, where they can be followed: call module.cpu() first"
        if "meta" in devices:
            reason = "parameters are on the meta device, so the module cannot be run"
        return InferredLayout(Status.NOT_FOUND, because=(reason if devices else "the module has no parameters",))
    with proof.untouched(found), torch.random.fork_rng(devices=[]):  # a module may draw random numbers
        return _Inference(found, config, name or name_of(found)).run(call)


class _NotFound(Exception):
    """No layout was found; its arguments say why."""


@dataclass
class _Read:
    """One way of calling the module, and what was read of it."""

    way: str
    call: Call
    record: Record
    reading: Reading
    last_only: bool


def _rank(found: _Read) -> tuple[bool, bool]:
    """Sort key for ways of calling: one that nothing contradicts first, then one that gives all logits."""
    return bool(found.reading.contradictions), found.last_only


@dataclass(frozen=True)
class _Filled:
    """The module with random weights in it, and what it answers.

    Args:
        found: how it is called, and what was read of it.
        config: of the GPT-2 that has these weights: with a head of its own if the module has one.
        weights: canonical name -> tensor.
        prompts: ids ``[1, T]``.
        answer: the module's, to each of them.
    """

    found: _Read
    config: GPTConfig
    weights: Mapping[str, Tensor]
    prompts: list[Tensor]
    answer: proof.Answer


class _Inference:
    def __init__(self, module: nn.Module, config: GPTConfig, name: str) -> None:
        self.module = module
        self.config = config
        self.name = name
        self.evidence: list[str] = []

    def run(self, call: Call | None) -> InferredLayout:
        try:
            found = self._read(call)
            if found.reading.contradictions:
                because, width = _collapsed(found.reading.contradictions), found.reading.width
                # Until here the evidence is of ways in which it fails; if the usual one is among them, that may be why.
                because += [f"asked in another way ({each})" for each in self.evidence[:1]]
                return InferredLayout(Status.NOT_FOUND, None, tuple(because), (), tuple(self.evidence), width)
            return self._proven(found)
        except (_NotFound, proof.Failed) as error:
            return InferredLayout(Status.NOT_FOUND, None, tuple(dict.fromkeys(error.args)), (), tuple(self.evidence))

    def _read(self, call: Call | None) -> _Read:
        """Reads the module, called in the first way that nothing contradicts and that gives all logits, or the best."""
        whole = self._distinct_ids()
        ids = whole[:, :_TRACED]
        calls: list[tuple[str, Call]] = [] if call is None else [("as told", call)]
        calls = calls or [(way.about or "ids [batch, tokens]", way.call) for way in ways(self.module)]
        numbers = numbered(self.module)
        first: _Read | None = None
        failures: list[str] = []
        for way, each in calls:
            try:
                record, logits, given = self._traced(each, ids, whole, numbers)
            except Exception as error:  # somebody's code may raise anything
                failures.append(proof.died(error))
                self.evidence.append(f"{way}: {failures[-1]}")
                continue
            found = _Read(way, each, record, read(record, logits, self.config), 1 < ids.shape[1] != given.shape[1] == 1)
            if first is None or (_rank(found) < _rank(first)):
                first = found
            if _rank(found) == (False, False):
                break
        if first is None:
            more = f"; {len(failures) - 1} other ways to call it were tried, too" if len(failures) > 1 else ""
            raise _NotFound(f"the module cannot be run over {whole.shape[1]} tokens: {failures[0]}{more}")
        if not first.reading.contradictions:
            what = "the last position's logits" if first.last_only else "logits"
            self.evidence.append(f"called with {first.way}, over the whole context of {whole.shape[1]} tokens: {what}")
            self.evidence.append(f"{len(first.record.events)} uses of parameters were recorded")
        return first

    def _traced(
        self, call: Call, ids: Tensor, whole: Tensor, numbers: Numbered
    ) -> tuple[Record, Tensor | None, Tensor]:
        """A record of a few tokens, and of the tables over the whole context; of the whole pass, where that fails."""
        try:
            record, logits, given = trace(self.module, call, ids, numbers=numbers)
            if ids.shape == whole.shape or trace_tables(call, whole, record, numbers):
                return record, logits, given
        except Exception:  # such as a whole table that is added to fewer rows
            if ids.shape == whole.shape:
                raise
        return trace(self.module, call, whole, numbers=numbers)

    def _distinct_ids(self) -> Tensor:
        """As many ids as the context has tokens; not 0, 1, 2 ..., so that tokens and positions can be told apart."""
        generator = torch.Generator().manual_seed(3)
        positions, vocabulary = self.config.n_positions, self.config.vocab_size
        if vocabulary >= 2 * positions:
            return (positions + torch.randperm(vocabulary - positions, generator=generator)[:positions])[None]
        ids = torch.randint(vocabulary, (1, positions), generator=generator)
        ids[0, 0] = vocabulary - 1
        return ids

    # ------------------------------------------------------------------------------------------------------- proof

    def _proven(self, found: _Read) -> InferredLayout:
        record, reading = found.record, found.reading
        config = (
            self.config if "lm_head.weight" not in reading.canonical else self.config.replace(tie_word_embeddings=False)
        )
        numbers = reading.canonical
        self._check_each_used_once(record, numbers)
        absent = {name: each == 0 for name, each in numbers.items() if not bool(each.all())}
        missing = [name for name in config.tensor_shapes() if name not in numbers]
        weights = proof.random_weights(config, absent)
        if self.config.tie_word_embeddings and "lm_head.weight" in weights:
            weights["lm_head.weight"] = weights["wte.weight"]
        proof.fill(self.module, record, numbers, weights)
        prompts = proof.prompts(self.config)
        filled = _Filled(found, config, weights, prompts, proof.answer(self.module, found.call, prompts))
        because: list[str] = []
        agrees: proof.Agreement | None = None
        if not missing and not reading.deviations:
            agrees = self._compared(filled, [forward.logits(config, weights, each) for each in prompts])
            self.evidence.append(f"with random weights in the module, {agrees}")
        if not agrees:
            because = self._explained(filled)
            if not because:
                raise _NotFound("the structure is GPT-2's, but not the logits, and no known deviation explains them")
        because += _roundings(record, self.module)
        conditions = self._conditions(filled)
        try:
            layout = layout_of(self.module, record, reading, self.config, self.name, self._unused)
            if not missing:
                self._check(layout, weights)
                layout = self._built_in(weights) or layout
        except Inexpressible as error:
            raise _NotFound(f"which parameter is which is proven, but no layout can express it: {error}") from None
        status = Status.PROVEN_UP_TO if because else Status.PROVEN
        return InferredLayout(status, layout, tuple(because), tuple(conditions), tuple(self.evidence))

    def _compared(self, filled: _Filled, ours: list[Tensor]) -> proof.Agreement:
        """Compares with our logits; where they differ a little, finds out what constants in float32 account for."""
        if not filled.answer.exact:
            rounded = forward.logits(filled.config, filled.weights, filled.prompts[-1], torch.float32)
            floor = float((rounded - ours[-1]).abs().max() / ours[-1].abs().max())
            return proof.agreement(filled.answer, ours, floor)
        agrees = proof.agreement(filled.answer, ours)
        if not agrees and agrees.distance <= proof.CONSTANTS:
            nudged = proof.answer(self.module, filled.found.call, filled.prompts, nudge=True)
            agrees = proof.agreement(nudged, ours)
        return agrees

    def _check_each_used_once(self, record: Record, numbers: Mapping[str, Tensor]) -> None:
        """Refuses elements that stand for two of GPT-2's: a block that is used in several layers."""
        twice: dict[tuple[str, str], str] = {}
        ranges: list[tuple[int, int, str]] = []
        for name, each in numbers.items():
            shown = each if bool(each.all()) else each[each > 0]
            if shown.numel():
                ranges.append((int(shown.min()), int(shown.max()), name))
        ranges.sort()
        for place, (_, highest, name) in enumerate(ranges):
            for lowest, _, other in ranges[place + 1 :]:
                if lowest > highest:
                    break
                mine = numbers[name].flatten()
                both = torch.isin(mine, numbers[other].flatten()) & (mine > 0)
                if bool(both.any()):
                    twice[name, other] = record.names_of(mine[both])[0]
        if twice:
            (one, other), theirs = next(iter(twice.items()))
            more = f" ({len(twice) - 1} more parameters serve twice)" if len(twice) > 1 else ""
            raise _NotFound(f"{theirs} serves as {one} and as {other}, for which GPT-2 has a tensor each{more}")

    def _explained(self, filled: _Filled) -> list[str]:
        """What the module computes otherwise."""
        found, config, weights = filled.found, filled.config, filled.weights
        ids = torch.randint(
            config.vocab_size, (1, min(12, config.n_positions)), generator=torch.Generator().manual_seed(4)
        )
        try:
            record, numbers, logits = proof.wide(self.module, lambda: trace(self.module, found.call, ids, values=True))
        except Exception as error:  # somebody's code may raise anything
            raise _NotFound(f"the module cannot be run in float64: {error}") from error
        structure = _collapsed(found.reading.deviations)
        try:
            formulas, words = explain(config, weights, record, read(record, numbers, config), ids, logits.double())
        except Unexplained as error:
            raise _NotFound(*structure, str(error)) from None
        agrees = self._compared(filled, [formulas.logits(weights, each) for each in filled.prompts])
        self.evidence.append(f"with {'; '.join([*found.reading.deviations, *words])}: {agrees}")
        if not agrees:
            raise _NotFound(*structure, *words, "and something else")
        return structure + words

    def _conditions(self, filled: _Filled) -> list[str]:
        """Perturbs every parameter that was not mapped: it is never used, or GPT-2's only if it is zero."""
        record, reading = filled.found.record, filled.found.reading
        mapped = torch.zeros(record.last_element + 1, dtype=torch.bool)
        for each in reading.canonical.values():
            for some in torch.split(each, ROWS):
                mapped[some] = True
        self._unused: dict[str, bool] = {}
        for name, placed in record.parameters.items():
            share = proof.part(mapped, placed)
            if bool(share.any()):
                continue
            parameter = dict(self.module.named_parameters(remove_duplicate=False))[name]
            with torch.no_grad():
                before = parameter.detach().clone()
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
                moved = proof.answer(self.module, filled.found.call, filled.prompts[-1:])
                parameter.copy_(before)
            self._unused[name] = torch.equal(moved.logits[0], filled.answer.logits[-1])
        used = [name for name, unused in self._unused.items() if not unused]
        never = [name for name, unused in self._unused.items() if unused]
        if never:
            self.evidence.append(f"never used: {', '.join(collapse(never))}")
        lacking = [
            name
            for name, each in reading.canonical.items()
            if bool((each if not name.endswith("c_attn.bias") else _without_key(each)).eq(0).any())
        ]
        conditions = [f"{', '.join(collapse(used))} is zero: GPT-2 has no such parameter"] if used else []
        if lacking:
            conditions.append(f"the checkpoint's {', '.join(collapse(lacking))} are zero: the module has no such bias")
        return conditions

    def _built_in(self, weights: Mapping[str, Tensor]) -> Layout | None:
        """The built-in layout that says the same as what was proven, if there is one."""
        matching = match_module(self.module, self.config, EVERY)
        if not matching:
            return None
        try:
            self._check(matching.layout, weights)
        except (Inexpressible, MappingError):
            return None
        self.evidence.append(f"it is the built-in layout {matching.layout.name!r}")
        return matching.layout

    def _check(self, layout: Layout, weights: Mapping[str, Tensor]) -> None:
        """The table has to give the very values that were proven."""
        parameters = dict(self.module.named_parameters(remove_duplicate=False))
        written = write_theirs(layout, self.config, lambda name: weights[name], wanted=parameters.__contains__)
        for name, make in written.items():
            if not torch.equal(make().to(parameters[name].dtype), parameters[name].detach().cpu()):
                raise Inexpressible(f"{name} would be written in another arrangement than was proven")
        left = set(parameters) - set(written) - set(self._unused)
        if left:
            raise Inexpressible(f"nothing would be written to {', '.join(sorted(left))}")


def _roundings(record: Record, module: nn.Module) -> list[str]:
    """Where code rounds what a model of 32 bits computes: a run in float64 does not show it."""
    if any(parameter.dtype not in (torch.float32, torch.float64) for parameter in module.parameters()):
        return []
    return [
        f"numbers are rounded to {dtype}" + (f" ({line})" if line else "") for line, dtype in record.narrowed_at.items()
    ]


def _without_key(numbers: Tensor) -> Tensor:
    """Of query, key and value biases those that logits depend on: softmax removes the key's."""
    query, _, value = numbers.chunk(3)
    return torch.cat([query, value])


def _collapsed(words: list[str]) -> list[str]:
    """Sentences that differ in their layer alone, as one."""
    result: dict[str, list[str]] = {}
    for each in words:
        head, colon, rest = each.partition(": ")
        layer = head.removeprefix("layer ")
        if colon and head.startswith("layer ") and layer.isdigit():
            result.setdefault(rest, []).append(layer)
        else:
            result.setdefault(each, [])
    return [
        text if not layers else f"layer{'s' if len(layers) > 1 else ''} {', '.join(layers)}: {text}"
        for text, layers in result.items()
    ]


__all__ = ["InferredLayout", "Status", "infer_layout"]
