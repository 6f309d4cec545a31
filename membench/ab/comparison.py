"""Two revisions measured in turn and judged; more rounds where the first do not decide, fresh data to confirm."""

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from membench.ab.in_turn import Rounds, RoundsInTurn
from membench.ab.revisions import Revision, checked_out
from membench.case import Case
from membench.errors import UsageError
from membench.gate.comparison import FileComparison, compare_files, confirmed
from membench.gate.confirm import needs_confirmation
from membench.gate.result_set import LoadedResult
from membench.gate.rounds import in_turn_effect
from membench.gate.statistics import fewest_paired_rounds
from membench.gate.thresholds import Thresholds
from membench.gate.verdicts import Verdict
from membench.machine.provenance import probe_environment, result_stem, utc_now
from membench.planning.plan import Plan, PlannedCase
from membench.processes.signals import ended_as_interrupted
from membench.results.records import Pair, ResultFile, Run
from membench.running.journal import SUFFIX, Journal, check_folder
from membench.running.progress import RunProgress
from membench.running.result_file import assemble, write_finished
from membench.running.run import describe_run, plan_here, slower_here
from membench.running.runner import builds
from membench.scenario.scenario import Scenario
from membench.words import how_many

PLANNED_ROUNDS = 10
SIDES: tuple[Literal["base"], Literal["head"]] = ("base", "head")


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
    with ended_as_interrupted(), checked_out(names) as revisions:  # a name that is none takes no look at the machine
        environment = probe_environment(settings.device if settings.device != "auto" else scenario.device)
        plan = plan_here(scenario, environment, sides=len(SIDES)).only(settings.only)
        if not plan.runnable:
            skipped = plan.cases[0].skipped if plan.cases else "it has no case"
            raise UsageError(f"nothing can be measured: {skipped}", source=scenario.source)
        pair_id = f"{utc_now()} {revisions[0].sha} {revisions[1].sha}"
        first = _Phase("first", scenario, plan, environment, revisions, settings, pair_id, plan.runnable)
        interrupted = not first.run(plan.runnable)
        found = first.compare()
        undecided = {case.id for case in found.cases if case.worst.verdict is Verdict.INCONCLUSIVE}
        if undecided and not interrupted and settings.rounds >= fewest_paired_rounds():
            interrupted = not first.run([p for p in plan.runnable if p.id in undecided])
            found = first.compare()
        paths = first.write(interrupted)
        again = [p for p in plan.runnable if p.id in _to_confirm(found)]
        if again and not interrupted:
            second = _Phase("confirm", scenario, plan, environment, revisions, settings, pair_id, again)
            interrupted = not second.run(again)
            found = confirmed(found, second.compare())
            paths += second.write(interrupted)
    written = [path for path in paths if path]
    sides = [replace(side, path=path or side.path) for side, path in zip((found.base, found.head), paths, strict=False)]
    return AbResult(replace(found, base=sides[0], head=sides[1]), written, interrupted)


def _journal(path: Path, run: Run, environment: dict[str, Any]) -> Journal:
    """A new journal. For a second look one that cannot be written will do: what the first found must not be lost."""
    try:
        return Journal.create(path, run, environment)
    except UsageError as error:
        if run.pair is None or run.pair.phase == "first":
            raise
        print(f"membench: {error}; going on", file=sys.stderr)
        return Journal(path)


def _to_confirm(found: FileComparison) -> set[str]:
    """The ids of the cases to measure again: those that failed or are slow; all of them where the suite is slow."""
    whole = found.suite is not None and found.suite.verdict is Verdict.SLOW
    return {case.id for case in found.cases if whole or needs_confirmation(case)}


class _Phase:
    """Rounds that make one pair of result files, of the cases in ``planned``."""

    def __init__(
        self,
        phase: Literal["first", "confirm"],
        scenario: Scenario,
        plan: Plan,
        environment: dict[str, Any],
        revisions: tuple[Revision, Revision],
        settings: Settings,
        pair_id: str,
        planned: list[PlannedCase],
    ) -> None:
        self.phase, self.scenario, self.environment, self.revisions = phase, scenario, environment, revisions
        self.settings, self.done = settings, 0
        self.plan = plan.model_copy(update={"cases": planned})
        run = describe_run(scenario, plan, environment)
        again = "" if phase == "first" else "-confirm"
        self.runs, self.journals = [], []
        for side, revision in zip(SIDES, revisions, strict=True):
            pair = Pair(id=pair_id, side=side, phase=phase, planned_rounds=settings.rounds)
            code = {"git_sha": revision.sha, "git_dirty": False, "git_note": None}
            known = {**code, "pair": pair, "rounds": settings.rounds}
            self.runs.append(run.model_copy(update=known))
            name = f"{scenario.name}-ab{again}-{side}"
            stem = result_stem(name, environment["device"], run.started, revision.sha)
            self.journals.append(_journal(settings.output / f"{stem}{SUFFIX}", self.runs[-1], environment))

    def run(self, planned: list[PlannedCase]) -> bool:
        """The rounds asked for, of these cases, after those that are done; False where Ctrl-C ended them."""
        cases, rounds = [p.case for p in planned], self.settings.rounds
        with RunProgress(rounds * len(cases)) as progress:
            for line in slower_here(self.plan, self.environment, self.scenario):
                progress.note(f"membench: {line}")
            progress.note(self._announcement(len(cases)))

            def finished(case: Case, found: Rounds) -> None:
                for journal, each in zip(self.journals, found, strict=True):
                    journal.add(case.id, each)
                progress.finished(_line(case, found))

            code = self.revisions[0].code, self.revisions[1].code
            device = self.environment["device"]["type"]
            in_turn = RoundsInTurn(code, device, self.scenario.measure, progress.doing)
            try:
                for number in range(self.done, self.done + rounds):
                    order = builds(cases)
                    random.Random(number).shuffle(order)
                    for build in order:
                        in_turn.run(build, number, finished)
                    self._check_origins(in_turn)
                    self.done = number + 1
            except KeyboardInterrupt:
                return False
        return True

    def _check_origins(self, in_turn: RoundsInTurn) -> None:
        """Raises UsageError if no layer of a side is the revision's own: both sides would be the same code."""
        for revision, option, origins in zip(self.revisions, ("BASE", "HEAD"), in_turn.origins, strict=True):
            if origins and not any(map(revision.holds, origins)):
                for journal in self.journals:
                    journal.remove()
                problem = "nothing that the scenario measures comes from this revision: layers were imported from"
                files = sorted({str(Path(origin).resolve()) for origin in origins})
                raise UsageError(f"{problem} {', '.join(files)}", source=f"{option} {revision.name}")

    def compare(self) -> FileComparison:
        """The two sides as they stand."""
        both = zip(self.runs, self.journals, strict=True)
        base, head = (LoadedResult(journal.path, self._result(run, journal)) for run, journal in both)
        return compare_files(base, head, self.settings.thresholds)

    def write(self, interrupted: bool) -> list[Path | None]:
        """Both result files."""
        paths = []
        for run, journal in zip(self.runs, self.journals, strict=True):
            known = {"finished": utc_now(), "interrupted": interrupted, "rounds": max(1, self.done)}
            result = self._result(run.model_copy(update=known), journal)
            paths.append(write_finished(result, journal, interrupted=False))  # nothing resumes an ab
        return paths

    def _result(self, run: Run, journal: Journal) -> ResultFile:
        return assemble(self.plan, run, self.environment, journal)

    def _announcement(self, cases: int) -> str:
        base, head = self.runs
        why = {"first": "", "confirm": " on fresh data, to confirm"}[self.phase]
        rounds = self.settings.rounds
        more = how_many(rounds, "more round") + ", where the first did not decide"
        counts = f"{how_many(cases, 'case')}, {more if self.done else how_many(rounds, 'round') + why}"
        return f"{base.scenario}: {base.git_sha} against {head.git_sha}, {counts}"


def _line(case: Case, found: Rounds) -> str:
    failed = [f"{side}: {r.status}: {r.reason}" for side, r in zip(SIDES, found, strict=True) if r.status != "ok"]
    if failed:
        return f"{case.name} round {found[0].number + 1}: {'; '.join(failed)}"
    effect = in_turn_effect(found[0].samples_s, found[1].samples_s)
    return f"{case.name} round {found[0].number + 1}: {100 * effect:+.1f} %"
