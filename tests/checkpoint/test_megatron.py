"""Megatron-LM's folders of every version and division. Those that other programs wrote: `tests/test_oracles.py`."""

import shutil
import warnings
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp

from gpt2_from_scratch import CheckpointError, GPTModel, open_checkpoint
from gpt2_from_scratch.checkpoint import locate, open_container
from gpt2_from_scratch.errors import FormatError
from gpt2_from_scratch.inspecting import inspect_checkpoint
from gpt2_from_scratch.loading import OpenOptions
from tests.forms import write_megatron
from tests.oracles.source import SIZES, SOURCE
from tests.oracles.source import weights as drawn

HEADS = SIZES["n_head"]
FILE = "mp_rank_00/model_optim_rng.pt"
ARGUMENTS = Namespace(num_attention_heads=HEADS, bias_gelu_fusion=True, layernorm_epsilon=1e-5, vocab_size=31)


def assert_is_source(model: GPTModel) -> None:
    found = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    assert found.keys() == drawn().keys()
    for name, array in drawn().items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize("version", [None, 0, 1.0, 2.0, 3.0])
@pytest.mark.parametrize(("ranks", "stages"), [(1, 1), (3, 4)])
def test_every_version_and_division_is_the_same_model(
    version: float | None, ranks: int, stages: int, tmp_path: Path
) -> None:
    write_megatron(tmp_path, drawn(), HEADS, version, ranks, stages, args=ARGUMENTS)
    model = GPTModel.from_pretrained(tmp_path, mmap=ranks > 1)
    assert_is_source(model)
    assert (model.config.n_head, model.config.activation_function) == (HEADS, "gelu_new")
    assert model.load_report.layout == "megatron"


def test_the_files_of_all_ranks_are_listed(tmp_path: Path) -> None:
    """They have one name, in folders of their own."""
    write_megatron(tmp_path, drawn(), HEADS, 3.0, ranks=3, args=ARGUMENTS)
    found = inspect_checkpoint(tmp_path)
    assert list(found.files) == [f"mp_rank_{rank:02d}/model_optim_rng.pt" for rank in range(3)]


def test_a_folder_above_leads_to_the_checkpoints(tmp_path: Path) -> None:
    write_megatron(tmp_path / "runs" / "iter_0000100", drawn(), HEADS)
    with pytest.raises(CheckpointError, match=r"below it there are\n  hint: give .*runs/iter_0000100$"):
        locate(tmp_path)


def test_without_arguments_the_padded_vocabulary_is_the_models(tmp_path: Path) -> None:
    """As in the checkpoint of 345M parameters that NVIDIA published."""
    write_megatron(tmp_path, drawn(), HEADS)
    checkpoint = open_checkpoint(tmp_path, overrides={"n_head": HEADS})
    assert checkpoint.config.vocab_size == 32
    assert checkpoint.assumed[0] == "activation_function gelu_new (GPT-2's)"


@pytest.mark.parametrize("said", ["by the user", "by config.json"])
def test_whoever_knows_the_vocabulary_can_say_it(said: str, tmp_path: Path) -> None:
    write_megatron(tmp_path, drawn(), HEADS, 3.0)
    options: OpenOptions = {"overrides": {"n_head": HEADS, "vocab_size": SIZES["vocab_size"]}}
    if said == "by config.json":
        shutil.copy(SOURCE / "config.json", tmp_path)
        options = {}
    checkpoint = open_checkpoint(tmp_path, **options)
    assert torch.equal(checkpoint.read("wte.weight"), torch.from_numpy(drawn()["wte.weight"]))
    assert any("1 rows that pad the vocabulary" in note for note in checkpoint.notes)


def test_a_padded_tensor_may_be_left_out(tmp_path: Path) -> None:
    write_megatron(tmp_path, drawn(), HEADS, 3.0, args=ARGUMENTS)
    untied = {"output_layer": {"weight": torch.ones(32, 6)}}
    change(lambda content: content["model"]["language_model"].update(untied), tmp_path / FILE)
    options: OpenOptions = {"ignore": ["language_model.output_layer.weight"], "overrides": {"vocab_size": 30}}
    config = open_checkpoint(tmp_path, **options).config
    assert config.vocab_size == 30 and config.tie_word_embeddings


@pytest.mark.parametrize("size", [0, -5, None, True, 40])
def test_a_vocabulary_that_is_none_cuts_nothing(size: object, tmp_path: Path) -> None:
    arguments = Namespace(**(vars(ARGUMENTS) | {"vocab_size": size, "normalization": None}))
    write_megatron(tmp_path, drawn(), HEADS, 3.0, args=arguments)
    assert open_checkpoint(tmp_path).config.vocab_size == 32


@pytest.mark.parametrize(("step", "folder"), [("release", "release"), ("1200\n", "iter_0001200")])
def test_the_last_step_is_opened(step: str, folder: str, tmp_path: Path) -> None:
    (tmp_path / "iter_0000100" / "mp_rank_00").mkdir(parents=True)
    write_megatron(tmp_path / folder, drawn(), HEADS, args=ARGUMENTS)
    (tmp_path / "latest_checkpointed_iteration.txt").write_text(step)
    assert locate(tmp_path).weights == tmp_path / folder / "mp_rank_00" / "model_optim_rng.pt"


@pytest.mark.parametrize(
    ("fused", "gelu", "name"), [(True, False, "gelu_new"), (False, True, "gelu_new"), (False, False, "gelu")]
)
def test_the_activation_is_what_the_arguments_say(fused: bool, gelu: bool, name: str, tmp_path: Path) -> None:
    arguments = Namespace(num_attention_heads=HEADS, bias_gelu_fusion=fused, openai_gelu=gelu, layernorm_epsilon=1e-3)
    config = open_checkpoint(write_megatron(tmp_path, drawn(), HEADS, 3.0, args=arguments)).config
    assert (config.activation_function, config.layer_norm_epsilon) == (name, 1e-3)


def test_norms_inside_the_linear_layers_of_transformer_engine(tmp_path: Path) -> None:
    """Megatron Core with Transformer Engine: the norm is a part of the layer behind it."""
    write_megatron(tmp_path, drawn(), HEADS, 3.0)
    path = tmp_path / FILE
    content = torch.load(path)
    older, core = content["model"]["language_model"], {}
    names = {
        "input_layernorm.": "self_attention.linear_qkv.layer_norm_",
        "attention.query_key_value.": "self_attention.linear_qkv.",
        "attention.dense.": "self_attention.linear_proj.",
        "post_attention_layernorm.": "mlp.linear_fc1.layer_norm_",
        "mlp.dense_h_to_4h.": "mlp.linear_fc1.",
        "mlp.dense_4h_to_h.": "mlp.linear_fc2.",
    }
    for name, tensor in older["transformer"].items():
        for theirs, ours in names.items():
            name = name.replace(f".{theirs}", f".{ours}")
        core[f"decoder.{name}"] = tensor
    core |= {f"embedding.{name}.weight": table["weight"] for name, table in older["embedding"].items()}
    core["decoder.layers.0.self_attention.linear_qkv._extra_state"] = torch.zeros(9, dtype=torch.uint8)
    torch.save(content | {"model": core, "args": ARGUMENTS}, path)
    model = GPTModel.from_pretrained(path)
    assert_is_source(model)
    assert model.load_report.layout == "megatron"


# ------------------------------------------------------------------------------------------------------------ hostile


def change(how: Callable[[dict[str, Any]], object], path: Path) -> None:
    content = torch.load(path, weights_only=False)
    how(content)
    torch.save(content, path)


def trunk(content: dict[str, Any]) -> dict[str, Any]:
    return dict.__getitem__(content["model"]["language_model"], "transformer")


def setting(**values: object) -> Callable[[dict[str, Any]], object]:
    return lambda content: content.update(args=Namespace(**values))


QKV = "layers.0.attention.query_key_value.weight"
HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another version": (lambda c: c.update(checkpoint_version=4.0), "has the checkpoint_version 4.0"),
    "a version that is none": (lambda c: c.update(checkpoint_version=[3]), "has the checkpoint_version"),
    "no model": (lambda c: c.pop("model"), "holds no model"),
    "interleaved stages": (lambda c: c.update(model0=c.pop("model")), "interleaved stages"),
    "computed positions": (setting(position_embedding_type="rope"), "trained with position_embedding_type 'rope'"),
    "another norm": (setting(normalization="RMSNorm"), "trained with normalization 'RMSNorm'"),
    "a gated layer": (setting(swiglu=True), "trained with swiglu True"),
    "a window": (setting(window_size=(128, 0)), "trained with window_size"),
    "a tensor less": (lambda c: trunk(c).popitem(), "has other tensors than"),
    "another form": (lambda c: trunk(c).update({QKV: torch.ones(3, 6)}), "another form on other ranks"),
    "another type": (lambda c: trunk(c).update({QKV: trunk(c)[QKV].half()}), "another form on other ranks"),
    "no three parts": (lambda c: trunk(c).update({QKV: torch.ones(5, 6)}), "of another form"),
    "a number": (lambda c: trunk(c).update({QKV: torch.tensor(1.0)}), "another form on other ranks"),
    "two of one name": (
        lambda c: trunk(c).update({QKV.replace("attention", "self_attention"): torch.ones(3, 6)}),
        "is there twice",
    ),
    "a name that writes to the terminal": (lambda c: trunk(c).update({"\x1b[2J": torch.ones(1)}), "unprintable"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_no_gpt2_or_does_not_fit_together_is_refused(what: str, tmp_path: Path) -> None:
    how, why = HOSTILE[what]
    write_megatron(tmp_path, drawn(), HEADS, ranks=3)
    change(how, tmp_path / FILE)
    with pytest.raises(FormatError, match=why):
        open_container(locate(tmp_path).weights)


def test_a_rank_that_is_missing_is_named(tmp_path: Path) -> None:
    write_megatron(tmp_path, drawn(), HEADS, ranks=3, stages=2)
    (tmp_path / "mp_rank_01_001" / "model_optim_rng.pt").unlink()
    with pytest.raises(FormatError, match="has no file of rank 1, stage 1"):
        open_container(locate(tmp_path).weights)


def test_a_path_that_is_no_step_is_not_followed(tmp_path: Path) -> None:
    write_megatron(tmp_path / "elsewhere", drawn(), HEADS)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "latest_checkpointed_iteration.txt").write_text("../elsewhere")
    with pytest.raises(CheckpointError, match="has no weights"):
        locate(tmp_path / "run")


# ---------------------------------------------------------------- folders of torch.distributed.checkpoint


def save_folder(folder: Path, **more: torch.Tensor) -> Path:
    """As Megatron Core does: all layers in one tensor, which one rank has here; and the optimizer's state."""
    write_megatron(folder / "files", drawn(), HEADS, 3.0)
    content = torch.load(folder / "files" / "mp_rank_00" / "model_optim_rng.pt")["model"]["language_model"]
    names = {"attention.query_key_value": "self_attention.linear_qkv", "attention.dense": "self_attention.linear_proj"}
    names |= {"mlp.dense_h_to_4h": "mlp.linear_fc1", "mlp.dense_4h_to_h": "mlp.linear_fc2"}
    names |= {"input_layernorm.": "self_attention.linear_qkv.layer_norm_"}
    names |= {"post_attention_layernorm.": "mlp.linear_fc1.layer_norm_"}
    tensors = {f"embedding.{name}.weight": table["weight"] for name, table in content["embedding"].items()}
    tensors |= {f"decoder.{name}": each for name, each in content["transformer"].items() if name.startswith("final")}
    for name in [name.removeprefix("layers.0.") for name in content["transformer"] if name.startswith("layers.0.")]:
        new = next(name.replace(theirs, ours) for theirs, ours in names.items() if name.startswith(theirs))
        stacked = [content["transformer"][f"layers.{layer}.{name}"] for layer in range(SIZES["n_layer"])]
        tensors[f"decoder.layers.{new}"] = torch.stack(stacked)
    tensors["optimizer.state.exp_avg.decoder.final_layernorm.weight"] = torch.ones(6)
    step = folder / "iter_0000007"
    with warnings.catch_warnings(action="ignore"):
        dcp.save(tensors | more, checkpoint_id=step, no_dist=True)
    torch.save({"args": ARGUMENTS, "checkpoint_version": 3.0}, step / "common.pt")
    (step / "metadata.json").write_text('{"sharded_backend": "torch_dist"}')
    (folder / "latest_checkpointed_iteration.txt").write_text("7")
    return folder


def test_layers_are_taken_out_of_the_tensor_of_all_layers(tmp_path: Path) -> None:
    model = GPTModel.from_pretrained(save_folder(tmp_path))
    assert_is_source(model)
    assert model.load_report.form == "Megatron-LM, PyTorch distributed checkpoint"


def test_a_layer_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    name = "decoder.layers.3.mlp.linear_fc2.bias"
    with pytest.raises(FormatError, match=rf"the tensor {name} is there twice"):
        open_checkpoint(save_folder(tmp_path, **{name: torch.ones(6)}))


def test_more_layers_than_any_gpt2_has_are_refused_before_they_are_named(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="at most 4,000 are read"):
        open_checkpoint(save_folder(tmp_path, **{"decoder.layers.more": torch.ones(5_000)}))


def test_the_arguments_of_such_a_folder_are_looked_at_too(tmp_path: Path) -> None:
    save_folder(tmp_path)
    torch.save({"args": Namespace(normalization="RMSNorm")}, tmp_path / "iter_0000007" / "common.pt")
    with pytest.raises(FormatError, match="trained with normalization 'RMSNorm'"):
        open_checkpoint(tmp_path)
