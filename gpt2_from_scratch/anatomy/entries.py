"""Every intermediate of GPT-2, and every form in which correct code may compute it.

`entries` runs the same mathematics as `forward`, and gives what stands between the ids and the logits as a list:
normalisation in its single steps, queries, keys and values with and without bias, scores before and after scale and
mask, the parts of the softmax, the factors of the activation, and the weights. A multiple of an entry is recognised by
itself and needs no entry of its own.

Axes are single letters; consecutive ones may be one axis in code (``H D`` is the width).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations

import torch
from torch import Tensor

from gpt2_from_scratch.anatomy import forward
from gpt2_from_scratch.anatomy.activations import CUBIC, FORMULAS, ROOT
from gpt2_from_scratch.anatomy.forward import Weights
from gpt2_from_scratch.config import GPTConfig

# Letters of axes: B prompts, T tokens, S keys, 3 query and key and value, 2 two of those, H heads, D the width of a
# head, E the width, F the inner width, V the vocabulary, P positions.

_TANH = {"gelu_new", "gelu_accurate", "gelu_python_tanh", "gelu_pytorch_tanh", "gelu_fast"}


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One value that GPT-2 computes, or one of its weights.

    Args:
        key: where it stands, such as ``h.0.attn.k``; weights have their canonical names.
        words: what it is, for people: "the keys".
        axes: one letter for each axis of `value`.
        shape: sizes of the axes.
        numbers: a weight in the checkpoint's own dtype, so that a large model is in memory once; of what few models
            compute, a function that makes them, so that they are not in memory.
        layer: its block, None outside the blocks.
        order: its place in the run; entries of one step follow each other.
        main: whether it is a step of GPT-2 as it is usually written; the others are forms of such a step.
        weight: whether it is a weight.
        causal: whether it is only compared where a query sees a key: the rest is a mask's fill.
    """

    key: str
    words: str
    axes: str
    shape: tuple[int, ...]
    numbers: Tensor | Callable[[], Tensor] = field(repr=False)
    layer: int | None
    order: int
    main: bool = True
    weight: bool = False
    causal: bool = False

    @property
    def value(self) -> Tensor:
        """The numbers, float64; of a weight a copy, which lives as long as it is used."""
        return self.kept.double()

    @property
    def kept(self) -> Tensor:
        """The numbers, a weight's in its own dtype."""
        return self.numbers if isinstance(self.numbers, Tensor) else self.numbers()

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def place(self) -> str:
        """The key without the number of the layer: ``h.*.attn.k``."""
        return self.key if self.layer is None else self.key.replace(f"h.{self.layer}.", "h.*.", 1)

    def __str__(self) -> str:
        return self.words if self.layer is None else f"{self.words} of block {self.layer}"


class _Notes:
    """Collects entries in the order in which they are computed."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.layer: int | None = None

    def main(self, key: str, value: Tensor, axes: str, words: str) -> Tensor:
        self._add(key, value, axes, words, True, False)
        return value

    def form(self, key: str, value: Tensor, axes: str, words: str, *, causal: bool = False) -> None:
        self._add(key, value, axes, words, False, causal)

    def rare(self, key: str, make: Callable[[], Tensor], shape: tuple[int, ...], axes: str, words: str) -> None:
        self.entries.append(Entry(key, words, axes, shape, make, self.layer, len(self.entries), main=False))

    def weight(self, key: str, value: Tensor, axes: str, words: str) -> None:
        shape = tuple(value.shape)
        self.entries.append(Entry(key, words, axes, shape, value, self.layer, len(self.entries), weight=True))

    def _add(self, key: str, value: Tensor, axes: str, words: str, main: bool, causal: bool) -> None:
        shape = tuple(value.shape)
        assert len(shape) == len(axes), (key, shape, axes)
        self.entries.append(Entry(key, words, axes, shape, value, self.layer, len(self.entries), main, causal=causal))


def entries(config: GPTConfig, weights: Weights, ids: Tensor) -> list[Entry]:
    """Everything that GPT-2 computes for these ids, and its weights.

    Args:
        config: sizes and options.
        weights: canonical name -> tensor.
        ids: int64 ``[B, T]``.

    Returns:
        In the order of the run; at the same place a main step comes after the forms that lead to it.
    """
    weights = {name: weights[name].detach() for name in config.tensor_shapes()}
    notes = _Notes()
    _weights(notes, config, weights)
    heads = (config.n_head, config.head_dim)
    tokens = ids.shape[-1]
    words = weights["wte.weight"][ids].double().view(*ids.shape, *heads)
    wte = notes.main("wte", words, "BTHD", "the token embeddings")
    places = weights["wpe.weight"][:tokens].double().view(tokens, *heads)
    wpe = notes.main("wpe", places, "THD", "the position embeddings")
    x = notes.main("embedding", wte + wpe, "BTHD", "the sum of the embeddings")
    for layer in range(config.n_layer):
        notes.layer = layer
        x = _block(notes, config, weights, layer, x)
    notes.layer = None
    x = _norm(notes, config, weights, "ln_f", "the final norm", x)
    notes.main("logits", forward.head(weights, x.flatten(-2)), "BTV", "the logits")
    return notes.entries


def _weights(notes: _Notes, config: GPTConfig, weights: Weights) -> None:
    e, h, d = config.n_embd, config.n_head, config.head_dim
    notes.weight("wte.weight", weights["wte.weight"], "VE", "the token embedding's table")
    notes.weight("wpe.weight", weights["wpe.weight"], "PE", "the position embedding's table")
    if "lm_head.weight" in weights:
        notes.weight("lm_head.weight", weights["lm_head.weight"], "VE", "the head's weight")
    for layer in range(config.n_layer):
        notes.layer = layer
        for name, words in (("ln_1", "the first norm"), ("ln_2", "the second norm")):
            _norm_weights(notes, weights, f"h.{layer}.{name}", words, h, d)
        key = f"h.{layer}.attn.c_attn"
        weight, bias = weights[f"{key}.weight"], weights[f"{key}.bias"]
        notes.weight(f"{key}.weight", weight.view(e, 3, h, d), "E3HD", "the weight of query, key and value")
        notes.weight(f"{key}.bias", bias.view(3, h, d), "3HD", "the bias of query, key and value")
        for name, first, pair in (("qk", 0, "query and key"), ("kv", 1, "key and value")):  # views: they take no memory
            both = weight.view(e, 3, h, d).narrow(1, first, 2)
            notes.weight(f"{key}.{name}_weight", both, "E2HD", f"the weight of {pair}")
            notes.weight(f"{key}.{name}_bias", bias.view(3, h, d).narrow(0, first, 2), "2HD", f"the bias of {pair}")
        key = f"h.{layer}.attn.c_proj"
        weight, bias = weights[f"{key}.weight"], weights[f"{key}.bias"]
        notes.weight(f"{key}.weight", weight.view(h, d, e), "HDE", "the weight of attention's output projection")
        notes.weight(f"{key}.bias", bias.view(h, d), "HD", "the bias of attention's output projection")
        key = f"h.{layer}.mlp.c_fc"
        notes.weight(f"{key}.weight", weights[f"{key}.weight"], "EF", "the weight of the first linear layer")
        notes.weight(f"{key}.bias", weights[f"{key}.bias"], "F", "the bias of the first linear layer")
        key = f"h.{layer}.mlp.c_proj"
        notes.weight(f"{key}.weight", weights[f"{key}.weight"], "FE", "the weight of the second linear layer")
        notes.weight(f"{key}.bias", weights[f"{key}.bias"], "E", "the bias of the second linear layer")
    notes.layer = None
    _norm_weights(notes, weights, "ln_f", "the final norm", h, d)


def _norm_weights(notes: _Notes, weights: Weights, key: str, words: str, h: int, d: int) -> None:
    notes.weight(f"{key}.weight", weights[f"{key}.weight"].view(h, d), "HD", f"the gain of {words}")
    notes.weight(f"{key}.bias", weights[f"{key}.bias"].view(h, d), "HD", f"the bias of {words}")


def _norm(notes: _Notes, config: GPTConfig, weights: Weights, key: str, words: str, x: Tensor) -> Tensor:
    """Normalisation step by step; x is ``[B, T, H, D]``."""
    gain, bias = (weights[f"{key}.{end}"].double().view(x.shape[-2:]) for end in ("weight", "bias"))
    over = (-2, -1)
    mean = x.mean(over)
    spread = mean[..., None, None]
    centred = x - spread
    variance = centred.square().mean(over)
    padded = variance + config.layer_norm_epsilon
    deviation = padded.sqrt()
    inverse = 1 / deviation[..., None, None]
    normal = centred * inverse
    n, of = notes, f"in {words}"
    n.form(f"{key}.mean", mean, "BT", f"the mean {of}")
    n.form(f"{key}.square", x.square(), "BTHD", f"the squares {of}")
    n.form(f"{key}.mean_square", x.square().mean(over), "BT", f"the mean of the squares {of}")
    n.form(f"{key}.squared_mean", mean.square(), "BT", f"the squared mean {of}")
    n.form(f"{key}.centred", centred, "BTHD", f"the input less its mean {of}")
    n.form(f"{key}.centred_square", centred.square(), "BTHD", f"the squared distances from the mean {of}")
    n.form(f"{key}.variance", variance, "BT", f"the variance {of}")
    n.form(f"{key}.padded", padded, "BT", f"the variance plus epsilon {of}")
    n.form(f"{key}.deviation", deviation, "BT", f"the root of variance plus epsilon {of}")
    n.form(f"{key}.inverse_padded", 1 / padded, "BT", f"one by the variance plus epsilon {of}")
    n.form(f"{key}.inverse", 1 / deviation, "BT", f"one by the root of variance plus epsilon {of}")
    n.form(f"{key}.inverse_gain", inverse * gain, "BTHD", f"the gain by the deviation {of}")
    n.form(f"{key}.quotient", x * inverse, "BTHD", f"the input by the deviation {of}")
    n.form(f"{key}.mean_quotient", mean / deviation, "BT", f"the mean by the deviation {of}")
    n.form(f"{key}.shift", bias - spread * inverse * gain, "BTHD", f"bias less mean, scaled, {of}")
    n.form(f"{key}.mean_gain", spread * inverse * gain, "BTHD", f"the mean, scaled, {of}")
    n.form(f"{key}.quotient_gain", x * inverse * gain, "BTHD", f"the input, scaled, {of}")
    n.form(f"{key}.centred_gain", centred * gain, "BTHD", f"gain times distance from the mean {of}")
    n.form(f"{key}.normal", normal, "BTHD", f"the normalised values without gain and bias {of}")
    n.form(f"{key}.scaled", normal * gain, "BTHD", f"the normalised values without the bias {of}")
    return n.main(key, normal * gain + bias, "BTHD", f"the output of {words}")


def _block(notes: _Notes, config: GPTConfig, weights: Weights, layer: int, x: Tensor) -> Tensor:
    key = f"h.{layer}"
    normed = _norm(notes, config, weights, f"{key}.ln_1", "the first norm", x)
    attended = _attention(notes, config, weights, layer, normed)
    middle = notes.main(f"{key}.middle", x + attended, "BTHD", "the stream after attention")
    notes.form(
        f"{key}.middle_without",
        middle - weights[f"{key}.attn.c_proj.bias"].double().view(x.shape[-2:]),
        "BTHD",
        "the stream after attention, without the projection's bias",
    )
    normed = _norm(notes, config, weights, f"{key}.ln_2", "the second norm", middle)
    fed = _feed_forward(notes, config, weights, layer, normed)
    notes.form(
        f"{key}.output_without",
        middle + fed - weights[f"{key}.mlp.c_proj.bias"].double().view(x.shape[-2:]),
        "BTHD",
        "the stream after the feed-forward layer, without its last bias",
    )
    return notes.main(f"{key}.output", middle + fed, "BTHD", "the stream after the feed-forward layer")


def _attention(notes: _Notes, config: GPTConfig, weights: Weights, layer: int, x: Tensor) -> Tensor:
    n, key = notes, f"h.{layer}.attn"
    batch, tokens, heads, width = x.shape
    weight = weights[f"{key}.c_attn.weight"].double()
    bias = weights[f"{key}.c_attn.bias"].double().view(3, heads, width)
    bare = (x.flatten(-2) @ weight).view(batch, tokens, 3, heads, width)
    qkv = bare + bias
    names = (("q", "queries"), ("k", "keys"), ("v", "values"))
    n.form(f"{key}.qkv_without", bare, "BT3HD", "queries, keys and values without bias")
    for position, (letter, words) in enumerate(names):
        n.form(f"{key}.{letter}_without", bare[:, :, position], "BTHD", f"the {words} without bias")
    n.main(f"{key}.qkv", qkv, "BT3HD", "queries, keys and values")
    for one, other in combinations(range(3), 2):  # some code has one layer for two of them, and one for the third
        both, said = names[one][0] + names[other][0], f"{names[one][1]} and {names[other][1]}"
        two = slice(one, other + 1, other - one)  # a view, where a list of both would copy
        n.form(f"{key}.{both}_without", bare[:, :, two], "BT2HD", f"{said} without bias")
        n.form(f"{key}.{both}", qkv[:, :, two], "BT2HD", said)
    for position, (letter, words) in enumerate(names):
        n.main(f"{key}.{letter}", qkv[:, :, position], "BTHD", f"the {words}")
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
    scores = q @ k.transpose(-1, -2) * forward.scale(config, layer)
    n.main(f"{key}.scores", scores, "BHTS", "the scores")
    hidden = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
    seen = ~hidden
    visible = scores * seen
    n.form(f"{key}.visible", visible, "BHTS", "the scores, with 0 in the place of hidden ones")
    n.form(f"{key}.masked", visible, "BHTS", "the masked scores", causal=True)
    masked = scores.masked_fill(hidden, -math.inf)
    for name, top, of in (
        ("", masked.amax(-1), "the visible scores"),
        ("_all", scores.amax(-1), "all scores"),
    ):
        shifted = scores - top[..., None]
        n.form(f"{key}.top{name}", top, "BHT", f"the largest of {of}")
        n.form(
            f"{key}.shifted{name}", shifted * seen, "BHTS", f"the masked scores less the largest of {of}", causal=True
        )
        n.form(f"{key}.shifted_open{name}", shifted, "BHTS", f"the scores less the largest of {of}")
        odds = shifted.exp() * seen
        n.form(f"{key}.odds{name}", odds, "BHTS", f"exponentials of the masked scores less the largest of {of}")
        n.form(f"{key}.odds_open{name}", shifted.exp(), "BHTS", f"exponentials of the scores less the largest of {of}")
        n.form(f"{key}.total{name}", odds.sum(-1), "BHT", f"the sum of exponentials less the largest of {of}")
    odds = scores.exp() * seen
    n.form(f"{key}.odds_plain", odds, "BHTS", "exponentials of the masked scores")
    n.form(f"{key}.odds_plain_open", scores.exp(), "BHTS", "exponentials of the scores")
    n.form(f"{key}.total_plain", odds.sum(-1), "BHT", "the sum of the exponentials")
    n.form(f"{key}.logsumexp", masked.logsumexp(-1), "BHT", "the logarithm of the sum of exponentials")
    n.form(
        f"{key}.log_probabilities",
        masked.log_softmax(-1).masked_fill(hidden, 0.0),
        "BHTS",
        "the logarithms of the probabilities",
        causal=True,
    )
    probabilities = n.main(f"{key}.probabilities", masked.softmax(-1), "BHTS", "the attention probabilities")
    mixed = n.main(f"{key}.mixed", probabilities @ v, "BHTD", "the values, averaged by each head")
    without = probabilities @ bare[:, :, 2].transpose(1, 2)
    n.form(f"{key}.mixed_without", without, "BHTD", "the values without bias, averaged by each head")
    n.form(f"{key}.mixed_odds", odds @ v, "BHTD", "the values, summed by exponentials")
    projection = weights[f"{key}.c_proj.weight"].double()
    bias = weights[f"{key}.c_proj.bias"].double()
    by_head = mixed @ projection.view(heads, width, -1)  # (B, H, T, E)
    n.form(f"{key}.by_head", by_head, "BHTE", "each head's part of attention's output")
    shape = tuple(x.shape)
    for count in range(1, heads):  # some code adds up head by head, the bias first or last
        said = f"the first {count} heads' part of attention's output"
        first = partial(_first_heads, by_head, count, shape)
        n.rare(f"{key}.projected.{count}", first, shape, "BTHD", f"{said} without bias")
        n.rare(f"{key}.output.{count}", partial(first, bias), shape, "BTHD", said)
    bare = by_head.sum(1)
    n.form(f"{key}.projected", bare.view(x.shape), "BTHD", "attention's output without bias")
    return n.main(f"{key}.output", (bare + bias).view(x.shape), "BTHD", "attention's output")


def _first_heads(by_head: Tensor, count: int, shape: tuple[int, ...], bias: Tensor | None = None) -> Tensor:
    """The sum of the first heads' parts of attention's output."""
    total = by_head[:, :count].sum(1)
    return (total if bias is None else total + bias).view(shape)


def _feed_forward(notes: _Notes, config: GPTConfig, weights: Weights, layer: int, x: Tensor) -> Tensor:
    n, key = notes, f"h.{layer}.mlp"
    bare = x.flatten(-2) @ weights[f"{key}.c_fc.weight"].double()
    n.form(f"{key}.inner_without", bare, "BTF", "the first linear layer without bias")
    inner = n.main(
        f"{key}.inner", bare + weights[f"{key}.c_fc.bias"].double(), "BTF", "the first linear layer's output"
    )
    for name, form, words in _factors(config.activation_function, inner):
        n.form(f"{key}.act.{name}", form, "BTF", f"{words} in the activation")
    activated = FORMULAS[config.activation_function](inner)
    n.main(f"{key}.act", activated, "BTF", "the activation's output")
    bare = activated @ weights[f"{key}.c_proj.weight"].double()
    n.form(f"{key}.projected", bare.view(x.shape), "BTHD", "the feed-forward layer's output without bias")
    bias = weights[f"{key}.c_proj.bias"].double()
    return n.main(f"{key}.output", (bare + bias).view(x.shape), "BTHD", "the feed-forward layer's output")


def _factors(name: str, x: Tensor) -> Iterator[tuple[str, Tensor, str]]:
    """What code may compute on the way to an activation; of a multiple one is enough."""
    if name in _TANH:
        root = 0.7978845608 if name == "gelu_fast" else ROOT
        inner = root * (x + CUBIC * x**3)
        tanh = torch.tanh(inner)
        yield "square", x**2, "the square"
        yield "cube", x**3, "the cube"
        yield "polynomial", 1 + CUBIC * x**2, "one plus 0.044715 times the square"
        yield "argument", inner, "tanh's argument"
        yield "root_polynomial", root + root * CUBIC * x**2, "the scaled polynomial"
        yield "tanh", tanh, "tanh"
        yield "half_tanh", x * tanh, "x times tanh"
        yield "sum", 1 + tanh, "one plus tanh"
        yield "exp", torch.exp(-2 * inner), "the exponential"
        yield "exp_plus", torch.exp(2 * inner), "the exponential"
        yield "exp_sum", 1 + torch.exp(-2 * inner), "one plus the exponential"
        yield "exp_plus_sum", 1 + torch.exp(2 * inner), "one plus the exponential"
        yield "exp_plus_less", torch.exp(2 * inner) - 1, "the exponential less one"
        yield "half_exp", torch.exp(inner), "the exponential"
        yield "half_exp_minus", torch.exp(-inner), "the exponential"
        yield "sinh", torch.exp(inner) - torch.exp(-inner), "the difference of exponentials"
        yield "cosh", torch.exp(inner) + torch.exp(-inner), "the sum of exponentials"
    elif name in ("gelu", "gelu_python", "gelu_10"):
        erf = torch.erf(x / math.sqrt(2))
        yield "erf", erf, "erf"
        yield "sum", 1 + erf, "one plus erf"
        yield "half_erf", x * erf, "x times erf"
        if name == "gelu_10":
            yield "gelu", FORMULAS["gelu"](x), "GELU"
    elif name in ("quick_gelu", "silu", "swish", "sigmoid"):
        slope = 1.702 if name == "quick_gelu" else 1.0
        yield "exp", torch.exp(-slope * x), "the exponential"
        yield "exp_sum", 1 + torch.exp(-slope * x), "one plus the exponential"
        yield "sigmoid", torch.sigmoid(slope * x), "the sigmoid"
    elif name in ("mish", "sqrtsoftplus"):
        yield "exp", torch.exp(x), "the exponential"
        yield "exp_sum", 1 + torch.exp(x), "one plus the exponential"
        softplus = torch.logaddexp(x, torch.zeros_like(x))
        yield "softplus", softplus, "softplus"
        yield "tanh", torch.tanh(softplus), "tanh of softplus"
    elif name in ("relu2", "leaky_relu"):
        yield "relu", x.clamp(min=0), "the positive part"
        yield "negative", x.clamp(max=0), "the negative part"
    elif name == "hardswish":
        yield "moved", x + 3, "x + 3"
        yield "relu6", (x + 3).clamp(0, 6), "relu6(x + 3)"
        yield "positive", (x + 3).clamp(min=0), "the positive part of x + 3"
    elif name == "laplace":
        argument = (x - 0.707107) / (0.282095 * math.sqrt(2))
        yield "argument", argument, "erf's argument"
        yield "erf", torch.erf(argument), "erf"
        yield "sum", 1 + torch.erf(argument), "one plus erf"
