"""Whose weights are these? The official ones are half a gigabyte and absent, so a table of our own stands in for them.

What the real table must be without the weights: 148 tensors with the shapes of 124M, and checksums of the right kind.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import torch
from torch import Tensor

from gpt2_from_scratch import GPTConfig, open_checkpoint
from gpt2_from_scratch.checkpoint import tensor_bundle
from gpt2_from_scratch.converting import convert
from gpt2_from_scratch.inspecting import official as identity
from gpt2_from_scratch.inspecting.official import OfficialWeights, crc32c, identify, identify_file
from tests.perturbed import perturbed, save

SETTINGS = {"n_inner": None, "layer_norm_epsilon": 1e-5}


@pytest.fixture
def table() -> Iterator[dict[str, Any]]:
    """The official table; what a test changes in it is undone."""
    identity._table.cache_clear()
    yield dict(identity._table())
    identity._table.cache_clear()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(perturbed(n_inner=None), tmp_path_factory.mktemp("model"))


@pytest.fixture
def official(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> GPTConfig:
    """The perturbed model is the official one: its sizes, and checksums by numpy and the library.

    What is replaced is the outside world: the real one is downloaded by no test.
    """
    config = open_checkpoint(checkpoint).config
    read = open_checkpoint(checkpoint).read
    crcs = {name: google_crc32c.value(read(name).numpy().astype("<f4").tobytes()) for name in config.tensor_shapes()}
    table = {"tensors": {name: f"{crc:08x}" for name, crc in crcs.items()}, "files": []}
    monkeypatch.setattr(identity, "_table", lambda: table)
    monkeypatch.setattr(identity, "GPTConfig", lambda: config)
    return config


def test_the_table_is_of_124m(table: dict[str, Any], shared_checkpoints: Path):
    """Against OpenAI's own index, decoded by the package that reads such files."""
    assert list(table["tensors"]) == list(GPTConfig().tensor_shapes())
    _, entries = tensor_bundle._read_index(shared_checkpoints / "openai-124M-index" / "model.ckpt.index")
    from gpt2_from_scratch.layouts import LAYOUTS

    links = [link for link in LAYOUTS["openai"][0].unroll(GPTConfig()) if not link.tied_to]
    assert {link.canonical: f"{entries[link.theirs[0]].crc:08x}" for link in links} == table["tensors"]


def test_the_table_is_well_formed(table: dict[str, Any]):
    assert list(table["tensors"]) == list(GPTConfig().tensor_shapes())
    assert all(len(crc) == 8 and int(crc, 16) >= 0 for crc in table["tensors"].values())
    assert len(set(table["tensors"].values())) == 148, "no two official tensors are equal"
    sizes = [known["bytes"] for known in table["files"] if known["bytes"] is not None]
    assert len(set(sizes)) == len(sizes), "the length alone says which file it may be"
    assert all(len(known["sha256"]) == 64 for known in table["files"])
    assert len({known["sha256"] for known in table["files"]}) == len(table["files"])


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (torch.zeros(8), 0x8A9136AA),  # RFC 3720, appendix B.4: 32 bytes of zeros
        (torch.full((8,), 0xFFFFFFFF, dtype=torch.uint32).view(torch.float32), 0x62A8AB43),  # and of ones
    ],
)
def test_the_checksum_is_crc32c(tensor: Tensor, expected: int):
    assert crc32c(tensor) == expected


def test_the_checksum_is_of_the_bytes_in_c_order_however_they_lie_and_however_many():
    wide = torch.randn(1_100, 1_003)  # more than one piece
    expected = google_crc32c.value(np.ascontiguousarray(wide.numpy()).tobytes())
    assert crc32c(wide) == crc32c(wide.t().contiguous().t()) == expected != crc32c(wide.t())
    assert crc32c(wide.to(torch.bfloat16)) is None


@pytest.mark.parametrize("to", ["huggingface", "openai", "gguf", "llms_from_scratch", "transformer_lens", "nanogpt"])
def test_the_form_makes_no_difference(to: str, official: GPTConfig, checkpoint: Path, tmp_path: Path):
    found = identify(open_checkpoint(convert(checkpoint, tmp_path / "out", to).destination))
    assert found and str(found) == "OpenAI's official 124M weights: 148 of 148 tensors"


def test_what_differs_is_named(official: GPTConfig, checkpoint: Path):
    opened = open_checkpoint(checkpoint)
    changed = {"h.3.ln_1.bias", "h.4.ln_1.bias"}
    tensors = {n: (lambda r=r: r() * 2) if n in changed else r for n, r in opened.tensors.items()}
    found = identify(type(opened)(**{**vars(opened), "tensors": tensors}))
    assert isinstance(found, OfficialWeights) and not found
    assert str(found) == "OpenAI's official 124M weights: 146 of 148 tensors; different: h.{3...4}.ln_1.bias"


def test_other_weights_and_other_settings_are_called_so(official: GPTConfig, checkpoint: Path, tmp_path: Path):
    half = convert(checkpoint, tmp_path / "half", "huggingface", dtype=torch.bfloat16).destination
    assert str(identify(open_checkpoint(half))).startswith("the size of OpenAI's 124M model, other weights: 0 of 148")
    strange = identify(
        open_checkpoint(checkpoint, overrides={"layer_norm_epsilon": 1e-6, "activation_function": "gelu"})
    )
    assert strange, "the weights are the official ones"
    assert str(strange).endswith(
        "but its configuration is not the official one: layer_norm_epsilon 1e-06, activation_function gelu"
    )


def test_an_untied_head_must_repeat_the_embedding(official: GPTConfig, checkpoint: Path, tmp_path: Path):
    path = convert(checkpoint, tmp_path / "x.pth", "llms_from_scratch").destination
    found = identify(open_checkpoint(path, overrides={"tie_word_embeddings": False}))
    assert found and "149 of 149" in str(found)


def test_another_size_is_none(checkpoint: Path):
    assert identify(open_checkpoint(checkpoint)) is None


def test_files_are_known_by_length_and_content(table: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    content = b"weights"
    digest = hashlib.sha256(content).hexdigest()
    known = {"model": "gpt2", "file": "model.safetensors", "bytes": len(content), "sha256": digest}
    unmeasured = {
        "model": "gpt2-xl",
        "file": "xl.safetensors",
        "bytes": None,
        "sha256": hashlib.sha256(b"xl").hexdigest(),
    }
    monkeypatch.setattr(identity, "_table", lambda: {"files": [known, unmeasured]})
    file, xl = tmp_path / "renamed.bin", tmp_path / "xl.safetensors"
    file.write_bytes(content)
    xl.write_bytes(b"xl")
    assert "as long as the official file, gpt2's model.safetensors; its content was not" in str(identify_file(file))
    assert str(identify_file(file, checksum=True)).startswith("renamed.bin is the official file, gpt2's model.saf")
    assert identify_file(xl) is None
    assert "is the official file, gpt2-xl's xl.safetensors" in str(identify_file(xl, checksum=True))
    file.write_bytes(content[::-1])
    assert str(identify_file(file, checksum=True)).endswith("and has another content")
    file.write_bytes(content + b"!")
    assert identify_file(file, checksum=True) is None
