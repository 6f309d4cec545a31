"""How good is the regression gate? Every rule judged on the same recorded timings of the same and of slowed code.

    python -m benchmarks.gate_quality results/gate_series_*.json [--json]

What ``benchmarks.gate_series`` recorded is cut into blocks of rounds in a row; each block is one
comparison that somebody might have made on that machine at that time. Rules:

* ``membench ab``: ten paired rounds; up to ten more where they do not decide; slow only if slow
  again on ten fresh rounds. ``first look``: its first ten rounds alone.
* ``pytest-benchmark``: one run of each, the new one ten rounds after the stored one; fails where
  its median is more than 5 % above (``--benchmark-compare-fail=median:5%``).
* ``asv``: two rounds of each, ten samples a round; slower where the ratio of medians is above the
  factor and a Mann–Whitney test on all samples has p < 0.002 (``asv continuous``). Its factor is
  1.1; 1.03 is shown beside it.

The last two get samples that were taken in turn, as no run of either tool would be; they look
better here than they are.
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.stats import mannwhitneyu

from membench.ab.comparison import PLANNED_ROUNDS
from membench.gate.judge import TOPPED_UP_CONFIDENCE, judge_paired
from membench.gate.metrics import TIMED
from membench.gate.rounds import in_turn_effect
from membench.gate.statistics import CONFIDENCE
from membench.gate.thresholds import MetricThresholds
from membench.gate.verdicts import Verdict

_ASV_ROUNDS, _ASV_SAMPLES, _ASV_P = 2, 10, 0.002
_LATENCY = TIMED[0]


@dataclass(frozen=True, slots=True)
class Series:
    """One case of one recording: nanoseconds, by variant and round."""

    condition: str
    case: str
    samples_ns: dict[str, list[list[int]]]
    rounds: int


Rule = Callable[[Series, str, int], Verdict]


def _look(series: Series, variant: str, begin: int, rounds: int) -> Verdict:
    """The paired verdict on rounds in a row."""
    base, head = (series.samples_ns[name][begin : begin + rounds] for name in ("base", variant))
    effects = [in_turn_effect([*map(float, b)], [*map(float, h)]) for b, h in zip(base, head, strict=True)]
    before, now = ([statistics.median(of) / 1e6 for of in side] for side in (base, head))
    assert _LATENCY.margin is not None
    limits = MetricThresholds(_LATENCY.margin, _LATENCY.margin, _LATENCY.floor, 0.0, None)
    confidence = CONFIDENCE if rounds <= PLANNED_ROUNDS else TOPPED_UP_CONFIDENCE
    return judge_paired("latency", before, now, effects, limits, confidence).verdict


def first_look(series: Series, variant: str, begin: int) -> Verdict:
    """Ten rounds."""
    return _look(series, variant, begin, PLANNED_ROUNDS)


def membench_ab(series: Series, variant: str, begin: int) -> Verdict:
    """What ``membench ab`` does; the rounds it would add lie behind the block."""
    found, used = _look(series, variant, begin, PLANNED_ROUNDS), PLANNED_ROUNDS
    if found is Verdict.INCONCLUSIVE:
        used = 2 * PLANNED_ROUNDS
        found = _look(series, variant, begin, used)
    if found is Verdict.SLOW and _look(series, variant, begin + used, PLANNED_ROUNDS) is not Verdict.SLOW:
        return Verdict.INCONCLUSIVE
    return found


def pytest_benchmark(series: Series, variant: str, begin: int) -> Verdict:
    """The medians of one stored run and of one new run."""
    base = statistics.median(series.samples_ns["base"][begin])
    head = statistics.median(series.samples_ns[variant][begin + PLANNED_ROUNDS])
    return Verdict.SLOW if head > 1.05 * base else Verdict.SAME


def asv(factor: float) -> Rule:
    """asv's rule with the given factor."""

    def rule(series: Series, variant: str, begin: int) -> Verdict:
        base, head = (
            [s for of in series.samples_ns[name][begin : begin + _ASV_ROUNDS] for s in of[:_ASV_SAMPLES]]
            for name in ("base", variant)
        )
        larger = statistics.median(head) > factor * statistics.median(base)
        return Verdict.SLOW if larger and mannwhitneyu(base, head).pvalue < _ASV_P else Verdict.SAME

    return rule


RULES: dict[str, Rule] = {
    "membench ab": membench_ab,
    "first look": first_look,
    "pytest-benchmark median:5%": pytest_benchmark,
    "asv factor 1.1": asv(1.1),
    "asv factor 1.03": asv(1.03),
}
_BLOCK = 3 * PLANNED_ROUNDS  # what membench ab may use at most


def series_of(content: dict[str, Any]) -> list[Series]:
    """Every case of a recording."""
    rounds = content["samples_ns"]
    variants = list(content["slowdowns_asked"])
    return [
        Series(content["condition"], case, {v: [r[v][case] for r in rounds] for v in variants}, len(rounds))
        for case in content["cases"]
    ]


def true_change(series: Series, variant: str) -> float:
    """The change over the whole recording: the median of all rounds' paired effects."""
    pairs = zip(series.samples_ns["base"], series.samples_ns[variant], strict=True)
    return math.expm1(statistics.median(in_turn_effect([*map(float, b)], [*map(float, h)]) for b, h in pairs))


def judge(series: list[Series], variant: str, step: int) -> dict[str, dict[str, float]]:
    """By rule: shares of all comparisons of a variant that were called slow, open, fast or the same."""
    shares = {}
    for name, rule in RULES.items():
        verdicts = [rule(s, variant, begin) for s in series for begin in range(0, s.rounds - _BLOCK + 1, step)]
        shares[name] = {
            "comparisons": len(verdicts),
            **{
                v.value.lower(): verdicts.count(v) / len(verdicts)
                for v in (Verdict.SLOW, Verdict.INCONCLUSIVE, Verdict.FAST)
            },
        }
    return shares


def result_of(paths: list[Path], step: int) -> dict[str, Any]:
    """Everything: by condition and variant, over all cases and for each."""
    found: dict[str, Any] = {"benchmark": "gate_quality", "series": [path.name for path in paths], "conditions": {}}
    for path in paths:
        content = json.loads(path.read_text())
        series = series_of(content)
        variants = [name for name in content["slowdowns_asked"] if name != "base"]
        found["conditions"][content["condition"]] = {
            variant: {
                "asked": content["slowdowns_asked"][variant],
                "true_change": {s.case: true_change(s, variant) for s in series},
                "rules": judge(series, variant, step),
                "membench_ab_by_case": {s.case: judge([s], variant, step)["membench ab"] for s in series},
            }
            for variant in variants
        }
    return found


def show(found: dict[str, Any]) -> None:
    """The table of docs/method.md."""
    for condition, variants in found["conditions"].items():
        print(f"\n{condition}: share of comparisons called slower (left open)")
        print(f"{'':30}" + "".join(f"{name:>18}" for name in variants))
        for rule in RULES:
            cells = [variants[name]["rules"][rule] for name in variants]
            print(f"{rule:30}" + "".join(f"{100 * c['slow']:9.1f} % ({100 * c['inconclusive']:3.0f})" for c in cells))
        for name, variant in variants.items():
            count = variant["rules"]["membench ab"]["comparisons"]
            changes = ", ".join(f"{case} {change:+.1%}" for case, change in variant["true_change"].items())
            print(f"{name}: {count} comparisons; over the whole recording: {changes}")


def main() -> None:
    """Every rule on the recordings named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("series", nargs="+", type=Path)
    parser.add_argument("--step", type=int, default=3, help="rounds between the beginnings of two comparisons")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    found = result_of(asked.series, asked.step)
    if asked.json:
        print(json.dumps(found, allow_nan=False, indent=1))
    else:
        show(found)


if __name__ == "__main__":
    main()
