"""Result tables rank only what may be ranked: comparable cases that were measured."""

from test_records import COST, a_round, a_run

from layers.spec import spec_from
from membench.case import Case
from membench.results.records import Record, ResultFile
from membench.tables.fitting import fitted
from membench.tables.render import to_markdown
from membench.tables.results import result_tables


def a_record(arm, latency_ms, *, kind="dense", status="ok", point=None, rounds=3, **case):
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
        rounds=[a_round(n, [1e-3 * (latency_ms or 5.0) * (1 + n / 1000)], cost=COST) for n in range(rounds)],
        metrics=metrics,
    )


def answers(*records):
    result = ResultFile(
        run=a_run(), environment={"device": {"name": "x", "cores": 1, "type": "cpu"}}, cases=list(records)
    )
    tables = result_tables(result)
    assert all(to_markdown(table) for table in tables)
    return {row[0]: row[1:] for row in tables[0].rows}


def cases_table(*records):
    """The table of the one group there is: its title, its caption, and its shown cells by heading, a row an arm."""
    run, environment = a_run(), {"device": {"name": "x", "cores": 1, "type": "cpu"}}
    table = result_tables(ResultFile(run=run, environment=environment, cases=list(records)))[2]
    rows = [dict(zip(table.headers(), cells, strict=True)) for cells in table.cells()]
    return table.title, table.caption, rows


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
    assert row[3] == "memory num_keys 1K 2.00x, memory num_keys 4K 4.00x"


def test_each_layer_is_also_ranked_with_its_best_optimizer():
    steps = [
        a_record("memory", 9.0, kind="memory", mode="train_step", optimizer="adamw"),
        a_record("memory", 3.0, kind="memory", mode="train_step", optimizer="row_adagrad"),
        a_record("dense", 5.0, mode="train_step", optimizer="adamw"),
    ]
    found = answers(*steps)
    best = next(row for title, row in found.items() if "best optimizer" in title)
    assert [best[0], best[1], best[3]] == ["memory", 3.0, "dense 1.67x"]
    alike = next(row for title, row in found.items() if "with adamw" in title)
    assert alike[0] == "dense"


def test_a_table_shows_places_intervals_and_the_floor():
    records = [a_record("slow", 9.0), a_record("quick", 5.0), a_record("as_quick", 5.001)]
    for record, shifts in zip(records, ((0, 1, 2), (0, 2, 1), (2, 0, 1)), strict=True):
        for found, shift in zip(record.rounds, shifts, strict=True):
            found.samples_s = [1e-3 * record.metrics["step_ms"] * (1 + shift / 100)]
        record.metrics |= {"step_ms_low": 4.5, "step_ms_high": 12.25}
    title, caption, rows = cases_table(*records)
    assert title == "forward, 8 tokens a rank"
    assert caption == "Median of 3 rounds, 95 % interval over rounds; arms that share places are not told apart."
    assert [(row["arm"], row["place"]) for row in rows] == [("quick", "1–2"), ("as_quick", "1–2"), ("slow", "3")]
    # 3 ms are needed for the bytes: 5 ms in the middle are 5.05 and 5.0501
    assert [row["over floor"] for row in rows] == ["1.68x", "1.68x", "3.03x"]
    assert all(row["floor ms"] == "3" for row in rows)


def test_an_interval_is_written_from_its_low_to_its_high_end():
    records = [a_record("a", 5.0), a_record("b", 9.0)]
    for record in records:
        record.metrics |= {"step_ms_low": 4.5, "step_ms_high": 12.25}
    assert [row["95 %"] for row in cases_table(*records)[2]] == ["4.50 – 12.2", "4.50 – 12.2"]


def test_few_rounds_have_neither_places_nor_intervals_and_the_title_says_so():
    for rounds, why in ((1, "one round"), (2, "two rounds")):
        title, caption, rows = cases_table(*(a_record(arm, 5.0, rounds=rounds) for arm in ("a", "b")))
        assert title == f"forward, 8 tokens a rank ({why}: no order)"
        assert caption == {1: "One round: no order.", 2: "Median of 2 rounds: no order."}[rounds]
        assert not {"place", "95 %"} & rows[0].keys()
        found = answers(*(a_record(arm, 5.0, rounds=rounds) for arm in ("a", "b")))
        assert found["forward, 8 tokens a rank"] == [f"{why}: no order", None, None, None]


def test_arms_that_are_not_told_apart_are_named_together():
    records = [a_record("a", 5.0), a_record("b", 5.0), a_record("c", 9.0)]
    for record, shifts in zip(records, ((0, 1, 2), (2, 0, 1), (1, 2, 0)), strict=True):
        for found, shift in zip(record.rounds, shifts, strict=True):
            found.samples_s = [1e-3 * record.metrics["step_ms"] * (1 + shift / 100)]
    (row,) = answers(*records).values()
    assert (row[0], row[3]) == ("a, b", "c 1.80x")


def test_a_terminal_of_a_hundred_columns_shows_places_intervals_and_over_floor():
    names = ("memory_plus_wide_companion", "dense")
    records = [a_record(name, 1234.5) for name in names]
    for record in records:
        record.metrics |= {"mfu": 0.5, "mbu": 0.5, "step_ms_low": 1111.5, "step_ms_high": 1333.5}
    environment = {"device": {"name": "x", "cores": 1, "type": "cpu"}}
    table = result_tables(ResultFile(run=a_run(rounds=3), environment=environment, cases=records))[2]
    found = fitted(table, 100)
    assert {"place", "step ms", "95 %", "over floor", "vs dense"} <= {table.headers()[i] for i in found.kept}
    assert found.width <= 100


def test_a_part_names_the_models_that_have_it_in_its_mode():
    def planned(name, mode, **changes):
        record = a_record(name, 2.0, mode=mode)
        return record.model_copy(update={"id": f"{name} {mode}", "planned": {**record.planned, **changes}})

    modes = ("prefill", "decode")
    parts = [planned("block", mode, part_of=[f"dense {mode}"]) for mode in modes]
    wholes = [planned("dense", mode, parts={f"block {mode}": count}) for mode, count in zip(modes, (3, 4), strict=True)]
    environment = {"device": {"name": "x", "cores": 1, "type": "cpu"}}
    tables = result_tables(ResultFile(run=a_run(), environment=environment, cases=[*parts, *wholes]))
    (table,) = (table for table in tables if table.title == "Parts of the models")
    assert [row[2] for row in table.rows] == ["dense 3", "dense 4"]
