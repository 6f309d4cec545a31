"""A clock on a CPU, which has no kernel for a dozen numbers. Meaning: ``layers.kernels.step_clock``."""

from membench.layers.kernels.torch.step_clock import advance_

__all__ = ["advance_"]
