"""What a process is asked of a device: the question and its answer."""

import sys
from collections.abc import Callable
from typing import Any

from membench.errors import Unavailable
from membench.processes.channel import Message
from membench.processes.serving import Server


class DeviceQuestion(Message):
    """``auto``, ``cpu`` or ``cuda``."""

    device: str


class RankQuestion(Message):
    """One of so many ranks that meet in a file, each on a device of its own or on this machine's processor.

    ``payloads`` are what they exchange, in bytes, so many ``rounds``.
    """

    device: str
    rank: int
    ranks: int
    meeting: str
    payloads: list[int]
    rounds: int


class DeviceFacts(Message):
    """What was found."""

    facts: dict[str, Any]


def answer_of_devices(describe: Callable[[str], dict[str, Any]]) -> None:
    """Entry point of a process that says what ``describe`` finds; its ValueError says that the device is not there."""

    def answer(question: DeviceQuestion) -> DeviceFacts:
        try:
            return DeviceFacts(facts=describe(question.device))
        except ValueError as problem:
            raise Unavailable(str(problem)) from None

    sys.exit(Server().serve({DeviceQuestion: answer}))
