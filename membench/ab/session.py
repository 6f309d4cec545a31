"""Two revisions measured in turn and judged; more rounds where the first do not decide, fresh data to confirm."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from membench.ab.duel import Duel, Rounds
from membench.ab.revisions import Revision, checked_out
from membench.case import Case
from membench.errors import UsageError
from membench.gate.cases import CaseComparison, in_turn_effect
from membench.gate.comparison import FileComparison, compare_files
from membench.gate.confirm import confirmed
from membench.gate.judge import PLANNED_ROUNDS
from membench.gate.result_set import LoadedResult
from membench.gate.thresholds import Thresholds
from membench.gate.verdicts import Verdict
from membench.journal import SUFFIX, Journal, check_folder
from membench.plan import Plan
from membench.progress import RunProgress
from membench.provenance import probe_environment, result_stem, utc_now
from membench.records import Run
from membench.runner import assemble, builds
from membench.scenario import Scenario
from membench.session import describe_run, ended_as_interrupted, plan_here, write_finished

SIDES = ("base", "head")


@dataclass(frozen=True, slots=True)
class Settings:
    """How an ab is done."""

    device: str
    output: Path
    rounds: int = PLANNED_ROUNDS
    only: Sequence[str] = ()
    thresholds: Thresholds = field(default_factory=Thresholds)


@dataclass(frozen=True, slots=True)
class AbResult:
    """The verdict, and every file that was written (base and head of each phase)."""

    comparison: FileComparison
    paths: list[Path]
    interrupted: bool


def run_ab(scenario: Scenario, names: tuple[str, str], settings: Settings) -> AbResult:
    """Compare two revisions on a scenario.

    Raises:
        UsageError: a revision, the device, the output folder or the plan cannot be used.
    """
    check_folder(settings.output)
    environment = probe_environment(settings.device if settings.device != "auto" else scenario.device)
    plan = plan_here(scenario, environment, sides=len(SIDES)).only(settings.only)
    if not plan.runnable:
        skipped = plan.cases[0].skipped if plan.cases else "it has no case"
        raise UsageError(f"nothing can be measured: {skipped}", source=scenario.source)
    with checked_out(names) as revisions, ended_as_interrupted():
        first = _Phase("", scenario, plan, environment, revisions, settings)
        interrupted = not first.run(settings.rounds, None)
        found = first.compare()
        undecided = {case.id for case in found.cases if case.worst.verdict is Verdict.INCONCLUSIVE}
        if undecided and not interrupted and settings.rounds == PLANNED_ROUNDS:
            interrupted = not first.run(settings.rounds, undecided)
            found = first.compare()
        paths = first.write(interrupted)
        slow = _to_confirm(found)
        if slow and not interrupted:
            second = _Phase("-confirm", scenario, plan, environment, revisions, settings)
            interrupted = not second.run(settings.rounds, slow)
            found = confirmed(found, second.compare())
            paths += second.write(interrupted)
    heads = [path for path in paths if path]
    base, head = (replace(side, path=path) for side, path in zip((found.base, found.head), heads, strict=False))
    return AbResult(replace(found, base=base, head=head), heads, interrupted)


def _to_confirm(found: FileComparison) -> set[str]:
    """The ids of the cases to measure again: the slow ones; all of them where the suite is slow."""
    if found.suite is not None and found.suite.verdict is Verdict.SLOW:
        return {case.id for case in found.cases}
    return {case.id for case in found.cases if _is_slow(case)}


def _is_slow(case: CaseComparison) -> bool:
    return any(metric.verdict is Verdict.SLOW for metric in case.metrics)


class _Phase:
    """Rounds that make one pair of result files."""

    def __init__(
        self,
        suffix: str,
        scenario: Scenario,
        plan: Plan,
        environment: dict[str, Any],
        revisions: tuple[Revision, Revision],
        settings: Settings,
    ) -> None:
        self.plan, self.environment, self.settings = plan, environment, settings
        self.scenario, self.done = scenario, 0
        self.wanted: set[str] | None = None
        run = describe_run(scenario, plan, environment)
        pair = f"{run.started} {revisions[0].sha} {revisions[1].sha}{suffix}"
        self.runs, self.journals = [], []
        for side, revision in zip(SIDES, revisions, strict=True):
            known = {"git_sha": revision.sha, "git_dirty": False, "pair": pair, "rounds": settings.rounds}
            self.runs.append(run.model_copy(update=known))
            name = f"{scenario.name}-ab{suffix}-{side}"
            stem = result_stem(name, environment["device"], run.started, revision.sha)
            self.journals.append(Journal.create(settings.output / f"{stem}{SUFFIX}", self.runs[-1], environment))
        environments = revisions[0].environment, revisions[1].environment
        self.duel: Callable[[RunProgress], Duel] = lambda progress: Duel(
            environments, environment["device"]["type"], scenario.measure, progress.doing
        )

    def run(self, rounds: int, only: set[str] | None) -> bool:
        """More rounds of the cases wanted; False where Ctrl-C ended them."""
        cases = [p.case for p in self.plan.runnable if only is None or p.case.id in only]
        self.wanted = only if self.wanted is None else self.wanted
        with RunProgress(rounds * len(cases)) as progress:
            progress.note(self._announcement(rounds, len(cases)))

            def finished(case: Case, found: Rounds) -> None:
                for journal, each in zip(self.journals, found, strict=True):
                    journal.add(case.id, each)
                progress.finished(_line(case, found))

            duel = self.duel(progress)
            try:
                for number in range(self.done, self.done + rounds):
                    for build in builds(cases):
                        duel.run(build, number, finished)
            except KeyboardInterrupt:
                return False
        self.done += rounds
        return True

    def compare(self) -> FileComparison:
        """The two sides as they stand."""
        loaded = [
            LoadedResult(journal.path, self._result(run, journal))
            for run, journal in zip(self.runs, self.journals, strict=True)
        ]
        return compare_files(loaded[0], loaded[1], self.settings.thresholds)

    def write(self, interrupted: bool) -> list[Path | None]:
        """Both result files."""
        paths = []
        for run, journal in zip(self.runs, self.journals, strict=True):
            ended = run.model_copy(update={"finished": utc_now(), "interrupted": interrupted, "rounds": self.done or 1})
            result = self._result(ended, journal)
            paths.append(write_finished(result, journal, interrupted=interrupted))
        return paths

    def _result(self, run: Run, journal: Journal) -> Any:
        kept = [p for p in self.plan.cases if self.wanted is None or p.case.id in self.wanted]
        return assemble(self.plan.model_copy(update={"cases": kept}), run, self.environment, journal)

    def _announcement(self, rounds: int, cases: int) -> str:
        base, head = self.runs
        more = "more rounds, where the first did not decide" if self.done else "rounds"
        again = " to confirm on fresh data" if base.pair and base.pair.endswith("-confirm") else ""
        return f"{base.scenario}: {base.git_sha} against {head.git_sha}, {cases} cases, {rounds} {more}{again}"


def _line(case: Case, found: Rounds) -> str:
    name = f"{case.arm} {case.mode}" + (f" {case.optimizer}" if case.optimizer else "") + f" x{case.tokens}"
    failed = [f"{side}: {r.status}: {r.reason}" for side, r in zip(SIDES, found, strict=True) if r.status != "ok"]
    if failed:
        return f"{name} round {found[0].number + 1}: {'; '.join(failed)}"
    effect = in_turn_effect(found[0].samples_s, found[1].samples_s)
    return f"{name} round {found[0].number + 1}: {100 * effect:+.1f} %"
