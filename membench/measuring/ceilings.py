"""The highest rates that this device reaches in simple measurements: streaming, random rows, matrix products.

Utilizations are shares of these rates, because no program reaches the figures of a datasheet. Several simple ways are
measured for each rate and the fastest counts: a slow one would make a layer look better than it is.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from membench.layers.initialize import fill_normal_
from membench.layers.kernels.matmul import linear
from membench.layers.kernels.paths import implementation, path_of
from membench.layers.layer import torch_dtype
from membench.measuring.time import Clock, Sampling, sample

_QUICK = Sampling(min_samples=7, floor_samples=3, max_seconds=0.3, warmup_seconds=0.05)
_FAR = 1.5
_BUFFER_BYTES = {"cpu": 2**28, "cuda": 2**32}
_MATMUL_SIZES = {"cpu": (1024, 2048), "cuda": (4096, 8192)}
_SMALL_MATRIX, _HOPELESS = 512, 5
_COLUMNS = 1024  # of the matrix that a buffer is read as
_ROW_READ_BYTES = 32 * 2**20
_Multiply = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class MeasuredCeilings:
    """Bytes and FLOPs per second as a round records them; None if not measured. ``results.ceilings`` reads them."""

    copy_bytes_per_s: float | None = None
    read_bytes_per_s: float | None = None
    random_row_bytes_per_s: float | None = None
    random_row_bytes: int | None = None
    matmul_flops_per_s: float | None = None
    matmul_dtype: str | None = None

    @classmethod
    def of_machine(cls, clock: Clock, cache_bytes: int, dtype: str, known: Mapping[str, Any]) -> "MeasuredCeilings":
        """Those that no layer has a part in; what another process has measured just now is taken from ``known``."""
        copied, read = known.get("copy_bytes_per_s"), known.get("read_bytes_per_s")
        if copied is None or read is None:
            copied, read = stream_ceilings(clock, cache_bytes)
        flops = known.get("matmul_flops_per_s") if known.get("matmul_dtype") == dtype else None
        if flops is None:
            flops = matmul_ceiling(clock, torch_dtype(dtype))
        return cls(copied, read, matmul_flops_per_s=flops, matmul_dtype=dtype)

    def with_rows_of(self, clock: Clock, table: Tensor | None) -> "MeasuredCeilings":
        """And that of random rows, on the very table that a layer reads; None: it reads none."""
        if table is None:
            return self
        row_bytes = table.shape[1] * table.element_size()
        return replace(self, random_row_bytes_per_s=random_row_ceiling(clock, table), random_row_bytes=row_bytes)

    def as_json(self) -> dict[str, float | int | str | None]:
        return asdict(self)


def _best_seconds(clock: Clock, ways: Sequence[Callable[[int], object]]) -> float:
    """Of the fastest way; one that is far slower in a first try is not tried further."""
    inputs = count()
    tried = [min(clock.seconds(way, inputs, 1) for _ in range(2)) for way in ways]
    near = [way for way, seconds in zip(ways, tried, strict=True) if seconds <= _FAR * min(tried)]
    return min([*tried, *(_fastest_s(clock, way, inputs) for way in near)])


def _fastest_s(clock: Clock, way: Callable[[int], object], inputs: Iterator[int]) -> float:
    """The fastest of some calls of a way that has been tried: on a CPU it needs no other warming up."""
    if clock.device == "cuda":
        return min(sample(clock, way, _QUICK).seconds)
    begin, taken = time.perf_counter(), [clock.seconds(way, inputs, 1)]
    while len(taken) < _QUICK.min_samples and time.perf_counter() - begin < _QUICK.max_seconds:
        taken.append(clock.seconds(way, inputs, 1))
    return min(taken)


def stream_ceilings(clock: Clock, cache_bytes: int) -> tuple[float, float]:
    """(bytes/s of a copy, read plus written; bytes/s of reading) over a buffer of at least four times the cache.

    One half of it is copied to the other: memory that a process has not touched before is slow to come by. A product
    of a row may read faster than a sum does: as several stretches side by side.
    """
    size = max(_BUFFER_BYTES[clock.device], 4 * cache_bytes) // 4 // _COLUMNS * _COLUMNS
    buffer = fill_normal_(torch.empty(size, dtype=torch.float32, device=clock.device), 1.0, None)
    source, target = buffer[: size // 2], buffer[size // 2 :][: size // 2]
    copy_s = _best_seconds(clock, [lambda _: target.copy_(source)])
    matrix, row = buffer.view(-1, _COLUMNS), torch.ones(1, _COLUMNS, device=clock.device)
    ways = [lambda _: torch.sum(buffer), lambda _: torch.dot(buffer, buffer), lambda _: linear(row, matrix)]
    read_s = _best_seconds(clock, ways)
    return 2 * source.nbytes / copy_s, buffer.nbytes / read_s


def matmul_ceiling(clock: Clock, dtype: torch.dtype) -> float:
    """FLOPs/s of square products of random numbers, the fastest of several sizes and libraries.

    A library may have no code of its own for a dtype on a processor, and then take a minute for large matrices: one
    that is far slower than another with small ones is tried with no others.
    """
    best, libraries = 0.0, _worth_trying(clock, dtype, (torch.matmul, linear))
    for n in _MATMUL_SIZES[clock.device]:
        best = max(best, 2 * n**3 / _best_seconds(clock, _products(clock, dtype, n, libraries)))
    return best


def _worth_trying(clock: Clock, dtype: torch.dtype, libraries: Sequence[_Multiply]) -> list[_Multiply]:
    """All but those that a first try with small matrices shows to be hopeless."""
    inputs = count()
    ways = _products(clock, dtype, _SMALL_MATRIX, libraries)
    tried = [min(clock.seconds(way, inputs, 1) for _ in range(3)) for way in ways]
    return [each for each, seconds in zip(libraries, tried, strict=True) if seconds <= _HOPELESS * min(tried)]


def _products(
    clock: Clock, dtype: torch.dtype, n: int, libraries: Sequence[_Multiply]
) -> list[Callable[[int], object]]:
    """The same product by each library."""
    a, b = (torch.randn(n, n, device=clock.device).to(dtype) for _ in range(2))
    return [lambda _, multiply=multiply: multiply(a, b) for multiply in libraries]


def random_row_ceiling(clock: Clock, table: Tensor) -> float:
    """Bytes/s of reading random rows of the very table that a layer reads: same row bytes, dtype and pages.

    The readers are: sums of rows in bags of two lengths, which write no rows; a gather, which writes as many bytes as
    it reads, of which only those read are counted; and a kernel that only reads, if there is one in C++ or Triton.
    torch has no bag for rows of eight-bit numbers, so their bytes are read as fp32 numbers.
    """
    row_bytes = table.shape[1] * table.element_size()
    if table.element_size() == 1 and row_bytes % torch.float32.itemsize == 0:
        table = table.view(torch.float32)
    rows = len(table)
    reads = max(1024, _ROW_READ_BYTES // row_bytes) // 128 * 128
    # 32 sets of rows, so that the rows of a set are no longer cached when it is used again
    indices = torch.randint(rows, (32, reads), device=table.device)

    def bag(length: int) -> Callable[[int], object]:
        offsets = torch.arange(0, reads, length, device=table.device)
        return lambda i: F.embedding_bag(indices[i % 32], table, offsets, mode="sum")

    def gather(i: int) -> object:
        return table.index_select(0, indices[i % 32])

    ways: list[Callable[[int], object]] = [gather] if table.element_size() == 1 else [bag(32), bag(128), gather]
    if path_of(table) != "torch" and table.is_contiguous():
        read_rows = implementation("read_rows", table).read_rows
        ways.append(lambda i: read_rows(table, indices[i % 32]))
    return reads * row_bytes / _best_seconds(clock, ways)
