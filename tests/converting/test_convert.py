"""Every writable form: what is written is read again bit for bit, by us and by those whose form it is.

Canonical tensors before and after are compared, so a form, a writer and a reader are judged at once, and
a pair of forms needs no test of its own beyond the two. What cannot be written is refused before a file appears.
"""

import json
import os
import signal
import subprocess
import sys
import weakref
import zipfile
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2LMHeadModel

from gpt2_from_scratch import GPTModel, open_checkpoint
from gpt2_from_scratch.checkpoint import StoredTensor, torch_pickle
from gpt2_from_scratch.checkpoint.binary import OpenFile, raw
from gpt2_from_scratch.converting import TARGETS, convert
from gpt2_from_scratch.errors import CheckpointError, ConfigError, MappingError, TokenizerError
from gpt2_from_scratch.loading import TINY, load_into
from gpt2_from_scratch.tokenizer import load_tokenizer
from tests.foreign import book, mingpt, nanogpt
from tests.modules import book_config, logits
from tests.perturbed import perturbed, save

EOT = "<|endoftext|>"
UNTIED = ("huggingface", "gguf", "mingpt", "llms_from_scratch", "transformer_lens")  # with a head of its own


@pytest.fixture(scope="module")
def reference() -> GPT2LMHeadModel:
    """With an inner width of 4 E, which most programs have fixed."""
    return perturbed(n_inner=None).requires_grad_(False)


@pytest.fixture(autouse=True)
def disk_that_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the disk took half the time of these tests. One below looks at what is waited for, and when."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def tied(reference: GPT2LMHeadModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(reference, tmp_path_factory.mktemp("tied"))


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(perturbed(n_inner=None, tie_word_embeddings=False), tmp_path_factory.mktemp("untied"))


def canonical(source: Path | str, **options: Any) -> dict[str, Tensor]:
    checkpoint = open_checkpoint(source, **options)
    return {name: checkpoint.read(name).clone() for name in checkpoint.tensors}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    assert not [name for name in expected if not torch.equal(found[name], expected[name])]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def edited(source: Path, folder: Path, edit: Callable[[dict[str, Tensor]], None], **config: Any) -> Path:
    """A copy of a Hugging Face directory with other tensors and settings."""
    from safetensors.torch import load_file, save_file

    folder.mkdir(parents=True)
    settings = json.loads((source / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(settings))
    tensors = load_file(source / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


# ---------------------------------------------------------------------------------------------------------- matrix


@pytest.mark.parametrize("to", TARGETS)
def test_what_is_written_is_read_bit_for_bit(to: str, tied: Path, tmp_path: Path):
    report = convert(tied, tmp_path / "out", to)
    again = open_checkpoint(report.destination)
    assert again.layout.name in (to, "nanogpt")  # minGPT's names are nanoGPT's
    assert_same(canonical(report.destination), canonical(tied))
    before = open_checkpoint(tied).config
    # What no weights file says; GGUF says the tokens, and the inner width where config.json has null for 4 E.
    unsaid = ("embd_pdrop", "attn_pdrop", "resid_pdrop", "bos_token_id", "eos_token_id", "n_inner")
    unsaid = unsaid if TARGETS[to].holds_config else ()
    assert again.config.replace(**{name: getattr(before, name) for name in unsaid}) == before
    assert again.config.inner_dim == before.inner_dim
    assert report and report.rounding == 0 and "bit for bit" in str(report) and "\n" not in str(report)


@pytest.mark.parametrize("to", TARGETS)
def test_an_untied_head_is_written_or_refused(to: str, untied: Path, tmp_path: Path):
    if to in UNTIED:
        report = convert(untied, tmp_path / "out", to)
        assert not open_checkpoint(report.destination).config.tie_word_embeddings
        assert_same(canonical(report.destination), canonical(untied))
    else:
        with pytest.raises(ConfigError, match="cannot express this model: a head of its own"):
            convert(untied, tmp_path / "out", to)
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["round", "all pairs"])
def test_pairs_of_forms(every: bool, tied: Path, tmp_path: Path):
    """Each form to the next, so that each is read and written once; or each to each."""
    first = {to: convert(tied, tmp_path / to, to).destination for to in TARGETS}
    expected, names = canonical(tied), list(TARGETS)
    for source, to in product(names, names) if every else zip(names, names[1:] + names[:1], strict=True):
        report = convert(first[source], tmp_path / f"{source}-{to}", to)
        assert_same(canonical(report.destination), expected)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".bin"])
@pytest.mark.parametrize("to", ["nanogpt", "mingpt", "llms_from_scratch", "transformer_lens"])
def test_state_dicts_are_written_as_the_name_says(to: str, suffix: str, tied: Path, tmp_path: Path):
    report = convert(tied, tmp_path / f"any{suffix}", to)
    form = "safetensors" if suffix == ".safetensors" else "PyTorch zip"
    assert open_checkpoint(report.destination).container.form.startswith(form)
    assert_same(canonical(report.destination), canonical(tied))
    assert sorted(contents(tmp_path)) == [f"any{suffix}", "config.json"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("to", ["huggingface", "llm.c", "gguf", "llms_from_scratch"])
def test_dtypes_are_rounded_to_nearest_and_the_report_says_by_how_much(
    to: str, dtype: torch.dtype, tied: Path, tmp_path: Path
):
    if (to, dtype) == ("llm.c", torch.float16):
        with pytest.raises(CheckpointError, match=r"llm\.c has no file of torch\.float16"):
            convert(tied, tmp_path / "out", to, dtype=dtype)
        return
    report = convert(tied, tmp_path / "out", to, dtype=dtype)
    before = canonical(tied)
    kept = lambda name: to == "gguf" and (before[name].dim() < 2 or name == "wpe.weight")  # noqa: E731
    expected = {name: tensor if kept(name) else tensor.to(dtype) for name, tensor in before.items()}
    assert_same(canonical(report.destination), expected)
    errors = {name: float((expected[name].double() - before[name].double()).abs().max()) for name in before}
    assert report.rounding == max(errors.values()) > 0
    assert errors[report.rounded] == report.rounding
    assert f"rounded by up to {report.rounding:.3g} ({report.rounded})" in str(report)


def test_widening_rounds_nothing(tied: Path, tmp_path: Path):
    half = convert(tied, tmp_path / "half", "huggingface", dtype=torch.bfloat16).destination
    report = convert(half, tmp_path / "out", "openai", dtype=torch.float32)
    assert report.rounding == 0 and report.rounded == ""
    assert_same(canonical(tmp_path / "out"), {name: tensor.float() for name, tensor in canonical(half).items()})


def test_biases_that_are_zero_may_be_left_out(tied: Path, tmp_path: Path):
    def zero(tensors: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            if name.endswith("bias"):
                tensor.zero_()

    source = edited(tied, tmp_path / "zero", zero)
    report = convert(source, tmp_path / "out", "nanogpt", bias=False)
    saved = torch.load(report.destination, weights_only=True)
    assert saved["model_args"]["bias"] is False and not [name for name in saved["model"] if name.endswith("bias")]
    assert_same(canonical(report.destination), canonical(source))
    with pytest.raises(MappingError, match="these biases are not zero in the checkpoint"):
        convert(tied, tmp_path / "other", "nanogpt", bias=False)
    with pytest.raises(MappingError, match="gguf has no form without biases"):
        convert(source, tmp_path / "other", "gguf", bias=False)
    assert not (tmp_path / "other").exists()


# ---------------------------------------------------------------------------------- those whose form it is, as judges


def test_transformers_loads_what_is_written_with_equal_logits(untied: Path, tied: Path, tmp_path: Path):
    ids = torch.randint(211, (2, 31), generator=torch.Generator().manual_seed(2))
    for name, source in (("tied", tied), ("untied", untied)):
        through = convert(source, tmp_path / f"{name}.gguf", "gguf").destination  # and so not a mere copy
        convert(through, tmp_path / name, "huggingface")
        model, info = GPT2LMHeadModel.from_pretrained(tmp_path / name, output_loading_info=True)
        assert not any(info.values()), info
        expected = GPT2LMHeadModel.from_pretrained(source)
        assert torch.equal(logits(model.eval(), ids), logits(expected.eval(), ids))


def test_torch_loads_what_is_written_and_other_peoples_code_takes_it(
    reference: GPT2LMHeadModel, tied: Path, tmp_path: Path
):
    """Their own way: `torch.load`, then a strict `load_state_dict` (mask buffers are theirs to make)."""
    config = open_checkpoint(tied).config
    sizes = {"n_layer": 12, "n_head": 4, "n_embd": 44, "vocab_size": 211, "block_size": 37}

    def state(to: str) -> Any:
        path = convert(tied, tmp_path / to, to).destination
        return torch.load(path, weights_only=True, mmap=True)

    saved = state("nanogpt")
    assert saved["model_args"] == {**sizes, "bias": True, "dropout": 0.19}  # resid_pdrop of the perturbed model
    arguments = {name: value for name, value in saved["model_args"].items() if name not in ("dropout", "bias")}
    modules = (
        (nanogpt.GPT(nanogpt.GPTConfig(**arguments, gelu="tanh"), all_positions=True), saved["model"]),
        (mingpt.GPT(mingpt.Config(**sizes)), state("mingpt")),
        (book.GPTModel(book_config(config)), state("llms_from_scratch")),
    )
    ids = torch.randint(211, (2, 31), generator=torch.Generator().manual_seed(2))
    # Two correct float32 programs are each about one rounding of logits near 30 apart; a wrong weight moves them by 1.
    tolerance = {"rtol": 0.0, "atol": 1e-3}
    for module, weights in modules:
        missing, unexpected = module.load_state_dict(weights, strict=False)
        assert not unexpected and all(name.endswith((".mask", ".attn.bias")) for name in missing)
        torch.testing.assert_close(logits(module.eval(), ids), logits(reference, ids), **tolerance)


def test_a_tied_head_is_stored_once_in_a_torch_file(tied: Path, tmp_path: Path):
    saved = torch.load(convert(tied, tmp_path / "ckpt.pt", "nanogpt").destination, weights_only=True)["model"]
    assert saved["lm_head.weight"].data_ptr() == saved["transformer.wte.weight"].data_ptr()
    with zipfile.ZipFile(tmp_path / "ckpt.pt") as archive:
        assert sum("/data/" in name for name in archive.namelist()) == len(saved) - 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mmap", [True, False])
def test_the_torch_writer_is_torch_saves_equal(dtype: torch.dtype, mmap: bool, tmp_path: Path):
    values = {
        "a": torch.randn(3, 5).to(dtype).t(),  # not contiguous
        "scalar": torch.tensor(2.5, dtype=dtype),
        "long": torch.randn(1_001).to(dtype),
    }
    stored = {name: StoredTensor(tuple(t.shape), dtype, lambda t=t: t) for name, t in values.items()}
    with (tmp_path / "x.pt").open("wb") as file:
        torch_pickle.write_to(file, {"model": stored, "step": 3, "flags": [True, None, "text"]})
    loaded = torch.load(tmp_path / "x.pt", weights_only=True, mmap=mmap)
    assert loaded.keys() == {"model", "step", "flags"} and loaded["flags"] == [True, None, "text"]
    for name, tensor in values.items():
        assert torch.equal(loaded["model"][name], tensor) and loaded["model"][name].dtype == dtype
    with zipfile.ZipFile(tmp_path / "x.pt") as archive:
        assert archive.testzip() is None
        starts = [member.header_offset + 30 + len(member.filename) + len(member.extra) for member in archive.infolist()]
        assert all(
            at % 64 == 0 for at, member in zip(starts, archive.infolist(), strict=True) if "/data/" in member.filename
        )


# ------------------------------------------------------------------------------------------------------- tokenizers


def test_the_tokenizer_goes_with_the_weights(tmp_path: Path):
    text = "Once upon a time, there was a cat."
    ids, eot = (load_tokenizer(TINY).encode(words, allowed_special="all") for words in (text, EOT))
    convert(TINY, tmp_path / "openai", "openai")
    assert {"encoder.json", "vocab.bpe", "hparams.json"} <= contents(tmp_path / "openai").keys()
    assert load_tokenizer(tmp_path / "openai").encode(text) == ids
    convert(tmp_path / "openai", tmp_path / "hf", "huggingface")
    assert {"vocab.json", "merges.txt", "config.json"} <= contents(tmp_path / "hf").keys()
    assert load_tokenizer(tmp_path / "hf").encode(text) == ids
    report = convert(TINY, tmp_path / "x.gguf", "gguf")
    assert "holds a tokenizer of 512 tokens" in open_checkpoint(report.destination).notes
    for to in ("huggingface", "openai", "nanogpt", "gguf"):  # and out of the file again
        again = convert(tmp_path / "x.gguf", tmp_path / "again" / to, to)
        assert "no tokenizer" not in str(again) and "the tokenizer was" not in str(again)
        assert load_tokenizer(again.destination).encode(text) == ids
        assert load_tokenizer(again.destination).encode(EOT, allowed_special="all") == eot


def test_a_tokenizer_that_cannot_be_written_is_left_out_and_noted(tied: Path, tmp_path: Path):
    source = edited(tied, tmp_path / "source", lambda tensors: None)
    (source / "vocab.json").write_text("{")
    (source / "merges.txt").write_text("#version: 0.2\n")
    report = convert(source, tmp_path / "x.gguf", "gguf")
    assert "the tokenizer was left out" in str(report) and "not a readable JSON file" in str(report)
    assert "no tokenizer beside the source" in str(convert(tied, tmp_path / "out", "openai"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model inside the package as one file of PyTorch, without its tokenizer."""
    folder = tmp_path_factory.mktemp("bare")
    return convert("tiny", folder / "x.pt", "nanogpt").destination


@pytest.mark.parametrize("form", ["huggingface", "openai", "nanogpt", "gguf"])
def test_a_tokenizer_that_is_named_goes_with_the_weights(form: str, bare: Path, tmp_path: Path):
    text = "Once upon a time, there was a cat." + EOT
    ids = load_tokenizer(TINY).encode(text, allowed_special="all")
    for number, named in enumerate(("tiny", TINY, TINY / "merges.txt")):
        report = convert(bare, tmp_path / str(number), form, tokenizer=named)
        assert load_tokenizer(report.destination).encode(text, allowed_special="all") == ids
        assert f"the tokenizer is that of {TINY}" in str(report) and "with 512 ids for the model's 512 rows" in str(
            report
        )


def test_what_is_assumed_of_the_checkpoint_is_said_of_what_is_written(tmp_path: Path):
    """A bare state dict says neither its heads nor its epsilon."""
    torch.save(GPTModel.from_pretrained("tiny").state_dict(), tmp_path / "x.pt")
    report = convert(tmp_path / "x.pt", tmp_path / "out", "huggingface", overrides={"n_head": 4}, tokenizer="tiny")
    assert report.assumed and report.assumed == open_checkpoint(tmp_path / "x.pt", overrides={"n_head": 4}).assumed
    assert all(each in str(report) for each in report.assumed)


def test_a_named_tokenizer_replaces_the_checkpoints_own(tmp_path: Path):
    """Two ids that have changed places show which of two tokenizers was written."""
    other = tmp_path / "other"
    other.mkdir()
    vocabulary = json.loads((TINY / "vocab.json").read_text())
    swapped = {token: {0: 1, 1: 0}.get(number, number) for token, number in vocabulary.items()}
    (other / "vocab.json").write_text(json.dumps(swapped))
    (other / "merges.txt").write_bytes((TINY / "merges.txt").read_bytes())
    report = convert("tiny", tmp_path / "out", "huggingface", tokenizer=other)
    assert json.loads((report.destination / "vocab.json").read_text()) == swapped


@pytest.mark.parametrize("form", ["huggingface", "gguf"])
@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({}, "has no tokenizer files"),
        ({"vocab.txt": "[PAD]"}, "has vocab.txt, a word list, as of WordPiece"),
        ({"meta.pkl": ""}, "has meta.pkl, nanoGPT's table of characters"),
        ({"vocab.json": "{"}, "has vocab.json, not a whole tokenizer"),
        ({"vocab.json": "{", "merges.txt": ""}, "not a readable JSON file"),
        ({"added_tokens.json": '{"<extra>": 512}'}, "1 ids are outside the model's 512 rows, first 512 ('<extra>')"),
    ],
)
def test_a_named_tokenizer_that_does_not_fit_stops_it(
    form: str, files: dict[str, str], complaint: str, bare: Path, tmp_path: Path
):
    """A checkpoint's own would be left out with a note; this one was asked for."""
    named = tmp_path / "named"
    named.mkdir()
    if "added_tokens.json" in files:
        for name in ("vocab.json", "merges.txt"):
            (named / name).write_bytes((TINY / name).read_bytes())
    for name, content in files.items():
        (named / name).write_text(content)
    with pytest.raises(TokenizerError) as caught:
        convert(bare, tmp_path / "out", form, tokenizer=named)
    assert complaint in str(caught.value) and str(named) in str(caught.value) and not (tmp_path / "out").exists()


def test_a_named_tokenizer_that_the_form_cannot_say_stops_it(bare: Path, tmp_path: Path):
    """A tokenizer.json of any kind is Hugging Face's to read. OpenAI's two files can only be GPT-2's."""
    import tokenizers

    named = tmp_path / "tokenizer.json"
    tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1}, unk_token="a")).save(str(named))
    assert (convert(bare, tmp_path / "hf", "huggingface", tokenizer=named).destination / named.name).is_file()
    with pytest.raises(TokenizerError, match="not GPT-2's tokenizer: its model is WordLevel"):
        convert(bare, tmp_path / "out", "openai", tokenizer=named)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("form", "name", "tokenizer", "complaint"),
    [
        ("llm.c", "out", "tiny", "llm.c has no form for a tokenizer, so tiny cannot be written"),
        ("nanogpt", "out.pt", "tiny", "only a directory gets one"),
        ("huggingface", "out", "./missing", "./missing does not exist"),
    ],
)
def test_a_tokenizer_with_no_place_to_go_or_to_come_from(
    form: str, name: str, tokenizer: str, complaint: str, bare: Path, tmp_path: Path
):
    with pytest.raises(TokenizerError) as caught:
        convert(bare, tmp_path / name, form, tokenizer=tokenizer)
    assert complaint in str(caught.value) and not list(tmp_path.iterdir())


def test_the_named_tokenizer_is_not_written_over(bare: Path, tmp_path: Path):
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((TINY / name).read_bytes())
    report = convert(bare, tmp_path, "huggingface", tokenizer=tmp_path)  # beside it: the same files stay
    assert {"vocab.json", "merges.txt", "model.safetensors"} <= contents(report.destination).keys()
    named = convert("tiny", tmp_path / "x.gguf", "gguf").destination
    before = named.read_bytes()
    with pytest.raises(CheckpointError, match=r"x\.gguf"):
        convert(bare, named, "gguf", tokenizer=named, overwrite=True)
    assert named.read_bytes() == before


def test_a_named_tokenizer_is_not_mixed_with_files_of_another(bare: Path, tmp_path: Path):
    """A tokenizer.json that is there already would be read instead of the vocabulary and merges that are written."""
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"holds tokenizer\.json, which would be read with the tokenizer of"):
        convert(bare, tmp_path, "huggingface", tokenizer="tiny", overwrite=True)
    assert list(contents(tmp_path)) == ["tokenizer.json"]


def test_a_tokenizer_is_fetched_from_the_hub_at_its_own_revision(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[Any] = []

    def fetch(repo_id: str, names: Any, **options: Any) -> dict[str, Path]:
        asked.append((repo_id, options))
        return {name: TINY / name for name in names if (TINY / name).is_file()}

    monkeypatch.setattr("gpt2_from_scratch.tokenizer.hub.fetch", fetch)
    options: Any = {"revision": "of-the-weights", "local_files_only": True}
    report = convert(bare, tmp_path / "out", "huggingface", tokenizer="somebody/tokenizer", **options)
    assert asked == [("somebody/tokenizer", {"local_files_only": True})]
    assert (report.destination / "vocab.json").read_bytes() == (TINY / "vocab.json").read_bytes()


# --------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("to", "change", "complaint"),
    [
        ("gguf", {"activation_function": "gelu"}, r"llama\.cpp cannot express this model: activation_function 'gelu'"),
        ("openai", {"layer_norm_epsilon": 1e-6}, "OpenAI's code cannot express this model: layer_norm_epsilon 1e-06"),
        ("llm.c", {"scale_attn_weights": False}, r"llm\.c cannot express this model: scale_attn_weights false"),
        ("nanogpt", {"activation_function": "relu"}, "nanoGPT cannot express this model: activation_function 'relu'"),
        ("mingpt", {"activation_function": "gelu"}, "minGPT cannot express this model: activation_function 'gelu'"),
        ("mlx", {"scale_attn_by_inverse_layer_idx": True}, "mlx-lm cannot express this model"),
        ("llms_from_scratch", {"layer_norm_epsilon": 1e-6}, "the book's GPTModel cannot express this model"),
    ],
)
def test_a_program_that_would_compute_something_else_is_refused(
    to: str, change: dict[str, Any], complaint: str, tied: Path, tmp_path: Path
):
    with pytest.raises(ConfigError, match=complaint) as error:
        convert(tied, tmp_path / "out", to, overrides=change)
    assert "choose the form huggingface" in error.value.hint
    assert not list(tmp_path.iterdir())


def test_a_program_with_another_gelu_is_had_by_asking_for_it_and_the_report_says_so(tied: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="computes the tanh GELU") as error:
        convert(tied, tmp_path / "x.gguf", "gguf", overrides={"activation_function": "gelu"})
    report = convert(tied, tmp_path / "x.gguf", "gguf", **error.value.options)
    assert "set by you: activation_function gelu_new" in str(report)
    assert "set by you" not in str(convert(tied, tmp_path / "y.gguf", "gguf"))


def test_either_gelu_is_nanogpts(tied: Path, tmp_path: Path):
    exact = convert(tied, tmp_path / "exact", "nanogpt", overrides={"activation_function": "gelu"})
    assert "exact GELU" not in str(exact)
    assert open_checkpoint(exact.destination).config.activation_function == "gelu"
    tanh = convert(tied, tmp_path / "tanh", "nanogpt")
    assert "write nn.GELU(approximate='tanh')" in str(tanh)
    assert open_checkpoint(tanh.destination).config.activation_function == "gelu_new"


def test_what_is_there_is_not_replaced_unasked(tied: Path, untied: Path, tmp_path: Path):
    for to, target in TARGETS.items():
        out = tmp_path / to
        convert(tied, out, to)
        before = contents(out)
        with pytest.raises(CheckpointError, match="already") as error:
            convert(tied, out, to, dtype=torch.float32)
        assert "overwrite" in error.value.hint and contents(out) == before, to
        assert_same(canonical(convert(tied, out, to, overwrite=True).destination), canonical(tied))
        assert contents(out).keys() == before.keys()
        if to in UNTIED and not target.holds_config:  # another model's config.json is replaced with its weights
            convert(untied, out, to, overwrite=True)
            assert not open_checkpoint(out).config.tie_word_embeddings


def test_the_config_of_another_model_is_no_neighbour(tied: Path, untied: Path, tmp_path: Path):
    """A reader would believe it: what is written beside it would be read as what it is not."""
    source = edited(tied, tmp_path / "other", lambda tensors: None, n_head=11)
    for name, to in (("x.gguf", "gguf"), ("x.pt", "mingpt")):
        with pytest.raises(CheckpointError, match="is of another model"):
            convert(tied, source / name, to)
    assert sorted(contents(source)) == ["config.json", "model.safetensors"]
    convert(source, source / "x.gguf", "gguf")  # its own is one
    assert open_checkpoint(source / "x.gguf").config.n_head == 11
    with pytest.raises(CheckpointError, match=r"model\.safetensors, which would be found before OpenAI's files"):
        convert(source, source, "openai")


def test_the_source_is_not_written_over(tied: Path, tmp_path: Path):
    gguf = convert(tied, tmp_path / "x.gguf", "gguf").destination
    before = contents(tmp_path)
    for source, destination, to in ((gguf, gguf, "gguf"), (tied, tied, "huggingface")):
        with pytest.raises(CheckpointError, match="is the source itself"):
            convert(source, destination, to, overwrite=True)
    (tmp_path / "link.gguf").symlink_to(gguf)
    with pytest.raises(CheckpointError, match="is the source itself"):
        convert(gguf, tmp_path / "link.gguf", "gguf", overwrite=True)
    assert gguf.read_bytes() == before["x.gguf"]


@pytest.mark.parametrize(
    ("to", "name", "complaint"),
    [
        ("gpt3", "out", "'gpt3' is not a form that can be written"),
        ("gguf", "x.pth", "gguf is not written as .pth"),
        ("mlx", "x.pt", "mlx is not written as .pt"),
        ("huggingface", "x.safetensors", "huggingface is a directory"),
        ("gguf", "taken.txt", "taken.txt is a file, and none of gguf's"),
        ("gguf", "taken.txt/x.gguf", "cannot write .*taken.txt"),
    ],
)
def test_a_destination_that_makes_no_sense(to: str, name: str, complaint: str, tied: Path, tmp_path: Path):
    (tmp_path / "taken.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=complaint):
        convert(tied, tmp_path / name, to)
    assert contents(tmp_path) == {"taken.txt": b"mine"}


def test_an_empty_name_is_not_the_folder_that_somebody_stands_in(
    tied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="the destination's name is empty"):
        convert(tied, "", "gguf")
    assert not contents(tmp_path)


@pytest.mark.parametrize(
    ("value", "complaint"), [(float("nan"), "NaN or infinite"), (1e5, r"float16 ends at 6\.55e\+04")]
)
def test_values_that_cannot_be_written_stop_it_and_leave_nothing(
    value: float, complaint: str, tied: Path, tmp_path: Path
):
    def spoil(tensors: dict[str, Tensor]) -> None:
        tensors["transformer.h.3.attn.c_proj.weight"][2, 1] = value

    source = edited(tied, tmp_path / "source", spoil)
    out = tmp_path / "out"
    for to in ("huggingface", "gguf", "llms_from_scratch"):
        with pytest.raises(MappingError, match=rf"h\.3\.attn\.c_proj\.weight has .*{complaint}"):
            convert(source, out, to, dtype=torch.float16)
        assert not list(out.iterdir())


# ------------------------------------------------------------------------------------------------ memory, interruption


@pytest.mark.parametrize("to", TARGETS)
def test_one_tensor_at_a_time_is_in_memory(to: str, tied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Read without a map, so that each tensor that is alive is memory; no more than the largest one ever is."""
    alive: dict[int, int] = {}
    peak, reads = 0, 0
    genuine = OpenFile.read

    def counted(*arguments: Any) -> Tensor:
        nonlocal peak, reads
        tensor = genuine(*arguments)
        storage = tensor.untyped_storage()
        key, reads = reads, reads + 1
        alive[key] = storage.nbytes()
        peak = max(peak, sum(alive.values()))
        weakref.finalize(tensor, alive.pop, key)
        keep.append(weakref.ref(tensor))
        return tensor

    keep: list[Any] = []
    monkeypatch.setattr(OpenFile, "read", counted)
    source = edited(tied, tmp_path / "source", lambda tensors: None)
    convert(source, tmp_path / "out", to, mmap=False)
    largest = max(tensor.nbytes for tensor in canonical(tied).values())
    assert reads >= 148 and peak <= largest


def test_progress_ends_with_everything(tied: Path, tmp_path: Path):
    for to in TARGETS:
        seen: list[tuple[int, int]] = []
        convert(tied, tmp_path / to, to, progress=lambda *counts, seen=seen: seen.append(counts))
        assert seen == sorted(seen) and seen[-1][0] == seen[-1][1] == max(of for _, of in seen) > 0, to


@pytest.mark.parametrize("to", TARGETS)
def test_an_interrupted_write_leaves_the_old_files(
    to: str, tied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = convert(tied, tmp_path / "out", to).destination
    before = contents(tmp_path / "out")
    source = edited(tied, tmp_path / "other", lambda tensors: tensors["transformer.wpe.weight"].mul_(2))

    def progress(done: int, of: int) -> None:
        if done > of / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "out", to, overwrite=True, progress=progress)
    assert contents(tmp_path / "out") == before
    convert(source, tmp_path / "out", to, overwrite=True)
    assert_same(canonical(path), canonical(source))


@pytest.mark.skipif(sys.platform != "linux", reason="which file a descriptor is of is read in /proc")
def test_a_file_is_on_the_disk_before_it_takes_its_place_and_then_the_folder_is(
    tied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Else a power cut may leave a file that has its name and not its content."""
    steps: list[str] = []
    genuine = os.replace

    def replace(old: str, new: Path) -> None:
        steps.append(f"rename {Path(new).name}")
        genuine(old, new)

    def synced(descriptor: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name
        steps.append(f"sync {name.removeprefix('.').partition('.part')[0].rpartition('.')[0] or name}")

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replace)
    convert(tied, tmp_path / "out", "mingpt")
    files = [step.removeprefix("rename ") for step in steps if step.startswith("rename")]
    assert len(files) == 3
    assert steps == [*(f"sync {name}" for name in files), *(f"rename {name}" for name in files), "sync out"]


KILLED = """
import os, random, signal, sys, time, warnings
from pathlib import Path
import torch
from gpt2_from_scratch.converting import convert
torch.set_num_threads(1)
warnings.simplefilter("ignore")  # of forking: the children only copy
sources, out, to, times = sys.argv[1:3], Path(sys.argv[3]), sys.argv[4], int(sys.argv[5])

def contents():
    return {path.name: path.read_bytes() for path in out.iterdir() if not path.name.endswith(".part")}

complete = []
for source in sources:
    convert(source, out, to, overwrite=True)
    complete.append(contents())
assert complete[0] != complete[1]
ends, random = [0, 0], random.Random(1)
began = time.monotonic()
convert(sources[0], out, to, overwrite=True)
longest = 2 * (time.monotonic() - began)
unfinished = 0
for _ in range(times):
    child = os.fork()
    if not child:
        while True:
            for source in sources:
                convert(source, out, to, overwrite=True)
    time.sleep(random.uniform(0, longest))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    ends[complete.index(contents())] += 1
    for path in out.glob(".*.part"):
        unfinished += 1
        path.unlink()
print(*ends, unfinished)
"""


def killed(sources: list[Path], out: Path, to: str, times: int) -> tuple[int, int, int]:
    """How often a kill left the first source's files, how often the second's, and how many unfinished ones beside."""
    run = subprocess.run(
        [sys.executable, "-c", KILLED, *map(str, sources), str(out), to, str(times)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr
    first, second, unfinished = map(int, run.stdout.split())
    return first, second, unfinished


SLOW = [pytest.param(to, 200, marks=pytest.mark.slow) for to in ("gguf", "huggingface", "llms_from_scratch")]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 here")
@pytest.mark.parametrize(("to", "times"), [("gguf", 8), *SLOW])
def test_kill_9_leaves_the_old_files_or_the_new_ones(to: str, times: int, tied: Path, tmp_path: Path):
    other = edited(tied, tmp_path / "other", lambda tensors: tensors["transformer.wpe.weight"].mul_(2))
    first, second, unfinished = killed([tied, other], tmp_path / "out", to, times)
    assert first + second == times
    assert unfinished, "no kill came while something was written: nothing was shown"


# ---------------------------------------------------------------------------------------------------------- in use


def test_ours_and_a_foreign_module_load_it(tied: Path, tmp_path: Path):
    path = convert(tied, tmp_path / "book.pth", "llms_from_scratch").destination
    model = GPTModel.from_pretrained(path)
    module = book.GPTModel(book_config(model.config))
    assert load_into(module, path, "llms_from_scratch")
    assert bytes(raw(module.state_dict()["tok_emb.weight"])) == bytes(raw(model.wte.weight))
