"""What a diagnosis says: facts, for people and programs. The sentences about them are made in `reports`."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from torch import Tensor

from gpt2_from_scratch.checks.parts import Result
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.diagnose.fault import Cause, Causes, Remedy
from gpt2_from_scratch.diagnose.lines import Accusation
from gpt2_from_scratch.diagnose.patch import Patch
from gpt2_from_scratch.mapping import Ignore, Layout, collapse

# Why no fault is named.
Reason: TypeAlias = Literal[
    "random",  # the same ids give other logits each time, and dropout is not the reason
    "nothing differs",  # on the prompts of the search the candidate is right
    "low precision",  # it computes too coarsely to prove a cause
    "not finite",  # there is no number to reproduce
    "no known fault",  # the whole search was done
    "out of time",  # it was not
]


@dataclass(frozen=True, repr=False)
class Finding(Result):
    """One fault that was found.

    Args:
        name: the fault's, as in the table.
        says: what the candidate does, in a sentence.
        where: stages, blocks or tensors; none: wherever the fault can be made.
        value: of its parameter, where it has one that can be written down.
        remedy: the repair, in the names of the candidate's own modules.
        symptom: what a user sees.
        source: where it was seen, or why it happens.
        theirs: `where` in the candidate's own names, as far as its layout tells them.
    """

    name: str
    says: str
    where: tuple[str, ...] = ()
    value: float | str | None = None
    remedy: Remedy = field(default_factory=lambda: Remedy(""))
    symptom: str = ""
    source: str = ""
    theirs: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.where:
            return self.says
        places = ", ".join(collapse(self.where))
        if self.theirs and self.theirs != self.where:
            places = f"{', '.join(collapse(self.theirs))} ({places})"
        return f"{self.says} (in {places} only)"


@dataclass(frozen=True)
class Closest:
    """A hypothesis that explains more than half of the difference, and too little to be believed.

    Args:
        faults: their names, and where.
        multiple: what remains, in noise floors.
    """

    faults: str
    multiple: float


@dataclass(frozen=True, repr=False)
class Diagnosis(Result):
    """Which faults explain the candidate's numbers. Truthy when that is proven.

    Args:
        faults: those that, made in our own model together, give the candidate's logits.
        alternatives: other sets of faults that give the same logits, one of which may be the truth.
        multiple: the largest difference that remains, in multiples of the faulty model's own rounding.
        baseline: the difference that was to be explained, in noise floors of the run.
        harmless: choices of precision that were recognised beside the faults, and are no bugs.
        reason: where nothing is proven, why; else None.
        stages: where nothing is proven, the stages of the forward pass that no known fault explains.
        closest: where nothing is proven, what came nearest, if anything came near.
        seconds: the time that the search was given.
        tried: share of the fault table that was tried, each fault by itself.
        lines: the lines of the candidate's source that make its logits wrong; None where none could be named.
        no_line: why no line can be named whatever is wrong; empty where that is not so.
        patch: an edit of these lines with which the logits are right; None where none was found, or nobody looked.
        patch_stopped: whether the search for one ended because its time was over.
    """

    faults: tuple[Finding, ...] = ()
    alternatives: tuple[tuple[Finding, ...], ...] = ()
    multiple: float = float("inf")
    baseline: float = float("nan")
    harmless: tuple[Finding, ...] = ()
    reason: Reason | None = None
    stages: tuple[str, ...] = ()
    closest: Closest | None = None
    seconds: float | None = None
    tried: float = 1.0
    lines: Accusation | None = None
    no_line: str = ""
    patch: Patch | None = None
    patch_stopped: bool = False

    def __bool__(self) -> bool:
        return bool(self.faults)

    def __str__(self) -> str:
        return "; and ".join(map(str, self.faults)) if self else f"no fault is named: {self.reason}"


def findings(
    causes: Causes,
    config: GPTConfig,
    layout: Layout | None,
    alike: Sequence[Causes] = (),
    *,
    weights_right: bool = False,
) -> tuple[Finding, ...]:
    """Causes in words.

    Args:
        causes: a hypothesis.
        config: of the checkpoint.
        layout: the one that the candidate fits, if known: its names are used.
        alike: hypotheses that explain as much; where they differ in a parameter alone, its range is told.
        weights_right: whether the candidate's weights were compared and are the checkpoint's, so that what looks like
            wrong weights is code that uses them wrongly.
    """
    found = []
    for cause in causes:
        also = [one.value for other in alike for one in other if one.fault is cause.fault]
        finding = _finding(cause, config, layout, also)
        modules = _modules(cause, config)
        if weights_right and modules:
            text = f"the weights of {' and '.join(modules)} are the checkpoint's: the code that uses them does this"
            finding = replace(finding, remedy=Remedy(in_words_of(layout, text, config)))
        found.append(finding)
    return tuple(found)


def _modules(cause: Cause, config: GPTConfig) -> list[str]:
    """The modules whose weights a cause changes, as `in_words_of` takes them; none if it changes anything else."""
    paths = [path for pairs in cause.changes(config).values() for path, _ in pairs]
    if not paths or any(not path.endswith((".weight", ".bias")) for path in paths):
        return []
    owners = (re.sub(r"^h\.\d+", "h.*", path.rpartition(".")[0]) for path in paths)
    return [f"{{{owner}}}" for owner in dict.fromkeys(owners)]


def _finding(cause: Cause, config: GPTConfig, layout: Layout | None, also: Sequence[Any] = ()) -> Finding:
    fault, value = cause.fault, cause.value
    shown = f"{value:.3g}" if isinstance(value, float) else value
    if fault.neutral and set(also) - {value}:
        tried = [each.value for each in fault.causes(config)]
        low, high = min(*also, value), max(*also, value)
        shown = f"at most {high:.3g}" if low <= min(tried) else f"between {low:.3g} and {high:.3g}"
    where = cause.where
    if fault.name == "tensors_differ":
        where, shown = _whole_blocks(tuple(name for name, _ in value)), None
    remedy = fault.remedies.get(layout.name, fault.remedy) if layout is not None else fault.remedy
    return Finding(
        fault.name,
        fault.says.format(value=shown, config=config),
        where,
        None if isinstance(value, Tensor | tuple) else value,
        Remedy(in_words_of(layout, remedy.text, config), in_words_of(layout, remedy.code, config)),
        fault.symptom,
        fault.source,
        tuple(own_name(layout, name) for name in where),
    )


def _whole_blocks(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names of tensors; those of a block all of whose tensors are there are one name, the block's."""
    blocks = Counter(re.sub(r"^(h\.\d+)\..*", r"\1", name) for name in names)
    whole = {block for block, tensors in blocks.items() if tensors == _TENSORS_OF_A_BLOCK}
    return tuple(dict.fromkeys(block if (block := ".".join(name.split(".")[:2])) in whole else name for name in names))


_TENSORS_OF_A_BLOCK = 12  # weight and bias of two norms and four linear layers


def own_name(layout: Layout | None, name: str) -> str:
    """A layer or a tensor of GPT-2's as the layout calls the layer or the module; the name itself if it does not.

    Example:
        >>> from gpt2_from_scratch.layouts import LAYOUTS
        >>> own_name(LAYOUTS["llms_from_scratch"][0], "h.3"), own_name(LAYOUTS["llms_from_scratch"][0], "h.3.ln_1.bias")
        ('trf_blocks.3', 'trf_blocks.3.norm1')
    """
    layer = re.match(r"h\.(\d+)(?=\.|$)", name)
    pattern = re.sub(r"^h\.\d+", "h.*", name)
    for row in () if layout is None else layout.rows:
        if isinstance(row, Ignore) or ("*" not in row.place and layer):
            continue
        if layer and pattern == "h.*":
            return row.place.partition("*")[0] + layer[1]
        if pattern == row.site or pattern.rpartition(".")[0] == row.site:
            return row.place.replace("*", layer[1]) if layer else row.place
    return name


def in_words_of(layout: Layout | None, text: str, config: GPTConfig) -> str:
    """``{h.*.mlp.act}`` as the layout calls it; ``{config.field}`` as the configuration says."""
    rows = () if layout is None else layout.rows
    names = {row.site: row.place for row in rows if not isinstance(row, Ignore)}

    def word(match: re.Match[str]) -> str:
        key = match[1]
        if not key.startswith("config."):
            return names.get(key, key)
        value = getattr(config, key.removeprefix("config.").removesuffix(":g"))
        return f"{value:g}" if isinstance(value, float) else str(value)

    return re.sub(r"\{([^{}]+)\}", word, text)
