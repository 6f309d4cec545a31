"""What a model's layers chose is replayed by a layer measured alone."""

from pathlib import Path

import numpy as np
import pytest
import torch

from layers import build
from layers.models.model import Model
from layers.models.recording import recorded_choices, save_traces
from layers.routing import StatedRouting
from layers.spec import Step
from tests.test_models import LAYERS, WIDTH, model_of


def recorded(kind: str) -> tuple[Model, dict[int, torch.Tensor]]:
    model = build(model_of(kind), seed=6)
    assert isinstance(model, Model)
    batches = torch.randint(37, (3, 2, 5), generator=torch.Generator().manual_seed(0))
    return model, recorded_choices(model, batches)


@pytest.mark.parametrize("kind", [kind for kind in LAYERS if kind != "dense"])
def test_every_layer_that_chooses_is_recorded(kind: str) -> None:
    model, choices = recorded(kind)
    assert list(choices) == [0, 2] and model.training
    choice = LAYERS[kind].choice_of_token
    assert choice is not None
    for chosen in choices.values():
        assert chosen.shape == (3 * 2 * 5, *choice.shape)
        assert chosen.min() >= 0 and chosen.max() < choice.count


def test_what_is_recorded_is_what_the_forward_pass_chose() -> None:
    model, choices = recorded("memory")
    batch = torch.randint(37, (3, 2, 5), generator=torch.Generator().manual_seed(0))[0]
    seen = []
    ffn = model.blocks[2].ffn
    whole = ffn.select

    def select(x: torch.Tensor):
        found = whole(x)
        seen.append(found.indices)
        return found

    ffn.select = select  # type: ignore[method-assign]
    model.eval()(batch)
    assert torch.equal(seen[0].long(), choices[2][:10].long())


@pytest.mark.parametrize("kind", ["memory", "moe"])
def test_a_recording_routes_a_layer(tmp_path: Path, kind: str) -> None:
    _, choices = recorded(kind)
    path = save_traces(choices, tmp_path)[2]
    stated = StatedRouting("trace", recorded=torch.from_numpy(np.load(path))[:7])
    layer = build(LAYERS[kind])
    x, routing = layer.draw_input(7, stated, torch.Generator().manual_seed(1))
    assert routing is not None and x.shape == (7, WIDTH)
    assert torch.equal(routing.selected, choices[2][:7].long())


def test_recording_leaves_caches_alone() -> None:
    model = build(model_of("memory"), seed=6).eval()
    assert isinstance(model, Model)
    model.make_ready(Step(2, mode="decode", sequences=2, context=3))
    before = model.blocks[0].cache
    recorded_choices(model, [torch.zeros(1, 4, dtype=torch.long)])
    assert model.blocks[0].cache is before and not model.training
