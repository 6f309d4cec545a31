"""The few formulas that every kind's cost is made of.

Letters: B tokens, d_in/d_out matrix widths, s bytes an element, P ranks.
"""

from layers.spec.cost import Mode, Optimizer, StageCost, has_backward
from layers.spec.quantities import SCORE_BYTES


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
    *,
    lookups: float,
    unique_rows: float,
    row_elements: float,
    tables: int,
    bag_elements: float,
    item_bytes: int,
    cache_bytes: float,
    mode: Mode,
) -> list[StageCost]:
    """Weighted bags over table rows: 2·L·D FLOPs a table, 4·L·D more backward (dV and d(score)).

    Forward reads L indices and weights and the rows, and writes the bags. Backward gathers
    dY once a lookup, reads the unique rows again for d(score), and writes their gradients.
    """
    row_bytes = row_elements * item_bytes
    flops = 2.0 * lookups * row_elements * tables
    stream = lookups * (4 + SCORE_BYTES) + bag_elements * item_bytes
    unique, issued = unique_rows * row_bytes * tables, lookups * row_bytes * tables
    dram = dram_row_bytes(lookups, unique_rows, row_bytes, cache_bytes) * tables
    bags = bag_elements / row_elements if row_elements else 0.0
    gathered = dram_row_bytes(lookups, bags, row_bytes, cache_bytes) * tables
    return passes(
        mode,
        StageCost(name, flops, flops, stream, unique, issued, dram),
        StageCost(
            name,
            2 * flops,
            2 * flops,
            stream_bytes=lookups * (4 + 2 * SCORE_BYTES) + unique,
            row_bytes_unique=unique + bags * row_bytes * tables,
            row_bytes_issued=unique + issued,
            row_bytes_dram_expected=unique + gathered,
            backward=True,
        ),
    )


def optimizer_state_bytes(
    dense_params: float, table_params: float, table_rows: float, item_bytes: int, optimizer: Optimizer
) -> float:
    """Moments held: AdamW two a parameter, in its dtype as torch keeps them; row-wise Adagrad one fp32 a row."""
    if optimizer == "sgd":
        return 0.0
    moments = 2.0 * item_bytes
    if optimizer == "adamw":
        return moments * (dense_params + table_params)
    return moments * dense_params + 4.0 * table_rows


def update(
    dense_params: float,
    table_params: float,
    touched_rows: float,
    row_elements: float,
    item_bytes: int,
    optimizer: Optimizer,
) -> list[StageCost]:
    """The optimizer's traffic: AdamW reads w, g, m, v and writes w, m, v, all in the parameter's dtype.

    Row-wise Adagrad and SGD read and write only the touched rows of a table. AdamW on a table
    is dense by definition, its moments decay everywhere, and first spreads the row gradient
    into a dense one. Tables, where there are some, are a stage of their own.
    """
    adamw = 7 * item_bytes
    sgd = 3 * item_bytes
    rows = touched_rows * (3 * row_elements * item_bytes)
    stream, table_stream, row_bytes = {
        "adamw": (adamw * dense_params, (adamw + item_bytes) * table_params, 0.0),
        "row_adagrad": (adamw * dense_params, 0.0, rows + 8 * touched_rows),
        "sgd": (sgd * dense_params, 0.0, rows),
    }[optimizer]
    matrices = StageCost("update", stream_bytes=stream)
    if not table_params:
        return [matrices]
    table = StageCost("table_update", 0.0, 0.0, table_stream, row_bytes, row_bytes, row_bytes)
    return [matrices, table]


def ring_bytes(payload_bytes: float, ranks: int) -> float:
    """What one rank sends in a reduce-scatter or all-gather of a whole payload: (P-1)/P of it."""
    return payload_bytes * (ranks - 1) / ranks


def replica_gradients(dense_params: float, item_bytes: int, ranks: int, mode: Mode) -> dict[str, float]:
    """All-reduce of the gradients of what every rank holds whole: 2(P-1)/P of their bytes."""
    if ranks == 1 or not has_backward(mode) or dense_params == 0:
        return {}
    return {"all_reduce_gradients": 2 * ring_bytes(dense_params * item_bytes, ranks)}
