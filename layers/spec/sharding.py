"""What ranks that share a table send each other, and which way of cutting it sends less.

A table is cut into R shards by rows and C by columns, P = R·C. Lookups go to the ranks with their row, each lookup to
all C of them; results come back to the token's rank, summed over row shards and joined over columns.

Letters: b tokens of a rank, H heads, k rows a head reads, D columns of a row, s bytes an element.
"""

from membench.layers.spec.accounting import ring_bytes
from membench.layers.spec.cost import Optimizer, Step
from membench.layers.spec.quantities import COUNT_BYTES, SCORE_BYTES, SIZE_BYTES


def lookup_bytes(step: Step, lookups: float, index_bytes: int, *, weights_by_columns: bool) -> dict[str, float]:
    """Of indices and weights, and backward the weights' gradients; row shards need a count for each token too.

    Ranks first tell each other how many tokens they have, and of row and column shards at once, how many lookups.

    Args:
        lookups: b·H·k of this rank.
        index_bytes: s_i, of the number of a shard's row.
        weights_by_columns: whether each column shard has a part of these gradients; else each has the whole.
    """
    rows, columns = step.row_shards, step.column_shards
    pairs, scores, counts = lookups * (index_bytes + SCORE_BYTES), lookups * SCORE_BYTES, step.tokens * COUNT_BYTES
    sent = {
        "all_gather_sizes": (step.ranks - 1) * SIZE_BYTES,
        "all_to_all_counts": (rows - 1) * counts,
        "all_to_all_lookups": ring_bytes(pairs, rows),
        "all_gather_lookup_sizes": (columns - 1) * SIZE_BYTES if rows > 1 else 0,
        "all_gather_counts": (columns - 1) * rows * counts if rows > 1 else 0,
        "all_gather_lookups": (columns - 1) * pairs,
    }
    if step.has_backward:
        sent["all_to_all_weights"] = ring_bytes(scores, rows)
        sent["reduce_scatter_weights"] = (columns - 1) * scores if weights_by_columns else 0
    return _without_nothing(sent)


def result_bytes(step: Step, row_bytes: float) -> dict[str, float]:
    """Of rows' sums, ``row_bytes`` a token; as much of their gradients backward."""
    passes = 2 if step.has_backward else 1
    over_rows = (step.row_shards - 1) * step.tokens * row_bytes
    return _without_nothing(
        {
            "reduce_scatter_columns": over_rows,
            "all_gather_column_gradients": over_rows * (passes - 1),
            "all_to_all_columns": ring_bytes(step.tokens * row_bytes, step.column_shards) * passes,
        }
    )


def product_bytes(step: Step, row_bytes: float, lookups: float) -> dict[str, float]:
    """Of tokens whose products with rows are wanted, and of the products, summed over column shards."""
    passes = 2 if step.has_backward else 1
    over_rows = (step.row_shards - 1) * step.tokens * row_bytes
    return _without_nothing(
        {
            "all_gather_token_columns": over_rows,
            "reduce_scatter_token_gradients": over_rows * (passes - 1),
            "all_to_all_token_columns": ring_bytes(step.tokens * row_bytes, step.column_shards) * passes,
            "all_reduce_products": 2 * (step.column_shards - 1) * lookups * SCORE_BYTES * passes,
        }
    )


def row_square_bytes(step: Step, touched_rows: float) -> dict[str, float]:
    """Of what a rule with one number a row needs of all columns: the sum of squares of each touched row's gradient."""
    if step.update not in PER_ROW_RULES:
        return {}
    return _without_nothing({"all_reduce_row_squares": 2 * ring_bytes(touched_rows * SCORE_BYTES, step.column_shards)})


PER_ROW_RULES: tuple[Optimizer, ...] = ("row_adagrad", "row_adam")


def added(*parts: dict[str, float]) -> dict[str, float]:
    """All by name, summed where several have one."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: sum(part.get(name, 0.0) for part in parts) for name in names}


def _without_nothing(sent: dict[str, float]) -> dict[str, float]:
    return {name: count for name, count in sent.items() if count}


def shard_error(rows: int, row_shards: int, columns: int, column_shards: int, what: str) -> str | None:
    """Why a table (rows, columns) cannot be cut so, or None."""
    if columns % column_shards:
        return f"{what} rows of {columns} columns cannot be cut into {column_shards} equal column shards"
    if row_shards > rows:
        return f"{rows} {what} rows cannot be shared by {row_shards} row shards"
    return None
