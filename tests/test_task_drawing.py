"""Draws and orders are even, and what they say of a number they say whatever is asked with it."""

import numpy as np
import pytest

from membench.training.tasks.drawing import drawn, fractions, hashes, key_of
from membench.training.tasks.made_words import made_word
from membench.training.tasks.permutation import permuted
from membench.training.tasks.two_parts import TwoParts


def chi_squared_a_freedom(counts):
    """About 1 where all places of counts are alike."""
    expected = counts.mean()
    return ((counts - expected) ** 2 / expected).sum() / (counts.size - 1)


def test_a_hash_is_that_of_splitmix64():
    # the first outputs of its reference code for seed 1234567
    found = hashes(1234567, np.arange(3)).tolist()
    assert found == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_keys_differ_by_all_that_tells_them_apart():
    keys = {key_of(*parts) for parts in [(0,), (1,), (0, "a"), (0, "b"), (0, "a", 1), ("0", "a"), (0, "a1")]}
    assert len(keys) == 7
    assert all(0 <= key < 2**64 for key in keys)


@pytest.mark.parametrize("below", [2, 7, 256, 2**40])
def test_draws_are_even_and_in_range(below):
    found = drawn(key_of(5), np.arange(200_000), below)
    assert found.min() >= 0
    assert found.max() < below
    parts = min(below, 64)
    assert chi_squared_a_freedom(np.bincount(found * parts // below, minlength=parts)) < 1.8


def test_a_draw_of_one_is_nought_and_fractions_are_below_one():
    assert not drawn(key_of(5), np.arange(100), 1).any()
    found = fractions(key_of(5), np.arange(200_000))
    assert 0 <= found.min() < 1e-4
    assert 1 - 1e-4 < found.max() < 1


@pytest.mark.parametrize("count", [1, 2, 3, 5, 64, 100, 24_000, 2**16 + 1])
def test_an_order_has_every_number_once(count):
    assert np.array_equal(np.sort(permuted(key_of(9), np.arange(count), count)), np.arange(count))


def test_a_place_of_an_order_is_the_same_asked_alone():
    whole = permuted(3, np.arange(1000), 1000)
    assert permuted(3, np.array([917]), 1000) == whole[917]
    keys = np.array([3, 4, 3], np.uint64)
    several = permuted(keys, np.array([917, 917, 5]), 1000)
    assert several.tolist() == [whole[917], permuted(4, np.array([917]), 1000)[0], whole[5]]


@pytest.mark.parametrize("count", [2, 3, 5, 6, 7, 12])
def test_small_orders_are_all_alike(count):
    keys = hashes(11, np.arange(40_000))[:, None]
    orders = permuted(keys, np.broadcast_to(np.arange(count), (len(keys), count)), count)
    counts = np.array([np.bincount(orders[:, place], minlength=count) for place in range(count)])
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() / (count - 1) ** 2 < 3.5
    if count <= 5:
        numbers = np.unique(orders @ count ** np.arange(count), return_counts=True)[1]
        assert len(numbers) == np.prod(np.arange(1, count + 1))
        assert chi_squared_a_freedom(numbers) < 3.5


def test_an_order_of_more_than_any_list_has_no_number_twice():
    found = permuted(1, np.arange(10_000), 2**62)
    assert len(set(found.tolist())) == 10_000
    assert 0 <= found.min() < found.max() < 2**62


@pytest.mark.parametrize(("count", "share", "first"), [(10, 0.3, 3), (10, 0.001, 1), (10, 0.999, 9), (2, 0.5, 1)])
def test_two_parts_share_nothing_and_leave_nothing_out(count, share, first):
    parts = TwoParts(0, count, share)
    assert (parts.first, parts.rest) == (first, count - first)
    both = [*parts.of_first(np.arange(parts.first)), *parts.of_rest(np.arange(parts.rest))]
    assert sorted(both) == list(range(count))


def test_no_two_numbers_have_one_word():
    words = [made_word(number) for number in [*range(20_000), 70**2 - 1, 70**3, 70**3 + 1, 2**40]]
    assert len(set(words)) == len({*range(20_000), 70**3, 70**3 + 1, 2**40})
    assert all(word.isascii() and word.isalpha() and word.islower() for word in words)
