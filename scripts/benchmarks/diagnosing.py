"""How long it takes to name a bug.

Each fault that can be made in a plain numpy function is made in one, and `diagnose` gets only that function, so it has
no modules to look into. The time is that of the noise floor and of the search, as in `gpt2 verify` after a verdict. The
faults and the function are the tests' own; the simulation uses neither.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.checkpoints import checkpoint

SECONDS = 120.0  # then the search gives up, and counts as unnamed


def diagnose_all(source: Path, only: list[str] | None) -> dict[str, dict[str, Any]]:
    """Name of the fault -> seconds, whether it was named, and what was said."""
    sys.path.insert(0, str(Path(__file__).parents[2]))  # the faults are the tests'
    from gpt2_from_scratch.checks.candidate import Candidate
    from gpt2_from_scratch.diagnose import diagnose
    from gpt2_from_scratch.loading import open_checkpoint
    from gpt2_from_scratch.reference import load_reference
    from tests.foreign import numpy_gpt2
    from tests.mutants import MUTANTS, is_named, row_of

    opened = open_checkpoint(source)
    tensors = {name: opened.read(name) for name in opened.tensors}
    heads = opened.config.n_head
    faults = [mutant for mutant in MUTANTS if mutant.portable and mutant.visible]
    rows = {}
    for mutant in faults:
        if only and mutant.name not in only:
            continue
        function = numpy_gpt2.gpt2(mutant.checkpoint(dict(tensors), heads), heads, **mutant.in_numpy())
        candidate = Candidate(function, opened.config)
        reference = load_reference(opened)
        start = time.perf_counter()
        diagnosis = diagnose(candidate, opened, reference, seconds=SECONDS)
        seconds = time.perf_counter() - start
        result = "unnamed" if not diagnosis else "named" if is_named(diagnosis, row_of(mutant)) else "wrong"
        rows[mutant.name] = {"seconds": seconds, "result": result, "said": str(diagnosis).partition(". Fix")[0]}
        print(
            f"  {mutant.name:<26}{result:<9}{seconds:6.1f} s  {rows[mutant.name]['said']}", file=sys.stderr, flush=True
        )
    return rows


def bench_diagnose(arguments: argparse.Namespace) -> dict[str, Any]:
    """The distribution over the faults, once each."""
    results = {}
    for size in arguments.sizes:
        with checkpoint(size, arguments.checkpoints, arguments.folder) as (source, _):
            rows = diagnose_all(source, arguments.faults)
        times = sorted(row["seconds"] for row in rows.values())
        low, median, high = (times[int(share * (len(times) - 1))] for share in (0.1, 0.5, 0.9))
        counts = {word: sum(row["result"] == word for row in rows.values()) for word in ("named", "unnamed", "wrong")}
        print(f"\ndiagnose {size}: {len(rows)} faults, one by one, in a numpy function")
        print("  " + ", ".join(f"{count} {word}" for word, count in counts.items()))
        print(f"  seconds: fastest {times[0]:.1f}, tenth {low:.1f}, median {median:.1f}, ", end="")
        print(f"nine tenths {high:.1f}, slowest {times[-1]:.1f}; mean {statistics.mean(times):.1f}")
        results[size] = {"rows": rows, "median": median, **counts}
    return results
