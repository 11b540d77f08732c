"""One HTML page: the verdict, the evidence for it, and where the numbers part, to be read by people.

The one idea: the page is one file that needs nothing. No script, no font, no network, and a policy in its head that
forbids them; what is drawn is SVG, what is folded is ``<details>``, and light or dark is the reader's choice. The frame
and its style are ``template.html`` beside this file.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from importlib.resources import files
from string import Template

from gpt2_from_scratch.checks.logits import PromptResult, Token
from gpt2_from_scratch.compare import SITE_RTOL
from gpt2_from_scratch.reports.checks import Check, Outcome, checks, worst
from gpt2_from_scratch.reports.markup import Markup, escaped, joined, scientific, tag, times
from gpt2_from_scratch.reports.pictures import heat_map, histogram
from gpt2_from_scratch.verifier import PARTS, Divergence, Logits, Verdict

_WORST_PROMPTS = 3

Decode = Callable[[int], str]

_MARK: dict[Outcome, tuple[str, str]] = {
    "passed": ("pass", "passed"),
    "failed": ("fail", "failed"),
    "not checked": ("none", "not checked"),
    "error": ("open", "no verdict"),
}


def to_html(verdict: Verdict, decode: Decode | None = None) -> str:
    """The verdict as one self-contained page, the same page for the same verdict.

    Args:
        verdict: of `verify`; with ``always_trace=True`` the page has a heat map for what passed, too.
        decode: token id -> its text, if a tokenizer is at hand.

    Returns:
        An HTML document.

    Example:
        >>> "<bdi>&lt;b&gt;bold&lt;/b&gt;</bdi> is not" in to_html(Verdict("<b>bold</b>", "checkpoint"))
        True
    """
    found = checks(verdict)
    outcome = worst(found) if worst(found) == "error" else "passed" if verdict else "failed"
    kind, _ = _MARK[outcome]
    word = str(verdict).split(maxsplit=1)[0]
    sections = [_header(verdict, kind, word), *_explanation(verdict), _evidence(verdict, found)]
    if verdict.logits is not None:
        sections += [_prompts(verdict.logits, found), _distribution(verdict.logits)]
    if verdict.divergence is not None:
        sections.append(_inside(verdict.divergence))
    if verdict.logits is not None:
        sections.append(_tokens(verdict.logits, decode))
    sections.append(_rest(verdict))
    template = Template((files("gpt2_from_scratch.reports") / "template.html").read_text(encoding="utf-8"))
    title = escaped(f"{word}: {verdict.candidate}")
    return template.substitute(title=title, kind=kind, body=joined(*(joined(part, "\n") for part in sections)))


def _header(verdict: Verdict, kind: str, word: str) -> Markup:
    return tag(
        "header",
        tag("p", tag("strong", word, class_=f"badge {kind}"), " gpt2 verify", class_="eyebrow"),
        tag("h1", *_sentence(verdict)),
        tag("p", _judged(verdict), class_="lead"),
        _figures(verdict.logits) if verdict.logits is not None else None,
    )


def _sentence(verdict: Verdict) -> Iterator[object]:
    yield tag("bdi", verdict.candidate)
    if verdict.interrupted is not None:
        yield f" was not checked to the end: interrupted during {verdict.interrupted}"
    elif verdict and verdict.logits is None:
        yield f" passed {' and '.join(verdict.parts)} only; logits were not compared"
    else:
        yield joined(" is " if verdict else " is not ", tag("span", "GPT-2", class_="whole"), " as in ")
        yield tag("bdi", verdict.checkpoint)


def _judged(verdict: Verdict) -> str:
    failed = [name for name, part in verdict.parts.items() if not part]
    if verdict.logits is not None and failed in ([], ["logits"]):
        return f"Logits: {verdict.logits}."
    if failed:
        return f"Failed: {', '.join(failed)}."
    return "Nothing had failed so far." if verdict.parts else "Nothing was compared."


def _figures(logits: Logits) -> Markup:
    loss = logits.loss
    figures = [
        ("Largest difference", _floors(logits.multiple), f"line {logits.line:g} ×"),
        ("Same first choice", _share(logits.top1), f"ten best {_share(logits.top10)}"),
        ("KL divergence", scientific(logits.kl), "nats per token"),
    ]
    if loss is not None:
        more = loss[0] - loss[1]
        figures.append(("Loss", "+" * (more > 0) + scientific(more), f"reference {loss[1]:.4f}"))
    figures.append(("Compared", f"{logits.tokens:,} tokens", f"{len(logits.results)} prompts"))
    cells = (tag("div", tag("dt", n), tag("dd", v), tag("dd", s, class_="small")) for n, v, s in figures)
    return tag("dl", *cells, class_="figures")


def _floors(multiple: float) -> str:
    return f"{times(multiple)} floor" if math.isfinite(multiple) else "not finite"


def _share(share: float) -> str:
    return f"{100 * share:.4g} %"


def _explanation(verdict: Verdict) -> list[Markup]:
    """What a reader of a failure wants first: which fault, and where."""
    failed = verdict.logits is not None and not verdict.logits
    parts = []
    if verdict.diagnosis is not None:
        title = "Diagnosis" if verdict.diagnosis else "No diagnosis"
        parts.append(
            _section("diagnosis", title, tag("p", *_prose(str(verdict.diagnosis)), class_="said"), class_="callout")
        )
    if failed and verdict.divergence is not None:
        where = str(verdict.divergence)
        parts.append(_section("where", "Where", tag("p", *_prose(where), "."), class_="callout"))
    return parts


def _evidence(verdict: Verdict, found: Sequence[Check]) -> Markup:
    rows = []
    for part in PARTS:
        of_it = tuple(check for check in found if check.part == part)
        evidence = verdict.parts.get(part)
        finding = of_it[0].message if evidence is None else str(evidence)
        folded = None
        if part == "self-tests" and evidence is not None:
            failed = [check for check in of_it if check.outcome == "failed"]
            finding = f"{len(failed)} of {len(of_it)} failed" if failed else finding
            folded = _folded("every test", tag("ul", *(_test(check) for check in of_it)), opened=bool(failed))
        elif part != "where" and of_it[0].details:
            lines = tag("ul", *(tag("li", line) for line in of_it[0].details))
            folded = _folded("details", lines, opened=not evidence)
        outcome = worst(of_it)
        text = tag("p", *_prose(finding))
        rows.append([tag("th", part.capitalize(), scope="row"), tag("td", _badge(outcome)), tag("td", text, folded)])
    return _section("evidence", "Evidence", _table(["Part", "Outcome", "Finding"], rows))


def _test(check: Check) -> Markup:
    said = check.message if check.outcome != "not checked" else f"{check.name}: not checked, as {check.message}"
    return tag("li", said, class_=_MARK[check.outcome][0])


def _prompts(logits: Logits, found: Sequence[Check]) -> Markup:
    outcome = {check.name: check.outcome for check in found if check.part == "logits"}
    rows = []
    for result in logits.results:
        multiple = result.comparison.max_abs / logits.floor
        kl = float(result.kl.mean())
        numbers = times(multiple), scientific(result.comparison.max_abs), scientific(kl), f"{result.top1:.0%}"
        bad = outcome.get(result.prompt.name) == "failed"
        name = tag("th", result.prompt.name, scope="row")
        rows.append([name, *(tag("td", n, class_="n bad" if bad and not i else "n") for i, n in enumerate(numbers))])
    text = tag(
        "p",
        "Largest difference of any logit, in multiples of the floor: how far the reference is from itself when only "
        f"its rounding changes, here {scientific(logits.floor)}.",
    )
    head = ["Prompt", "× floor", "Difference", "KL", "First choice"]
    return _section("prompts", "Logits, prompt by prompt", text, _table(head, rows, range(1, 5)))


def _distribution(logits: Logits) -> Markup:
    mine = [value / logits.floor for result in logits.results for value in result.errors.flatten().tolist()]
    theirs = [value / logits.floor for result in logits.results for value in result.floors.flatten().tolist()]
    rows = []
    for name, values, swatch in (("Candidate", mine, "bar"), ("Reference, from itself", theirs, "floor")):
        ordered = sorted(values)
        last = len(ordered) - 1
        quantiles = (ordered[last // 2], ordered[math.ceil(0.99 * last)], ordered[last])
        label = tag("th", tag("i", class_=f"swatch {swatch}"), name, scope="row")
        rows.append([label, *(tag("td", times(value), class_="n") for value in quantiles)])
    judged = ""
    if logits.tolerance is not None:
        judged = " The line did not decide: a tolerance was given."
    elif logits.exact is not None:
        judged = " This close to the line, the candidate's own float64 run decided."
    text = tag("p", f"Each token's largest difference of logits, on a logarithmic scale, in floors.{judged}")
    table = _table(["Tokens", "Median", "99 %", "Largest"], rows, range(1, 4))
    return _section("distribution", "Differences against the floor", text, histogram(logits), table)


def _inside(divergence: Divergence) -> Markup:
    text = tag(
        "p",
        "Relative error of what each place in the model returned: downwards in the order in which they run, across at "
        f"each position of the prompt “{divergence.prompt}”. Blue is rounding, up to {scientific(SITE_RTOL)}; orange "
        "is more.",
    )
    absent = None
    if divergence.absent:
        names = ", ".join(divergence.absent)
        absent = tag("p", f"Places that the candidate has no module for: {names}.", class_="small")
    rows = []
    for site in divergence.sites:
        errors = (scientific(site.input), scientific(site.output)) if site.called else ("never ran", "never ran")
        bad = site is divergence.first
        cells = (tag("td", error, class_="n bad" if bad and index else "n") for index, error in enumerate(errors))
        rows.append([tag("th", tag("code", site.name), scope="row"), *cells])
    table = _table(["Place", "Received", "Returned"], rows, range(1, 3))
    folded = _folded(f"All {len(rows)} places in numbers", table)
    return _section("inside", "Inside the model", text, heat_map(divergence), absent, folded)


def _tokens(logits: Logits, decode: Decode | None) -> Markup:
    ranked = sorted(logits.results, key=lambda result: -result.comparison.max_abs)
    parts = []
    for number, result in enumerate(ranked[:_WORST_PROMPTS]):
        title = f"{result.prompt.name}: {_floors(result.comparison.max_abs / logits.floor)}"
        parts.append(_folded(title, _token_table(result, logits.floor, decode), opened=not number))
    if logits.max_abs == 0:
        return _section("tokens", "The worst tokens", tag("p", "There are none: every logit is identical."))
    text = tag("p", "Of the prompts that differ most, the tokens that differ most, and what each side would say next.")
    return _section("tokens", "The worst tokens", text, *parts)


def _token_table(result: PromptResult, floor: float, decode: Decode | None) -> Markup:
    rows = []
    for token in result.worst:
        place = f"{token.row}, {token.position}" if result.prompt.ids.size(0) > 1 else str(token.position)
        error = joined(scientific(token.error), tag("small", times(token.error / floor)))
        rows.append(
            [
                tag("th", place, scope="row"),
                tag("td", _word(token.id, decode)),
                tag("td", *_choices(token, decode)),
                tag("td", error, class_="n"),
                tag("td", scientific(token.kl), class_="n"),
            ]
        )
    place = "Row, at" if result.prompt.ids.size(0) > 1 else "At"
    return _table([place, "Token", "Next: reference / candidate", "Difference", "KL"], rows, (3, 4), "tokens")


def _choices(token: Token, decode: Decode | None) -> Iterable[Markup]:
    same = token.expected[0] == token.actual[0]
    yield tag("div", _word(token.expected[0], decode), tag("small", f"{token.expected[1]:.4f}"))
    yield tag(
        "div", _word(token.actual[0], decode), tag("small", f"{token.actual[1]:.4f}"), class_=None if same else "bad"
    )


def _word(token: int, decode: Decode | None) -> Markup:
    """A token's text, spaces and line breaks to be seen, and its id."""
    if decode is None:
        return tag("code", token)
    text = decode(token).replace("\n", "↵").replace(" ", "␣")
    return joined(tag("code", text), tag("small", token))


def _rest(verdict: Verdict) -> Markup:
    parts = []
    if verdict.unchecked:
        items = tag("ul", *(tag("li", *_prose(text)) for text in verdict.unchecked))
        parts.append(_section("unchecked", "Not checked", items))
    if verdict.notes:
        items = tag("ul", *(tag("li", text) for text in verdict.notes))
        parts.append(_section("notes", "How the candidate was asked", items))
    facts = (
        tag("div", tag("dt", name), tag("dd", "none" if value is None else value))
        for name, value in verdict.environment.items()
    )
    parts.append(_section("environment", "Environment", tag("dl", *facts, class_="facts")))
    return joined(*parts)


def _prose(text: str) -> Iterator[object]:
    """A sentence of ours: it begins with a capital, and what stands in backticks is code."""
    for index, piece in enumerate(f"{text[:1].upper()}{text[1:]}".split("`")):
        yield tag("code", piece) if index % 2 else piece


def _section(name: str, title: str, *content: object, class_: str | None = None) -> Markup:
    return tag("section", tag("h2", title, id=name), *content, aria_labelledby=name, class_=class_)


def _table(
    head: Sequence[str], rows: Iterable[Iterable[Markup]], numbers: Collection[int] = (), name: str = ""
) -> Markup:
    """A table that scrolls by itself where it is too wide; the columns that hold numbers are flush right."""
    columns = (tag("th", text, scope="col", class_="n" if i in numbers else None) for i, text in enumerate(head))
    body = (tag("tr", *cells) for cells in rows)
    table = tag("table", tag("thead", tag("tr", *columns)), tag("tbody", *body), class_=name)
    return tag("div", table, class_="scroll")


def _folded(title: str, content: Markup, opened: bool = False) -> Markup:
    return tag("details", tag("summary", title), content, open="" if opened else None)


def _badge(outcome: Outcome) -> Markup:
    kind, word = _MARK[outcome]
    return tag("strong", word, class_=f"badge {kind}")
