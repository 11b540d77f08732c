"""JSON for programs: every statistic of a verdict, in a form that ``schema.json`` beside this file describes.

The form is a promise. Its version goes up when a field goes away or changes its meaning, and no field is
ever missing: what was not looked at is null. JSON has no infinity and no NaN; they are written as the strings
"Infinity", "-Infinity" and "NaN", which Python's ``float`` and JavaScript's ``Number`` read back.
"""

import json
import math
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from gpt2_from_scratch.checks.candidate import Crash
from gpt2_from_scratch.checks.generation import Generation
from gpt2_from_scratch.checks.gradients import Gradients
from gpt2_from_scratch.checks.logits import Logits, PromptResult
from gpt2_from_scratch.checks.prompts import Prompt
from gpt2_from_scratch.checks.selftests import SelfTests
from gpt2_from_scratch.checks.weights import Weights
from gpt2_from_scratch.compare import quantiles
from gpt2_from_scratch.diagnose import Diagnosis, Finding
from gpt2_from_scratch.diagnose.divergence import Divergence
from gpt2_from_scratch.diagnose.patch import Patch
from gpt2_from_scratch.reports.results import Part
from gpt2_from_scratch.reports.text import why_unnamed
from gpt2_from_scratch.reports.verdict import Verdict

_Fields: TypeAlias = dict[str, Any]
_Part = TypeVar("_Part")

NAME, VERSION = "gpt2_from_scratch/verdict", 2
SCHEMA = files("gpt2_from_scratch.reports") / "schema.json"

_DIGITS = 4  # of the error at one site and position: there are thousands, and a picture shows two


def to_json(verdict: Verdict) -> str:
    """The verdict as a JSON document, on one line.

    Args:
        verdict: of `verify`.

    Example:
        >>> print(to_json(Verdict("model", "checkpoint"))[:62])
        {"schema": {"name": "gpt2_from_scratch/verdict", "version": 2}
    """
    return json.dumps(to_dict(verdict), allow_nan=False) + "\n"


def to_dict(verdict: Verdict) -> dict[str, Any]:
    """The same as a dictionary of JSON's own types.

    Args:
        verdict: of `verify`.

    Example:
        >>> to_dict(Verdict("model", "checkpoint"))["outcome"]
        'error'
    """
    fields = {
        "schema": {"name": NAME, "version": VERSION},
        "outcome": verdict.outcome,
        "summary": verdict.summary,
        "candidate": verdict.candidate,
        "checkpoint": verdict.checkpoint,
        "interrupted": verdict.interrupted,
        "error": verdict.error,
        "parts": {part.name: _part(part) for part in verdict.parts},
        "diagnosis": _or_null(verdict.diagnosis, _diagnosis),
        "notes": verdict.notes,
        "assumed": verdict.assumed,
        "unchecked": verdict.unchecked,
        "environment": verdict.environment,
    }
    plain: dict[str, Any] = _plain(fields)
    return plain


def _or_null(part: _Part | None, describe: Callable[[_Part], _Fields]) -> _Fields | None:
    """Asks for None, not for truth: a part that failed is false."""
    return None if part is None else describe(part)


def _part(part: Part) -> _Fields:
    numbers = None if part.result is None else _NUMBERS[type(part.result)](part.result)
    return {"status": part.status, "reason": part.reason or None, "numbers": numbers}


def _weights(part: Weights) -> _Fields:
    return {
        "equal": part.equal,
        "differing": {name: vars(comparison) for name, comparison in part.differing.items()},
        "rounded": part.rounded,
        "lacking": part.lacking,
        "ranks": part.ranks,
        "untied": [{"copy": copy, "original": original} for copy, original in part.untied],
        "identity": None if part.identity is None else str(part.identity),
    }


def _self_tests(part: SelfTests) -> _Fields:
    results = [
        {
            "name": test.name,
            "what": test.what,
            "status": test.status,
            "reason": test.unasked or None,
            "difference": test.difference,
            "limit": test.limit,
            "must_differ": test.differs,
            "meaning": test.fault,
            "crash": test.crash or None,
        }
        for test in part.results
    ]
    return {"results": results}


def _logits(part: Logits) -> _Fields:
    exact = part.exact
    return {
        "dtype": part.dtype,
        "weights_dtype": part.weights_dtype,
        "quantized": part.quantized,
        "noise_floor": part.floor,
        "threshold": part.threshold,
        "multiple": part.multiple,
        "tolerance": None if part.tolerance is None else dict(zip(("atol", "rtol"), part.tolerance, strict=True)),
        "float64": None if exact is None else {"passed": bool(exact)} | vars(exact),
        "inexact": part.inexact or None,
        "max_abs": part.max_abs,
        "mean_abs": part.mean_abs,
        "tokens": part.tokens,
        "kl": part.kl,
        "top1": min(part.top1, 1.0),  # a mean of ones may round to a little more
        "top10": min(part.top10, 1.0),
        "loss": _or_null(part.loss, _loss),
        "prompts": [_prompt(result, part.floor) for result in part.results],
        "coverage": {name: getattr(part, name) for name in ("ids_met", "lengths", "batches")}
        | {"ids": part.vocab_size},
        "crashes": [_crash(prompt, crash) for prompt, crash in part.crashes],
    }


def _crash(prompt: Prompt, crash: Crash) -> _Fields:
    file, line = crash.place or (None, None)
    shape = tuple(prompt.ids.shape)
    return {"name": prompt.name, "shape": shape, "report": crash.report, "file": file, "line": line}


def _prompt(result: PromptResult, floor: float) -> _Fields:
    comparison = result.comparison
    return {
        "name": result.prompt.name,
        "shape": tuple(result.prompt.ids.shape),
        **vars(comparison),
        "multiple": comparison.max_abs / floor,
        "noise_floor": result.floor,
        "excess": result.excess,
        "errors": _spread(result.errors),
        "noise_floors": _spread(result.floors),
        "kl": _spread(result.kl),
        "top1": result.top1,
        "top10": result.top10,
        "loss": _or_null(result.loss, _loss),
        "worst": [
            vars(token) | {"expected": _prediction(token.expected), "actual": _prediction(token.actual)}
            for token in result.worst
        ],
    }


def _prediction(token: tuple[int, float]) -> _Fields:
    return {"id": token[0], "logit": token[1]}


def _loss(loss: tuple[float, float]) -> _Fields:
    mine, theirs = loss
    return {"candidate": mine, "reference": theirs, "perplexity_ratio": _exp(mine - theirs)}


def _exp(value: float) -> float:
    return math.exp(value) if not value > 700 else math.inf  # e ** 710 is beyond float64


def _spread(values: Tensor) -> _Fields:
    """The distribution of a number per token."""
    return dict(zip(("median", "p99", "max"), quantiles(values), strict=True))


def _generation(part: Generation) -> _Fields:
    parted = None
    if part.parted is not None:
        parted = {"prompt": part.parted[0], "step": part.parted[1], "gap": part.gap, "tie": part.tie}
    return {"tokens": part.tokens, "at_once": part.at_once, "parted": parted}


def _gradients(part: Gradients) -> _Fields:
    return {
        "loss": _loss(part.loss),
        "noise_floor": part.floor,
        "threshold": part.threshold,
        "errors": part.errors,
        "failed": part.failed,
    }


def _divergence(part: Divergence) -> _Fields:
    sites = [
        {
            "site": site.site,
            "modules": site.modules,
            "called": site.called,
            "calls": site.calls,
            "input": site.input if site.called else None,
            "output": site.output if site.called else None,
            "diverges": site.diverges,
            "parts": site.parts,
            "positions": [float(f"{error:.{_DIGITS}g}") for error in site.positions],
        }
        for site in part.sites
    ]
    first = part.first.site if part.first is not None else None
    return {"prompt": part.prompt, "first": first, "between": part.gap, "absent": part.absent, "sites": sites}


_NUMBERS: Mapping[type, Callable[[Any], _Fields]] = {
    Weights: _weights,
    SelfTests: _self_tests,
    Logits: _logits,
    Generation: _generation,
    Gradients: _gradients,
    Divergence: _divergence,
}


def _diagnosis(diagnosis: Diagnosis) -> _Fields:
    return {
        "explained": bool(diagnosis),
        "faults": list(map(_finding, diagnosis.faults)),
        "alternatives": [list(map(_finding, found)) for found in diagnosis.alternatives],
        "harmless": list(map(_finding, diagnosis.harmless)),
        "multiple": diagnosis.multiple if diagnosis else None,
        "baseline": diagnosis.baseline,
        "reason": diagnosis.reason,
        "why": None if diagnosis else why_unnamed(diagnosis),
        "stages": diagnosis.stages,
        "closest": _or_null(diagnosis.closest, vars),
        "seconds": diagnosis.seconds,
        "tried": diagnosis.tried,
        "lines": [] if diagnosis.lines is None else list(map(vars, diagnosis.lines.lines)),
        "no_line": diagnosis.no_line or None,
        "patch": None if diagnosis.patch is None else _patch(diagnosis.patch),
        "patch_stopped": diagnosis.patch_stopped,
    }


def _patch(patch: Patch) -> _Fields:
    return {"file": str(patch.path), "lines": patch.lines, "diff": str(patch), "proof": patch.proof}


def _finding(finding: Finding) -> _Fields:
    return {**vars(finding), "remedy": vars(finding.remedy)}


def _plain(value: Any) -> Any:
    """JSON's own types; what has none becomes text."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
        case torch.dtype():
            return str(value).removeprefix("torch.")
        case Mapping():
            return {str(name): _plain(item) for name, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(item) for item in value]
        case _:
            return str(value)
