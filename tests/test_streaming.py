"""A model whose weights stay in their file computes the same, and holds one block of them at a time."""

import sys
from pathlib import Path

import pytest
import torch

from gpt2_from_scratch import GPTModel, convert, generate, streaming, verify
from gpt2_from_scratch.errors import CheckpointError
from gpt2_from_scratch.loading import open_checkpoint
from gpt2_from_scratch.reference import load_reference
from gpt2_from_scratch.streaming import larger_than_memory
from tests.perturbed import perturbed, save

IDS = torch.tensor([[5, 3, 8, 8, 1], [7, 0, 2, 9, 4]])


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head of a small vocabulary is run in parts, too."""
    monkeypatch.setattr(streaming, "_ROWS", 96)


@pytest.fixture(scope="module", params=[torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)], ids=str)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide enough for tensors of many pages."""
    model = perturbed(n_embd=256, n_inner=None, n_layer=8, dtype=request.param)
    return save(model, tmp_path_factory.mktemp("streamed"))


def in_memory(model: GPTModel) -> int:
    """Bytes of the mapping of its weights that are in memory."""
    address, mapped = model.wte.weight.data_ptr(), False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        start, dash, rest = line.partition("-")
        if dash and " " not in start:
            mapped = int(start, 16) <= address < int(rest.split()[0], 16)
        elif mapped and line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the weights are mapped")


def test_our_model(checkpoint: Path) -> None:
    whole = GPTModel.from_pretrained(checkpoint, dtype=torch.float32)
    streamed = GPTModel.from_pretrained(checkpoint, dtype=torch.float32, stream=True)
    stored = open_checkpoint(checkpoint).dtype
    assert {parameter.dtype for parameter in streamed.parameters()} == {stored}
    with torch.inference_mode():
        assert torch.equal(streamed(IDS), whole(IDS))
        with pytest.raises(ValueError, match="outside the vocabulary"):
            streamed(IDS + 211)
        assert torch.equal(streamed(IDS), whole(IDS))
    assert {parameter.dtype for parameter in streamed.parameters()} == {stored}
    assert torch.equal(generate(streamed, IDS, max_new_tokens=9), generate(whole, IDS, max_new_tokens=9))


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/smaps is Linux'")
def test_pages_are_given_back(checkpoint: Path) -> None:
    model = GPTModel.from_pretrained(checkpoint, stream=True)
    size, held = (checkpoint / "model.safetensors").stat().st_size, list[int]()
    model.h[5].ln_2.register_forward_hook(lambda *_: held.append(in_memory(model)))
    with torch.inference_mode():
        model(IDS)
    assert 0 < held[0] < 0.25 * size, "an eighth is in use, and the system reads a little ahead"
    assert in_memory(model) < 0.1 * size, "pages that two units share"


def test_the_reference(checkpoint: Path) -> None:
    opened = open_checkpoint(checkpoint)
    whole, streamed = load_reference(opened), load_reference(opened, stream=True)
    assert {parameter.dtype for parameter in streamed.model.parameters()} == {opened.dtype}
    for one, other in (
        (whole.logits(IDS), streamed.logits(IDS)),
        (whole.in_float64(IDS), streamed.in_float64(IDS)),
        (whole.logits_in(torch.bfloat16, IDS), streamed.logits_in(torch.bfloat16, IDS)),
        (whole.continued(IDS[:1], 6), streamed.continued(IDS[:1], 6)),
        *((one.output, streamed.trace(IDS)[site].output) for site, one in list(whole.trace(IDS).items())[::20]),
    ):
        assert torch.equal(one, other)
    assert whole.kernels == streamed.kernels
    with torch.inference_mode():
        assert torch.equal(streamed.model(IDS, use_cache=False).logits, whole.logits(IDS))


def test_a_verdict_is_the_same(tmp_path: Path) -> None:
    opened = open_checkpoint(save(perturbed(n_layer=2), tmp_path))
    whole = verify(GPTModel.from_pretrained(opened), opened)
    streamed = verify(GPTModel.from_pretrained(opened, stream=True), opened, stream=True)
    assert whole and str(streamed) == str(whole)


def test_what_transformers_does_not_map_is_not_streamed(tmp_path: Path) -> None:
    torch.save(perturbed(n_layer=1).state_dict(), tmp_path / "pytorch_model.bin")
    perturbed(n_layer=1).config.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be streamed"):
        load_reference(open_checkpoint(tmp_path), stream=True)


def test_it_runs_on_the_cpu(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="on the CPU, not on meta"):
        GPTModel.from_pretrained(checkpoint, stream=True, device="meta")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what is mapped")
def test_what_would_stay_in_memory_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    convert(checkpoint, tmp_path / "turned", "nanogpt")  # which stores [out, in]
    with pytest.raises(CheckpointError, match="would stay in memory") as refused:
        GPTModel.from_pretrained(tmp_path / "turned", stream=True)
    assert refused.value.hint == "write it as one that does: gpt2 convert SOURCE DESTINATION --to huggingface"
    convert(tmp_path / "turned", tmp_path / "as_computed", "huggingface")
    streamed = GPTModel.from_pretrained(tmp_path / "as_computed", stream=True)
    with torch.inference_mode():
        assert torch.equal(streamed(IDS), GPTModel.from_pretrained(checkpoint)(IDS))


def test_larger_than_memory() -> None:
    assert not larger_than_memory(1)
    assert larger_than_memory(10**15) is (sys.platform == "linux")
