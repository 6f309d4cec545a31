"""Optimizers of a layer: AdamW for its matrices, and for its tables one that touches only the rows read.

Row-wise Adagrad keeps one fp32 number a row: s += mean(g²), w -= lr·g / (sqrt(s) + eps)
(as FBGEMM's exact row-wise Adagrad defines it). AdamW on a table is dense by definition: every
row's moments decay every step, so it pays for the whole table.
"""

import torch
from torch import Tensor

from layers.kernels.stages import stage
from layers.layer import Layer
from layers.spec import Optimizer
from layers.value_table import ValueTable

_EPS = 1e-8


class RowUpdate:
    """SGD or row-wise Adagrad on the touched rows of one table."""

    def __init__(self, table: ValueTable, learning_rate: float, *, adagrad: bool) -> None:
        self.table = table
        self.learning_rate = learning_rate
        self.state = torch.zeros(len(table.weight), device=table.weight.device) if adagrad else None

    @torch.no_grad()
    def step(self) -> None:
        """Apply the table's row gradient, if there is one, in fp32; the rows keep their dtype."""
        gradient = self.table.gradient
        if gradient is None:
            return
        rows, change = gradient.rows, gradient.values.float()
        if self.state is not None:
            sums = self.state[rows] + change.square().mean(dim=1)
            self.state[rows] = sums
            change = change / (sums.sqrt() + _EPS)[:, None]
        weight = self.table.weight
        weight.index_copy_(0, rows, (weight[rows].float() - self.learning_rate * change).to(weight.dtype))


class DenseTableAdamW:
    """The same AdamW as for any parameter, over the whole table: what a dense gradient costs."""

    def __init__(self, table: ValueTable, learning_rate: float) -> None:
        self.table = table
        self.parameter = table.weight
        self.adamw = torch.optim.AdamW([self.parameter], lr=learning_rate, fused=True)

    def step(self) -> None:
        """Spread the row gradient into a dense one and step."""
        if self.table.gradient is None:
            return
        self.parameter.grad = self.table.gradient.to_dense(len(self.parameter))
        self.adamw.step()
        self.parameter.grad = None


class LayerOptimizer:
    """What ``optimizer`` means for a whole layer: ``step()`` updates matrices and tables.

    ``adamw``: AdamW everywhere. ``row_adagrad``: AdamW, tables by row-wise Adagrad.
    ``sgd``: plain SGD, tables by touched rows. A learning rate of 0 does all the work and
    leaves the weights as they are.
    """

    def __init__(self, layer: Layer, optimizer: Optimizer, learning_rate: float = 1e-3) -> None:
        self._layer, self._frozen = layer, learning_rate == 0.0
        tables = layer.tables()
        table_weights = {id(table.weight) for table in tables}
        matrices = [p for p in layer.parameters() if id(p) not in table_weights]
        if optimizer == "sgd":
            self._matrices = torch.optim.SGD(matrices, lr=learning_rate, fused=True) if matrices else None
        else:
            self._matrices = torch.optim.AdamW(matrices, lr=learning_rate, fused=True) if matrices else None
        self._tables: list[RowUpdate | DenseTableAdamW] = [
            DenseTableAdamW(table, learning_rate)
            if optimizer == "adamw"
            else RowUpdate(table, learning_rate, adagrad=optimizer == "row_adagrad")
            for table in tables
        ]

    def step(self) -> None:
        """One update from the gradients that the last backward left."""
        if self._matrices is not None:
            with stage("update"):
                self._matrices.step()
        if self._tables:
            with stage("table_update"):
                for table in self._tables:
                    table.step()
        self._layer.balance(frozen=self._frozen)

    @property
    def dense_table_gradient_bytes(self) -> int:
        """What AdamW on tables spreads row gradients into, for the length of a step."""
        return sum(table.parameter.nbytes for table in self._tables if isinstance(table, DenseTableAdamW))

    def state_tensors(self) -> list[Tensor]:
        """Every tensor of optimizer state, to be counted."""
        found = _states(self._matrices)
        for table in self._tables:
            if isinstance(table, DenseTableAdamW):
                found += _states(table.adamw)
            elif table.state is not None:
                found.append(table.state)
        return found


def _states(optimizer: torch.optim.Optimizer | None) -> list[Tensor]:
    if optimizer is None:
        return []
    return [v for state in optimizer.state.values() for v in state.values() if torch.is_tensor(v) and v.numel() > 1]
