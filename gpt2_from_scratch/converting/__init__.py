"""Writes a checkpoint in another form.

`convert` writes a checkpoint's weights, and `save` those of a model in memory, for `GPTModel.save_pretrained`; both use
one writer. Whatever can be checked without reading the weights is checked before a file is created. Then the tensors
are read, checked and written one by one. The new files replace old ones when all are complete on disk.

    targets.py      the forms: what each can express, and how it writes
    writing.py      canonical tensors to a target's, checked and rounded
    companions.py   the files that belong to the weights: tokenizer, generation_config.json
    directory.py    Hugging Face's directory
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack, cast

import torch

from gpt2_from_scratch.checkpoint import Located
from gpt2_from_scratch.checkpoint.atomic import check_unread
from gpt2_from_scratch.config import GPTConfig, read_json
from gpt2_from_scratch.converting.companions import (
    GENERATION_CONFIG,
    Companions,
    fetched,
    generation_config,
    named_tokenizer,
    no_tokenizer,
    tokenizer_in_form,
)
from gpt2_from_scratch.converting.directory import CONFIG, config_json, shards_of
from gpt2_from_scratch.converting.targets import HUGGING_FACE, TARGETS, Target
from gpt2_from_scratch.converting.writing import Progress, Rounding, Weights, prepare, write
from gpt2_from_scratch.errors import CheckpointError, TokenizerError, short_repr
from gpt2_from_scratch.loading import Checkpoint, LoadReport, OpenOptions, Source, open_checkpoint
from gpt2_from_scratch.precision import dtype_name
from gpt2_from_scratch.tokenizer import FILES, tokenizer_at, tokenizer_files

__all__ = ["TARGETS", "ConvertOptions", "ConvertReport", "Progress", "Target", "Weights", "convert", "save"]


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
        set_by_user: settings that you gave, in place of the source's.
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
    set_by_user: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return True

    def __str__(self) -> str:
        counts = f"{self.tensors} tensors, {self.parameters:,} parameters"
        exact = Rounding(self.rounding, self.rounded)
        assumed = [f"assumed, as the source does not say it: {', '.join(self.assumed)}"] if self.assumed else []
        given = [f"set by you: {', '.join(self.set_by_user)}"] if self.set_by_user else []
        what = f"{self.destination}: {self.form}, {dtype_name(self.dtype)}, {counts}, {exact}"
        return "; ".join([what, *assumed, *given, *self.notes])

    def __repr__(self) -> str:
        return short_repr("ConvertReport", f"{self.destination}, {self.form}, {self.tensors} tensors")


class ConvertOptions(OpenOptions, total=False):
    """What `convert` writes, and how the source is opened. Given by name; each may be left out.

    Args:
        dtype: of the written weights; None keeps the source's. Values are rounded to nearest, and the report says by
            how much. llama.cpp's vectors stay float32.
        bias: False leaves out the biases that the target's code may be built without, which must be zero.
        tokenizer: the one to write instead of the checkpoint's own, for a checkpoint that comes without: a directory, a
            file in it, or a Hub id. None takes the checkpoint's own.
    """

    dtype: torch.dtype | None
    bias: bool
    tokenizer: Source | None


# The options that say what is written. All others are those of `open_checkpoint`.
_WRITTEN = ConvertOptions.__annotations__.keys() - OpenOptions.__annotations__.keys()


def convert(
    source: Source | Checkpoint,
    destination: Source,
    to: str,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    **options: Unpack[ConvertOptions],
) -> ConvertReport:
    """Writes a checkpoint in another form. One tensor at a time is in memory beside the source.

    `huggingface` and `openai` are directories. The other forms are files: `destination` is the file, or a directory in
    which it gets its usual name. A form whose file does not say what it is a model of gets a `config.json` beside it.
    Into a directory, the tokenizer and `generation_config.json` are written too.

    Args:
        source: a file, a directory, a Hub id or an opened `Checkpoint`, in any form that `open_checkpoint` reads.
        destination: made if needed, folders too.
        to: a key of `TARGETS`.
        overwrite: replace files that are there. The new ones take their places when all are complete on disk.
        progress: called with the bytes written so far, and of all.
        **options: what is written, see `ConvertOptions`; and how the source is opened, see `OpenOptions`.

    Returns:
        What was written.

    Raises:
        CheckpointError: the source cannot be read, the target's program would compute something else from these
            weights, a value is not finite or too large for `dtype`, `tokenizer` cannot be written, or files are in the
            way. Nothing was written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = convert("tiny", folder, "llms_from_scratch")
        ...     sorted(path.name for path in Path(folder).iterdir()), report.rounding
        (['config.json', 'merges.txt', 'model.pth', 'vocab.json'], 0.0)
    """
    if to not in TARGETS:
        raise CheckpointError(f"{to!r} is not a form that can be written", hint="one of: " + ", ".join(TARGETS))
    if not str(destination):
        raise CheckpointError("the destination's name is empty", hint="give a directory, or . for this one")
    opening = {name: value for name, value in options.items() if name not in _WRITTEN}
    target, checkpoint = TARGETS[to], open_checkpoint(source, **cast(OpenOptions, opening))
    config, target_dtype = checkpoint.config, options.get("dtype") or checkpoint.dtype
    target.check(config)
    path, whole_folder = _path_to_write(target, Path(destination).expanduser())
    tokenizer = _named_tokenizer(options.get("tokenizer"), checkpoint, target, path, whole_folder)
    travelling = _all_companions(checkpoint, target, target_dtype, whole_folder, tokenizer)
    outgoing = prepare(
        Weights(checkpoint.located.source, config, checkpoint.read, target_dtype, options.get("bias", True)),
        target,
        progress,
    )
    folder = path.parent if target.file else path
    files = {
        name: content
        for name, content in travelling.files.items()
        if not _says_the_same(folder / name, content, config, target_dtype)
    }
    check_unread([folder / name for name in (*target.replaces(path), *files)], _files_read(checkpoint, tokenizer))
    _check_destination(config, target, path, files, overwrite)
    if tokenizer is not None:
        _check_other_tokenizer(folder, travelling.files, tokenizer)
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
        set_by_user=checkpoint.set_by_user,
        notes=(*travelling.notes, *target.advice(config)),
    )


def save(
    folder: Path, weights: Weights, located: Located | None, max_shard_size: int | str, progress: Progress | None = None
) -> LoadReport:
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
    return LoadReport(
        source=str(folder),
        form="safetensors" if len(shards) == 1 else f"safetensors, {len(shards)} shards",
        layout=target.layout.name,
        dtype=weights.dtype,
        parameters=weights.config.num_parameters,
        loaded=tuple(outgoing.tensors),
        tied=("lm_head.weight",) if weights.config.tie_word_embeddings else (),
        notes=(*rounded, *travelling.notes),
    )


def _files_read(checkpoint: Checkpoint, tokenizer: Path | None) -> tuple[Path, ...]:
    """What `convert` reads: the checkpoint, its tokenizer, the one that the user named."""
    named = tokenizer_files(tokenizer) if tokenizer is not None else ()
    return (*checkpoint.files, *tokenizer_files(checkpoint.located.weights), *named)


def _named_tokenizer(
    source: Source | None, checkpoint: Checkpoint, target: Target, path: Path, whole_folder: bool
) -> Path | None:
    """Where the tokenizer lies that the user named, if any.

    Raises:
        TokenizerError: the form has no place for it, or the tokenizer does not fit the model.
    """
    if source is None:
        return None
    if target.tokenizer is no_tokenizer:
        raise TokenizerError(
            f"{target.name} has no form for a tokenizer, so {source} cannot be written", hint="name no tokenizer"
        )
    if not whole_folder and not target.tokenizer_inside:
        raise TokenizerError(
            f"the tokenizer of {source} would be written beside {path}, and only a directory gets one",
            hint=f"name a directory as the destination, such as {path.with_suffix('')}",
        )
    return named_tokenizer(source, checkpoint)


def _all_companions(
    checkpoint: Checkpoint, target: Target, dtype: torch.dtype, whole_folder: bool, tokenizer: Path | None
) -> Companions:
    """What `convert` writes besides the weights: `config.json`, and into a directory the tokenizer and so on."""
    found, place = Companions(), checkpoint.located.weights
    if tokenizer is not None:
        failed = fetched(checkpoint, (GENERATION_CONFIG,))
        written = target.tokenizer(tokenizer, checkpoint.config)
        ids, rows = tokenizer_at(tokenizer).n_vocab, checkpoint.config.vocab_size
        said = f"the tokenizer is that of {tokenizer}, with {ids:,} ids for the model's {rows:,} rows"
        noted = replace(written, notes=(said, *written.notes, *failed))
        found = _with_generation_config(noted, place.parent, target)
    elif whole_folder or target.tokenizer_inside:
        failed = fetched(checkpoint, (*FILES, GENERATION_CONFIG))
        found = Companions(notes=failed) if failed else _companions(place, checkpoint.config, target)
    config = {} if target.holds_config else {CONFIG: config_json(checkpoint.config, dtype)}
    return replace(found, files={**config, **(found.files if whole_folder else {})})


def _companions(place: Path, config: GPTConfig, target: Target) -> Companions:
    """The tokenizer and the `generation_config.json` beside a checkpoint's weights."""
    return _with_generation_config(tokenizer_in_form(place, config, target.tokenizer), place.parent, target)


def _with_generation_config(tokenizer: Companions, folder: Path, target: Target) -> Companions:
    """The tokenizer, and the `generation_config.json` of the weights' folder if the target has a place for it."""
    generation = Companions() if target.holds_config else generation_config(folder)
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
    model: GPTConfig, target: Target, path: Path, files: Mapping[str, bytes], overwrite: bool
) -> None:
    """Refuses to overwrite files unless asked, and to write beside another model's config.json.

    Raises:
        CheckpointError: names the file.
    """
    folder = path.parent if target.file else path
    written = [*target.replaces(path), *files]
    config = folder / CONFIG
    other_model = config.is_file() and not _same_config(config, model)
    if other_model and (CONFIG not in files or not overwrite):
        raise CheckpointError(
            f"{config} is of another model, and what is written beside it would be read with it",
            hint="choose another directory",
        )
    target.check_folder(folder)
    present = sorted(name for name in written if name != CONFIG and (folder / name).exists())
    if present and not overwrite:
        raise CheckpointError(f"{folder} holds {', '.join(present)} already", hint="overwrite it, or write elsewhere")


def _check_other_tokenizer(folder: Path, written: Collection[str], tokenizer: Path) -> None:
    """Refuses to write the tokenizer that the user named beside files of another, which would be read with it.

    Raises:
        CheckpointError: names the files.
    """
    others = [name for name in FILES if name not in written and (folder / name).exists()]
    its_own = others and any(file.parent.samefile(folder) for file in tokenizer_files(tokenizer))
    if others and not its_own and set(FILES).intersection(written):
        raise CheckpointError(
            f"{folder} holds {', '.join(others)}, which would be read with the tokenizer of {tokenizer}",
            hint="choose another directory",
        )


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
