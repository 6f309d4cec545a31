"""Differences between the arms of level training, paired by their seeds, with Holm's correction over all of a file.

A seed is the same data in the same order for every arm, so that what it adds to one it adds to the other. Student's
interval: with five pairs no test without assumptions can decide anything at 95 % over several claims.
"""

import math
import statistics
from collections.abc import Sequence
from itertools import combinations

from membench.results.intervals import FEWEST_ROUNDS
from membench.results.learnt import ANSWER, interval, of_seeds
from membench.results.quantiles import student_p
from membench.results.ranking import arm_name, trained_groups
from membench.results.records import Difference, Record, ResultFile

ALPHA = 0.05
COMPARED = (ANSWER, "em")  # the first is what all tasks have


def differences_of(result: ResultFile) -> list[Difference]:
    """Those of all pairs of arms at each comparable point, in every metric that is compared; kept ones if there are.

    p is Holm's over the pairs of all points, for each metric by itself.
    """
    if result.differences:
        return result.differences
    groups = trained_groups(result.cases)
    found = []
    for metric in COMPARED:
        pairs = [(at, one, other) for at, records in groups.items() for one, other in combinations(records, 2)]
        known = [each for at, one, other in pairs if (each := paired_difference(at, metric, one, other))]
        found += _corrected(known)
    return found


def paired_difference(compared_at: str, metric: str, one: Record, other: Record) -> Difference | None:
    """By how much more the other has of a metric, over the seeds that both have, with its own p; None where none is."""
    before, now = (of_seeds(record.rounds, metric) for record in (one, other))
    seeds = sorted(before.keys() & now.keys())
    if not seeds:
        return None
    by = [now[seed] - before[seed] for seed in seeds]
    low, high = interval(by) or (None, None)
    return Difference(
        compared_at=compared_at,
        metric=metric,
        arm=arm_name(one),
        other=arm_name(other),
        seeds=len(seeds),
        mean=sum(by) / len(by),
        low=low,
        high=high,
        p=paired_p(by),
    )


def paired_p(differences: Sequence[float]) -> float | None:
    """Of Student's test that the mean of paired differences is 0; None with fewer than three."""
    if len(differences) < FEWEST_ROUNDS:
        return None
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    mean = statistics.fmean(differences)
    if error == 0:  # equal on every seed, or by the same on every seed
        return 1.0 if mean == 0 else 0.0
    return student_p(mean / error, len(differences) - 1)


def _corrected(found: Sequence[Difference]) -> list[Difference]:
    """With Holm's p in the place of each one's own, in the order given."""
    ps = holm([each.p for each in found if each.p is not None])
    corrected = iter(ps)
    made = []
    for each in found:
        p = None if each.p is None else next(corrected)
        made.append(each.model_copy(update={"p": p, "told_apart": p is not None and p < ALPHA}))
    return made


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979): p times how many are at least as large, never below that of a smaller one."""
    order = sorted(range(len(ps)), key=ps.__getitem__)
    found, most = [0.0] * len(ps), 0.0
    for place, index in enumerate(order):
        most = max(most, min(1.0, ps[index] * (len(ps) - place)))
        found[index] = most
    return found
