"""The verdict's edges: candidates that write where they should not, hide behind a precision, or change the process.

Each has a right and a wrong twin: the right one is never failed, and the wrong one never passes.
"""

import math
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from gpt2_from_scratch import CandidateError, CheckpointError, load_into, verify
from gpt2_from_scratch.checks.candidate import Candidate
from gpt2_from_scratch.checks.logits import Logits, check_logits
from gpt2_from_scratch.checks.prompts import Prompt, choose_prompts
from gpt2_from_scratch.checks.recording import Recording
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.loading import open_checkpoint
from gpt2_from_scratch.reference import Reference, load_reference
from tests.modules import STYLES
from tests.remembering import Remembering

undiagnosed = partial(verify, diagnose_seconds=0)


def model_of(path: Path, config: GPTConfig, wrong: bool = False, style: str = "book") -> Any:
    """A right model in somebody's style, or the same with the erf GELU."""
    model = STYLES[style](config)
    assert load_into(model, path, STYLES[style].layout)
    if wrong:
        for module in model.modules():
            if "GELU" in type(module).__name__:
                module.forward = F.gelu
    return model


def logits_of(model: Any, reference: Remembering, prompts: Any = None) -> Logits:
    candidate = Candidate(model, reference.config)
    with candidate.evaluating():
        return check_logits(candidate, reference, prompts or choose_prompts(reference.config))


# ------------------------------------------------------------------------------------- what it is asked with


def test_a_candidate_that_writes_into_its_ids_changes_nobody_elses(
    book_checkpoint: Path, book_reference: Remembering
) -> None:
    """It clamps them, off by one: the reference must be asked for what the candidate was asked for."""
    config = book_reference.config
    model = model_of(book_checkpoint, config)

    def clamped(ids: Tensor) -> Tensor:
        ids[:, 0] = 1
        return model(ids)  # type: ignore[no-any-return]

    def scratching(ids: Tensor) -> Tensor:
        logits = model(ids)
        ids.zero_()
        return logits  # type: ignore[no-any-return]

    assert not undiagnosed(clamped, book_checkpoint, reference=book_reference)
    assert undiagnosed(scratching, book_checkpoint, reference=book_reference)


def test_a_candidate_may_compute_in_a_thread_of_its_own(book_checkpoint: Path, book_reference: Remembering) -> None:
    model = model_of(book_checkpoint, book_reference.config)

    def threaded(ids: Tensor) -> Tensor:
        with ThreadPoolExecutor(1) as pool:  # where gradients are on
            return pool.submit(model, ids).result()  # type: ignore[no-any-return]

    assert undiagnosed(threaded, book_checkpoint, reference=book_reference)


def test_a_buffer_that_is_filled_again_is_no_answer(book_reference: Remembering) -> None:
    buffer = torch.empty(3, 37, book_reference.config.vocab_size)

    def noise(ids: Tensor) -> Tensor:
        return buffer[: ids.size(0), : ids.size(1)].normal_()

    verdict = verify(noise, book_of(book_reference), skip=("logits", "generation"), reference=book_reference)
    assert verdict.self_tests is not None and verdict.self_tests.failed[0].name == "deterministic"


def book_of(book_reference: Remembering) -> str:
    return str(book_reference.model.config._name_or_path)


def test_a_function_that_needs_numpy_is_adapted_by_name(book_checkpoint: Path, book_reference: Remembering) -> None:
    model = model_of(book_checkpoint, book_reference.config).eval()
    calls: list[type] = []

    def of_arrays(ids: Any) -> Any:
        calls.append(type(ids))
        return model(torch.from_numpy(numpy.asarray(ids.astype("int64")))).detach().numpy()

    candidate = Candidate(of_arrays, book_reference.config)
    candidate.logits(torch.tensor([[1, 2]]))
    assert calls[-1] is numpy.ndarray
    calls.clear()
    candidate.logits(torch.tensor([[1, 2, 3]]))
    assert calls == [numpy.ndarray]  # tensors are not tried again
    assert list(candidate.adaptations) == ["it is called with numpy arrays"]

    def fails_on_one_length(ids: Tensor) -> Tensor:
        if ids.shape[1] == 2:
            raise ValueError("two tokens are too few")
        return model(torch.as_tensor(ids))  # type: ignore[no-any-return]

    candidate = Candidate(fails_on_one_length, book_reference.config)
    candidate.logits(torch.tensor([[1, 2, 3]]))
    with pytest.raises(CandidateError, match="two tokens are too few"):
        candidate.logits(torch.tensor([[1, 2]]))
    assert not candidate.adaptations


DEMANDS: dict[str, Callable[[Any], Callable[..., Any]]] = {
    "a mask of ones": lambda model: lambda ids, attention_mask: model(ids) + 0 / attention_mask.sum(),
    "the ids": lambda model: lambda ids, targets: (F.cross_entropy(model(ids)[0], targets[0]), model(ids)),
    "where its parameters are": lambda model: lambda ids, device: model(ids.to(device)),
    "0, 1, 2, ...": lambda model: lambda ids, positions: model(ids) + 0 * positions[..., None],
}


@pytest.mark.parametrize("what", DEMANDS)
def test_what_a_signature_demands_is_given_and_told(
    what: str, book_checkpoint: Path, book_reference: Remembering
) -> None:
    for wrong in (False, True):
        model = model_of(book_checkpoint, book_reference.config, wrong).eval()
        candidate = Candidate(DEMANDS[what](model), book_reference.config)
        assert bool(check_logits(candidate, book_reference, choose_prompts(book_reference.config))) is not wrong
        assert "what it demands beside the ids, " in (told := " ".join(candidate.adaptations))
        assert f": {what}" in told


def test_an_id_that_is_treated_apart_is_asked(book_checkpoint: Path, book_reference: Remembering) -> None:
    """A model that takes the last id for padding, as much code takes <|endoftext|>."""
    config = book_reference.config
    for special in (0, config.vocab_size - 1):
        model = model_of(book_checkpoint, config)
        embed = model.embed
        model.embed = lambda ids, embed=embed, special=special: embed(ids) * (ids != special)[..., None]
        logits = logits_of(model, book_reference)
        assert not logits
    assert logits.ids_met > 90 and logits.lengths == (1, 2, 3, 17, 37) and logits.batches == (1, 2, 3)


def test_what_the_reference_fails_is_not_held_against_the_candidate(tmp_path: Path) -> None:
    """Embeddings of positions that are zero: no GPT-2 with these weights can tell one token from the next."""
    from tests.perturbed import perturbed, save

    model = perturbed(n_inner=None, n_layer=1)
    with torch.no_grad():
        model.transformer.wpe.weight.zero_()
    path = save(model, tmp_path)
    verdict = undiagnosed(model_of(path, open_checkpoint(path).config), path)
    assert verdict and verdict.self_tests is not None
    assert "positions: not checked, as the reference does not pass it" in verdict.report(verbose=True)


# ------------------------------------------------------------------------------------------------ precision


def test_an_unused_parameter_in_low_precision_hides_nothing(book_checkpoint: Path, book_reference: Remembering) -> None:
    for wrong in (False, True):
        model = model_of(book_checkpoint, book_reference.config, wrong)
        model.register_parameter("unused", nn.Parameter(torch.ones(2, dtype=torch.bfloat16)))
        logits = logits_of(model, book_reference)
        assert logits.dtype == torch.float32 and bool(logits) is not wrong, str(logits)


@pytest.mark.parametrize("as_module", [True, False], ids=["module", "function"])
def test_a_last_cast_hides_nothing(as_module: bool, book_checkpoint: Path, book_reference: Remembering) -> None:
    """Computed in float32, rounded to bfloat16 at the very end."""
    for wrong in (False, True):
        model = model_of(book_checkpoint, book_reference.config, wrong).eval()
        forward = model.forward

        def rounded(ids: Tensor, forward: Callable[[Tensor], Tensor] = forward) -> Tensor:
            return forward(ids).bfloat16()

        model.forward = rounded
        logits = logits_of(model if as_module else rounded, book_reference)
        assert logits.dtype == torch.float32 and bool(logits) is not wrong, str(logits)


def test_a_module_in_bfloat16_is_seen_through(book_checkpoint: Path, book_reference: Remembering) -> None:
    for wrong in (False, True):
        model = model_of(book_checkpoint, book_reference.config, wrong).bfloat16()
        logits = logits_of(model, book_reference)
        assert logits.dtype == torch.bfloat16 and bool(logits) is not wrong, str(logits)


def test_the_first_answer_of_a_recording_does_not_decide_its_precision(
    book_checkpoint: Path, book_reference: Remembering
) -> None:
    prompts = choose_prompts(book_reference.config)
    answers = [book_reference.logits(prompt.ids) for prompt in prompts]
    wrong = [answers[0].bfloat16().float(), *(answer + 0.02 for answer in answers[1:])]
    assert not undiagnosed(Recording("x.npz", prompts, tuple(wrong)), book_checkpoint)


@pytest.mark.parametrize("layout", ["llms_from_scratch", None])
@pytest.mark.parametrize("what", ["matrices", "one tensor"])
def test_each_tensor_is_rounded_as_the_candidates_was(
    what: str, layout: str | None, book_checkpoint: Path, book_reference: Remembering
) -> None:
    """GGUF files keep vectors in float32; and one tensor may be rounded alone."""
    for wrong in (False, True):
        model = model_of(book_checkpoint, book_reference.config, wrong)
        chosen = [p for p in model.parameters() if p.dim() > 1] if what == "matrices" else [model.tok_emb.weight]
        if what == "one tensor":
            chosen.append(model.out_head.weight)
        for parameter in chosen:
            parameter.data = parameter.data.half().float()
        verdict = undiagnosed(
            model, book_checkpoint, layout, skip=("self-tests", "generation"), reference=book_reference
        )
        assert bool(verdict) is not wrong, verdict.report()
        if wrong and verdict.divergence is not None:
            assert verdict.divergence.first is not None and verdict.divergence.first.site == "h.0.mlp.act"


def test_weights_that_were_folded_are_judged_by_rounding(book_checkpoint: Path, book_reference: Remembering) -> None:
    """A norm's gain multiplied into the layer after it: the same mathematics, other last bits."""
    model = model_of(book_checkpoint, book_reference.config)
    with torch.no_grad():
        for block in model.trf_blocks:
            block.ff.layers[0].weight.mul_(block.norm2.scale)
            block.ff.layers[0].bias.add_(block.ff.layers[0].weight @ (block.norm2.shift / block.norm2.scale))
            block.norm2.scale.fill_(1)
            block.norm2.shift.zero_()
    logits = logits_of(model, book_reference)
    assert logits and logits.exact is None and "not the checkpoint's" in logits.inexact, str(logits)


def test_a_long_prompt_that_is_near_is_run_in_float64(tmp_path: Path) -> None:
    """Beyond 64 tokens: a module that differs there by a few floors is looked at there."""
    from tests.perturbed import perturbed, save

    path = save(perturbed(n_inner=None, n_positions=80, n_layer=2), tmp_path)
    reference = Remembering(load_reference(open_checkpoint(path)))
    model = model_of(path, reference.config)
    embed = model.embed
    shift = 3e-6 * torch.linspace(-1, 1, reference.config.n_embd).sin()
    model.embed = lambda ids: embed(ids) + shift * (torch.arange(ids.size(1)) >= 70)[:, None]
    logits = logits_of(model, reference)
    assert 2 < logits.multiple < 30 and not logits, str(logits)
    assert logits.exact is not None and logits.exact.tokens > 80


# ---------------------------------------------------------------------------------------------- the reference


class Doubling(TorchFunctionMode):
    """A mode that somebody forgot to leave: every softmax comes out doubled."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        return output * 2 if func in (torch.softmax, F.softmax, Tensor.softmax) else output


@contextmanager
def left_on(mode: Any) -> Iterator[None]:
    with mode:
        yield


PATCHES: dict[str, tuple[Any, str, Any]] = {
    "fused attention without its scale": (
        F,
        "scaled_dot_product_attention",
        lambda q, k, v, **options: torch._C._nn.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0),
    ),
    "tanh": (torch, "tanh", torch.sin),
    "LayerNorm": (nn.LayerNorm, "forward", lambda self, x: F.layer_norm(x, x.shape[-1:], self.weight, self.bias, 0.1)),
    "softmax": (torch, "softmax", lambda x, dim: x.sigmoid()),
}


@pytest.mark.parametrize("name", PATCHES)
def test_a_reference_that_somebody_has_changed_is_refused(
    name: str, book_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the wrong function would be in the candidate and in the reference alike, and pass."""
    monkeypatch.setattr(*PATCHES[name])
    with pytest.raises(CheckpointError, match="does not compute GPT-2 in this process"):
        load_reference(open_checkpoint(book_checkpoint))


def test_a_patch_that_computes_the_same_is_no_matter(book_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builtin = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *args, **options: builtin(*args, **options))
    assert load_reference(open_checkpoint(book_checkpoint))


@pytest.mark.parametrize("mode", [lambda: torch.autocast("cpu", torch.bfloat16), Doubling], ids=["autocast", "mode"])
def test_what_is_left_on_does_not_reach_the_reference(mode: Any, book_checkpoint: Path) -> None:
    checkpoint = open_checkpoint(book_checkpoint)
    ids = torch.tensor([[5, 7, 11]])
    expected = load_reference(checkpoint)
    with left_on(mode()):
        reference = load_reference(checkpoint)
        for run in (Reference.logits, Reference.in_float64):
            assert torch.equal(run(reference, ids), run(expected, ids))


def test_a_floor_near_the_size_of_the_logits_is_refused(book_reference: Remembering) -> None:
    class Vague(Remembering):
        def other_roundings(self, ids: Tensor, exact: int | None = None) -> Iterator[tuple[str, Tensor]]:
            yield "float64", torch.zeros_like(self.logits(ids))

    vague = Vague(book_reference.reference)
    model = book_reference.model
    with pytest.raises(CandidateError, match="there is no noise floor"):
        check_logits(Candidate(lambda ids: model(ids), vague.config), vague, choose_prompts(vague.config))


# ------------------------------------------------------------------------------------------------ the process


def test_the_process_is_as_it_was(book_checkpoint: Path, book_reference: Remembering) -> None:
    model = model_of(book_checkpoint, book_reference.config)
    forward = model.forward

    def untidy(ids: Tensor) -> Tensor:
        torch.manual_seed(1)
        random.seed(1)
        numpy.random.seed(1)
        torch.set_grad_enabled(False)
        torch.use_deterministic_algorithms(True)
        torch.set_num_threads(2)
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("medium")
        torch.autocast("cpu", torch.bfloat16).__enter__()
        torch.set_default_dtype(torch.float64)
        with torch.autocast("cpu", enabled=False):
            return forward(ids)  # type: ignore[no-any-return]

    model.forward = untidy
    state: list[Callable[[], Any]] = [
        torch.get_rng_state,
        random.getstate,
        lambda: numpy.random.get_state()[1].tolist(),  # type: ignore[index]
        torch.is_grad_enabled,
        torch.are_deterministic_algorithms_enabled,
        torch.get_num_threads,
        lambda: torch.backends.cudnn.benchmark,
        torch.get_float32_matmul_precision,
        lambda: torch.is_autocast_enabled("cpu"),
        torch.get_default_dtype,
    ]
    before = [get() for get in state]
    few = choose_prompts(book_reference.config)[2:3]
    options = {"skip": ("self-tests", "generation"), "diagnose_seconds": 0}
    verify(model, book_checkpoint, prompts=few, reference=book_reference, **options)
    for get, value in zip(state, before, strict=True):
        after = get()
        assert torch.equal(after, value) if isinstance(value, Tensor) else after == value


def test_gradients_are_recorded_whatever_is_switched_off(book_checkpoint: Path, book_reference: Remembering) -> None:
    model = model_of(book_checkpoint, book_reference.config)
    with torch.no_grad():
        verdict = undiagnosed(
            model,
            book_checkpoint,
            "llms_from_scratch",
            gradients=True,
            skip=("self-tests", "logits", "generation"),
            reference=book_reference,
        )
    assert verdict and verdict.gradients


def test_tf32_by_the_newer_switch_is_off_meanwhile_and_on_again() -> None:
    from gpt2_from_scratch.checks.surroundings import kept_as_it_is

    switch = torch.backends.cuda.matmul
    before = switch.fp32_precision
    try:
        switch.fp32_precision = "tf32"
        with kept_as_it_is():
            assert switch.fp32_precision == "ieee"
        assert switch.fp32_precision == "tf32"
    finally:
        switch.fp32_precision = before


# ---------------------------------------------------------------------------------------------- what is asked


@pytest.mark.parametrize("options", [{"tolerance": (math.nan, 0)}, {"tolerance": (-1, 0)}, {"threshold": math.nan}])
def test_a_threshold_that_is_no_number_is_refused(options: Any, book_reference: Remembering) -> None:
    with pytest.raises(CandidateError, match=r"threshold must|tolerance must"):
        undiagnosed(lambda ids: ids, book_of(book_reference), **options, reference=book_reference)


def test_columns_beyond_the_vocabulary_that_win_are_seen(book_checkpoint: Path, book_reference: Remembering) -> None:
    model = model_of(book_checkpoint, book_reference.config).eval()
    for value, passes in ((-1e4, True), (1e4, False)):
        verdict = undiagnosed(
            lambda ids, value=value: F.pad(model(ids), (0, 5), value=value), book_checkpoint, reference=book_reference
        )
        assert verdict.logits and verdict.generation is not None
        assert bool(verdict.generation) is passes and bool(verdict) is passes


def test_one_token_alone_is_too_little(book_checkpoint: Path, book_reference: Remembering) -> None:
    single = [Prompt("one token", torch.tensor([[3]]))]
    answers = (book_reference.logits(single[0].ids),)
    with pytest.raises(CandidateError, match="one token"):
        undiagnosed(Recording("x.npz", tuple(single), answers), book_checkpoint, reference=book_reference)


# ---------------------------------------------------------------------------------------------- what was asked


def test_thorough_asks_every_row_and_every_class_of_lengths() -> None:
    config = GPTConfig(vocab_size=1500, n_positions=100)
    usual, thorough = choose_prompts(config), choose_prompts(config, torch.tensor([[1, 2, 3]]), thorough=True)
    assert [str(prompt) for prompt in thorough[: len(usual)]] == [str(prompt) for prompt in usual]
    assert len(torch.unique(torch.cat([prompt.ids.flatten() for prompt in thorough]))) == 1500
    assert {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 99, 100} <= {p.ids.size(1) for p in thorough}
    assert max(prompt.tokens for prompt in thorough) <= 100 and thorough[-1].name == "natural text"
    assert len({prompt.name for prompt in thorough}) == len(thorough)
    for small in (1, 2, 5):
        tiny = choose_prompts(GPTConfig(vocab_size=40, n_positions=small), thorough=True)
        assert len(torch.unique(torch.cat([prompt.ids.flatten() for prompt in tiny]))) == 40
        assert max(prompt.ids.size(1) for prompt in tiny) == small


def test_a_wrong_row_that_no_prompt_meets_is_told_of_and_seen_by_thorough(tmp_path: Path) -> None:
    from gpt2_from_scratch import GPTModel
    from gpt2_from_scratch.testing import perturbed_checkpoint

    path = perturbed_checkpoint(tmp_path / "rows", vocab_size=700, n_layer=2)
    right = GPTModel.from_pretrained(path)
    met = torch.unique(torch.cat([prompt.ids.flatten() for prompt in choose_prompts(right.config)]))
    row = next(each for each in range(350, 700) if each not in met)

    def wrong(ids: Tensor) -> Tensor:
        return right(torch.where(ids == row, row - 1, ids))  # type: ignore[no-any-return]

    blind = undiagnosed(wrong, path)
    assert blind and blind.logits is not None and blind.logits.ids_met == len(met)
    assert f"{len(met)} of 700 token ids (--thorough: all)" in blind.report()
    seen = undiagnosed(wrong, path, thorough=True)
    assert not seen and seen.logits is not None and seen.logits.ids_met == 700
    assert row in seen.logits.worst.prompt.ids
    passed = undiagnosed(right.forward, path, thorough=True)
    assert passed and "700 of 700 token ids;" in passed.report()
    with pytest.raises(ValueError, match="either thorough=True or prompts"):
        undiagnosed(wrong, path, thorough=True, prompts=choose_prompts(right.config))


# ------------------------------------------------------------------------------------------------------ crashes


def test_a_crash_on_some_lengths_is_a_failed_check_and_a_crash_on_all_is_none(
    book_checkpoint: Path, book_reference: Remembering
) -> None:
    """Positions that end too early: GPT-2 takes these lengths, so the candidate is not GPT-2."""
    model = model_of(book_checkpoint, book_reference.config).eval()

    def up_to(length: int) -> Callable[[Tensor], Tensor]:
        def short(ids: Tensor) -> Tensor:
            if ids.size(1) > length:
                raise IndexError("no such position")
            return model(ids)  # type: ignore[no-any-return]

        return short

    verdict = undiagnosed(up_to(36), book_checkpoint, reference=book_reference)
    assert not verdict and verdict.logits is not None and verdict.self_tests
    assert [prompt.ids.size(1) for prompt, _ in verdict.logits.crashes] == [37] and not verdict.logits.differ
    verdict = undiagnosed(up_to(5), book_checkpoint, reference=book_reference)  # shorter than what the self-tests ask
    assert not verdict and verdict.logits is not None and len(verdict.logits.crashes) == 3
    assert verdict.self_tests is not None and not verdict.self_tests and not verdict.logits.differ
    assert "raise IndexError" in verdict.report()
    with pytest.raises(CandidateError, match="no such position"):
        undiagnosed(up_to(0), book_checkpoint, reference=book_reference)


def test_a_crash_in_the_diagnosis_leaves_the_verdict(book_checkpoint: Path, book_reference: Remembering) -> None:
    model = model_of(book_checkpoint, book_reference.config, wrong=True)

    def one_row(ids: Tensor) -> Tensor:
        assert ids.size(0) == 1, "one row, please"
        return model(ids)  # type: ignore[no-any-return]

    verdict = verify(one_row, book_checkpoint, reference=book_reference, diagnose_seconds=5)
    assert not verdict and "one row, please" in verdict.unchecked["diagnosis"]
    assert "rows of a batch mix" not in verdict.report()  # it was not seen that they do


def test_a_module_whose_weights_are_buffers_is_run_in_float64(
    book_checkpoint: Path, book_reference: Remembering
) -> None:
    model = model_of(book_checkpoint, book_reference.config)
    model.final_norm.eps = 1e-3  # near the threshold, so that float64 decides
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, parameter.detach())
    verdict = undiagnosed(model, book_checkpoint, reference=book_reference)
    assert not verdict and verdict.logits is not None and verdict.logits.exact is not None


def test_a_module_without_values_is_refused_by_name(book_checkpoint: Path, book_reference: Remembering) -> None:
    with torch.device("meta"):
        model = STYLES["book"](book_reference.config)
    with pytest.raises(CandidateError, match="on the meta device"):
        undiagnosed(model, book_checkpoint, reference=book_reference)


def test_too_little_memory_is_no_fault_of_the_candidate(book_checkpoint: Path, book_reference: Remembering) -> None:
    model = model_of(book_checkpoint, book_reference.config).eval()

    def greedy_for_memory(ids: Tensor) -> Tensor:
        if ids.size(1) == 37:
            raise MemoryError
        return model(ids)  # type: ignore[no-any-return]

    with pytest.raises(CandidateError, match="MemoryError"):
        undiagnosed(greedy_for_memory, book_checkpoint, reference=book_reference)


def test_what_a_module_lacks_of_the_checkpoint_is_said_beside_its_equal_weights(
    book_checkpoint: Path, book_reference: Reference
) -> None:
    """A nanoGPT without biases: each of its parameters is the checkpoint's, and half of the checkpoint is not in it."""
    style = STYLES["nanogpt"]
    whole = model_of(book_checkpoint, book_reference.config, style="nanogpt")
    bare = style(book_reference.config)
    for module in bare.modules():
        if getattr(module, "bias", None) is not None:
            module.bias = None
    bare.load_state_dict({name: tensor for name, tensor in whole.state_dict().items() if name in bare.state_dict()})
    for model, lacks in ((whole, False), (bare, True)):
        verdict = undiagnosed(model, book_checkpoint, "nanogpt", reference=book_reference, skip=("self-tests",))
        assert verdict.weights and bool(verdict.weights.lacking) is lacks and bool(verdict) is not lacks
        assert ("the candidate lacks h.{0...11}.ln_1.bias" in verdict.report()) is lacks, verdict.report()
