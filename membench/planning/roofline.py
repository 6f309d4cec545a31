"""The time that a roofline of published peaks predicts. Pure arithmetic."""

from membench.layers.spec import Cost, StageCost
from membench.machine.datasheet import Entry


def predicted_ms(cost: Cost, dtype: str, entry: Entry | None) -> float | None:
    """The roofline's time: each stage takes the longer of its FLOPs and its expected DRAM bytes.

    None where the hardware, or its rate for this dtype, is unknown.
    """
    if entry is None or dtype not in entry.flops_per_s:
        return None
    return sum(stage_ms(stage, dtype, entry) for stage in cost.stages)


def stage_ms(stage: StageCost, dtype: str, entry: Entry) -> float:
    """The same of one stage; the hardware's rate for this dtype must be known."""
    return 1e3 * max(stage.flops / entry.flops_per_s[dtype], stage.bytes_dram_expected / entry.memory_bytes_per_s)
