"""What files from before some metrics were kept get when they are shown: intervals, floors, over floor."""

from membench.json_values import number
from membench.results.intervals import pooled_spread
from membench.results.metrics import floors_of, step_interval
from membench.results.ranking import is_trained
from membench.results.records import Record, ResultFile

DERIVED = ("floor_ms", "over_floor", "step_ms_low", "step_ms_high")


def with_derived(result: ResultFile) -> ResultFile:
    """The result with these metrics in every measured case; what it had stays as it was."""
    if not any(_lacks(record) for record in result.cases):
        return result
    run_spread = pooled_spread(record.rounds for record in result.cases)
    return result.model_copy(update={"cases": [_completed(record, run_spread) for record in result.cases]})


def _lacks(record: Record) -> bool:
    return bool(record.metrics) and not is_trained(record) and not record.metrics.keys() >= set(DERIVED)


def _completed(record: Record, run_spread: float | None) -> Record:
    if not _lacks(record):
        return record
    return record.model_copy(update={"metrics": {**_derived(record, run_spread), **record.metrics}})


def _derived(record: Record, run_spread: float | None) -> dict[str, float | None]:
    done = [r for r in record.rounds if r.status == "ok" and r.samples_s]
    inside = record.case.shared_by is not None
    communication_ms = 0.0 if inside else number(record.metrics, "communication_ms_predicted")
    return {**floors_of(done), **step_interval(done, communication_ms, run_spread)}
