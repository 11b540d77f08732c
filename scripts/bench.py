"""Measures what this project claims about speed and memory, beside the peers, in one run.

    python scripts/bench.py decode                        # tokens per second, batch 1, float32 and bfloat16
    python scripts/bench.py decode --device cuda --contenders ours "ours, fused" transformers
    python scripts/bench.py prefill                       # prompts of 64 to 1024 tokens
    python scripts/bench.py batch                         # decoding 1 to 16 texts at once
    python scripts/bench.py first-token                   # from the start of a process to the first token
    python scripts/bench.py memory --sizes 124M 1558M     # of opening a checkpoint and generating
    python scripts/bench.py load                          # every form, 124M and 774M
    python scripts/bench.py load --forms huggingface openai --sizes 1558M --tensorflow-python tf/bin/python
    python scripts/bench.py convert --sizes 124M          # Hugging Face's form to every form
    python scripts/bench.py verify --sizes 124M           # time and memory of a verdict
    python scripts/bench.py verify --sizes 124M --tokens 128 512 2048     # and how it grows with its prompts
    python scripts/bench.py diagnose                      # seconds until a bug is named, over the faults of the tests
    python scripts/bench.py own-code                      # a line named, a layout found: processor time and memory
    python scripts/bench.py startup                       # imports and `gpt2 --help`
    python scripts/bench.py readme results.jsonl          # the table in BENCH.md, from what --save has gathered

How to read it. Machines are noisy and differ, so no number means much by itself: contenders take turns (A B C A B C
...), ratios are of neighbours in time, and medians over the rounds are the result. Between them, the bytes read and the
operations done per second are measured: the limits of the machine. A contender that computes something else is not
timed. Columns:

    of the limit    the time that reading each weight once (decode), or the operations (prefill), would take, over the
                    time taken
    x NAME          how many times as fast as NAME
    time            the work alone, all imports done
    process         the whole process that did it, imports included: what a command line costs
    anonymous       most memory that the work held beside mapped files: the kernel's `RssAnon` above its value before
    peak RSS        most memory of the process, mapped files included

A loaded model is usually a map of its file, which is read when it is used; "ours, read" loads with `mmap=False`, so
that every byte has been read. Checkpoints are synthetic: official shapes, every parameter random, written to a
temporary folder first, which needs room for two files of the size, or to `--checkpoints` FOLDER, where the next run
finds them. The size `tiny`, the model inside the package, is for trying. A peer that is not installed (`pip install
ctranslate2 onnx onnxruntime`) is left out; TensorFlow, if it lives in an environment of its own, is found by
`--tensorflow-python`. Other programs on the machine change the numbers; on Linux, a command that is started with
`chrt -r 1` runs before them. Tables are for people; the last line of stdout is one JSON document.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks import contenders, diagnosing, files, limits, measuring, own_code, processes, readme, speed

PAGE = Path(__file__).resolve().parent / "BENCH.md"
SIZES = "124M 355M 774M 1558M tiny"


def hidden(command: str, words: list[str]) -> None:
    """The commands of the processes that `bench.py` starts."""
    if command == "contender":
        name, folder, dtype, threads, device = words
        measuring.answer(lambda: speed.open_contender(name, Path(folder), dtype, int(threads), device))
    elif command == "limits":
        measuring.answer(lambda: limits.open_limits(words[0], words[1:]))
    elif command == "prepare":
        name, source, folder = words
        prepare = contenders.CONTENDERS[name].prepare
        assert prepare is not None
        print(json.dumps({"path": str(prepare(Path(source), Path(folder)))}))
    else:
        run = {"child": files.child, "own-code-child": own_code.measure, "remember": processes.remember}[command]
        print(json.dumps(run(*words)))


HIDDEN = ("contender", "limits", "prepare", "child", "own-code-child", "remember")


def environment(arguments: argparse.Namespace) -> dict[str, Any]:
    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    found = {
        name: installed(name) for name in ("torch", "transformers", "safetensors", "gguf", "ctranslate2", "onnxruntime")
    }
    if python := getattr(arguments, "tensorflow_python", None):
        ask = "import importlib.metadata as m; print(m.version(m.packages_distributions()['tensorflow'][0]))"
        found["tensorflow"] = subprocess.check_output([python, "-c", ask], text=True).strip()
    return {
        "python": platform.python_version(),
        **found,
        "threads": arguments.threads,
        "device": getattr(arguments, "device", "cpu"),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "processor": processor(),
    }


def processor() -> str:
    """Its name, as Linux knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="bench", required=True, metavar="COMMAND")

    def command(name: str, run: Any, about: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=about)
        added.set_defaults(run=run)
        return added

    decode = command("decode", speed.bench_decode, "tokens per second at batch 1, and what context adds")
    prefill = command("prefill", speed.bench_prefill, "a prompt, to the last token's logits")
    batch = command("batch", speed.bench_batch, "decoding several texts at once")
    first = command("first-token", processes.bench_first_token, "from the start of a process to the first token")
    memory = command("memory", processes.bench_memory, "of opening a checkpoint and generating")
    load = command("load", files.bench_load, "a model from files, each form beside those who read it")
    convert = command("convert", files.bench_convert, "files from files, each form beside those who write it")
    verify = command("verify", files.bench_verify, "a verdict beside one forward pass of each side")
    diagnose = command("diagnose", diagnosing.bench_diagnose, "naming each fault in a numpy function")
    own = command("own-code", own_code.bench_own_code, "naming a line of a module, and finding its layout")
    startup = command("startup", processes.bench_startup, "imports and --help")

    for added in (decode, prefill, batch, first, memory, load, convert, verify, diagnose):
        sizes = ["124M", "774M"] if added in (load, convert, verify) else ["124M"]
        added.add_argument("--sizes", nargs="+", default=sizes, help=SIZES)
        added.add_argument("--checkpoints", metavar="FOLDER", help="where synthetic checkpoints are found, or are left")
        added.add_argument("--folder", help="where temporary folders are made")
    for added, forms in ((load, files.LOAD), (convert, files.CONVERT), (verify, files.VERIFY)):
        added.add_argument(
            "--forms", nargs="+", choices=forms, default=list(forms), metavar="FORM", help=" ".join(forms)
        )
        added.add_argument("--tensorflow-python", metavar="PATH", help="a Python that has TensorFlow and safetensors")
    verify.add_argument(
        "--tokens", nargs="*", type=int, choices=files.TOKENS, default=[], metavar="N", help="also against the tokens"
    )
    for added, dtypes in ((decode, ["float32", "bfloat16"]), (prefill, ["float32"]), (batch, ["float32"])):
        added.add_argument("--dtypes", nargs="+", choices=limits.BYTES, default=dtypes, help="(%(default)s)")
    for added in (decode, prefill, batch):
        added.add_argument("--device", default="cpu", help="such as cuda; peers that know the CPU only are left out")
    known = contenders.CONTENDERS
    by_default = [name for name, contender in known.items() if contender.by_default]
    for added in (decode, prefill, batch, memory, first):
        names, default = (contenders.FIRST_TOKEN,) * 2 if added is first else (known, by_default)
        added.add_argument(
            "--contenders", nargs="+", choices=names, default=list(default), metavar="NAME", help="; ".join(names)
        )
    for added, new in ((decode, 24), (batch, 24), (memory, 16)):
        added.add_argument("--new", type=int, default=new, metavar="N", help="tokens to generate (%(default)s)")
    decode.add_argument("--contexts", nargs="+", type=int, default=[16, 256, 512, 960], help="prompt lengths")
    prefill.add_argument("--lengths", nargs="+", type=int, default=[64, 128, 256, 512, 1024], help="prompt lengths")
    batch.add_argument("--batches", nargs="+", type=int, default=[1, 2, 4, 8, 16], help="texts at once")
    batch.add_argument("--prompt", type=int, default=16, help="prompt length (%(default)s)")
    repeated = (decode, prefill, batch, first, memory, load, convert, verify, startup)
    for added in repeated:
        added.add_argument("--runs", type=int, default=5, help="measured runs of each contender (%(default)s)")
    for added in (*repeated, diagnose):
        added.add_argument("--threads", type=int, default=default_threads(), help="for computing (%(default)s)")
        added.add_argument("--save", metavar="FILE", help="append the JSON document to a file, too")
    diagnose.add_argument("--faults", nargs="+", metavar="NAME", help="only these")

    own.add_argument("--sizes", nargs="+", default=["124M"], help=SIZES)
    own.add_argument("--runs", type=int, default=1, help="measured runs of each (%(default)s)")
    own.add_argument("--threads", type=int, default=default_threads(), help="for computing (%(default)s)")
    own.add_argument("--save", metavar="FILE", help="append the JSON document to a file, too")

    table = command("readme", readme.write, "the table in BENCH.md, between its two marks")
    table.add_argument("results", metavar="FILE", help="lines of JSON, from --save; a later one replaces an earlier")
    table.add_argument("--readme", metavar="FILE", default=PAGE, help="(%(default)s)")
    return parser


def default_threads() -> int:
    return int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)


def main() -> int:
    if sys.argv[1:2] and sys.argv[1] in HIDDEN:
        hidden(sys.argv[1], sys.argv[2:])
        return 0
    arguments = command_line().parse_args()
    if arguments.bench == "readme":
        arguments.run(Path(arguments.results), Path(arguments.readme))
        return 0
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # for all processes that are started
    results = arguments.run(arguments)
    document = json.dumps({"bench": arguments.bench, "environment": environment(arguments), "medians": results})
    if arguments.save:
        with open(arguments.save, "a") as file:
            print(document, file=file)
    print(document)
    return 0


if __name__ == "__main__":
    sys.exit(main())
