"""The mutants are wrong where they say: transformers' logits are the judge before other tests use them.

There is one reference with every parameter perturbed, because a freshly initialised model hides dropped biases and
swapped norms. It has 12 layers, because fewer than 11 hide a lexicographic layer order, and no two sizes are equal. The
unit is the noise floor: how far the float32 reference is from its own float64 run. The weights are arranged by the
answers in `tests.foreign`, so these tests do not depend on the package's layouts.
"""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import GPT2Config, GPT2LMHeadModel

from gpt2_from_scratch.config import GPTConfig
from tests.foreign import STYLES, book, fill, nanogpt, numpy_gpt2
from tests.mutants import BEYOND, LEGITIMATE, MUTANTS, Mutant
from tests.mutants_nanogpt import in_nanogpt

V, C, E, L, H = 211, 37, 44, 12, 4  # vocabulary, context, width, layers, heads; head width 11
Tensors = dict[str, Tensor]
Model = Callable[[Tensor], Tensor]
Record = dict[str, tuple[Tensor, Tensor]]  # a module's name -> its input and output

# In floors. Two correct float32 programs are each about one floor from the truth, so two from each other at most;
# twice that is the line. Measured: 1.2.
NEAR = 4
# In floors. The nearest mutant, ln_std_plus_eps, was measured at 298; the fixture that shows it at less than a
# third of that has become too tame.
FAR = 100
# Logits here are about 1, and float64 rounds at 1e-16: correct code was measured at 4e-15, the nearest mutant at
# 5e-4.
EXACT = 1e-10


# -- the reference -----------------------------------------------------------------------------------


def perturbed_reference(**changes: Any) -> GPT2LMHeadModel:
    sizes = {"vocab_size": V, "n_positions": C, "n_embd": E, "n_layer": L, "n_head": H}
    sizes |= {"bos_token_id": 0, "eos_token_id": 0}  # must lie in the vocabulary
    config = GPT2Config(**sizes, use_cache=False, attn_implementation="eager", **changes)
    model = GPT2LMHeadModel(config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def logits64(reference: GPT2LMHeadModel, ids: Tensor) -> Tensor:
    logits: Tensor = reference.double()(ids).logits
    reference.float()
    return logits


@pytest.fixture(scope="module")
def reference() -> GPT2LMHeadModel:
    return perturbed_reference()


@pytest.fixture(scope="module")
def tensors(reference: GPT2LMHeadModel) -> Tensors:
    return dict(reference.transformer.named_parameters())


@pytest.fixture(scope="module")
def ids() -> Tensor:
    return torch.randint(V, (2, 31), generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def expected(reference: GPT2LMHeadModel, ids: Tensor) -> Tensor:
    return reference(ids).logits


@pytest.fixture(scope="module")
def floor(reference: GPT2LMHeadModel, ids: Tensor, expected: Tensor) -> float:
    return (expected - logits64(reference, ids)).abs().max().item()


# -- GPT-2's weights in the styles that the mutants are made of ---------------------------------------


def sizes(tensors: Tensors) -> GPTConfig:
    return GPTConfig(V, C, E, L, H, n_inner=len(tensors["h.0.mlp.c_fc.bias"]))


def loaded(model: nn.Module, style: str, tensors: Tensors, dtype: torch.dtype) -> Any:
    """The model with these weights. It is built from the module that Python knows, which mutants replace parts of."""
    fill(model, STYLES[style].arrange(tensors, sizes(tensors)))
    return model.eval().requires_grad_(False).to(dtype)


BOOK = {"vocab_size": V, "context_length": C, "emb_dim": E, "n_heads": H, "n_layers": L}
BOOK |= {"drop_rate": 0.1, "qkv_bias": True}


def load_book(tensors: Tensors, dtype: torch.dtype = torch.float32) -> book.GPTModel:
    model: book.GPTModel = loaded(book.GPTModel(BOOK), "book", tensors, dtype)
    return model


def nanogpt_model(tensors: Tensors, dtype: torch.dtype, gelu: str = "tanh") -> nanogpt.GPT:
    config = nanogpt.GPTConfig(block_size=C, vocab_size=V, n_layer=L, n_head=H, n_embd=E, gelu=gelu)
    model: nanogpt.GPT = loaded(nanogpt.GPT(config, all_positions=True), "nanogpt", tensors, dtype)
    return model


def load_numpy(tensors: Tensors, dtype: torch.dtype, **replaced: Callable[..., Any]) -> Model:
    weights = {name: t.numpy() for name, t in tensors.items()}
    run = numpy_gpt2.gpt2(weights, H, dtype=str(dtype).removeprefix("torch."), **replaced)
    return lambda ids: torch.from_numpy(run(ids.numpy()))


# -- the models are right, as `test_foreign_styles.py` shows for every style ---------------------------


@pytest.mark.parametrize("name", ["functional", "numpy_gpt2", "parallel_heads"])
def test_styles_that_take_any_inner_width_take_it(name: str, ids: Tensor) -> None:
    reference = perturbed_reference(n_inner=131).double()
    tensors, style = dict(reference.transformer.named_parameters()), STYLES[name]
    logits = style.logits(style.load(tensors, sizes(tensors)), ids)
    assert_close(logits, logits64(reference, ids), rtol=0, atol=EXACT)


def test_nanogpt_as_it_comes_has_the_exact_gelu(ids: Tensor) -> None:
    reference = perturbed_reference(activation_function="gelu")
    tensors = dict(reference.transformer.named_parameters())
    model = nanogpt_model(tensors, torch.float64, gelu=nanogpt.GPTConfig().gelu)
    assert_close(model(ids)[0], logits64(reference, ids), rtol=0, atol=EXACT)


def test_nanogpt_without_targets_answers_for_the_last_position_alone(ids: Tensor) -> None:
    model = nanogpt.GPT(nanogpt.GPTConfig(C, V, n_layer=2, n_head=H, n_embd=E, bias=False)).eval()
    assert not any(name.endswith(".bias") for name, _ in model.named_parameters())
    last, no_loss = model(ids)
    every, loss = model(ids, targets=ids)
    assert no_loss is None
    assert loss.isfinite()
    assert last.shape == (2, 1, V)
    assert_close(last, every[:, -1:])


# -- the mutants are wrong ---------------------------------------------------------------------------


def distance(a: Tensor, b: Tensor) -> float:
    """Largest difference; NaN counts as infinite."""
    return (a - b).abs().nan_to_num(nan=torch.inf).max().item()


def mutated_book(mutant: Mutant, tensors: Tensors, dtype: torch.dtype = torch.float32) -> book.GPTModel:
    return mutant.in_book(load_book(mutant.checkpoint(tensors, H), dtype))


def named(mutants: tuple[Mutant, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("mutant", mutants, ids=lambda mutant: mutant.name)


def test_the_zoo_is_complete() -> None:
    assert (len(MUTANTS), len(LEGITIMATE)) == (59, 4)
    assert len({mutant.name for mutant in MUTANTS + LEGITIMATE}) == 63
    assert [mutant.name for mutant in MUTANTS if not mutant.visible] == ["key_bias_dropped"]


@named(MUTANTS + LEGITIMATE)
def test_logits_move_if_and_only_if_the_fault_is_visible(
    mutant: Mutant, tensors: Tensors, ids: Tensor, expected: Tensor, floor: float
) -> None:
    moved = distance(mutated_book(mutant, tensors)(ids), expected)
    if mutant.visible:
        assert moved >= FAR * floor
    else:
        assert moved <= NEAR * floor


@named(tuple(m for m in MUTANTS + LEGITIMATE if m.portable))
def test_numpy_mutant_has_the_same_fault_as_the_books(mutant: Mutant, tensors: Tensors, ids: Tensor) -> None:
    in_book = mutated_book(mutant, tensors, torch.float64)(ids)
    with np.errstate(invalid="ignore"):  # mask_no_self makes NaN
        in_numpy = load_numpy(mutant.checkpoint(tensors, H), torch.float64, **mutant.in_numpy())(ids)
    assert_close(in_numpy, in_book, rtol=0, atol=EXACT, equal_nan=True)


# Dropout draws other numbers in other code, and bfloat16 rounds elsewhere.
@named(tuple(m for m in MUTANTS + LEGITIMATE + BEYOND if m.name not in ("dropout_on", "bf16_compute")))
def test_nanogpts_mutant_has_the_same_fault_as_the_books(mutant: Mutant, tensors: Tensors, ids: Tensor) -> None:
    in_book = mutated_book(mutant, tensors, torch.float64)(ids)
    model = nanogpt_model(mutant.checkpoint(tensors, H), torch.float64)
    assert_close(in_nanogpt(mutant, model)(ids)[0], in_book, rtol=0, atol=EXACT, equal_nan=True)


def test_dropout_that_stays_on_differs_from_run_to_run(tensors: Tensors, ids: Tensor, floor: float) -> None:
    (mutant,) = (m for m in MUTANTS if m.name == "dropout_on")
    model = mutated_book(mutant, tensors)
    assert not model.training
    assert distance(model(ids), model(ids)) >= FAR * floor


def test_mutants_leave_the_weights_and_the_classes_as_they_were(
    tensors: Tensors, ids: Tensor, expected: Tensor, floor: float
) -> None:
    before = {name: t.clone() for name, t in tensors.items()}
    for mutant in MUTANTS + LEGITIMATE:
        mutated_book(mutant, tensors)
    for name, t in tensors.items():
        assert torch.equal(t, before[name]), name
    assert_close(load_book(tensors)(ids), expected, rtol=0, atol=NEAR * floor)


# -- and show where they say -------------------------------------------------------------------------


def sites() -> dict[str, tuple[str, ...]]:
    """Canonical site -> the book's modules there, in the order in which they finish."""
    table: dict[str, tuple[str, ...]] = {"wte": ("tok_emb",), "wpe": ("pos_emb",)}
    for i in range(L):
        h, b = f"h.{i}", f"trf_blocks.{i}"
        table[f"{h}.ln_1"] = (f"{b}.norm1",)
        table[f"{h}.attn.c_attn"] = (f"{b}.att.W_query", f"{b}.att.W_key", f"{b}.att.W_value")
        table[f"{h}.attn.c_proj"] = (f"{b}.att.out_proj",)
        table[f"{h}.attn"] = (f"{b}.att",)
        table[f"{h}.ln_2"] = (f"{b}.norm2",)
        table[f"{h}.mlp.c_fc"] = (f"{b}.ff.layers.0",)
        table[f"{h}.mlp.act"] = (f"{b}.ff.layers.1",)
        table[f"{h}.mlp.c_proj"] = (f"{b}.ff.layers.2",)
        table[h] = (b,)
    return table | {"ln_f": ("final_norm",), "lm_head": ("out_head",), "logits": ("",)}


def record(model: nn.Module, ids: Tensor) -> Record:
    """One forward pass."""
    seen: Record = {}
    names = {module: name for name, module in model.named_modules()}
    for module in names:
        module.register_forward_hook(lambda module, args, out: seen.update({names[module]: (args[0], out)}))
    model(ids)
    return seen


def differ(a: Tensor, b: Tensor) -> bool:
    # The runs are in float64, so what agrees agrees to EXACT; ids and positions are the model's own affair.
    return a.is_floating_point() and not distance(a, b) <= EXACT * b.abs().max().item()


def first_site(right: Record, wrong: Record) -> str | None:
    for site, modules in sites().items():
        for module in modules:
            if module not in wrong:
                return site
            (right_in, right_out), (wrong_in, wrong_out) = right[module], wrong[module]
            if differ(wrong_out, right_out) and not differ(wrong_in, right_in):
                return site
    return None


@pytest.fixture(scope="module")
def right(tensors: Tensors, ids: Tensor) -> Record:
    return record(load_book(tensors, torch.float64), ids)


@named(tuple(m for m in MUTANTS + LEGITIMATE if m.where))
def test_mutant_first_shows_where_it_says(mutant: Mutant, tensors: Tensors, ids: Tensor, right: Record) -> None:
    wrong = record(mutated_book(mutant, tensors, torch.float64), ids)
    assert mutant.where is not None
    module = re.sub(r"\.(probabilities|merged)$", "", mutant.where)  # no modules, and inside of one
    assert first_site(right, wrong) == module
