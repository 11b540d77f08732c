"""`save_pretrained` and `convert(to="huggingface")` are one writer: the same refusals, the same companions."""

import json
import sys
from pathlib import Path

import pytest
import torch

from gpt2_from_scratch import GPTModel, load_tokenizer
from gpt2_from_scratch.converting import TARGETS, convert
from gpt2_from_scratch.errors import CheckpointError, MappingError

NAME = r"h\.3\.mlp\.c_fc\.weight"


@pytest.fixture
def model() -> GPTModel:
    return GPTModel.from_pretrained("tiny")


@pytest.mark.parametrize(
    ("value", "dtype", "complaint"),
    [
        (1e6, torch.float16, r"has values up to 1e\+06, float16 ends at 6\.55e\+04"),
        (float("nan"), None, "has 1 of .* values that are NaN or infinite"),
        (float("inf"), torch.bfloat16, "has 1 of .* values that are NaN or infinite"),
    ],
)
def test_what_a_dtype_cannot_hold_is_refused_by_name(
    model: GPTModel, value: float, dtype: torch.dtype | None, complaint: str, tmp_path: Path
) -> None:
    with torch.no_grad():
        model.h[3].mlp.c_fc.weight[0, 0] = value
    with pytest.raises(MappingError, match=f"GPTModel: {NAME} {complaint}"):
        model.save_pretrained(tmp_path, dtype=dtype)
    assert not list(tmp_path.iterdir())


def test_both_write_the_same_files(model: GPTModel, tmp_path: Path) -> None:
    convert("tiny", tmp_path / "converted", "huggingface", dtype=torch.bfloat16)
    report = model.save_pretrained(tmp_path / "saved", dtype=torch.bfloat16)
    converted, saved = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in ("converted", "saved"))
    assert converted == saved
    assert any("rounded by up to" in note for note in report.notes)


def test_progress_is_told_of_every_byte(model: GPTModel, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    model.save_pretrained(tmp_path, progress=lambda done, of: seen.append((done, of)))
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1] > 0


def test_the_tokenizer_travels_unless_it_is_not_wanted(model: GPTModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "with")
    assert load_tokenizer(tmp_path / "with").encode("hello") == load_tokenizer("tiny").encode("hello")
    model.save_pretrained(tmp_path / "without", tokenizer=False)
    assert sorted(path.name for path in (tmp_path / "without").iterdir()) == ["config.json", "model.safetensors"]


def test_a_model_that_was_never_loaded_has_no_tokenizer(model: GPTModel, tmp_path: Path) -> None:
    GPTModel(model.config).save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("to", ["huggingface", "nanogpt", "gguf"])
def test_the_generation_config_travels_where_there_is_a_place_for_it(to: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    GPTModel.from_pretrained("tiny").save_pretrained(source)
    content = json.dumps({"eos_token_id": [1, 2], "repetition_penalty": 1.3})
    (source / "generation_config.json").write_text(content)
    convert(source, tmp_path / "out", to)
    written = tmp_path / "out" / "generation_config.json"
    assert (written.read_text() if written.exists() else None) == (None if to == "gguf" else content)


def test_what_a_link_points_to_is_not_copied(tmp_path: Path) -> None:
    (tmp_path / "private").write_text("{}")
    source = tmp_path / "source"
    GPTModel.from_pretrained("tiny").save_pretrained(source)
    for name in ("tokenizer_config.json", "generation_config.json"):
        (source / name).symlink_to(tmp_path / "private")
    report = convert(source, tmp_path / "out", "huggingface")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]
    assert ["is a link to" in note for note in report.notes] == [True, True]


def test_gguf_needs_its_package_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)  # as if it were not installed
    with pytest.raises(CheckpointError, match=r"the package `gguf`, which writes it, is not installed\n.*pip install"):
        convert("tiny", tmp_path / "x.gguf", "gguf")
    assert not list(tmp_path.iterdir())


def test_what_the_source_does_not_say_is_called_assumed(tmp_path: Path) -> None:
    path = convert("tiny", tmp_path / "x.pt", "nanogpt").destination
    (tmp_path / "config.json").unlink()
    report = convert(path, tmp_path / "out", "huggingface")
    assert [text.split(" (")[0] for text in report.assumed] == ["activation_function gelu", "layer_norm_epsilon 1e-05"]
    assert "assumed, as the source does not say it: activation_function gelu (nanoGPT's since" in str(report)
    assert convert("tiny", tmp_path / "said", "huggingface").assumed == ()


@pytest.mark.parametrize("to", TARGETS)
def test_of_two_writers_to_one_place_the_second_is_refused(to: str, tmp_path: Path) -> None:
    """Both looked when nothing was there; the other one was done first, and its files stay."""
    convert("tiny", tmp_path / "other", to)
    names = sorted(path.name for path in (tmp_path / "other").iterdir())
    out = tmp_path / "out"

    def progress(done: int, of: int) -> None:
        if done == of:
            for name in names:
                (out / name).write_bytes(b"theirs")

    with pytest.raises(CheckpointError, match=r"cannot write .*it is there already"):
        convert("tiny", out, to, progress=progress)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == dict.fromkeys(names, b"theirs")
