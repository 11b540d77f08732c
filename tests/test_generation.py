"""Generation: the ids transformers generates, from batches and streams, and errors in place of nonsense.

Greedy ids are compared on the perturbed model and on the trained one that ships. What depends on a certain id coming at
a certain step, such as the end of a text, is tested with `automaton`, a GPT-2 whose every id has one fixed successor.
"""

import copy
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise, product
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2LMHeadModel
from transformers.generation.logits_process import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import ConfigError, TokenizerError
from gpt2_from_scratch.generation import (
    Decoding,
    generate,
    left_pad,
    penalised,
    probabilities,
    steps,
    stream,
    stream_text,
    until,
)
from gpt2_from_scratch.generation_config import GenerationConfig, read_generation_config
from gpt2_from_scratch.layers import EXACT, EXACT_EAGER, FUSED, TEXTBOOK, Compute
from gpt2_from_scratch.loading import TINY
from gpt2_from_scratch.model import GPTModel
from gpt2_from_scratch.tokenizer import BYTE_SYMBOLS, Tokenizer, load_tokenizer, tokenizer_at
from tests.perturbed import ours

NEW = 20
LENGTHS = (1, 2, 7, 12, 18)  # 18 + 20 - 1 tokens are the perturbed model's whole context of 37
ENDLESS = Decoding(eos_token_id=())
NEVER = 10**6  # transformers has no other way to say "no end-of-text id": an id outside the vocabulary


@pytest.fixture(scope="module")
def model(perturbed_checkpoint: Path) -> GPTModel:
    """Ours, from the perturbed model's files. Shared: leave it as it is."""
    return GPTModel.from_pretrained(perturbed_checkpoint)


def prompts_for(vocab_size: int) -> list[list[int]]:
    """50 prompts, 10 of each length, any ids."""
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(vocab_size, (length,), generator=generator).tolist() for length in LENGTHS * 10]


def automaton(successors: Mapping[int, int], vocab_size: int = 256, **config: Any) -> GPTModel:
    """A GPT-2 that continues id ``i`` with ``successors[i]``, and with 0 where there is none.

    Embeddings are one-hot and the block adds nothing, so that after the last LayerNorm the largest feature is still
    number ``i``; the head answers to it with the successor.
    """
    fields = {
        "n_layer": 1,
        "n_head": 1,
        "n_positions": 64,
        "tie_word_embeddings": False,
        "eos_token_id": None,
        **config,
    }
    model = GPTModel(GPTConfig(vocab_size=vocab_size, n_embd=vocab_size, n_inner=4, **fields)).eval()
    for name, parameter in model.named_parameters():
        nn.init.constant_(parameter, float(name.endswith("weight") and "ln_" in name))
    nn.init.eye_(model.wte.weight)
    with torch.no_grad():
        for token_id in range(vocab_size):
            model.lm_head.weight[successors.get(token_id, 0), token_id] = 1.0
    return model


def chain(*ids: int) -> dict[int, int]:
    """Successors that make the first id go on to the last."""
    return dict(pairwise(ids))


# ------------------------------------------------------------------------------------ the same ids as transformers


@pytest.fixture(scope="module", params=["perturbed", "tiny"])
def pair(request: pytest.FixtureRequest, perturbed_reference: GPT2LMHeadModel) -> tuple[GPTModel, GPT2LMHeadModel]:
    """The same model twice, ours first."""
    if request.param == "perturbed":
        return request.getfixturevalue("model"), perturbed_reference
    return GPTModel.from_pretrained(TINY), GPT2LMHeadModel.from_pretrained(TINY).eval()


def transformers_ids(reference: GPT2LMHeadModel, ids: Tensor, mask: Tensor, new: int, **options: Any) -> Tensor:
    options = {"eos_token_id": NEVER, "pad_token_id": 0, **options}
    return reference.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=new, **options)


@pytest.fixture(scope="module")
def greedy(pair: tuple[GPTModel, GPT2LMHeadModel]) -> dict[tuple[int, ...], list[int]]:
    """What transformers adds to each of the 50 prompts. It sees no padding: prompts of one length at a time."""
    prompts = prompts_for(pair[0].config.vocab_size)
    continued = {}
    for length in LENGTHS:
        ids = torch.tensor([prompt for prompt in prompts if len(prompt) == length])
        for row in transformers_ids(pair[1], ids, torch.ones_like(ids), NEW).tolist():
            continued[tuple(row[:length])] = row[length:]
    return continued


@pytest.mark.parametrize("compute", [FUSED, EXACT], ids=["fused", "exact"])
def test_a_left_padded_batch_is_continued_as_transformers_does(pair, greedy, compute: Compute):
    model = pair[0]
    prompts = prompts_for(model.config.vocab_size)
    ids, mask = left_pad(prompts)
    result = generate(model, ids, NEW, Decoding(eos_token_id=(), compute=compute), mask)
    assert torch.equal(result[:, : ids.size(1)], ids)
    assert result[:, ids.size(1) :].tolist() == [greedy[tuple(prompt)] for prompt in prompts]


def test_single_prompts_are_continued_as_transformers_does(pair, greedy):
    model, new = pair[0], 4  # after 4 ids a cache has been written, extended and read; more only takes longer
    for prompt in prompts_for(model.config.vocab_size):
        result = generate(model, torch.tensor([prompt]), new, ENDLESS)
        assert result[0].tolist() == [*prompt, *greedy[tuple(prompt)][:new]]


def test_bfloat16_is_continued_as_transformers_does(perturbed_reference: GPT2LMHeadModel):
    # With 8 bits of precision several logits are often the largest. The first counts, here as there; another rounding
    # would choose another, so this is for the exact computation.
    reference = copy.deepcopy(perturbed_reference).to(torch.bfloat16)
    ids, mask = left_pad(prompts_for(reference.config.vocab_size)[:10])
    result = generate(ours(reference), ids, NEW, Decoding(eos_token_id=(), compute=EXACT), mask)
    assert torch.equal(result, transformers_ids(reference, ids, mask, NEW))


# ------------------------------------------------------------------------------------------------- the end of a text


@pytest.mark.parametrize("of", ["generation_config", "config"])
@pytest.mark.parametrize("pad", [None, 3])
def test_texts_end_where_they_end_in_transformers(
    model: GPTModel, perturbed_reference: GPT2LMHeadModel, pad: int | None, of: str
):
    ids, mask = left_pad(prompts_for(model.config.vocab_size)[:20])
    going_on = generate(model, ids, NEW, ENDLESS, mask)[:, ids.size(1) :]
    stops = (int(going_on[0, 4]), int(going_on[1, 6]))
    ends = [next((step for step, id_ in enumerate(row) if id_ in stops), NEW) for row in going_on.tolist()]
    assert NEW in ends, "a text that goes on is needed"
    assert len(set(ends)) > 5, "texts that end at many different steps are needed"

    model = copy.copy(model)
    assert model.generation_config is not None, "transformers' save wrote one"
    model.generation_config = GenerationConfig(stops, pad) if of == "generation_config" else None
    if of == "config":
        model.config = model.config.replace(pad_token_id=pad, eos_token_id=stops)
    expected = transformers_ids(
        perturbed_reference, ids, mask, NEW, eos_token_id=list(stops), pad_token_id=stops[0] if pad is None else pad
    )
    assert torch.equal(generate(model, ids, NEW, attention_mask=mask), expected)


def test_a_finished_row_leaves_the_batch_and_the_last_one_ends_it():
    model = automaton(chain(1, 2, 3, 4, 9) | chain(5, 9) | chain(6, 7, 9), eos_token_id=9)
    shapes = []
    with model.wte.register_forward_hook(lambda module, args, output: shapes.append(tuple(args[0].shape))):
        result = generate(model, torch.tensor([[1], [5], [6]]), NEW)
    assert result.tolist() == [[1, 2, 3, 4, 9], [5, 9, 9, 9, 9], [6, 7, 9, 9, 9]]
    assert shapes == [(3, 1), (2, 1), (1, 1), (1, 1)]


@pytest.mark.parametrize(
    ("config", "argument", "expected"),
    [
        ({"eos_token_id": 3}, None, [1, 2, 3]),
        ({"eos_token_id": (7, 2)}, None, [1, 2]),
        ({"eos_token_id": 3}, 2, [1, 2]),
        ({"eos_token_id": 3}, [4, 2], [1, 2]),
        ({"eos_token_id": 2}, (), [1, 2, 3, 4, 5]),
        ({"eos_token_id": None}, None, [1, 2, 3, 4, 5]),
        ({"eos_token_id": 50256}, None, [1, 2, 3, 4, 5]),  # GPT-2's, left in the configuration of a small model
        ({"eos_token_id": -1, "pad_token_id": -1}, None, [1, 2, 3, 4, 5]),  # "none", in files of transformers 2 and 3
    ],
)
def test_which_ids_end_a_text(config: dict[str, Any], argument: Any, expected: list[int]):
    model = automaton(chain(1, 2, 3, 4, 5), **config)
    assert generate(model, torch.tensor([[1]]), 4, Decoding(eos_token_id=argument)).tolist() == [expected]


def test_an_end_of_text_id_in_the_prompt_ends_nothing():
    model = automaton(chain(9, 1, 2, 9), eos_token_id=9)
    assert generate(model, torch.tensor([[9, 9]])).tolist() == [[9, 9, 1, 2, 9]]


# ---------------------------------------------------------------------------------------------------- what it costs


def test_only_new_tokens_and_only_last_logits_are_computed(model: GPTModel):
    read, scored = [], []
    with (
        model.wte.register_forward_hook(lambda module, args, output: read.append(tuple(args[0].shape))),
        model.lm_head.register_forward_hook(lambda module, args, output: scored.append(tuple(output.shape))),
    ):
        generate(model, torch.tensor([[1, 2, 3], [4, 5, 6]]), 4, ENDLESS)
    assert read == [(2, 3), (2, 1), (2, 1), (2, 1)]
    assert scored == [(2, 211)] * 4


# -------------------------------------------------------------------------------------------------------- real files


@pytest.mark.slow
def test_the_adder_answers_all_ten_thousand_sums(shared_checkpoints: Path):
    folder = shared_checkpoints / "mingpt-adder2-christianliu"
    adder = GPTModel.from_pretrained(folder)
    sums = list(product(range(100), range(100)))
    prompts = torch.tensor([[int(digit) for digit in f"{a:02}{b:02}"] for a, b in sums])
    results = generate(adder, prompts, 3).tolist()  # its context has 6 places: the third digit is not read
    assert [int(f"{row[6]}{row[5]}{row[4]}") for row in results] == [a + b for a, b in sums]
    published = json.loads((folder / "expected.json").read_text())["cases"]
    for case in published:
        assert results[int("".join(map(str, case["input_ids"])))] == case["output_ids"]


# ---------------------------------------------------------------------------------------------------------- sampling

LOGITS = torch.randn(64, 500, generator=torch.Generator().manual_seed(0)) * 3  # from flat to sharp, over 64 rows


@pytest.mark.parametrize("temperature", [0.3, 1.7])
@pytest.mark.parametrize("top_k", [None, 1, 40, 9999])
@pytest.mark.parametrize("top_p", [None, 1e-9, 0.5, 0.9, 1.0])
def test_ids_are_drawn_from_the_distribution_of_transformers(
    temperature: float, top_k: int | None, top_p: float | None
):
    scores = TemperatureLogitsWarper(temperature)(None, LOGITS)
    scores = TopKLogitsWarper(top_k)(None, scores) if top_k is not None else scores
    scores = TopPLogitsWarper(top_p)(None, scores) if top_p is not None else scores
    expected = scores.softmax(dim=-1)
    result = probabilities(LOGITS, temperature, top_k, top_p)
    assert torch.equal(result > 0, expected > 0)
    torch.testing.assert_close(result, expected)


def test_top_p_keeps_the_fewest_ids_that_reach_it():
    quarters = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    for top_p, kept in [(0.01, 1), (0.49, 1), (0.51, 2), (0.74, 2), (0.76, 3), (0.87, 3), (0.88, 4), (1.0, 4)]:
        assert int((probabilities(quarters, top_p=top_p) > 0).sum()) == kept


def test_top_k_keeps_ids_as_likely_as_the_last():
    assert probabilities(torch.tensor([[2.0, 1.0, 1.0, 0.0]]), top_k=2)[0].gt(0).tolist() == [True, True, True, False]


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-300])
def test_a_temperature_near_zero_is_greedy(temperature: float):
    expected = torch.nn.functional.one_hot(LOGITS.argmax(dim=-1), 500).float()
    torch.testing.assert_close(probabilities(LOGITS, temperature), expected)


@pytest.mark.parametrize("options", [{"temperature": 1.3}, {"temperature": 0.8, "top_k": 60, "top_p": 0.7}], ids=str)
def test_draws_follow_the_distribution(options: dict[str, Any]):
    model, draws, prompt = automaton({}, vocab_size=90), 20_000, torch.tensor([[5]])
    nn.init.normal_(model.lm_head.weight, std=0.2, generator=torch.Generator().manual_seed(0))
    ids = generate(model, prompt.expand(draws, -1), 1, Decoding(seed=0, eos_token_id=(), **options))[:, -1]
    with torch.inference_mode():
        expected = probabilities(model(prompt)[:, -1], **options)[0]
    counts = torch.bincount(ids, minlength=len(expected))
    assert not counts[expected == 0].any()
    # Counts are binomial. Beyond 5 standard deviations lies one in 2 million; one draw more or less is no evidence.
    deviation = (counts - draws * expected).abs()
    assert (deviation <= 5 * (draws * expected * (1 - expected)).sqrt() + 1).all()


def test_a_seed_repeats_and_the_global_generator_is_left_alone(model: GPTModel):
    ids, mask = left_pad(prompts_for(model.config.vocab_size)[:5])

    def draw(seed: int | None = None) -> Tensor:
        return generate(model, ids, 8, Decoding(temperature=1.0, seed=seed, eos_token_id=()), mask)

    state = torch.get_rng_state()
    assert torch.equal(draw(seed=1), draw(seed=1))
    assert not torch.equal(draw(seed=1), draw(seed=2))
    assert not torch.equal(draw(), draw())
    assert torch.equal(torch.get_rng_state(), state)


def test_greedy_ignores_the_seed(model: GPTModel):
    prompt = torch.tensor([[1, 2]])
    assert torch.equal(generate(model, prompt, 4, Decoding(seed=1)), generate(model, prompt, 4))


# ------------------------------------------------------------------------------------------------- repetition penalty


@pytest.mark.parametrize("penalty", [0.7, 1.0, 1.3, 5.0])
def test_the_penalty_is_that_of_transformers(penalty: float):
    ids = torch.randint(500, (64, 40), generator=torch.Generator().manual_seed(1))
    expected = RepetitionPenaltyLogitsProcessor(penalty)(ids, LOGITS)
    assert torch.equal(penalised(LOGITS, ids, penalty), expected)


@pytest.mark.parametrize("penalty", [pytest.param(0.8, marks=pytest.mark.slow), 1.5])
def test_penalised_texts_are_those_of_transformers(pair, penalty: float):
    model, reference = pair
    changed = 0
    for prompt in prompts_for(model.config.vocab_size)[:5]:
        ids = torch.tensor([prompt])
        expected = transformers_ids(reference, ids, torch.ones_like(ids), NEW, repetition_penalty=penalty)
        found = generate(model, ids, NEW, Decoding(eos_token_id=(), repetition_penalty=penalty))
        assert torch.equal(found, expected)
        changed += not torch.equal(generate(model, ids, NEW, ENDLESS), expected)
    assert changed, "a text that the penalty changes is needed"


def test_padding_is_not_penalised(model: GPTModel):
    prompts = prompts_for(model.config.vocab_size)[:10]
    decoding = Decoding(eos_token_id=(), repetition_penalty=1.5)
    new = {tuple(prompt): [*stream(model, prompt, NEW, decoding)] for prompt in prompts}
    for pad_id in {token_id for ids in new.values() for token_id in ids[:2]}:  # ids that the model wants to write
        ids, mask = left_pad(prompts, pad_id)
        found = generate(model, ids, NEW, decoding, mask)[:, ids.size(1) :].tolist()
        assert found == [new[tuple(prompt)] for prompt in prompts]


# ---------------------------------------------------------------------------------------------- generation_config.json


@pytest.fixture
def published(tmp_path: Path) -> Callable[[Any], tuple[GPTModel, GPT2LMHeadModel]]:
    """The model inside the package with a `generation_config.json`, in our hands and in transformers'."""

    def publish(content: Any) -> tuple[GPTModel, GPT2LMHeadModel]:
        for path in TINY.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        (tmp_path / "generation_config.json").write_text(json.dumps(content))
        return GPTModel.from_pretrained(tmp_path), GPT2LMHeadModel.from_pretrained(tmp_path).eval()

    return publish


@pytest.mark.parametrize(
    "content",
    [
        {},  # in transformers the file replaces what config.json says of these ids, also by silence
        pytest.param({"eos_token_id": None}, marks=pytest.mark.slow),
        {"eos_token_id": 13},
        {"eos_token_id": [423, 13], "pad_token_id": 7},
        pytest.param({"repetition_penalty": 1.4, "eos_token_id": 511}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_what_the_file_says_is_followed_as_in_transformers(published, content: dict[str, Any]):
    model, reference = published(content)
    ids = torch.tensor([[5, 6, 7], [32, 101, 7], [300, 12, 45]])
    expected = reference.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=120)
    assert torch.equal(generate(model, ids, 120), expected)
    endless = Decoding(eos_token_id=(), repetition_penalty=1.0)  # what the caller says goes before the file
    assert torch.equal(generate(model, ids, 40, endless), generate(GPTModel.from_pretrained(), ids, 40, endless))


def test_what_is_not_followed_is_named(published):
    content = {"eos_token_id": 511, "no_repeat_ngram_size": 3, "num_beams": 1, "min_length": 0, "max_length": 50}
    model, _ = published(content | {"do_sample": True, "top_k": 40, "bad_words_ids": None})
    message = "not followed here: no_repeat_ngram_size=3, do_sample=true, top_k=40$"
    with pytest.warns(UserWarning, match=message):
        generate(model, torch.tensor([[1]]), 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], r"holds \[1\], not a JSON object"),
        ({"eos_token_id": "13"}, "eos_token_id is '13', not a token id"),
        ({"eos_token_id": [1, None]}, "eos_token_id is None, not a token id"),
        ({"eos_token_id": 2**63}, "eos_token_id is 9223372036854775808, not a token id"),
        ({"pad_token_id": True}, "pad_token_id is True, not a token id"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0, not a number above 0"),
        ({"repetition_penalty": "1.2"}, "repetition_penalty is '1.2', not a number above 0"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(tmp_path: Path, content: Any, message: str):
    (tmp_path / "generation_config.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=message):
        read_generation_config(tmp_path)


# --------------------------------------------------------------------------------------------------- the model's modes


def modes(model: nn.Module) -> dict[str, bool]:
    return {name: module.training for name, module in model.named_modules()}


def test_a_model_in_training_does_not_drop_out_and_goes_on_training(perturbed_reference: GPT2LMHeadModel):
    model = ours(perturbed_reference)
    assert model.config.embd_pdrop > 0
    ids = torch.tensor([[1, 2, 3]])
    expected = generate(model, ids, 4)
    model.train()
    model.h[3].eval()  # someone has frozen a layer
    before = modes(model)
    assert torch.equal(generate(model, ids, 4), expected)
    assert modes(model) == before
    with pytest.raises(ValueError, match="outside the vocabulary"):
        generate(model, torch.tensor([[211]]), 4)
    assert modes(model) == before


@pytest.mark.parametrize("own", [TEXTBOOK, EXACT, EXACT_EAGER, FUSED], ids=["textbook", "exact", "eager", "fused"])
@pytest.mark.parametrize("asked", [EXACT, FUSED], ids=["asked exact", "asked fused"])
def test_a_stream_is_in_its_modes_only_while_it_computes(
    own: Compute, asked: Compute, perturbed_reference: GPT2LMHeadModel
):
    model = ours(perturbed_reference, own).train()
    inside, linear = [], model.h[0].mlp.c_fc
    linear.compute = TEXTBOOK  # someone's exception

    def look(*_: Any) -> None:
        inside.append((model.training, torch.is_inference_mode_enabled(), model.compute, linear.compute))

    with model.wte.register_forward_hook(look):
        next(ids := stream(model, [1, 2, 3], 4, Decoding(compute=asked)))
        assert (model.training, torch.is_inference_mode_enabled(), torch.is_grad_enabled()) == (True, False, True)
        assert (model.compute, linear.compute, model.h[1].mlp.c_fc.compute) == (own, TEXTBOOK, own)
        next(ids)
    assert inside == [(False, True, asked, asked)] * 2


def test_exact_steps_have_the_bits_of_transformers(perturbed_reference: GPT2LMHeadModel):
    model, logits = ours(perturbed_reference, FUSED), []
    with model.lm_head.register_forward_hook(lambda module, args, output: logits.append(output)):
        ids = generate(model, torch.tensor([[1, 2, 3]]), 1, Decoding(compute=EXACT, eos_token_id=()))
    expected = perturbed_reference(ids[:, :-1], use_cache=False, logits_to_keep=1).logits[:, -1]  # as its generate
    torch.testing.assert_close(logits[0], expected, rtol=0, atol=0)


def test_generated_ids_can_be_trained_on(perturbed_reference: GPT2LMHeadModel):
    model = ours(perturbed_reference)
    ids = generate(model, torch.tensor([[1, 2, 3]]), 4)
    assert not ids.is_inference()
    model(ids).sum().backward()  # tensors made in inference mode cannot be saved for the backward pass


# --------------------------------------------------------------------------------------------------------- streaming


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "top_k": 50, "top_p": 0.9, "seed": 3}], ids=str)
def test_a_stream_is_what_is_generated(model: GPTModel, options: dict[str, Any]):
    prompt = [3, 1, 4]
    decoding = Decoding(**options, eos_token_id=())
    whole = generate(model, torch.tensor([prompt]), 9, decoding)
    assert [*prompt, *stream(model, prompt, 9, decoding)] == whole[0].tolist()
    seen = [step.tolist() for step in steps(model, torch.tensor([prompt]), 9, decoding)]
    assert [[token_id] for token_id in whole[0, 3:].tolist()] == seen


def test_a_stream_computes_no_more_than_it_is_asked_for():
    model = automaton(chain(1, 2, 3, 4))
    steps = []
    with model.wte.register_forward_hook(lambda *_: steps.append(1)):
        ids = stream(model, [1])
        assert not steps
        assert (next(ids), next(ids)) == (2, 3)
        assert len(steps) == 2


@pytest.fixture
def encoding(tmp_path: Path) -> Tokenizer:
    """One token per byte, with the byte as its id; id 256 for the end of a text."""
    folder = tmp_path / "bytes"
    folder.mkdir()
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    in_order = [*printable, *(byte for byte in range(256) if byte not in printable)]
    vocab = dict(zip(BYTE_SYMBOLS, in_order, strict=True)) | {"<|endoftext|>": 256}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return tokenizer_at(folder)


def writer(text: str, start: int = 256, end: int = 256, **config: Any) -> GPTModel:
    """Writes `text`, whose bytes must all differ, after id `start`, and ends it with id `end`."""
    ids = [*text.encode()]
    assert len(ids) == len({*ids}), "an automaton cannot repeat itself"
    return automaton(chain(start, *ids) | {ids[-1]: end}, vocab_size=257, **{"eos_token_id": 256, **config})


def test_text_comes_in_whole_characters_without_the_end(encoding: Tokenizer):
    assert list(stream_text(writer("né🎉!"), encoding, "<|endoftext|>")) == ["n", "é", "🎉", "!"]
    assert list(stream_text(writer("né🎉!"), encoding, "n")) == ["é", "🎉", "!"]


def test_a_character_cut_off_by_the_limit_is_said_to_be_one(encoding: Tokenizer):
    assert list(stream_text(writer("né🎉!"), encoding, "n", max_new_tokens=4)) == ["é", "\ufffd"]


def test_text_goes_on_past_the_end_when_told_so(encoding: Tokenizer):
    pieces = stream_text(writer("ab"), encoding, "a", 4, ENDLESS)
    assert "".join(pieces) == "b<|endoftext|>ab"


def test_nothing_starts_with_the_start_or_else_the_end(encoding: Tokenizer):
    assert "".join(stream_text(writer("abc", bos_token_id=ord("b")), encoding, "")) == "c"
    for absent in (None, -1, 257, 50256):
        assert "".join(stream_text(writer("abc", bos_token_id=absent), encoding, "")) == "abc"


def test_nothing_to_start_from_is_said(encoding: Tokenizer):
    message = (
        r"^the prompt is empty, and the model has no token to start from: bos_token_id 50256 and eos_token_id None are "
        r"not in its vocabulary of 257; give a prompt$"
    )
    with pytest.raises(ValueError, match=message):
        stream_text(writer("abc", bos_token_id=50256, eos_token_id=None), encoding, "")


@pytest.mark.parametrize(
    ("stop", "expected"),
    [((), "né🎉!abc"), (("b",), "né🎉!a"), (("!a",), "né🎉"), (("x", "🎉"), "né"), (("n",), ""), (("cd",), "né🎉!abc")],
)
def test_a_text_ends_before_a_stop_text(encoding: Tokenizer, stop: tuple[str, ...], expected: str):
    pieces = list(stream_text(writer("né🎉!abc"), encoding, "<|endoftext|>", stop=stop))
    assert "".join(pieces) == expected
    assert "" not in pieces


def test_what_may_be_a_stop_text_is_held_back():
    seen: list[str] = []
    pieces = until((seen.append(piece) or piece for piece in ["a<", "<", "x", "<<", ">", "z"]), ["<<>"])
    assert [(piece, len(seen)) for piece in pieces] == [("a", 1), ("<<x", 3)]
    assert seen == ["a<", "<", "x", "<<", ">"], "nothing is computed behind the stop text"
    with pytest.raises(ValueError, match="a stop text is empty"):
        until(iter(["a"]), ["b", ""])


def test_an_id_that_no_token_has_is_said(encoding: Tokenizer):
    padded = automaton({ord("a"): ord("b"), ord("b"): 258}, vocab_size=260)
    pieces = stream_text(padded, encoding, "a")
    assert next(pieces) == "b"
    with pytest.raises(TokenizerError, match="no token with id 258"):
        next(pieces)


# ------------------------------------------------------------------------------------------------------------- errors

RIGHT_PADDED = r"row 1 of attention_mask has padding after its text, or no text; pad on the left \(`left_pad` does\)"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -0.5}, r"temperature is -0\.5; it must be 0 \(the likeliest id\) or above"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"temperature": 1.0, "top_k": 0}, "top_k is 0; at least 1 id must be left"),
        ({"temperature": 1.0, "top_p": 0.0}, r"top_p is 0\.0; it must be a probability above 0, at most 1"),
        ({"temperature": 1.0, "top_p": 1.5}, r"top_p is 1\.5"),
        ({"temperature": 1.0, "top_p": float("nan")}, "top_p is nan"),
        ({"top_k": 5}, "top_k is 5, but at temperature 0 nothing is drawn: set a temperature above 0, or leave top_k"),
        ({"top_p": 0.5}, r"top_p is 0\.5, but at temperature 0 nothing is drawn"),
        ({"repetition_penalty": 0.0}, r"repetition_penalty is 0\.0; it must be above 0"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty is nan"),
    ],
)
def test_wrong_settings_are_said(settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        Decoding(**settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be at least 1"),
        ({"input_ids": torch.tensor([1, 2])}, r"token ids \[B, T\] with at least one token, not of shape \[2\]"),
        ({"input_ids": torch.empty(2, 0, dtype=torch.int64)}, r"at least one token, not of shape \[2, 0\]"),
        ({"input_ids": torch.ones(2, 3)}, r"must be integer token ids \[B, T\], not torch.float32"),
        ({"attention_mask": torch.ones(2, 4)}, r"the shape of input_ids, \[2, 3\], not \[2, 4\]"),
        ({"attention_mask": torch.tensor([[0, 0, 1], [1, 1, 0]])}, RIGHT_PADDED),
        ({"attention_mask": torch.tensor([[0, 0, 1], [1, 0, 1]])}, RIGHT_PADDED),
        ({"attention_mask": torch.tensor([[0, 0, 1], [0, 0, 0]])}, RIGHT_PADDED),
        ({"attention_mask": torch.tensor([[0.0, 0.0, 0.0], [-1e9, 0.0, 0.0]])}, "must hold 1 at text and 0 at padding"),
    ],
)
def test_wrong_arguments_are_said(model: GPTModel, arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        generate(model, **{"input_ids": torch.tensor([[1, 2, 3], [4, 5, 6]]), **arguments})


def test_the_context_can_be_filled_and_not_overfilled():
    model = automaton(chain(1, 2, 3, 4, 5, 6), n_positions=4)
    assert generate(model, torch.tensor([[0, 1]]), 3).tolist() == [[0, 1, 2, 3, 4]]
    message = "^2 prompt tokens and 4 new ones do not fit into the context of 4: ask for at most 3 new tokens$"
    with pytest.raises(ValueError, match=message):
        generate(model, torch.tensor([[0, 1]]), 4)
    message = (
        "^5 prompt tokens and 1 new ones do not fit into the context of 4: shorten the prompt to 4 tokens at most$"
    )
    with pytest.raises(ValueError, match=message):
        generate(model, torch.zeros(1, 5, dtype=torch.int64), 1)


def test_a_stream_says_at_once_what_is_wrong(model: GPTModel, encoding: Tokenizer):
    with pytest.raises(ValueError, match="ask for at most 35 new tokens"):
        stream(model, [1, 2, 3], 36)
    with pytest.raises(ValueError, match="ask for at most 35 new tokens"):
        stream_text(model, encoding, "abc", 36)
    with pytest.raises(ValueError, match="at least one token"):
        stream(model, [])


@pytest.mark.parametrize(
    ("name", "at", "value"),
    [("wte.weight", (2, 0), float("nan")), ("lm_head.weight", (7, 2), float("inf"))],
    ids=["nan", "infinite"],
)
@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}], ids=["greedy", "drawn"])
def test_logits_that_are_no_numbers_give_no_ids(name: str, at: tuple[int, int], value: float, options: dict[str, Any]):
    model = automaton(chain(1, 2, 3))
    with torch.no_grad():
        model.get_parameter(name)[at] = value  # met by the second row's id 2
    message = "^the logits of token 1 are NaN or infinite: the model's weights are, or its float32 overflows"
    with pytest.raises(ValueError, match=message):
        generate(model, torch.tensor([[5], [2]]), 4, Decoding(**options))


# ----------------------------------------------------------------------------------------------------------- left_pad


def test_left_pad_puts_texts_to_the_right():
    ids, mask = left_pad([[1, 2], [3], [4, 5, 6]], pad_id=9)
    assert ids.tolist() == [[9, 1, 2], [9, 9, 3], [4, 5, 6]]
    assert mask.tolist() == [[0, 1, 1], [0, 0, 1], [1, 1, 1]]
    assert ids.dtype == mask.dtype == torch.int64


@pytest.mark.parametrize(("prompts", "message"), [([], "there are no prompts"), ([[1], []], "prompt 1 is empty")])
def test_left_pad_needs_prompts(prompts: list[list[int]], message: str):
    with pytest.raises(ValueError, match=message):
        left_pad(prompts)


# --------------------------------------------------------------------------------------------------------- the script

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "generate.py"


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[str]]]:
    """What `cli.main` was called with, in place of `cli.main`."""
    calls: list[list[str]] = []
    cli = ModuleType("gpt2_from_scratch.cli")
    cli.main = lambda: calls.append(sys.argv[1:]) or 2  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gpt2_from_scratch.cli", cli)
    return calls


def test_the_script_is_the_command(command_line: list[list[str]], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "Once upon", "--seed", "1"])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert exit_.value.code == 2
    assert command_line == [["generate", "Once upon", "--seed", "1"]]


def test_the_script_continues_a_prompt_with_the_model_that_ships():
    expected = "".join(stream_text(GPTModel.from_pretrained(TINY), load_tokenizer(TINY), "Once upon a time", 12))
    run = subprocess.run(
        [sys.executable, str(SCRIPT), "Once upon a time", "--max-new-tokens", "12"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(SCRIPT.parents[1])},  # also where the package is not installed
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, f"Once upon a time{expected}\n", "")
