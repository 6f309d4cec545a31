"""Which rows each token reads; and these lookups sorted by row, as every gradient of rows needs them.

Letters: N rows, B tokens, L lookups a token, M = B·L, U distinct rows among them.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from membench.layers.kernels.checks import check_integers, check_shape
from membench.layers.kernels.paths import implementation
from membench.layers.kernels.uncompiled import custom_op
from membench.layers.spec.quantities import INDEX_BYTES, index_bytes


@dataclass(frozen=True, slots=True)
class Runs:
    """Lookups grouped by row: those of ``rows[u]`` are ``order[starts[u] : starts[u + 1]]``, ascending.

    On a GPU the host does not know U. Then there are M entries, and those past U are empty runs.

    Attributes:
        rows: (U,) ascending and distinct, of the lookups' dtype.
        starts: (U + 1,) int32.
        order: (M,) int32, lookups numbered b·L + l.
    """

    rows: Tensor
    starts: Tensor
    order: Tensor

    def exact(self) -> "Runs":
        """The runs without empty ones. On a GPU the host must wait for this."""
        if self.rows.device.type == "cpu":
            return self
        distinct = int((self.starts[1:] > self.starts[:-1]).sum())
        return Runs(self.rows[:distinct], self.starts[: distinct + 1], self.order)


class Lookups:
    """The rows (B, L) of a table of ``num_rows`` that each token reads; sorted when a gradient first needs it.

    Kept as int32 where row numbers fit, which halves what is read and sorted.

    Raises:
        ValueError: rows are not row numbers.
    """

    def __init__(self, rows: Tensor, num_rows: int) -> None:
        check_shape("rows", rows, (None, None), "(B, L)")
        check_integers("rows", rows)
        kept = index_dtype(num_rows)
        if rows.dtype != kept and kept == torch.int32:
            rows = rows.clamp(-1, num_rows).int()  # what is out of range stays so
        self.rows = rows.to(kept)
        self.num_rows = num_rows

    @cached_property
    def runs(self) -> Runs:
        return find_runs(self.rows.flatten(), self.num_rows)

    @cached_property
    def exact_runs(self) -> Runs:
        """The runs without empty ones. On a GPU the host must wait for this."""
        return self.runs.exact()


def index_dtype(num_rows: int) -> torch.dtype:
    """int32 if it can number that many rows, else int64."""
    return torch.int32 if index_bytes(num_rows) == INDEX_BYTES else torch.int64


def find_runs(rows: Tensor, num_rows: int) -> Runs:
    """The runs of equal rows among lookups (M,), by a stable sort, so that sums over a run are reproducible.

    Raises:
        ValueError: rows have another shape or dtype.
        IndexError: on a CPU, if a row number is beyond the table.
    """
    check_shape("rows", rows, (None,), "(M,)")
    check_integers("rows", rows)
    return Runs(*_find_runs(rows, num_rows))


@custom_op("membench::find_runs")
def _find_runs(rows: Tensor, num_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    return implementation("lookups", rows).find_runs(rows, num_rows)


@_find_runs.register_fake
def _(rows: Tensor, num_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    del num_rows
    distinct = rows.shape[0]
    if rows.device.type == "cpu":
        distinct = torch.library.get_ctx().new_dynamic_size()
    int32 = {"dtype": torch.int32, "device": rows.device}
    return rows.new_empty(distinct), torch.empty(distinct + 1, **int32), torch.empty(rows.shape[0], **int32)
