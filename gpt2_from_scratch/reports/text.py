"""A verdict in sentences: the report that the terminal shows, the verdict in one line, and the cause in a few words."""

import math
from collections.abc import Iterable, Iterator, Mapping

import torch

from gpt2_from_scratch.checks.logits import Logits
from gpt2_from_scratch.checks.selftests import SelfTests
from gpt2_from_scratch.checks.weights import Weights
from gpt2_from_scratch.compare import THRESHOLD, percent, scientific, times
from gpt2_from_scratch.diagnose import Diagnosis, Remedy
from gpt2_from_scratch.diagnose.divergence import Divergence
from gpt2_from_scratch.errors import printable
from gpt2_from_scratch.mapping import collapse
from gpt2_from_scratch.reports.results import Part, Results

_MOST_LINES = 8  # of detail per part, unless all are asked for
_LABEL = 11  # columns for the name of a row

Row = tuple[str, str]  # its label, empty where the row above goes on; and its text


def report(verdict: Results, verbose: bool = False) -> str:
    """All evidence, a few lines per part, and the verdict as the last line.

    Args:
        verdict: of `verify`.
        verbose: every prompt, every self-test, every site, and the environment.
    """
    rows = [row for part in verdict.parts if part.result is not None for row in _part(part, verdict, verbose)]
    if verdict.diagnosis is not None:
        rows += diagnosis_rows(verdict.diagnosis, verdict.divergence)
    rows += assumptions(verdict)
    rows += [("note", text) for text in verdict.notes]
    rows += [("unchecked", f"{what}: {why}") for what, why in verdict.unchecked.items()]
    if verbose:
        facts = ", ".join(f"{name} {value}" for name, value in verdict.environment.items())
        rows += [("unchecked", f"{part.name}: {part.reason}") for part in left_out(verdict)]
        rows.append(("ran with", facts))
    lines = (f"  {label:<{_LABEL}} {line}" for row in rows for label, line in _indented(*row))
    return "\n".join([*lines, summary(verdict)])


def assumptions(verdict: Results) -> list[Row]:
    """What no file says about the model; after a failure, what that may mean."""
    rows = [("assumed", f"{what}: no file says it") for what in verdict.assumed]
    if rows and verdict.failed:
        fields = ", ".join(what.partition(" ")[0] for what in verdict.assumed)
        rows.append(
            ("", f"if your code is right, one of these may be wrong: say them ({fields}) with --set NAME=VALUE")
        )
    return rows


def summary(verdict: Results) -> str:
    """The verdict in one line."""
    failed = "; ".join(f"{part.name}: {_briefly(part)}" for part in verdict.failed if part.name != "where")
    match verdict.outcome:
        case "interrupted":
            so_far = f"what was checked before had failed: {failed}" if failed else "nothing had failed so far"
            text = f"INTERRUPTED  during {verdict.interrupted}: no verdict on {verdict.candidate}; {so_far}"
        case "error":
            text = f"NO VERDICT  on {verdict.candidate}: {verdict.error or 'nothing was compared'}"
        case "failed":
            text = f"FAILED  {claim(verdict)}: {failed}"
        case _ if verdict.logits is None:
            text = f"PASSED  {claim(verdict)}"
        case _:
            text = f"PASSED  {claim(verdict)}: {_in_brief(verdict.logits)}, on {len(verdict.logits.results)} prompts"
    return printable(text.partition("\n")[0])


def claim(verdict: Results) -> str:
    """What is known of a candidate once there is a verdict: a sentence without its numbers."""
    if not verdict:
        return f"{verdict.candidate} differs from GPT-2 with the weights of {verdict.checkpoint}"
    if verdict.logits is None:
        names = " and ".join(part.name for part in verdict.compared)
        return f"{verdict.candidate}: {names} only; logits were not compared"
    return f"{verdict.candidate} gives GPT-2's logits with the weights of {verdict.checkpoint}"


def cause(verdict: Results) -> str:
    """What is wrong, in a few words: the fault if one was found, else the place, else the numbers."""
    if not verdict.reached:
        stopped = f"interrupted during {verdict.interrupted}" if verdict.interrupted is not None else ""
        return stopped or (verdict.error or "nothing was compared").partition("\n")[0]
    if verdict.diagnosis is not None and verdict.diagnosis.faults:
        return "; ".join(map(str, verdict.diagnosis.faults))
    first = verdict.divergence.first if verdict.divergence is not None else None
    if first is not None and verdict.failed:
        return f"first divergence at {first.place}"
    return "; ".join(f"{part.name}: {said(part)}" for part in verdict.failed[:1])


def said(part: Part) -> str:
    """What was found in a part, in one line."""
    if part.result is None:
        return part.reason
    if part.name == "where" and part.status == "passed":
        return "every compared module agrees"
    if isinstance(part.result, SelfTests) and not part.result:
        return "; ".join(str(test).partition("\n")[0] for test in part.result.failed)
    return str(part.result)


def _briefly(part: Part) -> str:
    return _in_brief(part.result) if isinstance(part.result, Logits) else said(part)


def _in_brief(logits: Logits) -> str:
    """The logits for the last line: the number that decides, and the threshold. What is unusual is said in full."""
    rounded = logits.dtype != torch.float32 or logits.weights_dtype is not None or logits.quantized
    if logits.tolerance is not None or logits.inexact or rounded or not math.isfinite(logits.max_abs):
        return str(logits)
    if logits.crashes and not logits.differ:
        return logits.crashed
    if logits.max_abs == 0:
        return "identical"
    if logits.exact is not None:
        return f"{times(logits.exact.multiple)} noise floors in float64 (threshold {times(logits.exact.threshold)})"
    return f"{times(logits.multiple)} noise floors (threshold {logits.threshold:g})"


def alternatives(diagnosis: Diagnosis) -> str:
    """The other sets of faults that give the same logits; empty where there are none."""
    names = [finding.name for finding in diagnosis.faults]
    others = [found for found in diagnosis.alternatives if [finding.name for finding in found] != names]
    return "; or: ".join(" and ".join(map(str, found)) for found in others)


def remedies(diagnosis: Diagnosis) -> tuple[Remedy, ...]:
    """How the faults are repaired. None where a patch was tried: a second one would have to be compared with it."""
    if diagnosis.patch is not None:
        return ()
    return tuple(dict.fromkeys(finding.remedy for finding in diagnosis.faults))


NO_TIME_FOR_A_PATCH = "none was found; the time for the search ran out (--diagnose-seconds) before every edit was tried"


def evidence_for(diagnosis: Diagnosis) -> str:
    """Why the faults are believed, as numbers."""
    these, them = ("these faults", "them") if len(diagnosis.faults) > 1 else ("this fault", "it")
    return (
        f"tried: our GPT-2 with {these} gives your logits, up to rounding ({times(diagnosis.multiple)} times its own); "
        f"without {them}, they are {times(diagnosis.baseline)} noise floors apart, on the prompts of this search"
    )


def why_unnamed(diagnosis: Diagnosis, divergence: Divergence | None = None) -> str:
    """Why no fault is named, and what is known all the same."""
    match diagnosis.reason:
        case "random":
            return "the same ids give other logits each time, and dropout is not the reason"
        case "nothing differs" if diagnosis.baseline > THRESHOLD and not diagnosis.harmless:
            text = (
                "run in float64, the logits are GPT-2's on the prompts of the search: look for a step that loses digits"
            )
        case "nothing differs":
            text = "the prompts of the search show no more than rounding"
        case "low precision":
            return "it computes in a precision that is too coarse to prove a cause; verify it in float32"
        case "not finite":
            text = "logits are not finite, so there is no number to reproduce; look at the mask, and for NaN in weights"
        case "out of time":
            tried = f"{diagnosis.tried:.0%} of the fault table tried"
            if diagnosis.tried >= 1:
                tried = "every known fault was tried by itself, not every set of them"
            text = f"not found in {diagnosis.seconds:g} s of processor time ({tried})"
        case _:
            text = "no known fault, nor a set of them, reproduces these logits"
    if diagnosis.lines:  # which say where more exactly
        return text
    first = divergence.first if divergence is not None else None
    if first is not None:
        text += f"; the numbers first differ at {first.place}"
    elif diagnosis.stages:
        text += f"; not explained: {', '.join(collapse(diagnosis.stages))}"
    if diagnosis.closest is not None:
        near = diagnosis.closest
        text += f"; the nearest, {near.faults}, explains a part: it leaves {times(near.multiple)} noise floors"
    return text


def coverage(logits: Logits) -> str:
    """What the prompts cover of what a model can be asked: token ids, lengths, batch sizes."""
    missed = logits.vocab_size - logits.ids_met
    lengths = ", ".join(map(str, logits.lengths[:_MOST_LINES]))
    if len(logits.lengths) > _MOST_LINES:
        lengths = f"{len(logits.lengths)} lengths from {logits.lengths[0]} to {logits.lengths[-1]}"
    text = f"{logits.ids_met:,} of {logits.vocab_size:,} token ids"
    if missed > 0:
        text += " (--thorough: all)"
    return f"{text}; prompts of {lengths} tokens; batches of {', '.join(map(str, logits.batches))}"


def weights_details(weights: Weights) -> list[str]:
    """The differing tensors, those that differ alike on one line; then what is worth knowing and no difference."""
    kinds: dict[str, list[str]] = {}
    for name, comparison in weights.differing.items():
        where = f" on rank {', '.join(map(str, weights.ranks[name]))}" if name in weights.ranks else ""
        kinds.setdefault(f"largest difference {scientific(comparison.max_abs)}{where}", []).append(name)
    lines = [f"{_places(names, weights.theirs)}: {how}" for how, names in kinds.items()]
    if weights.lacking:
        names = ", ".join(collapse(weights.lacking))
        lines.append(f"the candidate lacks {names}, or a part of it, which is not zero in the checkpoint")
    for head, embedding in weights.untied:
        lines.append(
            f"{head} is a copy of {embedding}: in GPT-2 they are one parameter; in training, two would become different"
        )
    return lines + ([f"the checkpoint: {weights.identity}"] if weights.identity is not None else [])


def _places(names: list[str], theirs: Mapping[str, str]) -> str:
    """GPT-2's tensors by the candidate's own names, layers folded together; GPT-2's names behind them."""
    canonical = ", ".join(collapse(names))
    own = ", ".join(collapse(each for name in names for each in theirs.get(name, name).split(" / ")))
    return own if own == canonical else f"{own} ({canonical})"


def left_out(verdict: Results) -> tuple[Part, ...]:
    """Parts that nobody looked at and that `unchecked` does not name."""
    return tuple(part for part in verdict.parts if part.result is None and part.name not in verdict.unchecked)


# ------------------------------------------------------------------------------------------------------------- rows


def _part(part: Part, verdict: Results, verbose: bool) -> Iterator[Row]:
    result = part.result
    if isinstance(result, Divergence):
        if verbose:
            yield from _labelled("sites", result.sites)
        lines = verdict.diagnosis.lines if verdict.diagnosis is not None else None
        if not verdict and (verbose or not lines):  # a line of the user's file says it better
            yield part.name, str(result)
    elif isinstance(result, Weights):
        yield part.name, str(result)
        # The diagnosis says what is wrong with them, but not on which rank.
        named = bool(verdict.diagnosis) and not verbose and not result.ranks
        yield from _limited(weights_details(result) if result or not named else [], verbose)
    elif isinstance(result, SelfTests):
        yield part.name, f"{len(result.failed)} of {len(result.results)} failed" if not result else str(result)
        yield from (("", str(test)) for test in (result.results if verbose else result.failed))
    elif isinstance(result, Logits):
        yield part.name, f"{len(result.results)} prompts, {result.tokens:,} tokens: {result}"
        yield from _logits(result, verbose)
    else:
        yield part.name, str(result)


def _logits(logits: Logits, verbose: bool) -> Iterator[Row]:
    agreement = (
        f"the most likely token is the same at {percent(logits.top1)} of positions, "
        f"the ten most likely are at {percent(logits.top10)}; KL divergence {scientific(logits.kl)} nats per token"
    )
    if logits.loss is not None and verbose:
        mine, theirs = logits.loss
        agreement += f"; loss {mine:.4f} (reference {theirs:.4f}), high because most prompts are random ids"
    if verbose or 0 < logits.max_abs < math.inf:  # of NaN it would say nothing
        yield "", agreement
    if verbose or not logits.differ:  # what differs on these prompts needs no others
        yield "covered", coverage(logits)
    for prompt, crash in logits.crashes if verbose else logits.crashes[:1]:
        yield "", f"on {prompt}: {crash.report}"
    if logits.differ and not verbose:
        yield "", f"worst prompt: {logits.worst.prompt.name}, {logits.worst.comparison} ([row, position, token id])"
    if verbose:
        for result in logits.results:
            multiple = result.comparison.max_abs / logits.floor
            apart = f", {times(multiple)} noise floors" if multiple else ""
            yield "", f"{result.prompt.name}: {result.comparison}{apart}"


def diagnosis_rows(diagnosis: Diagnosis, divergence: Divergence | None = None) -> Iterator[Row]:
    """A diagnosis as rows: the accused lines, the patch, the faults, why they are believed, and the repair."""
    yield from _labelled("line", str(diagnosis.lines).splitlines() if diagnosis.lines else ())
    if diagnosis.patch is not None:
        yield from _labelled("patch", str(diagnosis.patch).splitlines()[2:])
        proof = " and on ".join(diagnosis.patch.proof)
        yield "", f"tried: with it, logits are GPT-2's, on {proof}; --fix writes it"
    if diagnosis.patch_stopped:
        yield "patch", NO_TIME_FOR_A_PATCH
    if diagnosis.no_line:
        yield "line", f"none can be named: {diagnosis.no_line}"
    if not diagnosis:
        yield "diagnosis", why_unnamed(diagnosis, divergence)
    yield from _labelled("diagnosis", diagnosis.faults)
    if diagnosis:
        if others := alternatives(diagnosis):
            yield "", f"the same logits come from: {others}"
        yield "", evidence_for(diagnosis)
    yield from _labelled("fix", remedies(diagnosis))
    for finding in diagnosis.harmless:
        yield "", f"{finding.says}: a matter of precision, not a bug"


def _labelled(label: str, lines: Iterable[object]) -> Iterator[Row]:
    yield from ((label if not index else "", str(line)) for index, line in enumerate(lines))


def _limited(lines: list[str], verbose: bool) -> Iterator[Row]:
    shown = lines if verbose else lines[:_MOST_LINES]
    yield from (("", line) for line in shown)
    if len(shown) < len(lines):
        yield "", f"and {len(lines) - len(shown)} more (-v)"


def _indented(label: str, text: str) -> Iterable[Row]:
    return _labelled(label, printable(text).splitlines() or [""])
