"""Training gives the losses that it gave: what changes them must be meant."""

import json

import pytest
from golden_losses import FILE, STEPS, first_losses
from small_task import MODELS

# Another processor, thread count or path rounds otherwise, by about 1e-7 a product, which 20 steps make little more of.
# A thousandth is far above that, and far below what another rule, draw or order of the data makes.
TOLERANCE = 1e-3


@pytest.mark.parametrize("kind", MODELS)
def test_the_first_losses_are_the_golden_ones(kind, path):
    golden = json.loads(FILE.read_text())
    assert len(golden[kind]) == STEPS
    assert first_losses(kind) == pytest.approx(golden[kind], rel=TOLERANCE)
