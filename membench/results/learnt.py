"""What the seeds of a trained case say together: means with intervals, and what to distrust of them."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from membench.results.intervals import FEWEST_ROUNDS
from membench.results.quantiles import CONFIDENCE, student_t
from membench.results.records import Record, Round

ANSWER = "answer_nll"
_EXAMPLES = ("trained_example", "asked_example")  # of a description of data
# What a case's row has of a step and of the layer already, and what a run of training spent of it.
_COUNTED = ("params", "table_params", "table_share")
_SPENT = {
    "steps": "steps_trained",
    "tokens": "tokens_trained",
    "flops": "training_flops",
    "seconds": "training_seconds",
    "joules": "training_joules",
    "flops_per_s": "training_flops_per_s",
}


def of_seeds(rounds: Sequence[Round], name: str) -> dict[int, float]:
    """A metric of every seed that has it and did not diverge, by the seed."""
    known = {r.number: r.final.get(name) for r in rounds if r.status == "ok"}
    return {number: value for number, value in known.items() if value is not None}


def interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """Student's interval of a mean, of 95 % by default; None with fewer than three values."""
    if len(values) < FEWEST_ROUNDS:
        return None
    half = student_t(len(values) - 1, confidence) * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return mean - half, mean + half


def learnt_metrics(rounds: Sequence[Round]) -> dict[str, float | None]:
    """The mean over seeds of every final metric, with the ends of its interval; empty where no seed went well."""
    found: dict[str, float | None] = {}
    for name in dict.fromkeys(name for r in rounds if r.status == "ok" for name in r.final):
        if name not in _COUNTED:
            found |= _mean(_SPENT.get(name, name), [*of_seeds(rounds, name).values()])
    joules, tokens = of_seeds(rounds, "joules"), of_seeds(rounds, "tokens")
    if joules:
        found |= _mean("energy_j_per_token", [each / tokens[seed] for seed, each in joules.items() if tokens.get(seed)])
    return found


def _mean(name: str, values: Sequence[float]) -> dict[str, float | None]:
    ends = interval(values)
    low, high = (None, None) if ends is None else ends
    return {name: statistics.fmean(values) if values else None, f"{name}_low": low, f"{name}_high": high}


def data_of(record: Record) -> list[dict[str, Any]]:
    """What its seeds were trained on, each description once; examples differ from seed to seed and are left out."""
    found: list[dict[str, Any]] = []
    for r in record.rounds:
        known = {name: value for name, value in r.data.items() if name not in _EXAMPLES}
        if known and known not in found:
            found.append(known)
    return found


def learnt_flags(record: Record) -> list[str]:
    """What a reader should distrust: seeds that diverged, data that changed, rates at the edge of what was tried."""
    flags = [f"seed {r.number} diverged: {r.reason}" for r in record.rounds if r.status == "diverged"]
    done = [r for r in record.rounds if r.status == "ok"]
    if flags and done:
        flags.append(f"means are over the {len(done)} seeds that did not diverge")
    if len(data_of(record)) > 1:
        flags.append("the files that it is trained on changed between seeds")
    for name, value in (done[0].rates if done and record.trials else {}).items():
        tried = sorted({trial.rates[name] for trial in record.trials if name in trial.rates})
        if len(tried) > 1 and value in (tried[0], tried[-1]):
            flags.append(f"{name} {value:g} is the {'lowest' if value == tried[0] else 'highest'} that was tried")
    return flags
