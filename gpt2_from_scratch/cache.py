"""`KVCache`: keys and values of earlier tokens, so that a decoding step computes the new token only.

`model` fills it, and `generation` keeps one for each batch of prompts.

Shapes: B batch, H heads, T new tokens, S tokens with the cached ones, d = E / H, L layers.
"""

import torch
from torch import Tensor

from gpt2_from_scratch.config import GPTConfig


class KVCache:
    """Keys and values of the tokens read so far. Its memory is allocated at the beginning and written in place.

    Args:
        config: of the model that will use it.
        batch_size: ``B``.
        capacity: tokens it can hold. The context length is the default and the most.
        dtype: of the model.
        device: of the model.

    Example:
        >>> from gpt2_from_scratch import GPTModel
        >>> config = GPTConfig(n_layer=2, n_embd=8, n_head=2, vocab_size=11, n_positions=16)
        >>> model, cache = GPTModel(config).eval(), KVCache(config, batch_size=1)
        >>> ids = torch.tensor([[1, 2, 3]])
        >>> a, b = model(ids[:, :2], cache=cache), model(ids[:, 2:], cache=cache)
        >>> torch.testing.assert_close(torch.cat([a, b], dim=1), model(ids))
    """

    def __init__(
        self,
        config: GPTConfig,
        batch_size: int,
        capacity: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        capacity = config.n_positions if capacity is None else min(capacity, config.n_positions)
        shape = (config.n_layer, batch_size, config.n_head, capacity, config.head_dim)
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)
        self.length = 0  # tokens held; the model raises it when every layer has stored the new ones

    @property
    def batch_size(self) -> int:
        """Rows ``B`` it was made for."""
        return self.keys.size(1)

    @property
    def capacity(self) -> int:
        """Tokens it can hold."""
        return self.keys.size(3)

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Stores the keys and values of new tokens.

        Args:
            layer: from 0.
            k: keys ``[B, H, T, d]``.
            v: values, the same shape.

        Returns:
            Keys and values of all tokens, ``[B, H, S, d]`` each. `length` is not changed: the model does that.
        """
        keys, values, new = self.keys[layer], self.values[layer], k.size(2)
        keys.narrow(2, self.length, new).copy_(k)
        values.narrow(2, self.length, new).copy_(v)
        k, v = keys.narrow(2, 0, self.length + new), values.narrow(2, 0, self.length + new)
        # CPU kernels round by pointer alignment. Heads of whole cache lines (64 bytes; all official models) are aligned
        # alike in this view and in transformers' contiguous cache; others are copied, to stay bit-identical.
        if k.size(-1) * k.element_size() % 64:
            k, v = k.contiguous(), v.contiguous()
        return k, v

    def keep_rows(self, rows: Tensor) -> None:
        """Keeps only these rows of the batch (int64 ``[n]``), so that finished texts are no longer computed."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]
