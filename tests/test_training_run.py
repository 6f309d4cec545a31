"""Runs: the same twice, the same in pieces, killed at any moment, diverged, and what they leave behind."""

import errno
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from small_task import MODELS, Interrupted, SmallTask, finished, losses, run_of, settings_of, without_times

from membench.errors import UsageError
from membench.training.checkpoint import FILE, DamagedCheckpoint

EACH_STEP = {"checkpoint_seconds": 1e-9}
STEPS = 12


@pytest.mark.parametrize("kind", MODELS)
def test_two_runs_of_a_seed_are_the_same_to_the_bit_whatever_torch_has_drawn(kind):
    runs = []
    for number in range(2):
        torch.manual_seed(number)
        run = run_of(kind)
        runs.append((run.finish(lambda *_: None), run.model.state_dict()))
    (first, weights), (second, others) = runs
    assert without_times(first) == without_times(second)
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert without_times(finished(kind, seed=1)) != without_times(first)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        *((kind, {}) for kind in ("dense", "memory_plus", "moe", "peer")),
        *(("memory_plus", {"optimizer": optimizer}) for optimizer in ("lazy_adam", "row_adagrad", "sgd", "adamw")),
        ("memory_plus", {"clip_norm": None}),
        ("peer", {"clip_norm": None}),
        ("memory_plus", {"accumulate": 2, "clip_norm": None}),
        ("peer", {"accumulate": 2}),
    ],
)
def test_a_run_in_pieces_is_the_run_in_one_to_the_bit(kind, changes, tmp_path):
    settings = settings_of(STEPS, table_schedule="same", **EACH_STEP, **changes)
    whole = run_of(kind, settings)
    expected = whole.finish(lambda *_: None)
    for at in (5, 9):
        with pytest.raises(KeyboardInterrupt):
            finished(kind, settings, folder=tmp_path, data=Interrupted(at))
    again = run_of(kind, settings, folder=tmp_path)
    found = again.finish(lambda *_: None)
    assert found.resumed_at == [5, 9]
    assert without_times(found) == without_times(expected)
    weights = whole.model.state_dict()
    assert all(torch.equal(weights[name], each) for name, each in again.model.state_dict().items())


def test_bf16_rows_are_rounded_alike_in_pieces(tmp_path):
    settings = settings_of(STEPS, **EACH_STEP)
    with pytest.raises(KeyboardInterrupt):
        finished("memory", settings, folder=tmp_path, data=Interrupted(5), dtype="bfloat16")
    found = finished("memory", settings, folder=tmp_path, dtype="bfloat16")
    assert without_times(found) == without_times(finished("memory", settings, dtype="bfloat16"))


KILLED = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from small_task import finished, settings_of
print("begins", flush=True)
finished({kind!r}, settings_of(300, checkpoint_seconds=1e-9, evaluations=4), folder=Path({folder!r}))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_a_process_killed_at_any_moment_loses_no_more_than_what_came_after_its_last_checkpoint(tmp_path):
    """Killed three times while it writes a checkpoint after every step, then finished here."""
    code = KILLED.format(tests=str(Path(__file__).parent), kind="memory_plus", folder=str(tmp_path))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    before = None
    for wait in (0.05, 0.031, 0.077):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment)
        assert process.stdout.readline() == b"begins\n"
        deadline = time.monotonic() + 60
        while not (tmp_path / FILE).exists() or (tmp_path / FILE).stat().st_mtime_ns == before:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(wait)
        process.kill()
        process.wait()
        before = (tmp_path / FILE).stat().st_mtime_ns
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        settings = settings_of(300, evaluations=4)
        found = finished("memory_plus", settings, folder=tmp_path)
        expected = finished("memory_plus", settings)
    finally:
        torch.set_num_threads(threads)
    assert len(found.resumed_at) == 3 and found.resumed_at == sorted(found.resumed_at)
    assert without_times(found) == without_times(expected)


def test_a_finished_run_is_read_from_its_folder_and_not_run_again(tmp_path):
    first = finished("memory", folder=tmp_path)
    second = finished("memory", folder=tmp_path, data=Interrupted(0))
    assert second == first and first.resumed_at == []


@pytest.mark.parametrize(
    "other",
    [{"kind": "dense"}, {"seed": 1}, {"settings": settings_of(learning_rate=0.5)}, {"ffn_hidden": 32}],
    ids=["kind", "seed", "settings", "shape"],
)
def test_a_folder_of_another_run_is_refused(other, tmp_path):
    finished("memory", folder=tmp_path)
    with pytest.raises(UsageError, match="is of another model, task, training, seed or data"):
        finished(other.pop("kind", "memory"), folder=tmp_path, **other)


def test_how_often_it_is_saved_and_how_many_seeds_there_are_is_nothing_of_a_run(tmp_path):
    finished("memory", folder=tmp_path)
    finished("memory", settings_of(checkpoint_seconds=5, seeds=9), folder=tmp_path, data=Interrupted(0))


@pytest.mark.parametrize("damaged", [b"", b"no zip", b"half of one", "half"])
def test_a_damaged_checkpoint_is_a_line_and_not_a_traceback(damaged, tmp_path):
    finished("memory", folder=tmp_path)
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole[: len(whole) // 2] if damaged == "half" else damaged)
    with pytest.raises(DamagedCheckpoint, match="is no checkpoint that this version writes"):
        run_of("memory", folder=tmp_path)


def test_a_file_of_another_program_is_no_damaged_checkpoint(tmp_path):
    """Which is not the lab's to remove."""
    torch.save({"weights": 1}, tmp_path / FILE)
    with pytest.raises(UsageError, match="is no checkpoint that this version writes") as found:
        run_of("memory", folder=tmp_path)
    assert not isinstance(found.value, DamagedCheckpoint)


def test_a_folder_that_cannot_be_written_is_a_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        finished("dense", folder=tmp_path / "file")


def test_a_task_of_more_tokens_than_the_model_has_is_refused():
    with pytest.raises(UsageError, match="vocab_size: the task has 32 tokens, the model 31"):
        run_of("dense", vocab_size=31)


def test_a_rate_that_blows_up_is_a_status_with_its_step():
    trained = finished("dense", settings_of(200, learning_rate=1e4, clip_norm=None, schedule="constant"))
    assert trained.status == "diverged" and " at step " in trained.reason
    assert trained.final["steps"] < 200
    trained.model_dump_json()  # no NaN in it


def test_a_diverged_run_stays_diverged(tmp_path):
    settings = settings_of(200, learning_rate=1e30, clip_norm=None)
    first = finished("dense", settings, folder=tmp_path)
    assert first.status == "diverged"
    assert finished("dense", settings, folder=tmp_path, data=Interrupted(0)) == first


@pytest.mark.parametrize("number", [None, math.nan], ids=["as the tasks say it", "as it is computed"])
def test_answers_that_are_no_numbers_are_a_divergence(number):
    class Wrong(SmallTask):
        def score(self, *asked):
            found = super().score(*asked)
            found.metrics["answer_nll"] = number
            return found

    trained = finished("dense", data=Wrong())
    said = "the loss of answers is no number at step 4"
    assert (trained.status, trained.reason, trained.curve) == ("diverged", said, [])


def test_frozen_tables_keep_every_bit_and_the_rest_learns():
    run = run_of("memory", settings_of(frozen_tables=True, table_weight_decay=0.1))
    (table,) = run.model.tables()
    rows, query = table.weight.clone(), run.model.embedding.detach().clone()
    run.finish(lambda *_: None)
    assert torch.equal(table.weight, rows) and not torch.equal(run.model.embedding, query)


def test_it_learns_and_says_what_it_took(tmp_path):
    trained = run_of("memory", settings_of(60), folder=tmp_path).finish(lambda *_: None, matmul_flops_per_s=1e9)
    assert losses(trained)[-1] < 0.5 * losses(trained)[0]
    final = trained.final
    assert trained.data == {"strings": 24}
    assert final["answer_nll"] == trained.curve[-1].metrics["answer_nll"]
    assert final["best_loss"] == min(losses(trained))
    assert final["mfu"] == pytest.approx(final["flops"] / final["seconds"] / 1e9)
    assert final["table_params"] == 64 * 16 and 0 < final["table_share"] < 1
    assert final["peak_memory_bytes"] > 4 * final["params"]
    assert 0 < final["rows_used_share"] <= 1


def test_points_are_told_with_their_rates_and_in_tensorboard(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    settings = settings_of(6, table_learning_rate=0.02, final_rate=0.25, **EACH_STEP)
    with pytest.raises(KeyboardInterrupt):
        finished("memory", settings, folder=tmp_path, data=Interrupted(3))
    trained = finished("memory", settings, folder=tmp_path)
    last = trained.curve[-1]
    assert (last.learning_rate, last.table_learning_rate) == (pytest.approx(0.0025), 0.02)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(each.step, each.value) for each in events.Scalars("trained/loss")] == [
        (point.step, pytest.approx(point.loss)) for point in trained.curve
    ]
    assert [each.step for each in events.Scalars("asked/answer_nll")] == [2, 4, 6]


def test_progress_is_told_with_the_share_that_is_spent(monkeypatch):
    monkeypatch.setattr("membench.training.run._REPORT_EVERY_S", 0.0)
    told = []
    run_of("dense", settings_of(4)).finish(lambda *each: told.append(each))
    steps = [(doing, share) for doing, share in told if doing.startswith("step")]
    assert [share for _, share in steps] == [0.25, 0.5, 0.75, 1.0]
    assert steps[0][0].startswith("step 1, loss ")


def test_an_evaluation_of_many_passes_is_told_too(monkeypatch):
    monkeypatch.setattr("membench.training.run._REPORT_EVERY_S", 0.0)
    told = []
    run_of("memory", settings_of(2, evaluations=1)).finish(lambda *each: told.append(each))
    assert [doing for doing, _ in told if not doing.startswith("step")] == [
        "asking after step 2",
        "counting what is used",
    ]


def test_a_full_disk_takes_the_checkpoint_and_not_the_run(tmp_path, monkeypatch):
    """What was written before stays, nothing half is left, and the progress says it."""

    def full(state, stream):
        stream.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("membench.training.run._REPORT_EVERY_S", 0.0)
    monkeypatch.setattr("membench.training.checkpoint.torch.save", full)
    told = []
    trained = run_of("dense", settings_of(4, **EACH_STEP), folder=tmp_path).finish(lambda *each: told.append(each))
    assert trained.status == "ok" and without_times(trained) == without_times(finished("dense", settings_of(4)))
    assert not [*tmp_path.glob("checkpoint*")]
    assert any(
        doing.endswith("checkpoint.pt: cannot be written: [Errno 28] No space left on device") for doing, _ in told
    )


def test_scalars_end_where_the_disk_is_full_and_the_run_goes_on(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")

    def full(*given):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", full)
    assert finished("dense", settings_of(4), folder=tmp_path).status == "ok"
