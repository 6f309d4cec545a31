"""A case's layer built on the device, and the device's ceilings beside it, measured in the same round."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from membench.case import Case
from membench.layers.factory import build
from membench.layers.kernels.pages import on_huge_pages
from membench.layers.layer import Layer
from membench.layers.parallel.exchange import Exchange
from membench.machine.device import cache_bytes
from membench.measuring.ceilings import MeasuredCeilings
from membench.measuring.in_step import Alone
from membench.measuring.stop_watch import StopWatch
from membench.measuring.time import Clock


@dataclass(frozen=True, slots=True)
class Built:
    """A layer ready to be measured. ``huge_pages`` is None where no rows are read; ``seconds`` are by purpose."""

    layer: Layer
    clock: Clock
    cache_bytes: int
    ceilings: MeasuredCeilings
    huge_pages: bool | None
    seconds: dict[str, float]


def build_with_ceilings(
    case: Case,
    device: str,
    progress: Callable[[str], None],
    known: Mapping[str, Any] | None = None,
    ranks: Alone | None = None,
) -> Built:
    """Build the layer of a case; the row ceiling is measured on the very table that it reads.

    Args:
        known: the machine's ceilings, as another process of the same round measured them; None: measured here.
        ranks: that share the layer; each finds its own ceilings, while the others do too.

    Raises:
        ValueError: the layer cannot be built, or split over the case's ranks.
    """
    clock, past_bytes, watch = Clock(device), cache_bytes(device), StopWatch()
    progress("ceilings")
    with watch.on("ceilings"):
        ceilings = MeasuredCeilings.of_machine(clock, past_bytes, case.layer.dtype, known or {})
    progress("building")
    with watch.on("build"):
        layer = build(case.layer, ranks=_exchange(case, ranks), device=device, seed=case.seed)
    table = layer.random_rows
    with watch.on("ceilings"):
        ceilings = ceilings.with_rows_of(clock, table)
    huge_pages = None if table is None else table.device.type == "cpu" and on_huge_pages(table)
    return Built(layer, Clock(device, ranks), past_bytes, ceilings, huge_pages, watch.seconds)


def _exchange(case: Case, ranks: Alone | None) -> int | Exchange:
    """What the layer is built with: the number of ranks of which it is one's share alone, or the exchange with them.

    Raises:
        ValueError: the case is of ranks that are not here.
    """
    layout = case.layout
    if layout is None:
        return case.ranks
    if ranks is None or ranks.ranks != case.ranks:
        here = 1 if ranks is None else ranks.ranks
        raise ValueError(f"{case.ranks} ranks share this layer, and {here} measure: run it with --nproc {case.ranks}")
    from membench.layers.parallel.distributed import connect

    dense = "fsdp" if layout.gathers else "tensor" if layout.tensor else "replicas"
    return connect(layout.row_shards, replicas=layout.replicas, dense=dense)
