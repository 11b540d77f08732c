"""Reports: each form says what the verdict says, strangers' readers accept it, and no text breaks out of it.

The verdicts are real ones, of small models, and as many kinds as there are: passing, failing, not finite, interrupted,
self-tests alone, a recording, nothing at all.
"""

import json
import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from junitparser import JUnitXml
from markdown_it import MarkdownIt
from torch import nn

from gpt2_from_scratch import GPTConfig, GPTModel, verify
from gpt2_from_scratch.checks.candidate import Crash
from gpt2_from_scratch.checks.logits import Exact
from gpt2_from_scratch.checks.parts import PARTS
from gpt2_from_scratch.checks.prompts import choose_prompts
from gpt2_from_scratch.checks.recording import Recording
from gpt2_from_scratch.compare import SITE_RTOL, Comparison
from gpt2_from_scratch.diagnose import Closest, Diagnosis, Finding, Remedy
from gpt2_from_scratch.diagnose.divergence import Divergence, SiteResult
from gpt2_from_scratch.diagnose.lines.places import Role
from gpt2_from_scratch.errors import printable
from gpt2_from_scratch.loading import open_checkpoint
from gpt2_from_scratch.reference import load_reference
from gpt2_from_scratch.reports import (
    SCHEMA,
    to_annotations,
    to_dict,
    to_html,
    to_json,
    to_junit,
    to_summary,
    write,
)
from gpt2_from_scratch.reports.cases import cases
from gpt2_from_scratch.reports.pictures import _colour
from gpt2_from_scratch.verifier import Interrupted, Verdict
from tests.chromium import CHROMIUM, chromium
from tests.perturbed import SIZES
from tests.remembering import Remembering

KINDS = ("passed", "failed", "not finite", "interrupted", "self-tests", "recording", "by float64", "by tolerance",
         "crashes", "nothing", "error")  # fmt: skip
PASSING = {"passed", "self-tests", "recording"}

# Ends elements, attributes, lines, table cells, workflow commands and strings; hides and reverses text.
HOSTILE = (
    '<script>alert(1)</script>" onload="x\'|`[a](http://b.c)![i](j)\r\n::error::%0A,title=t:\x00\x1b\u202e\ud800]]>&lt;'
)


FOUND = Finding(
    "gelu_erf",
    "GELU uses erf",
    ("h.1",),
    None,
    Remedy("use the tanh GELU", "nn.GELU(approximate='tanh')"),
    "none",
    "torch",
)
EXPLAINED = Diagnosis((FOUND,), ((replace(FOUND, name="other"),),), math.inf, 516.9, (FOUND,))
UNEXPLAINED = Diagnosis(
    baseline=9.5, reason="out of time", stages=("h.0",), closest=Closest("gelu_erf", 3.0), seconds=60, tried=0.5
)


DIFFERENCE = Comparison(1.0, 0.5, 0.25, (0, 1))
LAYERS = 3


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Verdict]:
    from tests.perturbed import perturbed, save

    checkpoint = save(perturbed(n_layer=LAYERS), tmp_path_factory.mktemp("reports"))
    reference = Remembering(load_reference(open_checkpoint(checkpoint)))

    def model() -> GPTModel:
        return GPTModel.from_pretrained(checkpoint)

    def check(candidate: Any, **options: Any) -> Verdict:
        layout = "gpt2_from_scratch" if isinstance(candidate, nn.Module) else None
        return verify(candidate, checkpoint, layout, reference=reference, diagnose_seconds=0, **options)

    def stop_at(phase: str) -> None:
        if phase == "generation":
            raise KeyboardInterrupt

    def one_position_too_few(ids: torch.Tensor) -> torch.Tensor:
        positions = torch.zeros(right.config.n_positions - 1)
        return right(ids) + positions[torch.arange(ids.size(1))][:, None]

    wrong, broken, right = model(), model(), model()
    wrong.h[1].mlp.act = nn.GELU()  # erf
    with torch.no_grad():
        broken.h[1].ln_2.bias[3] = torch.nan
    with pytest.raises(Interrupted) as interrupted:
        check(right, progress=stop_at)
    prompts = choose_prompts(right.config)[:3]
    with torch.no_grad():
        answers = tuple(right(prompt.ids) for prompt in prompts)
    passed = check(right, always_trace=True, gradients=True)
    failed = replace(check(wrong), diagnosis=EXPLAINED)
    assert passed.logits is not None and failed.logits is not None
    atol = sorted(result.comparison.max_abs for result in failed.logits.results)[1]  # two prompts keep it, exactly
    return {
        "passed": passed,
        "failed": failed,
        "not finite": check(broken),
        "interrupted": interrupted.value.verdict,
        "self-tests": check(right, skip=("weights", "logits", "generation", "where")),
        "recording": check(Recording("port.npz", prompts, answers)),
        # Near the line the candidate's float64 run decides, whatever the prompts say.
        "by float64": replace(passed, logits=replace(passed.logits, exact=Exact(1e-3, 0.5, 84))),
        "by tolerance": check(wrong, tolerance=(atol, 0.0)),
        "crashes": check(one_position_too_few),
        "nothing": Verdict("model", "checkpoint"),
        "error": Verdict("my_gpt2.py:GPT", "checkpoint", error='GPT crashed: KeyError\n  File "my_gpt2.py", line 3'),
    }


@pytest.fixture(params=KINDS)
def verdict(request: pytest.FixtureRequest, verdicts: dict[str, Verdict]) -> Verdict:
    return verdicts[request.param]


@pytest.fixture(scope="module")
def hostile(verdicts: dict[str, Verdict]) -> Verdict:
    """The failed verdict, with a stranger's text wherever a stranger's text can be."""
    failed = verdicts["failed"]
    assert failed.logits is not None and failed.divergence is not None and failed.weights is not None
    first, *rest = failed.logits.results
    sites = (replace(failed.divergence.sites[0], site=HOSTILE), *failed.divergence.sites[1:])
    return replace(
        failed,
        candidate=HOSTILE,
        checkpoint=HOSTILE,
        weights=replace(failed.weights, differing={HOSTILE: DIFFERENCE}, untied=((HOSTILE, HOSTILE),)),
        logits=replace(
            failed.logits,
            results=(replace(first, prompt=replace(first.prompt, name=HOSTILE)), *rest),
            crashes=((replace(first.prompt, name=HOSTILE), Crash(HOSTILE, (HOSTILE, 3))),),
        ),
        divergence=replace(failed.divergence, sites=sites, prompt=HOSTILE, absent=(HOSTILE,)),
        diagnosis=replace(EXPLAINED, faults=(replace(FOUND, says=HOSTILE, remedy=Remedy(HOSTILE, HOSTILE)),)),
        notes=(HOSTILE,),
        unchecked={HOSTILE: HOSTILE, "gradients": HOSTILE},
        environment={HOSTILE: HOSTILE},
    )


# ---------------------------------------------------------------------------------------------------------- checks


def test_checks_come_to_the_verdict(verdicts: dict[str, Verdict]) -> None:
    assert {name for name, verdict in verdicts.items() if verdict} == PASSING
    assert tuple(verdicts) == KINDS


def test_a_check_fails_exactly_when_the_verdict_does(verdict: Verdict) -> None:
    found = cases(verdict)
    assert any(case.status in ("failed", "error") for case in found) is not bool(verdict)
    for part in verdict.parts:
        assert any(case.status == "failed" for case in found if case.part == part.name) is (part.status == "failed")


def test_the_prompts_that_failed_are_named(verdicts: dict[str, Verdict]) -> None:
    for kind in ("failed", "by tolerance"):
        verdict = verdicts[kind]
        assert verdict.logits is not None
        found = {case.name: case.status for case in cases(verdict) if case.part == "logits"}
        limit = verdict.logits.threshold * verdict.logits.floor
        if verdict.logits.tolerance is not None:
            limit = verdict.logits.tolerance[0]
        beyond = {result.prompt.name: result.comparison.max_abs > limit for result in verdict.logits.results}
        assert found == {name: "failed" if it_is else "passed" for name, it_is in beyond.items()}
        assert set(beyond.values()) == ({True, False} if kind == "by tolerance" else {True})


def test_every_part_is_there_and_says_why_it_was_not_checked(verdicts: dict[str, Verdict]) -> None:
    reasons = {part.name: part.reason for part in verdicts["failed"].parts if part.status == "not checked"}
    assert reasons["generation"] == "the logits differ" and reasons["gradients"] == "not asked for"
    reasons = {part.name: part.reason for part in verdicts["interrupted"].parts if part.status == "not checked"}
    assert reasons["generation"] == reasons["where"] == "interrupted during generation"
    reasons = {part.name: part.reason for part in verdicts["recording"].parts if part.status == "not checked"}
    assert reasons["weights"].startswith("the candidate is a recording")
    assert "a recording cannot be continued" in reasons["generation"]
    others = [case for case in cases(verdicts["passed"]) if case.part == "unchecked"]
    assert [case.name for case in others] == ["training mode", "natural text"]
    for verdict in verdicts.values():
        assert [part.name for part in verdict.parts] == list(PARTS)
        assert all(bool(part.reason) is (part.status == "not checked") for part in verdict.parts)


def test_a_crash_where_gpt2_does_not_is_a_failure_with_the_users_line(verdicts: dict[str, Verdict]) -> None:
    verdict = verdicts["crashes"]
    assert not verdict and verdict.outcome == "failed" and verdict.logits is not None and not verdict.logits.differ
    assert [prompt.ids.size(1) for prompt, _ in verdict.logits.crashes] == [37]
    number = next(
        number
        for number, line in enumerate(Path(__file__).read_text().splitlines(), 1)
        if "return right(ids) +" in line
    )
    assert f"line {number}, in one_position_too_few" in verdict.report()
    assert "where GPT-2 does not: IndexError: index 36 is out of bounds" in verdict.summary
    crash = to_dict(verdict)["parts"]["logits"]["numbers"]["crashes"][0]
    assert (crash["file"], crash["line"], crash["shape"]) == (__file__, number, [1, 37])
    assert f"test_reports.py,line={number},title=gpt2 verify%3A logits::37 tokens" in to_annotations(verdict)
    for text in (to_html(verdict), to_junit(verdict), to_summary(verdict)):
        assert "IndexError" in text
    assert f"line {number}, in one_position_too_few" in to_junit(verdict).replace("&quot;", '"')
    assert f"line {number}, in one_position_too_few" in unescape(to_html(verdict))
    assert verdict.diagnosis is None and "generation  it crashes" not in verdict.report()


def test_every_report_says_what_was_asked(verdicts: dict[str, Verdict]) -> None:
    verdict = verdicts["recording"]  # of 1, 2 and 17 tokens
    said = "of 211 token ids"
    met = len(torch.unique(torch.cat([prompt.ids.flatten() for prompt in choose_prompts(GPTConfig(**SIZES))[:3]])))
    numbers = to_dict(verdict)["parts"]["logits"]["numbers"]["coverage"]
    assert numbers == {"ids": 211, "ids_met": met, "lengths": [1, 2, 17], "batches": [1]}
    assert f"covered     {met} {said} (--thorough: all)" in verdict.report()
    assert f"Covered: {met} {said}" in to_html(verdict) and f"Covered: {met} {said}" in to_summary(verdict)
    assert f"{met} {said}" in to_junit(verdict)


# ------------------------------------------------------------------------------------------------------------ json


def validate(document: Any) -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(document)


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def test_json_fits_its_schema(verdict: Verdict) -> None:
    document = json.loads(to_json(verdict), parse_constant=refuse)
    validate(document)
    assert document == to_dict(verdict)
    assert (document["outcome"] == "passed") is bool(verdict)
    assert document["summary"] == verdict.summary
    statuses = {name: part["status"] for name, part in document["parts"].items()}
    assert statuses == {part.name: part.status for part in verdict.parts}


def test_hostile_names_fit_the_schema_and_survive(hostile: Verdict) -> None:
    document = json.loads(to_json(hostile))
    validate(document)
    assert document["candidate"] == HOSTILE and list(numbers(document, "weights")["differing"]) == [HOSTILE]


def numbers(document: Any, part: str) -> Any:
    return document["parts"][part]["numbers"]


def test_what_json_cannot_write_is_text_that_reads_back(verdicts: dict[str, Verdict]) -> None:
    logits = numbers(to_dict(verdicts["not finite"]), "logits")
    assert logits["max_abs"] == "Infinity" and math.isinf(float(logits["max_abs"]))
    assert to_dict(verdicts["failed"])["diagnosis"]["multiple"] == "Infinity"


def test_a_diagnosis_is_facts(verdicts: dict[str, Verdict]) -> None:
    fault = to_dict(verdicts["failed"])["diagnosis"]["faults"][0]
    assert fault["where"] == ["h.1"] and fault["remedy"]["code"] == "nn.GELU(approximate='tanh')"
    unexplained = to_dict(replace(verdicts["failed"], diagnosis=UNEXPLAINED))
    validate(unexplained)
    assert unexplained["diagnosis"]["reason"] == "out of time" and unexplained["diagnosis"]["tried"] == 0.5


OPEN = {"environment", "unchecked", "differing"}  # objects whose keys are names, not fields


def trimmed(value: Any) -> Any:
    """The document with one item in each array, so that each of its fields can be tried."""
    if isinstance(value, dict):
        return {key: trimmed(item) for key, item in value.items()}
    return [trimmed(item) for item in value[:1]] if isinstance(value, list) and not _is_short(value) else value


def _is_short(value: list[Any]) -> bool:
    return len(value) <= 3 and all(isinstance(item, int) for item in value)  # an index or a shape, whole or wrong


def objects(value: Any, name: str = "") -> Iterator[dict[str, Any]]:
    if isinstance(value, dict) and name not in OPEN and not {"wte.weight"} & value.keys():
        yield value
        for key, item in value.items():
            yield from objects(item, key)
    elif isinstance(value, list):
        for item in value:
            yield from objects(item)


def test_the_schema_refuses_what_is_unknown_or_missing(verdicts: dict[str, Verdict]) -> None:
    whole = replace(verdicts["passed"], diagnosis=replace(EXPLAINED, closest=Closest("gelu_erf", 3.0)))
    assert whole.generation is not None and whole.weights is not None
    whole = replace(whole, weights=replace(whole.weights, untied=(("head", "embedding"),)))
    document = trimmed(to_dict(replace(whole, generation=replace(whole.generation, parted=("a", 1)))))
    validator = Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    validator.validate(document)
    fields = 0
    for place in objects(document):
        place["surprise"] = 1
        assert not validator.is_valid(document), f"an unknown field passes beside {list(place)}"
        del place["surprise"]
        for key in list(place):
            before = place.pop(key)
            assert not validator.is_valid(document), f"{key} may be missing beside {list(place)}"
            place[key] = before
            fields += 1
    validator.validate(document)
    assert fields > 100
    with pytest.raises(ValidationError):
        validator.validate(document | {"schema": {"name": "gpt2_from_scratch/verdict", "version": 1}})


def test_every_field_of_the_schema_is_described() -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    definitions = schema["$defs"]

    def bare(fields: dict[str, Any], path: str) -> Iterator[str]:
        for name, field in fields.items():
            inner = field.get("items", {}) | field
            target = definitions.get(str(field.get("$ref", "")).rpartition("/")[2], {})
            evident = name in {"name", "version", "outcome", "id", "logit", "atol", "rtol", "median", "p99", "max"}
            if not (field.get("description") or target.get("description") or evident):
                yield f"{path}.{name}"
            yield from bare(inner.get("properties", {}), f"{path}.{name}")

    found = [*bare(schema["properties"], "")]
    for name, definition in definitions.items():
        found += bare(definition.get("properties", {}), name)
    assert found == []


def test_the_schema_knows_what_may_be_said_of_a_line() -> None:
    lines = json.loads(SCHEMA.read_text(encoding="utf-8"))["$defs"]["diagnosis"]["properties"]["lines"]
    assert lines["items"]["properties"]["role"]["enum"] == list(get_args(Role))


def test_statistics_are_those_of_the_verdict(verdicts: dict[str, Verdict]) -> None:
    verdict = verdicts["failed"]
    assert verdict.logits is not None and verdict.divergence is not None
    document = to_dict(verdict)
    where, logits = numbers(document, "where"), numbers(document, "logits")
    assert where["first"] == "h.1.mlp.act"
    assert [site["site"] for site in where["sites"]] == [s.site for s in verdict.divergence.sites]
    for prompt, result in zip(logits["prompts"], verdict.logits.results, strict=True):
        assert prompt["max_abs"] == result.comparison.max_abs == prompt["errors"]["max"] == float(result.errors.max())
        errors = result.errors.flatten()
        assert prompt["errors"]["median"] == float(errors.median())  # torch's: the lower of the middle two, as ours
        assert prompt["errors"]["median"] <= prompt["errors"]["p99"] <= prompt["errors"]["max"]
        assert prompt["shape"] == list(result.prompt.ids.shape)
    loss = logits["loss"]
    assert loss["perplexity_ratio"] == pytest.approx(math.exp(loss["candidate"] - loss["reference"]))


# ----------------------------------------------------------------------------------------------------------- junit


def test_junit_is_read_by_junitparser(verdict: Verdict) -> None:
    (suite,) = JUnitXml.fromstring(to_junit(verdict).encode())
    found = cases(verdict)
    outcome = {"failure": "failed", "error": "error", "skipped": "not checked"}
    read = [outcome[case.result[0]._tag] if case.result else "passed" for case in suite]
    assert read == [case.status for case in found]
    assert [case.name for case in suite] == [case.name for case in found]
    counts = (read.count("failed"), read.count("error"), read.count("not checked"))
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (len(read), *counts)
    assert bool(suite.failures or suite.errors) is not bool(verdict)
    properties = {item.name: item.value for item in suite.properties()}
    assert properties.keys() == {"candidate", "checkpoint", *verdict.environment}


def test_junit_says_what_and_where(verdicts: dict[str, Verdict]) -> None:
    (suite,) = JUnitXml.fromstring(to_junit(verdicts["failed"]).encode())
    cases = {(case.classname, case.name): case.result for case in suite}
    (where,) = cases["gpt2_verify.where", "where"]
    assert "h.1.mlp.act" in where.message and "GELU uses erf" in where.text and "fix: use" in where.text
    (prompt,) = cases["gpt2_verify.logits", "17 tokens"]
    assert "noise floors" in prompt.message
    (suite,) = JUnitXml.fromstring(to_junit(verdicts["interrupted"]).encode())
    assert [case.name for case in suite if case.result and case.result[0]._tag == "error"] == ["complete"]


def test_junit_holds_hostile_names(hostile: Verdict) -> None:
    (suite,) = JUnitXml.fromstring(to_junit(hostile).encode())
    name = next(item.value for item in suite.properties() if item.name == "candidate")
    assert name.startswith("<script>") and "\\x00\\x1b" in name and "\\ud800" in name
    assert len(list(suite)) == len(cases(hostile))


# ---------------------------------------------------------------------------------------------------------- github


def decoded(line: str) -> tuple[str, str, str]:
    """A workflow command as the runner reads it: kind, title, message."""
    match = re.fullmatch(r"::(\w+) (?:file=[^,:]*,line=\d+,)?title=([^,:]*)::(.*)", line)
    assert match is not None, line
    title, message = match[2], match[3]
    for code, character in (("%3A", ":"), ("%2C", ",")):
        title = title.replace(code, character)
    for code, character in (("%0D", "\r"), ("%0A", "\n"), ("%25", "%")):
        title, message = title.replace(code, character), message.replace(code, character)
    return match[1], title, message


def test_annotations(verdict: Verdict) -> None:
    commands = [decoded(line) for line in to_annotations(verdict).splitlines()]
    if verdict:
        assert commands == [("notice", "gpt2 verify", verdict.summary)]
    else:
        assert commands and all(kind in {"error", "warning"} for kind, *_ in commands)
    failed = {f"gpt2 verify: {part.name}" for part in verdict.failed}
    assert {title for kind, title, _ in commands if kind == "error"} == failed
    assert len(commands) <= 10  # the runner shows no more per step


def test_a_crash_is_annotated_at_the_users_line(verdicts: dict[str, Verdict]) -> None:
    assert to_annotations(verdicts["error"]).startswith(
        "::warning file=my_gpt2.py,line=3,title=gpt2 verify::GPT crashed"
    )


def test_annotations_end_where_they_should(hostile: Verdict) -> None:
    text = to_annotations(hostile)
    commands = [decoded(line) for line in re.split(r"\r\n|\r|\n", text)]
    assert {title for _, title, _ in commands} == {"gpt2 verify: weights", "gpt2 verify: logits", "gpt2 verify: where"}
    assert any(printable(HOSTILE) in message for *_, message in commands), "the text itself is not lost"
    assert all("\x1b" not in message and "\u202e" not in message for *_, message in commands)


def rendered(markdown: str) -> str:
    # As GitHub does, HTML is let through: what must not be markup has to be no markup.
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown)


def test_summary(verdict: Verdict) -> None:
    summary = to_summary(verdict)
    page = rendered(summary)
    no_verdict = any(case.status == "error" for case in cases(verdict))
    outcome = "no verdict" if no_verdict else "passed" if verdict else "failed"
    assert summary.startswith(f"### gpt2 verify: {outcome}\n")
    prompts = [case for case in cases(verdict) if case.part == "logits" and verdict.logits is not None]
    assert page.count("<tr>") == 7 + bool(prompts) + len(prompts)
    assert verdict.summary in unescape(page)


def test_a_summary_holds_hostile_names(hostile: Verdict) -> None:
    page = Page(rendered(to_summary(hostile)))
    expected = "h3 p strong br table thead tbody tr th td details summary ul li"
    assert page.tags <= set(expected.split())
    assert hostile.logits is not None
    prompts = len(hostile.logits.results) + len(hostile.logits.crashes)
    assert page.rows == 7 + 1 + prompts, "a line break ends no row"
    assert "\u202e" not in page.text and "\\u202e" in page.text, "what turns text around is spelled out"
    assert all(not attributes for attributes in page.attributes)
    assert "<script>alert(1)</script>" in page.text and "[a](http://b.c)" in page.text
    assert "<br>" not in page.text


# ------------------------------------------------------------------------------------------------------------ html

VOID = {"meta", "link", "br", "wbr"}


class Page(HTMLParser):
    """A page taken apart: its elements, attributes and text; an element that does not close is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[dict[str, str | None]] = []
        self.text = ""
        self.rows = 0
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.rows += tag == "tr"
        if attrs:
            self.attributes.append(dict(attrs))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.text += data


def attribute(page: Page, name: str) -> list[str]:
    return [value or "" for attributes in page.attributes for key, value in attributes.items() if key == name]


def test_a_page_is_whole_and_needs_nothing(verdict: Verdict) -> None:
    html = to_html(verdict)
    page = Page(html)
    assert html == to_html(verdict), "the same verdict, the same page"
    assert not page.tags & {"script", "iframe", "object", "img", "base", "form"}
    assert attribute(page, "href") == ["data:,"] and not attribute(page, "src")
    assert not re.search(r"https?:|url\(|@import", html)
    assert verdict.summary.split("  ")[0] in page.text and verdict.candidate in page.text
    ids = attribute(page, "id")
    assert len(ids) == len(set(ids)) and set(attribute(page, "aria-labelledby")) == set(ids)


def test_a_page_holds_hostile_names(hostile: Verdict) -> None:
    page = Page(to_html(hostile, decode=lambda token: HOSTILE))
    plain = Page(to_html(hostile, decode=lambda token: "harmless"))
    assert page.tags == plain.tags and not page.tags & {"script", "img", "a"}
    known = {"aria-labelledby", "aria-label", "aria-hidden", "class", "scope", "style", "id", "role", "open", "lang"}
    known |= {"viewbox", "preserveaspectratio", "d", "x", "y", "width", "height"}
    known |= {"charset", "name", "content", "http-equiv", "rel", "href"}
    assert {name for attributes in page.attributes for name in attributes} == known
    assert page.text.count("<script>alert(1)</script>") > 20
    assert "\u202e" not in page.text and "\\u202e" in page.text, "what turns text around is spelled out"


def test_the_text_of_tokens_is_shown(verdicts: dict[str, Verdict]) -> None:
    verdict = verdicts["failed"]
    assert verdict.logits is not None
    token = replace(verdict.logits.results[0].worst[0], id=3, expected=(5, 1.25), actual=(7, 0.5))
    result = replace(verdict.logits.results[0], worst=(token,))
    page = Page(to_html(replace(verdict, logits=replace(verdict.logits, results=(result,))), " t{}\n".format))
    for shown in ("␣t3↵3", "␣t5↵51.2500", "␣t7↵70.5000"):  # text, id, and logit
        assert shown in page.text


def test_an_id_without_a_token_is_shown_as_a_number(verdicts: dict[str, Verdict]) -> None:
    """Many people pad the vocabulary: 50,304 rows, and 50,257 tokens."""

    def decode(token: int) -> str:
        if token > 3:
            raise KeyError(token)
        return "known"

    assert re.search(r"<code>id\u2423\d+</code>", to_html(verdicts["failed"], decode))


def test_every_kind_of_verdict_has_a_short_repr_and_a_summary_for_notebooks(verdict: Verdict) -> None:
    assert len(repr(verdict)) < 200 and verdict.outcome in repr(verdict)
    results = [part.result for part in verdict.parts if part.result is not None]
    if verdict.logits is not None:
        results += [*verdict.logits.results, verdict.logits.results[0].prompt]
    if verdict.diagnosis is not None:
        results += [verdict.diagnosis, *verdict.diagnosis.faults]
    assert all(len(repr(result)) < 200 and "\n" not in repr(result) for result in results)
    fragment = Page(verdict._repr_html_())
    assert verdict.candidate in fragment.text and not fragment.tags & {"html", "body", "script"}
    assert len(verdict._repr_html_()) < 10_000
    assert str(verdict) == verdict.report() and str(verdict).splitlines()[-1] == verdict.summary


def test_a_wrong_model_names_its_fault_wherever_it_is_shown(verdicts: dict[str, Verdict]) -> None:
    failed = verdicts["failed"]
    for text in (repr(failed), failed.cause, failed.report(), failed._repr_html_(), to_html(failed), to_junit(failed)):
        assert "GELU uses erf" in unescape(text)
    alone = replace(failed, diagnosis=Diagnosis((FOUND,), (), 0.5, 516.9))
    assert alone.report().count("GELU uses erf") == 1, "the terminal says the fault once"
    assert "<code>nn.GELU(approximate=&#39;tanh&#39;)</code>" in to_html(failed)


def test_a_report_is_harmless_on_a_terminal(hostile: Verdict) -> None:
    for text in (hostile.report(), hostile.report(verbose=True), hostile.summary, repr(hostile)):
        assert all(each.isprintable() or each in "\n" for each in text)
        assert not re.search(r"^\s*::", text, flags=re.MULTILINE)


def test_a_search_that_was_stopped_refutes_nothing(verdicts: dict[str, Verdict]) -> None:
    text = replace(verdicts["failed"], diagnosis=UNEXPLAINED).report()
    assert "not found in 60 s of processor time (50% of the fault table tried)" in text
    assert "; the numbers first differ at h.1.mlp.act" in text
    assert "no known fault" not in text


def test_what_float64_does_not_show_is_not_called_rounding(verdicts: dict[str, Verdict]) -> None:
    """A step that loses digits, such as a cast to bfloat16 and back, is gone where the code is run in float64."""
    lost = Diagnosis(reason="nothing differs", baseline=4219.0)
    text = replace(verdicts["failed"], diagnosis=lost).report()
    assert "run in float64, the logits are GPT-2's on the prompts of the search" in text
    assert "no more than rounding" not in text
    assert "no more than rounding" in replace(verdicts["failed"], diagnosis=replace(lost, baseline=1.0)).report()


def test_of_nan_nothing_is_the_most_likely(verdicts: dict[str, Verdict]) -> None:
    assert "most likely" in verdicts["failed"].report() and "most likely" not in verdicts["not finite"].report()


def drawn(divergence: Divergence) -> str:
    """The heat map as the page shows it."""
    page = to_html(Verdict("model", "checkpoint", divergence=divergence))
    (table,) = re.findall(r'<table class="heat">.*?</table>', page, flags=re.DOTALL)
    return str(table)


def rows_of(table: str) -> dict[str, str]:
    """Layer -> markup of its row in the heat map."""
    return {
        re.findall(r"<th[^>]*>([^<]*)</th>", row)[0]: row
        for row in re.findall(r"<tr.*?</tr>", table, flags=re.DOTALL)[1:]
    }


def test_the_heat_map_shows_where_it_begins(verdicts: dict[str, Verdict]) -> None:
    divergence = verdicts["failed"].divergence
    assert divergence is not None
    rows = rows_of(drawn(divergence))
    assert list(rows) == ["input", *(f"h.{layer}" for layer in range(LAYERS)), "output"]
    hot = {layer: bool(re.search(r'<path [^>]*class="h\d"', row)) for layer, row in rows.items()}
    assert [layer for layer, it_is in hot.items() if it_is] == [*(f"h.{layer}" for layer in range(1, LAYERS)), "output"]
    assert [layer for layer, row in rows.items() if "first: " in row] == ["h.1"]
    assert "h.1: largest relative error" in rows["h.1"] and 'role="img"' in rows["h.1"]
    sites = {site.site for site in divergence.sites if site.site.startswith("h.1")}
    assert len(re.findall(r"<title>", rows["h.1"])) == len(sites)


def test_the_heat_map_of_what_agrees_is_calm(verdicts: dict[str, Verdict]) -> None:
    divergence = verdicts["passed"].divergence
    assert divergence is not None
    table = drawn(divergence)
    assert not re.search(r'<path [^>]*class="(h\d|nan|none)"', table) and "first: " not in table


def test_colours_are_steps_of_the_logarithm() -> None:
    assert [_colour(error) for error in (0.0, 1e-12, SITE_RTOL, SITE_RTOL * 1.01, 1e9, math.inf, math.nan)] == [
        "c0", "c1", "c6", "h1", "h9", "nan", "nan"
    ]  # fmt: skip
    steps = [_colour(SITE_RTOL * 10 ** (step / 2 - 0.01)) for step in range(-5, 10)]
    assert steps == [*(f"c{step}" for step in range(1, 7)), *(f"h{step}" for step in range(1, 10))]


def test_every_colour_has_a_rule(verdicts: dict[str, Verdict]) -> None:
    html = to_html(verdicts["not finite"])
    used = {name for names in attribute(Page(html), "class") for name in names.split()}
    undefined = {name for name in used if not re.search(rf"\.{name}\b[^{{]*{{", html)}
    assert undefined <= {"axis", "pass", "fail", "none", "names", "marked"} and {"nan", "c6", "h9"} <= used


def test_long_prompts_share_columns_and_the_worst_is_shown() -> None:
    positions = [1e-7] * 1024
    positions[700] = 1e-2
    divergence = Divergence(
        (SiteResult("h.0.attn", 0.0, 1e-3, positions=tuple(positions)), SiteResult("h.1", 0.0, 0.0))
    )
    rows = rows_of(drawn(divergence))
    assert 'viewBox="0 0 128 1"' in rows["h.0"]
    assert re.findall(r'<path d="M(\d+) 0.5h(\d+)" class="h', rows["h.0"]) == [("87", "1")]  # 700 // 8
    assert "worst at position 700" in rows["h.0"]
    assert re.findall(r'<path d="M0 0.5h128" class="c0"', rows["h.1"]), "one band where it has no positions"


def test_a_module_that_never_ran_is_not_shown_as_agreeing() -> None:
    site = SiteResult("h.0.mlp.act", math.nan, math.nan, called=False)
    table = drawn(Divergence((site,)))
    assert 'class="none"' in table and "never ran" in table


def test_bars_beyond_the_line_are_marked(verdicts: dict[str, Verdict]) -> None:
    assert 'class="beyond"' in to_html(verdicts["failed"])
    for kind in ("passed", "recording"):
        assert 'class="beyond"' not in to_html(verdicts[kind])
    assert 'class="beyond"' in to_html(verdicts["not finite"])


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    channels = (int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_can_be_read_in_light_and_dark() -> None:
    """WCAG 2.2, success criterion 1.4.3 (AA): a contrast of 4.5 at least."""
    palettes = re.findall(r":root \{(.*?)\}", to_html(Verdict("a", "b")), flags=re.DOTALL)
    assert len(palettes) == 2
    for palette in palettes:
        colour = dict(re.findall(r"--([\w-]+): (#\w+);", palette))
        pairs = [(text, ground) for text in ("ink", "soft", "fail") for ground in ("paper", "card")]
        pairs += [(kind, f"{kind}-tint") for kind in ("pass", "fail", "open")] + [("soft", "mute")]
        for text, ground in pairs:
            dark, light = sorted((luminance(colour[text]), luminance(colour[ground])))
            assert (light + 0.05) / (dark + 0.05) >= 4.5, f"{text} on {ground}"


# ----------------------------------------------------------------------------------------------------------- write


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "report.html"
    write(file, "old ✓")
    assert file.read_text(encoding="utf-8") == "old ✓"

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write(file, "new")
    assert file.read_text(encoding="utf-8") == "old ✓" and list(tmp_path.iterdir()) == [file]


def test_where_a_report_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no folder '.*absent'; create it first"):
        write(tmp_path / "absent" / "report.json", "")
    with pytest.raises(IsADirectoryError, match="it is a folder; name a file in it"):
        write(tmp_path, "")


def test_a_pipe_and_a_link_are_written_to_and_stay(tmp_path: Path) -> None:
    pipe, link, target = tmp_path / "pipe", tmp_path / "link", tmp_path / "target"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write(pipe, "report")
    assert os.read(reader, 99) == b"report" and pipe.is_fifo()
    os.close(reader)
    link.symlink_to(target)
    write(link, "report")
    assert link.is_symlink() and target.read_text() == "report"


@pytest.mark.parametrize(
    "form", [to_json, to_junit, to_html, to_annotations, to_summary], ids=lambda form: form.__name__
)
def test_every_form_of_a_hostile_verdict_can_be_written(
    form: Callable[[Verdict], str], hostile: Verdict, tmp_path: Path
) -> None:
    write(tmp_path / "report", form(hostile))
    (tmp_path / "report").read_text(encoding="utf-8")


# -------------------------------------------------------------------------------------------------------- chromium

# Elements that reach beyond the window, other than those that scroll by themselves or are for screen readers only.
BEYOND = """[...document.querySelectorAll("body *")]
    .filter(e => !e.closest(".scroll, .sr") && e.getBoundingClientRect().right > innerWidth + 0.5)
    .map(e => e.outerHTML.slice(0, 80))"""
SMALLEST = """Math.min(...[...document.querySelectorAll("body *")]
    .filter(e => e.tagName != "title" && [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim()))
    .map(e => parseFloat(getComputedStyle(e).fontSize)))"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
def test_pages_in_a_browser(verdicts: dict[str, Verdict], hostile: Verdict, tmp_path: Path) -> None:
    """Every page at the width of a telephone and of a desk, light and dark."""
    file = tmp_path / "report.html"
    with chromium() as page:
        for kind, verdict in {**verdicts, "hostile": hostile}.items():
            write(file, to_html(verdict, decode=(lambda _: HOSTILE) if verdict is hostile else "token {}".format))
            grounds = set()
            for width in (400, 1600):
                for dark in (False, True):
                    page.open(file, width, dark)
                    case = f"{kind}, {width} px, {'dark' if dark else 'light'}"
                    assert page.value(BEYOND) == [], case
                    assert page.value("document.documentElement.scrollWidth") == width, case
                    assert page.value(SMALLEST) >= 11, case
                    assert page.value("document.scripts.length") == 0, case
                    grounds.add(page.value("getComputedStyle(document.documentElement).backgroundColor"))
                    if verdict.divergence is not None:
                        least = "Math.min(...[...document.querySelectorAll('.heat svg')].map(e => e.clientWidth))"
                        assert page.value(least) >= width / 2, case
                        assert page.value("document.querySelectorAll('.heat tbody tr').length") == LAYERS + 2, case
                        strokes = "[...document.querySelectorAll('.heat path')].map(e => getComputedStyle(e).stroke)"
                        assert "none" not in page.value(strokes), f"{case}: a colour is not defined"
                    if verdict.logits is not None:
                        assert page.value("document.querySelector('.distribution svg').clientHeight") > 100, case
            assert len(grounds) == 2, "light is light and dark is dark"
        assert page.complaints == []
        assert set(page.requests) == {file.as_uri()}, "it needs nothing but itself"
