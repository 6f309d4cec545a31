"""What a journal holds as one result file: records with their metrics, written where nothing is lost."""

import sys
from pathlib import Path
from typing import Any

from membench.errors import UsageError
from membench.files import rescue
from membench.machine.datasheet import lookup
from membench.planning.plan import Plan, PlannedCase
from membench.results.answers import answers_of
from membench.results.derived import DERIVED
from membench.results.differences import differences_of
from membench.results.intervals import pooled_spread
from membench.results.learnt import learnt_metrics
from membench.results.metrics import flags_of, metrics_of
from membench.results.records import Record, ResultFile, Round, Run, Trial, read_result, strict_json, write_result
from membench.running.journal import SUFFIX, Journal
from membench.running.summed import summed_rounds, with_flags_of_parts


def assemble(plan: Plan, run: Run, environment: dict[str, Any], journal: Journal) -> ResultFile:
    """The result file of what the journal holds; cases never reached are skipped, and say so."""
    rounds = {planned.case.id: journal.latest(planned.case.id) for planned in plan.cases}
    rounds |= {each.case.id: summed_rounds(each, rounds) for each in plan.cases if each.parts}
    run_spread = pooled_spread(rounds.values())
    records = [
        _record(planned, rounds[planned.id], journal.latest_trials(planned.id), run_spread, environment)
        for planned in plan.cases
    ]
    result = ResultFile(run=run, environment=environment, cases=with_flags_of_parts(records))
    told = {"answers": list(answers_of(result).values()), "differences": differences_of(result)}
    return result.model_copy(update=told)


def _record(
    planned: PlannedCase,
    rounds: list[Round],
    trials: list[Trial],
    run_spread: float | None,
    environment: dict[str, Any],
) -> Record:
    failed = _failed(rounds)
    if planned.skipped:
        status, reason = "skipped", planned.skipped
    elif not rounds:
        status, reason = "skipped", "the run was interrupted before this case"
    elif failed:
        status, reason = failed.status, failed.reason
    else:
        status, reason = "ok", None
    if planned.learning:
        metrics = learnt_metrics(rounds)
    else:
        metrics = _timed_metrics(planned, rounds, run_spread, environment)
        if metrics and status != "ok":  # a round failed: what is said of all of them is not known
            metrics |= dict.fromkeys(DERIVED)
    record = Record(
        id=planned.case.id,
        case=planned.case,
        status=status,
        reason=reason,
        labels=list(planned.labels),
        asked=planned.asked,
        achieved=planned.achieved,
        planned=planned.model_dump(mode="json", exclude={"id", "case", "asked", "achieved", "labels", "skipped"}),
        rounds=rounds,
        metrics=metrics,
        trials=trials,
    )
    return record.model_copy(update={"flags": flags_of(record)})


def _timed_metrics(
    planned: PlannedCase, rounds: list[Round], run_spread: float | None, environment: dict[str, Any]
) -> dict[str, float | None]:
    sheet = lookup(environment["device"]["name"]) if environment["device"]["type"] == "cuda" else None
    return metrics_of(
        planned.case,
        rounds,
        communication_ms=planned.communication_ms if planned.case.ranks > 1 else 0.0,
        inside=planned.case.shared_by is not None,
        run_spread=run_spread,
        peak_flops_per_s=sheet.flops_per_s.get(planned.case.layer.dtype) if sheet else None,
        peak_bytes_per_s=sheet.memory_bytes_per_s if sheet else None,
    )


def _failed(rounds: list[Round]) -> Round | None:
    """The round that the case failed by; seeds that diverged are left out of its result, unless all have."""
    diverged = [r for r in rounds if r.status == "diverged"]
    others = [r for r in rounds if r.status not in ("ok", "diverged")]
    return next(iter(others or (diverged if len(diverged) == len(rounds) else [])), None)


def write_finished(result: ResultFile, journal: Journal, *, interrupted: bool) -> Path | None:
    """The result file; in the temporary folder if its own cannot be written, on standard error if none can."""
    stem, folder = journal.path.name.removesuffix(SUFFIX), journal.path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)  # it may have been removed meanwhile
        path = result_path(folder, stem, result.run)
        write_result(result, path)
    except OSError as error:
        print(f"membench: {folder / f'{stem}.json'} cannot be written ({error.strerror})", file=sys.stderr)
        text = strict_json(result.model_dump(mode="json")) + "\n"
        elsewhere = rescue(text.encode(), f"{stem}.json")
        if elsewhere is None:
            print(text, file=sys.stderr)
        return elsewhere
    if interrupted:
        journal.release()
    else:
        journal.remove()
    return path


def result_path(folder: Path, stem: str, run: Run) -> Path:
    """Where a run's result file goes: over what the same run left when it was interrupted, never over another."""
    path, number = folder / f"{stem}.json", 2
    while path.exists() and not _is_interrupted(path, run):
        path, number = folder / f"{stem}-{number}.json", number + 1
    return path


def _is_interrupted(path: Path, run: Run) -> bool:
    try:
        left = read_result(path).run
    except UsageError:
        return False
    return left.interrupted and left.started == run.started and left.scenario_hash == run.scenario_hash
