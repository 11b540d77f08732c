"""`tf_model.h5`: an HDF5 file as Keras 2 writes it. Read only.

HDF5 is a file system, with links, files in other files, holes and compression, and a library that follows all of them.
Keras uses none of that. So h5py reads the table of contents only, with a bound on the memory it may take. Whatever is
not a plain run of numbers inside this file is refused, and the numbers are then read as plain runs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from gpt2_from_scratch.checkpoint.binary import TRUNCATED, Range, stored
from gpt2_from_scratch.checkpoint.container import Container
from gpt2_from_scratch.errors import CheckpointError, FormatError

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_TRUNK = "/transformer/"
_MAX_DEPTH = 32  # GPT-2 has 8 levels
_MOST_OBJECTS = 2_500  # the 1558M model has 1,016, and h5py takes a second for this many
_MOST_MEMORY = 256_000_000  # bytes; the library takes a few for the table of contents of the 1558M model
_DTYPES = {"<f8": torch.float64, "<f4": torch.float32, "<f2": torch.float16}


def recognises(head: bytes, path: Path) -> bool:
    """Whether a file that starts with these bytes is HDF5."""
    return head.startswith(_SIGNATURE)


def read(path: Path, mmap: bool = True) -> Container:
    """Opens a TensorFlow 2 checkpoint of transformers.

    A variable's name begins with those of the layer and of the model instance, which vary from save to save; what
    counts begins at the last ``transformer/``.

    Args:
        path: the file.
        mmap: tensors are views of the mapped file; False reads each into memory of its own.

    Raises:
        FormatError: damaged, not a TensorFlow 2 checkpoint, or using HDF5 to reach outside the file or to hide bytes.
        CheckpointError: h5py is not installed.
    """
    try:
        import h5py
    except ModuleNotFoundError:
        raise CheckpointError(
            f"{path} is an HDF5 file, and the package `h5py`, which reads it, is not installed",
            hint='pip install "gpt2_from_scratch[hdf5]", or use the safetensors file of the same model',
        ) from None
    ranges: dict[str, Range] = {}
    try:
        with _little_memory(), h5py.File(path, "r", locking=False) as file:
            if "layer_names" not in file.attrs:
                raise FormatError(
                    f"{path} is HDF5, but not what Keras 2 writes: it has no layer_names",
                    hint="a Keras 3 (keras-hub) file? save the model as safetensors",
                )
            for name, at in _datasets(h5py, file, str(path), set()):
                _, trunk, rest = name.rpartition(_TRUNK)
                short = f"{trunk}{rest}".lstrip("/")
                if short in ranges:
                    raise FormatError(f"{path} holds {short!r} twice, the second time as {name!r}")
                ranges[short] = at
    except FormatError:
        raise
    except Exception as error:  # what h5py raises depends on where in the C library a damaged file stops it
        raise FormatError(f"{path} is a damaged HDF5 file: {str(error) or type(error).__name__}", TRUNCATED) from None
    return Container("Keras HDF5", (path,), stored(path, ranges, mmap), "tf_keras")


@contextmanager
def _little_memory() -> Iterator[None]:
    """Inside, the process may grow by no more than `_MOST_MEMORY`: the library allocates whatever a file says."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ModuleNotFoundError, OSError):  # not Linux: there is no bound
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    limits = [limit for limit in before if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min([pages * resource.getpagesize() + _MOST_MEMORY, *limits]), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _datasets(h5py: Any, group: Any, where: str, seen: set[int], depth: int = 0) -> Iterator[tuple[str, Range]]:
    """All data sets below a group: full name and place."""
    for name in group:
        full = f"{group.name.rstrip('/')}/{name}"
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise FormatError(f"{where}: {full!r} is a link, perhaps to another file; Keras writes none")
        item = group[name]
        address = h5py.h5o.get_info(item.id).addr
        if address in seen or depth > _MAX_DEPTH or len(seen) > _MOST_OBJECTS:
            raise FormatError(
                f"{where}: {full!r} is reached twice, nested too deep, or one of too many; Keras writes trees"
            )
        seen.add(address)
        if isinstance(item, h5py.Group):
            yield from _datasets(h5py, item, where, seen, depth + 1)
        elif isinstance(item, h5py.Dataset):
            yield full, _range(h5py, item, f"{where}: {full!r}")
        else:
            raise FormatError(f"{where}: {full!r} is neither a group nor a data set")


def _range(h5py: Any, dataset: Any, where: str) -> Range:
    plain = dataset.id.get_create_plist().get_layout() == h5py.h5d.CONTIGUOUS
    if not plain or dataset.is_virtual or dataset.external is not None:
        raise FormatError(f"{where} is compressed, in pieces, or in another file; Keras writes it in one piece")
    if dataset.dtype.str not in _DTYPES:
        raise FormatError(f"{where} has dtype {dataset.dtype.str}; weights are floating point, little-endian")
    offset = dataset.id.get_offset()
    at = Range(offset or 0, dataset.shape, _DTYPES[dataset.dtype.str])
    if offset is None or (found := dataset.id.get_storage_size()) != at.nbytes:
        raise FormatError(f"{where} has holes: {at.nbytes:,} bytes announced, {found if offset else 0:,} stored")
    return at
