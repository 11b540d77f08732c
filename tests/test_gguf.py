"""GGUF: files of llama.cpp's own Python package, read; ours, read by it; and headers that lie."""

import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf as llama_cpp
import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

from gpt2_from_scratch import GPTConfig, GPTModel
from gpt2_from_scratch.checkpoint import StoredTensor, gguf, open_container
from gpt2_from_scratch.converting import TARGETS
from gpt2_from_scratch.errors import CheckpointError, ConfigError, FormatError
from gpt2_from_scratch.layouts import LAYOUTS
from gpt2_from_scratch.loading import open_checkpoint
from gpt2_from_scratch.mapping import write_theirs
from tests import forms
from tests.perturbed import perturbed

TOKENS = [f"<{number}>" for number in range(211)]


@pytest.fixture(scope="module")
def written(perturbed_reference: GPT2LMHeadModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Float32. Shared: leave it as it is."""
    folder = tmp_path_factory.mktemp("gguf")
    return forms.write_gguf(folder / "x.gguf", forms.weights(perturbed_reference), 4, tokens=TOKENS)


# ------------------------------------------------------------------------------------------------------------ reading


@pytest.mark.parametrize("mmap", [True, False])
def test_a_float32_file_loads_with_the_logits_of_transformers(
    written: Path, perturbed_reference: GPT2LMHeadModel, mmap: bool
):
    model = GPTModel.from_pretrained(written, mmap=mmap)
    forms.assert_same_model(model, perturbed_reference)
    assert model.load_report.layout == "gguf"
    assert model.load_report.form == "GGUF, version 3"
    assert model.load_report.notes == ("holds a tokenizer of 211 tokens",)


def test_the_dictionary_says_what_the_model_is(written: Path, perturbed_reference: GPT2LMHeadModel):
    # Epsilon as well: the file has 9.999999747378752e-06, which is how float32 holds 1e-5.
    theirs = GPTConfig.from_hf(perturbed_reference.config.to_dict())
    assert open_checkpoint(written).config == theirs.replace(embd_pdrop=0.1, attn_pdrop=0.1, resid_pdrop=0.1)


def test_a_directory_with_one_gguf_file_is_a_checkpoint(written: Path):
    assert open_checkpoint(written.parent).layout.name == "gguf"


@pytest.mark.parametrize(("kind", "dtype"), [("F16", torch.float16), ("BF16", torch.bfloat16)])
def test_half_precision_matrices_are_read_as_they_are(
    tmp_path: Path, perturbed_reference: GPT2LMHeadModel, kind: str, dtype: torch.dtype
):
    weights = forms.weights(perturbed_reference)
    model = GPTModel.from_pretrained(forms.write_gguf(tmp_path / "x.gguf", weights, 4, kind))
    assert model.load_report.dtype == torch.float32  # that of the vectors and of the position embedding
    for name, array in weights.items():
        rounded = array.ndim == 2 and name != "wpe.weight"
        expected = torch.from_numpy(array).to(dtype).float() if rounded else torch.from_numpy(array)
        assert torch.equal(model.get_parameter(name), expected), name


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q5_1"])
def test_quantised_matrices_are_dequantised_and_the_report_says_so(tmp_path: Path, kind: str):
    # Rows are cut into blocks of 32.
    weights = forms.weights(perturbed(n_embd=64, n_inner=96, n_layer=2).requires_grad_(False))
    model = GPTModel.from_pretrained(forms.write_gguf(tmp_path / "x.gguf", weights, 4, kind))
    assert f"quantised weights (9 {kind}), dequantised to float32" in model.load_report.notes[0]
    ggml = llama_cpp.GGMLQuantizationType[kind]
    for name, array in weights.items():
        quantised = array.ndim == 2 and name != "wpe.weight"
        linear = quantised and name != "wte.weight"
        stored = np.ascontiguousarray(array.T) if linear else array
        if quantised:
            stored = llama_cpp.dequantize(llama_cpp.quantize(stored, ggml), ggml)
        expected = torch.from_numpy(np.ascontiguousarray(stored.T) if linear else stored)
        assert torch.equal(model.get_parameter(name), expected), name


def test_a_head_is_untied_unless_it_repeats_the_embedding(tmp_path: Path):
    untied = perturbed(n_layer=1, tie_word_embeddings=False).requires_grad_(False)
    weights = forms.weights(untied)
    path = forms.write_gguf(tmp_path / "untied.gguf", weights, 4)
    forms.assert_same_model(GPTModel.from_pretrained(path), untied)
    weights["lm_head.weight"] = weights["wte.weight"]  # as older converters wrote it
    path = forms.write_gguf(tmp_path / "repeated.gguf", weights, 4)
    assert open_checkpoint(path).config.tie_word_embeddings


# ------------------------------------------------------------------------------------------------------------ writing


def write_ours(path: Path, model: GPTModel, vocabulary: gguf.Vocabulary | None = None) -> None:
    parameters = dict(model.named_parameters())
    theirs = write_theirs(LAYOUTS["gguf"][0], model.config, lambda name: parameters[name].detach())
    tensors = {name: StoredTensor(tuple(read().shape), read().dtype, read) for name, read in theirs.items()}
    TARGETS["gguf"].check(model.config)
    gguf.write(path, tensors, model.config, vocabulary)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_what_is_written_is_what_was_read(tmp_path: Path, dtype: torch.dtype, tied: bool):
    reference = perturbed(tie_word_embeddings=tied, n_layer=2 if dtype == torch.float16 else 12)
    reference.save_pretrained(tmp_path / "theirs")
    model = GPTModel.from_pretrained(tmp_path / "theirs", dtype=dtype)
    write_ours(tmp_path / "x.gguf", model)
    again = GPTModel.from_pretrained(tmp_path / "x.gguf")
    for name, tensor in model.named_parameters():
        assert torch.equal(again.get_parameter(name), tensor.to(again.load_report.dtype)), name
    assert again.config == model.config.replace(embd_pdrop=0.1, attn_pdrop=0.1, resid_pdrop=0.1)
    assert {path.name for path in tmp_path.iterdir()} == {"theirs", "x.gguf"}


def read_theirs(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What llama.cpp's package finds in a file."""
    reader = llama_cpp.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    return fields, {tensor.name: tensor for tensor in reader.tensors}


@pytest.mark.parametrize(
    ("dtype", "kind", "file_type"), [(torch.float32, "F32", 0), (torch.float16, "F16", 1), (torch.bfloat16, "BF16", 32)]
)
def test_llama_cpps_package_reads_what_is_written(
    tmp_path: Path, written: Path, dtype: torch.dtype, kind: str, file_type: int
):
    special = gguf.Vocabulary(tokens=TOKENS[:-2], merges=["< 1", "<1 >"], special=[199])
    write_ours(tmp_path / "x.gguf", GPTModel.from_pretrained(written, dtype=dtype), special)
    fields, tensors = read_theirs(tmp_path / "x.gguf")
    assert fields.pop("tokenizer.ggml.tokens") == [*TOKENS[:-2], "[PAD209]", "[PAD210]"]
    assert fields.pop("tokenizer.ggml.token_type") == [1] * 199 + [3] + [1] * 9 + [5] * 2
    assert {name: value for name, value in fields.items() if not name.startswith("GGUF.")} == {
        "general.architecture": "gpt2",
        "general.file_type": file_type,
        "gpt2.context_length": 37,
        "gpt2.embedding_length": 44,
        "gpt2.block_count": 12,
        "gpt2.feed_forward_length": 89,
        "gpt2.attention.head_count": 4,
        "gpt2.attention.layer_norm_epsilon": float(np.float32(1e-5)),
        "gpt2.vocab_size": 211,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.merges": ["< 1", "<1 >"],
        "tokenizer.ggml.bos_token_id": 199,
        "tokenizer.ggml.eos_token_id": 197,
    }
    _, theirs = read_theirs(written)
    assert tensors.keys() == theirs.keys()
    for name, tensor in tensors.items():
        matrix = len(tensor.shape) == 2 and name != "position_embd.weight"
        assert tensor.tensor_type.name == (kind if matrix else "F32"), name
        expected = torch.from_numpy(theirs[name].data.copy()).to(dtype).float()
        found = llama_cpp.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        assert np.array_equal(found, expected.numpy()), name


def test_without_a_tokenizer_the_file_says_so(tmp_path: Path, written: Path):
    write_ours(tmp_path / "x.gguf", GPTModel.from_pretrained(written))
    fields, _ = read_theirs(tmp_path / "x.gguf")
    assert fields["tokenizer.ggml.model"] == "none"
    assert "tokenizer.ggml.tokens" not in fields


def test_a_tokenizer_of_another_model_is_not_written(tmp_path: Path, written: Path):
    with pytest.raises(CheckpointError, match="the tokenizer has 212 tokens, the model has rows for 211"):
        write_ours(tmp_path / "x.gguf", GPTModel.from_pretrained(written), gguf.Vocabulary([*TOKENS, "one more"], []))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"activation_function": "gelu"}, "activation_function 'gelu' .it computes the tanh GELU"),
        ({"scale_attn_weights": False}, "scale_attn_weights false"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx true"),
    ],
)
def test_a_model_that_llama_cpp_would_compute_differently_is_not_written(
    tmp_path: Path, change: dict[str, object], complaint: str
):
    config = GPTConfig(vocab_size=11, n_positions=5, n_embd=4, n_layer=1, n_head=2).replace(**change)
    with pytest.raises(ConfigError, match=rf"llama\.cpp cannot express this model: {complaint}"):
        write_ours(tmp_path / "x.gguf", GPTModel(config))
    assert not list(tmp_path.iterdir())


def test_float64_is_not_written(tmp_path: Path, written: Path):
    with pytest.raises(CheckpointError, match=r"is torch\.float64, .*\n  hint: convert to float32, float16, bfloat16"):
        write_ours(tmp_path / "x.gguf", GPTModel.from_pretrained(written, dtype=torch.float64))


def test_an_epsilon_that_is_no_short_decimal_comes_back_as_float32(tmp_path: Path):
    config = GPTConfig(vocab_size=11, n_positions=5, n_embd=4, n_layer=1, n_head=2, layer_norm_epsilon=1 / 3)
    write_ours(tmp_path / "x.gguf", GPTModel(config))
    assert open_checkpoint(tmp_path / "x.gguf").config.layer_norm_epsilon == pytest.approx(1 / 3, rel=2**-24)


# ------------------------------------------------------------------------------------------------- damaged and hostile


def string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def u32(key: str, value: int) -> bytes:
    return string(key) + struct.pack("<II", 4, value)


def tensor(name: str, dims: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    """Dimensions as they stand in the file, fastest first."""
    return string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


ARCHITECTURE = string("general.architecture") + struct.pack("<I", 8) + string("gpt2")
SIZES = {"context_length": 8, "embedding_length": 4, "block_count": 1, "feed_forward_length": 16}
FIELDS = [
    ARCHITECTURE,
    *(u32(f"gpt2.{key}", value) for key, value in SIZES.items()),
    u32("gpt2.attention.head_count", 2),
    string("gpt2.attention.layer_norm_epsilon") + struct.pack("<If", 6, 1e-5),
]
EMBEDDING = tensor("token_embd.weight", (4, 6))  # 96 bytes of data


def file(
    fields: list[bytes] = FIELDS,
    tensors: tuple[bytes, ...] = (EMBEDDING,),
    *,
    version: int = 3,
    counts: tuple[int, int] | None = None,
    data: int = 96,
) -> bytes:
    tensor_count, field_count = counts or (len(tensors), len(fields))
    head = b"GGUF" + struct.pack("<IQQ", version, tensor_count, field_count) + b"".join((*fields, *tensors))
    return head + bytes(-len(head) % 32) + bytes(data)


def array(kind: int, count: int, content: bytes = b"") -> list[bytes]:
    return [*FIELDS, string("x") + struct.pack("<IIQ", 9, kind, count) + content]


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "version 1": (lambda: file(version=1), "is GGUF version 1\n  hint: known: 2, 3"),
    "big-endian": (lambda: file(version=3 << 24), "is big-endian GGUF"),
    "cut header": (lambda: file()[:10], "ends too early"),
    "many tensors": (lambda: file(counts=(1 << 60, 7)), "1,152,921,504,606,846,976 entries announced"),
    "many fields": (lambda: file(counts=(1, 1 << 60)), "entries announced"),
    "more tensors than there are": (lambda: file(counts=(4_000, 7), data=0), "ends too early|appears twice"),
    "more tensors than any GPT-2 has": (lambda: file(counts=(4_001, 7)), "holds 4,001 entries; at most 4,000 are read"),
    "more fields than that": (lambda: file(counts=(1, 4_001)), "holds 4,001 entries"),
    "long key": (lambda: file([struct.pack("<Q", 1 << 62)]), "ends too early: 4,611,686,018,427,387,904 bytes wanted"),
    "key is no text": (lambda: file([string(b"\xff\xfe")]), "no text before byte"),
    "key twice": (lambda: file([*FIELDS, ARCHITECTURE]), "the key 'general.architecture' appears twice"),
    "unknown type of value": (lambda: file([string("x") + struct.pack("<I", 13)]), "a value of unknown type 13"),
    # llama.cpp's package walks the next two for ever: an element that is not there has no size.
    "long list": (lambda: file(array(4, 1 << 61)), "entries announced"),
    "list longer than the file": (lambda: file(array(4, 1 << 18)), "ends too early"),
    "list of strings longer than the file": (lambda: file(array(8, 1 << 18)), "ends too early|no text"),
    "list of lists": (lambda: file(array(9, 1)), "a value of unknown type 9"),
    "another architecture": (
        lambda: file([string("general.architecture") + struct.pack("<I", 8) + string("llama")]),
        "holds a 'llama' model, not GPT-2",
    ),
    "no architecture": (lambda: file(FIELDS[1:]), "holds a None model"),
    "no context": (lambda: file([FIELDS[0], *FIELDS[2:]]), "does not say gpt2.context_length"),
    "sizes of other types": (
        lambda: file(
            [*FIELDS[:5], string("gpt2.attention.head_count") + struct.pack("<I", 8) + string("2"), FIELDS[6]]
        ),
        "n_head is '2'",
    ),
    "epsilon of another type": (
        lambda: file([*FIELDS[:6], u32("gpt2.attention.layer_norm_epsilon", 0)]),
        "layer_norm_epsilon is 0",
    ),
    "epsilon is no number": (
        lambda: file([*FIELDS[:6], string("gpt2.attention.layer_norm_epsilon") + struct.pack("<If", 6, float("nan"))]),
        "layer_norm_epsilon is nan",
    ),
    "no embedding": (lambda: file(tensors=(tensor("output.weight", (4, 6)),)), "has no token_embd.weight"),
    "embedding of one dimension": (lambda: file(tensors=(tensor("token_embd.weight", (24,)),)), "of two dimensions"),
    "tensor twice": (lambda: file(tensors=(EMBEDDING, EMBEDDING)), "the tensor 'token_embd.weight' appears twice"),
    "many dimensions": (lambda: file(tensors=(tensor("x", (1,) * 65),)), "has 65 dimensions"),
    "huge": (lambda: file(tensors=(tensor("token_embd.weight", (4, 1 << 62)),)), "is truncated"),
    "product overflows": (lambda: file(tensors=(tensor("token_embd.weight", (1 << 32, 1 << 32)),)), "is truncated"),
    "offset overflows": (
        lambda: file(tensors=(tensor("token_embd.weight", (4, 6), 0, (1 << 64) - 32),)),
        "is truncated",
    ),
    "not aligned": (lambda: file(tensors=(tensor("token_embd.weight", (4, 6), 0, 4),)), "is not aligned to 32 bytes"),
    "overlap": (
        lambda: file(tensors=(EMBEDDING, tensor("x", (4, 2), offset=64))),
        "'x' overlaps 'token_embd.weight' by 32 bytes",
    ),
    "short": (lambda: file(data=95), "is truncated: .* 1 missing"),
    "unknown ggml type": (lambda: file(tensors=(tensor("x", (32,), 99),)), "is of ggml's type 99, which is unknown"),
    "empty, and larger than anything": (
        lambda: file(tensors=(tensor("token_embd.weight", (0, 1 << 63)),)),
        "is said to be",
    ),
    "quantised, and nothing": (lambda: file(tensors=(tensor("x", (0,), 8),)), "in blocks of 32 elements"),
    "broken blocks": (lambda: file(tensors=(tensor("x", (33,), 8),)), "in blocks of 32 elements"),
    "quantised, no dimensions": (lambda: file(tensors=(tensor("x", (), 8),)), "in blocks of 32 elements"),
    "alignment 0": (lambda: file([*FIELDS, u32("general.alignment", 0)]), "general.alignment is 0"),
    "alignment 33": (lambda: file([*FIELDS, u32("general.alignment", 33)]), "general.alignment is 33"),
    "alignment is text": (
        lambda: file([*FIELDS, string("general.alignment") + struct.pack("<I", 8) + string("32")]),
        "general.alignment is '32'",
    ),
    "alignment behind the end": (lambda: file([*FIELDS, u32("general.alignment", 1 << 31)]), "is truncated"),
}


def test_the_hostile_rows_would_pass_without_what_makes_them_hostile(tmp_path: Path):
    (tmp_path / "x.gguf").write_bytes(file())
    assert open_container(tmp_path / "x.gguf").shapes == {"token_embd.weight": (6, 4)}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_refused(tmp_path: Path, kind: str):
    make, complaint = HOSTILE[kind]
    (tmp_path / "x.gguf").write_bytes(make())
    with pytest.raises(CheckpointError, match=complaint):
        open_checkpoint(tmp_path / "x.gguf")


def test_no_cut_of_a_real_file_is_taken_for_whole(tmp_path: Path, written: Path):
    data = written.read_bytes()
    for length in [4, 12, 30, *range(100, 12_000, 997), len(data) // 2, len(data) - 100]:
        (tmp_path / "x.gguf").write_bytes(data[:length])
        with pytest.raises(CheckpointError):
            open_container(tmp_path / "x.gguf")


def test_quantised_files_ask_for_the_package_that_knows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "x.gguf").write_bytes(file(tensors=(EMBEDDING, tensor("x", (32,), 8, offset=96)), data=130))
    open_container(tmp_path / "x.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(
        CheckpointError, match=r'`gguf`.* not installed\n  hint: pip install "gpt2_from_scratch\[gguf\]"'
    ):
        open_container(tmp_path / "x.gguf")
    (tmp_path / "x.gguf").write_bytes(file())
    open_container(tmp_path / "x.gguf")  # plain numbers do without


def test_types_that_cannot_be_dequantised_are_refused_when_read(tmp_path: Path):
    (tmp_path / "x.gguf").write_bytes(file(tensors=(EMBEDDING, tensor("x", (32,), 24, offset=96)), data=128))
    with pytest.raises(FormatError, match="'x' is I8, which `gguf` cannot dequantise"):
        open_container(tmp_path / "x.gguf").tensors["x"].read()
