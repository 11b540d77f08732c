"""PyTorch files: what `torch.load` would give, and nothing that a hostile file wants.

A good file is made by `torch.save`, and each hostile one from a good one by the single change that its
name says. Whatever it is, mapped or read, the answer is a `FormatError` that names the trick, at once, and no code of
the file has run.
"""

import argparse
import datetime
import enum
import io
import json
import os
import pickle
import pickletools
import tarfile
import time
import warnings
import zipfile
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from gpt2_from_scratch.checkpoint import Container, hub, locate, open_container
from gpt2_from_scratch.errors import CheckpointError, FormatError
from tests.fuzz_parsers import bounded

# Seconds a refusal may take. Measured: below 0.1; one that believes a number in the file takes minutes, or all memory.
AT_ONCE = 2.0

both_ways = pytest.mark.parametrize("mmap", [True, False], ids=["mapped", "read"])


def tensors() -> dict[str, Tensor]:
    """A state dict with what real ones have: many dtypes, a tied pair, a scalar, a transposed view, an empty tensor."""
    generator = torch.Generator().manual_seed(1)
    table = torch.randn(7, 5, generator=generator)
    return {
        "wte.weight": table,
        "lm_head.weight": table,
        "half": torch.randn(3, 4, generator=generator).half(),
        "bfloat16": torch.randn(3, 4, generator=generator).bfloat16(),
        "double": torch.randn(2, generator=generator).double(),
        "mask": torch.ones(1, 1, 6, 6, dtype=torch.uint8).tril(),
        "bool": torch.ones(4, 4, dtype=torch.bool).tril(),
        "step": torch.tensor(3),
        "transposed": torch.randn(4, 6, generator=generator).t(),
        "parameter": nn.Parameter(torch.randn(2, 2, generator=generator)),
        "empty": torch.empty(0, 5),
    }


def saved(content: object, path: Path, stream: bool = False, **options: Any) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not stream, **options)
    return path


def assert_same(container: Container, expected: dict[str, Tensor]) -> None:
    assert list(container.tensors) == list(expected)
    for name, tensor in expected.items():
        stored = container.tensors[name]
        assert (stored.shape, stored.dtype) == (tuple(tensor.shape), tensor.dtype), name
        read = stored.read()
        assert type(read) is Tensor, name
        assert not read.requires_grad, name
        assert torch.equal(read, tensor), name


# ----------------------------------------------------------------------------------------------------------- reading


@both_ways
@pytest.mark.parametrize("stream", [False, True], ids=["zip", "stream"])
@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_a_state_dict_is_what_it_was(kind: type, stream: bool, mmap: bool, tmp_path: Path) -> None:
    path = saved(kind(tensors()), tmp_path / "model.bin", stream)
    container = open_container(path, mmap)
    assert container.form == ("PyTorch stream" if stream else "PyTorch zip")
    assert_same(container, tensors())
    assert (container.layout, container.config, container.notes) == (None, None, ())
    head, table = (container.tensors[name].read() for name in ("lm_head.weight", "wte.weight"))
    assert head.data_ptr() == table.data_ptr()


def test_a_zip_is_mapped_and_writing_to_it_never_reaches_the_file(tmp_path: Path) -> None:
    path = saved(tensors(), tmp_path / "model.pt")
    before = path.read_bytes()
    tensor = open_container(path).tensors["wte.weight"].read()
    assert str(path) in Path("/proc/self/maps").read_text()
    tensor.zero_()
    assert path.read_bytes() == before


def test_without_a_map_the_file_may_vanish(tmp_path: Path) -> None:
    path = saved(tensors(), tmp_path / "model.pt")
    container = open_container(path, mmap=False)
    assert str(path) not in Path("/proc/self/maps").read_text()
    path.write_bytes(b"")
    assert_same(container, tensors())


@both_ways
def test_the_content_decides_and_not_the_name(mmap: bool, tmp_path: Path) -> None:
    """torch.load itself would hand this file to safetensors."""
    assert_same(open_container(saved(tensors(), tmp_path / "model.safetensors"), mmap), tensors())


@both_ways
def test_archives_of_older_versions_lack_some_records(mmap: bool, tmp_path: Path) -> None:
    path = saved(tensors(), tmp_path / "model.pt")
    repacked(path, lambda name, data: None if name.rpartition("/")[2].startswith((".", "byteorder")) else data)
    assert_same(open_container(path, mmap), tensors())


@both_ways
def test_an_optimizer_beside_the_weights_is_no_obstacle(mmap: bool, tmp_path: Path) -> None:
    model = nn.Linear(5, 7)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(5)).sum().backward()
    optimizer.step()
    content = {"model_state_dict": model.state_dict(), "optimizer_state_dict": optimizer.state_dict(), "epoch": 3}
    container = open_container(saved(content, tmp_path / "model_and_optimizer.pth"), mmap)
    assert_same(container, {name: tensor.detach() for name, tensor in model.state_dict().items()})
    assert container.notes == ("left out: epoch, optimizer_state_dict",)


def test_a_checkpoint_may_hold_itself(tmp_path: Path) -> None:
    content: dict[str, Any] = {"model": tensors()}
    content["again"] = [content]
    assert_same(open_container(saved(content, tmp_path / "model.pt")), tensors())


@both_ways
def test_shards_may_be_pytorch_files(mmap: bool, tmp_path: Path) -> None:
    everything = tensors()
    del everything["lm_head.weight"]  # the pair would become two tensors, one in each file
    names = list(everything)
    weight_map = {name: f"pytorch_model-0000{1 + i % 2}-of-00002.bin" for i, name in enumerate(names)}
    for shard in set(weight_map.values()):
        saved({name: everything[name] for name in names if weight_map[name] == shard}, tmp_path / shard)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert locate(tmp_path).weights == index
    container = open_container(index, mmap)
    assert container.form == "PyTorch zip, sharded"
    assert_same(container, everything)


def test_a_repository_with_pytorch_shards_is_fetched_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, shard = tmp_path / "pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"
    index.write_text(json.dumps({"weight_map": {"wte.weight": shard}}))
    there = {"config.json", index.name, shard}
    fetched = []

    def fetch(_: str, names: Iterable[str], *, first: bool = False, **options: object) -> dict[str, Path]:
        found = {name: tmp_path / name for name in names if name in there}
        found = dict(list(found.items())[:1]) if first else found
        fetched.extend(found)
        return found

    monkeypatch.setattr(hub, "fetch", fetch)
    assert locate("somebody/gpt2").weights == index
    assert fetched == ["config.json", index.name, shard]


def test_an_index_that_names_itself_is_no_shard(tmp_path: Path) -> None:
    index = tmp_path / "a.index.json"
    index.write_text('{"weight_map": {"wte.weight": "a.index.json"}}')
    with pytest.raises(FormatError, match="is in no form that is known"):
        open_container(index)


def test_directories(tmp_path: Path) -> None:
    path = saved(tensors(), tmp_path / "ckpt.pt")
    assert locate(tmp_path).weights == path
    saved(tensors(), tmp_path / "model_19072.pth")
    with pytest.raises(
        CheckpointError, match=r"holds several checkpoints: ckpt\.pt, model_19072\.pth\n.*name the file"
    ):
        locate(tmp_path)
    standard = saved(tensors(), tmp_path / "pytorch_model.bin")
    assert locate(tmp_path).weights == standard


# ------------------------------------------------------------------------------------------------------ hostile files


def repacked(path: Path, change: Callable[[str, bytes], bytes | None], **options: Any) -> Path:
    """The archive with changed records, without those that become None; written by Python's zipfile, unaligned."""
    with zipfile.ZipFile(path) as archive:
        records = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in records:
            if (changed := change(name, data)) is not None:
                archive.writestr(name, changed)
    return path


def renamed(path: Path, old: str, new: str) -> Path:
    with zipfile.ZipFile(path) as archive:
        records = [(name.replace(old, new), archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a name is there twice
        for name, data in records:
            archive.writestr(name, data)
    return path


def changed(path: Path, old: bytes, new: bytes) -> Path:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))
    return path


def good(path: Path) -> Path:
    return saved(tensors(), path)


def deflated(path: Path) -> Path:
    """16 kB that would become 16 MB."""
    return repacked(
        saved({"wte.weight": torch.zeros(4_000_000)}, path), lambda _, data: data, compression=zipfile.ZIP_DEFLATED
    )


def encrypted(path: Path) -> Path:
    """By its own word: the flag in the table of contents."""
    data = bytearray(good(path).read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    return path


def commented(path: Path) -> Path:
    with zipfile.ZipFile(good(path), "a") as archive:
        archive.comment = b"a second table of contents fits in here"
    return path


def overlapping_records(path: Path) -> Path:
    """The table of contents sends two names to one record."""
    saved({"wte.weight": torch.zeros(100), "wpe.weight": torch.ones(100)}, path)
    data = bytearray(path.read_bytes())
    at = {name: data.rindex(b"model/data/" + name) - 46 for name in (b"0", b"1")}  # the last is the table's
    data[at[b"1"] + 42 : at[b"1"] + 46] = data[at[b"0"] + 42 : at[b"0"] + 46]
    path.write_bytes(data)
    return path


def endless_record(path: Path) -> Path:
    """The last record claims a gigabyte."""
    data = bytearray(good(path).read_bytes())
    at = data.rindex(b"PK\1\2")
    data[at + 20 : at + 28] = 2 * (2**30).to_bytes(4, "little")  # as stored, and unpacked
    path.write_bytes(data)
    return path


def record_outside(path: Path) -> Path:
    """Where no file can reach: seeking to it is an error of its own kind."""
    with zipfile.ZipFile(good(path), "a") as archive:
        archive.writestr("model/data/99", b"")
        archive.filelist[-1].header_offset = 2**64 - 1
    return path


def crowd(path: Path) -> Path:
    with zipfile.ZipFile(good(path), "a") as archive:
        for number in range(4_000):
            archive.writestr(zipfile.ZipInfo(f"model/{number}"), b"")
    return path


def long_table(path: Path) -> Path:
    with zipfile.ZipFile(good(path), "a") as archive:
        for number in range(40):
            archive.writestr(zipfile.ZipInfo("model/" + f"{number}" * 30_000), b"")
    return path


def short_record(path: Path) -> Path:
    return repacked(good(path), lambda name, data: data[:-4] if name.endswith("data/0") else data)


def other_byte_order(path: Path) -> Path:
    return repacked(good(path), lambda name, data: b"big" if name.endswith("byteorder") else data)


def torchscript(path: Path) -> Path:
    with zipfile.ZipFile(good(path), "a") as archive:
        archive.writestr("model/constants.pkl", b"")
    return path


def other_zip(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", b"")
    return path


def old_tar(path: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            archive.addfile(tarfile.TarInfo(name))
    return path


def repeated(path: Path) -> Path:
    """2^60 numbers out of one."""
    return saved({"wte.weight": torch.zeros(1).expand(2**30, 2**30)}, path)


def overlapping_strides(path: Path) -> Path:
    return saved({"wte.weight": torch.zeros(100).as_strided((90, 10), (1, 1))}, path)


def overlapping_tensors(path: Path) -> Path:
    values = torch.zeros(10)
    return saved({"wte.weight": values[:6], "wpe.weight": values[4:]}, path)


def many_names(path: Path) -> Path:
    values = torch.zeros(10_000)
    return saved({f"h.{layer}.weight": values for layer in range(100)}, path)


def unprintable(path: Path) -> Path:
    return saved({"wte\x1b[2J": torch.zeros(2)}, path)


def endless(path: Path) -> Path:
    """A pickle that takes minutes to read; torch's own unpickler is written in Python."""
    return saved({"model": tensors(), "numbers": {f"number {i}": i for i in range(60_000)}}, path)


def nested(path: Path) -> Path:
    """A key whose hash takes 2^60 steps: a tuple of two tuples, which are one and the same, of two tuples."""
    key: tuple[Any, ...] = (None,)
    for _ in range(60):
        key = (key, key)
    program = pickle.dumps(key, protocol=2).removesuffix(b".")
    program = program.replace(b"\x80\x02", b"\x80\x02}", 1) + b"Ns."  # {key: None}
    return repacked(good(path), lambda name, data: program if name.endswith("data.pkl") else data)


def old_string(path: Path) -> Path:
    """As Python 2 wrote them, with an escape of which Python 3 warns: a warning is nobody's business here."""
    program = b"\x80\x02S'\\z'\n."
    return repacked(good(path), lambda name, data: program if name.endswith("data.pkl") else data)


def outside(path: Path) -> Path:
    return renamed(good(path), "model/data/1", "model/../../etc/passwd")


def absolute(path: Path) -> Path:
    return renamed(good(path), "model/", "/etc/")


def two_folders(path: Path) -> Path:
    return renamed(good(path), "model/data/1", "other/data/1")


def same_name(path: Path) -> Path:
    return renamed(good(path), "model/data/2", "model/data/1")


def cut(path: Path) -> Path:
    data = good(path).read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


ZIPS: dict[Callable[[Path], Path], str] = {
    cut: "is a damaged zip archive",
    deflated: "is compressed, which torch.save never does",
    encrypted: "is encrypted",
    commented: "the archive has a comment",
    overlapping_records: "the records of the archive overlap",
    endless_record: "or end behind its end",
    record_outside: "is a damaged zip archive: 'model/data/99' lies outside of it",
    crowd: "entries; at most 4,000 are read",
    long_table: "has a table of contents of ",
    outside: "leads out of the folder 'model'",
    absolute: "leads out of the folder ''",
    two_folders: "leads out of the folder 'model'",
    same_name: "is there twice",
    short_record: "is damaged",
    other_byte_order: "has the byte order b'big'",
    torchscript: "is a TorchScript archive (rust_model.ot is one)",
    other_zip: "is a zip archive, but not one of torch.save: it holds word/document.xml",
    old_tar: "is a tar archive, as PyTorch wrote before 2017",
    repeated: "the values of wte.weight are repeated: 4 bytes are stored",
    overlapping_strides: "the values of wte.weight are repeated: 400 bytes are stored",
    overlapping_tensors: "the values of wte.weight, wpe.weight are repeated: 40 bytes are stored",
    many_names: "its tensors are more than 48 times as large as the file",
    unprintable: "tensor 'wte\\x1b[2J' has an empty or unprintable name",
    endless: "has a data.pkl of more than 1,000,000 bytes",
    old_string: "is damaged",
    nested: "its objects are nested without end",
}


def refused(path: Path, mmap: bool, text: str) -> str:
    """Asserts that a file is refused in time, with this text; returns the whole of it."""
    start = time.process_time()
    with pytest.raises(FormatError) as caught:
        open_container(path, mmap)
    assert time.process_time() - start < AT_ONCE
    message = str(caught.value)
    assert text in message
    assert "weights_only=False" not in message.replace("`", "")  # torch's advice for files that it refuses
    assert message.replace("\n", "").isprintable()
    return message


@both_ways
@pytest.mark.parametrize("trick", ZIPS, ids=lambda trick: trick.__name__)
def test_a_trick_is_called_by_its_name(trick: Callable[[Path], Path], mmap: bool, tmp_path: Path) -> None:
    refused(trick(tmp_path / "model.pt"), mmap, ZIPS[trick])


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


CALLS = {
    "code": (lambda marker: Call(os.system, f"touch {marker}"), "posix.system"),
    "eval": (lambda marker: Call(eval, f"open({str(marker)!r}, 'w')"), "__builtin__.eval"),
    "a terabyte that weights_only allows": (lambda _: Call(bytearray, 2**40), "__builtin__.bytearray"),
    "a tensor from nothing": (lambda _: Call(torch.FloatTensor, 2**40), "torch.FloatTensor"),
    "a codec": (lambda _: Call(str.encode, "x", "idna"), "__builtin__.getattr"),
    "a whole module": (lambda _: nn.Linear(2, 2), "holds a whole module, which is code"),
}


@both_ways
@pytest.mark.parametrize(("protocol", "stream"), [(2, False), (2, True), (4, False)])
@pytest.mark.parametrize("kind", CALLS)
def test_code_is_named_and_not_run(kind: str, protocol: int, stream: bool, mmap: bool, tmp_path: Path) -> None:
    make, name = CALLS[kind]
    marker = tmp_path / "marker"
    content = {"model": tensors(), "extra": make(marker)}
    path = saved(content, tmp_path / "model.pt", stream, pickle_protocol=protocol)
    if protocol == 4:
        name = name.replace("__builtin__", "builtins")
    message = refused(path, mmap, name)
    assert "nothing was run" in message
    assert not marker.exists()


def test_a_newer_pickle_protocol_is_named(tmp_path: Path) -> None:
    path = saved({"model": {"wte.weight": torch.zeros(2)}}, tmp_path / "model.pt", pickle_protocol=4)
    refused(path, True, "is pickled with protocol 4; torch.save's is 2")
    saved({"model": {"wte.weight": torch.zeros(2)}}, path, stream=True, pickle_protocol=4)
    refused(path, True, "is a bare Python pickle")


# ------------------------------------------------------------------------------------------- tensors with attributes


def test_a_tensor_with_attributes_of_its_own_is_read(tmp_path: Path) -> None:
    """As DeepSpeed's are: ``tensor.ds_id`` is saved with them."""
    tensor = torch.arange(6.0).view(2, 3)
    tensor.ds_id = "0_147"  # type: ignore[attr-defined]
    found = open_container(saved({"wte.weight": tensor}, tmp_path / "model.pt")).tensors["wte.weight"].read()
    assert torch.equal(found, torch.arange(6.0).view(2, 3))


REBUILT = torch._utils._rebuild_tensor_v2
STORED = (0, 0, (3,), (1,), False, {})  # a number where a storage would be: nothing gets as far as that
MADE = {
    "a tensor of any size": Call(torch.Tensor, 2**40),
    "the same as an argument": Call(torch._tensor._rebuild_from_type_v2, torch.Tensor, torch.Tensor, (2**40,), {}),
    "a class as an argument": Call(torch._tensor._rebuild_from_type_v2, REBUILT, torch.Size, STORED, {}),
    "another tensor's values": Call(
        torch._tensor._rebuild_from_type_v2, REBUILT, torch.Tensor, STORED, {"data": torch.zeros(9)}
    ),
    "another class": Call(torch._tensor._rebuild_from_type_v2, REBUILT, torch.Tensor, STORED, {"__class__": 1}),
    "slots": Call(torch._tensor._rebuild_from_type_v2, REBUILT, torch.Tensor, STORED, ({}, {"data": 1})),
}


@pytest.mark.parametrize("what", MADE)
def test_what_may_be_imported_is_not_called_with_any_arguments(what: str, tmp_path: Path) -> None:
    path = saved({"wte.weight": torch.ones(2, 2), "other": MADE[what]}, tmp_path / "model.pt")
    with pytest.raises(FormatError, match="it makes a tensor"):
        open_container(path)


# ------------------------------------------------------------------------------------------------- hostile streams


def pickles(data: bytes) -> list[bytes]:
    """The five pickles that a stream begins with, and the data behind them."""
    stream, parts = io.BytesIO(data), []
    for _ in range(5):
        start = stream.tell()
        list(pickletools.genops(stream))
        parts.append(data[start : stream.tell()])
    return [*parts, data[stream.tell() :]]


def unannounced(data: bytes) -> bytes:
    """Without keys no data are read, and tensors would show what was in memory before."""
    return b"".join([*pickles(data)[:4], pickle.dumps([], protocol=2)])


def enormous(data: bytes) -> bytes:
    """8 GB in the words of the pickle, and a few bytes of data."""
    assert data.count(b"M\x61\x1e") == 2  # 7777, as the storage's size and the tensor's
    return data.replace(b"M\x61\x1e", b"J\xff\xff\xff\x7f")


STREAMS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut in its data": (lambda data: data[:-5], "is damaged"),
    "cut before its data": (lambda data: b"".join(pickles(data)[:5]), "is damaged"),
    "cut in its pickle": (lambda data: data[:100], "the pickle in it is damaged"),
    "longer": (lambda data: data + b"\0" * 8, "is damaged: "),
    "keys left out": (unannounced, "is damaged: "),
    "a size that is no file's": (enormous, "is damaged"),
    "no content": (lambda data: b"".join(pickles(data)[:3]), "the pickle in it is damaged"),
    "a long pickle": (
        lambda data: b"".join(pickles(data)[:3]) + pickle.dumps("x" * 2_000_000, protocol=2),
        "longer than 1,000,000 bytes",
    ),
}


@pytest.mark.parametrize("trick", STREAMS)
def test_a_damaged_stream_is_refused(trick: str, tmp_path: Path) -> None:
    path = saved({"wte.weight": torch.zeros(7777)}, tmp_path / "pytorch_model.bin", stream=True)
    damage, text = STREAMS[trick]
    path.write_bytes(damage(path.read_bytes()))
    refused(path, True, text)


def test_a_bare_pickle_is_no_checkpoint(tmp_path: Path) -> None:
    """nanoGPT's meta.pkl is one."""
    path = tmp_path / "meta.pkl"
    path.write_bytes(pickle.dumps({"stoi": {"a": 0}}))
    refused(path, True, "is a bare Python pickle, which is a program")


# ------------------------------------------------------------------------------------------------ what is in the file


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (torch.zeros(3), ("holds a Tensor, not a state dict",)),
        ([torch.zeros(3)], ("holds a list, not a state dict",)),
        ({}, ("holds no state dict, but nothing",)),
        ({"epoch": 3, "names": ["a"]}, ("holds no state dict, but epoch (int), names (list)", "model_state_dict")),
        ({"state": {}, "param_groups": []}, ("this is the state of an optimizer",)),
        ({"model": {"language_model": {"embedding": {}}}}, ("Megatron-LM",)),
        ({"model": {"wte.weight": [1.0]}}, ("holds no state dict, but model (dict)",)),
        ({"model": {0: torch.zeros(2)}}, ("holds no state dict, but model (dict)",)),
        ({f"number {i}": i for i in range(20)}, ("and 12 more",)),
    ],
)
def test_what_is_no_state_dict(content: object, texts: tuple[str, ...], tmp_path: Path) -> None:
    path = saved(content, tmp_path / "model.pt")
    for text in (str(path), *texts):
        refused(path, True, text)


def test_arguments_of_a_training_run_are_no_weights(shared_checkpoints: Path) -> None:
    message = refused(shared_checkpoints / "negative" / "training_args.bin", True, "transformers.training_args.")
    assert "holds the arguments of a training run, no weights" in message


class Attributes(dict):
    """A dictionary with attributes, as Lightning's hyper-parameters are."""


class Slotted:
    __slots__ = ("rate",)

    def __init__(self) -> None:
        self.rate = 0.1


class Schedule(enum.Enum):
    COSINE = "cosine"


def attributes() -> Attributes:
    made = Attributes(lr=3e-4)
    made.step = 5
    return made


BESIDE = {
    "a set": lambda: {1, 2},
    "a Counter": lambda: Counter("abca"),
    "a complex number": lambda: 1 + 2j,
    "bytes": lambda: b"abc",
    "a number of numpy's": lambda: np.float64(1.5),
    "an array of numpy's": lambda: np.arange(6.0),
    "a class": lambda: pytest.Item,
    "argparse's namespace": lambda: argparse.Namespace(lr=1, betas=[0.9, 0.95]),
    "a dictionary with attributes": attributes,
    "a default dictionary": lambda: defaultdict(list, {"loss": [1.0]}),
    "a date": lambda: datetime.datetime(2024, 5, 1),
    "a path": lambda: Path("out/ckpt.pt"),
    "an enumeration": lambda: Schedule.COSINE,
    "an object with slots": Slotted,
    "a tensor in an object": lambda: argparse.Namespace(average=torch.ones(3)),
}


@both_ways
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", BESIDE)
def test_objects_beside_the_weights_do_no_harm(kind: str, stream: bool, mmap: bool, tmp_path: Path) -> None:
    path = saved({"model": tensors(), "extra": BESIDE[kind](), "step": 3}, tmp_path / "model.pt", stream)
    container = open_container(path, mmap)
    assert container.notes == ("left out: extra, step",)
    for name, tensor in tensors().items():
        assert torch.equal(container.tensors[name].read(), tensor)


def test_an_objects_own_code_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved({"model": tensors(), "extra": attributes()}, tmp_path / "model.pt")
    monkeypatch.setattr(Attributes, "__setitem__", lambda *_: pytest.fail("its code was run"))
    monkeypatch.setattr(Attributes, "__new__", lambda *_: pytest.fail("its code was run"))
    open_container(path)


def test_stand_ins_are_forgotten(tmp_path: Path) -> None:
    """The permission to build somebody's class ends with the file."""
    before = set(torch.serialization.get_safe_globals())
    saved({"model": tensors(), "extra": Slotted()}, tmp_path / "model.pt")
    open_container(tmp_path / "model.pt")
    assert set(torch.serialization.get_safe_globals()) == before


def bomb(call: bytes, times: int) -> bytes:
    """A list that is filled after it was memorised, and then handed to a call many times."""
    filled = b"](q\x00" + b"K\x01" * 2 + b"e0h\x00(" + b"K\x01" * 200_000 + b"e0"
    return b"\x80\x02" + filled + call * times + b"}."


@pytest.mark.parametrize(
    "call",
    [
        b"ctorch\nSize\nh\x00\x85R0",
        b"ccollections\nOrderedDict\nh\x00\x85R0",
        b"c__builtin__\nset\nh\x00\x85R0",
        b"ccollections\nOrderedDict\n)Rh\x00b0",
        b"c__main__\nAnything\nh\x00\x85\x81h\x00b0",
    ],
)
def test_what_is_built_over_and_over_is_refused_before_it_is_built(call: bytes, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("archive/data.pkl", bomb(call, 5_000))
    started = time.process_time()
    refused(tmp_path / "model.pt", True, "nested without end")
    assert time.process_time() - started < 5  # building it takes minutes and gigabytes


def test_what_is_nested_without_end_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02)" + b"\x85" * 800_000 + b".")
    refused(tmp_path / "model.pt", True, "nested more than 1,000 deep")


def test_a_list_that_holds_itself_takes_no_memory(tmp_path: Path) -> None:
    """Nine hundred times: each look at it finds as many more to look at."""
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02]q\x00(" + b"h\x00" * 900 + b"ectorch\nSize\nh\x00\x85R.")
    with bounded():
        refused(tmp_path / "model.pt", True, "nested without end")


def test_views_of_one_storage_are_no_damage(shared_checkpoints: Path) -> None:
    path = shared_checkpoints / "torch-storage-view" / "storage_view.legacy.pt"
    refused(path, True, "holds a tuple, not a state dict")


# ---------------------------------------------------------------------------------------------------------------- luck


def bytes_of(stream: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": tensors(), "epoch": 3}, buffer, _use_new_zipfile_serialization=not stream)
    return buffer.getvalue()


@hypothesis.settings(max_examples=150, deadline=None, derandomize=True, database=None)
@hypothesis.given(
    stream=st.booleans(),
    mmap=st.booleans(),
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4),
    length=st.one_of(st.just(1.0), st.floats(0, 1)),
)
def test_a_damaged_file_is_refused_or_read_never_a_crash(
    stream: bool, mmap: bool, edits: list[tuple[float, int]], length: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = bytearray(bytes_of(stream))
    for place, byte in edits:
        data[int(place * len(data))] = byte
    path = tmp_path_factory.getbasetemp() / "damaged.pt"
    path.write_bytes(data[: int(length * len(data))])
    try:
        container = open_container(path, mmap)
    except CheckpointError:
        return
    for stored in container.tensors.values():
        tensor = stored.read()
        assert tuple(tensor.shape) == stored.shape
        assert tensor.nbytes <= len(data)
