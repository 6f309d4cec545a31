"""A line between processes on different hosts: messages over TCP, and the knowledge that the other side still lives.

A process that ends closes its end at once. A host that cannot be reached any more says nothing: so both sides say that
they are there every few seconds, and who was silent for too long is lost.
"""

import socket
import struct
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from membench.processes.channel import Channel, Message

SILENCE_SECONDS = 20.0
_SAY_SECONDS = 2.0


class RankLost(Exception):
    """A rank has ended, or cannot be reached; the message is a line that names it."""


class Alive(Message):
    """The other side is there."""


class Line:
    """One end.

    Args:
        end: a connected socket, which is then this line's.
        name: what the other side is called when it is lost.
    """

    def __init__(self, end: socket.socket, name: str) -> None:
        self.name, self.silence_seconds = name, SILENCE_SECONDS
        end.setblocking(True)
        wait = struct.pack("ll", int(SILENCE_SECONDS), 0)  # a message that stops halfway
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            end.setsockopt(socket.SOL_SOCKET, option, wait)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._channel = Channel(Connection(end.detach()))
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._heard, self.ended = time.monotonic(), False
        threading.Thread(target=self._say_alive, daemon=True).start()

    def send(self, message: Message) -> None:
        """Tell the other side.

        Raises:
            RankLost: there is none any more.
        """
        try:
            with self._lock:
                self._channel.send(message)
        except OSError as error:
            raise self._lost("has ended") from error

    def said_within(self, seconds: float) -> dict[str, Any] | None:
        """What the other side says next; None: nothing within so many seconds.

        Raises:
            RankLost: it has ended, or was silent for too long.
        """
        try:
            if self._channel.waits(seconds):
                said, self._heard = self._channel.receive(), time.monotonic()
                return None if said.get("message") == Alive.__name__ else said
        except (EOFError, OSError) as error:
            raise self._lost("has ended") from error
        if time.monotonic() - self._heard > self.silence_seconds:
            raise self._lost(f"was not heard of for {self.silence_seconds:g} s")
        return None

    def close(self) -> None:
        """Say nothing any more."""
        self._closed.set()
        with self._lock, suppress(OSError):
            self._channel.close()

    def _lost(self, how: str) -> RankLost:
        self.ended = True
        return RankLost(f"{self.name} {how}")

    def _say_alive(self) -> None:
        while not self._closed.wait(_SAY_SECONDS):
            try:
                self.send(Alive())
            except RankLost:
                return


def message_of(said: Mapping[str, Any], *kinds: type[Message]) -> Message:
    """What was said as one of these.

    Raises:
        RankLost: it is none of them, as of a process that is no membench.
    """
    named = {kind.__name__: kind for kind in kinds}
    fields = {name: value for name, value in said.items() if name != "message"}
    try:
        return named[said["message"]].model_validate(fields)
    except (KeyError, ValueError) as error:
        raise RankLost("a process that is no rank of this membench answers") from error
