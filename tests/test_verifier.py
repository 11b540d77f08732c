"""The verdict: it passes what is GPT-2, fails what is not, says where, and never calls "could not check" either.

The candidates are foreign models (`tests/foreign`), broken by the bug zoo (`tests/mutants.py`) in ways that share no
code with the package.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gpt2_from_scratch import EXACT, FUSED, TEXTBOOK, CandidateError, CheckpointError, GPTModel, load_into, verify
from gpt2_from_scratch.compare import LINE
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.layers import EXACT_EAGER
from gpt2_from_scratch.layouts import LAYOUTS
from gpt2_from_scratch.loading import open_checkpoint
from gpt2_from_scratch.reference import load_reference
from gpt2_from_scratch.verifier import battery, load_object
from gpt2_from_scratch.verifier import Candidate, check_generation, check_logits, check_weights, find_divergence
from tests.foreign import book, numpy_gpt2
from tests.modules import STYLES, Style, book_config
from tests.mutants import LEGITIMATE, MUTANTS, Mutant
from tests.remembering import Remembering

BOOK = LAYOUTS["llms_from_scratch"]


@pytest.fixture(scope="module")
def reference(perturbed_checkpoint: Path) -> Remembering:
    return Remembering(load_reference(open_checkpoint(perturbed_checkpoint)))


@pytest.fixture(scope="module")
def tensors(perturbed_checkpoint: Path) -> dict[str, Tensor]:
    checkpoint = open_checkpoint(perturbed_checkpoint)
    return {name: checkpoint.read(name) for name in checkpoint.tensors}


# --------------------------------------------------------------------------------------------- no false alarm


@pytest.mark.parametrize("compute", [EXACT, EXACT_EAGER, FUSED, TEXTBOOK], ids=["exact", "eager", "fused", "textbook"])
def test_our_model_passes_in_every_mode(perturbed_checkpoint: Path, compute: Any) -> None:
    model = GPTModel.from_pretrained(perturbed_checkpoint, compute=compute)
    verdict = verify(model, perturbed_checkpoint, "gpt2_from_scratch")
    assert verdict, verdict.report()
    assert str(verdict).startswith("PASSED")
    if compute == EXACT:  # the reference runs SDPA: bit by bit the same
        assert verdict.logits.max_abs == 0
    assert verdict.weights is not None and verdict.weights.equal == 149
    assert verdict.logits.tokens > 100 and verdict.generation is not None and verdict.generation.tokens == 12


@pytest.fixture(scope="module")
def book_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The feed-forward layer of the book and of nanoGPT is always four times as wide."""
    from tests.perturbed import perturbed, save

    return save(perturbed(n_inner=None), tmp_path_factory.mktemp("book"))


@pytest.fixture(scope="module")
def book_reference(book_checkpoint: Path) -> Remembering:
    return Remembering(load_reference(open_checkpoint(book_checkpoint)))


@pytest.fixture(scope="module")
def book_tensors(book_checkpoint: Path) -> dict[str, Tensor]:
    checkpoint = open_checkpoint(book_checkpoint)
    return {name: checkpoint.read(name) for name in checkpoint.tensors}


def load_book(tensors: Mapping[str, Tensor], checkpoint: Path) -> book.GPTModel:
    """The book's model with these canonical tensors in it, whatever they are."""
    from gpt2_from_scratch.mapping import write_theirs

    config = open_checkpoint(checkpoint).config
    model = book.GPTModel(book_config(config))
    reads = write_theirs(BOOK[0], config, lambda name: tensors[name])
    missing, unexpected = model.load_state_dict({name: read() for name, read in reads.items()}, strict=False)
    assert not unexpected and all(name.endswith(".mask") for name in missing)
    return model


@pytest.mark.parametrize("mutant", LEGITIMATE, ids=lambda mutant: mutant.name)
def test_another_precision_is_no_bug(mutant: Mutant, book_checkpoint: Path, book_reference: Remembering) -> None:
    model = load_into_book(book_checkpoint)
    if mutant.weights:
        dtype = torch.float16 if "fp16" in mutant.name else torch.bfloat16
        model = model.to(dtype)
    else:
        mutant.in_book(model)
    candidate = Candidate(model, book_reference.config)
    with candidate.evaluating():
        logits = check_logits(candidate, book_reference, battery(book_reference.config))
    assert logits, str(logits)


def load_into_book(checkpoint: Path) -> book.GPTModel:
    model = book.GPTModel(book_config(open_checkpoint(checkpoint).config))
    assert load_into(model, checkpoint, "llms_from_scratch")
    return model


# ---------------------------------------------------------------------------------------------- no blind spot


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_fault_fails_and_is_located(
    mutant: Mutant, book_checkpoint: Path, book_reference: Remembering, book_tensors: dict[str, Tensor]
) -> None:
    config = book_reference.config
    edited = mutant.checkpoint(book_tensors, config.n_head)
    model = mutant.in_book(load_book(edited, book_checkpoint))
    candidate = Candidate(model, config)
    with candidate.evaluating(), torch.random.fork_rng():
        torch.manual_seed(0)
        logits = check_logits(candidate, book_reference, battery(config))
        assert bool(logits) is not mutant.visible, str(logits)
        if not mutant.visible:  # mathematics hides it from the logits; the weights do not
            assert not check_weights(candidate, open_checkpoint(book_checkpoint), BOOK)
            return
        divergence = find_divergence(candidate, book_reference, battery(config)[2], BOOK)
    assert divergence is not None
    if mutant.where == "logits":
        assert divergence.first is None and "after the last" in str(divergence)
    elif mutant.where is not None:
        assert divergence.first is not None, str(divergence)
        assert divergence.first.site == mutant.where, str(divergence)


@pytest.mark.parametrize("mutant", [m for m in MUTANTS if m.portable and m.visible], ids=lambda mutant: mutant.name)
def test_every_fault_fails_in_a_numpy_function(
    mutant: Mutant, reference: Remembering, tensors: dict[str, Tensor]
) -> None:
    config = reference.config
    model = numpy_gpt2.gpt2(mutant.checkpoint(tensors, config.n_head), config.n_head, **mutant.in_numpy())
    assert not check_logits(Candidate(model, config), reference, battery(config))


def test_one_token_prompts_would_hide_score_faults(reference: Remembering, tensors: dict[str, Tensor]) -> None:
    """Why the battery is as it is: the same fault, one token, and nothing to see."""
    mutant = next(m for m in MUTANTS if m.name == "no_scale")
    config = reference.config
    candidate = Candidate(numpy_gpt2.gpt2(tensors, config.n_head, **mutant.in_numpy()), config)
    assert check_logits(candidate, reference, battery(config)[:1])
    assert not check_logits(candidate, reference, battery(config)[1:2])


# ------------------------------------------------------------------------------------------- end to end, words


def test_a_failed_verdict_says_what_and_where(book_checkpoint: Path) -> None:
    model = load_into_book(book_checkpoint)
    model.trf_blocks[3].ff.layers[1] = nn.GELU()  # erf
    model.train()
    verdict = verify(model, book_checkpoint, "llms_from_scratch")
    assert not verdict and str(verdict).startswith("FAILED")
    assert verdict.divergence is not None and verdict.divergence.first is not None
    assert verdict.divergence.first.site == "h.3.mlp.act"
    report = verdict.report()
    assert "h.3.mlp.act: its input agrees" in report and report.splitlines()[-1] == str(verdict)
    assert model.training and model.trf_blocks[0].att.dropout.training, "given back as it was"


def test_wrong_weights_fail_even_where_logits_agree(book_checkpoint: Path) -> None:
    model = load_into_book(book_checkpoint)
    with torch.no_grad():
        model.trf_blocks[0].att.W_key.bias.zero_()  # adds the same to all scores of a query: softmax cannot see it
    verdict = verify(model, book_checkpoint, "llms_from_scratch")
    assert verdict.logits and not verdict
    assert "weights: 1 of 149 tensors differ" in str(verdict)
    assert "h.0.attn.c_attn.bias" in verdict.report()


def test_a_transposed_projection_is_called_by_its_name(book_checkpoint: Path) -> None:
    model = load_into_book(book_checkpoint)
    with torch.no_grad():
        weight = model.trf_blocks[2].att.out_proj.weight
        weight.copy_(weight.t().clone())
    assert "h.2.attn.c_proj.weight: transposed" in verify(model, book_checkpoint, "llms_from_scratch").report()


def test_what_was_not_checked_is_said(book_checkpoint: Path) -> None:
    model = load_into_book(book_checkpoint)
    verdict = verify(model, book_checkpoint)
    assert verdict and "no layout was given" in verdict.unchecked[0]
    verdict = verify(lambda ids: model.eval()(ids), book_checkpoint)
    assert verdict and "the candidate is a function" in verdict.report()


def test_nan_never_passes(perturbed_checkpoint: Path) -> None:
    model = GPTModel.from_pretrained(perturbed_checkpoint)
    with torch.no_grad():
        model.h[11].ln_2.bias[3] = torch.nan
    verdict = verify(model, perturbed_checkpoint, "gpt2_from_scratch")
    assert not verdict and "not finite" in verdict.report()


def test_a_tie_is_no_difference(reference: Remembering) -> None:
    prompt = battery(reference.config)[2]
    expected = reference.logits(prompt.ids)[:, -1]
    best, second = expected[0].topk(2).indices
    gap = float(expected[0, best] - expected[0, second])

    def swapped(ids: Tensor) -> Tensor:
        logits = reference.logits(ids).clone()
        logits[..., [best, second]] = logits[..., [second, best]]
        return logits

    candidate = Candidate(swapped, reference.config)
    tie = check_generation(candidate, reference, [prompt], steps=1, tolerance=gap)
    assert tie and tie.tie and "a tie" in str(tie)
    difference = check_generation(candidate, reference, [prompt], steps=1, tolerance=gap * 0.99)
    assert not difference and "not a tie" in str(difference)


def test_comparing_nothing_is_an_error(perturbed_checkpoint: Path) -> None:
    with pytest.raises(CandidateError, match="no prompt"):
        verify(GPTModel.from_pretrained(perturbed_checkpoint), perturbed_checkpoint, prompts=[])


# -------------------------------------------------------------------------------------------- could not check


def outputs(config: GPTConfig) -> Mapping[str, tuple[Any, str]]:
    v = config.vocab_size
    return {
        "last position": (lambda ids: torch.zeros(ids.shape[0], 1, v), "last position only"),
        "hidden states": (lambda ids: torch.zeros(*ids.shape, 44), "expected floating-point logits"),
        "a string": (lambda ids: "logits", "returned a str"),
        "a dictionary": (lambda ids: {"hidden": torch.zeros(1)}, "keys 'hidden'"),
        "a crash": (lambda ids: 1 / 0, "crashed on ids of shape .*ZeroDivisionError"),
        "integers": (lambda ids: torch.zeros(*ids.shape, v, dtype=torch.int64), "int64"),
    }


@pytest.mark.parametrize("what", outputs(GPTConfig()))
def test_what_is_not_logits_is_refused_by_name(what: str, perturbed_checkpoint: Path) -> None:
    candidate, message = outputs(open_checkpoint(perturbed_checkpoint).config)[what]
    with pytest.raises(CandidateError, match=message):
        verify(candidate, perturbed_checkpoint)


@pytest.mark.parametrize(
    "wrap",
    [lambda x: (x, None), lambda x: {"logits": x}, lambda x: x.numpy(), lambda x: [x], lambda x: x.double()],
    ids=["tuple", "dict", "numpy", "list", "float64"],
)
def test_logits_are_found_in_what_models_return(wrap: Any, perturbed_checkpoint: Path) -> None:
    model = GPTModel.from_pretrained(perturbed_checkpoint)
    assert verify(lambda ids: wrap(model(ids).detach()), perturbed_checkpoint)


def test_a_module_of_other_sizes_is_an_error_not_a_verdict(perturbed_checkpoint: Path) -> None:
    config = open_checkpoint(perturbed_checkpoint).config.replace(n_layer=11)
    with pytest.raises(CheckpointError, match=r"missing .*h\.11\.ln_1"):
        verify(GPTModel(config), perturbed_checkpoint, "gpt2_from_scratch")


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_every_style_passes_through_its_layout(style: Style, book_checkpoint: Path) -> None:
    module = style(open_checkpoint(book_checkpoint).config)
    load_into(module, book_checkpoint, style.layout)
    verdict = verify(module, book_checkpoint, style.layout)
    assert verdict, verdict.report()


def test_load_object(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("import beside\nmodel = 3\ndef build(config): return ('built', config)\nclass Net: pass\n")
    (tmp_path / "beside.py").write_text("")
    config = GPTConfig()
    assert load_object(f"{file}:model") == 3
    assert load_object(f"{file}:build()", config) == ("built", config)
    assert type(load_object(f"{file}:Net()")).__name__ == "Net"
    for spec, message in {
        f"{file}:Net": "is a class",
        f"{file}:absent": "has no 'absent'",
        f"{tmp_path / 'absent.py'}:model": "does not exist",
        "model": "not FILE.py:OBJECT",
    }.items():
        with pytest.raises(CandidateError, match=message):
            load_object(spec)
    file.write_text("raise RuntimeError('no')")
    with pytest.raises(CandidateError, match="RuntimeError: no"):
        load_object(f"{file}:model")


def test_the_line_separates_correct_code_from_the_mildest_fault() -> None:
    assert 1.2 < LINE < 9, "correct third-party code lies below 1.2 floors, the mildest known fault at 9"


def test_battery_covers_the_context_and_the_vocabulary() -> None:
    prompts = battery(GPTConfig(n_positions=300, vocab_size=128))
    assert max(prompt.ids.size(1) for prompt in prompts) == 300
    assert {prompt.ids.size(0) for prompt in prompts} == {1, 3}
    assert len(set(torch.cat([prompt.ids.flatten() for prompt in prompts]).tolist())) == 128
