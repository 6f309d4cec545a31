"""The few formulas that every kind's cost is made of.

Letters: B tokens, d_in/d_out matrix widths, s bytes an element, P ranks.
"""

from membench.layers.spec.cost import Cost, MemoryNeed, Mode, Optimizer, StageCost, Step, has_backward
from membench.layers.spec.quantities import INDEX_BYTES, SCORE_BYTES


def passes(mode: Mode, forward: StageCost, backward: StageCost) -> list[StageCost]:
    """What a mode computes of a stage: its forward, and in a mode that has one its backward."""
    return [forward, backward] if has_backward(mode) else [forward]


def linear(
    name: str, rows: float, d_in: int, d_out: int, item_bytes: int, mode: Mode, *, matrices: float = 1.0
) -> list[StageCost]:
    """A matrix product (rows, d_in) x (d_in, d_out), each operand and result moved once.

    Forward 2·rows·d_in·d_out FLOPs; backward twice that (dX and dW), reading dY, X and W
    and writing dX and dW. ``matrices`` is how many such weight matrices the rows are
    spread over (the active experts).
    """
    flops = 2.0 * rows * d_in * d_out
    weights = matrices * d_in * d_out
    elements = rows * (d_in + d_out) + weights
    gradients = rows * (d_out + 2 * d_in) + 2 * weights
    return passes(
        mode,
        StageCost(name, flops, flops, elements * item_bytes),
        StageCost(name, 2 * flops, 2 * flops, gradients * item_bytes, backward=True),
    )


def swiglu(
    prefix: str, rows: float, model_dim: int, hidden: int, item_bytes: int, mode: Mode, *, matrices: float = 1.0
) -> list[StageCost]:
    """SwiGLU, W_down(silu(x W_gate) * (x W_up)): 6·B·d·f forward, 12·B·d·f backward.

    The product is taken to be formed as gate and up are written (a fused epilogue), so
    forward moves x, three matrices, the product twice and y; before a backward it also
    writes gate and up, which the backward reads, and that moves each gradient once.
    """
    d, f = model_dim, hidden
    flops_up, flops_down = 4.0 * rows * d * f, 2.0 * rows * f * d
    up = rows * (d + f) + matrices * 2 * d * f
    if has_backward(mode):
        up += rows * 2 * f  # gate and up, saved
    # gate, up read with dH (3f); dgate, dup written and read (4f); x, dx (2d); W, dW
    up_gradients = rows * (7 * f + 2 * d) + matrices * 4 * d * f
    down = rows * (f + d) + matrices * f * d
    # dY (d), h (f) read; dH (f) written; W, dW
    down_gradients = rows * (d + 2 * f) + matrices * 2 * d * f
    name_up, name_down = f"{prefix}up", f"{prefix}down"
    return [
        *passes(
            mode,
            StageCost(name_up, flops_up, flops_up, up * item_bytes),
            StageCost(name_up, 2 * flops_up, 2 * flops_up, up_gradients * item_bytes, backward=True),
        ),
        *passes(
            mode,
            StageCost(name_down, flops_down, flops_down, down * item_bytes),
            StageCost(name_down, 2 * flops_down, 2 * flops_down, down_gradients * item_bytes, backward=True),
        ),
    ]


def dram_row_bytes(lookups: float, unique_rows: float, row_bytes: float, cache_bytes: float) -> float:
    """Row bytes expected from DRAM: unique rows once, repeats unless a cache holds them.

    A repeat is served by a cache of C bytes with the chance C / (U·row), the hit rate of a
    fully associative cache under equally likely rows. Skew only raises the hit rate.
    """
    working_set = unique_rows * row_bytes
    if working_set <= 0:
        return 0.0
    miss = max(0.0, 1.0 - cache_bytes / working_set)
    return working_set + max(0.0, lookups - unique_rows) * row_bytes * miss


def row_reads(
    name: str,
    step: Step,
    *,
    lookups: float,
    unique_rows: float,
    row_elements: float,
    tables: int,
    bag_elements: float,
    item_bytes: int,
    row_bytes: float | None = None,
    index_bytes: int = INDEX_BYTES,
) -> list[StageCost]:
    """Weighted bags over table rows: 2·L·D FLOPs a table, 4·L·D more backward (dV and d(score)).

    Forward reads L indices and weights and the rows, and writes the bags. Backward gathers
    dY once a lookup, reads the unique rows again for d(score), and writes their gradients; or, in a training
    step with a row optimizer, the updated rows and what it remembers of them: the gradient stays in registers.
    ``row_bytes`` are those of a stored row, where its numbers are no ``item_bytes`` wide; ``index_bytes`` those of a
    row's number.
    """
    row_bytes = row_elements * item_bytes if row_bytes is None else row_bytes
    flops = 2.0 * lookups * row_elements * tables
    stream = lookups * (index_bytes + SCORE_BYTES) + bag_elements * item_bytes
    unique, issued = unique_rows * row_bytes * tables, lookups * row_bytes * tables
    dram = dram_row_bytes(lookups, unique_rows, row_bytes, step.cache_bytes) * tables
    bags = bag_elements / row_elements if row_elements else 0.0
    gathered = dram_row_bytes(lookups, bags, row_bytes, step.cache_bytes) * tables
    updated = 0.0
    if updates_in_backward(step):
        updated = unique + unique_rows * tables * row_state_bytes(row_elements, step.optimizer) * 2
    return passes(
        step.mode,
        StageCost(name, flops, flops, stream, unique, issued, dram),
        StageCost(
            name,
            2 * flops,
            2 * flops,
            stream_bytes=lookups * (index_bytes + 2 * SCORE_BYTES) + (0 if updated else unique),
            row_bytes_unique=unique + updated + bags * row_bytes * tables,
            row_bytes_issued=unique + updated + issued,
            row_bytes_dram_expected=unique + updated + gathered,
            backward=True,
        ),
    )


def updates_in_backward(step: Step) -> bool:
    """Whether table rows are updated by the backward pass that reads them: by every rule but dense AdamW."""
    return step.fused and step.update not in (None, "adamw")


def table_gradients(step: Step, touched: float, table_params: float) -> float:
    """Elements held of tables' gradients: ``touched`` ones, dense ones besides for AdamW, none where fused."""
    if updates_in_backward(step):
        return 0.0
    return touched + (table_params if step.optimizer == "adamw" else 0)


def row_state_bytes(row_elements: float, optimizer: Optimizer | None) -> float:
    """What a row optimizer remembers of one row, fp32: a number a row, a moment an element, or both moments.

    ``lazy_adam`` keeps the number of a row's last update too.
    """
    return {"row_adagrad": 4.0, "row_adam": 4.0 + 4 * row_elements, "lazy_adam": 4.0 + 8 * row_elements}.get(
        optimizer or "sgd", 0.0
    )


def optimizer_state_bytes(
    dense_params: float, table_params: float, table_rows: float, item_bytes: int, optimizer: Optimizer | None
) -> float:
    """Moments held: AdamW two a parameter, in its dtype as torch keeps them; of tables what their rule remembers."""
    if optimizer in (None, "sgd"):
        return 0.0
    moments = 2.0 * item_bytes
    if optimizer == "adamw":
        return moments * (dense_params + table_params)
    columns = table_params / table_rows if table_rows else 0.0
    return moments * dense_params + table_rows * row_state_bytes(columns, optimizer)


def update(dense_params: float, table_params: float, item_bytes: int, optimizer: Optimizer | None) -> list[StageCost]:
    """The optimizer's traffic, where there is one.

    AdamW reads w, g, m, v and writes w, m, v, all in the parameter's dtype. On a table it is dense by definition, its
    moments decay everywhere, and first spreads the row gradient into a dense one; that is a stage of its own. Other
    rules update rows in the backward (``row_reads``).
    """
    if optimizer is None:
        return []
    adamw = 7 * item_bytes
    matrices = StageCost("update", stream_bytes=(3 * item_bytes if optimizer == "sgd" else adamw) * dense_params)
    if not table_params or optimizer != "adamw":
        return [matrices]
    return [matrices, StageCost("table_update", stream_bytes=(adamw + item_bytes) * table_params)]


def ring_bytes(payload_bytes: float, ranks: int) -> float:
    """What one rank sends in a reduce-scatter or all-gather of a whole payload: (P-1)/P of it."""
    return payload_bytes * (ranks - 1) / ranks


def replica_gradients(dense_params: float, item_bytes: int, step: Step) -> dict[str, float]:
    """All-reduce of the gradients of what every rank holds whole: 2(P-1)/P of their bytes."""
    if step.ranks == 1 or not step.has_backward or dense_params == 0:
        return {}
    return {"all_reduce_gradients": 2 * ring_bytes(dense_params * item_bytes, step.ranks)}


def replicated_cost(step: Step, params: int, item_bytes: int, stages: list[StageCost], activation_bytes: float) -> Cost:
    """The cost of a layer that every rank holds whole, for its own tokens, and that uses all its parameters.

    Args:
        stages: forward and, in a mode that has one, backward; the optimizer's update is added.
        activation_bytes: held in a step of this mode.
    """
    weight_bytes = params * item_bytes
    return Cost(
        params=params,
        active_params=params,
        rank_params=params,
        stored_bytes=weight_bytes,
        stages=(*stages, *update(params, 0, item_bytes, step.update)),
        memory=MemoryNeed(
            weights=weight_bytes,
            gradients=weight_bytes if step.has_backward else 0,
            optimizer=optimizer_state_bytes(params, 0, 0, item_bytes, step.optimizer),
            activations=activation_bytes,
        ),
        communication_bytes=replica_gradients(params, item_bytes, step),
    )
