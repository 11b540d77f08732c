"""Any readable form of a checkpoint -> any writable one.

The one idea: reading gives canonical tensors and writing takes them, so a form that is written is one row of `TARGETS`:
a layout, a container, and what the program behind it takes for granted. Everything that can fail without reading the
weights fails before a file appears; then one tensor after the other passes through, and the new files take their places
when all of them are complete on disk.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias, Unpack

import torch
from torch import Tensor

from gpt2_from_scratch.checkpoint import StoredTensor, gguf, hub, llmc, safetensors, tensor_bundle, torch_pickle
from gpt2_from_scratch.checkpoint.atomic import replacing_all
from gpt2_from_scratch.checkpoint.binary import pieces
from gpt2_from_scratch.checkpoint.fixed import check_expressible
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import CheckpointError, MappingError
from gpt2_from_scratch.layouts import LAYOUTS
from gpt2_from_scratch.loading import (
    Checkpoint,
    OpenOptions,
    Source,
    check_values,
    config_json,
    dtype_name,
    open_checkpoint,
    parse_size,
    write_directory,
)
from gpt2_from_scratch.mapping import Layout, write_theirs
from gpt2_from_scratch.tokenizer import FILES as TOKENIZER_FILES
from gpt2_from_scratch.tokenizer import tokenizer_at, tokenizer_files, vocabulary

Tensors: TypeAlias = Mapping[str, StoredTensor]
Files: TypeAlias = Mapping[str, bytes]
Progress: TypeAlias = Callable[[int, int], None]

_TORCH = (".pth", ".pt", ".bin")
_SAFETENSORS = ".safetensors"
_CONFIG = "config.json"


# ---------------------------------------------------------------------------------------------------------- targets


@dataclass(frozen=True)
class Target:
    """A form that can be written.

    Args:
        layout: names and orientation of its tensors.
        write: writes tensors and what belongs beside them: ``write(path, tensors, config, beside)``.
        file: its usual name; empty where the form is a directory.
        suffixes: what its file may end in.
        check: refuses a configuration that the program behind it computes differently.
        says_all: whether it holds the configuration, so that no config.json is needed beside it.
        tokenizer: its own form of the tokenizer's files, from where a checkpoint has them.
    """

    layout: Layout
    write: Callable[[Path, Tensors, GPTConfig, Files], None]
    file: str = ""
    suffixes: tuple[str, ...] = ()
    check: Callable[[GPTConfig], None] = lambda config: None
    says_all: bool = False
    tokenizer: Callable[[Path, GPTConfig], Files] = lambda place, config: _huggingface_vocabulary(place)


def _write_huggingface(folder: Path, tensors: Tensors, config: GPTConfig, beside: Files) -> None:
    files = {name: content for name, content in beside.items() if name != _CONFIG}
    write_directory(folder, tensors, config, parse_size("5GB"), files)


def _write_openai(folder: Path, tensors: Tensors, config: GPTConfig, beside: Files) -> None:
    tensor_bundle.write(folder, tensors, config, beside)


def _write_llmc(path: Path, tensors: Tensors, config: GPTConfig, beside: Files) -> None:
    llmc.write(path, tensors, config)


def _write_gguf(path: Path, tensors: Tensors, config: GPTConfig, beside: Files) -> None:
    known = json.loads(beside[_VOCABULARY]) if _VOCABULARY in beside else None
    gguf.write(path, tensors, config, gguf.Vocabulary(**known) if known else None)


def _write_state_dict(path: Path, tensors: Tensors, config: GPTConfig, beside: Files) -> None:
    with replacing_all(path.parent) as create:
        if path.suffix == _SAFETENSORS:
            safetensors.write_to(create(path.name), tensors)
        else:
            torch_pickle.write_to(create(path.name), dict(tensors))
        for name, content in beside.items():
            create(name).write(content)


def _write_nanogpt(path: Path, tensors: Tensors, config: GPTConfig, beside: Files) -> None:
    """Around the weights, what nanoGPT's `sample.py` builds its model from."""
    if path.suffix == _SAFETENSORS:
        return _write_state_dict(path, tensors, config, beside)
    arguments = {name: getattr(config, name) for name in ("n_layer", "n_head", "n_embd", "vocab_size")}
    bias = any(name.endswith(".bias") for name in tensors)
    arguments |= {"block_size": config.n_positions, "bias": bias, "dropout": config.resid_pdrop}
    with replacing_all(path.parent) as create:
        torch_pickle.write_to(create(path.name), {"model": dict(tensors), "model_args": arguments})
        for name, content in beside.items():
            create(name).write(content)
    return None


def _check_nanogpt(config: GPTConfig) -> None:
    # The exact GELU since May 2023, the tanh form before, one line of its model.py: both are nanoGPT's.
    gelu = "gelu_new" if config.activation_function == "gelu" else config.activation_function
    check_expressible(config.replace(activation_function=gelu), "nanoGPT")


_VOCABULARY = "vocabulary"  # what stands for a tokenizer that goes into the file itself


def _gguf_vocabulary(place: Path, config: GPTConfig) -> Files:
    encoding = tokenizer_at(place, config.vocab_size)
    known, merges, added = vocabulary(place)
    texts = {token_id: text for text, token_id in {**known, **added}.items()}
    tokens = [texts.get(token_id, f"[PAD{token_id}]") for token_id in range(max(texts) + 1)]
    special = [encoding.encode_single_token(text) for text in encoding.special_tokens_set]
    content = {"tokens": tokens, "merges": [" ".join(pair) for pair in merges], "special": sorted(special)}
    return {_VOCABULARY: json.dumps(content).encode()}


def _openai_vocabulary(place: Path, config: GPTConfig) -> Files:
    tokenizer_at(place, config.vocab_size)  # refuses what is not GPT-2's kind
    return dict(zip(("encoder.json", "vocab.bpe"), _written_out(place), strict=True))


def _written_out(place: Path) -> tuple[bytes, bytes]:
    """Vocabulary and merges, as OpenAI and Hugging Face write them."""
    known, merges, added = vocabulary(place)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges), ""]
    return json.dumps({**known, **added}).encode(), "\n".join(lines).encode()


def _huggingface_vocabulary(place: Path) -> Files:
    """As it is; OpenAI's two files are Hugging Face's under other names, and a GGUF file's content is spelled out."""
    found = tokenizer_files(place)
    if found[0].suffix == ".gguf":
        _, _, added = vocabulary(place)
        files = dict(zip(("vocab.json", "merges.txt"), _written_out(place), strict=True))
        return files | ({"added_tokens.json": json.dumps(added).encode()} if added else {})
    renamed = {"encoder.json": "vocab.json", "vocab.bpe": "merges.txt"}
    return {renamed.get(path.name, path.name): path.read_bytes() for path in found}


TARGETS: Mapping[str, Target] = {
    "huggingface": Target(LAYOUTS["huggingface"][0], _write_huggingface),
    "openai": Target(
        LAYOUTS["openai"][0],
        _write_openai,
        check=partial(check_expressible, form="OpenAI's code"),
        says_all=True,
        tokenizer=_openai_vocabulary,
    ),
    "llm.c": Target(
        LAYOUTS["llm.c"][0],
        _write_llmc,
        file="model.bin",
        suffixes=(".bin",),
        check=partial(check_expressible, form="llm.c"),
        says_all=True,
        tokenizer=lambda directory, config: {},
    ),
    "gguf": Target(
        LAYOUTS["gguf"][0],
        _write_gguf,
        file="model.gguf",
        suffixes=(".gguf",),
        check=partial(check_expressible, form="llama.cpp", epsilon=True, inner=True, untied=True),
        says_all=True,
        tokenizer=_gguf_vocabulary,
    ),
    "nanogpt": Target(
        LAYOUTS["nanogpt"][0],
        _write_nanogpt,
        file="ckpt.pt",
        suffixes=(*_TORCH, _SAFETENSORS),
        check=_check_nanogpt,
    ),
    "mingpt": Target(
        LAYOUTS["mingpt"][0],
        _write_state_dict,
        file="model.pt",
        suffixes=(*_TORCH, _SAFETENSORS),
        check=partial(check_expressible, form="minGPT", untied=True),
    ),
    "llms_from_scratch": Target(
        LAYOUTS["llms_from_scratch"][0],
        _write_state_dict,
        file="model.pth",
        suffixes=(*_TORCH, _SAFETENSORS),
        check=partial(check_expressible, form="the book's GPTModel", untied=True),
    ),
    "transformer_lens": Target(
        LAYOUTS["transformer_lens"][0],
        _write_state_dict,
        file="model.pth",
        suffixes=(*_TORCH, _SAFETENSORS),
    ),
    "mlx": Target(
        LAYOUTS["mlx"][0],
        _write_state_dict,
        file="model.safetensors",
        suffixes=(_SAFETENSORS,),
        check=partial(check_expressible, form="mlx-lm", epsilon=True),
    ),
}


# ------------------------------------------------------------------------------------------------------- converting


@dataclass(frozen=True)
class ConvertReport:
    """What was written. Truthy; ``str()`` is one line.

    Args:
        source: the checkpoint, as asked for.
        destination: what to open it by.
        form: a key of `TARGETS`.
        dtype: of the matrices in the file.
        tensors: how many there are.
        parameters: number of distinct parameters.
        rounding: largest difference between a value and what was written for it; 0 when nothing was rounded.
        rounded: the tensor in which that is.
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
    notes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return True

    def __str__(self) -> str:
        counts = f"{self.tensors} tensors, {self.parameters:,} parameters"
        exact = f"rounded by up to {self.rounding:.3g} ({self.rounded})" if self.rounded else "bit for bit"
        what = f"{self.destination}: {self.form}, {dtype_name(self.dtype)}, {counts}, {exact}"
        return "; ".join([what, *self.notes])


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
    In a directory, the tokenizer is written too.

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
        A `ConvertReport`.

    Raises:
        CheckpointError: the source cannot be read, the target's program would compute something else from these
            weights, a value is not finite or too large for `dtype`, or files are in the way. Nothing was written.

    Example:
        >>> import tempfile
        >>> from gpt2_from_scratch.loading import TINY
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = convert(TINY, folder, "llms_from_scratch")
        ...     sorted(path.name for path in Path(folder).iterdir()), report.rounding
        (['config.json', 'merges.txt', 'model.pth', 'vocab.json'], 0.0)
    """
    if to not in TARGETS:
        raise CheckpointError(f"{to!r} is not a form that can be written", hint="one of: " + ", ".join(TARGETS))
    target = TARGETS[to]
    checkpoint = open_checkpoint(source, **options)
    config = checkpoint.config
    target.check(config)
    path, whole_folder = _place(target, to, Path(destination).expanduser())
    folder = path if not target.file else path.parent
    beside, notes = _beside(checkpoint, target, whole_folder)
    rounding = _Rounding()
    tensors = _tensors(checkpoint, target, to, dtype or checkpoint.dtype, bias, rounding, progress)
    _check_way(checkpoint, target, path, folder, beside, overwrite)
    if (folder / _CONFIG).is_file() and _CONFIG in beside and _same_config(folder / _CONFIG, config):
        beside = {name: content for name, content in beside.items() if name != _CONFIG}  # the user's own wording stays
    try:
        folder.mkdir(parents=True, exist_ok=True)
        target.write(path, tensors, config, beside)
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}") from None
    if to == "nanogpt" and config.activation_function != "gelu":
        notes.append("nanoGPT computes the exact GELU: in its model.py, write nn.GELU(approximate='tanh')")
    return ConvertReport(
        source=checkpoint.located.source,
        destination=path,
        form=to,
        dtype=dtype or checkpoint.dtype,
        tensors=len(tensors),
        parameters=config.num_parameters,
        rounding=rounding.largest,
        rounded=rounding.where,
        notes=tuple(notes),
    )


@dataclass
class _Rounding:
    """The largest rounding so far, and the tensor in which it happened."""

    largest: float = 0.0
    where: str = ""

    def note(self, name: str, before: Tensor, dtype: torch.dtype) -> None:
        for piece in pieces(before):
            error = float((piece.double() - piece.to(dtype).double()).abs().max())
            if error > self.largest:
                self.largest, self.where = error, name


def _tensors(
    checkpoint: Checkpoint,
    target: Target,
    to: str,
    dtype: torch.dtype,
    bias: bool,
    rounding: _Rounding,
    progress: Progress | None,
) -> dict[str, StoredTensor]:
    """The target's tensors, each read, checked and rounded when it is written. A tied head is its embedding."""
    links = target.layout.unroll(checkpoint.config)
    optional = {name for link in links if link.absent_means_zero for name in link.theirs}
    if not bias and not optional:
        raise MappingError(f"{to} has no form without biases", hint="nanogpt and llms_from_scratch do")
    wanted = None if bias else (lambda name: name not in optional)
    reads = write_theirs(target.layout, checkpoint.config, checkpoint.read, wanted)
    shapes = {name: shape for link in links for name, shape in zip(link.theirs, link.shapes, strict=True)}
    names = {name: link.canonical or "" for link in links for name in link.theirs}
    tensors: dict[str, StoredTensor] = {}
    sizes: dict[str, int] = {}  # of what has been written

    def read(name: str, dtype: torch.dtype) -> Tensor:
        tensor = reads[name]()
        check_values(checkpoint.located.source, names[name] or name, tensor, dtype)
        if torch.promote_types(tensor.dtype, dtype) != dtype:
            rounding.note(names[name] or name, tensor, dtype)
        sizes[name] = _nbytes(tensors[name])
        if progress is not None:
            progress(sum(sizes.values()), sum(map(_nbytes, set(tensors.values()))))
        return tensor.to(dtype, memory_format=torch.contiguous_format)

    for name in reads:
        written = gguf.written_dtype(name, shapes[name], dtype) if to == "gguf" else dtype
        tensors[name] = StoredTensor(shapes[name], written, partial(read, name, written))
    if checkpoint.config.tie_word_embeddings:
        owners = {link.canonical: link.theirs[0] for link in links if link.tied_to is None}
        for link in links:
            if link.tied_to and link.identity and link.theirs[0] in tensors:
                tensors[link.theirs[0]] = tensors[owners[link.tied_to]]
    return tensors


def _nbytes(tensor: StoredTensor) -> int:
    return math.prod(tensor.shape) * tensor.dtype.itemsize


# -------------------------------------------------------------------------------------------------- what is in the way


def _place(target: Target, to: str, destination: Path) -> tuple[Path, bool]:
    """The file or directory to write, and whether a whole directory is meant."""
    known = {suffix for other in TARGETS.values() for suffix in other.suffixes}
    is_file = destination.suffix in known and not destination.is_dir()
    if not target.file:
        if is_file or destination.is_file():
            raise CheckpointError(f"{to} is a directory, and {destination} is a file's name", hint="name a directory")
        return destination, True
    if not is_file:
        if destination.is_file():
            raise CheckpointError(
                f"{destination} is a file, and none of {to}'s", hint="it is written as " + ", ".join(target.suffixes)
            )
        return destination / target.file, True
    if destination.suffix not in target.suffixes:
        raise CheckpointError(
            f"{to} is not written as {destination.suffix}", hint="choose " + ", ".join(target.suffixes)
        )
    return destination, False


def _beside(checkpoint: Checkpoint, target: Target, whole_folder: bool) -> tuple[Files, list[str]]:
    """The files that belong beside the weights, or into them, and remarks on what there is not."""
    files: dict[str, bytes] = {}
    if not target.says_all:
        files[_CONFIG] = config_json(checkpoint.config, checkpoint.dtype)
    notes: list[str] = []
    if whole_folder or target.tokenizer is _gguf_vocabulary:
        try:
            if checkpoint.located.repo_id is not None:
                hub.fetch(checkpoint.located.repo_id, TOKENIZER_FILES, **checkpoint.hub_options)
            if tokenizer_files(checkpoint.located.weights):
                files |= target.tokenizer(checkpoint.located.weights, checkpoint.config)
            else:
                notes.append("no tokenizer beside the source, so none was written")
        except CheckpointError as error:
            notes.append(f"the tokenizer was left out: {error.message}")
    return files, notes


def _check_way(
    checkpoint: Checkpoint, target: Target, path: Path, folder: Path, beside: Files, overwrite: bool
) -> None:
    """What is written must neither be what is read, nor replace anything unasked, nor be read as something else."""
    written = _written(target, path, folder, beside)
    for name in written:
        for file in checkpoint.container.files:
            if (folder / name).exists() and (folder / name).samefile(file):
                raise CheckpointError(
                    f"{folder / name} is the source itself", hint="choose another destination, then replace it"
                )
    config = folder / _CONFIG
    other_model = config.is_file() and not _same_config(config, checkpoint.config)
    if other_model and (_CONFIG not in beside or not overwrite):
        raise CheckpointError(
            f"{config} is of another model, and what is written beside it would be read with it",
            hint="choose another directory",
        )
    if target.layout.name == "openai":
        before = [name for name in ("model.safetensors", safetensors.INDEX) if (folder / name).exists()]
        if before:
            raise CheckpointError(
                f"{folder} holds {', '.join(before)}, which would be found before OpenAI's files",
                hint="choose another directory",
            )
    present = sorted(name for name in written if name != _CONFIG and (folder / name).exists())
    if present and not overwrite:
        raise CheckpointError(f"{folder} holds {', '.join(present)} already", hint="overwrite it, or write elsewhere")


def _written(target: Target, path: Path, folder: Path, beside: Files) -> list[str]:
    """The names of all files that will be written, or replaced, or removed."""
    own: Iterable[str] = (path.name,)
    if target.layout.name == "huggingface":
        own = filter(safetensors.is_shard_or_index, os.listdir(folder) if folder.is_dir() else ())
    elif target.layout.name == "openai":
        prefix = tensor_bundle.PREFIX
        own = (f"{prefix}.index", f"{prefix}.data-00000-of-00001", "hparams.json", "checkpoint")
    return [*own, *(name for name in beside if name != _VOCABULARY)]


def _same_config(path: Path, config: GPTConfig) -> bool:
    try:
        return GPTConfig.from_file(path) == config
    except CheckpointError:
        return False
