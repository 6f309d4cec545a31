"""Is a table's update right, fused into the backward pass as it will be timed?

One update from a zero state, by row gradients that ``verify`` has checked, against the rule's definition in
float64. Everything that was changed for it is put back.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from membench.layers.checking import reference
from membench.layers.checking.sampled_reference import relative_rms
from membench.layers.optim.layer_optimizer import LayerOptimizer
from membench.layers.optim.table_optimizer import TableOptimizer

_COMPARED_ELEMENTS = 2**22  # of a table; float64 copies of all touched rows would not fit


def update_errors(
    optimizer: LayerOptimizer, backward: Callable[[], object], update: Callable[[], object] | None = None
) -> dict[str, float]:
    """The relative RMS error of rows after one fused update, by table; nothing where tables have dense AdamW.

    Args:
        optimizer: of the layer; what it remembers is set aside.
        backward: one forward and backward pass, the same whenever it is called.
        update: the same with the optimizer's update, of a step that can only be made as a whole; None: it is made here.
    """
    tables = [table for table in optimizer.tables if isinstance(table, TableOptimizer)]
    if not tables:
        return {}
    backward()
    trials = [_Trial(table) for table in tables]
    if update is None:
        with optimizer.fused():
            backward()
        optimizer.step_tables()
    else:
        update()
    return {f"table {number} after {trial.rule.optimizer}": trial.finish() for number, trial in enumerate(trials)}


class _Trial:
    """One update of one table, so large that its error shows beside the rows' own size."""

    @torch.no_grad()
    def __init__(self, optimizer: TableOptimizer) -> None:
        gradient = optimizer.table.gradient
        assert gradient is not None
        self.optimizer, self.asked, self.number = optimizer, optimizer.rule, optimizer.number
        self.rows = gradient.rows
        self.states = [tensor[self.rows] for tensor in optimizer.state_tensors()]
        self._set_states([torch.zeros_like(state) for state in self.states], 0)
        self.before = optimizer.table.weight[self.rows]
        step = max(1, len(self.rows) * self.before.shape[1] // _COMPARED_ELEMENTS)
        self.compared = torch.arange(0, len(self.rows), step, device=self.rows.device)
        self.gradient = gradient.values[self.compared].double()
        size = _rms(self.before[self.compared].double())
        rate = size / (_rms(self.gradient) or 1.0) if self.asked.optimizer == "sgd" else size
        self.rule = optimizer.rule = replace(self.asked, learning_rate=rate or 1.0)
        optimizer.table.gradient = None

    @torch.no_grad()
    def finish(self) -> float:
        """The error; then all as it was."""
        table, rows = self.optimizer.table.weight, self.rows
        after = table[rows[self.compared]]
        before = self.before[self.compared].double()
        rule = self.rule
        expected = reference.first_row_update(
            rule.optimizer,
            before,
            self.gradient,
            rule.learning_rate,
            rule.weight_decay,
            rule.eps,
            self.optimizer.table.over_columns,
        )
        table[rows] = self.before
        self._set_states(self.states, self.number)
        self.optimizer.rule = self.asked
        return relative_rms(after, expected)

    def _set_states(self, states: list[Tensor], number: int) -> None:
        for tensor, state in zip(self.optimizer.state_tensors(), states, strict=True):
            tensor[self.rows] = state
        self.optimizer.number = number


def _rms(tensor: Tensor) -> float:
    return tensor.square().mean().sqrt().item()
