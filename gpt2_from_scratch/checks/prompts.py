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
_ROW = 16  # tokens of a row that asks for the ids which nothing else asks for: too few to be measured a floor on
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


def choose_prompts(
    config: GPTConfig, text: Tensor | None = None, special: Sequence[int] = (), thorough: bool = False
) -> tuple[Prompt, ...]:
    """The standard prompts for a model: the same for the same configuration, on every machine.

    Args:
        config: gives vocabulary and context length.
        text: ids ``[1, T]`` of natural text, if a tokenizer is at hand.
        special: ids that are always asked, with the vocabulary's first and last: code may treat them in its own way.
        thorough: ask every row of the embedding, and the lengths around every power of two.

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
    if thorough:
        prompts += _all_lengths(config, set(lengths), generator)
        prompts += _all_rows(config, prompts)
    if text is not None and text.numel():
        prompts.append(Prompt("natural text", text[:, : config.n_positions]))
    return tuple(prompts)


def _around(config: GPTConfig, special: Sequence[int]) -> Prompt:
    """A row for each of these ids, in the middle of two others where the context has room."""
    between = [[(each * 7 + 11) % config.vocab_size, each, (each * 5 + 3) % config.vocab_size] for each in special]
    ids = torch.tensor(between)[:, 1:2] if config.n_positions < 3 else torch.tensor(between)
    return Prompt("first, last and special ids", ids)


def _all_lengths(config: GPTConfig, met: set[int], generator: torch.Generator) -> list[Prompt]:
    """A prompt of each length around a power of two, where kernels, windows and tables change, and of the last ones."""
    powers = [2**exponent for exponent in range(config.n_positions.bit_length() + 1)]
    around = {power + by for power in powers for by in (-1, 0, 1)} | {config.n_positions - 1}
    lengths = sorted(length for length in around - met if 1 <= length <= config.n_positions)
    return [Prompt(_name(1, length), _ids(config.vocab_size, (1, length), generator)) for length in lengths]


def _all_rows(config: GPTConfig, prompts: Sequence[Prompt]) -> list[Prompt]:
    """Every id that these prompts do not meet, in short rows: each prompt has as many tokens as the context at most."""
    met = torch.unique(torch.cat([prompt.ids.flatten() for prompt in prompts]))
    missing = torch.ones(config.vocab_size, dtype=torch.bool)
    missing[met] = False
    length = min(_ROW, config.n_positions)
    rest = []
    for ids in torch.split(missing.nonzero().flatten(), max(1, config.n_positions // length) * length):
        filled = torch.cat([ids, ids.new_zeros(-len(ids) % length)]).view(-1, length)
        rest.append(Prompt(f"ids {int(ids[0])} to {int(ids[-1])} that no other prompt has", filled))
    return rest


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
