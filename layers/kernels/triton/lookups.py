"""Runs of equal rows on a GPU: torch's own sort there is a radix sort."""

from membench.layers.kernels.torch.lookups import find_runs

__all__ = ["find_runs"]
