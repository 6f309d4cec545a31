"""Processes that share a layer meet: torch.distributed over gloo, and NCCL where each has a GPU."""

from datetime import timedelta
from typing import Protocol
from urllib.parse import urlsplit

from membench.errors import Unavailable

_CONNECT_SECONDS = 45.0


class Place(Protocol):
    """Which of the ranks this process is, and where they meet: ``file:///…`` or ``tcp://host:port/prefix``."""

    @property
    def device(self) -> str: ...

    @property
    def rank(self) -> int: ...

    @property
    def ranks(self) -> int: ...

    @property
    def local_rank(self) -> int: ...

    @property
    def local_ranks(self) -> int: ...

    @property
    def meeting(self) -> str: ...

    @property
    def timeout_seconds(self) -> float: ...


def meet(place: Place) -> None:
    """Be one of the ranks of torch.distributed.

    Raises:
        Unavailable: fewer GPUs are here than ranks.
        RuntimeError: the others do not come.
    """
    import torch
    import torch.distributed as dist
    from torch.distributed import FileStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]
    from torch.distributed.distributed_c10d import PrefixStore, Store

    if place.device == "cuda":
        if torch.cuda.device_count() < place.local_ranks:
            raise Unavailable(f"{place.local_ranks} ranks want a GPU each, {torch.cuda.device_count()} are here")
        torch.cuda.set_device(place.local_rank)
    where, waited = urlsplit(place.meeting), timedelta(seconds=min(_CONNECT_SECONDS, place.timeout_seconds))
    if where.scheme == "file":
        store: Store = FileStore(where.path, place.ranks)
    else:
        assert where.hostname is not None and where.port is not None
        store = TCPStore(where.hostname, where.port, is_master=False, timeout=waited, wait_for_workers=False)
        store = PrefixStore(where.path.lstrip("/"), store)
    store.set_timeout(waited)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if place.device == "cuda" else "gloo",
        store=store,
        rank=place.rank,
        world_size=place.ranks,
        timeout=timedelta(seconds=place.timeout_seconds),
    )
