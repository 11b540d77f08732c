"""GPT-2 in the style of the book's bonus chapter: the model of ``book.py`` with a key-value cache inside.

The idea: ``model(ids, use_cache=True)`` goes on after the tokens it was given before, until ``reset_kv_cache()``. What
such a step must get right is in the small methods of :class:`Steps`, so that each can be got wrong alone (``FAULTS``).
"""

from typing import Any

import torch
from torch import Tensor

from tests.foreign import book

Cache = tuple[Tensor, Tensor]  # keys and values, each (B, H, S, D)


class Steps:
    """What a cached step needs beyond a plain one."""

    def joined(self, old: Cache, new: Cache) -> Cache:
        return torch.cat([old[0], new[0]], dim=2), torch.cat([old[1], new[1]], dim=2)

    def first_position(self, seen: int) -> int:
        return seen

    def future(self, mask: Tensor, tokens: int, keys: int) -> Tensor:
        """Rows of the causal mask that belong to the last ``tokens`` of ``keys``: (T, S)."""
        return mask[keys - tokens : keys, :keys]

    def forgets(self) -> bool:
        return True


class PositionsRestart(Steps):
    def first_position(self, seen: int) -> int:
        return 0


class NotAppended(Steps):
    def joined(self, old: Cache, new: Cache) -> Cache:
        return new


class Overwritten(Steps):
    """Values are joined; keys are those of this step, padded to the length: a slip of one variable."""

    def joined(self, old: Cache, new: Cache) -> Cache:
        _, values = super().joined(old, new)
        return torch.cat([torch.zeros_like(old[0]), new[0]], dim=2), values


class MaskOfTheFirstRows(Steps):
    """Sliced as if queries began at position 0, as they do without a cache."""

    def future(self, mask: Tensor, tokens: int, keys: int) -> Tensor:
        return mask[:tokens, :keys]


class NoMaskAfterTheFirst(Steps):
    """Right for steps of one token, which may see all keys."""

    def future(self, mask: Tensor, tokens: int, keys: int) -> Tensor:
        return mask[keys - tokens : keys, :keys] * (keys == tokens)


class NeverForgets(Steps):
    def forgets(self) -> bool:
        return False


FAULTS = (PositionsRestart, NotAppended, Overwritten, MaskOfTheFirstRows, NoMaskAfterTheFirst, NeverForgets)


class MultiHeadAttention(book.MultiHeadAttention):
    steps: Steps
    cache: Cache | None = None
    caching = False

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = (self.split_heads(layer(x)) for layer in (self.W_query, self.W_key, self.W_value))
        if self.caching:
            if self.cache is not None:
                keys, values = self.steps.joined(self.cache, (keys, values))
            self.cache = keys, values
        scores = self.attn_scores(queries, keys)  # (B, H, T, S)
        future = self.steps.future(self.mask, *scores.shape[-2:]).bool()
        weights = self.dropout(scores.masked_fill(future, -torch.inf).softmax(-1))
        return self.out_proj(self.merge_heads(weights @ values))


class GPTModel(book.GPTModel):
    """``GPTModel(cfg)(ids, use_cache=True)``: logits (B, T, vocab_size) of these ids, which follow the earlier ones."""

    def __init__(self, cfg: dict[str, Any], steps: Steps | None = None) -> None:
        super().__init__(cfg)
        self.steps = steps or Steps()
        self.seen = 0
        for block in self.trf_blocks:
            block.att = MultiHeadAttention(cfg)
            block.att.steps = self.steps

    def reset_kv_cache(self) -> None:
        if self.steps.forgets():
            self.seen = 0
            for block in self.trf_blocks:
                block.att.cache = None

    def forward(self, in_idx: Tensor, use_cache: bool = False) -> Tensor:
        first = self.steps.first_position(self.seen) if use_cache else 0
        positions = torch.arange(first, first + in_idx.shape[1], device=in_idx.device)
        for block in self.trf_blocks:
            block.att.caching = use_cache
        self.seen += in_idx.shape[1] * use_cache
        x = self.drop_emb(self.tok_emb(in_idx) + self.pos_emb(positions))
        return self.out_head(self.final_norm(self.trf_blocks(x)))
