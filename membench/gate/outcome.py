"""What a comparison comes to: one exit code of design's list, and why."""

from dataclasses import dataclass

from membench.gate.comparison import FileComparison

PASS, REGRESSION, INCONCLUSIVE, NOTHING_COMPARABLE, NOTHING_MEASURED = 0, 1, 3, 4, 5


@dataclass(frozen=True, slots=True)
class Outcome:
    """The exit code, and the line that says what it means."""

    exit_code: int
    line: str


def outcome_of(comparisons: list[FileComparison], *, strict: bool, advisory: bool) -> Outcome:
    """Precedence: nothing measured, regression, nothing comparable, inconclusive, pass."""
    found = _outcome(comparisons, strict=strict)
    if advisory and found.exit_code in (REGRESSION, INCONCLUSIVE, NOTHING_COMPARABLE):
        return Outcome(PASS, f"{found.line} (advisory: not failing)")
    return found


def _outcome(comparisons: list[FileComparison], *, strict: bool) -> Outcome:
    if any(not each.head.result.cases for each in comparisons):
        return Outcome(NOTHING_MEASURED, "nothing was measured: a new file has no case")
    count = sum(len(each.regressions) for each in comparisons) + sum(map(_suite_fails, comparisons))
    if count:
        return Outcome(REGRESSION, f"{count} regression{'s' if count > 1 else ''}")
    comparable = [each for each in comparisons if not each.incomparable]
    if not comparable:
        why = f": {comparisons[0].incomparable}" if comparisons else ": every device and scenario has one file only"
        return Outcome(NOTHING_COMPARABLE, f"nothing could be compared{why}")
    unclear = sum(m.verdict.is_open for each in comparable for case in each.cases for m in case.metrics)
    if unclear:
        line = f"no regression found, {unclear} inconclusive"
        return Outcome(INCONCLUSIVE if strict else PASS, line)
    return Outcome(PASS, "no regression")


def _suite_fails(comparison: FileComparison) -> bool:
    return comparison.suite is not None and comparison.suite.verdict.is_regression and comparison.advisory is None
