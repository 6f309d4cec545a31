"""A token's call that is kept: the bits of one that is not, and made anew as soon as anything has changed."""

import copy
import pickle
import weakref

import pytest
import torch
from against_reference import poisoned_memory
from test_steps_in_turn import LAYERS, decoded, decoder

from layers.kernels import paths
from layers.models import stack
from layers.models.rotary import POSITIONS_STEP

pytestmark = pytest.mark.skipif(not paths.has_native(), reason="no C++ compiler")

KEPT = ("dense", "memory", "memory_plus", "peer", "moe", "beside")


@pytest.fixture
def again(monkeypatch):
    """Counts tokens that kept calls made."""
    made, kept = [], stack._Kept.again

    def noted(self, x):
        made.append(self)
        return kept(self, x)

    monkeypatch.setattr(stack._Kept, "again", noted)
    return made


def anew(model, seed, monkeypatch, **how):
    """Logits without kept calls."""
    with monkeypatch.context() as patched:
        patched.setattr(stack._Kept, "of", classmethod(lambda cls, *others: None))
        model._stack = stack.Stack(model.blocks, model)
        return decoded(model, seed, **how)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", LAYERS)
def test_the_same_bits_as_anew(kind, dtype, again, monkeypatch, seed):
    model = decoder(kind, dtype)
    with poisoned_memory():
        found = decoded(model, seed, tokens=5)
    assert len(again) == (4 if kind in KEPT else 0)
    assert torch.equal(found, anew(model, seed, monkeypatch, tokens=5))


def test_a_token_after_many(again, monkeypatch):
    """Angles are made for so many positions at a time."""
    found, model = [], decoder("dense")
    for _ in range(2):
        model.start(sequences=1, capacity=POSITIONS_STEP + 4)
        for block in model.blocks:
            block.cache.fill(POSITIONS_STEP - 2, torch.Generator().manual_seed(0))
        found.append(torch.stack([model.next_logits(torch.tensor([[token]])) for token in (1, 2, 3, 4)]))
        monkeypatch.setattr(stack._Kept, "of", classmethod(lambda cls, *others: None))
    assert len(again) == 3 and torch.equal(*found)


def moved(model):
    for parameter in model.parameters():
        parameter.data = 2 * parameter.data.clone()


def assigned(model):
    model.load_state_dict({name: 0.5 * each for name, each in model.state_dict().items()}, assign=True)


def turned_over(model):
    out = model.blocks[2].attention.out
    out.data = out.data.t()


def replaced(model):
    model.blocks[1].ffn = decoder("moe").blocks[1].ffn


def with_a_block_less(model):
    del model.blocks[3]


def with_blocks_changed_round(model):
    model.blocks = torch.nn.ModuleList(reversed(model.blocks))


def patched(model):
    block = model.blocks[0]
    block.forward = lambda x, routing=None: 2 * x


def hooked(model):
    model.blocks[3].register_forward_hook(lambda *given: 3 * given[-1])


def with_another_end(model):
    model.norm.data = model.norm.data.flip(0) + torch.arange(len(model.norm)) / 10
    model.head = torch.nn.Parameter(model.head.detach().flip(0))


CHANGES = [
    with_another_end,
    moved,
    assigned,
    turned_over,
    replaced,
    with_a_block_less,
    with_blocks_changed_round,
    patched,
    hooked,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_has_changed_is_seen(change, again, monkeypatch, seed):
    model, other = (decoder("memory_plus") for _ in range(2))
    decoded(model, seed, tokens=3)
    assert len(again) == 2
    kept = set(map(id, again))
    change(model)
    change(other)
    found = decoded(model, seed)
    assert not kept & set(map(id, again[2:]))
    assert torch.equal(found, anew(other, seed, monkeypatch))


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_changes_between_two_tokens_is_seen(change, again, monkeypatch, seed):
    model, other = (decoder("memory_plus") for _ in range(2))
    drawn = torch.randint(50, (6, 2, 1), generator=torch.Generator().manual_seed(seed))
    for each in (model, other):
        each.start(sequences=2, capacity=len(drawn))
    for number, tokens in enumerate(drawn):
        if number == 3:
            change(model)
            change(other)
        found = model.next_logits(tokens)
        with monkeypatch.context() as patched_:
            patched_.setattr(stack._Kept, "of", classmethod(lambda cls, *others: None))
            assert torch.equal(found, other.next_logits(tokens)), number
    assert again[0] is again[1]


def test_weights_that_change_where_they_lie_are_read_anew(again, monkeypatch, seed):
    model = decoder("memory_plus")
    decoded(model, seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    assert torch.equal(decoded(model, seed), anew(model, seed, monkeypatch)) and again


def test_copies_of_weights_that_lie_apart_are_not_kept(again, monkeypatch, seed):
    model = decoder("dense")
    turned_over(model)
    decoded(model, seed)
    assert not again
    with torch.no_grad():
        model.blocks[2].attention.out.mul_(0.5)
    assert torch.equal(decoded(model, seed), anew(model, seed, monkeypatch))


def through_a_file(model):
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("copied", [copy.deepcopy, through_a_file])
def test_a_copy_reads_its_own_weights(copied, monkeypatch, seed):
    model = decoder("dense")
    expected = decoded(model, seed)
    other = copied(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.5)
    assert torch.equal(decoded(other, seed), anew(other, seed, monkeypatch))
    assert torch.equal(decoded(model, seed), expected)


def test_what_is_given_and_given_back_is_not_written_again(again, seed):
    model = decoder("dense")
    model.start(sequences=2, capacity=6)
    given, found = [], []
    with torch.no_grad():
        for number in range(4):
            torch.manual_seed(seed + number)
            given.append(torch.randn(2, model.spec.model_dim))
            found.append(model._stack(given[-1], 2))
            assert torch.equal(given[-1], torch.randn(given[-1].shape, generator=torch.manual_seed(seed + number)))
            given[-1] = given[-1].clone()
    assert len(again) == 3
    assert len({float(each.sum()) for each in found}) == 4


def test_tokens_that_lie_apart(again, monkeypatch, seed):
    model = decoder("dense")
    drawn = torch.randn(4, model.spec.model_dim, 2, generator=torch.Generator().manual_seed(seed)).mT
    found = []
    for keeps in (True, False):
        if not keeps:
            monkeypatch.setattr(stack._Kept, "of", classmethod(lambda cls, *others: None))
            model._stack = stack.Stack(model.blocks, model)
        model.start(sequences=2, capacity=4)
        with torch.no_grad():
            found.append(torch.stack([model._stack(x, 2) for x in drawn]))
    assert not drawn[0].is_contiguous() and len(again) == 3
    assert torch.equal(*found)


def test_what_was_replaced_is_freed(again, seed):
    model = decoder("memory_plus")
    arrays = [2 * each.detach().numpy() for each in model.blocks.parameters()]
    for parameter, array in zip(model.blocks.parameters(), arrays, strict=True):
        parameter.data = torch.from_numpy(array)
    alive = [weakref.ref(each) for each in arrays]
    del array, arrays
    decoded(model, seed)
    cache = weakref.ref(model.blocks[1].cache)
    assert again and all(each() is not None for each in alive)
    moved(model)
    model.start(sequences=2, capacity=2)
    assert cache() is None and not any(each() is not None for each in alive)


def test_no_room_is_told(again):
    model = decoder("dense")
    model.start(sequences=1, capacity=2)
    for _ in range(2):
        model.next_logits(torch.tensor([[1]]))
    with pytest.raises(ValueError, match="the cache has room for 2 tokens of a sequence, not 3"):
        model.next_logits(torch.tensor([[1]]))
    assert len(again) == 2


def test_other_numbers_of_sequences_and_of_threads(again, restored_threads, monkeypatch, seed):
    model = decoder("moe")
    found = []
    for sequences, threads in ((1, 1), (2, 2), (2, 1)):
        torch.set_num_threads(threads)
        drawn = torch.randint(50, (sequences, 6), generator=torch.Generator().manual_seed(seed))
        for keeps in (True, False):
            with monkeypatch.context() as patched_:
                if not keeps:
                    patched_.setattr(stack._Kept, "of", classmethod(lambda cls, *others: None))
                    model._stack = stack.Stack(model.blocks, model)
                model.start(sequences, capacity=6)
                found.append(torch.stack([model.next_logits(drawn[:, [token]]) for token in range(6)]))
        assert torch.equal(*found[-2:])
    assert len(again) == 15


def test_inference_mode_and_out_of_it(again, monkeypatch, seed):
    model = decoder("dense")
    with torch.inference_mode():
        first = decoded(model, seed)
    assert torch.equal(decoded(model, seed), first) and again
