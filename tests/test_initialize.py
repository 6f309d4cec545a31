"""Weights that are drawn: a part is drawn as it lies in the whole, whoever draws it."""

import pytest
import torch

from layers import initialize
from layers.initialize import Place, fill_normal_

SHAPES = (12, 6), (7, 5), (4, 3, 5)
# of a whole: all drawn; a block that is repeated, with rows at other places of it
LIMITS = {"all": (10**6, 10**6 + 3), "a block": (20, 23)}


def drawn(shape, place=None, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    found = fill_normal_(torch.empty(shape, dtype=dtype), 0.5, generator, place)
    return found, torch.randn(3, generator=generator)


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_part_is_that_of_the_whole_and_leaves_the_generator_as_it_does(shape, limits, monkeypatch):
    monkeypatch.setattr(initialize, "EXACT_ELEMENTS", limits[0])
    monkeypatch.setattr(initialize, "BLOCK_ELEMENTS", limits[1])
    whole, after = drawn(shape, dtype=torch.bfloat16)
    rows = [(first, past) for first in range(shape[0]) for past in range(first, shape[0] + 1)]
    columns = [(0, shape[1]), (0, 2), (1, 3), (2, shape[1])] if len(shape) == 2 else [(0, shape[1])]
    for first, past in rows:
        for left, right in columns:
            wanted = whole[first:past, left:right]
            place = Place(shape, (first, left, *[0] * (len(shape) - 2)))
            found, then = drawn(wanted.shape, place, torch.bfloat16)
            assert torch.equal(found, wanted)
            assert torch.equal(then, after)


def test_a_part_of_a_large_table_is_that_of_the_whole():
    shape = (20_000, 300)
    assert shape[0] * shape[1] > initialize.BLOCK_ELEMENTS
    whole, _ = drawn(shape)
    assert torch.equal(drawn((20_000, 100), Place(shape, (0, 200)))[0], whole[:, 200:])
    assert torch.equal(drawn((5_000, 300), Place(shape, (15_000, 0)))[0], whole[15_000:])
