"""The limits of the machine, measured between the turns of the contenders, and what GPT-2 needs at least.

A decoding step at batch 1 reads every weight once and computes two operations with it: memory is its limit. A prompt
of hundreds of tokens computes hundreds of times as much with each: arithmetic is.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.contenders import shape_of

READ = 2**30  # bytes: far more than any cache holds
MATRIX = 2048  # rows and columns: products of 17 GFLOP, at a size where their speed no longer grows
REPEATS = 5  # in a turn; their median, as of everything: who else is on the machine slows it and its limit alike


def waiting(device: str) -> Callable[[], None]:
    """A function that waits until all work on the device is done."""
    import torch

    return torch.accelerator.synchronize if device != "cpu" else lambda: None


def median_seconds(work: Callable[[], object], wait: Callable[[], None]) -> float:
    def once() -> float:
        wait()
        start = time.perf_counter()
        work()
        wait()
        return time.perf_counter() - start

    return statistics.median(once() for _ in range(REPEATS))


def open_limits(device: str, dtypes: list[str]) -> dict[str, Callable[..., Any]]:
    """What the worker of the limits can be asked: ``read``, in bytes/s, and ``product``, in FLOP/s by dtype."""
    import torch

    wait = waiting(device)
    memory = torch.ones(READ // 4, device=device)
    squares = {dtype: torch.randn(MATRIX, MATRIX, device=device).to(getattr(torch, dtype)) for dtype in dtypes}

    def read() -> float:
        return READ / median_seconds(memory.sum, wait)

    def product() -> dict[str, float]:
        return {
            dtype: 2 * MATRIX**3 / median_seconds(partial(torch.matmul, square, square), wait)
            for dtype, square in squares.items()
        }

    return {"read": read, "product": product}


BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Needs:
    """The bytes and operations that a GPT-2 with a tied head needs."""

    n_layer: int
    n_embd: int
    n_head: int
    vocab_size: int
    n_positions: int

    @classmethod
    def of(cls, folder: Path) -> "Needs":
        return cls(**shape_of(folder))

    @property
    def linear(self) -> int:
        """Weights of the linear layers: 3 + 1 + 4 + 4 squares a block."""
        return 12 * self.n_layer * self.n_embd**2

    def step_bytes(self, context: int, dtype: str, batch: int = 1) -> int:
        """Bytes that a step must read: each weight once, the embeddings as the head, and the cache of each text."""
        e = self.n_embd
        small = self.n_layer * 13 * e + 2 * e  # biases, 3 + 1 + 4 + 1 widths a block, and norms, 4
        cache = 2 * self.n_layer * e * context * batch
        return (self.linear + self.vocab_size * e + small + cache) * BYTES[dtype]

    def prefill_flops(self, tokens: int) -> int:
        """Operations of a prompt: linear layers, attention of each token to itself and those before, one head row."""
        pairs = tokens * (tokens + 1) // 2  # computing masked pairs is a choice of the implementation, not a need
        attention = 2 * 2 * self.n_layer * self.n_embd * pairs  # scores, and averages of values
        return 2 * self.linear * tokens + attention + 2 * self.vocab_size * self.n_embd
