"""Claims of the literature beside what was measured here: a row a claim, with its verdict.

A claim is of differences of answer NLL, paired by seeds. p is Holm's over all comparisons of the table, so that a table
of many claims does not agree with one by chance. What was learnt is, but for rounding, the same on every machine, so
one table has all claims, whichever machine has tried them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.documents.published_claims import CLAIMS, Claim
from benchmarks.documents.recorded import Recorded
from benchmarks.documents.tables import markdown_table
from membench.case import Case
from membench.json_values import number
from membench.results.differences import ALPHA, holm, paired_difference
from membench.results.learnt import ANSWER
from membench.results.ranking import is_trained
from membench.results.records import Record
from membench.tables.numbers import short
from membench.tables.quantity import quantity

ALIKE_NATS = 0.05
"""Arms are alike where the whole interval of their difference is at most so far from 0."""
AGREES, DISAGREES, CANNOT_TELL = "**agrees**", "**disagrees**", "cannot tell at this scale"


@dataclass(frozen=True, slots=True)
class Comparison:
    """How much higher the second arm's NLL is than the first's, in nats."""

    better: Record
    worse: Record
    mean: float
    low: float
    high: float
    p: float


def claims_table(recorded: Mapping[str, Sequence[Recorded]]) -> str | None:
    """The table as Markdown, of each scenario its newest run; None where no claim has been tried."""
    rows, known = [], []
    for claim in CLAIMS:
        each = max(recorded.get(claim.scenario, ()), key=lambda run: run.result.run.started, default=None)
        found = None if each is None else comparisons(claim, each.result.cases)
        if each is not None and found:
            rows.append((claim, each, found))
            known += [comparison.p for comparison in found]
    if not rows:
        return None
    corrected = iter(holm(known))
    told = [_row(claim, each, found, [next(corrected) for _ in found]) for claim, each, found in rows]
    header = ["claim", "scenario", "published", "measured: how much lower the NLL is, nats", "here it"]
    return markdown_table(header, told, left=5)


def comparisons(claim: Claim, records: Sequence[Record]) -> list[Comparison] | None:
    """Those of the claim's pairs; None where an arm is missing, or has too few seeds in common with the other."""
    arms = {record.case.arm: record for record in records if is_trained(record) and _meant(claim, record.case)}
    found = []
    for better, worse in claim.pairs:
        if better not in arms or worse not in arms:
            return None
        compared = _comparison(arms[better], arms[worse])
        if compared is None:
            return None
        found.append(compared)
    return found


def _meant(claim: Claim, case: Case) -> bool:
    """Whether a case is of the task and the budget of which the claim is."""
    of_task = claim.task is None or (case.task is not None and case.task.kind == claim.task)
    spent = case.training.stop.tokens if case.training is not None else None
    return of_task and claim.tokens in (None, spent)


def _comparison(better: Record, worse: Record) -> Comparison | None:
    by = paired_difference("", ANSWER, better, worse)
    if by is None or by.low is None or by.high is None or by.p is None:
        return None
    return Comparison(better, worse, by.mean, by.low, by.high, by.p)


def verdict(claim: Claim, found: Sequence[Comparison], ps: Sequence[float]) -> str:
    """What the seeds say of a claim; one comparison that is surely the other way round contradicts it."""
    each = [_of_one(claim, comparison, p) for comparison, p in zip(found, ps, strict=True)]
    if DISAGREES in each:
        return DISAGREES
    return AGREES if all(of == AGREES for of in each) else CANNOT_TELL


def _of_one(claim: Claim, found: Comparison, p: float) -> str:
    told = p < ALPHA
    if claim.alike:
        if max(abs(found.low), abs(found.high)) <= ALIKE_NATS:
            return AGREES
        return DISAGREES if told and abs(found.mean) > ALIKE_NATS else CANNOT_TELL
    if not told:
        return CANNOT_TELL
    return AGREES if found.mean > 0 else DISAGREES


def _row(claim: Claim, each: Recorded, found: Sequence[Comparison], ps: Sequence[float]) -> list[str]:
    scenario = f"[{claim.scenario}](#{claim.scenario}) ([file](../results/{each.path.name}))"
    measured = "; ".join(_measured(claim, comparison, p) for comparison, p in zip(found, ps, strict=True))
    return [claim.says, scenario, claim.source, measured, verdict(claim, found, ps)]


def _measured(claim: Claim, found: Comparison, p: float) -> str:
    sure = "" if p < ALPHA else ", not told apart"
    beside = ""
    if claim.beside is not None:
        column = quantity(claim.beside)
        values = [column.shown(number(record.metrics, claim.beside)) for record in (found.better, found.worse)]
        beside = f"; {column.header} {' and '.join(values)}"
    lies = f"{short(found.mean)} ({short(found.low)} – {short(found.high)})"
    return f"`{found.better.case.arm}` below `{found.worse.case.arm}` by {lies}{sure}{beside}"
