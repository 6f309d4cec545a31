"""What stays disturbed is said: in a case's flags, in the line of a run, and in a comparison of stored times."""

import pytest
from gate_results import a_file, a_record
from test_records import a_case, a_round

from membench.errors import UsageError
from membench.gate.comparison import compare_files
from membench.gate.result_set import LoadedResult
from membench.gate.thresholds import Thresholds
from membench.results.disturbance import disturbed
from membench.results.metrics import flags_of
from membench.results.records import Record
from membench.running.run import _line
from membench.scenario.scenario import load_scenario

KEPT = {"kept_samples": 2, "kept_share": 0.414, "kept_by": ["waiting", "other_processes", "hypervisor"]}
CALM = {"kept_samples": 0, "kept_share": None, "kept_by": []}


def a_disturbed_round(number=0, says=KEPT, **more):
    return a_round(number, disturbance=says, **more)


def record_of(*rounds):
    case = a_case()
    return Record(id=case.id, case=case, status="ok", rounds=list(rounds))


def disturbance_flags(*rounds):
    return [flag for flag in flags_of(record_of(*rounds)) if "disturbed" in flag]


def test_a_flag_says_where_how_much_and_by_whom():
    words = "2 of 3 samples for 41 % of their time (other processes, the hypervisor)"
    assert disturbance_flags(a_disturbed_round()) == [f"disturbed in round 1: {words}"]


def test_the_rounds_of_a_case_are_one_flag():
    throttled = {"kept_samples": 1, "kept_share": 0.2, "kept_by": ["throttled"]}
    rounds = [a_disturbed_round(), a_disturbed_round(1, CALM), a_disturbed_round(2, throttled)]
    words = "3 of 6 samples for 20 to 41 % of their time"
    causes = "other processes, the hypervisor, throttled by a CPU quota"
    assert disturbance_flags(*rounds) == [f"disturbed in rounds 1, 3: {words} ({causes})"]


def test_clean_samples_that_are_fewer_are_counted():
    few = a_disturbed_round(1, CALM, sampling={"stopped_by": "disturbance"}, samples=[0.1] * 5)
    assert flags_of(record_of(a_round(), few))[0] == "stopped by disturbance: 3, 5 samples"


def test_a_round_that_was_left_alone_has_no_flag():
    taken_again = {**CALM, "disturbed_samples": 9, "retaken_samples": 9}
    for says in (CALM, taken_again, {}):
        assert disturbance_flags(a_disturbed_round(says=says, disturbed_samples_s=[0.1])) == []
    assert disturbance_flags(a_disturbed_round(status="oom", samples_s=[])) == []


@pytest.mark.parametrize(
    "odd",
    [
        {"kept_samples": "two"},
        {"kept_samples": 2},
        {"kept_samples": True, "kept_share": 0.5},
        {"hot": [1]},
        {"kept_samples": 2, "kept_share": "half"},
        {"kept_samples": 4, "kept_share": 0.5},
        {"kept_samples": 0.5, "kept_share": 0.5},
        {"kept_samples": 2, "kept_share": 7.0},
        {"kept_samples": 2, "kept_share": -0.5},
    ],
)
def test_what_makes_no_sense_is_not_told(odd):
    assert disturbed(a_disturbed_round(says=odd)) is None


def test_of_odd_causes_those_that_are_known_are_told():
    found = disturbed(a_disturbed_round(says={**KEPT, "kept_by": ["aliens", ["gpu_others"], "gpu_others", {}, 5]}))
    assert found is not None and found.causes == ("other processes on the GPU",)
    bare = disturbed(a_disturbed_round(says={**KEPT, "kept_by": None}))
    assert bare is not None and bare.words == "2 of 3 samples for 41 % of their time"


def test_the_state_of_a_gpu_has_no_share():
    heat = {"kept_samples": 2, "kept_share": 1.0, "kept_by": ["gpu_throttled"]}
    words = "2 of 3 samples (the GPU's clocks were throttled)"
    assert disturbance_flags(a_disturbed_round(says=heat)) == [f"disturbed in round 1: {words}"]


def test_the_hot_samples_of_a_gpu_are_told_of_too():
    round_ = a_disturbed_round(says={**CALM, "hot": KEPT}, hot_samples_s=[0.1] * 7)
    assert disturbance_flags(round_)[0].startswith("disturbed in round 1: 2 of 7 samples")


def test_the_line_of_a_run_marks_it():
    assert _line(a_case(), a_disturbed_round(), 1).endswith(
        "5 ms (3 samples, disturbed: 2 of 3 samples for 41 % of their time (other processes, the hypervisor))"
    )
    assert _line(a_case(), a_disturbed_round(says=CALM), 1).endswith("5 ms (3 samples)")


def compared(base, head):
    (case,) = compare_files(*(LoadedResult(None, a_file([each])) for each in (base, head)), Thresholds()).cases
    return {metric.metric: metric.reason for metric in case.metrics}


def with_disturbed(record, count):
    rounds = [r.model_copy(update={"disturbance": KEPT if r.number < count else CALM}) for r in record.rounds]
    return record.model_copy(update={"rounds": rounds})


def test_a_verdict_on_disturbed_times_says_so():
    calm, slower = a_record([0.004] * 8), a_record([0.0041] * 8)
    assert "disturbed" not in compared(calm, slower)["latency_ms_p50"]
    for count, head in ((1, slower), (3, calm)):
        reasons = compared(with_disturbed(calm, count), with_disturbed(head, 2))
        before = "1 round" if count == 1 else "3 rounds"
        assert reasons["latency_ms_p50"].endswith(f"disturbed: {before} in the baseline, 2 rounds now")
        assert not any("disturbed" in reason for name, reason in reasons.items() if name == "params")


def test_one_disturbed_side_is_named_alone():
    calm = a_record([0.004] * 8)
    assert compared(calm, with_disturbed(calm, 2))["latency_ms_p50"] == "disturbed: 2 rounds now"


SCENARIO = """
schema_version: 1
name: small
model_dim: 64
arms: {dense: {layer: dense, ffn_hidden: 128}}
measure: {max_seconds: 200, timeout_seconds: 310%s}
"""


def test_a_process_is_given_time_to_take_samples_again(scenario_file):
    assert load_scenario(scenario_file(SCENARIO % "")).measure.retake_budget_seconds == 10.0
    with pytest.raises(UsageError, match=r"above max_seconds, warmup_seconds and retake_seconds, 400\.5 together"):
        load_scenario(scenario_file(SCENARIO % ", retake_seconds: 200"))
    assert load_scenario(scenario_file(SCENARIO % ", retake_seconds: 0")).measure.retake_budget_seconds == 0.0
