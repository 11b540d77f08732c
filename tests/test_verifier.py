"""The verdict: it passes what is GPT-2, fails what is not, says where, and never calls "could not check" either.

The candidates are foreign models (`tests/foreign`), broken by the bug zoo (`tests/mutants.py`) in ways that share no
code with the package.
"""

import math
import shutil
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gpt2_from_scratch import EXACT, FUSED, TEXTBOOK, CandidateError, CheckpointError, GPTModel, load_into
from gpt2_from_scratch.checks.candidate import Candidate
from gpt2_from_scratch.checks.generation import check_generation
from gpt2_from_scratch.checks.logits import Logits, check_logits
from gpt2_from_scratch.checks.parts import PARTS
from gpt2_from_scratch.checks.prompts import Prompt, choose_prompts
from gpt2_from_scratch.checks.weights import check_weights, fit
from gpt2_from_scratch.compare import EXACT_THRESHOLD, THRESHOLD
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.diagnose.divergence import Divergence, locate
from gpt2_from_scratch.errors import MappingError
from gpt2_from_scratch.layers import EXACT_EAGER
from gpt2_from_scratch.layouts import LAYOUTS, layout_variants
from gpt2_from_scratch.loading import open_checkpoint
from gpt2_from_scratch.mapping import Layout, best_match, write_theirs
from gpt2_from_scratch.reference import load_reference
from gpt2_from_scratch.verifier import Interrupted, Verdict, verify
from tests.foreign import STYLES as FOREIGN
from tests.foreign import book, numpy_gpt2
from tests.modules import STYLES, book_config
from tests.mutants import LEGITIMATE, MUTANTS, Mutant, _replace, by_turns
from tests.perturbed import perturbed, save
from tests.remembering import Remembering

undiagnosed = partial(verify, diagnose_seconds=0)  # naming the fault costs seconds, and has tests of its own
BOOK = LAYOUTS["llms_from_scratch"]
PROMPT = choose_prompts(GPTConfig(vocab_size=211, n_positions=37))[2]  # 17 tokens


def find_divergence(candidate: Candidate, reference: Any, prompt: Any, layouts: Sequence[Layout]) -> Divergence:
    """Where a module leaves the reference on one prompt."""
    _, divergence = locate(candidate, fit(candidate, reference.config, layouts), reference, prompt)
    return divergence


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
    verdict = undiagnosed(model, perturbed_checkpoint, "gpt2_from_scratch")
    assert verdict, verdict.report()
    assert verdict.summary.startswith("PASSED")
    if compute == EXACT:  # the reference runs SDPA: bit by bit the same
        assert verdict.logits.max_abs == 0
    assert verdict.weights is not None and verdict.weights.equal == 149
    assert verdict.logits.tokens > 100 and verdict.generation is not None and verdict.generation.tokens == 12


@pytest.fixture(scope="module")
def book_tensors(book_checkpoint: Path) -> dict[str, Tensor]:
    checkpoint = open_checkpoint(book_checkpoint)
    return {name: checkpoint.read(name) for name in checkpoint.tensors}


def load_book(tensors: Mapping[str, Tensor], checkpoint: Path) -> book.GPTModel:
    """The book's model with these canonical tensors in it, whatever they are."""
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
        logits = check_logits(candidate, book_reference, choose_prompts(book_reference.config))
    assert logits, str(logits)


def load_into_book(checkpoint: Path) -> book.GPTModel:
    model = book.GPTModel(book_config(open_checkpoint(checkpoint).config))
    assert load_into(model, checkpoint, "llms_from_scratch")
    return model


# ---------------------------------------------------------------------------------------------- no blind spot


@pytest.mark.parametrize("mutant", by_turns(MUTANTS, 1, 4))
def test_every_fault_fails_and_is_located(
    mutant: Mutant, book_checkpoint: Path, book_reference: Remembering, book_tensors: dict[str, Tensor]
) -> None:
    config = book_reference.config
    edited = mutant.checkpoint(book_tensors, config.n_head)
    model = mutant.in_book(load_book(edited, book_checkpoint))
    candidate = Candidate(model, config)
    with candidate.evaluating(), torch.random.fork_rng():
        torch.manual_seed(0)
        logits = check_logits(candidate, book_reference, choose_prompts(config))
        assert bool(logits) is not mutant.visible, str(logits)
        if not mutant.visible:  # mathematics hides it from the logits; the weights do not
            assert not check_weights(fit(candidate, config, BOOK), open_checkpoint(book_checkpoint))
            return
        if mutant.name == "lm_head_bias":  # its parameter fits no row of the layout, and that is said
            with pytest.raises(MappingError, match=r"out_head\.bias"):
                fit(candidate, config, BOOK)
            return
        divergence = find_divergence(candidate, book_reference, choose_prompts(config)[2], BOOK)
    assert divergence is not None
    if mutant.where == "logits":
        assert divergence.first is None and "after the last" in str(divergence)
    elif mutant.where is not None:
        assert divergence.first is not None, str(divergence)
        assert divergence.first.site == mutant.where, str(divergence)


@pytest.mark.parametrize("mutant", by_turns([m for m in MUTANTS if m.portable and m.visible], 0, 2))
def test_every_fault_fails_in_a_numpy_function(
    mutant: Mutant, reference: Remembering, tensors: dict[str, Tensor]
) -> None:
    config = reference.config
    model = numpy_gpt2.gpt2(mutant.checkpoint(tensors, config.n_head), config.n_head, **mutant.in_numpy())
    assert not check_logits(Candidate(model, config), reference, choose_prompts(config))


def test_one_token_prompts_would_hide_score_faults(reference: Remembering, tensors: dict[str, Tensor]) -> None:
    """Why the battery is as it is: the same fault, one token, and nothing to see."""
    mutant = next(m for m in MUTANTS if m.name == "no_scale")
    config = reference.config
    candidate = Candidate(numpy_gpt2.gpt2(tensors, config.n_head, **mutant.in_numpy()), config)
    assert check_logits(candidate, reference, choose_prompts(config)[:1])
    assert not check_logits(candidate, reference, choose_prompts(config)[1:2])


# ------------------------------------------------------------------------------------------- end to end, words


def test_a_failed_verdict_says_what_and_where(book_checkpoint: Path, book_reference: Remembering) -> None:
    model = load_into_book(book_checkpoint)
    model.trf_blocks[3].ff.layers[1] = nn.GELU()  # erf
    model.train()
    verdict = undiagnosed(model, book_checkpoint, "llms_from_scratch", reference=book_reference)
    assert not verdict and verdict.summary.startswith("FAILED")
    assert verdict.divergence is not None and verdict.divergence.first is not None
    assert verdict.divergence.first.site == "h.3.mlp.act"
    report = verdict.report()
    assert (
        "trf_blocks.3.ff.layers.1 (h.3.mlp.act): its input agrees" in report
        and report.splitlines()[-1] == verdict.summary
    )
    assert model.training and model.trf_blocks[0].att.dropout.training, "given back as it was"


def test_wrong_weights_fail_even_where_logits_agree(book_checkpoint: Path, book_reference: Remembering) -> None:
    model = load_into_book(book_checkpoint)
    with torch.no_grad():
        model.trf_blocks[0].att.W_key.bias.zero_()  # adds the same to all scores of a query: softmax cannot see it
    verdict = undiagnosed(model, book_checkpoint, "llms_from_scratch", reference=book_reference)
    assert verdict.logits and not verdict
    assert "weights: 1 of 149 tensors differ" in verdict.summary
    assert "h.0.attn.c_attn.bias" in verdict.report()


def test_a_wrong_model_is_diagnosed_without_being_asked(book_checkpoint: Path, book_reference: Remembering) -> None:
    model = load_into_book(book_checkpoint)
    model.trf_blocks[3].ff.layers[1] = nn.GELU()  # erf
    verdict = verify(model, book_checkpoint, "llms_from_scratch", reference=book_reference, diagnose_seconds=600)
    assert verdict.diagnosis is not None and [finding.name for finding in verdict.diagnosis.faults] == ["gelu_erf"]
    assert verdict.diagnosis.faults[0].where == ("h.3",)
    assert "erf" in str(verdict.report()) and "approximate='tanh'" in verdict.report()


def test_weights_that_logits_cannot_see_are_diagnosed_too(book_checkpoint: Path, book_reference: Remembering) -> None:
    model = load_into_book(book_checkpoint)
    with torch.no_grad():
        for block in model.trf_blocks:
            block.att.W_key.bias.zero_()
    verdict = verify(model, book_checkpoint, "llms_from_scratch", reference=book_reference, diagnose_seconds=600)
    assert verdict.logits and not verdict and verdict.diagnosis is not None
    assert [finding.name for finding in verdict.diagnosis.faults] == ["key_bias_dropped"]


def test_nobody_is_diagnosed_who_is_right_or_cannot_be_asked(
    book_checkpoint: Path, book_reference: Remembering
) -> None:
    model = load_into_book(book_checkpoint)
    assert verify(model, book_checkpoint, "llms_from_scratch", reference=book_reference).diagnosis is None
    with torch.no_grad():
        model.trf_blocks[0].ff.layers[0].bias.zero_()
    verdict = undiagnosed(model, book_checkpoint, "llms_from_scratch", reference=book_reference)
    assert verdict.diagnosis is None and verdict.unchecked["diagnosis"] == "you asked to skip it"


def test_what_was_not_checked_is_said(book_checkpoint: Path, book_reference: Remembering) -> None:
    model = load_into_book(book_checkpoint).eval()
    out_of_sight = weakref.ref(model)  # arrays in a function's closure would be found
    verdict = undiagnosed(lambda ids: out_of_sight()(ids), book_checkpoint, reference=book_reference)
    assert verdict and "the candidate is a function" in verdict.report()


def test_a_layout_is_found_where_none_is_given(book_checkpoint: Path, book_reference: Remembering) -> None:
    verdict = undiagnosed(load_into_book(book_checkpoint), book_checkpoint, reference=book_reference)
    assert verdict and verdict.weights
    assert "its weights are found by the names of the built-in layout 'llms_from_scratch'" in verdict.notes


def test_without_a_layout_weights_are_not_checked(book_checkpoint: Path, book_reference: Remembering) -> None:
    class Opaque(torch.nn.Module):
        """Calls a model that is none of its own modules, so it has no parameters."""

        def __init__(self, model: torch.nn.Module) -> None:
            super().__init__()
            self.ask = model.eval().forward

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.ask(ids)

    verdict = undiagnosed(Opaque(load_into_book(book_checkpoint)), book_checkpoint, reference=book_reference)
    assert verdict and "no layout of Opaque was given" in verdict.unchecked["weights"]


def test_nan_never_passes(perturbed_checkpoint: Path) -> None:
    model = GPTModel.from_pretrained(perturbed_checkpoint)
    with torch.no_grad():
        model.h[11].ln_2.bias[3] = torch.nan
    verdict = undiagnosed(model, perturbed_checkpoint, "gpt2_from_scratch")
    assert not verdict and "not finite" in verdict.report()


def test_a_checkpoint_with_nan_is_not_held_against_the_candidate(perturbed_checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(perturbed_checkpoint, tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["transformer.h.3.ln_2.bias"][3] = torch.nan
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CandidateError, match="with these weights GPT-2's own logits are NaN or infinite"):
        undiagnosed(GPTModel.from_pretrained(tmp_path), tmp_path, "gpt2_from_scratch")


def test_a_tie_is_no_difference(reference: Remembering) -> None:
    prompt = choose_prompts(reference.config)[2]
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


def test_one_pass_over_the_continuation_says_what_step_by_step_says(reference: Remembering) -> None:
    prompt = Prompt("four tokens", choose_prompts(reference.config)[2].ids[:, :4])
    ids = reference.continued(prompt.ids, 6)
    for length in range(4, 10):  # the reference without its cache
        assert torch.equal(ids[:, length], reference.logits(ids[:, :length])[:, -1].argmax(-1))
    asked: list[int] = []

    def parts_at_seven(ids: Tensor) -> Tensor:
        asked.append(ids.size(1))
        logits = reference.logits(ids).clone()
        logits[:, 6:] = -logits[:, 6:]
        return logits

    found = []
    for at_once in (True, False):
        candidate = Candidate(parts_at_seven, reference.config)
        candidate.settle()
        asked.clear()
        found.append(check_generation(candidate, reference, [prompt], 6, 0.0, at_once=at_once))
        assert asked == ([9] if at_once else [4, 5, 6, 7])
    assert [(each.tokens, each.parted, each.gap) for each in found] == [(3, ("four tokens", 3), found[0].gap)] * 2
    assert [each.at_once for each in found] == [True, False]


def test_generation_is_step_by_step_where_nothing_shows_that_one_pass_says_the_same(perturbed_checkpoint: Path) -> None:
    model = GPTModel.from_pretrained(perturbed_checkpoint)
    asked = undiagnosed(model, perturbed_checkpoint).generation
    unasked = undiagnosed(model, perturbed_checkpoint, skip=["self-tests"]).generation
    assert asked is not None and asked.at_once and unasked is not None and not unasked.at_once
    assert asked.tokens == unasked.tokens


def test_comparing_nothing_is_an_error(perturbed_checkpoint: Path) -> None:
    with pytest.raises(CandidateError, match="no prompt"):
        undiagnosed(GPTModel.from_pretrained(perturbed_checkpoint), perturbed_checkpoint, prompts=[])


# -------------------------------------------------------------------------------------------- could not check


def outputs(config: GPTConfig) -> Mapping[str, tuple[Any, str]]:
    v = config.vocab_size
    return {
        "last position": (lambda ids: torch.zeros(ids.shape[0], 1, v), "last position only"),
        "hidden states": (lambda ids: torch.zeros(*ids.shape, 44), "expected floating-point logits"),
        "a string": (lambda ids: "logits", "returned a str"),
        "a dictionary": (lambda ids: {"hidden": torch.zeros(1)}, "keys 'hidden'"),
        "a crash": (lambda ids: 1 / 0, "crashed on ids of shape .*ZeroDivisionError"),
        "an end": (lambda ids: sys.exit(0), r"called sys.exit\(0\); nothing was verified"),
        "integers": (lambda ids: torch.zeros(*ids.shape, v, dtype=torch.int64), "int64"),
    }


@pytest.mark.parametrize("what", outputs(GPTConfig()))
def test_what_is_not_logits_is_refused_by_name(what: str, book_checkpoint: Path, book_reference: Remembering) -> None:
    candidate, message = outputs(book_reference.config)[what]
    with pytest.raises(CandidateError, match=message):
        undiagnosed(candidate, book_checkpoint, reference=book_reference)


@pytest.mark.parametrize(
    "wrap",
    [lambda x: (x, None), lambda x: {"logits": x}, lambda x: x.numpy(), lambda x: [x], lambda x: x.double()],
    ids=["tuple", "dict", "numpy", "list", "float64"],
)
def test_logits_are_found_in_what_models_return(wrap: Any, book_checkpoint: Path, book_reference: Remembering) -> None:
    model = GPTModel.from_pretrained(book_checkpoint)
    assert undiagnosed(lambda ids: wrap(model(ids).detach()), book_checkpoint, reference=book_reference)


def test_a_module_of_other_sizes_is_an_error_not_a_verdict(perturbed_checkpoint: Path) -> None:
    config = open_checkpoint(perturbed_checkpoint).config.replace(n_layer=11)
    with pytest.raises(CheckpointError, match=r"missing .*h\.11\.ln_1"):
        undiagnosed(GPTModel(config), perturbed_checkpoint, "gpt2_from_scratch")


def test_the_line_separates_correct_code_from_the_mildest_fault() -> None:
    assert 1.2 < THRESHOLD < 9, "correct third-party code lies below 1.2 floors, the mildest known fault at 9"


def test_prompts_cover_the_context_and_the_vocabulary() -> None:
    prompts = choose_prompts(GPTConfig(n_positions=300, vocab_size=128))
    assert max(prompt.ids.size(1) for prompt in prompts) == 300
    assert {prompt.ids.size(0) for prompt in prompts} == {1, 2, 3}
    assert len(set(torch.cat([prompt.ids.flatten() for prompt in prompts]).tolist())) == 128


# ---------------------------------------------------------------------------------------------- judged near the line


@pytest.fixture(scope="module")
def quiet_last_layer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Remembering]:
    """Its last feed-forward layer adds a fiftieth of what the others add, and with it a fault there adds as little."""
    model = perturbed(n_inner=None)
    with torch.no_grad():
        model.transformer.h[11].mlp.c_proj.weight.mul_(0.02)
    checkpoint = save(model, tmp_path_factory.mktemp("quiet"))
    return checkpoint, Remembering(load_reference(open_checkpoint(checkpoint)))


def logits_of(model: nn.Module, reference: Remembering) -> Logits:
    candidate = Candidate(model, reference.config)
    with candidate.evaluating():
        return check_logits(candidate, reference, choose_prompts(reference.config))


def test_a_fault_below_the_line_fails_in_float64(quiet_last_layer: tuple[Path, Remembering]) -> None:
    checkpoint, reference = quiet_last_layer
    model = load_into_book(checkpoint)
    model.trf_blocks[11].ff.layers[1] = nn.GELU()  # erf, in the last layer alone
    logits = logits_of(model, reference)
    assert logits.multiple < THRESHOLD, "as rounding, it would pass"
    assert logits.exact is not None and not logits.exact and not logits
    assert "noise floors (threshold 1e-5): more than rounding" in str(logits)
    assert logits.exact.tokens == 1 + 2 + 17 + 37 + 2 * 3 + 3 * 17


def test_rounding_above_the_line_passes_in_float64(book_checkpoint: Path, book_reference: Remembering) -> None:
    """An unlucky order of sums, here around a large number: the same mathematics, with four floors of rounding."""
    model = load_into_book(book_checkpoint)
    model.embed = lambda ids: (book.GPTModel.embed(model, ids) + 30) - 30
    logits = logits_of(model, book_reference)
    assert logits.multiple > THRESHOLD, "by the line, it would fail"
    assert logits and logits.exact is not None and logits.exact.multiple < EXACT_THRESHOLD
    assert "only rounding" in str(logits)


def test_where_float64_is_impossible_the_line_decides(book_checkpoint: Path, book_reference: Remembering) -> None:
    model = load_into_book(book_checkpoint)
    model.register_buffer("calls", torch.zeros(1))
    embed = model.embed

    def counted(ids: Tensor, around: float) -> Tensor:
        model.calls.add_(1)  # a write that a widened copy would lose
        return (embed(ids) + around) - around

    for around, passes in ((0, True), (30, False)):
        model.embed = lambda ids, around=around: counted(ids, around)
        logits = logits_of(model, book_reference)
        assert bool(logits) is passes and logits.exact is None
        assert 0.3 < logits.multiple < 30, "near enough to be asked for float64"
        assert "threshold 4, as in float64 it fails: aten.add_.Tensor writes into a tensor of torch.float32" in str(
            logits
        )


def test_how_many_tokens_a_verdict_takes(tmp_path: Path) -> None:
    """A long context dominates: the reference fills it once, the candidate once without its cache and once with it."""
    checkpoint = open_checkpoint(save(perturbed(n_positions=512, n_layer=1), tmp_path))
    model, reference = GPTModel.from_pretrained(checkpoint), load_reference(checkpoint)
    counts: Counter[str] = Counter()

    def count(name: str) -> Callable[..., None]:
        return lambda module, args: counts.update({f"{name} in {args[0].dtype}": args[0].shape[:2].numel()})

    model.h[0].register_forward_pre_hook(count("candidate"))
    reference.model.transformer.h[0].register_forward_pre_hook(count("reference"))
    verdict = verify(model, checkpoint, "gpt2_from_scratch", reference=reference)
    assert verdict and verdict.logits is not None
    asked, measured = verdict.logits.tokens, 17 + 64 + 3 * 17
    generated = 4 + 11 + 15  # with the cache, and read at once
    assert counts["reference in torch.float32"] == asked + measured + generated
    assert counts["reference in torch.float64"] == measured
    small = 700  # the other self-tests, at most 40 tokens in two rows each, and generation
    assert counts["candidate in torch.float32"] < asked + 512 + small


def test_the_floor_of_long_prompts_is_measured_where_the_verdict_depends_on_it(
    book_checkpoint: Path, book_reference: Remembering, quiet_last_layer: tuple[Path, Remembering]
) -> None:
    ids = torch.randint(book_reference.config.vocab_size, (8, 20), generator=torch.Generator().manual_seed(5))
    prompts = (*choose_prompts(book_reference.config), Prompt("more than 128 tokens", ids))
    model = load_into_book(book_checkpoint).eval()

    def judged(off: float) -> Logits:
        function = lambda ids: model(ids) + (off if len(ids) == 8 else 0)  # noqa: E731
        return check_logits(Candidate(function, book_reference.config), book_reference, prompts)

    right = judged(0.0)
    wrong = judged((THRESHOLD + 1) * right.floor)
    assert right and right.results[-1].floor == 0 and right.results[-1] not in right.measured
    assert not wrong and wrong.results[-1].floor > 0

    checkpoint, reference = quiet_last_layer
    model = load_into_book(checkpoint).eval()
    model.trf_blocks[11].ff.layers[1] = nn.GELU()  # erf: only the run in float64 shows it
    wrong = check_logits(Candidate(model, reference.config), reference, prompts)
    assert wrong.multiple < THRESHOLD and not wrong and wrong.results[-1].floor > 0


def test_a_function_is_judged_by_the_line(book_checkpoint: Path, book_reference: Remembering) -> None:
    """Part of it may be numpy, whose float32 stays float32 in any mode of torch."""
    model = load_into_book(book_checkpoint).eval()
    logits = check_logits(
        Candidate(lambda ids: model(ids), book_reference.config),
        book_reference,
        choose_prompts(book_reference.config),
    )
    assert logits and logits.exact is None and 0.3 < logits.multiple < THRESHOLD


# --------------------------------------------------------------------------------------------------- lower precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_lower_precision_is_recognised_by_the_parameters_or_by_the_answers(
    dtype: torch.dtype, book_checkpoint: Path, book_reference: Remembering
) -> None:
    model, config = load_into_book(book_checkpoint).to(dtype).eval(), book_reference.config
    mixed = load_into_book(book_checkpoint)
    mixed.pos_emb.to(dtype)
    candidates = {
        "parameters": model,
        "answers": lambda ids: model(ids),
        "answers, converted": lambda ids: model(ids).float(),
        "some parameters": mixed,
    }
    for what, candidate in candidates.items():
        subject = Candidate(candidate, config)
        with subject.evaluating():
            logits = check_logits(subject, book_reference, choose_prompts(config))
        assert logits.dtype == subject.precision == dtype, what
        assert logits, f"{what}: {logits}"
        assert f"noise floors of {str(dtype).removeprefix('torch.')}" in str(logits)
    assert Candidate(load_into_book(book_checkpoint).double(), config).precision == torch.float32


def test_a_verdict_in_lower_precision_says_what_it_cannot_see(
    book_checkpoint: Path, book_reference: Remembering
) -> None:
    model = load_into_book(book_checkpoint).bfloat16().eval()
    verdict = undiagnosed(model, book_checkpoint, "llms_from_scratch", reference=book_reference)
    assert verdict and verdict.weights is not None and verdict.weights.rounded == torch.bfloat16
    assert verdict.logits is not None and verdict.logits.exact, "a module's own float64 run sees everything"
    assert "rounding of bfloat16" not in verdict.report()
    verdict = undiagnosed(lambda ids: model(ids), book_checkpoint, reference=book_reference)
    assert verdict
    assert "unchecked   what is smaller than the rounding of bfloat16: verify in float32 to see it" in verdict.report()


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(name, dtype, id=f"{name}-{dtype}", marks=() if turn % 2 == place else pytest.mark.slow)
        for turn, name in enumerate(["mask_leaks_one", "relu", "no_scale", "ln1_ln2_swapped", "merge_no_transpose"])
        for place, dtype in enumerate([torch.float16, torch.bfloat16])
    ],
)
def test_faults_fail_in_lower_precision_and_where_they_are(
    name: str, dtype: torch.dtype, book_checkpoint: Path, book_reference: Remembering, book_tensors: dict[str, Tensor]
) -> None:
    """Rounding is everywhere, from the embeddings on, and would be the first divergence if it were not known."""
    mutant = next(mutant for mutant in MUTANTS if mutant.name == name)
    edited = mutant.checkpoint(book_tensors, book_reference.config.n_head)
    model = mutant.in_book(load_book(edited, book_checkpoint)).to(dtype)
    verdict = undiagnosed(model, book_checkpoint, "llms_from_scratch", skip=("self-tests",), reference=book_reference)
    assert not verdict and not verdict.logits
    assert verdict.divergence is not None and verdict.divergence.first is not None
    assert verdict.divergence.first.site == mutant.where, str(verdict.divergence)


def test_a_fault_behind_rounded_weights_is_found(book_checkpoint: Path, book_reference: Remembering) -> None:
    """Float32 code with weights that went through bfloat16, and the wrong GELU: neither hides the other."""
    model = load_into_book(book_checkpoint).bfloat16().float()
    assert undiagnosed(model, book_checkpoint, "llms_from_scratch", reference=book_reference)
    model.trf_blocks[3].ff.layers[1] = nn.GELU()
    verdict = undiagnosed(model, book_checkpoint, "llms_from_scratch", reference=book_reference)
    assert verdict.weights and not verdict.logits and not verdict
    assert verdict.divergence is not None and verdict.divergence.first is not None
    assert verdict.divergence.first.site == "h.3.mlp.act"


def test_the_mildest_fault_behind_rounded_weights_is_found(quiet_last_layer: tuple[Path, Remembering]) -> None:
    checkpoint, reference = quiet_last_layer
    model = load_into_book(checkpoint).bfloat16().float()
    assert logits_of(model, reference).weights_dtype == torch.bfloat16
    model.trf_blocks[11].ff.layers[1] = nn.GELU()
    assert not logits_of(model, reference)


def test_a_precision_in_which_the_reference_overflows_is_no_verdict(
    book_checkpoint: Path, book_reference: Remembering
) -> None:
    """An infinite floor would pass anything."""

    class Overflowing(Remembering):
        def logits_in(self, dtype: torch.dtype, ids: Tensor) -> Tensor:
            return torch.full((*ids.shape, self.config.vocab_size), torch.inf)

    model = load_into_book(book_checkpoint).half()
    with pytest.raises(CandidateError, match="no noise floor to judge float16 by: the reference itself overflows"):
        logits_of(model, Overflowing(book_reference.reference))


def test_logits_that_are_all_zero_are_judged(book_reference: Remembering) -> None:
    class Zero(Remembering):
        def logits(self, ids: Tensor) -> Tensor:
            return torch.zeros(*ids.shape, self.config.vocab_size)

        def other_roundings(self, ids: Tensor, exact: int | None = None) -> Any:
            yield "the same", self.logits(ids)

    reference = Zero(book_reference.reference)
    candidate = Candidate(lambda ids: torch.full((*ids.shape, 211), 1 / 3), reference.config)
    assert not check_logits(candidate, reference, choose_prompts(reference.config))


# ------------------------------------------------------------------------------- what a user may ask for, and stop


def test_a_tolerance_is_taken_instead_of_the_line(book_checkpoint: Path, book_reference: Remembering) -> None:
    few = choose_prompts(book_reference.config)[2:3]

    def judged(model: nn.Module, atol: float, rtol: float) -> Verdict:
        skip = ("generation", "self-tests", "where")
        return undiagnosed(
            model, book_checkpoint, prompts=few, tolerance=(atol, rtol), skip=skip, reference=book_reference
        )

    wrong = load_into_book(book_checkpoint)
    wrong.trf_blocks[3].ff.layers[1] = nn.GELU()
    verdict = judged(wrong, 1e-2, 0.0)
    assert verdict and "judged by atol 0.01, rtol 0" in verdict.summary
    assert judged(wrong, 0.0, 10.0), "ten times each logit"
    right = load_into_book(book_checkpoint)
    verdict = judged(right, 0.0, 0.0)
    assert not verdict and "judged by atol 0, rtol 0" in verdict.summary
    assert not judged(right, 1e-9, 1e-9)
    with torch.no_grad():
        right.out_head.weight[7, 3] = torch.nan
    assert not judged(right, 1e9, 1e9)


@pytest.mark.parametrize(
    ("off", "passes", "fails"),
    [
        (lambda logits: logits + 0.01, (0.011, 0.0), (0.009, 0.0)),
        (lambda logits: logits * 1.01, (0.0, 0.011), (0.0, 0.009)),
        (lambda logits: logits * 1.01 + 0.01, (0.011, 0.011), (0.011, 0.005)),
    ],
    ids=["absolute", "relative", "both"],
)
def test_a_tolerance_is_taken_by_its_word(
    off: Any, passes: tuple[float, float], fails: tuple[float, float], book_reference: Remembering
) -> None:
    candidate = Candidate(lambda ids: off(book_reference.logits(ids)), book_reference.config)
    prompts = choose_prompts(book_reference.config)
    assert check_logits(candidate, book_reference, prompts, tolerance=passes)
    assert not check_logits(candidate, book_reference, prompts, tolerance=fails)


def test_what_a_tolerance_lets_pass_does_not_fail_as_generation(
    book_reference: Remembering, book_checkpoint: Path
) -> None:
    """Logits may be off by 3 each, so two that are 6 apart are a tie: rounding as the user defines it."""

    def narrowed(ids: Tensor) -> Tensor:
        logits = book_reference.logits(ids)
        best, second = logits.topk(2).indices.split(1, dim=-1)
        down, up = torch.full(best.shape, -2.9), torch.full(best.shape, 2.9)
        return logits.scatter_add(-1, best, down).scatter_add(-1, second, up)

    verdict = undiagnosed(
        narrowed,
        book_checkpoint,
        prompts=choose_prompts(book_reference.config)[2:3],
        tolerance=(3.0, 0.0),
        skip=("self-tests", "weights", "where"),
        reference=book_reference,
    )
    assert verdict.logits and verdict.generation is not None and verdict.generation.parted is not None
    assert verdict, verdict.report()


def test_each_part_can_be_skipped_and_is_named(book_checkpoint: Path, book_reference: Remembering) -> None:
    model = load_into_book(book_checkpoint)
    for part, name in (("weights", "weights"), ("self-tests", "self_tests"), ("generation", "generation")):
        verdict = undiagnosed(model, book_checkpoint, "llms_from_scratch", skip=(part,), reference=book_reference)
        assert verdict and getattr(verdict, name) is None and part not in [each.name for each in verdict.compared]
        assert f"unchecked   {part}: you asked to skip it" in verdict.report()
    verdict = undiagnosed(model, book_checkpoint, "llms_from_scratch", skip=("logits",), reference=book_reference)
    assert verdict and verdict.summary.endswith("only; logits were not compared") and verdict.generation is not None
    model.trf_blocks[3].ff.layers[1] = nn.GELU()
    verdict = undiagnosed(model, book_checkpoint, "llms_from_scratch", skip=("where",), reference=book_reference)
    assert not verdict and verdict.divergence is None


def test_nothing_left_to_check_is_an_error(book_checkpoint: Path) -> None:
    model = load_into_book(book_checkpoint)
    out_of_sight = weakref.ref(model)
    with pytest.raises(CandidateError, match="nothing of GPTModel was checked: weights: you asked to skip it"):
        undiagnosed(model, book_checkpoint, "llms_from_scratch", skip=PARTS)
    with pytest.raises(
        CandidateError, match=r"nothing of .*self-tests: you asked to skip it; .*the candidate is a function"
    ):
        undiagnosed(lambda ids: out_of_sight()(ids), book_checkpoint, skip=("self-tests", "logits", "generation"))
    with pytest.raises(ValueError, match="cannot skip logit; the parts are weights, self-tests, logits"):
        undiagnosed(model, book_checkpoint, skip=("logit",))


def test_gradients_are_taken_on_request_only(book_checkpoint: Path, book_reference: Remembering) -> None:
    model = load_into_book(book_checkpoint)
    assert undiagnosed(model, book_checkpoint, "llms_from_scratch", reference=book_reference).gradients is None
    verdict = undiagnosed(model, book_checkpoint, "llms_from_scratch", gradients=True, reference=book_reference)
    assert verdict and verdict.gradients and "gradients" in verdict.report()
    verdict = undiagnosed(lambda ids: model.eval()(ids), book_checkpoint, gradients=True, reference=book_reference)
    assert verdict.unchecked["gradients"] == "that takes a torch module, and the candidate is a function"


@pytest.mark.parametrize("phase", ["weights", "self-tests", "loading the reference", "logits: 17 tokens", "generation"])
def test_ctrl_c_leaves_what_was_found(phase: str, book_checkpoint: Path, book_reference: Remembering) -> None:
    model = load_into_book(book_checkpoint)
    model.train()

    def progress(name: str) -> None:
        if name.partition(", ")[0] == phase:  # then comes how long the prompts will take
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as interrupted:
        undiagnosed(model, book_checkpoint, "llms_from_scratch", progress=progress, reference=book_reference)
    verdict = interrupted.value.verdict
    assert not verdict and verdict.interrupted == phase
    assert verdict.summary == f"INTERRUPTED  during {phase}: no verdict on GPTModel; nothing had failed so far"
    assert [part.name for part in verdict.compared] == {
        "weights": [],
        "self-tests": ["weights"],
        "loading the reference": ["weights", "self-tests"],
        "logits: 17 tokens": ["weights", "self-tests"],
        "generation": ["weights", "self-tests", "logits"],
    }[phase]
    assert verdict.report().splitlines()[-1] == verdict.summary
    assert all(module.training for module in model.modules()), "given back as it was"


def test_ctrl_c_inside_the_candidate(book_checkpoint: Path, book_reference: Remembering) -> None:
    model = load_into_book(book_checkpoint)
    with torch.no_grad():
        model.trf_blocks[0].att.W_key.bias.zero_()

    def stopped(module: nn.Module, args: Any) -> None:
        if args[0].shape[1] == 2:
            raise KeyboardInterrupt

    model.register_forward_pre_hook(stopped)
    with pytest.raises(KeyboardInterrupt) as interrupted:
        undiagnosed(model, book_checkpoint, "llms_from_scratch", reference=book_reference)
    verdict = interrupted.value.verdict
    assert verdict.interrupted == "logits: 2 tokens"
    assert "what was checked before had failed: weights: 1 of 149 tensors differ" in verdict.summary


# ------------------------------------------------------------------------------------------------ given back as it was


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("fault", [False, True], ids=["verified", "failed"])
def test_the_candidate_is_given_back_as_it_was(fault: bool, book_checkpoint: Path, book_reference: Remembering) -> None:
    model = load_into_book(book_checkpoint)
    model.train()
    model.trf_blocks[1].eval()
    model.trf_blocks[2].att.dropout.eval()
    model.out_head.weight.requires_grad_(False)
    model.pos_emb.weight.grad = torch.ones_like(model.pos_emb.weight)
    if fault:
        model.trf_blocks[3].ff.layers[1] = nn.GELU()
    modes = {name: module.training for name, module in model.named_modules()}
    storage = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    before, random = state(model), torch.get_rng_state()
    verdict = undiagnosed(model, book_checkpoint, "llms_from_scratch", gradients=True, reference=book_reference)
    assert bool(verdict) is not fault and (verdict.divergence is not None) is fault
    assert {name: module.training for name, module in model.named_modules()} == modes
    after = model.state_dict()
    assert all(
        torch.equal(after[name], tensor) and after[name].dtype == tensor.dtype for name, tensor in before.items()
    )
    assert {name: tensor.data_ptr() for name, tensor in after.items()} == storage
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["out_head.weight"]
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["pos_emb.weight"]
    assert torch.equal(model.pos_emb.weight.grad, torch.ones_like(model.pos_emb.weight))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), random), "and the caller's random numbers are his"


def test_it_is_given_back_after_a_crash_while_it_is_traced(book_checkpoint: Path, book_reference: Remembering) -> None:
    model = load_into_book(book_checkpoint)
    act = model.trf_blocks[3].ff.layers[1] = nn.GELU()
    model.train()
    plain = act.forward

    def crash_when_hooked(x: Tensor) -> Tensor:
        if act._forward_hooks:
            raise RuntimeError("no hooks here")
        return plain(x)

    act.forward = crash_when_hooked
    with pytest.raises(CandidateError, match="no hooks here"):
        undiagnosed(model, book_checkpoint, "llms_from_scratch", reference=book_reference)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(module.training for module in model.modules())
    assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled()


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_products_are_float32_meanwhile_and_the_users_choice_afterwards(
    precision: str, book_checkpoint: Path, book_reference: Remembering
) -> None:
    model, seen = load_into_book(book_checkpoint), set()
    model.register_forward_pre_hook(lambda module, args: seen.add(torch.get_float32_matmul_precision()))
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        undiagnosed(model, book_checkpoint, skip=("logits", "generation"), reference=book_reference)
        assert torch.get_float32_matmul_precision() == precision
        with pytest.raises(CandidateError):
            undiagnosed(lambda ids: 1 / 0, book_checkpoint, reference=book_reference)
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == {"highest"}


# ------------------------------------------------------------------------------------------- what is seen inside


def test_norms_that_are_one_module(book_checkpoint: Path, book_reference: Remembering) -> None:
    """Shared by reference: called twice under two names, and only the second is wrong."""
    model = load_into_book(book_checkpoint)
    for block in model.trf_blocks:
        block.norm2 = block.norm1
    divergence = find_divergence(Candidate(model.eval(), book_reference.config), book_reference, PROMPT, BOOK)
    assert divergence is not None and divergence.first is not None
    assert divergence.first.site == "h.0.ln_2" and divergence.first.calls == 1


def test_one_block_for_all_layers(book_checkpoint: Path, book_reference: Remembering) -> None:
    model = load_into_book(book_checkpoint)
    for layer in range(1, 12):
        model.trf_blocks[layer] = model.trf_blocks[0]
    divergence = find_divergence(Candidate(model.eval(), book_reference.config), book_reference, PROMPT, BOOK)
    assert divergence is not None and divergence.first is not None
    assert divergence.first.site == "h.1.ln_1"
    assert next(site for site in divergence.sites if site.site == "h.0").output < 1e-5


class InPlace(book.TransformerBlock):
    def forward(self, x: Tensor) -> Tensor:
        x += self.drop_shortcut(self.att(self.norm1(x)))
        x += self.drop_shortcut(self.ff(self.norm2(x)))
        return x


class Functional(book.FeedForward):
    """The activation is called as a function; a module stands in its place and never runs."""

    act: Any = staticmethod(nn.functional.gelu)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[2](type(self).act(self.layers[0](x)))


class RightFunctional(Functional):
    act = staticmethod(lambda x: nn.functional.gelu(x, approximate="tanh"))


def test_residuals_in_place_do_not_reach_what_was_recorded(book_checkpoint: Path, book_reference: Remembering) -> None:
    model = load_into_book(book_checkpoint)
    for block in model.trf_blocks:
        block.__class__ = InPlace
    candidate = Candidate(model.eval(), book_reference.config)
    divergence = find_divergence(candidate, book_reference, PROMPT, BOOK)
    assert divergence is not None and divergence.first is None
    assert max(max(site.input, site.output) for site in divergence.sites) < 1e-5
    model.trf_blocks[4].ff.layers[1] = nn.ReLU()
    divergence = find_divergence(candidate, book_reference, PROMPT, BOOK)
    assert divergence is not None and divergence.first is not None and divergence.first.site == "h.4.mlp.act"


@pytest.mark.parametrize("style", [Functional, RightFunctional])
def test_an_activation_that_is_called_as_a_function(
    style: type[Functional], book_checkpoint: Path, book_reference: Remembering
) -> None:
    model = load_into_book(book_checkpoint)
    for block in model.trf_blocks:
        block.ff.__class__ = style
    divergence = find_divergence(Candidate(model.eval(), book_reference.config), book_reference, PROMPT, BOOK)
    assert divergence is not None
    if style is RightFunctional:
        assert divergence.first is None, str(divergence)
    else:
        assert divergence.first is not None and divergence.first.site == "h.0.mlp.act", str(divergence)


def test_an_activation_without_a_module(book_checkpoint: Path, book_reference: Remembering) -> None:
    """minGPT's dictionary of layers, without its activation: the site is what lies between its neighbours."""
    from tests.foreign import mingpt

    model = STYLES["mingpt"](book_reference.config)
    assert load_into(model, book_checkpoint, "mingpt")
    for block in model.transformer["h"]:
        del block.mlp["act"]
        mlp = block.mlp
        block.feed_forward = lambda x, mlp=mlp: mlp["c_proj"](nn.functional.gelu(mlp["c_fc"](x)))
    assert isinstance(model, mingpt.GPT)
    candidate = Candidate(model, book_reference.config)
    divergence = find_divergence(candidate, book_reference, PROMPT, LAYOUTS["mingpt"])
    assert divergence is not None and divergence.first is not None
    assert divergence.first.site == "h.0.mlp.act", str(divergence)


def test_a_model_that_needs_targets_is_traced_with_them(book_checkpoint: Path, book_reference: Remembering) -> None:
    """Asked without, it would be seen to return the last position only, and its head would be called wrong."""
    model = STYLES["nanogpt"](book_reference.config)
    assert load_into(model, book_checkpoint, "nanogpt")
    model.all_positions = False
    verdict = undiagnosed(model, book_checkpoint, "nanogpt", always_trace=True, reference=book_reference)
    assert verdict and verdict.divergence is not None and verdict.divergence.first is None, str(verdict.divergence)
    assert {site.calls for site in verdict.divergence.sites} == {1}


def test_a_compiled_model_is_traced_uncompiled(book_checkpoint: Path, book_reference: Remembering) -> None:
    model = load_into_book(book_checkpoint)
    model.trf_blocks[2].ff.layers[1] = nn.ReLU()
    candidate = Candidate(torch.compile(model, backend=lambda graph, inputs: 1 / 0), book_reference.config)
    with candidate.evaluating():
        divergence = find_divergence(candidate, book_reference, PROMPT, BOOK)
    assert divergence is not None and divergence.first is not None
    assert divergence.first.site == "h.2.mlp.act"


def test_query_key_and_value_are_told_apart(book_checkpoint: Path, book_reference: Remembering) -> None:
    model = load_into_book(book_checkpoint).eval()
    with torch.no_grad():
        model.trf_blocks[2].att.W_key.weight[0] += 1
    divergence = find_divergence(Candidate(model, book_reference.config), book_reference, PROMPT, BOOK)
    assert divergence is not None and divergence.first is not None
    assert divergence.first.name == "h.2.attn.c_attn (key)"
    assert "first divergence at trf_blocks.2.att.W_key (h.2.attn.c_attn, key): its input agrees" in str(divergence)


def test_probabilities_with_heads_first_are_compared_as_they_are_meant(
    book_checkpoint: Path, book_reference: Remembering
) -> None:
    model = load_into_book(book_checkpoint).eval()
    weights = book.MultiHeadAttention.attn_weights

    def heads_first(self: book.MultiHeadAttention, scores: Tensor) -> Tensor:
        return weights(self, scores.transpose(0, 1)).transpose(0, 1)

    _replace(book.MultiHeadAttention, "attn_weights", heads_first)(model)
    batch = choose_prompts(book_reference.config)[-1]
    assert batch.ids.shape[0] == 3
    divergence = find_divergence(Candidate(model, book_reference.config), book_reference, batch, BOOK)
    assert divergence is not None and divergence.first is None, str(divergence)
    assert any(site.site == "h.0.attn.probabilities" for site in divergence.sites)


# ------------------------------------------------------------------------------------------- weights, in all styles


@pytest.mark.parametrize("style", ["nanogpt", "book_fused", "parallel_heads"])
@pytest.mark.parametrize("mutant", by_turns([m for m in MUTANTS if m.weights], 2, 4))
def test_wrong_weights_fail_in_other_styles(
    mutant: Mutant, style: str, book_reference: Remembering, book_tensors: dict[str, Tensor], book_checkpoint: Path
) -> None:
    config, layouts = book_reference.config, layout_variants(STYLES[style].layout)
    model = STYLES[style](config)
    edited = mutant.checkpoint(book_tensors, config.n_head)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    fitting = best_match(layouts, config, {name: tuple(tensor.shape) for name, tensor in parameters.items()}).layout
    reads = write_theirs(fitting, config, lambda name: edited[name])
    model.load_state_dict({name: read() for name, read in reads.items()}, strict=False)
    candidate = Candidate(model, config)
    assert not check_weights(fit(candidate, config, layouts), open_checkpoint(book_checkpoint))
    assert bool(check_logits(candidate, book_reference, [PROMPT])) is not mutant.visible
    divergence = find_divergence(candidate, book_reference, PROMPT, layouts)
    assert divergence is not None
    if style == "parallel_heads" and not mutant.visible:  # what it leaves as it is cannot be told apart
        assert divergence.first is None
        return
    where = mutant.where
    if style == "parallel_heads" and "c_" in where:  # it has no modules for these: its attention is one
        where = where.rpartition(".")[0]
    assert divergence.first is not None and divergence.first.site == where, str(divergence)


def test_differing_weights_are_told_by_name_and_number(book_checkpoint: Path) -> None:
    model, opened = load_into_book(book_checkpoint), open_checkpoint(book_checkpoint)
    with torch.no_grad():
        query = model.trf_blocks[1].att.W_query.weight
        query.copy_(query.t().clone())
        model.trf_blocks[2].norm1.scale[3] = torch.inf
        model.trf_blocks[3].att.W_value.weight.zero_()
        model.out_head.weight[5, 7] += 1
        model.pos_emb.weight[9] += 0.5
    weights = check_weights(fit(Candidate(model, opened.config), opened.config, BOOK), opened)
    assert str(weights) == "5 of 149 tensors differ" and weights.equal == 144
    assert list(weights.differing) == [
        "wpe.weight", "h.1.attn.c_attn.weight", "h.2.ln_1.weight", "h.3.attn.c_attn.weight", "lm_head.weight"
    ]  # fmt: skip
    assert weights.differing["h.2.ln_1.weight"].max_abs == math.inf
    assert weights.differing["lm_head.weight"].at == (5, 7)
    assert weights.differing["wpe.weight"].max_abs == pytest.approx(0.5) and weights.differing["wpe.weight"].at[0] == 9
    assert weights.untied == (), "a head with other values is no copy"
    with torch.no_grad():
        model.out_head.weight.copy_(model.tok_emb.weight)
    weights = check_weights(fit(Candidate(model, opened.config), opened.config, BOOK), opened)
    assert weights.untied == (("out_head.weight", "tok_emb.weight"),) and len(weights.differing) == 4


@pytest.mark.parametrize("name", ["sequence_first", "torch_mha", "encoder_layers", "parallel_heads", "interleaved"])
@pytest.mark.parametrize("prompt", [2, -1], ids=["a row", "rows"])
def test_other_orders_of_axes_are_no_divergence(
    name: str, prompt: int, book_reference: Remembering, book_tensors: dict[str, Tensor]
) -> None:
    """What cannot be compared as it is, is compared as it is meant, or nothing is said of it."""
    style = FOREIGN[name]
    model = style.load(book_tensors, book_reference.config)
    if name == "sequence_first":  # ids [T, B], logits [T, B, V]
        inner = model.forward
        model.forward = lambda ids: inner(ids.t()).transpose(0, 1)
    assert style.layout is not None
    candidate = Candidate(model, book_reference.config)
    right = find_divergence(candidate, book_reference, choose_prompts(book_reference.config)[prompt], [style.layout])
    assert right.first is None and right.gap is None, str(right)
    called = [site for site in right.sites if site.called]
    assert len(called) > 24 and all(math.isfinite(site.output) for site in called), "two sites per layer at least"
    with torch.no_grad():
        matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
        matrices[len(matrices) // 2].mul_(1.5)
    wrong = find_divergence(candidate, book_reference, choose_prompts(book_reference.config)[prompt], [style.layout])
    assert wrong.first is not None or wrong.gap is not None
