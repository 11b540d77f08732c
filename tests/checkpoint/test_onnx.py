"""ONNX graphs: one that PyTorch exported, and hostile ones. Those that ONNX itself wrote: `tests/test_oracles.py`."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gpt2_from_scratch import CheckpointError, GPTModel, open_checkpoint
from gpt2_from_scratch.checkpoint import locate, open_container
from gpt2_from_scratch.errors import FormatError
from tests.forms import bytes_field, proto, varint
from tests.oracles.source import FILES, SOURCE

FLOAT, INT64 = 1, 7


def initialiser(shape: tuple[int, ...] = (2, 3), kind: int = FLOAT, name: bytes = b"w", **fields: bytes | int) -> bytes:
    """A `TensorProto`; its other fields are given as ``f9=...``."""
    dims = b"".join(varint(8) + varint(size) for size in shape)
    return dims + proto({2: kind, 8: name}) + proto({int(key[1:]): value for key, value in fields.items()})


def outside(location: str, **numbers: str) -> bytes:
    """The fields of a `TensorProto` that say where its values are, outside the graph."""
    pairs = {"location": location} | numbers
    entries = [proto({1: key.encode(), 2: value.encode()}) for key, value in pairs.items()]
    return b"".join(bytes_field(13, entry) for entry in entries) + proto({14: 1})


def graph(path: Path, *initialisers: bytes) -> Path:
    content = b"".join(bytes_field(5, each) for each in initialisers)
    path.write_bytes(proto({1: 10, 2: b"test", 7: content}))
    return path


def test_what_torch_exports_opens_with_the_options_that_the_error_gives() -> None:
    folder = FILES / "onnx_exported"
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder)
    model = GPTModel.from_pretrained(folder, **caught.value.options)
    expected = load_file(SOURCE / "model.safetensors")
    found = dict(model.named_parameters())
    assert found.keys() == expected.keys()
    assert not [name for name in expected if not torch.equal(found[name], expected[name])]
    container = open_checkpoint(folder, **caught.value.options).container
    assert [file.name for file in container.files] == ["model.onnx", "model.onnx.data"]
    assert any("constants of the graph" in note for note in container.notes)


def test_a_graph_is_opened_only_where_there_is_nothing_else(tmp_path: Path) -> None:
    graph(tmp_path / "model.onnx", initialiser(f9=bytes(24)))
    torch.save({"w": torch.ones(2, 3)}, tmp_path / "weights.pt")
    assert locate(tmp_path).weights.name == "weights.pt"


def test_values_in_a_list_and_outside_the_graph(tmp_path: Path) -> None:
    values = torch.arange(6.0).view(2, 3)
    data = values.numpy().tobytes()
    (tmp_path / "data").write_bytes(bytes(8) + data)
    path = graph(
        tmp_path / "m.onnx",
        initialiser(name=b"inside", f9=data),
        initialiser(name=b"list", f4=data),
        initialiser(name=b"outside") + outside("data", offset="8", length="24"),
        initialiser((), name=b"number", f9=bytes(4)),
        initialiser((4,), INT64, b"shape", f9=bytes(32)),
    )
    for mmap in (True, False):
        tensors = open_container(path, mmap).tensors
        assert list(tensors) == ["inside", "list", "outside"]
        assert all(torch.equal(tensor.read(), values) for tensor in tensors.values())


HOSTILE = {
    "a path that leads out": (initialiser() + outside("../secret", length="24"), "not a plain file name"),
    "an absolute path": (initialiser() + outside("/etc/passwd", length="24"), "not a plain file name"),
    "no path": (initialiser() + outside("", length="24"), "not a plain file name"),
    "a file that is not there": (initialiser() + outside("nowhere", length="24"), "is not there"),
    "data behind the file's end": (initialiser() + outside("m.onnx", offset="99999", length="24"), "truncated"),
    "a length that is none": (initialiser() + outside("m.onnx", length="-24"), "gives no place"),
    "a place before the file": (initialiser() + outside("m.onnx", offset="-1", length="24"), "gives no place"),
    "more values than bytes": (initialiser((2**40, 3), f9=bytes(24)), "does not take 24 bytes"),
    "an empty tensor of any size": (initialiser((2**40, 0), f9=b""), "is said to be"),
    "too many dimensions": (initialiser((1,) * 65, f9=bytes(4)), "more than 64 dimensions"),
    "an unknown type": (initialiser(kind=8, f9=bytes(24)), "data type 8"),
    "numbers of another type in the list": (initialiser(kind=10, f5=bytes(6)), "a list of another type"),
    "no values": (initialiser(), "a list of another type, or none"),
    "no name": (initialiser(name=b"", f9=bytes(24)), "unprintable name, or none"),
    "a name that writes to the terminal": (initialiser(name=b"\x1b[2J", f9=bytes(24)), "unprintable"),
    "two of one name": (initialiser(f9=bytes(24)), "is there twice"),
    "no message": (b"\x0f", "unknown kind"),
    "a message without end": (b"\x0a\xff\x01", "ends too early"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_graph_is_refused(what: str, tmp_path: Path) -> None:
    message, why = HOSTILE[what]
    copies = 2 if what == "two of one name" else 1
    with pytest.raises(FormatError, match=why):
        open_container(graph(tmp_path / "m.onnx", *[message] * copies))


def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "secret").write_bytes(bytes(24))
    (tmp_path / "folder" / "data").symlink_to(tmp_path / "secret")
    with pytest.raises(FormatError, match="a link to"):
        open_container(graph(tmp_path / "folder" / "m.onnx", initialiser() + outside("data", length="24")))


def test_a_graph_of_more_fields_than_any_gpt2_has_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(proto({1: 10, 2: b"test", 7: b"\x08\x01" * 100_001}))
    with pytest.raises(FormatError, match="over 100,000 fields"):
        open_container(tmp_path / "m.onnx")
