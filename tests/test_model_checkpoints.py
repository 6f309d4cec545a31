"""Checkpoints come back as they were, and Llama's weights give Llama's logits."""

from pathlib import Path

import pytest
import torch

from layers import build
from layers.models.checkpoint import CONFIG, WEIGHTS, fill, from_llama, llama_spec, load, save, to_llama
from layers.models.model import Model
from tests.test_models import LAYERS, model_of


@pytest.mark.parametrize("pool", ["own", "shared"])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path, kind: str, pool: str) -> None:
    if pool == "shared" and not kind.startswith("memory"):
        pytest.skip("there is no table to share")
    model = build(model_of(kind, pool=pool, tied=kind == "dense"), seed=4).eval()
    assert isinstance(model, Model)
    save(model, tmp_path)
    back = load(tmp_path).eval()
    x = torch.randint(37, (2, 7), generator=torch.Generator().manual_seed(1))
    assert back.spec == model.spec
    assert torch.equal(back(x), model(x))


def test_a_shared_pool_is_stored_once(tmp_path: Path) -> None:
    sizes = {}
    for pool in ("own", "shared"):
        save(build(model_of("memory", pool=pool)), tmp_path / pool)  # type: ignore[arg-type]
        sizes[pool] = (tmp_path / pool / WEIGHTS).stat().st_size
    assert sizes["own"] - sizes["shared"] > 4 * LAYERS["memory"].table_params * 0.9


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda weights: weights.pop("norm"), "lack norm"),
        (lambda weights: weights.update(other=torch.zeros(1)), "has no other"),
        (lambda weights: weights.update(norm=torch.zeros(3)), r"norm is \(3,\) in the weights, \(24,\) in the model"),
    ],
)
def test_weights_that_are_not_the_models_are_refused(change, problem: str) -> None:
    model = build(model_of("dense"))
    weights = dict(model.state_dict())
    change(weights)
    with pytest.raises(ValueError, match=problem):
        fill(model, weights)  # type: ignore[arg-type]


def test_a_checkpoint_is_a_config_and_weights(tmp_path: Path) -> None:
    save(build(model_of("moe")), tmp_path)  # type: ignore[arg-type]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([CONFIG, WEIGHTS])


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kv_heads", [2, 6])
def test_a_llama_checkpoint_gives_the_logits_of_transformers(kv_heads: int, tied: bool) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=61,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=kv_heads,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
    )
    theirs = transformers.LlamaForCausalLM(config).eval()
    model = Model(llama_spec(config.to_dict())).eval()
    fill(model, from_llama(theirs.state_dict(), tied=tied))
    x = torch.randint(61, (2, 11))
    with torch.no_grad():
        expected = theirs(x).logits
        model.start(sequences=2, capacity=11)
        for seen in (1, 4, 11):
            torch.testing.assert_close(model(x[:, :seen]), expected[:, seen - 1], rtol=1e-4, atol=1e-5)


def test_weights_go_to_llamas_names_and_back() -> None:
    model = build(model_of("dense"), seed=2)
    assert isinstance(model, Model)
    back = from_llama(to_llama(model))
    assert back.keys() == model.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in model.state_dict().items())


def test_what_a_llama_has_and_these_models_have_not_is_refused() -> None:
    with pytest.raises(ValueError, match="attention_bias is True; only False is supported"):
        llama_spec({"attention_bias": True})
