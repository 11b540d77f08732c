"""What makes decoding fast changes no result: tuned products, packed weights, prompts read in pieces.

Each choice is compared with plain mathematics in float64, where a wrong part shows and rounding does not. Then it is
seen at work, because a fast path that nobody takes would pass every comparison.
"""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close
from transformers import GPT2LMHeadModel

from gpt2_from_scratch import generation, layers, speed
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.generation import Decoding, generate, left_pad, stream
from gpt2_from_scratch.layers import EXACT, EXACT_EAGER, FUSED, TEXTBOOK, Compute
from gpt2_from_scratch.model import GPTModel
from gpt2_from_scratch.speed import faster_by_onednn, faster_in_parts, product_by_onednn, product_in_parts
from tests.perturbed import SIZES, ours, perturbed

ENDLESS = Decoding(eos_token_id=())
ENDLESS_EXACT = Decoding(eos_token_id=(), compute=EXACT)
# Sums of at most a hundred products of normal numbers: in float64 a few 1e-15 each.
FLOAT64 = {"atol": 1e-12, "rtol": 0.0}
BITS = {"atol": 0.0, "rtol": 0.0}


def normal(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# Not 2: as many threads as cores wait for each other in a loop, which is slow where the cores have other work, too.
@pytest.fixture(params=[1, 3, 5], ids=lambda threads: f"{threads}-threads")
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


# Products in parts are for large weights: the smallest matrix here, 516 x 516, is just one.
WIDE = {"vocab_size": 521, "n_embd": 516, "n_head": 6, "n_inner": 523, "n_layer": 2}


@pytest.fixture(scope="module")
def wide_reference() -> GPT2LMHeadModel:
    return perturbed(**WIDE).requires_grad_(False)


@pytest.fixture
def tuned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which of the tuned products have run."""
    ran: list[str] = []

    def spy(name: str, run: Callable[..., Tensor]) -> None:
        monkeypatch.setattr(speed, name, lambda *tensors: (ran.append(name), run(*tensors))[1])

    spy("product_in_parts", product_in_parts)
    spy("product_by_onednn", product_by_onednn)
    return ran


needs_mkl = pytest.mark.skipif(not speed.MKL, reason="the parts are for MKL")
needs_onednn = pytest.mark.skipif(not speed.ONEDNN, reason="this build of PyTorch has no oneDNN")


# ------------------------------------------------------------------------------------------------------ tuned products


@pytest.mark.parametrize("rows", [1, 3, 7])
@pytest.mark.parametrize(("n_in", "n_out"), [(44, 132), (89, 44), (30, 1), (1, 3), (2, 7)])
def test_a_product_in_parts_is_the_product(threads: int, rows: int, n_in: int, n_out: int):
    x, weight, bias = normal(rows, n_in), normal(n_in, n_out, seed=1), normal(n_out, seed=2)
    assert_close(product_in_parts(x, weight, bias), x @ weight + bias, **FLOAT64)
    strided = normal(rows, 2 * n_in)[:, ::2]
    assert_close(product_in_parts(strided, weight, bias), strided @ weight + bias, **FLOAT64)


@needs_onednn
@pytest.mark.parametrize("rows", [0, 1, 3, 7, 300])
@pytest.mark.parametrize(("n_in", "n_out"), [(44, 132), (89, 44), (30, 1), (1, 3), (2, 7)])
def test_a_product_by_onednn_is_the_product(threads: int, rows: int, n_in: int, n_out: int):
    x, weight, bias = normal(rows, n_in), normal(n_out, n_in, seed=1), normal(n_out, seed=2)
    inputs = [tensor.float() for tensor in (x, weight, bias)]
    # Sums of at most 89 products of normal numbers, in float32: at most 1e-5 measured; a lost term is about 1.
    rounding = {"atol": 1e-4, "rtol": 0.0, "check_dtype": False}
    expected = inputs[0].double() @ inputs[1].double().t() + inputs[2].double()
    assert_close(product_by_onednn(*inputs), expected, **rounding)
    assert_close(product_by_onednn(inputs[0], inputs[1].t().contiguous().t(), inputs[2]), expected, **rounding)
    texts = inputs[0].expand(2, -1, -1)
    assert_close(product_by_onednn(texts, inputs[1]), (expected - inputs[2].double()).expand(2, -1, -1), **rounding)


def test_gradients_flow_through_the_parts(threads: int):
    for rows in (1, 3, 5):
        shapes = [(rows, 12), (12, 5), (5,)]
        tensors = [normal(*shape, seed=i).requires_grad_() for i, shape in enumerate(shapes)]
        x, weight, bias = tensors
        found = torch.autograd.grad(product_in_parts(x, weight, bias).sin().sum(), tensors)
        expected = torch.autograd.grad((x @ weight + bias).sin().sum(), tensors)
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other, **FLOAT64)


def test_only_few_rows_and_large_weights_of_32_bits_or_more_are_worth_parts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(speed, "MKL", True)  # how torch was built: with it, and below without
    n_in = 8
    weight = torch.zeros(n_in, speed.LARGE // n_in)
    assert faster_in_parts(normal(1, n_in, dtype=torch.float32), weight)
    assert faster_in_parts(normal(2, n_in), weight)
    assert not faster_in_parts(normal(3, n_in), weight)
    assert not faster_in_parts(normal(1, n_in), weight[:, 1:].contiguous())
    assert not faster_in_parts(normal(1, n_in), weight.repeat(1, 2)[:, ::2])
    assert not faster_in_parts(normal(1, n_in), weight.t().contiguous().t())
    assert not faster_in_parts(normal(1, n_in, dtype=torch.bfloat16), weight)
    assert not faster_in_parts(torch.empty(1, n_in, device="meta"), weight)
    monkeypatch.setattr(speed, "MKL", False)
    assert not faster_in_parts(normal(1, n_in), weight)


def test_onednn_takes_large_weights_of_32_bits_where_no_gradient_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(speed, "ONEDNN", True)
    x, weight = normal(3, 8, dtype=torch.float32), torch.zeros(8, speed.LARGE // 8)
    assert not faster_by_onednn(x, weight)
    with torch.no_grad():
        assert faster_by_onednn(x, weight)
        assert faster_by_onednn(x.expand(2, -1, -1), weight)
        assert not faster_by_onednn(x, weight[:, 1:])
        assert not faster_by_onednn(x.double(), weight.double())
        assert not faster_by_onednn(x.bfloat16(), weight.bfloat16())
        assert not faster_by_onednn(x.to("meta"), weight.to("meta"))
        monkeypatch.setattr(speed, "ONEDNN", False)
        assert not faster_by_onednn(x, weight)


@needs_mkl
@needs_onednn
def test_fused_steps_and_prompts_take_the_tuned_products(tuned: list[str], wide_reference: GPT2LMHeadModel):
    model, ids = ours(wide_reference, FUSED), torch.arange(66).view(2, 33)
    with torch.no_grad():
        model(ids)
        assert tuned == ["product_by_onednn"] * (4 * WIDE["n_layer"] + 1)
        tuned.clear()
        model(ids[:, :1])
        assert tuned == ["product_in_parts"] * 4 * WIDE["n_layer"] + ["product_by_onednn"]
    tuned.clear()
    model(ids)
    assert tuned == []


@pytest.mark.parametrize("compute", [EXACT, EXACT_EAGER, TEXTBOOK], ids=["exact", "eager", "textbook"])
def test_other_choices_never_take_them(tuned: list[str], compute: Compute, wide_reference: GPT2LMHeadModel):
    generate(ours(wide_reference), torch.tensor([[1, 2, 3]]), 3, Decoding(compute=compute))
    assert tuned == []


def test_fused_steps_are_the_model_in_float64(threads: int):
    """Step by step, one row and five: what decoding computes against the whole text, textbook fashion."""
    reference = perturbed(dtype=torch.float64, **WIDE)
    fused, textbook = ours(reference, FUSED), ours(reference, TEXTBOOK)
    for rows in (1, 5):
        ids = torch.randint(WIDE["vocab_size"], (rows, 9), generator=torch.Generator().manual_seed(rows))
        cache = fused.new_cache(rows)
        steps = torch.cat([fused(ids[:, step : step + 1], cache=cache) for step in range(9)], dim=1)
        assert_close(steps, textbook(ids), atol=1e-11, rtol=0)  # as in test_model: 1e-13 measured, faults at 7e-4


def test_fused_decodes_the_same_ids(threads: int, wide_reference: GPT2LMHeadModel):
    ids, mask = left_pad([[5, 6, 7, 8], [1, 2], [3]])
    expected = generate(ours(wide_reference), ids, 20, ENDLESS_EXACT, mask)
    assert torch.equal(generate(ours(wide_reference), ids, 20, ENDLESS, mask), expected)


# ------------------------------------------------------------------------------------------------- weights of 16 bits


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_packing_changes_the_order_in_memory_and_nothing_else(dtype: torch.dtype, tmp_path: Path):
    model = ours(perturbed(dtype=dtype), FUSED)
    before = {name: (parameter, parameter.detach().clone()) for name, parameter in model.named_parameters()}
    assert model.pack() is model
    for name, parameter in model.named_parameters():
        assert parameter is before[name][0], name
        assert_close(parameter.detach(), before[name][1], **BITS)
        turned = parameter.dim() == 2 and name.startswith("h.")
        assert parameter.is_contiguous() is not turned, name
        assert not turned or parameter.t().is_contiguous(), name
    assert model.lm_head.weight is model.wte.weight
    assert copy.deepcopy(model).h[0].mlp.c_fc.weight.t().is_contiguous()

    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    for name, (_, values) in before.items():
        assert_close(stored.get(name, stored.get(f"transformer.{name}")), values, **BITS)


def test_a_model_of_32_bits_stays_mapped(perturbed_checkpoint: Path):
    model = GPTModel.from_pretrained(perturbed_checkpoint)
    before = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    assert {name: parameter.data_ptr() for name, parameter in model.pack().named_parameters()} == before


def test_a_packed_model_can_be_widened_again(wide_reference: GPT2LMHeadModel):
    rounded = copy.deepcopy(wide_reference).to(torch.bfloat16).double()
    model = ours(copy.deepcopy(wide_reference).to(torch.bfloat16), FUSED).pack().double()
    ids = torch.tensor([[5]])
    assert_close(model(ids), rounded(ids).logits, atol=1e-11, rtol=0)  # as above


@pytest.mark.parametrize("without", [False, True], ids=["native", "widened"])
def test_a_packed_model_is_within_the_noise_of_bfloat16(without: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(speed, "NO_16_BIT_PRODUCTS", without)  # of this CPU, and of another
    reference = perturbed(dtype=torch.bfloat16)
    exact, model = ours(copy.deepcopy(reference).double(), TEXTBOOK), ours(reference, FUSED).pack()
    ids = torch.randint(SIZES["vocab_size"], (3, 37), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        truth = exact(ids)
        floor = (reference(ids, use_cache=False).logits - truth).abs().max().item()
        cache, steps = model.new_cache(3), []
        for step in range(37):  # three rows: the kernels of 16 bits
            steps.append(model(ids[:, step : step + 1], cache=cache))
        assert 0 < floor < 0.05 * truth.abs().max()
        for logits in (torch.cat(steps, dim=1), model(ids)):  # 111 rows: widened, if need be
            assert_close(logits.double(), truth, atol=2 * floor, rtol=0)  # two correct programs: about one floor each


def test_only_many_rows_of_16_bits_are_widened_and_only_where_it_pays(monkeypatch: pytest.MonkeyPatch):
    dtypes, addmm = [], torch.addmm
    monkeypatch.setattr(torch, "addmm", lambda *tensors: (dtypes.append(tensors[1].dtype), addmm(*tensors))[1])

    def computed_in(rows: int, dtype: torch.dtype, compute: Compute, without: bool = True) -> torch.dtype:
        monkeypatch.setattr(speed, "NO_16_BIT_PRODUCTS", without)
        x, linear = normal(rows, 44, dtype=dtype), layers.Linear(44, 30, compute).to(dtype)
        assert linear(x).dtype == dtype
        return dtypes.pop()

    assert computed_in(6, torch.bfloat16, FUSED) == torch.float32
    assert computed_in(6, torch.float16, FUSED) == torch.float32
    assert computed_in(5, torch.bfloat16, FUSED) == torch.bfloat16
    assert computed_in(6, torch.bfloat16, EXACT) == torch.bfloat16
    assert computed_in(6, torch.bfloat16, FUSED, without=False) == torch.bfloat16
    assert computed_in(257, torch.float64, FUSED) == torch.float64


# ------------------------------------------------------------------------------------------ prompts read in pieces


@pytest.mark.parametrize("rows", [300, 1200, 2049, 8193])  # whole, in 6 and 1 columns, in 3, 3 and 1, one by one
def test_a_large_batch_is_read_in_pieces(rows: int):
    model, at_once = ours(perturbed(n_layer=1), FUSED), 8192
    prompts = [[5, 6, 7, 8, 9, 10, 11], [1, 2], [3]]
    ids, mask = left_pad(prompts)
    few = generate(model, ids, 5, ENDLESS, mask)
    ids, mask = left_pad(prompts * (rows // 3))
    read = []
    with model.wte.register_forward_hook(lambda module, args, output: read.append(args[0].numel())):
        assert torch.equal(generate(model, ids, 5, ENDLESS, mask), few.repeat(rows // 3, 1))
    assert max(read) <= max(at_once, rows)  # a piece is one token of each row, at least
    assert (len(read) > 5) is (rows * 7 > at_once)
    assert sum(read) == ids.numel() + 4 * rows


def test_a_prompt_by_itself_is_read_whole():
    """So that its bits are those of transformers: a cut prompt rounds differently."""
    assert GPTConfig.for_size("1558M").n_positions <= generation._AT_ONCE


def test_without_padding_no_mask_is_made(perturbed_reference: GPT2LMHeadModel, monkeypatch: pytest.MonkeyPatch):
    model, masks = ours(perturbed_reference), []
    hidden_states = model.hidden_states

    def spy(ids: Tensor, mask: Tensor | None = None, *rest: Any) -> Tensor:
        masks.append(mask)
        return hidden_states(ids, mask, *rest)

    monkeypatch.setattr(model, "hidden_states", spy)
    list(stream(model, [1, 2, 3], 3, ENDLESS))
    generate(model, torch.tensor([[1, 2]]), 3, ENDLESS, torch.ones(1, 2))
    assert masks == [None] * 6
    ids, mask = left_pad([[1, 2], [3]])
    generate(model, ids, 3, ENDLESS, mask)
    assert [tuple(mask.shape) for mask in masks[6:]] == [(2, 2), (2, 3), (2, 4)]


@pytest.mark.parametrize(
    "compute",
    [FUSED, *(pytest.param(compute, marks=pytest.mark.slow) for compute in (TEXTBOOK, EXACT, EXACT_EAGER))],
    ids=["fused", "textbook", "exact", "eager"],
)
def test_the_model_is_one_graph_for_a_compiler(compute: Compute, wide_reference: GPT2LMHeadModel):
    model, ids = ours(wide_reference, compute), torch.tensor([[1, 2, 3]])
    compiled = torch.compile(model, backend="eager", fullgraph=True)  # a cut raises
    assert_close(compiled(ids), model(ids), atol=1e-4, rtol=0)  # products in parts or whole: 5e-6 measured
