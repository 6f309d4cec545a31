"""Processes that answer together: each question goes to all of them, and one that fails ends them all."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Protocol

from membench.processes.answering import Answer
from membench.processes.channel import Failed, Message

_HEAR_SECONDS = 0.02  # for which each is listened to in turn
_GRACE_SECONDS = 3.0  # after the first has failed: what the others say may be the cause


class Process(Protocol):
    """One that is asked by itself, here or on another host."""

    dead: Failed | None
    report: Callable[[str], None]

    def tell(self, question: Message) -> None: ...

    def hear_within(self, seconds: float, wanted: type[Answer]) -> Answer | Failed | None: ...

    def __enter__(self) -> "Process": ...

    def __exit__(self, *reason: Any) -> None: ...


class Team:
    """A context manager: leaving it ends all. It is spoken to as one process is.

    Args:
        members: by rank; what rank 0 is doing is reported.
        joined: makes one answer of those of all ranks, of one kind.
        names: what a failure calls each of them.
    """

    def __init__(self, members: Sequence[Process], joined: Callable[[list[Any]], Any], names: Sequence[str]) -> None:
        self.dead: Failed | None = None
        self._members, self._joined, self._names = members, joined, names
        self._open = ExitStack()

    @property
    def report(self) -> Callable[[str], None]:
        """Is told what is being done."""
        return self._members[0].report

    @report.setter
    def report(self, report: Callable[[str], None]) -> None:
        self._members[0].report = report

    def ask(self, question: Message, wanted: type[Answer]) -> Answer | Failed:
        """The joined answer to a question that all are asked, or why there is none."""
        return self.ask_each([question] * len(self._members), wanted)

    def ask_each(self, questions: Sequence[Message], wanted: type[Answer]) -> Answer | Failed:
        """The same, each rank being asked its own question."""
        if self.dead is not None:
            return self.dead
        for member, question in zip(self._members, questions, strict=True):
            member.tell(question)
        answers: dict[int, Answer | Failed] = {}
        failed_at: float | None = None
        while len(answers) < len(self._members):
            for rank, member in enumerate(self._members):
                if rank not in answers and (answer := member.hear_within(_HEAR_SECONDS, wanted)) is not None:
                    answers[rank] = answer
            if failed_at is None and any(isinstance(answer, Failed) for answer in answers.values()):
                failed_at = time.monotonic()
            if failed_at is not None and time.monotonic() - failed_at > _GRACE_SECONDS:
                break
        failures = {rank: answer for rank, answer in answers.items() if isinstance(answer, Failed)}
        if failures:
            self.dead = self._cause(failures)
            self.close()
            return self.dead
        return self._joined([answers[rank] for rank in range(len(self._members))])

    def _cause(self, failures: dict[int, Failed]) -> Failed:
        """The failure of which the others follow: that of a process which died, else the one that says most."""

        def order(rank: int) -> tuple[bool, bool]:
            failed, died = failures[rank], self._members[rank].dead is not None
            return not died, failed.status == "error" and not failed.reason.startswith("wrong answer")

        rank = min(failures, key=order)
        found = failures[rank]
        return found.model_copy(update={"reason": f"{self._names[rank]}: {found.reason}", "last": True})

    def close(self) -> None:
        """End all of them."""
        self._open.close()

    def __enter__(self) -> "Team":
        with ExitStack() as opening:  # where one cannot be started, none is left
            for member in self._members:
                opening.enter_context(member)
            self._open = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
