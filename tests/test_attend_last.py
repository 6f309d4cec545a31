"""Attention of one token, and norms, in C++: awkward sizes against float64, and where they are used."""

import pytest
import torch
from against_reference import poisoned_memory
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from layers.checking.verification import relative_rms
from layers.kernels import paths
from layers.kernels.attend_last import attend_last, can_attend
from layers.kernels.key_scores import key_scores
from layers.models.rotary import turned, turns

pytestmark = pytest.mark.skipif(not paths.has_native(), reason="no C++ compiler")

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = {  # sequences, query heads, key heads, head dim, capacity, held
    "first": (1, 1, 1, 2, 1, 0),
    "odd": (3, 6, 2, 34, 23, 21),
    "full": (2, 4, 4, 64, 17, 16),
    "long": (1, 4, 1, 96, 700, 603),
}


def drawn(shape, dtype):
    sequences, heads, kv_heads, head_dim, capacity, held = shape
    projected = torch.randn(sequences, (heads + 2 * kv_heads) * head_dim).to(dtype)
    keys, values = (torch.randn(sequences, kv_heads, capacity, head_dim).to(dtype) for _ in range(2))
    angles = (each[held] for each in turns(held + 1, head_dim, 1e4, dtype, "cpu"))
    return projected, *angles, keys, values, held


def plainly(projected, cosines, sines, keys, values, held):
    """What comes out, keys and values, in float64."""
    projected, cosines, sines, keys, values = (each.double() for each in (projected, cosines, sines, keys, values))
    sequences, kv_heads, _, head_dim = keys.shape
    heads = projected.view(sequences, -1, 1, head_dim)
    placed, new_values = heads[:, :-kv_heads], heads[:, -kv_heads:]
    queries, new_keys = turned(placed, cosines, sines).split([placed.shape[1] - kv_heads, kv_heads], dim=1)
    keys[:, :, held], values[:, :, held] = new_keys[:, :, 0], new_values[:, :, 0]
    seen = keys[:, :, : held + 1], values[:, :, : held + 1]
    found = functional.scaled_dot_product_attention(queries, *seen, enable_gqa=True)
    return found.reshape(sequences, -1), keys, values


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_token_attends_and_is_kept(dtype, shape, seed):
    torch.manual_seed(seed)
    given = drawn(shape, dtype)
    expected, keys, values = plainly(*given)
    with poisoned_memory():
        found = attend_last(*given)
    tolerance = 1e-6 if dtype == torch.float32 else torch.finfo(dtype).eps
    assert relative_rms(found, expected) < tolerance
    assert relative_rms(given[3], keys) < tolerance
    assert torch.equal(given[4].double(), values)


def test_the_same_bits_by_any_number_of_threads(restored_threads, seed):
    torch.manual_seed(seed)
    given, found = drawn((3, 6, 2, 64, 900, 803), torch.float32), []
    for threads in (1, 3, 64):
        torch.set_num_threads(threads)
        found.append(attend_last(*given))
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_large_scores_stay_finite():
    given = drawn((1, 1, 1, 4, 3, 2), torch.float32)
    given[0].fill_(1e4)
    assert attend_last(*given).isfinite().all()


@pytest.mark.parametrize(
    "changed",
    [
        {0: torch.ones(3, 36)},
        {0: torch.ones(2, 12)},
        {0: torch.ones(2, 28)},
        {0: torch.ones(2, 37)},
        {0: torch.ones(2, 36, dtype=torch.bfloat16)},
        {1: torch.ones(5)},
        {2: torch.ones(4, dtype=torch.float64)},
        {3: torch.ones(2, 2, 4, 5).transpose(2, 3)},
        {4: torch.ones(2, 2, 6, 4)},
        {5: 5},
        {5: -1},
    ],
)
def test_what_does_not_fit_is_refused(changed):
    given = [torch.ones(2, 36), torch.ones(4), torch.ones(4), torch.ones(2, 2, 5, 4), torch.ones(2, 2, 5, 4), 4]
    for place, value in changed.items():
        given[place] = value
    with pytest.raises(ValueError, match=r"should be|no heads|none of number"):
        attend_last(*given)


def test_where_it_is_used():
    projected, keys = torch.ones(1, 12), torch.ones(1, 1, 2, 4)
    assert can_attend(projected, keys)
    assert not can_attend(projected.double(), keys.double())
    assert not can_attend(projected, keys.bfloat16())
    assert not can_attend(projected.requires_grad_(), keys)
    with torch.no_grad():
        assert can_attend(projected, keys)
        with paths.forced("torch"):
            assert not can_attend(projected, keys)


def test_flops_are_those_of_two_products(seed):
    torch.manual_seed(seed)
    given = drawn((3, 6, 2, 34, 23, 21), torch.float32)
    with FlopCounterMode(display=False) as counter:
        attend_last(*given)
    assert counter.get_total_flops() == 4 * 3 * 6 * 34 * 22


def test_scores_of_normed_keys_take_their_scales_in_one_call(monkeypatch, seed):
    torch.manual_seed(seed)
    queries, keys = torch.randn(3, 2, 2, 24), torch.randn(2, 2, 10, 24)
    monkeypatch.setattr(torch.linalg, "vector_norm", None)
    found = key_scores(queries, keys, normalized=True, eps=1e-3)
    normed = functional.rms_norm(keys.double(), (24,), eps=1e-3)
    assert relative_rms(found, torch.einsum("bhsc,hsnc->hsbn", queries.double(), normed)) < 1e-6


def test_torch_finds_no_fault_with_the_operators(seed):
    torch.manual_seed(seed)
    torch.library.opcheck(torch.ops.membench.few_rows_linear.default, (torch.randn(3, 8), torch.randn(5, 8), True))
    torch.library.opcheck(torch.ops.membench.attend_last.default, drawn(SHAPES["odd"], torch.float32))
