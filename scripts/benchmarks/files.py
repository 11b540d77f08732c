"""Work on files, each time in a fresh process: loading, converting, verifying.

Each contender is a function of paths that imports what it needs, then returns the work to be measured. Work that writes
files ends when they are on disk, so that the disk is measured, too.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.checkpoints import checkpoint, in_form
from benchmarks.measuring import Measured, fresh, interleaved, measured
from benchmarks.tables import print_curve

Work = Callable[[], Any]
Contender = Callable[..., Work]


def load_ours(checkpoint: Path, mmap: bool = True) -> Work:
    import gpt2_from_scratch.loading  # noqa: F401  (imported lazily otherwise, inside the measured call)
    from gpt2_from_scratch.model import GPTModel

    return lambda: GPTModel.from_pretrained(checkpoint, mmap=mmap)


def load_transformers(folder: Path) -> Work:
    from transformers import GPT2LMHeadModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    return lambda: GPT2LMHeadModel.from_pretrained(folder)


def load_map(folder: Path) -> Work:
    """The least work: the file's tensors, mapped by safetensors, and no model."""
    import torch  # noqa: F401
    from safetensors import safe_open

    def work() -> dict[str, Any]:
        with safe_open(folder / "model.safetensors", framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)

    return work


def load_tensorflow(folder: Path) -> Work:
    """What readers of OpenAI's files do: all variables, one by one."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    prefix = str(folder / "model.ckpt")
    return lambda: {name: tf.train.load_variable(prefix, name) for name, _ in tf.train.list_variables(prefix)}


def load_gguf(file: Path) -> Work:
    """llama.cpp's reader maps the file, and what is not quantised stays so: copied, to have read it."""
    import gguf
    import numpy as np

    return lambda: [
        np.array(gguf.dequantize(tensor.data, tensor.tensor_type)) for tensor in gguf.GGUFReader(file).tensors
    ]


def load_torch(file: Path) -> Work:
    import torch

    return lambda: torch.load(file, mmap=True, weights_only=True)


OURS: dict[str, Contender] = {"ours": load_ours, "ours, read": partial(load_ours, mmap=False)}

# Form -> who reads it.
LOAD: dict[str, dict[str, Contender]] = {
    "huggingface": {**OURS, "transformers": load_transformers, "safetensors map": load_map},
    "pytorch": {**OURS, "transformers": load_transformers},
    "openai": {**OURS, "TensorFlow": load_tensorflow},
    "gguf": {**OURS, "gguf": load_gguf},
    "llm.c": OURS,  # its only reader is a program in C
    "nanogpt": {**OURS, "torch.load": load_torch},
    "llms_from_scratch": {**OURS, "torch.load": load_torch},
}


def convert_ours(form: str, source: Path, destination: Path) -> Work:
    from gpt2_from_scratch.converting import convert

    return lambda: convert(source, destination, form)


def convert_transformers(source: Path, destination: Path) -> Work:
    load = load_transformers(source)

    def work() -> Path:
        load().save_pretrained(destination)
        return to_disk(destination)

    return work


def convert_tensorflow(source: Path, destination: Path) -> Work:
    """The operation that `tf.train.Saver` runs, on OpenAI's names."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf
    from safetensors.numpy import load_file

    def openai(name: str) -> str:
        path, _, end = name.replace("h.", "h", 1).rpartition(".")
        last = {"weight": "/g" if path.rpartition(".")[-1].startswith("ln_") else "/w", "bias": "/b"}[end]
        return f"model/{path.replace('.', '/')}" + ("" if path in ("wte", "wpe") else last)

    def work() -> Path:
        arrays = {openai(name): array for name, array in load_file(source / "model.safetensors").items()}
        arrays = {name: array[None] if name.endswith("/w") else array for name, array in sorted(arrays.items())}
        destination.mkdir()
        prefix, whole = str(destination / "model.ckpt"), [""] * len(arrays)
        tf.raw_ops.SaveV2(
            prefix=prefix, tensor_names=list(arrays), shape_and_slices=whole, tensors=list(arrays.values())
        )
        return to_disk(destination)

    return work


def convert_gguf(source: Path, destination: Path) -> Work:
    """llama.cpp's own writer, table of names, and transposes."""
    import gguf
    import numpy as np
    from safetensors.numpy import load_file

    linear = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")

    def work() -> Path:
        config = json.loads((source / "config.json").read_text())
        table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, config["n_layer"])
        destination.mkdir()
        writer = gguf.GGUFWriter(destination / "model.gguf", "gpt2")
        writer.add_block_count(config["n_layer"])
        for name, array in load_file(source / "model.safetensors").items():
            ours = np.ascontiguousarray(array.T) if name.endswith(linear) else array
            writer.add_tensor(table.get_name(name, try_suffixes=(".weight", ".bias")), ours)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return to_disk(destination)

    return work


def to_disk(folder: Path) -> Path:
    """Waits until all files are on disk, as our writers do."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    return folder


# Form -> who writes it, from a Hugging Face directory.
CONVERT: dict[str, dict[str, Contender]] = {
    form: {"ours": partial(convert_ours, form), **peers}
    for form, peers in {
        "huggingface": {"transformers": convert_transformers},
        "openai": {"TensorFlow": convert_tensorflow},
        "gguf": {"gguf": convert_gguf},
        "llm.c": {},
        "nanogpt": {},
        "llms_from_scratch": {},
        "transformer_lens": {},
        "mlx": {},
    }.items()
}


def verify_ours(folder: Path, tokens: int | None = None) -> Work:
    """The whole verdict on this package's model: weights, self-tests, logits with their floor, generation.

    With prompts of so many tokens in all, 64 in each row, in place of the usual ones.
    """
    import torch
    import transformers  # noqa: F401  (imported lazily otherwise)

    from gpt2_from_scratch import GPTModel, verify
    from gpt2_from_scratch.checks.prompts import Prompt

    model = GPTModel.from_pretrained(folder)
    ids = torch.randint(model.config.vocab_size, ((tokens or 0) // 64, 64), generator=torch.Generator().manual_seed(0))
    prompts = [Prompt(f"{tokens} tokens", ids)] if tokens else None
    return lambda: verify(model, folder, "gpt2_from_scratch", prompts=prompts) or sys.exit("not verified")


def run_reference(folder: Path) -> Work:
    """Transformers with eager attention, once over the prompts that `verify` uses."""
    import torch
    from transformers import GPT2LMHeadModel

    from gpt2_from_scratch.loading import open_checkpoint
    from gpt2_from_scratch.verifier import standard_prompts

    prompts = standard_prompts(open_checkpoint(folder))
    model = GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager").eval()
    return torch.inference_mode()(lambda: [model(prompt.ids, use_cache=False).logits.shape for prompt in prompts])


def run_candidate(folder: Path) -> Work:
    """This package's model, once over the same prompts."""
    import torch

    from gpt2_from_scratch import GPTModel
    from gpt2_from_scratch.loading import open_checkpoint
    from gpt2_from_scratch.verifier import standard_prompts

    prompts = standard_prompts(open_checkpoint(folder))
    model = GPTModel.from_pretrained(folder)
    return torch.inference_mode()(lambda: [model(prompt.ids).shape for prompt in prompts])


VERIFY = {"huggingface": {"ours": verify_ours, "eager reference": run_reference, "candidate": run_candidate}}

TOKENS = (128, 256, 512, 1024, 2048)  # of prompts; the noise floor's float64 run covers the first 128 of any
GROWING = {"huggingface": {str(tokens): partial(verify_ours, tokens=tokens) for tokens in TOKENS}}

CONTENDERS: dict[str, dict[str, dict[str, Contender]]] = {
    "load": LOAD,
    "convert": CONVERT,
    "verify": VERIFY,
    "growing": GROWING,
}
NEEDS = {"TensorFlow": "tensorflow", "gguf": "gguf"}  # contender -> what may not be installed


def interpreters(arguments: argparse.Namespace) -> dict[str, str]:
    """Contender -> the Python that runs it, for peers that may live in an environment of their own."""
    return {"TensorFlow": arguments.tensorflow_python or sys.executable}


def present(contenders: Mapping[str, Contender], pythons: Mapping[str, str]) -> dict[str, str]:
    """The contenders whose packages are there, each with its Python; says which are not."""
    found = {}
    for name in contenders:
        python = pythons.get(name, sys.executable)
        search = "import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)"
        if name in NEEDS and subprocess.run([python, "-c", search, NEEDS[name]]).returncode:
            print(f"  {name} is absent: {python} has no {NEEDS[name]}", file=sys.stderr)
        else:
            found[name] = python
    return found


# --------------------------------------------------------------------------------------------------------- commands


def child(bench: str, form: str, name: str, *paths: str) -> Measured:
    """Measures one contender in this process."""
    return measured(CONTENDERS[bench][form][name](*map(Path, paths)))


def bench_load(arguments: argparse.Namespace) -> dict[str, Any]:
    """Each size in each form. The ratio to compare is that to the program whose form it is."""

    def measure(form: str, source: Path, folder: Path) -> dict[str, Measured]:
        opened = in_form(form, source, folder)
        pythons = present(LOAD[form], interpreters(arguments))
        contenders = {n: partial(fresh, python, "child", "load", form, n, opened) for n, python in pythons.items()}
        return interleaved(contenders, arguments.runs)

    from gpt2_from_scratch.config import GPTConfig

    results = bench_forms(arguments, measure)
    for form in arguments.forms if len(results) > 1 else []:
        points = [
            (GPTConfig.for_size(size).num_parameters * 4 / 1e6, medians[form]["ours"]["seconds"])
            for size, medians in results.items()
            if size != "tiny"
        ]
        print_curve(f"opening {form} against the megabytes of the weights", "ms", points, 1e3)
    return results


def bench_convert(arguments: argparse.Namespace) -> dict[str, Any]:
    """Hugging Face's form to each form, written anew each time."""

    def measure(form: str, source: Path, folder: Path) -> dict[str, Measured]:
        def once(python: str, name: str) -> Measured:
            os.sync()  # so that no contender waits for what another one wrote
            try:
                return fresh(python, "child", "convert", form, name, source, folder)
            finally:
                shutil.rmtree(folder, ignore_errors=True)

        pythons = present(CONVERT[form], interpreters(arguments))
        return interleaved({name: partial(once, python, name) for name, python in pythons.items()}, arguments.runs)

    return bench_forms(arguments, measure)


def bench_verify(arguments: argparse.Namespace) -> dict[str, Any]:
    """A verdict, in units of one forward pass of each side over the same prompts."""

    def measure(form: str, source: Path, folder: Path) -> dict[str, Measured]:
        names = VERIFY[form]
        contenders = {name: partial(fresh, sys.executable, "child", "verify", form, name, source) for name in names}
        return interleaved(contenders, arguments.runs)

    results = bench_forms(arguments, measure)
    for size, medians in results.items():
        seconds = {name: median["seconds"] for name, median in medians["huggingface"].items()}
        unit = seconds["eager reference"] + seconds["candidate"]
        print(f"\nverify {size} costs {seconds['ours'] / unit:.2f} x (one eager reference pass + one candidate pass)")
        medians["growth"] = verify_growing(size, arguments)
    return results


def verify_growing(size: str, arguments: argparse.Namespace) -> dict[str, float]:
    """A verdict's time against the tokens of its prompts."""
    if len(arguments.tokens) < 2:
        return {}
    with checkpoint(size, arguments.checkpoints, arguments.folder) as (source, _):
        words = ("child", "growing", "huggingface")
        measures = {str(n): partial(fresh, sys.executable, *words, n, source) for n in sorted(arguments.tokens)}
        medians = interleaved(measures, arguments.runs)
    points = [(int(tokens), median["seconds"]) for tokens, median in medians.items()]
    line = print_curve(f"verify {size} against the tokens of its prompts", "s", points)
    return {tokens: median["seconds"] for tokens, median in medians.items()} | line._asdict()


def bench_forms(
    arguments: argparse.Namespace, measure: Callable[[str, Path, Path], dict[str, Measured]]
) -> dict[str, Any]:
    """Measures each size in each form, prints a table of each, and leaves no file behind but kept checkpoints."""
    results: dict[str, Any] = {}
    for size in arguments.sizes:
        with (
            checkpoint(size, arguments.checkpoints, arguments.folder) as (source, _),
            tempfile.TemporaryDirectory(dir=arguments.folder) as folder,
        ):
            for form in arguments.forms:
                print(f"{size}, {form}", file=sys.stderr)
                medians = measure(form, source, Path(folder, form))
                results.setdefault(size, {})[form] = medians
                print_table(f"{arguments.bench} {size}, {form}, float32, medians of {arguments.runs} runs", medians)
                shutil.rmtree(Path(folder, form), ignore_errors=True)
    return results


def print_table(title: str, medians: Mapping[str, Measured]) -> None:
    ours = medians["ours"]
    print(
        f"\n{title}\n  {'':<18}{'time':>12}{'x ours':>8}{'process':>10}{'x ours':>8}{'anonymous':>14}{'peak RSS':>11}"
    )
    for name, median in medians.items():
        time_, process = (f"{median[key] / ours[key]:>8.1f}" for key in ("seconds", "process"))
        print(
            f"  {name:<18}{median['seconds'] * 1e3:>9.1f} ms{time_}{median['process']:>8.2f} s{process}"
            f"{median['anonymous'] / 1e6:>11.1f} MB{median['peak'] / 1e6:>8.0f} MB"
        )
