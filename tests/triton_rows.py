"""What tests of the row passes in Triton share: small lookups with runs of every kind, and how exact results are."""

from triton_device import DEVICE  # isort: split

import torch

from layers.kernels.lookups import Runs
from layers.kernels.torch.lookups import find_runs

NUM_ROWS = 60
SPLIT = 8  # so that runs are long that the interpreter can do
# Sums of at most some hundred positive fp32, and Hopper's approximate square roots and quotients; 16 bits: one
# rounding of the result, to nearest on a GPU, towards zero in the interpreter.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}


def on_device(*tensors):
    return tuple(tensor.to(DEVICE) for tensor in tensors)


def positive(*shape, dtype=torch.float32):
    """Away from zero, because a sum that cancels magnifies its rounding."""
    return torch.rand(*shape).add(0.1).to(dtype)


def mixed_rows(tokens, lookups):
    """Runs of every length about SPLIT, one of several pieces, and many short ones; the last row of the table too."""
    runs = [3 * SPLIT + 3, SPLIT + 1, SPLIT, SPLIT - 1, 2, 1]
    rows = torch.randint(NUM_ROWS - 10, (tokens * lookups,), dtype=torch.int32)
    chosen = torch.cat([torch.full((length,), NUM_ROWS - 1 - at) for at, length in enumerate(runs)])
    rows[: len(chosen)] = chosen
    return rows[torch.randperm(len(rows))].view(tokens, lookups)


def runs_of(rows, num_rows=NUM_ROWS):
    """With the empty runs that a GPU adds, on the device."""
    distinct, starts, order = find_runs(rows.flatten(), num_rows)
    empty = rows.numel() - len(distinct)
    padded = torch.nn.functional.pad(starts, (0, empty), value=rows.numel())
    return Runs(*on_device(torch.nn.functional.pad(distinct, (0, empty)), padded, order))
