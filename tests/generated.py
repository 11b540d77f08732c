"""Checkpoints as people have them, made by chance: a known model under wrappers, keys, ties, neighbours and dtypes.

`generated` writes one for a seed. `opened` opens it as a user would: as it is, or by following the hints to the letter.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from gpt2_from_scratch import CheckpointError, open_checkpoint
from gpt2_from_scratch.loading import Checkpoint

LINEAR = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.")
PREFIXES = ("model.", "net.", "gpt.", "base_model.model.", "student.", "my-model.v2.", "backbone.")
KEYS = ("model", "state_dict", "model_state_dict", "weights", "net", "ema", "trainer.module", "a.b.c")
EXTRAS = {
    "a classifier": {"score.weight": (2, 0)},
    "a value head": {"v_head.summary.weight": (1, 0), "v_head.summary.bias": (1,)},
    "a metric": {"train_acc.total": (1,), "train_acc.count": (1,)},
    "an unknown head": {"aux_out.weight": (5, 0)},
}
MOST_HINTS = 3  # one after the other: each must lead further


@dataclass
class Truth:
    """What was written.

    Args:
        path: what a user opens.
        tensors: canonical name -> what must be read.
        settings: of the model, in config.json's words.
        story: how it was written, for a failing test.
    """

    path: Path
    tensors: dict[str, Tensor]
    settings: dict[str, Any]
    story: list[str] = field(default_factory=list)


def generated(seed: int, folder: Path) -> Truth:
    """Writes a checkpoint that depends on the seed only."""
    chance = Random(seed)
    settings = _settings(chance)
    code_base = chance.choice(("huggingface", "huggingface", "nanogpt", "mingpt", "book"))
    settings["tie_word_embeddings"] = code_base == "nanogpt" or (code_base == "huggingface" and chance.random() < 0.7)
    settings["activation_function"] = "gelu" if code_base == "nanogpt" and chance.random() < 0.6 else "gelu_new"
    dtype = chance.choice((torch.float32, torch.float32, torch.float16, torch.bfloat16))
    canonical = _canonical(settings, seed, dtype)
    truth = Truth(folder, dict(canonical), settings, [code_base, str(dtype), f"tied {settings['tie_word_embeddings']}"])
    tensors = {"huggingface": _huggingface, "nanogpt": _nanogpt, "mingpt": _nanogpt, "book": _book}[code_base](
        canonical, settings, chance, truth.story
    )
    tensors = _wrapped(tensors, code_base, settings, chance, truth.story)
    _write(tensors, code_base, settings, folder, chance, truth)
    return truth


def opened(truth: Truth) -> tuple[Checkpoint, list[str]]:
    """The checkpoint, and the hints that were followed to the letter. What a hint leaves open is said truly."""
    options: dict[str, Any] = {}
    followed: list[str] = []
    while (error := _refusal(truth.path, options)) is not None:
        assert error.options, f"no option is advised after {followed}: {error}, {truth.story}"
        assert len(followed) < MOST_HINTS, f"the hints lead nowhere: {followed}, then {error}, {truth.story}"
        followed.append(error.hint)
        for name, value in error.options.items():
            if isinstance(value, Mapping):
                value = {each: truth.settings[each] if said == "..." else said for each, said in value.items()}
            options[name] = value
    return open_checkpoint(truth.path, **options), followed


def _refusal(path: Path, options: Any) -> CheckpointError | None:
    try:
        open_checkpoint(path, **options)
    except CheckpointError as error:
        return error
    return None


def assert_right(checkpoint: Checkpoint, truth: Truth) -> None:
    """What was opened is what was written, or what differs is called assumed."""
    story = f"{truth.story}, opened with {checkpoint.options}: {checkpoint.notes}"
    for name, value in truth.settings.items():
        assumed = any(text.startswith(f"{name} ") for text in checkpoint.assumed)
        assert getattr(checkpoint.config, name) == value or assumed, f"{name}: {story}"
    for name, tensor in truth.tensors.items():
        found = checkpoint.read(name)
        assert found.dtype == tensor.dtype and torch.equal(found, tensor), f"{name}: {story}"


def _settings(chance: Random) -> dict[str, Any]:
    n_head, head_dim = chance.choice((1, 2, 3, 4)), chance.choice((5, 7, 8))
    return {
        "vocab_size": chance.choice((61, 97, 128)),
        "n_positions": chance.choice((16, 23, 32)),
        "n_embd": n_head * head_dim,
        "n_layer": chance.choice((1, 2, 3)),
        "n_head": n_head,
        "layer_norm_epsilon": 1e-5,
    }


def _canonical(settings: Mapping[str, Any], seed: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Hugging Face's names without prefix -> random numbers."""
    source = torch.Generator().manual_seed(seed)
    width, inner = settings["n_embd"], 4 * settings["n_embd"]
    shapes: dict[str, tuple[int, ...]] = {
        "wte.weight": (settings["vocab_size"], width),
        "wpe.weight": (settings["n_positions"], width),
    }
    for layer in range(settings["n_layer"]):
        block = f"h.{layer}."
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"{block}{norm}.weight": (width,), f"{block}{norm}.bias": (width,)}
        for name, shape in zip(
            LINEAR, ((width, 3 * width), (width, width), (width, inner), (inner, width)), strict=True
        ):
            shapes |= {f"{block}{name}": shape, f"{block}{name.replace('weight', 'bias')}": shape[1:]}
    shapes |= {"ln_f.weight": (width,), "ln_f.bias": (width,)}
    if not settings["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (settings["vocab_size"], width)
    return {name: torch.randn(shape, generator=source).to(dtype) for name, shape in shapes.items()}


# ---------------------------------------------------------------------------------------------------- code bases


def _huggingface(canonical: dict[str, Tensor], settings: Any, chance: Random, story: list[str]) -> dict[str, Tensor]:
    trunk = chance.choice(("transformer.", "transformer.", ""))
    tensors = {name if name.startswith("lm_head") else trunk + name: each for name, each in canonical.items()}
    if chance.random() < 0.3:
        story.append("masks")
        for layer in range(settings["n_layer"]):
            tensors[f"{trunk}h.{layer}.attn.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.uint8)
    return _tie(tensors, f"{trunk}wte.weight", settings, chance, story)


def _nanogpt(canonical: dict[str, Tensor], settings: Any, chance: Random, story: list[str]) -> dict[str, Tensor]:
    tensors = {
        name if name.startswith("lm_head") else f"transformer.{name}": each.t() if name.endswith(LINEAR) else each
        for name, each in canonical.items()
    }
    return _tie(tensors, "transformer.wte.weight", settings, chance, story)


def _tie(tensors: dict[str, Tensor], wte: str, settings: Any, chance: Random, story: list[str]) -> dict[str, Tensor]:
    """A tied pair under one of its names, or under both."""
    if settings["tie_word_embeddings"]:
        match chance.choice(("both", "both", "embedding", "head")):
            case "both":
                story.append("both names of the tied pair")
                tensors["lm_head.weight"] = tensors[wte].clone()
            case "head":
                story.append("the tied pair under the head's name")
                tensors["lm_head.weight"] = tensors.pop(wte)
    return tensors


def _book(canonical: dict[str, Tensor], settings: Any, chance: Random, story: list[str]) -> dict[str, Tensor]:
    names = {"ln_1": "norm1", "ln_2": "norm2", "attn.c_proj": "att.out_proj", "mlp.c_fc": "ff.layers.0"}
    names["mlp.c_proj"] = "ff.layers.2"
    tensors = {"tok_emb.weight": canonical["wte.weight"], "pos_emb.weight": canonical["wpe.weight"]}
    for layer in range(settings["n_layer"]):
        ours, theirs = f"h.{layer}.", f"trf_blocks.{layer}."
        for what in ("weight", "bias"):
            parts = canonical[f"{ours}attn.c_attn.{what}"].chunk(3, dim=-1)
            for name, part in zip(("query", "key", "value"), parts, strict=True):
                tensors[f"{theirs}att.W_{name}.{what}"] = part.t() if part.dim() > 1 else part
            for our_name, their_name in names.items():
                tensor = canonical[f"{ours}{our_name}.{what}"]
                if our_name.startswith("ln"):
                    tensors[f"{theirs}{their_name}.{'scale' if what == 'weight' else 'shift'}"] = tensor
                else:
                    tensors[f"{theirs}{their_name}.{what}"] = tensor.t() if tensor.dim() > 1 else tensor
    tensors |= {"final_norm.scale": canonical["ln_f.weight"], "final_norm.shift": canonical["ln_f.bias"]}
    return tensors | {"out_head.weight": canonical["lm_head.weight"]}


# ------------------------------------------------------------------------------------------- what is around them


def _wrapped(
    tensors: dict[str, Tensor], code_base: str, settings: Any, chance: Random, story: list[str]
) -> dict[str, Tensor]:
    for prefix in chance.sample((*WRAPPERS, *PREFIXES), chance.choice((0, 0, 1, 1, 2))):
        story.append(f"prefix {prefix}")
        tensors = {prefix + name: each for name, each in tensors.items()}
    if chance.random() < 0.2:
        story.append("wrappers inside names")
        inside = ".trf_blocks.0." if code_base == "book" else "h.0."
        tensors = {name.replace(inside, f"{inside}_checkpoint_wrapped_module."): each for name, each in tensors.items()}
    if chance.random() < 0.25:
        what, shapes = chance.choice(list(EXTRAS.items()))
        story.append(what)
        for name, shape in shapes.items():
            tensors[name] = torch.ones([size or settings["n_embd"] for size in shape])
    return tensors


def _write(
    tensors: dict[str, Tensor], code_base: str, settings: Any, folder: Path, chance: Random, truth: Truth
) -> None:
    tensors = {name: each.contiguous() for name, each in tensors.items()}
    form = chance.choice(("safetensors", "shards", "torch", "torch", "stream", "npz"))
    if form == "npz" and (truth.tensors["wte.weight"].dtype == torch.bfloat16 or "masks" in truth.story):
        form = "torch"
    truth.story.append(form)
    config = {"model_type": "gpt2", **settings}
    file = folder / {"safetensors": "model.safetensors", "npz": "weights.npz"}.get(form, "model.pt")
    match form:
        case "safetensors":
            save_file(tensors, file, {"format": "pt"})
        case "shards":
            names = sorted(tensors)
            parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
            for part, those in parts.items():
                save_file({name: tensors[name] for name in those}, folder / part)
            index = {"metadata": {}, "weight_map": {name: part for part, those in parts.items() for name in those}}
            file = folder / "model.safetensors.index.json"
            file.write_text(json.dumps(index))
        case "npz":
            np.savez(file, **{name: each.numpy() for name, each in tensors.items()})
        case _:
            torch.save(_around(tensors, chance, truth.story), file, _use_new_zipfile_serialization=form == "torch")
    neighbour = chance.choice(("right", "right", "right", "none", "none", "llama", "broken", "other", "list"))
    truth.story.append(f"config.json {neighbour}")
    content = {
        "right": json.dumps(config),
        "llama": json.dumps({"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 2}),
        "broken": "{'n_head': 2}",
        "other": json.dumps({"trainer": {"lr": 1e-3}, "seed": 1}),
        "list": "[1, 2]",
    }
    if neighbour in content:
        (folder / "config.json").write_text(content[neighbour])
    if chance.random() < 0.4:
        truth.story.append("neighbours")
        torch.save({"param_groups": []}, folder / "optimizer.pt")
        (folder / "training_args.bin").write_bytes(b"\x80\x02}q\x00.")
        (folder / "README.md").write_text("mine")
    truth.path = file if chance.random() < 0.3 else folder


def _around(tensors: dict[str, Tensor], chance: Random, story: list[str]) -> Any:
    """Keys around a state dict, and objects beside it."""
    if chance.random() < 0.4:
        return tensors
    key = chance.choice(KEYS)
    story.append(f"key {key}")
    content: Any = tensors
    for part in reversed(key.split(".")):
        content = {part: content}
    content |= {"step": 7, "args": {"lr": 1e-3, "path": Path("x")}, "rng": np.float64(0.5)}
    return content
