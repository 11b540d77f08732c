"""How often the line of a bug is named, and how often a patch is found: measured on the sets of this folder.

Run ``python -m tests.bugs development --sample 40 --patch`` or ``python -m tests.bugs held_out --patch``. One row for
each bug, with its outcome, then the rates by style and of all. The outcomes:

* ``exact``: the first accused line is guilty; ``second``: another line that is shown with it is;
* ``between``: no line is accused, but the place where GPT-2's numbers end is shown, and a guilty line is among those
  shown; ``elsewhere``: none is. Neither counts as wrong, because nothing is accused;
* ``wrong``: a line is accused, and no guilty line is shown with it;
* ``nothing``: no line is shown. ``time-out``: no answer in the time given.

For combinations each part counts by itself: it is found if one of its guilty lines is accused.
"""

import argparse
import importlib
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.diagnose.lines import Accusation, Line, accuse
from tests.bugs import SETS, Bug, lines_of_part
from tests.bugs.patching import patched
from tests.foreign import STYLES, Tensors
from tests.perturbed import SIZES, perturbed

OUTCOMES = ("exact", "second", "between", "elsewhere", "wrong", "nothing", "time-out", "crash")


class TimeOutError(BaseException):
    """Raised by the alarm; no `except Exception` of the code under test catches it."""


def _alarm(signal_number: int, frame: FrameType | None) -> None:
    raise TimeOutError


@contextmanager
def _limited(seconds: int) -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, _alarm)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(found: Accusation, bug: Bug) -> str:
    """What an accusation says about a bug, in the words of `OUTCOMES`."""

    def guilty(line: Line) -> bool:
        return Path(line.file).stem == bug.style and line.line in bug.lines

    shown = found.findings[0].lines if found.findings else ()
    if not shown:
        return "nothing"
    if found.status == "between":
        return "between" if any(map(guilty, shown)) else "elsewhere"
    return "exact" if guilty(shown[0]) else "second" if any(map(guilty, shown)) else "wrong"


def parts_found(found: Accusation, bug: Bug, singles: dict[str, Bug]) -> tuple[list[bool], int]:
    """For each part of a combination whether its line is accused, and how many accusations hit no part."""
    accused = {finding.lines[0].line for finding in found.findings if finding.lines}
    parts = [set(lines_of_part(bug, singles[f"{bug.style}/{part}"])) for part in bug.parts]
    return [bool(lines & accused) for lines in parts], len(accused - set().union(*parts))


def measured(bugs: Sequence[Bug], singles: dict[str, Bug], arguments: argparse.Namespace) -> None:
    """Runs the bugs one by one and prints rows and rates."""
    reference = perturbed(n_inner=None, n_layer=arguments.layers)
    config = GPTConfig.from_hf(reference.config.to_dict())
    tensors: Tensors = {
        name.removeprefix("transformer."): each.detach()
        for name, each in reference.state_dict().items()
        if name != "lm_head.weight"
    }
    rows: Counter[tuple[str, str]] = Counter()
    patches: Counter[tuple[str, bool]] = Counter()
    parts: Counter[bool] = Counter()
    false, proven = 0, Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        for number, bug in enumerate(bugs):
            begun = time.monotonic()
            found: Accusation | None = None
            try:
                model = bug.load(tensors, config, Path(folder) / str(number))
                with _limited(arguments.seconds):
                    found = accuse(
                        model, config, tensors, call=lambda ids, m=model, b=bug: STYLES[b.style].logits(m, ids)
                    )
                said = outcome(found, bug)
            except TimeOutError:
                said = "time-out"
                if arguments.verbose:
                    traceback.print_exc(limit=-5, file=sys.stdout)
            except Exception:
                said = "crash"
                traceback.print_exc(file=sys.stdout)
            rows[bug.style, said] += 1
            detail = ""
            if found is not None:
                proven[said] += found.proven
                detail = f"{[line.line for line in found.lines]} {'proven' if found.proven else ''}"
            if bug.parts:
                hits, more = parts_found(found or Accusation("could not record"), bug, singles)
                parts.update(hits)
                false += more
                detail += f" parts {sum(hits)} of {len(hits)}, {more} false"
            if arguments.patch and found is not None and not STYLES[bug.style].fixed and not bug.parts:
                lines = [line.line for line in found.lines if Path(line.file).stem == bug.style]
                fixed = None
                if lines:
                    fixed = patched(bug, Path(folder) / f"patch{number}", list(dict.fromkeys(lines)), 30)
                patches[bug.style, bool(fixed)] += 1
                detail += f" patch {'no' if fixed is None else f'of {list(fixed.lines)} after {fixed.trials}'}"
            print(f"{said:9}  {bug.id}  {list(bug.lines)}  {detail} {time.monotonic() - begun:.1f} s", flush=True)
            missed = bug.parts and not all(hits)
            if arguments.verbose and (said not in ("exact",) or missed) and found is not None:
                print(f"    {bug.why}\n    " + str(found).replace("\n", "\n    ")[:1500], flush=True)
    report(rows, patches, parts, false, proven)


def report(
    rows: Counter[tuple[str, str]],
    patches: Counter[tuple[str, bool]],
    parts: Counter[bool],
    false: int,
    proven: Counter[str],
) -> None:
    """The rates, by style and of all."""
    print(f"\n{'style':20}" + "".join(f"{word:>10}" for word in OUTCOMES) + f"{'patch':>10}")
    for style in (*sorted({style for style, _ in rows}), ""):
        counts = [sum(rows[key] for key in rows if key[1] == word and style in ("", key[0])) for word in OUTCOMES]
        fixed, tried = (
            sum(patches[key] for key in patches if style in ("", key[0]) and (key[1] or not only)) for only in (1, 0)
        )
        print(f"{style or 'all':20}" + "".join(f"{each or '':>10}" for each in counts) + f"{fixed:>7} of {tried}")
    total = sum(rows.values()) or 1
    shares = [(word, sum(rows[key] for key in rows if key[1] == word)) for word in OUTCOMES]
    print(", ".join(f"{word} {100 * count / total:.1f} %" for word, count in shares if count), f"of {total} bugs")
    print(f"proven: {dict(proven)}")
    if parts:
        print(f"combinations: {parts[True]} of {sum(parts.values())} parts found, {false} accusations of other lines")
    if patches:
        fixed = sum(count for (_, right), count in patches.items() if right)
        print(f"patches: {fixed} of {sum(patches.values())} ({100 * fixed / sum(patches.values()):.0f} %)")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bugs", description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="+", choices=SETS, metavar="SET", help=", ".join(SETS))
    parser.add_argument("--sample", type=int, default=0, help="so many bugs, drawn by chance; 0 for all")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--combined", action="store_true", help="combinations instead of single bugs")
    parser.add_argument("--only", nargs="*", default=[], help="bugs whose style/name contains one of these")
    parser.add_argument("--layers", type=int, default=SIZES["n_layer"], help="fewer are faster, for a first look")
    parser.add_argument("--patch", action="store_true", help="look for a patch at the lines that are shown")
    parser.add_argument("--seconds", type=int, default=60, help="for each bug")
    parser.add_argument("--verbose", action="store_true", help="print what was said of bugs whose line is not exact")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    bugs = [bug for name in arguments.sets for bug in importlib.import_module(f"tests.bugs.{name}").BUGS]
    singles = {bug.id: bug for bug in bugs if not bug.parts}
    chosen = [bug for bug in bugs if bool(bug.parts) == arguments.combined]
    if arguments.only:
        chosen = [bug for bug in chosen if any(word in bug.id for word in arguments.only)]
    if arguments.sample:
        chosen = random.Random(arguments.seed).sample(chosen, min(arguments.sample, len(chosen)))
    measured(chosen, singles, arguments)


if __name__ == "__main__":
    main()
