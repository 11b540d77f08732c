"""Faults between the layers: shortcuts, the place of LayerNorm, embeddings, positions, the end of the model."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from gpt2_from_scratch.diagnose.fault import Changes, Fault, Remedy
from gpt2_from_scratch.diagnose.table.changes import around, edited, formula

# ------------------------------------------------------------------------------------------------------------ blocks

Layer: TypeAlias = Callable[[Tensor], Tensor]
Wiring: TypeAlias = Callable[[Tensor, Layer, Layer, Layer, Layer], Tensor]


def _wired(wiring: Wiring) -> Changes:
    def change(place: Any) -> Callable[..., Tensor]:
        block = place.owner

        def forward(x: Tensor, mask: Tensor | None, cache: Any = None) -> Tensor:
            return wiring(x, block.ln_1, lambda y: block.attn(y, mask, cache), block.ln_2, block.mlp)

        return forward

    return {"h.*.forward": change}


def _post_norm(x: Tensor, ln_1: Layer, attn: Layer, ln_2: Layer, mlp: Layer) -> Tensor:
    x = ln_1(x + attn(x))
    return ln_2(x + mlp(x))


def _from_normed(x: Tensor, ln_1: Layer, attn: Layer, ln_2: Layer, mlp: Layer) -> Tensor:
    x = ln_1(x)
    x = ln_2(x + attn(x))
    return x + mlp(x)


def _no_attn_shortcut(x: Tensor, ln_1: Layer, attn: Layer, ln_2: Layer, mlp: Layer) -> Tensor:
    x = attn(ln_1(x))
    return x + mlp(ln_2(x))


def _no_mlp_shortcut(x: Tensor, ln_1: Layer, attn: Layer, ln_2: Layer, mlp: Layer) -> Tensor:
    return mlp(ln_2(x + attn(ln_1(x))))


def _no_shortcuts(x: Tensor, ln_1: Layer, attn: Layer, ln_2: Layer, mlp: Layer) -> Tensor:
    return mlp(ln_2(attn(ln_1(x))))


def _old_shortcut(x: Tensor, ln_1: Layer, attn: Layer, ln_2: Layer, mlp: Layer) -> Tensor:
    return x + mlp(ln_2(x + attn(ln_1(x))))


def _parallel(x: Tensor, ln_1: Layer, attn: Layer, ln_2: Layer, mlp: Layer) -> Tensor:
    return x + attn(ln_1(x)) + mlp(ln_2(x))


def _no_ln_2(x: Tensor, ln_1: Layer, attn: Layer, ln_2: Layer, mlp: Layer) -> Tensor:
    x = x + attn(ln_1(x))
    return x + mlp(x)


def _no_ln_1(x: Tensor, ln_1: Layer, attn: Layer, ln_2: Layer, mlp: Layer) -> Tensor:
    x = x + attn(x)
    return x + mlp(ln_2(x))


def _no_attention(x: Tensor, ln_1: Layer, attn: Layer, ln_2: Layer, mlp: Layer) -> Tensor:
    return x + mlp(ln_2(x))


def _no_mlp(x: Tensor, ln_1: Layer, attn: Layer, ln_2: Layer, mlp: Layer) -> Tensor:
    return x + attn(ln_1(x))


_RIGHT = Remedy(
    "normalise before each layer, and add what it returns, in {h.*}", "x = x + attn(ln_1(x)); x = x + mlp(ln_2(x))"
)

BLOCK_FAULTS = (
    Fault(
        "post_ln",
        "LayerNorm comes after the shortcut (post-norm); GPT-2 normalises the input of each layer (pre-norm)",
        "gibberish",
        _RIGHT,
        "the first transformer was post-norm",
        _wired(_post_norm),
    ),
    Fault(
        "resid_from_norm",
        "the shortcut starts from the normalised stream",
        "gibberish",
        _RIGHT,
        "https://github.com/Modalities/modalities/pull/136",
        _wired(_from_normed),
    ),
    Fault(
        "attn_resid_missing",
        "there is no shortcut around the attention",
        "gibberish",
        _RIGHT,
        "a forgotten `x +`",
        _wired(_no_attn_shortcut),
    ),
    Fault(
        "mlp_resid_missing",
        "there is no shortcut around the feed-forward layer",
        "gibberish",
        _RIGHT,
        "a forgotten `x +`",
        _wired(_no_mlp_shortcut),
    ),
    Fault(
        "resid_missing",
        "there is no shortcut at all",
        "gibberish",
        _RIGHT,
        "use_shortcut=False",
        _wired(_no_shortcuts),
    ),
    Fault(
        "shortcut_not_updated",
        "the second shortcut starts from the block's input: the attention's output is lost to it",
        "gibberish",
        Remedy("start the second shortcut from the attention's sum in {h.*}", "shortcut = x"),
        "`shortcut = x` written once instead of twice",
        _wired(_old_shortcut),
    ),
    Fault(
        "parallel_block",
        "attention and feed-forward layer both read the block's input, side by side",
        "gibberish",
        _RIGHT,
        "the block of GPT-J and GPT-NeoX",
        _wired(_parallel),
    ),
    Fault(
        "mlp_no_ln2",
        "the feed-forward layer's input is not normalised",
        "gibberish",
        _RIGHT,
        "a LayerNorm that is built and not called",
        _wired(_no_ln_2),
    ),
    Fault(
        "attn_no_ln1",
        "the attention's input is not normalised",
        "gibberish",
        _RIGHT,
        "a LayerNorm that is built and not called",
        _wired(_no_ln_1),
    ),
    Fault(
        "attn_missing",
        "the attention is not called",
        "tokens do not see each other",
        _RIGHT,
        "an output that is computed and not used",
        _wired(_no_attention),
    ),
    Fault(
        "mlp_missing",
        "the feed-forward layer is not called",
        "gibberish",
        _RIGHT,
        "an output that is computed and not used",
        _wired(_no_mlp),
    ),
    Fault(
        "layer_skipped",
        "a block is skipped",
        "fluent and worse",
        Remedy("run every block", "for block in blocks: x = block(x)"),
        "blocks[:-1], or range(n_layer - 1)",
        {"h.*.forward": formula(lambda x, mask, cache=None: x)},
        one_layer=True,
    ),
)

# -------------------------------------------------------------------------------------------------------- embeddings


def _positions(function: Callable[[Tensor, int], Tensor]) -> Changes:
    """Rows of the position embedding looked up instead of 0, 1, 2, ...; the function is given how many there are."""

    def change(place: Any) -> Callable[[Tensor], Tensor]:
        lookup = place.value
        return lambda positions: lookup(function(positions, len(place.owner.weight)))

    return {"wpe.forward": change}


def _sinusoids(place: Any) -> Callable[[Tensor], Tensor]:
    width = place.owner.weight.size(1)

    def lookup(positions: Tensor) -> Tensor:
        frequencies = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
        angles = positions[..., None] * frequencies
        return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)[..., :width]

    return lookup


def _width(place: Any) -> float:
    return math.sqrt(place.model.config.n_embd)


def _embedding_scaled(place: Any) -> Callable[[Tensor], Tensor]:
    lookup, factor = place.value, _width(place)
    return lambda ids: lookup(ids) * factor


def _other_ids(by: int) -> Changes:
    def change(place: Any) -> Callable[[Tensor], Tensor]:
        lookup = place.value
        return lambda ids: lookup((ids + by) % len(place.owner.weight))

    return {"wte.forward": change}


EMBEDDING_FAULTS = (
    Fault(
        "no_pos",
        "no position embedding is added",
        "word salad",
        Remedy("add the position embedding to the token embedding", "{wte}(ids) + {wpe}(torch.arange(T))"),
        "embeddings built and not added",
        {"wpe.forward": around(lambda lookup, positions: torch.zeros_like(lookup(positions)))},
    ),
    Fault(
        "pos_offset",
        "positions start at {value} instead of 0",
        "word salad",
        Remedy("count positions from 0 for {wpe}", "torch.arange(T)"),
        "positions counted from 1, or from 2 as in OPT",
        lambda by: _positions(lambda positions, rows: (positions + by) % rows),
        values=lambda config: tuple(by for by in (1, 2, -1) if config.n_positions > 2),
    ),
    Fault(
        "pos_reversed",
        "positions count down",
        "word salad; one token alone is exact",
        Remedy("count positions upwards for {wpe}", "torch.arange(T)"),
        "a flipped range",
        _positions(lambda positions, rows: positions.flip(-1)),
    ),
    Fault(
        "pos_zero",
        "every token has position 0",
        "word salad; the first position is exact",
        Remedy("give each token its own position for {wpe}", "torch.arange(T)"),
        "positions of a cached step used for a whole prompt",
        _positions(lambda positions, rows: positions * 0),
    ),
    Fault(
        "pos_sinusoidal",
        "positions are sinusoids; GPT-2 learned them",
        "gibberish",
        Remedy("look positions up in {wpe}"),
        "the first transformer's positions",
        {"wpe.forward": _sinusoids},
        kept=True,
        needs=lambda config: config.n_embd % 2 == 0,
    ),
    Fault(
        "emb_sqrt_d",
        "token embeddings are multiplied by sqrt(E)",
        "gibberish",
        Remedy("add the embeddings as they are", "{wte}(ids) + {wpe}(positions)"),
        "the first transformer's embeddings",
        {"wte.forward": _embedding_scaled},
    ),
    Fault(
        "sum_sqrt_d",
        "token and position embeddings are multiplied by sqrt(E)",
        "gibberish",
        Remedy("add the embeddings as they are", "{wte}(ids) + {wpe}(positions)"),
        "the first transformer's embeddings",
        {"wte.forward": _embedding_scaled, "wpe.forward": _embedding_scaled},
    ),
    Fault(
        "ids_offset",
        "token ids are off by {value}",
        "gibberish",
        Remedy("give {wte} the ids as they are"),
        "an extra token at the start of the vocabulary",
        _other_ids,
        values=lambda config: (1, -1),
    ),
    Fault(
        "dropout_on",
        "dropout acts in eval mode",
        "the same ids give different logits at each call",
        Remedy("let dropout act in training only", "F.dropout(x, p, training=self.training)"),
        "F.dropout acts unless it is told not to",
        {},
        values=lambda config: (),  # random: recognised by asking twice, and proven by making dropout do nothing
    ),
)

# --------------------------------------------------------------------------------------------- after the last block


def _logits(function: Callable[[Tensor], Tensor]) -> Changes:
    return {"lm_head.forward": around(lambda head, x: function(head(x)))}


HEAD_FAULTS = (
    Fault(
        "ln_f_missing",
        "the final LayerNorm is missing",
        "huge logits; often the right token still wins",
        Remedy("normalise before the head", "{lm_head}({ln_f}(x))"),
        "pre-norm code ported from post-norm code, which has none",
        {"ln_f.forward": formula(lambda x: x)},
    ),
    Fault(
        "ln_f_twice",
        "the final LayerNorm is applied twice",
        "drift",
        Remedy("normalise once before the head", "{lm_head}({ln_f}(x))"),
        "transformers' last hidden state is already normalised",
        {"ln_f.forward": around(lambda norm, x: norm(norm(x)))},
    ),
    Fault(
        "center_unembed",
        "the head's weight is centred over the vocabulary",
        "none: each token's logits are shifted by a constant",
        Remedy("use the token embedding as it is", "{lm_head}.weight = {wte}.weight"),
        "TransformerLens' center_unembed",
        {"lm_head.weight": edited(lambda weight: weight - weight.mean(0))},
    ),
    Fault(
        "lm_head_bias",
        "the head has a bias",
        "a constant offset per token of the vocabulary",
        Remedy("build the head without a bias", "nn.Linear(E, V, bias=False)"),
        "nn.Linear has a bias by default",
        lambda bias: _logits(lambda logits: logits + bias),
        values=lambda config: (),  # fitted: what remains is constant for each token of the vocabulary
    ),
    Fault(
        "logits_scaled",
        "logits are {value} times GPT-2's",
        "the same greedy text, other probabilities",
        Remedy("return {lm_head}'s output as it is"),
        "a temperature, or a scale of the embedding, inside the model",
        lambda factor: _logits(lambda logits: logits * factor),
        values=lambda config: (),  # fitted
    ),
    Fault(
        "softmax_output",
        "the model returns probabilities instead of logits: each row sums to 1",
        "the same greedy text; a loss that hardly falls",
        Remedy("return {lm_head}'s output; softmax belongs to sampling"),
        "softmax in the model and again in the loss",
        _logits(lambda logits: logits.softmax(-1)),
    ),
    Fault(
        "log_softmax_output",
        "the model returns log-probabilities instead of logits",
        "the same text",
        Remedy("return {lm_head}'s output; F.cross_entropy takes logits"),
        "for NLLLoss",
        _logits(lambda logits: logits.log_softmax(-1)),
    ),
    Fault(
        "shifted_by_one",
        "logits are shifted by one position: those of t + 1 stand at t",
        "a model that seems to know the future",
        Remedy("return logits for every position as they are; shift in the loss"),
        "the shift for the loss left in the model",
        _logits(lambda logits: logits.roll(-1, dims=1)),
        leaks=True,
    ),
    Fault(
        "shifted_back",
        "logits are shifted by one position: those of t - 1 stand at t",
        "a model that repeats itself",
        Remedy("return logits for every position as they are; shift in the loss"),
        "the shift for the loss left in the model",
        _logits(lambda logits: logits.roll(1, dims=1)),
        leaks=True,
    ),
    Fault(
        "logits_capped",
        "logits are capped at {value} by a tanh",
        "slight",
        Remedy("return {lm_head}'s output as it is"),
        "the soft cap of Gemma 2",
        lambda cap: _logits(lambda logits: cap * torch.tanh(logits / cap)),
        values=lambda config: (30.0, 50.0, 15.0),
    ),
)
