"""Cases -> one result file: rounds of fresh processes, time limits, resume.

A round measures every build of the plan once, each in its own process and in an order of
its own, so that a drift of the machine falls on all arms alike. What one process measured
is on disk before the next one starts.
"""

import random
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from membench.case import Case
from membench.errors import UsageError
from membench.machine.datasheet import lookup
from membench.planning.plan import Plan, PlannedCase
from membench.processes.channel import Failed
from membench.results.metrics import flags_of, metrics_of
from membench.results.records import Record, ResultFile, Round, Run, read_result
from membench.running.case_answers import CaseAnswer, case_answers
from membench.running.journal import Journal
from membench.running.protocol import Build, MeasureCase
from membench.scenario.settings import Measure

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class BuildGroup:
    """The cases that share one built layer."""

    arm: str
    cases: tuple[Case, ...]


def builds(cases: Iterable[Case]) -> list[BuildGroup]:
    """Cases grouped by what is built, in the plan's order."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.build_key, []).append(case)
    return [BuildGroup(group[0].arm, tuple(group)) for group in groups.values()]


class Runner:
    """Measures a plan's cases into a journal.

    ``report`` gets a line of what is being done; ``finished`` is called after each case.
    """

    def __init__(
        self,
        plan: Plan,
        measure: Measure,
        device: str,
        journal: Journal,
        report: Report,
        finished: Callable[[Case, Round], None],
    ) -> None:
        self.plan, self.measure, self.device = plan, measure, device
        self.journal, self.report, self.finished = journal, report, finished

    def run(self) -> None:
        """All rounds; what the journal holds already is passed over."""
        runnable = [planned.case for planned in self.plan.cases if not planned.skipped]
        for number in range(self.measure.rounds):
            missing = [case for case in runnable if not self.journal.has(case.id, number)]
            order = builds(missing)
            if number:  # the first round follows the file, so that its progress is easy to read
                random.Random(number).shuffle(order)
            for build in order:
                self._run_build(build, number)

    def _run_build(self, build: BuildGroup, number: int) -> None:
        """One build: what each case's process says of it, kept at once."""
        job = Build.of(list(build.cases), self.device, self.measure)
        answers = case_answers(
            job,
            "membench.running.worker",
            lambda index: MeasureCase(index=index),
            timeout_seconds=self.measure.timeout_seconds,
            report=lambda case, doing: self.report(f"{case.arm} {case.mode}: {doing}"),
        )
        with closing(answers):
            for each in answers:
                self._keep(each, number)

    def _keep(self, each: CaseAnswer, number: int) -> None:
        facts = each.built.facts() if each.built else {}
        if not each.first:
            facts["seconds"] = {}  # building is counted once
        if isinstance(each.answer, Failed):
            status, reason = each.answer.status, each.answer.reason
        else:
            found = each.answer.found
            status, reason = "ok", None
            facts = {**facts, **found, "seconds": {**facts["seconds"], **found["seconds"]}}
        round_ = Round(number=number, started=each.started, status=status, reason=reason, **facts)
        self.journal.add(each.case.id, round_)
        self.finished(each.case, round_)


def assemble(plan: Plan, run: Run, environment: dict[str, Any], journal: Journal) -> ResultFile:
    """The result file of what the journal holds; cases never reached are skipped, and say so."""
    records = [_record(planned, journal, environment) for planned in plan.cases]
    return ResultFile(run=run, environment=environment, cases=records)


def _record(planned: PlannedCase, journal: Journal, environment: dict[str, Any]) -> Record:
    rounds = journal.latest(planned.case.id)
    failed = next((r for r in rounds if r.status != "ok"), None)
    if planned.skipped:
        status, reason = "skipped", planned.skipped
    elif not rounds:
        status, reason = "skipped", "the run was interrupted before this case"
    elif failed:
        status, reason = failed.status, failed.reason
    else:
        status, reason = "ok", None
    sheet = lookup(environment["device"]["name"]) if environment["device"]["type"] == "cuda" else None
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
        metrics=metrics_of(
            planned.case,
            rounds,
            communication_ms=planned.communication_ms if planned.case.ranks > 1 else 0.0,
            peak_flops_per_s=sheet.flops_per_s.get(planned.case.layer.dtype) if sheet else None,
            peak_bytes_per_s=sheet.memory_bytes_per_s if sheet else None,
        ),
    )
    return record.model_copy(update={"flags": flags_of(record)})


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
