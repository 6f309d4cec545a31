"""The time that a roofline of published peaks predicts. Pure arithmetic."""

from membench.layers.spec import Cost
from membench.machine.datasheet import Entry


def predicted_ms(cost: Cost, dtype: str, entry: Entry | None) -> float | None:
    """The roofline's time: each stage takes the longer of its FLOPs and its expected DRAM bytes.

    None where the hardware, or its rate for this dtype, is unknown.
    """
    if entry is None or (flops_per_s := entry.flops_per_s.get(dtype)) is None:
        return None
    seconds = (
        max(stage.flops / flops_per_s, stage.bytes_dram_expected / entry.memory_bytes_per_s) for stage in cost.stages
    )
    return 1e3 * sum(seconds)
