"""One update: parts of a batch, clipping over everything, what the loss is a mean of, a compiled and a bf16 model."""

import pytest
import torch
from small_task import MODELS, SmallTask, losses, run_of, settings_of

from layers.checking.verification import relative_rms
from membench.training.task import Batch

BATCH = SmallTask().batch(0, 8)
# experts are balanced by what is seen of a part; all else is the same for parts as for the whole
SUMMED = [kind for kind in MODELS if kind != "moe_loss"]


def updated(kind, batch=BATCH, steps=3, **settings):
    """A run after some updates on one batch, and the loss and norm of the last."""
    run = run_of(kind, settings_of(optimizer="sgd", schedule="constant", warmup_share=0, **settings))
    found = None
    for _ in range(steps):
        found = run._update(batch)
    return run, *found


def weights(run):
    """All weights as one vector."""
    return torch.cat([each.detach().flatten() for each in run.model.state_dict().values()])


@pytest.mark.parametrize("clip_norm", [None, 0.1])
@pytest.mark.parametrize("parts", [2, 8])
@pytest.mark.parametrize("kind", SUMMED)
def test_parts_of_a_batch_are_the_batch(kind, parts, clip_norm):
    """To rounding; SGD, for the first updates of Adam make the rounding of a small gradient a whole step."""
    whole, loss, norm = updated(kind, clip_norm=clip_norm, learning_rate=0.1)
    parted, its_loss, its_norm = updated(kind, accumulate=parts, clip_norm=clip_norm, learning_rate=0.1)
    torch.testing.assert_close(its_loss, loss)
    assert (norm is None) == (its_norm is None) == (clip_norm is None)
    if norm is not None:
        torch.testing.assert_close(its_norm, norm)
    assert relative_rms(weights(parted), weights(whole).double()) < 1e-6


@pytest.mark.parametrize("kind", ["memory_plus", "peer", "moe"])
def test_clipping_is_over_matrices_and_rows(kind):
    """One step of SGD at rate 1 moves all parameters together by the norm that is allowed, and no further."""
    run, _, norm = updated(kind, steps=1, clip_norm=0.01, learning_rate=1.0, weight_decay=0.0)
    new = dict(run_of(kind).model.named_parameters())
    moved = torch.cat([(p.detach() - new[name].detach()).flatten() for name, p in run.model.named_parameters()])
    assert norm > 0.1
    torch.testing.assert_close(moved.norm(), torch.tensor(0.01), rtol=1e-3, atol=0)
    assert all((table.table.weight != new_table.weight).any() for table, new_table in _tables(run, kind))


def _tables(run, kind):
    """Each optimizer's table beside that of a new run."""
    return zip(run.optimizer.tables, {id(t): t for t in run_of(kind).model.tables()}.values(), strict=True)


def test_the_loss_is_the_mean_over_scored_tokens():
    """A batch of which two sequences count is those two."""
    scored = BATCH.scored.clone()
    scored[2:] = False
    _, loss, _ = updated("dense", Batch(BATCH.tokens, scored), steps=1)
    _, of_two, _ = updated("dense", Batch(BATCH.tokens[:2], scored[:2]), steps=1)
    torch.testing.assert_close(loss, of_two)
    with torch.no_grad():
        each = run_of("dense").model(BATCH.tokens)[scored]
    torch.testing.assert_close(loss, each.mean())


def test_a_batch_that_scores_nothing_changes_no_loss_to_a_nan():
    _, loss, norm = updated("memory", Batch(BATCH.tokens, torch.zeros_like(BATCH.scored)), steps=1)
    assert loss == 0 and norm == 0


@pytest.mark.parametrize("kind", ["moe", "moe_loss"])
def test_a_router_is_balanced(kind):
    """By its bias after the step, or by a loss that is no part of the one that is told."""
    run, loss, _ = updated(kind, steps=1, learning_rate=0.5)
    ffn = run.model.blocks[1].ffn
    if kind == "moe":
        assert ffn.expert_bias.abs().max() > 0
        return
    assert run.model.auxiliary_loss is not None
    with torch.no_grad():
        plain = run_of(kind).model(BATCH.tokens)[BATCH.scored].mean()
    torch.testing.assert_close(loss, plain)
    other = run_of(kind, settings_of(optimizer="sgd", learning_rate=0.5))
    other.model.blocks[1].ffn.spec = other.spec.layer.model_copy(update={"balance_weight": 0.0})
    other._update(BATCH)
    assert not torch.equal(other.model.blocks[1].ffn.router, ffn.router)


def test_autocast_multiplies_in_bf16_and_keeps_fp32_weights():
    plain, cast = (run_of("memory", settings_of(autocast=on)) for on in (False, True))
    found = [run.finish(lambda *_: None) for run in (plain, cast)]
    assert losses(found[0]) != losses(found[1])
    assert losses(found[0]) == pytest.approx(losses(found[1]), rel=0.05)
    assert {p.dtype for p in cast.model.parameters()} == {torch.float32}


def test_compiled_blocks_learn_the_same():
    settings = settings_of(4, evaluations=2)
    plain = run_of("memory_plus", settings).finish(lambda *_: None)
    found = run_of("memory_plus", settings_of(4, evaluations=2, compiled=True)).finish(lambda *_: None)
    assert losses(found) == pytest.approx(losses(plain), rel=1e-4)
