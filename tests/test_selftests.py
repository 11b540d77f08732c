"""Self-tests: what a GPT-2 must do whatever its weights are is checked without a reference, by each test's own fault.

Every fault here is put into a model that passes without it, so each failure is the fault's.
"""

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gpt2_from_scratch import GPTModel, load_into, verify
from gpt2_from_scratch.checks.candidate import Candidate
from gpt2_from_scratch.checks.selftests import SelfTest, SelfTests, check_full_cache, check_itself
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.loading import open_checkpoint
from tests.foreign import book, book_cached, nanogpt, numpy_gpt2
from tests.modules import STYLES, Style, book_config
from tests.mutants import MUTANTS


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from gpt2_from_scratch.testing import perturbed_checkpoint

    return perturbed_checkpoint(tmp_path_factory.mktemp("perturbed"))


@pytest.fixture(scope="module")
def config(checkpoint: Path) -> GPTConfig:
    return open_checkpoint(checkpoint).config


def filled(model: nn.Module, checkpoint: Path, layout: str = "llms_from_scratch") -> Any:
    assert load_into(model, checkpoint, layout)
    return model


def asked(model: Any, config: GPTConfig) -> SelfTests:
    candidate = Candidate(model, config)
    with candidate.evaluating(), torch.random.fork_rng():
        torch.manual_seed(0)
        return check_itself(candidate)


def result(tests: SelfTests, name: str) -> SelfTest:
    return next(test for test in tests.results if test.name == name)


def names(tests: SelfTests) -> list[str]:
    return [test.name for test in tests.failed]


# ------------------------------------------------------------------------------------------------ what is right passes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_right_models_agree_with_themselves(
    style: Style, dtype: torch.dtype, checkpoint: Path, config: GPTConfig
) -> None:
    tests = asked(filled(style(config), checkpoint, style.layout).to(dtype), config)
    assert tests, str(tests)
    unasked = [test.name for test in tests.results if test.difference is None]
    caches = style.layout in ("gpt2_from_scratch", "huggingface")
    assert unasked == ([] if caches else ["padding", "cache", "padding in steps", "cache in chunks"])


def test_the_trained_model_agrees_with_itself_in_any_precision() -> None:
    """Positions say less to it than to perturbed weights, so this is the test that would call rounding a fault."""
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        model = GPTModel.from_pretrained(dtype=dtype)
        tests = asked(model, model.config)
        assert tests, str(tests)
        assert result(tests, "positions").difference > 2 * result(tests, "positions").limit


def test_a_function_in_numpy_agrees_with_itself(checkpoint: Path, config: GPTConfig) -> None:
    opened = open_checkpoint(checkpoint)
    weights = {name: opened.read(name).numpy() for name in opened.tensors}
    assert asked(numpy_gpt2.gpt2(weights, config.n_head), config)


# ------------------------------------------------------------------------------------------- each fault, by its test

# Faults of the zoo that a model betrays by itself, and the test that fails first.
BETRAYED = {
    "dropout_on": "deterministic",
    "mask_no_self": "finite",
    "mask_missing": "causal",
    "mask_leaks_one": "causal",
    "mask_transposed": "causal",
    "mask_after_softmax": "causal",
    "mask_zero_fill": "causal",
    "mask_minus_10": "causal",
    "softmax_dim_q": "causal",
    "split_view_no_transpose": "causal",
    "merge_no_transpose": "causal",
    "shifted_by_one": "causal",
    "pos_reversed": "length",
    "no_pos": "positions",
}
MEANING = {
    "finite": "a mask hides every token",
    "deterministic": "dropout acts in eval mode",
    "causal": "tokens see later ones: the mask is missing or wrong",
    "length": "positions or scores depend on the prompt's length",
    "positions": "the logits are the same; position embeddings are not added",
}


@pytest.mark.parametrize("name", BETRAYED)
def test_a_fault_fails_by_its_own_test(name: str, checkpoint: Path, config: GPTConfig) -> None:
    mutant = next(mutant for mutant in MUTANTS if mutant.name == name)
    assert mutant.weights is None
    tests = asked(mutant.in_book(filled(book.GPTModel(book_config(config)), checkpoint)), config)
    assert not tests
    assert names(tests)[0] == BETRAYED[name], str(tests)
    assert MEANING[BETRAYED[name]] in str(tests)


def test_after_noise_nothing_else_is_asked(checkpoint: Path, config: GPTConfig) -> None:
    """Random answers differ in any two ways of asking: twelve failures would name twelve faults where there is one."""
    model = filled(book.GPTModel(book_config(config)), checkpoint)
    model.drop_emb.forward = lambda x: nn.functional.dropout(x, 0.1)
    tests = asked(model, config)
    assert names(tests) == ["deterministic"]
    assert (
        str(result(tests, "causal"))
        == "causal: not checked, as the model returns non-finite or non-deterministic logits"
    )


def test_no_other_fault_of_the_zoo_is_claimed(checkpoint: Path, config: GPTConfig) -> None:
    """Wrong weights and formulas are wrong for every way of asking alike: nothing here may call them a wrong mask."""
    for name in ("qk_swapped", "gelu_erf", "no_scale", "post_ln", "wrong_n_head", "ln_f_missing", "emb_sqrt_d"):
        mutant = next(mutant for mutant in MUTANTS if mutant.name == name)
        opened = open_checkpoint(checkpoint)
        tensors = {name: opened.read(name) for name in opened.tensors}
        weights = {name: t.numpy() for name, t in mutant.checkpoint(tensors, config.n_head).items()}
        model = numpy_gpt2.gpt2(weights, config.n_head, **mutant.in_numpy()) if mutant.portable else None
        model = model or mutant.in_book(filled(book.GPTModel(book_config(config)), checkpoint))
        assert asked(model, config), name


def test_a_position_table_read_one_too_far_shows_at_the_full_context(checkpoint: Path, config: GPTConfig) -> None:
    model = filled(book.GPTModel(book_config(config)), checkpoint)
    model.embed = lambda ids: model.tok_emb(ids) + model.pos_emb(torch.arange(1, ids.shape[1] + 1))
    tests = asked(model, config)
    assert names(tests) == ["full context"]
    assert (
        "(as many tokens as positions): it fails when it is asked in this way\n"
        "GPTModel crashed on ids of shape [1, 64]: Ind" in str(tests)
    )


def test_a_position_table_that_is_too_short(checkpoint: Path, config: GPTConfig) -> None:
    model = filled(book.GPTModel(book_config(config)), checkpoint)
    model.pos_emb.weight = nn.Parameter(model.pos_emb.weight[:63].detach())
    assert names(asked(model, config)) == ["full context"]


def test_rows_of_a_batch_that_mix(checkpoint: Path, config: GPTConfig) -> None:
    model = filled(book.GPTModel(book_config(config)), checkpoint)

    def merge(x: Tensor) -> Tensor:  # right for one row
        batch, heads, tokens, width = x.shape
        return x.permute(2, 0, 1, 3).reshape(batch, tokens, heads * width)

    for block in model.trf_blocks:
        block.att.merge_heads = merge
    tests = asked(model, config)
    assert names(tests) == ["batch"]
    assert "(alone and in a batch): logits differ by" in str(tests) and "rows of a batch mix" in str(tests)


@pytest.mark.parametrize("row", [1, 2])
def test_one_row_of_a_batch_that_is_wrong(row: int, checkpoint: Path, config: GPTConfig) -> None:
    model = filled(book.GPTModel(book_config(config)), checkpoint).eval()

    def wrong(ids: Tensor) -> Tensor:
        logits = model(ids).clone()
        logits[row : row + 1] += 1
        return logits

    assert names(asked(wrong, config)) == ["batch"]


@pytest.mark.parametrize("first", [0, 1, 2])
def test_noise_in_every_third_answer(first: int, checkpoint: Path, config: GPTConfig) -> None:
    """Whichever of the questions it meets."""
    model, count = filled(book.GPTModel(book_config(config)), checkpoint).eval(), itertools.count(first)

    def noisy(ids: Tensor) -> Tensor:
        return model(ids) + torch.randn(ids.shape[1], 211) * (next(count) % 3 == 0)

    assert not asked(noisy, config)


def test_noise_in_one_answer_only(checkpoint: Path, config: GPTConfig) -> None:
    """The rows that are asked for together are asked for again, and then all is well: that is noise, too."""
    model = filled(book.GPTModel(book_config(config)), checkpoint).eval()
    large = itertools.count()

    def noisy(ids: Tensor) -> Tensor:
        return model(ids) + torch.randn(ids.shape[1], 211) * (ids.shape[0] > 2 and next(large) == 0)

    assert names(asked(noisy, config)) == ["deterministic"]


def test_a_crash_in_a_batch_is_a_fault_with_its_reason(checkpoint: Path, config: GPTConfig) -> None:
    model = filled(book.GPTModel(book_config(config)), checkpoint)

    def single(ids: Tensor) -> Tensor:
        if ids.shape[0] > 1:
            raise NotImplementedError("one row only")
        return model.eval()(ids)

    tests = asked(single, config)
    assert names(tests) == ["batch"] and "it fails when it is asked in this way" in str(tests)
    assert "rows of a batch mix" not in str(tests)  # which was not seen
    assert "NotImplementedError: one row only\n" in str(tests) and 'raise NotImplementedError("one row' in str(tests)


# ------------------------------------------------------------------------------------------------------------ padding


class Padded(book.GPTModel):
    """Takes an attention mask, and does with it what `honours` says."""

    def __init__(self, cfg: dict[str, Any], *honours: str) -> None:
        super().__init__(cfg)
        self.honours = honours
        for block in self.trf_blocks:
            block.att.attn_weights = MethodType(self._weights, block.att)

    def _weights(self, attention: book.MultiHeadAttention, scores: Tensor) -> Tensor:
        tokens = scores.shape[-1]
        hidden = attention.mask[:tokens, :tokens].bool()
        if self.text is not None and "scores" in self.honours:
            hidden = hidden | (self.text == 0)[:, None, None]
        return scores.masked_fill(hidden, torch.finfo(scores.dtype).min).softmax(-1)

    def forward(self, in_idx: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        self.text = attention_mask
        positions = torch.arange(in_idx.shape[1])
        if attention_mask is not None and "positions" in self.honours:
            positions = (attention_mask.cumsum(1) - 1).clamp_min(0)
        x = self.tok_emb(in_idx) + self.pos_emb(positions)
        return self.out_head(self.final_norm(self.trf_blocks(x)))


@pytest.mark.parametrize("honours", [(), ("scores",), ("positions",), ("scores", "positions")], ids=str)
def test_padding(honours: tuple[str, ...], checkpoint: Path, config: GPTConfig) -> None:
    """A mask that shifts positions and hides nothing is wrong. To do nothing, or to shift nothing, is a choice."""
    tests = asked(filled(Padded(book_config(config), *honours), checkpoint), config)
    assert names(tests) == (["padding"] if honours == ("positions",) else [])
    if honours == ("positions",):
        assert "(padded on the left): logits differ by" in str(tests)
        assert "padding is attended to, or shifts positions" in str(tests)
    unasked = {(): "its attention_mask changes nothing", ("scores",): "without position_ids its positions count"}
    if honours in unasked:
        assert f"padding: not checked, as {unasked[honours]}" in str(result(tests, "padding"))
    else:
        assert result(tests, "padding").difference is not None


MEANINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "True for tokens": lambda mask: mask if mask.dtype == torch.bool else mask[..., None, None, None],
    "True for padding": lambda mask: ~mask if mask.dtype == torch.bool else mask[..., None, None, None],
    "added to scores": lambda mask: mask[:, 0, 0] >= 0,
}


@pytest.mark.parametrize("meaning", MEANINGS.values(), ids=MEANINGS)
def test_what_a_mask_says_is_found_out(
    meaning: Callable[[Tensor], Tensor], checkpoint: Path, config: GPTConfig
) -> None:
    class Said(Padded):
        def forward(self, in_idx: Tensor, attention_mask: Tensor | None = None) -> Tensor:
            return super().forward(in_idx, None if attention_mask is None else meaning(attention_mask).long())

    tests = asked(filled(Said(book_config(config), "scores", "positions"), checkpoint), config)
    assert tests and result(tests, "padding").difference is not None, str(result(tests, "padding"))


def test_a_mask_that_is_only_counted_changes_nothing(checkpoint: Path, config: GPTConfig) -> None:
    """The sum of a mask that would be added to scores is infinite, and nothing times that is no number."""

    class Counts(Padded):
        def forward(self, in_idx: Tensor, attention_mask: Tensor | None = None) -> Tensor:
            return super().forward(in_idx) + (0 if attention_mask is None else 0 * attention_mask.sum())

    tests = asked(filled(Counts(book_config(config)), checkpoint), config)
    assert tests and "its attention_mask changes nothing" in str(result(tests, "padding"))


def test_only_the_first_rows_padding(checkpoint: Path, config: GPTConfig) -> None:
    class First(Padded):
        def forward(self, in_idx: Tensor, attention_mask: Tensor | None = None) -> Tensor:
            first = None if attention_mask is None else attention_mask[:1].expand_as(attention_mask)
            return super().forward(in_idx, first)

    assert names(asked(filled(First(book_config(config), "scores", "positions"), checkpoint), config)) == ["padding"]


class PaddedSteps(Padded):
    """The same with a cache, which is the ids and the mask so far; `said` is what a step makes of the mask it gets."""

    def __init__(self, cfg: dict[str, Any], said: Callable[[Tensor, Tensor | None], Tensor], kept: bool) -> None:
        super().__init__(cfg, "scores", "positions")
        self.said, self.kept = said, kept

    def forward(self, in_idx: Tensor, attention_mask: Tensor | None = None, past: Any = None) -> Any:
        if past is None:
            return super().forward(in_idx, attention_mask), (in_idx, attention_mask)
        ids, mask = torch.cat([past[0], in_idx], dim=1), past[1] if self.kept else attention_mask
        if mask is not None:
            mask = self.said(torch.cat([past[0], in_idx], dim=1), mask)
        return super().forward(ids, mask)[:, -in_idx.shape[1] :], (ids, mask if self.kept else attention_mask)


def continued(ids: Tensor, mask: Tensor) -> Tensor:
    return torch.cat([mask, torch.ones_like(ids)], dim=1)[:, : ids.shape[1]]


STEPS: dict[str, tuple[Callable[[Tensor, Tensor | None], Tensor], bool, str]] = {
    "the mask of all tokens": (lambda ids, mask: mask, False, "passed"),
    "the first mask, continued": (continued, True, "passed"),
    "padding forgotten": (lambda ids, mask: torch.ones_like(ids), False, "failed"),
    "the first row's padding": (lambda ids, mask: mask[:1].expand_as(mask), False, "failed"),
    "a mask of another meaning": (lambda ids, mask: mask.flip(1), False, "not checked"),
}


@pytest.mark.parametrize("what", STEPS)
def test_padding_in_cached_steps(what: str, checkpoint: Path, config: GPTConfig) -> None:
    said, kept, status = STEPS[what]
    tests = asked(filled(PaddedSteps(book_config(config), said, kept), checkpoint), config)
    assert names(tests) == (["padding in steps"] if status == "failed" else [])
    assert result(tests, "padding in steps").status == status
    if status == "failed":
        assert "padding in steps (padded, with its cache): logits differ by" in str(tests)
        assert "a cached step attends to padding: wrong in a step of 1 after 7" in str(tests)


def test_padding_in_steps_that_take_no_mask_is_not_checked(checkpoint: Path, config: GPTConfig) -> None:
    class Steps(PaddedSteps):
        def forward(self, in_idx: Tensor, attention_mask: Tensor | None = None, past: Any = None) -> Any:
            if past is not None and (attention_mask is not None or past[1] is not None):
                raise NotImplementedError("no padding in cached steps")
            return super().forward(in_idx, attention_mask, past)

    tests = asked(filled(Steps(book_config(config), continued, True), checkpoint), config)
    assert tests and "its cached steps take none whose meaning is known" in str(result(tests, "padding in steps"))


# -------------------------------------------------------------------------------------------------------------- caches


WRONG = [fault for fault in book_cached.FAULTS if fault is not book_cached.NoMaskAfterTheFirst]


@pytest.mark.parametrize("fault", WRONG, ids=lambda fault: fault.__name__)
def test_a_cache_that_is_wrong(fault: type[book_cached.Steps], checkpoint: Path, config: GPTConfig) -> None:
    where = {
        "PositionsRestart": "wrong in a step of 1 after 1",
        "NotAppended": "wrong in a step of 1 after 1",
        "Overwritten": "wrong in a step of 1 after 1",
        "MaskOfTheFirstRows": "wrong in a step of 1 after 1",
        "NeverForgets": "wrong in a first step of 1",
    }
    tests = asked(filled(book_cached.GPTModel(book_config(config), fault()), checkpoint), config)
    assert names(tests) == ["cache"]
    assert "cache (with and without its cache): logits differ by" in str(tests)
    assert str(tests).endswith(where[fault.__name__]), str(tests)


def test_only_steps_of_one_token_are_right(checkpoint: Path, config: GPTConfig) -> None:
    """The most common cache there is: the fault shows in the step of several tokens, and nowhere else."""
    model = filled(book_cached.GPTModel(book_config(config), book_cached.NoMaskAfterTheFirst()), checkpoint).eval()
    ids = torch.arange(6)[None]
    with torch.inference_mode():
        model.reset_kv_cache()
        steps = torch.cat([model(ids[:, i : i + 1], use_cache=True) for i in range(6)], dim=1)
        torch.testing.assert_close(steps, model(ids), rtol=1e-4, atol=1e-4)
    tests = asked(model, config)
    assert tests, "GPT-2 needs no more than one token a step"
    assert [test.name for test in tests.told] == ["cache in chunks"] and "cache in chunks" not in str(tests)
    assert "wrong in a step of 8 after 8" in str(tests.told[0])


def test_a_cache_that_crashes_on_several_tokens_is_told_and_not_failed(checkpoint: Path, config: GPTConfig) -> None:
    model = filled(book.GPTModel(book_config(config)), checkpoint).eval()
    forward = with_past(model, gives=lambda logits, past: (logits, torch.zeros(1, 5, 7), (past,)))

    def single(ids: Tensor, past: Any = None) -> Any:
        assert past is None or ids.shape[1] == 1, "one token a step"
        return forward(ids, None if past is None else past[0])

    tests = asked(single, config)
    assert tests and [test.name for test in tests.told] == ["cache in chunks"]
    assert "one token a step" in str(tests.told[0])


LATE: dict[str, Callable[[Tensor], Tensor]] = {
    "a window of 32": lambda everything: everything[:, -32:],
    "keys of the first row": lambda everything: everything[:1].expand_as(everything),
    "positions that stop at 20": lambda everything: everything.roll(1, 1) if everything.size(1) > 20 else everything,
    "from the 41st token on": lambda everything: everything if everything.size(1) <= 40 else everything.roll(1, 1),
    "the last place": lambda everything: everything[:, 1:] if everything.size(1) == 64 else everything,
}


@pytest.mark.parametrize("late", LATE.values(), ids=LATE)
def test_a_cache_that_goes_wrong_late_or_for_the_second_row(
    late: Callable[[Tensor], Tensor], checkpoint: Path, config: GPTConfig
) -> None:
    model = filled(book.GPTModel(book_config(config)), checkpoint).eval()

    def forward(ids: Tensor, past: Tensor | None = None) -> Any:
        everything = torch.cat([past, ids], dim=1) if past is not None else ids
        seen = everything if past is None else late(everything)
        return model(seen)[:, -ids.shape[1] :], everything

    assert names(asked(forward, config)) == ["cache"]


def test_the_cache_of_a_full_context_is_compared_with_a_run_that_was_made_before(
    checkpoint: Path, config: GPTConfig
) -> None:
    model = filled(book.GPTModel(book_config(config)), checkpoint).eval()
    full, late = [], LATE["the last place"]

    def forward(ids: Tensor, past: Tensor | None = None) -> Any:
        everything = torch.cat([past, ids], dim=1) if past is not None else ids
        full.append(past is None and ids.shape == (1, config.n_positions))
        return model(everything if past is None else late(everything))[:, -ids.shape[1] :], everything

    candidate = Candidate(forward, config)
    tests = check_itself(candidate, full_context=False)
    assert tests and not any(full)
    candidate.logits_until_asked_again(torch.arange(config.n_positions)[None])
    again = check_full_cache(candidate, tests)
    assert names(again) == ["cache"] and sum(full) == 1
    assert str(again).endswith(f"wrong in a step of 1 after {config.n_positions - 1}")


def with_past(model: Callable[[Tensor], Tensor], *, gives: Callable[[Tensor, Any], Any], joins: bool = True) -> Any:
    """A function in the style ``(logits, past)``; its past is the ids so far."""

    def forward(ids: Tensor, past: Tensor | None = None) -> Any:
        everything = torch.cat([past, ids], dim=1) if past is not None and joins else ids
        return gives(model(everything)[:, -ids.shape[1] :], everything)

    return forward


def test_a_cache_that_takes_one_row_only(checkpoint: Path, config: GPTConfig) -> None:
    model = filled(book.GPTModel(book_config(config)), checkpoint).eval()

    def forward(ids: Tensor, past: Tensor | None = None) -> Any:
        assert past is None or len(ids) == 1, "one row only"
        everything = torch.cat([past, ids], dim=1) if past is not None else ids
        return model(everything)[:, -ids.shape[1] :], everything

    tests = asked(forward, config)
    assert names(tests) == ["cache"] and "AssertionError: one row only" in str(tests)


@pytest.mark.parametrize(
    "gives",
    [
        lambda logits, past: (logits, past),
        lambda logits, past: (logits, None, past),
        lambda logits, past: (logits, logits.sum(), past),
        lambda logits, past: {"logits": logits, "past": past},
    ],
    ids=["tuple", "none between", "loss between", "dictionary"],
)
def test_a_past_that_is_handed_around(gives: Any, checkpoint: Path, config: GPTConfig) -> None:
    model = filled(book.GPTModel(book_config(config)), checkpoint).eval()
    tests = asked(with_past(model, gives=gives), config)
    assert tests and result(tests, "cache").difference is not None, str(tests)
    tests = asked(with_past(model, gives=gives, joins=False), config)
    assert names(tests) == ["cache"] and str(tests).endswith("wrong in a step of 1 after 1")


def test_a_cached_step_may_give_the_last_position_only(checkpoint: Path, config: GPTConfig) -> None:
    """Code written to generate does: with targets all positions, else the last."""

    class Cached(nanogpt.GPT):
        shift = 0

        def forward(self, idx: Tensor, targets: Tensor | None = None, past: Tensor | None = None) -> Any:
            everything = idx if past is None else torch.cat([past, idx], dim=1)
            logits, loss = super().forward(everything.roll(self.shift if past is not None else 0), everything)
            kept = logits[:, -idx.shape[1] :] if past is None and targets is not None else logits[:, -1:]
            return kept, loss, everything

    sizes = {"vocab_size": 211, "n_layer": 12, "n_head": 4, "n_embd": 44, "block_size": 64, "gelu": "tanh"}
    model = filled(Cached(nanogpt.GPTConfig(**sizes)), checkpoint, "nanogpt")
    tests = asked(model, config)
    assert tests and result(tests, "cache").difference is not None, str(tests)
    model.shift = 1
    tests = asked(model, config)
    assert names(tests) == ["cache"] and str(tests).endswith("wrong in a step of 1 after 1")


def test_a_cache_that_is_not_given_back_cannot_be_checked(checkpoint: Path, config: GPTConfig) -> None:
    model = filled(book.GPTModel(book_config(config)), checkpoint).eval()
    tests = asked(with_past(model, gives=lambda logits, past: logits), config)
    assert tests and str(result(tests, "cache")) == "cache: not checked, as it takes 'past', but gives none back"


@pytest.mark.parametrize("style", ["ours", "transformers"])
def test_positions_that_restart_in_known_models(style: str, checkpoint: Path, config: GPTConfig) -> None:
    """The same fault in this package's and in transformers' cache: both conventions are really asked."""
    model = filled(STYLES[style](config), checkpoint, STYLES[style].layout)
    wpe = model.wpe if style == "ours" else model.transformer.wpe
    forward = wpe.forward
    wpe.forward = lambda ids: forward(ids - ids[:, :1])
    tests = asked(model, config)
    assert "cache" in names(tests) and "wrong in a step of 1 after 1" in str(result(tests, "cache"))


# ------------------------------------------------------------------------------------------------- small models, words


@pytest.mark.parametrize("context", [1, 2, 3, 18])
def test_contexts_that_are_too_short_for_a_test(context: int) -> None:
    config = GPTConfig(n_layer=1, n_embd=8, n_head=2, vocab_size=5, n_positions=context)
    model = GPTModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)), alpha=0.2)
    tests = asked(model, config)
    assert tests, str(tests)
    assert (result(tests, "causal").difference is None) == (context <= 2)
    assert (result(tests, "padding").difference is None) == (context == 1)


def test_what_was_not_asked_is_not_passed() -> None:
    asked_, not_asked = SelfTest("one", "a", 0.0, 1.0, "f"), SelfTest("two", "b", None, 1.0, "it has no cache")
    assert str(SelfTests((asked_, not_asked))) == "1 passed: one"
    assert not SelfTest("three", "c", float("nan"), 1.0, "f")


# --------------------------------------------------------------------------------------------- without transformers

WITHOUT = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "transformers":
            raise ModuleNotFoundError("No module named 'transformers'", name="transformers")

sys.meta_path.insert(0, Blocked())
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT + program]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=Path(__file__).resolve().parents[1])


def test_without_transformers_self_tests_run_and_the_rest_says_so_in_a_line() -> None:
    """One process for all of it, as each takes four seconds."""
    done = run(
        "from torch.nn import functional as F\n"
        "from gpt2_from_scratch import GPTModel, verify\n"
        "from gpt2_from_scratch.cli import main\n"
        "print('exit code', main(['verify']))\n"
        "print('exit code', main('verify --skip logits --skip generation'.split()))\n"
        "model, skip = GPTModel.from_pretrained(), ('logits', 'generation')\n"
        "print(verify(model, layout='gpt2_from_scratch', skip=skip).summary)\n"
        "model.h[5].mlp.c_fc.forward = lambda x, f=model.h[5].mlp.c_fc.forward: F.dropout(f(x), 0.1)\n"
        "verdict = verify(model, skip=skip)\n"
        "print(verdict.self_tests.failed[0].name, bool(verdict))\n"
        "assert 'transformers' not in sys.modules\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(
        "gpt2: the reference, transformers' GPT2LMHeadModel, cannot be imported: No module named"
    )
    assert "hint: pip install transformers" in done.stderr and "Traceback" not in done.stderr
    could_not, *_, last, code, passed, failed = done.stdout.splitlines()
    assert (could_not, code) == ("exit code 2", "exit code 0") and last.startswith("PASSED")
    assert passed == "PASSED  GPTModel: weights and self-tests only; logits were not compared"
    assert failed == "deterministic False"


def test_logits_only_where_they_are_asked(checkpoint: Path, config: GPTConfig) -> None:
    """The full context is filled by the battery, too; it is paid for once."""
    model = filled(book.GPTModel(book_config(config)), checkpoint)
    alone = verify(model, checkpoint, skip=("logits", "generation"))
    assert alone.self_tests is not None and "full context" in str(alone.self_tests)
    assert alone.summary == "PASSED  GPTModel: weights and self-tests only; logits were not compared"
