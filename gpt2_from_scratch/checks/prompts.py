"""The prompts that a candidate is checked on.

No position and no score path stays untested. One token hides every score, mask and position fault; a
short prompt hides positions; one row hides batching; frequent ids hide rows of the embedding. So lengths run from 1
to the full context, and ids are drawn from the whole vocabulary.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gpt2_from_scratch.checks.parts import Result
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.loading import Checkpoint

_LENGTHS = (1, 2, 17, 64)  # and the full context: shorter than, at, and beyond the sizes at which kernels change
_BATCH = (3, 17)
_SEED = 1337
_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")

# Natural text, which random ids are not: frequent tokens, numbers, punctuation, a line break, a name spelled in bytes.
TEXT = (
    "The ferry left at 7:45, nine minutes late, with 203 people and one very calm goat on board.\n"
    'Nobody had bought a ticket for the goat. "Is it yours?" asked the captain; Zoë shook her head. By the time the '
    "island came into view, everybody on deck had an opinion, and the goat had eaten most of the timetable."
)


@dataclass(frozen=True, repr=False)
class Prompt(Result):
    """Token ids int64 ``[B, T]`` and what to call them in a report."""

    name: str
    ids: Tensor

    def __str__(self) -> str:
        return f"{self.name}, {self.ids.size(0)} x {self.ids.size(1)} tokens"

    @property
    def tokens(self) -> int:
        """``B * T``."""
        return self.ids.numel()


def choose_prompts(config: GPTConfig, text: Tensor | None = None, special: Sequence[int] = ()) -> tuple[Prompt, ...]:
    """The standard prompts for a model: the same for the same configuration, on every machine.

    Args:
        config: gives vocabulary and context length.
        text: ids ``[1, T]`` of natural text, if a tokenizer is at hand.
        special: ids that are always asked, with the vocabulary's first and last: code may treat them in its own way.

    Example:
        >>> [list(prompt.ids.shape) for prompt in choose_prompts(GPTConfig(n_positions=100))]
        [[1, 1], [1, 2], [1, 17], [1, 64], [1, 100], [2, 3], [3, 17]]
    """
    generator = torch.Generator().manual_seed(_SEED)
    lengths = sorted({min(length, config.n_positions) for length in (*_LENGTHS, config.n_positions)})
    shapes = [(1, length) for length in lengths]
    rows, length = _BATCH
    shapes.append((rows, min(length, config.n_positions)))
    prompts = [Prompt(_name(*shape), _ids(config.vocab_size, shape, generator)) for shape in shapes]
    prompts.insert(-1, _around(config, sorted({0, config.vocab_size - 1, *special})))
    if text is not None and text.numel():
        prompts.append(Prompt("natural text", text[:, : config.n_positions]))
    return tuple(prompts)


def _around(config: GPTConfig, special: Sequence[int]) -> Prompt:
    """A row for each of these ids, in the middle of two others where the context has room."""
    between = [[(each * 7 + 11) % config.vocab_size, each, (each * 5 + 3) % config.vocab_size] for each in special]
    ids = torch.tensor(between)[:, 1:2] if config.n_positions < 3 else torch.tensor(between)
    return Prompt("first, last and special ids", ids)


def special_ids(checkpoint: Checkpoint) -> tuple[int, ...]:
    """The ids that a checkpoint's own configuration names: where text begins and ends, and what pads it."""
    path = checkpoint.located.config
    if path is None:
        return ()
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ()
    named = (said.get(name) for name in _SPECIAL) if isinstance(said, dict) else ()
    flat = (each for found in named for each in (found if isinstance(found, list) else [found]))
    return tuple(each for each in flat if type(each) is int and 0 <= each < checkpoint.config.vocab_size)


def _name(rows: int, length: int) -> str:
    tokens = f"{length} token{'s' if length > 1 else ''}"
    return tokens if rows == 1 else f"{rows} x {tokens}"


def _ids(vocab_size: int, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Without repetition as long as the vocabulary allows, so that a prompt meets as many rows as it can."""
    count = shape[0] * shape[1]
    rounds = -(-count // vocab_size)
    ids = torch.cat([torch.randperm(vocab_size, generator=generator) for _ in range(rounds)])
    return ids[:count].view(shape)
