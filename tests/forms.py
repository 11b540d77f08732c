"""Files of other programs, written without the package: what its readers are tested with.

Each writer follows the format's own description, or uses the library of those who made it. They take GPT-2's weights
under Hugging Face's names (`weights`) and spell out names and orientations, so that a wrong row in a layout, or a wrong
range in a container, has nothing here that is wrong in the same way.
"""

import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import gguf
import h5py
import msgpack
import numpy as np
import torch
from transformers import GPT2LMHeadModel

from gpt2_from_scratch.model import GPTModel

Arrays = dict[str, np.ndarray]
LINEAR = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
NORMS = ("ln_1", "ln_2")

# Logits of equal weights and equal mathematics: measured 0 here; on other machines the two may be rounded differently,
# by a few units in the last of 24 bits of numbers around 10.
SAME = 1e-5


def weights(model: GPT2LMHeadModel) -> Arrays:
    """Without prefix; linear weights ``[in, out]``; no head, unless it is untied."""
    tied = model.config.tie_word_embeddings
    state = {name.removeprefix("transformer."): tensor.numpy() for name, tensor in model.state_dict().items()}
    return {name: array for name, array in state.items() if not (tied and name == "lm_head.weight")}


def layers(t: Arrays) -> range:
    return range(sum(name.endswith(".ln_1.weight") for name in t))


def assert_same_model(model: GPTModel, reference: GPT2LMHeadModel) -> None:
    """Equal parameters, bit by bit, and logits that are equal up to rounding."""
    ours = {name: tensor.detach() for name, tensor in model.named_parameters()}
    theirs = weights(reference)
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        assert torch.equal(ours[name], torch.from_numpy(array)), name
    ids = torch.randint(model.config.vocab_size, (2, 31), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(model(ids), reference(ids, use_cache=False).logits, rtol=0, atol=SAME)


def save_config(model: GPT2LMHeadModel, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(model.config.to_dict()))


# ------------------------------------------------------------------------------------------------- TensorFlow bundle


def openai_variables(t: Arrays) -> Arrays:
    v = {"model/wte": t["wte.weight"], "model/wpe": t["wpe.weight"]}
    v |= {"model/ln_f/g": t["ln_f.weight"], "model/ln_f/b": t["ln_f.bias"]}
    for i in layers(t):
        for name in NORMS:
            v |= {f"model/h{i}/{name}/g": t[f"h.{i}.{name}.weight"], f"model/h{i}/{name}/b": t[f"h.{i}.{name}.bias"]}
        for name in LINEAR:
            path = f"model/h{i}/{name.replace('.', '/')}"
            v |= {f"{path}/w": t[f"h.{i}.{name}.weight"][np.newaxis], f"{path}/b": t[f"h.{i}.{name}.bias"]}
    return v


def write_openai(folder: Path, t: Arrays, n_head: int) -> Path:
    """A directory as OpenAI's; returns the directory."""
    write_bundle(folder / "model.ckpt", openai_variables(t))
    (n_vocab, n_embd), n_ctx = t["wte.weight"].shape, len(t["wpe.weight"])
    hparams = {"n_vocab": n_vocab, "n_ctx": n_ctx, "n_embd": n_embd, "n_head": n_head, "n_layer": len(layers(t))}
    (folder / "hparams.json").write_text(json.dumps(hparams))
    (folder / "checkpoint").write_text('model_checkpoint_path: "model.ckpt"\n')
    return folder


TF_DTYPES = {"float32": 1, "float64": 2, "int32": 3, "int64": 9, "float16": 19}


def write_bundle(prefix: Path, variables: Mapping[str, np.ndarray], shards: int = 1, **how: Any) -> None:
    """Any variables as a TensorFlow checkpoint; one tensor goes to each data file in turn."""
    files = [bytearray() for _ in range(shards)]
    table = [(b"", proto({1: shards, 3: proto({1: 1})}))]
    for number, name in enumerate(sorted(variables)):
        data, shard = variables[name].tobytes(), number % shards
        shape = b"".join(bytes_field(2, proto({1: size})) for size in variables[name].shape)
        place = {3: shard, 4: len(files[shard]), 5: len(data)}
        crc = bytes([6 << 3 | 5]) + struct.pack("<I", masked_crc(data))
        table.append(
            (
                name.encode(),
                proto({1: TF_DTYPES[str(variables[name].dtype)]}) + bytes_field(2, shape) + proto(place) + crc,
            )
        )
        files[shard] += data
    prefix.parent.mkdir(parents=True, exist_ok=True)
    for shard, data in enumerate(files):
        Path(f"{prefix}.data-{shard:05d}-of-{shards:05d}").write_bytes(data)
    Path(f"{prefix}.index").write_bytes(sstable(table, **how))


def sstable(table: Iterable[tuple[bytes, bytes]], per_block: int = 1_000_000, compressed: bool = False) -> bytes:
    """A LevelDB table. Keys are stored whole: prefixes are shared to save space, never because they must be."""
    entries = sorted(table)
    out = bytearray()

    def block(pairs: list[tuple[bytes, bytes]]) -> bytes:
        """Appends a block; returns its handle."""
        payload = bytearray()
        restarts = []
        for key, value in pairs:
            restarts.append(len(payload))
            payload += varint(0) + varint(len(key)) + varint(len(value)) + key + value
        payload += b"".join(struct.pack("<I", at) for at in restarts or [0]) + struct.pack("<I", len(restarts or [0]))
        content = (snappy(payload) + b"\1") if compressed else bytes(payload) + b"\0"
        handle = varint(len(out)) + varint(len(content) - 1)
        out.extend(content + struct.pack("<I", masked_crc(content)))
        return handle

    index = []
    for start in range(0, len(entries), per_block):
        part = entries[start : start + per_block]
        index.append((part[-1][0], block(part)))
    handles = block([]) + block(index)
    return bytes(out) + handles.ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")


def snappy(data: bytes) -> bytes:
    """Raw snappy of a simple kind: eight bytes that came before are copied, any others are literals of one byte."""
    out, at = bytearray(varint(len(data))), 0
    while at < len(data):
        found = data.find(data[at : at + 8], max(0, at - 60_000), at + 7)
        if at + 8 > len(data) or found == at or found < 0:
            out += bytes([0, data[at]])
            at += 1
        else:
            out += bytes([7 << 2 | 2]) + struct.pack("<H", at - found)
            at += 8
    return bytes(out)


def varint(number: int) -> bytes:
    out = b""
    while number >= 128:
        out += bytes([number % 128 + 128])
        number //= 128
    return out + bytes([number])


def proto(fields: Mapping[int, int | bytes]) -> bytes:
    """A protocol buffer; zeros are left out."""
    out = b""
    for number, content in fields.items():
        if isinstance(content, bytes):
            out += bytes_field(number, content)
        elif content:
            out += varint(number * 8) + varint(content)
    return out


def bytes_field(number: int, content: bytes) -> bytes:
    return varint(number * 8 + 2) + varint(len(content)) + content


CRC_TABLE = np.arange(256, dtype=np.uint32)
for _ in range(8):
    CRC_TABLE = np.where(CRC_TABLE & 1, CRC_TABLE >> 1 ^ 0x82F63B78, CRC_TABLE >> 1).astype(np.uint32)
CRC_LIST = CRC_TABLE.tolist()


def crc32c(data: bytes) -> int:
    """Castagnoli's; bit by bit in a table, so as to share nothing with the library that the package uses.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ CRC_LIST[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def masked_crc(data: bytes) -> int:
    crc = crc32c(data)
    return ((crc >> 15) + (crc << 17) + 0xA282EAD8) % 2**32


# -------------------------------------------------------------------------------------------------------------- llm.c


def llmc_arrays(t: Arrays, rows: int) -> Arrays:
    """The parameters of llm.c in the order of its struct; ``[layers, out, in]``; `rows` of the token embedding."""

    def stack(name: str) -> np.ndarray:
        arrays = np.stack([t[f"h.{i}.{name}"] for i in layers(t)])
        return arrays.swapaxes(1, 2) if arrays.ndim == 3 else arrays

    padding = np.full((rows - len(t["wte.weight"]), t["wte.weight"].shape[1]), 7, np.float32)  # trained files have some
    a = {"wte": np.concatenate([t["wte.weight"], padding]), "wpe": t["wpe.weight"]}
    a |= {"ln1w": stack("ln_1.weight"), "ln1b": stack("ln_1.bias")}
    a |= {"qkvw": stack("attn.c_attn.weight"), "qkvb": stack("attn.c_attn.bias")}
    a |= {"attprojw": stack("attn.c_proj.weight"), "attprojb": stack("attn.c_proj.bias")}
    a |= {"ln2w": stack("ln_2.weight"), "ln2b": stack("ln_2.bias")}
    a |= {"fcw": stack("mlp.c_fc.weight"), "fcb": stack("mlp.c_fc.bias")}
    a |= {"fcprojw": stack("mlp.c_proj.weight"), "fcprojb": stack("mlp.c_proj.bias")}
    return a | {"lnfw": t["ln_f.weight"], "lnfb": t["ln_f.bias"]}


def write_llmc(path: Path, t: Arrays, n_head: int, version: int) -> Path:
    vocab, width = t["wte.weight"].shape
    padded = -(-vocab // 128) * 128
    a = llmc_arrays(t, padded if version >= 3 else vocab)
    header = [20240326, version, len(t["wpe.weight"]), vocab, len(layers(t)), n_head, width]
    header += [padded if version >= 3 else 0]
    norms = [name for name in a if name.startswith("ln")]
    if version in (2, 4):
        data = b"".join(bfloat16(a[name]) for name in a if name not in norms)
        data += b"".join(a[name].astype("<f4").tobytes() for name in norms)
    else:
        data = b"".join(bfloat16(x) if version == 5 else x.astype("<f4").tobytes() for x in a.values())
    path.write_bytes(np.array(header + [0] * (256 - len(header)), "<i4").tobytes() + data)
    return path


def bfloat16(array: np.ndarray) -> bytes:
    return torch.from_numpy(np.ascontiguousarray(array)).to(torch.bfloat16).view(torch.int16).numpy().tobytes()


# --------------------------------------------------------------------------------------------------------------- GGUF

GGUF_LINEAR = dict(zip(LINEAR, ("attn_qkv", "attn_output", "ffn_up", "ffn_down"), strict=True))
GGUF_NORMS = {"ln_1": "attn_norm", "ln_2": "ffn_norm"}


def gguf_arrays(t: Arrays) -> Arrays:
    a = {"token_embd.weight": t["wte.weight"], "position_embd.weight": t["wpe.weight"]}
    for i in layers(t):
        for ours, theirs in GGUF_NORMS.items():
            a |= {f"blk.{i}.{theirs}.{end}": t[f"h.{i}.{ours}.{end}"] for end in ("weight", "bias")}
        for ours, theirs in GGUF_LINEAR.items():
            a[f"blk.{i}.{theirs}.weight"] = np.ascontiguousarray(t[f"h.{i}.{ours}.weight"].T)
            a[f"blk.{i}.{theirs}.bias"] = t[f"h.{i}.{ours}.bias"]
    a |= {"output_norm.weight": t["ln_f.weight"], "output_norm.bias": t["ln_f.bias"]}
    return a | ({"output.weight": t["lm_head.weight"]} if "lm_head.weight" in t else {})


def write_gguf(path: Path, t: Arrays, n_head: int, kind: str = "F32", tokens: list[str] | None = None) -> Path:
    """By llama.cpp's own package; matrices (without the position embedding) are of the ggml type `kind`."""
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_block_count(len(layers(t)))
    writer.add_context_length(len(t["wpe.weight"]))
    writer.add_embedding_length(t["wte.weight"].shape[1])
    writer.add_feed_forward_length(len(t["h.0.mlp.c_fc.bias"]))
    writer.add_head_count(n_head)
    writer.add_layer_norm_eps(1e-5)
    writer.add_bos_token_id(199)
    writer.add_eos_token_id(197)
    if tokens is not None:
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(tokens)
        writer.add_token_types([1] * len(tokens))
    ggml = gguf.GGMLQuantizationType[kind]
    for name, array in gguf_arrays(t).items():
        if array.ndim == 2 and name != "position_embd.weight":
            writer.add_tensor(name, gguf.quantize(array, ggml), raw_dtype=ggml)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


# ---------------------------------------------------------------------------------------------------------- DeepSpeed


def write_zero3(folder: Path, t: Arrays, ranks: int, groups: int = 2, frozen: tuple[str, ...] = ()) -> Path:
    """ZeRO's third stage: each parameter is cut into equal parts, and a rank's parts lie in a row of flat groups."""

    def part(name: str, rank: int) -> torch.Tensor:
        length = -(-t[name].size // ranks)
        padded = np.concatenate([t[name].ravel(), np.full(length * ranks - t[name].size, 7, np.float32)])
        return torch.from_numpy(padded[rank * length : (rank + 1) * length].copy())

    trained = [name for name in t if name not in frozen]
    for rank in range(ranks):
        flat = torch.cat([part(name, rank) for name in trained])
        model = {
            "module": {name: torch.empty(0) for name in t},
            "buffer_names": [],
            "param_shapes": [{name: torch.Size(t[name].shape) for name in trained}],
            "frozen_param_shapes": {name: torch.Size(t[name].shape) for name in frozen},
            "frozen_param_fragments": {name: part(name, rank) for name in frozen},
            "shared_params": {"lm_head.weight": "wte.weight"},
        }
        pieces = [piece.clone() for piece in flat.tensor_split(groups)]
        states = {"zero_stage": 3, "partition_count": ranks, "fp32_flat_groups": pieces}
        torch.save(model, folder / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt")
        torch.save({"optimizer_state_dict": states}, folder / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    return folder


def write_zero2(folder: Path, t: Arrays, ranks: int, padded: bool = True) -> Path:
    """ZeRO's second stage: the model is rounded; each rank has a part of the float32 matrices and of the vectors."""
    rounded = {name: torch.from_numpy(array).bfloat16() for name, array in t.items()}
    rounded["lm_head.weight"] = rounded["wte.weight"]
    groups = [[name for name in t if (t[name].ndim > 1) is matrices] for matrices in (True, False)]
    rows = [np.concatenate([t[name].ravel() for name in names]) for names in groups]
    padding = [-len(row) % (2 * ranks) if padded else 0 for row in rows]
    shapes = [{name: torch.Size(t[name].shape) for name in names} for names in groups]
    torch.save(
        {"module": rounded, "param_shapes": shapes, "dp_world_size": ranks}, folder / "mp_rank_00_model_states.pt"
    )
    for rank in range(ranks):
        parts = [np.array_split(np.pad(row, (0, more)), ranks)[rank] for row, more in zip(rows, padding, strict=True)]
        states = {"zero_stage": 2, "partition_count": [ranks, ranks], "group_paddings": padding}
        states["single_partition_of_fp32_groups"] = [torch.from_numpy(part.copy()) for part in parts]
        path = folder / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
        torch.save({"optimizer_state_dict": states}, path)
    return folder


# -------------------------------------------------------------------------------------------------------- Megatron-LM

MEGATRON_NAMES = {
    "ln_1": "input_layernorm",
    "attn.c_attn": "attention.query_key_value",
    "attn.c_proj": "attention.dense",
    "ln_2": "post_attention_layernorm",
    "mlp.c_fc": "mlp.dense_h_to_4h",
    "mlp.c_proj": "mlp.dense_4h_to_h",
}


def write_megatron(
    folder: Path, t: Arrays, n_head: int, version: float | None = None, ranks: int = 1, stages: int = 1, **more: Any
) -> Path:
    """In the names of 2019. Each rank has whole heads; of the word embedding it has rows, of which some are padding."""
    width, rows = t["wte.weight"].shape[1], -(-len(t["wte.weight"]) // (4 * ranks)) * 4
    padding = np.full((rows * ranks - len(t["wte.weight"]), width), 7, np.float32)
    words = np.concatenate([t["wte.weight"], padding])

    def part(name: str, end: str, layer: int, rank: int) -> np.ndarray:
        array = t[f"h.{layer}.{name}.{end}"]
        array = array.T if array.ndim == 2 else array
        if name == "attn.c_attn":
            heads = array.reshape(3, n_head, width // n_head, *array.shape[1:])
            mine = heads[:, rank * n_head // ranks : (rank + 1) * n_head // ranks]
            order = {0: (0, 1, 2), 1: (1, 2, 0)}.get(int(version or 0), (1, 0, 2))
            return mine.transpose(*order, *range(3, mine.ndim)).reshape(-1, *array.shape[1:])
        if name == "mlp.c_fc":
            return np.split(array, ranks)[rank]
        if end == "weight" and name in ("attn.c_proj", "mlp.c_proj"):
            return np.split(array, ranks, 1)[rank]
        return array

    for stage in range(stages):
        mine = [i for i in layers(t) if i * stages // len(layers(t)) == stage]
        for rank in range(ranks):
            trunk = {
                f"layers.{i - mine[0]}.{theirs}.{end}": part(ours, end, i, rank)
                for i in mine
                for ours, theirs in MEGATRON_NAMES.items()
                for end in ("weight", "bias")
            }
            model: dict[str, Any] = {"language_model": {"transformer": trunk}}
            some = words[rank * rows : (rank + 1) * rows]
            if stage == 0:
                tables = {"word_embeddings": {"weight": some}, "position_embeddings": {"weight": t["wpe.weight"]}}
                model["language_model"]["embedding"] = tables
            if stage == stages - 1:
                trunk |= {f"final_layernorm.{end}": t[f"ln_f.{end}"] for end in ("weight", "bias")}
                model |= {"word_embeddings_for_head": {"weight": some}} if stages > 1 else {}
            content: dict[str, Any] = {"iteration": 7, "model": tensors_of(model)} | more
            place = folder / (f"mp_rank_{rank:02d}_{stage:03d}" if stages > 1 else f"mp_rank_{rank:02d}")
            place.mkdir(exist_ok=True, parents=True)
            content |= {} if version is None else {"checkpoint_version": version}
            torch.save(content, place / "model_optim_rng.pt")
    return folder


def tensors_of(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: tensors_of(value) for key, value in tree.items()}
    return torch.from_numpy(np.ascontiguousarray(tree))


# -------------------------------------------------------------------------------------------------------- CTranslate2

CT2_TYPES = ("float32", "int8", "int16", "int32", "float16")


def ctranslate2_variables(t: Arrays, n_head: int) -> Arrays:
    """Float32, but for the matrices of the feed-forward layers, which are quantised with a scale for each row."""
    v: Arrays = {"decoder/embeddings/weight": t["wte.weight"], "decoder/position_encodings/encodings": t["wpe.weight"]}
    v |= {"decoder/layer_norm/gamma": t["ln_f.weight"], "decoder/layer_norm/beta": t["ln_f.bias"]}
    paths = ("self_attention/linear_0", "self_attention/linear_1", "ffn/linear_0", "ffn/linear_1")
    for i in layers(t):
        for ours, theirs in zip(NORMS, ("self_attention", "ffn"), strict=True):
            v[f"decoder/layer_{i}/{theirs}/layer_norm/gamma"] = t[f"h.{i}.{ours}.weight"]
            v[f"decoder/layer_{i}/{theirs}/layer_norm/beta"] = t[f"h.{i}.{ours}.bias"]
        for ours, theirs in zip(LINEAR, paths, strict=True):
            path, weight = f"decoder/layer_{i}/{theirs}", np.ascontiguousarray(t[f"h.{i}.{ours}.weight"].T)
            v[f"{path}/bias"] = t[f"h.{i}.{ours}.bias"]
            if theirs.startswith("ffn"):
                v[f"{path}/weight_scale"] = 127 / np.abs(weight).max(1)
                weight = np.rint(weight * v[f"{path}/weight_scale"][:, np.newaxis]).astype(np.int8)
            v[f"{path}/weight"] = weight
    return v | {"decoder/num_heads": np.array(n_head, np.int16), "decoder/activation": np.array(1, np.int8)}


def write_ctranslate2(path: Path, variables: Arrays, version: int = 6, kind: str = "TransformerDecoderSpec") -> Path:
    """As `model_spec.py` of CTranslate2 does; versions before 4 give an item's size and the number of items."""

    def text(content: str) -> bytes:
        return struct.pack("<H", len(content) + 1) + content.encode() + b"\0"

    out = struct.pack("<I", version) + text(kind) + struct.pack("<II", 8, len(variables))
    for name, array in variables.items():
        out += text(name) + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        typed = struct.pack("<BI", CT2_TYPES.index(str(array.dtype)), array.nbytes) if version >= 4 else b""
        out += (typed or struct.pack("<BI", array.itemsize, array.size)) + array.tobytes()
    if version >= 3:
        out += struct.pack("<I", 1) + text("decoder/projection/weight") + text("decoder/embeddings/weight")
    path.write_bytes(out)
    return path


# ------------------------------------------------------------------------------------------------ Flax, Keras 2, MLX


def flax_tree(t: Arrays) -> dict[str, Any]:
    def norm(name: str) -> dict[str, np.ndarray]:
        return {"scale": t[f"{name}.weight"], "bias": t[f"{name}.bias"]}

    def linear(name: str) -> dict[str, np.ndarray]:
        return {"kernel": t[f"{name}.weight"].T, "bias": t[f"{name}.bias"]}

    blocks = {}
    for i in layers(t):
        attention = {name: linear(f"h.{i}.attn.{name}") for name in ("c_attn", "c_proj")}
        mlp = {name: linear(f"h.{i}.mlp.{name}") for name in ("c_fc", "c_proj")}
        blocks[str(i)] = {"ln_1": norm(f"h.{i}.ln_1"), "attn": attention, "ln_2": norm(f"h.{i}.ln_2"), "mlp": mlp}
    tables = {name: {"embedding": t[f"{name}.weight"]} for name in ("wte", "wpe")}
    tree: dict[str, Any] = {"transformer": {"h": blocks, "ln_f": norm("ln_f"), **tables}}
    return tree | ({"lm_head": {"kernel": t["lm_head.weight"].T}} if "lm_head.weight" in t else {})


def flax_bytes(tree: Any) -> bytes:
    """As flax.serialization: an array is extension 1 of [shape, dtype, bytes]."""

    def extension(array: np.ndarray) -> msgpack.ExtType:
        return msgpack.ExtType(1, msgpack.packb((array.shape, array.dtype.name, array.tobytes())))

    return msgpack.packb(tree, default=extension, strict_types=True)


def keras_arrays(t: Arrays, table: str = "embeddings:0") -> Arrays:
    """Names behind ``transformer/``; biases of linear layers are ``[1, out]``."""
    a = {f"wte/{table}": t["wte.weight"], "wpe/embeddings:0": t["wpe.weight"]}
    a |= {"ln_f/gamma:0": t["ln_f.weight"], "ln_f/beta:0": t["ln_f.bias"]}
    for i in layers(t):
        for name in NORMS:
            a[f"h_._{i}/{name}/gamma:0"] = t[f"h.{i}.{name}.weight"]
            a[f"h_._{i}/{name}/beta:0"] = t[f"h.{i}.{name}.bias"]
        for name in LINEAR:
            path = f"h_._{i}/{name.replace('.', '/')}"
            a[f"{path}/weight:0"] = t[f"h.{i}.{name}.weight"]
            a[f"{path}/bias:0"] = t[f"h.{i}.{name}.bias"][np.newaxis]
    return a


def write_keras(path: Path, arrays: Arrays, instance: str = "tfgpt2lm_head_model") -> Path:
    with h5py.File(path, "w") as file:
        file.attrs["backend"] = b"tensorflow"
        file.attrs["keras_version"] = b"2.21.0"
        file.attrs["layer_names"] = [b"transformer"]
        group = file.create_group("transformer")
        names = [f"{instance}/transformer/{name}" for name in arrays]
        group.attrs["weight_names"] = [name.encode() for name in names]
        for name, array in zip(names, arrays.values(), strict=True):
            group.create_dataset(name, data=array)
    return path


def mlx_arrays(t: Arrays) -> Arrays:
    """Hugging Face's names below ``model.``; linear weights ``[out, in]``."""
    return {
        f"model.{name}": np.ascontiguousarray(array.T) if name.endswith(tuple(f"{e}.weight" for e in LINEAR)) else array
        for name, array in t.items()
    }
