"""What a finished run is said to be: its last answers, and what they took."""

from membench.layers.spec import ModelSpec, Step
from membench.training.clock import Clock
from membench.training.trained import Point


def final_metrics(
    spec: ModelSpec,
    clock: Clock,
    curve: list[Point],
    usage: dict[str, float | None],
    peak_memory_bytes: int | None,
    matmul_flops_per_s: float | None,
) -> dict[str, float | None]:
    """All of a run in numbers; unknown is None.

    ``mfu`` is of ``matmul_flops_per_s``, the device's ceiling. ``bits_per_param`` is of all parameters, tables' too.
    """
    answers = curve[-1].metrics if curve else {}
    params = spec.cost(Step(1)).params
    flops_per_s = clock.flops / clock.seconds if clock.seconds else None
    bits = answers.get("bits_learnt")
    return {
        **answers,
        **usage,
        "best_loss": min((point.loss for point in curve if point.loss is not None), default=None),
        "steps": clock.steps,
        "tokens": clock.tokens,
        "flops": clock.flops,
        "seconds": clock.seconds,
        "joules": clock.joules,
        "tokens_per_s": clock.tokens / clock.seconds if clock.seconds else None,
        "flops_per_s": flops_per_s,
        "mfu": flops_per_s / matmul_flops_per_s if flops_per_s and matmul_flops_per_s else None,
        "peak_memory_bytes": peak_memory_bytes,
        "params": params,
        "table_params": spec.table_params,
        "table_share": spec.table_params / params,
        "bits_per_param": None if bits is None else bits / params,
    }
