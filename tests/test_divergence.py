"""When a run has diverged, and when not."""

import math

import pytest

from membench.training.divergence import Watch


def watched(losses, norms=None):
    """What a watch says of losses from step 1 on."""
    watch = Watch()
    for number, loss in enumerate(losses):
        watch.see(number + 1, loss, None if norms is None else norms[number])
    return watch


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_number_that_is_none_is_named_with_its_step(bad):
    assert watched([5.0, 4.0, bad, 3.0]).reason == f"loss {bad} at step 3"
    assert watched([5.0, 4.0, 3.0], [1.0, bad, 1.0]).reason == f"gradient norm {bad} at step 2"


def test_a_loss_that_rises_and_stays_is_a_divergence():
    """From 6 down to 2, then up to more than 2 + 6/2: by the 31st step there, the mean of 32 is."""
    falling = [6.0] * 32 + [2.0] * 40
    assert watched(falling + [5.0] * 100).reason is None
    assert watched(falling + [5.2] * 100).reason == "loss 5.1 at step 103, mean of 32 steps, after 2"


@pytest.mark.parametrize(
    "losses",
    [
        [6.0] * 40 + [90.0] + [6.0] * 40,  # of one bad batch
        [6.0, 5.0] * 100,
        [6.0 - 0.01 * number for number in range(400)],
        [0.01, 0.012] * 50 + [0.014] * 50,
        [200.0] * 31 + [6.0] * 40,
    ],
)
def test_what_is_no_divergence(losses):
    assert watched(losses).reason is None


def test_it_goes_on_from_its_state():
    losses = [6.0] * 32 + [2.0] * 40 + [7.0] * 40
    whole, first = watched(losses), watched(losses[:50])
    resumed = Watch()
    resumed.load(first.state())
    for number, loss in enumerate(losses[50:], 51):
        resumed.see(number, loss, None)
    assert resumed.reason == whole.reason is not None
