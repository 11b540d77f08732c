"""OpenAI's form: the real index of 124M, files of an independent writer, and every way in which they can be damaged.

The files that `tensor_bundle.write` makes were opened once by TensorFlow itself, and its own were the same:

    python -m venv tf && tf/bin/pip install tensorflow-cpu        # 2.21.0
    import tensorflow as tf
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, array in variables.items():                     # of `forms.openai_variables`
            tf.compat.v1.get_variable(name, initializer=array)
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, "theirs/model.ckpt")
    reader = tf.train.load_checkpoint("ours/model.ckpt")          # reader.get_tensor(name) == variables[name]

Index and data of both were byte for byte the same. TensorFlow also opened what `forms.write_bundle` writes, with two
data files and a compressed index of several blocks, so that the tests below read what TensorFlow could read.
"""

import json
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

from gpt2_from_scratch import GPTConfig, GPTModel
from gpt2_from_scratch.checkpoint import Container, StoredTensor, open_container, tensor_bundle
from gpt2_from_scratch.converting import TARGETS
from gpt2_from_scratch.errors import CheckpointError, ConfigError, FormatError
from gpt2_from_scratch.layouts import LAYOUTS
from gpt2_from_scratch.loading import open_checkpoint
from gpt2_from_scratch.mapping import write_theirs
from tests import forms
from tests.perturbed import perturbed

INDEX, DATA = "model.ckpt.index", "model.ckpt.data-00000-of-00001"


@pytest.fixture(scope="module")
def reference() -> GPT2LMHeadModel:
    """Inner width 4 E, as OpenAI's code has it."""
    return perturbed(n_inner=None).requires_grad_(False)


@pytest.fixture(scope="module")
def weights(reference: GPT2LMHeadModel) -> forms.Arrays:
    return forms.weights(reference)


@pytest.fixture(scope="module")
def written(weights: forms.Arrays, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared: leave it as it is, copy it to change it."""
    return forms.write_openai(tmp_path_factory.mktemp("openai") / "models", weights, n_head=4)


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return shutil.copytree(written, tmp_path / "copy")


# ----------------------------------------------------------------------------------------------- the real index, 124M


@pytest.fixture
def official(shared_checkpoints: Path) -> Path:
    return shared_checkpoints / "openai-124M-index"


@pytest.fixture
def real(official: Path, tmp_path: Path) -> Path:
    """OpenAI's index and hparams.json, with a data file that is all hole."""
    shutil.copytree(official, tmp_path / "124M")
    with (tmp_path / "124M" / DATA).open("wb") as file:
        file.truncate(497_759_232)
    return tmp_path / "124M"


def test_the_real_index_names_all_tensors_of_124m_and_their_places(real: Path):
    checkpoint = open_checkpoint(real)
    assert checkpoint.config == GPTConfig.for_size("124M")
    assert checkpoint.layout.name == "openai"
    assert len(checkpoint.container.tensors) == len(checkpoint.tensors) == 148
    assert checkpoint.container.form == "TensorFlow checkpoint"
    assert [path.name for path in checkpoint.container.files] == [INDEX, DATA]


# Published checksums of some tensors of 124M, as they stand in the index.
CHECKSUMS = {
    "model/wte": "4d2535d3",
    "model/wpe": "670cc426",
    "model/ln_f/b": "33c8b506",
    "model/h0/attn/c_attn/w": "431af1dd",
    "model/h2/mlp/c_proj/b": "d4554604",
    "model/h10/ln_1/g": "6530d03f",
    "model/h11/attn/c_proj/w": "d9f90997",
}


@pytest.mark.parametrize(("name", "checksum"), CHECKSUMS.items())
def test_data_that_are_not_124m_are_refused_by_the_real_checksums(real: Path, name: str, checksum: str):
    tensor = open_container(real / INDEX).tensors[name]
    with pytest.raises(FormatError, match=f"tensor '{name}' is damaged: .* the index says {checksum}"):
        tensor.read()


def test_all_published_checksums_and_places_are_those_of_the_index(official: Path):
    table = official.parents[1] / "spec" / "gpt2_124M_crc32c.tsv"
    if not table.is_file():
        pytest.skip(f"no table at {table}")
    _, entries = tensor_bundle._read_index(official / INDEX)
    rows = [line.split("\t") for line in table.read_text().splitlines() if line.startswith("model/")]
    found = [
        [name, str(list(e.shape)), "dt1", f"off={e.offset}", f"size={e.size}", f"crc32c={e.crc:08x}"]
        for name, e in entries.items()
    ]
    assert found == rows
    assert len(rows) == 148


def test_the_real_index_written_again_is_the_same_byte_by_byte(official: Path):
    _, entries = tensor_bundle._read_index(official / INDEX)
    assert tensor_bundle._index(entries) == (official / INDEX).read_bytes()


# ------------------------------------------------------------------------------------------------------------ reading


@pytest.mark.parametrize("mmap", [True, False])
def test_a_directory_loads_with_the_logits_of_transformers(written: Path, reference: GPT2LMHeadModel, mmap: bool):
    model = GPTModel.from_pretrained(written, mmap=mmap)
    forms.assert_same_model(model, reference)
    assert model.load_report.layout == "openai"


def same(container: Container, variables: forms.Arrays) -> None:
    assert container.tensors.keys() == variables.keys()
    for name, tensor in container.tensors.items():
        assert torch.equal(tensor.read(), torch.from_numpy(variables[name]))


@pytest.mark.parametrize("name", [INDEX, DATA])
def test_index_and_data_file_lead_to_the_same_checkpoint(written: Path, weights: forms.Arrays, name: str):
    same(open_container(written / name), forms.openai_variables(weights))


@pytest.mark.parametrize(
    "how",
    [{"shards": 3}, {"compressed": True}, {"per_block": 10}, {"shards": 2, "compressed": True, "per_block": 7}],
    ids=str,
)
def test_data_files_blocks_and_compression_change_nothing(tmp_path: Path, weights: forms.Arrays, how: dict[str, int]):
    variables = {name: a for name, a in forms.openai_variables(weights).items() if re.match(r"model/h1?[01]/", name)}
    forms.write_bundle(tmp_path / "model.ckpt", variables, **how)
    same(open_container(tmp_path / INDEX), variables)


def test_all_dtypes_come_back(tmp_path: Path):
    variables = {name: np.arange(6).astype(name).reshape(2, 3) for name in forms.TF_DTYPES}
    forms.write_bundle(tmp_path / "model.ckpt", variables | {"scalar": np.array(7)})
    same(open_container(tmp_path / INDEX), variables | {"scalar": np.array(7)})


# From the description of the format, and one of each kind of copy. A copy may reach into its own output.
SNAPPY = {
    "literal": (b"\x03\x08abc", b"abc"),
    "long literal": (b"\x64\xf0\x63" + b"x" * 100, b"x" * 100),
    "longer literal": (b"\xac\x02\xf4\x2b\x01" + b"y" * 300, b"y" * 300),
    "copy with one byte of offset": (b"\x0a\x0cabcd\x09\x04", b"abcdabcdab"),
    "copy with two": (b"\x0a\x0cabcd\x16\x04\x00", b"abcdabcdab"),
    "copy with four": (b"\x0a\x0cabcd\x17\x04\x00\x00\x00", b"abcdabcdab"),
    "run": (b"\x0b\x00z\x26\x01\x00", b"z" * 11),
}


@pytest.mark.parametrize("kind", SNAPPY)
def test_snappy(kind: str):
    compressed, plain = SNAPPY[kind]
    assert tensor_bundle._unsnap(compressed, "x") == plain


@pytest.mark.parametrize(
    ("compressed", "complaint"),
    [
        (b"\x05\x08abc", "has 3 bytes, not 5"),
        (b"\x03\x10abc", "ends too early"),
        (b"\x07\x08abc\x16\x04\x00", "from 4 bytes back, of 3"),
        (b"\x07\x08abc\x16\x00\x00", "from 0 bytes back"),
        # 64 bytes for every 3: it stops at the limit of an index, long before a gigabyte.
        (b"\x80\x80\x80\x80\x04\x00z" + b"\xfe\x01\x00" * 50_000, "has 262,.* bytes, not 1,073,741,824"),
    ],
)
def test_damaged_snappy_is_refused(compressed: bytes, complaint: str):
    with pytest.raises(FormatError, match=complaint):
        tensor_bundle._unsnap(compressed, "x")


def test_state_of_the_optimizer_is_left_out_by_name(tmp_path: Path, weights: forms.Arrays):
    variables = forms.openai_variables(weights)
    slots = {f"{name}/{slot}": np.zeros(1, np.float32) for name in variables for slot in ("Adam", "Adam_1")}
    numbers = {"beta1_power": np.float32(0.9), "beta2_power": np.float32(0.999), "global_step": np.array(5)}
    forms.write_openai(tmp_path, weights, n_head=4)
    forms.write_bundle(tmp_path / "model.ckpt", variables | slots | {k: np.array(v) for k, v in numbers.items()})
    report = GPTModel.from_pretrained(tmp_path).load_report
    assert len(report.loaded) == 148
    assert set(report.ignored) == slots.keys() | numbers.keys()
    forms.write_bundle(tmp_path / "model.ckpt", variables | {"model/h0/attn/adam": np.zeros(3, np.float32)})
    with pytest.raises(CheckpointError, match=r"unexpected \(1\): model/h0/attn/adam"):
        open_checkpoint(tmp_path)


def test_the_checkpoint_that_was_saved_last_is_taken(written: Path, tmp_path: Path, weights: forms.Arrays):
    for step in (100, 20):
        forms.write_bundle(tmp_path / f"model-{step}", {"model/wte": np.full(3, step, np.float32)})
    with pytest.raises(CheckpointError, match=r"holds 2 checkpoints: model-100.index, model-20.index"):
        tensor_bundle.index_in(tmp_path)
    # With the path of the machine that trained, and line ends of Windows.
    (tmp_path / "checkpoint").write_bytes(
        b'model_checkpoint_path: "C:\\runs\\model-20"\r\nall_model_checkpoint_paths: ""\r\n'
    )
    assert tensor_bundle.index_in(tmp_path) == tmp_path / "model-20.index"
    (tmp_path / "checkpoint").write_bytes(b'model_checkpoint_path: "/a/b/model-100"\n')
    assert tensor_bundle.index_in(tmp_path) == tmp_path / "model-100.index"
    assert tensor_bundle.index_in(written) == written / INDEX
    assert tensor_bundle.index_in(tmp_path / "nothing") is None


def test_an_index_of_something_else_is_no_checkpoint(tmp_path: Path):
    (tmp_path / "words.index").write_bytes(b"of a book" * 10)
    assert tensor_bundle.index_in(tmp_path) is None


# ------------------------------------------------------------------------------------------------------------ writing


def write_ours(folder: Path, model: GPTModel) -> None:
    parameters = dict(model.named_parameters())
    theirs = write_theirs(LAYOUTS["openai"][0], model.config, lambda name: parameters[name].detach())
    tensors = {name: StoredTensor(tuple(read().shape), read().dtype, read) for name, read in theirs.items()}
    TARGETS["openai"].check(model.config)
    tensor_bundle.write(folder, tensors, model.config)


def test_what_is_written_is_what_was_read(written: Path, tmp_path: Path, weights: forms.Arrays):
    write_ours(tmp_path / "new", GPTModel.from_pretrained(written))
    same(open_container(tmp_path / "new" / INDEX), forms.openai_variables(weights))
    assert (tmp_path / "new" / DATA).read_bytes() == (written / DATA).read_bytes()
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["checkpoint", "hparams.json", DATA, INDEX]
    assert (tmp_path / "new" / "hparams.json").read_bytes() == (
        b'{\n  "n_vocab": 211,\n  "n_ctx": 37,\n  "n_embd": 44,\n  "n_head": 4,\n  "n_layer": 12\n}\n'
    )
    assert (tmp_path / "new" / "checkpoint").read_bytes() == (
        b'model_checkpoint_path: "model.ckpt"\nall_model_checkpoint_paths: "model.ckpt"\n'
    )


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"activation_function": "gelu"}, "activation_function 'gelu' .it computes the tanh GELU"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon 1e-06"),
        ({"scale_attn_weights": False}, "scale_attn_weights false"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx true"),
        ({"n_inner": 100}, "n_inner 100"),
        ({"tie_word_embeddings": False}, "a head of its own"),
    ],
)
def test_a_model_that_openais_code_would_compute_differently_is_not_written(
    tmp_path: Path, change: dict[str, object], complaint: str
):
    config = GPTConfig(vocab_size=11, n_positions=5, n_embd=4, n_layer=1, n_head=2).replace(**change)
    with pytest.raises(ConfigError, match=f"OpenAI's code cannot express this model: {complaint}"):
        write_ours(tmp_path / "new", GPTModel(config))
    assert not (tmp_path / "new").exists()


def test_other_dtypes_are_not_written(tmp_path: Path, written: Path):
    model = GPTModel.from_pretrained(written, dtype=torch.bfloat16)
    with pytest.raises(CheckpointError, match=r"is torch.bfloat16; OpenAI's code reads float32"):
        write_ours(tmp_path / "new", model)


def test_an_error_while_writing_leaves_the_old_files(folder: Path):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    tensors = dict(open_container(folder / INDEX).tensors)

    def fail() -> torch.Tensor:
        raise RuntimeError("the disk of the source is gone")

    tensors["model/wte"] = StoredTensor((211, 44), torch.float32, fail)
    with pytest.raises(RuntimeError, match="is gone"):
        tensor_bundle.write(folder, tensors, open_checkpoint(folder).config)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


# ------------------------------------------------------------------------------------------------- damaged and hostile


def read_all(path: Path) -> None:
    for tensor in open_container(path).tensors.values():
        tensor.read()


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def test_a_flipped_byte_of_data_is_named_when_its_tensor_is_read(folder: Path):
    flip(folder / DATA, 50_000)
    with pytest.raises(FormatError, match=r"tensor 'model/h0/.*' is damaged: its CRC-32C is"):
        read_all(folder / INDEX)
    open_container(folder / INDEX).tensors["model/wte"].read()  # others are as good as before


def test_what_is_not_mapped_is_checked_each_time_it_is_read(folder: Path):
    tensor = open_container(folder / INDEX, mmap=False).tensors["model/wte"]
    tensor.read()
    flip(folder / DATA, -1)
    with pytest.raises(FormatError, match="'model/wte' is damaged"):
        tensor.read()


def test_any_flipped_byte_of_the_index_is_noticed(written: Path, tmp_path: Path):
    index = (written / INDEX).read_bytes()
    shutil.copy(written / DATA, tmp_path)
    quiet = []
    for at in range(0, len(index), 19):
        (tmp_path / INDEX).write_bytes(index[:at] + bytes([index[at] ^ 1]) + index[at + 1 :])
        try:
            open_container(tmp_path / INDEX)
            quiet.append(at)
        except FormatError:
            pass
    # What nobody reads is near the end: the metaindex, which is empty, its handle, and the zeros that pad the footer.
    assert quiet == [at for at in quiet if at > len(index) - 48 - 60]
    assert len(quiet) < 5


@pytest.mark.parametrize("length", [0, 8, 47, 48, 100, 3000, -1, -8, -20])
def test_a_truncated_index_is_noticed(folder: Path, length: int):
    data = (folder / INDEX).read_bytes()
    (folder / INDEX).write_bytes(data[:length])
    with pytest.raises(FormatError):
        open_container(folder / INDEX)


def test_truncated_and_extended_data_are_noticed(folder: Path):
    data = (folder / DATA).read_bytes()
    (folder / DATA).write_bytes(data[:-1000])
    with pytest.raises(FormatError, match=r"is truncated: .*'model/wte' ends at .*, 1,000 missing"):
        open_container(folder / INDEX)
    (folder / DATA).write_bytes(data + b"more")
    with pytest.raises(FormatError, match="has 4 bytes behind its last tensor"):
        open_container(folder / INDEX)
    (folder / DATA).unlink()
    with pytest.raises(FormatError, match=f"needs {DATA}, which is not there"):
        open_container(folder / INDEX)


def test_data_without_an_index_are_called_that(folder: Path):
    (folder / INDEX).unlink()
    with pytest.raises(FormatError, match=f"{DATA} is data without an index: {INDEX} is not there"):
        open_container(folder / DATA)


HEADER = (b"", forms.proto({1: 1, 3: forms.proto({1: 1})}))


def entry(dtype: int = 1, dims: tuple[int, ...] = (6,), size: int = 24, offset: int = 0, **more: int) -> bytes:
    """A `BundleEntryProto` of six zeros, or what is made of it."""
    shape = b"".join(forms.bytes_field(2, forms.proto({1: dim})) for dim in dims)
    place = forms.proto({3: more.get("shard", 0), 4: offset, 5: size})
    crc = bytes([6 << 3 | 5]) + struct.pack("<I", forms.masked_crc(bytes(24)))
    return forms.proto({1: dtype}) + forms.bytes_field(2, shape) + place + crc + forms.proto({7: more.get("slices", 0)})


def big(value: int) -> bytes:
    """The handle of a block that is not there."""
    return forms.varint(value) + forms.varint(5)


NEGATIVE = b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"  # field 2 is -1
HOSTILE: dict[str, tuple[list[tuple[bytes, bytes]], str]] = {
    "no header": ([(b"a", entry())], "does not begin with a header"),
    "no data files": ([(b"", b""), (b"a", entry())], "does not begin with a header"),
    "more data files than names for them": ([(b"", forms.proto({1: 100_000}))], "does not begin with a header"),
    "missing data files": ([(b"", forms.proto({1: 99_999}))], "needs x.data-00000-of-99999"),
    "big-endian": ([(b"", forms.proto({1: 1, 2: 1}))], "big-endian"),
    "twice": ([HEADER, (b"a", entry()), (b"a", entry())], "keys must ascend"),
    "not text": ([HEADER, (b"\xff\xfe", entry())], "is not a name"),
    "long name": ([HEADER, (b"a" * 1001, entry())], "adds 1001"),
    "overlap": ([HEADER, (b"a", entry()), (b"b", entry(dims=(1,), size=4, offset=20))], "'b' overlaps 'a' by 4 bytes"),
    "behind the end": ([HEADER, (b"a", entry(offset=1 << 40))], "is truncated"),
    "offset overflows": ([HEADER, (b"a", entry(offset=(1 << 63) - 1))], "is truncated"),
    "size against shape": ([HEADER, (b"a", entry(dims=(7,)))], r"\[7\] of torch.float32 does not take 24 bytes"),
    "shape overflows": ([HEADER, (b"a", entry(dims=(1 << 62, 1 << 62)))], "does not take 24 bytes"),
    "product overflows to the size": ([HEADER, (b"a", entry(dims=(1 << 32, 1 << 32, 6)))], "does not take"),
    "many dimensions": ([HEADER, (b"a", entry(dims=(1,) * 9_000 + (6,)))], "does not take 24 bytes"),
    "negative dimension": ([HEADER, (b"a", b"\x08\x01\x12\x0b" + NEGATIVE)], "no sensible number"),
    "dimension is text": ([HEADER, (b"a", b"\x08\x01\x12\x05\x12\x03\x0a\x01a")], "a dimension that is not a number"),
    "dimension is no message": ([HEADER, (b"a", b"\x08\x01\x12\x02\x10\x05" + b"\x28\x18")], "does not take 24 bytes"),
    "another data file": ([HEADER, (b"a", entry(shard=1))], "'a' is in data file 1 of 1"),
    "slices": ([HEADER, (b"a", entry(slices=1))], "'a' is stored in slices"),
    "unknown field": ([HEADER, (b"a", entry() + forms.proto({9: 1}))], "has an unknown field 9"),
    "unknown wire type": ([HEADER, (b"a", b"\x0b")], "a field of unknown kind 3"),
    "a string": ([HEADER, (b"a", entry(dtype=7))], "has TensorFlow dtype 7, which is not a number's"),
    "objects": ([HEADER, (b"_CHECKPOINTABLE_OBJECT_GRAPH", entry(dtype=7))], "a TensorFlow 2 object checkpoint"),
    "no dtype": ([HEADER, (b"a", b"")], "has TensorFlow dtype 0"),
    "cut": ([HEADER, (b"a", entry()[:9])], "ends too early"),
}


def write_index(path: Path, table: list[tuple[bytes, bytes]], **how: int) -> Path:
    path.with_suffix(".data-00000-of-00001").write_bytes(bytes(24))
    path.write_bytes(forms.sstable(table, **how))
    return path


def test_the_hostile_rows_would_pass_without_what_makes_them_hostile(tmp_path: Path):
    assert list(open_container(write_index(tmp_path / "x.index", [HEADER, (b"a", entry())])).tensors) == ["a"]


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_index_is_refused(tmp_path: Path, kind: str):
    table, complaint = HOSTILE[kind]
    with pytest.raises(FormatError, match=complaint):
        open_container(write_index(tmp_path / "x.index", table))


def blocks(*contents: bytes, kind: int = 0) -> bytes:
    """A table whose index points to these blocks, one after the other."""
    out, index = b"", []
    for number, content in enumerate(contents):
        index.append((b"k%03d" % number, forms.varint(len(out)) + forms.varint(len(content))))
        out += content + bytes([kind]) + struct.pack("<I", forms.masked_crc(content + bytes([kind])))
    return finish(out, index)


def finish(out: bytes, index: list[tuple[bytes, bytes]]) -> bytes:
    table = b"".join(
        forms.varint(0) + forms.varint(len(key)) + forms.varint(len(value)) + key + value for key, value in index
    )
    content = table + struct.pack("<II", 0, 1) + b"\0"
    handle = forms.varint(len(out)) + forms.varint(len(content) - 1)
    out += content + struct.pack("<I", forms.masked_crc(content))
    return out + (b"\0\0" + handle).ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")


STRUCTURE: dict[str, tuple[Callable[[], bytes], str]] = {
    "no block": (lambda: finish(b"", []), "no tensor|does not begin|damaged"),
    "block behind the end": (lambda: finish(b"", [(b"k", big(1 << 50))]), "no room for a block of 5 bytes"),
    "size of a block overflows": (lambda: finish(b"", [(b"k", b"\0" + forms.varint(1 << 62))]), "no room for a block"),
    "handle is cut": (lambda: finish(b"", [(b"k", b"\x80")]), "ends too early"),
    "too many restarts": (lambda: blocks(struct.pack("<I", 1 << 31)), "claims 2,147,483,648 restarts"),
    "tiny block": (lambda: blocks(b"ab"), "claims"),
    "shares too much": (lambda: blocks(b"\x05\x01\x00a" + struct.pack("<II", 0, 1)), "keeps 5 bytes of b''"),
    "unknown compression": (lambda: blocks(struct.pack("<II", 0, 1), kind=2), "is of kind 2"),
    "the same block again": (
        lambda: finish(
            (c := struct.pack("<II", 0, 1) + b"\0") + struct.pack("<I", forms.masked_crc(c)),
            [(b"%05d" % number, b"\0\x08") for number in range(9_000)],
        ),
        "begins inside the one before",
    ),
}


@pytest.mark.parametrize("kind", STRUCTURE)
def test_a_malformed_table_is_refused(tmp_path: Path, kind: str):
    make, complaint = STRUCTURE[kind]
    (tmp_path / "x.index").write_bytes(make())
    with pytest.raises(CheckpointError, match=complaint):
        open_checkpoint(tmp_path / "x.index")


def test_names_that_share_a_long_prefix_do_not_fill_the_memory(tmp_path: Path):
    # 250 kB in which each name of four bytes would stand for one of almost a kilobyte: too long by one is refused.
    payload = forms.varint(0) + forms.varint(0) + forms.varint(len(HEADER[1])) + HEADER[1]
    payload += b"\x00" + forms.varint(990) + b"\x00" + b"a" * 990
    payload += b"".join(forms.varint(990 + n) + b"\x01\x00a" for n in range(20)) + struct.pack("<II", 0, 1)
    (tmp_path / "x.index").write_bytes(blocks(payload))
    with pytest.raises(FormatError, match=r"has TensorFlow dtype 0|keeps"):
        open_container(tmp_path / "x.index")


@pytest.mark.parametrize(
    ("hparams", "complaint"),
    [
        ('{"n_vocab": 211}', "should give n_vocab, n_ctx"),
        ("[]", "should give n_vocab"),
        ("{", "not a readable JSON"),
        ('{"n_vocab": 211, "n_vocab": 212}', "'n_vocab' appears twice"),
        ('{"n_vocab": "211", "n_ctx": 37, "n_embd": 44, "n_head": 4, "n_layer": 12}', "sizes that are no integers"),
        ('{"n_vocab": 211, "n_ctx": 37, "n_embd": 44, "n_head": 4, "n_layer": 1000000000}', "much larger model"),
        ('{"n_vocab": 211, "n_ctx": 37, "n_embd": 44, "n_head": 4, "n_layer": 11}', "12 layers, the config"),
        ('{"n_vocab": 211, "n_ctx": 37, "n_embd": 44, "n_head": 0, "n_layer": 12}', "n_head"),
    ],
)
def test_a_wrong_hparams_is_refused(folder: Path, hparams: str, complaint: str):
    (folder / "hparams.json").write_text(hparams)
    with pytest.raises(CheckpointError, match=complaint):
        open_checkpoint(folder)


def test_hparams_with_the_line_ends_of_windows(folder: Path):
    text = json.dumps(json.loads((folder / "hparams.json").read_text()), indent=2).replace("\n", "\r\n")
    (folder / "hparams.json").write_bytes(text.encode())
    assert open_checkpoint(folder).config.n_embd == 44


def test_without_hparams_the_heads_are_not_guessed(folder: Path):
    (folder / "hparams.json").unlink()
    with pytest.raises(ConfigError, match="heads"):
        open_checkpoint(folder)
