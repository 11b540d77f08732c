"""JUnit XML, which every continuous-integration service shows: one test case per check.

What was not checked is *skipped*, with its reason, and an interrupted run is an *error*; so no service
can take either for a pass.
"""

import re
from xml.etree import ElementTree

from gpt2_from_scratch.errors import printable
from gpt2_from_scratch.reports.cases import CaseStatus, cases
from gpt2_from_scratch.reports.verdict import Verdict

_ELEMENT: dict[CaseStatus, str] = {"failed": "failure", "error": "error", "not checked": "skipped"}

# Characters that XML 1.0 cannot hold, not even escaped (section 2.2, "Char").
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_junit(verdict: Verdict) -> str:
    """The verdict as one test suite, with the environment as its properties.

    Args:
        verdict: of `verify`.

    Returns:
        An XML document.

    Example:
        >>> print(to_junit(Verdict("model", "checkpoint")).splitlines()[1])
        <testsuites name="gpt2 verify" tests="7" failures="0" errors="1" skipped="6">
    """
    found = cases(verdict)
    count = {name: str(sum(case.status == status for case in found)) for status, name in _ELEMENT.items()}
    counts = {"tests": str(len(found)), "failures": count["failure"], "errors": count["error"]}
    counts["skipped"] = count["skipped"]
    suites = ElementTree.Element("testsuites", {"name": "gpt2 verify", **counts})
    suite = ElementTree.SubElement(suites, "testsuite", {"name": "gpt2 verify", **counts})
    properties = ElementTree.SubElement(suite, "properties")
    facts = {"candidate": verdict.candidate, "checkpoint": verdict.checkpoint, **verdict.environment}
    if verdict.assumed:
        facts["assumed"] = "; ".join(verdict.assumed)
    for name, value in facts.items():
        ElementTree.SubElement(properties, "property", {"name": _xml(name), "value": _xml(str(value))})
    for case in found:
        names = {"classname": f"gpt2_verify.{case.part}", "name": _xml(case.name)}
        element = ElementTree.SubElement(suite, "testcase", names)
        text = _xml("\n".join([case.message, *case.details]))
        if case.status == "passed":
            ElementTree.SubElement(element, "system-out").text = text
        else:
            kind = {} if case.status == "not checked" else {"type": case.part}
            child = ElementTree.SubElement(element, _ELEMENT[case.status], {"message": _xml(case.message), **kind})
            child.text = text if case.details else None
    ElementTree.SubElement(suite, "system-out").text = _xml(verdict.report())
    ElementTree.indent(suites)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ElementTree.tostring(suites, encoding="unicode")}\n'


def _xml(text: str) -> str:
    """The text, with what XML cannot hold spelled out: two characters more than what a terminal must not get."""
    return _NOT_XML.sub(lambda match: match[0].encode("unicode_escape").decode(), printable(text))
