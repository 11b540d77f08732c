"""GitHub Actions: annotations beside the commit, and a summary on the page of the run.

Both are little languages that text can break out of. Annotations are lines on stdout that the runner
obeys, so line breaks and separators are percent-encoded as the runner decodes them; the summary is Markdown, in which
every character that could mean something becomes an entity, and so means itself.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from gpt2_from_scratch.errors import printable
from gpt2_from_scratch.reports.cases import Case, cases, diagnosis_lines, worst
from gpt2_from_scratch.reports.text import coverage, said
from gpt2_from_scratch.reports.verdict import Verdict

_TITLE = "gpt2 verify"
_LINES = 8  # of an annotation, which stands in a narrow box; the summary has all
_MARK = {"passed": "✅ passed", "failed": "❌ failed", "not checked": "⚪ not checked", "error": "⚠️ no verdict"}
_FRAME = re.compile(r'^  File "([^"]+)", line (\d+)', re.MULTILINE)
_MARKDOWN = re.compile(r"[^\w\s.,;/()+=%'-]|_")  # the colon, too: it makes links


def to_annotations(verdict: Verdict) -> str:
    """Workflow commands, to be printed on stdout when ``GITHUB_ACTIONS`` is "true": a notice, or an error per part.

    Args:
        verdict: of `verify`.

    Returns:
        Lines without a line break at the end. An interrupted run is a warning.

    Example:
        >>> to_annotations(Verdict("50% of a model", "checkpoint", interrupted="logits")).splitlines()[0]
        '::warning title=gpt2 verify::interrupted during logits: there is no verdict on 50%25 of a model'
    """
    return "\n".join(_annotations(verdict))


def to_summary(verdict: Verdict) -> str:
    """Markdown for the file that ``GITHUB_STEP_SUMMARY`` names, to be appended to it.

    Args:
        verdict: of `verify`.

    Example:
        >>> to_summary(Verdict("a|b", "checkpoint")).splitlines()[2]
        'NO VERDICT  on a&#124;b&#58; nothing was compared'
    """
    found = cases(verdict)
    outcome = "no verdict" if worst(found) == "error" else "passed" if verdict else "failed"
    lines = [f"### {_TITLE}: {outcome}", "", _escaped(verdict.summary), ""]
    if verdict.diagnosis is not None:
        lines += [f"**Diagnosis.** {_escaped(chr(10).join(diagnosis_lines(verdict.diagnosis)))}", ""]
    lines += ["| part | outcome | finding |", "|---|---|---|"]
    lines += [f"| {part.name} | {_MARK[part.status]} | {_escaped(said(part))} |" for part in verdict.parts]
    if verdict.logits is not None:
        lines += ["", f"Covered: {_escaped(coverage(verdict.logits))}", ""]
        lines += _folded("Logits, prompt by prompt", _prompts(found))
    lines += [
        "",
        *_folded("Not checked", [f"- {_escaped(f'{what}: {why}')}" for what, why in verdict.unchecked.items()]),
    ]
    if verdict.assumed:
        lines += ["", *_folded("Assumed, as no file says it", [f"- {_escaped(what)}" for what in verdict.assumed])]
    facts = [f"- {_escaped(name)}: {_escaped(str(value))}" for name, value in verdict.environment.items()]
    return "\n".join([*lines, "", *_folded("Environment", facts), ""])


def _annotations(verdict: Verdict) -> Iterator[str]:
    found = cases(verdict)
    if worst(found) == "error":
        case = next(case for case in found if case.status == "error")
        text = "\n".join([f"{case.message} on {verdict.candidate}", *case.details])
        frames = _FRAME.findall(text)  # of the user's code that crashed, the innermost last
        yield _command("warning", _TITLE, text, *((_place(frames[-1][0]), int(frames[-1][1])) if frames else ()))
    elif verdict:
        yield _command("notice", _TITLE, verdict.summary)
    for part in verdict.failed:
        lines = [said(part)]
        for case in found:
            if case.part == part.name and case.status == "failed" and case.place is not None:
                file, number = case.place
                text = "\n".join([f"{case.name}: {case.message}", *case.details])
                yield _command("error", f"{_TITLE}: {part.name}", text, _place(file), number)
            elif case.part == part.name and case.status == "failed":
                lines += [case.message if case.name == part.name else f"{case.name}: {case.message}", *case.details]
        lines = list(dict.fromkeys(lines))
        more = [f"and {len(lines) - _LINES} more"] if len(lines) > _LINES else []
        yield _command("error", f"{_TITLE}: {part.name}", "\n".join(lines[:_LINES] + more))
    if verdict.diagnosis is not None and verdict.diagnosis.lines is not None:
        for finding in verdict.diagnosis.lines.findings:
            for line in finding.lines[:1]:
                message = "; ".join(part for part in (line.says, line.expected) if part)
                yield _command("error", f"{_TITLE}: line", message, _place(line.file), line.line)
            for line in finding.others:  # which may be right
                message = f"{line.role}; see line {finding.lines[0].line}, which is accused"
                yield _command("notice", f"{_TITLE}: line", message, _place(line.file), line.line)


def _place(file: str) -> str:
    """The path as the runner knows it: relative to the folder that the job runs in, if it is in there."""
    try:
        path = Path(file).resolve()
    except ValueError:  # a name that no file system can hold
        return file
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _prompts(found: tuple[Case, ...]) -> list[str]:
    rows = [f"| {_escaped(c.name)} | {_MARK[c.status]} | {_escaped(c.message)} |" for c in found if c.part == "logits"]
    return ["| prompt | outcome | difference |", "|---|---|---|", *rows]


def _folded(title: str, lines: list[str]) -> list[str]:
    return [f"<details><summary>{title}</summary>", "", *lines, "", "</details>"] if lines else []


def _command(kind: str, title: str, message: str, file: str | None = None, line: int = 1) -> str:
    """A workflow command. The runner decodes these escapes, and two more in properties."""

    def encoded(text: str) -> str:
        for character, code in (("%", "%25"), ("\r", "%0D"), ("\n", "%0A")):
            text = text.replace(character, code)
        return text

    def value(text: str) -> str:
        return encoded(printable(text, lines=False)).replace(":", "%3A").replace(",", "%2C")

    place = "" if file is None else f"file={value(file)},line={line},"
    return f"::{kind} {place}title={value(title)}::{encoded(printable(message))}"


def _escaped(text: str) -> str:
    """Text as Markdown that shows it, in a paragraph or in a cell: an entity never stands for structure."""
    lines = (
        _MARKDOWN.sub(lambda match: f"&#{ord(match[0])};", printable(line, lines=False)) for line in text.splitlines()
    )
    return " <br> ".join(lines)
