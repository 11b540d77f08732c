"""The plain float64 GPT-2 gives what transformers gives in float64, for every option of the configuration."""

import pytest
import torch
from torch.testing import assert_close

from gpt2_from_scratch.anatomy import forward
from gpt2_from_scratch.anatomy.activations import FORMULAS
from gpt2_from_scratch.config import ACTIVATIONS, GPTConfig
from tests.perturbed import perturbed

OPTIONS = [
    {},
    {"scale_attn_weights": False},
    {"scale_attn_by_inverse_layer_idx": True, "attention": "eager"},
    {"n_inner": None},
    {"layer_norm_epsilon": 1e-3},
    {"tie_word_embeddings": False},
    *({"activation_function": name} for name in sorted(ACTIVATIONS)),
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_logits_are_transformers_in_float64(options: dict[str, object]):
    reference = perturbed(n_layer=3, **options).double()  # type: ignore[arg-type]
    weights = {name.removeprefix("transformer."): tensor for name, tensor in reference.state_dict().items()}
    ids = torch.randint(211, (2, 31), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        expected = reference(ids, use_cache=False).logits
    logits = forward.logits(GPTConfig.from_hf(reference.config.to_dict()), weights, ids)
    assert_close(logits, expected, rtol=1e-11, atol=1e-11)


def test_every_activation_has_a_formula():
    assert set(FORMULAS) == set(ACTIVATIONS)
