"""Equal digests stand for bit-equal answers."""

import pytest
import torch

from layers.checking.digest import Digest

LARGE = 2**20 + 3  # fp32: two whole blocks and a rest


def digest_of(*tensors):
    digest = Digest()
    for tensor in tensors:
        digest.add("t", tensor)
    return digest.hexdigest()


def test_equal_tensors_have_equal_digests(seed):
    torch.manual_seed(seed)
    tensor = torch.randn(LARGE)
    assert digest_of(tensor) == digest_of(tensor.clone())
    assert digest_of(tensor[:1000].view(50, 20).t()) == digest_of(tensor[:1000].view(50, 20).t().contiguous())


@pytest.mark.parametrize("place", [0, 4097, LARGE // 2, LARGE - 4, LARGE - 1])
def test_one_bit_anywhere_is_seen(place):
    tensor = torch.ones(LARGE)
    changed = tensor.clone()
    changed.view(torch.int32)[place] ^= 1
    assert digest_of(tensor) != digest_of(changed)


def test_moved_numbers_are_seen():
    tensor = torch.arange(LARGE, dtype=torch.float32)
    for first, second in ((5, 6), (5, 2**18), (2**19, 2**19 + 8192), (5, 5 + 2**14)):
        changed = tensor.clone()
        changed[first], changed[second] = tensor[second], tensor[first]
        assert digest_of(tensor) != digest_of(changed)


def test_changes_that_cancel_in_a_sum_are_seen():
    tensor = torch.arange(2**20, dtype=torch.int64)
    changed = tensor.clone()
    changed[7] += 1
    changed[7 + 2**13] -= 1
    assert digest_of(tensor) != digest_of(changed)


def test_signs_that_change_in_pairs_are_seen():
    tensor = torch.randn(1024, 1024).bfloat16()
    for changed_rows in (slice(None), [0, 32], [0, 8], [3, 900]):  # 32 rows: one of the words that are added up
        changed = tensor.clone()
        changed[changed_rows, 3] *= -1
        assert digest_of(tensor) != digest_of(changed)


def test_form_counts():
    zeros = torch.zeros(8)
    forms = [zeros, zeros.view(2, 4), zeros.bfloat16(), zeros[:4], zeros[:0], None]
    assert len({digest_of(form) for form in forms}) == len(forms)
    assert digest_of(zeros, None) != digest_of(None, zeros)


def test_memory_that_begins_anywhere_is_read():
    tensor = torch.randn(2 * LARGE).bfloat16()[1:]
    assert digest_of(tensor) == digest_of(tensor.clone())


def test_sparse_tensors_are_told_apart():
    one, other = (torch.sparse_coo_tensor([[0, row]], torch.ones(2), (4,)) for row in (1, 2))
    assert digest_of(one) != digest_of(other)
    assert digest_of(one) == digest_of(one.clone())
