"""Measures what this project claims about speed and memory, beside the peers, in one run.

    python scripts/bench.py load                          # from_pretrained: time and memory, 124M and 774M
    python scripts/bench.py load --sizes 1558M --runs 9
    python scripts/bench.py startup                       # imports and `gpt2 --help`

How to read it. Machines are noisy and differ, so no number means much by itself: contenders run in turn (A B C A B C
...), each in a fresh process, and the medians' *ratio* is the result. "anonymous" is memory that the work allocated
beside mapped files: growth of the kernel's `Anonymous` count from just before the work, with all imports done, to
just after it. Checkpoints are synthetic: official shapes, every parameter random, written to a temporary folder
first. The table is for people; the last line of stdout is one JSON document.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

# ------------------------------------------------------------------------------------------------------ contenders
#
# Each is a function of a checkpoint directory that imports what it needs, then returns the work to be measured.

Work = Callable[[], Any]


def load_ours(folder: Path) -> Work:
    import gpt2_from_scratch.loading  # noqa: F401  (imported lazily otherwise, inside the measured call)
    from gpt2_from_scratch.model import GPTModel

    return lambda: GPTModel.from_pretrained(folder)


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


LOAD = {"ours": load_ours, "transformers": load_transformers, "safetensors map": load_map}

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


def memory() -> dict[str, int]:
    """Bytes of this process: anonymous, and resident at its peak. Linux; zeros elsewhere."""
    try:
        rollup = Path("/proc/self/smaps_rollup").read_text().splitlines()
        status = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return {"anonymous": 0, "peak": 0}

    def kilobytes(lines: list[str], key: str) -> int:
        return next(int(line.split()[1]) for line in lines if line.startswith(key))

    return {"anonymous": 1024 * kilobytes(rollup, "Anonymous:"), "peak": 1024 * kilobytes(status, "VmHWM:")}


def child(name: str, folder: Path) -> None:
    """Measures one contender in this process and prints what it found as JSON."""
    work = LOAD[name](folder)
    before = memory()
    start = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    after = memory()
    assert result is not None
    print(
        json.dumps({"seconds": seconds, "anonymous": after["anonymous"] - before["anonymous"], "peak": after["peak"]})
    )


def interleaved(contenders: Mapping[str, Callable[[], dict[str, float]]], runs: int) -> dict[str, dict[str, float]]:
    """Runs all contenders in turn, once unmeasured and then `runs` times; medians of everything they report."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
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


def in_child(name: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "child", name, str(folder)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(output.splitlines()[-1]))


def wall(command: list[str]) -> dict[str, float]:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return {"seconds": time.perf_counter() - start}


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


# --------------------------------------------------------------------------------------------------------- commands


def bench_load(arguments: argparse.Namespace) -> dict[str, Any]:
    """`from_pretrained` of each size; the ratio that counts is to transformers, and to a bare map of the file."""
    results = {}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for size in arguments.sizes:
            print(f"{size}: writing a synthetic checkpoint", file=sys.stderr)
            checkpoint = synthesize(size, Path(folder))
            contenders = {name: partial(in_child, name, checkpoint) for name in LOAD}
            results[size] = interleaved(contenders, arguments.runs)
            (checkpoint / "model.safetensors").unlink()
    for size, medians in results.items():
        print(f"\nload {size}, float32, medians of {arguments.runs} runs")
        print(f"  {'':<18}{'time':>10}{'x ours':>9}{'anonymous':>13}{'peak RSS':>12}")
        for name, median in medians.items():
            ratio = median["seconds"] / medians["ours"]["seconds"]
            print(
                f"  {name:<18}{median['seconds'] * 1e3:>7.1f} ms{ratio:>8.1f} "
                f"{median['anonymous'] / 1e6:>9.1f} MB{median['peak'] / 1e6:>9.0f} MB"
            )
    return results


def bench_startup(arguments: argparse.Namespace) -> dict[str, Any]:
    """What a user waits for before anything happens."""
    medians = interleaved({name: partial(wall, command) for name, command in STARTUP.items()}, arguments.runs)
    print(f"\nstart-up of a fresh process, medians of {arguments.runs} runs")
    for name, median in medians.items():
        print(f"  {name:<38}{median['seconds'] * 1e3:>8.0f} ms")
    return medians


def environment() -> dict[str, Any]:
    import torch

    return {
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "safetensors")},
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
    }


def main() -> int:
    if sys.argv[1:2] == ["child"]:
        child(sys.argv[2], Path(sys.argv[3]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="bench", required=True, metavar="COMMAND")
    load = commands.add_parser("load", help="from_pretrained beside transformers")
    load.add_argument("--sizes", nargs="+", default=["124M", "774M"], help="124M 355M 774M 1558M")
    load.add_argument("--folder", help="where synthetic checkpoints are written (a temporary folder)")
    load.set_defaults(run=bench_load)
    startup = commands.add_parser("startup", help="imports and --help")
    startup.set_defaults(run=bench_startup)
    for command in (load, startup):
        command.add_argument("--runs", type=int, default=5, help="measured runs of each contender (%(default)s)")
    arguments = parser.parse_args()
    results = arguments.run(arguments)
    print(json.dumps({"bench": arguments.bench, "environment": environment(), "medians": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
