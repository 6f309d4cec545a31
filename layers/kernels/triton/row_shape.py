"""How kernels are told where a table's rows lie.

Letters: N rows, D columns.
"""

from torch import Tensor


def row_shape(table: Tensor) -> dict[str, int]:
    """D, and the distance from one row to the next. (A table may be some columns of another one; it is not copied.)

    Raises:
        ValueError: a row's elements do not lie side by side.
    """
    columns, (pitch, step) = table.shape[1], table.stride()
    if step != 1 and columns > 1:
        raise ValueError(f"a row's elements must lie side by side; the table's strides are {table.stride()}")
    return {"COLUMNS": columns, "PITCH": pitch}
