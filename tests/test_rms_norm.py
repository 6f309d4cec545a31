"""RMS norm against float64: forward and both gradients, one scale or several that take turns."""

import pytest
import torch
from against_reference import poisoned_memory
from torch.nn import functional

from layers.checking.verification import relative_rms
from layers.kernels import paths
from layers.kernels.native.rms_norm import inverse_rms
from layers.kernels.rms_norm import rms_norm

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SIZES = [(1, 1, 1), (3, 67, 1), (130, 768, 1), (34, 5, 2), (99, 16, 3)]  # rows, columns, scales


def tolerance(dtype):
    return 1e-6 if dtype == torch.float32 else torch.finfo(dtype).eps


@pytest.mark.parametrize("rows, columns, scales", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_norms_and_gradients(dtype, rows, columns, scales, path, seed):
    torch.manual_seed(seed)
    x, scale, upstream = torch.randn(rows, columns), torch.randn(scales, columns), torch.randn(rows, columns)
    x, scale, upstream = x.to(dtype), (scale if scales > 1 else scale[0]).to(dtype), upstream.to(dtype)
    wide, wide_scale = x.double().requires_grad_(), scale.double().requires_grad_()
    expected = functional.rms_norm(wide, (columns,), eps=1e-3) * wide_scale.view(scales, columns).repeat(
        rows // scales, 1
    )
    gradients = torch.autograd.grad(expected, (wide, wide_scale), upstream.double())
    with poisoned_memory():
        with torch.no_grad():
            alone = rms_norm(x, scale, 1e-3)
        leaves = x.clone().requires_grad_(), scale.clone().requires_grad_()
        found = rms_norm(*leaves, 1e-3)
        of_leaves = torch.autograd.grad(found, leaves, upstream)
    assert torch.equal(alone, found) and found.dtype == dtype
    # torch rounds a norm to 16 bits before it is scaled, and forms gradients of it
    most = tolerance(dtype) * (1 if path == "native" or dtype == torch.float32 else 4)
    assert relative_rms(found, expected) < most
    for given, wanted in zip(of_leaves, gradients, strict=True):
        assert given.shape == wanted.shape and given.dtype == dtype
        assert columns == 1 or relative_rms(given, wanted) < most  # of one column x has no gradient but rounding


@pytest.mark.skipif(not paths.has_native(), reason="no C++ compiler")
def test_the_same_bits_by_any_number_of_threads(restored_threads, seed):
    torch.manual_seed(seed)
    x, scale, upstream = torch.randn(2050, 96), torch.randn(2, 96, requires_grad=True), torch.randn(2050, 96)
    x.requires_grad_()
    found = []
    for threads in (1, 3, 64):
        torch.set_num_threads(threads)
        found.append(torch.autograd.grad(rms_norm(x, scale, 1e-5), (x, scale), upstream))
    for others in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], others, strict=True))


@pytest.mark.parametrize("wanted", ["x", "scale"])
def test_only_the_gradient_asked_for(wanted, path, seed):
    torch.manual_seed(seed)
    leaves = {"x": torch.randn(5, 8), "scale": torch.randn(8)}
    leaves[wanted].requires_grad_()
    rms_norm(*leaves.values(), 1e-5).sum().backward()
    assert [name for name, leaf in leaves.items() if leaf.grad is not None] == [wanted]


def test_parts_of_other_tensors(path, seed):
    torch.manual_seed(seed)
    x, scale = torch.randn(5, 40)[:, 3:20], torch.randn(34, requires_grad=True)[::2]
    found = rms_norm(x, scale, 1e-5)
    assert found.requires_grad
    assert relative_rms(found, functional.rms_norm(x.double(), (17,), scale.double(), 1e-5)) < 1e-6


@pytest.mark.parametrize("x, scale", [((5, 8), (7,)), ((5, 8), (2, 7)), ((5, 8), (2, 8)), ((5,), (5,))])
def test_shapes_that_do_not_fit_are_refused(x, scale):
    with pytest.raises(ValueError, match=r"should be|are no multiple"):
        rms_norm(torch.ones(x), torch.ones(scale), 1e-5)


@pytest.mark.skipif(not paths.has_native(), reason="no C++ compiler")
@pytest.mark.parametrize("rows, columns", [(1, 1), (3, 67), (1030, 24)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_scales_of_keys(dtype, rows, columns, seed):
    torch.manual_seed(seed)
    x = torch.randn(rows, columns).to(dtype)
    with poisoned_memory():
        found = inverse_rms(x, 1e-3)
    assert relative_rms(found, (x.double().square().mean(dim=1) + 1e-3).rsqrt()) < 1e-6


@pytest.mark.skipif(not paths.has_native(), reason="no C++ compiler")
def test_torch_finds_no_fault_with_the_operators(seed):
    torch.manual_seed(seed)
    x, scale = torch.randn(3, 8), torch.randn(8)
    torch.library.opcheck(torch.ops.membench.rms_norm.default, (x, scale, 1e-3))
    torch.library.opcheck(torch.ops.membench.rms_norm_backward.default, (x, scale, torch.randn(3, 8), 1e-3))
