"""Cases -> one result file: rounds of fresh processes, time limits, resume.

A round measures every build of the plan once, each in its own process and in an order of
its own, so that a drift of the machine falls on all arms alike. What one process measured
is on disk before the next one starts.
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from membench.case import Case
from membench.datasheet import lookup
from membench.errors import UsageError
from membench.journal import Journal
from membench.metrics import flags_of, metrics_of
from membench.plan import Plan, PlannedCase
from membench.provenance import utc_now
from membench.records import Record, ResultFile, Round, Run, read_result
from membench.sections import Measure
from membench.worker import Job
from membench.worker_process import WorkerDied, WorkerProcess

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Build:
    """The cases that share one built layer."""

    arm: str
    cases: tuple[Case, ...]


def builds(cases: Iterable[Case]) -> list[Build]:
    """Cases grouped by what is built, in the plan's order."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.build_key, []).append(case)
    return [Build(group[0].arm, tuple(group)) for group in groups.values()]


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

    def _run_build(self, build: Build, number: int) -> None:
        """One build; after a death the cases that were left get another process."""
        left = list(build.cases)
        while left:
            left = self._run_process(build.arm, left, number)

    def _run_process(self, arm: str, cases: list[Case], number: int) -> list[Case]:
        """Measure in one process. Returns the cases still to do after it ended early."""
        shared: dict[str, Any] = {}
        job = Job.of(cases, self.device, self.measure)
        left = {case.id: case for case in cases}
        current = cases[0]
        started = utc_now()
        with WorkerProcess(job.model_dump_json(), self.measure.threads) as process:
            try:
                for event in process.events(self.measure.timeout_seconds):
                    match event["event"]:
                        case "progress":
                            self.report(f"{arm} {current.mode}: {event['doing']}")
                        case "built":
                            shared = {key: event[key] for key in ("ceilings", "threads", "huge_pages")}
                            shared["seconds"] = event["seconds"]
                        case "case_started":
                            current = left[event["id"]]
                        case "case":
                            done = left.pop(event["id"])
                            self._keep(done, number, started, event["status"], event["reason"], shared, event["found"])
                            shared["seconds"] = {}  # building is counted once
            except WorkerDied as death:
                return self._bury(death, current, left, number, started, shared)
        return []

    def _bury(
        self,
        death: WorkerDied,
        current: Case,
        left: dict[str, Case],
        number: int,
        started: str,
        shared: dict[str, Any],
    ) -> list[Case]:
        """Record the case that was under way; a death before the first case is every case's."""
        if not shared:
            for case in left.values():
                self._keep(case, number, started, death.status, death.reason, {}, None)
            return []
        if current.id in left:
            self._keep(left.pop(current.id), number, started, death.status, death.reason, shared, None)
        return list(left.values())

    def _keep(
        self,
        case: Case,
        number: int,
        started: str,
        status: Any,
        reason: str | None,
        shared: dict[str, Any],
        found: dict[str, Any] | None,
    ) -> None:
        facts = {**shared, **(found or {})}
        if found:
            facts["seconds"] = {**shared.get("seconds", {}), **found["seconds"]}
        round_ = Round(number=number, started=started, status=status, reason=reason, **facts)
        self.journal.add(case.id, round_)
        self.finished(case, round_)


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
