"""One profile from the options to what was found: plan, a process for each layer, findings."""

import shlex
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from membench import __version__
from membench.case import Case
from membench.errors import UsageError
from membench.git.commit import running_commit
from membench.layers.spec import StageCost
from membench.machine.provenance import probe_environment, utc_now
from membench.planning.plan import Plan, PlannedCase
from membench.processes.channel import Failed
from membench.processes.child import ChildProcess
from membench.profiler.asked import Asked, naming_options, scenario_of
from membench.results.floors import stage_rows
from membench.results.profile import LayerProfile, ModeProfile, Profile, StageKey
from membench.running.case_answers import case_answers
from membench.running.journal import check_folder
from membench.running.progress import RunProgress
from membench.running.protocol import Build, Found, ProfileCase
from membench.running.run import plan_here, slower_here
from membench.scenario.settings import Measure
from membench.words import how_many

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
    scenario_of(asked, "cpu" if device == "auto" else device)  # what is wrong on any device takes no look at this one
    environment, started = probe_environment(device), utc_now()
    scenario = scenario_of(asked, environment["device"]["type"])
    with naming_options(asked):
        plan = plan_here(scenario, environment)
    for planned in plan.cases:
        if planned.skipped:
            raise UsageError(f"{planned.case.arm} {planned.case.mode}: {planned.skipped}", source="membench profile")
    by_arm = {planned.case.arm: [p for p in plan.cases if p.case.arm == planned.case.arm] for planned in plan.cases}
    with RunProgress(len(plan.cases), every_step=True) as progress:
        for line in slower_here(plan, environment, scenario):
            progress.note(f"membench: {line}")
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
    """Every mode of one layer."""
    cases, first = [each.case for each in planned], planned[0]
    job = Build.of(cases, device, Measure())
    answers = case_answers(
        job,
        lambda: ChildProcess("membench.profiler.process", threads=job.threads, timeout_seconds=_SILENCE_SECONDS),
        lambda _, index: ProfileCase(index=index, trace=None if trace is None else str(trace)),
        report=lambda case, doing: progress.doing(f"{case.arm} {case.mode}: {doing}"),
    )
    modes, built = [], {}
    with closing(answers):
        for each in answers:
            if each.built:
                built = each.built.model_dump(include={"ceilings", "threads", "huge_pages"})
            modes.append(mode := mode_profile(each.case, each.answer, built.get("ceilings", {})))
            progress.finished(_line(each.case, mode))
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
        modes=modes,
        **built,
    )


def _line(case: Case, mode: ModeProfile) -> str:
    name = f"{case.arm} {case.mode}"
    if mode.step_ms is None:
        return f"{name}: {mode.status}: {mode.reason}"
    counts = f"{how_many(len(mode.stages), 'stage')} in {how_many(mode.calls, 'call')}"
    return f"{name}: {mode.step_ms:.3g} ms a step, {counts}"


def mode_profile(case: Case, answer: Found | Failed, ceilings: dict[str, Any]) -> ModeProfile:
    """A mode's findings out of what its process said of it; empty where it failed."""
    known = {"mode": case.mode, "optimizer": case.optimizer}
    if isinstance(answer, Failed):
        return ModeProfile(**known, status=answer.status, reason=answer.reason)
    facts = dict(answer.found)
    times_s = {StageKey(name, backward): seconds for name, backward, seconds in facts.pop("stages_s")}
    costs = [StageCost(**cost) for cost in facts.pop("costs")]
    return ModeProfile(**known, status="ok", reason=None, **facts, stages=stage_rows(times_s, costs, ceilings))
