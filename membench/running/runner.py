"""A plan's cases measured into a journal: rounds of fresh processes, in which nothing is measured twice.

A round measures every build of the plan once, each in its own process and in an order of
its own, so that a drift of the machine falls on all arms alike. What one process measured
is on disk before the next one starts.
"""

import random
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass

from membench.case import Case
from membench.planning.plan import Plan
from membench.processes.channel import Failed
from membench.results.records import Round
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
        job = Build.of(list(build.cases), self.device, self.measure, retaking=True)
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
