"""Gradients: what trains like GPT-2 passes, and what computes the right logits and trains otherwise does not."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gpt2_from_scratch import CandidateError, GPTModel, load_into
from gpt2_from_scratch.checks.candidate import Candidate
from gpt2_from_scratch.checks.gradients import Gradients, check_gradients
from gpt2_from_scratch.checks.logits import check_logits
from gpt2_from_scratch.checks.prompts import choose_prompts
from gpt2_from_scratch.checks.weights import fit
from gpt2_from_scratch.compare import EXACT_THRESHOLD, THRESHOLD
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.layouts import layout_variants
from gpt2_from_scratch.loading import open_checkpoint
from tests.foreign import book, nanogpt
from tests.modules import STYLES, Style
from tests.remembering import Remembering

PROMPT = choose_prompts(GPTConfig(vocab_size=211, n_positions=37))[2]  # 17 tokens


def loaded(style: Style, checkpoint: Path) -> nn.Module:
    module = style(open_checkpoint(checkpoint).config)
    assert load_into(module, checkpoint, style.layout)
    return module


def in_book(checkpoint: Path) -> book.GPTModel:
    model = loaded(STYLES["book"], checkpoint)
    assert isinstance(model, book.GPTModel)
    return model


def gradients_of(module: nn.Module, reference: Remembering, layout: str = "llms_from_scratch") -> Gradients:
    candidate = Candidate(module, reference.config)
    with candidate.evaluating():
        return check_gradients(candidate, reference, PROMPT, fit(candidate, reference.config, layout_variants(layout)))


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_right_code_has_the_right_gradients(style: Style, book_checkpoint: Path, book_reference: Remembering) -> None:
    gradients = gradients_of(loaded(style, book_checkpoint), book_reference, style.layout)
    assert gradients, str(gradients)
    assert len(gradients.errors) == 148, "the head is the embedding"
    assert gradients.exact is None or gradients.exact < EXACT_THRESHOLD
    assert gradients.worst[1] < THRESHOLD * gradients.floor
    if style.layout == "gpt2_from_scratch":
        assert gradients.worst[1] == 0


def test_untied_copies_sum_to_the_gradient_of_what_they_copy(
    book_checkpoint: Path, book_reference: Remembering
) -> None:
    """The book keeps its own head. Each copy alone has half of the gradient, and a wrong one."""
    model = in_book(book_checkpoint)
    assert model.out_head.weight is not model.tok_emb.weight
    assert gradients_of(model, book_reference)
    model.out_head.weight = model.tok_emb.weight
    assert gradients_of(model, book_reference)


def test_a_checkpoint_with_its_own_head(tmp_path: Path) -> None:
    from gpt2_from_scratch.reference import load_reference
    from tests.perturbed import perturbed, save

    checkpoint = save(perturbed(n_inner=None, n_layer=2, tie_word_embeddings=False), tmp_path)
    reference = Remembering(load_reference(open_checkpoint(checkpoint)))
    gradients = gradients_of(GPTModel.from_pretrained(checkpoint), reference, "gpt2_from_scratch")
    assert gradients and "lm_head.weight" in gradients.errors


def test_an_erf_gelu_fails(book_checkpoint: Path, book_reference: Remembering) -> None:
    model = in_book(book_checkpoint)
    model.trf_blocks[11].ff.layers[1] = nn.GELU()
    gradients = gradients_of(model, book_reference)
    assert not gradients and gradients.failed
    assert f"148 gradients ({len(gradients.failed)} differ), largest relative error" in str(gradients)


def test_a_detached_parameter_fails_although_the_logits_are_right(
    book_checkpoint: Path, book_reference: Remembering
) -> None:
    model = in_book(book_checkpoint)
    norm = model.trf_blocks[4].norm1
    norm.forward = lambda x: nn.functional.layer_norm(x, x.shape[-1:], norm.scale.detach(), norm.shift, norm.eps)
    assert check_logits(Candidate(model, book_reference.config), book_reference, [PROMPT])
    gradients = gradients_of(model, book_reference)
    assert gradients.failed == ("h.4.ln_1.weight",) and gradients.worst == ("h.4.ln_1.weight", 1.0)
    assert not gradients and "1 differ" in str(gradients) and "(h.4.ln_1.weight)" in str(gradients)


class Scaled(torch.autograd.Function):
    """Passes on what it gets; its gradient is 1.01 of it. For instance, a mean over the wrong number of tokens."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient * 1.01


def test_a_wrong_scale_of_the_loss_fails(book_checkpoint: Path, book_reference: Remembering) -> None:
    model = in_book(book_checkpoint)
    model.out_head.register_forward_hook(lambda module, args, output: Scaled.apply(output))
    gradients = gradients_of(model, book_reference)
    assert not gradients and len(gradients.failed) > 100
    right = gradients_of(in_book(book_checkpoint), book_reference)
    loss = right.loss[1]
    assert right and not Gradients((loss * 1.001, loss), right.errors, right.floor)
    assert not Gradients((float("nan"), loss), right.errors, right.floor)
    assert not Gradients((loss, loss), {}, right.floor), "nothing compared is nothing passed"


def test_near_the_line_float64_decides(book_checkpoint: Path, book_reference: Remembering) -> None:
    """Rounding above the line passes, and a fault below it fails."""

    class Blended(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            erf, tanh = nn.functional.gelu(x), nn.functional.gelu(x, approximate="tanh")
            return tanh + 0.002 * (erf - tanh)

    model = in_book(book_checkpoint)
    model.trf_blocks[11].ff.layers[1] = Blended()
    gradients = gradients_of(model, book_reference)
    assert not gradients.failed and gradients.exact is not None and not gradients, str(gradients)
    assert "noise floors (threshold 1e-5)" in str(gradients)
    model = in_book(book_checkpoint)
    model.embed = lambda ids: (book.GPTModel.embed(model, ids) + 30) - 30
    gradients = gradients_of(model, book_reference)
    assert gradients and gradients.failed and gradients.exact is not None and gradients.exact < EXACT_THRESHOLD


def test_where_float64_is_impossible_the_line_decides(book_checkpoint: Path, book_reference: Remembering) -> None:
    model = in_book(book_checkpoint)
    model.register_buffer("calls", torch.zeros(1))
    model.embed = lambda ids: (model.calls.add_(1), book.GPTModel.embed(model, ids))[1]
    gradients = gradients_of(model, book_reference)
    assert gradients and gradients.exact is None and all(p.dtype == torch.float32 for p in model.parameters())


def test_a_model_that_needs_targets(book_checkpoint: Path, book_reference: Remembering) -> None:
    model = loaded(STYLES["nanogpt"], book_checkpoint)
    assert isinstance(model, nanogpt.GPT)
    model.all_positions = False
    assert gradients_of(model, book_reference, "nanogpt")


def test_what_cannot_be_differentiated_is_an_error(book_checkpoint: Path, book_reference: Remembering) -> None:
    model = in_book(book_checkpoint)
    model.embed = lambda ids: torch.from_numpy(book.GPTModel.embed(model, ids).numpy())
    with pytest.raises(CandidateError, match="GPTModel cannot be differentiated: RuntimeError: Can't call numpy"):
        gradients_of(model, book_reference)
    model.embed = lambda ids: {}["embedding"]
    with pytest.raises(CandidateError, match="GPTModel cannot be differentiated: KeyError: 'embedding'"):
        gradients_of(model, book_reference)


def test_nothing_of_the_model_changes(book_checkpoint: Path, book_reference: Remembering) -> None:
    model = in_book(book_checkpoint).requires_grad_(False)
    model.pos_emb.weight.requires_grad_(True).grad = torch.ones_like(model.pos_emb.weight)
    before = {name: (p.data_ptr(), p.dtype, p.detach().clone()) for name, p in model.named_parameters()}
    assert gradients_of(model, book_reference).exact is not None
    for name, parameter in model.named_parameters():
        pointer, dtype, values = before[name]
        assert parameter.data_ptr() == pointer and parameter.dtype == dtype and torch.equal(parameter, values)
        assert parameter.requires_grad is (name == "pos_emb.weight") and (parameter.grad is None) is (
            name != "pos_emb.weight"
        )
    assert torch.equal(model.pos_emb.weight.grad, torch.ones_like(model.pos_emb.weight))
