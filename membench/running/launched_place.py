"""Where torchrun has put this process: its rank, the store that all ranks see, and its process to measure in."""

import os
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from membench.errors import UsageError
from membench.processes.remote import StartProcess
from membench.running.ranks import rank_process

_RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_ADDRESS = ("MASTER_ADDR", "MASTER_PORT")


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


def store_key(place: Place) -> str:
    """Under which rank 0 says in ``store_of`` where it listens, and its token."""
    return f"membench-{place.attempt}"


def process_of(place: Place, start: StartProcess) -> Any:
    """A rank's process on this host, told which of the host's interfaces leads to the others."""
    one_host = place.ranks == place.local_ranks
    if not one_host and "GLOO_SOCKET_IFNAME" not in os.environ and (name := interface_towards(place.host, place.port)):
        os.environ["GLOO_SOCKET_IFNAME"] = name
    return rank_process(start.module, start.threads, start.timeout_seconds, one_host=one_host)


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
