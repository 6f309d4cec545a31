"""Mutated result files: each is compared and shown, or refused in one line; nothing else, and never slowly."""

import json
import os
import random
import time

import numpy as np
import pytest
from gate_results import a_file, a_record, noisy, side
from test_fuzz import mutate, mutated_bytes

from membench.errors import UsageError
from membench.gate.as_json import comparison_json
from membench.gate.comparison import compare_files, compare_group
from membench.gate.junit import to_junit
from membench.gate.outcome import outcome_of
from membench.gate.result_set import LoadedResult, group_results, load_results
from membench.gate.thresholds import Thresholds
from membench.gate.within import compare_within
from membench.results.records import read_result, write_result
from membench.tables.gate import comparison_tables
from membench.tables.gate_summary import to_summary
from membench.tables.gate_within import within_table
from membench.tables.results import result_tables

CASES = int(os.environ.get("MEMBENCH_FUZZ_RESULTS", "600"))
SECONDS = 2.0


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    rng = np.random.default_rng(0)
    arms = [a_record(noisy(rng, 0.004, 8), arm="dense"), a_record(noisy(rng, 0.004, 8), arm="wide", mode="decode")]
    for found in (r for record in arms for r in record.rounds):
        found.disturbance = {"kept_samples": 2, "kept_share": 0.4, "kept_by": ["waiting", "hypervisor"]}
        found.pacer = {"version": 1, "amounts": {"rows": 32}, "samples_s": [0.003] * 5, "follows": [False, *[True] * 4]}
    folder = tmp_path_factory.mktemp("results")
    write_result(a_file(arms), folder / "base.json")
    write_result(a_file(arms, pair=side("base")), folder / "pair.json")
    return folder


def mutated(text, rng):
    if rng.random() < 0.2:
        return mutated_bytes(text, rng, 3)
    tree = json.loads(text)
    for _ in range(rng.randint(1, 3)):
        # mostly inside the cases, where most of what is shown comes from
        cases = tree.get("cases")
        inside = [case for case in cases if isinstance(case, dict) and case] if isinstance(cases, list) else []
        mutate(rng.choice([tree, *inside]), rng)
    return json.dumps(tree).encode(errors="replace")


def show(found, groups):
    """Everything that can be made of a comparison."""
    outcome = outcome_of(found, strict=True, advisory=False)
    json.dumps(comparison_json(found, groups, outcome), allow_nan=False)
    to_junit(found)
    to_summary(found, groups, outcome)
    for each in found:
        for table in comparison_tables(each):
            table.cells()


def outcome(path, base):
    """``compared`` or ``refused``; any other exception is the test's failure."""
    try:
        results = load_results([str(path), str(base)])
        groups = group_results(results, None, every=True)
    except UsageError as error:
        assert "\n" not in str(error)
        assert len(str(error)) <= 600
        return "refused"
    show([each for group in groups for each in compare_group(group, Thresholds())], groups)
    head = read_result(path)
    for a, b in ((head, read_result(base)), (read_result(base), head)):
        show([compare_files(LoadedResult(path, a), LoadedResult(path, b), Thresholds())], [])
    for table in result_tables(head):
        table.cells()
    if any(record.case.arm == "dense" for record in head.cases):
        within_table(LoadedResult(path, head), compare_within(head, "dense", Thresholds())).cells()
    return "compared"


def test_a_mutated_result_file_is_compared_or_refused(base, tmp_path, seed):
    rng = random.Random(seed)
    files = [base / "base.json", base / "pair.json"]
    path = tmp_path / "head.json"
    seen = {"compared": 0, "refused": 0}
    for number in range(CASES):
        file = rng.choice(files)
        content = mutated(file.read_text().replace('"side": "base"', '"side": "head"'), rng)
        path.write_bytes(content)
        begin = time.process_time()
        try:
            seen[outcome(path, file)] += 1
        except Exception as error:
            pytest.fail(f"seed {seed}, case {number}: {type(error).__name__}: {error}\n{content[:4000]!r}")
        assert time.process_time() - begin < SECONDS, f"seed {seed}, case {number} is slow\n{content[:4000]!r}"
    assert all(seen.values()), seen
