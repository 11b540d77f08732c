"""What a fault is: attributes of our own model, by their dotted paths, and what stands there instead.

Nothing is copied. `GPTModel` is a tree whose every weight, number and formula has a path
(``h.3.attn.scale``, ``wpe.forward``), and a fault is a table from paths to changes; ``*`` stands for every layer. So a
fault reads as what it is, several can be made at once, each can be confined to some layers, and taking the changes
back leaves the model as it was.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

from gpt2_from_scratch.compare import EXACT_THRESHOLD, EXPLAINED, EXPLAINED_SHARE, THRESHOLD
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.mapping import collapse
from gpt2_from_scratch.model import GPTModel

EMBED, NORM, HEAD = "embed", "ln_f", "lm_head"  # the stages of a forward pass beside the blocks "h.0", "h.1", ...


class Place(NamedTuple):
    """Where a change is made.

    Args:
        model: the model around it.
        owner: the module that has the attribute.
        value: what the attribute is now: a parameter, a number, or a method.
        layer: number of the block, or None outside.
    """

    model: GPTModel
    owner: Any
    value: Any
    layer: int | None

    def at(self, path: str) -> Any:
        """Another attribute of the model; ``*`` is the layer of this place."""
        return place_of(self.model, path.replace("*", str(self.layer))).value


Change: TypeAlias = Callable[[Place], Any]  # -> what stands there instead
Changes: TypeAlias = Mapping[str, Change]


@dataclass(frozen=True)
class Remedy:
    """A repair. Names of GPT-2's modules in braces, ``{h.*.mlp.act}``, become those of the candidate.

    Args:
        text: what to do.
        code: the right expression, if one says it.
    """

    text: str
    code: str = ""

    def __str__(self) -> str:
        return f"{self.text}: {self.code}" if self.code else self.text


@dataclass(frozen=True, eq=False)
class Fault:
    """One row of the table. Compared by identity.

    Args:
        name: short, in the field's words.
        says: what the candidate does and what GPT-2 does; ``{value}`` is the fitted parameter.
        symptom: what a user sees.
        remedy: the repair.
        source: where it was seen, or why it happens.
        changes: what it does to our model; where it has a parameter, a function of its value.
        values: the parameter's plausible values for a configuration; none: no parameter, or one that is not searched
            for but read off or fitted.
        neutral: the right value of a continuous parameter, which is fitted where no plausible value explains enough.
        one_layer: it is made in one layer, not in all; which one is part of the search.
        leaks: later tokens change the logits of earlier ones.
        general: other rows are special cases of this one, and it gives way to them.
        kept: it makes numbers that code keeps in float32, so that a run in float64 does not make them exact.
        harmless: a choice of precision, not a bug: recognised, and never called a fault.
        needs: whether a configuration can have it.
        remedies: layout name -> the repair there, where it differs.
    """

    name: str
    says: str
    symptom: str
    remedy: Remedy
    source: str
    changes: Changes | Callable[[Any], Changes]
    values: Callable[[GPTConfig], Sequence[Any]] | None = None
    neutral: Callable[[GPTConfig], float] | None = None
    one_layer: bool = False
    leaks: bool = False
    general: bool = False
    kept: bool = False
    harmless: bool = False
    needs: Callable[[GPTConfig], bool] = lambda config: True
    remedies: Mapping[str, Remedy] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<fault {self.name}>"

    def causes(self, config: GPTConfig) -> Iterator["Cause"]:
        """The ways in which it may have been made: for each plausible value; in each layer if in one only."""
        if not self.needs(config):
            return
        for value in self.values(config) if self.values is not None else (None,):
            if self.one_layer:
                for layer in reversed(range(config.n_layer)):
                    yield Cause(self, value, frozenset({f"h.{layer}"}))
            else:
                yield Cause(self, value)


@dataclass(frozen=True)
class Cause:
    """A fault as it was made: with which value, and where.

    Args:
        fault: the row of the table.
        value: of its parameter; None without one.
        stages: where it acts (``embed``, ``h.0``, ..., ``ln_f``, ``lm_head``); None: everywhere it can.
    """

    fault: Fault
    value: Any = None
    stages: frozenset[str] | None = None

    def changes(self, config: GPTConfig) -> Mapping[str, Sequence[tuple[str, Change]]]:
        """Stage -> paths and their changes, in execution order. Kept as long as the cause is."""
        known: dict[int, Mapping[str, Sequence[tuple[str, Change]]]] = self.__dict__.setdefault("_known", {})
        if config.n_layer not in known:
            known[config.n_layer] = _unrolled(self, config.n_layer)
        return known[config.n_layer]

    @property
    def where(self) -> tuple[str, ...]:
        """Its stages in order; none: everywhere."""
        return tuple(sorted(self.stages or (), key=_order))

    def acts_in(self, stage: str) -> bool:
        """Whether it was made in that stage, if the fault can be made there at all."""
        return self.stages is None or stage in self.stages

    def __str__(self) -> str:
        value = f" {self.value:.4g}" if isinstance(self.value, float) else f" {self.value}"
        shown = "" if isinstance(self.value, Tensor | tuple) or self.value is None else value
        return self.fault.name + shown + ("" if self.stages is None else f" in {', '.join(collapse(self.where))}")


Causes: TypeAlias = tuple[Cause, ...]


def threshold(causes: Causes, exact: bool, difference: float = math.inf) -> float:
    """Within how many times its rounding a candidate with these faults agrees with their simulation.

    Args:
        causes: the faults.
        exact: both were run in float64.
        difference: in multiples of the rounding, what the faults are to explain.
    """
    if not exact or any(cause.fault.kept for cause in causes):
        return THRESHOLD
    return min(max(EXPLAINED_SHARE * difference, EXACT_THRESHOLD), EXPLAINED) if causes else EXACT_THRESHOLD


def stages(config: GPTConfig) -> tuple[str, ...]:
    """The steps of a forward pass, in order.

    Example:
        >>> stages(GPTConfig(n_layer=2))
        ('embed', 'h.0', 'h.1', 'ln_f', 'lm_head')
    """
    return _stages(config.n_layer)


def _stages(n_layer: int) -> tuple[str, ...]:
    return (EMBED, *(f"h.{layer}" for layer in range(n_layer)), NORM, HEAD)


def stage_of(path: str) -> str:
    """The step that computes with an attribute.

    Example:
        >>> stage_of("h.3.attn.scale"), stage_of("wpe.weight")
        ('h.3', 'embed')
    """
    if block := re.match(r"h\.\d+", path):
        return block[0]
    top = path.split(".")[0]
    return EMBED if top in ("wte", "wpe") else top


def _order(stage: str) -> float:
    ends = {EMBED: -1.0, NORM: math.inf, HEAD: math.inf}
    return ends[stage] if stage in ends else int(stage.removeprefix("h."))


def place_of(model: GPTModel, path: str) -> Place:
    """Where a dotted path leads to."""
    module, _, name = path.rpartition(".")
    owner = model.get_submodule(module)
    layer = int(path.split(".")[1]) if path.startswith("h.") else None
    return Place(model, owner, getattr(owner, name), layer)


def _unrolled(cause: Cause, n_layer: int) -> Mapping[str, Sequence[tuple[str, Change]]]:
    changes = cause.fault.changes
    table: Changes = changes if isinstance(changes, Mapping) else changes(cause.value)
    unrolled: dict[str, list[tuple[str, Change]]] = {stage: [] for stage in _stages(n_layer)}
    for pattern, change in table.items():
        layers = range(n_layer) if "*" in pattern else (0,)
        for path in (pattern.replace("*", str(layer)) for layer in layers):
            unrolled[stage_of(path)].append((path, change))
    return {stage: pairs for stage, pairs in unrolled.items() if pairs and cause.acts_in(stage)}
