"""Losses of logits on each path: awkward sizes against float64, rows that nobody asks for, and what is refused."""

import pytest
import torch
from against_reference import poisoned_memory
from torch.nn import functional

from layers.kernels import paths
from layers.kernels.cross_entropy import cross_entropy

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def drawn(rows, vocabulary, dtype):
    """Logits, targets, and a gradient of the losses that is zero in most rows."""
    targets = torch.randint(vocabulary, (rows,))
    return 4 * torch.randn(rows, vocabulary).to(dtype), targets, torch.randn(rows) * (torch.arange(rows) % 3 == 0)


def both(logits, targets, upstream, losses=cross_entropy):
    logits = logits.clone().requires_grad_()
    found = losses(logits, targets)
    return found.detach(), *torch.autograd.grad(found, logits, upstream)


def plain_both(logits, targets, upstream):
    """In float64."""

    def losses(logits, targets):
        return functional.cross_entropy(logits, targets, reduction="none")

    return both(logits.double(), targets, upstream.double(), losses)


@pytest.mark.parametrize(("rows", "vocabulary"), [(0, 5), (1, 2), (3, 67), (468, 448)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_losses_and_their_gradient(dtype, rows, vocabulary, path, seed):
    torch.manual_seed(seed)
    given = drawn(rows, vocabulary, dtype)
    expected = plain_both(*given)
    with poisoned_memory():
        losses, gradient = both(*given)
    assert (losses.dtype, gradient.dtype) == (torch.float32, dtype)
    assert losses.shape == (rows,) and gradient.shape == (rows, vocabulary)
    if rows:
        # a loss is a difference of logits up to 20, whose last digit is worth 2e-6; a gradient, of what is near 1
        torch.testing.assert_close(losses.double(), expected[0], rtol=1e-6, atol=4e-6)
        close = 1e-5 if dtype == torch.float32 else torch.finfo(dtype).eps
        torch.testing.assert_close(gradient.double(), expected[1], rtol=close, atol=1e-6)
        with torch.no_grad():
            assert torch.equal(cross_entropy(given[0], given[1]), losses)


def test_what_is_nearly_certain_keeps_its_digits(path):
    logits, targets = torch.tensor([[90.0, 101.0, 70.0]]), torch.tensor([1])
    losses, gradient = both(logits, targets, torch.ones(1))
    expected = plain_both(logits, targets, torch.ones(1))
    torch.testing.assert_close(losses.double(), expected[0], rtol=1e-2, atol=0)
    torch.testing.assert_close(gradient.double(), expected[1], rtol=1e-2, atol=1e-12)


def test_large_logits_and_what_cannot_be(path):
    logits = torch.tensor([[3e38, -3e38, 0.0], [1.0, -torch.inf, 1.0], [torch.nan, 0.0, 0.0]])
    losses, gradient = both(logits, torch.tensor([0, 0, 1]), torch.ones(3))
    torch.testing.assert_close(losses[:2], torch.tensor([0.0, 0.6931472]))
    torch.testing.assert_close(gradient[:2], torch.tensor([[0.0, 0.0, 0.0], [-0.5, 0.0, 0.5]]))
    assert losses[2].isnan() and gradient[2].isnan().all()


@pytest.mark.skipif(not paths.has_native(), reason="no C++ compiler")
def test_the_same_bits_by_any_number_of_threads_and_of_parts(restored_threads, seed):
    torch.manual_seed(seed)
    given, found = drawn(300, 193, torch.float32), []
    apart = [torch.stack([each] * 2, dim=-1)[..., 0] for each in given]
    for threads, operands in ((1, given), (3, given), (64, apart)):
        torch.set_num_threads(threads)
        found.append(both(*operands))
    assert all(torch.equal(one, other) for again in found[1:] for one, other in zip(found[0], again, strict=True))


@pytest.mark.parametrize("target", [-1, 7])
def test_a_token_that_does_not_exist_is_refused(target, path):
    with pytest.raises(IndexError, match=str(target)):
        cross_entropy(torch.zeros(2, 7), torch.tensor([0, target]))


@pytest.mark.parametrize(
    ("logits", "targets"),
    [
        (torch.zeros(7), torch.tensor([0])),
        (torch.zeros(2, 7), torch.tensor([0])),
        (torch.zeros(2, 7), torch.tensor([[0, 0]])),
        (torch.zeros(2, 7), torch.tensor([0, 0], dtype=torch.int32)),
    ],
)
def test_what_does_not_fit_is_refused(logits, targets):
    with pytest.raises(ValueError, match="should be"):
        cross_entropy(logits, targets)


@pytest.mark.skipif(not paths.has_native(), reason="no C++ compiler")
def test_torch_finds_no_fault_with_the_operators(seed):
    torch.manual_seed(seed)
    logits, targets, upstream = drawn(3, 8, torch.float32)
    torch.library.opcheck(torch.ops.membench.cross_entropy.default, (logits, targets))
    normalizers = torch.ops.membench.cross_entropy(logits, targets)[1]
    torch.library.opcheck(torch.ops.membench.cross_entropy_backward.default, (upstream, logits, targets, normalizers))
