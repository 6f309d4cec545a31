"""Checkpoints of shared layers: saved on four processes, loaded on others; what is wrong with one is a line."""

import checkpoint_checks as checks
import pytest
import ranks
import torch

from layers import LayerOptimizer, build, spec_from
from layers.sharded_checkpoint import ABOUT, load, save


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder, of_worlds = tmp_path_factory.mktemp("checkpoints"), {}

    def on(world):
        if world not in of_worlds:
            check = checks.saves if world == checks.SAVED_ON else checks.goes_on
            if world != checks.SAVED_ON:
                on(checks.SAVED_ON)
            asked = {case: (check, (case, folder)) for case in checks.CASES}
            asked |= {case: (checks.read_only, (case, folder)) for case in checks.READ}
            of_worlds[world] = ranks.found_on(world, asked, tmp_path_factory.mktemp(f"world{world}"))
        return of_worlds[world]

    return on


@pytest.mark.parametrize("world", [4, 1, 2, 3])
@pytest.mark.parametrize("case", (*checks.CASES, *checks.READ))
def test_losses_go_on_on_any_number_of_processes(world, case, found):
    wrong = {rank: text for rank, text in enumerate(found(world)[case]) if text is not None}
    assert not wrong, "\n".join(f"rank {rank}: {text}" for rank, text in wrong.items())


@pytest.fixture
def saved(tmp_path):
    layer = build(spec_from(checks.SPECS["memory"]), seed=1)
    optimizer = LayerOptimizer(layer, "row_adam")
    layer(torch.randn(3, 16)).sum().backward()
    optimizer.step()
    save(tmp_path / "it", layer, optimizer)
    return tmp_path / "it", layer, optimizer


def test_one_process_needs_no_group(saved):
    folder, layer, _ = saved
    other = build(layer.spec, seed=2)
    load(folder, other)
    for name, value in other.state_dict().items():
        assert torch.equal(value, layer.state_dict()[name]), name


def _cut_short(folder):
    (file,) = folder.glob("*.distcp")
    file.write_bytes(file.read_bytes()[:100])


def _flip(file):
    """One bit, in its middle."""
    held = bytearray(file.read_bytes())
    held[len(held) // 2] ^= 1
    file.write_bytes(held)


def _flip_in_text(file):
    text = file.read_text()
    assert '"top_k": 4' in text
    file.write_text(text.replace('"top_k": 4', '"top_k": 5'))


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda folder: (folder / ABOUT).unlink(), "is no finished checkpoint of a layer"),
        (
            lambda folder: (folder / ".metadata").write_bytes(b"nothing"),
            "is damaged: .metadata is not what was written",
        ),
        (lambda folder: (folder / ABOUT).write_text('{"version": 0}'), "is no checkpoint that this version writes"),
        (_cut_short, "is damaged: __0_0.distcp is not what was written"),
        (lambda folder: next(folder.glob("*.distcp")).unlink(), "is damaged: __0_0.distcp: No such file"),
        (lambda folder: _flip(folder / "__0_0.distcp"), "is damaged: __0_0.distcp is not what was written"),
        (lambda folder: _flip(folder / ".metadata"), "is damaged: .metadata is not what was written"),
        (lambda folder: _flip_in_text(folder / ABOUT), f"is damaged: {ABOUT} is not what was written"),
    ],
)
def test_what_is_wrong_with_one_is_a_line(saved, harm, says):
    folder, layer, optimizer = saved
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    harm(folder)
    with pytest.raises(ValueError, match=f"^{folder}: {says}") as error:
        load(folder, layer, optimizer)
    assert "\n" not in str(error.value)
    assert all(torch.equal(layer.state_dict()[name], value) for name, value in before.items())


def test_another_layer_or_optimizer_is_refused(saved):
    folder, layer, _ = saved
    other = build(layer.spec.model_copy(update={"top_k": 2}))
    with pytest.raises(ValueError, match=r"is of another layer: top_k is 4, here 2$"):
        load(folder, other)
    with pytest.raises(ValueError, match=r"is of row_adam, here sgd$"):
        load(folder, layer, LayerOptimizer(layer, "sgd"))
    save(folder, layer)
    with pytest.raises(ValueError, match=r"is of no optimizer, here row_adam$"):
        load(folder, layer, LayerOptimizer(layer, "row_adam"))
