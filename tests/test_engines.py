"""Models of other engines as candidates: right ones pass, wrong ones fail, and what cannot be opened is said."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch

from gpt2_from_scratch import GPTModel, verify
from gpt2_from_scratch.building import Loaded
from gpt2_from_scratch.checks.quantized import is_quantization_of
from gpt2_from_scratch.cli import main
from gpt2_from_scratch.engines import is_engine_model, load_engine_model
from gpt2_from_scratch.errors import CandidateError
from gpt2_from_scratch.loading import TINY, open_checkpoint
from tests.perturbed import ours, perturbed

IDS = torch.arange(21).view(3, 7)


def in_ctranslate2(
    folder: Path, quantization: str | None = None, weights: Path | None = None, **config: object
) -> Path:
    """The model inside the package as CTranslate2's own converter writes it, with other fields of config.json."""
    source = open_checkpoint(TINY).located.directory
    shutil.copytree(source, folder / "source")
    if weights is not None:
        shutil.copy(weights / "model.safetensors", folder / "source")
    settings = json.loads((source / "config.json").read_text())
    (folder / "source" / "config.json").write_text(json.dumps(settings | config))
    ctranslate2 = pytest.importorskip("ctranslate2")
    ctranslate2.converters.TransformersConverter(str(folder / "source")).convert(
        str(folder / "model"), quantization=quantization
    )
    return folder / "model"


def test_ctranslate2_is_verified_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = in_ctranslate2(tmp_path)
    assert main(["verify", "tiny", "--model", str(model)]) == 0
    printed = capsys.readouterr().out
    assert "computed by CTranslate2 " in printed
    assert "PASSED  model gives GPT-2's logits" in printed


def test_another_activation_in_ctranslate2_fails_and_is_named(tmp_path: Path) -> None:
    verdict = verify(load_engine_model(in_ctranslate2(tmp_path, activation_function="gelu")))
    assert not verdict
    assert verdict.diagnosis is not None
    assert [fault.name for fault in verdict.diagnosis.faults] == ["gelu_erf"]


def test_a_program_of_torch_export_is_verified_with_its_weights(tmp_path: Path) -> None:
    model = ours(perturbed(n_layer=2))
    model.save_pretrained(tmp_path / "checkpoint")
    batch, length = torch.export.Dim("B", max=8), torch.export.Dim("T", max=model.config.n_positions)
    program = torch.export.export(model, (IDS,), dynamic_shapes=({0: batch, 1: length},))
    torch.export.save(program, tmp_path / "program.pt2")
    loaded = load_engine_model(tmp_path / "program.pt2")
    with torch.inference_mode():
        for length in (1, 7, model.config.n_positions):  # the length was left open
            ids = torch.arange(length)[None]
            torch.testing.assert_close(loaded.object(ids), model(ids), rtol=0, atol=0)
    verdict = verify(loaded, tmp_path / "checkpoint", skip=("generation",))
    assert verdict
    assert verdict.weights is not None


def onnx_model(path: Path, inputs: dict[str, tuple[int, list[object]]], vocab: int = 5) -> Path:
    """A model that embeds its ids; the other inputs are only asked for."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    table = numpy.random.default_rng(0).normal(size=(vocab, vocab)).astype(numpy.float32)
    nodes = [helper.make_node("Gather", ["table", next(iter(inputs))], ["logits"])]
    nodes += [helper.make_node("Identity", [name], [f"{name}.out"]) for name in list(inputs)[1:]]
    given = [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()]
    given_out = [helper.make_tensor_value_info(f"{name}.out", *inputs[name]) for name in list(inputs)[1:]]
    logits = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["B", "T", vocab])
    graph = helper.make_graph(nodes, "g", given, [*given_out, logits], [onnx.numpy_helper.from_array(table, "table")])
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


INT64, INT32, FLOAT, BOOL = 7, 6, 1, 9  # of onnx.TensorProto


@pytest.mark.parametrize(
    "inputs",
    [
        {"tokens": (INT64, ["B", "T"])},
        {"tokens": (INT32, ["B", "T"])},
        {
            "input_ids": (INT64, ["B", "T"]),
            "attention_mask": (INT64, ["B", "past + T"]),
            "position_ids": (INT64, ["B", "T"]),
            "past_key_values.0.key": (FLOAT, ["B", 4, "past", 16]),
            "use_cache_branch": (BOOL, [1]),
        },
    ],
)
def test_an_onnx_model_is_given_what_it_asks_for(tmp_path: Path, inputs: dict[str, tuple[int, list[object]]]) -> None:
    model = load_engine_model(onnx_model(tmp_path / "m.onnx", inputs)).object
    logits = model(torch.tensor([[0, 1, 4], [4, 4, 2]]))
    assert logits.shape == (2, 3, 5)
    torch.testing.assert_close(logits[0, 2], logits[1, 0], rtol=0, atol=0)
    assert not torch.equal(logits[0, 0], logits[0, 1])


def test_an_onnx_input_that_is_unknown_is_named(tmp_path: Path) -> None:
    path = onnx_model(tmp_path / "m.onnx", {"ids": (INT64, ["B", "T"]), "mystery": (FLOAT, ["B"])})
    with pytest.raises(
        CandidateError, match=r"one input for the ids; its inputs are ids .*, mystery \(tensor\(float\)\)"
    ):
        load_engine_model(path)


def test_an_engine_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.onnx").write_bytes(b"x")
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(CandidateError, match="cannot be imported") as error:
        load_engine_model(tmp_path / "m.onnx")
    assert error.value.hint == "pip install onnxruntime"


@pytest.mark.parametrize("name", ["m.onnx", "m.pt2"])
def test_a_damaged_model_is_said(tmp_path: Path, name: str) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / name).write_bytes(b"not a model")
    with pytest.raises(CandidateError, match=f"cannot open .*{name}"):
        load_engine_model(tmp_path / name)


def test_what_is_no_engines_model(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"")
    for path in (tmp_path, tmp_path / "missing.onnx", "my_gpt2.py:model"):
        assert not is_engine_model(path)
        with pytest.raises(CandidateError, match="not a model of an engine"):
            load_engine_model(path)


def test_quantised_weights_are_judged_by_what_their_rounding_does(tmp_path: Path) -> None:
    verdict = verify(load_engine_model(in_ctranslate2(tmp_path, "int8")))
    assert verdict
    assert verdict.logits is not None
    assert verdict.logits.quantized
    assert 0.3 < verdict.logits.multiple < 4
    assert verdict.logits.floor > 1e-3 > verdict.logits.kl / 10  # thousands of times float32's floor
    assert any("quantisation of its weights" in part for part in verdict.unchecked)


@pytest.mark.parametrize(("heads", "passes"), [(4, True), (2, False)])
def test_few_bits_do_not_hide_a_wrong_model(tmp_path: Path, heads: int, passes: bool) -> None:
    """Four bits move logits by a quarter of the largest, so such a model is compared with one of the same weights."""
    model = GPTModel.from_pretrained()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and not name.startswith("wpe"):
                inputs = weight.t() if name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")) else weight
                blocks = inputs.reshape(-1, 32)
                step = blocks.abs().amax(-1, keepdim=True) / 7
                rounded = ((blocks / step).round() * step).view_as(inputs)
                weight.copy_(rounded.t() if inputs is not weight else rounded)
    model.save_pretrained(tmp_path)
    wrong = GPTModel(replace(model.config, n_head=heads)).eval()
    wrong.load_state_dict(model.state_dict())
    engine = Loaded(lambda ids: wrong(ids), engine="a program", file=tmp_path)
    verdict = verify(engine, diagnose_seconds=0)
    assert bool(verdict) is passes
    assert verdict.logits is not None
    assert verdict.logits.quantized
    assert verdict.logits.kl > 1e-2  # from the checkpoint's own weights, whatever the verdict
    assert (verdict.logits.multiple < 0.1) if passes else (verdict.logits.multiple > 10)


def test_other_weights_are_not_taken_for_quantised_ones(tmp_path: Path) -> None:
    """A fine-tuned model, quantised: its weights are off by more than a step of the grid."""
    model = GPTModel.from_pretrained()
    with torch.no_grad():
        for block in model.h:
            block.mlp.c_fc.weight.mul_(1.02)
    model.save_pretrained(tmp_path / "tuned")
    folder = in_ctranslate2(tmp_path, "int8", tmp_path / "tuned")
    verdict = verify(load_engine_model(folder), diagnose_seconds=0)
    assert not verdict
    assert verdict.logits is not None
    assert not verdict.logits.quantized


@pytest.mark.parametrize(("bits", "block"), [(8, 64), (8, 32), (4, 32), (5, 16)])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_grid_is_told_from_other_numbers(bits: int, block: int, transposed: bool) -> None:
    weight = torch.randn(48, 64, generator=torch.Generator().manual_seed(bits))
    blocks = weight.view(-1, block)
    step = blocks.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
    rounded = ((blocks / step).round() * step).view_as(weight)
    turn = torch.t if transposed else torch.clone
    assert is_quantization_of(turn(rounded), turn(weight))
    one_off = weight.clone()
    one_off[5, 7] += 3 * step.max()
    assert not is_quantization_of(turn(rounded), turn(one_off))
    nearby = weight + 1e-3 * torch.randn(48, 64, generator=torch.Generator().manual_seed(1))  # float32, fine-tuned
    assert not is_quantization_of(turn(nearby), turn(weight))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_to_another_type_is_no_quantisation(dtype: torch.dtype) -> None:
    weight = torch.randn(48, 64, generator=torch.Generator().manual_seed(0))
    assert not is_quantization_of(weight.to(dtype).float(), weight)


@pytest.mark.slow  # the exporter takes half a minute
def test_our_own_export_to_onnx_is_verified(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    tiny = GPTModel.from_pretrained()
    batch, length = torch.export.Dim("B", max=8), torch.export.Dim("T", max=tiny.config.n_positions)
    path = tmp_path / "tiny.onnx"
    torch.onnx.export(tiny, (IDS,), path, dynamo=True, dynamic_shapes=({0: batch, 1: length},), verbose=False)
    assert verify(load_engine_model(path))


def test_somebody_elses_onnx_file_is_verified_against_its_own_weights(shared_checkpoints: Path) -> None:
    pytest.importorskip("onnxruntime")
    folder = shared_checkpoints / "capp-gpt-onnx"
    verdict = verify(load_engine_model(folder), folder, skip=("generation",))
    assert verdict
    assert verdict.logits is not None
    assert verdict.logits.multiple > 0  # other kernels than the reference's
