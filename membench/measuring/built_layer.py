"""A case's layer built on the device, and the device's ceilings beside it, measured in the same process."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from membench.case import Case
from membench.layers.factory import build
from membench.layers.kernels.pages import on_huge_pages
from membench.layers.layer import Layer, torch_dtype
from membench.machine.device import cache_bytes
from membench.measuring.ceilings import MeasuredCeilings, matmul_ceiling, random_row_ceiling, stream_ceilings
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


def build_with_ceilings(case: Case, device: str, progress: Callable[[str], None]) -> Built:
    """Build the layer of a case; the row ceiling is measured on the very table that it reads.

    Raises:
        ValueError: the layer cannot be built, or split over the case's ranks.
    """
    clock, past_bytes = Clock(device), cache_bytes(device)
    begin = time.perf_counter()
    progress("ceilings")
    copied, read = stream_ceilings(clock, past_bytes)
    flops = matmul_ceiling(clock, torch_dtype(case.layer.dtype))
    after_ceilings = time.perf_counter()
    progress("building")
    layer = build(case.layer, ranks=case.ranks, device=device, seed=case.seed)
    built = time.perf_counter()
    table = layer.random_rows
    ceilings = MeasuredCeilings(
        copy_bytes_per_s=copied,
        read_bytes_per_s=read,
        random_row_bytes_per_s=None if table is None else random_row_ceiling(clock, table),
        random_row_bytes=None if table is None else table.shape[1] * table.element_size(),
        matmul_flops_per_s=flops,
        matmul_dtype=case.layer.dtype,
    )
    seconds = {"ceilings": after_ceilings - begin + time.perf_counter() - built, "build": built - after_ceilings}
    huge_pages = None if table is None else table.device.type == "cpu" and on_huge_pages(table)
    return Built(layer, clock, past_bytes, ceilings, huge_pages, seconds)
