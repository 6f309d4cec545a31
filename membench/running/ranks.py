"""How the processes of a layer that ranks share are started: on this host, or on several by whoever launched us."""

import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from membench.machine.device import default_threads
from membench.processes.channel import Failed
from membench.processes.child import ChildProcess
from membench.processes.team import Team
from membench.running.of_ranks import joined_answer
from membench.running.protocol import Join, Joined

_MEET_SECONDS = 45.0  # within which all ranks of a layer must have met
_FOLDER = "membench-ranks-"


class Ranks(Protocol):
    """P processes that share every layer, of which ``local_ranks`` are on this host."""

    @property
    def ranks(self) -> int: ...

    @property
    def local_ranks(self) -> int: ...

    def lost(self) -> str | None:
        """A rank of membench that is gone, in a line; None where all are there."""
        ...

    def team(self, module: str, device: str, threads: int | None, timeout_seconds: float) -> Team:
        """The processes, each running ``module``. Who enters it has them meet with ``meet``."""
        ...


class LocalRanks:
    """All on this host."""

    def __init__(self, ranks: int) -> None:
        self.ranks = self.local_ranks = ranks
        self._folder = tempfile.TemporaryDirectory(prefix=_FOLDER, ignore_cleanup_errors=True)
        self._met = 0

    def lost(self) -> str | None:
        return None  # all are this process's own

    def team(self, module: str, device: str, threads: int | None, timeout_seconds: float) -> Team:
        each = threads_of_rank(threads, self.ranks)
        members = [rank_process(module, each, timeout_seconds, one_host=True) for _ in range(self.ranks)]
        self._met += 1
        meeting = f"file://{Path(self._folder.name) / str(self._met)}"
        asked = [
            Join(
                device=device,
                rank=rank,
                ranks=self.ranks,
                local_rank=rank,
                local_ranks=self.ranks,
                meeting=meeting,
                threads=each,
                timeout_seconds=timeout_seconds,
            )
            for rank in range(self.ranks)
        ]
        return MetTeam(members, joined_answer, [f"rank {rank} of {self.ranks}" for rank in range(self.ranks)], asked)


class MetTeam(Team):
    """A team whose processes meet when it is entered; where they do not, every question has that for an answer."""

    def __init__(self, members: list, joined: Callable, names: list[str], asked: list[Join]) -> None:
        super().__init__(members, joined, names)
        self._asked = asked

    def __enter__(self) -> Team:
        super().__enter__()
        try:
            found = self.ask_each(self._asked, Joined)
        except BaseException:
            self.close()
            raise
        if isinstance(found, Failed):
            self.dead = found
        return self


def threads_of_rank(threads: int | None, local_ranks: int) -> int:
    """CPU threads of each rank: as asked, else its share of the cores."""
    return threads or max(1, default_threads() // local_ranks)


def rank_process(module: str, threads: int, timeout_seconds: float, *, one_host: bool) -> ChildProcess:
    """A rank's process on this host; gloo is told the way that stays inside where all are here."""
    environment = {}
    if one_host and "GLOO_SOCKET_IFNAME" not in os.environ and "lo" in _interfaces():
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    return ChildProcess(module, threads=threads, timeout_seconds=timeout_seconds, environment=environment)


def _interfaces() -> list[str]:
    return [name for _, name in socket.if_nameindex()]


def meeting_seconds(timeout_seconds: float) -> float:
    """For how long ranks wait for each other before they begin."""
    return min(timeout_seconds, _MEET_SECONDS)
