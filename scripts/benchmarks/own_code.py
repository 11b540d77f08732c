"""What it costs to name a line of somebody's own module, and to find out its layout.

The module is one of the tests' implementations, of an official shape, with random weights. For `diagnosis` its GELU has
a wrong power; for `map` it is right. Each is done in a fresh process. Time is the processor's, of all threads, so that
it means something on a busy machine, too; its unit is one forward pass of our own plain float64 GPT-2 over the same
tokens in the same process. The peak is that of the whole process while it works.
"""

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measuring import fresh, status

WORK = ("diagnosis", "map")
TOKENS = 47  # a prime number, as the diagnosis takes where it can
RIGHT, WRONG = "0.044715 * x * x * x", "0.044715 * x * x"


def measure(work: str, size: str) -> dict[str, Any]:
    """In this process: seconds of the processor, the same in float64 passes, and the peak."""
    sys.path.insert(0, str(Path(__file__).parents[2]))  # the implementations are the tests'
    import torch

    from gpt2_from_scratch.anatomy import forward
    from gpt2_from_scratch.config import GPTConfig
    from gpt2_from_scratch.diagnose.lines import accuse
    from gpt2_from_scratch.infer_layout import infer_layout
    from gpt2_from_scratch.loading import TINY, open_checkpoint
    from tests.foreign import STYLES

    config = open_checkpoint(TINY).config if size == "tiny" else GPTConfig.for_size(size)
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(shape, generator=generator) * 0.02 + ("ln_" in name and name.endswith("weight"))
        for name, shape in config.tensor_shapes().items()
    }
    ids = torch.randint(config.vocab_size, (1, min(TOKENS, config.n_positions)), generator=generator)
    units = [timed(lambda: forward.logits(config, weights, ids)) for _ in range(2)]
    style = STYLES["own_layers"]
    if work == "map":
        del weights
        module = style.build(style.python(), config).eval()
        forget_peak()
        seconds, said = timed(lambda: infer_layout(module, config))
        done = bool(said)
    else:
        with tempfile.TemporaryDirectory() as folder:
            source = style.path.read_text()
            assert RIGHT in source
            file = Path(folder, style.path.name)
            file.write_text(source.replace(RIGHT, WRONG))
            module = style.load(weights, config, file)
            forget_peak()
            seconds, found = timed(lambda: accuse(module, config, weights, ids, seconds=3600))
            done = found.proven
    unit = min(seconds for seconds, _ in units)
    return {"seconds": seconds, "passes": seconds / unit, "peak": status("VmHWM"), "proven": done}


def timed(work: Any) -> tuple[float, Any]:
    """Seconds of the processor, in all threads, and the result."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def forget_peak() -> None:
    """The peak of the process starts anew. Linux."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def medians(work: str, size: str, runs: int) -> dict[str, Any]:
    """Of fresh processes. None is left unmeasured: nothing is read from files, and waiting is no processor time."""
    found = [fresh(sys.executable, "own-code-child", work, size) for _ in range(runs)]
    return {key: statistics.median(each[key] for each in found) for key in found[0]}


def bench_own_code(arguments: argparse.Namespace) -> dict[str, Any]:
    """Both, one after the other, for each size."""
    results: dict[str, Any] = {}
    for size in arguments.sizes:
        results[size] = {work: medians(work, size, arguments.runs) for work in WORK}
        print(f"\nown code {size}, medians of {arguments.runs} runs")
        for work, found in results[size].items():
            proven = "proven" if found["proven"] else "NOT PROVEN"
            print(
                f"  {work:<10}{found['seconds']:>8.1f} s of the processor = {found['passes']:>6.1f} float64 passes"
                f"{found['peak'] / 1e6:>8.0f} MB  {proven}"
            )
    return results
