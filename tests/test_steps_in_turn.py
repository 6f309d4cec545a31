"""The steps of all blocks in one C++ call: the same bits as one by one, and nobody reads what is not there yet."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from against_reference import poisoned_memory
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from layers import build
from layers.kernels import few_tokens, in_turn, moe_step, paths, retrieval_step
from layers.kernels.native import calls
from layers.kernels.stages import observed_by
from layers.layer import Layer
from layers.spec import AttentionSpec, DenseSpec, MemoryPlusSpec, MemorySpec, ModelSpec, MoESpec, PeerSpec
from membench.profiler.stage_clock import StageClock

pytestmark = pytest.mark.skipif(not paths.has_native(), reason="no C++ compiler")

WIDTH, TOKENS = 24, 4
PROMPT = 1 + max(few_tokens.MOST_TOKENS, moe_step.MOST_TOKENS, retrieval_step.MOST_TOKENS) // 2  # of two sequences
LAYERS = {
    "dense": (DenseSpec, {"ffn_hidden": 40}),
    "memory": (MemorySpec, {"num_keys": 81, "heads": 2, "top_k": 5, "key_dim": 8}),
    "memory_plus": (MemoryPlusSpec, {"num_keys": 49, "heads": 3, "top_k": 4, "key_dim": 6}),
    "peer": (PeerSpec, {"num_keys": 64, "heads": 2, "top_k": 3, "key_dim": 8}),
    "moe": (MoESpec, {"num_experts": 6, "expert_hidden": 16, "top_k": 2, "shared_hidden": 8}),
    "beside": (MemorySpec, {"num_keys": 81, "heads": 2, "top_k": 5, "key_dim": 8, "companion_hidden": 8}),
    # which no single call computes
    "on_host": (MemorySpec, {"num_keys": 81, "heads": 2, "top_k": 5, "key_dim": 8, "table_on": "host"}),
    "chosen_by_experts": (MoESpec, {"num_experts": 4, "expert_hidden": 16, "top_k": 1, "choice": "expert"}),
}


def decoder(kind, dtype="float32"):
    made, shape = LAYERS[kind]
    every = {"model_dim": WIDTH, "dtype": dtype}
    attention = AttentionSpec(heads=6, kv_heads=2, head_dim=4)
    layer = made(**every, **shape)
    spec = ModelSpec(layer=layer, at=(1, 2), num_blocks=4, vocab_size=50, attention=attention, ffn_hidden=32, **every)
    return build(spec, seed=0).eval()


def decoded(model, seed, tokens=TOKENS):
    """Logits of some tokens after a prompt."""
    drawn = torch.randint(50, (2, PROMPT + tokens), generator=torch.Generator().manual_seed(seed))
    model.start(sequences=2, capacity=PROMPT + tokens)
    model.next_logits(drawn[:, :PROMPT])
    return torch.stack([model.next_logits(drawn[:, [PROMPT + token]]) for token in range(tokens)])


def one_by_one(monkeypatch):
    monkeypatch.setattr("layers.models.stack.seen_between", lambda _: True)


@pytest.fixture
def called(monkeypatch):
    """Names of the C++ functions that steps call."""
    names = []

    def noted(name, *arguments, **named):
        names.append(name)
        return calls.call(name, *arguments, **named)

    monkeypatch.setattr(in_turn, "call", noted)
    return names


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", LAYERS)
def test_the_same_bits_as_one_by_one(kind, dtype, monkeypatch, seed):
    model = decoder(kind, dtype)
    with poisoned_memory():
        found = decoded(model, seed)
    assert found.isfinite().all()
    one_by_one(monkeypatch)
    assert torch.equal(found, decoded(model, seed))


@pytest.mark.parametrize("kind", ["dense", "memory", "memory_plus", "peer", "moe", "beside"])
def test_a_token_is_one_call(kind, called, seed):
    model = decoder(kind)
    decoded(model, seed, tokens=1)
    assert called == ["head_step", "in_turn"], "of the prompt, and of the token"


@pytest.mark.parametrize("kind", ["on_host", "chosen_by_experts"])
def test_what_waits_is_finished_before_anything_else_reads_it(kind, called, seed):
    """Attention's step of each such block, with all that came before it."""
    decoded(decoder(kind), seed, tokens=1)
    assert called == ["head_step", *["in_turn"] * 3]


def test_a_step_of_torchs_calls_finds_what_it_is_given(called, seed):
    """A layer of one's own: nothing may wait when its ``step`` reads x."""

    class Doubled(Layer):
        def step(self, x, routing, block):
            assert block is not None
            assert x.isfinite().all()
            return 2 * x

    model = decoder("dense")
    for number in (1, 2):
        model.blocks[number].ffn = Doubled(model.blocks[number].ffn.spec)
    with poisoned_memory():
        decoded(model, seed, tokens=1)
    assert called == ["head_step", *["in_turn"] * 3]


def test_a_prompt_is_no_step(called):
    model = decoder("dense")
    model.start(sequences=1, capacity=3)
    model.next_logits(torch.tensor([[1, 2, 3]]))
    assert called == ["head_step"]


@pytest.mark.parametrize("of_block", ["register_forward_hook", "register_forward_pre_hook"])
def test_a_hook_sees_what_a_block_is_given_and_gives(of_block, seed):
    model = decoder("memory_plus")
    expected, seen = decoded(model, seed), []
    for block in model.blocks:
        getattr(block, of_block)(lambda _, given, *given_back: seen.append((given_back or given)[0].clone()))
    assert torch.equal(decoded(model, seed), expected)
    assert len(seen) == (1 + TOKENS) * len(model.blocks)
    assert all(each.isfinite().all() for each in seen)
    assert len({float(each.sum()) for each in seen}) == len(seen)


def test_a_mode_sees_what_operators_give(seed):
    class Seeing(TorchDispatchMode):
        def __torch_dispatch__(self, function, _, args=(), kwargs=None):
            found = function(*args, **(kwargs or {}))
            if str(function).startswith(("membench.block_step", "membench.moe_step")):
                finite.append(bool(found.isfinite().all()))
            return found

    model, finite = decoder("moe"), []
    with Seeing():
        decoded(model, seed)
    assert len(finite) == TOKENS * (2 + 2 * 2)
    assert all(finite)


def test_a_profiler_sees_when_each_runs(called, seed):
    with torch.profiler.profile():
        decoded(decoder("moe"), seed, tokens=1)
    assert called == ["head_step", "block_step", *("block_step", "moe_step") * 2, "block_step", "head_step"]


def test_an_observer_sees_stages_in_their_order(seed):
    model = decoder("memory_plus")
    expected = decoded(model, seed)
    with observed_by(clock := StageClock("cpu")):
        assert torch.equal(decoded(model, seed), expected)
    assert {"qkv", "attention", "query", "scores", "bag", "output", "up", "down"} <= {
        key.name for key in clock.seconds()
    }


def test_flops_are_counted(monkeypatch, seed):
    model, found = decoder("memory_plus"), []
    for _ in range(2):
        with FlopCounterMode(display=False) as counter:
            decoded(model, seed)
        found.append(counter.get_total_flops())
        one_by_one(monkeypatch)
    assert found[0] == found[1] > 0


def test_after_an_error_nothing_waits(called, seed):
    model = decoder("dense")
    expected = decoded(model, seed)
    called.clear()
    model.start(sequences=2, capacity=PROMPT)
    model.blocks[-1].cache.held = PROMPT
    with pytest.raises(ValueError, match=f"the cache has room for {PROMPT} tokens"):
        model.next_logits(torch.tensor([[1], [2]]))
    assert called == []
    assert torch.equal(decoded(model, seed), expected)


def test_threads_do_not_meet(seed):
    """Each with a model of its own, at the same time."""
    models = [decoder(kind) for kind in ("dense", "memory_plus", "moe", "peer")]
    expected = [decoded(model, seed) for model in models]
    with ThreadPoolExecutor(len(models)) as pool:
        for _ in range(10):
            for found, wanted in zip(pool.map(lambda model: decoded(model, seed), models), expected, strict=True):
                assert torch.equal(found, wanted)


def test_what_is_begun_inside_comes_after_what_waits(seed):
    """Nested: the outer one's steps have run before the inner one's."""
    model = decoder("dense")
    expected = decoded(model, seed)
    with in_turn.in_turn():
        assert torch.equal(decoded(model, seed), expected)
