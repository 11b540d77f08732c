"""What is wrong with a checkpoint is said, whole and at once, and the module stays as it was.

Each case below damages one good checkpoint in one way. Whatever the damage, `from_pretrained` and
`load_into` raise a `CheckpointError` that names the culprit and the remedy, at once and within bounded memory, and no
parameter has changed.
"""

import contextlib
import json
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gpt2_from_scratch import CheckpointError, GPTConfig, GPTModel, load_into
from gpt2_from_scratch.checkpoint.safetensors import INDEX
from gpt2_from_scratch.errors import ConfigError, FormatError, MappingError
from tests.foreign import book, nanogpt
from tests.fuzz_parsers import bounded
from tests.modules import STYLES, book_config
from tests.perturbed import SIZES, perturbed

Tensors = dict[str, Tensor]
Header = dict[str, Any]
Damage = Callable[[Path], object]

# Seconds of CPU a refusal may take. Measured: 0.02 to 0.3; a search that grows with a number in the file takes minutes.
AT_ONCE = 2.0


@pytest.fixture
def folder(perturbed_checkpoint: Path, tmp_path: Path) -> Path:
    """A good checkpoint to damage."""
    shutil.copytree(perturbed_checkpoint, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture(scope="module")
def module() -> GPTModel:
    return GPTModel(GPTConfig(**SIZES))


def refused(
    source: str | Path, kind: type[CheckpointError], texts: tuple[str, ...], module: GPTModel, **options: Any
) -> CheckpointError:
    """Asserts that both ways to load refuse the source, say why, and leave the module alone."""
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    errors = []
    for attempt in (
        lambda: GPTModel.from_pretrained(source, mmap=False, **options),
        lambda: load_into(module, source, layout="gpt2_from_scratch", **options),
    ):
        start = time.process_time()
        with pytest.raises(CheckpointError) as caught, bounded():
            attempt()
        assert time.process_time() - start < AT_ONCE
        errors.append(caught.value)
    first, second = errors
    assert str(first) == str(second)
    assert type(first) is kind
    missing = [text for text in texts if text not in str(first)]
    assert not missing, f"the error does not say {missing}: {first}"
    assert first.hint, f"no remedy: {first}"
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    return first


# --------------------------------------------------------------------------------------------------- ways to damage


def weights(folder: Path) -> Path:
    return folder / "model.safetensors"


def tensors(edit: Callable[[Tensors], object]) -> Damage:
    """Edits the tensors, in place or by returning others."""

    def damage(folder: Path) -> None:
        content = load_file(weights(folder))
        edit(content)
        save_file(content, weights(folder))

    return damage


def rename(change: Callable[[str], str]) -> Damage:
    def edit(content: Tensors) -> None:
        renamed = {change(name): tensor for name, tensor in content.items()}
        content.clear()
        content.update(renamed)

    return tensors(edit)


def config(**changes: object) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def header(edit: Callable[[Header], object]) -> Damage:
    """Edits the header as data; the tensors stay where they are."""

    def text(raw: str) -> str:
        content = json.loads(raw)
        edit(content)
        return json.dumps(content)

    return header_text(text)


def header_text(edit: Callable[[str], str]) -> Damage:
    """Edits the header as text, and keeps its stated length right."""

    def damage(folder: Path) -> None:
        raw = weights(folder).read_bytes()
        length = int.from_bytes(raw[:8], "little")
        changed = edit(raw[8 : 8 + length].decode()).encode()
        weights(folder).write_bytes(len(changed).to_bytes(8, "little") + changed + raw[8 + length :])

    return damage


def file(edit: Callable[[bytes], bytes]) -> Damage:
    """Edits the bytes of the file."""
    return lambda folder: weights(folder).write_bytes(edit(weights(folder).read_bytes()))


def fill(name: str, value: float) -> Damage:
    return tensors(lambda content: content[name].view(-1)[5:7].fill_(value))


def cast(name: str, dtype: torch.dtype) -> Damage:
    return tensors(lambda content: content.update({name: content[name].to(dtype)}))


def entry(name: str, **fields: object) -> Damage:
    return header(lambda content: content[name].update(fields))


def overlap(content: Header) -> None:
    one, two = (content[f"transformer.h.3.{norm}.bias"] for norm in ("ln_1", "ln_2"))
    two["data_offsets"] = one["data_offsets"]


def swap_and_shrink(content: Header) -> None:
    content["transformer.h.3.ln_1.bias"]["shape"] = [43]
    begin, _ = content["transformer.h.3.ln_1.bias"]["data_offsets"]
    content["transformer.h.3.ln_1.bias"]["data_offsets"] = [begin, begin + 43 * 4]


# ------------------------------------------------------------------------------------------------------ the tensors


@dataclass(frozen=True)
class Case:
    """One way to damage a checkpoint, and what the error must say."""

    damage: Damage
    kind: type[CheckpointError]
    texts: tuple[str, ...]


def mapping(damage: Damage, *texts: str) -> Case:
    return Case(damage, MappingError, texts)


def form(damage: Damage, *texts: str) -> Case:
    return Case(damage, FormatError, texts)


def settings(damage: Damage, *texts: str) -> Case:
    return Case(damage, ConfigError, texts)


BIAS, HEAD, WTE = "transformer.h.3.ln_1.bias", "lm_head.weight", "transformer.wte.weight"
FETCH = "fetch "  # it again; the file again; index and shards again

TENSORS = {
    "left out": mapping(tensors(lambda t: t.pop(BIAS)), f"missing (1): {BIAS}", "incomplete", FETCH),
    "left out in every layer": mapping(
        tensors(lambda t: [t.pop(f"transformer.h.{n}.mlp.c_fc.bias") for n in range(12)]),
        "missing (12): transformer.h.{0...11}.mlp.c_fc.bias",
    ),
    "embedding left out": mapping(tensors(lambda t: t.pop(WTE)), f"missing (1): {WTE}"),
    "last layer left out": mapping(
        tensors(lambda t: [t.pop(name) for name in list(t) if ".h.11." in name]),
        "missing (12): transformer.h.11.ln_1.weight",
        "the file has 11 layers, the configuration says 12",
    ),
    "doubled under two names": mapping(
        tensors(lambda t: t.update({"wte.weight": t[WTE].clone()})), "unexpected (1): wte.weight"
    ),
    "misshapen": mapping(
        tensors(lambda t: t.update({BIAS: torch.zeros(45)})), f"{BIAS} is [45], expected [44]", "another model"
    ),
    "transposed": mapping(
        tensors(lambda t: t.update({f"transformer.h.{n}.mlp.c_fc.weight": torch.zeros(89, 44) for n in range(12)})),
        "transformer.h.{0...11}.mlp.c_fc.weight is [89, 44], expected [44, 89]",
        "orientation",
    ),
    "extra": mapping(
        tensors(lambda t: t.update({f"transformer.h.{n}.attn.q_norm.weight": torch.ones(11) for n in range(12)})),
        "unexpected (12): transformer.h.{0...11}.attn.q_norm.weight",
    ),
    "mask of a layer there is not": mapping(
        tensors(lambda t: t.update({"transformer.h.12.attn.bias": torch.ones(1)})), "transformer.h.12.attn.bias"
    ),
    "prefixed in part": mapping(
        rename(lambda name: f"gpt.{name}" if ".h.3." in name else name),
        "missing (12): transformer.h.3.ln_1",
        "unexpected (12): gpt.transformer.h.3.",
    ),
    "NaN": mapping(fill(BIAS, float("nan")), "h.3.ln_1.bias", "2 of 44 values that are NaN or infinite", FETCH),
    "infinite": mapping(fill(WTE, float("inf")), "wte.weight", "2 of 9,284 values", "training diverged"),
    "negative infinity": mapping(fill(BIAS, float("-inf")), "h.3.ln_1.bias", "2 of 44"),
    "integers": mapping(cast(BIAS, torch.int32), f"16 bits or more: {BIAS} int32", "quantised? load the original"),
    "quantised to bytes": mapping(cast(WTE, torch.int8), f"{WTE} int8", "load the original"),
    "float8": mapping(cast(BIAS, torch.float8_e4m3fn), f"16 bits or more: {BIAS} float8_e4m3fn", "load the original"),
    "quantised by MLX": mapping(cast(WTE, torch.uint32), f"{WTE} uint32", "load the original"),
    "complex": form(cast(BIAS, torch.complex64), "has dtype 'C64'", "supported: F64, F32"),
    "another head": mapping(
        tensors(lambda t: t.update({HEAD: t[WTE] + 0.5})),
        "tie_word_embeddings is true, but lm_head.weight differs from the token embedding (by up to 0.5)",
        "set tie_word_embeddings to false",
    ),
    "a head like the embedding but for its precision": mapping(
        tensors(lambda t: t.update({HEAD: t[WTE].half()})), "lm_head.weight differs"
    ),
    "NaN in the embedding and the head": mapping(
        tensors(lambda t: t.update({HEAD: t[WTE].fill_(float("nan")).clone()})), "wte.weight has 9,284 of 9,284 values"
    ),
    "a classifier's head": mapping(
        tensors(lambda t: t.update({"score.weight": torch.zeros(2, 44)})), "unexpected (1): score.weight"
    ),
    "adapters": mapping(
        tensors(lambda t: t.update({"transformer.h.0.attn.c_attn.lora_A.weight": torch.zeros(8, 44)})),
        "lora_A",
        "merge them into the base model first",
    ),
    "quantised by GPTQ": mapping(
        rename(lambda name: name.replace("c_fc.weight", "c_fc.qweight")), "qweight", "load the unquantised checkpoint"
    ),
}


@pytest.mark.parametrize("case", TENSORS.values(), ids=TENSORS)
def test_tensors_that_do_not_fit(case: Case, folder: Path, module: GPTModel) -> None:
    case.damage(folder)
    error = refused(folder, case.kind, case.texts, module)
    assert str(folder) in error.message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_are_checked_whenever_they_are_read(folder: Path, value: float) -> None:
    fill(BIAS, value)(folder)
    for options in ({"mmap": False}, {"dtype": torch.float64}, {"dtype": torch.bfloat16}):
        with pytest.raises(MappingError, match=r"h\.3\.ln_1\.bias has 2 of 44 values that are NaN or infinite"):
            GPTModel.from_pretrained(folder, **options)


def test_values_beyond_a_narrower_dtype_are_not_made_infinite(folder: Path) -> None:
    fill(BIAS, -1e5)(folder)
    assert GPTModel.from_pretrained(folder, dtype=torch.bfloat16)
    with pytest.raises(MappingError, match=r"h\.3\.ln_1\.bias has values up to 1e\+05, float16 ends at 6\.55e\+04"):
        GPTModel.from_pretrained(folder, dtype=torch.float16)
    half = GPTModel(GPTConfig(**SIZES)).half()
    before = half.h[3].ln_1.bias.clone()
    with pytest.raises(MappingError, match="load it as float32 or bfloat16"):
        load_into(half, folder, layout="gpt2_from_scratch")
    assert torch.equal(half.h[3].ln_1.bias, before)


# ------------------------------------------------------------------------------------------------ the configuration

CONFIGS = {
    "missing": settings(lambda folder: (folder / "config.json").unlink(), "config.json", "n_head"),
    "another width": mapping(config(n_embd=40), "wte.weight is [211, 44], expected [211, 40]", "another model"),
    "another vocabulary": mapping(config(vocab_size=212), "wte.weight is [211, 44], expected [212, 44]"),
    "more layers": mapping(
        config(n_layer=13), "missing (12): transformer.h.12.ln_1.weight", "has 12 layers, the configuration says 13"
    ),
    "fewer layers": mapping(
        config(n_layer=11), "unexpected (12): transformer.h.11.", "has 12 layers, the configuration says 11"
    ),
    "heads that do not divide": settings(config(n_head=5), "config.json", "n_embd 44", "not divisible by n_head 5"),
    "heads by a foreign name": settings(
        config(num_attention_heads=5), "n_head twice, as 4 and (as 'num_attention_heads') 5"
    ),
    "untied without a head": mapping(
        config(tie_word_embeddings=False), "missing (1): lm_head.weight", "pass overrides={'tie_word_embeddings': True}"
    ),
    "another architecture": settings(config(model_type="gpt_neo"), "config.json describes a 'gpt_neo' model"),
    "duplicate keys": settings(
        lambda folder: (folder / "config.json").write_text('{"model_type": "gpt2", "n_layer": 12, "n_layer": 12}'),
        "config.json",
        "'n_layer' appears twice",
    ),
    "100,000 keys, and the last one twice": settings(
        lambda folder: (folder / "config.json").write_text(
            "{" + ",".join(f'"{n}":0' for n in range(100_000)) + ',"99999":0}'
        ),
        "'99999' appears twice",
    ),
    "no JSON": settings(lambda folder: (folder / "config.json").write_text("n_layer: 12"), "config.json", "JSON"),
    "a billion layers": settings(config(n_layer=10**9), "1,000,000,000 layers", "148 tensors", "another model"),
    "a trillion wide": settings(config(n_embd=10**12, n_inner=None), "width 1,000,000,000,000", "203,732 values"),
    "wider than an integer": settings(config(n_embd=4 * 10**30), "width 4,000,000,", "another model"),
    "a huge vocabulary": settings(config(vocab_size=2**62), "vocabulary 4,611,686,018,427,387,904"),
    "a huge context": settings(config(n_positions=10**25), "context 10,000,000,"),
    "a huge inner width": settings(config(n_inner=10**25), "inner width 10,000,000,"),
}


@pytest.mark.parametrize("case", CONFIGS.values(), ids=CONFIGS)
def test_configurations_that_do_not_fit(case: Case, folder: Path, module: GPTModel) -> None:
    case.damage(folder)
    refused(folder, case.kind, case.texts, module)


# --------------------------------------------------------------------------------------------------------- the file


def twice(raw: str) -> str:
    """The same entry again, consistent with the first: the library takes the last and says nothing."""
    content = json.loads(raw)
    return raw.rstrip()[:-1] + f', "{BIAS}": {json.dumps(content[BIAS])}}}'


def empty(shape: list[int]) -> Header:
    return {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}


FILES = {
    "empty": form(file(lambda raw: b""), "is empty (0 bytes)", FETCH),
    "one byte": form(file(lambda raw: raw[:1]), "cut short: 1 bytes", FETCH),
    "the length alone": form(file(lambda raw: raw[:8]), "cut short: 8 bytes", FETCH),
    "the first letter of the header": form(file(lambda raw: raw[:9]), "is truncated: 9 bytes", FETCH),
    "half of the header": form(file(lambda raw: raw[:6000]), "is truncated: 6,000 bytes, its header alone", FETCH),
    "the header alone": form(
        file(lambda raw: raw[: 8 + int.from_bytes(raw[:8], "little")]), "is truncated", "814,928 missing", FETCH
    ),
    "the last byte": form(file(lambda raw: raw[:-1]), "is truncated", "1 missing", FETCH),
    "trailing bytes": form(file(lambda raw: raw + bytes(3)), "3 bytes behind its last tensor", FETCH),
    "zeros": form(file(lambda raw: bytes(len(raw))), r"starts with b'\x00\x00"),
    "a huge header length": form(file(lambda raw: (2**40).to_bytes(8, "little") + raw[8:]), "starts with b"),
    "a header longer than the file": form(
        file(lambda raw: (10**8).to_bytes(8, "little") + raw[8:]), "is truncated", "100,000,008", FETCH
    ),
    "a shorter header length": form(file(lambda raw: (99).to_bytes(8, "little") + raw[8:]), "not valid JSON", FETCH),
    "no UTF-8": form(file(lambda raw: raw[:12] + b"\xff\xfe" + raw[14:]), "not valid JSON", FETCH),
    "a deep header": form(header_text(lambda raw: '{"a":' * 100_000), "not valid JSON", FETCH),
    "a list for a header": form(header_text(lambda raw: f"[{raw}]"), "starts with b"),
    "a name twice": form(header_text(twice), f"'{BIAS}' appears twice", FETCH),
    "a field twice": form(
        header_text(lambda raw: raw.replace('"dtype":"F32"', '"dtype":"F32","dtype":"F32"', 1)), "'dtype' appears twice"
    ),
    "a field of the metadata twice": form(
        header_text(lambda raw: raw.replace('{"format":', '{"format":"a","format":', 1)),
        "'format' appears twice",
        FETCH,
    ),
    "metadata twice": form(
        header_text(lambda raw: raw.rstrip()[:-1] + ', "__metadata__": {}}'), "appears twice", FETCH
    ),
    "null for metadata": form(header(lambda h: h.update(__metadata__=None)), "__metadata__ must map text to text"),
    "white space before the header": form(header_text(lambda raw: f" {raw}"), "starts with b"),
    "NUL behind the header": form(header_text(lambda raw: raw.rstrip() + "\0" * 8), "not valid JSON", FETCH),
    "a header of two megabytes": form(
        header_text(lambda raw: raw + " " * 2_000_000), "has a table of contents of 2,01", "at most 1,000,000 are read"
    ),
    "thousands of names": form(
        header(lambda h: h.update({f"x{n}": {} for n in range(4_000)})), "holds 4,148 entries; at most 4,000", "628"
    ),
    "nothing, and larger than anything": form(
        header(lambda h: h.update(x=empty([2**62, 2**62, 0]))), "'x' is said to be [4611686018427387904, ", FETCH
    ),
    "metadata that is no text": form(header(lambda h: h.update(__metadata__={"format": 1})), "__metadata__"),
    "an unprintable name": form(header(lambda h: h.update({"a\u202eb": h.pop(BIAS)})), r"'a\u202eb'", "unprintable"),
    "no name": form(header(lambda h: h.update({"": h.pop(BIAS)})), "empty or unprintable name"),
    "a field too many": form(entry(BIAS, stride=[1]), BIAS, "dtype, shape and data_offsets, nothing else"),
    "a field too few": form(header(lambda h: h[BIAS].pop("shape")), BIAS, "dtype, shape and data_offsets"),
    "an entry that is none": form(header(lambda h: h.update({BIAS: 7})), BIAS, "dtype, shape and data_offsets"),
    "an unknown dtype": form(entry(BIAS, dtype="F33"), f"'{BIAS}' has dtype 'F33'", "supported: F64"),
    "a dtype that is no text": form(entry(BIAS, dtype=["F32"]), f"'{BIAS}' has dtype ['F32']", "supported"),
    "a negative size": form(entry(BIAS, shape=[-44]), BIAS, "sizes"),
    "a size with a point": form(entry(BIAS, shape=[44.0]), BIAS, "sizes"),
    "a true size": form(entry(BIAS, shape=[True]), BIAS, "sizes"),
    "a size beyond all bounds": form(entry(BIAS, shape=[2**63]), BIAS, "sizes"),
    "too many sizes": form(entry(BIAS, shape=[2**62] * 10_000), BIAS, "at most 64 sizes"),
    "sizes whose product overflows": form(entry(BIAS, shape=[2**62, 2**62, 4]), BIAS, "bytes"),
    "offsets that are three": form(entry(BIAS, data_offsets=[0, 1, 2]), BIAS, "data_offsets two"),
    "offsets that run backwards": form(entry(BIAS, data_offsets=[176, 0]), BIAS, "takes 176 bytes", "give -176"),
    "a size that is not its bytes": form(entry(BIAS, shape=[43]), BIAS, "takes 172 bytes, data_offsets give 176"),
    "tensors that overlap": form(header(overlap), "h.3.ln_2.bias", "overlaps the tensor before it (176 bytes)"),
    "tensors with a gap": form(header(swap_and_shrink), "leaves a gap before it (4 bytes)", FETCH),
    "a tensor outside the file": form(
        entry(BIAS, data_offsets=[10**12, 10**12 + 176]), "leaves a gap before it", FETCH
    ),
    "a tensor unlisted": form(header(lambda h: h.pop(BIAS)), "leaves a gap before it (176 bytes)", FETCH),
    "no tensor": Case(
        file(lambda raw: (2).to_bytes(8, "little") + b"{}"), CheckpointError, ("model.safetensors holds no tensor",)
    ),
}


@pytest.mark.parametrize("case", FILES.values(), ids=FILES)
def test_files_that_are_damaged(case: Case, folder: Path, module: GPTModel) -> None:
    case.damage(folder)
    error = refused(folder, case.kind, case.texts, module)
    assert str(weights(folder)) in error.message
    with pytest.raises(CheckpointError) as caught:
        GPTModel.from_pretrained(folder)  # mapped
    assert str(caught.value) == str(error)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.1, 0.5, 0.9, 0.999])
def test_a_file_cut_anywhere_is_refused(share: float, folder: Path, module: GPTModel) -> None:
    file(lambda raw: raw[: int(share * len(raw))])(folder)
    refused(folder, FormatError, ("model.safetensors",), module)


@pytest.mark.slow
def test_a_header_with_any_byte_changed_is_refused_or_read_never_a_crash(folder: Path) -> None:
    """Some changes are not detectable: another legal name is reported as unexpected, a space is a space."""
    raw = weights(folder).read_bytes()
    length = int.from_bytes(raw[:8], "little")
    chance = random.Random(0)
    for _ in range(60):
        changed = bytearray(raw)
        changed[chance.randrange(8 + length)] = chance.randrange(256)
        weights(folder).write_bytes(changed)
        with contextlib.suppress(CheckpointError):
            GPTModel.from_pretrained(folder)


def test_thousands_of_strange_tensors_are_no_flood(folder: Path) -> None:
    save_file({f"junk{n}.{n}.weight": torch.zeros(100) for n in range(2_000)}, weights(folder))
    start = time.process_time()
    with pytest.raises(MappingError, match=r"unexpected \(2000\): .* and 1,960 more") as caught:
        GPTModel.from_pretrained(folder)
    assert time.process_time() - start < AT_ONCE
    assert len(str(caught.value)) < 5000


# ----------------------------------------------------------------------------------------------------------- shards


@pytest.fixture
def shards(perturbed_checkpoint: Path, tmp_path: Path) -> Path:
    GPTModel.from_pretrained(perturbed_checkpoint).save_pretrained(tmp_path, max_shard_size="300KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) == 3
    return tmp_path


def index(edit: Callable[[dict[str, Any]], object]) -> Damage:
    def damage(folder: Path) -> None:
        content = json.loads((folder / INDEX).read_text())
        edit(content)
        (folder / INDEX).write_text(json.dumps(content))

    return damage


def placed(name: object) -> Damage:
    return index(lambda content: content["weight_map"].update({BIAS: name}))


def linked(file: Path, target: Path) -> None:
    """Moves a file, and leaves a link to it where it was."""
    file.rename(target)
    file.symlink_to(target)


FIRST, SECOND = (f"model-0000{n}-of-00003.safetensors" for n in (1, 2))

SHARDS = {
    "a shard is missing": form(lambda folder: (folder / SECOND).unlink(), f"{SECOND}, which is not there", FETCH),
    "a shard is truncated": form(
        lambda folder: (folder / SECOND).write_bytes((folder / SECOND).read_bytes()[:-5]), SECOND, "5 missing", FETCH
    ),
    "a shard is a web page": form(
        lambda folder: (folder / SECOND).write_text("<!DOCTYPE html>"), SECOND, "is a web page", "/resolve/"
    ),
    "a shard is of another save": form(
        lambda folder: (folder / SECOND).write_bytes((folder / FIRST).read_bytes()),
        f"{INDEX} and {SECOND} disagree",
        "listed and not there, such as",
        "there and not listed, such as",
        "different saves",
    ),
    "a shard is a link to somewhere else": form(
        lambda folder: linked(folder / SECOND, folder.parent / f"{folder.name} elsewhere"),
        f"{SECOND}, which is a link to ",
        "outside its folder",
        "put the file itself there",
    ),
    "an index of two megabytes": form(
        lambda folder: (folder / INDEX).write_text("{}" + " " * 2_000_000),
        INDEX,
        "2,000,002 bytes",
        "at most 1,000,000",
    ),
    "thousands of names": form(
        index(lambda content: content["weight_map"].update({f"x{n}": FIRST for n in range(4_000)})),
        f"{INDEX} holds 4,148 entries; at most 4,000 are read",
    ),
    "a tensor is listed in no shard": form(
        index(lambda content: content["weight_map"].pop(BIAS)), "disagree: 1 tensors there and not listed", BIAS
    ),
    "a tensor is listed and nowhere": form(
        index(lambda content: content["weight_map"].update(ghost=FIRST)), "1 tensors listed and not there", "'ghost'"
    ),
    "upwards": form(placed("../model.safetensors"), BIAS, "'../model.safetensors'", "not a plain file name"),
    "absolute": form(placed("/etc/passwd"), BIAS, "'/etc/passwd'", "not a plain file name"),
    "another drive": form(placed("C:\\model.safetensors"), "not a plain file name"),
    "the folder itself": form(placed(".."), "not a plain file name"),
    "a NUL": form(placed("model\0.safetensors"), "not a plain file name"),
    "no text": form(placed(None), BIAS, "None", "not a plain file name"),
    "the index as its own shard": form(
        index(lambda content: content.update(weight_map={BIAS: INDEX})), INDEX, "in no form that is known"
    ),
    "no weight_map": form(index(lambda content: content.pop("weight_map")), f"{INDEX} has no weight_map"),
    "an empty weight_map": form(index(lambda content: content.update(weight_map={})), f"{INDEX} has no weight_map"),
    "a list": form(lambda folder: (folder / INDEX).write_text("[]"), INDEX),
    "no JSON": form(lambda folder: (folder / INDEX).write_text("{"), INDEX, "JSON"),
    "a name twice": form(
        lambda folder: (folder / INDEX).write_text(f'{{"weight_map": {{"a": "{FIRST}", "a": "{SECOND}"}}}}'),
        INDEX,
        "'a' appears twice",
    ),
}


@pytest.mark.parametrize("case", SHARDS.values(), ids=SHARDS)
def test_shards_that_do_not_agree(case: Case, shards: Path, module: GPTModel) -> None:
    case.damage(shards)
    refused(shards, case.kind, case.texts, module)


def test_a_shard_may_be_a_link_to_its_neighbour(shards: Path, perturbed_checkpoint: Path) -> None:
    """And to what is elsewhere in the Hub's cache, in which all files are links: `tests/test_hub.py`."""
    linked(shards / SECOND, shards / "blob")
    tensors = GPTModel.from_pretrained(shards).state_dict()
    expected = GPTModel.from_pretrained(perturbed_checkpoint).state_dict()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


# ------------------------------------------------------------------------------------- what people hand over instead


def test_nothing_that_real_people_mistook_for_a_checkpoint_is_one(shared_checkpoints: Path, folder: Path) -> None:
    """Every file of the collection; what most of them are told is tested below, or beside their parser."""
    mistaken = sorted((shared_checkpoints / "negative").iterdir())
    assert len(mistaken) >= 7
    for path in mistaken:
        source = path
        if path.name == "vocab.bpe.crlf":  # which is what it says, and is read: tests/test_tokenizer.py
            continue
        if path.name.endswith("_config.json"):
            shutil.copyfile(path, folder / "config.json")
            source = folder
        start = time.process_time()
        with pytest.raises(CheckpointError) as caught, bounded():
            GPTModel.from_pretrained(source)
        assert time.process_time() - start < AT_ONCE
        assert caught.value.hint and str(source) in caught.value.message, path.name


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("lfs_pointer_model.safetensors", ("is a Git-LFS pointer, not the weights", "git lfs pull")),
        ("html_page_named_model.safetensors", ("is a web page, not weights", "/resolve/")),
        ("html_page_named_pytorch_model.bin", ("is a web page, not weights", "/resolve/")),
    ],
)
def test_what_real_people_mistook_for_weights(
    name: str, texts: tuple[str, ...], shared_checkpoints: Path, folder: Path, module: GPTModel
) -> None:
    mistaken = shared_checkpoints / "negative" / name
    refused(mistaken, FormatError, (str(mistaken), *texts), module)
    shutil.copyfile(mistaken, weights(folder))
    refused(folder, FormatError, (str(weights(folder)), *texts), module)


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", ("Git-LFS pointer", "git lfs pull")),
        (b"\n <!doctype HTML><html></html>", ("is a web page", "/resolve/")),
        (b"<html lang=en>", ("is a web page",)),
        (b"just some text, longer than ten bytes", ("starts with b'just some te'",)),
    ],
)
def test_what_is_no_weights_file_is_called_by_its_name(
    content: bytes, texts: tuple[str, ...], folder: Path, module: GPTModel
) -> None:
    weights(folder).write_bytes(content)
    refused(folder, FormatError, texts, module)


def directory_for_weights(folder: Path) -> None:
    weights(folder).unlink()
    weights(folder).mkdir()


@pytest.mark.parametrize(
    ("damage", "texts"),
    [
        (lambda folder: weights(folder).unlink(), ("has no weights", "model.safetensors", "it holds config.json")),
        (lambda folder: [path.unlink() for path in folder.iterdir()], ("has no weights", "it is empty")),
        (directory_for_weights, ("has no weights",)),
    ],
)
def test_directories_without_weights(damage: Damage, texts: tuple[str, ...], folder: Path, module: GPTModel) -> None:
    damage(folder)
    refused(folder, CheckpointError, (str(folder), *texts), module)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("/no/such/model.safetensors", "/no/such/model.safetensors does not exist"),
        ("./model.safetensors", "does not exist"),
        ("a/b/c", "a/b/c does not exist"),
        ("a model with spaces", "does not exist"),
        ("model\0.safetensors", "does not exist"),
        ("/" + "x" * 5000, "File name too long"),
        ("~no such user/gpt2", "home directory"),
    ],
    ids=["absolute", "relative", "deep", "spaces", "nul", "long", "home"],
)
def test_what_does_not_exist(source: str, text: str, module: GPTModel) -> None:
    refused(source, CheckpointError, (text,), module)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_what_is_there_and_no_file(folder: Path, module: GPTModel) -> None:
    """Opening a pipe would wait for ever."""
    for pipe in (folder / "pipe", weights(folder)):
        pipe.unlink(missing_ok=True)
        os.mkfifo(pipe)
    refused(folder / "pipe", CheckpointError, ("pipe is neither a file nor a directory", "save it as a file"), module)
    refused("/dev/zero", CheckpointError, ("/dev/zero is neither a file nor a directory",), module)
    refused(folder, CheckpointError, (f"{folder} has no weights",), module)


# ----------------------------------------------------------------------------------------------------- the module


@pytest.fixture
def unchanged() -> Iterator[Callable[[nn.Module], nn.Module]]:
    """Registers modules whose every parameter and buffer must be at the end as it was."""
    registered: list[tuple[nn.Module, Tensors]] = []

    def register(module: nn.Module) -> nn.Module:
        registered.append((module, {name: tensor.clone() for name, tensor in module.state_dict().items()}))
        return module

    yield register
    assert registered
    for module, before in registered:
        after = module.state_dict()
        assert after.keys() == before.keys()
        assert all(torch.equal(after[name], before[name]) for name in before)


Unchanged = Callable[[nn.Module], nn.Module]


@pytest.fixture(scope="module")
def bookish(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that other people's code can hold: inner width 4 E."""
    folder = tmp_path_factory.mktemp("bookish")
    perturbed(n_inner=None).save_pretrained(folder)
    return folder


def test_a_module_of_other_sizes(bookish: Path, unchanged: Unchanged) -> None:
    sizes = book_config(GPTConfig(**SIZES))
    module = unchanged(book.GPTModel(sizes | {"vocab_size": 212, "n_layers": 11}))
    with pytest.raises(MappingError) as caught:
        load_into(module, bookish, layout="llms_from_scratch")
    for text in (
        "GPTModel does not fit",
        "missing (16): trf_blocks.11.norm1.scale",
        "tok_emb.weight is [212, 44], expected [211, 44]",
        "build the module with the checkpoint's sizes",
    ):
        assert text in str(caught.value)


def test_a_module_of_another_layout(bookish: Path, unchanged: Unchanged) -> None:
    module = unchanged(STYLES["nanogpt"](GPTConfig(**SIZES)))
    with pytest.raises(MappingError, match="the layout 'nanogpt' fits this module"):
        load_into(module, bookish, layout="llms_from_scratch")


def test_a_layout_that_does_not_exist(bookish: Path, unchanged: Unchanged) -> None:
    with pytest.raises(
        MappingError, match=r"there is no layout 'gpt3'\n  hint: one of: gpt2_from_scratch, huggingface"
    ):
        load_into(unchanged(STYLES["book"](GPTConfig(**SIZES))), bookish, layout="gpt3")


@pytest.mark.parametrize("prefix", ["_orig_mod", "module"])
def test_a_module_inside_a_wrapper(prefix: str, bookish: Path, unchanged: Unchanged) -> None:
    wrapper = nn.Module()
    wrapper.add_module(prefix, STYLES["book"](GPTConfig(**SIZES)))
    with pytest.raises(MappingError, match=rf"{prefix}\.trf_blocks.*") as caught:
        load_into(unchanged(wrapper), bookish, layout="llms_from_scratch")
    assert f"module.{prefix} of " in caught.value.hint


def test_a_module_without_biases_that_the_checkpoint_needs(bookish: Path, unchanged: Unchanged) -> None:
    module = unchanged(book.GPTModel(book_config(GPTConfig(**SIZES), qkv_bias=False)))
    with pytest.raises(MappingError) as caught:
        load_into(module, bookish, layout="llms_from_scratch")
    for text in (
        "trf_blocks.{0...11}.att.W_key.bias",
        "not zero in the checkpoint",
        "largest value 0.",
        "qkv_bias=True",
    ):
        assert text in str(caught.value)
    sizes = {"block_size": 37, "vocab_size": 211, "n_layer": 12, "n_head": 4, "n_embd": 44}
    with pytest.raises(MappingError, match=r"transformer\.ln_f\.bias, but .*\n.*bias=True in nanoGPT"):
        load_into(unchanged(nanogpt.GPT(nanogpt.GPTConfig(**sizes, bias=False))), bookish, layout="nanogpt")


def test_a_module_that_lacks_one_bias_of_many(bookish: Path, unchanged: Unchanged) -> None:
    module = book.GPTModel(book_config(GPTConfig(**SIZES)))
    module.trf_blocks[5].att.W_key.bias = None
    with pytest.raises(MappingError, match=r"missing \(1\): trf_blocks\.5\.att\.W_key\.bias"):
        load_into(unchanged(module), bookish, layout="llms_from_scratch")


def test_a_tied_module_for_an_untied_checkpoint(tmp_path: Path, unchanged: Unchanged) -> None:
    perturbed(n_inner=None, tie_word_embeddings=False).save_pretrained(tmp_path)
    module = unchanged(STYLES["nanogpt"](GPTConfig(**SIZES)))
    with pytest.raises(MappingError, match=r"wte\.weight and lm_head\.weight are one parameter.*two different tensors"):
        load_into(module, tmp_path, layout="nanogpt")


def test_a_module_that_shares_what_no_gpt2_shares(bookish: Path, unchanged: Unchanged) -> None:
    module = STYLES["book"](GPTConfig(**SIZES))
    module.trf_blocks[4].norm1.scale = module.trf_blocks[3].norm1.scale
    with pytest.raises(
        MappingError, match=r"trf_blocks\.3\.norm1\.scale and trf_blocks\.4\.norm1\.scale are one parameter"
    ):
        load_into(unchanged(module), bookish, layout="llms_from_scratch")
