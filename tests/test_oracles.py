"""Other people's programs as judges: files that they wrote are read here, and what is written here they read.

The files, the model in them and the programs are in `tests/oracles`; each program says how it is run again. Nothing
here needs TensorFlow, JAX or an old transformers, except the last test, which runs where ``GPT2_TENSORFLOW_PYTHON``
names a Python that has TensorFlow.
"""

import gzip
import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import gguf as llama_cpp
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from gpt2_from_scratch import GPTModel
from gpt2_from_scratch.converting import convert
from gpt2_from_scratch.errors import FormatError
from gpt2_from_scratch.loading import open_checkpoint
from tests.oracles.source import FILES, IDS, SOURCE

# Of logits around 10 in float32: two programs that round differently are up to 1e-5 apart here; a wrong weight moves
# logits by 1.
SAME = 1e-4


def weights() -> dict[str, Tensor]:
    return load_file(SOURCE / "model.safetensors")


def logits(model: torch.nn.Module) -> Tensor:
    with torch.inference_mode():
        output = model(torch.tensor(IDS))
    result: Tensor = getattr(output, "logits", output)
    return result


# ------------------------------------------------------------------------------------------- what they wrote, read here


class Oracle(NamedTuple):
    """What the files in one folder are; `stored` and `untied` say how their numbers differ from the source's."""

    form: str
    layout: str
    stored: torch.dtype = torch.float32
    untied: bool = False


ORACLES = {
    "saver": Oracle("TensorFlow checkpoint", "openai"),
    "saver_training": Oracle("TensorFlow checkpoint, 4 data files", "openai"),
    "torch_sharded": Oracle("PyTorch zip, sharded", "huggingface"),
    "torch_legacy": Oracle("PyTorch stream", "huggingface"),
    "keras": Oracle("Keras HDF5", "tf_keras"),
    "keras_safetensors": Oracle("safetensors", "tf_keras"),
    "onnx": Oracle("ONNX", "huggingface"),
    "onnx_external": Oracle("ONNX", "huggingface"),
    "ctranslate2": Oracle("CTranslate2", "ctranslate2"),
    "ctranslate2_float16": Oracle("CTranslate2", "ctranslate2", stored=torch.float16),
    "deepspeed_zero3": Oracle("DeepSpeed ZeRO-3, 2 ranks", "huggingface"),
    "deepspeed_zero3_frozen": Oracle("DeepSpeed ZeRO-3, 3 ranks", "huggingface"),
    "lightning": Oracle("PyTorch zip", "huggingface"),
    "lightning_sharded": Oracle("PyTorch distributed checkpoint", "huggingface"),
    "megatron": Oracle("Megatron-LM, 3 x 2 ranks", "megatron"),
    "flax": Oracle("Flax MessagePack", "flax"),
    "flax_bfloat16": Oracle("Flax MessagePack", "flax", stored=torch.bfloat16),
    "flax_base": Oracle("Flax MessagePack", "flax"),
    "flax_untied": Oracle("Flax MessagePack", "flax", untied=True),
}


@pytest.fixture
def folder(name: str, tmp_path: Path) -> Path:
    """The oracle's folder, or a copy in which what is compressed is not."""
    if not any((FILES / name).rglob("*.gz")):
        return FILES / name
    shutil.copytree(FILES / name, tmp_path, dirs_exist_ok=True)
    for path in tmp_path.rglob("*.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
    return tmp_path


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("name", ORACLES)
def test_a_file_of_its_own_program_holds_the_weights_that_went_in(name: str, folder: Path, mmap: bool) -> None:
    oracle = ORACLES[name]
    model = GPTModel.from_pretrained(folder, mmap=mmap)
    assert (model.load_report.form, model.load_report.layout) == (oracle.form, oracle.layout)
    assert model.config.tie_word_embeddings is not oracle.untied
    expected = weights()
    if oracle.untied:
        expected["lm_head.weight"] = 2 * expected["wte.weight"]
    found = dict(model.named_parameters())
    assert found.keys() == expected.keys()
    assert not [name for name in expected if not torch.equal(found[name], expected[name].to(oracle.stored))]


@pytest.mark.parametrize("name", ["deepspeed_zero2_bf16"])
def test_what_was_trained_is_what_deepspeeds_own_program_puts_together(name: str, folder: Path) -> None:
    container = open_checkpoint(folder).container
    assert container.form == "DeepSpeed ZeRO, 2 ranks"
    expected = {each: torch.from_numpy(values) for each, values in np.load(folder / "float32.npz").items()}
    found = {each: tensor.read() for each, tensor in container.tensors.items()}
    assert found.keys() == expected.keys()
    assert not [each for each in expected if not torch.equal(found[each], expected[each])]
    assert not [each for each, values in found.items() if torch.equal(values.bfloat16().float(), values)], "not trained"


@pytest.mark.parametrize("name", [path.parent.name for path in sorted(FILES.glob("*/logits.npy"))])
def test_the_logits_are_those_of_the_program_that_wrote_the_file(name: str, folder: Path) -> None:
    expected = torch.from_numpy(np.load(folder / "logits.npy"))
    assert expected.shape == (2, 11, 31) and expected.std() > 1  # so that there is something to be wrong about
    found = logits(GPTModel.from_pretrained(folder, dtype=torch.float32))
    torch.testing.assert_close(found, expected, rtol=0, atol=SAME)


@pytest.mark.parametrize(("name", "bits"), [("ctranslate2_int8", 8), ("ctranslate2_int16", 11)])
def test_a_quantised_matrix_is_within_half_a_step_of_what_went_in(name: str, bits: int) -> None:
    """CTranslate2 spreads a row, or for int16 a matrix, over 127 or 1,024 steps on each side of zero."""
    found = dict(GPTModel.from_pretrained(FILES / name).named_parameters())
    for parameter, expected in weights().items():
        is_matrix = expected.dim() == 2 and parameter != "wpe.weight"
        rows = expected if parameter == "wte.weight" else expected.t()
        largest = rows.abs().amax(-1, keepdim=True) if bits == 8 else rows.abs().amax()
        step = largest / {8: 127, 11: 1024}[bits] if is_matrix else torch.zeros(1)
        differences = (found[parameter].t() - rows).abs() if rows is not expected else found[parameter] - expected
        # Half a step; dividing by the scale rounds once more, by 2^-24 of the value.
        assert bool((differences.abs() <= 0.5 * step + 1e-6 * expected.abs().max()).all()), parameter


def test_the_state_of_a_training_run_is_named_and_left_out() -> None:
    report = GPTModel.from_pretrained(FILES / "saver_training").load_report
    assert len(report.loaded) == 148
    assert len(report.ignored) == 2 * 148 + 3
    container = open_checkpoint(FILES / "saver_training").container
    slots = [tensor.read() for name, tensor in container.tensors.items() if name.endswith("/Adam_1")]
    assert all(slot.count_nonzero() == slot.numel() for slot in slots)  # it had been trained: the file has a state
    assert container.tensors["global_step"].read().item() == 3


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("saver_partitioned", r"model\.ckpt\.index: tensor 'model/wte' is stored in slices\n  hint: .* save it whole"),
        ("saver_objects", r"tensor '_CHECKPOINTABLE_OBJECT_GRAPH' .*\n  hint: a TensorFlow 2 object checkpoint\?"),
    ],
)
def test_other_things_that_tensorflow_saves_are_called_by_their_name(name: str, complaint: str) -> None:
    with pytest.raises(FormatError, match=complaint):
        open_checkpoint(FILES / name)


# ------------------------------------------------------------------------------------------- what is written here, read


def test_what_is_written_is_what_tensorflow_writes_byte_for_byte(tmp_path: Path) -> None:
    convert(SOURCE, tmp_path, "openai")
    theirs = {path.name: path.read_bytes() for path in (FILES / "saver").iterdir()}
    assert {path.name for path in tmp_path.iterdir()} == theirs.keys()
    assert [name for name, content in theirs.items() if (tmp_path / name).read_bytes() != content] == []


LINEAR = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")  # what llama.cpp's converter transposes


def gguf_names() -> dict[str, str]:
    """Our canonical name -> llama.cpp's, by its own table."""
    table = llama_cpp.get_tensor_name_map(llama_cpp.MODEL_ARCH.GPT2, 12)
    return {name: table.get_name(name, try_suffixes=(".weight", ".bias")) for name in weights()}


def test_gguf_by_llama_cpps_own_package_and_table_of_names(tmp_path: Path) -> None:
    writer = llama_cpp.GGUFWriter(tmp_path / "x.gguf", "gpt2")
    writer.add_block_count(12)
    writer.add_context_length(11)
    writer.add_embedding_length(6)
    writer.add_feed_forward_length(24)
    writer.add_head_count(3)
    writer.add_layer_norm_eps(1e-5)
    for name, theirs in gguf_names().items():
        array = weights()[name].numpy()
        writer.add_tensor(theirs, np.ascontiguousarray(array.T) if name.endswith(LINEAR) else array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = dict(GPTModel.from_pretrained(tmp_path / "x.gguf").named_parameters())
    assert found.keys() == weights().keys()
    assert not [name for name, tensor in weights().items() if not torch.equal(found[name], tensor)]


def reference(state: dict[str, Tensor]) -> GPT2LMHeadModel:
    model = GPT2LMHeadModel(GPT2Config.from_pretrained(SOURCE)).eval()
    model.transformer.load_state_dict(state)
    return model


def test_ggufs_reader_finds_a_model_with_equal_logits(tmp_path: Path) -> None:
    path = convert(SOURCE, tmp_path / "x.gguf", "gguf").destination
    tensors = {tensor.name: torch.from_numpy(tensor.data.copy()) for tensor in llama_cpp.GGUFReader(path).tensors}
    state = {ours: tensors.pop(theirs) for ours, theirs in gguf_names().items()}
    assert not tensors
    state = {name: tensor.t() if name.endswith(LINEAR) else tensor for name, tensor in state.items()}
    assert torch.equal(logits(reference(state)), logits(reference(weights())))


@pytest.mark.slow  # TensorFlow takes 5 seconds to import, and is imported twice
def test_tensorflow_opens_what_is_written_and_writes_the_same(tmp_path: Path) -> None:
    python = os.environ.get("GPT2_TENSORFLOW_PYTHON")
    if python is None:
        pytest.skip("GPT2_TENSORFLOW_PYTHON names no Python with TensorFlow")
    convert(SOURCE, tmp_path, "openai")
    program = FILES.parent / "tensorflow_saver.py"
    run = subprocess.run([python, program, "check", tmp_path], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert "148 variables equal; checkpoint, hparams.json" in run.stdout
    data = tmp_path / "model.ckpt.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-1] + b"\0")  # so that the judge is seen to judge
    assert subprocess.run([python, program, "check", tmp_path], capture_output=True, timeout=300).returncode != 0
