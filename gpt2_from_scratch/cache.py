"""Keys and values of the tokens read so far: what makes a step of decoding cost one token and not all of them.

The one idea: the model asks its cache three things, how many tokens attention will `reach`, to `extend` a layer by new
ones, and to `advance` when every layer has them; so how they are kept is the cache's own business. `KVCache` grows over
memory that it has from the beginning, `FixedCache` always shows all of it.

Shapes: B batch, H heads, T new tokens, S tokens with the cached ones, d = E / H, L layers.
"""

import torch
from torch import Tensor

from gpt2_from_scratch.config import GPTConfig


class KVCache:
    """Keys and values of the tokens seen so far, so that a step computes only its new tokens. Written in place.

    Args:
        config: of the model that will use it.
        batch_size: ``B``.
        capacity: tokens it can hold; at most, and by default, the context length.
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
        self.length = 0  # tokens held; the model advances it once per forward pass

    @property
    def batch_size(self) -> int:
        """Rows ``B`` it was made for."""
        return self.keys.size(1)

    @property
    def capacity(self) -> int:
        """Tokens it can hold."""
        return self.keys.size(3)

    def reach(self, new: int) -> int:
        """Tokens ``S`` that attention reads when `new` more are stored."""
        return self.length + new

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Stores the new tokens' keys and values ``[B, H, T, d]``; returns those of all tokens, ``[B, H, S, d]``."""
        keys, values, new = self.keys[layer], self.values[layer], k.size(2)
        keys.narrow(2, self.length, new).copy_(k)
        values.narrow(2, self.length, new).copy_(v)
        k, v = keys.narrow(2, 0, self.length + new), values.narrow(2, 0, self.length + new)
        # CPU kernels round by pointer alignment. Heads of whole cache lines (64 bytes; all official models) are aligned
        # alike in this view and in transformers' contiguous cache; others are copied, to stay bit-identical.
        if k.size(-1) * k.element_size() % 64:
            k, v = k.contiguous(), v.contiguous()
        return k, v

    def advance(self, new: int) -> None:
        """The new tokens are stored, in every layer."""
        self.length += new

    def keep_rows(self, rows: Tensor) -> None:
        """Keeps only these rows of the batch (int64 ``[n]``): a finished text costs nothing more."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]


class FixedCache(KVCache):
    """A `KVCache` whose shapes stay as they are: attention reads all of it, and a mask hides what is not there yet.

    For CUDA graphs, which repeat the same calls on the same memory: nothing may grow, and what changes has to be on the
    device. The model takes one new token a row with it, an ``attention_mask [B, capacity]`` that is 1 at the tokens
    that are there, the new one included, and `position_ids`.

    Args:
        cache: its memory is taken over; tokens may be in it.

    Example:
        >>> from gpt2_from_scratch import GPTModel
        >>> config = GPTConfig(n_layer=2, n_embd=8, n_head=2, vocab_size=11, n_positions=16)
        >>> model, ids = GPTModel(config).eval(), torch.tensor([[1, 2, 3]])
        >>> cache = model.new_cache(batch_size=1)
        >>> first = model(ids[:, :2], cache=cache)
        >>> cache = FixedCache(cache)
        >>> there = (torch.arange(cache.capacity) <= cache.end)[None]
        >>> torch.testing.assert_close(model(ids[:, 2:], there, cache.end[None], cache), model(ids)[:, 2:])
    """

    def __init__(self, cache: KVCache) -> None:
        self.keys, self.values = cache.keys, cache.values
        for empty in (self.keys[..., cache.length :, :], self.values[..., cache.length :, :]):
            empty.zero_()  # a weight of 0 times what memory happens to hold could be NaN
        self.end = torch.tensor([cache.length], device=self.keys.device)  # where the next token goes; no `length` here

    def reach(self, new: int) -> int:
        """The whole capacity."""
        return self.capacity

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Stores one token's ``[B, H, 1, d]``; returns everything, ``[B, H, capacity, d]``."""
        return self.keys[layer].index_copy_(2, self.end, k), self.values[layer].index_copy_(2, self.end, v)

    def advance(self, new: int) -> None:
        """On the device."""
        self.end.add_(new)
