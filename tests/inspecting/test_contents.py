"""`gpt2 inspect` never fails on a readable file: it says what is there, then what does not fit, then what to do."""

import json
import pickle
from pathlib import Path

import numpy
import pytest
import torch

from gpt2_from_scratch import CheckpointError, GPTModel
from gpt2_from_scratch.converting import convert
from gpt2_from_scratch.inspecting import Contents, Inspection, inspect_checkpoint
from tests.test_cli import run

REAL = {
    "lora-gradience": ("holds a PEFT adapter", "attn.c_attn.lora_A.weight [8, 768] float32"),
    "gguf-vocab-only-gpt2": ("holds a vocabulary and no tensors", ""),
    "image-gpt-teddykoker": ("of no known layout", "gpt.layers.{0...7}.attn.in_proj_weight [48, 16] float32"),
    "gpt-by-hand-sqtian": ("RMSNorm, or LayerNorm without biases", "transformer.h.{0...1}.ln_1.gamma [16] float32"),
    "makemore-nanograd": ("--set n_head=...", "transformer.h.{0...3}.attn.c_attn.weight [192, 64] float32"),
    "negative/training_args.bin": ("the arguments of a training run", ""),
    "negative/lfs_pointer_model.safetensors": ("Git-LFS pointer", ""),
    "negative/html_page_named_model.safetensors": ("is a web page", ""),
    "negative/near_miss_TinyPeLLM_config.json": ("it is JSON", ""),
    "negative/vocab.bpe.crlf": ("a tokenizer's file", ""),
    "negative": ("several checkpoints", ""),
    "gpt2-tokenizer": ("has no weights", ""),
    "openai-124M-index": ("fetch the missing data file", ""),
}


@pytest.mark.parametrize(("name", "texts"), REAL.items(), ids=REAL)
@pytest.mark.parametrize("options", [[], ["--quick"]], ids=["whole", "quick"])
def test_real_files_that_are_no_gpt2(
    name: str,
    texts: tuple[str, str],
    options: list[str],
    shared_checkpoints: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, err = run(capsys, "inspect", shared_checkpoints / name, *options)
    assert (code, err) == (0, "")
    assert all(text in out for text in texts), out
    assert "  files " in out and "  not opened " in out and "  to do " in out
    found = json.loads(run(capsys, "inspect", shared_checkpoints / name, "--json", *options)[1])
    assert found["opens"] is False and found["problem"] and found["hint"]


def test_what_opens_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(run(capsys, "inspect", "--json", "--quick")[1])["opens"] is True
    assert isinstance(inspect_checkpoint("tiny", statistics=False), Inspection)


def test_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        inspect_checkpoint(tmp_path / "nowhere.pt")


def test_what_is_assumed_is_a_row_and_a_field(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = convert("tiny", tmp_path / "x.pt", "nanogpt").destination
    (tmp_path / "config.json").unlink()
    code, out, _ = run(capsys, "inspect", path)
    assert code == 0 and "  assumed     activation_function gelu (nanoGPT's since May 2023" in out
    assert out.count("layer_norm_epsilon 1e-05") == 1  # said once: a row of its own, and no note
    found = json.loads(run(capsys, "inspect", path, "--json", "--set", "activation_function=gelu_new")[1])
    assert found["said"]["activation_function"] == "set by you"
    assert found["said"]["layer_norm_epsilon"] == "assumed" and found["assumed"] == ["layer_norm_epsilon 1e-05"]


def folder_of(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"something else")
    return folder


def test_folders_of_other_programs_are_called_by_their_names(tmp_path: Path) -> None:
    for number, (names, what) in enumerate(
        {
            ("adapter_config.json", "adapter_model.safetensors"): "holds a PEFT adapter",
            ("__0_0.distcp", "__1_0.distcp"): "without their .metadata",
            ("zero_to_fp32.py", "latest"): "is a DeepSpeed checkpoint",
            ("checkpoint-500/config.json", "checkpoint-1500/config.json"): "holds the checkpoints of a training run",
            ("models--gpt2/refs/main", "version.txt"): "is the Hub's cache",
            ("optimizer.pt", "scheduler.pt", "training_args.bin"): "has no weights",
        }.items()
    ):
        found = inspect_checkpoint(folder_of(tmp_path / str(number), *names))
        assert isinstance(found, Contents) and what in found.problem, (names, found)
    run_folder = inspect_checkpoint(tmp_path / "3")
    assert isinstance(run_folder, Contents) and "checkpoint-1500 is the last" in run_folder.hint


def test_files_of_other_kinds_are_called_by_their_names(tmp_path: Path) -> None:
    torch.save({"state": {}, "param_groups": [{"lr": 0.1}]}, tmp_path / "optimizer.pt")
    numpy.save(tmp_path / "x.npy", numpy.zeros(3))
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"a": [1, 2, 3]}))
    kinds = {"optimizer.pt": "no state dict", "x.npy": "one numpy array", "x.pkl": "bare Python pickle"}
    for name, what in kinds.items():
        found = inspect_checkpoint(tmp_path / name)
        assert isinstance(found, Contents) and what in found.problem, name


def test_names_and_bytes_of_a_file_cannot_write_to_the_terminal(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "a\x1b[2Jb.bin"
    path.write_bytes(b"\x1b]0;title\x07 and more of it")
    code, out, _ = run(capsys, "inspect", path)
    assert code == 0 and "\x1b" not in out and "\x07" not in out


def test_a_model_of_our_own_opens_whatever_its_file_is_called(tmp_path: Path) -> None:
    GPTModel.from_pretrained("tiny").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "my_gpt2.safetensors")
    assert isinstance(inspect_checkpoint(tmp_path, statistics=False), Inspection)
    folder = tmp_path / "llm.c"
    convert("tiny", folder, "llm.c")
    assert isinstance(inspect_checkpoint(folder, statistics=False), Inspection)
