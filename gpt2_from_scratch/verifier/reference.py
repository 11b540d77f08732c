"""What a verdict is measured against, and what the verifier asks of it."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor

from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.trace import Site


class Reference(Protocol):
    """A model that is right, in the precisions and roundings in which somebody may compute it."""

    @property
    def config(self) -> GPTConfig: ...

    def logits(self, input_ids: Tensor) -> Tensor:
        """Float32 logits ``[B, T, V]``."""

    def other_roundings(self, input_ids: Tensor, exact: int | None = None) -> Iterator[tuple[str, Tensor]]:
        """The same, computed in other ways, the last of them in float64 for the first `exact` tokens (None: all)."""

    def in_float64(self, input_ids: Tensor) -> Tensor:
        """Float64 logits: the mathematics, as good as exact."""

    def logits_in(self, dtype: torch.dtype, input_ids: Tensor) -> Tensor:
        """With weights and arithmetic in a lower precision."""

    def with_weights_in(self, dtype: torch.dtype) -> AbstractContextManager[None]:
        """Inside, the weights are rounded to a lower precision; arithmetic stays float32."""

    def gradients(self, input_ids: Tensor) -> tuple[float, Mapping[str, Tensor]]:
        """Loss of the next tokens, nats per token, and the gradient of each tensor by canonical name."""

    def exact_gradients(self, input_ids: Tensor) -> tuple[float, Mapping[str, Tensor]]:
        """The same in float64."""

    def other_gradients(self, input_ids: Tensor) -> Mapping[str, Tensor]:
        """The same gradients computed in another way: their distance is their floor."""

    def trace(self, input_ids: Tensor, dtype: torch.dtype = torch.float32) -> Mapping[str, Site]:
        """Both sides of each module in a precision, by canonical name, in execution order."""
