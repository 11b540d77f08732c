"""Whole processes: what a user waits for before anything happens, and how much memory a text costs.

All of them start from nothing, with the files in the page cache (the unmeasured first round puts them there): a disk is
not what is measured. The first token is the line that a script prints; the script goes on to end, unmeasured.
"""

import argparse
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import benchmarks
from benchmarks.checkpoints import checkpoint
from benchmarks.contenders import CONTENDERS, FIRST_TOKEN
from benchmarks.limits import Needs
from benchmarks.measuring import Measured, fresh, interleaved, measured, ratio, take_turns, wall
from benchmarks.speed import prepared, prompts
from benchmarks.tables import Column, print_columns

PROMPT = 16  # tokens

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


def bench_startup(arguments: argparse.Namespace) -> dict[str, Any]:
    """What a user waits for before anything happens."""
    medians = interleaved({name: partial(wall, command) for name, command in STARTUP.items()}, arguments.runs)
    print(f"\nstart-up of a fresh process, medians of {arguments.runs} runs")
    for name, median in medians.items():
        print(f"  {name:<38}{median['seconds'] * 1e3:>8.0f} ms")
    return medians


def first_line(script: str) -> tuple[float, str]:
    """Seconds from the start of a fresh interpreter to the first line that the script prints, and the line."""
    prologue = f"import sys; sys.path.insert(0, {str(Path(benchmarks.__file__).parent.parent)!r})"
    start = time.perf_counter()
    command = [sys.executable, "-c", prologue + script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - start
        errors = process.stderr.read()
    if process.returncode:
        sys.exit(f"{script}failed:\n{errors}")
    return seconds, line.strip()


def bench_first_token(arguments: argparse.Namespace) -> dict[str, Any]:
    """From the start of a process to the first token; everybody must choose the same."""
    results = {}
    for size in arguments.sizes:
        with checkpoint(size, arguments.checkpoints, arguments.folder) as (source, folder):
            (ids,) = prompts(Needs.of(source).vocab_size, 1, PROMPT)
            scripts, out = {}, {}
            for name in arguments.contenders:
                if name in CONTENDERS and (missing := CONTENDERS[name].missing):
                    out[name] = f"{missing} is not installed"
                    continue
                path = prepared(name, source, folder) if name in CONTENDERS else source
                scripts[name] = FIRST_TOKEN[name].format(folder=str(path), ids=ids, threads=arguments.threads)
            right = None
            for name, script in list(scripts.items()):
                found = first_line(script)[1]
                right = right or found
                if name in CONTENDERS and found != right:
                    out[name] = f"computes something else: its first token is {found}, not {right}"
                    del scripts[name]
            for name, why in out.items():
                print(f"  {name} is left out: {why}", file=sys.stderr)
            rounds = take_turns({name: partial(first_line, script) for name, script in scripts.items()}, arguments.runs)
        seconds = {name: [found[0] for found in answers] for name, answers in rounds.items()}
        rows = {name: {"seconds": statistics.median(mine)} for name, mine in seconds.items()}
        for name, row in rows.items():
            if "transformers" in seconds:
                row["of transformers"] = ratio(seconds[name], seconds["transformers"])
        print_columns(
            f"first token {size}: seconds from the start of a process, {PROMPT} tokens of prompt, page cache warm",
            rows,
            [Column("s", "seconds", ".2f"), Column("of transformers", "of transformers", ".2f")],
        )
        results[size] = {"rows": rows, "left out": out}
    return results


def remember(name: str, path: str, dtype: str, threads: str, vocab_size: str, new: str) -> Measured:
    """Opens a contender and generates, in this process, and measures its memory."""
    open_ = CONTENDERS[name].open(Path(path), dtype, int(threads))
    import torch

    ids = torch.tensor(prompts(int(vocab_size), 1, PROMPT))
    return measured(lambda: open_().generate(ids, int(new), lambda: None))


def bench_memory(arguments: argparse.Namespace) -> dict[str, Any]:
    """Memory of opening a checkpoint and generating; apart from all timing, since watching costs time."""
    results = {}
    for size in arguments.sizes:
        with checkpoint(size, arguments.checkpoints, arguments.folder) as (source, folder):
            vocab_size = Needs.of(source).vocab_size
            measures = {}
            for name in arguments.contenders:
                if missing := CONTENDERS[name].missing:
                    print(f"  {name} is left out: {missing} is not installed", file=sys.stderr)
                    continue
                path = prepared(name, source, folder)
                words = ("remember", name, path, "float32", arguments.threads, vocab_size, arguments.new)
                measures[name] = partial(fresh, sys.executable, *words)
            rows = interleaved(measures, arguments.runs)
        for row in rows.values():
            if base := rows.get("transformers"):
                row |= {f"{key} x transformers": row[key] / base[key] for key in ("anonymous", "peak") if base[key]}
        print_columns(
            f"memory {size}: opened, and {arguments.new} tokens generated after {PROMPT}, float32",
            rows,
            [
                Column("anonymous, MB", "anonymous", ".0f", 1e-6),
                Column("x transformers", "anonymous x transformers", ".2f"),
                Column("peak RSS, MB", "peak", ".0f", 1e-6),
                Column("x transformers", "peak x transformers", ".2f"),
            ],
        )
        results[size] = {"rows": rows}
    return results
