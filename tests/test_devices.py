"""The same code on another device: the model, generation, the verdict.

On the CPU these run always, so that the tests themselves are known to work; on CUDA with ``pytest -m gpu``. TF32 stays
off, which is PyTorch's default: with it, products of float32 keep 10 bits, and the verdict would say so.
"""

import pytest
import torch
from torch.testing import assert_close

from gpt2_from_scratch import GPTModel, generate, verify
from gpt2_from_scratch.generation import Decoding, left_pad
from gpt2_from_scratch.layers import EXACT, FUSED, TEXTBOOK, Compute

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
PROMPT = torch.tensor([[32, 101, 7, 300, 12, 45, 8, 99]])


def loaded(device: str, compute: Compute = EXACT, dtype: torch.dtype = torch.float32) -> GPTModel:
    return GPTModel.from_pretrained(device=device, compute=compute, dtype=dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("compute", [TEXTBOOK, EXACT, FUSED], ids=["textbook", "exact", "fused"])
def test_float64_is_the_same_everywhere(device: str, compute: Compute) -> None:
    """Sums of a few hundred products of numbers up to 100, in float64: 1e-12 is far above their rounding."""
    expected = loaded("cpu", TEXTBOOK, torch.float64)(PROMPT)
    assert_close(loaded(device, compute, torch.float64)(PROMPT.to(device)).cpu(), expected, atol=1e-10, rtol=0.0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("compute", [EXACT, FUSED], ids=["exact", "fused"])
def test_a_model_is_verified_where_it_is(device: str, compute: Compute) -> None:
    verdict = verify(loaded(device, compute), layout="gpt2_from_scratch")
    assert verdict, str(verdict)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("compute", [EXACT, FUSED], ids=["exact", "fused"])
def test_greedy_ids_are_the_same_everywhere(device: str, compute: Compute) -> None:
    prompts, mask = left_pad([[32, 101, 7, 300], [12, 45]])
    decoding = Decoding(eos_token_id=(), compute=compute)
    expected = generate(loaded("cpu", dtype=torch.float64), prompts, 24, decoding, mask)
    found = generate(loaded(device), prompts.to(device), 24, decoding, mask.to(device))
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("device", DEVICES)
def test_a_seed_draws_the_same_again(device: str) -> None:
    model, prompt = loaded(device), PROMPT.to(device)
    first, second = (generate(model, prompt, 16, Decoding(temperature=1.0, seed=7)).tolist() for _ in range(2))
    assert first == second
    assert first != generate(model, prompt, 16, Decoding(temperature=1.0, seed=8)).tolist()


@pytest.mark.parametrize("device", DEVICES)
def test_bfloat16_stays_near(device: str) -> None:
    """Roundings to 2**-9 leave 0.8 percent of the logits' spread on a CPU; another device adds in another order."""
    expected = loaded("cpu", TEXTBOOK, torch.float64)(PROMPT).detach()
    found = loaded(device, FUSED, torch.bfloat16)(PROMPT.to(device)).detach().cpu().double()
    left = float((found - expected).square().mean().sqrt() / expected.std())
    assert left < 0.03
