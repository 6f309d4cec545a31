"""What each process that trains a model together with others sees: the run of one process."""

import torch
import torch.distributed as dist
from sharded_checks import connected
from small_task import MODELS, SmallTask, settings_of, spec_of
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from layers.sharded_checkpoint import load, save
from membench.training.group import Together
from membench.training.run import Run


def balances_as_one(folder):
    """Replicas with the same tokens, whose balancing losses are each that of all: in two it weighs no more."""
    layer = {**MODELS["moe_loss"]["layer"], "balance_weight": 3.0}
    trains_as_one("moe_loss", 1, 2, folder, settings_of(sequences=48), layer=layer)  # two slices of the same 24 strings


def trains_as_one(kind, row_shards, replicas, folder, settings=None, **changes):
    """The loss curve, gradient norms and answers of one process, to rounding; tables as cut, all else under FSDP2."""
    spec, settings = spec_of(kind, **changes), settings or settings_of()
    alone = run(spec, settings)
    save(folder / f"{kind}-{row_shards}-{replicas}", alone.model)
    world = dist.get_world_size()
    mesh = init_device_mesh("cpu", (world,))
    many = run(spec, settings, Together(connected(row_shards, replicas), mesh))
    load(folder / f"{kind}-{row_shards}-{replicas}", many.model)
    tables = {table.weight for table in many.model.tables()}
    assert all(isinstance(p, DTensor) != (p in tables | many.model.shards()) for p in many.model.parameters())
    for table, whole in zip(many.model.tables(), alone.model.tables(), strict=True):
        assert table.weight.numel() * world == whole.weight.numel() * replicas
    wanted, found = (each.finish(lambda *_: None) for each in (alone, many))
    assert len(wanted.curve) == len(found.curve) > 1
    for one, other in zip(wanted.curve, found.curve, strict=True):
        assert (one.step, one.tokens, one.flops) == (other.step, other.tokens, other.flops)
        numbers = [[p.loss, p.gradient_norm, p.metrics["answer_nll"]] for p in (other, one)]
        torch.testing.assert_close(*map(torch.tensor, numbers), rtol=2e-3, atol=2e-4)
    assert wanted.curve[-1].loss < wanted.curve[0].loss * 0.9, "something is learnt"
    assert found.final.get("rows_used_share") == wanted.final.get("rows_used_share")


def run(spec, settings, *group):
    return Run(spec, SmallTask(), settings, 1, torch.device("cpu"), None, {}, *group)
