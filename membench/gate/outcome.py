"""What a comparison comes to: one exit code, and why. ``membench.cli.exit_codes`` has the other codes."""

from dataclasses import dataclass

from membench.gate.cases import OTHER_CONDITIONS
from membench.gate.comparison import FileComparison
from membench.gate.verdicts import Verdict
from membench.words import how_many

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
    if any(_nothing_measured(each) for each in comparisons):
        return Outcome(NOTHING_MEASURED, "nothing was measured")
    count = sum(len(each.regressions) + each.suite_fails for each in comparisons)
    if count:
        return Outcome(REGRESSION, how_many(count, "regression"))
    left_out = [each.incomparable for each in comparisons if each.incomparable]
    if len(left_out) == len(comparisons):
        why = left_out[0] if left_out else "no device and scenario has two files"
        return Outcome(NOTHING_COMPARABLE, f"nothing could be compared: {why}")
    metrics = [metric for each in comparisons for metric in each.metrics]
    slow = sum(metric.verdict is Verdict.SLOW for metric in metrics)
    other = sum(metric.reason.startswith(OTHER_CONDITIONS) for metric in metrics)
    unclear = sum(metric.verdict.is_open for metric in metrics) + len(left_out)
    parts = ["no regression"]
    parts += [f"{slow} slow as far as advice goes"] if slow else []
    parts += [f"{unclear} inconclusive"] if unclear else []
    parts += [f"{other} of them {OTHER_CONDITIONS}"] if other else []
    return Outcome(INCONCLUSIVE if strict and (unclear or slow) else PASS, ", ".join(parts))


def _nothing_measured(comparison: FileComparison) -> bool:
    """Whether the new file has no case, or neither file has one that worked."""
    base, head = comparison.base.result, comparison.head.result
    return not head.cases or not any(record.status == "ok" for record in (*base.cases, *head.cases))
