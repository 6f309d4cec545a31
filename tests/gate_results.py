"""Made-up result files for the gate's tests: cases whose rounds have the medians that a test wants."""

import math

import numpy as np
from test_records import CEILINGS, COST, a_case, a_round, a_run

from membench.results.records import Pair, Record, ResultFile

ENVIRONMENT = {"device": {"type": "cpu", "name": "a processor", "cores": 2}, "fingerprint": "0123456789ab"}


def noisy(rng, mean_s, rounds, noise=0.01):
    """Seconds of so many rounds around a mean."""
    return [float(s) for s in mean_s * np.exp(noise * rng.standard_normal(rounds))]


def a_record(rounds_s, *, samples=5, spread=0.001, cost=None, ceilings=CEILINGS, status="ok", **case):
    """One case; each round's samples lie around its own seconds."""
    made = a_case(**case)
    offsets = [spread * (i - (samples - 1) / 2) for i in range(samples)]
    rounds = [
        a_round(number, [s * math.exp(o) for o in offsets], cost={**COST, **(cost or {})}, ceilings=ceilings)
        for number, s in enumerate(rounds_s)
    ]
    return Record(id=made.id, case=made, status=status, reason=None if status == "ok" else "why", rounds=rounds)


def side(name, phase="first", planned=10, id="p"):
    """One side of an ab."""
    return Pair(id=id, side=name, phase=phase, planned_rounds=planned)


def a_file(records, *, fingerprint="0123456789ab", **run):
    rounds = max((len(r.rounds) for r in records), default=0) or 1
    environment = {**ENVIRONMENT, "fingerprint": fingerprint}
    return ResultFile(run=a_run(rounds=rounds, **run), environment=environment, cases=records)
