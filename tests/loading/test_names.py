"""Files as people have them: wrapped, prefixed, under other keys, with other heads. Read, or called by their names."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from torch import Tensor

from gpt2_from_scratch import CheckpointError, GPTModel, open_checkpoint
from gpt2_from_scratch.cli.options import as_flags
from gpt2_from_scratch.errors import FormatError, MappingError

Tensors = dict[str, Tensor]


@pytest.fixture
def folder(perturbed_checkpoint: Path, tmp_path: Path) -> Path:
    """A good checkpoint to change: Hugging Face's names, a tied head."""
    (tmp_path / "config.json").write_bytes((perturbed_checkpoint / "config.json").read_bytes())
    return tmp_path


def changed(folder: Path, source: Path, change: Callable[[Tensors], Tensors]) -> Path:
    save_file(change(load_file(source / "model.safetensors")), folder / "model.safetensors")
    return folder


def named(rename: Callable[[str], str]) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {rename(name): tensor for name, tensor in tensors.items()}


def with_more(**more: Tensor) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {name.replace("__", "."): tensor for name, tensor in more.items()}


def assert_same_weights(source: Path, expected: Path, **options: Any) -> None:
    ours, theirs = GPTModel.from_pretrained(source, **options), GPTModel.from_pretrained(expected)
    for name, parameter in theirs.named_parameters():
        assert torch.equal(ours.get_parameter(name), parameter), name


WRAPPED: dict[str, Callable[[str], str]] = {
    "torch.compile": "_orig_mod.{}".format,
    "DistributedDataParallel": "module.{}".format,
    "both": "module._orig_mod.{}".format,
    "Lightning's attribute": "model.{}".format,
    "an attribute of any name": "gpt2.{}".format,
    "an attribute inside a wrapper": "module.net.{}".format,
    "activation checkpointing": lambda name: name.replace(".h.3.", ".h.3._checkpoint_wrapped_module."),
    "FSDP": lambda name: "_fsdp_wrapped_module." + name.replace(".h.3.", ".h.3._fsdp_wrapped_module."),
    "without the trunk's name": lambda name: name.removeprefix("transformer."),
}


@pytest.mark.parametrize("rename", WRAPPED.values(), ids=WRAPPED)
def test_names_of_wrappers_are_found_by_trying(
    rename: Callable[[str], str], folder: Path, perturbed_checkpoint: Path
) -> None:
    changed(folder, perturbed_checkpoint, named(rename))
    assert_same_weights(folder, perturbed_checkpoint)


def test_what_was_taken_off_is_reported(folder: Path, perturbed_checkpoint: Path) -> None:
    changed(folder, perturbed_checkpoint, named("module.gpt2.{}".format))
    checkpoint = open_checkpoint(folder)
    assert checkpoint.notes == (
        "the wrappers' names module. and the prefix 'gpt2.' taken off every name that has them",
    )
    assert not checkpoint.as_found  # transformers cannot read it as it stands


def test_what_is_ignored_goes_before_the_prefix(folder: Path, perturbed_checkpoint: Path) -> None:
    changed(folder, perturbed_checkpoint, named("gpt2.{}".format))
    changed(folder, folder, with_more(metric__total=torch.ones(1), metric__count=torch.ones(1)))
    with pytest.raises(MappingError) as caught:
        open_checkpoint(folder)
    assert caught.value.options == {"ignore": ("metric.**",), "strip_prefix": "gpt2."}
    assert "pass ignore=('metric.**',), strip_prefix='gpt2.'" in str(caught.value)
    assert caught.value.hint_in(as_flags).endswith(": give --ignore 'metric.**' --strip-prefix gpt2.")
    assert_same_weights(folder, perturbed_checkpoint, **caught.value.options)


HEADS = {
    "v_head.summary.weight": "trl's value head",
    "score.weight": "a classifier's head",
    "lm_head.bias": "which GPT-2 does not have: without it, the logits are different",
    "lm_head.decoder.weight": "as old versions of transformers named it",
}


@pytest.mark.parametrize(("name", "what"), HEADS.items(), ids=HEADS)
def test_another_head_is_named_and_the_hint_works(
    name: str, what: str, folder: Path, perturbed_checkpoint: Path
) -> None:
    changed(folder, perturbed_checkpoint, lambda tensors: tensors | {name: torch.ones(211, 44)})
    with pytest.raises(MappingError, match=what) as caught:
        open_checkpoint(folder)
    assert caught.value.options == {"ignore": (name,)}
    assert_same_weights(folder, perturbed_checkpoint, **caught.value.options)


def test_more_rows_than_the_config_says(folder: Path, perturbed_checkpoint: Path) -> None:
    def padded(tensors: Tensors) -> Tensors:
        wte = tensors["transformer.wte.weight"]
        return tensors | {"transformer.wte.weight": torch.cat([wte, torch.zeros(3, 44)])}

    changed(folder, perturbed_checkpoint, padded)
    with pytest.raises(MappingError, match="the tensors show vocab_size 214") as caught:
        open_checkpoint(folder)
    assert caught.value.hint_in(as_flags) == "the tensors show vocab_size 214: give --set vocab_size=214"
    assert open_checkpoint(folder, **caught.value.options).config.vocab_size == 214


def test_half_a_file_is_never_advised_to_be_a_smaller_model(folder: Path, perturbed_checkpoint: Path) -> None:
    changed(folder, perturbed_checkpoint, lambda tensors: {n: t for n, t in tensors.items() if ".h.11." not in n})
    with pytest.raises(MappingError, match="the file has 11 layers, the configuration says 12") as caught:
        open_checkpoint(folder)
    assert not caught.value.options


def test_a_wrong_layout_says_which_one_fits(perturbed_checkpoint: Path) -> None:
    with pytest.raises(MappingError, match="pass file_layout='huggingface'"):
        open_checkpoint(perturbed_checkpoint, file_layout="nanogpt")


# ----------------------------------------------------------------------------------------------------- ties


def test_a_tie_that_safetensors_keeps_under_the_heads_name(folder: Path, perturbed_checkpoint: Path) -> None:
    """`safetensors.torch.save_model` keeps one name of tied tensors and says in the metadata which it stands for."""
    from transformers import GPT2LMHeadModel

    save_model(GPT2LMHeadModel.from_pretrained(perturbed_checkpoint), str(folder / "model.safetensors"))
    assert "transformer.wte.weight" not in load_file(folder / "model.safetensors")
    assert_same_weights(folder, perturbed_checkpoint)
    (folder / "config.json").unlink()  # then nothing but the file says that the head is tied
    checkpoint = open_checkpoint(folder, overrides={"n_head": 4})
    assert checkpoint.notes[0] == "transformer.wte.weight is lm_head.weight, as the file's metadata says"
    assert checkpoint.config.tie_word_embeddings


def test_a_tie_under_the_heads_name_without_metadata(folder: Path, perturbed_checkpoint: Path) -> None:
    changed(
        folder,
        perturbed_checkpoint,
        lambda tensors: {n.replace("transformer.wte.weight", "lm_head.weight"): t for n, t in tensors.items()},
    )
    assert_same_weights(folder, perturbed_checkpoint)
    assert open_checkpoint(folder).notes == ("transformer.wte.weight is stored as lm_head.weight, to which it is tied",)


# ------------------------------------------------------------------------------------------------------ keys


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state", "weights", "module", "net", "trainer.module"])
def test_the_only_state_dict_is_found_under_any_key(key: str, folder: Path, perturbed_checkpoint: Path) -> None:
    content: Any = load_file(perturbed_checkpoint / "model.safetensors")
    for part in reversed(key.split(".")):
        content = {part: content, "step": 7}
    torch.save(content, folder / "pytorch_model.bin")
    assert_same_weights(folder, perturbed_checkpoint)


def test_several_state_dicts_are_asked_for_by_key(folder: Path, perturbed_checkpoint: Path) -> None:
    weights = load_file(perturbed_checkpoint / "model.safetensors")
    torch.save({"model": weights, "ema": {n: t + 1 for n, t in weights.items()}}, folder / "pytorch_model.bin")
    with pytest.raises(FormatError, match=r"several state dicts: model \(148 tensors\), ema \(148 tensors\)") as caught:
        open_checkpoint(folder)
    assert caught.value.hint == "say which one is meant, such as: pass key='model'"
    assert_same_weights(folder, perturbed_checkpoint, key="model")
    assert torch.equal(open_checkpoint(folder, key="ema").read("ln_f.bias"), weights["transformer.ln_f.bias"] + 1)
    with pytest.raises(FormatError, match="has no state dict 'emma'; it has model"):
        open_checkpoint(folder, key="emma")


def test_a_key_of_a_file_that_has_none(perturbed_checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="has no keys to choose from"):
        open_checkpoint(perturbed_checkpoint, key="model")
