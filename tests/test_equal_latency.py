"""Parameters at equal latency: read off between measured sizes, never beyond them."""

import pytest
from test_results_table import a_record

from membench.results.equal_latency import Carried, equal_latency
from membench.results.records import Record
from membench.results.rising import rising


def sized(arm: str, params: float, ms: float, kind: str = "memory") -> Record:
    record = a_record(arm, ms, kind=kind, point={f"arms.{arm}.num_keys": params}, seed=round(params))
    return record.model_copy(update={"planned": {**record.planned, "params": params}})


SIZES = [sized("memory", params, ms) for params, ms in ((100, 2.0), (400, 4.0), (1600, 8.0))]


@pytest.mark.parametrize(
    ("ms", "carried"),
    [
        (1.9, Carried(100, "under")),
        (2.0, Carried(pytest.approx(100))),
        (2.0 * 2**0.5, Carried(pytest.approx(200))),
        (8.0, Carried(pytest.approx(1600))),
        (8.1, Carried(1600, "over")),
    ],
)
def test_what_is_carried_at_the_latency_of_dense(ms: float, carried: Carried) -> None:
    (line,) = equal_latency([*SIZES, sized("dense", 50, ms, kind="dense"), sized("peer", 9, 1.0)])
    assert (line.yardstick, line.params, line.latency_ms) == ("dense num_keys 50", 50, ms)
    assert line.carried == {"memory": carried}


def test_each_size_of_the_yardstick_is_a_line_and_failures_are_none() -> None:
    lost = a_record("memory", None, status="oom")
    lines = equal_latency([sized("wide", 90, 9.0, kind="dense"), sized("dense", 50, 3.0, kind="dense"), *SIZES, lost])
    assert [(line.yardstick, line.latency_ms) for line in lines] == [
        ("dense num_keys 50", 3.0),
        ("wide num_keys 90", 9.0),
    ]


def test_one_size_an_arm_makes_no_table() -> None:
    assert equal_latency([SIZES[0], sized("peer", 9, 1.0), sized("dense", 50, 3.0, kind="dense")]) == []


def test_a_size_that_falls_back_is_pooled_with_those_before() -> None:
    assert [ms for _, ms in rising([(1, 1.0), (2, 4.0), (3, 1.0)])] == pytest.approx([1.0, 2.0, 2.0])
