"""A model of a seed trained on a task."""

from pathlib import Path

import torch

from membench.layers.spec import ModelSpec
from membench.learning.settings import Training
from membench.learning.tasks import AnyTask
from membench.training.group import Group
from membench.training.run import Report, Run
from membench.training.tasks.make import task_data
from membench.training.trained import Trained


def train(
    spec: ModelSpec,
    task: AnyTask,
    settings: Training,
    seed: int,
    *,
    device: torch.device | str,
    folder: Path | None,
    report: Report,
    matmul_flops_per_s: float | None = None,
    group: Group | None = None,
) -> Trained:
    """Trains a model of ``spec`` on the task of ``seed``, which also draws its weights.

    Args:
        folder: of its checkpoints, from which it goes on, and its TensorBoard scalars; None: it keeps nothing.
        report: told what is done, and the share of the budget that is spent, a few times a second.
        group: the processes that train it together, all of which call this alike, with a folder that all see; None:
            this one alone.
        matmul_flops_per_s: the device's ceiling, for MFU.

    Raises:
        UsageError: the task's data cannot be had or has more tokens than the model, the budget cannot be measured
            here, or the folder cannot be written or holds another run.
    """
    data = task_data(task, seed)
    named = {"task": task.model_dump(mode="json"), "data": data.description}  # files may have changed meanwhile
    run = Run(spec, data, settings, seed, torch.device(device), folder, named, group)
    return run.finish(report, matmul_flops_per_s)
