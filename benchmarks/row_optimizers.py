"""Does a memory layer learn as well with row optimizers as with dense Adam? A small task that needs its table.

    python -m benchmarks.row_optimizers [--json]

Recall of facts: a fact is a random vector and a random class; a query is a fact's vector with fresh noise, facts
are asked for by Zipf's law, and the loss is the cross entropy of the class. There are far more facts than a
linear map can hold, which ``no table`` shows: the same model whose table is frozen.

The optimizer of the table is all that differs: weights, batches and AdamW on everything else are the same, and
all learning rates fall linearly to 0. Each rule's is picked from the same grid, by the final loss of a seed that
is used for nothing else. The trained loss is a sum over tokens, so that one grid has room for SGD too: all others
are free of its scale. Reported losses are means over a fixed set of queries, in nats.

With momentum a dense Adam goes on moving rows that are not read, which a lazy one does not. Two lines are of both
without momentum, where they differ by rounding alone.
"""

import argparse
import json
import math
import multiprocessing
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch

from benchmarks.recall import DENSE, NONE, RULES, Run, Setup, train
from benchmarks.writing import heading
from membench.machine.device import usable_cores
from membench.machine.provenance import utc_now
from membench.running.progress import RunProgress

_PICKING_SEED = 0


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


def compare(setup: Setup, run_all: Callable[[list[Run]], Iterable[list[float]]]) -> dict[str, dict[str, Any]]:
    """Every rule at its best rate, on the same seeds; dense Adam's losses are taken off seed by seed.

    Args:
        run_all: gives the curves of runs, in order; ``map`` of ``train``, or as much of it at once as there are cores.
    """
    trials = [Run(setup, rule, rate, _PICKING_SEED) for rule in RULES for rate in setup.learning_rates]
    picked: dict[str, dict[float, float]] = {rule: {} for rule in RULES}
    for trial, curve in zip(trials, run_all(trials), strict=True):
        picked[trial.rule][trial.learning_rate] = curve[-1]
    best = {rule: min(losses, key=lambda rate: losses[rate]) for rule, losses in picked.items()}
    runs = [Run(setup, rule, best.get(rule, 0.0), seed) for rule in (*RULES, NONE) for seed in setup.seeds]
    curves: dict[str, list[list[float]]] = {}
    for run, curve in zip(runs, run_all(runs), strict=True):
        curves.setdefault(run.rule, []).append(curve)
    dense = [curve[-1] for curve in curves[DENSE]]
    return {
        rule: {
            **summary(own),
            "over_dense_adam": [curve[-1] - other for curve, other in zip(own, dense, strict=True)],
            "learning_rate": best.get(rule),
            "picked_from": picked.get(rule),
        }
        for rule, own in curves.items()
    }


@contextmanager
def every_core(runs: int) -> Iterator[Callable[[list[Run]], Iterator[list[float]]]]:
    """Trains as many models at a time as there are cores, each on one: they are too small for more."""
    cores = len(usable_cores())
    spawned = multiprocessing.get_context("spawn")
    with (
        RunProgress(runs) as progress,
        ProcessPoolExecutor(cores, mp_context=spawned, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):

        def run_all(asked: list[Run]) -> Iterator[list[float]]:
            for run, curve in zip(asked, pool.map(train, asked), strict=True):
                progress.finished(f"{run.rule}, learning rate {run.learning_rate:g}, seed {run.seed}: {curve[-1]:.3f}")
                yield curve

        yield run_all


def print_table(found: dict[str, dict[str, Any]], setup: Setup) -> None:
    """A line a rule: losses as mean ± standard deviation over the seeds."""
    size = f"{setup.num_keys} rows, {setup.facts} facts"
    print(f"{setup.steps} steps of {setup.tokens} queries, {len(setup.seeds)} seeds; {size}")
    print(f"{'table by':20}{'rate':>7}{'final loss':>17}{'best loss':>17}{'over dense Adam':>17}  worse in")
    for rule, each in found.items():
        rate = "" if each["learning_rate"] is None else f"{each['learning_rate']:g}"
        losses = "".join(f"{each[f'{of}_loss']:9.3f} ± {each[f'{of}_loss_deviation']:.3f}" for of in ("final", "best"))
        over = each["over_dense_adam"]
        mean, worse = statistics.mean(over), sum(difference > 0 for difference in over)
        share = mean / found[DENSE]["final_loss"]
        beside = "" if rule == DENSE else f"{mean:+9.3f} ({share:+.1%})  {worse} of {len(over)}"
        print(f"{rule:20}{rate:>7}  {losses}{beside}")


def as_json(found: dict[str, dict[str, Any]], setup: Setup, started: str) -> dict[str, Any]:
    """The result file; an infinite loss, of a rate that is too high, is null."""
    result = {
        **heading("row_optimizers", started),
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
    with every_core(len(RULES) * len(setup.learning_rates) + (len(RULES) + 1) * len(setup.seeds)) as run_all:
        found = compare(setup, run_all)
    if asked.json:
        print(json.dumps(as_json(found, setup, started), allow_nan=False))
    else:
        print_table(found, setup)


if __name__ == "__main__":
    main()
