"""Ranks that were started by torchrun, on one host or many: rank 0 measures, the others do what it says.

Every rank of membench starts a process of its own for each build, as one alone would; those meet over the address that
torchrun tells. What ranks of membench say to each other goes over a line of their own (``membench.processes.line``).
"""

import hashlib
import json
import os
import secrets
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from membench import __version__
from membench.case import METHOD_VERSION
from membench.errors import UsageError
from membench.git.commit import running_commit
from membench.processes.channel import Message
from membench.processes.line import Line, RankLost, message_of
from membench.processes.remote import RemoteProcess, RunOver, StartProcess, serve_as_agent
from membench.processes.team import Team
from membench.running.of_ranks import joined_answer
from membench.running.protocol import Join
from membench.running.ranks import MetTeam, meeting_seconds, rank_process, threads_of_rank
from membench.scenario.scenario import Scenario

_RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_ADDRESS = ("MASTER_ADDR", "MASTER_PORT")
_TOKEN_BYTES = 16


@dataclass(frozen=True, slots=True)
class Place:
    """Which rank this process is, by what torchrun tells."""

    rank: int
    ranks: int
    local_rank: int
    local_ranks: int
    host: str
    port: int
    attempt: str = "0"
    store_is_there: bool = False

    @property
    def name(self) -> str:
        return f"rank {self.rank} of {self.ranks}"


class Hello(Message):
    """What a rank is and is about to measure."""

    token: str
    rank: int
    ranks: int
    local_rank: int
    local_ranks: int
    host: str
    membench: str
    torch: str
    asked: str


def place_of(environment: Mapping[str, str]) -> Place | None:
    """The place that torchrun gives this process; None where it was not started so.

    Raises:
        UsageError: some variables are set and others are not, or make no sense.
    """
    given = [name for name in _RANKS if environment.get(name)]
    if not given:
        return None
    missing = [name for name in (*_RANKS, *_ADDRESS) if not environment.get(name)]
    if missing:
        problem = f"is set, but not {', '.join(missing)}: torchrun sets all of them; unset it to run alone"
        raise UsageError(problem, source=given[0])
    numbers = {name: _number(environment, name) for name in (*_RANKS, "MASTER_PORT")}
    for rank, ranks in (("RANK", "WORLD_SIZE"), ("LOCAL_RANK", "LOCAL_WORLD_SIZE")):
        if numbers[rank] >= numbers[ranks]:
            raise UsageError(f"is {numbers[rank]} of {ranks} {numbers[ranks]}: ranks count from 0", source=rank)
    return Place(
        *(numbers[name] for name in _RANKS),
        host=environment["MASTER_ADDR"],
        port=numbers["MASTER_PORT"],
        attempt=environment.get("TORCHELASTIC_RESTART_COUNT", "0"),
        store_is_there=environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
    )


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment[name]
    if not text.isdecimal():
        raise UsageError(f"should be a whole number, not {text!r}", source=name)
    return int(text)


def asked_of(scenarios: Sequence[Scenario], *others: Any) -> str:
    """A short name of all that is to be measured: equal on ranks that may measure together."""
    texts = [[each.text, *each.overrides] for each in scenarios]
    return hashlib.sha256(json.dumps([texts, *map(str, others)]).encode()).hexdigest()[:16]


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
            self._store.set(_key(place), json.dumps({"port": port, "token": mine.token}))
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


def difference(mine: Hello, theirs: Hello) -> str | None:
    """Why two ranks may not measure together, or None."""
    who = f"rank {theirs.rank} on {theirs.host}"
    if theirs.ranks != mine.ranks:
        return f"{who} was started as one of {theirs.ranks} ranks, rank 0 as one of {mine.ranks}: start all alike"
    if theirs.membench != mine.membench:
        return f"{who} has membench {theirs.membench}, rank 0 {mine.membench}: install the same on all hosts"
    if theirs.torch != mine.torch:
        return f"{who} has torch {theirs.torch}, rank 0 {mine.torch}: install the same on all hosts"
    if theirs.asked != mine.asked:
        return f"{who} has another text of the scenario, or other options, than rank 0: start all alike"
    return None


def hello_of(place: Place, token: str, asked: str) -> Hello:
    """What this process says of itself."""
    from importlib.metadata import version

    commit = running_commit()
    return Hello(
        token=token,
        rank=place.rank,
        ranks=place.ranks,
        local_rank=place.local_rank,
        local_ranks=place.local_ranks,
        host=socket.gethostname(),
        membench=f"{__version__} (method {METHOD_VERSION}, commit {commit.sha or 'unknown'})",
        torch=version("torch"),
        asked=asked,
    )


def follow(place: Place, asked: str | UsageError, timeout_seconds: float) -> RunOver:
    """Be one of the other ranks, until the run is over.

    Args:
        asked: of ``asked_of``; or why this rank cannot say, which rank 0 is told.
        timeout_seconds: as for ``LaunchedRanks``.

    Raises:
        UsageError: rank 0 cannot be reached.
        RankLost: it has ended.
    """
    within = meeting_seconds(timeout_seconds)
    store = store_of(place, within)
    where = f"rank 0 at {place.host}"
    try:
        store.wait([_key(place)], timedelta(seconds=within))
        known = json.loads(store.get(_key(place)))
        end = socket.create_connection((place.host, known["port"]), timeout=within)
    except (OSError, RuntimeError) as error:
        raise UsageError(f"{where} did not say within {within:g} s where it listens") from error
    line = Line(end, where)
    line.silence_seconds = min(line.silence_seconds, timeout_seconds)
    try:
        if isinstance(asked, UsageError):
            why = f"{place.name} on {socket.gethostname()}: {asked}"
            line.send(RunOver(code=2, line=why))
            raise asked
        line.send(hello_of(place, known["token"], asked))
        return serve_as_agent(line, lambda start: process_of(place, start))
    finally:
        line.close()


def process_of(place: Place, start: StartProcess) -> Any:
    """A rank's process on this host, told which of the host's interfaces leads to the others."""
    one_host = place.ranks == place.local_ranks
    if not one_host and "GLOO_SOCKET_IFNAME" not in os.environ and (name := interface_towards(place.host, place.port)):
        os.environ["GLOO_SOCKET_IFNAME"] = name
    return rank_process(start.module, start.threads, start.timeout_seconds, one_host=one_host)


def store_of(place: Place, within: float) -> Any:
    """torch's store at the address that torchrun tells, which rank 0 offers where nobody does yet.

    Raises:
        UsageError: it cannot be reached.
    """
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    offers = place.rank == 0 and not place.store_is_there
    try:
        return TCPStore(
            place.host, place.port, is_master=offers, wait_for_workers=False, timeout=timedelta(seconds=within)
        )
    except (OSError, RuntimeError) as error:  # torch's DistNetworkError is the latter
        what = "cannot be offered" if offers else f"cannot be reached within {within:g} s"
        raise UsageError(f"{place.host}:{place.port} {what}", source="MASTER_ADDR") from error


def interface_towards(host: str, port: int) -> str | None:
    """The interface of this host by which another one is reached; of the host itself, the one that has its address.

    None where that cannot be told: then gloo looks for itself.
    """
    try:
        import fcntl

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, port))  # sends nothing
            own = probe.getsockname()[0]
            for _, name in socket.if_nameindex():
                with suppress(OSError):
                    found = fcntl.ioctl(probe.fileno(), 0x8915, struct.pack("256s", name.encode()[:15]))  # SIOCGIFADDR
                    if socket.inet_ntoa(found[20:24]) == own:
                        return name
    except (ImportError, OSError):
        return None
    return None


def _family(host: str) -> socket.AddressFamily:
    with suppress(OSError):
        return socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
    return socket.AF_INET


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _key(place: Place) -> str:
    return f"membench-{place.attempt}"
