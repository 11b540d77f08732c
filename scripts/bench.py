"""Measures what this project claims about speed and memory, beside the peers, in one run.

    python scripts/bench.py load                          # every form, 124M and 774M
    python scripts/bench.py load --forms huggingface openai --sizes 1558M --tensorflow-python tf/bin/python
    python scripts/bench.py convert --sizes 124M          # Hugging Face's form to every form
    python scripts/bench.py verify --sizes 124M           # time and memory of a verdict
    python scripts/bench.py startup                       # imports and `gpt2 --help`

How to read it. Machines are noisy and differ, so no number means much by itself: contenders run in turn (A B C A B C
...), each in a fresh process, and the medians' *ratio* is the result. Columns:

    time        the work alone, all imports done
    process     the whole process that did it, imports included: what a command line costs
    anonymous   most memory that the work held beside mapped files: the kernel's `RssAnon` above its value just before
    peak RSS    most memory of the process, mapped files included

A loaded model is usually a map of its file, which is read when it is used; "ours, read" loads with `mmap=False`, so
that every byte has been read. Who writes files also waits until they are on disk, so that `convert` measures the disk,
too. Checkpoints are synthetic: official shapes, every parameter random, written to a temporary folder first, which
needs room for two files of the size. A peer that is not installed is left out; TensorFlow, if it lives in an
environment of its own, is found by `--tensorflow-python`. Tables are for people; the last line of stdout is one JSON
document.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# ------------------------------------------------------------------------------------------------------ contenders
#
# Each is a function of paths that imports what it needs, then returns the work to be measured.

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
    """The floor: the file's tensors, mapped by safetensors, and no model."""
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


def verify_ours(folder: Path) -> Work:
    """The whole verdict on this package's model: weights, self-tests, logits with their floor, generation."""
    import transformers  # noqa: F401  (imported lazily otherwise)

    from gpt2_from_scratch import GPTModel, verify

    model = GPTModel.from_pretrained(folder)
    return lambda: verify(model, folder, "gpt2_from_scratch") or sys.exit("not verified")


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

CONTENDERS = {"load": LOAD, "convert": CONVERT, "verify": VERIFY}
NEEDS = {"TensorFlow": "tensorflow", "gguf": "gguf"}  # contender -> what may not be installed

STARTUP = {
    "import torch": [sys.executable, "-c", "import torch"],
    "import gpt2_from_scratch, GPTModel": [
        sys.executable,
        "-c",
        "import torch; from gpt2_from_scratch import GPTModel",
    ],
    "import transformers, GPT2LMHeadModel": [sys.executable, "-c", "from transformers import GPT2LMHeadModel"],
    "gpt2 --help": [sys.executable, "-m", "gpt2_from_scratch", "--help"],
}


# -------------------------------------------------------------------------------------------------------- measuring

Measured = dict[str, float]


def status(field: str) -> int:
    """Bytes, from the kernel's account of this process. Linux; zero elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), 0)


@contextmanager
def highest(field: str) -> Iterator[list[int]]:
    """Watches a field; the list holds its highest value above the one at the beginning, when the block has ended."""
    start, found, ended = status(field), [0], threading.Event()

    def look() -> None:
        found[0] = max(found[0], status(field) - start)

    def watch() -> None:
        while not ended.wait(0.01):  # seconds: a hundred looks per second cost nothing, and miss little
            look()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        look()
        ended.set()
        watcher.join()


def child(bench: str, form: str, name: str, *paths: str) -> None:
    """Measures one contender in this process and prints what it found as JSON."""
    work = CONTENDERS[bench][form][name](*map(Path, paths))
    with highest("RssAnon") as anonymous:
        start = time.perf_counter()
        result = work()
        seconds = time.perf_counter() - start
    assert result is not None
    print(json.dumps({"seconds": seconds, "anonymous": anonymous[0], "peak": status("VmHWM")}))


def in_child(python: str, bench: str, form: str, name: str, *paths: Path) -> Measured:
    """Measures one contender in a fresh process."""
    command = [python, __file__, "child", bench, form, name, *map(str, paths)]
    start = time.perf_counter()
    run = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if run.returncode:
        sys.exit(f"{bench} {form}, {name}, failed:\n{run.stderr}")
    return json.loads(run.stdout.splitlines()[-1]) | {"process": seconds}


def wall(command: list[str]) -> Measured:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return {"seconds": time.perf_counter() - start}


def interleaved(contenders: Mapping[str, Callable[[], Measured]], runs: int) -> dict[str, Measured]:
    """Runs all contenders in turn, once unmeasured and then `runs` times; medians of everything they report."""
    found: dict[str, list[Measured]] = {name: [] for name in contenders}
    for run in range(runs + 1):
        for name, measure in contenders.items():
            print(f"  run {run} of {runs}: {name}", file=sys.stderr)
            result = measure()
            if run:  # the first fills the page cache
                found[name].append(result)
    return {
        name: {key: statistics.median(result[key] for result in results) for key in results[0]}
        for name, results in found.items()
    }


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


# ------------------------------------------------------------------------------------------------------ checkpoints


def synthesize(size: str, folder: Path, dtype_name: str = "float32") -> Path:
    """Writes a Hugging Face directory of official shapes, every parameter random; the same one every time."""
    import torch

    from gpt2_from_scratch.checkpoint import StoredTensor, safetensors
    from gpt2_from_scratch.config import GPTConfig

    config = GPTConfig.for_size(size)
    dtype = getattr(torch, dtype_name)
    generator = torch.Generator().manual_seed(0)

    def values(name: str, shape: tuple[int, ...]) -> Callable[[], torch.Tensor]:
        gain = 1.0 if name.endswith(("ln_1.weight", "ln_2.weight", "ln_f.weight")) else 0.0
        return lambda: (gain + 0.05 * torch.randn(shape, generator=generator)).to(dtype)

    tensors = {name: StoredTensor(s, dtype, values(name, s)) for name, s in config.tensor_shapes().items()}
    target = folder / size
    target.mkdir(parents=True, exist_ok=True)
    safetensors.write(target / "model.safetensors", tensors)
    (target / "config.json").write_text(json.dumps(config.to_hf()))
    return target


def in_form(form: str, source: Path, folder: Path) -> Path:
    """The same weights in another form; returns what to open: a directory, or the file of those who open files."""
    if form == "huggingface":
        return source
    if form == "pytorch":
        return as_pytorch(source, folder)
    from gpt2_from_scratch.converting import convert

    return convert(source, folder, form).destination


def as_pytorch(source: Path, folder: Path) -> Path:
    """As transformers wrote it before safetensors: names with a prefix, and the head, which shares its embedding."""
    import torch
    from safetensors.torch import load_file

    state = {f"transformer.{name}": tensor for name, tensor in load_file(source / "model.safetensors").items()}
    folder.mkdir()
    torch.save(state | {"lm_head.weight": state["transformer.wte.weight"]}, folder / "pytorch_model.bin")
    shutil.copy(source / "config.json", folder)
    return folder


# --------------------------------------------------------------------------------------------------------- commands


def bench_load(arguments: argparse.Namespace) -> dict[str, Any]:
    """Each size in each form; the ratio that counts is to those whose form it is."""

    def measure(form: str, source: Path, folder: Path) -> dict[str, Measured]:
        checkpoint = in_form(form, source, folder)
        pythons = present(LOAD[form], interpreters(arguments))
        contenders = {n: partial(in_child, python, "load", form, n, checkpoint) for n, python in pythons.items()}
        return interleaved(contenders, arguments.runs)

    return bench_forms(arguments, measure)


def bench_convert(arguments: argparse.Namespace) -> dict[str, Any]:
    """Hugging Face's form to each form, written anew each time."""

    def measure(form: str, source: Path, folder: Path) -> dict[str, Measured]:
        def once(python: str, name: str) -> Measured:
            os.sync()  # nobody waits for what another one wrote
            try:
                return in_child(python, "convert", form, name, source, folder)
            finally:
                shutil.rmtree(folder, ignore_errors=True)

        pythons = present(CONVERT[form], interpreters(arguments))
        return interleaved({name: partial(once, python, name) for name, python in pythons.items()}, arguments.runs)

    return bench_forms(arguments, measure)


def bench_verify(arguments: argparse.Namespace) -> dict[str, Any]:
    """A verdict, in units of one forward pass of each side over the same prompts."""

    def measure(form: str, source: Path, folder: Path) -> dict[str, Measured]:
        contenders = {name: partial(in_child, sys.executable, "verify", form, name, source) for name in VERIFY[form]}
        return interleaved(contenders, arguments.runs)

    results = bench_forms(arguments, measure)
    for size, medians in results.items():
        seconds = {name: median["seconds"] for name, median in medians["huggingface"].items()}
        unit = seconds["eager reference"] + seconds["candidate"]
        print(f"\nverify {size} costs {seconds['ours'] / unit:.2f} x (one eager reference pass + one candidate pass)")
    return results


def bench_forms(
    arguments: argparse.Namespace, measure: Callable[[str, Path, Path], dict[str, Measured]]
) -> dict[str, Any]:
    """Measures each size in each form, prints a table of each, and leaves no file behind."""
    results: dict[str, Any] = {}
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            print(f"{size}: writing a synthetic checkpoint", file=sys.stderr)
            source = synthesize(size, Path(folder))
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


def bench_startup(arguments: argparse.Namespace) -> dict[str, Any]:
    """What a user waits for before anything happens."""
    medians = interleaved({name: partial(wall, command) for name, command in STARTUP.items()}, arguments.runs)
    print(f"\nstart-up of a fresh process, medians of {arguments.runs} runs")
    for name, median in medians.items():
        print(f"  {name:<38}{median['seconds'] * 1e3:>8.0f} ms")
    return medians


def environment(arguments: argparse.Namespace) -> dict[str, Any]:
    import torch

    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    found = {name: installed(name) for name in ("torch", "transformers", "safetensors", "gguf")}
    if python := getattr(arguments, "tensorflow_python", None):
        ask = "import importlib.metadata as m; print(m.version(m.packages_distributions()['tensorflow'][0]))"
        found["tensorflow"] = subprocess.check_output([python, "-c", ask], text=True).strip()
    return {
        "python": platform.python_version(),
        **found,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
    }


def main() -> int:
    if sys.argv[1:2] == ["child"]:
        child(*sys.argv[2:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="bench", required=True, metavar="COMMAND")
    load = commands.add_parser("load", help="a model from files, each form beside those who read it")
    load.set_defaults(run=bench_load)
    convert = commands.add_parser("convert", help="files from files, each form beside those who write it")
    convert.set_defaults(run=bench_convert)
    verify = commands.add_parser("verify", help="a verdict beside one forward pass of each side")
    verify.set_defaults(run=bench_verify)
    for command, forms in ((load, LOAD), (convert, CONVERT), (verify, VERIFY)):
        command.add_argument("--sizes", nargs="+", default=["124M", "774M"], help="124M 355M 774M 1558M")
        command.add_argument(
            "--forms", nargs="+", choices=forms, default=list(forms), metavar="FORM", help=" ".join(forms)
        )
        command.add_argument("--folder", help="where synthetic checkpoints are written (a temporary folder)")
        command.add_argument("--tensorflow-python", metavar="PATH", help="a Python that has TensorFlow and safetensors")
    startup = commands.add_parser("startup", help="imports and --help")
    startup.set_defaults(run=bench_startup)
    for command in (load, convert, verify, startup):
        command.add_argument("--runs", type=int, default=5, help="measured runs of each contender (%(default)s)")
    arguments = parser.parse_args()
    results = arguments.run(arguments)
    print(json.dumps({"bench": arguments.bench, "environment": environment(arguments), "medians": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
