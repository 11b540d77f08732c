"""New files appear complete or not at all, and old ones go only when the new ones are there."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from gpt2_from_scratch.checkpoint import open_container
from gpt2_from_scratch.checkpoint.atomic import replacing, replacing_all


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(folder: Path, contents: dict[str, bytes], **options: Any) -> None:
    with replacing_all(folder, **options) as create:
        for name, content in contents.items():
            create(name).write(content)


OLD = {"config.json": b"old config", "model.safetensors": b"old weights"}
NEW = {"config.json": b"new config", "model.safetensors": b"new weights", "merges.txt": b"new"}


def assert_holds(folder: Path, contents: dict[str, bytes]) -> None:
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == contents


def test_new_files_take_the_place_of_old_ones(tmp_path: Path):
    write(tmp_path, OLD)
    write(tmp_path, NEW)
    assert_holds(tmp_path, NEW)


def test_what_must_not_meet_the_new_files_goes(tmp_path: Path):
    write(tmp_path, OLD | {"model.safetensors.index.json": b"{}"})
    with replacing_all(tmp_path, remove=["model.safetensors.index.json"]) as create:
        create("model.safetensors").write(b"new weights")
    assert_holds(tmp_path, OLD | {"model.safetensors": b"new weights"})


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_an_error_between_the_renames_brings_the_old_files_back(
    failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write(tmp_path, OLD | {"extra": b"old extra"})
    replace, calls = os.replace, iter(range(1, 100))

    def fails_once(source: Path, target: Path) -> None:
        if next(calls) == failing:
            raise PermissionError(1, "Operation not permitted", str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails_once)
    with pytest.raises(PermissionError):
        write(tmp_path, NEW, remove=["extra"])
    assert_holds(tmp_path, OLD | {"extra": b"old extra"})


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path):
    """The limit strikes when the buffered rest is written, that is, when the file is closed."""
    write(tmp_path, OLD)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write(tmp_path, {"config.json": b"x" * 1_500})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert_holds(tmp_path, OLD)


KILLED = """
import os, signal, sys
from pathlib import Path
from gpt2_from_scratch.checkpoint import open_container
from gpt2_from_scratch.checkpoint.atomic import replacing_all

with replacing_all(Path(sys.argv[1])) as create:
    create("model.safetensors").write(b"half")
    os.kill(os.getpid(), signal.SIGTERM)
"""


def test_the_next_writer_removes_what_a_killed_one_left(tmp_path: Path):
    write(tmp_path, OLD | {".model.safetensors.notes": b"somebody's"})
    run = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)])
    assert run.returncode == -signal.SIGTERM
    assert len(names(tmp_path)) == 4
    write(tmp_path, NEW)
    assert_holds(tmp_path, NEW | {".model.safetensors.notes": b"somebody's"})


def test_two_writers_of_one_folder_do_not_mix(tmp_path: Path):
    with replacing_all(tmp_path) as create:
        with pytest.raises(BlockingIOError, match="another process is writing into this folder"):
            write(tmp_path, NEW)
        create("config.json").write(b"first")
    assert_holds(tmp_path, {"config.json": b"first"})


def test_single_files_of_one_folder_do_not_wait_for_each_other(tmp_path: Path):
    with replacing(tmp_path / "a.json") as first, replacing(tmp_path / "b.json") as second:
        first.write(b"a")
        second.write(b"b")
    assert_holds(tmp_path, {"a.json": b"a", "b.json": b"b"})


def test_what_is_there_stays_without_permission(tmp_path: Path):
    write(tmp_path, OLD)
    with pytest.raises(FileExistsError):
        write(tmp_path, NEW, overwrite=False)
    assert_holds(tmp_path, OLD)


def test_only_ordinary_files_are_replaced(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(OSError, match="no ordinary file"), replacing(tmp_path / name) as file:
            file.write(b"x")
    assert names(tmp_path) == ["folder", "pipe"]


@pytest.mark.parametrize("mmap", [True, False])
def test_a_file_that_is_replaced_while_it_is_open_is_not_mixed_with_its_successor(mmap: bool, tmp_path: Path):
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({name: torch.zeros(3) for name in "ab"}, path)
    container = open_container(path, mmap)
    first = container.tensors["a"].read()
    with replacing(path) as file:
        file.write(safetensors.torch.save({name: torch.ones(3) for name in "ab"}))
    assert torch.equal(container.tensors["b"].read(), first)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a place where nothing can be written")
def test_an_error_names_the_file_that_was_asked_for() -> None:
    with pytest.raises(OSError, match=r"'/proc/report\.json'"), replacing(Path("/proc/report.json")):
        pass
