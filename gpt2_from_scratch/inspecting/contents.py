"""Describes a file or folder that does not open as a GPT-2: its tensors, its format, and why it does not fit."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2_from_scratch.checkpoint import Container, open_container
from gpt2_from_scratch.errors import CheckpointError, short_repr
from gpt2_from_scratch.mapping import collapse
from gpt2_from_scratch.precision import dtype_name


@dataclass(frozen=True)
class Stored:
    """A tensor of a file: its shape and dtype, as stored."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, repr=False)
class Contents:
    """A file or folder that does not open as a GPT-2. ``str()`` is the problem.

    Args:
        source: the checkpoint, as asked for.
        files: name -> bytes, of the file or of those in the folder.
        form: kind of container, or "" if no file could be read as one.
        tensors: name -> shape and dtype, of the file that was read.
        notes: remarks from reading the file.
        problem: why it does not open.
        hint: what to do.
        options: options with which it opens, if some were found.
    """

    source: str
    files: Mapping[str, int]
    form: str
    tensors: Mapping[str, Stored]
    notes: tuple[str, ...]
    problem: str
    hint: str
    options: Mapping[str, object]

    def __str__(self) -> str:
        return self.problem

    def to_do(self, spelled: Callable[[Mapping[str, object]], str]) -> str:
        """What to do.

        Args:
            spelled: how options are written where the user is.
        """
        return ": ".join(filter(None, [self.hint, spelled(self.options) if self.options else ""]))

    def __repr__(self) -> str:
        return short_repr("Contents", f"{self.source}, {len(self.tensors)} tensors, not opened")

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        tensors = {name: {"shape": list(each.shape), "dtype": each.dtype} for name, each in self.tensors.items()}
        return {"opens": False, **vars(self), "tensors": tensors, "notes": list(self.notes)}


def contents_of(source: str, path: Path, error: CheckpointError, key: str = "") -> Contents:
    """Describes a file or folder that did not open.

    Args:
        source: the checkpoint, as asked for.
        path: an existing file or folder.
        error: why it did not open.
        key: which state dict of a file with several.
    """
    files = [path] if path.is_file() else sorted(each for each in path.iterdir() if each.is_file())
    container = next(_readable([path] if path.is_file() else files, key), None)
    tensors = {} if container is None else container.tensors
    return Contents(
        source=source,
        files={file.name: file.stat().st_size for file in files[:_MOST_FILES]},
        form="" if container is None else container.form,
        tensors={name: Stored(each.shape, dtype_name(each.dtype)) for name, each in tensors.items()},
        notes=() if container is None else container.notes,
        problem=error.message,
        hint=error.bare_hint,
        options=error.options,
    )


_MOST_FILES = 100  # of a folder: the output of a training run has a few dozen


def _readable(files: list[Path], key: str) -> Iterator[Container]:
    """Opens the files that are in a known form."""
    for file in files[:_MOST_FILES]:
        try:
            yield open_container(file, key=key)
        except (CheckpointError, OSError, ValueError):
            continue


def rows_of(contents: Contents) -> list[tuple[str, str]]:
    """The result for people, as rows: a title, and the text."""
    size = sum(contents.files.values())
    names = ", ".join(list(contents.files)[:12]) + (", ..." if len(contents.files) > 12 else "")
    rows = [("files", f"{names}; {size:,} bytes")]
    if contents.form:
        rows.append(("form", contents.form))
        rows.append(("tensors", f"{len(contents.tensors)}"))
    rows += [("", line) for line in _collapsed(contents.tensors)]
    rows += [("note", note) for note in contents.notes]
    return [*rows, ("not opened", contents.problem)]


def _collapsed(tensors: Mapping[str, Stored]) -> list[str]:
    """A line for each kind of tensor: layers' numbers folded together, shape and dtype."""
    kinds: dict[Stored, list[str]] = {}
    for name, each in tensors.items():
        kinds.setdefault(each, []).append(name)
    lines = {
        name: f"{name} {list(each.shape)} {each.dtype}" for each, names in kinds.items() for name in collapse(names)
    }
    more = len(lines) - _MOST_LINES
    return [*list(lines.values())[:_MOST_LINES], *([f"and {more:,} more kinds"] if more > 0 else [])]


_MOST_LINES = 60  # GPT-2 has 16 kinds of tensors
