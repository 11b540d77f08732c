"""A model that was loaded from a file is repaired in a copy of the file, and the patch is proven in another size."""

from pathlib import Path

import pytest
import torch

from gpt2_from_scratch import load_into, open_checkpoint
from gpt2_from_scratch.building import Loaded, load_object
from gpt2_from_scratch.diagnose import patch as patch_module
from gpt2_from_scratch.diagnose.patch import Edit, Patch
from gpt2_from_scratch.diagnose.repair import repair, write_patch
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
    return repair(loaded, [line], checkpoint.config, weights, layout, seconds=600)


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
    assert "width 36" in patch.proof[1]
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
    monkeypatch.setattr(patch_module, "edits", lambda *_, **__: iter([Edit(0, len(source), nan)]))
    monkeypatch.setattr(patch_module, "_twice", lambda *_: iter([]))
    assert repaired(loaded, line, checkpoint, STYLES["book"].layout) is None


def test_what_was_not_loaded_from_a_file_cannot_be_repaired(checkpoint: Checkpoint):
    assert repaired(Loaded(lambda ids: ids), 1, checkpoint, None) is None
