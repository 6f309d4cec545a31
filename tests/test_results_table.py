"""Result tables rank only what may be ranked: comparable cases that were measured."""

from test_records import COST, a_round, a_run

from layers.spec import spec_from
from membench.case import Case
from membench.results.records import Record, ResultFile
from membench.tables.render import to_markdown
from membench.tables.results import result_tables


def a_record(arm, latency_ms, *, kind="dense", status="ok", point=None, **case):
    sizes = {"dense": {"ffn_hidden": 128}, "memory": {"num_keys": 4096, "key_dim": 8, "top_k": 4}}[kind]
    layer = spec_from({"kind": kind, "model_dim": 64, "dtype": "float32", **sizes})
    known = {"arm": arm, "mode": "forward", "layer": layer, "tokens": 8, **case}
    metrics = {"latency_ms_p50": latency_ms, "step_ms": latency_ms} if latency_ms else {}
    return Record(
        id=arm,
        case=Case(**known),
        status=status,
        reason=None if status == "ok" else "lost",
        planned={"point": point or {}, "params": 1, "active_params": 1, "stored_bytes": 4},
        rounds=[a_round(cost=COST)],
        metrics=metrics,
    )


def answers(*records):
    result = ResultFile(
        run=a_run(), environment={"device": {"name": "x", "cores": 1, "type": "cpu"}}, cases=list(records)
    )
    tables = result_tables(result)
    assert all(to_markdown(table) for table in tables)
    return {row[0]: row[1:] for row in tables[0].rows}


def test_a_failed_case_is_never_the_fastest():
    found = answers(a_record("quick", 1.0, status="error"), a_record("slow", 5.0))
    assert found["forward, 8 tokens a rank"][:2] == ["slow", 5.0]


def test_swept_keys_are_compared_apart():
    found = answers(*(a_record("dense", ms, point={"model_dim": d}) for d, ms in ((128, 1.0), (256, 3.0))))
    assert [row[0] for row in found.values()] == ["dense", "dense"]
    assert set(found) == {f"forward, 8 tokens a rank, model_dim {d}" for d in (128, 256)}


def test_a_key_swept_on_one_arm_names_its_rows():
    sizes = [
        a_record("memory", ms, kind="memory", point={"arms.memory.num_keys": n}) for n, ms in (("1K", 2.0), ("4K", 4.0))
    ]
    found = answers(a_record("dense", 1.0), *sizes)
    (row,) = found.values()
    assert row[0] == "dense"
    assert row[2] == "memory num_keys 1K 2.00x, memory num_keys 4K 4.00x"


def test_each_layer_is_also_ranked_with_its_best_optimizer():
    steps = [
        a_record("memory", 9.0, kind="memory", mode="train_step", optimizer="adamw"),
        a_record("memory", 3.0, kind="memory", mode="train_step", optimizer="row_adagrad"),
        a_record("dense", 5.0, mode="train_step", optimizer="adamw"),
    ]
    found = answers(*steps)
    best = next(row for title, row in found.items() if "best optimizer" in title)
    assert best == ["memory", 3.0, "dense 1.67x"]
    alike = next(row for title, row in found.items() if "with adamw" in title)
    assert alike[0] == "dense"
