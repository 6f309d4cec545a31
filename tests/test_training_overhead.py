"""The benchmark of the training loop: both ways compute the same."""

import pytest
import torch

from benchmarks import training_overhead
from membench.learning.tasks import Facts
from membench.training.tasks.make import task_data


@pytest.mark.parametrize("kind", training_overhead.LAYERS)
def test_a_run_and_its_bare_calls_train_the_same_model_to_the_bit(kind):
    data = task_data(Facts(facts=500), 0)
    run, bare = (training_overhead.new_run(kind, data, steps=3) for _ in range(2))
    assert training_overhead.run_seconds(run) > 0 < training_overhead.bare_seconds(bare)
    weights = bare.model.state_dict()
    assert all(torch.equal(weights[name], each) for name, each in run.model.state_dict().items())
