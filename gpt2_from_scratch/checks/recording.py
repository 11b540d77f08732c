"""Verifies what cannot be called from Python: a port in another language answers prompts from a file.

`Record` writes the prompts, the port adds its logits beside them, and the file is a candidate like any
other. Tensors are called ``ids.0``, ``ids.1``, ... (int64 ``[B, T]``) and ``logits.0``, ``logits.1``, ... (floating
point ``[B, T, V]``), in `.safetensors` or `.npz`.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy
import torch
from torch import Tensor

from gpt2_from_scratch.checkpoint import open_container, safetensors
from gpt2_from_scratch.checkpoint.atomic import replacing
from gpt2_from_scratch.checkpoint.container import Container, StoredTensor
from gpt2_from_scratch.checks.prompts import Prompt
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import CandidateError, CheckpointError


@dataclass(frozen=True)
class Recording:
    """Answers from a file. Called with the ids of one of its prompts, it returns the logits recorded for them.

    Args:
        source: the file.
        prompts: what was asked.
        answers: logits ``[B, T, V]`` of each.
    """

    source: str
    prompts: tuple[Prompt, ...]
    answers: tuple[Tensor, ...]

    @property
    def __name__(self) -> str:
        return f"the recording {Path(self.source).name}"

    def __call__(self, input_ids: Tensor) -> Tensor:
        for prompt, logits in zip(self.prompts, self.answers, strict=True):
            if torch.equal(prompt.ids, input_ids):
                return logits
        raise LookupError(f"ids of shape {list(input_ids.shape)} were not recorded")


def record(prompts: Sequence[Prompt], path: str | os.PathLike[str]) -> None:
    """Writes prompts for a port to answer.

    Args:
        prompts: what is asked; usually `choose_prompts`.
        path: ends in `.safetensors` or `.npz`; replaced if it is there. `check_unanswered` tells whether that would
            lose something.

    Raises:
        CandidateError: another ending, or the folder does not exist.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     record([Prompt("two tokens", torch.tensor([[5, 7]]))], f"{folder}/prompts.npz")
        ...     dict(numpy.load(f"{folder}/prompts.npz"))
        {'ids.0': array([[5, 7]])}
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise CandidateError(f"the folder {path.parent} does not exist")
    ids = {f"ids.{index}": prompt.ids.contiguous() for index, prompt in enumerate(prompts)}
    if path.suffix == ".safetensors":
        stored = {name: StoredTensor(tuple(t.shape), t.dtype, partial(_same, t)) for name, t in ids.items()}
        safetensors.write(path, stored)
    elif path.suffix == ".npz":
        with replacing(path) as file:
            numpy.savez(file, allow_pickle=False, **{name: tensor.numpy() for name, tensor in ids.items()})
    else:
        raise CandidateError(f"{path} ends in neither .safetensors nor .npz")


def check_unanswered(path: Path) -> None:
    """Refuses a file that would be lost if prompts were written there.

    Args:
        path: where prompts are to be written.

    Raises:
        CandidateError: the file is there, and holds answers, or something else than prompts.
    """
    if not path.is_file():
        return
    try:
        names: set[str] = set(open_container(path).tensors)
    except CheckpointError:
        names = set()
    if not names or not all(_PROMPT.fullmatch(name) for name in names):
        holds = "answers" if any(name.startswith("logits.") for name in names) else "something else than prompts"
        raise CandidateError(f"{path} is there, and holds {holds}", hint="give another name, or remove it yourself")


_PROMPT = re.compile(r"ids\.[0-9]+")


def read_recording(
    path: str | os.PathLike[str], config: GPTConfig, standard: Sequence[Prompt], searched: Sequence[Prompt] = ()
) -> Recording:
    """Reads what a port has answered.

    Args:
        path: a file with a tensor ``logits.N`` for each prompt, and ``ids.N`` if it was asked other prompts than the
            standard ones.
        config: of the checkpoint that it was asked about.
        standard: the prompts that `record` wrote; they number the logits where the file holds no ids.
        searched: the prompts behind them that only a diagnosis needs; a file without ids may lack all of them.

    Raises:
        CandidateError: it is no such file, or answers are missing or do not fit their prompts.
    """
    path = Path(path)
    try:
        container = open_container(path)
    except CheckpointError as error:
        readable = path.suffix in (".safetensors", ".npz")
        raise CandidateError(error.message, hint=error.bare_hint if readable else "give .safetensors or .npz") from None
    asked = _prompts(path, container, config)
    if not asked:
        more = any(f"logits.{len(standard) + index}" in container.tensors for index in range(len(searched)))
        asked = (*standard, *searched) if more else tuple(standard)
    absent = [f"logits.{index}" for index in range(len(asked)) if f"logits.{index}" not in container.tensors]
    if absent:
        raise CandidateError(
            f"{path} lacks {', '.join(absent)}",
            hint="write the logits [B, T, V] of ids.N as logits.N into the file; it holds "
            + (", ".join(list(container.tensors)[:20]) or "nothing"),
        )
    known = {f"{kind}.{index}" for kind in ("ids", "logits") for index in range(len(asked))}
    numbered = [name for name in container.tensors if name.startswith(("ids.", "logits."))]
    if extra := [name for name in numbered if name not in known]:
        raise CandidateError(
            f"{path} holds {', '.join(extra[:20])}, to which there is no prompt",
            hint=f"there are {len(asked)} prompts, numbered from 0 without a gap",
        )
    answers = []
    for index, prompt in enumerate(asked):
        stored = container.tensors[f"logits.{index}"]
        if stored.shape[:-1] != tuple(prompt.ids.shape):
            raise CandidateError(
                f"{path}: logits.{index} is {list(stored.shape)}, but its ids are {list(prompt.ids.shape)}",
                hint=f"expected [B, T, V] = {[*prompt.ids.shape, config.vocab_size]}",
            )
        answers.append(stored.read())
    return Recording(str(path), asked, tuple(answers))


def _prompts(path: Path, container: Container, config: GPTConfig) -> tuple[Prompt, ...]:
    """The ids in the file, if there are any, checked before any model sees them."""
    prompts: list[Prompt] = []
    while stored := container.tensors.get(f"ids.{len(prompts)}"):
        name = f"ids.{len(prompts)}"
        if stored.dtype not in (torch.int64, torch.int32) or len(stored.shape) != 2 or 0 in stored.shape:
            raise CandidateError(f"{path}: {name} is {stored.dtype} {list(stored.shape)}, not int64 [B, T]")
        ids = stored.read().long()
        if ids.size(1) > config.n_positions or int(ids.min()) < 0 or int(ids.max()) >= config.vocab_size:
            raise CandidateError(
                f"{path}: {name} does not fit the checkpoint: {ids.size(1)} tokens, ids {int(ids.min())} to "
                f"{int(ids.max())}; it has {config.n_positions} positions and a vocabulary of {config.vocab_size}"
            )
        prompts.append(Prompt(f"{name}, {ids.size(0)} x {ids.size(1)} tokens", ids))
    return tuple(prompts)


def _same(tensor: Tensor) -> Tensor:
    return tensor
