"""Hints without options that a program can follow: the error is made, the hint is followed to the letter, and helps.

A trial is a function that is called twice, with a folder and a hint: without one it makes the error, and with the
error's hint it does as the hint says. Its name is a part of the hint as it stands in the source, so that
`test_hints.test_every_hint_is_known` sees which hints have a trial.
"""

import json
import os
import shlex
import shutil
from collections.abc import Callable
from contextlib import chdir
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gpt2_from_scratch import (
    CandidateError,
    CheckpointError,
    GPTConfig,
    GPTModel,
    Layout,
    load_into,
    load_tokenizer,
    verify,
)
from gpt2_from_scratch.arrays import module_of
from gpt2_from_scratch.building import load_object
from gpt2_from_scratch.checkpoint import TINY, open_container
from gpt2_from_scratch.checks.candidate import Candidate
from gpt2_from_scratch.checks.parts import PARTS
from gpt2_from_scratch.checks.recording import check_unanswered, read_recording
from gpt2_from_scratch.cli import main
from gpt2_from_scratch.converting import convert
from gpt2_from_scratch.diagnose.grade import grade
from gpt2_from_scratch.diagnose.patch import Patch
from gpt2_from_scratch.diagnose.repair import write_patch
from gpt2_from_scratch.generation_config import read_generation_config
from gpt2_from_scratch.layouts import LAYOUTS
from gpt2_from_scratch.loading import open_checkpoint
from gpt2_from_scratch.mapping import write_theirs
from gpt2_from_scratch.mapping.pattern import parse
from tests.fuzz_parsers import CONFIG, openai, torch_file
from tests.modules import STYLES

Trial = Callable[[Path, str], object]
TRIALS: dict[str, Trial] = {}


def follows(hint: str) -> Callable[[Trial], Trial]:
    def add(trial: Trial) -> Trial:
        TRIALS[hint] = trial
        return trial

    return add


def listed(hint: str) -> list[str]:
    """What a hint lists behind its first words."""
    return [each.strip() for each in hint.partition(": ")[2].split(",")]


def weights() -> dict[str, Tensor]:
    return load_file(TINY / "model.safetensors")


def settings() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((TINY / "config.json").read_text())
    return content


def saved(folder: Path, tensors: dict[str, Tensor] | None = None, config: str = "", name: str = "") -> Path:
    """Tiny's folder with these tensors, and this text as its config.json."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(config or json.dumps(settings()))
    save_file(weights() if tensors is None else tensors, folder / (name or "model.safetensors"), {"format": "pt"})
    return folder


def pickled(folder: Path, content: object) -> Path:
    saved(folder)
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin")
    return folder


# ------------------------------------------------------------------------------------------------------ config.json


def opened(wrong: str, right: str, folder: Path, hint: str) -> None:
    """Opens tiny with a field of its config.json as it stands here."""
    field = right if hint else wrong
    others = {name: value for name, value in settings().items() if not right or name not in right}
    open_checkpoint(saved(folder, config=json.dumps(others)[:-1] + (field and f", {field}") + "}"))


TRIALS |= {
    "remove the wrong one": partial(opened, '"n_head": 3', ""),
    "write it without quotes or a decimal point": partial(opened, '"n_inner": "256"', '"n_inner": 256'),
    "write it without quotes": partial(opened, '"attn_pdrop": "0.1"', '"attn_pdrop": 0.1'),
    "write a JSON boolean": partial(opened, '"scale_attn_weights": "true"', '"scale_attn_weights": true'),
    "this is the decoder of an": partial(opened, '"add_cross_attention": true', '"add_cross_attention": false'),
    "fetch it again, or correct it": partial(opened, '"x": ', '"x": 1'),
    "splits the width evenly": lambda folder, hint: GPTConfig(n_embd=64, n_head=4 if hint else 5),
}


@follows("'correct it'")
def no_object_in_config(folder: Path, hint: str) -> None:
    open_checkpoint(saved(folder, config="" if hint else "[1]"))


@follows("if the config.json is of another model, move it away")
def two_numbers_of_heads(folder: Path, hint: str) -> None:
    torch_file(folder)
    config = folder / "config.json"
    config.write_text(json.dumps({**CONFIG.to_hf(), "n_head": 1}))
    if hint:
        open_checkpoint(folder, overrides={"n_head": 2})
        config.unlink()
    open_checkpoint(folder)


@follows("_CORRECTIONS")
def said_otherwise(folder: Path, hint: str) -> None:
    (saved(folder) / "config.json").unlink()
    said = {"n_head": 4, "activation_function": "gelu_new"}
    for more in ({"n_layer": 12}, {}) if hint else ({"n_layer": 11},):  # corrected, and left out
        open_checkpoint(folder, overrides={**said, **more})


@follows("expected fields such as ")
def sizes(folder: Path, hint: str) -> None:
    names = hint.removeprefix("expected fields such as ").split(", ")
    GPTConfig.from_hf({name: getattr(GPTConfig(), name) for name in names} if hint else {"lr": 1})


@follows("fields: ")
def fields(folder: Path, hint: str) -> None:
    for name in listed(hint) if hint else ["heads"]:
        GPTConfig().replace(**{name: getattr(GPTConfig(), name, 3)})


@follows("', '.join(ACTIVATIONS)")
def activations(folder: Path, hint: str) -> None:
    for name in listed(hint) if hint else ["mish2"]:
        GPTConfig(activation_function=name)


@follows("', '.join(_SIZES)")
def official(folder: Path, hint: str) -> None:
    for size in listed(hint) if hint else ["125M"]:
        GPTConfig.for_size(size)


# ------------------------------------------------------------------------------------------------- files of weights


def sharded(folder: Path, weight_map: Any, shard: str = "a.safetensors") -> Path:
    """Tiny in one shard, with an index that says this."""
    (folder / "x").mkdir(exist_ok=True)
    saved(folder, name=shard)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


RIGHT_MAP = dict.fromkeys(weights(), "a.safetensors")


@follows("it should map each tensor's name to its shard")
def mapped(folder: Path, hint: str) -> None:
    open_checkpoint(sharded(folder, RIGHT_MAP if hint else list(RIGHT_MAP)))


@follows("_ELSEWHERE")
def beside(folder: Path, hint: str) -> None:
    shard = "a.safetensors" if hint else "x/a.safetensors"
    open_checkpoint(sharded(folder, dict.fromkeys(RIGHT_MAP, shard), shard))


@follows("the shards are of different saves")
def other_save(folder: Path, hint: str) -> None:
    open_checkpoint(sharded(folder, RIGHT_MAP | ({} if hint else {"other": "a.safetensors"})))


@follows("put the file itself there")
def linked(folder: Path, hint: str) -> None:
    index, shard = sharded(folder, RIGHT_MAP), folder / "a.safetensors"
    if not hint:
        shard.rename(folder.with_name("elsewhere.safetensors"))
        shard.symlink_to(folder.with_name("elsewhere.safetensors"))
    open_checkpoint(index)


@follows("fetch the missing shard")
def missing(folder: Path, hint: str) -> None:
    index = sharded(folder, RIGHT_MAP)
    if not hint:
        (folder / "a.safetensors").unlink()
    open_checkpoint(index)


@follows("save it as a file")
def pipe(folder: Path, hint: str) -> None:
    if not hint:
        os.mkfifo(folder / "pipe")
    open_checkpoint(saved(folder) / "model.safetensors" if hint else folder / "pipe")


@follows("rename the file or folder, or give a link to it")
def not_utf8(folder: Path, hint: str) -> None:
    odd = saved(folder / os.fsdecode(b"m\xff"))
    if hint:
        (folder / "link").symlink_to(odd)
        open_checkpoint(folder / "link")
        odd = odd.rename(folder / "model")
    open_checkpoint(odd)


@follows("name the file itself")
def several(folder: Path, hint: str) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        saved(folder, name=name)
    open_checkpoint(folder / "b.safetensors" if hint else folder)


@follows("give a file, a directory or a Hub id")
def nowhere(folder: Path, hint: str) -> None:
    for path in (TINY, TINY / "model.safetensors") if hint else (folder / "qqq",):
        open_checkpoint(path)


@follows("a key is for files of torch.save")
def key(folder: Path, hint: str) -> None:
    open_checkpoint(pickled(folder, {"model": weights(), "ema": weights()}) if hint else TINY, key="model")


@follows("save the weights by their names: torch.save(model.state_dict(), ...)")
def by_name(folder: Path, hint: str) -> None:
    state = GPTModel.from_pretrained(TINY).state_dict()
    open_checkpoint(pickled(folder, state if hint else list(state.values())))


class Mine:
    """Somebody's own class, which only its code can restore."""

    def __reduce__(self) -> Any:
        return print, ("harm",)


@follows("_ONLY_WEIGHTS")
def only_weights(folder: Path, hint: str) -> None:
    pickled(folder, Mine())
    if hint:
        assert 'write torch.save(model.state_dict(), "weights.pt")' in hint
        (folder / "pytorch_model.bin").unlink()
        torch.save(GPTModel.from_pretrained(TINY).state_dict(), folder / "weights.pt")
    open_checkpoint(folder)


@follows("_UNPACK")
def packed(folder: Path, hint: str) -> None:
    shutil.make_archive(str(folder / "model"), "zip", saved(folder / "model"))
    (folder / "model.zip").rename(folder / "model.pt")
    if hint:
        shutil.unpack_archive(folder / "model.pt", folder / "unpacked", "zip")
    open_checkpoint(folder / ("unpacked" if hint else "model.pt"))


@follows("save with savez, not with savez_compressed")
def compressed(folder: Path, hint: str) -> None:
    (np.savez if hint else np.savez_compressed)(folder / "w.npz", x=np.ones((9, 9)))
    open_container(folder / "w.npz")


@follows("save np.ascontiguousarray of it")
def fortran(folder: Path, hint: str) -> None:
    array = np.asfortranarray(np.ones((2, 3)))
    np.savez(folder / "w.npz", x=np.ascontiguousarray(array) if hint else array)
    open_container(folder / "w.npz")


@follows("save float32 or float16; numpy has no bfloat16")
def complex_numbers(folder: Path, hint: str) -> None:
    for dtype in (np.float32, np.float16) if hint else (np.complex64,):
        np.savez(folder / "w.npz", x=np.ones(2, dtype))
        open_container(folder / "w.npz")


@follows("give the .index file of one of them")
def two_bundles(folder: Path, hint: str) -> None:
    openai(folder)
    for file in list(folder.glob("model.ckpt.*")):
        shutil.copy(file, folder / file.name.replace("model.ckpt", "other.ckpt"))
    open_checkpoint(folder / "other.ckpt.index" if hint else folder)


@follows("fetch the missing data file")
def without_data(folder: Path, hint: str) -> None:
    openai(folder)
    if not hint:
        next(folder.glob("*.data-*")).unlink()
    open_checkpoint(folder)


@follows("fetch it, too")
def without_index(folder: Path, hint: str) -> None:
    openai(folder)
    if not hint:
        (folder / "model.ckpt.index").unlink()
    open_checkpoint(next(folder.glob("*.data-*")))


@follows("convert to float32 or to bfloat16")
def half(folder: Path, hint: str) -> None:
    for dtype in (torch.float32, torch.bfloat16) if hint else (torch.float16,):
        convert(TINY, folder / str(dtype), "llm.c", dtype=dtype)


# ----------------------------------------------------------------------------------------------- layouts, and modules

ROWS = LAYOUTS["gpt2_from_scratch"][0].rows


@follows("', '.join(LAYOUTS)")
def layout_name(folder: Path, hint: str) -> None:
    name = hint.removeprefix("did you mean ").split("'")[1] if hint else "nanogtp"
    load_into(STYLES["nanogpt"](GPTConfig.from_hf(settings())), TINY, name)


@follows('write Layout("mine", (embedding("wte", ...), ...))')
def no_layout(folder: Path, hint: str) -> None:
    load_into(GPTModel.from_pretrained(TINY), TINY, Layout("mine", ROWS) if hint else ROWS)  # type: ignore[arg-type]


@follows('a pattern looks like "i (p o) -> (p o) i"')
def pattern(folder: Path, hint: str) -> None:
    parse(hint.split('"')[1] if hint else "O I")


@follows("add the rows: these weights would be lost")
def rows(folder: Path, hint: str) -> None:
    checkpoint = open_checkpoint(TINY)
    write_theirs(Layout("mine", ROWS if hint else ROWS[1:]), checkpoint.config, checkpoint.read)


@follows("give whole names; * stands for a number, ** for anything")
def ignored(folder: Path, hint: str) -> None:
    model = saved(folder, {**weights(), "v_head.summary.weight": torch.ones(1, 64)})
    open_checkpoint(model, ignore=["v_head.summary.weight" if hint else "v_head"])


@follows("_module_remedy")
def another_layout(folder: Path, hint: str) -> None:
    load_into(STYLES["book"](GPTConfig.from_hf(settings())), TINY, hint.split("'")[1] if hint else "nanogpt")


@follows("build the module with a head of its own (untied)")
def shared_head(folder: Path, hint: str) -> None:
    config = json.dumps({**settings(), "tie_word_embeddings": False})
    untied = saved(folder, {**weights(), "lm_head.weight": torch.ones(512, 64)}, config)
    model = STYLES["book"](open_checkpoint(untied).config)
    if not hint:
        model.out_head.weight = model.tok_emb.weight
    load_into(model, untied)


@follows("set model.config to what the model is now")
def changed(folder: Path, hint: str) -> None:
    model = GPTModel.from_pretrained(TINY)
    model.h = nn.ModuleList(list(model.h)[:3])
    if hint:
        model.config = model.config.replace(n_layer=3)
    model.save_pretrained(folder)


@follows("set model.lm_head.weight = model.wte.weight")
def untied(folder: Path, hint: str) -> None:
    model = GPTModel.from_pretrained(TINY)
    model.lm_head.weight = nn.Parameter(model.wte.weight + 1)
    if hint:
        model.config = model.config.replace(tie_word_embeddings=False)
        model.save_pretrained(folder / "untied")
        model.config = model.config.replace(tie_word_embeddings=True)
        model.lm_head.weight = model.wte.weight
    model.save_pretrained(folder)


@follows("{other.layout.name!r} fits")
def layout_of_a_verdict(folder: Path, hint: str) -> None:
    model = STYLES["book"](GPTConfig.from_hf(settings()))
    load_into(model, TINY)
    verify(model, TINY, hint.split("'")[1] if hint else "nanogpt", skip=[part for part in PARTS if part != "weights"])


@follows("skip less; the parts are ")
def all_skipped(folder: Path, hint: str) -> None:
    parts = hint.removeprefix("skip less; the parts are ").split(", ")
    verify(GPTModel.from_pretrained(TINY), TINY, skip=parts[1:] if hint else PARTS)


@follows("to another place, or delete it")
def patched_before(folder: Path, hint: str) -> None:
    for done in ("move", "delete") if hint else ("",):
        file, backup = folder / "a.py", folder / "a.py.orig"
        file.write_text("wrong")
        backup.write_text("older")
        if done:
            assert backup.name in hint and done in hint
            backup.rename(folder / "moved") if done == "move" else backup.unlink()
        write_patch(Patch(file, "wrong", "right", (1,), 0.0, 1))


# ----------------------------------------------------------------------------------------------------- user's code

SOURCE = "class GPT:\n    def __init__(self, n_embd, flavour): ...\nmodel = print\n"


@follows("for example my_gpt2.py:model or 'my_gpt2.py:GPT()'")
def no_object(folder: Path, hint: str) -> None:
    (folder / "my_gpt2.py").write_text("class GPT: ...\nmodel = print\n")
    with chdir(folder):
        for spec in shlex.split(hint.removeprefix("for example ").replace(" or ", " ")) if hint else ["my_gpt2.py"]:
            load_object(spec)


async def awaited(model: nn.Module) -> bool:
    return True


@follows("make it an ordinary function that returns True or False, or raises")
def no_ordinary_check(folder: Path, hint: str) -> None:
    for check in (lambda model: True, lambda model: None) if hint else (awaited,):
        grade(check, faults=[])


@follows("it has ")
def no_such_object(folder: Path, hint: str) -> None:
    (folder / "a.py").write_text("class GPT: ...\nmodel = print\n")
    for name in hint.removeprefix("it has ").split(", ") if hint else ["GPT3"]:
        load_object(f"{folder / 'a.py'}:{name}")


@follows("give the path of a Python file, or the dotted name of a module")
def no_file(folder: Path, hint: str) -> None:
    (folder / "some_candidate.py").write_text(SOURCE)
    with chdir(folder):
        for place in ("some_candidate.py", "some_candidate") if hint else ("none.py",):
            load_object(f"{place}:model")


@follows("give it with --config ")
def unknown_setting(folder: Path, hint: str) -> None:
    (folder / "a.py").write_text(SOURCE)
    name = hint.partition("--config ")[2].partition("=")[0]
    load_object(f"{folder / 'a.py'}:GPT", GPTConfig(), settings={name: 3} if hint else {})


@follows("it asked for ")
def never_asked(folder: Path, hint: str) -> None:
    (folder / "a.py").write_text(SOURCE)
    right = {"flavour": 3}
    asked = {name: right.get(name, 8) for name in hint.removeprefix("it asked for ").split(", ")}
    load_object(f"{folder / 'a.py'}:GPT", GPTConfig(), settings=asked if hint else {**right, "flavor": 3})


def answers(model: Any) -> None:
    Candidate(model, CONFIG).logits(torch.ones(1, 3, dtype=torch.int64))


@follows("give an nn.Module, or a function from ids")
def not_callable(folder: Path, hint: str) -> None:
    answers((lambda ids: torch.ones(*ids.shape, 7)) if hint else [1])


class Output:
    logits = torch.ones(1, 3, 7)


@follows("return a tensor [B, T, V], a tuple that starts with it, or an object with .logits")
def no_logits(folder: Path, hint: str) -> None:
    for output in (Output.logits, (Output.logits, "loss"), Output()) if hint else ("logits",):
        answers(lambda ids, output=output: output)


@follows("it must take int64 ids [B, T]")
def takes_more(folder: Path, hint: str) -> None:
    def mine(ids: Tensor, flavour: object) -> Tensor:
        return torch.ones(*ids.shape, 7)

    answers((lambda ids: mine(ids, 3)) if hint else mine)


@follows("make a copy of it where your code makes it: np.array(x)")
def read_only(folder: Path, hint: str) -> None:
    view = np.broadcast_to(np.ones(4, np.float32), (7, 4))
    array = np.array(view) if hint else view
    module_of(lambda ids: array[ids])


@follows("as in functools.partial")
def no_arrays(folder: Path, hint: str) -> None:
    def logits(ids: Any, params: Any) -> Any:
        return params["wte"][ids]

    bound = partial(logits, params={"wte": np.ones((7, 4), np.float32)})
    if not hint or module_of(bound) is None:
        load_into(bound if hint else logits, TINY)


# ------------------------------------------------------------------------------------------------------- converting


@follows("', '.join(TARGETS)")
def form(folder: Path, hint: str) -> None:
    for name in listed(hint) if hint else ["onnx2"]:
        convert(TINY, folder / name, name)


@follows("choose the form huggingface, which can say all of it")
def inexpressible(folder: Path, hint: str) -> None:
    model = saved(folder / "model", config=json.dumps({**settings(), "scale_attn_by_inverse_layer_idx": True}))
    convert(model, folder / "x", "huggingface" if hint else "llm.c")


@follows("nanogpt and llms_from_scratch do")
def no_biases(folder: Path, hint: str) -> None:
    model = saved(folder / "model", {name: each * (not name.endswith("bias")) for name, each in weights().items()})
    for name in hint.removesuffix(" do").split(" and ") if hint else ["huggingface"]:
        convert(model, folder / name, name, bias=False)


@follows("keep the biases: build the model with them")
def lost_biases(folder: Path, hint: str) -> None:
    convert(TINY, folder, "nanogpt", bias=bool(hint))


@follows("'it is written as '")
def a_file_in_the_way(folder: Path, hint: str) -> None:
    (folder / "x.txt").write_text("mine")
    for suffix in hint.removeprefix("it is written as ").split(", ") if hint else [".txt"]:
        convert(TINY, folder / f"x{suffix}", "gguf")


@follows("'choose ' + ")
def another_suffix(folder: Path, hint: str) -> None:
    for suffix in hint.removeprefix("choose ").split(", ") if hint else [".gguf"]:
        convert(TINY, folder / f"x{suffix}", "llm.c")


@follows("name a directory'")
def directory(folder: Path, hint: str) -> None:
    convert(TINY, folder / ("x" if hint else "x.gguf"), "openai")


@follows("name a directory as the destination, such as ")
def directory_for_a_tokenizer(folder: Path, hint: str) -> None:
    convert(TINY, hint.rpartition(" ")[2] if hint else folder / "x.pt", "nanogpt", tokenizer=TINY)


@follows("name no tokenizer")
def no_tokenizer(folder: Path, hint: str) -> None:
    convert(TINY, folder, "llm.c", tokenizer=None if hint else TINY)


@follows("overwrite it, or write elsewhere")
def there(folder: Path, hint: str) -> None:
    convert(TINY, folder / "x", "huggingface", overwrite=bool(hint))
    convert(TINY, folder / ("elsewhere" if hint else "x"), "huggingface")


@follows("choose another directory")
def of_another_model(folder: Path, hint: str) -> None:
    saved(folder, {}, json.dumps({**settings(), "n_layer": 3}))
    convert(TINY, folder / "another" if hint else folder, "mlx")


@follows("write to another place")
def onto_itself(folder: Path, hint: str) -> None:
    model = saved(folder / "model")
    convert(model, folder / "another" if hint else model, "huggingface", overwrite=True)


@follows("it as float32 or bfloat16")
def too_large(folder: Path, hint: str) -> None:
    model = saved(folder / "model", {**weights(), "transformer.ln_f.weight": torch.full((64,), 1e6)})
    for dtype in (torch.float32, torch.bfloat16) if hint else (torch.float16,):
        convert(model, folder / str(dtype), "huggingface", dtype=dtype)


# -------------------------------------------------------------------------------------------------- recorded answers

IDS = torch.ones(1, 3, dtype=torch.int64)


def answered(folder: Path, **tensors: Tensor) -> None:
    named = {name.replace("_", "."): tensor.clone() for name, tensor in {"ids_0": IDS, **tensors}.items()}
    save_file(named, folder / "answers.safetensors")
    read_recording(folder / "answers.safetensors", CONFIG, ())


@follows("write the logits [B, T, V] of ids.N as logits.N into the file")
def unanswered(folder: Path, hint: str) -> None:
    answered(folder, **({"logits_0": Output.logits} if hint else {}))


@follows("prompts, numbered from 0 without a gap")
def gap(folder: Path, hint: str) -> None:
    place = 1 if hint else 2
    answered(folder, logits_0=Output.logits, **{f"ids_{place}": IDS, f"logits_{place}": Output.logits})


@follows("expected [B, T, V] = ")
def shape(folder: Path, hint: str) -> None:
    answered(folder, logits_0=torch.ones(json.loads(hint.partition(" = ")[2]) if hint else [1, 2, 7]))


@follows("give another name, or remove it yourself")
def answers_in_the_way(folder: Path, hint: str) -> None:
    answered(folder, logits_0=Output.logits)
    if hint:
        (folder / "answers.safetensors").unlink()
        check_unanswered(folder / "another.safetensors")
    check_unanswered(folder / "answers.safetensors")


@follows("give .safetensors or .npz")
def text_file(folder: Path, hint: str) -> None:
    (folder / "answers.txt").write_text("1 2 3")
    np.savez(folder / "answers.npz", **{"ids.0": IDS.numpy(), "logits.0": Output.logits.numpy()})
    read_recording(folder / ("answers.npz" if hint else "answers.txt"), CONFIG, ())


# ------------------------------------------------------------------------------------------- text, and how it is made


@follows("delete it to do without it")
def no_object_of_json(folder: Path, hint: str) -> None:
    (folder / "generation_config.json").write_text("[1]")
    if hint:
        (folder / "generation_config.json").unlink()
    read_generation_config(folder)


@follows("correct it, or delete it")
def no_token_id(folder: Path, hint: str) -> None:
    for content in ('{"eos_token_id": 5}', "{}") if hint else ('{"eos_token_id": "x"}',):
        (folder / "generation_config.json").write_text(content)
        read_generation_config(folder)


def tokens(folder: Path, merges: str | None) -> None:
    """Opens tiny's tokenizer with another merges.txt, or without one."""
    shutil.copytree(TINY, folder, dirs_exist_ok=True)
    (folder / "merges.txt").unlink()
    if merges is not None:
        (folder / "merges.txt").write_text(merges)
    load_tokenizer(folder)


@follows("_EXPECTED")
def half_a_tokenizer(folder: Path, hint: str) -> None:
    assert not hint or "vocab.json with merges.txt" in hint
    tokens(folder, (TINY / "merges.txt").read_text() if hint else None)


@follows("the merges are cut short")
def cut_short(folder: Path, hint: str) -> None:
    lines = (TINY / "merges.txt").read_text().splitlines()
    tokens(folder, "\n".join(lines if hint else lines[:20]))


@follows("set it to null")
def dropout(folder: Path, hint: str) -> None:
    vocab = json.loads((TINY / "vocab.json").read_text())
    merges = (TINY / "merges.txt").read_text().splitlines()[1:]
    model = {"type": "BPE", "vocab": vocab, "merges": merges, "dropout": None if hint else 0.1}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    (folder / "tokenizer.json").write_text(json.dumps({"model": model, "pre_tokenizer": level, "added_tokens": []}))
    load_tokenizer(folder)


@follows("_DO_WITHOUT")
def another_tokenizer(folder: Path, hint: str) -> None:
    saved(folder)
    (folder / "spiece.model").write_text("")
    if not hint:
        load_tokenizer(folder)
    assert "`gpt2 verify` needs no tokenizer" in hint and "give --ids" in hint
    assert verify(GPTModel.from_pretrained(folder), folder, skip=("logits", "generation", "gradients"))
    assert main(["generate", "--ids", "5,3", "--max-new-tokens", "1", "--checkpoint", str(folder)]) == 0


@follows("give a directory, a file inside one, or a Hub id")
def no_place(folder: Path, hint: str) -> None:
    for path in (TINY, TINY / "vocab.json") if hint else (folder / "q" / "r",):
        load_tokenizer(path)


# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hint", TRIALS)
def test_a_hint_that_is_followed_helps(hint: str, tmp_path: Path) -> None:
    for name in ("wrong", "right"):
        (tmp_path / name).mkdir()
    with pytest.raises((CheckpointError, CandidateError)) as caught:
        TRIALS[hint](tmp_path / "wrong", "")
    text = caught.value.hint
    assert text and (hint in text or not hint[0].isalpha() or hint.endswith("'")), "another hint than the trial's"
    TRIALS[hint](tmp_path / "right", text)
