"""Cases that share a build, answered one by one by worker processes; one that dies takes only its case with it."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial

from membench.case import Case
from membench.machine.provenance import utc_now
from membench.processes.channel import Failed, Message
from membench.processes.child import ChildProcess
from membench.processes.team import Team
from membench.running.protocol import Build, Built, Found


@dataclass(frozen=True, slots=True)
class CaseAnswer:
    """What a process said of a case. ``built`` is None where it could not be built; ``first``: in its process."""

    case: Case
    started: str
    built: Built | None
    answer: Found | Failed
    first: bool


def case_answers(
    job: Build,
    start: Callable[[], ChildProcess | Team],
    question: Callable[[Case, int], Message],
    *,
    report: Callable[[Case, str], None],
) -> Generator[CaseAnswer]:
    """Each case of a job, in its order. After a death the cases that are left get another process.

    Args:
        start: a process, or the ranks of one layer.
        question: what it is asked of a case, which is at this place of its job; it answers with ``Found``.
        report: is told which case is under way and what is being done.
    """
    left = job.cases
    while left:
        started = utc_now()
        with start() as process:
            process.report = partial(report, left[0])
            built = process.ask(job.model_copy(update={"cases": left}), Built)
            if isinstance(built, Failed):  # it would fail for every other case, too
                for case in left:
                    yield CaseAnswer(case, started, None, built, first=True)
                return
            for index, case in enumerate(left):
                process.report = partial(report, case)
                yield CaseAnswer(case, started, built, process.ask(question(case, index), Found), first=index == 0)
                if process.dead:
                    break
            left = left[index + 1 :]
