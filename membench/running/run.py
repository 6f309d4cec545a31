"""One scenario from file to result file: plan, journal, measure, write. What ``membench run`` does."""

import hashlib
import shlex
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from membench import __version__
from membench.case import METHOD_VERSION, Case
from membench.errors import UsageError
from membench.git.commit import Commit, commit_after, running_commit
from membench.machine.conditions import announcements
from membench.machine.datasheet import Hardware, lookup
from membench.machine.device import available_memory_bytes
from membench.machine.identity import Machine
from membench.machine.provenance import probe_environment, result_stem, utc_now
from membench.planning.network_file import newest_network
from membench.planning.plan import Plan
from membench.planning.planner import make_plan
from membench.planning.solved_arms import SolvedArm
from membench.processes.line import RankLost
from membench.processes.signals import ended_as_interrupted, finish_undisturbed
from membench.results.conditions import other_conditions
from membench.results.disturbance import disturbed
from membench.results.records import ResultFile, Round, Run
from membench.running.journal import SUFFIX, Journal, check_folder, newest_journal
from membench.running.progress import RunProgress
from membench.running.ranks import Ranks
from membench.running.result_file import assemble, write_finished
from membench.running.runner import Runner
from membench.scenario.scenario import Scenario
from membench.scenario.settings import Measure
from membench.scenario.shipped import source_name
from membench.words import how_many

_told: set[str] = set()


@dataclass(frozen=True, slots=True)
class Finished:
    """What a run left: the result, and the file it is in (None where none could be written).

    ``lost``: the rank that ended before the run did, in a line.
    """

    result: ResultFile
    path: Path | None
    interrupted: bool
    lost: str | None = None

    @property
    def measured(self) -> bool:
        """Whether anything was measured at all."""
        return any(record.status == "ok" for record in self.result.cases)


class Measuring(Protocol):
    """What measures a plan into a journal: how much there is of it, how much the journal has, and the rest of it."""

    @property
    def total(self) -> int: ...

    @property
    def done(self) -> int: ...

    @property
    def announcement(self) -> str: ...

    def run(self, progress: RunProgress) -> None: ...


class MeasuringRounds:
    """Rounds of fresh processes, in which every case is timed."""

    def __init__(self, plan: Plan, measure: Measure, device: str, journal: Journal, ranks: Ranks | None = None) -> None:
        self.plan, self.measure, self.device, self.journal, self.ranks = plan, measure, device, journal, ranks

    @property
    def total(self) -> int:
        return len(self.plan.runnable) * self.measure.rounds

    @property
    def done(self) -> int:
        return sum(self.journal.has(p.case.id, n) for p in self.plan.runnable for n in range(self.measure.rounds))

    @property
    def announcement(self) -> str:
        rounds = how_many(self.measure.rounds, "round")
        return f"{how_many(self.total - self.done, 'measurement')} in {rounds}"

    def run(self, progress: RunProgress) -> None:
        def finished(case: Case, found: Round) -> None:
            progress.finished(_line(case, found, self.measure.rounds))

        Runner(self.plan, self.measure, self.device, self.journal, progress.doing, finished, self.ranks).run()


def run_scenario(
    scenario: Scenario,
    solved: list[dict[str, SolvedArm]],
    device: str,
    output: Path,
    *,
    resume: bool,
    only: Sequence[str] = (),
    measuring: Callable[[Plan, Measure, str, Journal], Measuring] = MeasuringRounds,
    ranks: Ranks | None = None,
) -> Finished:
    """Measure a scenario; every finished round is on disk at once.

    Args:
        solved: its arms, of ``solve_budgets``.
        only: beginnings of the ids of the cases wanted; empty: all.
        measuring: what measures the plan into the journal, on a device of this type.
        ranks: that share every layer; None: each is measured by one process.

    Raises:
        UsageError: the device, the output folder or the plan cannot be used.
    """
    if find_spec("scipy") is None:  # it is asked for only when all is measured
        raise UsageError("SciPy is not installed, intervals over rounds need it: pip install scipy")
    if resume and newest_journal(output, scenario.name) is None:
        raise UsageError(f"{output} holds no interrupted run of {scenario.name}", source="--resume")
    check_folder(output)
    environment = probe_environment(device if device != "auto" else scenario.device)
    network = None if ranks is None else newest_network(output, environment, ranks.ranks)
    plan = plan_here(scenario, environment, solved=solved, ranks=ranks, network=network).only(only)
    run = describe_run(scenario, plan, environment).model_copy(update={"only": list(only)})
    journal, run = _open_journal(output, scenario, run, environment, resume=resume)
    shared = {} if ranks is None else {"ranks": ranks}
    work = measuring(plan, scenario.measure, environment["device"]["type"], journal, **shared)
    interrupted, lost = False, None
    with RunProgress(work.total, work.done) as progress:
        for line in slower_here(plan, environment, scenario):
            progress.note(f"membench: {line}")
        progress.note(_announcement(plan, environment, work.announcement))
        try:
            with ended_as_interrupted():
                work.run(progress)
        except KeyboardInterrupt:
            interrupted, lost = True, None if ranks is None else ranks.lost()
        except RankLost as gone:
            interrupted, lost = True, str(gone)
        if lost is not None:
            finish_undisturbed()
            progress.note(f"membench: {lost}; the run ends, and --resume goes on with it")
    commit = commit_after(Commit(run.git_sha, run.git_dirty, run.git_note))
    changes = {"git_dirty": commit.dirty, "git_note": commit.note}
    run = run.model_copy(update={"finished": utc_now(), "interrupted": interrupted, **changes})
    result = assemble(plan, run, environment, journal)
    return Finished(result, write_finished(result, journal, interrupted=interrupted), interrupted, lost)


def plan_here(
    scenario: Scenario,
    environment: dict[str, Any],
    sides: int = 1,
    solved: list[dict[str, SolvedArm]] | None = None,
    ranks: Ranks | None = None,
    network: Path | None = None,
) -> Plan:
    """The plan of a scenario on the device that was found.

    Args:
        sides: processes that have its memory together.
        ranks: the same, who share every layer; on GPUs each has one of its own.
        network: a file that tells what connects them, where the scenario does not say.

    Raises:
        UsageError: it cannot be planned, or is of ranks that are not there.
    """
    if ranks is None and (arm := next((a for p in scenario.points for a in p.arms.values() if a.shared_by), None)):
        problem = "ranks share this layer: start them with membench run … --nproc P, or on many hosts by torchrun"
        raise UsageError(problem, key=f"arms.{arm.name}.shared_by", source=scenario.source)
    device = environment["device"]
    cuda = device["type"] == "cuda"
    sheet = lookup(device["name"]) if cuda else None
    host = available_memory_bytes()
    if ranks is not None:
        host = None if host is None else host // ranks.local_ranks
    if network is not None and scenario.fit.network is None and scenario.fit.link_gb_s is None:
        scenario = scenario.with_network(str(network))
    available = device["available_bytes"] if cuda else host
    return make_plan(
        scenario,
        solved=solved,
        hardware=Hardware(sheet) if sheet else None,
        available_bytes=None if available is None else available // sides,
        host_bytes=host // sides if cuda and host is not None else None,
        cache_bytes=device["cache_bytes"] or 0,
        processes=None if ranks is None else ranks.ranks,
    )


def slower_here(plan: Plan, environment: dict[str, Any], scenario: Scenario) -> list[str]:
    """Why what a plan measures will be slower than this machine is, in a line each; a line is told once."""
    layers = (planned.case.layer for planned in plan.runnable)
    kinds = [layer.kind for layer in layers if layer.takes_best_path]
    cores, threads = environment["host"]["cores"], scenario.measure.threads
    lines = [line for line in announcements(environment["conditions"], kinds, cores, threads) if line not in _told]
    _told.update(lines)
    return lines


def describe_run(scenario: Scenario, plan: Plan, environment: dict[str, Any]) -> Run:
    """What is known of a run before it begins."""
    commit = running_commit()
    return Run(
        scenario=scenario.name,
        description=scenario.description,
        scenario_text=scenario.text,
        scenario_hash=hashlib.sha256("\n".join([scenario.text, *scenario.overrides]).encode()).hexdigest()[:16],
        source=source_name(scenario.source),
        overrides=list(scenario.overrides),
        command=shlex.join(["membench", *sys.argv[1:]]),
        started=utc_now(),
        membench_version=__version__,
        method_version=METHOD_VERSION,
        git_sha=commit.sha,
        git_dirty=commit.dirty,
        git_note=commit.note,
        device=environment["device"]["type"],
        ranks=plan.ranks,
        ranks_reason=plan.ranks_reason,
        rounds=max((p.learning.seeds for p in plan.cases if p.learning), default=scenario.measure.rounds),
        link_gb_s=plan.link_gb_s,
        network=plan.network if plan.ranks > 1 else None,
    )


def _open_journal(
    output: Path, scenario: Scenario, run: Run, environment: dict[str, Any], *, resume: bool
) -> tuple[Journal, Run]:
    """A journal and the run it is of: a new one, or with ``resume`` the interrupted one, which goes on."""
    if resume:
        found = newest_journal(output, scenario.name)
        if found is None:
            raise UsageError(f"{output} holds no interrupted run of {scenario.name} any more", source="--resume")
        journal, before, then = Journal.read(found)
        journal.hold()
        if difference := _difference(before, run, then, environment):
            raise UsageError(f"{found.name} {difference}; start anew", source="--resume")
        return journal, before.model_copy(update={"resumed": run.started})
    stem = result_stem(scenario.name, environment["device"], run.started, run.git_sha)
    journal = Journal.create(output / f"{stem}{SUFFIX}", run, environment)
    journal.hold()
    return journal, run


def _difference(before: Run, now: Run, then: dict[str, Any], environment: dict[str, Any]) -> str | None:
    """Why rounds of an interrupted run may not stand beside new ones, or None."""
    if difference := Machine.of(then).difference(Machine.of(environment)):
        return f"was measured on {then['device']['name']}, not on this device ({difference})"
    if difference := other_conditions(then.get("conditions"), environment["conditions"]):
        return f"was measured under other conditions: {difference}"
    if then["packages"] != environment["packages"]:
        return "was measured with other versions of torch or what is under it"
    if before.method_version != now.method_version:
        return "was measured by another version of the method"
    if before.git_sha != now.git_sha:
        return f"was measured at commit {before.git_sha}, this is {now.git_sha}"
    if before.scenario_hash != now.scenario_hash:
        return "is of another text of this scenario, or other --set"
    if before.only != now.only:
        return "was asked for other cases (--case)"
    if before.ranks != now.ranks:
        how = f"--nproc {before.ranks}, or fit.ranks={before.ranks}"
        return f"is of P = {before.ranks} ranks; now P would be {now.ranks}: take {how} again"
    return None


def _announcement(plan: Plan, environment: dict[str, Any], counts: str) -> str:
    device = environment["device"]
    ranks = f", one rank of P = {plan.ranks} ({plan.ranks_reason})" if plan.ranks > 1 else ""
    if any(planned.case.shared_by for planned in plan.cases):
        ranks = f", each layer shared by {how_many(plan.ranks, 'rank')}"
    skipped = sum(planned.skipped is not None for planned in plan.cases)
    also = f", {skipped} skipped" if skipped else ""
    return f"{plan.scenario} on {device['name']}{ranks}: {counts}{also}"


def _line(case: Case, found: Round, rounds: int) -> str:
    number = f" round {found.number + 1}/{rounds}" if rounds > 1 else ""
    if found.status != "ok":
        return f"{case.name}{number}: {found.status}: {found.reason}"
    told = disturbed(found)
    samples = how_many(len(found.samples_s), "sample") + (f", disturbed: {told.words}" if told else "")
    return f"{case.name}{number}: {1e3 * statistics.median(found.samples_s):.3g} ms ({samples})"
