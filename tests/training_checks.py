"""What each process that trains a model together with others sees: the run of one process."""

import torch
import torch.distributed as dist
from sharded_checks import connected
from small_task import MODELS, Interrupted, SmallTask, Ticking, settings_of, spec_of, without_times
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

import membench.training.clock
import membench.training.group
from membench.errors import UsageError
from membench.training.checkpoint import FILE, DamagedCheckpoint
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


def together(row_shards, replicas, cut=False):
    """The group of all processes."""
    return Together(connected(row_shards, replicas), init_device_mesh("cpu", (dist.get_world_size(),)) if cut else None)


def run(spec, settings, group=None, folder=None, data=None):
    return Run(spec, data or SmallTask(), settings, 1, torch.device("cpu"), folder, {}, group)


def goes_on_to_the_bit(folder, kind, row_shards, replicas, settings, cut=False):
    """A run that is interrupted and taken up is the one that is not."""
    spec, at = spec_of(kind), 4
    whole = run(spec, settings, together(row_shards, replicas, cut))
    expected = whole.finish(lambda *_: None)
    try:
        run(spec, settings, together(row_shards, replicas, cut), folder, Interrupted(at)).finish(lambda *_: None)
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError("it was not interrupted")
    again = run(spec, settings, together(row_shards, replicas, cut), folder)
    found = again.finish(lambda *_: None)
    assert found.resumed_at == [at]
    assert without_times(found) == without_times(expected)
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(*(each.to_local() if isinstance(each, DTensor) else each for each in (one, other)))
    dist.barrier()
    assert len([*folder.glob("parts-*")]) == 1, "earlier ones are gone"
    assert not [*folder.glob(".seen-*")]
    last = run(spec, settings, together(row_shards, replicas, cut), folder, Interrupted(0))
    assert last.finish(lambda *_: None) == found, "a finished run is read and not run again"


def is_damaged_or_of_another(folder):
    """The same line on every process, and nobody waits for one that has given up."""
    spec, settings = spec_of("memory"), settings_of(steps=4)
    group = together(1, 1)
    run(spec, settings, group, folder).finish(lambda *_: None)
    for change, says in (({"learning_rate": 0.5}, "is of another model"), ({"steps": 4}, None)):
        assert refusal(spec, settings_of(**{"steps": 4, **change}), group, folder, says)
    assert refusal(spec, settings, None, folder, "is of several processes that trained together")
    if dist.get_rank() == 0:
        (file,) = folder.glob("parts-*/__0_0.distcp")
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    dist.barrier()
    assert refusal(spec, settings, group, folder, "__0_0.distcp is not what was written", DamagedCheckpoint)
    if dist.get_rank() == 0:
        run(spec, settings, None, folder / "alone").finish(lambda *_: None)
    dist.barrier()
    assert refusal(spec, settings, group, folder / "alone", "is of a process that trained alone")
    nobody_else = folder if dist.get_rank() == 0 else folder / "elsewhere"
    assert refusal(spec, settings, group, nobody_else, "is not seen by all processes")
    assert not (folder / "elsewhere").exists()
    if dist.get_rank() == 0:
        (folder / FILE).write_bytes(b"nothing")
    dist.barrier()
    assert refusal(spec, settings, group, folder, "is no checkpoint that this version writes", DamagedCheckpoint)


def refusal(spec, settings, group, folder, says, kind=UsageError):
    """Whether a run of a folder is refused so; None: it is not."""
    try:
        run(spec, settings, group, folder)
    except kind as error:
        assert says is not None and says in str(error) and "\n" not in str(error), str(error)
        return True
    return says is None


def stops_together(stop, steps, machines):
    """Clocks and counters that go on at other rates on each process: all stop where the budget is spent.

    Seconds are the first one's, joules are added up, one counter a machine.
    """
    rank, modules = dist.get_rank(), (membench.training.clock, membench.training.group)
    kept = modules[0].time, modules[0].EnergyCounter, modules[1]._machine
    ticking = Ticking(joules=2.0 + rank)
    modules[0].time, modules[0].EnergyCounter = ticking, ticking.counter
    modules[1]._machine = lambda: machines[rank]

    class Slow(SmallTask):
        def batch(self, first, count):
            ticking.now += 1 + 2 * rank
            return super().batch(first, count)

        def score(self, *asked):
            ticking.now += 100
            return super().score(*asked)

    try:
        found = run(spec_of("memory"), settings_of(stop=stop), together(1, 1), None, Slow()).finish(lambda *_: None)
    finally:
        modules[0].time, modules[0].EnergyCounter, modules[1]._machine = kept
    assert [point.step for point in found.curve] == steps
    joules = 2 if machines[0] == machines[1] else 2 + 3 * 3
    for point in found.curve:
        assert (point.seconds, point.joules) == (point.step, joules * point.step)
    assert found.final["seconds"] == steps[-1]


def knows_no_joules():
    """A machine without a counter: unknown, and refused alike where training is to stop at them."""
    kept, made = membench.training.clock.EnergyCounter, Ticking(joules=1.0)
    made.source = "rapl" if dist.get_rank() == 0 else None
    machine, membench.training.group._machine = membench.training.group._machine, lambda: str(dist.get_rank())
    membench.training.clock.EnergyCounter = made.counter
    try:
        assert run(spec_of("dense"), settings_of(2), together(1, 2)).finish(lambda *_: None).final["joules"] is None
        try:
            run(spec_of("dense"), settings_of(stop={"joules": 5.0}), together(1, 2))
        except UsageError as error:
            assert "no energy counter of this device" in str(error)
        else:
            raise AssertionError("joules that are not counted are no budget")
    finally:
        membench.training.clock.EnergyCounter, membench.training.group._machine = kept, machine
