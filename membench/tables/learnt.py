"""Level training as tables: what was compared and the answer, then every arm, then every pair of arms."""

from collections.abc import Sequence
from typing import Any

from membench.errors import one_line
from membench.json_values import number, text, value_at
from membench.results.differences import differences_of
from membench.results.learnt import ANSWER
from membench.results.ranking import arm_name, trained_groups
from membench.results.records import Difference, Record, ResultFile
from membench.tables.numbers import short
from membench.tables.quantity import quantity
from membench.tables.table import Column, Table
from membench.words import how_many

_FILE = "in the result file"
_SCORES = ("em", "f1", "bits_per_fact", "bits_learnt", "bits_per_param")
_COSTS = ("steps_trained", "tokens_trained", "training_flops", "training_seconds", "tokens_per_s", "mfu")
_WHERE_KNOWN = (
    "energy_j_per_token",
    "peak_memory_bytes",
    "rows_used_share",
    "rows_kl_nats",
    "expert_load_entropy",
    "dropped_token_share",
)


def answer_tables(result: ResultFile) -> list[Table]:
    """What was compared at each point and which arm answers best, where the seeds say so."""
    columns = [
        Column("compared at", right=False),
        Column("lowest answer NLL", right=False),
        quantity("answer_nll"),
        quantity("answer_nll_interval"),
        Column("not told apart from it", right=False),
        Column("surely worse", right=False, priority=2),
    ]
    differences = differences_of(result)
    rows = [_answer(at, records, differences) for at, records in trained_groups(result.cases).items()]
    run = result.run
    compared = f"{run.scenario}: {run.description}" if run.description else run.scenario
    device, cores = text(result.environment, "device", "name"), value_at(result.environment, "device", "cores")
    title = f"{one_line(compared)}\non {one_line(device or 'an unknown device')} ({how_many(cores or 0, 'core')})"
    caption = (
        f"Means over {how_many(run.rounds, 'seed')} with 95 % intervals, the same data in the same order for every "
        "arm; arms are told apart by paired differences, p after Holm below 0.05."
    )
    return [Table(title, caption, columns, rows, _FILE)]


def _answer(at: str, records: Sequence[Record], differences: Sequence[Difference]) -> list[Any]:
    known = [(value, record) for record in records if (value := number(record.metrics, ANSWER)) is not None]
    if not known:
        return [at, "nothing was trained", None, None, None, None]
    value, best = min(known, key=lambda each: each[0])
    worse, alike = [], []
    for other_value, record in sorted(known, key=lambda each: each[0]):
        if record is best:
            continue
        told = _told_apart(at, arm_name(best), arm_name(record), differences)
        (worse if told else alike).append(
            f"{arm_name(record)} +{short(other_value - value)}" if told else arm_name(record)
        )
    return [at, arm_name(best), value, interval_of(best, ANSWER), ", ".join(alike) or None, ", ".join(worse) or None]


def _told_apart(at: str, one: str, other: str, differences: Sequence[Difference]) -> bool:
    of_pair = (
        d for d in differences if d.compared_at == at and d.metric == ANSWER and {d.arm, d.other} == {one, other}
    )
    return any(each.told_apart for each in of_pair)


def interval_of(record: Record, name: str) -> tuple[float, float] | None:
    """The 95 % interval of a metric's mean over seeds."""
    low, high = number(record.metrics, f"{name}_low"), number(record.metrics, f"{name}_high")
    return None if low is None or high is None else (low, high)


def learnt_tables(result: ResultFile) -> list[Table]:
    """Every arm at each point, the best first."""
    return [_arms_table(at, records) for at, records in trained_groups(result.cases).items()]


def _arms_table(at: str, records: Sequence[Record]) -> Table:
    scores = [name for name in _SCORES if any(number(r.metrics, name) is not None for r in records)]
    costs = [*_COSTS, *(name for name in _WHERE_KNOWN if any(number(r.metrics, name) is not None for r in records))]
    rates = [
        name for name in ("learning_rate", "table_learning_rate", "balance_weight") if any(map(_rates(name), records))
    ]
    columns = [
        Column("arm", right=False),
        Column("status", right=False, priority=1 if any(r.status != "ok" for r in records) else 5),
        quantity(ANSWER),
        quantity("answer_nll_interval"),
        *map(quantity, scores),
        *([quantity("em_interval")] if "em" in scores else []),
        *map(quantity, costs),
        *map(quantity, rates),
        Column("trials", priority=3),
        Column("seeds", priority=3),
    ]
    rows = []
    for record in sorted(records, key=_by_answer):
        rows.append(
            [
                arm_name(record),
                record.status,
                record.metrics.get(ANSWER),
                interval_of(record, ANSWER),
                *(record.metrics.get(name) for name in scores),
                *([interval_of(record, "em")] if "em" in scores else []),
                *(record.metrics.get(name) for name in costs),
                *(_rates(name)(record) for name in rates),
                len(record.trials),
                sum(r.status == "ok" for r in record.rounds),
            ]
        )
    return Table(at, "", columns, rows, _FILE)


def _rates(name: str) -> Any:
    return lambda record: next((r.rates[name] for r in record.rounds if name in r.rates), None)


def _by_answer(record: Record) -> float:
    value = number(record.metrics, ANSWER)
    return float("inf") if value is None else value


def differences_tables(result: ResultFile) -> list[Table]:
    """The differences of all pairs of arms; no table where no two have a seed in common."""
    columns = [
        Column("compared at", right=False, priority=3),
        Column("metric", right=False, priority=2),
        Column("arm", right=False),
        Column("less", right=False),
        Column("difference", _signed),
        Column(quantity("answer_nll_interval").header, _signed_interval),
        Column("p, Holm", _p, priority=2),
        Column("told apart", right=False),
        Column("seeds", priority=4),
    ]
    rows = [
        [
            each.compared_at,
            each.metric,
            each.other,
            each.arm,
            each.mean,
            (each.low, each.high),
            each.p,
            "yes" if each.told_apart else "no",
            each.seeds,
        ]
        for each in differences_of(result)
    ]
    title = "Differences of arms, paired by seed"
    return [Table(title, "", columns, rows, _FILE)] if rows else []


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3g}"


def _signed_interval(value: tuple[float | None, float | None]) -> str:
    low, high = value
    return "-" if low is None or high is None else f"{low:+.3g} … {high:+.3g}"


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"
