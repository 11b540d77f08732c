"""What a diagnosis says, to people and to programs."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.diagnose.fault import Cause, Causes
from gpt2_from_scratch.mapping import Ignore, Layout, collapse


@dataclass(frozen=True)
class Finding:
    """One fault that was found.

    Args:
        name: the fault's, as in the table.
        says: what the candidate does, in a sentence.
        where: stages or tensors; none: wherever the fault can be made.
        value: of its parameter, where it has one that can be written down.
        remedy: the repair, in the vocabulary of the candidate's layout.
        symptom: what a user sees.
        source: where it was seen, or why it happens.
    """

    name: str
    says: str
    where: tuple[str, ...] = ()
    value: float | str | None = None
    remedy: str = ""
    symptom: str = ""
    source: str = ""

    def __str__(self) -> str:
        places = f" (in {', '.join(collapse(self.where))} only)" if self.where else ""
        return self.says + places


@dataclass(frozen=True)
class Closest:
    """A hypothesis that explains something, and not enough to be believed.

    Args:
        faults: their names, and where.
        multiple: what remains, in floors.
    """

    faults: str
    multiple: float


@dataclass(frozen=True)
class Diagnosis:
    """Which faults explain the candidate's logits. Truthy when that is proven.

    Args:
        faults: those that, made in our own model together, give the candidate's logits.
        group: other sets of faults that give the same logits, one of which may be the truth.
        multiple: the largest difference that remains, in floors of the faulty model.
        baseline: the difference that was to be explained, in floors.
        closest: where nothing was proven, what came nearest.
        why: where nothing was proven, why not.
        notes: what else is worth knowing.
    """

    faults: tuple[Finding, ...] = ()
    group: tuple[tuple[Finding, ...], ...] = ()
    multiple: float = float("inf")
    baseline: float = float("nan")
    closest: tuple[Closest, ...] = ()
    why: str = ""
    notes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.faults)

    def __str__(self) -> str:
        if not self:
            return "; ".join([f"no known fault explains it: {self.why}", *map(_near, self.closest[:1])])
        parts = ["; and ".join(map(str, self.faults)) + "."]
        names = [finding.name for finding in self.faults]
        others = [findings for findings in self.group if [finding.name for finding in findings] != names]
        if others:
            sets = "; or: ".join(" and ".join(map(str, findings)) for findings in others)
            parts.append(f"The same logits come from: {sets}.")
        parts.append(f"Simulating that explains your logits to {self.multiple:.1f} x floor.")
        parts.append("Fix: " + "; ".join(dict.fromkeys(finding.remedy for finding in self.faults)))
        return " ".join([*parts, *self.notes])

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""

        def of(finding: Finding) -> dict[str, Any]:
            return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(finding).items()}

        return {
            "explained": bool(self),
            "faults": [of(finding) for finding in self.faults],
            "group": [[of(finding) for finding in findings] for findings in self.group],
            "multiple": self.multiple if self else None,
            "baseline": self.baseline,
            "closest": [{"faults": near.faults, "multiple": near.multiple} for near in self.closest],
            "why": self.why,
            "notes": list(self.notes),
        }


def _near(closest: Closest) -> str:
    return f"the nearest is {closest.faults}, which leaves {closest.multiple:.3g} x floor"


def findings(
    causes: Causes, config: GPTConfig, layout: Layout | None, alike: Sequence[Causes] = ()
) -> tuple[Finding, ...]:
    """Causes in words.

    Args:
        causes: a hypothesis.
        config: of the checkpoint.
        layout: of the candidate, if known: its names are used.
        alike: hypotheses that explain as much; where they differ in a parameter alone, its range is told.
    """
    return tuple(
        _finding(cause, config, layout, [one.value for other in alike for one in other if one.fault is cause.fault])
        for cause in causes
    )


def _finding(cause: Cause, config: GPTConfig, layout: Layout | None, also: Sequence[Any] = ()) -> Finding:
    fault, value = cause.fault, cause.value
    shown = f"{value:.3g}" if isinstance(value, float) else value
    if fault.neutral and set(also) - {value}:
        tried = [each.value for each in fault.causes(config)]
        low, high = min(*also, value), max(*also, value)
        shown = f"at most {high:.3g}" if low <= min(tried) else f"between {low:.3g} and {high:.3g}"
    where = cause.where
    if fault.name == "tensors_differ":
        where, shown = tuple(name for name, _ in value), None
    remedy = fault.remedies.get(layout.name, fault.remedy) if layout is not None else fault.remedy
    return Finding(
        fault.name,
        fault.says.format(value=shown, config=config),
        where,
        None if isinstance(value, Tensor | tuple) else value,
        in_words_of(layout, remedy.replace("{config.", "{config:"), config),
        fault.symptom,
        fault.source,
    )


def in_words_of(layout: Layout | None, text: str, config: GPTConfig) -> str:
    """``{h.*.mlp.act}`` as the layout calls it; ``{config:field}`` as the configuration says."""
    rows = () if layout is None else layout.rows
    names = {row.site: row.place for row in rows if not isinstance(row, Ignore)}

    def word(match: re.Match[str]) -> str:
        key = match[1]
        if not key.startswith("config:"):
            return names.get(key, key)
        value = getattr(config, key.removeprefix("config:").removesuffix(":g"))
        return f"{value:g}" if isinstance(value, float) else str(value)

    return re.sub(r"\{([^{}]+)\}", word, text)
