"""What a model's layers chose is replayed by a layer measured alone."""

import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from test_run import one_result, run

from layers import build
from layers.models.checkpoint import save
from layers.models.model import Model
from layers.models.recording import recorded_choices, save_traces
from layers.routing import StatedRouting
from layers.spec import PRESETS, MoESpec, Step
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


def block_of_document(begin: str) -> str:
    """The indented lines of docs/models.md from one that begins so up to the next unindented one."""
    text = (Path(__file__).parent.parent / "docs" / "models.md").read_text()
    found = re.search(rf"^    {re.escape(begin)}.*?(?=^\S)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, begin
    return textwrap.dedent(found[0]).strip() + "\n"


def test_a_checkpoint_is_recorded_and_replayed_as_the_document_says(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    layer = MoESpec(model_dim=64, num_experts=8, expert_hidden=32, top_k=2, dtype="float32")
    save(build(PRESETS["tiny"].around(layer, "all", "own"), seed=3), "checkpoint")  # type: ignore[arg-type]
    np.save("tokens.npy", torch.randint(256, (10, 9), generator=torch.Generator().manual_seed(1)).numpy())
    exec(compile(block_of_document("import numpy as np"), "docs/models.md", "exec"), {})
    scenario, _, command = block_of_document("schema_version: 1\n    name: replay").partition("\n\n")
    assert command == "membench run replay.yaml\n"
    measure = "measure: {min_samples: 3, floor_samples: 2, max_seconds: 0.1, warmup_seconds: 0.0, retake_seconds: 0}"
    Path("replay.yaml").write_text(f"{scenario}\n{measure}\n")
    done = run("run", "replay.yaml", "--output", "out", "--device", "cpu", "--json")
    assert done.returncode == 0, done.stderr
    (record,) = one_result(tmp_path / "out").cases
    assert record.status == "ok", record.reason
    chosen = np.load("traces/block_0.npy")
    assert chosen.shape == (90, 2)
    uneven = []
    for at in range(0, 64 * record.rounds[0].inputs, 64):
        load = np.bincount(np.take(chosen, range(at, at + 64), axis=0, mode="wrap").ravel(), minlength=8)
        uneven.append(load.max() / load.mean())
    assert record.rounds[0].traffic["expert_load_max_over_mean"] == pytest.approx(np.mean(uneven))
