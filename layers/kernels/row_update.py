"""How a row of a table changes by its gradient: the rules, their numbers and the state that they keep.

Letters: N rows, D columns, w a row, g its gradient, t the number of the update, lr the learning rate.

Arithmetic is fp32. Decoupled weight decay (arXiv 1711.05101) shrinks only rows that were read.

    sgd          w -= lr·g
    row_adagrad  s += mean(g²);  w -= lr·g / (sqrt(s) + eps)                       (one s per row, as in FBGEMM)
    row_adam     m, v = moments of g and of mean(g²);  w -= lr·m̂ / (sqrt(v̂) + eps)  (one v per row)
    lazy_adam    Element-wise Adam (arXiv 1412.6980). If a row was not read for some steps, its moments and weights
                 are first decayed once for each of them, as dense AdamW would have done. In those steps dense AdamW
                 would also have moved the row by the first moment; that is left out.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from membench.layers.kernels.checks import check_fp32, check_integers, check_shape, check_together
from membench.layers.kernels.step_clock import Field, check_clock

RowOptimizer = Literal["sgd", "row_adagrad", "row_adam", "lazy_adam"]
ROW_OPTIMIZERS: tuple[RowOptimizer, ...] = ("sgd", "row_adagrad", "row_adam", "lazy_adam")


@dataclass(frozen=True, slots=True)
class RowStep:
    """One update.

    Attributes:
        number: t, from 1.
        seed: 32 bits that decide how bf16 rows are rounded: up or down, with probabilities that keep the mean.
            With None, and for other dtypes, rows are rounded to nearest.
        clock: (11,) fp64 on the table's device, of ``layers.kernels.step_clock``: it has number, rate, decay and seed
            in place of these, so that a replayed CUDA graph makes the next update. ``seed`` then only says, by not
            being None, that rows are rounded at random.
    """

    optimizer: RowOptimizer
    learning_rate: float
    weight_decay: float = 0.0
    eps: float = 1e-8
    beta1: float = 0.9
    beta2: float = 0.999
    number: int = 1
    seed: int | None = None
    clock: Tensor | None = None

    def check(self, table: Tensor) -> None:
        """Checks that a clock fits a table.

        Raises:
            ValueError: it has another shape or dtype, or lies elsewhere.
        """
        if self.clock is not None:
            check_clock(self.clock)
            check_together(table=table, clock=self.clock)

    def read(self) -> "RowStep":
        """The same without a clock, by the host's numbers. On a GPU the host waits."""
        if self.clock is None:
            return self
        now = self.clock.tolist()
        return replace(
            self,
            learning_rate=now[Field.LEARNING_RATE],
            weight_decay=now[Field.WEIGHT_DECAY],
            number=int(now[Field.NUMBER]),
            seed=None if self.seed is None else int(now[Field.ROUNDING_SEED]),
            clock=None,
        )


@dataclass(slots=True)
class RowState:
    """The state that a rule keeps of a table; None for what it does not need.

    Attributes:
        sums: (N,) fp32, of row_adagrad.
        first: (N, D) fp32, the first moment of row_adam and lazy_adam.
        second: fp32, the second moment: (N,) of row_adam, (N, D) of lazy_adam.
        stamps: (N,) int32, of lazy_adam: the last update of each row, 0 for none.
    """

    sums: Tensor | None = None
    first: Tensor | None = None
    second: Tensor | None = None
    stamps: Tensor | None = None

    @classmethod
    def of(cls, table: Tensor, optimizer: RowOptimizer) -> "RowState":
        """All zeros, for a table (N, D)."""
        fp32 = {"dtype": torch.float32, "device": table.device}
        rows = table.shape[0]
        match optimizer:
            case "sgd":
                return cls()
            case "row_adagrad":
                return cls(sums=torch.zeros(rows, **fp32))
            case "row_adam":
                return cls(first=torch.zeros(table.shape, **fp32), second=torch.zeros(rows, **fp32))
            case "lazy_adam":
                stamps = torch.zeros(rows, dtype=torch.int32, device=table.device)
                first, second = (torch.zeros(table.shape, **fp32) for _ in range(2))
                return cls(first=first, second=second, stamps=stamps)

    def check(self, table: Tensor, optimizer: RowOptimizer) -> None:
        """Checks that this is a state that ``of`` makes.

        Raises:
            ValueError: the rule is unknown; or a tensor is missing, or has another shape, dtype or device.
        """
        if optimizer not in ROW_OPTIMIZERS:
            raise ValueError(f"a row optimizer is one of {', '.join(ROW_OPTIMIZERS)}, not {optimizer!r}")
        rows, columns = table.shape
        wanted = {
            "sgd": {},
            "row_adagrad": {"sums": (rows,)},
            "row_adam": {"first": (rows, columns), "second": (rows,)},
            "lazy_adam": {"first": (rows, columns), "second": (rows, columns), "stamps": (rows,)},
        }[optimizer]
        own = self.named_tensors()
        if own.keys() != wanted.keys():
            raise ValueError(
                f"{optimizer} remembers {', '.join(wanted) or 'nothing'}, not {', '.join(own) or 'nothing'}"
            )
        for name, tensor in own.items():
            check_shape(name, tensor, wanted[name], "(N, D)" if len(wanted[name]) == 2 else "(N,)")
            check_integers(name, tensor, wide=False) if name == "stamps" else check_fp32(name, tensor)
        check_together(table=table, **own)

    def named_tensors(self) -> dict[str, Tensor]:
        """The tensors that exist, by name."""
        named = {"sums": self.sums, "first": self.first, "second": self.second, "stamps": self.stamps}
        return {name: tensor for name, tensor in named.items() if tensor is not None}


def random_bits(rows: Tensor, columns: int, seed: int) -> Tensor:
    """(U, D) int64 in 0 … 65535: the bits that stochastic rounding adds below a bf16's last.

    A hash of the element's position, so that every path rounds in the same way: with index = row·D + column, the lower
    half of fmix32(low 32 bits of index ^ fmix32(high 32 bits + seed)); fmix32 is MurmurHash3's finalizer.
    """
    index = rows.long()[:, None] * columns + torch.arange(columns, device=rows.device)
    return _fmix32((index & 0xFFFFFFFF) ^ _fmix32(((index >> 32) + seed) & 0xFFFFFFFF)) & 0xFFFF


def _fmix32(h: Tensor) -> Tensor:
    h = h ^ (h >> 16)
    h = _product32(h, 0x85EBCA6B)
    h = h ^ (h >> 13)
    h = _product32(h, 0xC2B2AE35)
    return h ^ (h >> 16)


def _product32(h: Tensor, factor: int) -> Tensor:
    """h·factor mod 2^32, in two halves: the whole product would overflow 63 bits."""
    low = h * (factor & 0xFFFF)
    high = ((h * (factor >> 16)) & 0xFFFF) << 16
    return (low + high) & 0xFFFFFFFF
