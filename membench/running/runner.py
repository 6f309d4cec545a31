"""A plan's cases measured into a journal: rounds of fresh processes, in which nothing is measured twice.

A round measures every build of the plan once, each in its own process and in an order of
its own, so that a drift of the machine falls on all arms alike. What one process measured
is on disk before the next one starts.
"""

import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from membench.case import Case
from membench.measuring.checked_answer import CheckedAnswer
from membench.planning.plan import Plan
from membench.processes.channel import Failed
from membench.processes.child import ChildProcess
from membench.processes.team import Team
from membench.results.records import Round
from membench.running.case_answers import CaseAnswer, case_answers
from membench.running.journal import Journal
from membench.running.protocol import Build, MeasureCase
from membench.running.ranks import Ranks
from membench.scenario.settings import Measure

Report = Callable[[str], None]
_INPUTS = "membench-inputs-"
_OF_MACHINE = ("copy_bytes_per_s", "read_bytes_per_s", "matmul_flops_per_s", "matmul_dtype")


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

    ``report`` gets a line of what is being done; ``finished`` is called after each case. ``worker``: the module of
    its processes. ``ranks``: that share every layer; None: each is measured by one process.
    """

    worker: ClassVar[str] = "membench.running.worker"

    def __init__(
        self,
        plan: Plan,
        measure: Measure,
        device: str,
        journal: Journal,
        report: Report,
        finished: Callable[[Case, Round], None],
        ranks: Ranks | None = None,
    ) -> None:
        self.ranks = ranks
        self.plan, self.measure, self.device = plan, measure, device
        self.journal, self.report, self.finished = journal, report, finished
        self._inputs_folder: str | None = None
        self._ceilings = RoundCeilings()

    def run(self) -> None:
        """All rounds; what the journal holds already is passed over."""
        with inputs_folder() as self._inputs_folder:
            self._run()

    def _run(self) -> None:
        runnable = [planned.case for planned in self.plan.runnable]
        for number in range(self.measure.rounds):
            self._ceilings = RoundCeilings()
            missing = [case for case in runnable if not self.journal.has(case.id, number)]
            order = builds(missing)
            if number:  # the first round follows the file, so that its progress is easy to read
                random.Random(number).shuffle(order)
            for build in order:
                self._run_build(build, number)

    def _run_build(self, build: BuildGroup, number: int) -> None:
        """One build: what each case's process says of it, kept at once."""
        dtype = build.cases[0].layer.dtype
        measured_by = self._ceilings.arm(dtype)
        shared = {"ceilings": self._ceilings.known(dtype), "inputs_folder": self._inputs_folder}
        job = Build.of(list(build.cases), self.device, self.measure, retake=True).model_copy(update=shared)
        answers = case_answers(
            job,
            lambda: self._process(job),
            lambda case, index: self._question(case, index, number),
            report=lambda case, doing: self.report(f"{case.arm} {case.mode}: {doing}"),
        )
        with closing(answers):
            for each in answers:
                self._keep(each, number, measured_by)

    def _process(self, job: Build) -> ChildProcess | Team:
        """What measures a build: a process, or all ranks that share the layer."""
        seconds = self.measure.timeout_seconds
        if self.ranks is None:
            return ChildProcess(self.worker, threads=job.threads, timeout_seconds=seconds)
        return self.ranks.team(self.worker, job.device, job.threads, seconds)

    def _question(self, case: Case, index: int, number: int) -> MeasureCase:
        """A case, with what earlier rounds of the run know of it."""
        before = [found for found in self.journal.latest(case.id) if found.number < number and found.status == "ok"]
        return MeasureCase(
            index=index,
            checked=next((checked for found in before if (checked := _checked(found))), None),
            memory=not any(found.memory for found in before),
            pacer=self.measure.pacer,
        )

    def _keep(self, each: CaseAnswer, number: int, measured_by: str | None) -> None:
        facts = each.built.facts() if each.built else {}
        if each.built:
            facts["ceilings_from"] = measured_by
            self._ceilings.keep(each.case.arm, each.built.ceilings)
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


class RoundCeilings:
    """What the first process of a round has measured of the machine, for each dtype, and the arm that it was of.

    A round's own: what the machine could do an hour ago is not what this round could reach.
    """

    def __init__(self) -> None:
        self._by_dtype: dict[str, tuple[str, dict[str, Any]]] = {}

    def known(self, dtype: str) -> dict[str, Any]:
        """What a process that computes in a dtype need not measure; empty where it is the first."""
        return self._by_dtype[dtype][1] if dtype in self._by_dtype else {}

    def arm(self, dtype: str) -> str | None:
        """The arm in whose process they were measured."""
        return self._by_dtype[dtype][0] if dtype in self._by_dtype else None

    def keep(self, arm: str, ceilings: dict[str, Any]) -> None:
        """What a process has measured, or was told: then it changes nothing."""
        machine = {name: ceilings[name] for name in _OF_MACHINE if name in ceilings}
        if dtype := machine.get("matmul_dtype"):
            self._by_dtype.setdefault(dtype, (arm, machine))


def _checked(found: Round) -> CheckedAnswer | None:
    """What a round found of an answer; None where it did not find it out itself, or is of an earlier membench."""
    name, reference = found.implementation.get("chosen"), found.reference
    if found.answer_digest is None or name is None or (reference or {}).get("bit_equal_to_round") is not None:
        return None
    of_ranks = tuple(rank["answer_digest"] for rank in found.ranks)
    return CheckedAnswer(found.number, name, found.answer_digest, reference, of_ranks)


@contextmanager
def inputs_folder() -> Iterator[str | None]:
    """A folder for drawn inputs, while a run lasts; None where none can be made: then every process draws its own.

    A run that was killed has left its folder: the next one removes it.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{_INPUTS}*"):
        owner = left.name.removeprefix(_INPUTS).partition("-")[0]
        if owner.isdigit() and not is_running(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
    with ExitStack() as stack:
        try:
            made = tempfile.TemporaryDirectory(prefix=f"{_INPUTS}{os.getpid()}-", ignore_cleanup_errors=True)
            folder = stack.enter_context(made)
        except OSError:
            folder = None
        yield folder


def is_running(process: int) -> bool:
    """Whether there is a process of this number; also if it is somebody else's."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
