"""Ranks that were started by torchrun, on one host or many: rank 0 measures, the others follow it (``follower``).

Every rank of membench starts a process of its own for each build, as one alone would; those meet over the address that
torchrun tells. What ranks of membench say to each other goes over a line of their own (``membench.processes.line``).
"""

import json
import secrets
import socket
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

from membench.errors import UsageError
from membench.processes.line import Line, RankLost, message_of
from membench.processes.remote import RemoteProcess, RunOver, StartProcess
from membench.processes.team import Team
from membench.running.hello import Hello, difference, hello_of
from membench.running.launched_place import Place, process_of, store_key, store_of
from membench.running.of_ranks import joined_answer
from membench.running.protocol import Join
from membench.running.ranks import MetTeam, meeting_seconds, threads_of_rank

_TOKEN_BYTES = 16


class LaunchedRanks:
    """Rank 0 with its lines to all others. A context manager: leaving it tells them that the run is over.

    Raises on entering:
        UsageError: not all come in time, or one is of another membench or about to measure something else.
    """

    def __init__(self, place: Place, asked: str, timeout_seconds: float) -> None:
        self.place, self.asked, self.timeout_seconds = place, asked, timeout_seconds
        self.ranks, self.local_ranks = place.ranks, place.local_ranks
        self.lines: dict[int, Line] = {}
        self._places: dict[int, Hello] = {}
        self._met = 0

    def __enter__(self) -> Self:
        try:
            self._gather()
        except BaseException as error:
            self._end(error)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(error)

    def over(self, code: int, line: str | None = None) -> None:
        """Tell all others how the run ended; what is told first counts."""
        for each in self.lines.values():
            with suppress(RankLost):
                each.send(RunOver(code=code, line=line))
            each.close()
        self.lines = {}

    def _end(self, error: BaseException | None) -> None:
        if error is None or hasattr(error, "exit_code"):  # which says itself what went wrong
            self.over(getattr(error, "exit_code", 0))
        else:
            self.over(2 if isinstance(error, UsageError) else 5, str(error).strip() or type(error).__name__)

    def lost(self) -> str | None:
        """The rank that is gone, in a line; None where all are there."""
        for line in self.lines.values():
            with suppress(RankLost):
                line.said_within(0.0)
                continue
            return f"{line.name} has ended"
        return None

    def _gather(self) -> None:
        place, within = self.place, meeting_seconds(self.timeout_seconds)
        mine = hello_of(place, secrets.token_hex(_TOKEN_BYTES), self.asked)
        deadline = time.monotonic() + within
        self._store = store_of(place, within)  # kept: the ranks' processes meet there
        with socket.create_server(("", 0), family=_family(place.host), dualstack_ipv6=False) as server:
            port = server.getsockname()[1]
            self._store.set(store_key(place), json.dumps({"port": port, "token": mine.token}))
            while len(self.lines) < place.ranks - 1:
                server.settimeout(max(0.01, deadline - time.monotonic()))
                try:
                    end, _ = server.accept()
                except TimeoutError:
                    missing = sorted({*range(1, place.ranks)} - self.lines.keys())
                    named = ", ".join(map(str, missing))
                    raise UsageError(f"of {place.ranks} ranks {named} did not come within {within:g} s") from None
                self._greet(Line(end, "a rank"), mine, deadline)

    def _greet(self, line: Line, mine: Hello, deadline: float) -> None:
        """Takes in a rank that measures the same.

        Raises:
            UsageError: it does not.
        """
        said = None
        with suppress(RankLost):  # whoever else connects and says nothing
            while said is None and time.monotonic() < deadline:
                said = line.said_within(0.1)
        if said is None or said.get("token") != mine.token:
            line.close()
            if said is not None and said.get("message") == RunOver.__name__:
                raise UsageError(str(said.get("line")))
            return
        theirs = message_of(said, Hello)
        assert isinstance(theirs, Hello)
        line.name = f"rank {theirs.rank} of {self.place.ranks} on {theirs.host}"
        line.silence_seconds = min(line.silence_seconds, self.timeout_seconds)
        problem = difference(mine, theirs)
        if problem is None and theirs.rank in self.lines:
            problem = f"two processes are rank {theirs.rank}: start all with one torchrun command"
        if problem:
            self.lines.setdefault(theirs.rank, line)
            if self.lines[theirs.rank] is not line:
                line.send(RunOver(code=2, line=problem))
            raise UsageError(problem)
        self.lines[theirs.rank], self._places[theirs.rank] = line, theirs

    def team(self, module: str, device: str, threads: int | None, timeout_seconds: float) -> Team:
        place = self.place
        self._met += 1
        each = threads_of_rank(threads, place.local_ranks)
        start = StartProcess(number=self._met, module=module, threads=each, timeout_seconds=timeout_seconds)
        others = [RemoteProcess(self.lines[rank], start) for rank in range(1, place.ranks)]
        members = [process_of(place, start), *others]
        places = [(place.local_rank, place.local_ranks)]
        places += [(self._places[r].local_rank, self._places[r].local_ranks) for r in range(1, place.ranks)]
        asked = [
            Join(
                device=device,
                rank=rank,
                ranks=place.ranks,
                local_rank=local_rank,
                local_ranks=local_ranks,
                meeting=f"tcp://{_in_url(place.host)}:{place.port}/membench-{place.attempt}-{self._met}",
                threads=each,
                timeout_seconds=timeout_seconds,
            )
            for rank, (local_rank, local_ranks) in enumerate(places)
        ]
        names = [place.name, *(self.lines[rank].name for rank in range(1, place.ranks))]
        return MetTeam(members, joined_answer, names, asked)


def _family(host: str) -> socket.AddressFamily:
    with suppress(OSError):
        return socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
    return socket.AF_INET


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
