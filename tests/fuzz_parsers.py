"""Whatever the bytes of a checkpoint are, only a `CheckpointError` may come of reading it. A program, too.

    pip install atheris && python -m tests.fuzz_parsers -runs=100000 [FORM ...]

A mutation that respects the format gets past the first check. So each form in the table below says what
its units are (words of JSON, opcodes of a pickle, numbers of a header), which are dropped, repeated, exchanged and
replaced; and how a file is made of the result, so that lengths and checksums are right again and do not end every
attempt. `tests/test_fuzz.py` tries a few hundred such files of each form with every run of the tests; as a program,
this tries as many as it is told to, guided by what they reach in the parsers (atheris, which is libFuzzer for Python).
"""

import contextlib
import json
import pickletools
import re
import subprocess
import sys
import tempfile
import warnings
import zipfile
import zlib
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from random import Random
from types import SimpleNamespace

if __name__ == "__main__":
    import atheris

    with atheris.instrument_imports(include=["gpt2_from_scratch", "zipfile"]):
        import gpt2_from_scratch.tokenizer  # noqa: F401  (and with it all that is instrumented)

import google_crc32c
import numpy as np
import torch
import torch.distributed.checkpoint as distributed
from gguf import GGUFWriter
from safetensors.numpy import save_file

from gpt2_from_scratch import GPTConfig, open_checkpoint
from gpt2_from_scratch.checkpoint import open_container
from gpt2_from_scratch.errors import CheckpointError
from gpt2_from_scratch.tokenizer import BYTE_SYMBOLS, load_tokenizer
from tests import forms

# As small as a GPT-2 can be without equal sizes, so that most bytes of a file are not weights. GGUF's blocks are of 32.
CONFIG = GPTConfig(vocab_size=7, n_positions=5, n_embd=4, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=1)
WIDE = CONFIG.replace(n_embd=32)

# Address space a parser may take: a hundred times a file's size. Less, and a thread's stack or the allocator's own
# reserve (64 MB each) would be refused where nothing is wrong.
ALLOWANCE = 256 << 20


# ----------------------------------------------------------------------------------------------------------- the table


@dataclass(frozen=True)
class Form:
    """One kind of file.

    Args:
        name: of the file that is mutated.
        write: writes a good checkpoint with that file in it into a folder.
        split: cuts the file's content into units that mean something.
        odd: units that any may be replaced by.
        content: what of the file is mutated.
        wrap: makes a file of mutated content, given the good file.
        opened: the file or folder that is opened then, in the folder.
        use: what is done with it.
    """

    name: str
    write: Callable[[Path], object]
    split: Callable[[bytes], list[bytes]]
    odd: tuple[bytes, ...] = ()
    content: Callable[[bytes], bytes] = bytes
    wrap: Callable[[bytes, bytes], bytes] = lambda changed, good: changed
    opened: str = ""
    use: Callable[[Path], object] = lambda path: read_all(path)


def read_all(path: Path) -> None:
    """Opens a checkpoint and reads everything in it, mapped or not: the file's own bytes toss the coin."""
    weights = path if path.is_file() else next(file for file in path.iterdir() if file.suffix != ".json")
    mmap = bool(zlib.crc32(weights.read_bytes()) & 1)
    for tensor in open_container(weights, mmap).tensors.values():
        assert tensor.read().shape == tensor.shape
    checkpoint = open_checkpoint(path, mmap=mmap)
    for name in checkpoint.tensors:
        checkpoint.read(name)


def words(size: int) -> Callable[[bytes], list[bytes]]:
    """Texts, and what is between them in words of so many bytes."""
    return re.compile(rb"[ -~]{4,}|.{1,%d}" % size, re.DOTALL).findall


json_words = re.compile(rb'"(?:[^"\\]|\\.)*"|[\w.+-]+|.', re.DOTALL).findall
ODD_VALUES = (
    *(0, 1, -1, 7, 2**31, 2**32, 2**53, 2**62, 2**63, 2**64, 10**30, -(2**63), 0.5, 1e308, -0.0, True, False, None),
    *("", "a", "\0", "..", "../x", "/etc/passwd", "x" * 5000, "F64", "wte.weight", "gelu", [], {}, [[]], [0] * 70),
)
ODD_JSON = (
    *(json.dumps(value).encode() for value in ODD_VALUES),
    *(b"NaN", b"Infinity", b"1e999", b"9" * 5000, b"[" * 3000, b'{"a":' * 3000, b'"\\ud800"', b'"a":1,"a":1', b"\xff"),
)


def opcodes(program: bytes) -> list[bytes]:
    """A pickle's instructions; what cannot be read is the last one."""
    starts = [0]
    with contextlib.suppress(Exception), warnings.catch_warnings(action="ignore"):  # it may be mutated already
        starts += (position for _, _, position in pickletools.genops(program))
    return [program[start:end] for start, end in zip(starts, [*starts[1:], len(program)], strict=True) if start < end]


ODD_OPCODES = (
    *(b"(", b")", b"]", b"}", b"0", b"1", b"2", b"a", b"e", b"s", b"u", b"t", b"b", b"R", b"Q", b"N", b"\x88", b"."),
    *(b"h\x00", b"h\x7f", b"q\x00", b"K\x00", b"K\xff", b"J\xff\xff\xff\xff", b"J\xff\xff\xff\x7f", b"\x85", b"\x86"),
    *(b"\x8a\x08" + bytes([255] * 7 + [127]), b"\x8a\xff" + bytes([1] * 255), b"\x80\x05", b"X\xff\xff\xff\x7f"),
    *(b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n", b"ccollections\nOrderedDict\n"),
    *(b"ctorch\nSize\n", b"ctorch._utils\n_rebuild_parameter\n", b"c__main__\nGPTConfig\n", b"cposix\nsystem\n"),
    *(b"X\x01\x00\x00\x00a", b"X\x05\x00\x00\x00model", b"G" + bytes(8), b"\x81", b"\x93", b"\x94"),
)


def weights(config: GPTConfig) -> forms.Arrays:
    """Hugging Face's names without prefix -> random numbers."""
    chance = np.random.default_rng(0)
    return {name: chance.standard_normal(shape, np.float32) for name, shape in config.tensor_shapes().items()}


def settings(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG.to_hf()))


def safetensors(folder: Path, name: str = "model.safetensors") -> None:
    settings(folder)
    save_file(weights(CONFIG), folder / name, {"format": "pt"})


def other_settings(folder: Path) -> None:
    """minGPT's config.json and its weights."""
    torch_file(folder)
    model = {"model_type": None, "n_layer": 1, "n_head": 2, "n_embd": 4, "block_size": 5, "vocab_size": 7}
    (folder / "config.json").write_text(json.dumps({"system": {}, "data": {}, "model": model, "trainer": {}}))
    state = torch.load(folder / "ckpt.pt", weights_only=True)["model"]
    torch.save(state, folder / "ckpt.pt")


def sharded(folder: Path) -> None:
    safetensors(folder, "model-1.safetensors")
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(weights(CONFIG), "model-1.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def torch_file(folder: Path, stream: bool = False) -> None:
    """nanoGPT's: settings, optimizer and all; and a tied pair."""
    state = {f"transformer.{name}": torch.from_numpy(array) for name, array in weights(CONFIG).items()}
    for name in list(state):
        if name.endswith(tuple(f"{linear}.weight" for linear in forms.LINEAR)):
            state[name] = state[name].t().contiguous()
    state["lm_head.weight"] = state["transformer.wte.weight"]
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 4, "block_size": 5, "vocab_size": 7, "bias": True, "dropout": 0.0}
    content = {"model": state, "model_args": sizes, "iter_num": 3, "best_val_loss": torch.tensor(2.5)}
    torch.save(content, folder / "ckpt.pt", _use_new_zipfile_serialization=not stream)


class _Settings:
    """Somebody's own class, for which a stand-in is read."""


def beside_weights(folder: Path) -> None:
    """A state dict three keys deep, beside objects for which stand-ins are read."""
    settings(folder)
    state = {name: torch.from_numpy(array) for name, array in weights(CONFIG).items()}
    mine = _Settings()
    mine.path, mine.inner = Path("x"), SimpleNamespace(a=1)  # type: ignore[attr-defined]
    objects = [mine, deque([1, 2]), defaultdict(int, a=1), Counter("aab"), range(3), {1}, 1j, np.float64(1.5)]
    torch.save({"trainer": {"net": {"weights": state}}, "objects": objects}, folder / "ckpt.pt")


def data_pkl(archive: bytes) -> bytes:
    with zipfile.ZipFile(BytesIO(archive)) as file:
        return file.read(next(name for name in file.namelist() if name.endswith("/data.pkl")))


def with_data_pkl(program: bytes, archive: bytes) -> bytes:
    out = BytesIO()
    with zipfile.ZipFile(BytesIO(archive)) as good, zipfile.ZipFile(out, "w") as file:
        for name in good.namelist():
            file.writestr(name, program if name.endswith("/data.pkl") else good.read(name))
    return out.getvalue()


def with_length(header: bytes, good: bytes) -> bytes:
    length = int.from_bytes(good[:8], "little")
    return len(header).to_bytes(8, "little") + header + good[8 + length :]


def first_block(index: bytes) -> bytes:
    """The entries of an index of one block, behind a byte that says whether they are compressed."""
    end, shift = 0, 0
    for byte in index[-48:]:  # where the block after it begins, a varint, is the first thing in the footer
        end, shift = end | (byte & 127) << shift, shift + 7
        if byte < 128:
            break
    return index[end - 5 : end - 4] + index[: end - 5]


def with_checksums(block: bytes, good: bytes) -> bytes:
    """The index whose one block of entries is this."""
    kind, entries = (block[:1] or b"\0"), block[1:]
    empty = bytes(4) + b"\1\0\0\0"  # a block without entries: one place to start, and their number
    pointer = forms.varint(0) + forms.varint(len(entries))
    pointers = forms.varint(0) + forms.varint(1) + forms.varint(len(pointer)) + b"z" + pointer + empty
    out, handles = bytearray(), []
    for content in (entries + bytes([kind[0] & 1]), empty + b"\0", pointers + b"\0"):
        handles.append(forms.varint(len(out)) + forms.varint(len(content) - 1))
        crc = google_crc32c.value(content)
        out += content + (((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32).to_bytes(4, "little")
    return bytes(out) + (handles[1] + handles[2]).ljust(40, b"\0") + good[-8:]


def openai(folder: Path, compressed: bool = False) -> None:
    variables = forms.openai_variables(weights(CONFIG))
    forms.write_bundle(folder / "model.ckpt", variables, compressed=compressed)
    hparams = {"n_vocab": 7, "n_ctx": 5, "n_embd": 4, "n_head": 2, "n_layer": 1}
    (folder / "hparams.json").write_text(json.dumps(hparams))


def gguf(folder: Path, kind: str = "F32") -> None:
    config = WIDE if kind == "Q8_0" else CONFIG
    forms.write_gguf(folder / "model.gguf", weights(config), 2, kind, tokens=list("abcdefg"))


def gguf_tokenizer(folder: Path) -> None:
    writer = GGUFWriter(folder / "model.gguf", "gpt2")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*BYTE_SYMBOLS, "ab", "abc", "<x>", "[PAD]"])
    writer.add_token_types([1] * 258 + [3, 5])
    writer.add_token_merges(["a b", "ab c"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def flax(folder: Path) -> None:
    settings(folder)
    (folder / "flax_model.msgpack").write_bytes(forms.flax_bytes(forms.flax_tree(weights(CONFIG))))


def keras(folder: Path) -> None:
    settings(folder)
    forms.write_keras(folder / "tf_model.h5", forms.keras_arrays(weights(CONFIG)))


def dcp(folder: Path) -> None:
    settings(folder)
    with warnings.catch_warnings(action="ignore"):
        tensors = {name: torch.from_numpy(each) for name, each in weights(CONFIG).items()}
        distributed.save({"model": tensors}, checkpoint_id=folder, no_dist=True)


def onnx(folder: Path) -> None:
    """A graph with weights inside it and one outside, a list of numbers, and a constant."""
    settings(folder)
    graph = forms.bytes_field(5, forms.proto({2: 7, 8: b"shape", 9: bytes(8)}))
    for name, array in weights(CONFIG).items():
        shape = b"".join(forms.varint(8) + forms.varint(size) for size in array.shape)
        if name == "wte.weight":
            (folder / "model.onnx.data").write_bytes(array.tobytes())
            place = {"location": "model.onnx.data", "offset": "0", "length": str(array.nbytes)}
            pairs = [forms.proto({1: key.encode(), 2: value.encode()}) for key, value in place.items()]
            values = b"".join(forms.bytes_field(13, pair) for pair in pairs) + forms.proto({14: 1})
        else:
            values = forms.proto({4 if name == "wpe.weight" else 9: array.tobytes()})
        graph += forms.bytes_field(5, shape + forms.proto({2: 1, 8: name.encode()}) + values)
    (folder / "model.onnx").write_bytes(forms.proto({1: 10, 2: b"fuzz", 7: graph}))


def engine(folder: Path) -> None:
    """CTranslate2's model, with int8 matrices."""
    forms.write_ctranslate2(folder / "model.bin", forms.ctranslate2_variables(weights(CONFIG), 2))


_RANK_0 = "zero_pp_rank_0_mp_rank_00_"


def deepspeed(folder: Path) -> None:
    """ZeRO's third stage on two ranks; one parameter was not trained."""
    settings(folder)
    forms.write_zero3(folder, weights(CONFIG), 2, frozen=("wpe.weight",))


def deepspeed_rounded(folder: Path) -> None:
    """ZeRO's second stage on two ranks."""
    settings(folder)
    forms.write_zero2(folder, weights(CONFIG), 2)


def megatron(folder: Path) -> None:
    """Two tensor-parallel ranks, in the oldest order but one."""
    arguments = SimpleNamespace(num_attention_heads=2, bias_gelu_fusion=True, layernorm_epsilon=1e-5, vocab_size=7)
    forms.write_megatron(folder, weights(CONFIG), 2, version=1.0, ranks=2, args=arguments)


def mlx(folder: Path) -> None:
    settings(folder)
    np.savez(folder / "weights.npz", **forms.mlx_arrays(weights(CONFIG)))


def tokenizer(folder: Path) -> None:
    symbols = [*BYTE_SYMBOLS, "ab", "abc"]
    model = {"type": "BPE", "vocab": {symbol: at for at, symbol in enumerate(symbols)}, "merges": ["a b", "ab c"]}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    settings = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    content = {"added_tokens": [{"id": 258, "content": "<x>", **settings}], "pre_tokenizer": byte_level, "model": model}
    (folder / "tokenizer.json").write_text(json.dumps(content))


def openai_tokenizer(folder: Path) -> None:
    symbols = [*BYTE_SYMBOLS, "ab", "abc", "<x>"]
    (folder / "encoder.json").write_text(json.dumps({symbol: at for at, symbol in enumerate(symbols)}))
    (folder / "vocab.bpe").write_text("#version: 0.2\na b\nab c\n")


PT = {"name": "ckpt.pt", "opened": "ckpt.pt", "odd": ODD_OPCODES}
INDEX = {"name": "model.ckpt.index", "content": first_block, "wrap": with_checksums, "split": words(1)}
ZERO = {
    "write": deepspeed,
    "split": opcodes,
    "odd": ODD_OPCODES,
    "content": data_pkl,
    "wrap": with_data_pkl,
    "opened": _RANK_0 + "model_states.pt",
}
_RANK_1 = "mp_rank_01/model_optim_rng.pt"
ROUNDED = {"write": deepspeed_rounded, "opened": "mp_rank_00_model_states.pt"}
MEGATRON = {**ZERO, "write": megatron, "name": _RANK_1, "opened": _RANK_1}
JSON = {"split": json_words, "odd": ODD_JSON}

FORMS: dict[str, Form] = {
    "config.json": Form("config.json", safetensors, **JSON),
    "minGPT's config.json": Form("config.json", other_settings, **JSON),
    "safetensors": Form("model.safetensors", safetensors, words(8)),
    "safetensors header": Form(
        "model.safetensors",
        safetensors,
        **JSON,
        content=lambda good: good[8 : 8 + int.from_bytes(good[:8], "little")],
        wrap=with_length,
    ),
    "shards": Form("model.safetensors.index.json", sharded, **JSON, opened="model.safetensors.index.json"),
    "torch zip": Form(**PT, write=torch_file, split=words(2)),
    "torch pickle": Form(**PT, write=torch_file, split=opcodes, content=data_pkl, wrap=with_data_pkl),
    "torch stand-ins": Form(**PT, write=beside_weights, split=opcodes, content=data_pkl, wrap=with_data_pkl),
    "torch stream": Form(**PT, write=partial(torch_file, stream=True), split=opcodes),
    "tensor bundle": Form("model.ckpt.index", openai, words(1)),
    "tensor bundle block": Form(**INDEX, write=openai),
    "tensor bundle snappy": Form(**INDEX, write=partial(openai, compressed=True)),
    "hparams.json": Form("hparams.json", openai, **JSON),
    "llm.c": Form("m.bin", lambda f: forms.write_llmc(f / "m.bin", weights(CONFIG), 2, 3), words(4), opened="m.bin"),
    "gguf": Form("model.gguf", gguf, words(4)),
    "gguf quantised": Form("model.gguf", partial(gguf, kind="Q8_0"), words(4)),
    "gguf tokenizer": Form("model.gguf", gguf_tokenizer, words(4), use=load_tokenizer),
    "flax": Form("flax_model.msgpack", flax, words(1)),
    "dcp": Form(".metadata", dcp, opcodes, ODD_OPCODES, opened=".metadata"),
    "onnx": Form("model.onnx", onnx, words(1), opened="model.onnx"),
    "ctranslate2": Form("model.bin", engine, words(4), opened="model.bin"),
    "deepspeed": Form(**ZERO, name=_RANK_0 + "model_states.pt"),
    "deepspeed optimizer": Form(**ZERO, name=_RANK_0 + "optim_states.pt"),
    "deepspeed rounded": Form(**ZERO | ROUNDED, name="mp_rank_00_model_states.pt"),
    "deepspeed float32": Form(**ZERO | ROUNDED, name="bf16_" + _RANK_0 + "optim_states.pt"),
    "megatron": Form(**MEGATRON),
    "keras": Form("tf_model.h5", keras, words(8)),
    "npz": Form("weights.npz", mlx, words(2)),
    "tokenizer.json": Form("tokenizer.json", tokenizer, **JSON, use=load_tokenizer),
    "encoder.json": Form("encoder.json", openai_tokenizer, **JSON, use=load_tokenizer),
}


# -------------------------------------------------------------------------------------------------------- mutations


def mutated(form: Form, content: bytes, chance: Random) -> bytes:
    """One to four changes; the units are those of the content as it is."""
    units = form.split(content)
    for _ in range(chance.randint(1, 4)):
        if not units:
            break
        at, other = chance.randrange(len(units)), chance.randrange(len(units))
        match chance.randrange(8):
            case 0:
                del units[at : at + chance.choice((1, 1, 2, 10))]
            case 1:
                units[at:at] = units[other : other + chance.choice((1, 1, 2, 10, 40))]
            case 2:
                units[at], units[other] = units[other], units[at]
            case 3 if chance.random() < 0.2:
                del units[at:]
            case 4 if chance.random() < 0.2:
                units[at:at] = [units[at]] * 10 ** chance.randint(1, 4)
            case 5 if form.odd:
                units[at] = chance.choice(form.odd)
            case _:
                units[at] = _another(units[at], chance)
    return b"".join(units)


def _another(unit: bytes, chance: Random) -> bytes:
    """Another number in as many bytes, or another text."""
    size = len(unit)
    number = int.from_bytes(unit, "little")
    high = 1 << 8 * size - 1
    near = (number + 1, number - 1, 2 * number)
    number = chance.choice((0, 1, *near, -1, high, high - 1, chance.getrandbits(8 * size)))
    return (number % (1 << 8 * size)).to_bytes(size, chance.choice(("little", "little", "big")))


class Attempts:
    """A good checkpoint of a form in a folder, whose file is replaced by one attempt after the other."""

    def __init__(self, form: Form, folder: Path) -> None:
        self.form, self._file, self._opened = form, folder / form.name, folder / form.opened
        form.write(folder)
        self._good = self._file.read_bytes()
        self.content = form.content(self._good)

    def __call__(self, content: bytes) -> CheckpointError | None:
        """Makes a file of the content and reads it; returns the refusal, if it is one."""
        self._file.write_bytes(self.form.wrap(content, self._good))
        with bounded():
            try:
                self.form.use(self._opened)
            except CheckpointError as error:
                # Torch or numpy, refused by the limit above: nobody saw before that it is too much. (HDF5's library
                # asks for petabytes, is told that there are none, and touches no memory.)
                assert not re.search("MemoryError|not enough memory|[Uu]nable to allocate", str(error)), error  # noqa: PT017
                return error
        return None


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """No more than `ALLOWANCE` may be allocated at a time. Does nothing where the system does not offer it."""
    if sys.platform != "linux":
        yield
        return
    import resource

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + ALLOWANCE, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


# ------------------------------------------------------------------------------------------------------ as a program


_MEMORY = Path("/dev/shm")  # a file there costs no disk; ten times as many attempts per second


def fuzz(name: str, folder: Path, flags: list[str]) -> None:
    """Tries mutated files of one form until libFuzzer, which these flags are for, ends the process."""
    form = FORMS[name]
    tried, corpus = folder / "tried", folder / "corpus"
    tried.mkdir()
    corpus.mkdir()
    attempt = Attempts(form, tried)
    (corpus / "good").write_bytes(attempt.content)
    assert attempt(attempt.content) is None

    def mutate(content: bytes, longest: int, seed: int) -> bytes:
        chance = Random(seed)
        return mutated(form, content, chance)[:longest] if chance.random() < 0.7 else atheris.Mutate(content, longest)

    longest = 2 * len(attempt.content) + 20_000
    arguments = [name, str(corpus), f"-max_len={longest}", "-timeout=5", *flags]
    atheris.Setup(arguments, lambda content: attempt(content) and None, custom_mutator=mutate)
    atheris.Fuzz()


def main(arguments: list[str]) -> int:
    """Each form in a process of its own; 0 if none of them found anything."""
    flags = [argument for argument in arguments if argument.startswith("-")]
    codes = []
    for name in [argument for argument in arguments if not argument.startswith("-")] or FORMS:
        with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as folder:
            print(f"== {name}", flush=True)
            codes.append(subprocess.run([sys.executable, "-m", "tests.fuzz_parsers", *flags, name, folder]).returncode)
    return max(codes)


if __name__ == "__main__":
    if (last := Path(sys.argv[-1])).is_absolute():  # as `main` calls it
        fuzz(sys.argv[-2], last, sys.argv[1:-2])
    sys.exit(main(sys.argv[1:]))
