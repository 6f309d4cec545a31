"""Instruction counts in the gate: judged as a count where both runs had one thread and the same software."""

import pytest
from gate_results import ENVIRONMENT, a_file, a_record
from test_gate import compared

from membench.gate.verdicts import Verdict

RAN = {"compiler": "g++ 12", "torch_instruction_set": "AVX512", "kernels_instruction_sets": ["avx512f"]}


def a_run(instructions, *, torch="2.13.0", threads=1, **ran):
    record = a_record([0.004] * 8)
    changed = {"threads": threads, "ran": {**RAN, **ran}, "counters": {"instructions_per_call": instructions}}
    rounds = [r.model_copy(update=changed) for r in record.rounds]
    made = a_file([record.model_copy(update={"rounds": rounds})])
    return made.model_copy(update={"environment": {**ENVIRONMENT, "packages": {"torch": torch}}})


def verdict_of(base, head):
    metrics = {m.metric: m for m in compared(base, head).cases[0].metrics}
    found = metrics.get("instructions_per_call")
    return found and found.verdict


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(1.1, Verdict.WORSE), (1.01, Verdict.SAME), (1.0, Verdict.SAME), (0.9, Verdict.BETTER)]
)
def test_more_instructions_are_worse(ratio, verdict):
    assert verdict_of(a_run(1e6), a_run(1e6 * ratio)) is verdict


@pytest.mark.parametrize(
    "other",
    [
        {"torch": "2.14.0"},
        {"threads": 2},
        {"compiler": "g++ 13"},
        {"torch_instruction_set": "AVX2"},
        {"kernels_instruction_sets": ["avx2"], "paths": {"bag": "native"}},
    ],
)
def test_other_software_needs_other_instructions(other):
    assert verdict_of(a_run(1e6), a_run(1.5e6, **other)) is None


def test_what_was_not_counted_is_not_judged():
    assert verdict_of(a_run(1e6), a_run(None)) is None
    assert verdict_of(a_run(None), a_run(None)) is None
    assert verdict_of(a_run(1e6, threads=2), a_run(1.5e6, threads=2)) is None
