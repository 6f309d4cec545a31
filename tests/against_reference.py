"""Comparing a layer with the float64 reference: seeds, relative errors, poisoned memory, counted FLOPs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from layers.verification import TOLERANCE, relative_rms


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Fill what ``torch.empty`` returns with NaN, so that an element nobody wrote cannot pass for a zero."""
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = before[1]


def double_weights(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter by name, as a float64 leaf."""
    return {name: p.detach().double().requires_grad_() for name, p in module.named_parameters()}


def assert_close(name: str, actual: Tensor | None, expected: Tensor | None, dtype: str, slack: float = 1.0) -> None:
    """Relative RMS error within the dtype's tolerance."""
    assert actual is not None, f"{name} is missing"
    wanted = torch.zeros_like(actual, dtype=torch.float64) if expected is None else expected.detach()
    error = relative_rms(actual.detach(), wanted)
    assert error <= slack * TOLERANCE[dtype], f"{name}: {error:.3g} relative RMS"


def counted_flops(forward: Callable[[], Tensor]) -> tuple[int, int]:
    """What torch's counter sees of a forward, and of it with its backward."""
    with FlopCounterMode(display=False) as counter:
        y = forward()
        alone = counter.get_total_flops()
        y.sum().backward()
    return alone, counter.get_total_flops()
