"""Loading and saving: the parameters are the file, every tensor is accounted for, and what we save others load.

Transformers is the judge. It writes the checkpoint that our code, and other people's, must load to the
same logits; it reads what we write, bit for bit. What must be refused is in `test_refusals.py`.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import GPT2LMHeadModel

from gpt2_from_scratch import GPTConfig, GPTModel, LoadReport, load_into, open_checkpoint
from gpt2_from_scratch.checkpoint import StoredTensor, safetensors
from gpt2_from_scratch.errors import CheckpointError, MappingError
from gpt2_from_scratch.layouts import LAYOUTS
from tests.foreign import book
from tests.modules import STYLES, book_config, logits
from tests.perturbed import perturbed, save

Tensors = dict[str, Tensor]

# In floors (the distance of float32 transformers from its own float64 run). Two correct float32 programs are each about
# one floor from the truth, so two from each other; twice that is the line.
NEAR = 4

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self")


@pytest.fixture(scope="module")
def reference() -> GPT2LMHeadModel:
    """The perturbed model with an inner width of 4 E, which is the only one that other people's code can have."""
    return perturbed(n_inner=None).requires_grad_(False)


@pytest.fixture(scope="module")
def checkpoint(reference: GPT2LMHeadModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(reference, tmp_path_factory.mktemp("reference"))


@pytest.fixture(scope="module")
def untied_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(perturbed(n_inner=None, tie_word_embeddings=False), tmp_path_factory.mktemp("untied"))


@pytest.fixture(scope="module")
def ids() -> Tensor:
    return torch.randint(211, (2, 31), generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def floor(ids: Tensor) -> float:
    model = perturbed(n_inner=None).requires_grad_(False)
    return float((logits(model, ids) - logits(model.double(), ids)).abs().max())


def weights(folder: Path) -> Path:
    return folder / "model.safetensors"


def edited(source: Path, folder: Path, edit: Callable[[Tensors], Tensors], **config: object) -> Path:
    """A copy of a checkpoint with other tensors and other settings."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = json.loads((source / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(settings))
    save_file({name: t.contiguous() for name, t in edit(load_file(weights(source))).items()}, weights(folder))
    return folder


def written_as_state_dict(module: nn.Module, config: GPTConfig, folder: Path) -> Path:
    """What people do: `save_file(model.state_dict())`, shared memory undone, masks and all."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.clone() for name, tensor in module.state_dict().items()}, weights(folder))
    (folder / "config.json").write_text(json.dumps(config.to_hf()))
    return folder


def assert_same_weights(a: nn.Module, b: nn.Module) -> None:
    assert_same_tensors(a.state_dict(), b.state_dict())


def assert_same_tensors(actual: Tensors, expected: Tensors) -> None:
    assert actual.keys() == expected.keys()
    assert not [name for name in expected if not torch.equal(actual[name], expected[name])]


def transformers_model(folder: Path) -> GPT2LMHeadModel:
    """Follows the file's dtype; an incomplete or superfluous tensor fails the test instead of logging a warning."""
    model, info = GPT2LMHeadModel.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    result: GPT2LMHeadModel = model.eval()
    return result


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ------------------------------------------------------------------------------------- the parameters are the file


def mapped(path: Path) -> list[range]:
    """Where this process has the file mapped."""
    lines = (line.split() for line in Path("/proc/self/maps").read_text().splitlines())
    spans = (fields[0].split("-") for fields in lines if fields[-1] == str(path))
    return [range(int(start, 16), int(end, 16)) for start, end in spans]


def inside(tensors: Iterable[Tensor], spans: list[range]) -> list[bool]:
    return [any(tensor.data_ptr() in span for span in spans) for tensor in tensors]


@on_linux
@pytest.mark.parametrize("tied", [True, False])
def test_parameters_lie_in_the_mapped_file(checkpoint: Path, untied_checkpoint: Path, tied: bool) -> None:
    folder = checkpoint if tied else untied_checkpoint
    model = GPTModel.from_pretrained(folder)
    assert all(inside(model.parameters(), mapped(weights(folder))))
    assert all(parameter.is_contiguous() and parameter.is_leaf for parameter in model.parameters())


@on_linux
def test_parameters_of_shards_lie_in_their_files(reference: GPT2LMHeadModel, tmp_path: Path) -> None:
    reference.save_pretrained(tmp_path, max_shard_size="200KB")
    model = GPTModel.from_pretrained(tmp_path)
    shards = list(tmp_path.glob("*.safetensors"))
    assert len(shards) > 2
    assert all(inside(model.parameters(), [span for shard in shards for span in mapped(shard)]))


@on_linux
def test_loading_takes_no_memory_of_its_own(tmp_path: Path) -> None:
    def anonymous() -> int:
        rollup = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return int(next(line for line in rollup if line.startswith("Anonymous:")).split()[1]) * 1024

    config = GPTConfig(n_layer=2, n_head=2, n_embd=96)
    GPTModel(config).save_pretrained(tmp_path)
    size = weights(tmp_path).stat().st_size
    GPTModel.from_pretrained(tmp_path)  # whatever the first load imports
    before = anonymous()
    model = GPTModel.from_pretrained(tmp_path)
    grown = anonymous() - before
    assert size > 20_000_000
    assert grown < size / 20  # measured: under 100 kB
    assert model.config == config


@on_linux
def test_without_mmap_nothing_refers_to_the_file(checkpoint: Path, ids: Tensor, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    expected = logits(GPTModel.from_pretrained(checkpoint), ids)
    model = GPTModel.from_pretrained(tmp_path, mmap=False)
    assert not mapped(weights(tmp_path))
    weights(tmp_path).write_bytes(b"")  # under a mapping, reading on would kill the process
    assert torch.equal(logits(model, ids), expected)


@pytest.mark.parametrize("mmap", [True, False])
def test_training_never_reaches_the_file(checkpoint: Path, tmp_path: Path, mmap: bool) -> None:
    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    before = contents(tmp_path)
    model = GPTModel.from_pretrained(tmp_path, mmap=mmap)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(torch.tensor([[1, 2, 3]])).sum().backward()
    optimizer.step()
    with torch.no_grad():
        model.wte.weight.zero_()
    assert contents(tmp_path) == before
    assert bool((GPTModel.from_pretrained(tmp_path).wte.weight != 0).all())


def test_a_model_is_ready_to_use_and_to_train(checkpoint: Path) -> None:
    model = GPTModel.from_pretrained(checkpoint)
    assert not any(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.lm_head.weight is model.wte.weight
    assert not any(tensor.is_meta for tensor in model.state_dict().values())


# -------------------------------------------------------------------------------------- the forms a checkpoint has


def test_the_weights_are_those_of_transformers(checkpoint: Path, reference: GPT2LMHeadModel) -> None:
    expected = {name.removeprefix("transformer."): tensor for name, tensor in reference.state_dict().items()}
    for mmap in (True, False):
        assert_same_tensors(GPTModel.from_pretrained(checkpoint, mmap=mmap).state_dict(), expected)


@pytest.mark.parametrize("source", [str, Path, weights, lambda folder: str(weights(folder))])
def test_a_source_is_a_directory_or_a_file_as_text_or_path(checkpoint: Path, source: Callable[[Path], str]) -> None:
    model = GPTModel.from_pretrained(source(checkpoint))
    assert model.load_report is not None
    assert model.load_report.source == str(source(checkpoint))


def test_the_home_directory_may_be_abbreviated(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(checkpoint.parent))
    assert GPTModel.from_pretrained(f"~/{checkpoint.name}").config.n_layer == 12


def test_shards_are_one_checkpoint(checkpoint: Path, reference: GPT2LMHeadModel, tmp_path: Path) -> None:
    reference.save_pretrained(tmp_path, max_shard_size="200KB")
    whole = GPTModel.from_pretrained(checkpoint)
    for mmap in (True, False):
        for source in (tmp_path, tmp_path / safetensors.INDEX):
            model = GPTModel.from_pretrained(source, mmap=mmap)
            assert model.load_report is not None
            assert model.load_report.form == "safetensors, sharded"
            assert_same_weights(model, whole)


def bare(tensors: Tensors) -> Tensors:
    return {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}


def with_masks(tensors: Tensors) -> Tensors:
    prefix = "" if "wte.weight" in tensors else "transformer."
    masks = {f"{prefix}h.{n}.attn.bias": torch.ones(1, 1, 37, 37).tril().byte() for n in range(12)}
    return tensors | masks | {f"{prefix}h.{n}.attn.masked_bias": torch.tensor(-1e4) for n in range(12)}


def with_head(tensors: Tensors) -> Tensors:
    name = "wte.weight" if "wte.weight" in tensors else "transformer.wte.weight"
    return tensors | {"lm_head.weight": tensors[name].clone()}


@pytest.mark.parametrize(
    "edit",
    [
        lambda t: t,
        bare,
        with_masks,
        lambda t: with_masks(bare(t)),
        with_head,
        lambda t: with_head(bare(t)),
        lambda t: with_head(with_masks(t)),
    ],
    ids=["prefix", "bare", "masks", "bare-masks", "head", "bare-head", "head-masks"],
)
def test_every_form_of_hugging_face_files_loads_the_same(
    checkpoint: Path, tmp_path: Path, edit: Callable[[Tensors], Tensors]
) -> None:
    model = GPTModel.from_pretrained(edited(checkpoint, tmp_path, edit))
    assert_same_weights(model, GPTModel.from_pretrained(checkpoint))
    assert model.lm_head.weight is model.wte.weight


def test_an_untied_head_is_a_parameter_of_its_own(untied_checkpoint: Path, ids: Tensor) -> None:
    model = GPTModel.from_pretrained(untied_checkpoint)
    assert model.lm_head.weight is not model.wte.weight
    assert not torch.equal(model.lm_head.weight, model.wte.weight)
    assert torch.equal(logits(model, ids), logits(transformers_model(untied_checkpoint), ids))


@pytest.mark.parametrize("unaligned", [1, 2, 4])
def test_a_header_of_any_length_is_read(checkpoint: Path, tmp_path: Path, unaligned: int) -> None:
    """Older files are not padded: their tensors start at odd addresses."""
    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    raw = weights(checkpoint).read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = raw[8 : 8 + length].rstrip() + b" " * unaligned
    weights(tmp_path).write_bytes(len(header).to_bytes(8, "little") + header + raw[8 + length :])
    for mmap in (True, False):
        assert_same_weights(GPTModel.from_pretrained(tmp_path, mmap=mmap), GPTModel.from_pretrained(checkpoint))


def test_a_prefix_is_stripped_when_told(checkpoint: Path, tmp_path: Path) -> None:
    folder = edited(checkpoint, tmp_path, lambda t: {f"_orig_mod.{name}": tensor for name, tensor in t.items()})
    model = GPTModel.from_pretrained(folder, strip_prefix="_orig_mod.")
    assert_same_weights(model, GPTModel.from_pretrained(checkpoint))
    with pytest.raises(MappingError, match=r"148 of 148 names do not start with 'module\.': _orig_mod\.transformer"):
        GPTModel.from_pretrained(folder, strip_prefix="module.")


# ----------------------------------------------------------------------------------------------------------- dtypes


@pytest.mark.parametrize("stored", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("wanted", [None, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_dtype_is_the_files_unless_told_otherwise(
    checkpoint: Path, tmp_path: Path, stored: torch.dtype, wanted: torch.dtype | None
) -> None:
    folder = edited(checkpoint, tmp_path, lambda t: {name: tensor.to(stored) for name, tensor in t.items()})
    model = GPTModel.from_pretrained(folder, dtype=wanted)
    assert {parameter.dtype for parameter in model.parameters()} == {wanted or stored}
    assert model.load_report is not None
    assert model.load_report.dtype == (wanted or stored)
    expected = load_file(weights(folder))["transformer.h.7.mlp.c_fc.weight"].to(wanted or stored)
    assert torch.equal(model.h[7].mlp.c_fc.weight, expected)
    assert model.h[7].mlp.c_fc.weight.is_contiguous()


def test_mixed_dtypes_are_loaded_as_one_that_holds_them_all(checkpoint: Path, tmp_path: Path) -> None:
    def mix(tensors: Tensors) -> Tensors:
        return {name: tensor.half() if "mlp" in name else tensor.bfloat16() for name, tensor in tensors.items()}

    model = GPTModel.from_pretrained(edited(checkpoint, tmp_path, mix))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.load_report is not None
    (note,) = model.load_report.notes
    assert note == "mixed dtypes (100 bfloat16, 48 float16) loaded as float32, which holds them all"


def test_default_dtype_and_device_of_torch_do_not_interfere(checkpoint: Path) -> None:
    try:
        torch.set_default_dtype(torch.float64)
        model = GPTModel.from_pretrained(checkpoint)
    finally:
        torch.set_default_dtype(torch.float32)
    assert_same_weights(model, GPTModel.from_pretrained(checkpoint))


# ---------------------------------------------------------------------------------------------------------- reports


def test_the_report_says_what_became_of_every_tensor(checkpoint: Path, tmp_path: Path) -> None:
    folder = edited(checkpoint, tmp_path, lambda t: with_head(with_masks(t)))
    report = GPTModel.from_pretrained(folder).load_report
    assert report
    assert str(report) == (
        f"{folder}: 148 tensors, 296,648 parameters, float32; safetensors, layout huggingface; lm_head.weight tied; "
        "12 ignored (mask value, not a parameter); 12 ignored (causal-mask buffer, not a parameter)"
    )
    file = load_file(weights(folder))
    assert len(report.loaded) + len(report.tied) + len(report.ignored) == len(file)
    assert len(set(report.loaded)) == 148


def test_the_report_of_a_module_speaks_its_language(checkpoint: Path) -> None:
    module = STYLES["book"](open_checkpoint(checkpoint).config)
    report = load_into(module, checkpoint, layout="llms_from_scratch")
    assert str(report) == (
        f"{checkpoint}: 196 tensors, 296,648 parameters, float32; safetensors, layout llms_from_scratch; "
        "out_head.weight tied"
    )
    assert {*report.loaded, *report.tied} == dict(module.named_parameters()).keys()


def test_the_report_names_biases_that_are_zero_because_they_are_absent(tmp_path: Path) -> None:
    config = GPTConfig(n_layer=2, n_head=2, n_embd=8, vocab_size=11, n_positions=7)
    module = book.GPTModel(book_config(config, qkv_bias=False))
    folder = written_as_state_dict(module, config.replace(tie_word_embeddings=False), tmp_path)
    model = GPTModel.from_pretrained(folder)
    assert model.load_report is not None
    assert "; h.{0...1}.attn.c_attn.bias absent, so zero; 2 ignored (causal-mask buffer" in str(model.load_report)
    assert not model.h[0].attn.c_attn.bias.any()


def test_nothing_is_read_to_open_a_checkpoint(checkpoint: Path) -> None:
    opened = open_checkpoint(checkpoint)
    assert opened.layout is LAYOUTS["huggingface"][0]
    assert opened.config.n_layer == 12
    assert opened.dtype == torch.float32
    assert len(opened.tensors) == 148
    assert torch.equal(opened.read("h.3.ln_2.bias"), load_file(weights(checkpoint))["transformer.h.3.ln_2.bias"])


# ------------------------------------------------------------------------------------------------ other people's code


@pytest.fixture(scope="module")
def loaded(checkpoint: Path) -> dict[str, nn.Module]:
    """Every style, loaded from the file that transformers wrote. Shared: leave them as they are."""
    config = open_checkpoint(checkpoint).config
    modules = {name: style(config) for name, style in STYLES.items()}
    for name, module in modules.items():
        load_into(module, checkpoint, layout=STYLES[name].layout)
    return modules


@pytest.mark.parametrize("style", STYLES)
def test_other_peoples_code_gives_the_logits_of_transformers(
    style: str, loaded: dict[str, nn.Module], reference: GPT2LMHeadModel, ids: Tensor, floor: float
) -> None:
    assert_close(logits(loaded[style], ids), logits(reference, ids), rtol=0, atol=NEAR * floor)


@pytest.mark.parametrize("style", [style for style in STYLES if not STYLES[style].always_tied])
def test_other_peoples_code_takes_an_untied_head(
    style: str, untied_checkpoint: Path, ids: Tensor, floor: float
) -> None:
    module = STYLES[style](open_checkpoint(untied_checkpoint).config)
    report = load_into(module, untied_checkpoint, layout=STYLES[style].layout)
    assert report.tied == ()
    assert_close(logits(module, ids), logits(transformers_model(untied_checkpoint), ids), rtol=0, atol=NEAR * floor)


@pytest.mark.parametrize("source", STYLES)
def test_every_style_loads_every_others_weights(
    source: str, loaded: dict[str, nn.Module], checkpoint: Path, tmp_path: Path
) -> None:
    """transformers -> source -> its state dict in a file -> every target, which ends as if it had come straight."""
    config = open_checkpoint(checkpoint).config
    folder = written_as_state_dict(loaded[source], config, tmp_path)
    for name, style in STYLES.items():
        target = style(config)
        load_into(target, folder, layout=style.layout)
        assert_same_weights(target, loaded[name])


@pytest.mark.parametrize("style", STYLES)
def test_every_style_comes_back_to_transformers_bit_for_bit(
    style: str, loaded: dict[str, nn.Module], checkpoint: Path, reference: GPT2LMHeadModel, tmp_path: Path, ids: Tensor
) -> None:
    config = open_checkpoint(checkpoint).config
    folder = written_as_state_dict(loaded[style], config, tmp_path / "theirs")
    model = GPTModel.from_pretrained(folder, file_layout=STYLES[style].layout)
    assert_same_weights(model, GPTModel.from_pretrained(folder))  # the layout is found when it is not given
    model.save_pretrained(tmp_path / "ours")
    returned = transformers_model(tmp_path / "ours")
    assert_same_weights(returned, reference)
    assert torch.equal(logits(returned, ids), logits(reference, ids))


def test_weights_enter_in_place(checkpoint: Path) -> None:
    module = STYLES["nanogpt"](open_checkpoint(checkpoint).config).train()
    module.transformer["h"][0].requires_grad_(False)
    parameters = dict(module.named_parameters(remove_duplicate=False))
    before = {name: (id(p), p.data_ptr(), p.requires_grad) for name, p in parameters.items()}
    optimizer = torch.optim.AdamW(module.parameters())
    load_into(module, checkpoint, layout="nanogpt")
    after = dict(module.named_parameters(remove_duplicate=False))
    assert before == {name: (id(p), p.data_ptr(), p.requires_grad) for name, p in after.items()}
    assert module.transformer["wte"].weight is module.lm_head.weight
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {id(p) for p in after.values()}
    assert module.training


def test_weights_are_converted_to_the_modules_dtype(checkpoint: Path) -> None:
    module = STYLES["book"](open_checkpoint(checkpoint).config).bfloat16()
    report = load_into(module, checkpoint, layout="llms_from_scratch")
    assert report.dtype == torch.bfloat16
    expected = load_file(weights(checkpoint))["transformer.h.0.mlp.c_fc.weight"].bfloat16().T
    assert torch.equal(module.trf_blocks[0].ff.layers[0].weight, expected)


def test_a_module_on_the_meta_device_gets_memory_of_its_own(checkpoint: Path, ids: Tensor, floor: float) -> None:
    config = open_checkpoint(checkpoint).config
    with torch.device("meta"):
        tied = STYLES["nanogpt"](config)
        masked = STYLES["mingpt"](config)
    report = load_into(tied, checkpoint, layout="nanogpt")
    assert report.notes == ()
    assert tied.transformer["wte"].weight is tied.lm_head.weight
    usual = STYLES["nanogpt"](config)
    load_into(usual, checkpoint, layout="nanogpt")
    assert torch.equal(logits(tied, ids), logits(usual, ids))
    report = load_into(masked, checkpoint, layout="mingpt")
    assert report.notes == ("transformer.h.{0...11}.attn.bias still on the meta device: no parameter",)
    assert not any(parameter.is_meta for parameter in masked.parameters())


def without_qkv_bias(tensors: Tensors) -> Tensors:
    return {name: tensor * 0 if name.endswith("attn.c_attn.bias") else tensor for name, tensor in tensors.items()}


def test_a_module_without_qkv_biases_takes_a_checkpoint_whose_are_zero(
    checkpoint: Path, tmp_path: Path, ids: Tensor, floor: float
) -> None:
    folder = edited(checkpoint, tmp_path, without_qkv_bias)
    module = book.GPTModel(book_config(open_checkpoint(folder).config, qkv_bias=False)).eval()
    report = load_into(module, folder, layout="llms_from_scratch")
    assert report.notes == ("h.{0...11}.attn.c_attn.bias all zero, and absent from the module",)
    assert_close(logits(module, ids), logits(transformers_model(folder), ids), rtol=0, atol=NEAR * floor)


def test_a_layout_may_be_the_users_own(checkpoint: Path) -> None:
    module = STYLES["book_fused"](open_checkpoint(checkpoint).config)
    assert load_into(module, checkpoint, layout=LAYOUTS["llms_from_scratch"][1])
    assert load_into(module, checkpoint, layout=LAYOUTS["llms_from_scratch"], file_layout="huggingface")


# ----------------------------------------------------------------------------------------------------------- saving


@pytest.mark.parametrize("shards", [1, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_transformers_loads_what_we_save(
    tied: bool, dtype: torch.dtype, shards: int, tmp_path: Path, ids: Tensor
) -> None:
    reference = perturbed(tie_word_embeddings=tied, dtype=dtype)
    model = GPTModel.from_pretrained(save(reference, tmp_path / "theirs"))
    size = sum(parameter.nbytes for parameter in model.parameters())
    report = model.save_pretrained(tmp_path / "ours", max_shard_size=size if shards == 1 else size // 4)
    saved = transformers_model(tmp_path / "ours")
    assert saved.dtype == dtype
    assert_same_weights(saved, reference)
    assert torch.equal(logits(saved, ids), logits(reference, ids))
    assert_same_weights(GPTModel.from_pretrained(tmp_path / "ours"), model)
    names = {path.name for path in (tmp_path / "ours").iterdir()}
    if shards == 1:
        assert names == {"config.json", "generation_config.json", "model.safetensors"}
    else:
        files = {f"model-{n:05d}-of-{shards:05d}.safetensors" for n in range(1, shards + 1)}
        assert names == {"config.json", "generation_config.json", safetensors.INDEX, *files}
    assert report.form == ("safetensors" if shards == 1 else f"safetensors, {shards} shards")
    assert report.loaded == tuple(name for name in saved.state_dict() if not (tied and name == "lm_head.weight"))


def test_a_single_file_has_the_bytes_that_transformers_writes(checkpoint: Path, tmp_path: Path) -> None:
    GPTModel.from_pretrained(checkpoint).save_pretrained(tmp_path)
    assert weights(tmp_path).read_bytes() == weights(checkpoint).read_bytes()


def test_shards_agree_with_transformers_index(checkpoint: Path, reference: GPT2LMHeadModel, tmp_path: Path) -> None:
    GPTModel.from_pretrained(checkpoint).save_pretrained(tmp_path / "ours", max_shard_size="200KB")
    reference.save_pretrained(tmp_path / "theirs", max_shard_size="200KB")
    ours, theirs = (json.loads((tmp_path / each / safetensors.INDEX).read_text()) for each in ("ours", "theirs"))
    assert ours["weight_map"].keys() == theirs["weight_map"].keys()
    assert ours["metadata"]["total_size"] == theirs["metadata"]["total_size"] == 296_648 * 4
    assert ours["metadata"]["total_parameters"] == 296_648
    for path in (tmp_path / "ours").glob("*.safetensors"):
        assert path.stat().st_size < 200_000 + 10_000  # the header is not counted, as in transformers


def test_the_dtype_of_the_file_may_be_another(checkpoint: Path, tmp_path: Path) -> None:
    model = GPTModel.from_pretrained(checkpoint)
    assert model.save_pretrained(tmp_path, dtype=torch.float16).dtype == torch.float16
    assert model.wte.weight.dtype == torch.float32
    assert {tensor.dtype for tensor in load_file(weights(tmp_path)).values()} == {torch.float16}
    assert transformers_model(tmp_path).dtype == torch.float16


def test_the_configuration_survives_and_gains_what_other_tools_need(checkpoint: Path, tmp_path: Path) -> None:
    settings = {"activation_function": "relu", "torch_dtype": "float64", "my_own_field": {"a": [1, None]}}
    folder = edited(checkpoint, tmp_path / "in", lambda t: t, **settings)
    GPTModel.from_pretrained(folder).save_pretrained(tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["n_ctx"] == written["n_positions"] == 37  # llama.cpp's converter and mlx-lm stop without it
    assert written["architectures"] == ["GPT2LMHeadModel"]
    assert written["model_type"] == "gpt2"
    assert written["activation_function"] == "relu"
    assert written["my_own_field"] == {"a": [1, None]}
    assert written["dtype"] == "float32"  # of the weights beside it, whatever the old file said
    assert "torch_dtype" not in written


# For what is about files and not about numbers: 7.6 kB, and a limit that makes three shards of it.
SMALL = GPTConfig(vocab_size=11, n_positions=7, n_embd=8, n_layer=2, n_head=2)
WHOLE, IN_THREE = "5GB", "3KB"

from_whole_and_shards = pytest.mark.parametrize("old", [WHOLE, IN_THREE], ids=["old-whole", "old-shards"])
to_whole_and_shards = pytest.mark.parametrize("new", [WHOLE, IN_THREE], ids=["new-whole", "new-shards"])


def test_what_an_earlier_save_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    model = GPTModel(SMALL)
    kept = {"vocab.json": b"{}", "model.bin": b"1", "my-model.safetensors": b"2", "model-best.safetensors": b"3"}
    for name, content in kept.items():
        (tmp_path / name).write_bytes(content)
    sizes: tuple[int | str, ...] = ("2KB", WHOLE, IN_THREE, "2KB", 10**9)
    for limit in sizes:
        model.save_pretrained(tmp_path, max_shard_size=limit)
        assert kept.items() <= contents(tmp_path).items()
        shards = {path.name for path in tmp_path.glob("model-0*")}
        indexed = tmp_path / safetensors.INDEX
        assert shards == (set(json.loads(indexed.read_text())["weight_map"].values()) if indexed.exists() else set())
        assert weights(tmp_path).exists() != indexed.exists()
        assert_same_weights(GPTModel.from_pretrained(tmp_path), model)
    assert contents(tmp_path).keys() == {*kept, "config.json", "model.safetensors"}


@pytest.mark.parametrize("limit", [WHOLE, IN_THREE])
def test_a_model_may_be_saved_over_the_file_it_is_mapped_from(tmp_path: Path, limit: str) -> None:
    expected = GPTModel(SMALL)
    expected.save_pretrained(tmp_path)
    for _ in range(2):
        model = GPTModel.from_pretrained(tmp_path)
        model.save_pretrained(tmp_path, max_shard_size=limit)
        assert_same_weights(model, expected)
        assert_same_weights(GPTModel.from_pretrained(tmp_path), expected)


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@from_whole_and_shards
@to_whole_and_shards
def test_an_interrupted_save_leaves_the_old_files(
    old: str, new: str, failure: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards of two saves under one index would load without an error."""
    GPTModel(SMALL).save_pretrained(tmp_path, max_shard_size=old)
    before = contents(tmp_path)
    write_to, calls = safetensors.write_to, 0

    def failing(file: BinaryIO, tensors: dict[str, StoredTensor]) -> None:
        nonlocal calls
        calls += 1
        write_to(file, tensors)
        if calls == (1 if new == WHOLE else 3):
            raise failure

    monkeypatch.setattr(safetensors, "write_to", failing)
    with pytest.raises(CheckpointError if isinstance(failure, OSError) else KeyboardInterrupt) as caught:
        GPTModel(SMALL).save_pretrained(tmp_path, max_shard_size=new)
    assert contents(tmp_path) == before
    if isinstance(failure, OSError):
        assert str(caught.value) == f"cannot write {tmp_path}: No space left on device"


@from_whole_and_shards
@to_whole_and_shards
def test_a_kill_between_two_renames_never_leaves_a_mixture(old: str, new: str, tmp_path: Path) -> None:
    one, other = GPTModel(SMALL), GPTModel(SMALL)
    rename = os.replace
    outcomes = []
    for allowed in range(6):  # three shards, their index and the configuration make five renames
        folder = tmp_path / str(allowed)
        one.save_pretrained(folder, max_shard_size=old)
        budget = iter(range(allowed))

        def killed(source: Path, target: Path, budget: Iterator[int] = budget) -> None:
            if next(budget, None) is None:
                os._exit(9)
            rename(source, target)

        if not (child := os.fork()):
            os.replace = killed
            other.save_pretrained(folder, max_shard_size=new)
            os._exit(0)
        os.waitpid(child, 0)
        try:
            found = GPTModel.from_pretrained(folder)
        except CheckpointError:
            outcomes.append("refused")
        else:
            outcomes.append("old" if torch.equal(found.wte.weight, one.wte.weight) else "new")
            assert_same_weights(found, one if outcomes[-1] == "old" else other)
    assert outcomes[-1] == "new"


def test_a_killed_save_leaves_the_old_files(tmp_path: Path) -> None:
    GPTModel(SMALL).save_pretrained(tmp_path, max_shard_size=IN_THREE)
    before = contents(tmp_path)
    script = (
        "import os, sys\n"
        "from gpt2_from_scratch import GPTModel\n"
        "from gpt2_from_scratch.checkpoint import safetensors\n"
        "write_to, calls = safetensors.write_to, []\n"
        "def killed(file, tensors):\n"
        "    write_to(file, tensors)\n"
        "    calls.append(file)\n"
        "    if len(calls) == 3: os._exit(9)\n"
        "safetensors.write_to = killed\n"
        "folder, limit = sys.argv[1:]\n"
        "GPTModel(GPTModel.from_pretrained(folder).config).save_pretrained(folder, max_shard_size=limit)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path), IN_THREE]
    ended = subprocess.run(command, cwd=Path(__file__).parents[1], check=False)
    assert ended.returncode == 9
    after = contents(tmp_path)
    assert {name: after[name] for name in before} == before
    assert all(name.startswith(".") and name.endswith(".part") for name in after.keys() - before.keys())


def test_files_have_the_users_usual_permissions(tmp_path: Path) -> None:
    model = GPTModel(SMALL)
    mask = os.umask(0o027)
    try:
        model.save_pretrained(tmp_path)
        assert weights(tmp_path).stat().st_mode & 0o777 == 0o640
        weights(tmp_path).chmod(0o604)  # what the user made of it stays
        model.save_pretrained(tmp_path)
        assert weights(tmp_path).stat().st_mode & 0o777 == 0o604
    finally:
        os.umask(mask)


def test_what_cannot_be_saved_is_refused_before_a_file_appears(tmp_path: Path) -> None:
    target = tmp_path / "new"
    untied = GPTModel(SMALL)
    untied.lm_head.weight = nn.Parameter(untied.wte.weight.detach().clone())
    with pytest.raises(MappingError, match=r"ties the head.*lm_head\.weight is a parameter of its own") as caught:
        untied.save_pretrained(target)
    assert "tie_word_embeddings=False" in caught.value.hint

    resized = GPTModel(SMALL)
    resized.wte.weight = resized.lm_head.weight = nn.Parameter(torch.zeros(12, 8))
    with pytest.raises(MappingError, match=r"wte\.weight is \[12, 8\], expected \[11, 8\]"):
        resized.save_pretrained(target)

    extended = GPTModel(SMALL)
    extended.h[1].attn.register_parameter("gate", nn.Parameter(torch.zeros(1)))
    with pytest.raises(MappingError, match=r"unexpected \(1\): h\.1\.attn\.gate"):
        extended.save_pretrained(target)

    assert not target.exists()

    target.write_text("a file")
    with pytest.raises(CheckpointError, match=r"cannot write .*new: File exists"):
        GPTModel(SMALL).save_pretrained(target)


@pytest.mark.parametrize("limit", ["", "GB", "5GiB", "large", "nanGB", "infGB", 0, -1])
def test_what_is_no_size_is_refused_before_a_file_appears(limit: str | int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_shard_size is"):
        GPTModel(SMALL).save_pretrained(tmp_path / "new", max_shard_size=limit)
    assert not (tmp_path / "new").exists()


def test_reports_are_frozen_and_truthy() -> None:
    report = LoadReport("here", "safetensors", "huggingface", torch.float32, 1, ("a",))
    assert report
    with pytest.raises(AttributeError):
        report.source = "there"
