"""What ranks that torchrun has started say of themselves before they measure together."""

import hashlib
import json
import socket
from collections.abc import Sequence
from typing import Any

from membench import __version__
from membench.case import METHOD_VERSION
from membench.git.commit import running_commit
from membench.processes.channel import Message
from membench.running.launched_place import Place
from membench.scenario.scenario import Scenario


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


def asked_of(scenarios: Sequence[Scenario], *others: Any) -> str:
    """A short name of all that is to be measured: equal on ranks that may measure together."""
    texts = [[each.text, *each.overrides] for each in scenarios]
    return hashlib.sha256(json.dumps([texts, *map(str, others)]).encode()).hexdigest()[:16]


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
