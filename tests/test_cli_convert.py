"""`gpt2 convert`, and what `gpt2 inspect` says of the numbers in a file."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gpt2_from_scratch import open_checkpoint
from gpt2_from_scratch.cli import arguments, main
from gpt2_from_scratch.converting import TARGETS
from gpt2_from_scratch.inspecting import VERSION, inspect_checkpoint
from gpt2_from_scratch.loading import TINY


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def edited(folder: Path, edit: Callable[[dict[str, Tensor]], Any]) -> Path:
    """The model inside the package, with other tensors."""
    shutil.copytree(TINY, folder)
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


# --------------------------------------------------------------------------------------------------------- convert


def test_the_forms_of_the_help_are_those_that_can_be_written() -> None:
    assert set(arguments.FORMS) == set(TARGETS)


def test_convert_writes_and_says_what(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "x.gguf"
    code, said, err = run(capsys, "convert", TINY, out, "--to", "gguf", "--dtype", "float16")
    assert code == 0 and err == "" and said.startswith(f"{out}: gguf, float16, 148 tensors, ") and "rounded by" in said
    code, said, err = run(capsys, "convert", TINY, out, "--to", "gguf")
    assert code == 2 and said == "" and "holds x.gguf already" in err and "hint: " in err
    code, said, _ = run(capsys, "convert", TINY, out, "--to", "gguf", "--overwrite")
    assert code == 0 and "float32" in said and "bit for bit" in said
    code, said, _ = run(capsys, "verify", out)
    assert code == 0 and said.splitlines()[-1].startswith("PASSED")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--to", "gpt3"], "'gpt3' is not a form that can be written"),
        (["--to", "gguf", "--set", "activation_function=gelu"], "llama.cpp cannot express this model"),
        (["--to", "gguf", "--set", "n_head"], "--set n_head is not KEY=VALUE"),
        (["--to", "gguf", "--set", "heads=6"], "GPTConfig has no field 'heads'"),
        (["--to", "gguf", "--set", 'n_head="4"'], "n_head is '4'; it must be an integer"),
        (["--to", "gguf", "--ignore", "h.0.attn.bias"], "has no tensor 'h.0.attn.bias' to ignore"),
        (["--to", "nanogpt", "--no-bias"], "these biases are not zero in the checkpoint"),
    ],
)
def test_what_cannot_be_converted_exits_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str, tmp_path: Path
) -> None:
    code, out, err = run(capsys, "convert", TINY, tmp_path / "out", *arguments)
    assert code == 2 and out == "" and complaint in err and "Traceback" not in err and not list(tmp_path.iterdir())


def test_a_tokenizer_is_named_for_a_bare_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    bare = tmp_path / "x.pt"
    assert run(capsys, "convert", TINY, bare, "--to", "nanogpt")[0] == 0
    code, said, _ = run(capsys, "convert", bare, tmp_path / "out", "--tokenizer", TINY)
    assert code == 0 and f"the tokenizer is that of {TINY}" in said
    assert (tmp_path / "out" / "vocab.json").read_bytes() == (TINY / "vocab.json").read_bytes()
    code, said, err = run(capsys, "convert", bare, tmp_path / "no", "--tokenizer", tmp_path / "missing")
    assert code == 2 and said == "" and "missing does not exist" in err and "hint: " in err


def test_settings_and_ignored_tensors_reach_the_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A state dict alone does not say its heads, and this one has a tensor of somebody else's in it."""
    folder = edited(tmp_path / "source", lambda tensors: tensors.update({"score.weight": torch.ones(2, 64)}))
    (folder / "config.json").unlink()
    code, out, _ = run(capsys, "inspect", folder)
    assert code == 0 and "not opened" in out and "score.weight [2, 64] float32" in out
    told = ["--ignore", "score.weight", "--set", "n_head=4", "--set", "activation_function=gelu_new"]
    code, out, _ = run(capsys, "inspect", folder, *told)
    assert code == 0 and "4 heads" in out and "score.weight: left out on request" in out
    code, _, _ = run(capsys, "convert", folder, tmp_path / "x.pt", "--to", "nanogpt", *told)
    assert code == 0 and open_checkpoint(tmp_path / "x.pt").config.n_head == 4


# --------------------------------------------------------------------------------------------------------- inspect


def test_json_holds_all_that_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "inspect", "--json")
    found = json.loads(out)
    assert code == 0 and err == "" and found["version"] == VERSION == 1
    assert (found["form"], found["layout"], found["dtype"], found["tied"]) == (
        "safetensors",
        "huggingface",
        "float32",
        True,
    )
    assert found["tokenizer"] == ["vocab.json", "merges.txt"] and found["warnings"] == [] and found["identity"] is None
    assert found["config"]["n_layer"] == 12 and found["files"].keys() == {"model.safetensors"}
    for name, tensor in load_file(TINY / "model.safetensors").items():
        numbers, exact = found["statistics"][name.removeprefix("transformer.")], tensor.double()
        assert numbers["shape"] == list(tensor.shape) and numbers["dtype"] == "float32"
        assert (numbers["minimum"], numbers["maximum"]) == (float(tensor.min()), float(tensor.max()))
        # Two orders of summation in float64, over at most 50,000 values: 1e-16 * sqrt(50,000), with room.
        assert numbers["mean"] == pytest.approx(float(exact.mean()), rel=1e-9, abs=1e-12)
        assert numbers["std"] == pytest.approx(float(exact.std(correction=0)), rel=1e-9)
        assert (numbers["zeros"], numbers["nan"], numbers["infinite"]) == (int((tensor == 0).sum()), 0, 0)


def test_quick_reads_no_weights(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from gpt2_from_scratch.loading import Checkpoint

    monkeypatch.setattr(Checkpoint, "read", lambda self, name: pytest.fail(f"{name} was read"))
    code, out, _ = run(capsys, "inspect", "--quick", "--json")
    assert code == 0 and json.loads(out)["statistics"] == {}


def spoil(tensors: dict[str, Tensor]) -> None:
    tensors["transformer.h.2.mlp.c_fc.bias"][1] = torch.nan
    tensors["transformer.h.2.mlp.c_fc.bias"][3:5] = -torch.inf
    tensors["transformer.h.5.attn.c_attn.weight"].zero_()
    for name in list(tensors):
        if name.startswith("transformer.h.7."):
            tensors[name] = tensors[name.replace("h.7.", "h.10.")].clone()


def test_strange_numbers_are_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = edited(tmp_path / "spoilt", spoil)
    code, out, _ = run(capsys, "inspect", folder)
    assert code == 0
    warnings = [line.split(maxsplit=1)[1] for line in out.splitlines() if line.startswith("  warning")]
    assert warnings == [
        "h.2.mlp.c_fc.bias: of 256 values, 1 are NaN and 2 infinite",
        "all zero: h.5.attn.c_attn.weight",
        "layer 10 is bit for bit layer 7: copied, or saved from a wrong loop",
    ]
    found = json.loads(run(capsys, "inspect", folder, "--json")[1])["statistics"]["h.2.mlp.c_fc.bias"]
    assert (found["nan"], found["infinite"]) == (1, 2) and all(abs(found[name]) < 10 for name in ("minimum", "maximum"))


def test_nothing_finite_has_no_statistics(tmp_path: Path) -> None:
    folder = edited(tmp_path / "nan", lambda tensors: tensors["transformer.ln_f.bias"].fill_(torch.nan))
    numbers = inspect_checkpoint(open_checkpoint(folder)).statistics["ln_f.bias"]
    assert (numbers.minimum, numbers.maximum, numbers.mean, numbers.std, numbers.nan) == (None, None, None, None, 64)


def test_layers_that_nearly_repeat_are_not_called_equal(tmp_path: Path) -> None:
    """Equal statistics are no proof: here, two values have changed places."""

    def nearly(tensors: dict[str, Tensor]) -> None:
        spoil(tensors)
        weight = tensors["transformer.h.7.attn.c_proj.weight"]
        weight[0, :2] = weight[0, :2].flip(0)

    inspection = inspect_checkpoint(open_checkpoint(edited(tmp_path / "nearly", nearly)))
    assert not [warning for warning in inspection.warnings if "bit for bit" in warning]


def test_official_files_are_recognised(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from gpt2_from_scratch.inspecting import official as identity

    size = (TINY / "model.safetensors").stat().st_size
    known = {"model": "gpt2", "file": "model.safetensors", "bytes": size, "sha256": "0" * 64}
    monkeypatch.setattr(identity, "_table", lambda: {"files": [known], "tensors": {}})
    assert "is as long as the official file, gpt2's model.safetensors; its content" in run(capsys, "inspect")[1]
    assert "and has another content" in run(capsys, "inspect", "--checksum")[1]
