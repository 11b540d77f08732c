"""Flax, TensorFlow 2 and MLX: files that transformers 4 and mlx-lm leave behind, and what HDF5, MessagePack, zip allow.

Files of transformers 4 itself were read once, with 12 layers, every weight perturbed, tied and untied (Flax), with and
without a head (`TFGPT2Model`, `FlaxGPT2Model`), as `tf_model.h5` and as safetensors with TensorFlow's names:

    python -m venv old && old/bin/pip install transformers==4.57.6 tensorflow-cpu tf_keras flax safetensors
    TF_USE_LEGACY_KERAS=1 USE_TORCH=0 old/bin/python
    model = TFGPT2LMHeadModel(config); model(ids)                             # its weights exist after the first call
    model.set_weights([w + 0.2 * rng.randn(*w.shape) for w in model.get_weights()])
    model.save_pretrained("tf")                                               # safe_serialization=True: safetensors
    model = FlaxGPT2LMHeadModel(config)
    model.params = jax.tree_util.tree_map(lambda w: w + 0.2 * rng.randn(*w.shape).astype(w.dtype), model.params)
    model.save_pretrained("flax")

Their logits and ours, from these files, were up to 5.5e-6 apart, of 6.
"""

import io
import resource
import shutil
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import msgpack
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from transformers import GPT2LMHeadModel

from gpt2_from_scratch import GPTModel
from gpt2_from_scratch.checkpoint import open_container
from gpt2_from_scratch.errors import CheckpointError, FormatError
from gpt2_from_scratch.loading import open_checkpoint
from tests import forms
from tests.perturbed import perturbed


@pytest.fixture(scope="module")
def weights(perturbed_reference: GPT2LMHeadModel) -> forms.Arrays:
    return forms.weights(perturbed_reference)


def write_flax(path: Path, weights: forms.Arrays) -> None:
    path.write_bytes(forms.flax_bytes(forms.flax_tree(weights)))


def write_flax_base(path: Path, weights: forms.Arrays) -> None:
    path.write_bytes(forms.flax_bytes(forms.flax_tree(weights)["transformer"]))


def write_keras(path: Path, weights: forms.Arrays) -> None:
    forms.write_keras(path, forms.keras_arrays(weights))


def write_old_keras(path: Path, weights: forms.Arrays) -> None:
    """As the official files: another instance's name, and the token embedding called `weight`."""
    forms.write_keras(path, forms.keras_arrays(weights, "weight:0"), instance="tfgp_t2lm_head_model_1")


def write_keras_safetensors(path: Path, weights: forms.Arrays) -> None:
    save_file({f"transformer/{name}": a for name, a in forms.keras_arrays(weights).items()}, path, {"format": "tf"})


def write_mlx(path: Path, weights: forms.Arrays) -> None:
    np.savez(path, **forms.mlx_arrays(weights))


def write_mlx_safetensors(path: Path, weights: forms.Arrays) -> None:
    save_file(forms.mlx_arrays(weights), path, {"format": "mlx"})


def write_hf_npz(path: Path, weights: forms.Arrays) -> None:
    """By hand, under Hugging Face's names and orientation."""
    np.savez(path, **weights)


WRITERS: dict[str, tuple[str, Callable[[Path, forms.Arrays], None], str, str]] = {
    "flax": ("flax_model.msgpack", write_flax, "flax", "Flax MessagePack"),
    "flax, no head": ("flax_model.msgpack", write_flax_base, "flax", "Flax MessagePack"),
    "keras": ("tf_model.h5", write_keras, "tf_keras", "Keras HDF5"),
    "keras, old": ("tf_model.h5", write_old_keras, "tf_keras", "Keras HDF5"),
    "keras, safetensors": ("model.safetensors", write_keras_safetensors, "tf_keras", "safetensors"),
    "mlx": ("weights.npz", write_mlx, "mlx", "numpy archive"),
    "mlx, safetensors": ("model.safetensors", write_mlx_safetensors, "mlx", "safetensors"),
    "npz of Hugging Face's": ("weights.npz", write_hf_npz, "huggingface", "numpy archive"),
}


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("kind", WRITERS)
def test_a_directory_loads_with_the_logits_of_transformers(
    tmp_path: Path, perturbed_reference: GPT2LMHeadModel, weights: forms.Arrays, kind: str, mmap: bool
):
    name, write, layout, form = WRITERS[kind]
    forms.save_config(perturbed_reference, tmp_path)
    write(tmp_path / name, weights)
    model = GPTModel.from_pretrained(tmp_path, mmap=mmap)
    forms.assert_same_model(model, perturbed_reference)
    assert (model.load_report.layout, model.load_report.form) == (layout, form)


def test_quantised_weights_of_mlx_are_called_by_their_name(
    tmp_path: Path, perturbed_reference: GPT2LMHeadModel, weights: forms.Arrays
):
    forms.save_config(perturbed_reference, tmp_path)
    packed = {"model.h.0.mlp.c_fc.scales": np.ones((89, 1), np.float16)}
    save_file(forms.mlx_arrays(weights) | packed, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="hint: MLX-quantised weights: load the unquantised checkpoint"):
        open_checkpoint(tmp_path)


def test_an_untied_head_of_flax_is_in_out(tmp_path: Path):
    reference = perturbed(n_layer=2, tie_word_embeddings=False).requires_grad_(False)
    forms.save_config(reference, tmp_path)
    write_flax(tmp_path / "flax_model.msgpack", forms.weights(reference))
    forms.assert_same_model(GPTModel.from_pretrained(tmp_path), reference)


@pytest.mark.parametrize("kind", WRITERS)
def test_no_cut_of_a_file_is_taken_for_whole(tmp_path: Path, weights: forms.Arrays, kind: str):
    name, write, _, _ = WRITERS[kind]
    write(tmp_path / name, weights)
    data = (tmp_path / name).read_bytes()
    for length in [1, 10, 100, 1000, 3000, len(data) // 2, len(data) - 1000, len(data) - 1]:
        (tmp_path / name).write_bytes(data[:length])
        with pytest.raises(CheckpointError):
            open_container(tmp_path / name)


# -------------------------------------------------------------------------------------------------------------- Flax


def extension(shape: Any, dtype: Any = "float32", data: Any = bytes(24), code: int = 1) -> msgpack.ExtType:
    return msgpack.ExtType(code, msgpack.packb((shape, dtype, data)))


def nested(depth: int) -> bytes:
    return b"\x81\xa1a" * depth + b"\x80"


CHUNKS = {"__msgpack_chunked_array__": True, "shape": {"0": 6}, "chunks": {"0": extension((6,))}}
FLAX_HOSTILE: dict[str, tuple[bytes, str]] = {
    "bytes behind": (msgpack.packb({"a": extension((2, 3))}) + b"more", "4 bytes behind"),
    "twice": (b"\x82" + 2 * (b"\xa1a" + msgpack.packb(extension((6,)))), "key 'a' stands twice"),
    "a slash": (msgpack.packb({"a/b": extension((6,))}), "or has a slash"),
    "many keys": (b"\xdf\xff\xff\xff\xff\xa1a\xc0", "'' holds 4,294,967,295 entries; at most 4,000 are read"),
    "more keys than there are": (b"\xde\x0f\xa0\xa1a" + msgpack.packb(extension((6,))), "ends too early"),
    "keys within keys": (
        msgpack.packb({"a": {str(n): extension((0,), data=b"") for n in range(4_000)}, "b": {"c": 1}}),
        "'b' holds 4,001 entries",
    ),
    "an empty dictionary": (msgpack.packb({"a": {"b": {}}}), "'a/b' is an empty dictionary"),
    "empty, and larger than anything": (msgpack.packb({"a": extension((0, 1 << 63), data=b"")}), "is said to be"),
    "deep": (nested(10_000), "nested too deep"),
    "long key": (b"\x81\xa1a\x81\xdb\xff\xff\xff\xff", "no name before byte"),
    "key is no text": (b"\x81\xa1a\x81\xa2\xff\xfe\xc0", "no text before byte"),
    "key is a number": (b"\x81\xa1a\x81\x05\xc0", "no name before byte"),
    "a number": (msgpack.packb({"a": 5}), "'a' is neither a dictionary nor an array"),
    "a fraction": (b"\x81\xa1a\xca" + bytes(4), r"'a' is neither a dictionary nor an array \(code 0xca\)"),
    "a list": (msgpack.packb({"a": {"b": [1, 2]}}), "'a/b' is neither"),
    "complex numbers": (msgpack.packb({"a": extension((6,), code=2)}), "'a' is an extension of type 2"),
    "a timestamp": (msgpack.packb({"a": msgpack.ExtType(5, b"12345678")}), "'a' is an extension of type 5"),
    "chunks": (msgpack.packb({"a": CHUNKS}), "'a' is split into chunks"),
    "integers": (msgpack.packb({"a": extension((3,), "int64")}), "'a' holds int64; weights are float64"),
    "many dimensions": (msgpack.packb({"a": extension((1,) * 65)}), "too many dimensions"),
    "uncounted dimensions": (b"\x81\xa1a\xc7\x08\x01\x93\xdd\xff\xff\xff\xff\xa0\xc0", "has no shape"),
    "shape is no list": (msgpack.packb({"a": extension("ab")}), "has no shape"),
    "negative": (msgpack.packb({"a": extension((-6,))}), "no size before byte"),
    "overflow": (msgpack.packb({"a": extension((1 << 63, 2))}), "has 24 bytes"),
    "product overflows to the size": (msgpack.packb({"a": extension((1 << 32, 1 << 32, 6))}), "has 24 bytes"),
    "size against shape": (msgpack.packb({"a": extension((7,))}), r"'a', \[7\] of float32, has 24 bytes"),
    "payload too short": (b"\x81\xa1a\xc7\x05" + msgpack.packb(extension((6,)))[2:], "has 24 bytes|is damaged"),
    "payload longer than the file": (b"\x81\xa1a\xc9\xff\xff\xff\xff\x01\x93", "ends too early"),
    "numbers longer than the file": (
        b"\x81\xa1a\xc7\xff\x01\x93\x91\x06\xa7float32\xc6\xff\xff\xff\xff",
        "ends too early",
    ),
    "numbers are text": (msgpack.packb({"a": extension((6,), data="x" * 24)}), "'a' has no bytes"),
    "not three things": (msgpack.packb({"a": msgpack.ExtType(1, msgpack.packb((1, 2)))}), "not an array of Flax's"),
}


@pytest.mark.parametrize("kind", FLAX_HOSTILE)
def test_a_hostile_message_pack_is_refused(tmp_path: Path, kind: str):
    data, complaint = FLAX_HOSTILE[kind]
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(FormatError, match=complaint):
        open_container(tmp_path / "x")


@pytest.mark.parametrize("start", [b"\x81", b"\xde\x00\x01", b"\xdf\x00\x00\x00\x01"])
def test_dictionaries_of_all_widths_are_recognised_and_read(tmp_path: Path, start: bytes):
    (tmp_path / "x").write_bytes(start + b"\xa1a" + msgpack.packb(extension((6,))))
    assert open_container(tmp_path / "x").shapes == {"a": (6,)}


def test_all_widths_of_numbers_come_back(tmp_path: Path):
    arrays = {str(size): np.random.default_rng(size).normal(size=(size, 1)) for size in (1, 127, 128, 255, 256, 65_536)}
    (tmp_path / "x").write_bytes(forms.flax_bytes(arrays))
    for name, tensor in open_container(tmp_path / "x").tensors.items():
        assert torch.equal(tensor.read(), torch.from_numpy(arrays[name]))


# -------------------------------------------------------------------------------------------------------------- HDF5


def outside(file: h5py.File, folder: Path) -> None:
    """The bytes of another file as weights."""
    (folder / "secret").write_bytes(b"secret" * 4)
    file.create_dataset("w", shape=(6,), dtype="<f4", external=[(str(folder / "secret"), 0, 24)])


def virtual(file: h5py.File, folder: Path) -> None:
    with h5py.File(folder / "other.h5", "w") as other:
        other["w"] = np.zeros(6, np.float32)
    layout = h5py.VirtualLayout(shape=(6,), dtype="<f4")
    layout[:] = h5py.VirtualSource(folder / "other.h5", "w", shape=(6,))
    file.create_virtual_dataset("w", layout)


def external_link(file: h5py.File, folder: Path) -> None:
    with h5py.File(folder / "other.h5", "w") as other:
        other["w"] = np.zeros(6, np.float32)
    file["w"] = h5py.ExternalLink(str(folder / "other.h5"), "w")


def soft_link(file: h5py.File, folder: Path) -> None:
    file["v"] = np.zeros(6, np.float32)
    file["w"] = h5py.SoftLink("/v")


def dangling_link(file: h5py.File, folder: Path) -> None:
    file["w"] = h5py.SoftLink("/nowhere")


def hard_link(file: h5py.File, folder: Path) -> None:
    file["v"] = np.zeros(6, np.float32)
    file["w"] = file["v"]


def cycle(file: h5py.File, folder: Path) -> None:
    group = file.create_group("g")
    group["again"] = group


def deep(file: h5py.File, folder: Path) -> None:
    file.create_dataset("/".join("g" * 40), data=np.zeros(6, np.float32))


def sparse(file: h5py.File, folder: Path) -> None:
    """Four terabytes in a kilobyte."""
    file.create_dataset("w", shape=(1 << 40,), dtype="<f4")


def chunked(file: h5py.File, folder: Path) -> None:
    file.create_dataset("w", shape=(1 << 40,), dtype="<f4", chunks=(1 << 10,))


def compressed(file: h5py.File, folder: Path) -> None:
    file.create_dataset("w", data=np.zeros(1 << 20, np.float32), compression="gzip")


def compact(file: h5py.File, folder: Path) -> None:
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.COMPACT)
    space = h5py.h5s.create_simple((6,))
    h5py.h5d.create(file.id, b"w", h5py.h5t.IEEE_F32LE, space, properties)


def big_endian(file: h5py.File, folder: Path) -> None:
    file["w"] = np.zeros(6, ">f4")


def strings(file: h5py.File, folder: Path) -> None:
    file["w"] = ["a", "b"]


def nothing(file: h5py.File, folder: Path) -> None:
    file["w"] = h5py.Empty("<f4")


def named_type(file: h5py.File, folder: Path) -> None:
    file["w"] = np.dtype("<f4")


def crowd(file: h5py.File, folder: Path) -> None:
    for number in range(2_600):
        file.create_group(str(number))


def two_of_one_name(file: h5py.File, folder: Path) -> None:
    for instance in ("a", "b"):
        file[f"transformer/{instance}/transformer/wte/weight:0"] = np.zeros(6, np.float32)


def no_layers(file: h5py.File, folder: Path) -> None:
    del file.attrs["layer_names"]
    file["layers/reversible_embedding/vars/0"] = np.zeros(6, np.float32)


H5_HOSTILE: dict[Callable[[h5py.File, Path], None], str] = {
    outside: "'/w' is compressed, in pieces, or in another file",
    virtual: "'/w' is compressed, in pieces, or in another file",
    external_link: "'/w' is a link, perhaps to another file",
    soft_link: "'/w' is a link",
    dangling_link: "'/w' is a link",
    hard_link: "'/w' is reached twice",
    cycle: "'/g/again' is reached twice",
    deep: "nested too deep",
    crowd: "or one of too many",
    sparse: "'/w' has holes: 4,398,046,511,104 bytes announced, 0 stored",
    chunked: "'/w' is compressed, in pieces",
    compressed: "'/w' is compressed, in pieces",
    compact: "'/w' is compressed, in pieces",
    big_endian: "'/w' has dtype >f4",
    strings: "'/w' has dtype",
    nothing: "is a damaged HDF5 file|'/w'",
    named_type: "'/w' is neither a group nor a data set",
    two_of_one_name: "holds 'transformer/wte/weight:0' twice",
    no_layers: r"it has no layer_names\n  hint: a Keras 3 \(keras-hub\) file",
}


@pytest.mark.parametrize("make", H5_HOSTILE, ids=lambda make: make.__name__)
def test_a_hostile_hdf5_file_is_refused(tmp_path: Path, make: Callable[[h5py.File, Path], None]):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.attrs["layer_names"] = [b"transformer"]
        make(file, tmp_path)
    with pytest.raises(FormatError, match=H5_HOSTILE[make]):
        open_container(tmp_path / "x.h5")


def test_flipped_bytes_of_hdf5s_structure_raise_nothing_else(tmp_path: Path, weights: forms.Arrays):
    write_keras(tmp_path / "x.h5", {name: a for name, a in weights.items() if not name.startswith("h.")})
    data = (tmp_path / "x.h5").read_bytes()
    random = np.random.default_rng(3)
    for at in random.integers(8, 3_000, 100):
        broken = bytearray(data)
        broken[at] ^= 1 << random.integers(8)
        (tmp_path / "x.h5").write_bytes(broken)
        try:
            container = open_container(tmp_path / "x.h5")
        except CheckpointError:
            continue
        for tensor in container.tensors.values():
            tensor.read()


def test_without_h5py_the_error_says_what_to_install(
    tmp_path: Path, weights: forms.Arrays, monkeypatch: pytest.MonkeyPatch
):
    write_keras(tmp_path / "x.h5", weights)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(
        CheckpointError, match=r'`h5py`.* is not installed\n  hint: pip install "gpt2_from_scratch\[hdf5\]"'
    ):
        open_container(tmp_path / "x.h5")


# --------------------------------------------------------------------------------------------------------------- npz


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, array)
    return out.getvalue()


def npy_header(dtype: str, shape: str) -> bytes:
    """A header, and 24 bytes of data."""
    raw = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(374) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(raw)) + raw + bytes(24)


def member(name: str, data: bytes, **how: Any) -> Callable[[zipfile.ZipFile], None]:
    return lambda archive: archive.writestr(name, data, **how)


FLOATS = npy(np.zeros(6, np.float32))
NPZ_HOSTILE: dict[str, tuple[Callable[[zipfile.ZipFile], None], str]] = {
    "compressed": (
        member("b.npy", npy(np.zeros(1 << 20, np.float32)), compress_type=zipfile.ZIP_DEFLATED),
        r"'b.npy' is compressed\n  hint: save with savez",
    ),
    "not an array": (member("data.pkl", b"cos\nsystem\n."), "'data.pkl' is not a .npy file"),
    "objects": (member("b.npy", npy_header("'|O'", "(3,)")), r"has dtype \|O"),
    "integers": (member("b.npy", npy(np.zeros(3, np.uint8))), r"has dtype \|u1"),
    "bfloat16": (member("b.npy", npy(np.zeros(3, "V2"))), "numpy has no bfloat16"),
    "big-endian": (member("b.npy", npy(np.zeros(3, ">f4"))), "has dtype >f4"),
    "records": (member("b.npy", npy(np.zeros(3, [("x", "<f4")]))), "does not give dtype, order and shape"),
    "Fortran": (member("b.npy", npy(np.asfortranarray(np.zeros((3, 2), np.float32)))), "is in Fortran order"),
    "too large": (member("b.npy", npy_header("'<f4'", "(7,)")), "does not take 24 bytes"),
    "overflow": (member("b.npy", npy_header("'<f4'", "(4294967296, 4294967296, 6)")), "does not take 24 bytes"),
    "many dimensions": (member("b.npy", npy_header("'<f4'", f"({'1, ' * 65})")), "does not take 24 bytes"),
    "negative": (member("b.npy", npy_header("'<f4'", "(-2, -3)")), "does not give dtype, order and shape"),
    "a program": (member("b.npy", npy_header("__import__('os').abort()", "(6,)")), "does not give dtype"),
    "another version": (member("b.npy", b"\x93NUMPY\x02\x00" + bytes(30)), r"not of version 1\.0"),
    "no array at all": (member("b.npy", bytes(100)), "is no array of numpy's"),
    "header longer than the file": (member("b.npy", b"\x93NUMPY\x01\x00\xff\xff{"), "ends too early"),
}


@pytest.mark.parametrize("kind", NPZ_HOSTILE)
def test_a_hostile_archive_is_refused(tmp_path: Path, kind: str):
    add, complaint = NPZ_HOSTILE[kind]
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", FLOATS)
        add(archive)
    with pytest.raises(FormatError, match=complaint):
        open_container(tmp_path / "x.npz")


def test_members_that_stand_twice_or_lie_over_each_other_are_refused(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", FLOATS)
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a.npy", FLOATS)
    with pytest.raises(FormatError, match="stands there twice"):
        open_container(tmp_path / "x.npz")
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", FLOATS)
        archive.writestr("b.npy", FLOATS)
        archive.getinfo("b.npy").header_offset = 0  # as zip bombs do it
    with pytest.raises(FormatError, match=r"'[ab]' overlaps '[ab]'"):
        open_container(tmp_path / "x.npz")


def test_what_mlx_writes_is_read(tmp_path: Path):
    # Its headers have no comma behind the shape, and are not padded.
    raw = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3, )}"
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(raw)) + raw + bytes(24))
    assert open_container(tmp_path / "x.npz").shapes == {"a": (2, 3)}


def test_the_hostile_archives_would_pass_without_what_makes_them_hostile(tmp_path: Path):
    np.savez(tmp_path / "x.npz", a=np.zeros(6, np.float32), b=np.ones((2, 3), np.float16), c=np.float64(3))
    tensors = open_container(tmp_path / "x.npz").tensors
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()} == {
        "a": ((6,), torch.float32),
        "b": ((2, 3), torch.float16),
        "c": ((), torch.float64),
    }
    assert tensors["c"].read().item() == 3


# ------------------------------------------------------------------------------------------------------- directories


def test_transformers_own_files_come_first(
    tmp_path: Path, perturbed_checkpoint: Path, perturbed_reference: GPT2LMHeadModel, weights: forms.Arrays
):
    shutil.copytree(perturbed_checkpoint, tmp_path / "all")
    write_keras(tmp_path / "all" / "tf_model.h5", weights)
    write_flax(tmp_path / "all" / "flax_model.msgpack", weights)
    assert open_checkpoint(tmp_path / "all").container.form == "safetensors"
    (tmp_path / "all" / "model.safetensors").unlink()
    assert open_checkpoint(tmp_path / "all").container.form == "Keras HDF5"


@pytest.mark.skipif(sys.platform != "linux", reason="the bound is Linux's")
def test_the_library_cannot_allocate_what_a_file_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import h5py

    path = tmp_path / "tf_model.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = ["transformer"]
        file["a"] = 1.0
    before = resource.getrlimit(resource.RLIMIT_AS)
    monkeypatch.setattr(h5py.h5o, "get_info", lambda _: bytearray(1_000_000_000))
    with pytest.raises(FormatError, match="damaged HDF5 file: MemoryError"):
        open_container(path)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
