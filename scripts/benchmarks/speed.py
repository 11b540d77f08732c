"""Prefill and decoding: contenders in standing processes, taking turns at the same prompts.

A contender that computes something else is left out, with a message. Before the first turn, the logits of a prompt's
last token are compared with those of the first contender; in the unmeasured round, the greedy ids are.
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.checkpoints import checkpoint
from benchmarks.contenders import CONTENDERS
from benchmarks.limits import Needs, waiting
from benchmarks.measuring import SETTLE, Worker, WorkerError, fresh, ratio, take_turns
from benchmarks.tables import Column, print_columns, print_curve

# Root mean square of the difference of logits, relative to their spread. float32, 124M: correct contenders 8e-7 from
# each other, erf in place of tanh in the GELU 3e-4: the geometric mean. bfloat16, from float32: 1.7e-2, three times
# that; it cannot see such a fault, but the same code has been seen in float32.
THRESHOLD = {"float32": 2e-5, "bfloat16": 5e-2}
CHECKED = 64  # tokens of that prompt, at most half the context

BASES = ("transformers", "CTranslate2", "ONNX Runtime")  # that all are compared with

Limit = Callable[[], Any]
LIMIT = "what the machine allows"


# ------------------------------------------------------------------------------------------------------- in a worker


def open_contender(name: str, folder: Path, dtype: str, threads: int, device: str) -> Mapping[str, Callable[..., Any]]:
    """What a worker can be asked."""
    import torch

    wait = waiting(device)
    with torch.device(device):  # not for longer: a default device costs some time in each call of PyTorch
        engine = CONTENDERS[name].open(folder, dtype, threads)()

    def logits(prompt: list[list[int]]) -> list[list[float]]:
        with torch.no_grad():
            found: list[list[float]] = (
                torch.as_tensor(engine.prefill(torch.tensor(prompt, device=device))).double().tolist()
            )
        return found

    def prefill(prompt: list[list[int]]) -> dict[str, Any]:
        ids = torch.tensor(prompt, device=device)
        with torch.no_grad():
            start = time.perf_counter()
            result = engine.prefill(ids)
            wait()
            seconds = time.perf_counter() - start
        return {"seconds": seconds, "ids": torch.as_tensor(result).argmax(dim=-1).tolist()}

    def decode(prompt: list[list[int]], new: int) -> dict[str, Any]:
        """Seconds per step; the first, which computes the prompt, is not one."""
        stamps: list[float] = []
        ids = engine.generate(torch.tensor(prompt, device=device), new, lambda: stamps.append(time.perf_counter()))
        return {"seconds": statistics.fmean(b - a for a, b in pairwise(stamps)), "ids": ids}

    return {"logits": logits, "prefill": prefill, "decode": decode}


def prompts(vocab_size: int, batch: int, length: int) -> list[list[int]]:
    """Ids from the whole vocabulary, the same in every run."""
    import random

    source = random.Random(length)
    return [[source.randrange(vocab_size) for _ in range(length)] for _ in range(batch)]


# --------------------------------------------------------------------------------------------------------- who runs


@dataclass
class Lineup:
    """The contenders that take part, by label, and those that are left out, with the reason.

    A label is a contender's name, with its dtype where that is not float32.
    """

    needs: Needs
    workers: dict[str, Worker] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)
    out: dict[str, str] = field(default_factory=dict)

    def refuse(self, label: str, why: str) -> None:
        """Leaves a contender out, with a message."""
        self.workers.pop(label, None)
        self.out[label] = why
        print(f"  {label} is left out: {why}", file=sys.stderr)

    def keep(self, dtype: str) -> None:
        """Goes on with the contenders of this dtype."""
        self.workers = {label: worker for label, worker in self.workers.items() if self.dtypes[label] == dtype}

    def check_logits(self) -> None:
        """Compares everybody's logits with those of the first."""
        prompt = prompts(self.needs.vocab_size, 1, min(CHECKED, self.needs.n_positions // 2))
        right: list[float] | None = None
        for label, worker in list(self.workers.items()):
            try:
                (found,) = worker.ask("logits", prompt=prompt)
            except WorkerError as error:
                self.refuse(label, str(error))
                continue
            right = right or found
            difference = math.dist(found, right) / (statistics.pstdev(right) * math.sqrt(len(right)))
            if not difference <= THRESHOLD[self.dtypes[label]]:
                limit = f"more than {THRESHOLD[self.dtypes[label]]:.0e}, which is what rounding may do"
                self.refuse(label, f"computes something else: its logits differ by {difference:.1e}, {limit}")

    def turns(
        self, request: str, prompt: list[list[int]], runs: int, limit: Limit | None = None, **arguments: Any
    ) -> tuple[dict[str, list[float]], list[Any]]:
        """Seconds of each contender in each round, and the answers of `limit`, which takes its turn among them.

        A contender whose ids differ from the first one's is left out. In bfloat16 rounding may lead to other ids; there
        the logits were compared.
        """
        right: Any = None
        for label, worker in list(self.workers.items()):
            time.sleep(SETTLE)
            print(f"  {request} {len(prompt)} x {len(prompt[0])}: {label}", file=sys.stderr)
            try:
                ids = worker.ask(request, prompt=prompt, **arguments)["ids"]
            except WorkerError as error:
                self.refuse(label, str(error))
                continue
            right = right or ids
            if ids != right and self.dtypes[label] == "float32":
                self.refuse(label, "computes something else: it chooses other ids")
        asks = {
            label: partial(worker.ask, request, prompt=prompt, **arguments) for label, worker in self.workers.items()
        }
        rounds = take_turns(asks | ({LIMIT: limit} if limit else {}), runs)
        allowed = rounds.pop(LIMIT, [])
        return {label: [found["seconds"] for found in answers] for label, answers in rounds.items()}, allowed

    def compared(self, seconds: Mapping[str, list[float]]) -> dict[str, dict[str, float]]:
        """Medians, and how many times as fast as each base, by rounds: ``{"seconds", "x transformers", ...}``."""
        return {
            label: {"seconds": statistics.median(mine)}
            | {f"x {base}": ratio(seconds[base], mine) for base in BASES if base in seconds}
            for label, mine in seconds.items()
        }


@contextmanager
def contenders(size: str, arguments: argparse.Namespace) -> Iterator[Lineup]:
    """Opens a checkpoint of this size with every contender that is installed, and checks that all compute the same."""
    with checkpoint(size, arguments.checkpoints, arguments.folder) as (source, folder), ExitStack() as stack:
        found, paths = Lineup(Needs.of(source)), {}
        for name in arguments.contenders:
            contender = CONTENDERS[name]
            if contender.missing:
                found.refuse(name, f"{contender.missing} is not installed")
            else:
                paths[name] = prepared(name, source, folder)
        # float32 first: the others are compared with it.
        for dtype in sorted(arguments.dtypes, key=list(THRESHOLD).index):
            for name, path in paths.items():
                label = name if dtype == "float32" else f"{name}, {dtype}"
                worker = Worker("contender", name, path, dtype, arguments.threads, arguments.device)
                found.workers[label], found.dtypes[label] = stack.enter_context(worker), dtype
        found.check_logits()
        if not found.workers:
            sys.exit("nobody is left to measure")
        yield found


def prepared(name: str, source: Path, folder: Path) -> Path:
    """The checkpoint in the form that the contender reads; made in a process of its own: memory stays clean."""
    if CONTENDERS[name].prepare is None:
        return source
    return Path(fresh(sys.executable, "prepare", name, source, folder)["path"])


# --------------------------------------------------------------------------------------------------------- commands


def bench_decode(arguments: argparse.Namespace) -> dict[str, Any]:
    """Batch 1: tokens per second after a short prompt, and what each token of context adds."""
    results = {}
    for size in arguments.sizes:
        with contenders(size, arguments) as lineup, Worker("limits", arguments.device, *arguments.dtypes) as limits:
            by_context: dict[int, dict[str, list[float]]] = {}
            reads: dict[int, list[float]] = {}
            short = min(arguments.contexts)
            for context in sorted(arguments.contexts):
                if context > short:  # one dtype tells how a step grows
                    lineup.keep(arguments.dtypes[0])
                prompt = prompts(lineup.needs.vocab_size, 1, context)
                by_context[context], reads[context] = lineup.turns(
                    "decode", prompt, arguments.runs, partial(limits.ask, "read"), new=arguments.new
                )
        rows = lineup.compared(by_context[short])
        read = statistics.median(reads[short])
        for label, row in rows.items():
            needed = lineup.needs.step_bytes(short + arguments.new // 2, lineup.dtypes[label])
            share = ratio([needed / rate for rate in reads[short]], by_context[short][label])
            row |= {"tokens/s": 1 / row["seconds"], "share": share}
        print_columns(
            f"decode {size}, batch 1, {arguments.new} tokens after {short}; this machine reads {read / 1e9:.1f} GB/s",
            rows,
            [
                Column("tokens/s", "tokens/s", ".1f"),
                Column("ms", "seconds", ".2f", 1e3),
                Column("of the limit", "share", ".0%"),
                *(Column(f"x {base}", f"x {base}", ".2f") for base in BASES),
            ],
        )
        if len(by_context) > 1:
            for label, row in rows.items():
                points = [
                    (context + arguments.new // 2, statistics.median(seconds[label]))
                    for context, seconds in by_context.items()
                    if label in seconds
                ]
                if len(points) < len(by_context):
                    continue
                title = f"a step of {label}, {size}, against the tokens of its context"
                row["intercept"], row["slope"], row["straight"] = print_curve(title, "ms", points, 1e3)
        contexts = {
            context: {label: statistics.median(mine) for label, mine in seconds.items()}
            for context, seconds in by_context.items()
        }
        results[size] = {"rows": rows, "bytes/s": read, "seconds by context": contexts, "left out": lineup.out}
    return results


def bench_prefill(arguments: argparse.Namespace) -> dict[str, Any]:
    """A prompt, to the last token's logits, with a cache filled."""
    results = {}
    for size in arguments.sizes:
        by_length: dict[int, dict[str, dict[str, float]]] = {}
        rates: dict[str, float] = {}
        with contenders(size, arguments) as lineup, Worker("limits", arguments.device, *arguments.dtypes) as limits:
            for length in arguments.lengths:
                prompt = prompts(lineup.needs.vocab_size, 1, length)
                seconds, products = lineup.turns("prefill", prompt, arguments.runs, partial(limits.ask, "product"))
                by_length[length] = lineup.compared(seconds)
                for label, row in by_length[length].items():
                    needed, dtype = lineup.needs.prefill_flops(length), lineup.dtypes[label]
                    share = ratio([needed / product[dtype] for product in products], seconds[label])
                    row |= {"tokens/s": length / row["seconds"], "share": share}
                rates = {dtype: statistics.median(product[dtype] for product in products) for dtype in products[0]}
        for length, rows in by_length.items():
            limit = ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {dtype}" for dtype, rate in rates.items())
            print_columns(
                f"prefill {size}, {length} tokens; this machine multiplies matrices at {limit}",
                rows,
                [
                    Column("tokens/s", "tokens/s", ".0f"),
                    Column("ms", "seconds", ".1f", 1e3),
                    Column("of the limit", "share", ".0%"),
                    *(Column(f"x {base}", f"x {base}", ".2f") for base in BASES),
                ],
            )
        results[size] = {"rows by length": by_length, "FLOP/s": rates, "left out": lineup.out}
    return results


def bench_batch(arguments: argparse.Namespace) -> dict[str, Any]:
    """Throughput of decoding several texts at once."""
    results = {}
    for size in arguments.sizes:
        by_batch: dict[int, dict[str, dict[str, float]]] = {}
        with contenders(size, arguments) as lineup:
            for batch in arguments.batches:
                prompt = prompts(lineup.needs.vocab_size, batch, arguments.prompt)
                rows = lineup.compared(lineup.turns("decode", prompt, arguments.runs, new=arguments.new)[0])
                for row in rows.values():
                    row["tokens/s"] = batch / row["seconds"]
                by_batch[batch] = rows
                print_columns(
                    f"decode {size}, batch {batch}, {arguments.new} tokens after {arguments.prompt}",
                    rows,
                    [
                        Column("tokens/s", "tokens/s", ".1f"),
                        Column("ms", "seconds", ".1f", 1e3),
                        *(Column(f"x {base}", f"x {base}", ".2f") for base in BASES),
                    ],
                )
        results[size] = {"rows by batch": by_batch, "left out": lineup.out}
    return results
