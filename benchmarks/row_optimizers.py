"""Does a memory layer learn as well with row optimizers as with dense Adam? A small task that needs its table.

    python -m benchmarks.row_optimizers [--json]

Recall of facts: a fact is a random vector and a random class; a query is a fact's vector with fresh noise, facts
are asked for by Zipf's law, and the loss is the cross entropy of the class. There are far more facts than a
linear map can hold, which ``no table`` shows: the same model whose table is frozen.

The optimizer of the table is all that differs: weights, batches and AdamW on everything else are the same. Each
has its learning rate picked from the same grid, by the final loss of a seed that is used for nothing else.
The trained loss is a sum over tokens, so that one grid has room for SGD too: all others are free of its scale.
Reported losses are means over a fixed set of queries, in nats.
"""

import argparse
import json
import math
import statistics
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from layers.kernels.row_update import ROW_OPTIMIZERS
from layers.memory import Memory
from layers.spec import MemorySpec
from layers.table_optim import DenseTableAdamW, RowRule, TableOptimizer
from membench.progress import RunProgress
from membench.provenance import git_state, probe_environment, utc_now

DENSE, NONE = "dense_adam", "no table"
RULES = (*ROW_OPTIMIZERS, DENSE)
_PICKING_SEED = 0


@dataclass(frozen=True, slots=True)
class Setup:
    """The task, the model and how long it is trained.

    Attributes:
        noise: of a query, over the fact's own vector.
        learning_rates: the grid of the table's; all else has ``matrix_rate``.
        every: steps between two points of a curve.
    """

    facts: int = 16_384
    classes: int = 256
    zipf_exponent: float = 1.0
    noise: float = 0.7
    model_dim: int = 64
    num_keys: int = 128**2
    heads: int = 4
    top_k: int = 16
    key_dim: int = 64
    tokens: int = 256
    steps: int = 400
    every: int = 20
    queries: int = 2048
    matrix_rate: float = 3e-3
    learning_rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
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
        if rule in ROW_OPTIMIZERS:
            self._rows = TableOptimizer(table, RowRule(rule, learning_rate))  # type: ignore[arg-type]
        elif rule == DENSE:
            self._dense = DenseTableAdamW(table, learning_rate)
            self._dense.adamw.param_groups[0]["weight_decay"] = 0.0  # as of the row rules; that leaves Adam

    def around_backward(self) -> AbstractContextManager[None]:
        return self._rows.fused() if self._rows else nullcontext()

    def step(self) -> None:
        if self._dense:
            self._dense.step()

    def set_learning_rate(self, learning_rate: float) -> None:
        if optimizer := self._rows or self._dense:
            optimizer.set_learning_rate(learning_rate)


def train(setup: Setup, rule: str, learning_rate: float, seed: int) -> list[float]:
    """The loss on held-out queries before the first step, and after every so many; infinite once it is not finite."""
    facts, model = Facts(setup, seed), Recaller(setup, seed)
    update = _TableUpdate(model, rule, learning_rate)
    adamw = torch.optim.AdamW(model.matrices(), lr=setup.matrix_rate, weight_decay=0.0, fused=True)
    curve = [_held_out_loss(model, facts)]
    for number in range(1, setup.steps + 1):
        left = 1 - (number - 1) / setup.steps
        update.set_learning_rate(left * learning_rate)
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


def pick_learning_rate(setup: Setup, rule: str, progress: RunProgress) -> tuple[float, dict[float, float]]:
    """The rate with the least final loss on a seed of its own; and the final loss of each."""
    finals = {}
    for rate in setup.learning_rates:
        finals[rate] = train(setup, rule, rate, _PICKING_SEED)[-1]
        progress.finished(f"{rule}, learning rate {rate:g}: loss {finals[rate]:.3f}")
    return min(finals, key=lambda rate: finals[rate]), finals


def summary(curves: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Final and best losses over the seeds, and the curves they are of."""
    finals, bests = [curve[-1] for curve in curves], [min(curve) for curve in curves]
    return {
        "final_loss": statistics.mean(finals),
        "final_loss_deviation": statistics.stdev(finals),
        "best_loss": statistics.mean(bests),
        "best_loss_deviation": statistics.stdev(bests),
        "final_losses": finals,
        "curves": [list(curve) for curve in curves],
    }


def compare(setup: Setup) -> dict[str, dict[str, Any]]:
    """Every rule at its best rate, on the same seeds; dense Adam's losses are taken off seed by seed."""
    runs = len(RULES) * (len(setup.learning_rates) + len(setup.seeds)) + len(setup.seeds)
    found: dict[str, dict[str, Any]] = {}
    with RunProgress(runs) as progress:
        for rule in (*RULES, NONE):
            rate, finals = pick_learning_rate(setup, rule, progress) if rule in RULES else (0.0, {})
            curves = []
            for seed in setup.seeds:
                curves.append(train(setup, rule, rate, seed))
                progress.finished(f"{rule}, seed {seed}: loss {curves[-1][-1]:.3f}")
            found[rule] = {**summary(curves), "learning_rate": rate if rule in RULES else None, "picked_from": finals}
    dense = found[DENSE]["final_losses"]
    for each in found.values():
        each["over_dense_adam"] = [own - other for own, other in zip(each["final_losses"], dense, strict=True)]
    return found


def print_table(found: dict[str, dict[str, Any]], setup: Setup) -> None:
    """A line a rule: losses as mean ± standard deviation over the seeds."""
    size = f"{setup.num_keys} rows, {setup.facts} facts"
    print(f"{setup.steps} steps of {setup.tokens} queries, {len(setup.seeds)} seeds; {size}")
    print(f"{'table by':14}{'rate':>7}{'final loss':>17}{'best loss':>17}{'over dense Adam':>17}  worse in")
    for rule, each in found.items():
        rate = "" if each["learning_rate"] is None else f"{each['learning_rate']:g}"
        losses = "".join(f"{each[f'{of}_loss']:9.3f} ± {each[f'{of}_loss_deviation']:.3f}" for of in ("final", "best"))
        over = each["over_dense_adam"]
        beside = "" if rule == DENSE else f"{statistics.mean(over):+17.3f}  {sum(d > 0 for d in over)} of {len(over)}"
        print(f"{rule:14}{rate:>7}  {losses}{beside}")


def as_json(found: dict[str, dict[str, Any]], setup: Setup, started: str) -> dict[str, Any]:
    """The result file; an infinite loss, of a rate that is too high, is null."""
    sha, dirty = git_state()
    result = {
        "benchmark": "row_optimizers",
        "started": started,
        "finished": utc_now(),
        "git_sha": sha,
        "git_dirty": dirty,
        "environment": probe_environment("cpu"),
        "setup": asdict(setup),
        "rules": found,
    }
    return _finite(result)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main() -> None:
    """Train, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    asked, setup, started = parser.parse_args(), Setup(), utc_now()
    found = compare(setup)
    if asked.json:
        print(json.dumps(as_json(found, setup, started), allow_nan=False))
    else:
        print_table(found, setup)


if __name__ == "__main__":
    main()
