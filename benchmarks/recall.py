"""A small task that needs a table: recall of facts. Its model, and its training by any table optimizer."""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from membench.layers.kernels.row_update import ROW_OPTIMIZERS, RowOptimizer
from membench.layers.memory import Memory
from membench.layers.optim.table_optimizer import DenseTableAdamW, RowRule, TableOptimizer
from membench.layers.spec import MemorySpec

DENSE: Literal["dense_adam"] = "dense_adam"
NONE = "no table"
BETA2 = 0.999
# What updates the table, and its beta1. The last two have no momentum: then lazy Adam lacks nothing of Adam.
RULES: dict[str, tuple[RowOptimizer | Literal["dense_adam"], float]] = {
    **{rule: (rule, 0.9) for rule in ROW_OPTIMIZERS},
    DENSE: (DENSE, 0.9),
    "lazy_adam, beta1 0": ("lazy_adam", 0.0),
    "dense_adam, beta1 0": (DENSE, 0.0),
}


@dataclass(frozen=True, slots=True)
class Setup:
    """The task, the model and how long it is trained.

    Attributes:
        noise: of a query, over the fact's own vector.
        learning_rates: the grid of the table's first; all else begins with ``matrix_rate``.
        every: steps between two points of a curve.
    """

    facts: int = 4096
    classes: int = 256
    zipf_exponent: float = 1.0
    noise: float = 0.7
    model_dim: int = 64
    num_keys: int = 128**2
    heads: int = 4
    top_k: int = 8
    key_dim: int = 64
    tokens: int = 256
    steps: int = 600
    every: int = 30
    queries: int = 2048
    matrix_rate: float = 3e-3
    learning_rates: tuple[float, ...] = tuple(2.0**power for power in range(-4, 7))
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)

    def spec(self) -> MemorySpec:
        """Queries are normed: their noise would else decide how sharply a head chooses."""
        return MemorySpec(
            model_dim=self.model_dim,
            num_keys=self.num_keys,
            heads=self.heads,
            top_k=self.top_k,
            key_dim=self.key_dim,
            query_norm=True,
            dtype="float32",
        )


class Facts:
    """The task of one seed."""

    def __init__(self, setup: Setup, seed: int) -> None:
        self._setup, self._draw = setup, torch.Generator().manual_seed(seed)
        self._vectors = torch.randn(setup.facts, setup.model_dim, generator=self._draw)
        self._classes = torch.randint(setup.classes, (setup.facts,), generator=self._draw)
        self._chances = torch.arange(1, setup.facts + 1).pow(-setup.zipf_exponent)
        self.held_out = self.queries(setup.queries)

    def queries(self, count: int) -> tuple[Tensor, Tensor]:
        """Fresh queries (count, d) of unit variance, and their classes."""
        facts = torch.multinomial(self._chances, count, replacement=True, generator=self._draw)
        noise = torch.randn(count, self._setup.model_dim, generator=self._draw)
        x = (self._vectors[facts] + self._setup.noise * noise) / math.hypot(1.0, self._setup.noise)
        return x, self._classes[facts]


class Recaller(nn.Module):
    """Class scores of queries: a linear head over a query and what the memory layer finds for it."""

    def __init__(self, setup: Setup, seed: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.memory = Memory(setup.spec(), generator=draw)
        weight = torch.randn(setup.classes, setup.model_dim, generator=draw) / math.sqrt(setup.model_dim)
        self.head = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x + self.memory(x), self.head)

    def matrices(self) -> list[nn.Parameter]:
        """Everything but the table."""
        return [parameter for parameter in self.parameters() if parameter is not self.memory.table.weight]


class _TableUpdate:
    """One of ``RULES`` on a table, or none at all."""

    def __init__(self, model: Recaller, rule: str, learning_rate: float) -> None:
        (table,) = model.memory.tables()
        self._rows = self._dense = None
        if rule == NONE:
            return
        optimizer, beta1 = RULES[rule]
        if optimizer == DENSE:
            self._dense = DenseTableAdamW(table, learning_rate)  # without weight decay, as the row rules are: Adam
            self._dense.adamw.param_groups[0].update(betas=(beta1, BETA2))
        else:
            self._rows = TableOptimizer(table, RowRule(optimizer, learning_rate, betas=(beta1, BETA2)))

    def around_backward(self) -> AbstractContextManager[None]:
        return self._rows.fused() if self._rows else nullcontext()

    def step(self) -> None:
        if optimizer := self._rows or self._dense:
            optimizer.step()

    def set_learning_rate(self, learning_rate: float) -> None:
        if optimizer := self._rows or self._dense:
            optimizer.set_learning_rate(learning_rate)


@dataclass(frozen=True, slots=True)
class Run:
    """One training run: a rule at a learning rate, on the weights and batches of a seed."""

    setup: Setup
    rule: str
    learning_rate: float
    seed: int


def train(run: Run) -> list[float]:
    """The loss on held-out queries before the first step, and after every so many; infinite once it is not finite."""
    setup = run.setup
    facts, model = Facts(setup, run.seed), Recaller(setup, run.seed)
    update = _TableUpdate(model, run.rule, run.learning_rate)
    adamw = torch.optim.AdamW(model.matrices(), lr=setup.matrix_rate, weight_decay=0.0, fused=True)
    curve = [_held_out_loss(model, facts)]
    for number in range(1, setup.steps + 1):
        left = 1 - (number - 1) / setup.steps
        update.set_learning_rate(left * run.learning_rate)
        adamw.param_groups[0]["lr"] = left * setup.matrix_rate
        x, classes = facts.queries(setup.tokens)
        adamw.zero_grad()
        model.memory.zero_gradients()
        with update.around_backward():
            functional.cross_entropy(model(x), classes, reduction="sum").backward()
        adamw.step()
        update.step()
        if number % setup.every == 0:
            curve.append(_held_out_loss(model, facts))
            if math.isinf(curve[-1]):
                break
    return curve


@torch.no_grad()
def _held_out_loss(model: Recaller, facts: Facts) -> float:
    x, classes = facts.held_out
    loss = functional.cross_entropy(model(x), classes).item()
    return loss if math.isfinite(loss) else math.inf
