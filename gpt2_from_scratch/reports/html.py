"""One HTML page: the verdict, the evidence for it, and where the numbers part, to be read by people.

The page is one file that needs nothing. No script, no font, no network, and a policy in its head that forbids them;
what is drawn is SVG, what is folded is ``<details>``, and light or dark is the reader's choice. What it looks like is
in ``templates``; here is what it says. Every text goes through `printable` and is escaped by the template engine.
"""

import linecache
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from gpt2_from_scratch.checks.logits import Logits
from gpt2_from_scratch.checks.selftests import SelfTests
from gpt2_from_scratch.checks.weights import Weights
from gpt2_from_scratch.compare import SITE_RTOL, percent, quantiles, scientific, times
from gpt2_from_scratch.diagnose.lines import Accusation
from gpt2_from_scratch.errors import printable
from gpt2_from_scratch.reports.cases import Case, CaseStatus, cases
from gpt2_from_scratch.reports.pictures import Panels, heat_map, histogram, panels
from gpt2_from_scratch.reports.results import Part, Results
from gpt2_from_scratch.reports.text import (
    NO_TIME_FOR_A_PATCH,
    alternatives,
    cause,
    claim,
    coverage,
    diagnosis_rows,
    evidence_for,
    remedies,
    said,
    summary,
    weights_details,
    why_unnamed,
)

if TYPE_CHECKING:
    import jinja2

_AROUND = 3  # lines of the source before and behind the accused one
_WORST_PROMPTS = 3
_AT_A_GLANCE = 4  # differing tensors that are unfolded; more would push the other parts away

Decode = Callable[[int], str]


class Mark(NamedTuple):
    """How an outcome is shown: its style and its word."""

    kind: str
    word: str


_MARK: Mapping[CaseStatus, Mark] = {
    "passed": Mark("pass", "passed"),
    "failed": Mark("fail", "failed"),
    "not checked": Mark("none", "not checked"),
    "error": Mark("open", "no verdict"),
}
_KIND = {"passed": "pass", "failed": "fail", "interrupted": "open", "error": "open"}


class EvidenceRow(NamedTuple):
    """A part in the table of evidence, with what can be unfolded: a list of lines, each with its outcome or None."""

    name: str
    status: CaseStatus
    finding: str
    title: str = ""
    details: Sequence[tuple[CaseStatus | None, str]] = ()
    open: bool = False


class PromptRow(NamedTuple):
    """A prompt in the table of logits."""

    name: str
    multiple: float
    difference: float
    kl: float
    top1: float
    bad: bool


class QuantileRow(NamedTuple):
    """Median, 99th percentile and largest of the differences per token, in noise floors."""

    name: str
    swatch: str
    values: tuple[float, float, float]


def to_html(verdict: Results, decode: Decode | None = None) -> str:
    """The verdict as one self-contained page, the same page for the same verdict.

    Args:
        verdict: of `verify`; with ``always_trace=True`` the page has a heat map for what passed, too.
        decode: token id -> its text, if a tokenizer is at hand. An id for which it fails is shown as a number.

    Returns:
        An HTML document.

    Example:
        >>> "<bdi>&lt;b&gt;bold&lt;/b&gt;</bdi> was not" in to_html(Results("<b>bold</b>", "checkpoint"))
        True
    """
    logits, divergence, diagnosis = verdict.logits, verdict.divergence, verdict.diagnosis
    accusation = None if diagnosis is None else diagnosis.lines
    more: dict[str, Any] = {
        "kind": _KIND[verdict.outcome],
        "mark": _MARK,
        "failed": [part.name for part in verdict.failed if part.name != "where"],
        "diagnosis": diagnosis,
        "source_lines": [] if accusation is None else _sources(accusation),
        "numbers": None if accusation is None else _numbers(accusation),
        "figures": [],
        "site_rtol": SITE_RTOL,
    }
    if diagnosis is not None:
        more |= {
            "alternatives": alternatives(diagnosis),
            "evidence": evidence_for(diagnosis),
            "remedies": list(remedies(diagnosis)),
            "why_unnamed": why_unnamed(diagnosis, divergence),
            "no_time_for_a_patch": NO_TIME_FOR_A_PATCH,
        }
    if logits is not None:
        ranked = sorted(logits.results, key=lambda result: -result.comparison.max_abs)
        more |= {
            "figures": list(_figures(logits)),
            "coverage": coverage(logits),
            "prompt_rows": list(_prompts(logits, cases(verdict))),
            "quantile_rows": list(_quantiles(logits)),
            "histogram": histogram(logits),
            "worst_prompts": ranked[:_WORST_PROMPTS],
        }
    if divergence is not None:
        more["heat"] = heat_map(divergence)
    return _rendered("page.html", verdict, decode=None if decode is None else _careful(decode), **more)


def to_fragment(verdict: Results) -> str:
    """The summary that a notebook shows: the verdict, a line for each part, and the diagnosis.

    Args:
        verdict: of `verify`.
    """
    rows = [] if verdict.diagnosis is None else list(diagnosis_rows(verdict.diagnosis, verdict.divergence))
    return _rendered("summary.html", verdict, diagnosis_rows=rows, claim=claim(verdict), cause=cause(verdict))


@dataclass(frozen=True)
class _Numbers:
    """What an accused line gives, drawn beside what GPT-2 has: the line, which part of which shape, the pictures."""

    place: str
    part: str
    shape: str
    drawn: Panels


def _numbers(accusation: Accusation) -> _Numbers | None:
    values = next((finding.values for finding in accusation.findings[:1]), None)
    if values is None:
        return None
    place = "a line of yours" if values.frame is None else f"{Path(values.frame.file).name}, line {values.frame.line}"
    return _Numbers(printable(place, lines=False), values.part, str(list(values.shape)), panels(values))


@dataclass(frozen=True)
class _Source:
    """An accused line with the lines around it: (number, text, whether it is the one)."""

    place: str
    role: str
    says: str
    expected: str
    around: list[tuple[int, str, bool]]


def _sources(accusation: Accusation) -> list[_Source]:
    sources: list[_Source] = []
    for line in accusation.lines:
        texts = [*linecache.getlines(line.file)] or [""] * (line.line - 1) + [line.text]
        around_it = _AROUND if not sources else 0  # only the line that is to blame needs its surroundings
        numbers = range(max(1, line.line - around_it), min(len(texts), line.line + around_it) + 1)
        shown = textwrap.dedent("\n".join(texts[number - 1].rstrip() for number in numbers)).split("\n")
        around = [
            (number, printable(text, lines=False), number == line.line)
            for number, text in zip(numbers, shown, strict=True)
        ]
        place = printable(f"{Path(line.file).name}, line {line.line}", lines=False)
        sources.append(_Source(place, line.role, line.says, line.expected, around))
    return sources


def _rendered(template: str, verdict: Results, **more: Any) -> str:
    word = summary(verdict).split("  ")[0]
    rows = [_evidence(part) for part in verdict.parts]
    return _environment().get_template(template).render(verdict=verdict, word=word, evidence_rows=rows, **more)


@cache
def _environment() -> "jinja2.Environment":
    import jinja2  # late: a verdict that nobody looks at as a page does without

    def source(name: str) -> str:
        return (files("gpt2_from_scratch.reports") / "templates" / name).read_text(encoding="utf-8")

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(source),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "scientific": scientific,
        "times": times,
        "percent": percent,
        "sentence": lambda text: f"{text[:1].upper()}{text[1:]}",
        "token": lambda text: text.replace("\n", "↵").replace(" ", "␣"),
    }
    return environment


def _shown(value: object) -> object:
    """What a template puts out: markup as it is; anything else as text that hides and turns nothing."""
    return value if hasattr(value, "__html__") else printable(str(value))


def _careful(decode: Decode) -> Decode:
    """A tokenizer may lack ids that the vocabulary has, which many people pad to a round number."""

    def decoded(token: int) -> str:
        try:
            return decode(token)
        except Exception:  # whatever a tokenizer raises for an id that it does not know
            return f"id {token}"

    return decoded


def _evidence(part: Part) -> EvidenceRow:
    result = part.result
    if isinstance(result, SelfTests):
        failed = len(result.failed)
        finding = f"{failed} of {len(result.results)} failed" if failed else said(part)
        tests = [(test.status, str(test)) for test in result.results]
        return EvidenceRow(part.name, part.status, finding, "every test", tests, bool(failed))
    if isinstance(result, Weights) and (lines := weights_details(result)):
        opened = not result and len(lines) <= _AT_A_GLANCE
        return EvidenceRow(part.name, part.status, said(part), "details", [(None, line) for line in lines], opened)
    if isinstance(result, Logits) and result.crashes:
        crashed = [(None, f"{prompt}: {crash.report}") for prompt, crash in result.crashes]
        return EvidenceRow(part.name, part.status, said(part), "every crash", crashed, True)
    return EvidenceRow(part.name, part.status, said(part))


def _figures(logits: Logits) -> Iterator[tuple[str, str, str]]:
    """The numbers at the head of the page: what, how much, and something to compare it with."""
    yield "Largest difference", f"{times(logits.multiple)} noise floors", f"threshold {logits.threshold:g}"
    yield "Same most likely token", percent(logits.top1), f"ten most likely {percent(logits.top10)}"
    yield "KL divergence", scientific(logits.kl), "nats per token"
    if logits.loss is not None:
        yield "Loss", f"{logits.loss[0]:.4f}", f"reference {logits.loss[1]:.4f}; most prompts are random ids"
    yield "Compared", f"{logits.tokens:,} tokens", f"{len(logits.results)} prompts"


def _prompts(logits: Logits, found: Sequence[Case]) -> Iterator[PromptRow]:
    failed = {case.name for case in found if case.part == "logits" and case.status == "failed"}
    for result in logits.results:
        difference, name = result.comparison.max_abs, result.prompt.name
        kl = float(result.kl.mean())
        yield PromptRow(name, difference / logits.floor, difference, kl, result.top1, name in failed)


def _quantiles(logits: Logits) -> Iterator[QuantileRow]:
    for name, swatch, tokens in (
        ("Candidate", "bar", [result.errors for result in logits.results]),
        ("Reference, from itself", "floor", [result.floors for result in logits.measured]),
    ):
        yield QuantileRow(name, swatch, quantiles(torch.cat([each.flatten() for each in tokens]) / logits.floor))
