"""Faults of attention: the scale of the scores, the mask and the softmax, and how heads are cut out and put back."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.diagnose.fault import Change, Changes, Fault, Place, Remedy
from gpt2_from_scratch.diagnose.simulation import Attention
from gpt2_from_scratch.diagnose.table.changes import edited, formula, given_module

# ------------------------------------------------------------------------------------------------- scale of the scores

_SCALE = "h.*.attn.scale"


def _scaled(factor: Callable[[GPTConfig], float]) -> Changes:
    """Scores times ``factor(config)``, on top of GPT-2's own ``1 / sqrt(d)``."""
    return {_SCALE: lambda place: place.value * factor(place.model.config)}


def _by_inverse_layer(place: Place) -> float:
    assert place.layer is not None
    return float(place.value) / (place.layer + 1)


def _with_heads(heads: int) -> Changes:
    def rescaled(place: Place) -> float:
        return float(place.value) * math.sqrt(heads / place.model.config.n_head)

    return {"h.*.attn.n_head": edited(lambda _: heads), _SCALE: rescaled}


def _other_heads(config: GPTConfig) -> tuple[int, ...]:
    """Divisors of the width, the nearest first: no shape tells them from the right number."""
    divisors = [heads for heads in range(1, config.n_embd + 1) if config.n_embd % heads == 0]
    others = [heads for heads in divisors if heads != config.n_head]
    return tuple(sorted(others, key=lambda heads: abs(math.log(heads / config.n_head))))


SCALE_FAULTS = (
    Fault(
        "no_scale",
        "attention scores are not divided by sqrt(d)",
        "attention too sharp; the first position is exact",
        Remedy("divide the scores by the root of a head's width in {h.*.attn}", "scores / math.sqrt(q.size(-1))"),
        "https://github.com/mlc-ai/mlc-llm/issues/3426",
        _scaled(lambda config: math.sqrt(config.head_dim)),
        needs=lambda config: config.scale_attn_weights and config.head_dim > 1,
    ),
    Fault(
        "scale_d_model",
        "attention scores are divided by sqrt(E), the model's width, instead of sqrt(d), that of a head",
        "attention too flat; the first position is exact",
        Remedy(
            "divide the scores by the root of a head's width, after splitting heads, in {h.*.attn}",
            "scores / math.sqrt(q.size(-1))",
        ),
        "https://github.com/FareedKhan-dev/train-llm-from-scratch/pull/3",
        _scaled(lambda config: 1 / math.sqrt(config.n_head)),
        needs=lambda config: config.n_head > 1,
    ),
    Fault(
        "scale_twice",
        "attention scores are divided by sqrt(d) twice",
        "attention too flat; the first position is exact",
        Remedy(
            "scale either the query or the scores in {h.*.attn}, not both; scaled_dot_product_attention scales by "
            "itself"
        ),
        "a query scaled before a function that scales",
        _scaled(lambda config: 1 / math.sqrt(config.head_dim)),
        needs=lambda config: config.head_dim > 1,
    ),
    Fault(
        "scale_other",
        "attention scores are {value} times GPT-2's",
        "attention too sharp or too flat; the first position is exact",
        Remedy("divide the scores by the root of a head's width in {h.*.attn}", "scores / math.sqrt(q.size(-1))"),
        "a constant, or another size, in the scale",
        lambda factor: _scaled(lambda config: factor),
        values=lambda config: (0.25, 0.5, 0.75, 1.25, 1.5, 2.0, 4.0),
        neutral=lambda config: 1.0,
        general=True,
    ),
    Fault(
        "inverse_layer_idx",
        "attention scores are divided by the number of the layer, too",
        "the first layer and the first position are exact",
        Remedy(
            "divide the scores by the root of a head's width alone in {h.*.attn}: this checkpoint's config.json has "
            "scale_attn_by_inverse_layer_idx false",
            "scores / math.sqrt(q.size(-1))",
        ),
        "an option of stanford-crfm's GPT-2",
        {_SCALE: _by_inverse_layer},
        needs=lambda config: not config.scale_attn_by_inverse_layer_idx and config.n_layer > 1,
    ),
    Fault(
        "inverse_layer_idx_ignored",
        "attention scores are not divided by the number of the layer, which this checkpoint asks for",
        "the first layer and the first position are exact",
        Remedy(
            "divide the scores by the number of the layer, too, in {h.*.attn}: config.json has "
            "scale_attn_by_inverse_layer_idx",
            "scores / (layer + 1)",
        ),
        "https://github.com/huggingface/transformers/issues/44380",
        {_SCALE: lambda place: place.value * (place.layer + 1)},  # type: ignore[operator]  # it is a block's
        needs=lambda config: config.scale_attn_by_inverse_layer_idx and config.n_layer > 1,
    ),
    Fault(
        "wrong_n_head",
        "the model has {value} heads; the configuration has {config.n_head}",
        "wrong text; the first position is exact, and no shape tells",
        Remedy("build the model with the checkpoint's number of heads", "n_head={config.n_head}"),
        "https://github.com/bytedance/lightseq/issues/77: the number of heads is in no tensor",
        _with_heads,
        values=_other_heads,
    ),
)

# ---------------------------------------------------------------------------------------------------- mask, softmax

_PROBABILITIES = "h.*.attn.probabilities"


def _seen_up_to(by: int) -> Callable[[Tensor], Tensor]:
    """The keys up to `by` places after the query."""
    return lambda visible: F.pad(visible, (by, -by), value=by > 0)


def _masked(
    seen: Callable[[Tensor], Tensor] = lambda visible: visible, fill: float = -math.inf, dim: int = -1
) -> Changes:
    return {_PROBABILITIES: formula(lambda scores, visible: scores.masked_fill(~seen(visible), fill).softmax(dim))}


def _scaled_late(attention: Attention, scores: Tensor, visible: Tensor) -> Tensor:
    plain = (scores / attention.scale).masked_fill(~visible, -math.inf)
    return plain.softmax(-1) * attention.scale


MASK_FAULTS = (
    Fault(
        "mask_missing",
        "there is no causal mask",
        "a token sees later ones; training loss is too good to be true",
        Remedy("mask keys after the query before the softmax in {h.*.attn}"),
        "a mask that is built and not used",
        {_PROBABILITIES: formula(lambda scores, visible: scores.softmax(-1))},
        leaks=True,
    ),
    Fault(
        "mask_leaks_one",
        "the causal mask is one too wide: a token sees the next one",
        "training loss is too good to be true",
        Remedy(
            "hide the keys above the diagonal, and no fewer, in {h.*.attn}",
            "scores.masked_fill(torch.triu(ones, diagonal=1), -torch.inf)",
        ),
        "diagonal=2, or tril(diagonal=1)",
        _masked(_seen_up_to(1)),
        leaks=True,
    ),
    Fault(
        "mask_transposed",
        "the causal mask is transposed: a token sees itself and later ones",
        "gibberish",
        Remedy("rows are queries, columns are keys: hide the keys above the diagonal in {h.*.attn}"),
        "triu where tril was meant",
        _masked(lambda visible: visible.flip(-1, -2)),
        leaks=True,
    ),
    Fault(
        "mask_no_self",
        "the causal mask hides a token from itself",
        "NaN: the first token sees nothing at all",
        Remedy(
            "hide the keys above the diagonal, and not the diagonal itself, in {h.*.attn}",
            "torch.triu(ones, diagonal=1)",
        ),
        "the diagonal of triu",
        _masked(_seen_up_to(-1)),
    ),
    Fault(
        "mask_after_softmax",
        "the mask is applied after the softmax: rows no longer sum to 1",
        "gibberish",
        Remedy(
            "mask the scores before the softmax in {h.*.attn}", "scores.masked_fill(hidden, -torch.inf).softmax(-1)"
        ),
        "probabilities multiplied by tril",
        {_PROBABILITIES: formula(lambda scores, visible: scores.softmax(-1) * visible)},
        leaks=True,
    ),
    Fault(
        "mask_zero_fill",
        "hidden scores are set to 0 instead of -inf",
        "a token sees later ones",
        Remedy("set hidden scores to minus infinity in {h.*.attn}", "scores.masked_fill(hidden, -torch.inf)"),
        "scores multiplied by tril",
        _masked(fill=0.0),
        leaks=True,
    ),
    Fault(
        "mask_fill",
        "hidden scores are set to {value}, which is not low enough",
        "a token sees a little of later ones",
        Remedy("set hidden scores to minus infinity in {h.*.attn}", "scores.masked_fill(hidden, -torch.inf)"),
        "https://github.com/karpathy/minGPT/issues/75",
        lambda fill: _masked(fill=fill),
        values=lambda config: (-10.0, -1.0, -5.0, -20.0),
        neutral=lambda config: -100.0,
        general=True,
        leaks=True,
    ),
    Fault(
        "mask_added",
        "the mask's ones and zeros are added to the scores, which hides nothing",
        "a token sees later ones",
        Remedy("add 0 and minus infinity, not ones and zeros, in {h.*.attn}", "scores.masked_fill(hidden, -torch.inf)"),
        "a boolean mask given where an additive one is expected",
        {_PROBABILITIES: formula(lambda scores, visible: (scores + visible.to(scores.dtype)).softmax(-1))},
        leaks=True,
    ),
    Fault(
        "softmax_dim_q",
        "the softmax runs over the queries instead of the keys",
        "gibberish",
        Remedy("take the softmax over the keys in {h.*.attn}", "softmax(dim=-1)"),
        "dim=-2",
        _masked(dim=-2),
        leaks=True,
    ),
    Fault(
        "softmax_dim_heads",
        "the softmax runs over the heads instead of the keys",
        "gibberish",
        Remedy("take the softmax over the keys in {h.*.attn}", "softmax(dim=-1)"),
        "the dimension that torch guesses for four axes when none is given",
        {
            _PROBABILITIES: formula(
                lambda scores, visible: scores.masked_fill(~visible, torch.finfo(scores.dtype).min).softmax(1)
            )
        },
        leaks=True,
    ),
    Fault(
        "scale_after_softmax",
        "the probabilities are divided by sqrt(d) instead of the scores",
        "attention too sharp and too weak",
        Remedy("scale the scores, before the softmax, in {h.*.attn}", "scores / math.sqrt(q.size(-1))"),
        "two lines in the wrong order",
        {_PROBABILITIES: given_module(_scaled_late)},
    ),
)

# ------------------------------------------------------------------------------------------------------------ heads


def _split(function: Callable[[Tensor, int], Tensor]) -> Change:
    return given_module(lambda attention, x: function(x, attention.n_head))


HEAD_FAULTS = (
    Fault(
        "split_view_no_transpose",
        "heads are split by a view without a transpose: each gets some of the tokens",
        "gibberish",
        Remedy("split heads with a view and a transpose in {h.*.attn}", "x.view(B, T, heads, d).transpose(1, 2)"),
        "https://github.com/ajhalthor/Transformer-Neural-Network/pull/4",
        {"h.*.attn.split_heads": _split(lambda x, heads: x.reshape(x.size(0), heads, x.size(1), x.size(2) // heads))},
        needs=lambda config: config.n_head > 1,
        leaks=True,
    ),
    Fault(
        "split_headdim_first",
        "heads are split as (d, heads): each head gets every H-th feature",
        "gibberish",
        Remedy(
            "split the width into heads first and their width second in {h.*.attn}",
            "x.view(B, T, heads, d).transpose(1, 2)",
        ),
        "einops with the axes of one head in the wrong order",
        {"h.*.attn.split_heads": _split(lambda x, heads: torch.unflatten(x, -1, (-1, heads)).permute(0, 3, 1, 2))},
        needs=lambda config: config.n_head > 1,
    ),
    Fault(
        "merge_no_transpose",
        "heads are merged without a transpose: tokens and heads mix",
        "gibberish; training on a toy problem still works",
        Remedy(
            "bring the heads back beside their features before they are merged in {h.*.attn}",
            "x.transpose(1, 2).reshape(B, T, E)",
        ),
        "https://github.com/jsbaan/transformer-from-scratch/issues/4",
        {"h.*.attn.merge_heads": formula(lambda x: x.reshape(x.size(0), x.size(2), -1))},
        needs=lambda config: config.n_head > 1,
        leaks=True,
    ),
    Fault(
        "merge_headdim_first",
        "heads are merged as (d, heads): their features alternate",
        "gibberish",
        Remedy("merge heads first and their width second in {h.*.attn}", "x.transpose(1, 2).reshape(B, T, E)"),
        "permute with the axes of one head in the wrong order",
        {"h.*.attn.merge_heads": formula(lambda x: x.permute(0, 2, 3, 1).flatten(-2))},
        needs=lambda config: config.n_head > 1,
    ),
)
