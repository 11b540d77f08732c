"""Finds a checkpoint's files and opens them: bytes on disk become a `Container` of named tensors.

There is one module for each file format. A file is recognised by its content, not by its extension. Files that people
give by mistake (a Git-LFS pointer, a web page, an adapter) are recognised too, and the error says what they are: see
`mistakes.py`. What the tensors mean is decided in `loading`.
"""

import difflib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple, Unpack

from gpt2_from_scratch.checkpoint import (
    ctranslate2,
    deepspeed,
    distributed,
    flax_msgpack,
    gguf,
    hub,
    llmc,
    megatron,
    npz,
    onnx,
    safetensors,
    shards,
    tensor_bundle,
    tf_h5,
    torch_pickle,
)
from gpt2_from_scratch.checkpoint.container import Container, StoredTensor
from gpt2_from_scratch.checkpoint.hub import HubOptions
from gpt2_from_scratch.checkpoint.mistakes import file_mistake, folder_mistake
from gpt2_from_scratch.errors import CheckpointError, FormatError

__all__ = ["TINY", "WEIGHTS", "Container", "HubOptions", "Located", "StoredTensor", "locate", "open_container"]

TINY = Path(__file__).parent.parent / "tiny"  # the trained model inside the package; its name is "tiny"

# In the order in which transformers looks for them; then those of other programs.
WEIGHTS = (
    "model.safetensors",
    safetensors.INDEX,
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "tf_model.h5",
    "flax_model.msgpack",
    "weights.npz",
)
# Weights under any name, if there is one such file and none of the above.
_ALONE = ("*.safetensors", "*.pt", "*.pth", "*.ckpt", "*.bin", "*.gguf", "*.npz", "*.h5", "*.msgpack")
_FSDP = "pytorch_model_fsdp_0"  # the folder inside its own in which Accelerate saves what FSDP has divided
# Weights inside a program, if there are no others.
_GRAPHS = ("*.onnx",)
# Other files with these suffixes, which trainers write beside the weights.
_NOT_WEIGHTS = re.compile(
    r"(adapter_model|optimizer|scheduler|scaler|sampler|dl_state_dict|training_args|rng_state|random_states"
    r"|trainer_state)(_\d+)?\b.*"
)
_CONFIG = "config.json"
_HEAD_BYTES = 512  # enough to recognise every form, and every mistake, by its beginning


class Form(NamedTuple):
    """A file format.

    Args:
        recognises: whether a file with these first bytes, at this path, is in this format.
        read: opens it, with a memory map or without.
        read_key: opens one of several state dicts in it; None where a file holds one only.
    """

    recognises: Callable[[bytes, Path], bool]
    read: Callable[[Path, bool], Container]
    read_key: Callable[[Path, bool, str], Container] | None = None


# Asked in this order; the first that recognises a file opens it.
FORMS: tuple[Form, ...] = (
    Form(shards.recognises, lambda index, mmap: shards.read(index, mmap, _open_shard)),
    Form(safetensors.recognises, safetensors.read),
    Form(deepspeed.recognises, deepspeed.read, deepspeed.read),
    Form(megatron.recognises, megatron.read),
    Form(torch_pickle.recognises, torch_pickle.read, torch_pickle.read),
    Form(gguf.recognises, gguf.read),
    Form(llmc.recognises, llmc.read),
    Form(tf_h5.recognises, tf_h5.read),
    Form(npz.recognises, npz.read),
    Form(onnx.recognises, onnx.read),
    Form(ctranslate2.recognises, ctranslate2.read),
    Form(tensor_bundle.recognises, tensor_bundle.read),
    Form(distributed.recognises, distributed.read, distributed.read),
    Form(flax_msgpack.recognises, flax_msgpack.read),
)


@dataclass(frozen=True)
class Located:
    """Where a checkpoint's files are.

    Args:
        source: what the user asked for.
        weights: the file to open.
        directory: where its configuration and tokenizer are looked for.
        repo_id: the repository, if it came from the Hub.
    """

    source: str
    weights: Path
    directory: Path
    repo_id: str | None = None

    @property
    def config(self) -> Path | None:
        """The `config.json` beside the weights, if there is one."""
        path = self.directory / _CONFIG
        return path if path.is_file() else None


def locate(source: str | os.PathLike[str], **options: Unpack[HubOptions]) -> Located:
    """Finds the files of a checkpoint. From the Hub, it fetches the weights and the configuration only.

    Args:
        source: a path, an id such as ``openai-community/gpt2``, or ``tiny``, the trained model inside the package. A
            file or folder of that name goes before the id.
        **options: see `HubOptions`.

    Returns:
        Where they are.

    Raises:
        CheckpointError: there is no such file, folder or repository, or no weights in it.
    """
    name, path = os.fspath(source), Path(source)
    if not name:
        raise CheckpointError(
            "the checkpoint's name is empty", hint="give a file, a directory or a Hub id (owner/name)"
        )
    if "://" in name:
        on_hub = _HUB_ADDRESS.match(name)
        meant = f"{on_hub[1]}" if on_hub else "a file, a directory or a Hub id (owner/name)"
        raise CheckpointError(f"{name} is an address, which is not fetched", hint=f"give {meant}")
    if path == TINY or (name == TINY.name and not path.exists()):
        return Located(TINY.name, _weights_in(TINY), TINY)
    try:
        path = path.expanduser()
        if path.is_file():
            if shards.is_named_as_one(path) and any(path.parent.glob("*.index.json")):
                raise CheckpointError(f"{name} is one of several shards", hint=f"give their folder, {path.parent}")
            return Located(name, path, path.parent)
        if path.is_dir():
            return Located(name, _weights_in(path), path)
        index = path.with_name(f"{path.name}.index")  # TensorFlow's checkpoints are called by what their files share
        if index.is_file():
            return Located(name, index, path.parent)
        is_repo_id = hub.is_repo_id(name) and not _is_meant_as_path(path)
    except (OSError, RuntimeError) as error:  # too long for a path, not permitted, the home of an unknown user
        raise CheckpointError(
            f"{name[:200]} cannot be looked at: {str(error)[:200]}",
            hint="give a file, a directory or a Hub id (owner/name)",
        ) from None
    _check_link(path)
    if not is_repo_id and path.exists():
        raise CheckpointError(
            f"{name} is neither a file nor a directory", hint="a pipe or a device cannot be mapped: save it as a file"
        )
    if not is_repo_id:
        near = difflib.get_close_matches(path.name, sorted(each.name for each in _siblings(path)), n=1)
        meant = (
            f"did you mean {path.with_name(near[0])}?" if near else "give a file, a directory or a Hub id (owner/name)"
        )
        raise CheckpointError(f"{name} does not exist", hint=meant)
    files = hub.fetch(name, [_CONFIG, "generation_config.json"], **options)
    for candidate, weights in hub.fetch(name, WEIGHTS, first=True, **options).items():
        if candidate.endswith(".index.json"):
            hub.fetch(name, shards.names_in(weights), **options)
        return Located(name, weights, files.get(_CONFIG, weights).parent, name)
    raise CheckpointError(f"{name} has none of {', '.join(WEIGHTS)}", hint="is it a model repository?")


_HUB_ADDRESS = re.compile(r"(?:https?://huggingface\.co|hf:/)/([^/?#]+/[^/?#]+)")


def _check_link(path: Path) -> None:
    if path.is_symlink() and not path.exists():
        raise CheckpointError(f"{path} is a link to {path.readlink()}, which does not exist", "fetch the file again")


# A name that ends in one of these is a file's, not a repository's.
_SUFFIXES = {
    *(".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".gguf", ".npz", ".h5", ".msgpack", ".onnx", ".json", ".index"),
    *(".tar", ".zip", ".npy", ".pkl", ".distcp"),
}


def _is_meant_as_path(path: Path) -> bool:
    """Whether something that does not exist is a misspelt path rather than a Hub id."""
    return path.suffix in _SUFFIXES or (len(path.parts) > 1 and path.parent.is_dir())


def _siblings(path: Path) -> Iterable[Path]:
    return path.parent.iterdir() if path.parent.is_dir() else ()


def open_container(path: Path, mmap: bool = True, *, key: str = "", forms: Sequence[Form] = FORMS) -> Container:
    """Recognises a weights file by its content and opens it.

    Args:
        path: a weights file, or the index of a sharded one.
        mmap: map the file; False reads tensors into memory, which a file that may change or vanish needs.
        key: which of several state dicts in it, where its form can hold several.
        forms: the formats it may be in.

    Returns:
        Its tensors, not read yet.

    Raises:
        FormatError: it is in none of these; says what it is.
    """
    if (name := os.fsencode(path)) and name.decode(errors="ignore").encode() != name:
        raise FormatError(
            f"{path} cannot be opened: its path is not UTF-8, which the libraries that read weights need",
            hint="rename the file or folder, or give a link to it",
        )
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        for form in forms if path.suffix != ".distcp" else ():  # which is a row of zip archives
            if form.recognises(head, path):
                if not key:
                    return form.read(path, mmap)
                if form.read_key is None:
                    raise FormatError(f"{path} has no keys to choose from", hint="a key is for files of torch.save")
                return form.read_key(path, mmap, key)
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror or error}") from None
    what, remedy = file_mistake(head, path)
    raise FormatError(f"{path} {what}", hint=remedy)


def _open_shard(path: Path, mmap: bool) -> Container:
    return open_container(path, mmap, forms=FORMS[1:])  # an index within an index could name itself


def _weights_in(directory: Path) -> Path:
    for name in WEIGHTS:
        if (directory / name).is_file():
            return directory / name
        _check_link(directory / name)
    if found := tensor_bundle.index_in(directory) or _of_several_ranks(directory):
        return found
    for patterns in (_ALONE, _GRAPHS):
        alone = sorted(
            path
            for pattern in patterns
            for path in directory.glob(pattern)
            if path.is_file() and not _NOT_WEIGHTS.match(path.name)
        )
        if alone and all(map(shards.is_named_as_one, alone)):
            raise CheckpointError(
                f"{directory} holds {alone[0].name}, which by its name is one of several, and no index that says "
                "which tensor is where",
                hint="fetch the index, too: its name ends in .index.json",
            )
        if len(alone) > 1:
            raise CheckpointError(
                f"{directory} holds several checkpoints: {', '.join(path.name for path in alone)}",
                hint="name the file itself",
            )
        if alone:
            return alone[0]
    if mistake := folder_mistake(directory):
        raise CheckpointError(f"{directory} {mistake.what}", hint=mistake.remedy)
    if inside := _weights_below(directory):
        raise CheckpointError(
            f"{directory} has no weights itself, but below it there are",
            hint=f"give {inside[-1]}" if len(inside) == 1 else f"give one of {', '.join(map(str, inside[:8]))}",
        )
    present = sorted(f"{path.name}/" if path.is_dir() else path.name for path in directory.iterdir())
    raise CheckpointError(
        f"{directory} has no weights: none of {', '.join((*WEIGHTS, *_ALONE, *_GRAPHS))}",
        hint=f"it holds {', '.join(present[:8])}{', ...' if len(present) > 8 else ''}" if present else "it is empty",
    )


def _of_several_ranks(directory: Path) -> Path | None:
    """The file with which the checkpoint of a distributed trainer is opened, if the folder holds one."""
    tables = (folder / distributed.METADATA for folder in (directory, directory / _FSDP))
    table = next((path for path in tables if path.is_file()), None)
    return table or deepspeed.states_in(directory) or megatron.states_in(directory)


def _weights_below(directory: Path) -> list[Path]:
    """Files and folders below a folder that are opened as checkpoints, by their names."""
    found: dict[Path, None] = {}
    for count, (folder, inner, files) in enumerate(os.walk(directory)):
        here = Path(folder)
        if len(here.relative_to(directory).parts) >= _DEEPEST:
            inner.clear()
        alone = [
            name
            for name in files
            if not _NOT_WEIGHTS.match(name) and any(fnmatch(name, each) for each in (*_ALONE, *_GRAPHS))
        ]
        if any(name in WEIGHTS for name in files) or _of_several_ranks(here):
            found[here] = None
            inner.clear()  # the folders of its ranks or steps
        else:
            found |= dict.fromkeys(here / name for name in alone)
        if len(found) > _MOST_FOUND or count > _MOST_FOLDERS:
            break
    return sorted(found)


_DEEPEST = 4  # folders inside one another: lightning_logs/version_0/checkpoints
_MOST_FOUND = 8
_MOST_FOLDERS = 1_000  # somebody may have given their home folder
