"""One profile from the options to what was found: plan, a process for each layer, findings."""

import shlex
import sys
from pathlib import Path
from typing import Any

from membench import __version__
from membench.case import Case
from membench.commit import running_commit
from membench.errors import UsageError
from membench.journal import check_folder
from membench.layers.spec import StageCost
from membench.plan import Plan, PlannedCase
from membench.profiler.analysis import stage_rows
from membench.profiler.asked import Asked, naming_options, scenario_of
from membench.profiler.findings import LayerProfile, ModeProfile, Profile, StageKey
from membench.profiler.process import ProfileJob
from membench.progress import RunProgress
from membench.provenance import probe_environment, utc_now
from membench.session import plan_here
from membench.worker_process import WorkerDied, WorkerProcess

_SILENCE_SECONDS = 600  # building, or checking, a layer of this machine's whole memory


def run_profile(asked: Asked, device: str, trace: Path | None = None) -> Profile:
    """Profile what was asked.

    Args:
        asked: the options.
        device: auto, cpu or cuda.
        trace: the folder that traces go to, if they are wanted.

    Raises:
        UsageError: an option makes no sense, the device is not there, or nothing fits.
    """
    environment, started = probe_environment(device), utc_now()
    scenario = scenario_of(asked, environment["device"]["type"])
    with naming_options(asked):
        plan = plan_here(scenario, environment)
    for planned in plan.cases:
        if planned.skipped:
            raise UsageError(f"{planned.case.arm} {planned.case.mode}: {planned.skipped}", source="membench profile")
    by_arm = {planned.case.arm: [p for p in plan.cases if p.case.arm == planned.case.arm] for planned in plan.cases}
    with RunProgress(len(plan.cases), every_step=True) as progress:
        progress.note(_announcement(plan, environment))
        layers = [_profile_layer(cases, environment["device"]["type"], trace, progress) for cases in by_arm.values()]
    commit = running_commit()
    return Profile(
        command=shlex.join(["membench", *sys.argv[1:]]),
        started=started,
        membench_version=__version__,
        git_sha=commit.sha,
        git_dirty=commit.dirty,
        git_note=commit.note,
        ranks=plan.ranks,
        ranks_reason=plan.ranks_reason if asked.ranks is None else "given",
        environment=environment,
        layers=layers,
    )


def check_trace_folder(folder: Path) -> None:
    """Makes the folder that traces go to.

    Raises:
        UsageError: it cannot be made or written.
    """
    try:
        check_folder(folder)
    except UsageError as error:
        raise UsageError(error.problem, source=f"--trace {folder}") from None


def _announcement(plan: Plan, environment: dict[str, Any]) -> str:
    arms = " and ".join(dict.fromkeys(planned.case.arm for planned in plan.cases))
    where = f"{arms} on {environment['device']['name']}"
    return where if plan.ranks == 1 else f"{where}, one rank of P = {plan.ranks} ({plan.ranks_reason})"


def _profile_layer(planned: list[PlannedCase], device: str, trace: Path | None, progress: RunProgress) -> LayerProfile:
    """Every mode of one layer, in one process. A mode that it dies of is told; those after it get no other."""
    cases = [each.case for each in planned]
    first, facts = planned[0], _Facts(cases)
    job = ProfileJob(device=device, cases=cases, trace=None if trace is None else str(trace))
    with WorkerProcess(job.model_dump_json(), None, "membench.profiler.process") as process:
        try:
            for event in process.events(_SILENCE_SECONDS):
                facts.take(event, progress)
        except WorkerDied as death:
            facts.bury(death, progress)
    return LayerProfile(
        arm=first.case.arm,
        layer=first.case.layer.model_dump(mode="json"),
        labels=list(first.labels),
        tokens=first.case.tokens,
        params=first.params,
        rank_params=first.rank_params,
        flops_per_token=first.achieved.get("flops_per_token"),
        routing=first.case.routing.model_dump(mode="json", exclude_none=True),
        communication_ms={each.case.mode: each.communication_ms for each in planned},
        modes=[facts.modes[case.id] for case in cases],
        **facts.built,
    )


class _Facts:
    """What a process has said so far."""

    def __init__(self, cases: list[Case]) -> None:
        self.cases = {case.id: case for case in cases}
        self.current = cases[0]
        self.built: dict[str, Any] = {}
        self.modes: dict[str, ModeProfile] = {}

    def take(self, event: dict[str, Any], progress: RunProgress) -> None:
        """Remember one event and show it."""
        match event["event"]:
            case "progress":
                progress.doing(f"{self.current.arm} {self.current.mode}: {event['doing']}")
            case "built":
                self.built = {key: event[key] for key in ("ceilings", "threads", "huge_pages")}
            case "case_started":
                self.current = self.cases[event["id"]]
            case "case":
                self._keep(event["id"], event["status"], event["reason"], event["found"], progress)

    def bury(self, death: WorkerDied, progress: RunProgress) -> None:
        """The process ended early: so did every mode that is left."""
        for case in self.cases.values():
            if case.id not in self.modes:
                self._keep(case.id, death.status, death.reason, None, progress)

    def _keep(
        self, case_id: str, status: str, reason: str | None, found: dict[str, Any] | None, progress: RunProgress
    ) -> None:
        case = self.cases[case_id]
        self.modes[case_id] = mode = mode_profile(case, status, reason, found, self.built.get("ceilings", {}))
        name = f"{case.arm} {case.mode}"
        if mode.step_ms is None:
            progress.finished(f"{name}: {status}: {reason}")
        else:
            progress.finished(f"{name}: {mode.step_ms:.3g} ms a step, {len(mode.stages)} stages in {mode.calls} calls")


def mode_profile(
    case: Case, status: str, reason: str | None, found: dict[str, Any] | None, ceilings: dict[str, Any]
) -> ModeProfile:
    """A mode's findings out of what its process said of it; empty where it failed."""
    known = {"mode": case.mode, "optimizer": case.optimizer, "status": status, "reason": reason}
    if found is None:
        return ModeProfile(**known)
    facts = dict(found)
    times_s = {StageKey(name, backward): seconds for name, backward, seconds in facts.pop("stages_s")}
    costs = [StageCost(**cost) for cost in facts.pop("costs")]
    return ModeProfile(**known, **facts, stages=stage_rows(times_s, costs, ceilings))
