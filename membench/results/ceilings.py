"""The measured ceilings that a time is held against, and the least time that they allow: the floor.

A device streams and computes at one rate each, and serves table rows at random addresses at a third. The floor of
some work is the longer of two times: its FLOPs, and its bytes, streams and rows one after the other. Unknown is None.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from membench.json_values import positive

BoundBy = Literal["compute", "memory"]


@dataclass(frozen=True, slots=True)
class Ceilings:
    """The rates of a device as one round measured them, or as the median of several did."""

    matmul_flops_per_s: float | None
    stream_bytes_per_s: float | None
    random_row_bytes_per_s: float | None

    @classmethod
    def of(cls, measured: Mapping[str, Any]) -> Self:
        """Those of a record's round or of a profile; streams go at the faster of copying and reading."""
        streams = [rate for name in ("copy_bytes_per_s", "read_bytes_per_s") if (rate := positive(measured, name))]
        return cls(
            matmul_flops_per_s=positive(measured, "matmul_flops_per_s"),
            stream_bytes_per_s=max(streams, default=None),
            random_row_bytes_per_s=positive(measured, "random_row_bytes_per_s"),
        )

    def compute_s(self, flops: float) -> float | None:
        """Seconds that so many FLOPs take; 0 where there are none, None where the rate is unknown."""
        return _seconds(flops, self.matmul_flops_per_s)

    def memory_s(self, dram_bytes: float, row_bytes: float) -> float | None:
        """Seconds that DRAM bytes take, of which ``row_bytes`` are table rows at random addresses."""
        streams_s = _seconds(dram_bytes - row_bytes, self.stream_bytes_per_s)
        rows_s = _seconds(row_bytes, self.random_row_bytes_per_s)
        return None if streams_s is None or rows_s is None else streams_s + rows_s

    def floor(self, flops: float, dram_bytes: float, row_bytes: float) -> tuple[float | None, BoundBy | None]:
        """The least seconds of this work, and which of the two makes them."""
        compute_s, memory_s = self.compute_s(flops), self.memory_s(dram_bytes, row_bytes)
        if compute_s is None or memory_s is None:
            return None, None
        return max(compute_s, memory_s), "compute" if compute_s > memory_s else "memory"


def _seconds(amount: float, per_s: float | None) -> float | None:
    if not amount:
        return 0.0
    return amount / per_s if per_s else None
