"""What a checkpoint is, for people and for programs: form, layout, sizes, and what its numbers look like.

The one idea: a file that loads may still hold nonsense. NaN, a tensor of zeros, or two layers that are the same bytes
raise no error anywhere, so every tensor is looked at once, in pieces, and what is strange is said.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from gpt2_from_scratch.checkpoint.binary import pieces
from gpt2_from_scratch.identity import compare_checksums, crc32c, identify_file, is_official_size
from gpt2_from_scratch.loading import Checkpoint, dtype_name
from gpt2_from_scratch.mapping import collapse, listed
from gpt2_from_scratch.tokenizer import tokenizer_files

VERSION = 1  # of `Inspection.to_dict`: raised when a field changes its meaning or goes


@dataclass(frozen=True)
class Statistics:
    """One canonical tensor in numbers. Those of its values are of the finite ones; None where there is none.

    Args:
        shape: canonical.
        dtype: as stored.
        minimum: smallest value.
        maximum: largest value.
        mean: average, computed in float64.
        std: standard deviation, of all values and not of a sample.
        zeros: how many are zero.
        nan: how many are NaN.
        infinite: how many are infinite.
    """

    shape: tuple[int, ...]
    dtype: str
    minimum: float | None
    maximum: float | None
    mean: float | None
    std: float | None
    zeros: int
    nan: int
    infinite: int


@dataclass(frozen=True)
class Inspection:
    """What `inspect_checkpoint` found.

    Args:
        source: the checkpoint, as asked for.
        form: kind of container.
        files: name -> bytes.
        layout: its name.
        about: what the layout is.
        tensors: how many are stored.
        dtype: of the weights.
        parameters: number of distinct ones.
        tied: whether the head is the token embedding.
        config: in config.json's fields.
        tokenizer: its files beside the weights.
        ignored: stored tensors that are no parameters -> why.
        notes: remarks of those who opened it.
        statistics: canonical name -> numbers; empty when not asked for.
        warnings: what is strange about the numbers.
        identity: whether these are OpenAI's weights; None where they cannot be, or were not compared.
        official_files: what is known of files of this length.
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
    tokenizer: tuple[str, ...]
    ignored: Mapping[str, str]
    notes: tuple[str, ...]
    statistics: Mapping[str, Statistics]
    warnings: tuple[str, ...]
    identity: str | None
    official_files: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON, with the version of this form."""
        return {"version": VERSION, **asdict(self)}


def inspect_checkpoint(
    checkpoint: Checkpoint,
    *,
    statistics: bool = True,
    checksum: bool = False,
    progress: Callable[[str], None] = lambda name: None,
) -> Inspection:
    """Says what an opened checkpoint is.

    Args:
        checkpoint: from `open_checkpoint`.
        statistics: read every weight; without it, only what the tables of contents say.
        checksum: compare the SHA-256 of files that are as long as an official one.
        progress: called with the name of each tensor as it is read.

    Example:
        >>> from gpt2_from_scratch.loading import TINY, open_checkpoint
        >>> inspection = inspect_checkpoint(open_checkpoint(TINY))
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
        numbers[name] = _statistics(tensor)
        if official:
            checksums[name] = crc32c(tensor)
    identity = compare_checksums(config, checksums.__getitem__) if official and statistics else None
    warnings = (*_strange_values(numbers), *_repeated_layers(checkpoint, numbers)) if statistics else ()
    known = (identify_file(path, checksum=checksum) for path in container.files)
    return Inspection(
        source=checkpoint.located.source,
        form=container.form,
        files={path.name: path.stat().st_size for path in container.files},
        layout=checkpoint.layout.name,
        about=checkpoint.layout.about,
        tensors=len(container.tensors),
        dtype=dtype_name(checkpoint.dtype),
        parameters=config.num_parameters,
        tied=config.tie_word_embeddings,
        config=config.to_hf(),
        tokenizer=tuple(path.name for path in tokenizer_files(checkpoint.located.weights)),
        ignored=dict(checkpoint.matching.ignored),
        notes=checkpoint.notes,
        statistics=numbers,
        warnings=warnings,
        identity=str(identity) if identity is not None else None,
        official_files=tuple(line for line in known if line is not None),
    )


def _statistics(tensor: Tensor) -> Statistics:
    nan = infinite = zeros = count = 0
    low, high, total, squares = float("inf"), float("-inf"), 0.0, 0.0
    for piece in pieces(tensor):
        values = piece.double()
        finite = values[values.isfinite()]
        nan += int(values.isnan().sum())
        infinite += int(values.isinf().sum())
        zeros += values.numel() - int(values.count_nonzero())
        if finite.numel():
            count += finite.numel()
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
            total += float(finite.sum())
            squares += float(finite.square().sum())
    mean = total / count if count else None
    # In float64 the difference of squares keeps nine digits even where the mean is a thousand deviations from zero.
    std = max(0.0, squares / count - mean**2) ** 0.5 if mean is not None else None
    return Statistics(
        tuple(tensor.shape),
        dtype_name(tensor.dtype),
        minimum=low if count else None,
        maximum=high if count else None,
        mean=mean,
        std=std,
        zeros=zeros,
        nan=nan,
        infinite=infinite,
    )


def _strange_values(numbers: Mapping[str, Statistics]) -> list[str]:
    """NaN and infinities by tensor; tensors of zeros only where a zero is no sensible start, in weights and gains."""
    warnings = []
    for name, n in numbers.items():
        if n.nan or n.infinite:
            warnings.append(f"{name}: of {_elements(n):,} values, {n.nan:,} are NaN and {n.infinite:,} infinite")
    zero = [name for name, n in numbers.items() if n.zeros == _elements(n) and name.endswith(".weight")]
    if zero:
        warnings.append(f"all zero: {listed(zero)}")
    return warnings


def _elements(numbers: Statistics) -> int:
    return torch.Size(numbers.shape).numel()


def _repeated_layers(checkpoint: Checkpoint, numbers: Mapping[str, Statistics]) -> list[str]:
    """Layers that are bit for bit another one. Equal statistics say which to compare; constant tensors say nothing."""
    layers: dict[int, dict[str, Statistics]] = {}
    for name, each in numbers.items():
        if name.startswith("h."):
            _, number, part = name.split(".", 2)
            layers.setdefault(int(number), {})[part] = each
    warnings = []
    for layer, parts in layers.items():
        varied = [part for part, each in parts.items() if each.minimum != each.maximum]
        for other in range(layer):
            if varied and layers[other] == parts and all(_equal(checkpoint, layer, other, part) for part in varied):
                warnings.append(f"layer {layer} is bit for bit layer {other}: copied, or saved from a wrong loop")
                break
    return warnings


def _equal(checkpoint: Checkpoint, layer: int, other: int, part: str) -> bool:
    return torch.equal(checkpoint.read(f"h.{layer}.{part}"), checkpoint.read(f"h.{other}.{part}"))


def summary(inspection: Inspection) -> list[tuple[str, str]]:
    """What people want to know, in rows: what it is about, and the text."""
    config = inspection.config
    head = "tied to the token embedding" if inspection.tied else "separate"
    inner = config["n_inner"] or 4 * config["n_embd"]
    size = f"{config['n_layer']} layers, width {config['n_embd']}, {config['n_head']} heads, feed-forward {inner}"
    rows = [
        ("form", f"{inspection.form}, {len(inspection.files)} file(s), {sum(inspection.files.values()):,} bytes"),
        ("layout", f"{inspection.layout} ({inspection.about})"),
        ("tensors", f"{inspection.tensors}, {inspection.dtype}"),
        ("parameters", f"{inspection.parameters:,}, head {head}"),
        ("size", size),
        ("text", f"vocabulary {config['vocab_size']:,}, context {config['n_positions']:,}"),
        ("maths", f"{config['activation_function']}, epsilon {config['layer_norm_epsilon']:g}"),
        ("tokenizer", ", ".join(inspection.tokenizer) or "none beside the weights"),
    ]
    if inspection.identity is not None:
        rows.append(("identity", inspection.identity))
    rows += [("file", line) for line in inspection.official_files]
    rows += [
        ("ignored", f"{', '.join(collapse(n for n, reason in inspection.ignored.items() if reason == why))}: {why}")
        for why in dict.fromkeys(inspection.ignored.values())
    ]
    rows += [("note", note) for note in inspection.notes]
    rows += [("warning", warning) for warning in inspection.warnings]
    return rows
