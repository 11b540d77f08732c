"""The ideas GPT-2 is made of, one small test each. Read from top to bottom, the file is the explanation.

A test is better than a sentence here because it cannot be half true: change a layer, and the idea it breaks turns red.
Shapes: B texts, T tokens, E features per token.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.layers import EXACT, EXACT_EAGER, FUSED, TEXTBOOK, Compute, LayerNorm, gelu_erf, gelu_tanh
from gpt2_from_scratch.model import GPTModel, TransformerBlock

B, T, E = 2, 5, 64
SMALL = GPTConfig(vocab_size=101, n_positions=16, n_embd=E, n_layer=3, n_head=4)

# Every idea about a layer holds however the layer is computed.
every_way = pytest.mark.parametrize(
    "compute", [TEXTBOOK, EXACT, EXACT_EAGER, FUSED], ids=["textbook", "exact", "exact-eager", "fused"]
)


@pytest.fixture(autouse=True)
def same_numbers_every_time():
    torch.manual_seed(123)


# -- Layer normalisation: each token starts every layer at the same scale -----------------------------------------


def layer_norm(compute: Compute = TEXTBOOK, n_embd: int = E) -> LayerNorm:
    """A LayerNorm that has learned nothing yet: gain 1, bias 0."""
    norm = LayerNorm(n_embd, eps=1e-5, compute=compute)
    nn.init.ones_(norm.weight)
    nn.init.zeros_(norm.bias)
    return norm


@every_way
def test_layer_norm_gives_every_token_mean_0_and_variance_1_over_its_features(compute: Compute):
    x = 7 + 3 * torch.randn(B, T, E)
    y = layer_norm(compute)(x)
    assert_close(y.mean(dim=-1), torch.zeros(B, T), atol=1e-6, rtol=0)
    # Not exactly 1 but var / (var + eps): with a variance near 9 that is 1e-5 / 9 below it, and rounding is less.
    assert_close(y.var(dim=-1, unbiased=False), torch.ones(B, T), atol=4e-6, rtol=0)


@every_way
def test_the_variance_is_divided_by_n_and_not_by_n_minus_1(compute: Compute):
    n = 8  # few features, so that the two are far apart
    y = layer_norm(compute, n)(3 * torch.randn(B, T, n))
    assert_close(y.var(dim=-1, unbiased=False), torch.ones(B, T), atol=1e-4, rtol=0)
    assert_close(y.var(dim=-1, unbiased=True), torch.full((B, T), n / (n - 1)), atol=1e-4, rtol=0)


@every_way
def test_layer_norm_knows_neither_the_batch_nor_the_other_tokens(compute: Compute):
    # Batch normalisation would: it averages over the batch, so a text's result depends on its neighbours.
    norm, x = layer_norm(compute), torch.randn(B, T, E)
    alone = norm(x[:1, 2:3])
    assert_close(norm(x)[:1, 2:3], alone)
    x[1] *= 100
    x[0, 0] += 5
    assert_close(norm(x)[:1, 2:3], alone)


@every_way
def test_gain_and_bias_can_take_the_normalisation_back(compute: Compute):
    norm = layer_norm(compute)
    nn.init.constant_(norm.weight, 3.0)
    nn.init.constant_(norm.bias, 7.0)
    y = norm(torch.randn(B, T, E))
    assert_close(y.mean(dim=-1), torch.full((B, T), 7.0))
    assert_close(y.std(dim=-1, unbiased=False), torch.full((B, T), 3.0), atol=1e-4, rtol=0)


@every_way
def test_epsilon_keeps_a_token_without_variance_finite(compute: Compute):
    y = layer_norm(compute)(torch.full((B, T, E), 7.0))
    assert_close(y, torch.zeros(B, T, E))


# -- GELU: a smooth ReLU ------------------------------------------------------------------------------------------


def test_gelu_is_almost_the_identity_far_right_and_almost_zero_far_left():
    assert_close(gelu_tanh(torch.tensor([10.0, 0.0, -10.0])), torch.tensor([10.0, 0.0, 0.0]))


def test_tanh_and_erf_gelu_are_nowhere_further_apart_than_half_a_thousandth():
    """GPT-2 was trained with the tanh form. The gap is too small to see in generated text, and no rounding error."""
    grid = [k / 10_000 for k in range(-60_000, 60_001)]

    def erf_form(x: float) -> float:
        return x * 0.5 * (1 + math.erf(x / math.sqrt(2)))

    def tanh_form(x: float) -> float:
        return x * 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    gap, where = max((abs(tanh_form(x) - erf_form(x)), x) for x in grid)
    assert f"{gap:.3e}" == "4.732e-04"
    assert f"{abs(where):.2f}" == "2.70"

    x = torch.tensor(grid, dtype=torch.float64)
    rounding = {"atol": 1e-14, "rtol": 0.0}  # values up to 6, a few operations, float64 rounds at 2e-16
    assert_close(gelu_tanh(x), torch.tensor([tanh_form(x) for x in grid], dtype=torch.float64), **rounding)
    assert_close(gelu_erf(x), torch.tensor([erf_form(x) for x in grid], dtype=torch.float64), **rounding)


@pytest.mark.parametrize("gelu", [gelu_tanh, gelu_erf])
def test_a_negative_input_still_passes_something_on_and_still_learns(gelu: Callable[[Tensor], Tensor]):
    # Down to -5; far below, where 1 + tanh rounds to 0, float32 loses what is left.
    x = torch.arange(-5.0, 0.0, 0.01, requires_grad=True)
    gelu(x).sum().backward()
    assert x.grad is not None
    assert (gelu(x) != 0).all()
    assert (x.grad != 0).all()
    # "Almost all": the slope is 0 at one point, the minimum near -0.75, where it changes sign.
    (minimum,) = x[1:][x.grad.sign().diff() != 0]
    assert -0.8 < minimum < -0.7

    x.grad = None
    F.relu(x).sum().backward()
    assert (F.relu(x) == 0).all()
    assert (x.grad == 0).all()  # a ReLU that sees only negative inputs never learns again


# -- Shortcuts: depth without vanishing gradients -----------------------------------------------------------------


def test_shortcuts_keep_the_gradients_of_early_layers_from_vanishing():
    depth, width = 24, 32
    sizes = {}  # with shortcuts? -> mean size of the gradient, layer by layer
    for shortcuts in (False, True):
        torch.manual_seed(123)
        layers = [nn.Linear(width, width) for _ in range(depth)]
        x = torch.randn(100, width)
        for layer in layers:
            y = gelu_tanh(layer(x))
            x = x + y if shortcuts else y
        x.square().mean().backward()
        gradients = (layer.weight.grad for layer in layers)
        sizes[shortcuts] = [gradient.abs().mean().item() for gradient in gradients if gradient is not None]
    # Without shortcuts each layer hands back about a third of what it was given, so depth 24 leaves 0.3 ** 23 = 1e-12;
    # with them the sum hands everything back, and the layers stay within one order of magnitude of each other.
    assert sizes[False][0] < 1e-9 * sizes[False][-1]
    assert min(sizes[True]) > 0.1 * max(sizes[True])


# -- The block: normalise, transform, add -------------------------------------------------------------------------


def block(compute: Compute = EXACT) -> TransformerBlock:
    one = GPTModel(SMALL, compute).eval().h[0]
    assert isinstance(one, TransformerBlock)
    return one


def causal(tokens: int) -> Tensor:
    return torch.ones(tokens, tokens).tril().bool()[None, None]


@pytest.mark.parametrize("shape", [(1, 1, E), (1, 7, E), (4, 2, E)])
def test_a_block_gives_back_the_shape_it_was_given(shape: tuple[int, ...]):
    """Why blocks can be stacked: 12 of them in GPT-2 124M, 48 in the largest, all alike."""
    assert block()(torch.randn(shape), causal(shape[1])).shape == shape


def test_a_block_is_pre_norm_and_not_post_norm():
    """GPT-2 normalises what a sublayer reads; the original transformer normalised the sum it writes."""
    one, x, mask = block(), torch.randn(B, T, E), causal(T)

    attended = x + one.attn(one.ln_1(x), mask)
    pre_norm = attended + one.mlp(one.ln_2(attended))
    assert_close(one(x, mask), pre_norm)

    attended = one.ln_1(x + one.attn(x, mask))
    post_norm = one.ln_2(attended + one.mlp(attended))
    assert (one(x, mask) - post_norm).abs().max() > 0.1


def test_a_pre_norm_block_that_adds_nothing_is_the_identity():
    """The stream runs from the embeddings to the last norm, and gradients run back, with no layer in the way."""
    one = block()
    for projection in (one.attn.c_proj, one.mlp.c_proj):
        nn.init.zeros_(projection.weight)
        nn.init.zeros_(projection.bias)
    x = 7 + 3 * torch.randn(B, T, E, requires_grad=True)
    x.retain_grad()
    y = one(x, causal(T))
    assert torch.equal(y, x)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.ones(B, T, E))
    # The post-norm block that adds nothing still normalises, so a deep stack of them rescales gradients at each layer.
    assert (one.ln_2(one.ln_1(x)) - x).abs().max() > 1


@every_way
def test_attention_looks_back_and_never_ahead(compute: Compute):
    model = GPTModel(SMALL, compute).eval()
    ids = torch.randint(SMALL.vocab_size, (B, 9))
    changed = ids.clone()
    changed[:, 5] = (changed[:, 5] + 1) % SMALL.vocab_size
    before, after = model(ids), model(changed)
    assert_close(after[:, :5], before[:, :5])
    assert ((after[:, 5:] - before[:, 5:]).abs().amax(dim=-1) > 1e-4).all()  # every later token has noticed


def test_the_feed_forward_layer_works_on_each_token_by_itself():
    mlp, x, order = block().mlp, torch.randn(B, T, E), torch.randperm(T)
    assert_close(mlp(x[:, order]), mlp(x)[:, order])


# -- Dropout: in training only ------------------------------------------------------------------------------------


@every_way
def test_dropout_acts_in_training_only(compute: Compute):
    model, ids = GPTModel(SMALL, compute), torch.randint(SMALL.vocab_size, (B, 9))
    model.train()
    assert not torch.equal(model(ids), model(ids))
    model.eval()
    assert torch.equal(model(ids), model(ids))


@every_way
def test_without_dropout_training_and_evaluation_compute_the_same(compute: Compute):
    config = SMALL.replace(embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0)
    model, ids = GPTModel(config, compute), torch.randint(SMALL.vocab_size, (B, 9))
    assert torch.equal(model.train()(ids), model.eval()(ids))


# -- The whole model ----------------------------------------------------------------------------------------------


def count(config: GPTConfig) -> int:
    return sum(parameter.numel() for parameter in GPTModel(config, device="meta").parameters())


def test_gpt2_has_124_million_parameters_and_163_million_with_a_head_of_its_own():
    tied, separate = count(GPTConfig()), count(GPTConfig(tie_word_embeddings=False))
    assert tied == 124_439_808
    assert separate == 163_037_184
    assert separate - tied == 50_257 * 768  # one number per feature of every token: the embedding, a second time


def test_a_tied_head_is_the_embedding_and_not_a_copy_of_it():
    model = GPTModel(SMALL)
    assert model.lm_head.weight is model.wte.weight
    hidden = model.eval().hidden_states(torch.tensor([[1, 2, 3]]))
    with torch.no_grad():
        model.wte.weight[42] = 0
    assert_close(model.lm_head(hidden)[..., 42], torch.zeros(1, 3))
