"""The prompts that a candidate is checked on.

The one idea: no position and no score path stays untested. One token hides every score, mask and position fault; a
short prompt hides positions; one row hides batching; frequent ids hide rows of the embedding. So lengths run from 1
to the full context, and ids are drawn from the whole vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gpt2_from_scratch.config import GPTConfig

_LENGTHS = (1, 2, 17, 64)  # and the full context: shorter than, at, and beyond the sizes at which kernels change
_BATCH = (3, 17)
_SEED = 1337

# Natural text, which random ids are not: frequent tokens, numbers, punctuation, a line break, a name spelled in bytes.
TEXT = (
    "The ferry left at 7:45, nine minutes late, with 203 people and one very calm goat on board.\n"
    'Nobody had bought a ticket for the goat. "Is it yours?" asked the captain; Zoë shook her head. By the time the '
    "island came into view, everybody on deck had an opinion, and the goat had eaten most of the timetable."
)


@dataclass(frozen=True)
class Prompt:
    """Token ids int64 ``[B, T]`` and what to call them in a report."""

    name: str
    ids: Tensor

    @property
    def tokens(self) -> int:
        """``B * T``."""
        return self.ids.numel()


def battery(config: GPTConfig, text: Tensor | None = None) -> tuple[Prompt, ...]:
    """The standard prompts for a model: the same for the same configuration, on every machine.

    Args:
        config: gives vocabulary and context length.
        text: ids ``[1, T]`` of natural text, if a tokenizer is at hand.

    Example:
        >>> [list(prompt.ids.shape) for prompt in battery(GPTConfig(n_positions=100))]
        [[1, 1], [1, 2], [1, 17], [1, 64], [1, 100], [3, 17]]
    """
    generator = torch.Generator().manual_seed(_SEED)
    lengths = sorted({min(length, config.n_positions) for length in (*_LENGTHS, config.n_positions)})
    shapes = [(1, length) for length in lengths]
    rows, length = _BATCH
    shapes.append((rows, min(length, config.n_positions)))
    prompts = [Prompt(_name(*shape), _ids(config.vocab_size, shape, generator)) for shape in shapes]
    if text is not None and text.numel():
        prompts.append(Prompt("natural text", text[:, : config.n_positions]))
    return tuple(prompts)


def _name(rows: int, length: int) -> str:
    tokens = f"{length} token{'s' if length > 1 else ''}"
    return tokens if rows == 1 else f"{rows} x {tokens}"


def _ids(vocab_size: int, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Without repetition as long as the vocabulary allows, so that a prompt meets as many rows as it can."""
    count = shape[0] * shape[1]
    rounds = -(-count // vocab_size)
    ids = torch.cat([torch.randperm(vocab_size, generator=generator) for _ in range(rounds)])
    return ids[:count].view(shape)
