"""`LoadReport`: what became of every tensor when a checkpoint was loaded or saved."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

import torch

from gpt2_from_scratch.checkpoint import Located
from gpt2_from_scratch.errors import printable, short_repr
from gpt2_from_scratch.loading.opening import Checkpoint
from gpt2_from_scratch.mapping import Layout, listed
from gpt2_from_scratch.precision import dtype_name

if TYPE_CHECKING:
    from gpt2_from_scratch.infer_layout import FoundLayout


@dataclass(frozen=True, repr=False)
class LoadReport:
    """What became of every tensor. Truthy; ``str()`` is one line.

    Args:
        source: the checkpoint, as asked for.
        form: kind of container.
        layout: of the file's names; after `load_into`, of the module's.
        dtype: of the loaded parameters.
        parameters: number of distinct parameters.
        loaded: names of the module's parameters that were written.
        tied: names that repeat another parameter.
        zeros: parameters that the file lacks because they are zero (``bias=False``).
        ignored: the file's tensors that are no parameters -> why.
        assumed: settings of the model that the file does not give, with the values that were assumed.
        found: the layout of the module and how it was found, where none was given.
        notes: other remarks.
        located: where the checkpoint's files are.
    """

    source: str
    form: str
    layout: str
    dtype: torch.dtype
    parameters: int
    loaded: tuple[str, ...]
    tied: tuple[str, ...] = ()
    zeros: tuple[str, ...] = ()
    ignored: Mapping[str, str] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()
    found: "FoundLayout | None" = None
    notes: tuple[str, ...] = ()
    located: Located | None = None

    def __bool__(self) -> bool:
        return True

    def __str__(self) -> str:
        parts = [f"{self.source}: {len(self.loaded)} tensors, {self.parameters:,} parameters, {dtype_name(self.dtype)}"]
        parts.append(f"{self.form}, layout {self.layout}")
        if self.tied:
            parts.append(f"{listed(self.tied)} tied")
        if self.zeros:
            parts.append(f"{listed(self.zeros)} absent, so zero")
        for why in dict.fromkeys(self.ignored.values()):
            count = sum(reason == why for reason in self.ignored.values())
            parts.append(f"{count} ignored ({why})")
        if self.assumed:
            parts.append(f"assumed, and not said by the file: {', '.join(self.assumed)}")
        if self.found is not None:
            parts.append(f"written by {self.found.how}")
        return "; ".join([*parts, *self.notes])

    def __repr__(self) -> str:
        return short_repr("LoadReport", str(self))

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return f"<p>{escape(printable(str(self)))}</p>"


def report_of(
    checkpoint: Checkpoint,
    layout: Layout,
    dtype: torch.dtype,
    loaded: tuple[str, ...],
    tied: tuple[str, ...] | None = None,
    found: "FoundLayout | None" = None,
    notes: tuple[str, ...] = (),
) -> LoadReport:
    """The report on a loaded checkpoint.

    Args:
        checkpoint: that was loaded.
        layout: of the parameters that were written.
        dtype: of the parameters.
        loaded: their names.
        tied: names of parameters that repeat others; None: the canonical head, where the configuration ties it.
        found: the layout of the module and how it was found, where none was given.
        notes: remarks, after the checkpoint's own.
    """
    if tied is None:
        tied = ("lm_head.weight",) if checkpoint.config.tie_word_embeddings else ()
    return LoadReport(
        source=checkpoint.located.source,
        form=checkpoint.container.form,
        layout=layout.name,
        dtype=dtype,
        parameters=checkpoint.config.num_parameters,
        loaded=loaded,
        tied=tied,
        zeros=tuple(link.canonical for link in checkpoint.matching.zeros if link.canonical),
        ignored=checkpoint.matching.ignored,
        assumed=checkpoint.assumed,
        found=found,
        notes=(*checkpoint.notes, *notes),
        located=checkpoint.located,
    )
