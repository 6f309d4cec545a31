"""A comparison as JUnit XML, which CI systems show: regression = failure, crash = error, no answer = skipped."""

import re
from xml.etree import ElementTree

from membench.gate.cases import CaseComparison
from membench.gate.comparison import FileComparison
from membench.gate.reproduce import reproduce_command
from membench.gate.verdicts import MetricVerdict, Verdict

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_junit(comparisons: list[FileComparison]) -> str:
    """One test suite a compared file, one test case a case."""
    root = ElementTree.Element("testsuites", name="membench compare")
    for comparison in comparisons:
        suite = ElementTree.SubElement(root, "testsuite", name=_text(f"{comparison.scenario} on {comparison.device}"))
        kinds = [_add_case(suite, comparison, case) for case in _all_cases(comparison)]
        suite.set("tests", str(len(kinds)))
        for kind, counter in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
            suite.set(counter, str(kinds.count(kind)))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _all_cases(comparison: FileComparison) -> list[CaseComparison]:
    """The cases, and what is said of all of them: as one more, so that no suite that fails looks clean."""
    if comparison.incomparable:
        why = MetricVerdict("status", Verdict.INCOMPARABLE, comparison.incomparable)
        return [*comparison.cases, CaseComparison("", "all cases", [why])]
    return [*comparison.cases, *comparison.together]


def _add_case(suite: ElementTree.Element, comparison: FileComparison, case: CaseComparison) -> str:
    """Adds a case; what it counts as."""
    element = ElementTree.SubElement(suite, "testcase", name=_text(case.label), classname=_text(comparison.scenario))
    properties = ElementTree.SubElement(element, "properties")
    for metric in case.metrics:
        for name, value in _numbers(metric).items():
            if value is not None:
                ElementTree.SubElement(properties, "property", name=f"{metric.metric}.{name}", value=_text(str(value)))
    kind = _kind(comparison, case)
    if kind != "passed":
        found = case.worst
        what = f"{found.verdict} {found.metric}" + ("" if found.change is None else f" {found.change:+.1%}")
        message = _text(f"{what}: {found.reason}" if found.reason else what)
        ElementTree.SubElement(element, kind, message=message).text = _text(reproduce_command(comparison, case))
    return kind


def _kind(comparison: FileComparison, case: CaseComparison) -> str:
    if comparison.fails(case):
        return "error" if case.worst.verdict in (Verdict.FAILED, Verdict.MISSING) else "failure"
    return "skipped" if case.worst.verdict.is_open else "passed"


def _numbers(metric: MetricVerdict) -> dict[str, object]:
    low, high = metric.interval or (None, None)
    return {
        "verdict": metric.verdict.value,
        "baseline": metric.base,
        "new": metric.head,
        "change": metric.change,
        "change_low": low,
        "change_high": high,
        "margin": metric.margin,
        "rounds": metric.estimate.rounds if metric.estimate else None,
    }


def _text(text: str) -> str:
    """Without the control characters that no XML may hold; the writer escapes the rest."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
