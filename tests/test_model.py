"""`GPTModel` computes what transformers' `GPT2LMHeadModel` computes: to the last bit, or within the noise of float32.

What can be exact is compared exactly, with every parameter perturbed so that nothing hides. What rounds differently is
compared within a measured noise floor: the distance of the reference from its own float64 run, and of its two
attentions from each other. In float64, where there is no noise to hide in, almost nothing may differ.

The default tier runs every option, every way and every dtype at least once; the slow tier all of their combinations.
"""

import copy
import gc
import io
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel
from transformers.activations import ACT2FN

from gpt2_from_scratch.cache import KVCache
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import CheckpointError
from gpt2_from_scratch.layers import ACTIVATIONS, EXACT, EXACT_EAGER, FUSED, TEXTBOOK, Compute, LayerNorm
from gpt2_from_scratch.model import GPTModel, MultiHeadAttention
from tests.perturbed import DROPOUT, NO_DROPOUT, SIZES, ours, perturbed

V, C = SIZES["vocab_size"], SIZES["n_positions"]

# Options of `GPT2Config` that change the mathematics, or how it is rounded.
OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "inner-4E": {"n_inner": None},
    "unscaled": {"scale_attn_weights": False},
    "inverse-layer": {"scale_attn_by_inverse_layer_idx": True},
    "upcast": {"reorder_and_upcast_attn": True},
    "mistral": {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True},  # stanford-crfm's models
    "untied": {"tie_word_embeddings": False},
    "epsilon": {"layer_norm_epsilon": 1e-3},
    "one-head": {"n_head": 1},
    "heads-of-1": {"n_head": 44},
    "heads-of-64": {"n_embd": 128, "n_head": 2},  # as in the official models; the cache is read without a copy
}
WAYS = {"sdpa": EXACT, "eager": EXACT_EAGER}  # transformers' name for its attention -> how we compute the same bits
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

# A correct float32 program is about one floor from the truth, so two of them are two apart at most; twice that is the
# line. Measured here: 1.8 for logits, 1.5 for gradients. The nearest fault, epsilon 1e-6 instead of 1e-5, is at 260.
THRESHOLD = 4

# In float64 correct programs were measured 1e-13 apart (6e-12 where gelu_fast meets sqrt(2/pi) with all its digits),
# and that epsilon at 7e-4.
FLOAT64 = {"atol": 1e-11, "rtol": 0.0}

same_bits = partial(assert_close, rtol=0, atol=0)


def explain(label: str) -> Callable[[str], str]:
    """For ``assert_close(msg=...)``: says which one it was."""
    return lambda text: f"{label}: {text}"


def random_ids(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(seed))


def prompts() -> Iterator[Tensor]:
    """One token hides every fault of scores, masks and positions; the full context shows them all."""
    yield from (random_ids(1, tokens, seed=tokens) for tokens in (1, 2, 17, C))
    yield random_ids(3, 29)


class Padded(NamedTuple):
    """Three texts in one batch: padded on the left, as `generate` does, on the right, and not at all."""

    ids: Tensor
    mask: Tensor
    positions: Tensor


def padded() -> Padded:
    ids = random_ids(3, C)
    mask = torch.ones_like(ids)
    mask[0, :7] = 0
    mask[1, -3:] = 0
    return Padded(ids, mask, (mask.cumsum(-1) - 1).clamp(min=0))


@torch.no_grad()
def theirs(model: GPT2LMHeadModel, ids: Tensor, *, cache: DynamicCache | None = None, **inputs: Tensor) -> Tensor:
    # Without a cache its use is switched off: transformers' eager attention rounds differently with an idle one.
    logits: Tensor = model(ids, past_key_values=cache, use_cache=cache is not None, **inputs).logits
    return logits


# -- The same bits ------------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    reference: GPT2LMHeadModel
    model: GPTModel


def tiered(*names: Iterable[str], quick: Callable[..., bool]) -> list[Any]:
    """Every combination of the names. Those that are not quick run in the slow tier only."""
    combinations = itertools.product(*names)
    return [
        pytest.param(each, id="-".join(each), marks=() if quick(*each) else pytest.mark.slow) for each in combinations
    ]


def every_value_once(option: str, attention: str, dtype: str) -> bool:
    """Each option once, in the commonest way; each way and each dtype with options that it treats apart."""
    return (attention, dtype) == ("sdpa", "float32") or option in ("default", "mistral")


@pytest.fixture(scope="module", params=tiered(OPTIONS, WAYS, DTYPES, quick=every_value_once))
def pair(request: pytest.FixtureRequest) -> Pair:
    option, attention, dtype = request.param
    reference = perturbed(attention=attention, dtype=DTYPES[dtype], **OPTIONS[option])
    return Pair(reference, ours(reference, WAYS[attention]))


def test_logits_are_the_same_bits(pair: Pair):
    for ids in prompts():
        same_bits(pair.model(ids), theirs(pair.reference, ids), msg=explain(str(tuple(ids.shape))))


def test_padded_texts_give_the_same_bits(pair: Pair):
    ids, mask, positions = padded()
    expected = theirs(pair.reference, ids, attention_mask=mask, position_ids=positions)
    same_bits(pair.model(ids, mask, positions), expected)
    # Positions are not derived from the mask: without them every row counts from 0, as in transformers.
    same_bits(pair.model(ids, mask), theirs(pair.reference, ids, attention_mask=mask))


@pytest.mark.parametrize("padding", [False, True], ids=["one", "three-padded"])
def test_cached_chunks_give_the_same_bits(pair: Pair, padding: bool):
    ids, mask, positions = padded()
    if not padding:
        ids = ids[:1]
    their_cache = DynamicCache(config=pair.reference.config)
    our_cache = KVCache(pair.model.config, len(ids), dtype=pair.model.wte.weight.dtype)
    ends = (11, 12, 13, 20, 36, C)  # a prompt, single tokens, several tokens after earlier ones, to the last position
    for start, end in zip((0, *ends), ends, strict=False):
        inputs = {}  # without padding, positions count on from the cached tokens
        if padding:
            inputs = {"attention_mask": mask[:, :end], "position_ids": positions[:, start:end]}
        same_bits(
            pair.model(ids[:, start:end], **inputs, cache=our_cache),
            theirs(pair.reference, ids[:, start:end], **inputs, cache=their_cache),
            msg=explain(f"tokens {start} to {end}"),
        )
    assert our_cache.length == C


@pytest.mark.parametrize("case", tiered(ACTIVATIONS, DTYPES, quick=lambda name, dtype: dtype == "float32"))
def test_every_activation_gives_the_same_bits_forwards_and_backwards(case: tuple[str, str]):
    name, dtype = case
    reference = perturbed(dtype=DTYPES[dtype], activation_function=name)
    model = ours(reference)
    for ids in (random_ids(1, 1), random_ids(3, 29)):
        same_bits(model(ids), theirs(reference, ids))
    expected, found = gradients(reference), gradients(model)
    for parameter in expected:
        same_bits(found[parameter], expected[parameter], msg=explain(parameter))


# -- Within the noise ---------------------------------------------------------------------------------------------

ROUNDED = {"textbook": TEXTBOOK, "fused": FUSED}
EVERY_OPTION = OPTIONS | {name: {"activation_function": name} for name in ACTIVATIONS}


def battery(model: GPT2LMHeadModel | GPTModel) -> Tensor:
    """Logits of all tokens of all prompts, padded ones included, one row per token, in float64."""
    run = partial(theirs, model) if isinstance(model, GPT2LMHeadModel) else model
    ids, mask, positions = padded()
    with torch.no_grad():
        logits = [run(prompt).flatten(0, 1) for prompt in prompts()]
        logits.append(run(ids, attention_mask=mask, position_ids=positions)[mask.bool()])
    return torch.cat(logits).double()


# Of the activations, `test_activations_are_those_of_transformers` compares each formula, in the default tier.
@pytest.mark.parametrize("case", tiered(EVERY_OPTION, quick=lambda option: option in {*OPTIONS, "gelu", "gelu_fast"}))
def test_textbook_and_fused_are_within_the_noise_of_float32_and_exact_in_float64(case: tuple[str]):
    (option,) = case
    reference = perturbed(**EVERY_OPTION[option])
    truth = perturbed(dtype=torch.float64, **EVERY_OPTION[option])
    expected, exact = battery(reference), battery(truth)
    eager = battery(perturbed(attention="eager", **EVERY_OPTION[option]))
    floor = max((expected - exact).abs().max().item(), (expected - eager).abs().max().item())
    assert 0 < floor < 1e-4 * exact.abs().max()  # noise, and not a bug of the comparison
    for name, compute in ROUNDED.items():
        assert_close(battery(ours(reference, compute)), expected, atol=THRESHOLD * floor, rtol=0, msg=explain(name))
        assert_close(battery(ours(truth, compute)), exact, **FLOAT64, msg=explain(f"{name} in float64"))


@pytest.mark.parametrize("option", ["default", "upcast"])
def test_textbook_and_fused_are_within_the_noise_of_bfloat16(option: str):
    reference = perturbed(dtype=torch.bfloat16, **OPTIONS[option])
    eager = perturbed(dtype=torch.bfloat16, attention="eager", **OPTIONS[option])
    expected, exact = battery(reference), battery(copy.deepcopy(reference).double())
    floor = max((expected - exact).abs().max().item(), (expected - battery(eager)).abs().max().item())
    assert 0 < floor < 0.05 * exact.abs().max()
    for name, compute in ROUNDED.items():
        assert_close(battery(ours(reference, compute)), expected, atol=THRESHOLD * floor, rtol=0, msg=explain(name))


@pytest.mark.parametrize("way", ["textbook", "exact", "fused"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_those_of_transformers(name: str, way: str):
    """Value and slope, on a grid that reaches where each is far from its neighbours."""
    x = torch.linspace(-12, 12, 4801, dtype=torch.float64, requires_grad=True)
    z = x.detach().clone().requires_grad_()
    y, expected = getattr(ACTIVATIONS[name], way)(x), ACT2FN[name](z)
    # gelu_fast has sqrt(2/pi) rounded to ten digits; its fused kernel has not.
    close = {"atol": 1e-9 if (name, way) == ("gelu_fast", "fused") else 1e-13, "rtol": 0.0}
    assert_close(y, expected, **close)
    y.sum().backward()
    expected.sum().backward()
    smooth = torch.ones_like(x, dtype=torch.bool)
    for kink in (-10, -3, 0, 3, 6, 10):  # where a slope is a matter of definition
        smooth &= (x - kink).abs() > 1e-9
    assert x.grad is not None
    assert z.grad is not None
    assert_close(x.grad[smooth], z.grad[smooth], **close)


@pytest.mark.parametrize("compute", [TEXTBOOK, EXACT, FUSED], ids=["textbook", "exact", "fused"])
def test_layer_norm_is_the_formula_with_the_biased_variance(compute: Compute):
    torch.manual_seed(0)
    x, norm = 2 + 3 * torch.randn(2, 5, 8, dtype=torch.float64), LayerNorm(8, 1e-3, compute)
    for parameter in norm.double().parameters():
        torch.nn.init.normal_(parameter)

    def formula(unbiased: bool) -> Tensor:
        variance = x.var(dim=-1, keepdim=True, unbiased=unbiased)
        return norm.weight * (x - x.mean(dim=-1, keepdim=True)) / torch.sqrt(variance + 1e-3) + norm.bias

    assert_close(norm(x), formula(unbiased=False), atol=1e-13, rtol=0)
    assert (norm(x) - formula(unbiased=True)).abs().max() > 0.01


# -- Training -----------------------------------------------------------------------------------------------------

TRAINED_OPTIONS = ("default", "upcast", "mistral", "untied", "heads-of-64")


def gradients(model: GPT2LMHeadModel | GPTModel) -> dict[str, Tensor]:
    """Of the language-model loss on three texts, for every parameter, from a fixed state of the random numbers."""
    ids = random_ids(3, C)
    torch.manual_seed(7)
    logits = model(ids, use_cache=False).logits if isinstance(model, GPT2LMHeadModel) else model(ids)
    F.cross_entropy(logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten()).backward()
    return {
        name.removeprefix("transformer."): parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def every_value_once_in_training(option: str, attention: str, dtype: str, dropout: str) -> bool:
    """As `every_value_once`; dropout with the default options, where each of its places is."""
    return every_value_once(option, attention, dtype) and (dropout == "no-dropout" or option == "default")


@pytest.mark.parametrize(
    "case", tiered(TRAINED_OPTIONS, WAYS, DTYPES, ("no-dropout", "dropout"), quick=every_value_once_in_training)
)
def test_gradients_are_the_same_bits(case: tuple[str, str, str, str]):
    """With dropout too: the same places, in the same order, draw the same random numbers."""
    option, attention, dtype, dropout = case
    rates = DROPOUT if dropout == "dropout" else NO_DROPOUT
    reference = perturbed(attention=attention, dtype=DTYPES[dtype], **OPTIONS[option], **rates)
    model = ours(reference, WAYS[attention])
    expected, found = gradients(reference.train()), gradients(model.train())
    assert found.keys() == expected.keys() == model.config.tensor_shapes().keys()
    for name in expected:
        same_bits(found[name], expected[name], msg=explain(name))


@pytest.mark.parametrize("option", TRAINED_OPTIONS)
def test_gradients_of_textbook_and_fused_are_within_the_noise(option: str):
    fields = OPTIONS[option] | NO_DROPOUT
    reference, truth = perturbed(**fields), perturbed(dtype=torch.float64, **fields)
    expected, exact = gradients(reference), gradients(truth)
    eager = gradients(perturbed(attention="eager", **fields))
    # Gradients differ in size by a factor of 20 from tensor to tensor, so distances are shares of the largest value.
    size = {name: gradient.abs().max() for name, gradient in exact.items()}

    def furthest(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
        return max(((a[name] - b[name]).abs().max() / size[name]).item() for name in size)

    floor = max(furthest(expected, exact), furthest(expected, eager))
    assert 0 < floor < 1e-4
    for compute in ROUNDED.values():
        model = ours(reference, compute)
        assert furthest(gradients(model), expected) < THRESHOLD * floor
        assert furthest(gradients(ours(truth, compute)), exact) < FLOAT64["atol"]


every_way = pytest.mark.parametrize(
    "compute", [TEXTBOOK, EXACT, EXACT_EAGER, FUSED], ids=["textbook", "exact", "exact-eager", "fused"]
)


def assert_rate(zeros: Tensor, rate: float) -> None:
    """The share of True is the rate. Five standard errors: a correct dropout is outside once in two million seeds."""
    error = math.sqrt(rate * (1 - rate) / zeros.numel())
    assert error < rate / 100, "too few values to tell the rate from its neighbours"
    assert_close(zeros.double().mean().item(), rate, atol=5 * error, rtol=0)


@every_way
def test_dropout_acts_at_its_places_at_its_rates_and_nowhere_else(compute: Compute):
    model = ours(perturbed(), compute).train()
    seen: dict[str, list[Tensor]] = {}

    def record(place: str) -> Any:
        return lambda module, inputs, output: seen.setdefault(place, []).append(output == 0)

    model.h[0].register_forward_pre_hook(lambda module, inputs: seen.setdefault("embd", []).append(inputs[0] == 0))
    for block in model.h:
        for name in ("ln_1", "attn", "ln_2", "mlp.c_fc", "mlp.act", "mlp"):
            block.get_submodule(name).register_forward_hook(record(name))
    model.ln_f.register_forward_hook(record("ln_f"))
    torch.manual_seed(0)
    for _ in range(20):  # 100,000 values at the embedding
        model(random_ids(3, C))
    zeros = {place: torch.cat([each.flatten() for each in every]) for place, every in seen.items()}
    assert_rate(zeros.pop("embd"), DROPOUT["embd_pdrop"])
    assert_rate(zeros.pop("attn"), DROPOUT["resid_pdrop"])
    assert_rate(zeros.pop("mlp"), DROPOUT["resid_pdrop"])
    for place, found in zeros.items():
        assert found.double().mean() < 0.001, place  # far to the left, the tanh GELU rounds to 0 all by itself


@every_way
def test_attention_probabilities_are_dropped_at_their_rate(compute: Compute):
    """Also inside the fused kernel, which shows no probabilities: values that are unit vectors make it show them."""
    width, rate, texts = 64, 0.17, 25  # 50,000 probabilities, as many as each token's past and itself
    config = GPTConfig(n_embd=width, n_positions=width, n_head=1, n_layer=1, attn_pdrop=rate, resid_pdrop=0.0)
    layer = MultiHeadAttention(config, 0, compute).train()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.c_attn.weight[:, 2 * width :] = torch.eye(width)  # queries and keys 0: every key fits equally well
        layer.c_proj.weight.copy_(torch.eye(width))
    past = torch.ones(width, width).tril().bool()
    torch.manual_seed(0)
    mask = None if compute.attention == "sdpa" else past[None, None]
    if compute.attention == "eager":
        mask = torch.where(past, 0.0, torch.finfo(torch.float32).min)[None, None]
    probabilities = layer(torch.eye(width).repeat(texts, 1, 1), mask)
    dropped = probabilities[:, past] == 0
    assert_rate(dropped, rate)
    # What is left is scaled up, so that the expected average stays: 1 / tokens / (1 - rate).
    kept = (past / past.sum(-1, keepdim=True) / (1 - rate)).expand(texts, -1, -1)
    assert_close(probabilities, torch.where(probabilities == 0, 0.0, kept))


def test_fresh_weights_are_gpt2s():
    std, layers = 0.05, 6
    model = GPTModel(GPTConfig(vocab_size=V, n_embd=64, n_layer=layers, n_head=4, initializer_range=std))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif "ln_" in name:
            assert (parameter == 1).all(), name
        else:  # projections into the residual stream, two per layer, are scaled down by the root of their number
            expected = std / math.sqrt(2 * layers) if name.endswith("c_proj.weight") else std
            error = 1 / math.sqrt(2 * parameter.numel())  # standard error of a standard deviation, relative
            assert_close(parameter.std().item(), expected, rtol=5 * error, atol=0, msg=explain(name))
            assert_close(parameter.mean().item(), 0.0, atol=5 * expected / math.sqrt(parameter.numel()), rtol=0)


# -- What goes in -------------------------------------------------------------------------------------------------

TINY = GPTConfig(vocab_size=11, n_positions=8, n_embd=12, n_layer=2, n_head=3)


@pytest.mark.parametrize(
    ("ids", "inputs", "message"),
    [
        ([[1, 11]], {}, "token id 11 is outside the vocabulary of 11"),
        ([[1, -1]], {}, "token id -1 is outside the vocabulary of 11"),
        ([[1.0, 2.0]], {}, r"integer token ids \[B, T\], not torch.float32 \[1, 2\]"),
        ([[True, False]], {}, r"integer token ids \[B, T\], not torch.bool \[1, 2\]"),
        ([1, 2], {}, r"integer token ids \[B, T\], not torch.int64 \[2\]"),
        ([[1] * 9], {}, "9 tokens do not fit into the context of 8"),
        ([[1, 2]], {"attention_mask": torch.ones(1, 3)}, r"attention_mask must be \[B, S\] = \[1, 2\].*not \[1, 3\]"),
        ([[1, 2]], {"attention_mask": torch.ones(2)}, r"attention_mask must be \[B, S\] = \[1, 2\].*not \[2\]"),
    ],
)
def test_wrong_inputs_are_named(ids: list[Any], inputs: dict[str, Tensor], message: str):
    with pytest.raises(ValueError, match=message):
        GPTModel(TINY)(torch.tensor(ids), **inputs)


def test_no_token_is_no_input():
    with pytest.raises(ValueError, match="input_ids holds no token"):
        GPTModel(TINY)(torch.empty(1, 0, dtype=torch.int64))


def test_a_cache_that_does_not_fit_is_named_and_left_as_it_was():
    model, ids = GPTModel(TINY).eval(), torch.tensor([[1, 2, 3]])
    with pytest.raises(ValueError, match="input_ids has 1 rows, the cache was made for 2"):
        model(ids, cache=KVCache(TINY, 2))
    cache = KVCache(TINY, 1, capacity=5)
    first = model(ids, cache=cache)
    with pytest.raises(ValueError, match="6 tokens do not fit into a cache made for 5"):
        model(ids, cache=cache)
    with pytest.raises(ValueError, match=r"attention_mask must be \[B, S\] = \[1, 4\], cached tokens included"):
        model(ids[:, :1], torch.ones(1, 1), cache=cache)
    assert cache.length == 3
    cache = KVCache(TINY, 1, capacity=99)
    assert cache.capacity == TINY.n_positions
    for _ in range(2):
        model(ids, cache=cache)
    with pytest.raises(ValueError, match="9 tokens do not fit into the context of 8"):
        model(ids, cache=cache)
    assert first.shape == (1, 3, 11)


def test_ids_may_be_int32_and_masks_of_any_type(perturbed_reference: GPT2LMHeadModel):
    model = ours(perturbed_reference)
    ids, mask, positions = padded()
    expected = model(ids, mask, positions)
    same_bits(model(ids.int(), mask.bool(), positions), expected)
    same_bits(model(ids, mask.float(), positions), expected)
    same_bits(model(ids, torch.ones_like(mask)), model(ids))


def test_inputs_are_left_as_they_are(perturbed_reference: GPT2LMHeadModel):
    inputs = padded()
    before = [tensor.clone() for tensor in inputs]
    for compute in (TEXTBOOK, EXACT, EXACT_EAGER, FUSED):
        ours(perturbed_reference, compute)(*inputs)
    assert all(map(torch.equal, inputs, before))


# -- The cache ----------------------------------------------------------------------------------------------------


def test_rows_of_the_cache_can_be_kept_and_exchanged(perturbed_reference: GPT2LMHeadModel):
    model, ids, rows = ours(perturbed_reference), random_ids(3, 12), torch.tensor([2, 0])
    our_cache, their_cache = KVCache(model.config, 3), DynamicCache(config=perturbed_reference.config)
    same_bits(model(ids[:, :9], cache=our_cache), theirs(perturbed_reference, ids[:, :9], cache=their_cache))
    our_cache.keep_rows(rows)
    their_cache.batch_select_indices(rows)
    assert our_cache.batch_size == 2
    same_bits(
        model(ids[rows, 9:], cache=our_cache),
        theirs(perturbed_reference, ids[rows, 9:], cache=their_cache),
    )


@every_way
def test_a_cache_changes_nothing_but_the_work(compute: Compute):
    """Against the whole text at once, in float64: to the reader of the logits a cache does not exist."""
    model, (ids, mask, positions) = ours(perturbed(dtype=torch.float64), compute), padded()
    cache, parts = KVCache(model.config, len(ids), dtype=torch.float64), []
    for start, end in ((0, 9), (9, 10), (10, 30), (30, C)):
        parts.append(model(ids[:, start:end], mask[:, :end], positions[:, start:end], cache))
    text = mask.bool()  # at padding tokens, which see nothing, the fused kernel says 0 and a plain softmax the average
    assert_close(torch.cat(parts, dim=1)[text], model(ids, mask, positions)[text], **FLOAT64)


def test_heads_of_64_are_read_from_the_cache_without_a_copy():
    """What makes a step cost its new token only. Other heads are copied, because their bits depend on alignment."""
    config = GPTConfig(vocab_size=V, n_positions=C, n_embd=128, n_head=2, n_layer=1)
    cache, new = KVCache(config, batch_size=1), torch.ones(1, 2, 5, 64)
    keys, values = cache.extend(0, new, new)
    assert keys.data_ptr() == cache.keys.data_ptr()
    assert values.data_ptr() == cache.values.data_ptr()
    same_bits(keys, new)


# -- The module ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_names_and_shapes_are_gpt2s(tied: bool):
    config = GPTConfig.from_hf(perturbed(tie_word_embeddings=tied).config.to_dict())
    model, shapes = GPTModel(config), config.tensor_shapes()
    assert {name: tuple(parameter.shape) for name, parameter in model.named_parameters()} == shapes
    assert set(model.state_dict()) == {*shapes, "lm_head.weight"}
    assert list(model.buffers()) == []
    assert sum(parameter.numel() for parameter in model.parameters()) == config.num_parameters


def test_the_head_can_be_asked_for_one_token(perturbed_reference: GPT2LMHeadModel):
    model, ids = ours(perturbed_reference), random_ids(3, 12)
    hidden = model.hidden_states(ids)
    assert hidden.shape == (3, 12, SIZES["n_embd"])
    same_bits(model.lm_head(hidden), model(ids))
    assert_close(model.lm_head(hidden[:, -1]), model(ids)[:, -1])


def test_set_compute_changes_every_layer(perturbed_reference: GPT2LMHeadModel):
    model, ids = ours(perturbed_reference), random_ids(3, 12)
    logits = {}
    for name, compute in {"textbook": TEXTBOOK, "eager": EXACT_EAGER, "fused": FUSED, "exact": EXACT}.items():
        assert model.set_compute(compute) is model
        logits[name] = model(ids)
        same_bits(logits[name], ours(perturbed_reference, compute)(ids))
    assert not any(torch.equal(logits["exact"], logits[name]) for name in ("textbook", "eager", "fused"))


def test_a_model_can_be_copied_cast_and_stored(perturbed_checkpoint: Path):
    model, ids = GPTModel.from_pretrained(perturbed_checkpoint), random_ids(2, 9)
    expected = model(ids)

    twin = copy.deepcopy(model)
    same_bits(twin(ids), expected)
    assert twin.lm_head.weight is twin.wte.weight is not model.wte.weight

    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    same_bits(torch.load(file, weights_only=False)(ids), expected)

    fresh = GPTModel(model.config).eval()
    fresh.load_state_dict(model.state_dict())
    same_bits(fresh(ids), expected)

    # Rounding to bfloat16 and back: the model that transformers would have in bfloat16.
    same_bits(copy.deepcopy(model).to(torch.bfloat16)(ids), theirs(perturbed(dtype=torch.bfloat16), ids))
    assert model.wte.weight.dtype == torch.float32


def test_a_loaded_model_is_ready_to_answer(perturbed_checkpoint: Path, perturbed_reference: GPT2LMHeadModel):
    model = GPTModel.from_pretrained(perturbed_checkpoint)
    assert not any(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    same_bits(model(random_ids(2, C)), theirs(perturbed_reference, random_ids(2, C)))


@pytest.mark.parametrize("enabled", [True, False], ids=["on", "off"])
@pytest.mark.parametrize("works", [True, False], ids=["works", "fails"])
def test_loading_leaves_the_garbage_collector_as_it_was(
    enabled: bool, works: bool, perturbed_checkpoint: Path, tmp_path: Path
):
    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        if works:
            GPTModel.from_pretrained(perturbed_checkpoint)
        else:
            with pytest.raises(CheckpointError):
                GPTModel.from_pretrained(tmp_path)
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()


def test_training_a_mapped_model_never_reaches_the_file(perturbed_checkpoint: Path):
    """The parameters are the file's memory map, and a private one: what is written into it stays in this process."""
    file, ids = perturbed_checkpoint / "model.safetensors", random_ids(2, 9)
    before = file.read_bytes()
    model = GPTModel.from_pretrained(perturbed_checkpoint)
    expected = model(ids).detach()
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=0.1)
    F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    optimizer.step()
    with torch.no_grad():
        model.wte.weight.zero_()
    assert not torch.equal(model.eval()(ids), expected)
    assert file.read_bytes() == before
    same_bits(GPTModel.from_pretrained(perturbed_checkpoint)(ids), expected)


# -- Full size ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("size", ["124M", "355M"])
def test_full_size_models_give_the_same_bits(size: str):
    config = GPTConfig.for_size(size)
    reference = GPT2LMHeadModel(GPT2Config.from_dict(config.to_hf(), attn_implementation="sdpa")).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    ids = torch.randint(config.vocab_size, (2, 65), generator=generator)
    for attention, compute in WAYS.items():
        reference.set_attn_implementation(attention)
        model = ours(reference, compute)
        same_bits(model(ids), theirs(reference, ids))
        our_cache, their_cache = KVCache(config, 2), DynamicCache(config=reference.config)
        for chunk in (ids[:, :60], ids[:, 60:61], ids[:, 61:]):
            same_bits(model(chunk, cache=our_cache), theirs(reference, chunk, cache=their_cache))
