"""A comparison as JSON: everything that the tables show, and the numbers behind it."""

import math
from typing import Any

from membench.gate.comparison import FileComparison
from membench.gate.outcome import Outcome
from membench.gate.reproduce import reproduce_command
from membench.gate.result_set import Group
from membench.gate.verdicts import MetricVerdict


def comparison_json(comparisons: list[FileComparison], groups: list[Group], outcome: Outcome) -> dict[str, Any]:
    """The whole comparison."""
    return {
        "exit_code": outcome.exit_code,
        "answer": outcome.line,
        "comparisons": [_file_json(each) for each in comparisons],
        "alone": [
            {"scenario": g.scenario, "device": g.device, "file": str(each.path), "why": g.why}
            for g in groups
            if g.baseline is None
            for each in g.judged
        ],
    }


def _file_json(comparison: FileComparison) -> dict[str, Any]:
    return {
        "scenario": comparison.scenario,
        "device": comparison.device,
        "baseline": str(comparison.base.path),
        "new": str(comparison.head.path),
        "advisory": comparison.advisory,
        "incomparable": comparison.incomparable,
        "cases": [
            {
                "id": case.id,
                "case": case.label,
                "verdict": case.worst.verdict.value,
                "fails": comparison.fails(case),
                "metrics": [metric_json(metric) for metric in case.metrics],
                "reproduce": reproduce_command(comparison, case) if comparison.fails(case) else None,
            }
            for case in comparison.cases
        ],
        "suite": None if comparison.suite is None else metric_json(comparison.suite),
    }


def metric_json(metric: MetricVerdict) -> dict[str, Any]:
    """One metric's verdict with its numbers; changes are shares, ``theta`` and its interval natural logs."""
    estimate = metric.estimate
    return {
        "metric": metric.metric,
        "verdict": metric.verdict.value,
        "reason": metric.reason or None,
        "baseline": _finite(metric.base),
        "new": _finite(metric.head),
        "change": _finite(metric.change),
        "margin": metric.margin,
        "theta": _finite(estimate.effect) if estimate else None,
        "theta_low": _finite(estimate.low) if estimate else None,
        "theta_high": _finite(estimate.high) if estimate else None,
        "p": estimate.p if estimate else None,
        "rounds": estimate.rounds if estimate else None,
        "confidence": estimate.confidence if estimate else None,
        "method": estimate.method if estimate else None,
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
