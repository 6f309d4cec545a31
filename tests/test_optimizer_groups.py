"""Parameter groups of a layer's optimizer: torch's schedulers drive the rates of matrices and tables."""

import copy
from functools import partial

import pytest
import torch
from torch.optim import lr_scheduler
from training_steps import SMALL, run_steps

from layers import build, spec_from
from layers.kernels.row_update import ROW_OPTIMIZERS
from layers.models.model import Model
from layers.optim.layer_optimizer import LayerOptimizer
from layers.spec import ModelSpec

RATE, TABLE_RATE = 0.5, 0.25
SCHEDULES = {
    "lambda": partial(lr_scheduler.LambdaLR, lr_lambda=lambda step: 1 / (1 + step)),
    "cosine": partial(lr_scheduler.CosineAnnealingLR, T_max=4),
    "step": partial(lr_scheduler.StepLR, step_size=2, gamma=0.5),
    "one_cycle": partial(lr_scheduler.OneCycleLR, max_lr=[RATE, TABLE_RATE], total_steps=9, cycle_momentum=False),
    "sequential": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer,
        [lr_scheduler.LinearLR(optimizer, 0.25, total_iters=2), lr_scheduler.CosineAnnealingLR(optimizer, 3)],
        milestones=[2],
    ),
}


def memory(**changes):
    return build(spec_from({"kind": "memory", **SMALL, **changes}), seed=1)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_torchs_schedulers_set_the_rate_of_each_update_of_matrices_and_rows(schedule, fused):
    """The rates that torch gives two groups of its own; a row's change is its gradient times the rate then."""
    layer = memory()
    trained = LayerOptimizer(layer, "sgd", RATE, table_learning_rate=TABLE_RATE)
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (RATE, TABLE_RATE)]
    stock = torch.optim.SGD(groups)
    schedules = [SCHEDULES[schedule](each) for each in (trained, stock)]
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        x = torch.randn(6, 24, generator=generator)
        trained.zero_grad()
        layer(x).square().sum().backward()
        gradients = layer.query.grad.clone(), layer.table.gradient.to_dense(64)
        before = layer.query.detach().clone(), layer.table.weight.clone()
        if fused:
            trained.zero_grad()
            with trained.fused():
                layer(x).square().sum().backward()
        trained.step()
        stock.step()
        for group, weight, old, gradient in zip(
            stock.param_groups, (layer.query, layer.table.weight), before, gradients, strict=True
        ):
            torch.testing.assert_close(weight.detach(), old - group["lr"] * gradient, rtol=1e-4, atol=1e-5)
        for each in schedules:
            each.step()
    assert schedules[0].get_last_lr() == schedules[1].get_last_lr()


def test_a_models_groups_are_its_matrices_and_each_of_its_tables():
    shape = {"vocab_size": 50, "model_dim": 24, "num_blocks": 2, "ffn_hidden": 16, "dtype": "float32"}
    layer = {"kind": "peer", **SMALL}
    attention = {"heads": 2, "kv_heads": 2, "head_dim": 12}
    model = Model(ModelSpec.model_validate({**shape, "attention": attention, "layer": layer, "at": (1,)}))
    groups = LayerOptimizer(
        model, "row_adam", 0.1, table_learning_rate=0.2, weight_decay=0.3, table_weight_decay=0.4
    ).param_groups
    numbers = [(group["lr"], group["weight_decay"]) for group in groups]
    assert numbers == [(0.1, 0.3), (0.2, 0.4), (0.2, 0.4)]
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in model.parameters())


@pytest.mark.parametrize("optimizer", [*ROW_OPTIMIZERS, "adamw"])
def test_a_resumed_schedule_goes_on(optimizer):
    """By the scheduler's own state, and by torch's other way: last_epoch and the groups' first rates."""

    def made():
        layer = memory()
        return layer, LayerOptimizer(layer, optimizer, RATE, table_learning_rate=TABLE_RATE)

    layer, trained = made()
    schedule = SCHEDULES["lambda"](trained)
    for _ in range(3):
        run_steps(layer, trained, torch.Generator().manual_seed(0), 1, fused=False)
        schedule.step()
    rates = [group["lr"] for group in trained.param_groups]
    assert rates == [RATE / 4, TABLE_RATE / 4]
    state, scheduled = copy.deepcopy(trained.state_dict()), schedule.state_dict()
    _, resumed = made()
    again = SCHEDULES["lambda"](resumed)
    resumed.load_state_dict(state)
    again.load_state_dict(scheduled)
    _, later = made()
    later.load_state_dict(state)
    other = SCHEDULES["lambda"](later, last_epoch=2)
    for each, its in ((resumed, again), (later, other)):
        assert [group["lr"] for group in each.param_groups] == pytest.approx(rates)
        run_steps(layer, each, torch.Generator().manual_seed(0), 1, fused=False)
        its.step()
        assert [group["lr"] for group in each.param_groups] == pytest.approx([RATE / 5, TABLE_RATE / 5])


def test_a_closure_is_computed_before_the_update_and_its_loss_returned():
    layer = memory()
    trained, before = LayerOptimizer(layer, "sgd", RATE), layer.table.weight.clone()

    def closure():
        loss = layer(torch.ones(2, 24)).square().sum()
        loss.backward()
        return loss

    assert trained.step(closure).item() > 0
    assert not torch.equal(layer.table.weight, before)


def test_what_it_trains_cannot_be_added_to_and_gradients_are_forgotten():
    trained = LayerOptimizer(memory(), "row_adam")
    with pytest.raises(TypeError, match="when it is made"):
        trained.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))]})
    with pytest.raises(ValueError, match="set_to_none"):
        trained.zero_grad(set_to_none=False)


def test_a_copy_steps_itself_and_not_what_a_scheduler_wrapped():
    layer = memory()
    trained = LayerOptimizer(layer, "sgd", RATE)
    lr_scheduler.StepLR(trained, 1)
    twin = copy.deepcopy(trained)
    before = layer.table.weight.clone()
    (table,) = twin.tables
    table.table.gradient = None
    layer(torch.ones(2, 24)).sum().backward()
    twin.step()
    assert torch.equal(layer.table.weight, before)
