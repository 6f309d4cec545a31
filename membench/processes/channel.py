"""How a process and the one that started it speak: typed messages on a socket that is theirs alone.

Nothing that a library, a ``sitecustomize`` or a layer prints can be taken for a message.
"""

import json
import socket
from collections.abc import Iterable
from multiprocessing.connection import Connection
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from membench.case import Status


class Message(BaseModel):
    """What one side says. The name of its class says which it is."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class Ready(Message):
    """The process has started and listens."""


class Progress(Message):
    """What is being done; the answer is still to come."""

    doing: str


class Failed(Message):
    """Why there is no answer. ``last``: the process has ended, or ends now."""

    status: Status
    reason: str
    last: bool = False


class Channel:
    """One end of the socket."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @classmethod
    def pair(cls) -> "tuple[Channel, socket.socket]":
        """This process's end, and the other end for a process that is about to be started."""
        here, there = socket.socketpair()
        return cls(Connection(here.detach())), there

    @classmethod
    def inherited(cls, descriptor: int) -> "Channel":
        """The end that this process was started with."""
        with socket.socket(fileno=descriptor) as end:
            end.set_inheritable(False)
            return cls(Connection(end.detach()))

    def send(self, message: Message) -> None:
        """Raises OSError where nobody is left to hear it, ValueError for a NaN."""
        self.pass_on(as_said(message))

    def pass_on(self, said: dict[str, Any]) -> None:
        """A message that is not looked at; raises as ``send`` does."""
        self._connection.send_bytes(json.dumps(said, allow_nan=False).encode())

    def waits(self, seconds: float) -> bool:
        """Whether a message, or the end, comes within so many seconds."""
        return self._connection.poll(seconds)

    def receive(self) -> dict[str, Any]:
        """What is said next, not yet read as a message; raises EOFError or OSError where nobody speaks any more."""
        return json.loads(self._connection.recv_bytes())

    def close(self) -> None:
        self._connection.close()


def as_said(message: Message) -> dict[str, Any]:
    """A message as it is sent."""
    # fields at their defaults are left out: an earlier membench may not know those that came later
    return {"message": type(message).__name__, **message.model_dump(mode="json", exclude_defaults=True)}


def read_message(said: dict[str, Any], expected: Iterable[type[Message]]) -> Message:
    """What was said as the message it is.

    Raises:
        ValueError: it is none of those expected, or does not have their fields (pydantic's ValidationError).
    """
    known = {kind.__name__: kind for kind in expected}
    name = said.pop("message", None)
    if name not in known:
        raise ValueError(f"{name} is said where {' or '.join(known)} is expected")
    return known[name].model_validate(said)
