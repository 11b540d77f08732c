"""The bug zoo once more, committed in nanoGPT's code: fused query-key-value, SDPA, a tied head, logits in a pair.

The idea: a fault is what the logits become, not how it is written. So nothing here is taken from the mutants of the
book's code but their names, their edited checkpoints and their wrong formulas; where a fault is no formula, it is
committed again, in this code's own way. ``tests/test_foreign.py`` asserts that both come to the same logits.
"""

import math
from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.foreign import nanogpt
from tests.mutants import Mutant

GPT: TypeAlias = nanogpt.GPT
Attention: TypeAlias = nanogpt.CausalSelfAttention
Break: TypeAlias = Callable[[GPT], object]


def in_nanogpt(mutant: Mutant, model: GPT) -> GPT:
    """Breaks a model in place that holds the mutant's checkpoint, and returns it."""
    if mutant.part:
        part, formula = mutant.part
        _PARTS[part](model, formula)
    if mutant.code:
        _CODE[mutant.name](model)
    return model


def _override(model: nn.Module, owner: type[nn.Module], forward: Callable[..., Any]) -> None:
    for module in model.modules():
        if isinstance(module, owner):
            module.forward = MethodType(forward, module)


# -- formulas ----------------------------------------------------------------------------------------


def _split(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _scores(q: Tensor, k: Tensor) -> Tensor:
    return (q @ k.mT) * q.shape[-1] ** -0.5


def _weights(scores: Tensor) -> Tensor:
    return (scores + torch.full_like(scores[0, 0], -math.inf).triu(1)).softmax(-1)


def _merge(y: Tensor) -> Tensor:
    return y.transpose(1, 2).flatten(2)


def _spell_out(model: GPT, **wrong: Callable[..., Tensor]) -> None:
    """Attention without SDPA, in the four formulas above or these."""
    parts = {"split_heads": _split, "attn_scores": _scores, "attn_weights": _weights, "merge_heads": _merge, **wrong}

    def forward(self: Attention, x: Tensor) -> Tensor:
        q, k, v = (parts["split_heads"](part, self.n_head) for part in self.c_attn(x).chunk(3, dim=-1))
        y = parts["attn_weights"](parts["attn_scores"](q, k)) @ v
        return self.resid_dropout(self.c_proj(parts["merge_heads"](y)))

    _override(model, Attention, forward)


def _after_the_head(model: GPT, formula: Callable[[Tensor], Tensor]) -> None:
    model.forward = MethodType(lambda self, idx: (formula(GPT.forward(self, idx)[0]), None), model)


_PARTS: Mapping[str, Callable[[GPT, Any], None]] = {
    "gelu": lambda model, f: _override(model, nn.GELU, lambda self, x: f(x)),
    "layer_norm": lambda model, f: _override(
        model, nanogpt.LayerNorm, lambda self, x: f(x, self.weight, self.bias, self.eps)
    ),
    "block": lambda model, f: _override(
        model, nanogpt.Block, lambda self, x: f(x, self.ln_1, self.attn, self.ln_2, self.mlp)
    ),
    "logits": _after_the_head,
    **{
        part: lambda model, f, part=part: _spell_out(model, **{part: f})
        for part in ("split_heads", "attn_scores", "attn_weights", "merge_heads")
    },
}


# -- what is no formula ------------------------------------------------------------------------------


def _look_up(model: GPT, rows: Callable[[Tensor, int], Tensor]) -> None:
    """Positions ``rows(0 1 2 ..., context)``."""
    wpe = model.transformer["wpe"]
    wpe.forward = lambda at: wpe.weight[rows(at, len(wpe.weight))]


def _sinusoids(at: Tensor, width: int) -> Tensor:
    angle = at[:, None].double() / 10000 ** (torch.arange(0, width, 2).double() / width)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


def _embed_by_sinusoids(model: GPT) -> None:
    wpe = model.transformer["wpe"]
    wpe.forward = lambda at: _sinusoids(at, wpe.embedding_dim).to(wpe.weight)


def _scale_tokens(model: GPT) -> None:
    wte = model.transformer["wte"]
    wte.forward = lambda ids: wte.weight[ids] * wte.embedding_dim**0.5


def _scale_sum(model: GPT) -> None:
    model.transformer["drop"].forward = lambda x: x * x.shape[-1] ** 0.5


def _look_up_next_ids(model: GPT) -> None:
    wte = model.transformer["wte"]
    wte.forward = lambda ids: wte.weight[(ids + 1) % wte.num_embeddings]


def _forget_positions(model: GPT) -> None:
    wpe = model.transformer["wpe"]
    wpe.forward = lambda at: 0 * wpe.weight[at]


def _norm_twice(model: GPT) -> None:
    norm = model.transformer["ln_f"]
    once = norm.forward
    norm.forward = lambda x: once(once(x))


def _own_head(model: GPT, weight: Callable[[Tensor], Tensor]) -> None:
    model.lm_head.weight = nn.Parameter(weight(model.transformer["wte"].weight.detach()))


def _random(like: Tensor) -> Tensor:
    return 0.02 * torch.randn(like.shape, generator=torch.Generator().manual_seed(0)).to(like)


def _scale_by_layer(model: GPT) -> None:
    for layer, block in enumerate(model.transformer["h"], 1):
        _spell_out(block, attn_scores=lambda q, k, layer=layer: _scores(q, k) / layer)


def _fewer_heads(model: GPT) -> None:
    width = model.lm_head.in_features
    for block in model.transformer["h"]:
        block.attn.n_head = max(n for n in range(1, block.attn.n_head) if width % n == 0)


def _scale_late(model: GPT) -> None:
    _spell_out(model, attn_scores=lambda q, k: q @ k.mT, merge_heads=lambda y: _merge(y) / y.shape[-1] ** 0.5)


_CODE: Mapping[str, Break] = {
    "last_layer_skipped": lambda model: setattr(model.transformer["h"][-1], "forward", lambda x: x),
    "lm_head_random": lambda model: _own_head(model, _random),
    "lm_head_bias": lambda model: setattr(model.lm_head, "bias", nn.Parameter(_random(model.lm_head.weight[:, 0]))),
    "center_unembed": lambda model: _own_head(model, lambda weight: weight - weight.mean(0)),
    "inverse_layer_idx": _scale_by_layer,
    "wrong_n_head": _fewer_heads,
    "scale_after_softmax": _scale_late,
    "ln_f_missing": lambda model: setattr(model.transformer["ln_f"], "forward", lambda x: x),
    "ln_f_twice": _norm_twice,
    "no_pos": _forget_positions,
    "pos_plus1": lambda model: _look_up(model, lambda at, context: (at + 1) % context),
    "pos_zero": lambda model: _look_up(model, lambda at, context: 0 * at),
    "pos_reversed": lambda model: _look_up(model, lambda at, context: at.flip(0)),
    "pos_sinusoidal": _embed_by_sinusoids,
    "emb_sqrt_d": _scale_tokens,
    "sum_sqrt_d": _scale_sum,
    "ids_offset": _look_up_next_ids,
    "dropout_on": lambda model: _override(model, nn.Dropout, lambda self, x: F.dropout(x, 0.1)),
    "bf16_compute": lambda model: model.bfloat16(),
}
