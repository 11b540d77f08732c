"""Describes a checkpoint that opens, for people and for programs: form, layout, sizes, statistics of its weights."""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gpt2_from_scratch.errors import short_repr
from gpt2_from_scratch.inspecting.official import compare_checksums, crc32c, identify_file, is_official_size
from gpt2_from_scratch.inspecting.statistics import Statistics, repeated_layers, statistics_of, strange_values
from gpt2_from_scratch.loading import Checkpoint
from gpt2_from_scratch.mapping import collapse
from gpt2_from_scratch.precision import dtype_name
from gpt2_from_scratch.tokenizer import tokenizer_files

VERSION = 1  # of `to_dict`: raised when a field changes its meaning or goes


@dataclass(frozen=True, repr=False)
class Inspection:
    """What `inspect_checkpoint` found.

    Args:
        source: the checkpoint, as asked for.
        form: kind of container.
        files: name, or path below the folder that they share -> bytes.
        layout: its name.
        about: the layout in a few words.
        tensors: how many are stored.
        dtype: of the weights.
        parameters: number of distinct ones.
        tied: whether the head is the token embedding.
        config: in config.json's fields.
        said: field of the configuration on which the logits depend -> where its value comes from.
        assumed: fields that no source gives, with the values that are assumed.
        set_by_user: fields that you gave, in place of the source's.
        tokenizer: its files beside the weights.
        ignored: stored tensors that are no parameters -> why.
        notes: remarks from opening it.
        statistics: canonical name -> numbers; empty when not asked for.
        warnings: about the numbers: NaN, tensors of zeros, equal layers.
        identity: whether these are OpenAI's weights; None where they cannot be, or were not compared.
        official_files: for each file that is as long as an official one, a line about it.
    """

    source: str
    form: str
    files: Mapping[str, int]
    layout: str
    about: str
    tensors: int
    dtype: str
    parameters: int
    tied: bool
    config: Mapping[str, Any]
    said: Mapping[str, str]
    assumed: tuple[str, ...]
    set_by_user: tuple[str, ...]
    tokenizer: tuple[str, ...]
    ignored: Mapping[str, str]
    notes: tuple[str, ...]
    statistics: Mapping[str, Statistics]
    warnings: tuple[str, ...]
    identity: str | None
    official_files: tuple[str, ...]

    def __repr__(self) -> str:
        what = f"{self.source}, {self.form}, layout {self.layout}, {self.parameters:,} parameters"
        return short_repr("Inspection", what)

    def to_dict(self) -> dict[str, Any]:
        """For JSON, with the version of this form."""
        return {"version": VERSION, "opens": True, **asdict(self)}


def inspect_opened(
    checkpoint: Checkpoint,
    *,
    statistics: bool = True,
    checksum: bool = False,
    progress: Callable[[str], None] = lambda name: None,
) -> Inspection:
    """Describes an opened checkpoint.

    Args:
        checkpoint: from `open_checkpoint`.
        statistics: read every weight; without it, only what the tables of contents say.
        checksum: compare the SHA-256 of files that are as long as an official one.
        progress: called with the name of each tensor as it is read.

    Returns:
        The description.

    Example:
        >>> from gpt2_from_scratch.loading import open_checkpoint
        >>> inspection = inspect_opened(open_checkpoint("tiny"))
        >>> inspection.layout, len(inspection.statistics), inspection.warnings
        ('huggingface', 148, ())
    """
    config, container = checkpoint.config, checkpoint.container
    numbers: dict[str, Statistics] = {}
    checksums: dict[str, int | None] = {}
    official = is_official_size(config)
    for name in checkpoint.tensors if statistics else ():
        progress(name)
        tensor = checkpoint.read(name)
        numbers[name] = statistics_of(tensor)
        if official:
            checksums[name] = crc32c(tensor)
    identity = compare_checksums(config, checksums.__getitem__) if official and statistics else None
    warnings = (*strange_values(numbers), *repeated_layers(checkpoint, numbers)) if statistics else ()
    known = (identify_file(path, checksum=checksum) for path in container.files)
    folder = os.path.commonpath([path.parent for path in container.files])  # each rank's may have a folder of its own
    return Inspection(
        source=checkpoint.located.source,
        form=container.form,
        files={str(path.relative_to(folder)): path.stat().st_size for path in container.files},
        layout=checkpoint.layout.name,
        about=checkpoint.layout.about,
        tensors=len(container.tensors),
        dtype=dtype_name(checkpoint.dtype),
        parameters=config.num_parameters,
        tied=config.tie_word_embeddings,
        config=config.to_hf(),
        said={name: fact.origin.value for name, fact in checkpoint.facts.items()},
        assumed=checkpoint.assumed,
        set_by_user=checkpoint.set_by_user,
        tokenizer=tuple(path.name for path in tokenizer_files(checkpoint.located.weights)),
        ignored=dict(checkpoint.matching.ignored),
        notes=checkpoint.notes,
        statistics=numbers,
        warnings=warnings,
        identity=str(identity) if identity is not None else None,
        official_files=tuple(line for line in known if line is not None),
    )


def rows_of(inspection: Inspection) -> list[tuple[str, str]]:
    """The result for people, as rows: a title, and the text."""
    config = inspection.config
    head = "tied to the token embedding" if inspection.tied else "separate"
    inner = config["n_inner"] or 4 * config["n_embd"]
    size = f"{config['n_layer']} layers, width {config['n_embd']}, {config['n_head']} heads, feed-forward {inner}"
    files = "1 file" if len(inspection.files) == 1 else f"{len(inspection.files)} files"
    rows = [
        ("form", f"{inspection.form}, {files}, {sum(inspection.files.values()):,} bytes"),
        ("layout", f"{inspection.layout} ({inspection.about})"),
        ("tensors", f"{inspection.tensors}, {inspection.dtype}"),
        ("parameters", f"{inspection.parameters:,}, head {head}"),
        ("size", size),
        ("tokens", f"vocabulary {config['vocab_size']:,}, context {config['n_positions']:,}"),
        ("options", f"{config['activation_function']}, epsilon {config['layer_norm_epsilon']:g}"),
        ("tokenizer", ", ".join(inspection.tokenizer) or "none beside the weights"),
    ]
    if inspection.identity is not None:
        rows.append(("identity", inspection.identity))
    rows += [("file", line) for line in inspection.official_files]
    rows += [
        ("ignored", f"{', '.join(collapse(n for n, reason in inspection.ignored.items() if reason == why))}: {why}")
        for why in dict.fromkeys(inspection.ignored.values())
    ]
    rows += [("assumed", what) for what in inspection.assumed]
    rows += [("set by you", what) for what in inspection.set_by_user]
    rows += [("note", note) for note in inspection.notes]
    rows += [("warning", warning) for warning in inspection.warnings]
    return rows
