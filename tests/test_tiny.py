"""The trained model inside the package: small, readable, loadable by everyone, and good for testing.

A model is good for testing when its logits show every fault that logits can show. The floor and the line are the
verdict's.
"""

import json
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gpt2_from_scratch import Decoding, GPTModel, generate, load_tokenizer
from gpt2_from_scratch.checks.candidate import Candidate
from gpt2_from_scratch.checks.logits import check_logits
from gpt2_from_scratch.checks.prompts import choose_prompts
from gpt2_from_scratch.layouts import LAYOUTS
from gpt2_from_scratch.loading import TINY, open_checkpoint
from gpt2_from_scratch.mapping import write_theirs
from gpt2_from_scratch.reference import Reference, load_reference
from gpt2_from_scratch.tokenizer import Tokenizer
from tests.foreign import book
from tests.modules import book_config
from tests.mutants import MUTANTS, Mutant, by_turns
from tests.remembering import Remembering


@pytest.fixture(scope="module")
def encoding() -> Tokenizer:
    return load_tokenizer(TINY)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Remembering(load_reference(open_checkpoint(TINY)))


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    checkpoint = open_checkpoint(TINY)
    return {name: checkpoint.read(name) for name in checkpoint.tensors}


def in_the_books_style(tensors: dict[str, Tensor], reference: Reference) -> book.GPTModel:
    config = reference.config
    model = book.GPTModel(book_config(config))
    reads = write_theirs(LAYOUTS["llms_from_scratch"][0], config, lambda name: tensors[name])
    model.load_state_dict({name: read() for name, read in reads.items()}, strict=False)
    return model


@pytest.mark.parametrize("mutant", by_turns([m for m in MUTANTS if m.visible], 3, 4))
def test_its_logits_show_every_fault(mutant: Mutant, reference: Reference, tensors: dict[str, Tensor]) -> None:
    config = reference.config
    edited = mutant.checkpoint(tensors, config.n_head)
    candidate = Candidate(mutant.in_book(in_the_books_style(edited, reference)), config)
    with candidate.evaluating(), torch.random.fork_rng():
        torch.manual_seed(0)
        logits = check_logits(candidate, reference, choose_prompts(config))
    assert not logits, f"{mutant.name} moves the logits by only {logits.multiple:.1f} floors"


def test_correct_code_passes_on_it(reference: Reference, tensors: dict[str, Tensor]) -> None:
    candidate = Candidate(in_the_books_style(tensors, reference), reference.config)
    with candidate.evaluating():
        assert check_logits(candidate, reference, choose_prompts(reference.config))


def test_it_is_small_and_has_twelve_layers() -> None:
    files = {path.name: path.stat().st_size for path in TINY.iterdir()}
    assert sum(files.values()) <= 3_000_000, "it ships inside the package"
    assert {"config.json", "model.safetensors", "vocab.json", "merges.txt"} <= files.keys()
    config = open_checkpoint(TINY).config
    assert config.n_layer == 12, "with ten or fewer, layers in lexicographic order would be right"
    assert config.eos_token_id == config.vocab_size - 1


def test_it_writes_english(encoding: Tokenizer) -> None:
    """Sampled, so that it cannot recite: words that it should know, in sentences that end."""
    model = GPTModel.from_pretrained()
    prompt = torch.tensor([encoding.encode_ordinary("Once upon a time")])
    text = encoding.decode(generate(model, prompt, 120, Decoding(temperature=0.8, seed=3))[0].tolist())
    words = [word.strip('.,!?"') for word in text.split("<|endoftext|>")[0].split()]
    common = {"a", "and", "the", "was", "to", "in", "of", "it", "he", "she", "they", "there", "said", "day", "had"}
    assert len(words) > 40 and sum(word.lower() in common for word in words) > len(words) / 5, text
    assert text.count(".") >= 3, text


@pytest.mark.slow
def test_its_loss_on_held_out_stories_is_what_the_readme_states(encoding: Tokenizer) -> None:
    """On the stories of another seed than the one it was trained on; the same windows as `scripts/train_tiny.py`."""
    import sys

    scripts = Path(__file__).parents[1] / "scripts"
    sys.path.insert(0, str(scripts))
    try:
        import train_tiny
    finally:
        sys.path.remove(str(scripts))
    windows = next(train_tiny.batches(encoding, 2, train_tiny.HELD_OUT_WINDOWS))
    with torch.inference_mode():
        loss = float(train_tiny.next_token_loss(GPTModel.from_pretrained(), windows))
    stated = re.search(r"held-out loss (\d\.\d+) nats", (scripts.parent / "README.md").read_text())
    assert stated is not None
    assert loss == pytest.approx(float(stated.group(1)), abs=0.005), "two decimals are stated"


def test_transformers_loads_model_and_tokenizer(encoding: Tokenizer) -> None:
    from transformers import GPT2LMHeadModel, GPT2Tokenizer

    theirs = GPT2LMHeadModel.from_pretrained(TINY, dtype=torch.float32).eval()
    text = 'Leo had a new drum. "Not so loud," said Grandma.\n\nThe end.'
    ids = encoding.encode_ordinary(text)
    assert GPT2Tokenizer.from_pretrained(TINY)(text)["input_ids"] == ids
    with torch.inference_mode():
        expected = theirs(torch.tensor([ids]), use_cache=False).logits
        assert torch.equal(GPTModel.from_pretrained()(torch.tensor([ids])), expected)
    assert json.loads((TINY / "config.json").read_text())["model_type"] == "gpt2"
