"""Result files: strict, whole, and refused in one line when they are not."""

import gc
import importlib.util
import json

import jsonschema
import pytest

from layers.spec import spec_from
from membench.case import Case
from membench.errors import UsageError
from membench.results.metrics import flags_of, metrics_of, quantile
from membench.results.records import (
    Record,
    ResultFile,
    Round,
    Run,
    read_result,
    result_schema,
    strict_json,
    write_result,
)
from membench.running.journal import Journal, newest_journal


def a_run(**changes):
    known = {
        "scenario": "small",
        "description": "",
        "scenario_text": "",
        "scenario_hash": "0",
        "source": "small.yaml",
        "overrides": [],
        "command": "membench run small",
        "started": "2026-01-01T00:00:00Z",
        "membench_version": "0",
        "method_version": 1,
        "device": "cpu",
        "ranks": 1,
        "ranks_reason": "",
        "rounds": 1,
    }
    return Run(**{**known, **changes})


def a_case(**changes):
    layer = spec_from({"kind": "dense", "model_dim": 64, "ffn_hidden": 128, "dtype": "float32"})
    return Case(**{"arm": "dense", "mode": "forward", "layer": layer, "tokens": 8, **changes})


COST = {
    "params": 1,
    "flops": 2e6,
    "bytes_dram_expected": 3e6,
    "row_bytes_dram_expected": 1e6,
}
CEILINGS = {
    "copy_bytes_per_s": 1e9,
    "read_bytes_per_s": 2e9,
    "random_row_bytes_per_s": 5e8,
    "matmul_flops_per_s": 1e9,
}


def a_round(number=0, samples=(0.004, 0.005, 0.006), **changes):
    known = {
        "number": number,
        "started": "2026-01-01T00:00:00Z",
        "status": "ok",
        "samples_s": list(samples),
        "ceilings": CEILINGS,
        "cost": COST,
    }
    return Round(**{**known, **changes})


def a_result(rounds=()):
    case = a_case()
    record = Record(id=case.id, case=case, status="ok", rounds=list(rounds))
    return ResultFile(run=a_run(), environment={"device": {"name": "x"}}, cases=[record])


def test_written_and_read_back(tmp_path):
    path = tmp_path / "r.json"
    result = a_result([a_round()])
    write_result(result, path)
    assert read_result(path) == result
    jsonschema.validate(json.loads(path.read_text()), result_schema())
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


def test_nan_is_refused_not_written(tmp_path):
    with pytest.raises(ValueError):
        strict_json({"x": float("nan")})
    with pytest.raises(ValueError):
        a_round(samples=[float("inf")])


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "r.json"
    write_result(a_result(), path)
    before = path.read_text()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError):
        write_result(a_result([a_round()]), path)
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no strict JSON"),
        (b"{", "no strict JSON"),
        (b"[]", "schema_version"),
        (b'{"schema_version": 99}', "99"),
        (b'{"schema_version": 1, "x": NaN}', "NaN"),
        (b'{"schema_version": 1}', "run"),
        (b"\xff\xfe\x00", "no text file"),
        (b"[" * 100_000, "no strict JSON"),
    ],
)
def test_bad_files_are_one_line(tmp_path, content, says):
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(UsageError) as problem:
        read_result(path)
    assert says in str(problem.value)
    assert str(path) in str(problem.value)
    assert "\n" not in str(problem.value)


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(UsageError, match=r"no such file|is a directory"):
            read_result(path)


def test_quantile_interpolates():
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([0.0, 10.0], 0.9) == pytest.approx(9.0)
    assert quantile([7.0], 0.99) == 7.0


def test_metrics_by_hand():
    rounds = [a_round(0), a_round(1, samples=(0.009, 0.010, 0.011))]
    m = metrics_of(a_case(), rounds, communication_ms=2.5, peak_flops_per_s=2e9, peak_bytes_per_s=4e9)
    # the median of the rounds' medians 5 and 10 ms; not the pooled median
    assert m["latency_ms_p50"] == pytest.approx(7.5)
    assert m["step_ms"] == pytest.approx(10.0)
    assert m["tokens_per_s"] == pytest.approx(8 / 0.010)
    assert m["mfu"] == pytest.approx((2e6 / 0.005 / 1e9 + 2e6 / 0.010 / 1e9) / 2)
    # 2 MB streamed at the faster of copy and read, 1 MB of rows at the row ceiling: 1 + 2 ms
    assert m["mbu"] == pytest.approx((3 / 5 + 3 / 10) / 2)
    assert m["mfu_datasheet"] == pytest.approx(2e6 / 0.0075 / 2e9)
    assert m["energy_j_per_token"] is None
    assert m["reference_error"] is None


def test_unknown_stays_null():
    bare = a_round(ceilings={**CEILINGS, "random_row_bytes_per_s": None})
    m = metrics_of(a_case(), [bare], communication_ms=None)
    assert m["mbu"] is None
    assert m["step_ms"] is None
    assert m["mfu_datasheet"] is None
    assert metrics_of(a_case(), [], communication_ms=0.0) == {}


def test_a_utilization_above_one_is_flagged():
    fast = a_round(samples=[1e-3] * 5)
    record = Record(id="x", case=a_case(), status="ok", rounds=[fast])
    record.metrics = metrics_of(a_case(), [fast], communication_ms=0.0)
    assert record.metrics["mfu"] == pytest.approx(2.0)
    assert any("mfu 2.00 is above" in flag for flag in flags_of(record))


def test_ids_follow_the_config_and_nothing_else():
    assert a_case().id == a_case().id
    assert a_case().id != a_case(tokens=9).id
    assert a_case().id != a_case(mode="forward_backward").id
    assert a_case().build_key == a_case(tokens=9).build_key


def test_journal_survives_a_cut_line(tmp_path):
    path = tmp_path / "small_cpu_20260101T000000Z_nogit.partial.jsonl"
    (tmp_path / "small_er_cpu_20260102T000000Z_nogit.partial.jsonl").touch()
    journal = Journal.create(path, a_run(), {"device": {}})
    journal.add("a", a_round(0))
    journal.add("a", a_round(1, status="error", reason="lost"))
    journal.add("b", a_round(0))
    text = path.read_text()
    path.write_text(text[:-40])  # as a kill in the middle of a write leaves it
    again, run, _ = Journal.read(path)
    assert run.scenario == "small"
    assert again.has("a", 0)
    assert not again.has("a", 1)  # failed: to be measured again
    assert not again.has("b", 0)  # cut
    again.add("a", a_round(1))
    assert [r.status for r in again.latest("a")] == ["ok", "ok"]
    assert Journal.read(path)[0].has("a", 1)  # the line after the cut one is whole
    assert newest_journal(tmp_path, "small") == path
    assert newest_journal(tmp_path, "other") is None


def test_a_changed_line_is_passed_over(tmp_path):
    path = tmp_path / "small_x.partial.jsonl"
    journal = Journal.create(path, a_run(), {"device": {}})
    journal.add("a", a_round(0))
    journal.add("b", a_round(0))
    head, a, b = path.read_text().splitlines()
    odd = ["[1]", "null", "3", "[" * 100_000, '{"id": [1]}', a.replace('"number": 0', '"number": 7')]
    path.write_text("\n".join([head, *odd, b]) + "\n")
    assert list(Journal.read(path)[0].rounds) == ["b"]
    path.write_text(head.replace('"device": {}', '"device": 3') + "\n")
    with pytest.raises(UsageError, match="no journal"):
        Journal.read(path)


def test_a_journal_has_a_name_and_a_run_of_its_own(tmp_path):
    path = tmp_path / "small_x.partial.jsonl"
    first = Journal.create(path, a_run(), {})
    first.hold()
    assert Journal.create(path, a_run(), {}).path.name == "small_x-2.partial.jsonl"
    pytest.importorskip("fcntl")
    with pytest.raises(UsageError, match="another run"):
        Journal.read(path)[0].hold()
    first.release()
    second = Journal.read(path)[0]
    second.hold()
    second.remove()


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning", "error::ResourceWarning")
def test_a_journal_leaves_no_file_open(tmp_path):
    path = tmp_path / "small_x.partial.jsonl"
    journal = Journal.create(path, a_run(), {})
    journal.hold()
    if importlib.util.find_spec("fcntl"):
        with pytest.raises(UsageError, match="another run"):
            Journal.read(path)[0].hold()
    journal.remove()
    del journal
    gc.collect()


def test_unwritable_output_is_said_first(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        Journal.create(tmp_path / "file" / "x.partial.jsonl", a_run(), {})


def test_a_full_disk_later_loses_nothing(tmp_path, monkeypatch):
    journal = Journal.create(tmp_path / "x.partial.jsonl", a_run(), {})
    monkeypatch.setattr("os.fsync", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    journal.add("a", a_round(0))
    assert journal.has("a", 0)
    assert "No space left" in journal.failure


def test_no_journal_is_refused(tmp_path):
    path = tmp_path / "small_x.partial.jsonl"
    for text in ("", "{}", "not json", '{"run": {}, "environment": {}}'):
        path.write_text(text)
        with pytest.raises(UsageError, match="no journal"):
            Journal.read(path)
