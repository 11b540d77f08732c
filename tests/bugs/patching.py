"""Looks for a patch for a bug of a style: edited sources are run on two prompts, and once more in another size."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from gpt2_from_scratch.anatomy.forward import logits
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.diagnose.clock import Clock
from gpt2_from_scratch.diagnose.patch import RIGHT, Judge, Patch, find_patch
from tests.bugs import Bug
from tests.foreign import STYLES

# No size stands in both, and none of the first is 3 or 4, which GPT-2 has by itself.
CONFIG = GPTConfig(vocab_size=31, n_positions=13, n_embd=30, n_layer=2, n_head=5)
LARGER = GPTConfig(vocab_size=37, n_positions=17, n_embd=44, n_layer=3, n_head=4)


def weights(config: GPTConfig) -> dict[str, torch.Tensor]:
    """Every tensor random, in float64."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: 0.3 * torch.randn(shape, generator=generator, dtype=torch.float64)
        + float(".ln_" in name or "ln_f" in name)
        for name, shape in config.tensor_shapes().items()
    }


def judge_of(bug: Bug, config: GPTConfig, folder: Path) -> Judge:
    """The largest error of an edited source on two prompts; infinite where it does not run."""
    style, tensors = STYLES[bug.style], weights(config)
    generator = torch.Generator().manual_seed(1)
    sizes = ((2, 7), (1, config.n_positions))
    prompts = [torch.randint(0, config.vocab_size, size, generator=generator) for size in sizes]
    expected = [logits(config, tensors, ids) for ids in prompts]

    def judge(source: str) -> float:
        file = folder / f"{bug.style}.py"
        file.write_text(source)
        try:
            model = style.load(tensors, config, file)
            found = [style.logits(model, ids.clone()).double() for ids in prompts]
            errors = [
                float((mine - right).abs().max() / right.abs().max())
                for mine, right in zip(found, expected, strict=True)
            ]
        except Exception:  # an edit may do anything
            return math.inf
        return max(error if math.isfinite(error) else math.inf for error in errors)

    return judge


def patched(bug: Bug, folder: Path, lines: Sequence[int] | None = None, seconds: float = 60) -> Patch | None:
    """The patch that is found at these lines, by default the guilty ones. The style's sizes must not be fixed."""
    trials = folder / "trials"
    trials.mkdir(parents=True)
    judge, elsewhere = judge_of(bug, CONFIG, trials), judge_of(bug, LARGER, trials)
    return find_patch(
        bug.write(folder / "theirs"),
        bug.lines if lines is None else lines,
        judge,
        lambda source: ("two sizes",) if elsewhere(source) <= RIGHT else (),
        clock=Clock(seconds),
    )
