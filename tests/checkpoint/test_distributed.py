"""Checkpoints of torch.distributed.checkpoint: written by torch itself, whole and in shards; and hostile ones."""

import pickle
import socket
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from gpt2_from_scratch import CheckpointError, GPTModel, open_checkpoint
from gpt2_from_scratch.checkpoint import open_container
from gpt2_from_scratch.errors import FormatError


def state(checkpoint: Path) -> dict[str, Tensor]:
    return load_file(checkpoint / "model.safetensors")


@pytest.fixture(scope="module")
def saved(perturbed_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, its optimizer's state and a step, as a trainer saves them."""
    folder = tmp_path_factory.mktemp("dcp")
    tensors = state(perturbed_checkpoint)
    optimizer = {"state": {name: {"exp_avg": torch.zeros_like(each)} for name, each in tensors.items()}}
    with warnings.catch_warnings(action="ignore"):
        dcp.save({"model": tensors, "optimizer": optimizer, "step": 7}, checkpoint_id=folder, no_dist=True)
    (folder / "config.json").write_bytes((perturbed_checkpoint / "config.json").read_bytes())
    return folder


def test_a_folder_is_the_model_bit_for_bit(saved: Path, perturbed_checkpoint: Path) -> None:
    right = GPTModel.from_pretrained(perturbed_checkpoint).state_dict()
    loaded = GPTModel.from_pretrained(saved).state_dict()
    assert loaded.keys() == right.keys() and all(torch.equal(loaded[name], right[name]) for name in right)
    assert open_checkpoint(saved).container.form == "PyTorch distributed checkpoint"


def test_what_was_left_out_is_said(saved: Path) -> None:
    assert open_container(saved / ".metadata").notes == ("left out: optimizer, step",)


def test_two_state_dicts_are_asked_about(tmp_path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):
        both = {"model": torch.nn.Linear(2, 2).state_dict(), "ema": {"w": torch.zeros(2, 2)}}
        dcp.save(both, checkpoint_id=tmp_path, no_dist=True)
    with pytest.raises(FormatError, match=r"several state dicts: model \(2 tensors\), ema"):
        open_container(tmp_path / ".metadata")
    ema = open_container(tmp_path / ".metadata", key="ema")
    assert torch.equal(ema.tensors["w"].read(), torch.zeros(2, 2))


# ------------------------------------------------------------------------------------------------------------- shards


def _save_in_shards(rank: int, ranks: int, port: int, tensors: dict[str, Tensor], folder: Path) -> None:
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks)
    mesh = init_device_mesh("cpu", (ranks,))
    # Rows as FSDP cuts them, and columns as tensor parallelism does; a vector of five elements does not divide.
    sharded = {
        name: distribute_tensor(each, mesh, [Shard(number % each.dim())])
        for number, (name, each) in enumerate(tensors.items())
    }
    with warnings.catch_warnings(action="ignore"):
        dcp.save({"model": sharded}, checkpoint_id=folder)
    dist.destroy_process_group()


@pytest.mark.slow  # starts processes that import torch: 10 s
@pytest.mark.parametrize("ranks", [2, 4])
def test_shards_of_ranks_are_joined(ranks: int, tmp_path: Path, perturbed_checkpoint: Path) -> None:
    tensors = state(perturbed_checkpoint) | {"five": torch.arange(5.0)}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_save_in_shards, (ranks, port, tensors, tmp_path), nprocs=ranks)
    container = open_container(tmp_path / ".metadata")
    assert len(list(tmp_path.glob("*.distcp"))) == ranks
    assert container.tensors.keys() == tensors.keys()
    for name, expected in tensors.items():
        assert torch.equal(container.tensors[name].read(), expected), name


# ------------------------------------------------------------------------------------------------------------ hostile


@pytest.fixture
def hostile(tmp_path: Path) -> Callable[[Callable[[Any], object]], Path]:
    """Changes what torch wrote about two tensors, and gives the path of the result."""
    with warnings.catch_warnings(action="ignore"):
        dcp.save({"w": torch.arange(12.0).reshape(4, 3), "b": torch.ones(3)}, checkpoint_id=tmp_path, no_dist=True)

    def change(how: Callable[[Any], object]) -> Path:
        metadata = pickle.loads((tmp_path / ".metadata").read_bytes())
        how(metadata)
        (tmp_path / ".metadata").write_bytes(pickle.dumps(metadata))
        return tmp_path / ".metadata"

    return change


def place(metadata: Any, name: str = "w", **changes: Any) -> None:
    for index, info in metadata.storage_data.items():
        if index.fqn == name:
            metadata.storage_data[index] = replace(info, **changes)


def chunk(metadata: Any, **changes: Any) -> None:
    tensor = metadata.state_dict_metadata["w"]
    tensor.chunks[:] = [replace(tensor.chunks[0], **changes)]


def size(metadata: Any, *sizes: int) -> None:
    metadata.state_dict_metadata["w"].size = torch.Size(sizes)


def twice(metadata: Any) -> None:
    metadata.state_dict_metadata["w"].chunks *= 2


def gone(metadata: Any) -> None:
    metadata.storage_data = {index: info for index, info in metadata.storage_data.items() if index.fqn != "w"}


HOSTILE: dict[str, tuple[Callable[[Any], object], str]] = {
    "a path that leads out": (lambda m: place(m, relative_path="../__0_0.distcp"), "no plain file name"),
    "an absolute path": (lambda m: place(m, relative_path="/etc/passwd"), "no plain file name"),
    "a file that is not there": (lambda m: place(m, relative_path="__1_0.distcp"), "is not there"),
    "a compressed file": (lambda m: place(m, transform_descriptors=["zstd"]), "is compressed"),
    "bytes behind the end": (lambda m: place(m, length=10**9), "ends before"),
    "a place before the beginning": (lambda m: place(m, offset=-5), "no sizes"),
    "no place at all": (gone, "no file holds its chunk"),
    "a chunk twice": (twice, "do not fill"),
    "a chunk that is too small": (lambda m: chunk(m, sizes=torch.Size([3, 3])), "do not fill"),
    "a size that memory does not hold": (
        lambda m: setattr(m.state_dict_metadata["w"], "size", torch.Size([2**40, 3])),
        "fill",
    ),
    "a chunk of such a size": (lambda m: chunk(m, sizes=torch.Size([2**40, 3])), "ends before"),
    "no chunks": (lambda m: m.state_dict_metadata["w"].chunks.clear(), "no list of 1 to"),
    "a path without keys": (lambda m: m.planner_data.update(w=()), "no path of keys"),
    "a path that is a number": (lambda m: m.planner_data.update(w=7), "no path of keys"),
    "two tensors under one key": (lambda m: m.planner_data.update(w=("b",)), "two things are saved"),
    "a tensor inside another": (lambda m: m.planner_data.update(w=("b", "w"), b=("b",)), "two things are saved"),
    "no storage": (lambda m: setattr(m, "storage_data", None), "has no storage_data"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_table_of_contents_is_refused(what: str, hostile: Callable[[Callable[[Any], object]], Path]) -> None:
    how, why = HOSTILE[what]
    with pytest.raises(FormatError, match=why):
        open_container(hostile(how))


def test_another_tensors_bytes_are_refused(hostile: Callable[[Callable[[Any], object]], Path]) -> None:
    def exchange(metadata: Any) -> None:
        of = {index.fqn: info for index, info in metadata.storage_data.items()}
        place(metadata, "w", offset=of["b"].offset, length=of["b"].length)

    container = open_container(hostile(exchange))
    with pytest.raises(FormatError, match=r"float32 \[3\], and \.metadata says torch\.float32 \[4, 3\]"):
        container.tensors["w"].read()


class _Command:
    """What a pickle may do, and this reader may not."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("was-run"),))


def test_no_code_is_run(
    hostile: Callable[[Callable[[Any], object]], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    open_container(hostile(lambda metadata: setattr(metadata, "storage_meta", _Command())))
    assert not (tmp_path / "was-run").exists()


def test_a_memo_of_any_size_takes_no_memory(tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_bytes(b"\x80\x02Nr\xff\xff\xff\x7f.")  # LONG_BINPUT: place 2,147,483,647
    with pytest.raises(FormatError, match="memo has more places"):
        open_container(tmp_path / ".metadata")


@pytest.mark.parametrize(("kept", "why"), [("__0_0.distcp", "without their .metadata"), (".metadata", "is not there")])
def test_an_unfinished_save_is_called_so(kept: str, why: str, saved: Path, tmp_path: Path) -> None:
    (tmp_path / kept).write_bytes((saved / kept).read_bytes())
    with pytest.raises(CheckpointError, match=why):
        open_checkpoint(tmp_path)


def test_one_rank_s_file_leads_to_the_folder(saved: Path) -> None:
    with pytest.raises(CheckpointError, match="part of a distributed checkpoint") as caught:
        open_checkpoint(saved / "__0_0.distcp")
    assert "give the folder" in str(caught.value)
