"""What each process that trains a model together with others sees: the run of one process."""

import torch
import torch.distributed as dist
from sharded_checks import connected
from small_task import MODELS, SmallTask, settings_of, spec_of
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from membench.training.group import Together
from membench.training.run import Run
from membench.training.usage import METRICS


def balances_as_one():
    """Replicas with the same tokens, whose balancing losses are each that of all: in two it weighs no more."""
    layer = {**MODELS["moe_loss"]["layer"], "balance_weight": 3.0}
    trains_as_one("moe_loss", 1, 2, settings_of(sequences=48), layer=layer)  # two slices of the same 24 strings


def trains_as_one(kind, row_shards, replicas, settings=None, cut=False, **changes):
    """The weights, loss curve, gradient norms and answers of one process, to rounding.

    Tables are cut; all else is whole on each process or, with ``cut``, under FSDP2.
    """
    spec, settings = spec_of(kind, **changes), settings or settings_of()
    alone = run(spec, settings)
    world = dist.get_world_size()
    mesh = init_device_mesh("cpu", (world,)) if cut else None
    many = run(spec, settings, Together(connected(row_shards, replicas), mesh))
    tables = {table.weight for table in many.model.tables()}
    assert all(
        isinstance(p, DTensor) == (cut and p not in tables | many.model.shards()) for p in many.model.parameters()
    )
    for table, whole in zip(many.model.tables(), alone.model.tables(), strict=True):
        assert table.weight.numel() * world == whole.weight.numel() * replicas
    wanted, found = (each.finish(lambda *_: None) for each in (alone, many))
    assert len(wanted.curve) == len(found.curve) > 1
    for one, other in zip(wanted.curve, found.curve, strict=True):
        assert (one.step, one.tokens, one.flops) == (other.step, other.tokens, other.flops)
        numbers = [[p.loss, p.gradient_norm or 0.0, p.metrics["answer_nll"]] for p in (other, one)]
        torch.testing.assert_close(*map(torch.tensor, numbers), rtol=2e-3, atol=2e-4)
    assert wanted.curve[-1].loss < wanted.curve[0].loss * 0.9, "something is learnt"
    for name in METRICS:
        one, other = (torch.tensor(each.final[name] or 0.0) for each in (wanted, found))
        torch.testing.assert_close(other, one, rtol=2e-3, atol=2e-4, msg=f"{name}: {one} and {other}")


def run(spec, settings, *group):
    return Run(spec, SmallTask(), settings, 1, torch.device("cpu"), None, {}, *group)
