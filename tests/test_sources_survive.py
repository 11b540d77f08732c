"""No command destroys what it reads, whatever name its output is given by."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gpt2_from_scratch.checkpoint import TINY
from tests.test_cli import run

CODE = """
import helper
from gpt2_from_scratch import GPTModel, open_checkpoint
from gpt2_from_scratch.layouts import LAYOUTS

LAYOUT = LAYOUTS["huggingface"][0]

def build():
    return GPTModel(open_checkpoint("tiny").config)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint beside code, under several names."""
    folder = tmp_path / "mine"
    shutil.copytree(TINY, folder)
    (folder / "code.py").write_text(CODE)
    (folder / "helper.py").write_text("")
    (folder / "generation_config.json").write_text("{}")
    os.link(folder / "model.safetensors", folder / "second_name.json")
    (folder / "link.json").symlink_to("model.safetensors")
    (tmp_path / "alias").symlink_to(folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "weights.pt")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


Command = Callable[[Path], tuple[object, ...]]
COMMANDS: dict[str, Command] = {
    "record onto the weights": lambda f: ("record", f, f / "model.safetensors"),
    "record onto the weights by an alias": lambda f: ("record", f, f.parent / "alias" / "model.safetensors"),
    "record onto the weights by dots": lambda f: ("record", f, f / ".." / "mine" / "model.safetensors"),
    "a report onto the weights": lambda f: ("verify", f, "--json", f / "model.safetensors"),
    "a report onto the configuration": lambda f: ("verify", f, "--html", f / "config.json"),
    "a report onto the tokenizer": lambda f: ("verify", f, "--junit-xml", f.parent / "alias" / "vocab.json"),
    "a report onto the generation settings": lambda f: ("verify", f, "--json", f / "generation_config.json"),
    "a report onto another name of the weights": lambda f: ("verify", f, "--json", f / "second_name.json"),
    "a report onto a link to the weights": lambda f: ("verify", f, "--json", f / "link.json"),
    "a report onto the model's code": lambda f: ("verify", "--model", f"{f}/code.py:build()", "--json", f / "code.py"),
    "a report onto a layout": lambda f: ("verify", f, "--file-layout", f"{f}/code.py:LAYOUT", "--html", f / "code.py"),
    "a report onto recorded answers": lambda f: (
        "verify",
        f,
        "--outputs",
        f / "weights.pt",
        "--json",
        f / "weights.pt",
    ),
    "a report about what does not open": lambda f: ("verify", f, "--set", "n_head=7", "--json", f / "config.json"),
    "convert onto the source": lambda f: ("convert", f, f, "--to", "huggingface", "--overwrite"),
    "convert onto the source by an alias": lambda f: (
        *("convert", f, f.parent / "alias", "--to", "huggingface", "--overwrite", "--dtype", "bfloat16"),
    ),
    "convert onto the source's file": lambda f: ("convert", f, f / "model.safetensors", "--to", "mlx", "--overwrite"),
    "convert onto the source's configuration": lambda f: (
        *("convert", f / "weights.pt", f, "--to", "huggingface", "--overwrite", "--dtype", "bfloat16"),
    ),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_what_is_read_is_never_replaced(command: Command, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(folder)
    code, out, err = run(capsys, *command(folder))
    assert code == 2 and "is the source itself" in err, out + err
    assert contents(folder) == before


def test_code_that_was_imported_meanwhile_is_not_replaced(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a model's file imports is known when it has run; the verdict counts, and the report is not written."""
    skip = [word for part in ("logits", "generation", "where") for word in ("--skip", part)]
    options = ("--layout", "gpt2_from_scratch", "--json", folder / "helper.py")
    code, _, err = run(capsys, "verify", folder, "--model", f"{folder}/code.py:build()", *skip, *options)
    assert code == 0 and "helper.py was not written" in err and "is the source itself" in err
    assert (folder / "helper.py").read_bytes() == b""


def test_a_form_beside_the_source_leaves_its_neighbours(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(folder)
    code, _, err = run(capsys, "convert", folder, folder, "--to", "nanogpt")
    assert code == 0, err
    assert {name: content for name, content in contents(folder).items() if name != "ckpt.pt"} == before


def test_two_reports_have_two_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "verify", folder, "--json", folder / "r", "--html", folder / "." / "r")
    assert code == 2 and "two reports" in err


def test_answers_are_not_replaced_by_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.npz", "a.safetensors"):
        assert run(capsys, "record", "tiny", tmp_path / name)[0] == 0
        assert run(capsys, "record", "tiny", tmp_path / name)[0] == 0  # prompts alone may be written again
    answered = {**load_file(tmp_path / "a.safetensors"), "logits.0": torch.zeros(1, 1, 512)}
    save_file(answered, tmp_path / "a.safetensors")
    code, _, err = run(capsys, "record", "tiny", tmp_path / "a.safetensors")
    assert code == 2 and "is there, and holds answers" in err
    (tmp_path / "b.npz").write_text(json.dumps({}))
    code, _, err = run(capsys, "record", "tiny", tmp_path / "b.npz")
    assert code == 2 and "holds something else than prompts" in err
