"""Files are either the old ones or the complete new ones, whatever happens in between."""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Opens a temporary file beside `path` that takes its place when the block ends without an error.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder) / "a") as file:
        ...         _ = file.write(b"new")
        ...     (Path(folder) / "a").read_bytes()
        b'new'
    """
    with replacing_all(path.parent) as create:
        yield create(path.name)


@contextmanager
def replacing_all(folder: Path, remove: Iterable[str] = ()) -> Iterator[Callable[[str], BinaryIO]]:
    """Yields a function that creates files, all of which take their places when the block ends without an error.

    Everything is on disk before the first old file goes: an error or a kill while writing leaves the old files, and
    only one between the renames, which take microseconds, leaves a mixture.

    Args:
        folder: where the files will be.
        remove: names in it to delete before the new files appear: what must never meet them.
    """
    files: list[tuple[BinaryIO, str, Path]] = []

    def create(name: str) -> BinaryIO:
        descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=f".{name}.", suffix=".part")
        files.append((os.fdopen(descriptor, "wb"), temporary, folder / name))
        return files[-1][0]

    try:
        yield create
        for file, _, path in files:
            file.flush()
            os.fchmod(file.fileno(), path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask())
            os.fsync(file.fileno())
            file.close()
        for name in remove:
            (folder / name).unlink(missing_ok=True)
        for _, temporary, path in files:
            os.replace(temporary, path)
    except BaseException:
        for file, temporary, _ in files:
            file.close()
            Path(temporary).unlink(missing_ok=True)
        raise
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
