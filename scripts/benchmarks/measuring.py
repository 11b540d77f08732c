"""Turns, clocks and medians: how contenders are measured beside each other.

A machine's speed drifts, so ratios of measurements that are close in time vary less than the numbers themselves.
Contenders take turns (A B C A B C ...); a ratio is taken within each round, and the median over the rounds is the
result. Work that starts from nothing runs in a fresh process each time (`fresh`). Work on a loaded model runs in
processes that stay, one per contender (`Worker`), of which only one works at a time.
"""

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

BENCH = Path(__file__).resolve().parent.parent / "bench.py"

Measured = dict[str, float]


# ------------------------------------------------------------------------------------------------------------ memory


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


def measured(work: Callable[[], Any]) -> Measured:
    """Does the work in this process: its time, and its memory."""
    with highest("RssAnon") as anonymous:
        start = time.perf_counter()
        result = work()
        seconds = time.perf_counter() - start
    assert result is not None
    return {"seconds": seconds, "anonymous": anonymous[0], "peak": status("VmHWM")}


# --------------------------------------------------------------------------------------------------- fresh processes


def fresh(python: str, *arguments: object) -> dict[str, Any]:
    """Runs a hidden command of `bench.py` in a new process: the JSON that it prints, and the time of the process."""
    command = [python, str(BENCH), *map(str, arguments)]
    start = time.perf_counter()
    run = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if run.returncode:
        sys.exit(f"{' '.join(command[2:])} failed:\n{run.stderr}")
    answer: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return answer | {"process": seconds}


def wall(command: Sequence[str]) -> Measured:
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


# --------------------------------------------------------------------------------------------------- standing workers


class Worker:
    """A process that holds one contender's model and answers requests, one JSON line each.

    Args:
        arguments: of the hidden command of `bench.py` that `answer`s.
    """

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, str(BENCH), *map(str, arguments)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, request: str, **arguments: Any) -> Any:
        """The answer; a worker that died, or whose contender raised, is a `WorkerError` with the reason."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            print(json.dumps([request, arguments]), file=self.process.stdin, flush=True)
            answer = json.loads(self.process.stdout.readline() or '{"error": "its process ended"}')
        except BrokenPipeError:
            answer = {"error": f"its process ended, exit code {self.process.wait()}"}
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer["answer"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()  # it reads to the end of its requests, and leaves
        self.process.wait()


class WorkerError(Exception):
    """A worker could not answer."""


def answer(open_: Callable[[], Mapping[str, Callable[..., Any]]]) -> None:
    """A worker's side: opens the model at the first request, answers until there are no more."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints is for people
    able: Mapping[str, Callable[..., Any]] | None = None
    for line in sys.stdin:
        request, arguments = json.loads(line)
        try:
            able = able or open_()
            print(json.dumps({"answer": able[request](**arguments)}), file=answers)
        except Exception as error:  # whatever it is: the others go on without this contender
            reason = str(error).strip().splitlines() or [""]
            print(json.dumps({"error": f"{type(error).__name__}: {reason[0]}"}), file=answers)


# Seconds between two turns. Threads of Intel's OpenMP (CTranslate2) spin for 0.2 s after their last work, by default
# (KMP_BLOCKTIME), and would take a core from whoever is next.
SETTLE = 0.25

Rounds = dict[str, list[Any]]


def take_turns(turns: Mapping[str, Callable[[], Any]], runs: int) -> Rounds:
    """Runs all in turn, once unmeasured and then `runs` times: the answers of each, round by round."""
    rounds: Rounds = {name: [] for name in turns}
    for run in range(runs + 1):
        for name, turn in turns.items():
            time.sleep(SETTLE)
            found = turn()
            if run:  # the first touches the weights, and compiles where something compiles
                rounds[name].append(found)
    return rounds


def ratio(above: Iterable[float], below: Iterable[float]) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


class Line(NamedTuple):
    """A straight line through points, by least squares, and how much of their variation it explains (R squared)."""

    intercept: float
    slope: float
    straight: float

    @classmethod
    def through(cls, points: Iterable[tuple[float, float]]) -> "Line":
        xs, ys = zip(*points, strict=True)
        slope, intercept = statistics.linear_regression(xs, ys)
        return cls(intercept, slope, statistics.correlation(xs, ys) ** 2 if len(set(ys)) > 1 else 1.0)

    def at(self, x: float) -> float:
        return self.intercept + self.slope * x
