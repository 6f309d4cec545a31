"""Comparing a layer with the float64 reference: seeds, relative errors, poisoned memory, counted FLOPs."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from layers.checking.verification import TOLERANCE, relative_rms

Leaf = Callable[[Tensor], Tensor]

_MOVES = 4  # random changes of the inputs, of which the one that does most counts


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


def double(tensor: Tensor) -> Tensor:
    """A float64 leaf of the same values."""
    return tensor.detach().double().requires_grad_()


def double_weights(module: nn.Module, leaf: Leaf = double) -> dict[str, Tensor]:
    """Every parameter by name, as a float64 leaf."""
    return {name: leaf(parameter) for name, parameter in module.named_parameters()}


def error_of_sums(actual: Tensor, expected: Tensor, terms: float) -> float:
    """RMS error of sums of so many products of normal numbers, relative to what such sums come to.

    Of other numbers ``terms`` is the sum of the squares of a sum's products.

    Where few come out, all of them may lie near zero, and what rounding the terms leaves is large beside them.
    """
    return relative_rms(actual, expected) * min(1.0, expected.square().mean().sqrt().item() / terms**0.5)


def assert_close(name: str, actual: Tensor | None, expected: Tensor | None, dtype: str, slack: float = 1.0) -> None:
    """Relative RMS error within the dtype's tolerance."""
    assert actual is not None, f"{name} is missing"
    wanted = torch.zeros_like(actual, dtype=torch.float64) if expected is None else expected.detach()
    error = relative_rms(actual.detach(), wanted)
    assert error <= slack * TOLERANCE[dtype], f"{name}: {error:.3g} relative RMS"


def assert_matches(
    actual: Mapping[str, Tensor | None], reference: Callable[[Leaf], Mapping[str, Tensor | None]], dtype: str, case: str
) -> None:
    """Each relative RMS error within the dtype's tolerance, times how ill-conditioned the case is.

    Over random cases some results are sums of terms that nearly cancel: of these rounding the inputs alone
    leaves few digits. Such a result is judged by how far the reference itself moves when its inputs are off by
    one rounding, measured only where it is needed.

    Args:
        actual: the layer's results by name.
        reference: the same results in float64, of leaves that it makes of its inputs by what it is given.
        case: what a failure is to name.
    """
    expected = {name: _or_zeros(wanted, actual[name]) for name, wanted in reference(double).items()}
    assert expected.keys() == actual.keys()
    for name, wanted in expected.items():
        found = actual[name]
        assert found is not None, f"{name} of {case} is missing"
        error = relative_rms(found.detach(), wanted)
        if error <= TOLERANCE[dtype]:
            continue
        roundoff = torch.finfo(getattr(torch, dtype)).eps / 2
        moved = [_or_zeros(reference(partial(_rounded, roundoff))[name], found) for _ in range(_MOVES)]
        condition = max(relative_rms(other, wanted) for other in moved) / roundoff
        assert error <= TOLERANCE[dtype] * condition, f"{name} of {case}: {error:.3g}, condition {condition:.3g}"


def _or_zeros(wanted: Tensor | None, like: Tensor | None) -> Tensor:
    if wanted is not None:
        return wanted.detach()
    assert like is not None
    return torch.zeros_like(like, dtype=torch.float64)


def _rounded(roundoff: float, tensor: Tensor) -> Tensor:
    """A float64 leaf whose every value is off by at most ``roundoff`` of itself."""
    noise = torch.empty(tensor.shape, dtype=torch.float64).uniform_(-roundoff, roundoff)
    return (tensor.detach().double() * (1 + noise)).requires_grad_()


def counted_flops(forward: Callable[[], Tensor]) -> tuple[int, int]:
    """What torch's counter sees of a forward, and of it with its backward."""
    with FlopCounterMode(display=False) as counter:
        y = forward()
        alone = counter.get_total_flops()
        y.sum().backward()
    return alone, counter.get_total_flops()
