"""A rank that torchrun has started and that is not rank 0: it does what that one says until the run is over."""

import json
import socket
from datetime import timedelta

from membench.errors import UsageError
from membench.processes.line import Line
from membench.processes.remote import RunOver, serve_as_agent
from membench.running.hello import hello_of
from membench.running.launched_place import Place, process_of, store_key, store_of
from membench.running.ranks import meeting_seconds


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
        store.wait([store_key(place)], timedelta(seconds=within))
        known = json.loads(store.get(store_key(place)))
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
