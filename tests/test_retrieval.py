"""Product-key retrieval: the choice exact, ties included, on every path; its gradients, dense and of the chosen."""

import pytest
import torch
from against_reference import poisoned_memory
from recorded_operators import recorded
from retrieval_checks import assert_selection_exact, tokens_for

from layers.checking import reference
from layers.checking.verification import relative_rms
from layers.kernels import paths
from layers.kernels.key_scores import key_scores
from layers.kernels.retrieval import reads_all_sooner, retrieve
from layers.kernels.top_k import product_key_top_k
from layers.kernels.torch.top_k import long_top_k, ordered_top_k
from layers.memory import Memory
from layers.product_keys import EPS
from layers.spec import MemoryPlusSpec, MemorySpec


def stable_top_k(values, top_k):
    return values.sort(dim=-1, descending=True, stable=True).indices[..., :top_k]


@pytest.mark.parametrize("distinct", [1, 2, 5, 1000, None])
@pytest.mark.parametrize(("length", "top_k"), [(1, 1), (7, 7), (33, 32), (64, 1), (512, 8), (768, 32), (1024, 32)])
def test_top_k_takes_the_lower_index_of_equal_values(length, top_k, distinct, seed):
    torch.manual_seed(seed)
    values = torch.randn(3, 5, length) if distinct is None else torch.randint(-distinct, distinct, (3, 5, length)) / 7
    wanted = stable_top_k(values, top_k)
    assert torch.equal(ordered_top_k(values, top_k), wanted)
    assert torch.equal(long_top_k(values, top_k), wanted)


NANS = torch.tensor([0x7FC00000, -0x400000, -1], dtype=torch.int32).view(torch.float32)  # of either sign


@pytest.mark.parametrize("top_k", [1, 4, 16])
@pytest.mark.parametrize("infinities", [0, 5])
def test_what_is_no_number_shows(top_k, infinities, path, seed):
    """Also among infinities of both signs, whose sums are no numbers either. Rows stay distinct."""
    torch.manual_seed(seed)
    for nan in NANS:
        scores = torch.randn(3, 2, 20, 40)
        spread = [part.flatten()[: 48 * infinities] for part in torch.randn(2, scores.numel()).argsort(dim=1)]
        for infinity, at in zip((float("inf"), float("-inf")), spread, strict=True):
            scores.view(-1)[at] = infinity
        broken = torch.rand(3, 20) < 0.5
        scores[..., 7][broken[:, None].expand(3, 2, 20)] = nan
        halves, weights = product_key_top_k(scores, top_k)
        rows = halves[0].long() * 40 + halves[1]
        assert all(len(set(head)) == top_k for head in rows.flatten(0, 1).tolist())
        assert bool(weights.isnan().all(dim=-1)[broken.t()].all())
        assert infinities or not weights[~broken.t()].isnan().any()


def test_top_k_takes_the_lower_order_of_equal_values(seed):
    torch.manual_seed(seed)
    values = torch.randint(0, 4, (50, 60)).double()
    order = torch.rand(50, 60).argsort(dim=-1)
    by_order = order.argsort(dim=-1)
    wanted = by_order.gather(1, stable_top_k(values.gather(1, by_order), 9))
    assert torch.equal(ordered_top_k(values, 9, order), wanted)


# sub-keys a half and k: k = n, lengths that are no multiple of a vector, lists too short for a threshold and
# long enough, more than 128 of k
SIZES = [(1, 1), (5, 5), (40, 1), (40, 32), (67, 8), (128, 32), (133, 32), (1024, 32), (130, 130), (300, 130), (35, 35)]


def assert_chosen(scores, top_k):
    """Rows and softmax as of all n² sums, formed in float64 and sorted."""
    sub_keys = scores.shape[-1]
    with poisoned_memory():
        halves, weights = product_key_top_k(scores, top_k)
    rows, sums = reference.top_rows(*scores.double().unbind(1), top_k)  # (H, B, k)
    assert halves.dtype == torch.int32 and weights.dtype == torch.float32
    assert torch.equal((halves[0].long() * sub_keys + halves[1]).transpose(0, 1), rows)
    torch.testing.assert_close(weights.transpose(0, 1).double(), torch.softmax(sums, dim=-1), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("sub_keys", "top_k"), SIZES)
@pytest.mark.parametrize("levels", [1, 2, 4, 20, None])
def test_the_best_of_all_sums(sub_keys, top_k, levels, path, seed):
    """Scores of few levels tie by the dozen, and everything ties with everything where there is one."""
    torch.manual_seed(seed)
    shape = (1, 2, 2, sub_keys) if sub_keys > 500 else (2, 2, 3, sub_keys)  # the reference sorts all n² sums
    scores = torch.randn(shape) if levels is None else torch.randint(-levels + 1, levels, shape) / 3
    assert_chosen(scores, top_k)


HARD = ["ascending", "descending", "one stands out", "minus zero", "huge", "tiny", "far apart"]


@pytest.mark.parametrize("case", HARD)
def test_lists_that_are_hard_for_a_threshold(case, path, seed):
    torch.manual_seed(seed)
    scores = torch.randn(1, 2, 4, 515)
    match case:
        case "ascending":
            scores = scores.sort(dim=-1).values
        case "descending":
            scores = scores.sort(dim=-1, descending=True).values
        case "one stands out":
            scores = torch.zeros_like(scores).index_fill_(-1, torch.tensor([300]), 5.0)
        case "minus zero":
            scores = torch.where(scores > 0, 0.0, -0.0)  # which are one number
        case "huge":
            scores *= 1e37
        case "tiny":
            scores *= 1e-42  # subnormal
        case "far apart":
            scores[:, 1] *= 1e-9  # sums that differ, and are equal when rounded to fp32
    assert_chosen(scores, 32)


def test_sums_that_tie_only_when_rounded(path):
    """In fp32 1 + 2^-30 and 1 + 2^-31 are one number, and the second has the lower row."""
    first = torch.tensor([2.0**-31, 2.0**-30, -1.0])
    second = torch.tensor([1.0, 0.0, -1.0])
    halves, _ = product_key_top_k(torch.stack([first, second])[None, :, None], 1)
    assert halves.flatten().tolist() == [1, 0]


def test_no_tokens(path):
    halves, weights = product_key_top_k(torch.empty(3, 2, 0, 40), 8)
    assert halves.shape == (2, 0, 3, 8) and weights.shape == (0, 3, 8)


def test_more_than_there_are_cannot_be_chosen(path):
    with pytest.raises(ValueError, match="top_k 6 of 5 sub-keys a half"):
        product_key_top_k(torch.randn(1, 2, 1, 5), 6)


def test_scores_need_not_lie_side_by_side(path, seed):
    torch.manual_seed(seed)
    assert_chosen(torch.randn(2, 45, 7, 3).permute(3, 0, 2, 1)[:, :, ::2], 9)


def test_the_same_bits_with_any_number_of_threads(path, seed):
    torch.manual_seed(seed)
    scores, before = torch.randn(3, 2, 50, 200), torch.get_num_threads()
    results = []
    for threads in (1, 2, 2, 3):
        torch.set_num_threads(threads)
        results.append(product_key_top_k(scores, 16))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("key_range", [1, 2, 3])
@pytest.mark.parametrize("spec", [MemorySpec, MemoryPlusSpec])
def test_selection_with_many_equal_scores(spec, key_range, seed):
    torch.manual_seed(seed)
    layer = Memory(spec(model_dim=8, num_keys=24**2, heads=3, top_k=7, key_dim=6, dtype="float32"))
    with torch.no_grad():
        layer.keys.copy_(torch.randint(-key_range, key_range + 1, layer.keys.shape))
        layer.query.copy_(torch.randint(-1, 2, layer.query.shape))
    assert_selection_exact(layer, torch.randint(-1, 2, (40, 8)).float())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_scores_are_fp32_whatever_the_dtype(dtype, seed):
    torch.manual_seed(seed)
    layer = Memory(MemoryPlusSpec(model_dim=96, num_keys=64**2, heads=2, top_k=32, key_dim=64, dtype=dtype))
    x = tokens_for(layer.spec, 64, getattr(torch, dtype))
    scores = layer.half_scores(x)
    assert scores.dtype == torch.float32
    assert len(scores.unique()) > 0.9 * scores.numel()  # 16-bit rounding would leave some thousands
    assert_selection_exact(layer, x)


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("wanted", ["queries", "keys"])
def test_only_the_gradient_asked_for(wanted, normalized):
    queries, keys = torch.randn(5, 2, 2, 3), torch.randn(2, 2, 7, 3)
    {"queries": queries, "keys": keys}[wanted].requires_grad_()
    key_scores(queries, keys, normalized=normalized, eps=EPS).sum().backward()
    assert (queries.grad is None) == (wanted == "keys") and (keys.grad is None) == (wanted == "queries")


class Upstream:
    """Queries, keys and a gradient of the weights; and all gradients in float64, given the rows that were chosen."""

    def __init__(self, sub_keys, top_k, dtype=torch.float32, *, normalized, tokens=9, heads=2, columns=11):
        self.queries = torch.randn(tokens, heads, 2, columns)
        self.keys = torch.randn(heads, 2, sub_keys, columns).to(dtype)
        self.gradient = torch.randn(tokens, heads, top_k)
        self.top_k, self.normalized = top_k, normalized

    def run(self, *, sparse, wanted=("queries", "keys")):
        """Rows (B, H, k), weights, and the gradients wanted."""
        leaves = [self.queries.clone(), self.keys.clone()]
        for name, leaf in zip(("queries", "keys"), leaves, strict=True):
            leaf.requires_grad_(name in wanted)
        halves, weights = retrieve(*leaves, self.top_k, normalized=self.normalized, eps=EPS, sparse_backward=sparse)
        weights.backward(self.gradient)
        return halves, weights.detach(), *(leaf.grad for leaf in leaves)

    def expected(self, halves):
        """Weights and gradients."""
        queries, keys = self.queries.double().requires_grad_(), self.keys.double().requires_grad_()
        used = reference.rms_norm(keys, 1.0) if self.normalized else keys
        chosen = torch.einsum("bhsc,hsnc->bhsn", queries, used).gather(-1, halves.permute(1, 2, 0, 3).long())
        weights = torch.softmax(chosen.sum(2), dim=-1)
        weights.backward(self.gradient.double())
        return weights.detach(), queries.grad, keys.grad


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize(("sub_keys", "top_k"), [(3, 2), (64, 8), (200, 5)])
def test_gradients_against_float64(sub_keys, top_k, normalized, sparse, path, seed):
    torch.manual_seed(seed)
    given = Upstream(sub_keys, top_k, normalized=normalized)
    with poisoned_memory():
        halves, *found = given.run(sparse=sparse)
    for actual, wanted in zip(found, given.expected(halves), strict=True):
        assert actual.dtype == torch.float32 and relative_rms(actual, wanted) < 3e-6
    unchosen = torch.ones(2, 2, sub_keys, dtype=torch.bool)
    unchosen.scatter_(-1, halves.permute(2, 0, 1, 3).flatten(2).long(), False)
    assert not found[-1][unchosen].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("normalized", [False, True])
def test_gradients_of_16_bit_keys(normalized, sparse, dtype, path, seed):
    """Rounded alike in both ways: keys' gradients and, before that, the gradients of products, once each."""
    torch.manual_seed(seed)
    given = Upstream(128, 8, dtype, normalized=normalized)
    halves, _, of_queries, of_keys = given.run(sparse=sparse)
    _, queries, keys = given.expected(halves)
    assert of_queries.dtype == torch.float32 and of_keys.dtype == dtype
    assert relative_rms(of_queries, queries) < 2.0**-7 and relative_rms(of_keys, keys) < 2.0**-7


def test_what_a_backward_keeps(seed):
    """Neither way keeps the scores, of which there are n a half."""
    torch.manual_seed(seed)
    queries, keys = torch.randn(50, 2, 2, 8, requires_grad=True), torch.randn(2, 2, 300, 8, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()), lambda number: number):
        for sparse in (False, True):
            retrieve(queries, keys, 4, normalized=True, eps=EPS, sparse_backward=sparse)
    assert max(kept) == keys.numel() < 2 * 2 * 50 * 300


def test_a_gpu_reads_all_keys_unless_lists_are_far_longer():
    assert not reads_all_sooner(torch.empty(2, 2, 4096, 8), 33)
    with paths.meta_as_gpu():
        keys = torch.empty(2, 2, 4096, 8, device="meta")
        assert [reads_all_sooner(keys, top_k) for top_k in (32, 33)] == [False, True]


@pytest.mark.parametrize("wanted", ["queries", "keys"])
@pytest.mark.parametrize("normalized", [False, True])
def test_only_the_sparse_gradient_asked_for(normalized, wanted, seed):
    torch.manual_seed(seed)
    given = Upstream(64, 4, normalized=normalized)
    with recorded() as calls:
        _, _, of_queries, of_keys = given.run(sparse=True, wanted=(wanted,))
    assert (of_queries is None) == (wanted == "keys") and (of_keys is None) == (wanted == "queries")
    names = [name for name, _ in calls]
    assert ("weighted_bag" in names) == (wanted == "queries") and ("row_backward" in names) == (wanted == "keys")


def test_the_backward_is_sparse_where_the_config_counts_it_so(seed):
    torch.manual_seed(seed)
    for num_keys, top_k, sparse in ((64**2, 8, True), (64**2, 9, False)):
        spec = MemorySpec(model_dim=16, num_keys=num_keys, heads=2, top_k=top_k, key_dim=8, dtype="float32")
        assert spec.sparse_scores_backward == sparse
        layer = Memory(spec)
        selection = layer.select(torch.randn(5, 16))
        with recorded() as calls:
            selection.weights.sum().backward()
        assert ("row_backward" in [name for name, _ in calls]) == sparse
