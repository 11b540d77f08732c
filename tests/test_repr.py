"""What Python shows of any public result fits into two lines; what ``print()`` shows is text for people."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

from gpt2_from_scratch import (
    EXACT,
    Decoding,
    GPTConfig,
    GPTModel,
    convert,
    load_into,
    load_tokenizer,
    open_checkpoint,
    verify,
)
from gpt2_from_scratch.building import load_object
from gpt2_from_scratch.checkpoint import Container, Located
from gpt2_from_scratch.checks.recording import Recording
from gpt2_from_scratch.diagnose.grade import grade
from gpt2_from_scratch.diagnose.table import FAULTS
from gpt2_from_scratch.infer_layout import infer_layout
from gpt2_from_scratch.inspecting import inspect_checkpoint
from gpt2_from_scratch.layouts import LAYOUTS
from gpt2_from_scratch.mapping import Link, Matching, Row
from gpt2_from_scratch.testing import perturbed_checkpoint

# What a user does not get by any public function's return: the inner parts of a checkpoint and of a layout.
INSIDE = {Container, Located, Link, Matching, Row}


def within(value: object, seen: set[int]) -> Iterator[object]:
    """Every object of this package that can be reached through fields and collections."""
    if id(value) in seen or isinstance(value, type | nn.Module | torch.Tensor):
        return
    seen.add(id(value))
    if type(value).__module__.startswith("gpt2_from_scratch"):
        yield value
    if dataclasses.is_dataclass(value):
        parts = [getattr(value, field.name) for field in dataclasses.fields(value)]
    else:
        parts = list(value.values()) if isinstance(value, Mapping) else []
        parts += list(value) if isinstance(value, tuple | list) else []
    for part in parts:
        yield from within(part, seen)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    folder = tmp_path_factory.mktemp("results")
    opened = open_checkpoint(perturbed_checkpoint(folder / "checkpoint", n_layer=2))
    model = GPTModel(opened.config)
    report = load_into(model, opened)
    right = verify(model, opened, gradients=True, always_trace=True, train=True)
    model.h[1].mlp.act = nn.GELU()
    wrong = verify(model, opened, gradients=True, diagnose_seconds=3)
    mine = Path(__file__).parent / "readme" / "my_gpt.py"
    built = load_object(f"{mine}:GPT", opened.config)
    recording = (
        Recording("port.npz", (wrong.logits.results[0].prompt,), (torch.zeros(1, 1, 211),)) if wrong.logits else None
    )
    return [
        opened, report, right, right.parts, wrong, wrong.parts, built, recording,
        infer_layout(built.object, opened.config),
        grade(lambda model: True, opened, faults=FAULTS[:6]), convert(opened, folder / "out", "huggingface"),
        inspect_checkpoint(opened), load_tokenizer("tiny"), GPTConfig(), Decoding(), EXACT, LAYOUTS,
    ]  # fmt: skip


def test_no_repr_is_longer_than_two_lines(results: list[object]) -> None:
    found = [each for result in results for each in within(result, set()) if type(each) not in INSIDE]
    assert len({type(each) for each in found}) > 20
    long = {type(each).__name__: repr(each)[:90] for each in found if len(repr(each)) >= 200 or "\n" in repr(each)}
    assert long == {}
