"""A model that was loaded from a file is repaired in a copy of the file, and the patch is proven in another size."""

from pathlib import Path

import pytest
import torch

from gpt2_from_scratch import load_into, open_checkpoint
from gpt2_from_scratch.building import Loaded, load_object
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.diagnose import _with_edited
from gpt2_from_scratch.diagnose import patch as patch_module
from gpt2_from_scratch.diagnose.clock import Clock
from gpt2_from_scratch.diagnose.edits import Edit
from gpt2_from_scratch.diagnose.lines import Accusation, Finding, Line
from gpt2_from_scratch.diagnose.patch import Patch
from gpt2_from_scratch.diagnose.repair import _other_size, repair, write_patch
from gpt2_from_scratch.errors import CandidateError
from gpt2_from_scratch.loading import Checkpoint
from tests.foreign import STYLES
from tests.modules import book_config


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return open_checkpoint("tiny")


def buggy(style: str, name: str, old: str, new: str, checkpoint: Checkpoint, folder: Path) -> tuple[Loaded, int]:
    """The class of a style with one bug, filled; and the number of the guilty line."""
    source = STYLES[style].path.read_text()
    assert source.count(old) == 1
    file = folder / "their_gpt.py"
    file.write_text(source.replace(old, new))
    loaded = load_object(f"{file}:{name}", checkpoint.config)
    load_into(loaded.object, checkpoint, layout=STYLES[style].layout)
    loaded.object.eval()
    return loaded, source[: source.index(old) + len(old)].count("\n") + 1


def repaired(loaded: Loaded, line: int, checkpoint: Checkpoint, layout: object) -> Patch | None:
    weights = {name: checkpoint.read(name) for name in checkpoint.config.tensor_shapes()}
    return repair(loaded, [line], checkpoint.config, weights, layout, clock=Clock(600))


def test_a_bug_in_a_method_is_repaired_in_two_sizes(checkpoint: Checkpoint, tmp_path: Path):
    style = "book"
    source = STYLES[style].path.read_text()
    old = next(line for line in source.splitlines() if "softmax" in line and "dim=-1" in line)
    loaded, line = buggy(style, "GPTModel", old, old.replace("dim=-1", "dim=-2"), checkpoint, tmp_path)
    before = {name: parameter.clone() for name, parameter in loaded.object.named_parameters()}
    patch = repaired(loaded, line, checkpoint, STYLES[style].layout)
    assert patch is not None
    assert patch.after == source
    assert len(patch.proof) == 2
    assert "width 40" in patch.proof[1]
    for name, parameter in loaded.object.named_parameters():
        assert torch.equal(parameter, before[name])

    backup = write_patch(patch)
    assert loaded.file.read_text() == source
    assert backup.read_text() == patch.before
    with pytest.raises(CandidateError, match="has changed since"):
        write_patch(patch)
    loaded.file.write_text(patch.before)
    with pytest.raises(CandidateError, match=r"\.orig is there already"):
        write_patch(patch)
    assert loaded.file.read_text() == patch.before


def test_a_line_that_only_the_patch_knows_of_is_shown_with_the_accused_ones(tmp_path: Path):
    file = tmp_path / "their_gpt.py"
    line = Line(str(file), 2, 4, "b = 2", "made here", "this is 2", "GPT-2 has 3")
    accusation = Accusation("named", (Finding((line,), "constant", line.says, line.expected),), proven=True)
    patch = Patch(file, "a = 1\nb = 2\n    c = 4\n", "a = 1\nb = 3\n    c = 5\n", (2, 3), 0.0, 1)
    shown = _with_edited(accusation, patch)
    assert [(each.line, each.text, each.role) for each in shown.lines] == [
        (2, "b = 2", "made here"),
        (3, "c = 4", "edited by the patch"),
    ]
    assert "edited by the patch: their_gpt.py:3  c = 4" in str(shown)


def test_code_that_takes_only_its_own_size_is_repaired_in_that(checkpoint: Checkpoint, tmp_path: Path):
    """A function that builds the model by itself, as `--model FILE.py:build()` names it."""
    loaded, line = buggy("book", "GPTModel", "keys.transpose(2, 3)", "keys.transpose(2, 3) * 2", checkpoint, tmp_path)
    with loaded.file.open("a") as file:
        file.write(f"\n\ndef build():\n    return GPTModel({book_config(checkpoint.config)!r})\n")
    fixed = load_object(f"{loaded.file}:build()", checkpoint.config)
    load_into(fixed.object, checkpoint, layout=STYLES["book"].layout)
    patch = repaired(fixed, line, checkpoint, STYLES["book"].layout)
    assert patch is not None and len(patch.proof) == 1


def test_numbers_that_are_not_finite_are_never_right(checkpoint: Checkpoint, tmp_path: Path, monkeypatch):
    """Scores divided by zero make NaN, which no comparison finds too large."""
    loaded, line = buggy("book", "GPTModel", "keys.transpose(2, 3)", "keys.transpose(2, 3) * 2", checkpoint, tmp_path)
    source = loaded.file.read_text()
    nan = source.replace("keys.transpose(2, 3) * 2", "keys.transpose(2, 3) * float('nan')")
    monkeypatch.setattr(patch_module, "edits", lambda *_, **__: [Edit(0, len(source), nan)])
    assert repaired(loaded, line, checkpoint, STYLES["book"].layout) is None


WIDTH = "keys.shape[-1]"  # of a head, which the scores are scaled by: 16 in the checkpoint, 8 in the small model
WRONG = (
    "16",
    "8",
    "self.n_heads * 4",
    "self.n_heads ** 2",
    "self.W_key.in_features // 4",
    "len(self.mask) // 16",
    "256 // 16",
    f"{WIDTH} if keys.shape[2] < 19 else 2 * {WIDTH}",
    f"{WIDTH} if keys.shape[2] < 100 else 2 * {WIDTH}",
    f"{WIDTH} if keys.shape[2] > 2 else 2 * {WIDTH}",
    f"{WIDTH} if len(keys) < 2 else 2 * {WIDTH}",
)


def test_what_is_right_for_some_sizes_or_lengths_is_refused(checkpoint: Checkpoint, tmp_path: Path, monkeypatch):
    loaded, line = buggy("book", "GPTModel", f"math.sqrt({WIDTH})", f"math.sqrt(2 * {WIDTH})", checkpoint, tmp_path)
    source = loaded.file.read_text()
    start = source.index(f"2 * {WIDTH}")
    made = [Edit(start, start + len(f"2 * {WIDTH}"), text) for text in (*WRONG, WIDTH)]
    monkeypatch.setattr(patch_module, "edits", lambda *_, **__: made)
    patch = repaired(loaded, line, checkpoint, STYLES["book"].layout)
    assert patch is not None and patch.after == made[-1].apply(source)
    assert patch.trials == len(made), "each was tried"


def test_a_number_that_happens_to_be_right_is_refused_where_sizes_can_be_changed(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch
):
    """The small model has other sizes than any checkpoint: here another number of heads."""
    old, new = 'cfg["n_heads"]', 'cfg["n_heads"] // 2'
    loaded, line = buggy("book", "GPTModel", old, new, checkpoint, tmp_path)
    source = loaded.file.read_text()
    start = source.index(new)
    made = [Edit(start, start + len(new), text) for text in ("4", "5", "12 // 3", old)]
    monkeypatch.setattr(patch_module, "edits", lambda *_, **__: made)
    patch = repaired(loaded, line, checkpoint, STYLES["book"].layout)
    assert patch is not None and patch.after == made[-1].apply(source)


@pytest.mark.parametrize(("width", "heads", "layers"), [(40, 5, 2), (40, 8, 12), (48, 6, 3), (30, 5, 2), (28, 4, 1)])
def test_each_size_of_the_small_model_is_another_than_the_checkpoints(width: int, heads: int, layers: int):
    own = GPTConfig(vocab_size=43, n_positions=19, n_embd=width, n_head=heads, n_layer=layers)
    other = _other_size(own).config
    for name in ("vocab_size", "n_positions", "n_embd", "n_head", "head_dim", "n_layer"):
        assert getattr(own, name) != getattr(other, name), name


def test_a_loop_that_never_ends_takes_the_time_of_the_search(checkpoint: Checkpoint, tmp_path: Path, monkeypatch):
    loaded, line = buggy("book", "GPTModel", f"math.sqrt({WIDTH})", f"math.sqrt(2 * {WIDTH})", checkpoint, tmp_path)
    source = loaded.file.read_text()
    endless = source.replace("        tokens = scores.shape[-1]\n", "        while True:\n            tokens = 1\n")
    monkeypatch.setattr(patch_module, "edits", lambda *_, **__: [Edit(0, len(source), endless)])
    weights = {name: checkpoint.read(name) for name in checkpoint.config.tensor_shapes()}
    clock = Clock(1)
    assert repair(loaded, [line], checkpoint.config, weights, STYLES["book"].layout, clock=clock) is None
    assert clock.left < 1


def test_a_search_without_time_finds_nothing_and_says_so(checkpoint: Checkpoint, tmp_path: Path):
    loaded, line = buggy("book", "GPTModel", f"math.sqrt({WIDTH})", f"math.sqrt(2 * {WIDTH})", checkpoint, tmp_path)
    weights = {name: checkpoint.read(name) for name in checkpoint.config.tensor_shapes()}
    clock = Clock(0)
    assert repair(loaded, [line], checkpoint.config, weights, STYLES["book"].layout, clock=clock) is None
    assert clock.over


def test_what_was_not_loaded_from_a_file_cannot_be_repaired(checkpoint: Checkpoint):
    assert repaired(Loaded(lambda ids: ids), 1, checkpoint, None) is None
