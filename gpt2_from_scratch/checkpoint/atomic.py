"""Replaces files at once: whoever opens them sees the old ones or the complete new ones.

New files are written under temporary names in the same folder, flushed to disk, and then renamed.
"""

import contextlib
import errno
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gpt2_from_scratch.errors import CheckpointError

try:
    import fcntl
except ModuleNotFoundError:  # Windows, where a folder cannot be locked
    fcntl = None  # type: ignore[assignment]


@contextmanager
def replacing(path: Path, *, overwrite: bool = True) -> Iterator[BinaryIO]:
    """Opens a temporary file beside `path` that takes its place when the block ends without an error.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder) / "a") as file:
        ...         _ = file.write(b"new")
        ...     (Path(folder) / "a").read_bytes()
        b'new'
    """
    with replacing_all(path.parent, overwrite=overwrite, alone=False) as create:
        yield create(path.name)


@contextmanager
def replacing_all(
    folder: Path, remove: Iterable[str] = (), *, overwrite: bool = True, alone: bool = True
) -> Iterator[Callable[[str], BinaryIO]]:
    """Yields a function that creates files, all of which take their places when the block ends without an error.

    All new files are on disk before the first old one is replaced. After an error the old files are there, even if some
    had been replaced already. If the process is killed between the renames, which take microseconds, some files are new
    and some are old. Temporary files that killed writers of the same names left behind are removed.

    Args:
        folder: where the files will be.
        remove: names of files to delete before the new ones appear, such as an index that does not fit them.
        overwrite: whether files of these names may exist.
        alone: whether the files belong together, so that no other process may write into the folder meanwhile. (Windows
            cannot lock a folder.)

    Raises:
        FileExistsError: a file of that name is there, and `overwrite` is False.
        BlockingIOError: another process is writing into the folder.
        OSError: it cannot be written; or a name is that of a folder, a pipe or a device.
    """
    files: list[_New] = []

    def check_free(path: Path) -> None:
        if os.path.lexists(path) and not overwrite:
            raise FileExistsError(errno.EEXIST, "it is there already", str(path))

    def create(name: str) -> BinaryIO:
        path = folder / name
        check_free(path)
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "it is no ordinary file", str(path))
        if lock.held:
            _sweep(folder, name)
        try:
            descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=f".{name}.", suffix=_PART)
        except OSError as error:  # which would name a file that nobody knows
            raise OSError(error.errno, error.strerror, str(path)) from None
        os.close(descriptor)  # opened by its path, which a library that writes by itself asks for
        files.append(_New(open(temporary, "wb"), Path(temporary), folder / name))  # noqa: SIM115
        return files[-1].file

    with _Lock(folder) as lock:
        if alone and not lock.held and lock.works:
            raise BlockingIOError(errno.EAGAIN, "another process is writing into this folder", str(folder))
        try:
            yield create
            for new in files:
                new.file.flush()
                mode = new.path.stat().st_mode & 0o777 if new.path.exists() else 0o666 & ~_umask()
                os.chmod(new.temporary, mode)
                os.fsync(new.file.fileno())
                new.file.close()
            for new in files:
                check_free(new.path)  # somebody else may have been faster
            _replace(files, [folder / name for name in remove])
        except BaseException:
            for new in files:
                with contextlib.suppress(OSError):  # a full disk cannot take what is still in memory
                    new.file.close()
                new.temporary.unlink(missing_ok=True)
            raise
        lock.sync()


def check_unread(targets: Iterable[Path], read: Iterable[Path]) -> None:
    """Refuses to write where something lies that is read: under that name or any other, through links or not.

    Every command and function that writes asks this first. Files are compared as the file system does it, so that
    aliases of folders, links and names in other letters make no difference.

    Args:
        targets: what will be written, replaced or removed.
        read: what it is made from: weights, configuration, tokenizer, code.

    Raises:
        CheckpointError: one of the targets is one of the files that are read.

    Example:
        >>> check_unread([Path(__file__)], [Path(__file__).parent / ".." / "checkpoint" / "atomic.py"])
        Traceback (most recent call last):
        gpt2_from_scratch.errors.CheckpointError: ...atomic.py is the source itself: it is read, and would be replaced
          hint: write to another place
    """
    present = [target for target in targets if target.is_file()]
    if not present:
        return
    sources = {(status.st_dev, status.st_ino) for status in map(_status, read) if status is not None}
    for target in present:
        status = target.stat()
        if (status.st_dev, status.st_ino) in sources:
            raise CheckpointError(
                f"{target} is the source itself: it is read, and would be replaced", hint="write to another place"
            )


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (OSError, ValueError):  # a name that is no file's, such as a module's `<frozen>`
        return None


_PART = ".part"


@dataclass(frozen=True)
class _New:
    file: BinaryIO
    temporary: Path
    path: Path


def _replace(files: list[_New], remove: list[Path]) -> None:
    """Puts the new files in the place of the old ones; if one cannot be put there, all old ones come back."""
    kept: dict[Path, Path] = {}
    placed: list[Path] = []
    try:
        for path in dict.fromkeys((*remove, *(new.path for new in files))):
            if path.is_file() and not path.is_symlink():
                with contextlib.suppress(OSError):  # a file system without links: the old file cannot come back
                    kept[path] = _second_name(path)
        for path in remove:
            path.unlink(missing_ok=True)
        for new in files:
            os.replace(new.temporary, new.path)
            placed.append(new.path)
    except BaseException:
        for path in placed:
            if path not in kept:
                path.unlink(missing_ok=True)
        for path, old in kept.items():
            os.replace(old, path)
            old.unlink(missing_ok=True)  # two names of one file: replacing does nothing then
        raise
    for old in kept.values():
        old.unlink(missing_ok=True)


def _second_name(path: Path) -> Path:
    """Another name for the same file, under which it survives being replaced."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_PART)
    os.close(descriptor)
    os.unlink(name)
    os.link(path, name)
    return Path(name)


def _sweep(folder: Path, name: str) -> None:
    """Removes what killed writers of this file left behind; the lock says that no writer is alive."""
    left = re.compile(re.escape(f".{name}.") + r"\w+" + re.escape(_PART))
    for path in folder.iterdir():
        if left.fullmatch(path.name):
            path.unlink(missing_ok=True)


class _Lock:
    """A lock on a folder, which ends with the process that holds it."""

    def __init__(self, folder: Path) -> None:
        self.works = fcntl is not None
        self.held = False
        self._directory = os.open(folder, os.O_RDONLY) if self.works else None

    def __enter__(self) -> "_Lock":
        if self._directory is not None:
            try:
                fcntl.flock(self._directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.held = True
            except BlockingIOError:
                pass
            except OSError:  # a file system without locks
                self.works = False
        return self

    def __exit__(self, *_: object) -> None:
        if self._directory is not None:
            os.close(self._directory)

    def sync(self) -> None:
        """Writes the folder's own entries to disk."""
        if self._directory is not None:
            os.fsync(self._directory)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
