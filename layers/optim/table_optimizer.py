"""Optimizers of value tables: rules that change only the rows that were read, and dense AdamW to compare with.

Letters: N rows, D columns, B tokens, L lookups a token.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from membench.layers.kernels.lookups import Lookups
from membench.layers.kernels.row_passes import row_backward, row_backward_update_, update_rows_
from membench.layers.kernels.row_update import ROW_OPTIMIZERS, RowOptimizer, RowState, RowStep
from membench.layers.kernels.step_clock import mixed_seed, rounding_seed
from membench.layers.optim.state import check_keys, check_torch_state, tensors_of
from membench.layers.optim.step_clock import StepClock
from membench.layers.spec.sharding import PER_ROW_RULES
from membench.layers.tables.value_table import Use, ValueTable

_OF_SCHEDULERS = "initial_lr"  # what a scheduler keeps in the groups that it drives


@dataclass(frozen=True, slots=True)
class RowRule:
    """The settings of a row optimizer; ``layers.kernels.row_update`` says what it does with them.

    Raises:
        ValueError: there is no such optimizer, or a number is out of range.
    """

    optimizer: RowOptimizer
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    eps: float = 1e-8
    betas: tuple[float, float] = (0.9, 0.999)

    def __post_init__(self) -> None:
        if self.optimizer not in ROW_OPTIMIZERS:
            raise ValueError(f"a row optimizer is one of {', '.join(ROW_OPTIMIZERS)}, not {self.optimizer!r}")
        for name in ("learning_rate", "weight_decay", "eps"):
            check_rate(name, getattr(self, name))
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas should be from 0 to below 1, not {self.betas}")


def check_rate(name: str, value: float) -> None:
    """Checks a learning rate or a similar number.

    Raises:
        ValueError: it is below 0, infinite or not a number.
    """
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"{name} should be a finite number from 0, not {value}")


class TableOptimizer:
    """A row rule on one table. Rows that were not read cost nothing.

    There are three ways to use it in a training step:

        loss.backward(); optimizer.step()                  # from table.gradient: clip it, or accumulate several
        with optimizer.fused(): loss.backward()            # rows are updated by the backward pass itself
        with optimizer.queued(): loss.backward()           # a pool that several layers share:
        optimizer.step()                                   # one pass over all uses, one update

    Call ``step()`` at the end of each, even if after ``fused`` no update is left to do. Call ``zero_grad()`` before the
    next backward pass, as with torch's optimizers. bf16 rows are rounded stochastically, because most updates would
    be lost by rounding to nearest.

    ``param_groups`` is one group, of torch's form: the rule's numbers are read from it at each update.

    A step that is to be captured as a CUDA graph needs ``count_on_device()`` before, and ``keep_clock()`` before each
    replay. Learning rate and weight decay may then change between replays; betas and eps stay those of the capture.
    """

    def __init__(self, table: ValueTable, rule: RowRule, *, seed: int = 0) -> None:
        self.table = table
        self.param_groups: list[dict[str, Any]] = [{"params": [table.weight]}]
        self.rule = rule
        self.state = RowState.of(table.weight, rule.optimizer)
        self._number = 0
        self._clock: StepClock | None = None
        self.seed = seed
        self._queue: list[Use] = []
        self._updated = False  # whether a fused backward pass has updated the table since the last step

    @property
    def rule(self) -> RowRule:
        """The rule with the numbers of the next update."""
        (group,) = self.param_groups
        return RowRule(self._optimizer, group["lr"], group["weight_decay"], group["eps"], group["betas"])

    @rule.setter
    def rule(self, rule: RowRule) -> None:
        self._optimizer: RowOptimizer = rule.optimizer
        numbers = {"weight_decay": rule.weight_decay, "eps": rule.eps, "betas": rule.betas}
        self.param_groups[0].update(lr=rule.learning_rate, **numbers)

    @property
    def number(self) -> int:
        """The number of updates so far. On a GPU the host waits for it once it is counted there."""
        return self._number if self._clock is None else self._clock.number

    @number.setter
    def number(self, number: int) -> None:
        if self._clock is None:
            self._number = number
        else:
            self._clock.number = number

    def count_on_device(self) -> None:
        """From now on the number of updates, and what follows from it, lie beside the table, and updates move it on.

        Raises:
            ValueError: an update needs to know more on the host than a captured step can tell it.
        """
        if self._looks_at_other_columns:
            raise ValueError(f"{self._optimizer} asks other ranks for the columns of their shards")
        if self._clock is None:
            self._clock = StepClock(self.table.weight.device, number=self._number, seed=self.seed)
        self.keep_clock()

    def count_on_host(self) -> None:
        """Undoes ``count_on_device``: an eager step then launches nothing for it. On a GPU the host waits."""
        if self._clock is not None:
            self._number, self._clock = self._clock.number, None

    def keep_clock(self) -> None:
        """Tells what counts on the device, if it does, the rule's numbers of the next update."""
        if self._clock is not None:
            rule = self.rule
            numbers = {"learning_rate": rule.learning_rate, "weight_decay": rule.weight_decay, "betas": rule.betas}
            self._clock.keep(**numbers, seed=self.seed)

    @property
    def waiting(self) -> bool:
        """Whether there is something for ``step`` to apply."""
        return bool(self._queue) or self.table.has_gradient

    @torch.no_grad()
    def step(self) -> None:
        """Applies the queued uses, or the table's row gradient. Does nothing if there is neither."""
        self._updated = False
        if self.waiting:
            self.table.settle()
        if self._queue:
            use, self._queue = _joined(self._queue), []
            self._update_by(use)
        elif (gradient := self.table.gradient) is not None:
            self._update(gradient.rows, gradient.values)

    def _update_by(self, use: Use) -> Tensor | None:
        """Updates the rows of a use, in the pass that makes their gradients if these are needed for nothing else."""
        table, runs = self.table.weight, use.lookups.runs
        if not self._looks_at_other_columns:
            step = self._next()
            return row_backward_update_(table, self.state, runs, use.weights, use.tokens, step, dots=use.dots)
        gradient, dots = row_backward(table, runs, use.weights, use.tokens, gradient=True, dots=use.dots)
        assert gradient is not None
        rows = runs.exact().rows
        self._update(rows, gradient[: len(rows)])
        return dots

    def _update(self, rows: Tensor, gradient: Tensor) -> None:
        """Updates rows (U,) by their gradient (U, D)."""
        squares = None
        if self._looks_at_other_columns and self.table.over_columns is not None:
            squares = self.table.over_columns(gradient.float().square().mean(dim=1))
        update_rows_(self.table.weight, self.state, rows, gradient, self._next(), squares)

    @property
    def _looks_at_other_columns(self) -> bool:
        """Whether the table is a column shard and the rule has one number for all of a row's columns."""
        return self.table.over_columns is not None and self._optimizer in PER_ROW_RULES

    @contextmanager
    def fused(self) -> Iterator[None]:
        """Inside, the backward pass updates the rows that it reads, and leaves no gradient.

        Raises:
            RuntimeError: the table is used a second time before ``step()``, when its rows have already changed; or it
                has a row gradient, which would be a second update.
        """
        self._refuse_gradient()

        def update(use: Use) -> Tensor | None:
            if self._updated:
                raise RuntimeError("a table is used twice in a fused step: use queued() or the row gradient instead")
            self._updated = True
            self.table.settle()
            return self._update_by(use)

        with self.table.uses_handed_to(update):
            yield

    @contextmanager
    def queued(self) -> Iterator[None]:
        """Inside, backward passes keep what an update needs; ``step()`` then applies all of it in one pass.

        Raises:
            RuntimeError: the table has a row gradient, which would be a second update.
        """
        self._refuse_gradient()

        def queue(use: Use) -> Tensor | None:
            # kept until the step, without their autograd graph
            self._queue.append(replace(use, weights=use.weights.detach(), tokens=use.tokens.detach()))
            if not use.dots:
                return None
            runs, table = use.lookups.runs, self.table.weight
            return row_backward(table, runs, use.weights, use.tokens, gradient=False, dots=True)[1]

        with self.table.uses_handed_to(queue):
            yield

    def __getstate__(self) -> dict[str, Any]:
        """What a copy gets: nothing of a step that has begun, just as it gets no gradients."""
        return {**self.__dict__, "_queue": [], "_updated": False}

    def _refuse_gradient(self) -> None:
        if self.table.has_gradient:
            raise RuntimeError("the table has a row gradient: apply it by step() or forget it by zero_grad() first")

    def zero_grad(self) -> None:
        """Clears the row gradient and the queued uses."""
        self.table.gradient = None
        self._queue.clear()

    def _next(self) -> RowStep:
        rule, stochastic = self.rule, self.table.weight.dtype == torch.bfloat16
        numbers = (rule.optimizer, rule.learning_rate, rule.weight_decay, rule.eps, *rule.betas)
        if self._clock is not None:
            self.keep_clock()
            self._clock.advance(adam=rule.optimizer in ("row_adam", "lazy_adam"))
            return RowStep(*numbers, seed=0 if stochastic else None, clock=self._clock.tensor)
        self._number += 1
        seed = rounding_seed(mixed_seed(self.seed), self._number) if stochastic else None
        return RowStep(*numbers, number=self._number, seed=seed)

    def set_learning_rate(self, learning_rate: float) -> None:
        """From the next update on."""
        self.param_groups[0]["lr"] = learning_rate

    def state_tensors(self) -> list[Tensor]:
        """The whole state that is kept of the table's rows."""
        return list(self.state.named_tensors().values())

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on as if it had not stopped; shares memory with the optimizer."""
        scheduled = {name: self.param_groups[0][name] for name in (_OF_SCHEDULERS,) if name in self.param_groups[0]}
        return self._needed_state() | scheduled

    def _needed_state(self) -> dict[str, Any]:
        return {"rule": asdict(self.rule), "number": self.number, "seed": self.seed, **self.state.named_tensors()}

    def check_state(self, state: dict[str, Any]) -> None:
        """Checks that ``load_state_dict`` can restore it.

        Raises:
            ValueError: it is of another rule, or of a table of another size.
        """
        own = self._needed_state()
        check_keys(state, own)
        shapes, wanted = ({name: tuple(t.shape) for name, t in tensors_of(each).items()} for each in (state, own))
        if shapes != wanted or state["rule"]["optimizer"] != self.rule.optimizer:
            found = f"{state['rule']['optimizer']} with {shapes}"
            raise ValueError(f"the state is of {found}, {self.rule.optimizer} on this table needs {wanted}")
        if not (isinstance(state["number"], int) and state["number"] >= 0 and isinstance(state["seed"], int)):
            raise ValueError(f"the state's number and seed are {state['number']!r} and {state['seed']!r}")

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what ``state_dict`` gave, also the rule's numbers.

        Raises:
            ValueError: as ``check_state``.
        """
        self.check_state(state)
        self.rule = RowRule(**{**state["rule"], "betas": tuple(state["rule"]["betas"])})
        if _OF_SCHEDULERS in state:
            self.param_groups[0][_OF_SCHEDULERS] = state[_OF_SCHEDULERS]
        self.number, self.seed = state["number"], state["seed"]
        for name, tensor in self.state.named_tensors().items():
            tensor.copy_(state[name])


def _joined(uses: list[Use]) -> Use:
    """All uses as one. Tokens that read fewer rows than others read their first row again, with weight 0."""
    if len(uses) == 1:
        return uses[0]
    most = max(use.weights.shape[1] for use in uses)
    rows, weights = [], []
    for use in uses:
        missing = most - use.weights.shape[1]
        rows.append(torch.cat([use.lookups.rows, use.lookups.rows[:, :1].expand(-1, missing)], dim=1))
        weights.append(torch.nn.functional.pad(use.weights.float(), (0, missing)))
    lookups = Lookups(torch.cat(rows), uses[0].lookups.num_rows)
    return Use(lookups, torch.cat(weights), torch.cat([use.tokens for use in uses]), dots=False)


class DenseTableAdamW:
    """The same AdamW as for any parameter, over the whole table. It shows what a dense gradient costs."""

    def __init__(self, table: ValueTable, learning_rate: float, weight_decay: float = 0.0) -> None:
        self.table = table
        self.parameter = table.weight
        self.adamw = torch.optim.AdamW([self.parameter], lr=learning_rate, weight_decay=weight_decay, fused=True)

    @property
    def waiting(self) -> bool:
        """Whether there is a gradient for ``step`` to apply."""
        return self.table.has_gradient

    def zero_grad(self) -> None:
        """Clears the row gradient."""
        self.table.gradient = None

    def step(self) -> None:
        """Copies the row gradient into a dense one and applies that."""
        if self.table.gradient is None:
            return
        self.table.settle()
        self.parameter.grad = self.table.gradient.to_dense(len(self.parameter))
        self.adamw.step()
        self.parameter.grad = None

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """As torch's."""
        return self.adamw.param_groups

    def set_learning_rate(self, learning_rate: float) -> None:
        """From the next update on."""
        for group in self.param_groups:
            group["lr"] = learning_rate

    def state_tensors(self) -> list[Tensor]:
        """Both moments, as large as the table."""
        return moments(self.adamw)

    def state_dict(self) -> dict[str, Any]:
        """As torch's."""
        return self.adamw.state_dict()

    def check_state(self, state: dict[str, Any]) -> None:
        """Checks that ``load_state_dict`` can restore it.

        Raises:
            ValueError: it is of other parameters.
        """
        check_torch_state(self.adamw, state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As torch's, of a checked state."""
        self.check_state(state)
        self.adamw.load_state_dict(state)


def moments(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Every tensor of a torch optimizer's state, except counters."""
    return [v for state in optimizer.state.values() for v in state.values() if torch.is_tensor(v) and v.numel() > 1]
