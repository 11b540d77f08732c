"""Files as people have them: wrapped, prefixed, under other keys, with other heads. Read, or called by their names."""

import json
import os
from collections import defaultdict, deque
from collections.abc import Callable
from datetime import date
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from torch import Tensor

from gpt2_from_scratch import CheckpointError, GPTModel, open_checkpoint
from gpt2_from_scratch.checkpoint import TINY
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


class Saved:
    """Somebody's own class, whose objects hold weights."""

    def __init__(self, **attributes: object) -> None:
        vars(self).update(attributes)


def test_a_state_dict_in_an_object_is_found(folder: Path, perturbed_checkpoint: Path) -> None:
    content = load_file(perturbed_checkpoint / "model.safetensors")
    torch.save(Saved(step=7, state=Saved(params=content)), folder / "pytorch_model.bin")
    assert_same_weights(folder, perturbed_checkpoint)
    torch.save({"a": Saved(step=7)}, folder / "pytorch_model.bin")
    with pytest.raises(FormatError, match=r"holds no state dict, but a \(object\)"):
        open_checkpoint(folder)


def test_a_tree_of_tensors_is_not_asked_for_a_key(folder: Path) -> None:
    torch.save({name: {"weight": torch.ones(3, 2)} for name in ("wte", "wpe")}, folder / "pytorch_model.bin")
    with pytest.raises(FormatError, match="dictionaries inside one another, and no state dict: wte") as caught:
        open_checkpoint(folder)
    assert not caught.value.options


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


# ------------------------------------------------------------------------------------- beside the weights, and around


def config_of(content: object) -> Callable[[Path], None]:
    return lambda folder: (folder / "config.json").write_text(json.dumps(content)) and None


NANOGPT = {"n_layer": 12, "n_head": 4, "n_embd": 64, "block_size": 256, "vocab_size": 512, "dropout": 0.0, "bias": True}
BOOK = {"vocab_size": 512, "context_length": 256, "emb_dim": 64, "n_heads": 4, "n_layers": 12, "drop_rate": 0.1}


@pytest.mark.parametrize(("content", "whose"), [(NANOGPT, "nanoGPT's"), (BOOK, "the book's")])
def test_the_settings_of_other_programs_are_read(content: object, whose: str, tmp_path: Path) -> None:
    """They say the heads, and not the activation, which Hugging Face's default must not stand in for."""
    torch.save(load_file(TINY / "model.safetensors"), tmp_path / "model.pt")
    config_of(content)(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.config.n_head == 4 and f"config.json is {whose}" in checkpoint.notes
    assert any(text.startswith("activation_function") for text in checkpoint.assumed)


@pytest.mark.parametrize("content", ["[1, 2]", '"x"', "{'n_head': 4}", '{"n_head": 1e999}', "[" * 60 + "]" * 60])
def test_a_broken_config_is_not_used_where_the_user_says_the_heads(content: str, tmp_path: Path) -> None:
    torch.save(load_file(TINY / "model.safetensors"), tmp_path / "model.pt")
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path)
    assert caught.value.options == {"overrides": {"n_head": "..."}}
    checkpoint = open_checkpoint(tmp_path, overrides={"n_head": 4})
    assert checkpoint.notes[0].startswith("config.json beside the weights was not used: ")


OBJECTS: dict[str, object] = {
    "a deque": deque([1, 2]),
    "a range": range(3),
    "a namespace": SimpleNamespace(a=1),
    "a default dictionary": defaultdict(int, a=1),
    "a path": Path("x"),
    "a date": date(2024, 1, 1),
    "a fraction": Fraction(1, 3),
}


@pytest.mark.parametrize("stream", [False, True], ids=["zip", "stream"])
@pytest.mark.parametrize("name", OBJECTS)
def test_objects_beside_the_weights(name: str, stream: bool, tmp_path: Path) -> None:
    content = {"a": {"b": {"weights": load_file(TINY / "model.safetensors")}}, "beside": [OBJECTS[name]]}
    torch.save(content, tmp_path / "model.pt", _use_new_zipfile_serialization=not stream)
    checkpoint = open_checkpoint(tmp_path, overrides={"n_head": 4})
    assert "the state dict is under 'a.b.weights'" in checkpoint.notes


def test_a_list_with_a_state_dict_in_it(tmp_path: Path) -> None:
    torch.save([load_file(TINY / "model.safetensors"), 7], tmp_path / "model.pt")
    assert open_checkpoint(tmp_path, overrides={"n_head": 4}).config.n_layer == 12


def test_names_without_the_trunks_name_and_with_a_head(tmp_path: Path) -> None:
    tensors = load_file(TINY / "model.safetensors")
    renamed = {f"net.gpt.{name.removeprefix('transformer.')}": tensor for name, tensor in tensors.items()}
    save_file({**renamed, "net.lm_head.weight": torch.ones(512, 64)}, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path, overrides={"n_head": 4})
    assert not checkpoint.config.tie_word_embeddings and torch.equal(
        checkpoint.read("lm_head.weight"), torch.ones(512, 64)
    )


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "checkpoint")  # the name of a text file of TensorFlow's
    with pytest.raises(CheckpointError, match="has no weights"):
        open_checkpoint(tmp_path)
