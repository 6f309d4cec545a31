"""A process of ours on another host, started and spoken to through the rank of membench that is there.

That rank is an agent: it starts what it is told to, hands questions on, and hands answers back.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from membench.processes.answering import Answer, Answering
from membench.processes.channel import Failed, Message, Progress, as_said
from membench.processes.child import ChildProcess
from membench.processes.line import Line, RankLost, message_of

_LISTEN_SECONDS = 0.05


class StartProcess(Message):
    """Start a module of membench; ``number`` tells it from those before it."""

    number: int
    module: str
    threads: int
    timeout_seconds: float


class Relayed(Message):
    """What is said to the process of this number, or by it."""

    number: int
    said: dict[str, Any]


class EndProcess(Message):
    """End it."""

    number: int


class RunOver(Message):
    """The run has ended; the exit code for all, and why, where it went wrong."""

    code: int
    line: str | None = None


class RemoteProcess(Answering):
    """It is spoken to as one of this host is. A context manager: leaving it ends the process."""

    def __init__(self, line: Line, start: StartProcess) -> None:
        super().__init__()
        self._line, self._start = line, start

    def tell(self, question: Message) -> None:
        """A question, answered later."""
        self._line.send(Relayed(number=self._start.number, said=as_said(question)))

    def hear_within(self, seconds: float, wanted: type[Answer]) -> Answer | Failed | None:
        """The answer, if it comes within so many seconds.

        Raises:
            RankLost: the rank that started it is gone.
        """
        if self.dead is not None:
            return self.dead
        said = self._line.said_within(seconds)
        if said is None:
            return None
        relayed = message_of(said, Relayed)
        assert isinstance(relayed, Relayed)
        if relayed.number != self._start.number:  # of one that was ended meanwhile
            return None
        return self._heard(dict(relayed.said), wanted)

    def __enter__(self) -> "RemoteProcess":
        self._line.send(self._start)
        return self

    def __exit__(self, *reason: Any) -> None:
        with suppress(RankLost):
            self._line.send(EndProcess(number=self._start.number))


def serve_as_agent(line: Line, start: Callable[[StartProcess], ChildProcess]) -> RunOver:
    """Starts and ends processes as rank 0 says, and hands on what is said, until the run is over.

    Raises:
        RankLost: rank 0 is gone; then nothing that was started is left.
    """
    child: ChildProcess | None = None
    number, asked = -1, False
    try:
        while True:
            said = line.said_within(_LISTEN_SECONDS)
            message = None if said is None else message_of(said, StartProcess, Relayed, EndProcess, RunOver)
            if isinstance(message, RunOver):
                return message
            if isinstance(message, StartProcess):
                child, number, asked = start(message), message.number, False
            elif isinstance(message, EndProcess) and child is not None and message.number == number:
                child.__exit__()
                child = None
            elif isinstance(message, Relayed) and child is not None and message.number == number:
                child.pass_on(message.said)
                asked = True
            if child is not None and asked:
                answer = child.said_within(_LISTEN_SECONDS)
                answer = as_said(child.dead) if answer is None and child.dead else answer
                if answer is not None:
                    line.send(Relayed(number=number, said=answer))
                    asked = answer["message"] == Progress.__name__
    finally:
        if child is not None:
            child.__exit__()
