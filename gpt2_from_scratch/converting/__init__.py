"""Writes a checkpoint in another form.

`convert` writes a checkpoint's weights, and `save` those of a model in memory, for `GPTModel.save_pretrained`; both use
one writer. Whatever can be checked without reading the weights is checked before a file is created. Then the tensors
are read, checked and written one by one. The new files replace old ones when all are complete on disk.

    targets.py      the forms: what each can express, and how it writes
    writing.py      canonical tensors to a target's, checked and rounded
    companions.py   the files that belong to the weights: tokenizer, generation_config.json
    directory.py    Hugging Face's directory
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack

import torch

from gpt2_from_scratch.checkpoint import Located
from gpt2_from_scratch.checkpoint.atomic import check_unread
from gpt2_from_scratch.config import GPTConfig, read_json
from gpt2_from_scratch.converting.companions import Companions, fetched, generation_config, tokenizer_in_form
from gpt2_from_scratch.converting.directory import CONFIG, config_json, shards_of
from gpt2_from_scratch.converting.targets import HUGGING_FACE, TARGETS, Target
from gpt2_from_scratch.converting.writing import Progress, Rounding, Weights, prepare, write
from gpt2_from_scratch.errors import CheckpointError, short_repr
from gpt2_from_scratch.loading import Checkpoint, OpenOptions, Source, dtype_name, open_checkpoint
from gpt2_from_scratch.tokenizer import tokenizer_files

__all__ = ["TARGETS", "ConvertReport", "Progress", "Saved", "Target", "Weights", "convert", "save"]


@dataclass(frozen=True, repr=False)
class ConvertReport:
    """What was written. Truthy; ``str()`` is one line.

    Args:
        source: the checkpoint, as asked for.
        destination: what to open it by.
        form: a key of `TARGETS`.
        dtype: of the matrices in the file.
        tensors: how many there are.
        parameters: number of distinct parameters.
        rounding: largest difference between a value and the value written for it; 0 when nothing was rounded.
        rounded: the tensor with this difference.
        assumed: settings that the source does not give, with the values that were assumed.
        notes: remarks.
    """

    source: str
    destination: Path
    form: str
    dtype: torch.dtype
    tensors: int
    parameters: int
    rounding: float = 0.0
    rounded: str = ""
    assumed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return True

    def __str__(self) -> str:
        counts = f"{self.tensors} tensors, {self.parameters:,} parameters"
        exact = Rounding(self.rounding, self.rounded)
        assumed = [f"assumed, as the source does not say it: {', '.join(self.assumed)}"] if self.assumed else []
        what = f"{self.destination}: {self.form}, {dtype_name(self.dtype)}, {counts}, {exact}"
        return "; ".join([what, *assumed, *self.notes])

    def __repr__(self) -> str:
        return short_repr("ConvertReport", f"{self.destination}, {self.form}, {self.tensors} tensors")


def convert(
    source: Source | Checkpoint,
    destination: Source,
    to: str,
    *,
    dtype: torch.dtype | None = None,
    bias: bool = True,
    overwrite: bool = False,
    progress: Progress | None = None,
    **options: Unpack[OpenOptions],
) -> ConvertReport:
    """Writes a checkpoint in another form. One tensor at a time is in memory beside the source.

    `huggingface` and `openai` are directories. The other forms are files: `destination` is the file, or a directory in
    which it gets its usual name. A form whose file does not say what it is a model of gets a `config.json` beside it.
    Into a directory, the tokenizer and `generation_config.json` are written too.

    Args:
        source: a file, a directory, a Hub id or an opened `Checkpoint`, in any form that `open_checkpoint` reads.
        destination: made if needed, folders too.
        to: a key of `TARGETS`.
        dtype: of the written weights; None keeps the source's. Values are rounded to nearest, and the report says by
            how much. llama.cpp's vectors stay float32.
        bias: False leaves out the biases that the target's code may be built without, which must be zero.
        overwrite: replace files that are there. The new ones take their places when all are complete on disk.
        progress: called with the bytes written so far, and of all.
        **options: how the source is opened; see `OpenOptions`.

    Returns:
        What was written.

    Raises:
        CheckpointError: the source cannot be read, the target's program would compute something else from these
            weights, a value is not finite or too large for `dtype`, or files are in the way. Nothing was written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = convert("tiny", folder, "llms_from_scratch")
        ...     sorted(path.name for path in Path(folder).iterdir()), report.rounding
        (['config.json', 'merges.txt', 'model.pth', 'vocab.json'], 0.0)
    """
    if to not in TARGETS:
        raise CheckpointError(f"{to!r} is not a form that can be written", hint="one of: " + ", ".join(TARGETS))
    target, checkpoint = TARGETS[to], open_checkpoint(source, **options)
    config, target_dtype = checkpoint.config, dtype or checkpoint.dtype
    target.check(config)
    path, whole_folder = _path_to_write(target, Path(destination).expanduser())
    travelling = _all_companions(checkpoint, target, target_dtype, whole_folder)
    outgoing = prepare(
        Weights(checkpoint.located.source, config, checkpoint.read, target_dtype, bias), target, progress
    )
    folder = path.parent if target.file else path
    files = {
        name: content
        for name, content in travelling.files.items()
        if not _says_the_same(folder / name, content, config, target_dtype)
    }
    _check_destination(checkpoint, target, path, files, overwrite)
    write(path, outgoing, target, config, replace(travelling, files=files), overwrite)
    return ConvertReport(
        source=checkpoint.located.source,
        destination=path,
        form=to,
        dtype=target_dtype,
        tensors=len(outgoing.tensors),
        parameters=config.num_parameters,
        rounding=outgoing.rounding.largest,
        rounded=outgoing.rounding.where,
        assumed=checkpoint.assumed,
        notes=(*travelling.notes, *target.advice(config)),
    )


@dataclass(frozen=True)
class Saved:
    """A model in Hugging Face's form, as `save` wrote it.

    Args:
        target: the form.
        tensors: their names.
        shards: how many files the weights are in.
        notes: what was rounded or left out.
    """

    target: Target
    tensors: tuple[str, ...]
    shards: int
    notes: tuple[str, ...]


def save(
    folder: Path, weights: Weights, located: Located | None, max_shard_size: int | str, progress: Progress | None = None
) -> Saved:
    """Writes a model in memory as a Hugging Face directory, in place of what an earlier save left there.

    Args:
        folder: made if needed.
        weights: the model.
        located: the checkpoint it was loaded from, whose tokenizer and `generation_config.json` are written too.
        max_shard_size: bytes, or text such as ``"500MB"``; above it the weights are split over several files.
        progress: called with the bytes written so far, and of all.

    Returns:
        What was written.

    Raises:
        CheckpointError: as in `convert`. The old files are as they were.
        ValueError: `max_shard_size` is no size.
    """
    target = replace(HUGGING_FACE, max_shard_size=max_shard_size)
    outgoing = prepare(weights, target, progress)
    shards = shards_of(outgoing.tensors, max_shard_size)
    travelling = _companions(located.weights, weights.config, target) if located is not None else Companions()
    files = {CONFIG: config_json(weights.config, weights.dtype), **travelling.files}
    write(folder, outgoing, target, weights.config, replace(travelling, files=files))
    rounded = (str(outgoing.rounding),) if outgoing.rounding.where else ()
    return Saved(target, tuple(outgoing.tensors), len(shards), (*rounded, *travelling.notes))


def _all_companions(checkpoint: Checkpoint, target: Target, dtype: torch.dtype, whole_folder: bool) -> Companions:
    """What `convert` writes besides the weights: `config.json`, and into a directory the tokenizer and so on."""
    found = Companions()
    if whole_folder or target.tokenizer_inside:
        failed = fetched(checkpoint)
        place = checkpoint.located.weights
        found = Companions(notes=failed) if failed else _companions(place, checkpoint.config, target)
    config = {} if target.holds_config else {CONFIG: config_json(checkpoint.config, dtype)}
    return replace(found, files={**config, **(found.files if whole_folder else {})})


def _companions(place: Path, config: GPTConfig, target: Target) -> Companions:
    """The tokenizer and the `generation_config.json` beside a checkpoint's weights."""
    tokenizer = tokenizer_in_form(place, config, target.tokenizer)
    generation = Companions() if target.holds_config else generation_config(place.parent)
    return replace(
        tokenizer, files={**tokenizer.files, **generation.files}, notes=(*tokenizer.notes, *generation.notes)
    )


# --------------------------------------------------------------------------------------------------- destination


def _path_to_write(target: Target, destination: Path) -> tuple[Path, bool]:
    """The file or directory to write, and whether the user named a directory."""
    known = {suffix for other in TARGETS.values() for suffix in other.suffixes}
    is_file = destination.suffix in known and not destination.is_dir()
    if not target.file:
        if is_file or destination.is_file():
            raise CheckpointError(
                f"{target.name} is a directory, and {destination} is a file's name", hint="name a directory"
            )
        return destination, True
    if not is_file:
        if destination.is_file():
            raise CheckpointError(
                f"{destination} is a file, and none of {target.name}'s",
                hint="it is written as " + ", ".join(target.suffixes),
            )
        return destination / target.file, True
    if destination.suffix not in target.suffixes:
        raise CheckpointError(
            f"{target.name} is not written as {destination.suffix}", hint="choose " + ", ".join(target.suffixes)
        )
    return destination, False


def _check_destination(
    checkpoint: Checkpoint, target: Target, path: Path, files: Mapping[str, bytes], overwrite: bool
) -> None:
    """Refuses to overwrite the source, or files unless asked, and to write beside another model's config.json.

    Raises:
        CheckpointError: names the file.
    """
    folder = path.parent if target.file else path
    written = [*target.replaces(path), *files]
    read = (*checkpoint.files, *tokenizer_files(checkpoint.located.weights))
    check_unread([folder / name for name in written], read)
    config = folder / CONFIG
    other_model = config.is_file() and not _same_config(config, checkpoint.config)
    if other_model and (CONFIG not in files or not overwrite):
        raise CheckpointError(
            f"{config} is of another model, and what is written beside it would be read with it",
            hint="choose another directory",
        )
    target.check_folder(folder)
    present = sorted(name for name in written if name != CONFIG and (folder / name).exists())
    if present and not overwrite:
        raise CheckpointError(f"{folder} holds {', '.join(present)} already", hint="overwrite it, or write elsewhere")


def _says_the_same(there: Path, content: bytes, config: GPTConfig, dtype: torch.dtype) -> bool:
    """Whether a file that is there says the same already: it stays, in the user's own wording."""
    if not there.is_file():
        return False
    if there.name != CONFIG:
        return there.stat().st_size == len(content) and there.read_bytes() == content
    if not _same_config(there, config):
        return False
    said = read_json(there)
    return said.get("dtype", said.get("torch_dtype")) in (None, dtype_name(dtype))


def _same_config(path: Path, config: GPTConfig) -> bool:
    try:
        return GPTConfig.from_file(path) == config
    except CheckpointError:
        return False
