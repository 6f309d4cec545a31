"""Learning rates as a function of the share of the budget that is spent."""

import math
from collections.abc import Callable

from torch.optim.lr_scheduler import LambdaLR

from membench.layers.optim.layer_optimizer import LayerOptimizer
from membench.learning.settings import Training


def rate_at(settings: Training, spent: float) -> float:
    """The rate of matrices as a share of its peak: from 0 over the warm-up, then down to ``final_rate``."""
    if spent < settings.warmup_share:
        return spent / settings.warmup_share
    done = min(1.0, (spent - settings.warmup_share) / (1 - settings.warmup_share))
    match settings.schedule:
        case "cosine":
            left = (1 + math.cos(math.pi * done)) / 2
        case "linear":
            left = 1 - done
        case "constant":
            return 1.0
    return settings.final_rate + (1 - settings.final_rate) * left


def scheduler(optimizer: LayerOptimizer, settings: Training, spent: Callable[[], float]) -> LambdaLR:
    """Torch's, to be stepped after each update; ``spent`` tells the share of the budget."""

    def of_matrices(_: int) -> float:
        return rate_at(settings, spent())

    of_tables = of_matrices if settings.table_schedule == "same" else lambda _: 1.0
    tables = len(optimizer.tables)
    return LambdaLR(optimizer, [of_matrices] * (len(optimizer.param_groups) - tables) + [of_tables] * tables)
