"""A reference that computes each prompt once: mutants are many, the prompts are the same."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from gpt2_from_scratch.reference import Reference
from gpt2_from_scratch.trace import Site


class Remembering:
    """Answers like a `Reference`, from memory where it can."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.model = reference.model
        self.units = reference.units
        self.config = reference.config
        self.attention = reference.attention
        self._memory: dict[Any, Any] = {}
        self._memories: dict[Any, dict[Any, Any]] = {}
        self._rounded: tuple[Any, ...] = ()
        self.matrices_in = reference.matrices_in

    def _once(self, kind: Any, ids: Tensor, compute: Callable[[], Any]) -> Any:
        key = (kind, ids.shape, tuple(ids.flatten().tolist()))
        if key not in self._memory:
            self._memory[key] = compute()
        return self._memory[key]

    def logits(self, ids: Tensor) -> Tensor:
        return self._once("logits", ids, lambda: self.reference.logits(ids))

    def run_together(self, prompts: Sequence[Tensor], measured: Sequence[Tensor] = ()) -> None:
        """Nothing is to be gained: what is asked is in memory, or the prompts are small."""

    def continued(self, ids: Tensor, steps: int) -> Tensor:
        return self._once(("continued", steps), ids, lambda: self.reference.continued(ids, steps))

    def other_roundings(self, ids: Tensor, exact: int | None = None) -> Iterator[tuple[str, Tensor]]:
        return iter(self._once(("roundings", exact), ids, lambda: list(self.reference.other_roundings(ids, exact))))

    def logits_in(self, dtype: torch.dtype, ids: Tensor) -> Tensor:
        return self._once(dtype, ids, lambda: self.reference.logits_in(dtype, ids))

    def trace(self, ids: Tensor, dtype: torch.dtype = torch.float32) -> Mapping[str, Site]:
        return self._once(("trace", dtype), ids, lambda: self.reference.trace(ids, dtype))

    def in_float64(self, ids: Tensor) -> Tensor:
        return self._once("float64", ids, lambda: self.reference.in_float64(ids))

    @contextmanager
    def with_weights_in(self, precision: torch.dtype | Mapping[str, torch.dtype]) -> Iterator[None]:
        outer = self._rounded
        key = precision if isinstance(precision, torch.dtype) else tuple(sorted(precision.items(), key=str))
        self._rounded = (*outer, key)
        remembered, self._memory = self._memory, self._memories.setdefault(self._rounded, {})
        try:
            with self.reference.with_weights_in(precision):
                yield
        finally:
            self._memory, self._rounded = remembered, outer

    def gradients(self, ids: Tensor) -> tuple[float, Mapping[str, Tensor]]:
        return self._once("gradients", ids, lambda: self.reference.gradients(ids))

    def other_gradients(self, ids: Tensor) -> Mapping[str, Tensor]:
        return self._once("other gradients", ids, lambda: self.reference.other_gradients(ids))

    def exact_gradients(self, ids: Tensor) -> tuple[float, Mapping[str, Tensor]]:
        return self._once("exact gradients", ids, lambda: self.reference.exact_gradients(ids))
