"""What this device can do at best, measured: streaming, random rows, matrix products.

A utilization is achieved over these, because a datasheet's figure is reached by nobody.
Each is the fastest of several plain ways, so that a layer is not flattered by a weak one.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from membench.layers.initialize import fill_normal_
from membench.layers.kernels.matmul import linear
from membench.layers.kernels.paths import implementation, path_of
from membench.measuring.time import Clock, Sampling, sample

_QUICK = Sampling(min_samples=7, floor_samples=3, max_seconds=0.3, warmup_seconds=0.05)
_BUFFER_BYTES = {"cpu": 2**28, "cuda": 2**32}
_MATMUL_SIZES = {"cpu": (1024, 2048), "cuda": (4096, 8192)}
_ROW_READ_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class MeasuredCeilings:
    """Bytes and FLOPs a second as a round records them; None where not measured. ``results.ceilings`` reads them."""

    copy_bytes_per_s: float | None = None
    read_bytes_per_s: float | None = None
    random_row_bytes_per_s: float | None = None
    random_row_bytes: int | None = None
    matmul_flops_per_s: float | None = None
    matmul_dtype: str | None = None

    def as_json(self) -> dict[str, float | int | str | None]:
        return asdict(self)


def _best_seconds(clock: Clock, ways: Sequence[Callable[[int], object]]) -> float:
    return min(min(sample(clock, way, _QUICK).seconds) for way in ways)


def stream_ceilings(clock: Clock, cache_bytes: int) -> tuple[float, float]:
    """(copied bytes/s, read plus written; read bytes/s) over a buffer past four times the cache."""
    size = max(_BUFFER_BYTES[clock.device], 4 * cache_bytes) // 4
    source = fill_normal_(torch.empty(size, dtype=torch.float32, device=clock.device), 1.0, None)
    target = torch.empty_like(source)
    copy_s = _best_seconds(clock, [lambda _: target.copy_(source)])
    read_s = _best_seconds(clock, [lambda _: torch.sum(source), lambda _: torch.dot(source, source)])
    return 2 * source.nbytes / copy_s, source.nbytes / read_s


def matmul_ceiling(clock: Clock, dtype: torch.dtype) -> float:
    """FLOPs/s of square products of random numbers, the best of several sizes and layouts."""
    best = 0.0
    for n in _MATMUL_SIZES[clock.device]:
        a, b = (torch.randn(n, n, device=clock.device).to(dtype) for _ in range(2))
        ways = [lambda _, a=a, b=b: a @ b, lambda _, a=a, b=b: linear(a, b)]
        best = max(best, 2 * n**3 / _best_seconds(clock, ways))
    return best


def random_row_ceiling(clock: Clock, table: Tensor) -> float:
    """Bytes/s of reading random rows of the very table a layer reads: same row bytes, dtype, pages.

    Plain readers: bags of summed rows in two lengths (no row is written), a gather (which writes as much as
    it reads; only what it reads counts), and a kernel that only reads, in C++ or Triton, where there is one. Rows
    of eight-bit numbers, of which torch has no bag, are summed as the fp32 numbers that their bytes would be.
    """
    row_bytes = table.shape[1] * table.element_size()
    if table.element_size() == 1 and row_bytes % torch.float32.itemsize == 0:
        table = table.view(torch.float32)
    rows = len(table)
    count = max(1024, _ROW_READ_BYTES // row_bytes) // 128 * 128
    # 32 sets of fresh rows, so that no set finds its rows in the cache
    indices = torch.randint(rows, (32, count), device=table.device)

    def bag(length: int) -> Callable[[int], object]:
        offsets = torch.arange(0, count, length, device=table.device)
        return lambda i: F.embedding_bag(indices[i % 32], table, offsets, mode="sum")

    def gather(i: int) -> object:
        return table.index_select(0, indices[i % 32])

    ways: list[Callable[[int], object]] = [gather] if table.element_size() == 1 else [bag(32), bag(128), gather]
    if path_of(table) != "torch" and table.is_contiguous():
        read_rows = implementation("read_rows", table).read_rows
        ways.append(lambda i: read_rows(table, indices[i % 32]))
    return count * row_bytes / _best_seconds(clock, ways)
