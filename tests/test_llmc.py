"""llm.c: all five versions against an independent writer, and damaged headers."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

from gpt2_from_scratch import GPTConfig, GPTModel
from gpt2_from_scratch.checkpoint import StoredTensor, llmc, open_container
from gpt2_from_scratch.converting import TARGETS
from gpt2_from_scratch.errors import CheckpointError, ConfigError, FormatError
from gpt2_from_scratch.layouts import LAYOUTS
from gpt2_from_scratch.loading import open_checkpoint
from gpt2_from_scratch.mapping import write_theirs
from tests import forms
from tests.perturbed import perturbed

VERSIONS = {1: torch.float32, 2: torch.bfloat16, 3: torch.float32, 4: torch.bfloat16, 5: torch.bfloat16}


@pytest.fixture(scope="module")
def reference() -> GPT2LMHeadModel:
    """Inner width 4 E, as llm.c has it."""
    return perturbed(n_inner=None).requires_grad_(False)


@pytest.fixture(scope="module")
def written(reference: GPT2LMHeadModel, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Version -> file. Shared: leave them as they are."""
    folder, weights = tmp_path_factory.mktemp("llmc"), forms.weights(reference)
    return {version: forms.write_llmc(folder / f"v{version}.bin", weights, 4, version) for version in VERSIONS}


# ------------------------------------------------------------------------------------------------------------ reading


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("version", [1, 3])
def test_float32_versions_load_with_the_logits_of_transformers(
    written: dict[int, Path], reference: GPT2LMHeadModel, version: int, mmap: bool
):
    model = GPTModel.from_pretrained(written[version], mmap=mmap)
    forms.assert_same_model(model, reference)
    assert model.load_report.layout == "llm.c"
    assert model.load_report.form == f"llm.c, version {version}"


@pytest.mark.parametrize("version", [2, 4, 5])
def test_bfloat16_versions_hold_the_rounded_weights(written: dict[int, Path], reference: GPT2LMHeadModel, version: int):
    model = GPTModel.from_pretrained(written[version])
    assert model.load_report.dtype == (torch.bfloat16 if version == 5 else torch.float32)
    for name, array in forms.weights(reference).items():
        exact = version != 5 and ".ln_" in f".{name}"
        expected = torch.from_numpy(array) if exact else torch.from_numpy(array).to(torch.bfloat16)
        assert torch.equal(model.get_parameter(name), expected.to(model.load_report.dtype)), name


def test_the_header_says_what_the_model_is(written: dict[int, Path]):
    config = open_checkpoint(written[3]).config
    expected = GPTConfig(vocab_size=211, n_positions=37, n_embd=44, n_layer=12, n_head=4)
    assert config == expected.replace(bos_token_id=None, eos_token_id=None)  # 50256 is none of its ids


def test_tensors_are_views_of_the_mapped_file_and_writing_to_them_never_reaches_it(
    tmp_path: Path, written: dict[int, Path]
):
    path = shutil.copy(written[3], tmp_path / "x.bin")
    before = path.read_bytes()
    tensor = open_container(path).tensors["wte"]
    assert tensor.read().data_ptr() == tensor.read().data_ptr()
    tensor.read().zero_()
    assert path.read_bytes() == before
    assert not open_container(path, mmap=False).tensors["wte"].read().eq(0).any()


def test_odd_sizes_leave_no_number_where_it_cannot_be_read(tmp_path: Path):
    # In versions 2 and 4 float32 follows bfloat16: with odd sizes it begins at no multiple of four.
    weights = forms.weights(perturbed(n_inner=None, n_embd=3, n_head=1, n_layer=1, vocab_size=129, n_positions=5))
    path = forms.write_llmc(tmp_path / "odd.bin", weights, 1, version=2)
    tensor = open_container(path).tensors["h.0.ln1w"]
    assert torch.equal(tensor.read(), torch.from_numpy(weights["h.0.ln_1.weight"]))


# ------------------------------------------------------------------------------------------------------------ writing


def write_ours(path: Path, model: GPTModel) -> None:
    parameters = dict(model.named_parameters())
    theirs = write_theirs(LAYOUTS["llm.c"][0], model.config, lambda name: parameters[name].detach())
    tensors = {name: StoredTensor(tuple(read().shape), read().dtype, read) for name, read in theirs.items()}
    TARGETS["llm.c"].check(model.config)
    llmc.write(path, tensors, model.config)


@pytest.mark.parametrize("version", [3, 5])
def test_what_is_written_is_what_was_read(tmp_path: Path, written: dict[int, Path], version: int):
    model = GPTModel.from_pretrained(written[version])
    write_ours(tmp_path / "ours.bin", model)
    again = GPTModel.from_pretrained(tmp_path / "ours.bin")
    assert again.config == model.config
    for name, tensor in model.named_parameters():
        assert torch.equal(again.get_parameter(name), tensor), name


def test_version_3_is_the_independent_file_with_zeros_in_the_padding(tmp_path: Path, written: dict[int, Path]):
    write_ours(tmp_path / "ours.bin", GPTModel.from_pretrained(written[3]))
    ours, theirs = (path.read_bytes() for path in (tmp_path / "ours.bin", written[3]))
    padding = slice(1024 + 4 * 211 * 44, 1024 + 4 * 256 * 44)
    assert ours[padding] == bytes(4 * 45 * 44)
    assert ours[: padding.start] == theirs[: padding.start]
    assert ours[padding.stop :] == theirs[padding.stop :]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"activation_function": "gelu"}, "activation_function 'gelu'"),
        ({"layer_norm_epsilon": 1e-6, "n_inner": 100}, "layer_norm_epsilon 1e-06 .*; n_inner 100"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx true"),
        ({"tie_word_embeddings": False}, "a head of its own"),
    ],
)
def test_a_model_that_llmc_would_compute_differently_is_not_written(
    tmp_path: Path, change: dict[str, object], complaint: str
):
    config = GPTConfig(vocab_size=11, n_positions=5, n_embd=4, n_layer=1, n_head=2).replace(**change)
    with pytest.raises(ConfigError, match=f"llm.c cannot express this model: {complaint}"):
        write_ours(tmp_path / "x.bin", GPTModel(config))
    assert not list(tmp_path.iterdir())


def test_a_dtype_that_llmc_does_not_have_is_not_written(tmp_path: Path, written: dict[int, Path]):
    model = GPTModel.from_pretrained(written[3], dtype=torch.float16)
    with pytest.raises(CheckpointError, match=r"llm.c has no file of torch.float16\n  hint: convert to float32"):
        write_ours(tmp_path / "x.bin", model)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------- damaged and hostile


def header(**changes: int) -> Callable[[bytes], bytes]:
    """Changes some of the header's numbers."""
    places = {"version": 1, "positions": 2, "vocab": 3, "layers": 4, "heads": 5, "width": 6, "padded": 7}

    def change(data: bytes) -> bytes:
        numbers = np.frombuffer(data[:1024], "<i4").copy()
        for name, value in changes.items():
            numbers[places[name]] = value
        return numbers.tobytes() + data[1024:]

    return change


HUGE = 2**31 - 1
DAMAGED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "version 0": (header(version=0), "is of llm.c's version 0; known: 1, 2, 3, 4, 5"),
    "version 6": (header(version=6), "is of llm.c's version 6"),
    "another version": (header(version=1), "is too long: .* bytes, .* expected"),
    "half as wide": (header(version=5), "is too long"),
    "no vocabulary": (header(vocab=0), r"its header says .*'vocab_size': 0.*\n  hint: .*at least 1"),
    "negative": (header(layers=-1), r"'n_layer': -1"),
    "no heads": (header(heads=0), "n_head is 0"),
    "heads that do not divide": (header(heads=3), "not divisible by n_head 3"),
    "padded below": (header(padded=210), "210 rows, padding included, for a vocabulary of 211"),
    "not padded": (header(padded=211), "is too long"),
    "no padding": (header(padded=0), "0 rows, padding included"),
    "a layer more": (header(layers=13), "is truncated"),
    "a layer less": (header(layers=11), "is too long"),
    "many layers": (header(layers=HUGE), "is truncated"),
    "all huge": (header(layers=HUGE, vocab=HUGE, positions=HUGE, width=HUGE - 3, padded=HUGE, heads=1), "is truncated"),
    "cut": (lambda data: data[:-4], "is truncated"),
    "longer": (lambda data: data + bytes(4), "is too long"),
    "header only": (lambda data: data[:1024], "is truncated"),
    "cut header": (lambda data: data[:1000], "ends too early"),
}


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_file_is_refused(tmp_path: Path, written: dict[int, Path], kind: str, mmap: bool):
    change, complaint = DAMAGED[kind]
    (tmp_path / "x.bin").write_bytes(change(written[3].read_bytes()))
    with pytest.raises(FormatError, match=complaint):
        open_container(tmp_path / "x.bin", mmap)


@pytest.mark.parametrize(
    ("magic", "what"),
    [
        (20240327, "a debug state of llm.c"),
        (20240328, "a tokenizer of llm.c"),
        (20240520, "training data of llm.c"),
        (20240527, "a state of llm.c's optimizer"),
    ],
)
def test_other_files_of_llmc_are_called_by_their_names(tmp_path: Path, magic: int, what: str):
    (tmp_path / "x.bin").write_bytes(magic.to_bytes(4, "little") + bytes(2000))
    with pytest.raises(FormatError, match=f"x.bin is {what}, not weights"):
        open_container(tmp_path / "x.bin")


def test_a_file_cut_short_after_it_was_opened_is_an_error_where_it_is_not_mapped(
    tmp_path: Path, written: dict[int, Path]
):
    path = shutil.copy(written[3], tmp_path / "x.bin")
    tensors = open_container(path, mmap=False).tensors
    with path.open("r+b") as file:
        file.truncate(2000)
    with pytest.raises(FormatError, match="changed while it was read"):
        tensors["lnfb"].read()
