"""The reference is transformers' own, it reads the file itself, and its other roundings are what they claim to be."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from gpt2_from_scratch.checkpoint import TINY
from gpt2_from_scratch.checks.prompts import choose_prompts
from gpt2_from_scratch.errors import CheckpointError
from gpt2_from_scratch.layouts import LAYOUTS
from gpt2_from_scratch.loading import open_checkpoint
from gpt2_from_scratch.reference import Reference, load_reference
from tests.perturbed import perturbed, save


@pytest.fixture(scope="module")
def reference(perturbed_checkpoint: Path) -> Reference:
    return load_reference(open_checkpoint(perturbed_checkpoint))


def state(reference: Reference) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in reference.model.state_dict().items()}


def test_it_is_the_model_in_the_file(reference: Reference, perturbed_reference: Any) -> None:
    ids = choose_prompts(reference.config)[2].ids
    with torch.inference_mode():
        assert torch.equal(reference.logits(ids), perturbed_reference(ids, use_cache=False).logits)
    assert not reference.model.training


def test_float64_block_by_block_is_float64(perturbed_checkpoint: Path, reference: Reference) -> None:
    """Against a copy of the whole model in float64: equal up to the order of the head's sums."""
    ids = choose_prompts(reference.config)[3].ids
    before = state(reference)
    logits = dict(reference.other_roundings(ids))["float64"]
    whole = load_reference(open_checkpoint(perturbed_checkpoint)).model.double()
    with torch.inference_mode():
        torch.testing.assert_close(logits, whole(ids, use_cache=False).logits, rtol=0, atol=1e-12)
    assert all(torch.equal(tensor, before[name]) for name, tensor in reference.model.state_dict().items())
    assert all(parameter.dtype == torch.float32 for parameter in reference.model.parameters())
    assert torch.equal(reference.logits(ids), reference.logits(ids).float())


def test_a_kernel_that_ignores_a_setting_makes_no_noise_floor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers before 5.4: SDPA ignores the scale, and the noise floor would be as wide as that."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    checkpoint = open_checkpoint(save(perturbed(attention="eager", scale_attn_by_inverse_layer_idx=True), tmp_path))
    assert set(load_reference(checkpoint).kernels) == {"eager", "sdpa"}
    usual = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def ignoring(*arguments: Any, **options: Any) -> Any:
        return usual(*arguments, **{**options, "scaling": None})

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", ignoring)
    reference = load_reference(checkpoint)
    assert reference.kernels == ("eager",)
    ids = choose_prompts(reference.config)[2].ids
    assert [name for name, _ in reference.other_roundings(ids)] == ["float64"]
    assert reference.other_gradients(ids).keys() == reference.gradients(ids)[1].keys()


@pytest.mark.parametrize("options", [{"reorder_and_upcast_attn": True}, {"scale_attn_by_inverse_layer_idx": True}])
def test_settings_that_only_eager_attention_honours(options: dict[str, bool], tmp_path: Path) -> None:
    model = perturbed(attention="eager", **options)
    reference = load_reference(open_checkpoint(save(model, tmp_path)))
    assert reference.model.config._attn_implementation == "eager"
    ids = choose_prompts(reference.config)[2].ids
    with torch.inference_mode():
        assert torch.equal(reference.logits(ids), model(ids, use_cache=False).logits)
        exact = model.double()
        for block in exact.transformer.h:
            block.attn.reorder_and_upcast_attn = False  # float64 is what it would take away
        torch.testing.assert_close(
            dict(reference.other_roundings(ids))["float64"], exact(ids, use_cache=False).logits, rtol=0, atol=1e-12
        )
    assert all(
        block.attn.reorder_and_upcast_attn == options.get("reorder_and_upcast_attn", False)
        for block in reference.model.transformer.h
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_lower_precision_run_leaves_the_weights_alone(reference: Reference, dtype: torch.dtype) -> None:
    ids = choose_prompts(reference.config)[2].ids
    before, exact = state(reference), reference.logits(ids)
    low = reference.logits_in(dtype, ids)
    assert low.dtype == torch.float32 and not torch.equal(low, exact)
    torch.testing.assert_close(low, exact, rtol=0, atol=0.5)  # rounded, not wrong: logits here are of size 10
    assert all(torch.equal(tensor, before[name]) for name, tensor in reference.model.state_dict().items())


def test_the_file_dtype_is_not_followed(tmp_path: Path) -> None:
    """transformers 5 loads a bfloat16 file as bfloat16; the reference is float32 all the same."""
    reference = load_reference(open_checkpoint(save(perturbed(dtype=torch.bfloat16), tmp_path)))
    assert {parameter.dtype for parameter in reference.model.parameters()} == {torch.float32}


def test_forms_that_transformers_cannot_read_are_handed_over(
    perturbed_checkpoint: Path, reference: Reference, tmp_path: Path
) -> None:
    tensors = {f"_orig_mod.{name}": t for name, t in load_file(perturbed_checkpoint / "model.safetensors").items()}
    save_file(tensors, tmp_path / "model.safetensors")
    shutil.copy(perturbed_checkpoint / "config.json", tmp_path)
    handed = load_reference(open_checkpoint(tmp_path, strip_prefix="_orig_mod."))
    ids = choose_prompts(reference.config)[2].ids
    assert torch.equal(handed.logits(ids), reference.logits(ids))


def test_a_head_of_its_own_is_handed_over_too(tmp_path: Path) -> None:
    untied = perturbed(n_layer=2, tie_word_embeddings=False)
    saved = save(untied, tmp_path / "usual")
    tensors = {f"_orig_mod.{name}": tensor for name, tensor in load_file(saved / "model.safetensors").items()}
    (tmp_path / "wrapped").mkdir()
    save_file(tensors, tmp_path / "wrapped" / "model.safetensors")
    shutil.copy(saved / "config.json", tmp_path / "wrapped")
    handed = load_reference(open_checkpoint(tmp_path / "wrapped", strip_prefix="_orig_mod."))
    ids = choose_prompts(handed.config)[2].ids
    with torch.no_grad():
        assert_close(handed.logits(ids), untied(ids).logits, rtol=0, atol=1e-4)


def test_random_numbers_are_never_a_reference(perturbed_checkpoint: Path, tmp_path: Path) -> None:
    """transformers fills in what it does not find and goes on; here that is an error."""
    shutil.copytree(perturbed_checkpoint, tmp_path, dirs_exist_ok=True)
    checkpoint = open_checkpoint(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["transformer.h.3.ln_2.bias"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"random numbers, such as 'transformer\.h\.3\.ln_2\.bias'"):
        load_reference(checkpoint)


def test_sites_are_canonical_and_in_execution_order(reference: Reference) -> None:
    sites = list(reference.trace(choose_prompts(reference.config)[1].ids))
    assert sites == [site for site, _ in LAYOUTS["huggingface"][0].sites(reference.config)]
    assert json.dumps(sites[:4]) == '["wte", "wpe", "drop", "h.0.ln_1"]'


def test_a_prompt_is_run_in_float64_once(book_checkpoint: Path) -> None:
    """The noise floor and the verdict ask for the same; with rounded weights the answer is another."""
    reference = load_reference(open_checkpoint(book_checkpoint))
    ids, dtypes = torch.tensor([[3, 5, 8]]), []
    reference.model.transformer.h[0].register_forward_pre_hook(lambda module, args: dtypes.append(args[0].dtype))
    exact = reference.in_float64(ids)
    *_, (name, again) = reference.other_roundings(ids)
    assert name == "float64" and torch.equal(again, exact) and dtypes.count(torch.float64) == 1
    with reference.with_weights_in(torch.bfloat16):
        assert not torch.equal(reference.in_float64(ids), exact)
    assert torch.equal(reference.in_float64(ids), exact) and dtypes.count(torch.float64) == 3


def test_prompts_that_run_together_are_each_run_once_and_alike(book_checkpoint: Path) -> None:
    reference, other = (load_reference(open_checkpoint(book_checkpoint)) for _ in range(2))
    prompts, tokens = [prompt.ids for prompt in choose_prompts(reference.config)], []
    reference.model.transformer.h[0].register_forward_pre_hook(lambda module, args: tokens.append(args[0].shape[:2]))
    reference.run_together(prompts, prompts[3:])
    asked = [ids.shape for ids in (*prompts, *prompts[3:], *prompts[3:])]
    assert tokens == asked
    assert all(torch.equal(reference.logits(ids), other.logits(ids)) for ids in prompts)
    for ids in prompts[3:]:
        pairs = zip(reference.other_roundings(ids), other.other_roundings(ids), strict=True)
        assert all(torch.equal(one, two) for (_, one), (_, two) in pairs)
    assert tokens == asked, "answered from memory"


ODD_FIELDS: dict[str, object] = {
    "return_dict": False,
    "use_cache": "yes",
    "id2label": {"0": "a"},
    "num_labels": 10**8,
    "self": 1,
    "pruned_heads": {"0": [1]},
    "output_attentions": True,
    "torchscript": True,
}


def test_fields_that_change_no_logit_never_reach_transformers(tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "odd")
    content = json.loads((TINY / "config.json").read_text())
    (tmp_path / "odd" / "config.json").write_text(json.dumps(content | ODD_FIELDS))
    ids = torch.tensor([[5, 7, 3]])
    expected, found = (load_reference(open_checkpoint(each)).logits(ids) for each in (TINY, tmp_path / "odd"))
    assert torch.equal(expected, found)
