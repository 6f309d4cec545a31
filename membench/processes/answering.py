"""A process that is asked, here or on another host: what it has said, read."""

from collections.abc import Callable
from typing import Any, TypeVar

from membench.processes.channel import Failed, Message, Progress, read_message

Answer = TypeVar("Answer", bound=Message)


class Answering:
    """``report`` is told what the process is doing; ``dead`` is why nothing comes of it any more."""

    def __init__(self, report: Callable[[str], None] = lambda _: None) -> None:
        self.dead: Failed | None = None
        self.report = report

    def _heard(self, said: dict[str, Any], wanted: type[Answer]) -> Answer | Failed | None:
        """The answer that was said; None: it is still to come."""
        message = read_message(said, (Progress, Failed, wanted))
        if isinstance(message, Progress):
            self.report(message.doing)
            return None
        if isinstance(message, Failed) and message.last:
            self.dead = message
        assert isinstance(message, wanted | Failed)
        return message
