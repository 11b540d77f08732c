"""GPT-2's equivalence test for other people's repositories: one assertion, and checkpoints to assert on.

A test is as good as the model it runs on. Freshly initialised weights have biases of 0 and gains of 1 and hide eight
known faults from every comparison; the checkpoints here hide none.

    from gpt2_from_scratch.testing import assert_matches_gpt2

    def test_it_is_gpt2(gpt2_perturbed):  # a fixture of the pytest plugin that comes with this package
        model = MyGPT(...)
        load_into(model, gpt2_perturbed, layout="llms_from_scratch")
        assert_matches_gpt2(model, gpt2_perturbed, layout="llms_from_scratch")
"""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import nn

from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import DivergenceError
from gpt2_from_scratch.layouts import LayoutChoice
from gpt2_from_scratch.loading import TINY, Checkpoint, Source
from gpt2_from_scratch.model import GPTModel
from gpt2_from_scratch.verifier import Verdict, VerifyOptions, verify

# Sizes for tests. Twelve layers, as with fewer than 11 the lexicographic order of h.10 and h.2 is the right one; a
# width per head that differs from the number of heads, so that swapped axes are seen; a vocabulary and a context that
# no other size equals. The inner width is four times the width, as in code that knows no other.
SIZES = {"vocab_size": 211, "n_positions": 64, "n_embd": 44, "n_layer": 12, "n_head": 4}

# Standard deviation of the noise on every parameter, at the width above; of matrices in wider models it is less, so
# that sums over the width stay as they are. Pre-activations then reach the region near 2.7 where tanh and erf GELU are
# furthest apart, and attention is neither flat nor one-hot.
NOISE = 0.2


def assert_matches_gpt2(
    model: nn.Module | Callable[..., Any],
    checkpoint: Source | Checkpoint = TINY,
    layout: LayoutChoice | None = None,
    **options: Unpack[VerifyOptions],
) -> Verdict:
    """Asserts that a model is the GPT-2 in a checkpoint: weights, self-tests, logits, greedy tokens.

    Args:
        model: an `nn.Module` with the checkpoint's weights in it, or a callable ``ids [B, T] -> logits [B, T, V]``.
        checkpoint: a file, a directory, a Hub id or an opened `Checkpoint`; the default is ``tiny``, the small trained
            model inside the package.
        layout: of the model: a name from `LAYOUTS` or a `Layout`. With it, weights are compared and faults located.
        **options: see `VerifyOptions`; ``diagnose_seconds=0`` does not search for the bug.

    Returns:
        The verdict, to look at.

    Raises:
        DivergenceError: an `AssertionError` that begins with the cause, and goes on with the whole report.
        CandidateError: it could not be checked.
        CheckpointError: the checkpoint cannot be used.

    Example:
        >>> assert_matches_gpt2(GPTModel.from_pretrained(), layout="gpt2_from_scratch").logits.max_abs
        0.0
    """
    __tracebackhide__ = True  # pytest: the report says more than this function's lines
    verdict = verify(model, checkpoint, layout, **options)
    if not verdict:
        raise DivergenceError(f"{verdict.candidate} differs from GPT-2: {verdict.cause}\n{verdict.report()}")
    return verdict


def perturbed_checkpoint(directory: str | os.PathLike[str], seed: int = 0, *, bias: bool = True, **config: Any) -> Path:
    """Writes a small GPT-2 in Hugging Face's form, every parameter perturbed; the same one for the same arguments.

    Args:
        directory: to write into; made if need be.
        seed: of the noise.
        bias: False makes every bias zero, for code that has none, such as nanoGPT with ``bias=False``.
        **config: fields of `GPTConfig`: ``activation_function="gelu"``, ``tie_word_embeddings=False``, sizes instead
            of `SIZES`.

    Returns:
        The directory.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     GPTModel.from_pretrained(perturbed_checkpoint(folder)).config.n_layer
        12
    """
    fields: dict[str, Any] = {**SIZES, "bos_token_id": 0, "eos_token_id": 0, **config}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GPTModel(GPTConfig(**fields))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not bias and name.endswith(".bias"):
                parameter.zero_()
                continue
            spread = math.sqrt(SIZES["n_embd"] / fields["n_embd"]) if parameter.dim() > 1 else 1.0
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=NOISE * spread)
    model.save_pretrained(directory)
    return Path(directory)
