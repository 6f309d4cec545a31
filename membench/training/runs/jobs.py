"""One run: a case with the rates that it is trained with, on one seed."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from membench.case import Case
from membench.learning.grid import BALANCE, LEARNING_RATE, TABLE_RATE, Rates
from membench.learning.settings import Stop, Training
from membench.planning.plan import PlannedCase
from membench.scenario.settings import TRIAL_SEEDS


@dataclass(frozen=True, slots=True)
class Job:
    """A trial of rates, or a seed of the result.

    ``id`` is the case's; ``share`` is of its budget; ``at`` says where it was swept.
    """

    id: str
    case: Case
    rates: Rates
    seed: int
    share: float = 1.0
    at: str = ""

    @property
    def is_trial(self) -> bool:
        return self.seed >= TRIAL_SEEDS

    @property
    def trained(self) -> Case:
        """The case as it is trained in this run."""
        training, model = self.case.training, self.case.layer
        assert training is not None
        own = {name: self.rates[name] for name in (LEARNING_RATE, TABLE_RATE) if name in self.rates}
        training = training.model_copy(update={**own, "stop": part_of(training.stop, self.share), "tuning": None})
        if BALANCE in self.rates:
            model = model.balanced_by(self.rates[BALANCE])
        return self.case.model_copy(update={"training": training, "layer": model})

    @property
    def name(self) -> str:
        """What a line of progress calls it."""
        said = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in self.rates.items())
        arm = f"{self.case.arm} ({self.at})" if self.at else self.case.arm
        return f"{arm} trial of {said}" if self.is_trial else f"{arm} seed {self.seed}"

    @property
    def key(self) -> str:
        """Its own among those of a run, the same when it is taken up again."""
        rates = hashlib.sha256(json.dumps(self.rates, sort_keys=True).encode()).hexdigest()[:8]
        return f"{self.case.arm}-{self.id}-{rates}-{self.seed}"


def where(planned: PlannedCase) -> str:
    """What was swept of a case, in a few words: of a task or a budget what it is."""
    said = [(key.rpartition(".")[2], value) for key, value in planned.point.items()]
    return ", ".join(f"{name} {_in_words(value)}" for name, value in said)


def _in_words(value: Any) -> Any:
    return value.get("kind") or " ".join(f"{k} {v:g}" for k, v in value.items()) if isinstance(value, dict) else value


def stated_rates(case: Case) -> Rates:
    """Those that the scenario states, where none are chosen."""
    training: Training | None = case.training
    assert training is not None
    rates = {LEARNING_RATE: training.learning_rate}
    if case.layer.table_params and not training.frozen_tables:
        rates[TABLE_RATE] = training.table_learning_rate or training.learning_rate
    return rates


def part_of(stop: Stop, share: float) -> Stop:
    """A share of a budget, at least one step."""
    amount = stop.amount * share
    return Stop.model_validate({stop.at: max(1, round(amount)) if stop.at == "steps" else amount})
